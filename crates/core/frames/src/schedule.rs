//! From the bootstrap key to every key of every epoch (`PROTOCOL.md` P3).

use alloc::vec::Vec;
use core::fmt;

use claviger_units::{Eui64, Key256, SecretBytes};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The number of a device's key, rising by every key frame; 0 is the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch before the first QKD key. It never carries telemetry.
    pub const BOOTSTRAP: Self = Self(0);

    /// Makes the epoch with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the number as it stands in frames and labels: 4 bytes, big-endian.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// Reads the number from 4 bytes, big-endian.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_be_bytes(bytes))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The device root R, kept by the device and the platform only.
#[derive(Debug, Zeroize, ZeroizeOnDrop)]
pub struct DeviceRoot(Key256);

impl DeviceRoot {
    /// Takes over the bytes of a root that was stored.
    #[must_use]
    pub const fn from_key(key: Key256) -> Self {
        Self(key)
    }

    /// Gives the bytes, to be stored sealed.
    #[must_use]
    pub const fn as_key(&self) -> &Key256 {
        &self.0
    }

    /// Makes a second holder of the same root, on purpose and by name.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }

    /// Returns a mark of this root that tells nothing of it: what belongs to one life of a device bears it.
    #[must_use]
    pub fn mark(&self) -> [u8; 8] {
        let mut mark = [0; 8];
        expand_into(&self.0, &[b"claviger/1 mark"], &mut mark);
        mark
    }
}

/// The gateway secret `G_e` of one epoch, known to device, gateway and platform.
#[derive(Debug, Zeroize, ZeroizeOnDrop)]
pub struct GatewaySecret(Key256);

/// Splits a bootstrap key into the root and the gateway secret of epoch 0.
///
/// The bootstrap key itself is never stored by a server; wipe it after this.
#[must_use]
pub fn split_bootstrap(bootstrap: &Key256) -> (DeviceRoot, GatewaySecret) {
    (
        DeviceRoot(expand(bootstrap, &[b"claviger/1 root"])),
        GatewaySecret(expand(bootstrap, &[b"claviger/1 gateway"])),
    )
}

impl GatewaySecret {
    /// Takes over the bytes of a secret that was stored.
    #[must_use]
    pub const fn from_key(key: Key256) -> Self {
        Self(key)
    }

    /// Gives the bytes, to be stored sealed.
    #[must_use]
    pub const fn as_key(&self) -> &Key256 {
        &self.0
    }

    /// Makes a second holder of the same secret, on purpose and by name.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.duplicate())
    }

    /// Derives the secret of `epoch` from this one, of epoch `prev`, and a QKD key.
    #[must_use]
    pub fn next(&self, qkd: &Key256, eui: Eui64, prev: Epoch, epoch: Epoch) -> Self {
        let info: [&[u8]; 4] =
            [b"claviger/1 epoch", eui.as_bytes(), &prev.to_bytes(), &epoch.to_bytes()];
        Self(extract_and_expand(&self.labelled(b"chain"), qkd, &info))
    }

    /// Derives the key under which the key frame to `target` is wrapped.
    pub(crate) fn key_wrapping_key(&self, target: Epoch) -> Key256 {
        expand(&self.0, &[b"claviger/1 kek", &target.to_bytes()])
    }

    pub(crate) fn labelled(&self, label: &[u8]) -> Key256 {
        expand(&self.0, &[b"claviger/1 ", label])
    }
}

/// The keys of one epoch that carry telemetry, known to device and platform only.
#[derive(Debug, Zeroize, ZeroizeOnDrop)]
pub struct DataKeys {
    up: Key256,
    down: Key256,
    iv_up: SecretBytes,
}

impl DataKeys {
    /// Derives the data keys of `epoch` from the root and the gateway secret of that epoch.
    #[must_use]
    pub fn derive(root: &DeviceRoot, gateway: &GatewaySecret, eui: Eui64, epoch: Epoch) -> Self {
        let info: [&[u8]; 3] = [b"claviger/1 data", eui.as_bytes(), &epoch.to_bytes()];
        let data = extract_and_expand(&root.0, &gateway.0, &info);
        let mut iv_up = [0; IV_UP];
        expand_into(&data, &[b"claviger/1 iv-up"], &mut iv_up);
        Self {
            up: expand(&data, &[b"claviger/1 up"]),
            down: expand(&data, &[b"claviger/1 down"]),
            iv_up: SecretBytes::new(iv_up.to_vec()),
        }
    }

    /// Gives `up ‖ down ‖ iv-up`, to be stored sealed.
    #[must_use]
    pub fn to_bytes(&self) -> SecretBytes {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(self.up.expose());
        bytes.extend_from_slice(self.down.expose());
        bytes.extend_from_slice(self.iv_up.expose());
        SecretBytes::new(bytes)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) gave; `None` for anything of another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (up, rest) = bytes.split_at_checked(32)?;
        let (down, iv_up) = rest.split_at_checked(32)?;
        let iv_up = (iv_up.len() == IV_UP).then(|| SecretBytes::new(iv_up.to_vec()))?;
        Some(Self { up: Key256::from_slice(up)?, down: Key256::from_slice(down)?, iv_up })
    }

    /// Makes a second holder of the same keys, on purpose and by name.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { up: self.up.duplicate(), down: self.down.duplicate(), iv_up: self.iv_up.duplicate() }
    }

    /// Gives the key that encrypts towards the platform.
    #[must_use]
    pub const fn up(&self) -> &Key256 {
        &self.up
    }

    /// Gives the key that encrypts towards the device.
    #[must_use]
    pub const fn down(&self) -> &Key256 {
        &self.down
    }

    /// Returns the nonce of telemetry number `counter`: the context IV XOR the Partial IV, both
    /// brought to its length, the former from the right, the latter from the left (RFC 9052 §3.1).
    pub(crate) fn nonce_up<const LENGTH: usize>(&self, counter: u32) -> [u8; LENGTH] {
        let mut nonce = [0; LENGTH];
        for (byte, iv) in nonce.iter_mut().zip(self.iv_up.expose()) {
            *byte = *iv;
        }
        for (byte, part) in nonce.iter_mut().rev().zip(counter.to_le_bytes()) {
            *byte ^= part;
        }
        nonce
    }

    const LEN: usize = 32 + 32 + IV_UP;
}

const IV_UP: usize = 8;

/// HKDF-Expand to one key.
fn expand(prk: &Key256, info: &[&[u8]]) -> Key256 {
    let mut bytes = Zeroizing::new([0; 32]);
    expand_into(prk, info, bytes.as_mut_slice());
    Key256::from_bytes(*bytes)
}

/// HKDF (extract, then expand) to one key.
fn extract_and_expand(salt: &Key256, ikm: &Key256, info: &[&[u8]]) -> Key256 {
    let mut bytes = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt.expose()), ikm.expose())
        .expand_multi_info(info, bytes.as_mut_slice())
        .expect("32 bytes are below the limit of 255 hash lengths");
    Key256::from_bytes(*bytes)
}

fn expand_into(prk: &Key256, info: &[&[u8]], output: &mut [u8]) {
    Hkdf::<Sha256>::from_prk(prk.expose())
        .expect("a key of 32 bytes is as long as the hash")
        .expand_multi_info(info, output)
        .expect("32 bytes are below the limit of 255 hash lengths");
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);

    fn secret(byte: u8) -> GatewaySecret {
        GatewaySecret::from_key(Key256::from_bytes([byte; 32]))
    }

    #[test]
    fn every_input_of_an_epoch_matters() {
        let qkd = Key256::from_bytes([9; 32]);
        let (one, two) = (Epoch::new(1), Epoch::new(2));
        let other_eui = Eui64::from_bytes([3; 8]);
        let base = secret(1).next(&qkd, EUI, Epoch::BOOTSTRAP, one);
        let others = [
            secret(2).next(&qkd, EUI, Epoch::BOOTSTRAP, one),
            secret(1).next(&Key256::from_bytes([8; 32]), EUI, Epoch::BOOTSTRAP, one),
            secret(1).next(&qkd, other_eui, Epoch::BOOTSTRAP, one),
            secret(1).next(&qkd, EUI, one, one),
            secret(1).next(&qkd, EUI, Epoch::BOOTSTRAP, two),
        ];
        for (n, other) in others.iter().enumerate() {
            assert!(!base.as_key().ct_eq(other.as_key()), "input {n} does not matter");
        }
        assert!(!secret(1).key_wrapping_key(one).ct_eq(&secret(1).key_wrapping_key(two)));
    }

    #[test]
    fn the_gateway_secret_alone_gives_no_data_key() {
        let (root, gateway) = split_bootstrap(&Key256::from_bytes([7; 32]));
        let stranger = DeviceRoot::from_key(Key256::from_bytes([0; 32]));
        let right = DataKeys::derive(&root, &gateway, EUI, Epoch::new(1));
        let wrong = DataKeys::derive(&stranger, &gateway, EUI, Epoch::new(1));
        assert!(!right.up().ct_eq(wrong.up()) && !right.down().ct_eq(right.up()));
    }

    #[test]
    fn stored_data_keys_come_back() {
        let (root, gateway) = split_bootstrap(&Key256::from_bytes([7; 32]));
        let keys = DataKeys::derive(&root, &gateway, EUI, Epoch::new(3));
        let bytes = keys.to_bytes();
        let back = DataKeys::from_bytes(bytes.expose()).unwrap();
        assert!(back.to_bytes().ct_eq(&bytes));
        assert_eq!(back.nonce_up::<12>(1), keys.duplicate().nonce_up(1));
        for length in [0, 31, 64, 71, 73] {
            assert!(DataKeys::from_bytes(&alloc::vec![0; length]).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn secrets_print_nothing_of_themselves() {
        let (root, gateway) = split_bootstrap(&Key256::from_bytes([0xAB; 32]));
        let keys = DataKeys::derive(&root, &gateway, EUI, Epoch::new(1));
        assert_eq!(
            format!("{root:?} {gateway:?} {keys:?}"),
            "DeviceRoot(Key256(..)) GatewaySecret(Key256(..)) DataKeys { up: Key256(..), \
             down: Key256(..), iv_up: SecretBytes(.. 8 bytes) }"
        );
    }

    #[test]
    fn the_counter_stands_at_the_end_of_the_nonce() {
        let (root, gateway) = split_bootstrap(&Key256::from_bytes([7; 32]));
        let keys = DataKeys::derive(&root, &gateway, EUI, Epoch::new(1));
        let (zero, high) = (keys.nonce_up::<12>(0), keys.nonce_up::<12>(0x0102_0304));
        assert_eq!(zero[..8], high[..8]);
        assert_eq!((&zero[8..], &high[8..]), (&[0; 4][..], &[1, 2, 3, 4][..]));
    }
}
