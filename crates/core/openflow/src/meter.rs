//! Meters: how fast packets of an entry may come.

use bytes::{Buf as _, BufMut as _};

use crate::action::read_list;
use crate::error::DecodeError;
use crate::matching::set_length;
use crate::port::array;

/// What is to be done with a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum MeterCommand {
    /// A new one.
    Add = 0,
    /// New bands.
    Modify,
    /// It goes, with the entries that use it.
    Delete,
}

impl MeterCommand {
    const ALL: [Self; 3] = [Self::Add, Self::Modify, Self::Delete];
}

/// What a meter does above a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Band {
    /// Drops what is above.
    Drop {
        /// In kbit/s, or packets a second.
        rate: u32,
        /// How much may come at once, in kbit or packets.
        burst: u32,
    },
    /// Anything else: its type, and its bytes behind the length.
    Other(u16, Vec<u8>),
}

impl Band {
    fn read(kind: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body;
        Ok(match kind {
            1 => Self::Drop { rate: r.try_get_u32()?, burst: r.try_get_u32()? },
            _ => Self::Other(kind, body.to_vec()),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Drop { rate, burst } => {
                out.put_u16(1);
                out.put_u16(0);
                out.put_u32(*rate);
                out.put_u32(*burst);
                out.put_u32(0);
            }
            Self::Other(kind, bytes) => {
                out.put_u16(*kind);
                out.put_u16(0);
                out.put_slice(bytes);
            }
        }
        let length = out.len() - start;
        set_length(out, start + 2, length);
    }
}

/// A change of a meter (`OFPT_METER_MOD`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterMod {
    /// What is to be done.
    pub command: MeterCommand,
    /// `OFPMF_*`: bit 0 kbit/s, bit 1 packets a second, bit 2 bursts, bit 3 counts.
    pub flags: u16,
    /// The meter's number, from 1.
    pub meter: u32,
    /// What it does, each above its rate.
    pub bands: Vec<Band>,
}

impl MeterMod {
    /// Rates are packets a second, bursts packets.
    pub const IN_PACKETS: u16 = 0b110;

    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let command = r.try_get_u16()?;
        let unknown = DecodeError::Value { what: "meter command", value: command.into() };
        let command = *MeterCommand::ALL.get(usize::from(command)).ok_or(unknown)?;
        let (flags, meter) = (r.try_get_u16()?, r.try_get_u32()?);
        Ok(Self { command, flags, meter, bands: read_list(r, "a meter band", Band::read)? })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u16(self.command as u16);
        out.put_u16(self.flags);
        out.put_u32(self.meter);
        self.bands.iter().for_each(|band| band.write(out));
    }
}

/// What a meter has counted (`OFPMP_METER`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterStats {
    /// The meter's number.
    pub meter: u32,
    /// Entries that use it.
    pub flows: u32,
    /// Packets and bytes that came.
    pub came: [u64; 2],
    /// How long it lives: seconds and nanoseconds.
    pub duration: (u32, u32),
    /// Packets and bytes that met each band.
    pub bands: Vec<[u64; 2]>,
}

impl MeterStats {
    pub(crate) fn read(r: &mut &[u8]) -> Result<Self, DecodeError> {
        let meter = r.try_get_u32()?;
        let length = usize::from(r.try_get_u16()?);
        let wrong = DecodeError::Length { what: "a meter's counters", length };
        let (mut entry, rest) =
            r.split_at_checked(length.checked_sub(6).ok_or(wrong)?).ok_or(wrong)?;
        *r = rest;
        let r = &mut entry;
        let _padding: [u8; 6] = array(r)?;
        let flows = r.try_get_u32()?;
        let came = [r.try_get_u64()?, r.try_get_u64()?];
        let duration = (r.try_get_u32()?, r.try_get_u32()?);
        let mut bands = Vec::new();
        while !r.is_empty() {
            bands.push([r.try_get_u64()?, r.try_get_u64()?]);
        }
        Ok(Self { meter, flows, came, duration, bands })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u32(self.meter);
        out.put_u16(0);
        out.put_bytes(0, 6);
        out.put_u32(self.flows);
        self.came.iter().for_each(|&number| out.put_u64(number));
        out.put_u32(self.duration.0);
        out.put_u32(self.duration.1);
        self.bands.iter().flatten().for_each(|&number| out.put_u64(number));
        let length = out.len() - start;
        set_length(out, start + 4, length);
    }
}
