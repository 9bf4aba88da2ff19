//! Two flash slots, each a whole copy of what the device must not lose (`PROTOCOL.md` P3).

use alloc::vec::Vec;

use claviger_frames::{DeviceRoot, Epoch, GatewaySecret, split_bootstrap};
use claviger_units::{Eui64, Key256, SecretBytes};

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The slot of even sequence numbers.
    A,
    /// The slot of odd sequence numbers.
    B,
}

impl Slot {
    /// Returns the other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What the flash of a device holds, as its shell read it or will write it.
#[derive(Debug)]
pub struct FlashImage {
    a: SecretBytes,
    b: SecretBytes,
}

/// A slot to be written, flushed and read back.
#[derive(Debug)]
pub struct FlashWrite {
    /// Which slot.
    pub slot: Slot,
    /// The whole new content of the slot.
    pub bytes: SecretBytes,
}

impl FlashImage {
    /// Makes the flash of a new device from its bootstrap key, which ends here.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "the key is wiped when this returns")]
    pub fn provision(bootstrap: Key256, eui: Eui64) -> Self {
        let (root, gateway) = split_bootstrap(&bootstrap);
        let held =
            Held { sequence: 1, eui, epoch: Epoch::BOOTSTRAP, counter_limit: 0, root, gateway };
        Self { a: held.encode(), b: held.encode() }
    }

    /// Takes both slots as they were read; what is damaged shows at boot.
    #[must_use]
    pub const fn from_slots(a: Vec<u8>, b: Vec<u8>) -> Self {
        Self { a: SecretBytes::new(a), b: SecretBytes::new(b) }
    }

    /// Gives the content of a slot.
    #[must_use]
    pub const fn slot(&self, slot: Slot) -> &SecretBytes {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// Does a write, for devices whose flash is memory.
    pub fn write(&mut self, write: &FlashWrite) {
        let bytes = write.bytes.duplicate();
        match write.slot {
            Slot::A => self.a = bytes,
            Slot::B => self.b = bytes,
        }
    }

    /// Finds the newest valid slot.
    pub(crate) fn newest(&self) -> Option<(Slot, Held)> {
        let slots = [Slot::A, Slot::B];
        let valid = slots.map(|slot| Some((slot, Held::decode(self.slot(slot).expose())?)));
        valid.into_iter().flatten().max_by_key(|(_, held)| held.sequence)
    }
}

/// What one slot holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) sequence: u32,
    pub(crate) eui: Eui64,
    pub(crate) epoch: Epoch,
    /// Every counter below it may have been used in this epoch; none at or above it has.
    pub(crate) counter_limit: u32,
    pub(crate) root: DeviceRoot,
    pub(crate) gateway: GatewaySecret,
}

impl Held {
    /// Makes a second holder of the same content.
    pub(crate) fn duplicate(&self) -> Self {
        Self { root: self.root.duplicate(), gateway: self.gateway.duplicate(), ..*self }
    }

    /// Returns what follows on this with a new counter limit.
    pub(crate) fn reserving(&self, counter_limit: u32) -> Self {
        // No flash lives for 2^32 writes.
        Self { sequence: self.sequence + 1, counter_limit, ..self.duplicate() }
    }

    /// Returns what follows on this in a new epoch.
    pub(crate) fn renewed(&self, epoch: Epoch, qkd: &Key256, counter_limit: u32) -> Self {
        let gateway = self.gateway.next(qkd, self.eui, self.epoch, epoch);
        Self { epoch, gateway, ..self.reserving(counter_limit) }
    }

    /// Writes `"CLV1" ‖ sequence ‖ eui ‖ epoch ‖ counter limit ‖ R ‖ G ‖ CRC-32 of all before`.
    pub(crate) fn encode(&self) -> SecretBytes {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(self.eui.as_bytes());
        bytes.extend_from_slice(&self.epoch.to_bytes());
        bytes.extend_from_slice(&self.counter_limit.to_be_bytes());
        bytes.extend_from_slice(self.root.as_key().expose());
        bytes.extend_from_slice(self.gateway.as_key().expose());
        bytes.extend_from_slice(&CRC.checksum(&bytes).to_be_bytes());
        SecretBytes::new(bytes)
    }

    /// Reads a slot; `None` if it is empty, torn or damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != LEN || CRC.checksum(body).to_be_bytes() != *crc {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        let (eui, rest) = rest.split_first_chunk::<8>()?;
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let (limit, rest) = rest.split_first_chunk::<4>()?;
        let (root, gateway) = rest.split_at_checked(32)?;
        Some(Self {
            sequence: u32::from_be_bytes(*sequence),
            eui: Eui64::from_bytes(*eui),
            epoch: Epoch::from_bytes(*epoch),
            counter_limit: u32::from_be_bytes(*limit),
            root: DeviceRoot::from_key(Key256::from_slice(root)?),
            gateway: GatewaySecret::from_key(Key256::from_slice(gateway)?),
        })
    }
}

const MAGIC: &[u8] = b"CLV1";
const LEN: usize = 4 + 4 + 8 + 4 + 4 + 32 + 32 + 4;
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);

    fn fresh() -> FlashImage {
        FlashImage::provision(Key256::from_bytes([7; 32]), EUI)
    }

    #[test]
    fn the_newest_valid_slot_counts() {
        let mut flash = fresh();
        let newer = flash.newest().unwrap().1.reserving(64).encode();
        flash.write(&FlashWrite { slot: Slot::B, bytes: newer.duplicate() });
        let (slot, held) = flash.newest().unwrap();
        assert_eq!((slot, held.sequence, held.counter_limit), (Slot::B, 2, 64));
        // Torn at any byte, the older one counts.
        for length in 0..newer.len() {
            let torn = SecretBytes::new(newer.expose()[..length].to_vec());
            flash.write(&FlashWrite { slot: Slot::B, bytes: torn });
            assert_eq!(flash.newest().unwrap().0, Slot::A, "torn after {length} bytes");
        }
    }

    #[test]
    fn nothing_valid_is_nothing() {
        assert!(FlashImage::from_slots(Vec::new(), alloc::vec![0xFF; LEN]).newest().is_none());
    }

    proptest! {
        #[test]
        fn a_slot_survives_its_bytes(sequence: u32, epoch: u32, counter_limit: u32, secret: [u8; 32]) {
            let (_, held) = fresh().newest().unwrap();
            let held = Held {
                sequence,
                epoch: Epoch::new(epoch),
                counter_limit,
                gateway: GatewaySecret::from_key(Key256::from_bytes(secret)),
                ..held
            };
            let back = Held::decode(held.encode().expose()).unwrap();
            prop_assert!(back.encode().ct_eq(&held.encode()));
            prop_assert_eq!((back.epoch, back.counter_limit, back.eui), (held.epoch, counter_limit, EUI));
        }

        #[test]
        fn a_damaged_byte_is_noticed(at in 0..LEN, flip in 1..=255_u8) {
            let mut bytes = fresh().slot(Slot::A).expose().to_vec();
            bytes[at] ^= flip;
            prop_assert!(Held::decode(&bytes).is_none());
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..LEN + 5)) {
            prop_assert!(Held::decode(&bytes).is_none());
        }
    }
}
