//! Names: of keys, applications, devices and network cards. A name is never a proof.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use rand_core::Rng;

/// A text that is not the id it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not a UUID: write it as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` in hex digits.
    #[error("a key id is a UUID")]
    KeyId,
    /// Not a SAE id: 1 to 128 visible characters without spaces at either end.
    #[error("a SAE id has 1 to 128 visible characters")]
    SaeId,
    /// Not an EUI-64: write 16 hex digits.
    #[error("an EUI-64 has 16 hex digits")]
    Eui64,
    /// Not a MAC address: write six pairs of hex digits with colons between.
    #[error("a MAC address has six pairs of hex digits with colons between")]
    MacAddr,
}

/// The id of a key: a random UUID (version 4), never derived from the key (ETSI GS QKD 014 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Draws an id.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
    }

    /// Reads an id from its 16 bytes, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the low 64 bits, the id under which IDQ3P knows this key.
    #[must_use]
    pub const fn low64(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl FromStr for KeyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // Only the hyphenated form: the braced, plain and URN forms would give one key four names.
        if text.len() != 36 {
            return Err(IdError::KeyId);
        }
        uuid::Uuid::try_parse(text).map(|id| Self(id.into_bytes())).or(Err(IdError::KeyId))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// One of the two ends of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// The IoT network, where Alice and the gateway are.
    A,
    /// The data centre, where Bob and the platform are.
    B,
}

impl Site {
    /// Returns the other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// The id of a secure application entity, a free string of 1 to 128 visible characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaeId(String);

impl SaeId {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SaeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=128).contains(&text.len())
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(IdError::SaeId) }
    }
}

impl fmt::Display for SaeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An EUI-64, the name of a device; as text 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Eui64([u8; 8]);

impl Eui64 {
    /// Reads the id from its 8 bytes, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// Returns the 8 bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Returns the MAC address that this is the EUI-64 of; `None` where it is of no MAC address.
    #[must_use]
    pub const fn mac(&self) -> Option<MacAddr> {
        match self.0 {
            [a, b, c, 0xFF, 0xFE, d, e, f] => Some(MacAddr([a, b, c, d, e, f])),
            _ => None,
        }
    }
}

impl From<MacAddr> for Eui64 {
    /// Puts `FF FE` between the two halves (IEEE guidelines for EUI-64).
    fn from(MacAddr([a, b, c, d, e, f]): MacAddr) -> Self {
        Self([a, b, c, 0xFF, 0xFE, d, e, f])
    }
}

impl FromStr for Eui64 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.len() == 16 && text.bytes().all(|c| c.is_ascii_hexdigit());
        if !digits {
            return Err(IdError::Eui64);
        }
        u64::from_str_radix(text, 16).map(|n| Self(n.to_be_bytes())).or(Err(IdError::Eui64))
    }
}

impl fmt::Display for Eui64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Eui64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Eui64({self})")
    }
}

/// A MAC-48 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// Reads the address from its 6 bytes in the order of transmission.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Returns the 6 bytes in the order of transmission.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }
}

impl FromStr for MacAddr {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(IdError::MacAddr)?;
            *byte = u8::from_str_radix(part, 16).or(Err(IdError::MacAddr))?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(IdError::MacAddr) }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use proptest::prelude::*;

    /// PROTOCOL.md P3: a MAC-48 becomes MAC[0..3] ‖ FF FE ‖ MAC[3..6].
    #[test]
    fn a_mac_address_becomes_an_eui64() {
        let mac: MacAddr = "02:00:5e:10:00:01".parse().unwrap();
        assert_eq!(Eui64::from(mac).to_string(), "02005efffe100001");
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in ["", " a", "a ", "a\nb"] {
            assert_eq!(text.parse::<SaeId>(), Err(IdError::SaeId), "{text:?}");
        }
        for text in ["", "02005efffe10000", "02005efffe10000g", "+2005efffe100001"] {
            assert_eq!(text.parse::<Eui64>(), Err(IdError::Eui64), "{text:?}");
        }
        for text in ["", "02:00:5e:10:00", "02:00:5e:10:00:01:02", "2:00:5e:10:00:01"] {
            assert_eq!(text.parse::<MacAddr>(), Err(IdError::MacAddr), "{text:?}");
        }
        for text in
            ["", "67e5504410b1426f9247bb680e5fe0c8", "{67e55044-10b1-426f-9247-bb680e5fe0c8}"]
        {
            assert_eq!(text.parse::<KeyId>(), Err(IdError::KeyId), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn ids_survive_their_text(key: [u8; 16], eui: [u8; 8], mac: [u8; 6]) {
            let key = KeyId::from_bytes(key);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
            let eui = Eui64::from_bytes(eui);
            prop_assert_eq!(format!("{eui}").parse(), Ok(eui));
            let mac = MacAddr::from_bytes(mac);
            prop_assert_eq!(Eui64::from(mac).mac(), Some(mac));
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
