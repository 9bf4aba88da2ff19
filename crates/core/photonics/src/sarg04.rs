//! The conventions of SARG04, in one place.
//!
//! Alice sends one of four states: a value (0 or 1) in one of two bases. **The key bit is the
//! basis**, not the value. For each click she announces a pair of states, one of each basis, of
//! which one was sent. The pairs are four, equally likely, so an announcement takes 2 bits, and
//! fewer cannot tell them apart. Bob, who measured in one basis, compares his value with the
//! announced state of that basis: if they differ that state was not sent, so the other one was,
//! and he knows the bit; if they agree he knows nothing and says so.
//!
//! Without disturbance a quarter of the clicks is conclusive. With visibility V it is (2 − V)/4,
//! of which (1 − V)/(2 − V) are wrong; of dark counts one half, of which one half (PHYSICS.md §1).

/// A basis, and so the key bit that sending in it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The basis that stands for key bit 0.
    Z,
    /// The basis that stands for key bit 1.
    X,
}

impl Basis {
    /// Returns the basis that stands for `key_bit`.
    #[must_use]
    pub const fn of_key_bit(key_bit: bool) -> Self {
        if key_bit { Self::X } else { Self::Z }
    }

    /// Returns the key bit that a state of this basis stands for.
    #[must_use]
    pub const fn key_bit(self) -> bool {
        matches!(self, Self::X)
    }
}

/// One of the four states: a value in a basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The basis.
    pub basis: Basis,
    /// The value within the basis.
    pub value: bool,
}

/// What Alice chooses for one pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The state that she sends.
    pub state: State,
    /// The value of the state of the other basis that she will announce along with it.
    pub companion: bool,
}

impl Choice {
    /// Returns what Alice says once this pulse has clicked.
    #[must_use]
    pub const fn announcement(self) -> Announcement {
        match self.state.basis {
            Basis::Z => Announcement::of(self.state.value, self.companion),
            Basis::X => Announcement::of(self.companion, self.state.value),
        }
    }

    /// Returns Alice's bit of the sifted key, should Bob be conclusive.
    #[must_use]
    pub const fn key_bit(self) -> bool {
        self.state.basis.key_bit()
    }
}

/// A pair of states, one of each basis, of which one was sent. It says nothing of the key bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement(u8);

impl Announcement {
    /// How many bits an announcement takes.
    pub const BITS: usize = 2;

    const fn of(z: bool, x: bool) -> Self {
        Self(z as u8 | (x as u8) << 1)
    }

    /// Reads an announcement from a number below 4: the value in `Z`, plus twice that in `X`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits < 4 { Some(Self(bits)) } else { None }
    }

    /// Returns the number below 4 from which it can be read again.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns the value of the announced state of `basis`.
    #[must_use]
    pub const fn value_in(self, basis: Basis) -> bool {
        match basis {
            Basis::Z => self.0 & 1 == 1,
            Basis::X => self.0 & 2 == 2,
        }
    }
}

/// Bob's two detectors: which one fires is the value that he measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// The detector for value 0.
    Zero,
    /// The detector for value 1.
    One,
}

impl Detector {
    /// Returns the detector for `value`.
    #[must_use]
    pub const fn for_value(value: bool) -> Self {
        if value { Self::One } else { Self::Zero }
    }

    /// Returns the value that a click of this detector stands for.
    #[must_use]
    pub const fn value(self) -> bool {
        matches!(self, Self::One)
    }
}

/// Returns Bob's bit of the sifted key, or `None` where his click does not decide.
///
/// ```
/// use claviger_photonics::sarg04::{Basis, Choice, Detector, State, conclude};
///
/// let sent = Choice { state: State { basis: Basis::X, value: false }, companion: true };
/// // Bob measured in Z and found 0: the announced Z state has value 1, so X was sent.
/// let bit = conclude(Basis::Z, Detector::Zero, sent.announcement());
/// assert_eq!(bit, Some(sent.key_bit()));
/// assert_eq!(conclude(Basis::Z, Detector::One, sent.announcement()), None);
/// ```
#[must_use]
pub const fn conclude(bob: Basis, detector: Detector, announcement: Announcement) -> Option<bool> {
    // The announced state of Bob's own basis is excluded: the sent one is of the other basis.
    if detector.value() == announcement.value_in(bob) { None } else { Some(!bob.key_bit()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASES: [Basis; 2] = [Basis::Z, Basis::X];
    const VALUES: [bool; 2] = [false, true];

    fn all_choices() -> impl Iterator<Item = Choice> {
        let states = BASES.into_iter().flat_map(|basis| VALUES.map(|value| State { basis, value }));
        states.flat_map(|state| VALUES.map(|companion| Choice { state, companion }))
    }

    #[test]
    fn what_quantum_mechanics_allows_is_never_concluded_wrongly() {
        for choice in all_choices() {
            let announcement = choice.announcement();
            // In Alice's own basis Bob finds her value and concludes nothing.
            let matching =
                conclude(choice.state.basis, Detector::for_value(choice.state.value), announcement);
            assert_eq!(matching, None, "{choice:?}");
            // In the other he finds either value: one of them decides, and rightly.
            let other = Basis::of_key_bit(!choice.key_bit());
            let bits = [Detector::Zero, Detector::One].map(|d| conclude(other, d, announcement));
            assert!(bits.contains(&None) && bits.contains(&Some(choice.key_bit())), "{choice:?}");
        }
    }

    #[test]
    fn an_announcement_fits_either_key_bit() {
        for bits in 0..4 {
            let pair = Announcement::from_bits(bits).unwrap();
            assert_eq!(pair.bits(), bits);
            let keys: Vec<bool> = all_choices()
                .filter(|choice| choice.announcement() == pair)
                .map(Choice::key_bit)
                .collect();
            assert_eq!(keys, [false, true], "{pair:?}");
        }
        assert_eq!(Announcement::from_bits(4), None);
    }
}
