//! Records between gateway and platform: the bodies that their peer stream carries (PROTOCOL.md P3).
//!
//! A device that is bootstrapped again starts a new *life*: its epochs count from zero once more,
//! and a record that was under way for an earlier life names that life, so nobody mistakes it.

use claviger_units::{Eui64, KeyId};

use crate::cursor::{DecodeError, Reader, Writer};

/// The most devices that one ADOPT may hold (PROTOCOL.md P3a.2).
pub const MAX_ADOPTED: usize = 1000;

/// The most keys of a pad: a year of one every half hour.
pub const MAX_PAD: u32 = 366 * 48;

/// The most keys of a pad that are drawn together.
pub const MAX_PAD_BATCH: usize = 128;

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
    /// Platform → gateway: draw a pad for the device (ours).
    PadOrder(PadOrder),
    /// Gateway → platform: these keys of the pad are drawn, hold them too (ours).
    PadDrawn(PadDrawn),
    /// Platform → gateway: so many keys of the pad, from its beginning, are held (ours).
    PadHeld(PadMark),
    /// Gateway → platform: the device is docked, its pad serves from this epoch on (ours).
    PadDock(PadDock),
    /// Platform → gateway: the pad can be followed, give it to the device (ours).
    PadDocked(PadDock),
    /// Platform → gateway: the pad is not known here, or cannot be followed: forget it (ours).
    PadUnknown(PadName),
    /// Gateway → platform: the device went without its pad, which nobody has seen: forget the docking (ours).
    PadUndock(PadName),
    /// Gateway → platform: the device has come to this epoch by its pad (ours).
    PadReached(EpochName),
}

/// The order of a pad: keys that a device is given by cable, for many epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadOrder {
    /// The device and its life.
    pub device: AdoptedDevice,
    /// How many pads the device has had in this life, with this one; from 1.
    pub pad: u32,
    /// How many keys it gets.
    pub n_keys: u32,
}

/// Keys of a pad that were drawn together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadDrawn {
    /// The pad.
    pub pad: PadName,
    /// The place of the first of them in the pad.
    pub from: u32,
    /// Their ids, which the platform fetches from its own KME.
    pub key_ids: Vec<KeyId>,
}

/// A pad of a life of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadName {
    /// The device and its life.
    pub device: AdoptedDevice,
    /// Which pad of this life, from 1.
    pub pad: u32,
}

/// How much of a pad the platform holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadMark {
    /// The pad.
    pub pad: PadName,
    /// The keys below this place are held; whatever was drawn above it is lost.
    pub n_held: u32,
}

/// From which epoch on a pad serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadDock {
    /// The pad.
    pub pad: PadName,
    /// The epoch of the device when it is docked.
    pub prev: u32,
    /// The epoch that the first key of the pad leads to; the next ones follow one by one.
    pub first: u32,
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

impl PadName {
    fn write(self, writer: Writer) -> Writer {
        writer.raw(self.device.eui.as_bytes()).u32(self.device.life).u32(self.pad)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let device = AdoptedDevice::read(reader)?;
        Ok(Self { device, pad: read_positive(reader, "number of the pad")? })
    }
}

impl PadDrawn {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pad = PadName::read(reader)?;
        let from = reader.u32()?;
        let n_keys = reader.count(16)?;
        if !(1..=MAX_PAD_BATCH).contains(&n_keys) {
            return Err(DecodeError::Field("keys of a pad"));
        }
        let key_ids = (0..n_keys).map(|_| reader.key_id()).collect::<Result<_, _>>()?;
        Ok(Self { pad, from, key_ids })
    }
}

impl PadDock {
    fn write(self, writer: Writer) -> Writer {
        self.pad.write(writer).u32(self.prev).u32(self.first)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pad = PadName::read(reader)?;
        let (prev, first) = (reader.u32()?, reader.u32()?);
        if prev >= first {
            return Err(DecodeError::Field("previous epoch"));
        }
        Ok(Self { pad, prev, first })
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
            Self::PadOrder(PadOrder { device, pad, n_keys }) => {
                PadName { device: *device, pad: *pad }.write(Writer::kind(PAD_ORDER)).u32(*n_keys)
            }
            Self::PadDrawn(PadDrawn { pad, from, key_ids }) => {
                let head = pad.write(Writer::kind(PAD_DRAWN)).u32(*from).count(key_ids.len());
                key_ids.iter().fold(head, |writer, id| writer.raw(id.as_bytes()))
            }
            Self::PadHeld(PadMark { pad, n_held }) => {
                pad.write(Writer::kind(PAD_HELD)).u32(*n_held)
            }
            Self::PadDock(dock) => dock.write(Writer::kind(PAD_DOCK)),
            Self::PadDocked(dock) => dock.write(Writer::kind(PAD_DOCKED)),
            Self::PadUnknown(pad) => pad.write(Writer::kind(PAD_UNKNOWN)),
            Self::PadUndock(pad) => pad.write(Writer::kind(PAD_UNDOCK)),
            Self::PadReached(name) => name.write(Writer::kind(PAD_REACHED)),
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
            PAD_ORDER => {
                let PadName { device, pad } = PadName::read(&mut reader)?;
                let n_keys = read_positive(&mut reader, "keys of a pad")?;
                if n_keys > MAX_PAD {
                    return Err(DecodeError::Field("keys of a pad"));
                }
                Self::PadOrder(PadOrder { device, pad, n_keys })
            }
            PAD_DRAWN => Self::PadDrawn(PadDrawn::read(&mut reader)?),
            PAD_HELD => {
                Self::PadHeld(PadMark { pad: PadName::read(&mut reader)?, n_held: reader.u32()? })
            }
            PAD_DOCK => Self::PadDock(PadDock::read(&mut reader)?),
            PAD_DOCKED => Self::PadDocked(PadDock::read(&mut reader)?),
            PAD_UNKNOWN => Self::PadUnknown(PadName::read(&mut reader)?),
            PAD_UNDOCK => Self::PadUndock(PadName::read(&mut reader)?),
            PAD_REACHED => Self::PadReached(EpochName::read(&mut reader)?),
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
const PAD_ORDER: u8 = 9;
const PAD_DRAWN: u8 = 10;
const PAD_HELD: u8 = 11;
const PAD_DOCK: u8 = 12;
const PAD_DOCKED: u8 = 13;
const PAD_UNKNOWN: u8 = 14;
const PAD_UNDOCK: u8 = 15;
const PAD_REACHED: u8 = 16;

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
        let pad = PadName { device: AdoptedDevice { eui: EUI, life: 1 }, pad: 1 };
        let dock = PadDock { pad, prev: 3, first: 3 };
        assert_eq!(of(FleetRecord::PadDock(dock)), Err(DecodeError::Field("previous epoch")));
        let order = PadOrder { device: pad.device, pad: 1, n_keys: MAX_PAD + 1 };
        assert_eq!(of(FleetRecord::PadOrder(order)), Err(DecodeError::Field("keys of a pad")));
        let drawn = PadDrawn { pad, from: 0, key_ids: vec![] };
        assert_eq!(of(FleetRecord::PadDrawn(drawn)), Err(DecodeError::Field("keys of a pad")));
        let zeroth = PadName { pad: 0, ..pad };
        let mark = FleetRecord::PadHeld(PadMark { pad: zeroth, n_held: 1 });
        assert_eq!(of(mark), Err(DecodeError::Field("number of the pad")));
        assert_eq!(FleetRecord::decode(&[99]), Err(DecodeError::Kind(99)));
    }

    fn names() -> impl Strategy<Value = EpochName> {
        (any::<[u8; 8]>(), 1u32.., 1u32..).prop_map(|(eui, life, epoch)| EpochName {
            eui: Eui64::from_bytes(eui),
            life,
            epoch,
        })
    }

    fn pads() -> impl Strategy<Value = PadName> {
        (names(), 1u32..).prop_map(|(name, pad)| {
            let device = AdoptedDevice { eui: name.eui, life: name.life };
            PadName { device, pad }
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
            (pads(), 1..=MAX_PAD).prop_map(|(PadName { device, pad }, n_keys)| {
                FleetRecord::PadOrder(PadOrder { device, pad, n_keys })
            }),
            (pads(), any::<u32>(), prop::collection::vec(key_ids(), 1..20)).prop_map(
                |(pad, from, key_ids)| FleetRecord::PadDrawn(PadDrawn { pad, from, key_ids })
            ),
            (pads(), any::<u32>())
                .prop_map(|(pad, n_held)| FleetRecord::PadHeld(PadMark { pad, n_held })),
            (pads(), 1u32..).prop_map(|(pad, first)| {
                FleetRecord::PadDock(PadDock { pad, prev: first - 1, first })
            }),
            (pads(), 1u32..).prop_map(|(pad, first)| {
                FleetRecord::PadDocked(PadDock { pad, prev: first - 1, first })
            }),
            pads().prop_map(FleetRecord::PadUnknown),
            pads().prop_map(FleetRecord::PadUndock),
            names().prop_map(FleetRecord::PadReached),
        ]
    }

    proptest! {
        #[test]
        fn a_record_survives_its_bytes(record in records()) {
            prop_assert_eq!(FleetRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, kind in 0u8..17) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            if let Ok(record) = FleetRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }
    }
}
