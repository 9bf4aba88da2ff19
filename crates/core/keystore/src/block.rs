//! A block of keys as both sites have distilled it, and who owns which of them.

use claviger_units::{Bits, Key256, KeyId};
use claviger_wire::DecodeError;
use claviger_wire::site::ShareOfB;

pub use claviger_units::Site;

/// What made a key; shown wherever the key is shown (`DESIGN.md`, invariant 6).
///
/// Ordered by trust: of several keys joined into one, the least trusted names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The simulated link with a fixed seed: reproducible, never to be used.
    SimulatedSeeded,
    /// The simulated link with randomness of the operating system.
    Simulated,
    /// A quantum link of hardware.
    Hardware,
}

impl Origin {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::SimulatedSeeded => 0,
            Self::Simulated => 1,
            Self::Hardware => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::SimulatedSeeded),
            1 => Ok(Self::Simulated),
            2 => Ok(Self::Hardware),
            _ => Err(DecodeError::Field("origin")),
        }
    }
}

/// A key of a block.
#[derive(Debug)]
pub struct BlockKey {
    /// Its name, drawn by Alice.
    pub id: KeyId,
    /// The site that may hand it out, displace it, or burn it.
    pub owner: Site,
    /// Its bits.
    pub key: Key256,
}

/// The keys of one distilled block, equal at both ends, in the order of their positions.
#[derive(Debug)]
pub struct Block {
    /// The number both ends know the block by.
    pub number: u64,
    /// What made the keys.
    pub origin: Origin,
    /// What proves that Bob accepted this block over the authenticated channel.
    pub acceptance: [u8; 32],
    /// The keys.
    pub keys: Vec<BlockKey>,
}

/// How the keys of a block are split between the owners (`PROTOCOL.md` P1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerRatio(ShareOfB);

impl OwnerRatio {
    /// What holds before either side has asked for anything: 7/8 to Alice, 1/8 to Bob.
    pub(crate) fn at_first() -> Self {
        Self::from_demand(0, 0)
    }

    /// Follows the keys that both sides handed out lately; a little memory of the first ratio
    /// keeps a handful of requests from turning it over.
    pub(crate) fn from_demand(by_a: u64, by_b: u64) -> Self {
        let all = by_a.saturating_add(by_b).saturating_add(64);
        let of_b = by_b.saturating_add(8).saturating_mul(64) / all;
        Self(ShareOfB::from_64ths(of_b))
    }

    pub(crate) const fn from_share(share: ShareOfB) -> Self {
        Self(share)
    }

    pub(crate) const fn share(self) -> ShareOfB {
        self.0
    }

    /// Returns how many of 64 keys go to site B.
    #[must_use]
    pub const fn of_b_in_64(self) -> u8 {
        self.0.as_64ths()
    }

    /// Returns an owner for each of `n_keys` keys, spread evenly; of two or more, each side gets
    /// at least one.
    #[must_use]
    pub fn owners(self, n_keys: usize) -> Vec<Site> {
        let parts = usize::from(self.0.as_64ths());
        let least = usize::from(n_keys > 1);
        let of_b = (n_keys * parts / 64).clamp(least, n_keys.saturating_sub(1).max(least));
        let before = |index: usize| index * of_b / n_keys.max(1);
        let owner = |index| if before(index + 1) > before(index) { Site::B } else { Site::A };
        (0..n_keys).map(owner).collect()
    }

    /// Returns how many available keys a site may own; never fewer than 64 (`PROTOCOL.md` P1).
    pub(crate) fn cap(self, site: Site, capacity: Bits) -> u64 {
        let of_b = u64::from(self.0.as_64ths());
        let parts = if site == Site::B { of_b } else { 64 - of_b };
        ((capacity / Bits::KEY).saturating_mul(parts) / 64).max(LEAST_SHARE)
    }
}

/// `PROTOCOL.md` P1: the cap of either share never falls below 64 keys.
pub(crate) const LEAST_SHARE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn bobs(ratio: OwnerRatio, n_keys: usize) -> usize {
        let owners = ratio.owners(n_keys);
        assert_eq!(owners.len(), n_keys);
        owners.into_iter().filter(|owner| *owner == Site::B).count()
    }

    /// `PROTOCOL.md` P1: at first 7/8 A, 1/8 B, each at least one key.
    #[test]
    fn the_first_blocks_are_split_seven_to_one() {
        let ratio = OwnerRatio::at_first();
        for (n_keys, expected) in [(0, 0), (1, 0), (2, 1), (3, 1), (8, 1), (64, 8), (200, 25)] {
            assert_eq!(bobs(ratio, n_keys), expected, "{n_keys} keys");
        }
    }

    #[test]
    fn the_split_follows_demand_and_leaves_nobody_without() {
        for (by_a, by_b, expected) in [(1000, 0, 1), (0, 1000, 60), (1000, 1000, 31)] {
            assert_eq!(bobs(OwnerRatio::from_demand(by_a, by_b), 64), expected);
        }
        assert_eq!(bobs(OwnerRatio::from_demand(0, u64::MAX), 2), 1);
        assert_eq!(bobs(OwnerRatio::from_demand(u64::MAX, 0), 2), 1);
    }

    #[test]
    fn a_share_never_falls_below_64_keys() {
        let ratio = OwnerRatio::from_demand(1_000_000, 0);
        let capacity = Bits::new(1_000_000);
        assert_eq!(ratio.cap(Site::A, capacity), 3844);
        assert_eq!(ratio.cap(Site::B, capacity), 64);
        assert_eq!(ratio.cap(Site::A, Bits::ZERO), 64);
    }
}
