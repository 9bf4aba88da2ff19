//! Blocks become available at both ends or at neither (`PROTOCOL.md` P1), and make room.

use std::collections::BTreeMap;

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Table, Tx};
use claviger_security::SecurityClaim;
use claviger_units::{Bits, KeyId, OwnerRatio, Span, Timestamp};
use claviger_wire::site::{Position, SiteHint, SiteRecord};
use subtle::ConstantTimeEq;

use crate::block::{self, Block, LEAST_SHARE, Provenance, Site};
use crate::store::{Event, KeyStore};
use crate::table::{self, BlockNumber, KEY_BYTES, KEYS, PENDING, Place, Slot, Stock, Verdict};

/// Why a block is not taken; both QKD nodes drop it, or offer it again after a while.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Too many keys wait for the other end: pause the link (`PROTOCOL.md` P2, hard cap).
    #[error(
        "the key store is full of keys that the other end has not acknowledged; pause the link"
    )]
    Busy,
    /// No session with the other KME: pause the link until there is one.
    #[error("no session with the other KME")]
    Apart,
    /// One side was rolled back, or runs twice: reset both.
    #[error("the two KMEs disagree about the past; run `claviger kme reset` at both sites")]
    RolledBack,
    /// The block is empty or was aborted, or its number or one of its ids is in use: drop it.
    #[error("the block is empty or was aborted, or its number or one of its key ids is in use")]
    Stale,
    /// The store failed: throw this core away and open it again.
    #[error(transparent)]
    Store(#[from] EngineError),
}

/// Where a block stands that a QKD node offers, be it for the first time or again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockStanding {
    /// It waits for the other end's answer.
    Held,
    /// Its keys are available.
    Committed,
}

/// A block that waits in memory for the other end's READY.
#[derive(Debug)]
pub(crate) struct Proposal {
    since: Timestamp,
    block: Block,
}

impl KeyStore {
    /// Alice: holds a block in memory until Bob's READY; call it before her node proposes it.
    ///
    /// A block that is offered again gets the answer that is true by now.
    pub fn propose(
        &mut self,
        tx: &dyn Tx,
        now: Timestamp,
        block: Block,
    ) -> Result<BlockStanding, ProposeError> {
        self.forget_proposals(now);
        if let Some(standing) = self.standing_of(tx, &block)? {
            return Ok(standing);
        }
        self.admit(&block)?;
        self.proposals.insert(block.number, Proposal { since: now, block });
        Ok(BlockStanding::Held)
    }

    /// Alice: drops a proposed block that Bob's node declined.
    pub fn withdraw(&mut self, number: u64) {
        self.proposals.remove(&number);
    }

    /// Bob: keeps a block sealed and pending, and tells Alice that it is ready.
    ///
    /// A block that is offered again gets the answer that is true by now.
    pub fn accept(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        block: Block,
    ) -> Result<BlockStanding, ProposeError> {
        if let Some(standing) = self.standing_of(tx, &block)? {
            return Ok(standing);
        }
        self.admit(&block)?;
        if !self.is_new(tx, &block)? {
            return Err(ProposeError::Stale);
        }
        self.stock_up(tx, PENDING, &block)?;
        let Block { number, acceptance, provenance: Provenance { claim, .. }, .. } = block;
        self.remember(tx, number, Verdict::Awaited, acceptance)?;
        self.append(tx, &SiteRecord::Ready { block: number, acceptance, claim })?;
        self.hint(SiteHint::Demand { n_keys: self.lately.count(now) });
        self.levels.pending += block.keys.len() as u64;
        Ok(BlockStanding::Held)
    }

    /// Returns how the keys of the next block are to be split between the owners.
    #[must_use]
    pub fn ratio(&self, now: Timestamp) -> OwnerRatio {
        if self.config.site == Site::B {
            return self.shares;
        }
        let lately = [self.lately.count(now), self.peer_lately];
        block::next_ratio(self.shares, lately, self.levels.theirs, self.config.capacity)
    }

    fn admit(&self, block: &Block) -> Result<(), ProposeError> {
        match self.peer.session() {
            Session::Open => {}
            Session::RolledBack { .. } | Session::Superseded => {
                return Err(ProposeError::RolledBack);
            }
            Session::Apart | Session::Greeting => return Err(ProposeError::Apart),
        }
        if block.keys.is_empty() {
            return Err(ProposeError::Stale);
        }
        let proposed: usize = self.proposals.values().map(|p| p.block.keys.len()).sum();
        let levels = self.levels.mine + self.levels.theirs + self.levels.pending;
        let after = levels + (proposed + block.keys.len()) as u64;
        let capacity = (self.config.capacity / Bits::KEY).max(2 * LEAST_SHARE);
        if after > 2 * capacity { Err(ProposeError::Busy) } else { Ok(()) }
    }

    /// Returns where a block stands that was offered before; a node whose offer or whose answer got
    /// lost offers it again, and what it hears decides over its pads (`PROTOCOL.md` P4).
    fn standing_of(
        &self,
        tx: &dyn Tx,
        block: &Block,
    ) -> Result<Option<BlockStanding>, ProposeError> {
        let known = match self.proposals.get(&block.number) {
            Some(Proposal { block, .. }) => Some((Verdict::Awaited, block.acceptance)),
            None => table::read_verdict(tx, self.block_number(block.number))?,
        };
        match known {
            None => Ok(None),
            Some((verdict, acceptance)) if bool::from(acceptance.ct_eq(&block.acceptance)) => {
                match verdict {
                    Verdict::Awaited => Ok(Some(BlockStanding::Held)),
                    Verdict::Committed => Ok(Some(BlockStanding::Committed)),
                    Verdict::Aborted => Err(ProposeError::Stale),
                }
            }
            // Another block under the same number.
            Some(_) => Err(ProposeError::Stale),
        }
    }

    /// Notes what became of a block, for the node that offers it again.
    fn remember(
        &self,
        tx: &mut dyn Tx,
        number: u64,
        verdict: Verdict,
        acceptance: [u8; 32],
    ) -> Result<(), EngineError> {
        table::write_verdict(tx, self.block_number(number), verdict, acceptance)
    }

    /// Notes Alice's answer to a block that Bob remembers.
    fn settle(&self, tx: &mut dyn Tx, number: u64, verdict: Verdict) -> Result<(), EngineError> {
        match table::read_verdict(tx, self.block_number(number))? {
            Some((_, acceptance)) => self.remember(tx, number, verdict, acceptance),
            None => Ok(()),
        }
    }

    /// Whether nothing of the block is known yet: neither its number nor any of its ids.
    fn is_new(&self, tx: &dyn Tx, block: &Block) -> Result<bool, EngineError> {
        let number = self.block_number(block.number);
        for (place, owner) in
            [(KEYS, Site::A), (KEYS, Site::B), (PENDING, Site::A), (PENDING, Site::B)]
        {
            if !tx.scan(place, &number.prefix(owner), &[], 1)?.is_empty() {
                return Ok(false);
            }
        }
        let mut low: Vec<_> = block.keys.iter().map(|key| key.id.low64()).collect();
        low.sort_unstable();
        low.dedup();
        for each in &low {
            if table::find_low64(tx, *each)?.is_some() {
                return Ok(false);
            }
        }
        Ok(low.len() == block.keys.len())
    }

    const fn block_number(&self, number: u64) -> BlockNumber {
        BlockNumber { generation: self.peer.generation(), number }
    }

    fn stock_up(&self, tx: &mut dyn Tx, table: Table, block: &Block) -> Result<(), EngineError> {
        let generation = self.peer.generation();
        for (key, index) in block.keys.iter().zip(0..) {
            let position = Position { generation, block: block.number, index };
            let slot = Slot { owner: key.owner, position };
            Stock { slot, id: key.id, provenance: block.provenance }.write(tx, table)?;
            tx.write(KEY_BYTES, &slot.bytes(), key.key.expose())?;
            table::write_place(tx, key.id, Place::Slot(slot))?;
        }
        Ok(())
    }

    /// Alice: one transaction with her answer, COMMIT if she still holds the block, else ABORT.
    ///
    /// A block of which the two nodes claim different things is refused like one that they tagged
    /// differently: one of them is wrong about the rules that set its length, so neither claim can
    /// be trusted, not even the weaker.
    pub(crate) fn apply_ready(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        number: u64,
        acceptance: &[u8; 32],
        claim: Option<SecurityClaim>,
    ) -> Result<(), EngineError> {
        let proposal = self.proposals.remove(&number);
        let agreed = proposal
            .map(|proposal| proposal.block)
            .filter(|block| block.acceptance.ct_eq(acceptance).into());
        let differ =
            agreed.as_ref().map(|block| block.provenance.claim).filter(|ours| *ours != claim);
        if let Some(by_alice) = differ {
            self.events.push_back(Event::ClaimsDiffer { block: number, by_alice, by_bob: claim });
        }
        let block = match agreed {
            Some(block) if differ.is_none() && self.is_new(tx, &block)? => block,
            _ => {
                // Another block under a settled number changes nothing of that.
                if table::read_verdict(tx, self.block_number(number))?.is_none() {
                    self.remember(tx, number, Verdict::Aborted, *acceptance)?;
                }
                self.append(tx, &SiteRecord::Abort { block: number })?;
                self.events.push_back(Event::BlockAborted { block: number });
                return Ok(());
            }
        };
        self.stock_up(tx, KEYS, &block)?;
        self.remember(tx, number, Verdict::Committed, *acceptance)?;
        let ratio = self.ratio(now);
        self.append(tx, &SiteRecord::Commit { block: number, ratio })?;
        let mine = block.keys.iter().filter(|key| key.owner == self.config.site).count() as u64;
        let n_keys = block.keys.len() as u64;
        self.lease.usable += mine;
        self.grow(tx, number, [mine, n_keys - mine], ratio)?;
        self.seek_lease(tx, now, 0)
    }

    /// Bob: pending → available, his displacements, DONE; his own keys of the block rest until
    /// the DONE is acknowledged.
    pub(crate) fn apply_commit(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        number: u64,
        ratio: OwnerRatio,
    ) -> Result<(), EngineError> {
        let block = self.block_number(number);
        let [mut mine, mut theirs] = [0; 2];
        for stock in self.pending_of(tx, block)? {
            stock.write(tx, KEYS)?;
            tx.erase(PENDING, &stock.slot.bytes())?;
            *(if stock.slot.owner == self.config.site { &mut mine } else { &mut theirs }) += 1;
        }
        self.settle(tx, number, Verdict::Committed)?;
        let seq = self.append(tx, &SiteRecord::Done { block: number })?;
        tx.write(table::UNCONFIRMED, &block.bytes(), &seq.to_be_bytes())?;
        self.unconfirmed.insert(block, seq);
        self.levels.pending -= mine + theirs;
        self.grow(tx, number, [mine, theirs], ratio)?;
        self.seek_lease(tx, now, 0)
    }

    /// Bob: erases a block that Alice does not hold.
    pub(crate) fn apply_abort(&mut self, tx: &mut dyn Tx, number: u64) -> Result<(), EngineError> {
        let block = self.block_number(number);
        for stock in self.pending_of(tx, block)? {
            stock.erase(tx, PENDING)?;
            self.levels.pending -= 1;
        }
        self.settle(tx, number, Verdict::Aborted)?;
        self.events.push_back(Event::BlockAborted { block: number });
        Ok(())
    }

    /// Erases keys of the peer that it has destroyed.
    pub(crate) fn apply_displaced(
        &mut self,
        tx: &mut dyn Tx,
        ids: &[KeyId],
    ) -> Result<(), EngineError> {
        for &id in ids {
            match self.find_theirs(tx, id)? {
                Some(stock) => {
                    stock.erase(tx, KEYS)?;
                    self.levels.theirs -= 1;
                }
                None => self.events.push_back(Event::Unmatched { id }),
            }
        }
        Ok(())
    }

    /// Lets blocks whose DONE is acknowledged be handed out (`PROTOCOL.md` P2).
    pub(crate) fn confirm_blocks(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let acked = self.peer.acked();
        let due = self.unconfirmed.iter().filter(|(_, seq)| **seq <= acked);
        let due: Vec<_> = due.map(|(block, _)| *block).collect();
        if due.is_empty() {
            return Ok(());
        }
        for block in due {
            tx.erase(table::UNCONFIRMED, &block.bytes())?;
            self.lease.usable += tx.count(KEYS, &block.prefix(self.config.site))?;
            self.unconfirmed.remove(&block);
        }
        self.count_headroom(tx)?;
        self.seek_lease(tx, now, 0)
    }

    /// Returns the peer's available key called `id`.
    pub(crate) fn find_theirs(&self, tx: &dyn Tx, id: KeyId) -> Result<Option<Stock>, EngineError> {
        match table::find(tx, id)? {
            Some(Place::Slot(slot)) if slot.owner != self.config.site => {
                Stock::read(tx, KEYS, slot)
            }
            _ => Ok(None),
        }
    }

    /// Notes a committed block, and makes room for it among the own keys.
    fn grow(
        &mut self,
        tx: &mut dyn Tx,
        block: u64,
        [mine, theirs]: [u64; 2],
        ratio: OwnerRatio,
    ) -> Result<(), EngineError> {
        // That all go to A once says nothing of what each may own.
        if ratio != OwnerRatio::ALL_TO_A {
            tx.write(table::META, table::SHARES, &[ratio.in_64(Site::B)])?;
            self.shares = ratio;
        }
        self.levels.mine += mine;
        self.levels.theirs += theirs;
        self.events.push_back(Event::BlockCommitted { block, n_keys: mine + theirs });
        let cap = block::cap(self.shares, self.config.site, self.config.capacity);
        let surplus = self.levels.mine.saturating_sub(cap);
        if surplus > 0 {
            let mut oldest = Vec::new();
            self.visit_own(tx, surplus, |stock| {
                oldest.push(stock);
                (oldest.len() as u64) < surplus
            })?;
            self.destroy_own(tx, &oldest)?;
            self.events.push_back(Event::Displaced { n_keys: surplus });
        }
        self.count_headroom(tx)
    }

    /// Erases own available keys, with a record that lets the peer do the same.
    pub(crate) fn destroy_own(
        &mut self,
        tx: &mut dyn Tx,
        keys: &[Stock],
    ) -> Result<(), EngineError> {
        for some in keys.chunks(IDS_PER_RECORD) {
            for stock in some {
                stock.erase(tx, KEYS)?;
                self.lease.usable -= u64::from(self.is_confirmed(stock));
            }
            let ids = some.iter().map(|stock| stock.id).collect();
            self.append(tx, &SiteRecord::Displaced { ids })?;
        }
        self.levels.mine -= keys.len() as u64;
        Ok(())
    }

    /// Whether the peer knows that this own key is available here.
    pub(crate) fn is_confirmed(&self, stock: &Stock) -> bool {
        !self.unconfirmed.contains_key(&stock.slot.block())
    }

    /// Visits own available keys in rising order while `visit` says so; it expects `n` of them.
    pub(crate) fn visit_own(
        &self,
        tx: &dyn Tx,
        n: u64,
        mut visit: impl FnMut(Stock) -> bool,
    ) -> Result<(), EngineError> {
        let prefix = table::owner_prefix(self.config.site);
        let limit = usize::try_from(n).map_or(table::PAGE, |n| n.clamp(1, table::PAGE));
        let mut after = None;
        loop {
            let page = Stock::page(tx, KEYS, &prefix, after, limit)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.slot);
            if !page.into_iter().all(&mut visit) {
                return Ok(());
            }
        }
    }

    fn pending_of(&self, tx: &dyn Tx, block: BlockNumber) -> Result<Vec<Stock>, EngineError> {
        let mut all = Vec::new();
        for owner in [Site::A, Site::B] {
            let mut after = None;
            loop {
                let page = Stock::page(tx, PENDING, &block.prefix(owner), after, table::PAGE)?;
                let Some(last) = page.last() else { break };
                after = Some(last.slot);
                all.extend(page);
            }
        }
        Ok(all)
    }

    fn forget_proposals(&mut self, now: Timestamp) {
        self.proposals.retain(|_, proposal| now.since(proposal.since) < PROPOSAL_LIFE);
    }
}

/// Reads the blocks whose DONE is not acknowledged.
pub(crate) fn read_unconfirmed(tx: &dyn Tx) -> Result<BTreeMap<BlockNumber, u64>, EngineError> {
    let rows = tx.scan(table::UNCONFIRMED, &[], &[], usize::MAX)?;
    let parse = |key: &[u8], row: &[u8]| {
        let seq = row.try_into().map(u64::from_be_bytes).ok()?;
        Some((BlockNumber::read(key).ok()?, seq))
    };
    let all = rows.iter().map(|(key, row)| parse(key, row.expose())).collect::<Option<_>>();
    all.ok_or(EngineError::Damaged(table::UNCONFIRMED.name))
}

/// How long a proposed block waits for Bob before it gives way to newer ones.
const PROPOSAL_LIFE: Span = Span::from_secs(600);
/// How many ids a record names at most; a message must stay well below 1 MiB.
const IDS_PER_RECORD: usize = 1000;
