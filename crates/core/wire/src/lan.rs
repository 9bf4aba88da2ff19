//! The socket that stands for the cables of emulated devices (ours): between them and the emulated
//! network. No payload crosses it: a device asks by it whether the network lets it reach its server.

use claviger_units::MacAddr;

use crate::cursor::{DecodeError, Reader, Writer};

/// A message on the socket of the cables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A device to the network: its card is plugged in, at a port of the network's choice.
    Attach {
        /// The card.
        mac: MacAddr,
    },
    /// A device to the network: its card knocks at a port of the server.
    Knock {
        /// Names the answer.
        id: u64,
        /// The card.
        mac: MacAddr,
        /// The port.
        port: u16,
        /// Whether it is one of UDP, not of TCP.
        is_udp: bool,
    },
    /// The network to a device: whether the server has answered.
    Answer {
        /// Of which knock.
        id: u64,
        /// Whether it has.
        is_open: bool,
    },
}

impl Message {
    /// Encodes the message as one frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Attach { mac } => Writer::kind(1).raw(mac.as_bytes()).finish(),
            Self::Knock { id, mac, port, is_udp } => {
                let head = Writer::kind(2).u64(id).raw(mac.as_bytes());
                head.u32(u32::from(port)).flag(is_udp).finish()
            }
            Self::Answer { id, is_open } => Writer::kind(3).u64(id).flag(is_open).finish(),
        }
    }

    /// Decodes one frame, all of it.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let message = match r.u8()? {
            1 => Self::Attach { mac: MacAddr::from_bytes(r.array()?) },
            2 => {
                let (id, mac) = (r.u64()?, MacAddr::from_bytes(r.array()?));
                let port = u16::try_from(r.u32()?).or(Err(DecodeError::Field("port")))?;
                Self::Knock { id, mac, port, is_udp: r.flag()? }
            }
            3 => Self::Answer { id: r.u64()?, is_open: r.flag()? },
            kind => return Err(DecodeError::Kind(kind)),
        };
        r.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_survives_its_frame() {
        let mac = MacAddr::from_bytes([2, 0, 0x5E, 0x10, 0, 1]);
        for message in [
            Message::Attach { mac },
            Message::Knock { id: 7, mac, port: 8883, is_udp: false },
            Message::Knock { id: 8, mac, port: 5683, is_udp: true },
            Message::Answer { id: 7, is_open: true },
        ] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            let again = Message::decode(&bytes).map(|message| message.encode());
            prop_assert!(again.is_err() || again.as_deref() == Ok(&bytes[..]));
        }
    }
}
