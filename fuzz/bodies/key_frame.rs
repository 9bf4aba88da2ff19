//! Key frames, under the secrets of `vectors/device_protocol.json`.

use claviger_frames::{Epoch, GatewaySecret, key_frame, split_bootstrap};
use claviger_units::{Eui64, Key256};

/// Only a frame to an epoch within reach opens, and what it claims is what it leads to.
pub(crate) fn check(input: &[u8]) {
    for (secret, current) in secrets() {
        if let Ok((epoch, _)) = key_frame::open(&secret, current, input) {
            assert_eq!(key_frame::target(input), Ok(epoch));
            let step = epoch.number() - current.number();
            assert!((1..=key_frame::MAX_STEP).contains(&step), "from {current} to {epoch}");
        }
    }
}

/// The secrets from which the three steps of the vectors start.
pub(crate) fn secrets() -> Vec<(GatewaySecret, Epoch)> {
    let eui = Eui64::from_bytes([2, 0, 0x5E, 0xFF, 0xFE, 0x10, 0, 1]);
    let (_, mut secret) = split_bootstrap(&counting(0));
    let mut secrets = vec![(secret.duplicate(), Epoch::BOOTSTRAP)];
    let mut prev = Epoch::BOOTSTRAP;
    for (number, first_byte) in [(1, 0x40), (2, 0x60)] {
        let epoch = Epoch::new(number);
        secret = secret.next(&counting(first_byte), eui, prev, epoch);
        secrets.push((secret.duplicate(), epoch));
        prev = epoch;
    }
    secrets
}

/// 32 bytes that rise by one from `first`.
fn counting(first: u8) -> Key256 {
    let mut next = first;
    Key256::from_bytes([0; 32].map(|_: u8| {
        next += 1;
        next - 1
    }))
}
