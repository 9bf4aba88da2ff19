//! How a key frame comes to a device (`PROTOCOL.md` P3c).

use core::fmt;
use core::str::FromStr;

use alloc::borrow::ToOwned;
use alloc::string::String;

use claviger_frames::PskVersion;

/// The path of key frames to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPath {
    /// HTTPS with the gateway's certificate and a MAC over the request.
    Https,
    /// HTTPS over TLS 1.2 with a pre-shared key alone.
    Psk12,
    /// HTTPS over TLS 1.3 with a pre-shared key alone.
    Psk13Ke,
    /// HTTPS over TLS 1.3 with a pre-shared key and ephemeral keys.
    Psk13Dhe,
    /// CoAP with OSCORE.
    Oscore,
    /// Pushed over the MQTT session that carries telemetry.
    Push,
    /// By cable, for many epochs at once; over TLS 1.2 with a pre-shared key where there is no pad.
    Pad,
}

impl KeyPath {
    /// Every path.
    pub const ALL: [Self; 7] = [
        Self::Https,
        Self::Psk12,
        Self::Psk13Ke,
        Self::Psk13Dhe,
        Self::Oscore,
        Self::Push,
        Self::Pad,
    ];

    /// Returns what people type for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Psk12 => "psk12",
            Self::Psk13Ke => "psk13_ke",
            Self::Psk13Dhe => "psk13_dhe",
            Self::Oscore => "oscore",
            Self::Push => "push",
            Self::Pad => "pad",
        }
    }

    /// Returns the version whose pre-shared key its request proves itself with.
    #[must_use]
    pub const fn psk_version(self) -> Option<PskVersion> {
        match self {
            Self::Psk12 | Self::Pad => Some(PskVersion::Tls12),
            Self::Psk13Ke | Self::Psk13Dhe => Some(PskVersion::Tls13),
            Self::Https | Self::Oscore | Self::Push => None,
        }
    }

    /// Returns the version whose pre-shared key secures the session with the broker; `None` where that has
    /// a certificate.
    #[must_use]
    pub const fn session_version(self) -> Option<PskVersion> {
        match self {
            Self::Https => None,
            Self::Psk12 | Self::Oscore | Self::Push | Self::Pad => Some(PskVersion::Tls12),
            Self::Psk13Ke | Self::Psk13Dhe => Some(PskVersion::Tls13),
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no path of keys to a device: choose https, psk12, psk13_ke, psk13_dhe, oscore, push or pad"
)]
pub struct UnknownPath(String);

impl FromStr for KeyPath {
    type Err = UnknownPath;

    fn from_str(text: &str) -> Result<Self, UnknownPath> {
        let found = Self::ALL.into_iter().find(|path| path.name() == text);
        found.ok_or_else(|| UnknownPath(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn paths_are_written_as_they_are_read() {
        for path in KeyPath::ALL {
            assert_eq!(path.to_string().parse(), Ok(path));
            let message = UnknownPath("pigeon".to_owned()).to_string();
            assert!(message.contains(path.name()), "{path}");
        }
        assert!("pigeon".parse::<KeyPath>().is_err());
    }
}
