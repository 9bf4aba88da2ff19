//! Flow entries: how they are made, counted, and how they end.

use bytes::{Buf as _, BufMut as _};

use crate::action::{Instruction, read_instructions, write_instructions};
use crate::error::DecodeError;
use crate::matching::{Match, set_length};
use crate::port::{PortNumber, array};

/// No packet of the switch's buffer goes with a message.
pub const NO_BUFFER: u32 = 0xFFFF_FFFF;

/// What is to be done with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// A new entry, in the place of one with the same match and priority.
    Add = 0,
    /// New instructions for all entries that the match covers.
    Modify,
    /// The same for the one entry of this match and priority.
    ModifyStrict,
    /// All entries that the match covers go.
    Delete,
    /// The one entry of this match and priority goes.
    DeleteStrict,
}

impl Command {
    const ALL: [Self; 5] =
        [Self::Add, Self::Modify, Self::ModifyStrict, Self::Delete, Self::DeleteStrict];
}

/// A change of a flow table (`OFPT_FLOW_MOD`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowMod {
    /// The controller's name for the entry.
    pub cookie: u64,
    /// Modify and delete touch only entries whose cookie is the same where this is one.
    pub cookie_mask: u64,
    /// The table; 255 to delete from all.
    pub table: u8,
    /// What is to be done.
    pub command: Command,
    /// Seconds without a packet after which it goes; 0 for never.
    pub idle_timeout: u16,
    /// Seconds after which it goes; 0 for never.
    pub hard_timeout: u16,
    /// The highest that matches counts.
    pub priority: u16,
    /// A packet of the switch's buffer that the entry is applied to, or [`NO_BUFFER`].
    pub buffer: u32,
    /// Delete only entries that send out here, or [`PortNumber::ANY`].
    pub out_port: PortNumber,
    /// Delete only entries that hand to this group, or any.
    pub out_group: u32,
    /// `OFPFF_*`: bit 0 tells when it goes, bit 1 refuses overlaps, bit 2 resets counters, bits 3 and 4
    /// do not count packets and bytes.
    pub flags: u16,
    /// What it matches.
    pub matching: Match,
    /// What it does.
    pub instructions: Vec<Instruction>,
}

impl FlowMod {
    /// Tells when the entry goes.
    pub const TELLS_REMOVAL: u16 = 1;

    /// Makes an entry without timeouts.
    #[must_use]
    pub const fn add(
        table: u8,
        priority: u16,
        matching: Match,
        instructions: Vec<Instruction>,
    ) -> Self {
        Self {
            cookie: 0,
            cookie_mask: 0,
            table,
            command: Command::Add,
            idle_timeout: 0,
            hard_timeout: 0,
            priority,
            buffer: NO_BUFFER,
            out_port: PortNumber::ANY,
            out_group: u32::MAX,
            flags: 0,
            matching,
            instructions,
        }
    }

    /// Deletes every entry of a table, or of all for 255, whose cookie is the same where the mask is
    /// one.
    #[must_use]
    pub const fn delete(table: u8, cookie: u64, cookie_mask: u64) -> Self {
        let mut all = Self::add(table, 0, Match::new(), Vec::new());
        all.command = Command::Delete;
        all.cookie = cookie;
        all.cookie_mask = cookie_mask;
        all
    }

    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let (cookie, cookie_mask, table) = (r.try_get_u64()?, r.try_get_u64()?, r.try_get_u8()?);
        let command = r.try_get_u8()?;
        let unknown = DecodeError::Value { what: "flow command", value: command.into() };
        let command = *Command::ALL.get(usize::from(command)).ok_or(unknown)?;
        let [idle_timeout, hard_timeout, priority] =
            [r.try_get_u16()?, r.try_get_u16()?, r.try_get_u16()?];
        let (buffer, out_port) = (r.try_get_u32()?, PortNumber(r.try_get_u32()?));
        let (out_group, flags) = (r.try_get_u32()?, r.try_get_u16()?);
        r.try_get_u16()?;
        let matching = Match::read(&mut r)?;
        let instructions = read_instructions(r)?;
        Ok(Self {
            cookie,
            cookie_mask,
            table,
            command,
            idle_timeout,
            hard_timeout,
            priority,
            buffer,
            out_port,
            out_group,
            flags,
            matching,
            instructions,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(self.cookie);
        out.put_u64(self.cookie_mask);
        out.put_u8(self.table);
        out.put_u8(self.command as u8);
        for number in [self.idle_timeout, self.hard_timeout, self.priority] {
            out.put_u16(number);
        }
        for number in [self.buffer, self.out_port.0, self.out_group] {
            out.put_u32(number);
        }
        out.put_u16(self.flags);
        out.put_u16(0);
        self.matching.write(out);
        write_instructions(out, &self.instructions);
    }
}

/// An entry that went (`OFPT_FLOW_REMOVED`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRemoved {
    /// The controller's name for it.
    pub cookie: u64,
    /// Its priority.
    pub priority: u16,
    /// `OFPRR_*`: 0 idle, 1 too old, 2 deleted, 3 with its group.
    pub reason: u8,
    /// Its table.
    pub table: u8,
    /// How long it lived: seconds and nanoseconds.
    pub duration: (u32, u32),
    /// Idle and hard timeout in seconds.
    pub timeouts: [u16; 2],
    /// Packets that it matched.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// What it matched.
    pub matching: Match,
}

impl FlowRemoved {
    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            cookie: r.try_get_u64()?,
            priority: r.try_get_u16()?,
            reason: r.try_get_u8()?,
            table: r.try_get_u8()?,
            duration: (r.try_get_u32()?, r.try_get_u32()?),
            timeouts: [r.try_get_u16()?, r.try_get_u16()?],
            packets: r.try_get_u64()?,
            bytes: r.try_get_u64()?,
            matching: Match::read(&mut r)?,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(self.cookie);
        out.put_u16(self.priority);
        out.put_u8(self.reason);
        out.put_u8(self.table);
        out.put_u32(self.duration.0);
        out.put_u32(self.duration.1);
        self.timeouts.iter().for_each(|&timeout| out.put_u16(timeout));
        out.put_u64(self.packets);
        out.put_u64(self.bytes);
        self.matching.write(out);
    }
}

/// An entry as its switch has it (`OFPMP_FLOW`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowStats {
    /// Its table.
    pub table: u8,
    /// How long it lives: seconds and nanoseconds.
    pub duration: (u32, u32),
    /// Its priority.
    pub priority: u16,
    /// Idle and hard timeout in seconds.
    pub timeouts: [u16; 2],
    /// `OFPFF_*`.
    pub flags: u16,
    /// The controller's name for it.
    pub cookie: u64,
    /// Packets that it matched.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// What it matches.
    pub matching: Match,
    /// What it does.
    pub instructions: Vec<Instruction>,
}

impl FlowStats {
    pub(crate) fn read(r: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = usize::from(r.try_get_u16()?);
        let wrong = DecodeError::Length { what: "a flow entry", length };
        let body = length.checked_sub(2).ok_or(wrong)?;
        let (mut entry, rest) = r.split_at_checked(body).ok_or(wrong)?;
        *r = rest;
        let r = &mut entry;
        let table = r.try_get_u8()?;
        r.try_get_u8()?;
        let duration = (r.try_get_u32()?, r.try_get_u32()?);
        let priority = r.try_get_u16()?;
        let timeouts = [r.try_get_u16()?, r.try_get_u16()?];
        let flags = r.try_get_u16()?;
        r.try_get_u32()?;
        let (cookie, packets, bytes) = (r.try_get_u64()?, r.try_get_u64()?, r.try_get_u64()?);
        let matching = Match::read(r)?;
        let instructions = read_instructions(r)?;
        Ok(Self {
            table,
            duration,
            priority,
            timeouts,
            flags,
            cookie,
            packets,
            bytes,
            matching,
            instructions,
        })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u16(0);
        out.put_u8(self.table);
        out.put_u8(0);
        out.put_u32(self.duration.0);
        out.put_u32(self.duration.1);
        out.put_u16(self.priority);
        self.timeouts.iter().for_each(|&timeout| out.put_u16(timeout));
        out.put_u16(self.flags);
        out.put_u32(0);
        for number in [self.cookie, self.packets, self.bytes] {
            out.put_u64(number);
        }
        self.matching.write(out);
        write_instructions(out, &self.instructions);
        let length = out.len() - start;
        set_length(out, start, length);
    }
}

/// Which entries are asked for (`OFPMP_FLOW`, `OFPMP_AGGREGATE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    /// Of this table, or of all for 255.
    pub table: u8,
    /// That send out here, or [`PortNumber::ANY`].
    pub out_port: PortNumber,
    /// That hand to this group, or any.
    pub out_group: u32,
    /// Whose cookie is this one …
    pub cookie: u64,
    /// … where this is one.
    pub cookie_mask: u64,
    /// That this match covers.
    pub matching: Match,
}

impl FlowFilter {
    /// Every entry of the switch.
    pub const ALL: Self = Self {
        table: 255,
        out_port: PortNumber::ANY,
        out_group: u32::MAX,
        cookie: 0,
        cookie_mask: 0,
        matching: Match::new(),
    };

    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let table = r.try_get_u8()?;
        let _padding: [u8; 3] = array(&mut r)?;
        let (out_port, out_group) = (PortNumber(r.try_get_u32()?), r.try_get_u32()?);
        r.try_get_u32()?;
        let (cookie, cookie_mask) = (r.try_get_u64()?, r.try_get_u64()?);
        let matching = Match::read(&mut r)?;
        Ok(Self { table, out_port, out_group, cookie, cookie_mask, matching })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(self.table);
        out.put_bytes(0, 3);
        out.put_u32(self.out_port.0);
        out.put_u32(self.out_group);
        out.put_u32(0);
        out.put_u64(self.cookie);
        out.put_u64(self.cookie_mask);
        self.matching.write(out);
    }
}
