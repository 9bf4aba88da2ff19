//! Telemetry frames, under the keys of the first epoch of `vectors/device_protocol.json`.

use claviger_frames::{DataKeys, Epoch, split_bootstrap, telemetry};
use claviger_units::{Eui64, Key256};

/// A frame that opens has one encoding, and says before what it says after.
pub(crate) fn check(input: &[u8]) {
    let keys = keys();
    if let Ok((header, plaintext)) = telemetry::open(&keys, EUI, input) {
        assert_eq!(telemetry::peek(input), Ok(header));
        let again = telemetry::seal(&keys, EUI, header.epoch, header.counter, &plaintext);
        assert_eq!(again.as_deref(), Ok(input));
    }
}

/// The keys of epoch 1 of the vectors.
pub(crate) fn keys() -> DataKeys {
    let (root, secret) = split_bootstrap(&counting(0));
    let epoch = Epoch::new(1);
    let secret = secret.next(&counting(0x40), EUI, Epoch::BOOTSTRAP, epoch);
    DataKeys::derive(&root, &secret, EUI, epoch)
}

/// 32 bytes that rise by one from `first`.
fn counting(first: u8) -> Key256 {
    let mut next = first;
    Key256::from_bytes([0; 32].map(|_: u8| {
        next += 1;
        next - 1
    }))
}

/// The device of the vectors.
pub(crate) const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5E, 0xFF, 0xFE, 0x10, 0, 1]);
