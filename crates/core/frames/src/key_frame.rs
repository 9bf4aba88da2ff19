//! Key frames: a QKD key wrapped for one device and one epoch (`PROTOCOL.md` P3, Key frame).
//!
//! Two forms, told apart by length: `COSE_Encrypt0` with the target epoch as `kid`, by GCM or by CCM, and a
//! compact one of 44 bytes, be32(epoch) ‖ AES-KW (RFC 3394), for radios where each byte costs.

use alloc::vec::Vec;

use aes_kw::{KeyInit, KwAes256};
use claviger_units::Key256;
use zeroize::Zeroizing;

use crate::cose::{self, Algorithm, Iv, Protected, Sealed};
use crate::{Epoch, GatewaySecret};

/// Why a key frame changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFrameError {
    /// Not a key frame: cut on the way, or of another version.
    #[error("not a key frame")]
    Malformed,
    /// For an epoch that is not ahead: an old frame came again; ignore it.
    #[error("the key frame leads to epoch {target}, but epoch {current} is already reached")]
    Stale {
        /// Where the frame leads.
        target: Epoch,
        /// Where its receiver is.
        current: Epoch,
    },
    /// Further ahead than [`MAX_STEP`]: no honest gateway prepares it.
    #[error("the key frame leads to epoch {target}, too far ahead of epoch {current}")]
    TooFar {
        /// Where the frame leads.
        target: Epoch,
        /// Where its receiver is.
        current: Epoch,
    },
    /// Wrapped under another secret, or forged: ask again, and re-adopt the device if it goes on.
    #[error("the key frame does not verify")]
    Unverified,
}

/// The furthest step ahead that a device takes.
pub const MAX_STEP: u32 = 1024;

/// Wraps `qkd` for the step from the epoch of `prev` to `target`, as `COSE_Encrypt0` with A256GCM.
///
/// `iv` is fresh from a generator; a frame is made once, then stored and resent byte for byte.
#[must_use]
pub fn seal(prev: &GatewaySecret, target: Epoch, qkd: &Key256, iv: [u8; 12]) -> Vec<u8> {
    let header = Protected { algorithm: Algorithm::Gcm, epoch: target, iv: Iv::Gcm(iv) };
    cose::seal(&prev.key_wrapping_key(target), &iv, header, b"", qkd.expose())
}

/// As [`seal`], with AES-CCM-16-128-256: for devices whose hardware has AES and no GCM.
#[must_use]
pub fn seal_ccm(prev: &GatewaySecret, target: Epoch, qkd: &Key256, iv: [u8; 13]) -> Vec<u8> {
    let header = Protected { algorithm: Algorithm::Ccm, epoch: target, iv: Iv::Ccm(iv) };
    cose::seal(&prev.key_wrapping_key(target), &iv, header, b"", qkd.expose())
}

/// Wraps `qkd` for the step from the epoch of `prev` to `target`, in 44 bytes.
#[must_use]
pub fn seal_compact(prev: &GatewaySecret, target: Epoch, qkd: &Key256) -> [u8; COMPACT_LEN] {
    let mut frame = [0; COMPACT_LEN];
    let (epoch, wrapped) = frame.split_at_mut(4);
    epoch.copy_from_slice(&target.to_bytes());
    wrap_compact(prev, target, qkd, wrapped);
    frame
}

/// Unwraps a frame of either form for a receiver who is at `current` and holds its secret `prev`.
pub fn open(
    prev: &GatewaySecret,
    current: Epoch,
    frame: &[u8],
) -> Result<(Epoch, Key256), KeyFrameError> {
    let target = target(frame)?;
    if target <= current {
        return Err(KeyFrameError::Stale { target, current });
    }
    if target.number() - current.number() > MAX_STEP {
        return Err(KeyFrameError::TooFar { target, current });
    }
    let key = match frame.split_first_chunk::<4>() {
        Some((_, wrapped)) if frame.len() == COMPACT_LEN => unwrap_compact(prev, target, wrapped),
        _ => unwrap_cose(prev, target, frame),
    };
    Ok((target, key.ok_or(KeyFrameError::Unverified)?))
}

/// Reads the epoch that a frame claims to lead to; nothing of it is authenticated.
pub fn target(frame: &[u8]) -> Result<Epoch, KeyFrameError> {
    if let Some((&epoch, _)) = frame.split_first_chunk().filter(|_| frame.len() == COMPACT_LEN) {
        return Ok(Epoch::from_bytes(epoch));
    }
    match Sealed::parse(frame).ok_or(KeyFrameError::Malformed)?.header {
        Protected { epoch, iv: Iv::Gcm(_) | Iv::Ccm(_), .. } => Ok(epoch),
        Protected { iv: Iv::Partial(_), .. } => Err(KeyFrameError::Malformed),
    }
}

fn unwrap_cose(prev: &GatewaySecret, target: Epoch, frame: &[u8]) -> Option<Key256> {
    let sealed = Sealed::parse(frame)?;
    let key = prev.key_wrapping_key(target);
    let plaintext = match sealed.header.iv {
        Iv::Gcm(iv) => sealed.open(&key, &iv, b"")?,
        Iv::Ccm(iv) => sealed.open(&key, &iv, b"")?,
        Iv::Partial(_) => return None,
    };
    Key256::from_slice(&Zeroizing::new(plaintext))
}

fn wrap_compact(prev: &GatewaySecret, target: Epoch, qkd: &Key256, wrapped: &mut [u8]) {
    let written = key_wrap(prev, target).wrap_key(qkd.expose(), wrapped);
    written.expect("40 bytes hold a wrapped key of 32");
}

fn unwrap_compact(prev: &GatewaySecret, target: Epoch, wrapped: &[u8]) -> Option<Key256> {
    let mut key = Zeroizing::new([0; 32]);
    key_wrap(prev, target).unwrap_key(wrapped, key.as_mut_slice()).ok()?;
    Some(Key256::from_bytes(*key))
}

fn key_wrap(prev: &GatewaySecret, target: Epoch) -> KwAes256 {
    KwAes256::new(prev.key_wrapping_key(target).expose().into())
}

/// The length of the compact form; no `COSE_Encrypt0` of a key is as short.
pub const COMPACT_LEN: usize = 44;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret() -> GatewaySecret {
        GatewaySecret::from_key(Key256::from_bytes([3; 32]))
    }

    fn all_forms(target: Epoch, qkd: &Key256) -> [Vec<u8>; 3] {
        [
            seal(&secret(), target, qkd, [9; 12]),
            seal_ccm(&secret(), target, qkd, [9; 13]),
            seal_compact(&secret(), target, qkd).to_vec(),
        ]
    }

    #[test]
    fn only_steps_ahead_and_not_too_far() {
        let qkd = Key256::from_bytes([4; 32]);
        let current = Epoch::new(10);
        for (number, opens) in [(0, false), (10, false), (11, true), (1034, true), (1035, false)] {
            for frame in all_forms(Epoch::new(number), &qkd) {
                let opened = open(&secret(), current, &frame);
                assert_eq!(opened.is_ok(), opens, "to {number} in {} bytes", frame.len());
            }
        }
        let last = Epoch::new(u32::MAX);
        let frame = seal(&secret(), last, &qkd, [9; 12]);
        assert_eq!(
            open(&secret(), last, &frame).unwrap_err(),
            KeyFrameError::Stale { target: last, current: last }
        );
    }

    #[test]
    fn a_telemetry_frame_is_no_key_frame() {
        let header =
            Protected { algorithm: Algorithm::Gcm, epoch: Epoch::new(1), iv: Iv::Partial(0) };
        let frame =
            cose::seal(&secret().key_wrapping_key(Epoch::new(1)), &[0; 12], header, b"", &[0; 32]);
        let opened = open(&secret(), Epoch::BOOTSTRAP, &frame);
        assert_eq!(opened.unwrap_err(), KeyFrameError::Malformed);
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let iv = [0; 12];
        let header = Protected { algorithm: Algorithm::Gcm, epoch: Epoch::new(1), iv: Iv::Gcm(iv) };
        let frame =
            cose::seal(&secret().key_wrapping_key(Epoch::new(1)), &iv, header, b"", &[0; 16]);
        let opened = open(&secret(), Epoch::BOOTSTRAP, &frame);
        assert_eq!(opened.unwrap_err(), KeyFrameError::Unverified);
    }

    proptest! {
        #[test]
        fn a_sealed_key_comes_out(qkd: [u8; 32], current in 0..u32::MAX - MAX_STEP, step in 1..=MAX_STEP) {
            let target = Epoch::new(current + step);
            let qkd = Key256::from_bytes(qkd);
            for frame in all_forms(target, &qkd) {
                let (epoch, key) = open(&secret(), Epoch::new(current), &frame).unwrap();
                prop_assert!(epoch == target && key.ct_eq(&qkd));
                let stranger = GatewaySecret::from_key(Key256::from_bytes([0; 32]));
                let refused = open(&stranger, Epoch::new(current), &frame);
                prop_assert_eq!(refused.unwrap_err(), KeyFrameError::Unverified);
            }
        }

        #[test]
        fn a_changed_byte_is_noticed(at: prop::sample::Index, flip in 1..=255_u8) {
            for mut frame in all_forms(Epoch::new(5), &Key256::from_bytes([4; 32])) {
                let at = at.index(frame.len());
                frame[at] ^= flip;
                prop_assert!(open(&secret(), Epoch::new(4), &frame).is_err());
            }
        }

        #[test]
        fn opening_never_panics(frame in prop::collection::vec(any::<u8>(), 0..90), current: u32) {
            prop_assert!(open(&secret(), Epoch::new(current), &frame).is_err());
        }
    }
}
