//! The greeting of the classical channel, and what both machines share beside it.

use std::collections::{BTreeMap, VecDeque};

use claviger_durable::{EngineError, Table, Tx};
use claviger_security::{BlockEpsilon, EpsilonLedger};
use claviger_units::{Fraction, SecretBytes, Site, Span, Timestamp};
use claviger_wire::classical::{DropReason, Greet, Message, Prove, VERSION};
use claviger_wire::{DecodeError, Reader, Writer};
use rand::Rng;

use crate::authenticate::Reserve;
use crate::block::{Awaiting, FinishedBlock, Reconciled};
use crate::cascade::SessionOrders;
use crate::filling::Filling;
use crate::ledger::{BlockLedger, Outcome};
use crate::quiet::{BATCH_PATIENCE, Quiet};
use crate::rules::Rules;
use crate::sifted::count;

const COUNTERS: Table = Table::plain("blocks");

/// Blocks that may have spent a pad and wait for their verdict without anything being wrong, where
/// no more are known to wait.
const UNDER_WAY: u32 = 4;

/// What the shell has to carry out or to show.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Both ends proved themselves; light may come.
    Opened,
    /// The other end cannot be worked with; the connection is to be closed.
    Refused(Refusal),
    /// The block goes to this site's key buffer.
    Finished(FinishedBlock),
    /// The ledger of a block that ended.
    Ended(BlockLedger),
    /// The error rate of the sampled bits of the block that is being filled.
    Sampled {
        /// Differing over sampled.
        qber: Fraction,
        /// Bits sampled so far.
        sampled: u64,
        /// Sifted bits so far.
        sifted: u64,
    },
}

/// Why the other end cannot be worked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It speaks another version: install the same release at both ends.
    #[error("the other end speaks version {0} of the classical channel, this one {VERSION}")]
    Version(u16),
    /// It plays the same part: one configuration must say Alice, the other Bob.
    #[error("both ends are configured as the same party")]
    SameParty,
    /// Its link parameters differ: give both ends the same preset and loss.
    #[error("the two ends were given different link presets")]
    Preset,
    /// It does not hold this link's initial secret: use the two bundles of one `claviger init`.
    #[error("the other end does not know this link's initial secret")]
    Proof,
    /// It spoke out of turn.
    #[error("the other end broke the protocol")]
    Protocol,
    /// It owes a word and has said nothing for half a minute: the ends greet anew.
    #[error("the other end fell silent in the middle of a batch; the ends greet each other anew")]
    Silent,
    /// Too many tags are out without the other end's confirmation: the ends greet anew, which
    /// tells each how far the other has come.
    #[error("too many tags are unconfirmed; the ends greet each other anew")]
    Unconfirmed,
    /// The reserve of authentication pads is empty: give both ends a new secret.
    #[error("the authentication reserve is empty; run `claviger link reseed` at both sites")]
    ReserveEmpty,
}

/// Why a call ended without doing its work; the connection is to be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistillError {
    /// The frame is not a message: the other end speaks another version, or lies.
    #[error("a message of the classical channel cannot be read")]
    Decode(#[from] DecodeError),
    /// The store failed: stop the role.
    #[error(transparent)]
    Store(#[from] EngineError),
}

/// Where the greeting stands.
#[derive(Debug)]
pub(crate) enum Session {
    Apart,
    Greeted {
        mine: Greet,
    },
    Proving {
        mine: Greet,
        theirs: Greet,
        /// The first block number that this end has never seen proposed.
        next: u64,
    },
    Open,
}

/// Everything that Alice and Bob have alike.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) site: Site,
    pub(crate) rules: Rules,
    pub(crate) reserve: Reserve,
    pub(crate) session: Session,
    pub(crate) filling: Filling,
    pub(crate) awaiting: BTreeMap<u64, Awaiting>,
    pub(crate) transmits: VecDeque<Vec<u8>>,
    pub(crate) events: VecDeque<Event>,
    /// Blocks closed in this session: the first ones are short.
    pub(crate) closed: u32,
    pub(crate) orders: SessionOrders,
    pub(crate) resume: Option<Timestamp>,
    /// Since when the open batch has waited.
    pub(crate) quiet: Quiet,
    failures: u32,
    // Drawn at each greeting; seeds what is drawn for the blocks of the session.
    seed: [u8; 32],
}

impl Common {
    pub(crate) fn open(tx: &mut dyn Tx, site: Site, rules: Rules) -> Result<Self, EngineError> {
        Ok(Self {
            site,
            rules,
            reserve: Reserve::open(tx, site)?,
            session: Session::Apart,
            filling: Filling::new(0, &[0; 32]),
            awaiting: BTreeMap::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            closed: 0,
            orders: SessionOrders::default(),
            resume: None,
            quiet: Quiet::default(),
            failures: 0,
            seed: [0; 32],
        })
    }

    pub(crate) fn greet(&mut self, rng: &mut impl Rng) {
        let mut nonce = [0; 32];
        rng.fill_bytes(&mut nonce);
        rng.fill_bytes(&mut self.seed);
        let mine = Greet { version: VERSION, site: self.site, nonce, preset: self.rules.digest };
        self.transmits.clear();
        self.transmits.push_back(Message::Greet(mine).encode());
        self.session = Session::Greeted { mine };
        self.closed = 0;
        self.orders = SessionOrders::default();
    }

    pub(crate) fn handle_greet(
        &mut self,
        tx: &mut dyn Tx,
        theirs: Greet,
    ) -> Result<(), EngineError> {
        let Session::Greeted { mine } = self.session else {
            self.refuse(Refusal::Protocol);
            return Ok(());
        };
        let refusal = if theirs.version != VERSION {
            Refusal::Version(theirs.version)
        } else if theirs.site == self.site {
            Refusal::SameParty
        } else if theirs.preset != self.rules.digest {
            Refusal::Preset
        } else {
            return self.prove(tx, mine, theirs);
        };
        self.refuse(refusal);
        Ok(())
    }

    fn prove(&mut self, tx: &mut dyn Tx, mine: Greet, theirs: Greet) -> Result<(), EngineError> {
        let mut proof = self.reserve.holdings(tx)?;
        proof.first_block = self.next_number(tx)?;
        let greetings = in_order(self.site, &mine, &theirs);
        let greetings = [&greetings[0][..], &greetings[1][..]];
        proof.mac = self.reserve.prove(tx, greetings, self.site, &proof.body())?;
        self.session = Session::Proving { mine, theirs, next: proof.first_block };
        self.transmits.push_back(Message::Prove(proof).encode());
        Ok(())
    }

    /// Opens the session if the proof holds.
    pub(crate) fn handle_proof(
        &mut self,
        tx: &mut dyn Tx,
        proof: &Prove,
    ) -> Result<(), EngineError> {
        let Session::Proving { mine, theirs, next } = self.session else {
            self.refuse(Refusal::Protocol);
            return Ok(());
        };
        let greetings = in_order(self.site, &mine, &theirs);
        let greetings = [&greetings[0][..], &greetings[1][..]];
        let expected = self.reserve.prove(tx, greetings, self.site.other(), &proof.body())?;
        // Both are public once sent; the comparison is in constant time all the same.
        let same = SecretBytes::new(expected.to_vec()).ct_eq(&SecretBytes::new(proof.mac.to_vec()));
        if !same {
            self.refuse(Refusal::Proof);
            return Ok(());
        }
        self.reserve.begin(tx, proof)?;
        // The store of either end may be an old copy that has forgotten numbers; the other has not.
        self.filling = Filling::new(next.max(proof.first_block), &self.seed);
        self.session = Session::Open;
        self.events.push_back(Event::Opened);
        Ok(())
    }

    /// Reports how the filling block stands.
    pub(crate) fn report_sample(&mut self) {
        self.events.push_back(Event::Sampled {
            qber: self.filling.sampled_qber(),
            sampled: self.filling.sampled,
            sifted: self.filling.key.len() as u64,
        });
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.session = Session::Apart;
        self.transmits.clear();
        self.events.push_back(Event::Refused(refusal));
    }

    /// Gives the session up where the other end owes a word about the open batch for too long.
    pub(crate) fn check_batch(&mut self, now: Timestamp, waits: bool) {
        if !waits || !self.is_open() {
            self.quiet.heard();
        } else if self.quiet.outlasts(now, BATCH_PATIENCE) {
            self.refuse(Refusal::Silent);
        }
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.session, Session::Open)
    }

    /// Queues a message about the block that is being filled, and notes it in its transcript.
    pub(crate) fn send_filling(&mut self, message: &Message) {
        let frame = message.encode();
        self.quiet.heard();
        self.filling.transcript.append(self.site, &frame);
        self.transmits.push_back(frame);
    }

    /// Queues a message about a closed block, and notes it in its transcript.
    pub(crate) fn send(&mut self, block: &mut Reconciled, message: &Message) {
        let frame = message.encode();
        block.quiet.heard();
        block.transcript.append(self.site, &frame);
        self.transmits.push_back(frame);
    }

    /// Ends the filling block as closed and starts the next one.
    pub(crate) fn close_filling(&mut self) -> Reconciled {
        let next = Filling::new(self.filling.next.block + 1, &self.seed);
        let mut filling = core::mem::replace(&mut self.filling, next);
        if self.rules.fixes_length() {
            filling.cut(self.rules.target(self.closed));
        }
        filling.counts.key = count(&filling.intensities);
        self.closed += 1;
        let ledger = self.ledger_of(&filling);
        Reconciled {
            key: filling.key,
            intensities: filling.intensities,
            closed_as: self.closed - 1,
            transcript: filling.transcript,
            quiet: Quiet::default(),
            tally: filling.tally,
            rng: filling.rng,
            ledger,
        }
    }

    /// Drops the filling block and starts the next one; both ends do so at the same batch.
    pub(crate) fn drop_filling(&mut self, reason: DropReason) {
        let next = Filling::new(self.filling.next.block + 1, &self.seed);
        let filling = core::mem::replace(&mut self.filling, next);
        let ledger = self.ledger_of(&filling);
        self.end(ledger, Outcome::Dropped(reason));
    }

    /// Drops a closed block and tells the other end.
    pub(crate) fn drop_block(&mut self, ledger: BlockLedger, reason: DropReason) {
        let drop = Message::Drop { block: ledger.block, reason };
        self.transmits.push_back(drop.encode());
        self.end(ledger, Outcome::Dropped(reason));
    }

    pub(crate) fn end(&mut self, mut ledger: BlockLedger, outcome: Outcome) {
        ledger.outcome = outcome;
        self.events.push_back(Event::Ended(ledger));
    }

    /// Counts a block that spent a pad and was not kept yet, and pauses after too many: n failed
    /// blocks in a row pause min(2ⁿ s, 1 h) (P4). Blocks under way have not failed: those that
    /// wait for the key buffers, `verified` ones that wait for their proposal, and this one.
    pub(crate) fn count_spent_pad(&mut self, now: Timestamp, verified: usize) {
        self.failures += 1;
        // The key buffers answer within seconds; what they have not judged by then came to nothing.
        let young = |awaiting: &&Awaiting| now.since(awaiting.since) < Span::from_secs(10);
        let judged_soon = self.awaiting.values().filter(young).count();
        let waiting = judged_soon.min(self.rules.open_blocks()) + verified + 1;
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        if let Some(n) = self.failures.checked_sub(waiting.max(UNDER_WAY)).filter(|n| *n > 0) {
            let secs = 1_u64.checked_shl(n).unwrap_or(u64::MAX).min(3600);
            self.resume = Some(now + Span::from_secs(secs));
        }
    }

    /// Tells whether pads are to be saved for now.
    pub(crate) fn is_paused(&self, now: Timestamp) -> bool {
        self.resume.is_some_and(|resume| now < resume)
    }

    /// Gives up proposed blocks on which the key buffers have said nothing for ten minutes.
    pub(crate) fn forget_unjudged(&mut self, now: Timestamp) {
        let patience = Span::from_secs(600);
        let overdue: Vec<u64> = self
            .awaiting
            .iter()
            .filter(|(_, awaiting)| now.since(awaiting.since) > patience)
            .map(|(&number, _)| number)
            .collect();
        for number in overdue {
            if let Some(awaiting) = self.awaiting.remove(&number) {
                self.end(awaiting.ledger, Outcome::Dropped(DropReason::NotCommitted));
            }
        }
    }

    /// Takes the key buffers' verdict on a proposed block.
    pub(crate) fn handle_outcome(
        &mut self,
        tx: &mut dyn Tx,
        block: u64,
        committed: Committed,
    ) -> Result<(), EngineError> {
        let Some(awaiting) = self.awaiting.remove(&block) else { return Ok(()) };
        match committed {
            Committed::Yes => {
                if self.site == Site::A {
                    self.reserve.accept(tx, awaiting.peer_pad)?;
                }
                self.reserve.replenish(tx, block, &awaiting.pads, &awaiting.hash_keys)?;
                self.reserve.confirm(awaiting.own_pad);
                self.failures = 0;
                self.resume = None;
                self.end(awaiting.ledger, Outcome::Kept);
            }
            Committed::No => self.end(awaiting.ledger, Outcome::Dropped(DropReason::NotCommitted)),
        }
        Ok(())
    }

    fn ledger_of(&self, filling: &Filling) -> BlockLedger {
        BlockLedger {
            block: filling.next.block,
            begin: self.rules.time_of(filling.tally.begin),
            end: self.rules.time_of(filling.tally.end),
            clicks: filling.tally.clicks,
            counts: filling.counts,
            claim: self.rules.claim(),
            sifted: u32::try_from(filling.key.len()).unwrap_or(u32::MAX),
            sampled: filling.sampled,
            sample_errors: filling.sample_errors,
            errors: 0,
            leaked: 0,
            verification: 0,
            secret: 0,
            reserve: 0,
            remainder: 0,
            keys: 0,
            epsilon: BlockEpsilon { secrecy: self.rules.secrecy(), others: Fraction::ZERO },
            outcome: Outcome::Open,
        }
    }

    /// Remembers durably that a block is proposed, so that no number ever names two proposals, and
    /// charges its ε to the life of the link, for it and for all blocks since the one before; both
    /// ends do.
    pub(crate) fn note_proposal(tx: &mut dyn Tx, ledger: &BlockLedger) -> Result<(), EngineError> {
        let begun = (ledger.block + 1).saturating_sub(stored_next(tx)?);
        let mut life = Self::epsilon(tx)?;
        life.charge(begun, ledger.epsilon);
        let sums = life.sums();
        let row = Writer::new().u64(life.blocks()).fraction(sums.secrecy).fraction(sums.others);
        tx.write(COUNTERS, b"epsilon", &row.finish())?;
        tx.write(COUNTERS, b"next", &Writer::new().u64(ledger.block + 1).finish())
    }

    /// Returns the ε of all blocks up to the newest proposed one.
    pub(crate) fn epsilon(tx: &dyn Tx) -> Result<EpsilonLedger, EngineError> {
        let Some(row) = tx.read(COUNTERS, b"epsilon")? else {
            return Ok(EpsilonLedger::default());
        };
        let read = || {
            let mut r = Reader::new(row.expose());
            let (blocks, secrecy) = (r.u64()?, r.fraction("secrecy")?);
            let others = r.fraction("others")?;
            r.finish()?;
            Ok::<_, DecodeError>(EpsilonLedger::resume(blocks, BlockEpsilon { secrecy, others }))
        };
        read().or(Err(EngineError::Damaged(COUNTERS.name)))
    }

    /// Returns a number above that of every proposed block and of every block of this process.
    fn next_number(&self, tx: &dyn Tx) -> Result<u64, EngineError> {
        Ok(stored_next(tx)?.max(self.filling.next.block + 1))
    }
}

/// The key buffers' verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Both sites hold the block.
    Yes,
    /// Neither does.
    No,
}

/// Returns the number after that of the newest proposed block.
fn stored_next(tx: &dyn Tx) -> Result<u64, EngineError> {
    let stored = tx.read(COUNTERS, b"next")?;
    let stored = stored.and_then(|row| row.expose().try_into().ok().map(u64::from_be_bytes));
    Ok(stored.unwrap_or(1))
}

fn in_order(site: Site, mine: &Greet, theirs: &Greet) -> [Vec<u8>; 2] {
    match site {
        Site::A => [mine.encode(), theirs.encode()],
        Site::B => [theirs.encode(), mine.encode()],
    }
}
