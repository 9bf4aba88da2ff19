//! What an eavesdropper does to the light, and what she learns by it.
//!
//! Her attacks compose. Three of them exclude each other for one pulse, and take their shares of the
//! pulses one after the other: intercept–resend, photon-number splitting, blinding. Three change the
//! fibre or the detectors for all pulses: time shift, Trojan horse, added loss.

use core::fmt;
use core::str::FromStr;

use claviger_units::{Decibels, Fraction};

use crate::coding::Protocol;
use crate::sarg04;
use crate::states::{Choice, Detector, State};

/// What is done to the light on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eve {
    /// Share of the pulses that she measures, each in a basis of her own chance, and sends on as she
    /// found them, as bright as before.
    pub intercept_resend: Fraction,
    /// Share of the pulses whose photons she counts. Of two and more she keeps one until the bases
    /// are announced and sends the others on over a line without loss; of single photons she lets
    /// so many pass that the click rate stays what it was, as far as that can be.
    pub splitting: Fraction,
    /// Share of the pulses that she measures without loss or error in a basis of her own chance,
    /// and imitates by bright light on detectors that she has blinded: they fire only where Bob
    /// measures in her basis, and so often that the click rate stays what it was.
    pub blinding: Fraction,
    /// How much less one detector sees than the other at the edges of the gate: she moves each
    /// pulse to either edge by chance. At 0 both see alike, at 1 one of them is blind.
    pub time_shift: Fraction,
    /// Chance that light of her own, sent into Alice's source, comes back with the pulse's setting.
    pub trojan_horse: Fraction,
    /// Loss that she adds to the fibre.
    pub added_loss: Decibels,
}

impl Eve {
    /// Nobody there.
    pub const ABSENT: Self = Self {
        intercept_resend: Fraction::ZERO,
        splitting: Fraction::ZERO,
        blinding: Fraction::ZERO,
        time_shift: Fraction::ZERO,
        trojan_horse: Fraction::ZERO,
        added_loss: Decibels::ZERO,
    };

    /// Measures and resends this share of the pulses, and does nothing else.
    #[must_use]
    pub const fn intercepting(share: Fraction) -> Self {
        Self { intercept_resend: share, ..Self::ABSENT }
    }

    /// Adds an attack to what is done already.
    #[must_use]
    pub const fn with(self, attack: Attack, strength: Strength) -> Self {
        match (attack, strength) {
            (Attack::InterceptResend, Strength::Share(share)) => {
                Self { intercept_resend: share, ..self }
            }
            (Attack::Splitting, Strength::Share(share)) => Self { splitting: share, ..self },
            (Attack::Blinding, Strength::Share(share)) => Self { blinding: share, ..self },
            (Attack::TimeShift, Strength::Share(share)) => Self { time_shift: share, ..self },
            (Attack::TrojanHorse, Strength::Share(share)) => Self { trojan_horse: share, ..self },
            (Attack::AddedLoss, Strength::Loss(loss)) => Self { added_loss: loss, ..self },
            (Attack::AddedLoss, Strength::Share(_)) | (_, Strength::Loss(_)) => self,
        }
    }

    /// Tells whether anybody is there.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::ABSENT
    }
}

/// An attack by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// `intercept-resend`
    InterceptResend,
    /// `photon-number-splitting`
    Splitting,
    /// `blinding`
    Blinding,
    /// `time-shift`
    TimeShift,
    /// `trojan-horse`
    TrojanHorse,
    /// `added-loss`
    AddedLoss,
}

/// How strong an attack is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// A share between 0 and 1; what it is a share of, [`Eve`] says.
    Share(Fraction),
    /// A loss.
    Loss(Decibels),
}

/// Why a strength cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{attack} takes {right}, not {value}")]
pub struct StrengthError {
    attack: Attack,
    value: f64,
    right: &'static str,
}

/// Why a name is no attack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no attack `{0}`; there are {known}", known = known())]
pub struct UnknownAttack(String);

fn known() -> String {
    Attack::ALL.map(Attack::name).join(", ")
}

impl Attack {
    /// All attacks.
    pub const ALL: [Self; 6] = [
        Self::InterceptResend,
        Self::Splitting,
        Self::Blinding,
        Self::TimeShift,
        Self::TrojanHorse,
        Self::AddedLoss,
    ];

    /// Returns the name by which a user chooses it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InterceptResend => "intercept-resend",
            Self::Splitting => "photon-number-splitting",
            Self::Blinding => "blinding",
            Self::TimeShift => "time-shift",
            Self::TrojanHorse => "trojan-horse",
            Self::AddedLoss => "added-loss",
        }
    }

    /// Reads a strength: decibels for added loss, a share for all others.
    pub fn strength(self, value: f64) -> Result<Strength, StrengthError> {
        let refused = |right| StrengthError { attack: self, value, right };
        match self {
            Self::AddedLoss => match Decibels::from_db(value) {
                Ok(loss) if value <= 60.0 => Ok(Strength::Loss(loss)),
                _ => Err(refused("a loss of 0 to 60 dB")),
            },
            _ => Fraction::try_new(value)
                .map(Strength::Share)
                .or(Err(refused("a share between 0 and 1"))),
        }
    }

    /// Returns the strength of a full attack.
    #[must_use]
    pub const fn full(self) -> f64 {
        match self {
            Self::AddedLoss => 3.0,
            _ => 1.0,
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Attack {
    type Err = UnknownAttack;

    fn from_str(text: &str) -> Result<Self, UnknownAttack> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == text)
            .ok_or_else(|| UnknownAttack(text.to_owned()))
    }
}

/// What Eve has of a pulse, before anything is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Nothing.
    Nothing,
    /// What she found when she measured; the truth only where her basis was Alice's.
    Measured(State),
    /// One of its photons, in this state, which she does not know yet.
    Photon(State),
    /// The detector that sees more at the edge to which she moved the pulse.
    Favoured(Detector),
    /// Alice's setting.
    Setting(State),
}

/// What she can say of Alice's bit once all is announced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Guess {
    /// Her best guess.
    Bit(bool),
    /// She is right with this chance, whatever the bit.
    RightWith(f64),
}

/// Chance to tell two states at an angle of 45° apart from one copy (Helstrom's bound): cos²(π/8).
const ONE_COPY: f64 = 0.853_553_390_593_273_8;

impl Knowledge {
    /// Returns her best guess of Alice's bit of a sifted click, once basis or pair are announced.
    #[must_use]
    pub fn guess(self, protocol: Protocol, choice: Choice) -> Guess {
        if protocol == Protocol::Sarg04 { self.guess_basis(choice) } else { self.guess_value() }
    }

    /// BB84: the bit is the value.
    const fn guess_value(self) -> Guess {
        match self {
            Self::Nothing => Guess::RightWith(0.5),
            Self::Measured(state) | Self::Photon(state) | Self::Setting(state) => {
                Guess::Bit(state.value)
            }
            Self::Favoured(detector) => Guess::Bit(detector.value()),
        }
    }

    /// SARG04: the bit is the basis, and a pair with one state of each basis is announced.
    fn guess_basis(self, choice: Choice) -> Guess {
        let pair = sarg04::Announcement::of_choice(choice);
        match self {
            Self::Nothing => Guess::RightWith(0.5),
            Self::Setting(state) => Guess::Bit(state.basis.key_bit()),
            Self::Photon(_) => Guess::RightWith(ONE_COPY),
            // A value that differs from the announced one of her basis excludes that state.
            Self::Measured(state) => {
                let excluded = pair.value_in(state.basis) != state.value;
                Guess::Bit(state.basis.key_bit() ^ excluded)
            }
            // If Bob found this value and was conclusive, it tells his basis where the two announced
            // values differ.
            Self::Favoured(detector) => {
                let could = |basis| sarg04::conclude(basis, detector, pair);
                match (could(crate::Basis::Z), could(crate::Basis::X)) {
                    (Some(bit), None) | (None, Some(bit)) => Guess::Bit(bit),
                    _ => Guess::RightWith(0.5),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_strengths_are_read_and_refused_with_what_is_right() {
        for attack in Attack::ALL {
            assert_eq!(attack.name().parse(), Ok(attack));
            assert!(attack.strength(attack.full()).is_ok());
            assert!(attack.strength(-0.1).is_err() && attack.strength(f64::NAN).is_err());
        }
        assert_eq!(
            "pns".parse::<Attack>().unwrap_err().to_string(),
            "there is no attack `pns`; there are intercept-resend, photon-number-splitting, \
             blinding, time-shift, trojan-horse, added-loss"
        );
        assert_eq!(
            Attack::Blinding.strength(2.0).unwrap_err().to_string(),
            "blinding takes a share between 0 and 1, not 2"
        );
        assert!(Attack::AddedLoss.strength(3.0).is_ok(), "decibels may exceed one");
    }

    #[test]
    fn attacks_compose() {
        let half = Strength::Share(Fraction::clamped(0.5));
        let both = Eve::ABSENT.with(Attack::Splitting, half).with(Attack::TimeShift, half);
        assert_eq!((both.splitting.as_f64(), both.time_shift.as_f64()), (0.5, 0.5));
        assert!(!both.is_absent() && Eve::ABSENT.is_absent());
    }
}
