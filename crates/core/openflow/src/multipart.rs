//! Questions whose answers may take several messages.

use bytes::{Buf as _, BufMut as _};

use crate::error::DecodeError;
use crate::flow::{FlowFilter, FlowStats};
use crate::meter::MeterStats;
use crate::port::{Port, PortNumber, PortStats, array, get_text, put_text};

/// A question (`OFPT_MULTIPART_REQUEST`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MultipartRequest {
    /// Who made the switch.
    Description,
    /// The entries that the filter lets through.
    Flows(FlowFilter),
    /// The tables' counters.
    Tables,
    /// A port's counters; of all for [`PortNumber::ANY`].
    PortStats(PortNumber),
    /// A meter's counters; of all for `u32::MAX`.
    Meters(u32),
    /// The ports.
    Ports,
    /// Anything else: its type and its body.
    Other(u16, Vec<u8>),
}

/// An answer, or a part of one (`OFPT_MULTIPART_REPLY`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MultipartReply {
    /// Who made the switch.
    Description(Description),
    /// Entries.
    Flows(Vec<FlowStats>),
    /// Counters of tables.
    Tables(Vec<TableStats>),
    /// Counters of ports.
    PortStats(Vec<PortStats>),
    /// Counters of meters.
    Meters(Vec<MeterStats>),
    /// Ports.
    Ports(Vec<Port>),
    /// Anything else: its type and its body.
    Other(u16, Vec<u8>),
}

const DESCRIPTION: u16 = 0;
const FLOWS: u16 = 1;
const TABLES: u16 = 3;
const PORT_STATS: u16 = 4;
const METERS: u16 = 9;
const PORTS: u16 = 13;

impl MultipartRequest {
    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let kind = r.try_get_u16()?;
        let _flags_and_padding: [u8; 6] = array(&mut r)?;
        Ok(match kind {
            DESCRIPTION => Self::Description,
            FLOWS => Self::Flows(FlowFilter::read(r)?),
            TABLES => Self::Tables,
            PORT_STATS => Self::PortStats(PortNumber(r.try_get_u32()?)),
            METERS => Self::Meters(r.try_get_u32()?),
            PORTS => Self::Ports,
            _ => Self::Other(kind, r.to_vec()),
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u16(match self {
            Self::Description => DESCRIPTION,
            Self::Flows(_) => FLOWS,
            Self::Tables => TABLES,
            Self::PortStats(_) => PORT_STATS,
            Self::Meters(_) => METERS,
            Self::Ports => PORTS,
            Self::Other(kind, _) => *kind,
        });
        out.put_bytes(0, 6);
        match self {
            Self::Description | Self::Tables | Self::Ports => {}
            Self::Flows(filter) => filter.write(out),
            Self::PortStats(PortNumber(number)) | Self::Meters(number) => {
                out.put_u32(*number);
                out.put_u32(0);
            }
            Self::Other(_, body) => out.put_slice(body),
        }
    }
}

impl MultipartReply {
    /// Reads a part; `true` where more follow.
    pub(crate) fn read(mut r: &[u8]) -> Result<(Self, bool), DecodeError> {
        let (kind, flags) = (r.try_get_u16()?, r.try_get_u16()?);
        r.try_get_u32()?;
        let reply = match kind {
            DESCRIPTION => Self::Description(Description::read(r)?),
            FLOWS => Self::Flows(read_all(r, FlowStats::read)?),
            TABLES => Self::Tables(read_all(r, TableStats::read)?),
            PORT_STATS => Self::PortStats(read_all(r, PortStats::read)?),
            METERS => Self::Meters(read_all(r, MeterStats::read)?),
            PORTS => Self::Ports(read_all(r, Port::read)?),
            _ => Self::Other(kind, r.to_vec()),
        };
        Ok((reply, flags & 1 == 1))
    }

    pub(crate) fn write(&self, more: bool, out: &mut Vec<u8>) {
        out.put_u16(match self {
            Self::Description(_) => DESCRIPTION,
            Self::Flows(_) => FLOWS,
            Self::Tables(_) => TABLES,
            Self::PortStats(_) => PORT_STATS,
            Self::Meters(_) => METERS,
            Self::Ports(_) => PORTS,
            Self::Other(kind, _) => *kind,
        });
        out.put_u16(more.into());
        out.put_u32(0);
        match self {
            Self::Description(description) => description.write(out),
            Self::Flows(all) => all.iter().for_each(|flow| flow.write(out)),
            Self::Tables(all) => all.iter().for_each(|table| table.write(out)),
            Self::PortStats(all) => all.iter().for_each(|port| port.write(out)),
            Self::Meters(all) => all.iter().for_each(|meter| meter.write(out)),
            Self::Ports(all) => all.iter().for_each(|port| port.write(out)),
            Self::Other(_, body) => out.put_slice(body),
        }
    }
}

fn read_all<T>(
    mut r: &[u8],
    read: impl Fn(&mut &[u8]) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut all = Vec::new();
    while !r.is_empty() {
        all.push(read(&mut r)?);
    }
    Ok(all)
}

/// Who made a switch (`OFPMP_DESC`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Manufacturer, 255 bytes at most.
    pub manufacturer: String,
    /// Hardware, 255 bytes at most.
    pub hardware: String,
    /// Software, 255 bytes at most.
    pub software: String,
    /// Serial number, 31 bytes at most.
    pub serial: String,
    /// What its operator calls this datapath, 255 bytes at most.
    pub datapath: String,
}

impl Description {
    fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut r;
        Ok(Self {
            manufacturer: get_text::<256>(r)?,
            hardware: get_text::<256>(r)?,
            software: get_text::<256>(r)?,
            serial: get_text::<32>(r)?,
            datapath: get_text::<256>(r)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (text, length) in [
            (&self.manufacturer, 256),
            (&self.hardware, 256),
            (&self.software, 256),
            (&self.serial, 32),
            (&self.datapath, 256),
        ] {
            put_text(out, text, length);
        }
    }
}

/// What a table has counted (`OFPMP_TABLE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStats {
    /// The table.
    pub table: u8,
    /// Its entries.
    pub active: u32,
    /// Packets that it looked at.
    pub looked_up: u64,
    /// Packets that matched.
    pub matched: u64,
}

impl TableStats {
    fn read(r: &mut &[u8]) -> Result<Self, DecodeError> {
        let table = r.try_get_u8()?;
        let _padding: [u8; 3] = array(r)?;
        let active = r.try_get_u32()?;
        Ok(Self { table, active, looked_up: r.try_get_u64()?, matched: r.try_get_u64()? })
    }

    fn write(self, out: &mut Vec<u8>) {
        out.put_u8(self.table);
        out.put_bytes(0, 3);
        out.put_u32(self.active);
        out.put_u64(self.looked_up);
        out.put_u64(self.matched);
    }
}
