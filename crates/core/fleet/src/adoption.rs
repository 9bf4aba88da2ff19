//! The seal of ADOPT and GIVE BACK: the secrets of devices under a key W that is used once
//! (`PROTOCOL.md` P3a).

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use claviger_frames::GatewaySecret;
use claviger_units::{Key256, KeyId, SecretBytes};
use claviger_wire::fleet::{Adopt, MAX_ADOPT, MAX_ADOPTED, Seed};
use hkdf::Hkdf;
use rand_core::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The secrets that belong to a [`Seed`].
#[derive(Debug)]
pub(crate) struct SeedSecrets {
    pub(crate) current: GatewaySecret,
    /// As many as the seed has prepared epochs.
    pub(crate) next: Option<GatewaySecret>,
    /// As many as the seed has keys of a pad.
    pub(crate) pad: Vec<Key256>,
}

/// Devices that go together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    seeds: Vec<Seed>,
    secrets: Vec<SeedSecrets>,
    weight: usize,
}

impl Batch {
    /// Takes a device in; gives it back where there is no room for it.
    pub(crate) fn add(&mut self, seed: Seed, secrets: SeedSecrets) -> Result<(), SeedSecrets> {
        let weight = self.weight + seed.weight();
        // One alone always goes: its pad has a most.
        let is_full = self.seeds.len() >= MAX_ADOPTED || weight > MAX_ADOPT;
        if is_full && !self.seeds.is_empty() {
            return Err(secrets);
        }
        self.weight = weight;
        self.seeds.push(seed);
        self.secrets.push(secrets);
        Ok(())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.seeds.is_empty()
    }
}

/// Seals the secrets of devices, in their order, under W.
pub(crate) fn seal(
    key_id: KeyId,
    wrapping: &Key256,
    Batch { seeds, secrets, .. }: Batch,
    rng: &mut impl Rng,
) -> Adopt {
    let mut iv = [0; 12];
    rng.fill_bytes(&mut iv);
    let mut adopt = Adopt { key_id, seeds, iv, sealed: Vec::new() };
    let n_secrets: usize = adopt.seeds.iter().map(Seed::n_secrets).sum();
    let mut joined = Vec::with_capacity(n_secrets * 32);
    for SeedSecrets { current, next, pad } in &secrets {
        joined.extend_from_slice(current.as_key().expose());
        for key in next.iter().map(GatewaySecret::as_key).chain(pad) {
            joined.extend_from_slice(key.expose());
        }
    }
    let joined = SecretBytes::new(joined);
    let aad = adopt.associated_data();
    adopt.sealed = cipher(wrapping)
        .encrypt(&iv.into(), Payload { msg: joined.expose(), aad: &aad })
        .expect("a megabyte is within the limits of GCM");
    adopt
}

/// Opens what was sealed; `None` if W is another key than the one it was sealed under.
pub(crate) fn open(wrapping: &Key256, adopt: &Adopt) -> Option<Vec<(Seed, SeedSecrets)>> {
    let aad = adopt.associated_data();
    let payload = Payload { msg: &adopt.sealed, aad: &aad };
    let joined = cipher(wrapping).decrypt(&adopt.iv.into(), payload).ok().map(SecretBytes::new)?;
    let (keys, []) = joined.expose().as_chunks::<32>() else { return None };
    let mut keys = keys.iter().map(|key| Key256::from_bytes(*key));
    let mut opened = Vec::with_capacity(adopt.seeds.len());
    for seed in &adopt.seeds {
        let current = keys.next().map(GatewaySecret::from_key)?;
        let next = match seed.next {
            Some(_) => Some(keys.next().map(GatewaySecret::from_key)?),
            None => None,
        };
        let n_left = seed.pad.as_ref().map_or(0, |pad| pad.keys.len());
        let pad: Vec<Key256> = keys.by_ref().take(n_left).collect();
        if pad.len() != n_left {
            return None;
        }
        opened.push((seed.clone(), SeedSecrets { current, next, pad }));
    }
    keys.next().is_none().then_some(opened)
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
    use claviger_wire::fleet::{AdoptedDevice, SEALED_ROOT, SeedNext, SeedPad};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn secret(n: u8) -> GatewaySecret {
        GatewaySecret::from_key(Key256::from_bytes([n; 32]))
    }

    fn seed(n: u8, n_keys: u8) -> (Seed, SeedSecrets) {
        let key_id = KeyId::from_bytes([n; 16]);
        let next = SeedNext { epoch: 3, origin: 1, key_id, frame: vec![n] };
        let keys = (0..n_keys).map(|_| (key_id, 1)).collect();
        let pad = SeedPad { pad: 1, n_keys: 9, prev: 1, first: 2, keys };
        let seed = Seed {
            device: AdoptedDevice { eui: Eui64::from_bytes([n; 8]), life: 1 },
            current: 2,
            origin: 1,
            next: (n == 1).then_some(next),
            highest: 3,
            root: [0; SEALED_ROOT],
            forwarded: None,
            pad: (n_keys > 0).then_some(pad),
        };
        let pad = (0..n_keys).map(|k| Key256::from_bytes([k.wrapping_add(100); 32])).collect();
        let next = (n == 1).then(|| secret(n + 50));
        (seed, SeedSecrets { current: secret(n), next, pad })
    }

    fn sealed(rng: &mut StdRng) -> (Key256, Adopt) {
        let wrapping = Key256::random(rng);
        let mut batch = Batch::default();
        for (n, n_keys) in [(1, 0), (2, 3), (3, 0)] {
            let (seed, secrets) = seed(n, n_keys);
            batch.add(seed, secrets).unwrap();
        }
        let adopt = seal(KeyId::random(rng), &wrapping, batch, rng);
        (wrapping, adopt)
    }

    #[test]
    fn secrets_come_out_in_order_and_only_under_w() {
        let mut rng = StdRng::seed_from_u64(1);
        let (wrapping, adopt) = sealed(&mut rng);
        let opened = open(&wrapping, &adopt).unwrap();
        for ((opened, secrets), (n, n_keys)) in opened.iter().zip([(1, 0), (2, 3), (3, 0)]) {
            let (seed, expected) = seed(n, n_keys);
            assert_eq!(*opened, seed);
            assert!(secrets.current.as_key().ct_eq(expected.current.as_key()));
            assert_eq!(secrets.next.is_some(), n == 1);
            let next = secrets.next.iter().zip(&expected.next);
            assert!(next.clone().all(|(a, b)| a.as_key().ct_eq(b.as_key())));
            assert_eq!(secrets.pad.len(), usize::from(n_keys));
            assert!(secrets.pad.iter().zip(&expected.pad).all(|(a, b)| a.ct_eq(b)));
        }
        assert!(open(&Key256::random(&mut rng), &adopt).is_none());
    }

    #[test]
    fn nothing_of_an_adoption_can_be_changed() {
        let (wrapping, adopt) = sealed(&mut StdRng::seed_from_u64(2));
        let mut swapped = adopt.clone();
        swapped.seeds.swap(0, 2);
        let mut older = adopt.clone();
        older.seeds[0].device.life = 2;
        let mut further = adopt.clone();
        further.seeds[1].forwarded = Some((2, 7));
        let other = Adopt { key_id: KeyId::from_bytes([0; 16]), ..adopt };
        for adopt in [swapped, older, further, other] {
            assert!(open(&wrapping, &adopt).is_none());
        }
    }

    #[test]
    fn a_batch_fits_into_a_record_and_one_device_always_fits() {
        let (mut batch, mut n) = (Batch::default(), 0);
        loop {
            let (seed, secrets) = seed(2, 250);
            if batch.add(seed, secrets).is_err() {
                break;
            }
            n += 1;
        }
        assert_eq!(n, 80, "250 keys of 49 bytes each");
        let mut year = seed(2, 1);
        let keys = usize::try_from(claviger_wire::fleet::MAX_PAD).unwrap();
        year.0.pad.as_mut().unwrap().keys = vec![(KeyId::from_bytes([1; 16]), 1); keys];
        year.1.pad = (0..keys).map(|_| Key256::from_bytes([7; 32])).collect();
        let mut batch = Batch::default();
        batch.add(year.0, year.1).unwrap();
        let (small, secrets) = seed(1, 0);
        batch.add(small, secrets).unwrap();
        let mut rng = StdRng::seed_from_u64(3);
        let adopt = seal(KeyId::random(&mut rng), &Key256::random(&mut rng), batch, &mut rng);
        let record = claviger_wire::fleet::FleetRecord::GiveBack(adopt).encode();
        assert!((800_000..MAX_ADOPT).contains(&record.len()), "{}", record.len());
    }
}
