//! The messages, and the header that each has.

use core::fmt;

use bytes::{Buf as _, BufMut as _};

use crate::error::{DecodeError, ErrorMessage};
use crate::flow::{FlowMod, FlowRemoved};
use crate::matching::set_length;
use crate::meter::MeterMod;
use crate::multipart::{MultipartReply, MultipartRequest};
use crate::packet::{PacketIn, PacketOut};
use crate::port::{PortStatus, array};
use crate::splitter::HEADER;

/// The version that is spoken here: 4 stands for OpenFlow 1.3.
pub const VERSION: u8 = 4;

/// A message with the number of its transaction, which an answer repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `xid`.
    pub xid: u32,
    /// The message.
    pub message: Message,
}

/// What one end says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// The first word of either end.
    Hello(Hello),
    /// Something was refused.
    Error(ErrorMessage),
    /// Is somebody there? The answer has the same bytes.
    EchoRequest(Vec<u8>),
    /// Yes.
    EchoReply(Vec<u8>),
    /// Controller: what are you?
    FeaturesRequest,
    /// Switch: this.
    FeaturesReply(Features),
    /// Controller: how are you set?
    GetConfigRequest,
    /// Switch: so.
    GetConfigReply(Config),
    /// Controller: be set so.
    SetConfig(Config),
    /// Switch: a packet for the controller.
    PacketIn(PacketIn),
    /// Switch: an entry went.
    FlowRemoved(FlowRemoved),
    /// Switch: a port changed.
    PortStatus(PortStatus),
    /// Controller: send this packet.
    PacketOut(PacketOut),
    /// Controller: change the flow tables.
    FlowMod(FlowMod),
    /// Controller: a question that may take several answers.
    MultipartRequest(MultipartRequest),
    /// Switch: an answer.
    MultipartReply {
        /// The answer, or a part of it.
        reply: MultipartReply,
        /// Whether more parts follow.
        more: bool,
    },
    /// Controller: say when everything before is done.
    BarrierRequest,
    /// Switch: it is.
    BarrierReply,
    /// Controller: I take this role.
    RoleRequest(Role),
    /// Switch: you have this role.
    RoleReply(Role),
    /// Controller: change a meter.
    MeterMod(MeterMod),
    /// Anything else: its type and the bytes behind the header.
    Other(u8, Vec<u8>),
}

impl Envelope {
    /// Encodes the message as one frame of at most 65 535 bytes; a longer one is cut by its length
    /// field, so callers keep packets and lists below that.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode_into(&mut out);
        out
    }

    /// Appends the frame to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let version =
            if let Message::Hello(hello) = &self.message { hello.version } else { VERSION };
        out.put_u8(version);
        out.put_u8(self.message.kind());
        out.put_u16(0);
        out.put_u32(self.xid);
        self.message.write(out);
        let length = out.len() - start;
        set_length(out, start + 2, length);
    }

    /// Decodes one frame, all of it. A greeting may be of any version.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = frame;
        let (version, kind) = (r.try_get_u8()?, r.try_get_u8()?);
        let (length, xid) = (usize::from(r.try_get_u16()?), r.try_get_u32()?);
        if length != frame.len() || length < HEADER {
            return Err(DecodeError::Length { what: "a message", length });
        }
        if kind == 0 {
            return Ok(Self { xid, message: Message::Hello(Hello::read(version, r)?) });
        }
        // A peer that refuses the greeting may do so in its own version.
        if version != VERSION && kind != 1 {
            return Err(DecodeError::Version(version));
        }
        Ok(Self { xid, message: Message::read(kind, r)? })
    }
}

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 0,
            Self::Error(_) => 1,
            Self::EchoRequest(_) => 2,
            Self::EchoReply(_) => 3,
            Self::FeaturesRequest => 5,
            Self::FeaturesReply(_) => 6,
            Self::GetConfigRequest => 7,
            Self::GetConfigReply(_) => 8,
            Self::SetConfig(_) => 9,
            Self::PacketIn(_) => 10,
            Self::FlowRemoved(_) => 11,
            Self::PortStatus(_) => 12,
            Self::PacketOut(_) => 13,
            Self::FlowMod(_) => 14,
            Self::MultipartRequest(_) => 18,
            Self::MultipartReply { .. } => 19,
            Self::BarrierRequest => 20,
            Self::BarrierReply => 21,
            Self::RoleRequest(_) => 24,
            Self::RoleReply(_) => 25,
            Self::MeterMod(_) => 29,
            Self::Other(kind, _) => *kind,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => hello.write(out),
            Self::Error(error) => error.write(out),
            Self::EchoRequest(bytes) | Self::EchoReply(bytes) | Self::Other(_, bytes) => {
                out.put_slice(bytes);
            }
            Self::FeaturesRequest
            | Self::GetConfigRequest
            | Self::BarrierRequest
            | Self::BarrierReply => {}
            Self::FeaturesReply(features) => features.write(out),
            Self::GetConfigReply(config) | Self::SetConfig(config) => config.write(out),
            Self::PacketIn(packet) => packet.write(out),
            Self::FlowRemoved(removed) => removed.write(out),
            Self::PortStatus(status) => status.write(out),
            Self::PacketOut(packet) => packet.write(out),
            Self::FlowMod(flow) => flow.write(out),
            Self::MultipartRequest(request) => request.write(out),
            Self::MultipartReply { reply, more } => reply.write(*more, out),
            Self::RoleRequest(role) | Self::RoleReply(role) => role.write(out),
            Self::MeterMod(meter) => meter.write(out),
        }
    }

    fn read(kind: u8, body: &[u8]) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Error(ErrorMessage::read(body)?),
            2 => Self::EchoRequest(body.to_vec()),
            3 => Self::EchoReply(body.to_vec()),
            5 => Self::FeaturesRequest,
            6 => Self::FeaturesReply(Features::read(body)?),
            7 => Self::GetConfigRequest,
            8 => Self::GetConfigReply(Config::read(body)?),
            9 => Self::SetConfig(Config::read(body)?),
            10 => Self::PacketIn(PacketIn::read(body)?),
            11 => Self::FlowRemoved(FlowRemoved::read(body)?),
            12 => Self::PortStatus(PortStatus::read(body)?),
            13 => Self::PacketOut(PacketOut::read(body)?),
            14 => Self::FlowMod(FlowMod::read(body)?),
            18 => Self::MultipartRequest(MultipartRequest::read(body)?),
            19 => {
                let (reply, more) = MultipartReply::read(body)?;
                Self::MultipartReply { reply, more }
            }
            20 => Self::BarrierRequest,
            21 => Self::BarrierReply,
            24 => Self::RoleRequest(Role::read(body)?),
            25 => Self::RoleReply(Role::read(body)?),
            29 => Self::MeterMod(MeterMod::read(body)?),
            _ => Self::Other(kind, body.to_vec()),
        })
    }
}

/// The first word of either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The highest version that the speaker knows.
    pub version: u8,
    /// All that it knows, bit v for version v, where it says so.
    pub versions: Option<u32>,
}

impl Hello {
    /// This crate's greeting.
    pub const OURS: Self = Self { version: VERSION, versions: Some(1 << VERSION) };

    /// Tells whether the speaker and this crate have a version in common (§6.3.1).
    #[must_use]
    pub fn is_compatible(&self) -> bool {
        match self.versions {
            Some(versions) => versions >> VERSION & 1 == 1,
            // Both fall back to the lower of the two.
            None => self.version == VERSION,
        }
    }

    fn read(version: u8, mut r: &[u8]) -> Result<Self, DecodeError> {
        let mut versions = None;
        // Elements are passed over where they are unknown, and so is what is too short for one.
        while r.len() >= 4 {
            let (kind, length) = (r.try_get_u16()?, usize::from(r.try_get_u16()?));
            let wrong = DecodeError::Length { what: "an element of a greeting", length };
            let body = length.checked_sub(4).ok_or(wrong)?;
            let (mut element, rest) = r.split_at_checked(body).ok_or(wrong)?;
            if kind == 1 {
                versions = Some(element.try_get_u32()?);
            }
            // Each is padded to eight bytes, the last maybe not.
            let padding = length.next_multiple_of(8) - length;
            r = rest.get(padding..).unwrap_or_default();
        }
        Ok(Self { version, versions })
    }

    fn write(self, out: &mut Vec<u8>) {
        if let Some(versions) = self.versions {
            out.put_u16(1);
            out.put_u16(8);
            out.put_u32(versions);
        }
    }
}

/// The name of a switch's datapath: the lower 48 bits are a hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatapathId(pub u64);

impl fmt::Display for DatapathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a switch is (`OFPT_FEATURES_REPLY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Its name.
    pub datapath: DatapathId,
    /// Packets that it buffers.
    pub buffers: u32,
    /// Its flow tables.
    pub tables: u8,
    /// 0 for the main connection.
    pub auxiliary: u8,
    /// `OFPC_*`.
    pub capabilities: u32,
}

impl Features {
    fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let (datapath, buffers) = (DatapathId(r.try_get_u64()?), r.try_get_u32()?);
        let (tables, auxiliary) = (r.try_get_u8()?, r.try_get_u8()?);
        r.try_get_u16()?;
        let capabilities = r.try_get_u32()?;
        Ok(Self { datapath, buffers, tables, auxiliary, capabilities })
    }

    fn write(self, out: &mut Vec<u8>) {
        out.put_u64(self.datapath.0);
        out.put_u32(self.buffers);
        out.put_u8(self.tables);
        out.put_u8(self.auxiliary);
        out.put_u16(0);
        out.put_u32(self.capabilities);
        out.put_u32(0);
    }
}

/// How a switch is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// `OFPC_FRAG_*`: what is done with fragments; 0 nothing special.
    pub flags: u16,
    /// How many bytes of a packet go to the controller when nothing matched.
    pub miss_send_len: u16,
}

impl Config {
    fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { flags: r.try_get_u16()?, miss_send_len: r.try_get_u16()? })
    }

    fn write(self, out: &mut Vec<u8>) {
        out.put_u16(self.flags);
        out.put_u16(self.miss_send_len);
    }
}

/// What a controller is to a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RoleKind {
    /// No change; the answer tells.
    NoChange = 0,
    /// One of several that may do anything.
    Equal,
    /// The one that may do anything.
    Master,
    /// One that may only look.
    Slave,
}

/// A controller's role, as asked for or as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    /// Which.
    pub kind: RoleKind,
    /// The number of the election: a switch refuses one below the highest that it has seen.
    pub generation: u64,
}

impl Role {
    fn read(mut r: &[u8]) -> Result<Self, DecodeError> {
        let kind = match r.try_get_u32()? {
            0 => RoleKind::NoChange,
            1 => RoleKind::Equal,
            2 => RoleKind::Master,
            3 => RoleKind::Slave,
            value => return Err(DecodeError::Value { what: "role", value }),
        };
        let _padding: [u8; 4] = array(&mut r)?;
        Ok(Self { kind, generation: r.try_get_u64()? })
    }

    fn write(self, out: &mut Vec<u8>) {
        out.put_u32(self.kind as u32);
        out.put_u32(0);
        out.put_u64(self.generation);
    }
}
