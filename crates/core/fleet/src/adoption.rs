//! The seal of ADOPT: secrets of epoch 0 under a key W that is used once (`PROTOCOL.md` P3a.2).

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use claviger_frames::GatewaySecret;
use claviger_units::{Key256, KeyId, SecretBytes};
use claviger_wire::fleet::{Adopt, AdoptedDevice};
use hkdf::Hkdf;
use rand_core::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Seals the secrets of epoch 0 of `devices`, in their order, under W.
pub(crate) fn seal(
    key_id: KeyId,
    wrapping: &Key256,
    devices: Vec<AdoptedDevice>,
    secrets: &[GatewaySecret],
    rng: &mut impl Rng,
) -> Adopt {
    let mut iv = [0; 12];
    rng.fill_bytes(&mut iv);
    let mut adopt = Adopt { key_id, devices, iv, sealed: Vec::new() };
    let mut joined = Vec::with_capacity(secrets.len() * 32);
    for secret in secrets {
        joined.extend_from_slice(secret.as_key().expose());
    }
    let joined = SecretBytes::new(joined);
    let aad = adopt.associated_data();
    adopt.sealed = cipher(wrapping)
        .encrypt(&iv.into(), Payload { msg: joined.expose(), aad: &aad })
        .expect("a thousand keys are within the limits of GCM");
    adopt
}

/// Opens an adoption; `None` if W is another key than the one it was sealed under.
pub(crate) fn open(
    wrapping: &Key256,
    adopt: &Adopt,
) -> Option<Vec<(AdoptedDevice, GatewaySecret)>> {
    let aad = adopt.associated_data();
    let payload = Payload { msg: &adopt.sealed, aad: &aad };
    let joined = cipher(wrapping).decrypt(&adopt.iv.into(), payload).ok().map(SecretBytes::new)?;
    let (secrets, []) = joined.expose().as_chunks::<32>() else { return None };
    if secrets.len() != adopt.devices.len() {
        return None;
    }
    let of = |bytes: &[u8; 32]| Key256::from_slice(bytes).map(GatewaySecret::from_key);
    adopt.devices.iter().zip(secrets).map(|(&device, bytes)| Some((device, of(bytes)?))).collect()
}

fn cipher(wrapping: &Key256) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, wrapping.expose())
        .expand(b"claviger/1 adopt", key.as_mut_slice())
        .expect("32 bytes are within the limits of HKDF");
    Aes256Gcm::new((&*key).into())
}

#[cfg(test)]
mod tests {
    use claviger_units::Eui64;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn sealed(rng: &mut StdRng) -> (Key256, Adopt) {
        let wrapping = Key256::random(rng);
        let devices =
            [1, 2].map(|n| AdoptedDevice { eui: Eui64::from_bytes([n; 8]), life: 1 }).to_vec();
        let secrets = [7, 8].map(|n| GatewaySecret::from_key(Key256::from_bytes([n; 32])));
        let adopt = seal(KeyId::random(rng), &wrapping, devices, &secrets, rng);
        (wrapping, adopt)
    }

    #[test]
    fn secrets_come_out_in_order_and_only_under_w() {
        let mut rng = StdRng::seed_from_u64(1);
        let (wrapping, adopt) = sealed(&mut rng);
        let opened = open(&wrapping, &adopt).unwrap();
        for ((device, secret), n) in opened.iter().zip([1, 2]) {
            assert_eq!(device.eui, Eui64::from_bytes([n; 8]));
            assert!(secret.as_key().ct_eq(&Key256::from_bytes([n + 6; 32])));
        }
        assert!(open(&Key256::random(&mut rng), &adopt).is_none());
    }

    #[test]
    fn nothing_of_an_adoption_can_be_changed() {
        let (wrapping, adopt) = sealed(&mut StdRng::seed_from_u64(2));
        let mut swapped = adopt.clone();
        swapped.devices.swap(0, 1);
        let mut older = adopt.clone();
        older.devices[0].life = 2;
        let other = Adopt { key_id: KeyId::from_bytes([0; 16]), ..adopt };
        for adopt in [swapped, older, other] {
            assert!(open(&wrapping, &adopt).is_none());
        }
    }
}
