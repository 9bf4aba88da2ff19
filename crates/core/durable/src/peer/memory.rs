//! What a side remembers of both streams, and how two memories are compared (`PROTOCOL.md`, HELLO).

use claviger_wire::DecodeError;
use claviger_wire::cursor::{Reader, Writer};
use claviger_wire::peer::{Forgetful, Hello, Tally, Verdict};
use rand_core::Rng;
use sha2::{Digest, Sha256};

use super::draw;
use crate::engine::{EngineError, Table, Tx};

/// What I remember, as the judgement needs it.
pub(super) struct Memory<'a> {
    pub(super) own: &'a Own,
    pub(super) seen: Tally,
    pub(super) hash_at_their_seen: Option<[u8; 32]>,
}

/// The two rules of HELLO (`PROTOCOL.md`), once for each side.
pub(super) fn compare(mine: &Memory<'_>, hello: &Hello) -> Verdict {
    let Memory { own, seen, hash_at_their_seen } = *mine;
    let empty = |sent: Tally, seen: Tally| sent.seq == 0 && seen.seq == 0;
    match (empty(own.sent, seen), empty(hello.sent, hello.seen)) {
        (true, true) => return Verdict::Agreed,
        // One side has begun anew and the other has yet to: who did so first says why.
        (true, false) if own.generation > hello.generation => match own.anew {
            Forgetful::Sender => return Verdict::SenderRolledBack,
            Forgetful::Receiver => return Verdict::ReceiverRolledBack,
            Forgetful::Nobody => {}
        },
        (false, true) if hello.generation > own.generation => match hello.anew {
            Forgetful::Sender => return Verdict::ReceiverRolledBack,
            Forgetful::Receiver => return Verdict::SenderRolledBack,
            Forgetful::Nobody => {}
        },
        _ => {}
    }
    let i_forgot = own.generation < hello.generation
        || (own.generation == hello.generation
            && (hello.seen.seq > own.sent.seq
                || seen.seq < hello.acked
                || hash_at_their_seen.is_some_and(|hash| hash != hello.seen.hash)));
    let they_forgot = hello.generation < own.generation
        || hello.sent.seq < seen.seq
        || hello.seen.seq < own.acked.seq
        || (hello.sent.seq == seen.seq && hello.sent.hash != seen.hash);
    match (i_forgot, they_forgot) {
        (true, _) => Verdict::SenderRolledBack,
        (false, true) => Verdict::ReceiverRolledBack,
        (false, false) => Verdict::Agreed,
    }
}

/// My side of the streams, as the store holds it.
#[derive(Clone, Copy, Default)]
pub(super) struct Own {
    pub(super) store: [u8; 16],
    pub(super) generation: u32,
    pub(super) anew: Forgetful,
    pub(super) sent: Tally,
    pub(super) acked: Tally,
}

impl Own {
    pub(super) fn drawn(self, rng: &mut impl Rng) -> Self {
        Self { store: draw(rng), ..self }
    }

    pub(super) fn read(tx: &dyn Tx, meta: Table) -> Result<Option<Self>, EngineError> {
        let Some(row) = tx.read(meta, OWN)? else { return Ok(None) };
        let parse = |mut reader: Reader<'_>| -> Result<Self, DecodeError> {
            let own = Self {
                store: reader.array()?,
                generation: reader.u32()?,
                anew: Forgetful::from_byte(reader.u8()?)?,
                sent: Tally { seq: reader.u64()?, hash: reader.array()? },
                acked: Tally { seq: reader.u64()?, hash: reader.array()? },
            };
            reader.finish().map(|()| own)
        };
        parse(Reader::new(row.expose())).map(Some).or(Err(EngineError::Damaged(meta.name)))
    }

    pub(super) fn written(self, tx: &mut dyn Tx, meta: Table) -> Result<Self, EngineError> {
        let Self { store, generation, anew, sent, acked } = &self;
        let row = Writer::new().raw(store).u32(*generation).u8(anew.to_byte());
        let row = row.u64(sent.seq).raw(&sent.hash).u64(acked.seq).raw(&acked.hash).finish();
        tx.write(meta, OWN, &row)?;
        Ok(self)
    }
}

/// Whether a process of the peer's store may speak.
#[derive(PartialEq, Eq)]
pub(super) enum Acquaintance {
    Current,
    Superseded,
}

/// The processes of the peer's store that have spoken: the store, whether two of them speak by
/// turns, and their ids, the newest last.
pub(super) struct Boots {
    store: [u8; 16],
    doubled: bool,
    boots: Vec<[u8; 16]>,
}

impl Boots {
    /// Notes who speaks; a process that speaks after its successor did shows that there are two.
    pub(super) fn meet(
        tx: &mut dyn Tx,
        meta: Table,
        hello: &Hello,
    ) -> Result<Acquaintance, EngineError> {
        let known = Self::read(tx, meta)?.filter(|known| known.store == hello.store);
        let fresh = Self { store: hello.store, doubled: false, boots: Vec::new() };
        let mut known = known.unwrap_or(fresh);
        let newest = known.boots.last() == Some(&hello.boot);
        if !newest {
            known.doubled |= known.boots.contains(&hello.boot);
            known.boots.push(hello.boot);
            let excess = known.boots.len().saturating_sub(REMEMBERED_BOOTS);
            known.boots.drain(..excess);
            known.write(tx, meta)?;
        }
        Ok(if known.doubled { Acquaintance::Superseded } else { Acquaintance::Current })
    }

    fn read(tx: &dyn Tx, meta: Table) -> Result<Option<Self>, EngineError> {
        let Some(row) = tx.read(meta, BOOTS)? else { return Ok(None) };
        let parse = |mut reader: Reader<'_>| -> Result<Self, DecodeError> {
            let (store, doubled) = (reader.array()?, reader.u8()? != 0);
            let n_boots = reader.count(16)?;
            let boots = (0..n_boots).map(|_| reader.array()).collect::<Result<_, _>>()?;
            reader.finish().map(|()| Self { store, doubled, boots })
        };
        parse(Reader::new(row.expose())).map(Some).or(Err(EngineError::Damaged(meta.name)))
    }

    fn write(&self, tx: &mut dyn Tx, meta: Table) -> Result<(), EngineError> {
        let row = Writer::new().raw(&self.store).u8(u8::from(self.doubled));
        let row = row.count(self.boots.len()).raw(&self.boots.concat()).finish();
        tx.write(meta, BOOTS, &row)
    }
}

/// Returns the tally with one record more.
pub(super) fn extended(tally: Tally, body: &[u8]) -> Tally {
    let hash = Sha256::new().chain_update(tally.hash).chain_update(body).finalize().into();
    Tally { seq: tally.seq + 1, hash }
}

pub(super) fn read_seen(tx: &dyn Tx, meta: Table) -> Result<Tally, EngineError> {
    let Some(row) = tx.read(meta, SEEN)? else { return Ok(Tally::default()) };
    let parse = |mut reader: Reader<'_>| -> Result<Tally, DecodeError> {
        let tally = Tally { seq: reader.u64()?, hash: reader.array()? };
        reader.finish().map(|()| tally)
    };
    parse(Reader::new(row.expose())).or(Err(EngineError::Damaged(meta.name)))
}

pub(super) fn write_seen(tx: &mut dyn Tx, meta: Table, seen: Tally) -> Result<(), EngineError> {
    tx.write(meta, SEEN, &Writer::new().u64(seen.seq).raw(&seen.hash).finish())
}

const OWN: &[u8] = b"own";
const SEEN: &[u8] = b"seen";
const BOOTS: &[u8] = b"boots";
/// How many processes of the peer are remembered; an older one that still speaks is not noticed.
const REMEMBERED_BOOTS: usize = 64;

/// Forgets that anybody has spoken.
pub(super) fn forget_boots(tx: &mut dyn Tx, meta: Table) -> Result<(), EngineError> {
    tx.erase(meta, BOOTS)
}

/// Forgets what the peer has said.
pub(super) fn forget_seen(tx: &mut dyn Tx, meta: Table) -> Result<(), EngineError> {
    tx.erase(meta, SEEN)
}
