//! Docked pads on their way to the device: sealed under its present epoch, so that nobody but its gateway has
//! made one, and nobody but the device reads it off the cable.
//!
//! `be32(prev) ‖ be32(first) ‖ IV (12) ‖ AES-256-GCM(keys)`, with `"claviger/1 pad" ‖ eui ‖ be32(prev) ‖ be32(first)`
//! as associated data.

use alloc::vec::Vec;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use claviger_units::{Eui64, SecretBytes};

use crate::{Epoch, GatewaySecret};

/// A pad as it was opened.
#[derive(Debug)]
pub struct OpenedPad {
    /// The epoch that the device must hold to begin with it.
    pub prev: Epoch,
    /// The epoch that its first key leads to; the next ones follow one by one.
    pub first: Epoch,
    /// Its keys, 32 bytes each.
    pub keys: SecretBytes,
}

/// Seals the keys of a pad under the secret of `prev`.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "a pad is far shorter than GCM can bear")]
pub fn seal(
    secret: &GatewaySecret,
    eui: Eui64,
    (prev, first): (Epoch, Epoch),
    keys: &SecretBytes,
    iv: [u8; 12],
) -> Vec<u8> {
    let aad = associated_data(eui, prev, first);
    let payload = Payload { msg: keys.expose(), aad: &aad };
    let sealed = cipher(secret).encrypt(&iv.into(), payload).expect("a pad is short enough");
    [&prev.to_bytes()[..], &first.to_bytes(), &iv, &sealed].concat()
}

/// Opens a pad that belongs to a device at epoch `held` with this secret; `None` for anything else.
#[must_use]
pub fn open(secret: &GatewaySecret, eui: Eui64, held: Epoch, pad: &[u8]) -> Option<OpenedPad> {
    let (prev, rest) = pad.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (iv, sealed) = rest.split_first_chunk::<12>()?;
    let (prev, first) = (Epoch::from_bytes(*prev), Epoch::from_bytes(*first));
    let n_bytes = sealed.len().checked_sub(16)?;
    let last = u32::try_from(n_bytes / 32).ok().and_then(|n| first.number().checked_add(n));
    if prev != held
        || prev >= first
        || n_bytes == 0
        || !n_bytes.is_multiple_of(32)
        || last.is_none()
    {
        return None;
    }
    let aad = associated_data(eui, prev, first);
    let payload = Payload { msg: sealed, aad: &aad };
    let keys = cipher(secret).decrypt(&(*iv).into(), payload).ok()?;
    Some(OpenedPad { prev, first, keys: SecretBytes::new(keys) })
}

fn associated_data(eui: Eui64, prev: Epoch, first: Epoch) -> Vec<u8> {
    [b"claviger/1 pad", &eui.as_bytes()[..], &prev.to_bytes(), &first.to_bytes()].concat()
}

fn cipher(secret: &GatewaySecret) -> Aes256Gcm {
    Aes256Gcm::new(secret.labelled(b"pad").expose().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use claviger_units::Key256;

    const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);

    fn secret(byte: u8) -> GatewaySecret {
        GatewaySecret::from_key(Key256::from_bytes([byte; 32]))
    }

    fn sealed(prev: u32, first: u32, n_bytes: usize) -> Vec<u8> {
        let keys = SecretBytes::new(vec![7; n_bytes]);
        seal(&secret(1), EUI, (Epoch::new(prev), Epoch::new(first)), &keys, [9; 12])
    }

    #[test]
    fn only_its_device_at_its_epoch_opens_a_whole_pad() {
        let pad = sealed(4, 9, 96);
        let held = Epoch::new(4);
        let opened = open(&secret(1), EUI, held, &pad).unwrap();
        assert_eq!((opened.first, opened.keys.expose()), (Epoch::new(9), &[7; 96][..]));
        assert!(open(&secret(2), EUI, held, &pad).is_none(), "another secret");
        assert!(
            open(&secret(1), Eui64::from_bytes([1; 8]), held, &pad).is_none(),
            "another device"
        );
        assert!(open(&secret(1), EUI, Epoch::new(5), &pad).is_none(), "another epoch");
        for length in 0..pad.len() {
            assert!(open(&secret(1), EUI, held, &pad[..length]).is_none(), "{length} bytes");
        }
        for at in 0..pad.len() {
            let mut changed = pad.clone();
            changed[at] ^= 1;
            assert!(open(&secret(1), EUI, held, &changed).is_none(), "byte {at}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_no_pad() {
        let held = Epoch::new(4);
        for (first, n_bytes) in [(9, 0), (9, 31), (9, 33), (4, 32), (3, 32), (u32::MAX, 64)] {
            assert!(open(&secret(1), EUI, held, &sealed(4, first, n_bytes)).is_none(), "{first}");
        }
    }
}
