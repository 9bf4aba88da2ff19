//! The record stream between two sites, and the HELLO that notices a rolled-back side.
//!
//! Each side writes its records into an outbox within the transaction that makes them true, sends
//! them in order, and repeats them after every reconnect until they are acknowledged. The receiver
//! applies a record in one transaction with its sequence number, so each is applied exactly once.
//! At every connection both sides say what they remember of both streams (`PROTOCOL.md`, HELLO);
//! a side that was restored from an older copy cannot hide it, and nothing is served until both
//! sides are reset.
//!
//! All counters live in the store and are read from it; a [`Peer`] holds only the session.

mod memory;

use core::fmt;
use std::collections::VecDeque;

use claviger_wire::DecodeError;
use claviger_wire::cursor::Writer;
pub use claviger_wire::peer::Forgetful;
use claviger_wire::peer::{Hello, PeerMessage, Tally, Verdict};
use rand_core::Rng;

use self::memory::{
    Acquaintance, Boots, Memory, Own, compare, extended, forget_boots, forget_seen, read_seen,
    write_seen,
};
use crate::engine::{EngineError, Table, Tx};

/// The two tables of one record stream; no one else writes into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTables {
    /// Counters and running hashes of both directions.
    pub meta: Table,
    /// Records that the peer has not acknowledged yet; a secret table where records hold secrets.
    pub outbox: Table,
}

/// Where the session with the peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// No connection: records wait in the outbox.
    Apart,
    /// Connected; the two memories are being compared.
    Greeting,
    /// Both memories fit: records and hints flow.
    Open,
    /// One side was restored from an older copy: serve nothing, reset both sites.
    RolledBack {
        /// Whether it was this side.
        mine: bool,
    },
    /// The same store runs in two processes: serve nothing, stop one, reset both sites.
    Superseded,
}

/// What the owner of the stream must act upon, in the transaction of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The session is open; [`Peer::acked`] and [`Peer::generation`] may have risen.
    Opened,
    /// The next record of the peer: apply it in this transaction.
    Record(Vec<u8>),
    /// A hint of the peer.
    Hint(Vec<u8>),
    /// The peer has applied all of my records up to this one.
    Acked(u64),
}

/// Why a message of the peer was refused: drop the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer speaks another version, or is no peer.
    #[error("the peer sent a message that cannot be read")]
    Decode(#[from] DecodeError),
    /// A message that does not belong here; the peer is wrong.
    #[error("the peer sent {0}, which does not belong at this point of the session")]
    Unexpected(&'static str),
    /// A record is missing; the next connection repeats it.
    #[error("record {got} came where record {expected} was due")]
    Gap {
        /// The next record in order.
        expected: u64,
        /// The record that came.
        got: u64,
    },
    /// The peer acknowledges what was never sent; the next HELLO will tell why.
    #[error("the peer acknowledged record {got}, but the last one sent is {last}")]
    Unsent {
        /// The last record there is.
        last: u64,
        /// The record that was acknowledged.
        got: u64,
    },
    /// The store failed: throw this core away and open it again.
    #[error(transparent)]
    Store(#[from] EngineError),
}

/// One end of a record stream between two sites.
///
/// Two rules for its owner: after [`append`](Self::append) only an [`EngineError`] may still end
/// the transaction, because the record already waits to be sent; and if applying a delivered
/// record fails, call [`handle_disconnected`](Self::handle_disconnected) before returning the
/// error, because its acknowledgement must not leave.
///
/// ```
/// use claviger_durable::peer::{Delivery, Peer, PeerError, PeerTables, Session};
/// use claviger_durable::{Engine, MemoryEngine, Table};
/// use rand::{SeedableRng, rngs::StdRng};
///
/// let tables = PeerTables { meta: Table::plain("peer_meta"), outbox: Table::plain("peer_outbox") };
/// let mut rng = StdRng::seed_from_u64(1);
/// let mut stores = [MemoryEngine::new(), MemoryEngine::new()];
/// let [a, b] = stores.each_mut().map(|s| s.transact(|tx| Peer::open(tx, tables, &mut rng)));
/// let mut peers = [a?, b?];
/// stores[0].transact(|tx| peers[0].append(tx, b"key 7 is taken"))?;
///
/// peers.iter_mut().for_each(|peer| peer.handle_connected(&mut rng));
/// let mut applied = Vec::new();
/// for from in [0, 1].into_iter().cycle().take(12) {
///     while let Some(bytes) = peers[from].poll_transmit() {
///         let to = 1 - from;
///         let got = stores[to].transact(|tx| peers[to].handle_message(tx, &bytes))?;
///         applied.extend(got.filter(|d| matches!(d, Delivery::Record(_))));
///     }
/// }
/// assert_eq!(applied, [Delivery::Record(b"key 7 is taken".to_vec())]);
/// assert_eq!((peers[0].session(), peers[0].acked()), (Session::Open, 1));
/// # Ok::<(), PeerError>(())
/// ```
pub struct Peer {
    tables: PeerTables,
    boot: [u8; 16],
    session: Session,
    nonce: [u8; 16],
    // The records of mine that the peer had seen, once its HELLO has been judged.
    judged: Option<u64>,
    transmit: VecDeque<Vec<u8>>,
    ack_due: Option<u64>,
    // Copies of what the store holds, for callers without a transaction.
    generation: u32,
    sent: u64,
    acked: u64,
    // Why either side says that the streams were begun anew: mine, and what its last HELLO said.
    anew: Forgetful,
    their_anew: Forgetful,
    their_generation: u32,
}

impl Peer {
    /// Opens the stream in its store and draws the id of this process.
    pub fn open(
        tx: &mut dyn Tx,
        tables: PeerTables,
        rng: &mut impl Rng,
    ) -> Result<Self, EngineError> {
        let own = match Own::read(tx, tables.meta)? {
            Some(own) => own,
            None => Own::default().drawn(rng).written(tx, tables.meta)?,
        };
        Ok(Self {
            tables,
            boot: draw(rng),
            session: Session::Apart,
            nonce: [0; 16],
            judged: None,
            transmit: VecDeque::new(),
            ack_due: None,
            generation: own.generation,
            sent: own.sent.seq,
            acked: own.acked.seq,
            anew: own.anew,
            their_anew: Forgetful::Nobody,
            their_generation: 0,
        })
    }

    /// Begins a session on a new connection; an older connection counts for nothing from here.
    pub fn handle_connected(&mut self, rng: &mut impl Rng) {
        self.handle_disconnected();
        self.nonce = draw(rng);
        self.session = Session::Greeting;
        self.send(&PeerMessage::Challenge { nonce: self.nonce });
    }

    /// Ends the session; what waited to be sent is dropped and repeated later if it was a record.
    pub fn handle_disconnected(&mut self) {
        self.transmit.clear();
        self.ack_due = None;
        self.judged = None;
        self.session = Session::Apart;
    }

    /// Handles one message of the peer; a returned record is to be applied in the same `tx`.
    pub fn handle_message(
        &mut self,
        tx: &mut dyn Tx,
        bytes: &[u8],
    ) -> Result<Option<Delivery>, PeerError> {
        match PeerMessage::decode(bytes)? {
            PeerMessage::Challenge { nonce } => self.answer(tx, nonce).map(|()| None),
            PeerMessage::Hello(hello) => self.judge(tx, &hello).map(|()| None),
            PeerMessage::Verdict(verdict) => self.settle(tx, verdict),
            PeerMessage::Record { seq, body } => self.take_record(tx, seq, body),
            PeerMessage::Ack { seq } => self.take_ack(tx, seq),
            PeerMessage::Hint { body } => {
                self.only_open("a hint")?;
                Ok(Some(Delivery::Hint(body)))
            }
        }
    }

    /// Appends a record in the caller's transaction and returns its sequence number.
    ///
    /// It is sent once this transaction is committed, and repeated until it is acknowledged.
    pub fn append(&mut self, tx: &mut dyn Tx, body: &[u8]) -> Result<u64, EngineError> {
        let mut own = self.own(tx)?;
        own.sent = extended(own.sent, body);
        let seq = own.sent.seq;
        let row = Writer::new().raw(&own.sent.hash).raw(body).finish();
        tx.write(self.tables.outbox, &seq.to_be_bytes(), &row)?;
        own.written(tx, self.tables.meta)?;
        self.sent = seq;
        if self.session == Session::Open {
            self.send(&PeerMessage::Record { seq, body: body.to_vec() });
        }
        Ok(seq)
    }

    /// Sends a message that may be lost; dropped at once unless the session is open.
    pub fn hint(&mut self, body: &[u8]) {
        if self.session == Session::Open {
            self.send(&PeerMessage::Hint { body: body.to_vec() });
        }
    }

    /// Returns the next message for the connection; call it only after a commit.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let ack = self.ack_due.take().map(|seq| PeerMessage::Ack { seq }.encode());
        ack.or_else(|| self.transmit.pop_front())
    }

    /// Returns where the session stands.
    #[must_use]
    pub const fn session(&self) -> Session {
        self.session
    }

    /// Returns the highest of my records that the peer has acknowledged.
    #[must_use]
    pub const fn acked(&self) -> u64 {
        self.acked
    }

    /// Returns how many of my records the peer has not acknowledged yet.
    #[must_use]
    pub const fn unacknowledged(&self) -> u64 {
        self.sent - self.acked
    }

    /// Returns how often the streams have been begun anew; both sides agree once it is open.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Returns who had forgotten something when the streams were begun anew for the last time: as this side
    /// knows it, and as the other side has said in its last HELLO, each from its own point of view.
    #[must_use]
    pub const fn begun_anew(&self) -> (Forgetful, Forgetful) {
        (self.anew, self.their_anew)
    }

    /// Tells whether this side has begun anew because somebody forgot something, and nothing has been said
    /// since: then it waits for the other side to do the same.
    pub fn waits_for_beginning(&self, tx: &dyn Tx) -> Result<bool, EngineError> {
        Ok(self.anew != Forgetful::Nobody && self.is_unused(tx)?)
    }

    /// Tells whether nothing was ever said in either direction since the streams began.
    pub fn is_unused(&self, tx: &dyn Tx) -> Result<bool, EngineError> {
        Ok(self.sent == 0 && read_seen(tx, self.tables.meta)?.seq == 0)
    }

    /// Begins both streams anew on this side, in a new generation, because an operator wants it; the other side
    /// must do it too.
    pub fn reset(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        self.begin_anew(tx, Forgetful::Nobody)
    }

    /// Begins both streams anew on this side, in a new generation, and ends the session: hang up. The other
    /// side learns at the next connection who had forgotten something, and must do the same.
    pub fn begin_anew(&mut self, tx: &mut dyn Tx, anew: Forgetful) -> Result<(), EngineError> {
        let own = self.own(tx)?;
        erase_outbox(tx, self.tables.outbox, u64::MAX)?;
        forget_seen(tx, self.tables.meta)?;
        let highest = match anew {
            Forgetful::Nobody => {
                forget_boots(tx, self.tables.meta)?;
                own.generation
            }
            // Above the other side's too, so that it sees that it has to follow.
            _ => own.generation.max(self.their_generation),
        };
        let generation = highest.saturating_add(1);
        Own { store: own.store, generation, anew, ..Own::default() }
            .written(tx, self.tables.meta)?;
        self.handle_disconnected();
        (self.generation, self.sent, self.acked, self.anew) = (generation, 0, 0, anew);
        Ok(())
    }

    fn answer(&mut self, tx: &dyn Tx, nonce: [u8; 16]) -> Result<(), PeerError> {
        if self.session != Session::Greeting {
            return Err(PeerError::Unexpected("a challenge"));
        }
        let own = self.own(tx)?;
        let seen = read_seen(tx, self.tables.meta)?;
        let Own { store, generation, anew, sent, acked } = own;
        let (boot, acked) = (self.boot, acked.seq);
        let hello = Hello { nonce, store, boot, generation, anew, sent, seen, acked };
        self.send(&PeerMessage::Hello(hello));
        Ok(())
    }

    /// Compares the peer's memory with mine (`PROTOCOL.md`, HELLO) and tells it the result.
    fn judge(&mut self, tx: &mut dyn Tx, hello: &Hello) -> Result<(), PeerError> {
        if self.session != Session::Greeting || self.judged.is_some() || hello.nonce != self.nonce {
            return Err(PeerError::Unexpected("a HELLO"));
        }
        let mut own = self.own(tx)?;
        let seen = read_seen(tx, self.tables.meta)?;
        (self.their_anew, self.their_generation) = (hello.anew, hello.generation);
        let verdict = if Boots::meet(tx, self.tables.meta, hello)? == Acquaintance::Superseded {
            Verdict::Superseded
        } else {
            let hash = self.hash_at(tx, &own, hello.seen.seq)?;
            compare(&Memory { own: &own, seen, hash_at_their_seen: hash }, hello)
        };
        if verdict == Verdict::Agreed && own.generation != hello.generation {
            own.generation = own.generation.max(hello.generation);
            self.generation = own.generation;
            own.written(tx, self.tables.meta)?;
        }
        self.judged = Some(hello.seen.seq);
        self.send(&PeerMessage::Verdict(verdict));
        self.session = match verdict {
            Verdict::Agreed => Session::Greeting,
            Verdict::SenderRolledBack => Session::RolledBack { mine: true },
            Verdict::ReceiverRolledBack => Session::RolledBack { mine: false },
            Verdict::Superseded => Session::Superseded,
        };
        Ok(())
    }

    fn settle(&mut self, tx: &mut dyn Tx, theirs: Verdict) -> Result<Option<Delivery>, PeerError> {
        match (self.session, self.judged) {
            // My own verdict was worse already; theirs changes nothing.
            (Session::RolledBack { .. } | Session::Superseded, _) => return Ok(None),
            (Session::Greeting, Some(their_seen)) => match theirs {
                Verdict::Agreed => return self.begin(tx, their_seen).map(Some),
                Verdict::SenderRolledBack => self.session = Session::RolledBack { mine: false },
                Verdict::ReceiverRolledBack => self.session = Session::RolledBack { mine: true },
                Verdict::Superseded => self.session = Session::Superseded,
            },
            _ => return Err(PeerError::Unexpected("a verdict")),
        }
        Ok(None)
    }

    /// Opens the session; the peer's HELLO acknowledges what it had seen, the rest is repeated.
    fn begin(&mut self, tx: &mut dyn Tx, their_seen: u64) -> Result<Delivery, PeerError> {
        self.advance_acked(tx, their_seen)?;
        let mut after = Vec::new();
        loop {
            let rows = tx.scan(self.tables.outbox, &[], &after, PAGE)?;
            let Some((last, _)) = rows.last() else { break };
            after.clone_from(last);
            for (key, row) in &rows {
                let (seq, _, body) = outbox_row(self.tables.outbox, key, row.expose())?;
                self.send(&PeerMessage::Record { seq, body: body.to_vec() });
            }
        }
        self.session = Session::Open;
        Ok(Delivery::Opened)
    }

    fn take_record(
        &mut self,
        tx: &mut dyn Tx,
        seq: u64,
        body: Vec<u8>,
    ) -> Result<Option<Delivery>, PeerError> {
        self.only_open("a record")?;
        let seen = read_seen(tx, self.tables.meta)?;
        if seq > seen.seq.saturating_add(1) {
            return Err(PeerError::Gap { expected: seen.seq + 1, got: seq });
        }
        self.ack_due = Some(seen.seq.max(seq));
        if seq <= seen.seq {
            return Ok(None);
        }
        write_seen(tx, self.tables.meta, extended(seen, &body))?;
        Ok(Some(Delivery::Record(body)))
    }

    fn take_ack(&mut self, tx: &mut dyn Tx, seq: u64) -> Result<Option<Delivery>, PeerError> {
        self.only_open("an acknowledgement")?;
        let before = self.acked;
        self.advance_acked(tx, seq)?;
        Ok((self.acked > before).then_some(Delivery::Acked(seq)))
    }

    fn advance_acked(&mut self, tx: &mut dyn Tx, seq: u64) -> Result<(), PeerError> {
        let mut own = self.own(tx)?;
        if seq > own.sent.seq {
            return Err(PeerError::Unsent { last: own.sent.seq, got: seq });
        }
        if seq > own.acked.seq {
            let hash = self
                .hash_at(tx, &own, seq)?
                .ok_or(EngineError::Damaged(self.tables.outbox.name))?;
            own.acked = Tally { seq, hash };
            erase_outbox(tx, self.tables.outbox, seq)?;
            own.written(tx, self.tables.meta)?;
            self.acked = seq;
        }
        Ok(())
    }

    /// Returns the running hash over my records up to `seq`; `None` where it is not kept.
    fn hash_at(&self, tx: &dyn Tx, own: &Own, seq: u64) -> Result<Option<[u8; 32]>, EngineError> {
        if let Some(known) = [own.sent, own.acked].into_iter().find(|tally| tally.seq == seq) {
            return Ok(Some(known.hash));
        }
        let key = seq.to_be_bytes();
        let Some(row) = tx.read(self.tables.outbox, &key)? else { return Ok(None) };
        outbox_row(self.tables.outbox, &key, row.expose()).map(|(_, hash, _)| Some(hash))
    }

    fn own(&self, tx: &dyn Tx) -> Result<Own, EngineError> {
        Own::read(tx, self.tables.meta)?.ok_or(EngineError::Damaged(self.tables.meta.name))
    }

    fn only_open(&self, what: &'static str) -> Result<(), PeerError> {
        if self.session == Session::Open { Ok(()) } else { Err(PeerError::Unexpected(what)) }
    }

    fn send(&mut self, message: &PeerMessage) {
        self.transmit.push_back(message.encode());
    }
}

impl fmt::Debug for Peer {
    /// Leaves out the messages: the owner's records may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("session", &self.session)
            .field("generation", &self.generation)
            .field("sent", &self.sent)
            .field("acked", &self.acked)
            .finish_non_exhaustive()
    }
}

fn outbox_row<'r>(
    outbox: Table,
    key: &[u8],
    row: &'r [u8],
) -> Result<(u64, [u8; 32], &'r [u8]), EngineError> {
    let seq = key.try_into().map(u64::from_be_bytes).ok();
    let (seq, (hash, body)) =
        seq.zip(row.split_first_chunk()).ok_or(EngineError::Damaged(outbox.name))?;
    Ok((seq, *hash, body))
}

fn erase_outbox(tx: &mut dyn Tx, outbox: Table, up_to: u64) -> Result<(), EngineError> {
    loop {
        let rows = tx.scan(outbox, &[], &[], PAGE)?;
        let due = |key: &[u8]| key <= up_to.to_be_bytes().as_slice();
        let n_due = rows.iter().take_while(|(key, _)| due(key)).count();
        for (key, _) in rows.iter().take(n_due) {
            tx.erase(outbox, key)?;
        }
        if n_due < PAGE {
            return Ok(());
        }
    }
}

fn draw(rng: &mut impl Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// How many rows are read at a time.
const PAGE: usize = 256;
