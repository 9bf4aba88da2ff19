//! Records between gateway and platform: the bodies that their peer stream carries (PROTOCOL.md P3).
//!
//! A device that is bootstrapped again starts a new *life*: its epochs count from zero once more,
//! and a record that was under way for an earlier life names that life, so nobody mistakes it.

use claviger_units::{Eui64, KeyId};

use crate::cursor::{DecodeError, Reader, Writer};

/// The most devices that one ADOPT may hold (PROTOCOL.md P3a.2).
pub const MAX_ADOPTED: usize = 1000;

/// The most bytes of a key frame in ANNOUNCE.
pub const MAX_KEY_FRAME: usize = 4096;

/// A record body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetRecord {
    /// Platform → gateway: serve these devices (P3a.2).
    Adopt(Adopt),
    /// Gateway → platform: W is not to be had, take another one (P3a.3).
    NackAdopt {
        /// The id of W.
        key_id: KeyId,
    },
    /// Gateway → platform: an epoch is finished, hold it before a device may (P3b.3).
    Announce(Announce),
    /// Platform → gateway: the epoch is held, release its frame (P3b.4).
    Prepared(EpochName),
    /// Platform → gateway: the epoch cannot be held, drop it (P3b.4).
    Nack(EpochName),
    /// Gateway → platform: the refused epoch is dropped (P3b.5).
    Drop(EpochName),
    /// Platform → gateway: the device has spoken under the epoch (P3b.6).
    Confirmed(EpochName),
    /// Platform → gateway: this life of the device is over, wipe its secrets (ours).
    Retire(AdoptedDevice),
}

/// One epoch of one life of one device; it never has more than one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochName {
    /// The device.
    pub eui: Eui64,
    /// How many bootstraps the device has had, from 1.
    pub life: u32,
    /// The epoch, from 1.
    pub epoch: u32,
}

/// Devices handed to the gateway with their secrets of epoch 0, sealed under a key W.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The id of W, which the gateway fetches from its own KME.
    pub key_id: KeyId,
    /// The devices, in the order of their secrets.
    pub devices: Vec<AdoptedDevice>,
    /// The nonce of the seal.
    pub iv: [u8; 12],
    /// The secrets of epoch 0, 32 bytes each, sealed with AES-256-GCM, and its tag.
    pub sealed: Vec<u8>,
}

/// A life of a device, in ADOPT and RETIRE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedDevice {
    /// The device.
    pub eui: Eui64,
    /// How many bootstraps it has had, from 1.
    pub life: u32,
}

/// A finished epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The epoch.
    pub name: EpochName,
    /// The epoch under which the device must be to open the frame.
    pub prev: u32,
    /// The key of the epoch, which the platform fetches from its own KME.
    pub key_id: KeyId,
    /// The finished key frame, stored and resent byte for byte.
    pub frame: Vec<u8>,
}

impl Adopt {
    /// Returns what the seal authenticates beside the secrets: W and the devices.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        self.write_head(Writer::new()).finish()
    }

    fn write_head(&self, writer: Writer) -> Writer {
        let head = writer.raw(self.key_id.as_bytes()).count(self.devices.len());
        self.devices.iter().fold(head, |w, d| w.raw(d.eui.as_bytes()).u32(d.life))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let key_id = reader.key_id()?;
        let n_devices = reader.count(AdoptedDevice::LEN)?;
        if !(1..=MAX_ADOPTED).contains(&n_devices) {
            return Err(DecodeError::Field("adopted devices"));
        }
        let devices =
            (0..n_devices).map(|_| AdoptedDevice::read(reader)).collect::<Result<_, _>>()?;
        let iv = reader.array()?;
        let sealed = reader.bytes()?.to_vec();
        if sealed.len() != n_devices * 32 + 16 {
            return Err(DecodeError::Field("sealed secrets"));
        }
        Ok(Self { key_id, devices, iv, sealed })
    }
}

impl AdoptedDevice {
    const LEN: usize = 12;

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { eui: reader.eui64()?, life: read_positive(reader, "life")? })
    }
}

impl EpochName {
    fn write(self, writer: Writer) -> Writer {
        writer.raw(self.eui.as_bytes()).u32(self.life).u32(self.epoch)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let eui = reader.eui64()?;
        let life = read_positive(reader, "life")?;
        Ok(Self { eui, life, epoch: read_positive(reader, "epoch")? })
    }
}

impl Announce {
    fn write(&self, writer: Writer) -> Writer {
        self.name.write(writer).u32(self.prev).raw(self.key_id.as_bytes()).bytes(&self.frame)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = EpochName::read(reader)?;
        let prev = reader.u32()?;
        if prev >= name.epoch {
            return Err(DecodeError::Field("previous epoch"));
        }
        let key_id = reader.key_id()?;
        let frame = reader.bytes()?.to_vec();
        if !(1..=MAX_KEY_FRAME).contains(&frame.len()) {
            return Err(DecodeError::Field("key frame"));
        }
        Ok(Self { name, prev, key_id, frame })
    }
}

impl FleetRecord {
    /// Writes the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Adopt(adopt) => {
                adopt.write_head(Writer::kind(ADOPT)).raw(&adopt.iv).bytes(&adopt.sealed)
            }
            Self::NackAdopt { key_id } => Writer::kind(NACK_ADOPT).raw(key_id.as_bytes()),
            Self::Announce(announce) => announce.write(Writer::kind(ANNOUNCE)),
            Self::Prepared(name) => name.write(Writer::kind(PREPARED)),
            Self::Nack(name) => name.write(Writer::kind(NACK)),
            Self::Drop(name) => name.write(Writer::kind(DROP)),
            Self::Confirmed(name) => name.write(Writer::kind(CONFIRMED)),
            Self::Retire(device) => {
                Writer::kind(RETIRE).raw(device.eui.as_bytes()).u32(device.life)
            }
        }
        .finish()
    }

    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let record = match reader.u8()? {
            ADOPT => Self::Adopt(Adopt::read(&mut reader)?),
            NACK_ADOPT => Self::NackAdopt { key_id: reader.key_id()? },
            ANNOUNCE => Self::Announce(Announce::read(&mut reader)?),
            PREPARED => Self::Prepared(EpochName::read(&mut reader)?),
            NACK => Self::Nack(EpochName::read(&mut reader)?),
            DROP => Self::Drop(EpochName::read(&mut reader)?),
            CONFIRMED => Self::Confirmed(EpochName::read(&mut reader)?),
            RETIRE => Self::Retire(AdoptedDevice::read(&mut reader)?),
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(record)
    }
}

fn read_positive(reader: &mut Reader<'_>, field: &'static str) -> Result<u32, DecodeError> {
    match reader.u32()? {
        0 => Err(DecodeError::Field(field)),
        n => Ok(n),
    }
}

const ADOPT: u8 = 1;
const NACK_ADOPT: u8 = 2;
const ANNOUNCE: u8 = 3;
const PREPARED: u8 = 4;
const NACK: u8 = 5;
const DROP: u8 = 6;
const CONFIRMED: u8 = 7;
const RETIRE: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5E, 0xFF, 0xFE, 0x10, 0, 1]);

    #[test]
    fn a_confirmation_has_seventeen_bytes() {
        let name = EpochName { eui: EUI, life: 1, epoch: 258 };
        let golden = [7, 2, 0, 0x5E, 0xFF, 0xFE, 0x10, 0, 1, 0, 0, 0, 1, 0, 0, 1, 2];
        assert_eq!(FleetRecord::Confirmed(name).encode(), golden);
        assert_eq!(FleetRecord::decode(&golden), Ok(FleetRecord::Confirmed(name)));
    }

    #[test]
    fn impossible_fields_are_refused() {
        let name = EpochName { eui: EUI, life: 1, epoch: 0 };
        let of = |record: FleetRecord| FleetRecord::decode(&record.encode());
        assert_eq!(of(FleetRecord::Nack(name)), Err(DecodeError::Field("epoch")));
        let name = EpochName { life: 0, epoch: 1, ..name };
        assert_eq!(of(FleetRecord::Drop(name)), Err(DecodeError::Field("life")));
        let name = EpochName { life: 1, ..name };
        let key_id = KeyId::from_bytes([9; 16]);
        let announce = Announce { name, prev: 1, key_id, frame: vec![1] };
        let refused = of(FleetRecord::Announce(announce.clone()));
        assert_eq!(refused, Err(DecodeError::Field("previous epoch")));
        let refused = of(FleetRecord::Announce(Announce { prev: 0, frame: vec![], ..announce }));
        assert_eq!(refused, Err(DecodeError::Field("key frame")));
        let devices = vec![AdoptedDevice { eui: EUI, life: 1 }];
        let adopt = Adopt { key_id, devices, iv: [0; 12], sealed: vec![0; 47] };
        let refused = of(FleetRecord::Adopt(adopt.clone()));
        assert_eq!(refused, Err(DecodeError::Field("sealed secrets")));
        let refused = of(FleetRecord::Adopt(Adopt { devices: vec![], ..adopt }));
        assert_eq!(refused, Err(DecodeError::Field("adopted devices")));
        assert_eq!(FleetRecord::decode(&[99]), Err(DecodeError::Kind(99)));
    }

    fn names() -> impl Strategy<Value = EpochName> {
        (any::<[u8; 8]>(), 1u32.., 1u32..).prop_map(|(eui, life, epoch)| EpochName {
            eui: Eui64::from_bytes(eui),
            life,
            epoch,
        })
    }

    fn records() -> impl Strategy<Value = FleetRecord> {
        let key_ids = || any::<[u8; 16]>().prop_map(KeyId::from_bytes);
        let adopts = (key_ids(), prop::collection::vec(names(), 1..20), any::<[u8; 12]>())
            .prop_map(|(key_id, names, iv)| {
                let devices: Vec<AdoptedDevice> =
                    names.iter().map(|n| AdoptedDevice { eui: n.eui, life: n.life }).collect();
                let sealed = vec![0xA5; devices.len() * 32 + 16];
                FleetRecord::Adopt(Adopt { key_id, devices, iv, sealed })
            });
        let announces = (names(), key_ids(), prop::collection::vec(any::<u8>(), 1..99)).prop_map(
            |(name, key_id, frame)| {
                let prev = name.epoch - 1;
                FleetRecord::Announce(Announce { name, prev, key_id, frame })
            },
        );
        prop_oneof![
            adopts,
            announces,
            key_ids().prop_map(|key_id| FleetRecord::NackAdopt { key_id }),
            names().prop_map(FleetRecord::Prepared),
            names().prop_map(FleetRecord::Nack),
            names().prop_map(FleetRecord::Drop),
            names().prop_map(FleetRecord::Confirmed),
        ]
    }

    proptest! {
        #[test]
        fn a_record_survives_its_bytes(record in records()) {
            prop_assert_eq!(FleetRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, kind in 0u8..9) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            if let Ok(record) = FleetRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }
    }
}
