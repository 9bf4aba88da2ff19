//! Messages of the session between two sites: challenge, HELLO, verdict, records, acknowledgements.
//!
//! A format of our own (`PROTOCOL.md`, Records and HELLO): one kind byte, then big-endian fields.
//! The transport frames each message and keeps them in order.

use crate::cursor::{DecodeError, Reader, Writer};

/// How many records of one direction there were, and the running SHA-256 over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The sequence number of the last record, 0 before the first.
    pub seq: u64,
    /// The running hash over all records up to `seq`, zeros before the first.
    pub hash: [u8; 32],
}

/// Why both streams were begun anew for the last time: who had forgotten something that the other knew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forgetful {
    /// They never were, or an operator wanted it.
    #[default]
    Nobody,
    /// The side that says so.
    Sender,
    /// The side that it says so to.
    Receiver,
}

/// What one side remembers of both streams (`PROTOCOL.md`, HELLO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The nonce of the receiver's challenge on this connection.
    pub nonce: [u8; 16],
    /// The sender's store, drawn once when it was made.
    pub store: [u8; 16],
    /// The sender's process, drawn at each start.
    pub boot: [u8; 16],
    /// How often the two streams have been begun anew.
    pub generation: u32,
    /// Why they were begun anew for the last time, as the sender knows it.
    pub anew: Forgetful,
    /// The sender's own records.
    pub sent: Tally,
    /// The receiver's records that the sender has applied.
    pub seen: Tally,
    /// The last of the sender's records that the receiver is known to have acknowledged.
    pub acked: u64,
}

/// What the sender concludes from the receiver's HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both memories fit together: records may flow.
    Agreed,
    /// The sender of this verdict has forgotten something that the receiver knows.
    SenderRolledBack,
    /// The receiver of this verdict has forgotten something that the sender knows.
    ReceiverRolledBack,
    /// The receiver's store runs twice: a process spoke after its successor had spoken.
    Superseded,
}

/// One message between two sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// The first message of each side: a fresh nonce that the other's HELLO must repeat.
    Challenge {
        /// 16 random bytes.
        nonce: [u8; 16],
    },
    /// The answer to the challenge.
    Hello(Hello),
    /// The judgement of the other's HELLO.
    Verdict(Verdict),
    /// One record, durable at the sender.
    Record {
        /// Its place in the sender's stream, from 1.
        seq: u64,
        /// What it says.
        body: Vec<u8>,
    },
    /// All records up to `seq` are durable at the sender of this message.
    Ack {
        /// The last applied record.
        seq: u64,
    },
    /// A message that may be lost with the connection.
    Hint {
        /// What it says.
        body: Vec<u8>,
    },
}

impl PeerMessage {
    /// Returns the message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Challenge { nonce } => Writer::kind(CHALLENGE).u8(VERSION).raw(nonce).finish(),
            Self::Hello(hello) => encode_hello(hello),
            Self::Verdict(verdict) => Writer::kind(VERDICT).u8(verdict_code(*verdict)).finish(),
            Self::Record { seq, body } => Writer::kind(RECORD).u64(*seq).bytes(body).finish(),
            Self::Ack { seq } => Writer::kind(ACK).u64(*seq).finish(),
            Self::Hint { body } => Writer::kind(HINT).bytes(body).finish(),
        }
    }

    /// Reads one message that fills `input`.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(input);
        let message = match reader.u8()? {
            CHALLENGE => {
                if reader.u8()? != VERSION {
                    return Err(DecodeError::Field("peer protocol version"));
                }
                Self::Challenge { nonce: reader.array()? }
            }
            HELLO => Self::Hello(decode_hello(&mut reader)?),
            VERDICT => Self::Verdict(verdict_from(reader.u8()?)?),
            RECORD => Self::Record { seq: reader.u64()?, body: reader.bytes()?.to_vec() },
            ACK => Self::Ack { seq: reader.u64()? },
            HINT => Self::Hint { body: reader.bytes()?.to_vec() },
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn encode_hello(hello: &Hello) -> Vec<u8> {
    Writer::kind(HELLO)
        .raw(&hello.nonce)
        .raw(&hello.store)
        .raw(&hello.boot)
        .u32(hello.generation)
        .u8(hello.anew.to_byte())
        .u64(hello.sent.seq)
        .raw(&hello.sent.hash)
        .u64(hello.seen.seq)
        .raw(&hello.seen.hash)
        .u64(hello.acked)
        .finish()
}

fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, DecodeError> {
    Ok(Hello {
        nonce: reader.array()?,
        store: reader.array()?,
        boot: reader.array()?,
        generation: reader.u32()?,
        anew: Forgetful::from_byte(reader.u8()?)?,
        sent: Tally { seq: reader.u64()?, hash: reader.array()? },
        seen: Tally { seq: reader.u64()?, hash: reader.array()? },
        acked: reader.u64()?,
    })
}

impl Forgetful {
    /// Returns the byte that stands for it.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Nobody => 0,
            Self::Sender => 1,
            Self::Receiver => 2,
        }
    }

    /// Reads the byte that [`to_byte`](Self::to_byte) wrote.
    pub const fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            0 => Self::Nobody,
            1 => Self::Sender,
            2 => Self::Receiver,
            _ => return Err(DecodeError::Field("cause of a beginning")),
        })
    }
}

const fn verdict_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Agreed => 0,
        Verdict::SenderRolledBack => 1,
        Verdict::ReceiverRolledBack => 2,
        Verdict::Superseded => 3,
    }
}

const fn verdict_from(code: u8) -> Result<Verdict, DecodeError> {
    Ok(match code {
        0 => Verdict::Agreed,
        1 => Verdict::SenderRolledBack,
        2 => Verdict::ReceiverRolledBack,
        3 => Verdict::Superseded,
        _ => return Err(DecodeError::Field("verdict")),
    })
}

const VERSION: u8 = 2;
const CHALLENGE: u8 = 1;
const HELLO: u8 = 2;
const VERDICT: u8 = 3;
const RECORD: u8 = 4;
const ACK: u8 = 5;
const HINT: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_tally() -> impl Strategy<Value = Tally> {
        (any::<u64>(), any::<[u8; 32]>()).prop_map(|(seq, hash)| Tally { seq, hash })
    }

    fn any_message() -> impl Strategy<Value = PeerMessage> {
        let names = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 16]>());
        let begun = (any::<u32>(), 0u8..3)
            .prop_map(|(generation, anew)| (generation, Forgetful::from_byte(anew).unwrap()));
        let hello = (names, begun, any_tally(), any_tally(), any::<u64>()).prop_map(
            |((nonce, store, boot), (generation, anew), sent, seen, acked)| {
                let hello = Hello { nonce, store, boot, generation, anew, sent, seen, acked };
                PeerMessage::Hello(hello)
            },
        );
        prop_oneof![
            any::<[u8; 16]>().prop_map(|nonce| PeerMessage::Challenge { nonce }),
            hello,
            (0u8..4).prop_map(|code| PeerMessage::Verdict(verdict_from(code).unwrap())),
            (any::<u64>(), any::<Vec<u8>>())
                .prop_map(|(seq, body)| PeerMessage::Record { seq, body }),
            any::<u64>().prop_map(|seq| PeerMessage::Ack { seq }),
            any::<Vec<u8>>().prop_map(|body| PeerMessage::Hint { body }),
        ]
    }

    #[test]
    fn a_record_has_these_bytes() {
        let record = PeerMessage::Record { seq: 258, body: vec![0xAB] };
        assert_eq!(record.encode(), [4, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0xAB]);
    }

    #[test]
    fn hostile_fields_are_refused() {
        let mut challenge = PeerMessage::Challenge { nonce: [0; 16] }.encode();
        challenge[1] = 9;
        let refused = PeerMessage::decode(&challenge);
        assert_eq!(refused, Err(DecodeError::Field("peer protocol version")));
        assert_eq!(PeerMessage::decode(&[VERDICT, 4]), Err(DecodeError::Field("verdict")));
        assert_eq!(PeerMessage::decode(&[99]), Err(DecodeError::Kind(99)));
        assert!(PeerMessage::decode(&[ACK, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn messages_survive_their_bytes(message in any_message()) {
            prop_assert_eq!(PeerMessage::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, kind in 0u8..8) {
            drop(PeerMessage::decode(&bytes));
            drop(PeerMessage::decode(&[&[kind], bytes.as_slice()].concat()));
        }
    }
}
