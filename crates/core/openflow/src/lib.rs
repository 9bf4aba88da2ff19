//! OpenFlow 1.3 (wire version 4, ONF TS-006): messages to bytes and back.
//!
//! The messages that a controller and an emulated switch need are values; everything else a peer may
//! say is kept as the bytes it came in, so nothing is lost on the way through. Decoding never panics,
//! and a length that lies is an error, not a guess. No sockets, no state: [`Splitter`] cuts a stream
//! into frames, [`Envelope`] is one message with its transaction number.
//!
//! ```
//! use claviger_openflow::{Envelope, Message};
//!
//! let question = Envelope { xid: 7, message: Message::EchoRequest(b"still there?".to_vec()) };
//! let bytes = question.encode();
//! assert_eq!(bytes[..8], [4, 2, 0, 20, 0, 0, 0, 7]);
//! assert_eq!(Envelope::decode(&bytes)?, question);
//! # Ok::<(), claviger_openflow::DecodeError>(())
//! ```

mod action;
mod error;
mod flow;
mod matching;
mod message;
mod meter;
mod multipart;
mod packet;
mod port;
mod splitter;

pub use action::{Action, Instruction};
pub use error::{DecodeError, ErrorMessage};
pub use flow::{Command, FlowFilter, FlowMod, FlowRemoved, FlowStats, NO_BUFFER};
pub use matching::{Field, Match};
pub use message::{
    Config, DatapathId, Envelope, Features, Hello, Message, Role, RoleKind, VERSION,
};
pub use meter::{Band, MeterCommand, MeterMod, MeterStats};
pub use multipart::{Description, MultipartReply, MultipartRequest, TableStats};
pub use packet::{PacketIn, PacketOut};
pub use port::{Port, PortChange, PortNumber, PortStats, PortStatus};
pub use splitter::Splitter;
