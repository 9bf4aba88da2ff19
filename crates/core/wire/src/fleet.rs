//! Records between gateway and platform: the bodies that their peer stream carries (PROTOCOL.md P3).
//!
//! A device that is bootstrapped again starts a new *life*: its epochs count from zero once more,
//! and a record that was under way for an earlier life names that life, so nobody mistakes it.

use claviger_units::{Eui64, KeyId};

use crate::cursor::{DecodeError, Reader, Writer};

/// The most devices that one ADOPT or GIVE BACK may hold (PROTOCOL.md P3a.2).
pub const MAX_ADOPTED: usize = 1000;

/// The most bytes of an ADOPT or GIVE BACK: a year's pad of one device fits, and a frame of the link holds it.
pub const MAX_ADOPT: usize = 1_000_000;

/// The most keys of a pad: a year of one every half hour.
pub const MAX_PAD: u32 = 366 * 48;

/// The most keys of a pad that are drawn together.
pub const MAX_PAD_BATCH: usize = 128;

/// The most bytes of a key frame in ANNOUNCE.
pub const MAX_KEY_FRAME: usize = 4096;

/// A record body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetRecord {
    /// Platform → gateway: serve these devices, from where they stand (P3a.2).
    Adopt(Adopt),
    /// The answer to ADOPT or GIVE BACK: W is not to be had, take another one (P3a.3).
    NackAdopt {
        /// The id of W.
        key_id: KeyId,
    },
    /// The answer to ADOPT or GIVE BACK: the devices are held here (ours).
    Adopted {
        /// The id of W.
        key_id: KeyId,
    },
    /// Gateway → platform: hold these devices again, which you have forgotten (P3a).
    GiveBack(Adopt),
    /// Gateway → platform: everything that was forgotten is given back (ours).
    GivenBack,
    /// Gateway → platform: this life of the device is over here, as you once said (ours).
    Over(AdoptedDevice),
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

/// The hint that the gateway gives at the beginning of each session: telemetry frames that the platform has
/// acknowledged last. One that it can open and has not read shows that its store is an old copy (ours).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnesses(pub Vec<(Eui64, Vec<u8>)>);

/// The most frames of [`Witnesses`].
pub const MAX_WITNESSES: usize = 8;

impl Witnesses {
    /// Writes the hint.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = Writer::kind(WITNESSES).count(self.0.len());
        let write = |writer: Writer, (eui, frame): &(Eui64, Vec<u8>)| {
            writer.raw(eui.as_bytes()).bytes(frame)
        };
        self.0.iter().fold(head, write).finish()
    }

    /// Reads a hint.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            WITNESSES => {}
            kind => return Err(DecodeError::Kind(kind)),
        }
        let n_frames = reader.count(8 + 4)?;
        if n_frames > MAX_WITNESSES {
            return Err(DecodeError::Field("witnesses"));
        }
        let read = |reader: &mut Reader<'_>| Ok((reader.eui64()?, reader.bytes()?.to_vec()));
        let frames = (0..n_frames).map(|_| read(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self(frames))
    }
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

/// Devices handed to the other site from where they stand, their secrets sealed under a key W.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The id of W, which the other site fetches from its own KME.
    pub key_id: KeyId,
    /// The devices, in the order of their secrets.
    pub seeds: Vec<Seed>,
    /// The nonce of the seal.
    pub iv: [u8; 12],
    /// For each device the secret of its epoch, that of the prepared one, and the keys left of its pad, 32 bytes
    /// each, sealed with AES-256-GCM, and its tag.
    pub sealed: Vec<u8>,
}

/// Where a device stands; its secrets are apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The device and its life.
    pub device: AdoptedDevice,
    /// The epoch that it is known to hold, or to have held last.
    pub current: u32,
    /// Where the key of that epoch comes from: 0 for the label or unknown, 1 a simulated link, 2 a link.
    pub origin: u8,
    /// The epoch that it may have stepped to.
    pub next: Option<SeedNext>,
    /// The highest epoch number ever used in this life.
    pub highest: u32,
    /// The device root, sealed to the platform's recovery key: unreadable at the gateway.
    pub root: [u8; SEALED_ROOT],
    /// The newest telemetry that the platform has acknowledged, as the gateway knows: epoch and counter.
    pub forwarded: Option<(u32, u32)>,
    /// What is left of the pad that the device was docked with.
    pub pad: Option<SeedPad>,
}

/// A prepared epoch of a device that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedNext {
    /// The epoch.
    pub epoch: u32,
    /// Where its key comes from.
    pub origin: u8,
    /// The key's id.
    pub key_id: KeyId,
    /// The finished key frame; empty where a pad leads there.
    pub frame: Vec<u8>,
}

/// The rest of a pad of a device that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedPad {
    /// Which pad of this life, from 1.
    pub pad: u32,
    /// How many keys it had.
    pub n_keys: u32,
    /// The epoch of the device when it was docked.
    pub prev: u32,
    /// The epoch that the first key of the pad leads to.
    pub first: u32,
    /// For each key that is left, up to the last: its id, and where it comes from.
    pub keys: Vec<(KeyId, u8)>,
}

/// The bytes of a sealed device root: nonce, root, tag.
pub const SEALED_ROOT: usize = 12 + 32 + 16;

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
        let head = writer.raw(self.key_id.as_bytes()).count(self.seeds.len());
        self.seeds.iter().fold(head, |writer, seed| seed.write(writer))
    }

    fn write(&self, writer: Writer) -> Writer {
        self.write_head(writer).raw(&self.iv).bytes(&self.sealed)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let key_id = reader.key_id()?;
        let n_seeds = reader.count(Seed::LEAST)?;
        if !(1..=MAX_ADOPTED).contains(&n_seeds) {
            return Err(DecodeError::Field("adopted devices"));
        }
        let seeds: Vec<Seed> =
            (0..n_seeds).map(|_| Seed::read(reader)).collect::<Result<_, _>>()?;
        let iv = reader.array()?;
        let sealed = reader.bytes()?.to_vec();
        let n_secrets: usize = seeds.iter().map(Seed::n_secrets).sum();
        if sealed.len() != n_secrets * 32 + 16 {
            return Err(DecodeError::Field("sealed secrets"));
        }
        Ok(Self { key_id, seeds, iv, sealed })
    }
}

impl Seed {
    /// The fewest bytes of one.
    const LEAST: usize = AdoptedDevice::LEN + 4 + 1 + 1 + 4 + SEALED_ROOT + 1 + 1;

    /// Returns how many secrets belong to it.
    #[must_use]
    pub fn n_secrets(&self) -> usize {
        1 + usize::from(self.next.is_some()) + self.pad.as_ref().map_or(0, |pad| pad.keys.len())
    }

    /// Returns about how many bytes of an ADOPT it takes, with its secrets.
    #[must_use]
    pub fn weight(&self) -> usize {
        let next = self.next.as_ref().map_or(0, |next| 25 + next.frame.len());
        let pad = self.pad.as_ref().map_or(0, |pad| 20 + 17 * pad.keys.len());
        Self::LEAST + 8 + next + pad + 32 * self.n_secrets()
    }

    fn write(&self, writer: Writer) -> Writer {
        let writer = writer.raw(self.device.eui.as_bytes()).u32(self.device.life);
        let writer = writer.u32(self.current).u8(self.origin).u32(self.highest).raw(&self.root);
        let writer = match &self.next {
            None => writer.u8(0),
            Some(SeedNext { epoch, origin, key_id, frame }) => {
                writer.u8(1).u32(*epoch).u8(*origin).raw(key_id.as_bytes()).bytes(frame)
            }
        };
        let writer = match self.forwarded {
            None => writer.u8(0),
            Some((epoch, counter)) => writer.u8(1).u32(epoch).u32(counter),
        };
        match &self.pad {
            None => writer.u8(0),
            Some(SeedPad { pad, n_keys, prev, first, keys }) => {
                let writer = writer.u8(1).u32(*pad).u32(*n_keys).u32(*prev).u32(*first);
                let writer = writer.count(keys.len());
                keys.iter()
                    .fold(writer, |writer, (id, origin)| writer.raw(id.as_bytes()).u8(*origin))
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let device = AdoptedDevice::read(reader)?;
        let (current, origin, highest) = (reader.u32()?, read_origin(reader)?, reader.u32()?);
        let root = reader.array()?;
        let next = read_flag(reader)?.then(|| SeedNext::read(reader)).transpose()?;
        let heard = |reader: &mut Reader<'_>| Ok((reader.u32()?, reader.u32()?));
        let forwarded = read_flag(reader)?.then(|| heard(reader)).transpose()?;
        let pad = read_flag(reader)?.then(|| SeedPad::read(reader)).transpose()?;
        let last = next.as_ref().map_or(current, |next| next.epoch);
        if next.as_ref().is_some_and(|next| next.epoch <= current) || highest < last {
            return Err(DecodeError::Field("epochs of an adopted device"));
        }
        Ok(Self { device, current, origin, next, highest, root, forwarded, pad })
    }
}

impl SeedNext {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (epoch, origin, key_id) = (reader.u32()?, read_origin(reader)?, reader.key_id()?);
        let frame = reader.bytes()?.to_vec();
        if frame.len() > MAX_KEY_FRAME {
            return Err(DecodeError::Field("key frame"));
        }
        Ok(Self { epoch, origin, key_id, frame })
    }
}

impl SeedPad {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pad = read_positive(reader, "number of the pad")?;
        let n_keys = read_positive(reader, "keys of a pad")?;
        let (prev, first) = (reader.u32()?, reader.u32()?);
        let n_left = reader.count(17)?;
        let is_last_known = first.checked_add(n_keys).is_some();
        if n_keys > MAX_PAD || u32::try_from(n_left).is_ok_and(|n| n > n_keys) {
            return Err(DecodeError::Field("keys of a pad"));
        }
        if prev >= first || !is_last_known {
            return Err(DecodeError::Field("previous epoch"));
        }
        let key = |reader: &mut Reader<'_>| match (reader.key_id()?, read_origin(reader)?) {
            (_, 0) => Err(DecodeError::Field("origin")),
            key => Ok(key),
        };
        let keys = (0..n_left).map(|_| key(reader)).collect::<Result<_, _>>()?;
        Ok(Self { pad, n_keys, prev, first, keys })
    }
}

fn read_origin(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    match reader.u8()? {
        origin @ 0..=2 => Ok(origin),
        _ => Err(DecodeError::Field("origin")),
    }
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Field("flag")),
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
            Self::Adopt(adopt) => adopt.write(Writer::kind(ADOPT)),
            Self::GiveBack(adopt) => adopt.write(Writer::kind(GIVE_BACK)),
            Self::Adopted { key_id } => Writer::kind(ADOPTED).raw(key_id.as_bytes()),
            Self::GivenBack => Writer::kind(GIVEN_BACK),
            Self::Over(device) => Writer::kind(OVER).raw(device.eui.as_bytes()).u32(device.life),
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
            GIVE_BACK => Self::GiveBack(Adopt::read(&mut reader)?),
            ADOPTED => Self::Adopted { key_id: reader.key_id()? },
            GIVEN_BACK => Self::GivenBack,
            OVER => Self::Over(AdoptedDevice::read(&mut reader)?),
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

const WITNESSES: u8 = 1;

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
const ADOPTED: u8 = 17;
const GIVE_BACK: u8 = 18;
const GIVEN_BACK: u8 = 19;
const OVER: u8 = 20;

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
        let adopt = Adopt { key_id, seeds: vec![seed()], iv: [0; 12], sealed: vec![0; 47] };
        let refused = of(FleetRecord::Adopt(adopt.clone()));
        assert_eq!(refused, Err(DecodeError::Field("sealed secrets")));
        let refused = of(FleetRecord::Adopt(Adopt { seeds: vec![], ..adopt.clone() }));
        assert_eq!(refused, Err(DecodeError::Field("adopted devices")));
        let next = SeedNext { epoch: 4, origin: 1, key_id, frame: vec![7] };
        let refused = of(FleetRecord::GiveBack(Adopt {
            seeds: vec![Seed { next: Some(next), ..seed() }],
            ..adopt.clone()
        }));
        assert_eq!(refused, Err(DecodeError::Field("epochs of an adopted device")));
        let refused = of(FleetRecord::GiveBack(Adopt {
            seeds: vec![Seed { highest: 3, ..seed() }],
            ..adopt
        }));
        assert_eq!(refused, Err(DecodeError::Field("epochs of an adopted device")));
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

    fn seed() -> Seed {
        Seed {
            device: AdoptedDevice { eui: EUI, life: 1 },
            current: 4,
            origin: 1,
            next: None,
            highest: 9,
            root: [3; SEALED_ROOT],
            forwarded: None,
            pad: None,
        }
    }

    fn seeds() -> impl Strategy<Value = Seed> {
        let next = prop::option::of((any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..80)));
        let heard = prop::option::of((any::<u32>(), any::<u32>()));
        let keys = prop::collection::vec((any::<[u8; 16]>(), 1u8..3), 0..5);
        (names(), next, heard, prop::option::of(keys)).prop_map(|(name, next, forwarded, keys)| {
            let next = next.map(|(id, frame)| {
                let key_id = KeyId::from_bytes(id);
                SeedNext { epoch: 7, origin: 2, key_id, frame }
            });
            let pad = keys.map(|keys| {
                let keys = keys.into_iter().map(|(id, o)| (KeyId::from_bytes(id), o)).collect();
                SeedPad { pad: 2, n_keys: 9, prev: 3, first: 5, keys }
            });
            let device = AdoptedDevice { eui: name.eui, life: name.life };
            Seed { device, next, forwarded, pad, ..seed() }
        })
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
        let adopts = || {
            (key_ids(), prop::collection::vec(seeds(), 1..20), any::<[u8; 12]>()).prop_map(
                |(key_id, seeds, iv)| {
                    let n_secrets: usize = seeds.iter().map(Seed::n_secrets).sum();
                    let adopt =
                        Adopt { key_id, seeds, iv, sealed: vec![0xA5; n_secrets * 32 + 16] };
                    let weight: usize = adopt.seeds.iter().map(Seed::weight).sum();
                    assert!(FleetRecord::Adopt(adopt.clone()).encode().len() <= weight + 64);
                    adopt
                },
            )
        };
        let announces = (names(), key_ids(), prop::collection::vec(any::<u8>(), 1..99)).prop_map(
            |(name, key_id, frame)| {
                let prev = name.epoch - 1;
                FleetRecord::Announce(Announce { name, prev, key_id, frame })
            },
        );
        prop_oneof![
            adopts().prop_map(FleetRecord::Adopt),
            adopts().prop_map(FleetRecord::GiveBack),
            announces,
            key_ids().prop_map(|key_id| FleetRecord::NackAdopt { key_id }),
            key_ids().prop_map(|key_id| FleetRecord::Adopted { key_id }),
            Just(FleetRecord::GivenBack),
            pads().prop_map(|pad| FleetRecord::Over(pad.device)),
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
        fn witnesses_survive_their_bytes(
            frames in prop::collection::vec((any::<[u8; 8]>(), any::<Vec<u8>>()), 0..9),
            bytes: Vec<u8>,
        ) {
            let frames = frames.into_iter().map(|(eui, frame)| (Eui64::from_bytes(eui), frame));
            let witnesses = Witnesses(frames.collect());
            prop_assert_eq!(Witnesses::decode(&witnesses.encode()), Ok(witnesses));
            if let Ok(witnesses) = Witnesses::decode(&[&[WITNESSES], &bytes[..]].concat()) {
                prop_assert_eq!(&witnesses.encode()[1..], &bytes[..]);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, kind in 0u8..21) {
            let bytes = [&[kind], bytes.as_slice()].concat();
            if let Ok(record) = FleetRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }
    }
}
