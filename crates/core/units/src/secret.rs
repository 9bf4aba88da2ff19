//! Key bytes: moved, never copied unnoticed, wiped on drop, silent in every print.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use rand_core::Rng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A 256-bit secret key.
///
/// Deliberately not `Clone`, `Copy`, `PartialEq` or `Serialize`: each would let key bytes travel
/// unnoticed. The bytes are wiped on drop, and `Debug` never prints them.
///
/// ```
/// use claviger_units::Key256;
///
/// let key = Key256::from_bytes([7; 32]);
/// assert_eq!(format!("{key:?}"), "Key256(..)");
/// assert!(key.ct_eq(&Key256::from_bytes([7; 32])));
/// ```
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Key256(Box<[u8; 32]>);

impl Key256 {
    /// Takes over 32 bytes; the caller's own copy is the caller's to wipe.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Box::new(bytes))
    }

    /// Copies exactly 32 bytes, `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new([0; 32]);
        (bytes.len() == 32).then(|| key.copy_from_slice(bytes)).map(|()| Self(key))
    }

    /// Draws a key.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut key = Self(Box::new([0; 32]));
        rng.fill_bytes(&mut key.0[..]);
        key
    }

    /// Gives the bytes; every call is a place to audit.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares without telling by time where the first difference lies.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0[..]).into()
    }

    /// Makes a second holder of the same key, on purpose and by name.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for Key256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key256(..)")
    }
}

/// Secret bytes of any length, with the manners of [`Key256`].
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes over the bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Gives the bytes; every call is a place to audit.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares without telling by time where the first difference lies.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// Makes a second holder of the same bytes, on purpose and by name.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(.. {} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let printed = format!(
            "{:?}{:?}",
            Key256::from_bytes([0xAB; 32]),
            SecretBytes::new(alloc::vec![0xAB; 9])
        );
        assert_eq!(printed, "Key256(..)SecretBytes(.. 9 bytes)");
    }

    #[test]
    fn keys_have_exactly_32_bytes() {
        assert!(Key256::from_slice(&[1; 31]).is_none() && Key256::from_slice(&[1; 33]).is_none());
        assert!(
            Key256::from_slice(&[1; 32]).is_some_and(|k| k.ct_eq(&Key256::from_bytes([1; 32])))
        );
    }
}
