//! What two KMEs tell each other: records about blocks and keys, and hints (`PROTOCOL.md` P1, P2).
//!
//! A format of our own: one kind byte, then big-endian fields. Bodies of the records and hints of
//! [`peer`](crate::peer). No key byte ever travels here: only names.

use claviger_security::SecurityClaim;
use claviger_units::{Bits, KeyId, OwnerRatio, SaeId, Site};

use crate::cursor::{DecodeError, Reader, Writer};

/// The place of a key, equal at both ends; keys leave in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// How often the two stores have been begun anew.
    pub generation: u32,
    /// The block that made the key.
    pub block: u64,
    /// Its place in the block.
    pub index: u32,
}

/// A durable record between two KMEs, applied in order, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteRecord {
    /// Bob holds the block, pending.
    Ready {
        /// The block.
        block: u64,
        /// What proves that Bob accepted this very block on the classical channel.
        acceptance: [u8; 32],
        /// What Bob's node claims of its keys; Alice's must claim the same.
        claim: Option<SecurityClaim>,
    },
    /// Alice holds the block too: its keys are available.
    Commit {
        /// The block.
        block: u64,
        /// How the buffers are split from this block on.
        ratio: OwnerRatio,
    },
    /// Alice does not hold the block any more: erase it.
    Abort {
        /// The block.
        block: u64,
    },
    /// Bob has made the block's keys available.
    Done {
        /// The block.
        block: u64,
    },
    /// Keys of the sender were handed to a master.
    Notice(Notice),
    /// The owner erased these keys of its own: they were displaced, or burnt after a start.
    Displaced {
        /// The keys.
        ids: Vec<KeyId>,
    },
    /// A slave has taken its copies.
    Taken {
        /// The master they were handed to.
        master: SaeId,
        /// The slave.
        slave: SaeId,
        /// The keys.
        ids: Vec<KeyId>,
    },
    /// Nobody fetched a key in time: its bytes are erased.
    Expired {
        /// The master it was handed to.
        master: SaeId,
        /// The slaves that did not come.
        slaves: Vec<SaeId>,
        /// The key.
        id: KeyId,
    },
}

/// What was handed out, and for whom the receiver keeps its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The application that got the keys.
    pub master: SaeId,
    /// The receiver's applications that may fetch them; none means erase.
    pub slaves: Vec<SaeId>,
    /// The size of each delivered key; what its members hold beyond it is destroyed.
    pub size: Bits,
    /// The members of each delivered key; the first gives it its name.
    pub keys: Vec<Vec<KeyId>>,
}

/// A message between two KMEs that may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteHint {
    /// Keep this limit for me: I hand out my own keys only up to it.
    Limit(Option<Position>),
    /// I keep this limit for you, durably.
    Kept(Option<Position>),
    /// Send every record up to here.
    Flush {
        /// Repeated in the answer.
        token: u64,
    },
    /// All records made before the question have been sent before this.
    Flushed {
        /// The token of the question.
        token: u64,
    },
    /// How many keys the sender has handed out lately.
    Demand {
        /// The keys.
        n_keys: u64,
    },
}

impl SiteRecord {
    /// Returns the record as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready { block, acceptance, claim } => {
                Writer::kind(READY).u64(*block).raw(acceptance).claim(*claim).finish()
            }
            Self::Commit { block, ratio } => {
                put_ratio(Writer::kind(COMMIT).u64(*block), *ratio).finish()
            }
            Self::Abort { block } => Writer::kind(ABORT).u64(*block).finish(),
            Self::Done { block } => Writer::kind(DONE).u64(*block).finish(),
            Self::Notice(Notice { master, slaves, size, keys }) => {
                let writer = put_saes(put_sae(Writer::kind(NOTICE), master), slaves);
                let writer = writer.u64(size.count()).count(keys.len());
                keys.iter().fold(writer, |writer, members| put_ids(writer, members)).finish()
            }
            Self::Displaced { ids } => put_ids(Writer::kind(DISPLACED), ids).finish(),
            Self::Taken { master, slave, ids } => {
                put_ids(put_sae(put_sae(Writer::kind(TAKEN), master), slave), ids).finish()
            }
            Self::Expired { master, slaves, id } => {
                let writer = put_saes(put_sae(Writer::kind(EXPIRED), master), slaves);
                writer.raw(id.as_bytes()).finish()
            }
        }
    }

    /// Reads one record that fills `input`.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(input);
        let r = &mut reader;
        let record = match r.u8()? {
            READY => Self::Ready { block: r.u64()?, acceptance: r.array()?, claim: r.claim()? },
            COMMIT => Self::Commit { block: r.u64()?, ratio: read_ratio(r)? },
            ABORT => Self::Abort { block: r.u64()? },
            DONE => Self::Done { block: r.u64()? },
            NOTICE => Self::Notice(Notice {
                master: r.sae_id()?,
                slaves: read_saes(r)?,
                size: Bits::new(r.u64()?),
                keys: (0..r.count(4)?).map(|_| read_ids(r)).collect::<Result<_, _>>()?,
            }),
            DISPLACED => Self::Displaced { ids: read_ids(r)? },
            TAKEN => Self::Taken { master: r.sae_id()?, slave: r.sae_id()?, ids: read_ids(r)? },
            EXPIRED => {
                Self::Expired { master: r.sae_id()?, slaves: read_saes(r)?, id: r.key_id()? }
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(record)
    }
}

impl SiteHint {
    /// Returns the hint as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Limit(limit) => put_limit(Writer::kind(LIMIT), *limit).finish(),
            Self::Kept(limit) => put_limit(Writer::kind(KEPT), *limit).finish(),
            Self::Flush { token } => Writer::kind(FLUSH).u64(*token).finish(),
            Self::Flushed { token } => Writer::kind(FLUSHED).u64(*token).finish(),
            Self::Demand { n_keys } => Writer::kind(DEMAND).u64(*n_keys).finish(),
        }
    }

    /// Reads one hint that fills `input`.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(input);
        let hint = match reader.u8()? {
            LIMIT => Self::Limit(read_limit(&mut reader)?),
            KEPT => Self::Kept(read_limit(&mut reader)?),
            FLUSH => Self::Flush { token: reader.u64()? },
            FLUSHED => Self::Flushed { token: reader.u64()? },
            DEMAND => Self::Demand { n_keys: reader.u64()? },
            kind => return Err(DecodeError::Kind(kind)),
        };
        reader.finish()?;
        Ok(hint)
    }
}

impl Position {
    /// Appends the position; as bytes it sorts as it does as a value.
    #[must_use]
    pub fn put(self, writer: Writer) -> Writer {
        writer.u32(self.generation).u64(self.block).u32(self.index)
    }

    /// Reads a position.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { generation: reader.u32()?, block: reader.u64()?, index: reader.u32()? })
    }
}

fn put_limit(writer: Writer, limit: Option<Position>) -> Writer {
    match limit {
        Some(position) => position.put(writer.u8(1)),
        None => writer.u8(0),
    }
}

fn read_limit(reader: &mut Reader<'_>) -> Result<Option<Position>, DecodeError> {
    match reader.u8()? {
        0 => Ok(None),
        1 => Position::read(reader).map(Some),
        _ => Err(DecodeError::Field("limit")),
    }
}

/// Appends how many of 64 keys go to site B.
pub(crate) fn put_ratio(writer: Writer, ratio: OwnerRatio) -> Writer {
    writer.u8(ratio.in_64(Site::B))
}

pub(crate) fn read_ratio(reader: &mut Reader<'_>) -> Result<OwnerRatio, DecodeError> {
    match reader.u8()? {
        0 => Ok(OwnerRatio::ALL_TO_A),
        parts @ 1..64 => Ok(OwnerRatio::from_64ths_of_b(parts.into())),
        _ => Err(DecodeError::Field("share of B")),
    }
}

fn put_sae(writer: Writer, sae: &SaeId) -> Writer {
    writer.bytes(sae.as_str().as_bytes())
}

fn put_saes(writer: Writer, saes: &[SaeId]) -> Writer {
    saes.iter().fold(writer.count(saes.len()), put_sae)
}

fn read_saes(reader: &mut Reader<'_>) -> Result<Vec<SaeId>, DecodeError> {
    (0..reader.count(4)?).map(|_| reader.sae_id()).collect()
}

fn put_ids(writer: Writer, ids: &[KeyId]) -> Writer {
    ids.iter().fold(writer.count(ids.len()), |writer, id| writer.raw(id.as_bytes()))
}

fn read_ids(reader: &mut Reader<'_>) -> Result<Vec<KeyId>, DecodeError> {
    (0..reader.count(16)?).map(|_| reader.key_id()).collect()
}

const READY: u8 = 1;
const COMMIT: u8 = 2;
const ABORT: u8 = 3;
const DONE: u8 = 4;
const NOTICE: u8 = 5;
const DISPLACED: u8 = 6;
const TAKEN: u8 = 7;
const EXPIRED: u8 = 8;

const LIMIT: u8 = 1;
const KEPT: u8 = 2;
const FLUSH: u8 = 3;
const FLUSHED: u8 = 4;
const DEMAND: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_sae() -> impl Strategy<Value = SaeId> {
        "[a-zA-Z0-9_-]{1,20}".prop_map(|text| text.parse().unwrap())
    }

    fn any_ids() -> impl Strategy<Value = Vec<KeyId>> {
        prop::collection::vec(any::<[u8; 16]>().prop_map(KeyId::from_bytes), 0..5)
    }

    fn any_claim() -> impl Strategy<Value = Option<SecurityClaim>> {
        prop::option::of(prop::sample::select(SecurityClaim::ALL.to_vec()))
    }

    fn any_record() -> impl Strategy<Value = SiteRecord> {
        let saes = || prop::collection::vec(any_sae(), 0..4);
        let keys = prop::collection::vec(any_ids(), 0..4);
        prop_oneof![
            (any::<u64>(), any::<[u8; 32]>(), any_claim()).prop_map(
                |(block, acceptance, claim)| SiteRecord::Ready { block, acceptance, claim }
            ),
            (any::<u64>(), any::<u64>()).prop_map(|(block, parts)| {
                SiteRecord::Commit { block, ratio: OwnerRatio::from_64ths_of_b(parts) }
            }),
            any::<u64>().prop_map(|block| SiteRecord::Abort { block }),
            any::<u64>().prop_map(|block| SiteRecord::Done { block }),
            (any_sae(), saes(), any::<u64>(), keys).prop_map(|(master, slaves, bits, keys)| {
                SiteRecord::Notice(Notice { master, slaves, size: Bits::new(bits), keys })
            }),
            any_ids().prop_map(|ids| SiteRecord::Displaced { ids }),
            (any_sae(), any_sae(), any_ids()).prop_map(|(master, slave, ids)| SiteRecord::Taken {
                master,
                slave,
                ids
            }),
            (any_sae(), saes(), any::<[u8; 16]>()).prop_map(|(master, slaves, id)| {
                SiteRecord::Expired { master, slaves, id: KeyId::from_bytes(id) }
            }),
        ]
    }

    fn any_hint() -> impl Strategy<Value = SiteHint> {
        let limit = || {
            prop::option::of(
                (any::<u32>(), any::<u64>(), any::<u32>())
                    .prop_map(|(generation, block, index)| Position { generation, block, index }),
            )
        };
        prop_oneof![
            limit().prop_map(SiteHint::Limit),
            limit().prop_map(SiteHint::Kept),
            any::<u64>().prop_map(|token| SiteHint::Flush { token }),
            any::<u64>().prop_map(|token| SiteHint::Flushed { token }),
            any::<u64>().prop_map(|n_keys| SiteHint::Demand { n_keys }),
        ]
    }

    #[test]
    fn a_commit_has_these_bytes() {
        let commit = SiteRecord::Commit { block: 5, ratio: OwnerRatio::INITIAL };
        assert_eq!(commit.encode(), [2, 0, 0, 0, 0, 0, 0, 0, 5, 8]);
    }

    #[test]
    fn hostile_fields_are_refused() {
        let check = |bytes: &[u8], expected| assert_eq!(SiteRecord::decode(bytes), Err(expected));
        let all_to_a = SiteRecord::Commit { block: 5, ratio: OwnerRatio::ALL_TO_A };
        assert_eq!(SiteRecord::decode(&[COMMIT, 0, 0, 0, 0, 0, 0, 0, 5, 0]), Ok(all_to_a));
        check(&[COMMIT, 0, 0, 0, 0, 0, 0, 0, 5, 64], DecodeError::Field("share of B"));
        let ready = [&[READY][..], &[0; 8], &[3; 32], &[4]].concat();
        check(&ready, DecodeError::Field("claim"));
        check(&[DONE, 0, 0, 0, 0, 0, 0, 0, 5, 1], DecodeError::Trailing { extra: 1 });
        check(&[TAKEN, 0, 0, 0, 1, b' '], DecodeError::Field("SAE id"));
        assert!(SiteRecord::decode(&[DISPLACED, 255, 255, 255, 255]).is_err());
        assert_eq!(SiteHint::decode(&[LIMIT, 2]), Err(DecodeError::Field("limit")));
    }

    proptest! {
        #[test]
        fn records_survive_their_bytes(record in any_record()) {
            prop_assert_eq!(SiteRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn hints_survive_their_bytes(hint in any_hint()) {
            prop_assert_eq!(SiteHint::decode(&hint.encode()), Ok(hint));
        }

        #[test]
        fn decoding_never_panics(bytes: Vec<u8>, kind in 0u8..10) {
            let body = [&[kind], bytes.as_slice()].concat();
            drop(SiteRecord::decode(&body));
            let _ = SiteHint::decode(&body);
        }

        #[test]
        fn positions_sort_as_their_bytes(a: (u32, u64, u32), b: (u32, u64, u32)) {
            let [a, b] = [a, b].map(|(generation, block, index)| Position { generation, block, index });
            let bytes = |p: Position| p.put(Writer::new()).finish();
            prop_assert_eq!(a.cmp(&b), bytes(a).cmp(&bytes(b)));
        }
    }
}
