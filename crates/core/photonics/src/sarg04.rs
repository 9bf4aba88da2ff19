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

use crate::states::{Basis, Choice, Detector};

/// A pair of states, one of each basis, of which one was sent. It says nothing of the key bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement(u8);

impl Announcement {
    /// Returns what Alice says of a pulse that has clicked.
    #[must_use]
    pub const fn of_choice(choice: Choice) -> Self {
        match choice.state.basis {
            Basis::Z => Self::of(choice.state.value, choice.companion),
            Basis::X => Self::of(choice.companion, choice.state.value),
        }
    }

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

/// Returns Bob's bit of the sifted key, or `None` where his click does not decide.
///
/// ```
/// use claviger_photonics::sarg04::{Announcement, conclude, key_bit};
/// use claviger_photonics::{Basis, Choice, Detector, State};
///
/// let state = State { basis: Basis::X, value: false };
/// let sent = Choice { state, companion: true, intensity: 0 };
/// // Bob measured in Z and found 0: the announced Z state has value 1, so X was sent.
/// let bit = conclude(Basis::Z, Detector::Zero, Announcement::of_choice(sent));
/// assert_eq!(bit, Some(key_bit(sent)));
/// assert_eq!(conclude(Basis::Z, Detector::One, Announcement::of_choice(sent)), None);
/// ```
#[must_use]
pub const fn conclude(bob: Basis, detector: Detector, announcement: Announcement) -> Option<bool> {
    // The announced state of Bob's own basis is excluded: the sent one is of the other basis.
    if detector.value() == announcement.value_in(bob) { None } else { Some(!bob.key_bit()) }
}

/// Returns Alice's bit of the sifted key, should Bob be conclusive: the basis that she sent in.
#[must_use]
pub const fn key_bit(choice: Choice) -> bool {
    choice.state.basis.key_bit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::states::State;

    const BASES: [Basis; 2] = [Basis::Z, Basis::X];
    const VALUES: [bool; 2] = [false, true];

    fn all_choices() -> impl Iterator<Item = Choice> {
        let states = BASES.into_iter().flat_map(|basis| VALUES.map(|value| State { basis, value }));
        states.flat_map(|state| VALUES.map(|companion| Choice { state, companion, intensity: 0 }))
    }

    #[test]
    fn what_quantum_mechanics_allows_is_never_concluded_wrongly() {
        for choice in all_choices() {
            let announcement = Announcement::of_choice(choice);
            // In Alice's own basis Bob finds her value and concludes nothing.
            let matching =
                conclude(choice.state.basis, Detector::for_value(choice.state.value), announcement);
            assert_eq!(matching, None, "{choice:?}");
            // In the other he finds either value: one of them decides, and rightly.
            let other = Basis::of_key_bit(!key_bit(choice));
            let bits = [Detector::Zero, Detector::One].map(|d| conclude(other, d, announcement));
            assert!(bits.contains(&None) && bits.contains(&Some(key_bit(choice))), "{choice:?}");
        }
    }

    #[test]
    fn an_announcement_fits_either_key_bit() {
        for bits in 0..4 {
            let pair = Announcement::from_bits(bits).unwrap();
            assert_eq!(pair.bits(), bits);
            let keys: Vec<bool> = all_choices()
                .filter(|&choice| Announcement::of_choice(choice) == pair)
                .map(key_bit)
                .collect();
            assert_eq!(keys, [false, true], "{pair:?}");
        }
        assert_eq!(Announcement::from_bits(4), None);
    }
}
