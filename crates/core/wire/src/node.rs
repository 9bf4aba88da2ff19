//! Between a QKD node and the key management entity of its own site (ours), over mutual TLS.

use claviger_security::SecurityClaim;
use claviger_units::{Key256, KeyId, OwnerRatio, Site};

use crate::cursor::{DecodeError, Reader, Writer};
use crate::site::{put_ratio, read_ratio};

/// A message between a QKD node and its key management entity.
#[derive(Debug)]
pub enum Message {
    /// Node: a finished block. At A it is held in memory, at B it is made durable as pending.
    Block {
        /// Number of the block.
        number: u64,
        /// Whether a fixed seed made the block reproducible.
        seeded: bool,
        /// The security that the link claims of the keys; `None` where it states none, as the
        /// hardware of a vendor may.
        claim: Option<SecurityClaim>,
        /// Bob's tag over the transcript.
        acceptance: [u8; 32],
        /// The keys in order of position.
        keys: Vec<(KeyId, Site, Key256)>,
    },
    /// Node: the other end declined a block that this entity holds; it is forgotten.
    Withdraw {
        /// Number of the block.
        number: u64,
    },
    /// Entity: it holds the block.
    Held {
        /// Number of the block.
        number: u64,
    },
    /// Entity: it cannot take the block now; the node keeps it and asks again.
    Later {
        /// Number of the block.
        number: u64,
        /// Why.
        reason: Delay,
    },
    /// Entity: the fate of a block.
    Outcome {
        /// Number of the block.
        number: u64,
        /// Whether both sites hold it.
        committed: bool,
    },
    /// Entity: the ratio in which the sites shall own the keys of further blocks.
    Ratio(OwnerRatio),
}

/// Why a block has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delay {
    /// The key buffer is full of keys whose end the peer has not acknowledged.
    Busy,
    /// The two key management entities cannot talk.
    Apart,
}

impl core::fmt::Display for Delay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Busy => "the key buffers are full of unacknowledged keys",
            Self::Apart => "the key management entities cannot talk to each other",
        })
    }
}

impl Message {
    /// Encodes the message as one frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Block { number, seeded, claim, acceptance, keys } => {
                let start = Writer::with_room(64 + 49 * keys.len())
                    .u8(1)
                    .u64(*number)
                    .flag(*seeded)
                    .claim(*claim)
                    .raw(acceptance)
                    .count(keys.len());
                let all = keys.iter().fold(start, |w, (id, owner, key)| {
                    w.raw(id.as_bytes()).site(*owner).raw(key.expose())
                });
                all.finish()
            }
            Self::Held { number } => Writer::kind(2).u64(*number).finish(),
            Self::Later { number, reason } => {
                Writer::kind(3).u64(*number).flag(*reason == Delay::Apart).finish()
            }
            Self::Outcome { number, committed } => {
                Writer::kind(4).u64(*number).flag(*committed).finish()
            }
            Self::Withdraw { number } => Writer::kind(6).u64(*number).finish(),
            Self::Ratio(ratio) => put_ratio(Writer::kind(5), *ratio).finish(),
        }
    }

    /// Decodes one frame, all of it.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let message = match r.u8()? {
            1 => {
                let (number, seeded, claim) = (r.u64()?, r.flag()?, r.claim()?);
                let acceptance = r.array()?;
                let n = r.count(49)?;
                let key = |r: &mut Reader<'_>| Ok((r.key_id()?, r.site()?, r.key256()?));
                let keys = (0..n).map(|_| key(&mut r)).collect::<Result<_, DecodeError>>()?;
                Self::Block { number, seeded, claim, acceptance, keys }
            }
            2 => Self::Held { number: r.u64()? },
            3 => {
                let number = r.u64()?;
                let reason = if r.flag()? { Delay::Apart } else { Delay::Busy };
                Self::Later { number, reason }
            }
            4 => Self::Outcome { number: r.u64()?, committed: r.flag()? },
            5 => Self::Ratio(read_ratio(&mut r)?),
            6 => Self::Withdraw { number: r.u64()? },
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
        let block = |claim| Message::Block {
            number: 7,
            seeded: true,
            claim,
            acceptance: [3; 32],
            keys: vec![(KeyId::from_bytes([1; 16]), Site::B, Key256::from_bytes([2; 32]))],
        };
        for message in [
            block(Some(SecurityClaim::Gllp)),
            block(None),
            Message::Withdraw { number: 7 },
            Message::Held { number: 7 },
            Message::Later { number: 7, reason: Delay::Apart },
            Message::Outcome { number: 7, committed: true },
            Message::Ratio(OwnerRatio::INITIAL),
        ] {
            let frame = message.encode();
            let again = Message::decode(&frame).map(|message| message.encode());
            assert_eq!(again.as_deref(), Ok(&frame[..]), "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes: Vec<u8>) {
            drop(Message::decode(&bytes));
        }
    }
}
