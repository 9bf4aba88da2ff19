//! What a device and its gateway say about keys by CoAP (`PROTOCOL.md` P3): GET `/k`, protected.
//!
//! Who asks, and from which epoch, stands in the id context; nothing else of the question varies. The
//! answer is 2.05 with the key frame, 2.05 without payload where nothing is due, or 5.03 with Max-Age.

use alloc::vec::Vec;

use claviger_frames::{Epoch, EpochKeys, oscore_id_context, parse_oscore_id_context};
use claviger_units::Eui64;
use coap_lite::{CoapOption, MessageClass, Packet, RequestType, ResponseType};

use crate::option::OscoreOption;
use crate::{Context, Keying, OscoreError, message};

/// An end of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asks.
    Device,
    /// Who answers.
    Gateway,
}

/// Derives the context of one end for a device in an epoch.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "the lengths are constants that fit")]
pub fn context(side: Side, keys: &dyn EpochKeys, eui: Eui64, epoch: Epoch) -> Context {
    let (device, gateway) = ([1], [0]);
    let (own_id, peer_id) = match side {
        Side::Device => (&device, &gateway),
        Side::Gateway => (&gateway, &device),
    };
    let (master, id_context) = (keys.oscore_master_secret(), oscore_id_context(eui, epoch));
    let keying = Keying {
        master_secret: master.expose(),
        master_salt: &[],
        id_context: Some(&id_context),
        own_id,
        peer_id,
    };
    Context::derive(&keying).expect("ids of one byte and a context of twelve are short enough")
}

/// Reads which device a protected question claims to come from, and from which epoch; nothing of it is
/// proven.
pub fn claimed(question: &Packet) -> Result<(Eui64, Epoch), OscoreError> {
    let option = OscoreOption::decode(message::protection(question)?)?;
    let context = option.kid_context.ok_or(OscoreError::UnknownContext)?;
    parse_oscore_id_context(&context).ok_or(OscoreError::UnknownContext)
}

/// Makes the question, not yet protected; its message id and token are the caller's to set.
#[must_use]
pub fn question() -> Packet {
    let mut question = Packet::new();
    question.header.code = MessageClass::Request(RequestType::Get);
    question.add_option(CoapOption::UriPath, PATH.to_vec());
    question
}

/// Tells whether an opened request is the question.
#[must_use]
pub fn is_question(request: &Packet) -> bool {
    let path = request.get_option(CoapOption::UriPath);
    request.header.code == MessageClass::Request(RequestType::Get)
        && path.is_some_and(|parts| parts.len() == 1 && parts.front().is_some_and(|it| it == PATH))
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A key frame.
    Frame(Vec<u8>),
    /// The device has the newest key.
    NothingDue,
    /// Not yet: ask again after so many seconds.
    Later(u32),
    /// There is nothing else here.
    NotFound,
}

impl Answer {
    /// Writes the answer to an opened request, not yet protected.
    #[must_use]
    pub fn respond_to(&self, request: &Packet) -> Packet {
        let mut packet = response_to(request, self.code());
        match self {
            Self::Frame(frame) => packet.payload.clone_from(frame),
            Self::Later(secs) => packet.add_option(CoapOption::MaxAge, shortest(*secs)),
            Self::NothingDue | Self::NotFound => {}
        }
        packet
    }

    /// Reads an opened response; `None` if it is none of these.
    #[must_use]
    pub fn of(response: &Packet) -> Option<Self> {
        let MessageClass::Response(code) = response.header.code else { return None };
        match code {
            ResponseType::Content if response.payload.is_empty() => Some(Self::NothingDue),
            ResponseType::Content => Some(Self::Frame(response.payload.clone())),
            ResponseType::ServiceUnavailable => {
                let age = response.get_first_option(CoapOption::MaxAge);
                let secs = age.filter(|age| age.len() <= 4).map_or(DEFAULT_MAX_AGE, |age| {
                    age.iter().fold(0, |secs, byte| secs << 8 | u32::from(*byte))
                });
                Some(Self::Later(secs))
            }
            ResponseType::NotFound => Some(Self::NotFound),
            _ => None,
        }
    }

    const fn code(&self) -> ResponseType {
        match self {
            Self::Frame(_) | Self::NothingDue => ResponseType::Content,
            Self::Later(_) => ResponseType::ServiceUnavailable,
            Self::NotFound => ResponseType::NotFound,
        }
    }
}

/// Makes the response with this code to a request: an acknowledgement where that asks for one.
#[must_use]
pub fn response_to(request: &Packet, code: ResponseType) -> Packet {
    use coap_lite::MessageType::{Acknowledgement, Confirmable, NonConfirmable};
    let mut packet = Packet::new();
    packet.header.set_type(match request.header.get_type() {
        Confirmable => Acknowledgement,
        _ => NonConfirmable,
    });
    packet.header.message_id = request.header.message_id;
    packet.header.code = MessageClass::Response(code);
    packet.set_token(request.get_token().to_vec());
    packet
}

/// A number in as few bytes as it takes, none for zero (RFC 7252 §3.2).
fn shortest(number: u32) -> Vec<u8> {
    number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

const PATH: &[u8] = b"k";
/// What a response without Max-Age means (RFC 7252 §5.10.5).
const DEFAULT_MAX_AGE: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use claviger_frames::GatewaySecret;
    use claviger_units::Key256;

    const EUI: Eui64 = Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, 1]);

    fn both(epoch: Epoch) -> (Context, Context) {
        let secret = GatewaySecret::from_key(Key256::from_bytes([3; 32]));
        let side = |side| context(side, &secret, EUI, epoch);
        (side(Side::Device), side(Side::Gateway))
    }

    #[test]
    fn every_answer_arrives() {
        let (mut device, mut gateway) = both(Epoch::new(7));
        for answer in [
            Answer::Frame(vec![9; 44]),
            Answer::NothingDue,
            Answer::Later(0),
            Answer::Later(300),
            Answer::NotFound,
        ] {
            let (sent, asked) = device.protect_request(&question()).unwrap();
            assert_eq!(claimed(&sent), Ok((EUI, Epoch::new(7))));
            let sent = Packet::from_bytes(&sent.to_bytes().unwrap()).unwrap();
            let (heard, request) = gateway.open_request(&sent).unwrap();
            assert!(is_question(&heard) && !is_question(&sent));
            let response = gateway.protect_response(&answer.respond_to(&heard), request).unwrap();
            let response = device.open_response(&response, &asked).unwrap();
            assert_eq!(Answer::of(&response), Some(answer));
        }
    }

    #[test]
    fn the_question_takes_34_bytes_and_a_compact_frame_60() {
        let (mut device, mut gateway) = both(Epoch::new(7));
        let (sent, _) = device.protect_request(&question()).unwrap();
        assert_eq!(sent.to_bytes().unwrap().len(), 34);
        let (heard, request) = gateway.open_request(&sent).unwrap();
        let answer = Answer::Frame(vec![9; 44]).respond_to(&heard);
        let response = gateway.protect_response(&answer, request).unwrap();
        assert_eq!(response.to_bytes().unwrap().len(), 60);
    }

    #[test]
    fn other_messages_are_told_apart() {
        let mut other = question();
        other.add_option(CoapOption::UriPath, b"k".to_vec());
        assert!(!is_question(&other) && !is_question(&Packet::new()));
        assert_eq!(claimed(&question()), Err(OscoreError::NotProtected));
        assert_eq!(Answer::of(&response_to(&question(), ResponseType::Unauthorized)), None);
        let plain = response_to(&question(), ResponseType::ServiceUnavailable);
        assert_eq!(Answer::of(&plain), Some(Answer::Later(60)));
    }
}
