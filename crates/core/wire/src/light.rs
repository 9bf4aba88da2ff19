//! The socket that stands for the light itself (ours): between the fibre and the two ends.
//!
//! It exists only with simulated light and is never a channel between the sites: the fibre learns
//! what Alice emits and in which bases Bob measures, gives Bob his clicks, and gives Alice nothing
//! but the wish for fresh light. With real hardware it is gone.

use claviger_units::SecretBytes;

use crate::cursor::{DecodeError, Reader, Writer};

/// A message on the socket of the light.
#[derive(Debug)]
pub enum Message {
    /// Alice to the fibre: she emits with choices made from this seed.
    Emit {
        /// The name of the light session.
        light: u64,
        /// 32 bytes: whoever knows them knows the sifted key.
        seed: SecretBytes,
        /// Digest of the link's parameters.
        preset: [u8; 32],
    },
    /// Bob to the fibre: he measures in bases made from this seed.
    Measure {
        /// 32 bytes.
        seed: SecretBytes,
        /// Digest of the link's parameters.
        preset: [u8; 32],
    },
    /// Bob to the fibre: so many further windows have room.
    Room {
        /// Windows.
        windows: u32,
    },
    /// The fibre to Bob: the clicks of one window of link time.
    Window {
        /// The light session.
        light: u64,
        /// The pulse at which the window ends.
        end: u64,
        /// The pulses that clicked, rising, each with the value of its detector.
        clicks: Vec<(u64, bool)>,
    },
    /// The fibre to Alice: Bob measures anew, so emit with fresh choices.
    Again,
    /// The fibre to either: the parameters of the link are not the fibre's.
    OtherPreset,
}

impl Message {
    /// Encodes the message as one frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Emit { light, seed, preset } => {
                Writer::kind(1).u64(*light).bytes(seed.expose()).raw(preset).finish()
            }
            Self::Measure { seed, preset } => {
                Writer::kind(2).bytes(seed.expose()).raw(preset).finish()
            }
            Self::Room { windows } => Writer::kind(3).u32(*windows).finish(),
            Self::Window { light, end, clicks } => {
                let start = Writer::kind(4).u64(*light).u64(*end).count(clicks.len());
                clicks.iter().fold(start, |w, &(p, value)| w.u64(p).flag(value)).finish()
            }
            Self::Again => Writer::kind(5).finish(),
            Self::OtherPreset => Writer::kind(6).finish(),
        }
    }

    /// Decodes one frame, all of it.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let message = match r.u8()? {
            1 => Self::Emit { light: r.u64()?, seed: seed(&mut r)?, preset: r.array()? },
            2 => Self::Measure { seed: seed(&mut r)?, preset: r.array()? },
            3 => Self::Room { windows: r.u32()? },
            4 => {
                let (light, end) = (r.u64()?, r.u64()?);
                let n = r.count(9)?;
                let click = |r: &mut Reader<'_>| Ok((r.u64()?, r.flag()?));
                let clicks: Vec<(u64, bool)> =
                    (0..n).map(|_| click(&mut r)).collect::<Result<_, DecodeError>>()?;
                let rising = clicks.is_sorted_by(|a, b| a.0 < b.0)
                    && clicks.last().is_none_or(|&(last, _)| last < end);
                if !rising {
                    return Err(DecodeError::Field("clicks"));
                }
                Self::Window { light, end, clicks }
            }
            5 => Self::Again,
            6 => Self::OtherPreset,
            kind => return Err(DecodeError::Kind(kind)),
        };
        r.finish()?;
        Ok(message)
    }
}

fn seed(r: &mut Reader<'_>) -> Result<SecretBytes, DecodeError> {
    let seed = r.bytes()?;
    if seed.len() == 32 {
        Ok(SecretBytes::new(seed.to_vec()))
    } else {
        Err(DecodeError::Field("seed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_survives_its_frame() {
        let seed = || SecretBytes::new(vec![1; 32]);
        for message in [
            Message::Emit { light: 1, seed: seed(), preset: [2; 32] },
            Message::Measure { seed: seed(), preset: [2; 32] },
            Message::Room { windows: 16 },
            Message::Window { light: 1, end: 9, clicks: vec![(3, true), (7, false)] },
            Message::Again,
            Message::OtherPreset,
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
