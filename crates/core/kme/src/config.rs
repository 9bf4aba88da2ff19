//! What a KME must know before the first request: who is who, and how much is too much.

use std::collections::BTreeMap;

use claviger_units::{Bits, SaeId, Site};
use claviger_wire::idq3p::ByteOrder;

/// The configuration of one KME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmeConfig {
    /// The name of this KME, `source_KME_ID` of its status.
    pub kme_id: String,
    /// The name of the KME at the other site.
    pub peer_kme_id: String,
    /// The site of this KME.
    pub site: Site,
    /// Every application of both sites; who is not here is nobody.
    pub saes: BTreeMap<SaeId, SaeBinding>,
    /// How much one request may ask for.
    pub limits: Limits,
    /// How IDQ3P ids lie in a datagram.
    pub idq3p_order: ByteOrder,
    /// Which application speaks when an IDQ3P device number asks, and with whom.
    pub idq3p_devices: BTreeMap<u8, DevicePair>,
}

/// Where an application gets its keys: each belongs to exactly one KME (`PROTOCOL.md` P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaeBinding {
    /// The site of its KME.
    pub site: Site,
}

/// The two applications behind an IDQ3P device number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePair {
    /// The application at this site, in whose name the device asks.
    pub sae: SaeId,
    /// The application that gets the other copy.
    pub peer: SaeId,
}

/// How much one request may ask for (`PROTOCOL.md` P2, `WIRE.md` §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most keys in one request.
    pub max_keys_per_request: u32,
    /// The size where a request names none.
    pub key_size: Bits,
    /// The smallest key.
    pub min_key_size: Bits,
    /// The largest key.
    pub max_key_size: Bits,
}

impl Limits {
    /// The limits of the design: 128 keys of 256 bits, sizes from 64 to 1024 bits.
    pub const DESIGN: Self = Self {
        max_keys_per_request: 128,
        key_size: Bits::KEY,
        min_key_size: Bits::new(64),
        max_key_size: Bits::new(1024),
    };
}

/// A configuration that no KME can run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Both sites would go by one name: give each KME its own.
    #[error("kme_id {own:?} and peer_kme_id {peer:?} must be two different, non-empty names")]
    KmeIds {
        /// The name of this KME.
        own: String,
        /// The name of the other.
        peer: String,
    },
    /// Sizes that contradict each other: mend `limits`.
    #[error(
        "the key sizes {min}, {default} and {max} must rise in this order and be multiples of 8 bits"
    )]
    Sizes {
        /// The smallest.
        min: Bits,
        /// The one where none is named.
        default: Bits,
        /// The largest.
        max: Bits,
    },
    /// No request could ever succeed: allow at least one key.
    #[error("max_key_per_request is 0; it must be 1 or more")]
    NoKeys,
    /// An IDQ3P device number names an application that is in no list: add it to the SAEs.
    #[error("idq3p device {device} names the SAE {sae}, which is not among the SAEs")]
    UnknownSae {
        /// The device number.
        device: u8,
        /// The unknown name.
        sae: SaeId,
    },
    /// An IDQ3P device number speaks for an application of the other site: bind it here.
    #[error("idq3p device {device} speaks for {sae}, which belongs to the other site")]
    ForeignSae {
        /// The device number.
        device: u8,
        /// The application of the other site.
        sae: SaeId,
    },
    /// An IDQ3P device number pairs an application with itself: name two.
    #[error("idq3p device {device} pairs {sae} with itself")]
    SamePair {
        /// The device number.
        device: u8,
        /// The lonely application.
        sae: SaeId,
    },
}

impl KmeConfig {
    /// Refuses what would only fail later, request by request.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let (own, peer) = (&self.kme_id, &self.peer_kme_id);
        if own == peer || own.is_empty() || peer.is_empty() {
            return Err(ConfigError::KmeIds { own: own.clone(), peer: peer.clone() });
        }
        self.limits.check()?;
        self.idq3p_devices.iter().try_for_each(|(&device, pair)| self.check_device(device, pair))
    }

    fn check_device(&self, device: u8, pair: &DevicePair) -> Result<(), ConfigError> {
        for sae in [&pair.sae, &pair.peer] {
            if !self.saes.contains_key(sae) {
                return Err(ConfigError::UnknownSae { device, sae: sae.clone() });
            }
        }
        let sae = pair.sae.clone();
        if !self.is_local(&sae) {
            return Err(ConfigError::ForeignSae { device, sae });
        }
        if pair.sae == pair.peer { Err(ConfigError::SamePair { device, sae }) } else { Ok(()) }
    }

    /// Tells whether an application is registered and gets its keys here.
    pub(crate) fn is_local(&self, sae: &SaeId) -> bool {
        self.saes.get(sae).is_some_and(|binding| binding.site == self.site)
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        let (min, default, max) = (self.min_key_size, self.key_size, self.max_key_size);
        let octets = [min, default, max].iter().all(|size| size.count().is_multiple_of(8));
        if min == Bits::ZERO || min > default || default > max || !octets {
            return Err(ConfigError::Sizes { min, default, max });
        }
        if self.max_keys_per_request == 0 { Err(ConfigError::NoKeys) } else { Ok(()) }
    }
}
