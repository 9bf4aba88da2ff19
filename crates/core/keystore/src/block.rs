//! A block of keys as both sites have distilled it, and who owns which of them.

use claviger_security::SecurityClaim;
use claviger_units::{Bits, Key256, KeyId, OwnerRatio};
use claviger_wire::DecodeError;
use claviger_wire::cursor::{Reader, Writer};

pub use claviger_units::Site;

/// What is told of a key wherever the key is shown (`DESIGN.md`, invariant 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// What made it.
    pub origin: Origin,
    /// The security that its link claims; `None` where the link states none, as the hardware of a
    /// vendor may. Of several keys joined into one, the weakest claim is that of the whole.
    pub claim: Option<SecurityClaim>,
}

impl Provenance {
    /// Returns what can be told of two keys that are joined into one.
    pub(crate) fn joined(self, other: Self) -> Self {
        // To claim nothing is the weakest: `None` sorts below every claim.
        Self { origin: self.origin.min(other.origin), claim: self.claim.min(other.claim) }
    }

    pub(crate) fn put(self, writer: Writer) -> Writer {
        writer.u8(self.origin.code()).claim(self.claim)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { origin: Origin::from_code(reader.u8()?)?, claim: reader.claim()? })
    }
}

/// What made a key.
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
    const fn code(self) -> u8 {
        match self {
            Self::SimulatedSeeded => 0,
            Self::Simulated => 1,
            Self::Hardware => 2,
        }
    }

    const fn from_code(code: u8) -> Result<Self, DecodeError> {
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
    /// What made the keys, and what is claimed of them.
    pub provenance: Provenance,
    /// What proves that Bob accepted this block over the authenticated channel.
    pub acceptance: [u8; 32],
    /// The keys.
    pub keys: Vec<BlockKey>,
}

/// Follows the keys that both sites handed out lately; a little memory of the first ratio keeps a
/// handful of requests from turning it over.
pub(crate) fn ratio_of_demand(by_a: u64, by_b: u64) -> OwnerRatio {
    let all = by_a.saturating_add(by_b).saturating_add(64);
    OwnerRatio::from_64ths_of_b(by_b.saturating_add(8).saturating_mul(64) / all)
}

/// Returns how the keys of the next block are split: by what each site has handed out lately; all to A where
/// B would get what only displaces keys that it has and does not use.
pub(crate) fn next_ratio(
    shares: OwnerRatio,
    [by_a, by_b]: [u64; 2],
    available_to_b: u64,
    capacity: Bits,
) -> OwnerRatio {
    let by_demand = ratio_of_demand(by_a, by_b);
    let is_filled = available_to_b >= cap(shares, Site::B, capacity);
    if by_demand == shares && by_b == 0 && is_filled { OwnerRatio::ALL_TO_A } else { by_demand }
}

/// Returns how many available keys a site may own; never fewer than 64 (`PROTOCOL.md` P1).
pub(crate) fn cap(ratio: OwnerRatio, site: Site, capacity: Bits) -> u64 {
    let parts = u64::from(ratio.in_64(site));
    ((capacity / Bits::KEY).saturating_mul(parts) / 64).max(LEAST_SHARE)
}

/// `PROTOCOL.md` P1: the cap of either share never falls below 64 keys.
pub(crate) const LEAST_SHARE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_follows_demand_and_leaves_nobody_without() {
        for (by_a, by_b, expected) in [
            (0, 0, 8),
            (1000, 0, 1),
            (0, 1000, 60),
            (1000, 1000, 31),
            (0, u64::MAX, 1),
            (u64::MAX, 0, 1),
        ] {
            let ratio = ratio_of_demand(by_a, by_b);
            assert_eq!(ratio.in_64(Site::B), expected, "{by_a} to {by_b}");
        }
    }

    #[test]
    fn a_share_never_falls_below_64_keys() {
        let ratio = ratio_of_demand(1_000_000, 0);
        let capacity = Bits::new(1_000_000);
        assert_eq!(cap(ratio, Site::A, capacity), 3844);
        assert_eq!(cap(ratio, Site::B, capacity), 64);
        assert_eq!(cap(ratio, Site::A, Bits::ZERO), 64);
    }
}
