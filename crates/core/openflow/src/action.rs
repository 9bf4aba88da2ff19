//! What is done to a packet that matches.

use bytes::{Buf as _, BufMut as _};

use crate::error::DecodeError;
use crate::matching::{Field, read_field, set_length, write_field};
use crate::port::PortNumber;

/// One step on a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Sends it out.
    Output {
        /// Where.
        port: PortNumber,
        /// How many bytes go to the controller, where the port is that one; 65 535 for all.
        max_len: u16,
    },
    /// Sets the queue for the output.
    SetQueue(u32),
    /// Hands it to a group.
    Group(u32),
    /// Takes one off the time to live.
    DecrementTtl,
    /// Adds a VLAN tag of this type.
    PushVlan(u16),
    /// Takes the outer VLAN tag off.
    PopVlan,
    /// Writes a field.
    SetField(Field, u128),
    /// Anything else: its type, and its bytes behind the length.
    Other(u16, Vec<u8>),
}

impl Action {
    /// Sends the packet out of a port.
    #[must_use]
    pub const fn output(port: PortNumber) -> Self {
        Self::Output { port, max_len: 0 }
    }

    /// Sends the whole packet to the controller.
    #[must_use]
    pub const fn to_controller() -> Self {
        Self::Output { port: PortNumber::CONTROLLER, max_len: 0xFFFF }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u16(self.kind());
        out.put_u16(0);
        match self {
            Self::Output { port, max_len } => {
                out.put_u32(port.0);
                out.put_u16(*max_len);
            }
            Self::SetQueue(number) | Self::Group(number) => out.put_u32(*number),
            Self::PushVlan(kind) => out.put_u16(*kind),
            Self::DecrementTtl | Self::PopVlan => {}
            Self::SetField(field, value) => write_field(out, *field, *value),
            Self::Other(_, bytes) => out.put_slice(bytes),
        }
        pad(out, start);
    }

    const fn kind(&self) -> u16 {
        match self {
            Self::Output { .. } => 0,
            Self::PushVlan(_) => 17,
            Self::PopVlan => 18,
            Self::SetQueue(_) => 21,
            Self::Group(_) => 22,
            Self::DecrementTtl => 24,
            Self::SetField(..) => 25,
            Self::Other(kind, _) => *kind,
        }
    }

    fn read(kind: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body;
        Ok(match kind {
            0 => Self::Output { port: PortNumber(r.try_get_u32()?), max_len: r.try_get_u16()? },
            17 => Self::PushVlan(r.try_get_u16()?),
            18 => Self::PopVlan,
            21 => Self::SetQueue(r.try_get_u32()?),
            22 => Self::Group(r.try_get_u32()?),
            24 => Self::DecrementTtl,
            25 => match read_field(body)? {
                Some((field, value)) => Self::SetField(field, value),
                None => Self::Other(kind, body.to_vec()),
            },
            _ => Self::Other(kind, body.to_vec()),
        })
    }
}

/// What an entry does with a packet that matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Instruction {
    /// Goes on in a later table.
    GotoTable(u8),
    /// Sets the bits of the metadata where the mask is one.
    WriteMetadata {
        /// The bits.
        value: u64,
        /// Which of them.
        mask: u64,
    },
    /// Puts actions into the set that is done at the end of the pipeline.
    WriteActions(Vec<Action>),
    /// Does actions now, in this order.
    ApplyActions(Vec<Action>),
    /// Empties the set.
    ClearActions,
    /// Meters the packet first, which may drop it.
    Meter(u32),
    /// Anything else: its type, and its bytes behind the length.
    Other(u16, Vec<u8>),
}

impl Instruction {
    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u16(self.kind());
        out.put_u16(0);
        match self {
            Self::GotoTable(table) => out.put_u8(*table),
            Self::WriteMetadata { value, mask } => {
                out.put_u32(0);
                out.put_u64(*value);
                out.put_u64(*mask);
            }
            Self::WriteActions(actions) | Self::ApplyActions(actions) => {
                out.put_u32(0);
                write_actions(out, actions);
            }
            Self::ClearActions => out.put_u32(0),
            Self::Meter(meter) => out.put_u32(*meter),
            Self::Other(_, bytes) => out.put_slice(bytes),
        }
        pad(out, start);
    }

    const fn kind(&self) -> u16 {
        match self {
            Self::GotoTable(_) => 1,
            Self::WriteMetadata { .. } => 2,
            Self::WriteActions(_) => 3,
            Self::ApplyActions(_) => 4,
            Self::ClearActions => 5,
            Self::Meter(_) => 6,
            Self::Other(kind, _) => *kind,
        }
    }

    fn read(kind: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = body;
        Ok(match kind {
            1 => Self::GotoTable(r.try_get_u8()?),
            2 => {
                r.try_get_u32()?;
                Self::WriteMetadata { value: r.try_get_u64()?, mask: r.try_get_u64()? }
            }
            3 | 4 => {
                r.try_get_u32()?;
                let actions = read_actions(r)?;
                if kind == 3 { Self::WriteActions(actions) } else { Self::ApplyActions(actions) }
            }
            5 => Self::ClearActions,
            6 => Self::Meter(r.try_get_u32()?),
            _ => Self::Other(kind, body.to_vec()),
        })
    }
}

pub(crate) fn write_actions(out: &mut Vec<u8>, actions: &[Action]) {
    actions.iter().for_each(|action| action.write(out));
}

pub(crate) fn read_actions(bytes: &[u8]) -> Result<Vec<Action>, DecodeError> {
    read_list(bytes, "an action", Action::read)
}

pub(crate) fn write_instructions(out: &mut Vec<u8>, instructions: &[Instruction]) {
    instructions.iter().for_each(|instruction| instruction.write(out));
}

pub(crate) fn read_instructions(bytes: &[u8]) -> Result<Vec<Instruction>, DecodeError> {
    read_list(bytes, "an instruction", Instruction::read)
}

/// Reads entries of a type, a length over all of it, which is a multiple of eight, and a body, to the
/// end.
pub(crate) fn read_list<T>(
    mut bytes: &[u8],
    what: &'static str,
    read: impl Fn(u16, &[u8]) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (kind, length) = (bytes.try_get_u16()?, usize::from(bytes.try_get_u16()?));
        let wrong = DecodeError::Length { what, length };
        let body = length.checked_sub(4).filter(|_| length.is_multiple_of(8)).ok_or(wrong)?;
        let (body, rest) = bytes.split_at_checked(body).ok_or(wrong)?;
        all.push(read(kind, body)?);
        bytes = rest;
    }
    Ok(all)
}

/// Fills an entry up to a multiple of eight bytes, and writes its length, which counts them.
fn pad(out: &mut Vec<u8>, start: usize) {
    let length = (out.len() - start).next_multiple_of(8);
    out.resize(start + length, 0);
    set_length(out, start + 2, length);
}
