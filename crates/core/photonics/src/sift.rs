//! Sifting: what Alice announces of a click, what Bob makes of it, and which bits become key.

use crate::coding::Protocol;
use crate::sarg04;
use crate::states::{Basis, Choice, Detector};

/// What Alice says of one pulse that has clicked. It says nothing of her bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement(u8);

/// What a click that both ends keep is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Its bit becomes key.
    Key,
    /// Its bit is disclosed, and shows what an eavesdropper can have done.
    Test,
}

/// A click that both ends keep, as either end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sifted {
    /// The bit of this end.
    pub bit: bool,
    /// What it is good for.
    pub purpose: Purpose,
    /// The intensity of the pulse.
    pub intensity: u8,
}

impl Announcement {
    /// Returns how many bits an announcement takes under a protocol.
    #[must_use]
    pub const fn bits_under(protocol: Protocol) -> usize {
        match protocol {
            Protocol::Bb84 | Protocol::Sarg04 => 2,
            Protocol::DecoyBb84 => 4,
        }
    }

    /// Returns what Alice says of a choice: the basis in BB84, and the intensity with decoys; a pair
    /// of states in SARG04.
    #[must_use]
    pub const fn of(protocol: Protocol, choice: Choice) -> Self {
        match protocol {
            Protocol::Sarg04 => Self(sarg04::Announcement::of_choice(choice).bits()),
            Protocol::Bb84 => Self(choice.state.basis.key_bit() as u8),
            Protocol::DecoyBb84 => Self(choice.state.basis.key_bit() as u8 | choice.intensity << 1),
        }
    }

    /// Reads an announcement; `None` where the protocol has none like it.
    #[must_use]
    pub const fn from_bits(protocol: Protocol, bits: u8) -> Option<Self> {
        let fits = match protocol {
            Protocol::Sarg04 => bits < 4,
            Protocol::Bb84 => bits < 2,
            Protocol::DecoyBb84 => bits < 6,
        };
        if fits { Some(Self(bits)) } else { None }
    }

    /// Returns the number from which it can be read again.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// Returns what Bob makes of a click; `None` where it does not decide.
#[must_use]
pub fn at_bob(
    protocol: Protocol,
    basis: Basis,
    detector: Detector,
    announcement: Announcement,
) -> Option<Sifted> {
    if protocol == Protocol::Sarg04 {
        let pair = sarg04::Announcement::from_bits(announcement.0)?;
        let bit = sarg04::conclude(basis, detector, pair)?;
        return Some(Sifted { bit, purpose: Purpose::Key, intensity: 0 });
    }
    let announced = Basis::of_key_bit(announcement.0 & 1 == 1);
    (announced == basis).then(|| Sifted {
        bit: detector.value(),
        purpose: purpose(protocol, basis),
        intensity: announcement.0 >> 1,
    })
}

/// Returns what Alice has of a click that Bob keeps.
#[must_use]
pub fn at_alice(protocol: Protocol, choice: Choice) -> Sifted {
    match protocol {
        Protocol::Sarg04 => {
            Sifted { bit: sarg04::key_bit(choice), purpose: Purpose::Key, intensity: 0 }
        }
        Protocol::Bb84 | Protocol::DecoyBb84 => Sifted {
            bit: choice.state.value,
            purpose: purpose(protocol, choice.state.basis),
            intensity: choice.intensity,
        },
    }
}

/// Without decoys both bases make key; with decoys `Z` does, and `X` is disclosed.
fn purpose(protocol: Protocol, basis: Basis) -> Purpose {
    match (protocol, basis) {
        (Protocol::DecoyBb84, Basis::X) => Purpose::Test,
        _ => Purpose::Key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::states::State;

    fn choices(protocol: Protocol) -> Vec<Choice> {
        let intensities = if protocol == Protocol::DecoyBb84 { 3 } else { 1 };
        (0..8 * intensities)
            .map(|n| Choice {
                state: State { basis: Basis::of_key_bit(n & 1 != 0), value: n & 2 != 0 },
                companion: n & 4 != 0,
                intensity: n / 8,
            })
            .collect()
    }

    /// Measured in Alice's basis without noise, and in the other with either outcome: what both
    /// keep agrees in bit, purpose and intensity wherever quantum mechanics lets it.
    #[test]
    fn both_ends_see_the_same_click() {
        for protocol in Protocol::ALL {
            for choice in choices(protocol) {
                let said = Announcement::of(protocol, choice);
                assert_eq!(Announcement::from_bits(protocol, said.bits()), Some(said));
                assert!(usize::from(said.bits()) < 1 << Announcement::bits_under(protocol));
                let right = Detector::for_value(choice.state.value);
                let same = at_bob(protocol, choice.state.basis, right, said);
                let other = Basis::of_key_bit(!choice.state.basis.key_bit());
                let crossed =
                    [Detector::Zero, Detector::One].map(|d| at_bob(protocol, other, d, said));
                let mine = Some(at_alice(protocol, choice));
                if protocol == Protocol::Sarg04 {
                    assert_eq!(same, None);
                    assert!(crossed.contains(&None) && crossed.contains(&mine), "{choice:?}");
                } else {
                    assert_eq!(same, mine);
                    assert_eq!(crossed, [None; 2]);
                }
            }
        }
    }

    #[test]
    fn what_no_alice_says_is_refused() {
        for (protocol, first) in
            [(Protocol::Sarg04, 4), (Protocol::Bb84, 2), (Protocol::DecoyBb84, 6)]
        {
            assert_eq!(Announcement::from_bits(protocol, first), None);
        }
    }
}
