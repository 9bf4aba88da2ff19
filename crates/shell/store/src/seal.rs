//! Sealing: every secret row under a key of its own.
//!
//! Each write of a secret row draws a random seed into a *slot*. The row is sealed with
//! AES-256-GCM under `HKDF-Expand(master, "claviger/1 row" ‖ seed)`, bound to its table and key.
//! Erasing the row zeroes the seed where it lies, and with it goes the only way to the row key:
//! copies of the sealed bytes that SQLite may have left in unused parts of its pages (it moves
//! cells when pages split, and `secure_delete` does not clear what they leave) stay noise. The
//! table of slots never deletes or moves a row, so seeds leave no such copies.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use aws_lc_rs::rand;
use claviger_durable::EngineError;
use claviger_units::{Key256, SecretBytes};
use zeroize::Zeroizing;

/// The key under which nothing is sealed directly; without it no seed is worth anything.
pub(crate) struct MasterKey(Prk);

/// What a row key is derived from, apart from the master key.
pub(crate) struct Seed(Zeroizing<[u8; Self::LEN]>);

impl MasterKey {
    pub(crate) fn new(key: &Key256) -> Self {
        Self(Prk::new_less_safe(HKDF_SHA256, key.expose()))
    }

    /// Returns a fingerprint by which a store knows its master key.
    pub(crate) fn fingerprint(&self) -> Result<[u8; 32], EngineError> {
        self.expand(b"claviger/1 store", &[]).map(|bytes| *bytes)
    }

    pub(crate) fn seal(
        &self,
        seed: &Seed,
        table: &str,
        key: &[u8],
        value: &[u8],
    ) -> Result<Vec<u8>, EngineError> {
        let mut sealed = Vec::with_capacity(value.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(value);
        self.row_key(seed)?
            .seal_in_place_append_tag(only_nonce(), aad(table, key), &mut sealed)
            .or(Err(EngineError::Failed("a row cannot be sealed")))?;
        Ok(sealed)
    }

    /// Opens a sealed row; `None` where table, key, seed and bytes do not belong together.
    pub(crate) fn open(
        &self,
        seed: &Seed,
        table: &str,
        key: &[u8],
        sealed: &[u8],
    ) -> Option<SecretBytes> {
        let mut bytes = sealed.to_vec();
        let row_key = self.row_key(seed).ok()?;
        let opened = row_key.open_in_place(only_nonce(), aad(table, key), &mut bytes).ok()?.len();
        bytes.truncate(opened);
        Some(SecretBytes::new(bytes))
    }

    fn row_key(&self, seed: &Seed) -> Result<LessSafeKey, EngineError> {
        let bytes = self.expand(b"claviger/1 row", &seed.0[..])?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes[..]).or(Err(NO_KEY))?;
        Ok(LessSafeKey::new(key))
    }

    fn expand(&self, label: &[u8], seed: &[u8]) -> Result<Zeroizing<[u8; 32]>, EngineError> {
        let mut bytes = Zeroizing::new([0; 32]);
        let info = [label, seed];
        let okm = self.0.expand(&info, HKDF_SHA256).or(Err(NO_KEY))?;
        okm.fill(&mut bytes[..]).or(Err(NO_KEY))?;
        Ok(bytes)
    }
}

impl Seed {
    pub(crate) const LEN: usize = 32;

    /// Draws a seed from the system's generator.
    pub(crate) fn random() -> Result<Self, EngineError> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        rand::fill(&mut bytes[..])
            .or(Err(EngineError::Failed("the system gives no random bytes")))?;
        Ok(Self(bytes))
    }

    /// Reads a seed from its slot; `None` from a free or malformed slot.
    pub(crate) fn from_slot(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LEN] = bytes.try_into().ok()?;
        (bytes != [0; Self::LEN]).then(|| Self(Zeroizing::new(bytes)))
    }

    pub(crate) fn as_slot(&self) -> &[u8] {
        &self.0[..]
    }
}

/// A row key seals one value only: every write draws a new seed. So one nonce is enough.
fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn aad(table: &str, key: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([table.as_bytes(), b"\0", key].concat())
}

const NO_KEY: EngineError = EngineError::Failed("a row key cannot be derived");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_row_opens_only_where_it_belongs() {
        let master = MasterKey::new(&Key256::from_bytes([1; 32]));
        let seed = Seed::random().unwrap();
        let sealed = master.seal(&seed, "keys", b"k1", b"secret").unwrap();
        let open = |master: &MasterKey, seed: &Seed, table, key: &[u8], sealed: &[u8]| {
            master.open(seed, table, key, sealed).map(|value| value.expose().to_vec())
        };
        assert_eq!(open(&master, &seed, "keys", b"k1", &sealed), Some(b"secret".to_vec()));
        assert_eq!(open(&master, &seed, "keys", b"k2", &sealed), None);
        assert_eq!(open(&master, &seed, "other", b"k1", &sealed), None);
        assert_eq!(open(&master, &seed, "keys", b"k1", &sealed[1..]), None);
        assert_eq!(open(&master, &seed, "keys", b"k1", b""), None);
        assert_eq!(open(&master, &Seed::random().unwrap(), "keys", b"k1", &sealed), None);
        let other = MasterKey::new(&Key256::from_bytes([2; 32]));
        assert_eq!(open(&other, &seed, "keys", b"k1", &sealed), None);
        assert_ne!(other.fingerprint(), master.fingerprint());
    }
}
