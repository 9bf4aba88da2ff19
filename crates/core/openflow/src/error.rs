//! What can be wrong: with bytes, and in the words of a switch.

use core::fmt;

use bytes::{Buf as _, BufMut as _, TryGetError};

/// Bytes that are not what a speaker of OpenFlow 1.3 writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends before its last value.
    #[error("the message ends too early")]
    Truncated,
    /// A length field contradicts what it counts.
    #[error("the length {length} of {what} cannot be")]
    Length {
        /// Of what.
        what: &'static str,
        /// What it says.
        length: usize,
    },
    /// The peer speaks another version, although the greeting settled on this one.
    #[error("the message is of version {0} of OpenFlow, not of version 4 (1.3)")]
    Version(u8),
    /// A value that the standard does not know, where no other can be passed over.
    #[error("{value} is no {what}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: u32,
    },
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

/// A refusal of the other end (`OFPT_ERROR`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    /// `type`.
    pub kind: u16,
    /// `code`; what it means depends on the type.
    pub code: u16,
    /// At least the first 64 bytes of what was refused, or text where the greeting failed.
    pub data: Vec<u8>,
}

impl ErrorMessage {
    /// `OFPET_HELLO_FAILED`, `OFPHFC_INCOMPATIBLE`.
    #[must_use]
    pub fn incompatible(why: &str) -> Self {
        Self { kind: 0, code: 0, data: why.as_bytes().to_vec() }
    }

    pub(crate) fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: r.try_get_u16()?, code: r.try_get_u16()?, data: r.to_vec() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u16(self.kind);
        out.put_u16(self.code);
        out.put_slice(&self.data);
    }
}

/// The types of errors, in the words of the standard (§7.4.4).
const KINDS: [&str; 14] = [
    "the greeting failed",
    "bad request",
    "bad action",
    "bad instruction",
    "bad match",
    "a flow entry could not be changed",
    "a group could not be changed",
    "a port could not be changed",
    "a table could not be changed",
    "a queue operation failed",
    "the switch could not be configured",
    "the role could not be taken",
    "a meter could not be changed",
    "table features could not be set",
];

impl fmt::Display for ErrorMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.get(usize::from(self.kind)).copied().unwrap_or("an error");
        write!(f, "{kind} (type {}, code {})", self.kind, self.code)
    }
}
