//! Packets that a switch hands up and a controller hands down.

use bytes::{Buf as _, BufMut as _};

use crate::action::{Action, read_actions, write_actions};
use crate::error::DecodeError;
use crate::flow::NO_BUFFER;
use crate::matching::{Field, Match, set_length};
use crate::port::{PortNumber, array};

/// A packet for the controller (`OFPT_PACKET_IN`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketIn {
    /// Where the switch keeps the whole of it, or [`NO_BUFFER`].
    pub buffer: u32,
    /// Bytes of the whole.
    pub total_len: u16,
    /// `OFPR_*`: 0 nothing matched, 1 an entry sent it here, 2 its time to live is over.
    pub reason: u8,
    /// The table of the entry that sent it.
    pub table: u8,
    /// The cookie of that entry.
    pub cookie: u64,
    /// Where it came in, with the fields that the pipeline has set.
    pub matching: Match,
    /// The packet, from its destination address on; cut where it is buffered.
    pub data: Vec<u8>,
}

impl PacketIn {
    /// Returns the port that it came in by.
    #[must_use]
    pub fn in_port(&self) -> Option<PortNumber> {
        self.matching.get(Field::InPort).and_then(|port| u32::try_from(port).ok()).map(PortNumber)
    }

    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let (buffer, total_len) = (r.try_get_u32()?, r.try_get_u16()?);
        let (reason, table, cookie) = (r.try_get_u8()?, r.try_get_u8()?, r.try_get_u64()?);
        let matching = Match::read(&mut r)?;
        r.try_get_u16()?;
        Ok(Self { buffer, total_len, reason, table, cookie, matching, data: r.to_vec() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.buffer);
        out.put_u16(self.total_len);
        out.put_u8(self.reason);
        out.put_u8(self.table);
        out.put_u64(self.cookie);
        self.matching.write(out);
        out.put_u16(0);
        out.put_slice(&self.data);
    }
}

/// A packet for a switch to send (`OFPT_PACKET_OUT`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketOut {
    /// The packet of the switch's buffer that is meant, or [`NO_BUFFER`] and it is in `data`.
    pub buffer: u32,
    /// Where it is to have come in, or [`PortNumber::CONTROLLER`].
    pub in_port: PortNumber,
    /// What to do with it.
    pub actions: Vec<Action>,
    /// The packet.
    pub data: Vec<u8>,
}

impl PacketOut {
    /// Sends a packet of the controller's own out of one port.
    #[must_use]
    pub fn through(port: PortNumber, data: Vec<u8>) -> Self {
        let actions = vec![Action::output(port)];
        Self { buffer: NO_BUFFER, in_port: PortNumber::CONTROLLER, actions, data }
    }

    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let (buffer, in_port) = (r.try_get_u32()?, PortNumber(r.try_get_u32()?));
        let length = usize::from(r.try_get_u16()?);
        let _padding: [u8; 6] = array(&mut r)?;
        let wrong = DecodeError::Length { what: "the actions of a packet", length };
        let (actions, data) = r.split_at_checked(length).ok_or(wrong)?;
        Ok(Self { buffer, in_port, actions: read_actions(actions)?, data: data.to_vec() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u32(self.buffer);
        out.put_u32(self.in_port.0);
        let at = out.len();
        out.put_bytes(0, 8);
        write_actions(out, &self.actions);
        let length = out.len() - at - 8;
        set_length(out, at, length);
        out.put_slice(&self.data);
    }
}
