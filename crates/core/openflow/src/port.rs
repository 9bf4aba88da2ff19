//! Ports of a switch, and what befalls them.

use core::fmt;

use bytes::{Buf as _, BufMut as _};

use crate::error::DecodeError;

/// The number of a port; those from 0xffffff00 on have a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNumber(pub u32);

impl PortNumber {
    /// Out of the port that it came from.
    pub const IN_PORT: Self = Self(0xFFFF_FFF8);
    /// Through the tables, for a packet that a controller sends.
    pub const TABLE: Self = Self(0xFFFF_FFF9);
    /// Out of all ports but that of origin, blocked ones excepted.
    pub const FLOOD: Self = Self(0xFFFF_FFFB);
    /// Out of all ports but that of origin.
    pub const ALL: Self = Self(0xFFFF_FFFC);
    /// To the controller.
    pub const CONTROLLER: Self = Self(0xFFFF_FFFD);
    /// The switch's own stack.
    pub const LOCAL: Self = Self(0xFFFF_FFFE);
    /// Any port, where a message asks for one; no port, where it sends to one.
    pub const ANY: Self = Self(0xFFFF_FFFF);

    /// Tells whether a cable may be plugged into it.
    #[must_use]
    pub const fn is_physical(self) -> bool {
        self.0 > 0 && self.0 <= 0xFFFF_FF00
    }
}

impl fmt::Display for PortNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IN_PORT => f.write_str("in_port"),
            Self::TABLE => f.write_str("table"),
            Self::FLOOD => f.write_str("flood"),
            Self::ALL => f.write_str("all"),
            Self::CONTROLLER => f.write_str("controller"),
            Self::LOCAL => f.write_str("local"),
            Self::ANY => f.write_str("any"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// A port as its switch describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: PortNumber,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its name, 15 bytes at most.
    pub name: String,
    /// `OFPPC_*`: bit 0 administratively down, bit 2 receives nothing, bit 5 forwards nothing, bit 6
    /// tells nothing to the controller.
    pub config: u32,
    /// `OFPPS_*`: bit 0 no link, bit 1 blocked, bit 2 live.
    pub state: u32,
    /// Features now, advertised, supported, and those of the peer (`OFPPF_*`).
    pub features: [u32; 4],
    /// Speed now and at most, in kbit/s.
    pub speed_kbps: [u32; 2],
}

impl Port {
    /// Tells whether packets can pass: no link and shut down are the same to them.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.config & 1 == 0 && self.state & 1 == 0
    }

    pub(crate) fn read(r: &mut &[u8]) -> Result<Self, DecodeError> {
        let number = PortNumber(r.try_get_u32()?);
        r.try_get_u32()?;
        let mac = array(r)?;
        r.try_get_u16()?;
        Ok(Self {
            number,
            mac,
            name: get_text::<16>(r)?,
            config: r.try_get_u32()?,
            state: r.try_get_u32()?,
            features: [r.try_get_u32()?, r.try_get_u32()?, r.try_get_u32()?, r.try_get_u32()?],
            speed_kbps: [r.try_get_u32()?, r.try_get_u32()?],
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.number.0);
        out.put_u32(0);
        out.put_slice(&self.mac);
        out.put_u16(0);
        put_text(out, &self.name, 16);
        for number in [self.config, self.state].iter().chain(&self.features).chain(&self.speed_kbps)
        {
            out.put_u32(*number);
        }
    }
}

/// What happened to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChange {
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// Its state or configuration changed.
    Modified,
}

/// A port that changed (`OFPT_PORT_STATUS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// What happened.
    pub change: PortChange,
    /// The port as it is now.
    pub port: Port,
}

impl PortStatus {
    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let change = match r.try_get_u8()? {
            0 => PortChange::Added,
            1 => PortChange::Deleted,
            2 => PortChange::Modified,
            other => {
                return Err(DecodeError::Value { what: "change of a port", value: other.into() });
            }
        };
        let _padding: [u8; 7] = array(&mut r)?;
        Ok(Self { change, port: Port::read(&mut r)? })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(match self.change {
            PortChange::Added => 0,
            PortChange::Deleted => 1,
            PortChange::Modified => 2,
        });
        out.put_bytes(0, 7);
        self.port.write(out);
    }
}

/// What has passed through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortStats {
    /// The port.
    pub port: PortNumber,
    /// Packets received and sent.
    pub packets: [u64; 2],
    /// Bytes received and sent.
    pub bytes: [u64; 2],
    /// Packets dropped on receiving and on sending.
    pub dropped: [u64; 2],
    /// Errors on receiving and on sending, frame, overrun, CRC errors, and collisions.
    pub errors: [u64; 6],
    /// Since when it lives: seconds and nanoseconds.
    pub duration: (u32, u32),
}

impl PortStats {
    pub(crate) fn read(r: &mut &[u8]) -> Result<Self, DecodeError> {
        let port = PortNumber(r.try_get_u32()?);
        r.try_get_u32()?;
        let mut pair = || Ok::<_, DecodeError>([r.try_get_u64()?, r.try_get_u64()?]);
        let (packets, bytes, dropped) = (pair()?, pair()?, pair()?);
        let [[a, b], [c, d], [e, f]] = [pair()?, pair()?, pair()?];
        let errors = [a, b, c, d, e, f];
        let duration = (r.try_get_u32()?, r.try_get_u32()?);
        Ok(Self { port, packets, bytes, dropped, errors, duration })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.port.0);
        out.put_u32(0);
        let counters = [self.packets, self.bytes, self.dropped];
        for &number in counters.iter().flatten().chain(&self.errors) {
            out.put_u64(number);
        }
        out.put_u32(self.duration.0);
        out.put_u32(self.duration.1);
    }
}

/// Takes exactly `N` bytes.
pub(crate) fn array<const N: usize>(r: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (head, rest) = r.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
    *r = rest;
    Ok(*head)
}

/// Writes text into a field of fixed length, which ends with a zero at least.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str, length: usize) {
    let end = text.floor_char_boundary(length - 1);
    out.put_slice(&text.as_bytes()[..end]);
    out.put_bytes(0, length - end);
}

/// Reads text up to the first zero.
pub(crate) fn get_text<const N: usize>(r: &mut &[u8]) -> Result<String, DecodeError> {
    let bytes: [u8; N] = array(r)?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut text = String::from_utf8_lossy(text).into_owned();
    // What stands for bytes that are no text may take more room than these.
    text.truncate(text.floor_char_boundary(N - 1));
    Ok(text)
}
