//! Seeds of a reproducible run: one number, one independent seed for every part.

use sha2::{Digest, Sha256};

/// Derives the seed of the part called `label` from the number that the user gave.
///
/// Everything made from it is reproducible, so its keys are never to be used.
#[must_use]
pub fn derive(seed: u64, label: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"claviger seed");
    hash.update(seed.to_be_bytes());
    hash.update(label.as_bytes());
    hash.finalize().into()
}
