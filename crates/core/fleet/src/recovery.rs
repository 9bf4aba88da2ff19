//! The recovery key: what a platform that has lost everything needs to read its devices again.
//!
//! The gateway keeps the root of each device sealed to it, a blob that it cannot open, and gives it back with
//! the device (`PROTOCOL.md` P3a.2). A key of its own and no public-key cryptography: what the gateway keeps
//! today must not be opened by a quantum computer of tomorrow.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use claviger_frames::DeviceRoot;
use claviger_units::{Key256, SecretBytes};
use claviger_wire::fleet::{AdoptedDevice, SEALED_ROOT};
use hkdf::Hkdf;
use rand_core::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The platform's recovery key; the operator keeps a copy where the platform's disk is not.
#[derive(Debug)]
pub struct RecoveryKey(Key256);

impl RecoveryKey {
    /// Takes the 256 bits that were drawn for it.
    #[must_use]
    pub const fn from_key(key: Key256) -> Self {
        Self(key)
    }

    /// Seals the root of a device.
    pub(crate) fn seal(
        &self,
        device: AdoptedDevice,
        root: &DeviceRoot,
        rng: &mut impl Rng,
    ) -> [u8; SEALED_ROOT] {
        let mut iv = [0; 12];
        rng.fill_bytes(&mut iv);
        let payload = Payload { msg: root.as_key().expose(), aad: &name(device) };
        let sealed = self.cipher().encrypt(&iv.into(), payload);
        let sealed = sealed.expect("32 bytes are within the limits of GCM");
        let mut blob = [0; SEALED_ROOT];
        let (front, back) = blob.split_at_mut(iv.len());
        front.copy_from_slice(&iv);
        back.copy_from_slice(&sealed);
        blob
    }

    /// Opens the root of a device; `None` if it was sealed to another key, or for another device.
    pub(crate) fn open(
        &self,
        device: AdoptedDevice,
        blob: &[u8; SEALED_ROOT],
    ) -> Option<DeviceRoot> {
        let (iv, sealed) = blob.split_first_chunk::<12>()?;
        let payload = Payload { msg: sealed, aad: &name(device) };
        let root = self.cipher().decrypt(iv.into(), payload).ok().map(SecretBytes::new)?;
        Key256::from_slice(root.expose()).map(DeviceRoot::from_key)
    }

    fn cipher(&self) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.0.expose())
            .expand(b"claviger/1 recovery", key.as_mut_slice())
            .expect("32 bytes are within the limits of HKDF");
        Aes256Gcm::new((&*key).into())
    }
}

fn name(AdoptedDevice { eui, life }: AdoptedDevice) -> Vec<u8> {
    [&eui.as_bytes()[..], &life.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use claviger_units::Eui64;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn a_root_comes_out_for_its_device_and_its_key_alone() {
        let mut rng = StdRng::seed_from_u64(1);
        let key = RecoveryKey::from_key(Key256::random(&mut rng));
        let root = DeviceRoot::from_key(Key256::random(&mut rng));
        let device = AdoptedDevice { eui: Eui64::from_bytes([1; 8]), life: 2 };
        let blob = key.seal(device, &root, &mut rng);
        assert!(key.open(device, &blob).unwrap().as_key().ct_eq(root.as_key()));
        assert!(key.open(AdoptedDevice { life: 3, ..device }, &blob).is_none());
        let other = RecoveryKey::from_key(Key256::random(&mut rng));
        assert!(other.open(device, &blob).is_none());
        let mut bent = blob;
        bent[20] ^= 1;
        assert!(key.open(device, &bent).is_none());
        assert_ne!(key.seal(device, &root, &mut rng), blob, "each seal has a nonce of its own");
    }
}
