//! Pre-shared keys of TLS, one for each epoch and version (`PROTOCOL.md` P3).

use core::fmt;
use core::str::FromStr;

use claviger_units::Eui64;

use crate::Epoch;

/// A version of TLS that takes a pre-shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PskVersion {
    /// TLS 1.2 (RFC 4279, RFC 5487).
    Tls12,
    /// TLS 1.3, as an external pre-shared key (RFC 8446).
    Tls13,
}

impl PskVersion {
    /// Returns its two digits in an identity.
    #[must_use]
    pub const fn digits(self) -> &'static str {
        match self {
            Self::Tls12 => "12",
            Self::Tls13 => "13",
        }
    }
}

/// Whom a pre-shared key belongs to; the text is `eui:epoch:12` or `eui:epoch:13`.
///
/// ```
/// use claviger_frames::{Epoch, PskIdentity, PskVersion};
///
/// let identity: PskIdentity = "02005efffe100001:7:12".parse()?;
/// assert_eq!((identity.epoch, identity.version), (Epoch::new(7), PskVersion::Tls12));
/// assert_eq!(identity.to_string(), "02005efffe100001:7:12");
/// # Ok::<(), claviger_frames::NoPskIdentity>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PskIdentity {
    /// The device.
    pub eui: Eui64,
    /// The epoch whose secret the key comes from.
    pub epoch: Epoch,
    /// The version of TLS that the key is for, and no other.
    pub version: PskVersion,
}

/// A text that names no pre-shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a PSK identity is written `eui:epoch:12` or `eui:epoch:13`")]
pub struct NoPskIdentity;

impl fmt::Display for PskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.eui, self.epoch, self.version.digits())
    }
}

impl FromStr for PskIdentity {
    type Err = NoPskIdentity;

    fn from_str(text: &str) -> Result<Self, NoPskIdentity> {
        let (rest, version) = text.rsplit_once(':').ok_or(NoPskIdentity)?;
        let (eui, epoch) = rest.split_once(':').ok_or(NoPskIdentity)?;
        let version = match version {
            "12" => PskVersion::Tls12,
            "13" => PskVersion::Tls13,
            _ => return Err(NoPskIdentity),
        };
        let digits = epoch.bytes().all(|c| c.is_ascii_digit());
        let number = epoch.parse().ok().filter(|_| digits).ok_or(NoPskIdentity)?;
        let eui = eui.parse().or(Err(NoPskIdentity))?;
        Ok(Self { eui, epoch: Epoch::new(number), version })
    }
}

/// Writes the id context of OSCORE for a device in an epoch: `eui ‖ be32(epoch)`.
#[must_use]
pub fn oscore_id_context(eui: Eui64, epoch: Epoch) -> [u8; 12] {
    let mut context = [0; 12];
    let (left, right) = context.split_at_mut(8);
    left.copy_from_slice(eui.as_bytes());
    right.copy_from_slice(&epoch.to_bytes());
    context
}

/// Reads what [`oscore_id_context`] wrote; `None` for anything of another length.
#[must_use]
pub fn parse_oscore_id_context(context: &[u8]) -> Option<(Eui64, Epoch)> {
    let (eui, epoch) = context.split_first_chunk::<8>()?;
    Some((Eui64::from_bytes(*eui), Epoch::from_bytes(epoch.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn other_identities_are_refused() {
        for text in [
            "",
            "02005efffe100001",
            "02005efffe100001:1",
            "02005efffe100001:1:14",
            "02005efffe100001:+1:12",
            "02005efffe100001::12",
            "02005efffe100001:4294967296:12",
            "02005efffe10000:1:12",
            "02005efffe100001:1:1:12",
            "x:1:12",
        ] {
            assert_eq!(text.parse::<PskIdentity>(), Err(NoPskIdentity), "{text}");
        }
    }

    proptest! {
        #[test]
        fn identities_and_contexts_survive_their_bytes(eui: [u8; 8], number: u32, old: bool) {
            let version = if old { PskVersion::Tls12 } else { PskVersion::Tls13 };
            let (eui, epoch) = (Eui64::from_bytes(eui), Epoch::new(number));
            let identity = PskIdentity { eui, epoch, version };
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
            let context = oscore_id_context(eui, epoch);
            prop_assert_eq!(parse_oscore_id_context(&context), Some((eui, epoch)));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _: Result<_, _> = text.parse::<PskIdentity>();
            prop_assert_eq!(parse_oscore_id_context(&bytes).is_some(), bytes.len() == 12);
        }
    }
}
