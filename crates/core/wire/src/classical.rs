//! The classical channel between Alice and Bob (ours; `PROTOCOL.md` P4 says what authenticates it).
//!
//! A message is one frame of a byte stream. Nothing here is secret: whoever listens learns which
//! pulses clicked, what was announced of them, the parities, the public seeds, and the tags.
//! Batches and blocks are numbered so that a message out of its turn is noticed, not guessed at.

use claviger_units::{Fraction, KeyId, Site};

use crate::cursor::{DecodeError, Reader, Writer};

/// The version that both ends must speak.
pub const VERSION: u16 = 2;

/// A message of the classical channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first word of either side.
    Greet(Greet),
    /// The answer to the other side's nonce.
    Prove(Prove),
    /// Bob: these pulses clicked, in one window of link time.
    Detections(Detections),
    /// Alice: what she says of each click of the batch: a pair of states, or basis and intensity.
    Announcements {
        /// Where it belongs.
        batch: Batch,
        /// As many bits a click as the protocol has, first click lowest.
        said: Vec<u8>,
    },
    /// Bob: the clicks of the batch that both ends keep.
    Conclusive {
        /// Where it belongs.
        batch: Batch,
        /// One bit a click, eight clicks a byte, first click lowest.
        mask: Vec<u8>,
    },
    /// Alice: the sifted bits of the batch that are given away to estimate error rates.
    Sample {
        /// Where it belongs.
        batch: Batch,
        /// Positions within the bits of the batch that would become key, rising.
        positions: Vec<u32>,
        /// Alice's bits there, eight a byte, first lowest.
        bits: Vec<u8>,
        /// Alice's bits of all tests of the batch, eight a byte, first lowest.
        tests: Vec<u8>,
    },
    /// Bob: how many of the bits given away differ from his.
    SampleErrors {
        /// Where it belongs.
        batch: Batch,
        /// Of those at the positions.
        errors: u32,
        /// Of the tests, by intensity.
        tests: [u32; 3],
    },
    /// Alice: the block has its bits; this is how it will be reconciled.
    Close(Close),
    /// Alice: the parities of this round of Cascade; both ends know of which bits.
    Parities {
        /// The block.
        block: u64,
        /// One bit a parity, eight a byte, first lowest.
        bits: Vec<u8>,
    },
    /// Bob: which of these parities differ from his.
    Differences {
        /// The block.
        block: u64,
        /// One bit a parity, eight a byte, first lowest.
        bits: Vec<u8>,
    },
    /// Bob: he has corrected what Cascade found.
    Corrected {
        /// The block.
        block: u64,
        /// Bits he flipped, by intensity.
        errors: [u32; 3],
        /// Parities he saw; Alice drops the block where she counts either otherwise.
        leaked: u32,
    },
    /// Alice: the universal hash of her key.
    Verify {
        /// The block.
        block: u64,
        /// The hash key, chosen after the correction.
        key: [u8; 16],
        /// The hash, 64 bits, all counted as disclosed.
        hash: [u8; 8],
    },
    /// Bob: his key has the same hash, and his acceptance will be made with this pad.
    Verified {
        /// The block.
        block: u64,
        /// The pad of Bob's tag.
        pad: PadName,
    },
    /// Alice: amplification, names of the keys, and her tag over the transcript.
    Propose(Propose),
    /// Either: the block is dropped.
    Drop {
        /// The block.
        block: u64,
        /// Why.
        reason: DropReason,
    },
}

/// The first word of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greet {
    /// [`VERSION`] of the speaker.
    pub version: u16,
    /// Which end speaks: Alice is at A.
    pub site: Site,
    /// Fresh.
    pub nonce: [u8; 32],
    /// SHA-256 over the parameters of the link that both ends must share.
    pub preset: [u8; 32],
}

/// The answer to the other side's nonce, with what both must know of each other's pads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prove {
    /// HMAC-SHA256 under the link's greeting key over both greetings and the rest of this message.
    pub mac: [u8; 32],
    /// The highest pad of the other side that this side accepted, if any.
    pub accepted: Option<PadName>,
    /// The highest pad of this side that it may have used: it uses none up to here again.
    pub reserved: Option<PadName>,
    /// Blocks whose pads this side holds, as ranges `first..=last`.
    pub segments: Vec<(u64, u64)>,
    /// Blocks whose hash keys this side holds.
    pub hash_keys: Vec<u64>,
    /// Alice: the number of the first block; Bob: 0.
    pub first_block: u64,
}

/// A batch of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The block that is being filled.
    pub block: u64,
    /// The batch within the block, from 0.
    pub number: u32,
}

/// Bob's clicks of one window of link time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detections {
    /// Where they belong.
    pub batch: Batch,
    /// The light session in which Alice emitted the pulses.
    pub light: u64,
    /// The pulse at which the window ends.
    pub end: u64,
    /// The pulses that clicked, rising.
    pub pulses: Vec<u64>,
}

/// How a block will be reconciled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Close {
    /// The block.
    pub block: u64,
    /// Its sifted bits after sampling.
    pub sifted: u32,
    /// The error rate that set the size of the first blocks of Cascade.
    pub estimate: Fraction,
    /// Seed of the permutations of the later passes.
    pub permutation: [u8; 32],
}

/// The name of a 128-bit pad: the block whose bits it is made of, and which of its pads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PadName {
    /// The block, 0 for the initial secret.
    pub segment: u64,
    /// Which 128 bits of it, from 0.
    pub slot: u32,
}

/// Amplification, names of the keys, and Alice's tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Propose {
    /// The block.
    pub block: u64,
    /// Secret bits after amplification.
    pub secret: u32,
    /// Pads for each direction cut off the front for the authentication reserve.
    pub pads: u16,
    /// Whether 256 more bits become the next hash keys.
    pub renews_hash_keys: bool,
    /// The Toeplitz seed, `sifted + secret − 1` bits, eight a byte, first lowest.
    pub seed: Vec<u8>,
    /// The keys in order of position, each with its owner.
    pub keys: Vec<(KeyId, Site)>,
    /// The block whose hash keys both tags use.
    pub hash_key: u64,
    /// The pad of Alice's tag.
    pub pad: PadName,
    /// Alice's tag over the transcript of both directions.
    pub tag: [u8; 16],
}

impl core::fmt::Debug for Propose {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Propose(block {}, {} keys)", self.block, self.keys.len())
    }
}

/// Why a block gave no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The sampled error rate is above the threshold: somebody listens, or the link is out of tune.
    SampledQber,
    /// The error rate of the corrected block is above the threshold.
    Qber,
    /// Errors remained after reconciliation.
    Verification,
    /// A tag did not fit the transcript.
    Authentication,
    /// Nothing secret is left after amplification.
    NothingLeft,
    /// The two ends count disclosed bits differently.
    Accounting,
    /// The peer's message does not fit the state of the block.
    Protocol,
    /// The session ended.
    SessionLost,
    /// The authentication reserve is empty.
    ReserveEmpty,
    /// The key management entities did not take the block.
    NotCommitted,
    /// Too many proposals in a row came to nothing; each costs a pad, so the link pauses.
    Paused,
    /// It fell short of the length promised beforehand, or disclosed more than was fixed.
    Acceptance,
}

impl DropReason {
    const ALL: [Self; 12] = [
        Self::SampledQber,
        Self::Qber,
        Self::Verification,
        Self::Authentication,
        Self::NothingLeft,
        Self::Accounting,
        Self::Protocol,
        Self::SessionLost,
        Self::ReserveEmpty,
        Self::NotCommitted,
        Self::Paused,
        Self::Acceptance,
    ];

    fn number(self) -> u8 {
        Self::ALL.iter().zip(1..).find(|(reason, _)| **reason == self).map_or(0, |(_, n)| n)
    }

    fn from_number(number: u8) -> Result<Self, DecodeError> {
        let found = Self::ALL.into_iter().zip(1..).find(|&(_, n)| n == number);
        found.map(|(reason, _)| reason).ok_or(DecodeError::Field("drop reason"))
    }
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::SampledQber => "sampled error rate above the threshold",
            Self::Qber => "error rate above the threshold",
            Self::Verification => "errors remained after reconciliation",
            Self::Authentication => "a tag did not fit the transcript",
            Self::NothingLeft => "nothing secret left after amplification",
            Self::Accounting => "the two ends count disclosed bits differently",
            Self::Protocol => "the peer broke the protocol",
            Self::SessionLost => "the classical channel was lost",
            Self::ReserveEmpty => "the authentication reserve is empty",
            Self::NotCommitted => "the key buffers did not take the block",
            Self::Paused => "pausing after proposals that came to nothing",
            Self::Acceptance => "fell short of the length promised beforehand",
        })
    }
}

impl Message {
    /// Encodes the message as one frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Greet(greet) => greet.encode(),
            Self::Prove(prove) => Writer::kind(2).raw(&prove.mac).raw(&prove.body()).finish(),
            Self::Detections(detections) => detections.encode(),
            Self::Announcements { batch, said } => batch.start(4).bytes(said).finish(),
            Self::Conclusive { batch, mask } => batch.start(5).bytes(mask).finish(),
            Self::Sample { batch, positions, bits, tests } => {
                let start = batch.start(6).count(positions.len());
                let positions = positions.iter().fold(start, |w, &at| w.u32(at));
                positions.bytes(bits).bytes(tests).finish()
            }
            Self::SampleErrors { batch, errors, tests } => {
                write_three(batch.start(7).u32(*errors), tests).finish()
            }
            Self::Close(close) => Writer::kind(8)
                .u64(close.block)
                .u32(close.sifted)
                .fraction(close.estimate)
                .raw(&close.permutation)
                .finish(),
            Self::Parities { block, bits } => Writer::kind(9).u64(*block).bytes(bits).finish(),
            Self::Differences { block, bits } => Writer::kind(10).u64(*block).bytes(bits).finish(),
            Self::Corrected { block, errors, leaked } => {
                write_three(Writer::kind(13).u64(*block), errors).u32(*leaked).finish()
            }
            Self::Verify { block, key, hash } => {
                Writer::kind(14).u64(*block).raw(key).raw(hash).finish()
            }
            Self::Verified { block, pad } => {
                Writer::kind(15).u64(*block).u64(pad.segment).u32(pad.slot).finish()
            }
            Self::Propose(propose) => [propose.signed_part(), propose.tag.to_vec()].concat(),
            Self::Drop { block, reason } => {
                Writer::kind(17).u64(*block).u8(reason.number()).finish()
            }
        }
    }

    /// Decodes one frame, all of it.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(frame);
        let message = match r.u8()? {
            1 => Self::Greet(Greet::read(&mut r)?),
            2 => Self::Prove(Prove::read(&mut r)?),
            3 => Self::Detections(Detections::read(&mut r)?),
            4 => Self::Announcements { batch: Batch::read(&mut r)?, said: r.bytes()?.to_vec() },
            5 => Self::Conclusive { batch: Batch::read(&mut r)?, mask: r.bytes()?.to_vec() },
            6 => Self::Sample {
                batch: Batch::read(&mut r)?,
                positions: read_all(&mut r, 4, Reader::u32)?,
                bits: r.bytes()?.to_vec(),
                tests: r.bytes()?.to_vec(),
            },
            7 => Self::SampleErrors {
                batch: Batch::read(&mut r)?,
                errors: r.u32()?,
                tests: read_three(&mut r)?,
            },
            8 => Self::Close(Close {
                block: r.u64()?,
                sifted: r.u32()?,
                estimate: r.fraction("estimate")?,
                permutation: r.array()?,
            }),
            9 => Self::Parities { block: r.u64()?, bits: r.bytes()?.to_vec() },
            10 => Self::Differences { block: r.u64()?, bits: r.bytes()?.to_vec() },
            // 11 and 12 asked for ranges and answered in version 1.
            13 => {
                Self::Corrected { block: r.u64()?, errors: read_three(&mut r)?, leaked: r.u32()? }
            }
            14 => Self::Verify { block: r.u64()?, key: r.array()?, hash: r.array()? },
            15 => Self::Verified { block: r.u64()?, pad: PadName::read(&mut r)? },
            16 => Self::Propose(Propose::read(&mut r)?),
            17 => Self::Drop { block: r.u64()?, reason: DropReason::from_number(r.u8()?)? },
            kind => return Err(DecodeError::Kind(kind)),
        };
        r.finish()?;
        Ok(message)
    }
}

impl Greet {
    /// Encodes the greeting; both greetings go under the proof.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::kind(1)
            .u16(self.version)
            .site(self.site)
            .raw(&self.nonce)
            .raw(&self.preset)
            .finish()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { version: r.u16()?, site: r.site()?, nonce: r.array()?, preset: r.array()? })
    }
}

impl Prove {
    /// Returns the bytes that the proof covers beside the greetings.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let marks = [self.accepted, self.reserved].into_iter().fold(Writer::new(), |w, mark| {
            let name = mark.unwrap_or_default();
            w.flag(mark.is_some()).u64(name.segment).u32(name.slot)
        });
        let start = marks.u64(self.first_block).count(self.segments.len());
        let segments = self.segments.iter().fold(start, |w, &(a, b)| w.u64(a).u64(b));
        let start = segments.count(self.hash_keys.len());
        self.hash_keys.iter().fold(start, |w, &key| w.u64(key)).finish()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mac = r.array()?;
        let mut mark = || Ok((r.flag()?, PadName::read(r)?));
        let marks: [(bool, PadName); 2] = [mark()?, mark()?];
        let [accepted, reserved] = marks.map(|(any, name)| any.then_some(name));
        let first_block = r.u64()?;
        let segments = read_all(r, 16, |r| Ok((r.u64()?, r.u64()?)))?;
        let hash_keys = read_all(r, 8, Reader::u64)?;
        Ok(Self { mac, accepted, reserved, segments, hash_keys, first_block })
    }
}

impl Batch {
    fn start(self, kind: u8) -> Writer {
        Writer::kind(kind).u64(self.block).u32(self.number)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { block: r.u64()?, number: r.u32()? })
    }
}

impl Detections {
    /// Tells whether the clicks are of one window of `window` pulses that begins at `after` or later,
    /// each beyond the `dead` pulses of the one before.
    #[must_use]
    pub fn fits_window(&self, after: u64, window: u64, dead: u64) -> bool {
        let begin = self.end.saturating_sub(window);
        begin >= after
            && self.pulses.first().is_none_or(|&first| first >= begin)
            && self.pulses.is_sorted_by(|before, next| next.saturating_sub(*before) > dead)
    }

    /// Gaps between clicks are written seven bits a byte: most take one or two bytes.
    fn encode(&self) -> Vec<u8> {
        let first = self.pulses.first().copied().unwrap_or(self.end);
        let mut out = self
            .batch
            .start(3)
            .u64(self.light)
            .u64(self.end)
            .u64(first)
            .count(self.pulses.len())
            .finish();
        for pair in self.pulses.windows(2) {
            if let [before, after] = pair {
                write_varint(&mut out, after.saturating_sub(*before));
            }
        }
        out
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let batch = Batch::read(r)?;
        let (light, end, first) = (r.u64()?, r.u64()?, r.u64()?);
        let count = r.u32()?;
        let mut pulses = Vec::new();
        let mut pulse = first;
        for n in 0..count {
            if n > 0 {
                let gap = read_varint(r)?;
                pulse =
                    pulse.checked_add(gap).filter(|_| gap > 0).ok_or(DecodeError::Field("gap"))?;
            }
            if pulse >= end {
                return Err(DecodeError::Field("pulse"));
            }
            pulses.push(pulse);
        }
        Ok(Self { batch, light, end, pulses })
    }
}

impl PadName {
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { segment: r.u64()?, slot: r.u32()? })
    }
}

impl Propose {
    /// Returns the frame without its tag: the last bytes of the transcript under the tag.
    #[must_use]
    pub fn signed_part(&self) -> Vec<u8> {
        let start = Writer::kind(16)
            .u64(self.block)
            .u32(self.secret)
            .u16(self.pads)
            .flag(self.renews_hash_keys)
            .bytes(&self.seed)
            .count(self.keys.len());
        let keys = self.keys.iter().fold(start, |w, (id, owner)| w.raw(id.as_bytes()).site(*owner));
        keys.u64(self.hash_key).u64(self.pad.segment).u32(self.pad.slot).finish()
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            block: r.u64()?,
            secret: r.u32()?,
            pads: r.u16()?,
            renews_hash_keys: r.flag()?,
            seed: r.bytes()?.to_vec(),
            keys: read_all(r, 17, |r| Ok((r.key_id()?, r.site()?)))?,
            hash_key: r.u64()?,
            pad: PadName::read(r)?,
            tag: r.array()?,
        })
    }
}

fn write_three(writer: Writer, counts: &[u32; 3]) -> Writer {
    counts.iter().fold(writer, |w, &count| w.u32(count))
}

fn read_three(r: &mut Reader<'_>) -> Result<[u32; 3], DecodeError> {
    Ok([r.u32()?, r.u32()?, r.u32()?])
}

fn read_all<'a, T>(
    r: &mut Reader<'a>,
    entry_bytes: usize,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = r.count(entry_bytes)?;
    (0..count).map(|_| read(r)).collect()
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7F).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn read_varint(r: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let byte = r.u8()?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Field("gap"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch() -> Batch {
        Batch { block: 3, number: 2 }
    }

    fn examples() -> Vec<Message> {
        vec![
            Message::Greet(Greet { version: 2, site: Site::A, nonce: [1; 32], preset: [2; 32] }),
            Message::Prove(Prove {
                mac: [3; 32],
                accepted: Some(PadName { segment: 0, slot: 9 }),
                reserved: None,
                segments: vec![(0, 0), (4, 9)],
                hash_keys: vec![0, 256],
                first_block: 10,
            }),
            Message::Announcements { batch: batch(), said: vec![1, 2] },
            Message::Conclusive { batch: batch(), mask: vec![] },
            Message::Sample {
                batch: batch(),
                positions: vec![4, 70],
                bits: vec![3],
                tests: vec![7],
            },
            Message::SampleErrors { batch: batch(), errors: 1, tests: [3, 2, 0] },
            Message::Close(Close {
                block: 3,
                sifted: 100_123,
                estimate: Fraction::clamped(0.015),
                permutation: [4; 32],
            }),
            Message::Parities { block: 3, bits: vec![9] },
            Message::Differences { block: 3, bits: vec![1] },
            Message::Corrected { block: 3, errors: [1500, 30, 0], leaked: 13_000 },
            Message::Verify { block: 3, key: [5; 16], hash: [6; 8] },
            Message::Verified { block: 3, pad: PadName { segment: 0, slot: 4 } },
            Message::Propose(Propose {
                block: 3,
                secret: 36_000,
                pads: 1,
                renews_hash_keys: true,
                seed: vec![7; 40],
                keys: vec![(KeyId::from_bytes([8; 16]), Site::B)],
                hash_key: 0,
                pad: PadName { segment: 2, slot: 0 },
                tag: [9; 16],
            }),
            Message::Drop { block: 3, reason: DropReason::NotCommitted },
        ]
    }

    #[test]
    fn every_message_survives_its_frame() {
        for message in examples() {
            let frame = message.encode();
            assert_eq!(Message::decode(&frame), Ok(message.clone()), "{message:?}");
            assert!(Message::decode(&frame[..frame.len() - 1]).is_err(), "cut: {message:?}");
            assert!(Message::decode(&[frame, vec![0]].concat()).is_err(), "longer: {message:?}");
        }
    }

    #[test]
    fn clicks_that_do_not_rise_or_lie_beyond_the_window_are_refused() {
        for (end, pulses) in [(10, vec![4, 4]), (10, vec![4, 10])] {
            let frame =
                Message::Detections(Detections { batch: batch(), light: 1, end, pulses }).encode();
            assert!(Message::decode(&frame).is_err());
        }
    }

    proptest! {
        #[test]
        fn clicks_survive_their_frame(gaps in prop::collection::vec(1_u64..1 << 20, 0..50), light: u64) {
            let pulses: Vec<u64> = gaps.iter().scan(7, |at, gap| { *at += gap; Some(*at) }).collect();
            let end = pulses.last().map_or(9, |last| last + 1);
            let message = Message::Detections(Detections { batch: batch(), light, end, pulses });
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn decoding_never_panics(kind in 0_u8..20, bytes: Vec<u8>) {
            let frame = [vec![kind], bytes].concat();
            if let Ok(message) = Message::decode(&frame) {
                // A padding bit or an over-long gap may be written shorter, never differently read.
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
