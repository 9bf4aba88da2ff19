//! Telemetry frames: what a device says, readable to the platform alone (`PROTOCOL.md` P3).
//!
//! `COSE_Encrypt0` with `kid` = be32(epoch), Partial IV = counter, and the device's EUI-64 in the
//! external AAD. The topic is not part of it, because bridges rename topics.

use alloc::vec::Vec;

use claviger_units::Eui64;

pub use crate::cose::Algorithm;
use crate::cose::{self, Iv, Protected, Sealed};
use crate::{DataKeys, Epoch};

/// Why a telemetry frame was not made or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// Under epoch 0, which never carries telemetry: fetch a key first.
    #[error("telemetry needs a key beyond epoch 0")]
    Bootstrap,
    /// Not a telemetry frame: cut on the way, or of another version.
    #[error("not a telemetry frame")]
    Malformed,
    /// Forged, changed, of another device, or under keys of another epoch.
    #[error("the telemetry frame does not verify")]
    Unverified,
}

/// What stands in the clear in a telemetry frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The epoch whose keys seal the frame.
    pub epoch: Epoch,
    /// Which message of that epoch it is.
    pub counter: u32,
}

/// Seals message number `counter` of `epoch`; a counter is never used for two plaintexts.
pub fn seal(
    keys: &DataKeys,
    eui: Eui64,
    epoch: Epoch,
    counter: u32,
    plaintext: &[u8],
) -> Result<Vec<u8>, TelemetryError> {
    seal_with(Algorithm::Gcm, keys, eui, Header { epoch, counter }, plaintext)
}

/// Does what [`seal`] does with the algorithm that the device has; one device uses one.
pub fn seal_with(
    algorithm: Algorithm,
    keys: &DataKeys,
    eui: Eui64,
    Header { epoch, counter }: Header,
    plaintext: &[u8],
) -> Result<Vec<u8>, TelemetryError> {
    if epoch == Epoch::BOOTSTRAP {
        return Err(TelemetryError::Bootstrap);
    }
    let header = Protected { algorithm, epoch, iv: Iv::Partial(counter) };
    let (nonce, length) = nonce(algorithm, keys, counter);
    let nonce = nonce.split_at(length).0;
    Ok(cose::seal(keys.up(), nonce, header, &external_aad(eui), plaintext))
}

/// Returns the nonce, and how long it is.
fn nonce(algorithm: Algorithm, keys: &DataKeys, counter: u32) -> ([u8; 13], usize) {
    match algorithm {
        Algorithm::Ccm => (keys.nonce_up(counter), 13),
        Algorithm::Gcm => {
            let mut nonce = [0; 13];
            nonce.split_at_mut(12).0.copy_from_slice(&keys.nonce_up::<12>(counter));
            (nonce, 12)
        }
    }
}

/// Reads the header, to find the keys; nothing of it is authenticated before [`open`].
pub fn peek(frame: &[u8]) -> Result<Header, TelemetryError> {
    split(frame).map(|(header, _)| header)
}

/// Checks and decrypts a frame that came as one of `eui`, with the keys of the epoch it names.
pub fn open(
    keys: &DataKeys,
    eui: Eui64,
    frame: &[u8],
) -> Result<(Header, Vec<u8>), TelemetryError> {
    let (header, sealed) = split(frame)?;
    let (nonce, length) = nonce(sealed.header.algorithm, keys, header.counter);
    let nonce = nonce.split_at(length).0;
    let plaintext = sealed.open(keys.up(), nonce, &external_aad(eui));
    Ok((header, plaintext.ok_or(TelemetryError::Unverified)?))
}

fn split(frame: &[u8]) -> Result<(Header, Sealed<'_>), TelemetryError> {
    let sealed = Sealed::parse(frame).ok_or(TelemetryError::Malformed)?;
    match sealed.header {
        Protected { epoch: Epoch::BOOTSTRAP, .. } => Err(TelemetryError::Bootstrap),
        Protected { epoch, iv: Iv::Partial(counter), .. } => {
            Ok((Header { epoch, counter }, sealed))
        }
        Protected { iv: Iv::Gcm(_) | Iv::Ccm(_), .. } => Err(TelemetryError::Malformed),
    }
}

fn external_aad(eui: Eui64) -> Vec<u8> {
    [b"claviger/1 up", &eui.as_bytes()[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split_bootstrap;
    use claviger_units::Key256;
    use proptest::prelude::*;

    const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);

    fn keys(epoch: Epoch) -> DataKeys {
        let (root, gateway) = split_bootstrap(&Key256::from_bytes([7; 32]));
        DataKeys::derive(&root, &gateway, EUI, epoch)
    }

    #[test]
    fn nothing_travels_under_the_bootstrap_epoch() {
        let keys = keys(Epoch::BOOTSTRAP);
        let refused = seal(&keys, EUI, Epoch::BOOTSTRAP, 0, b"x");
        assert_eq!(refused, Err(TelemetryError::Bootstrap));
        let header =
            Protected { algorithm: Algorithm::Gcm, epoch: Epoch::BOOTSTRAP, iv: Iv::Partial(0) };
        let forced =
            cose::seal(keys.up(), &keys.nonce_up::<12>(0), header, &external_aad(EUI), b"x");
        assert_eq!(open(&keys, EUI, &forced), Err(TelemetryError::Bootstrap));
        assert_eq!(peek(&forced), Err(TelemetryError::Bootstrap));
    }

    #[test]
    fn a_frame_belongs_to_one_device_and_one_epoch() {
        let (one, two) = (Epoch::new(1), Epoch::new(2));
        let frame = seal(&keys(one), EUI, one, 5, b"x").unwrap();
        let other = Eui64::from_bytes([9; 8]);
        assert_eq!(open(&keys(one), other, &frame), Err(TelemetryError::Unverified));
        assert_eq!(open(&keys(two), EUI, &frame), Err(TelemetryError::Unverified));
        assert!(open(&keys(one), EUI, &frame).is_ok());
    }

    proptest! {
        #[test]
        fn a_sealed_message_comes_out(
            epoch in 1..=u32::MAX, counter: u32, plaintext in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let epoch = Epoch::new(epoch);
            let keys = keys(epoch);
            let frame = seal(&keys, EUI, epoch, counter, &plaintext).unwrap();
            let header = Header { epoch, counter };
            prop_assert_eq!(peek(&frame), Ok(header));
            prop_assert_eq!(open(&keys, EUI, &frame), Ok((header, plaintext)));
        }

        #[test]
        fn opening_never_panics(frame in prop::collection::vec(any::<u8>(), 0..90)) {
            prop_assert!(open(&keys(Epoch::new(1)), EUI, &frame).is_err());
        }
    }
}
