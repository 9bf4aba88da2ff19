//! The store as a whole: its session with the other KME, what it tells its shell, its reset.

use std::collections::{BTreeMap, VecDeque};

use claviger_durable::peer::{Delivery, Peer, PeerError, Session};
use claviger_durable::{EngineError, Tx};
use claviger_security::SecurityClaim;
use claviger_units::{Bits, KeyId, OwnerRatio, SecretBytes, Span, Timestamp};
use claviger_wire::DecodeError;
use claviger_wire::site::{SiteHint, SiteRecord};
use rand_core::Rng;

use crate::block::{self, Provenance, Site};
use crate::commit::Proposal;
use crate::fetch::Questions;
use crate::lease::Lease;
use crate::meter::Meter;
use crate::table::{self, BlockNumber, Place};

/// What a key store must know about its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Which end of the link this is.
    pub site: Site,
    /// The bits of available keys that both owners may have together (paper, buffer: 1 Mbit).
    pub capacity: Bits,
    /// How long a slave may wait before it fetches its key (`PROTOCOL.md` P2: 3600 s).
    pub untaken_expiry: Span,
    /// How many keys of one master a slave may leave untaken (`PROTOCOL.md` P2: 20 000).
    pub untaken_per_pair: u64,
}

/// What the shell may want to act upon or to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The keys of a block are available here.
    BlockCommitted {
        /// The block.
        block: u64,
        /// How many keys it brought.
        n_keys: u64,
    },
    /// A block is erased at this site because the other end does not hold it.
    BlockAborted {
        /// The block.
        block: u64,
    },
    /// The two QKD nodes claim different security of a block, which is therefore erased at both
    /// sites: give both nodes the same preset.
    ClaimsDiffer {
        /// The block.
        block: u64,
        /// What Alice's node claims.
        by_alice: Option<SecurityClaim>,
        /// What Bob's node claims.
        by_bob: Option<SecurityClaim>,
    },
    /// More keys may be handed out: try again what was refused for the lease.
    LeaseGrown,
    /// After [`KeyStore::stop`]: the peer keeps the lowered limit, the process may end.
    LeaseReturned,
    /// The peer has told all it did: try again what was refused as incomplete.
    KnowledgeComplete,
    /// The session with the peer changed.
    SessionChanged(Session),
    /// Own keys were destroyed after a start because an earlier process may have handed them out.
    Burnt {
        /// How many.
        n_keys: u64,
    },
    /// Own keys were destroyed to make room for newer ones.
    Displaced {
        /// How many.
        n_keys: u64,
    },
    /// Keys held for slaves were destroyed because nobody came in time.
    Expired {
        /// How many.
        n_keys: u64,
    },
    /// The peer spoke of a key that does not wait here: the two stores disagree, which no crash
    /// explains; reset both sites.
    Unmatched {
        /// The key.
        id: KeyId,
    },
}

/// Why a message of the peer was refused: drop the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyStoreError {
    /// The session refused it.
    #[error(transparent)]
    Peer(PeerError),
    /// A record or hint of another version.
    #[error("the peer sent a record or hint that cannot be read")]
    Decode(#[from] DecodeError),
    /// Both ends play the same part: configure one as site A, the other as site B.
    #[error("the peer acts for the same site; configure one KME as site A, the other as site B")]
    SameSite,
    /// The store failed: throw this core away and open it again.
    #[error(transparent)]
    Store(#[from] EngineError),
}

impl From<PeerError> for KeyStoreError {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Store(error) => Self::Store(error),
            error => Self::Peer(error),
        }
    }
}

/// How much is stored, in keys of 256 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Available keys that this site owns.
    pub mine: u64,
    /// Available keys that the other site owns.
    pub theirs: u64,
    /// The most keys that this site can own at the present shares.
    pub share_cap: u64,
    /// Own keys that may be handed out, given a lease.
    pub usable: u64,
    /// Own keys that may be handed out without asking the peer.
    pub leased: u64,
    /// Keys of blocks that wait for the other end's answer.
    pub pending: u64,
    /// Handed-out keys whose bits wait for slaves of this site.
    pub untaken: u64,
    /// Own records that the peer has not acknowledged.
    pub unacknowledged: u64,
}

/// Where a key stands at this site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never here, or gone.
    Unknown,
    /// In a block that waits for the other end's answer.
    Pending,
    /// Waiting to be handed out by its owner.
    Available {
        /// The owner.
        owner: Site,
    },
    /// Handed out and held here.
    Held {
        /// How many slaves of this site have not come yet.
        n_waiting: usize,
    },
}

/// One KME's half of the key buffer (`PROTOCOL.md` P1, P2).
///
/// Durable state lives in the tables of `tx`; what is kept here is the session, the confirmed
/// lease, proposed blocks, and counts. If a call fails with an [`EngineError`], throw the store
/// away and [`open`](Self::open) it again.
///
/// Drain [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event) after each
/// commit; also after a refusal by lease or incomplete knowledge, whose question to the peer waits
/// there.
///
/// ```
/// use claviger_durable::{Engine, MemoryEngine};
/// use claviger_keystore::*;
/// use claviger_security::SecurityClaim;
/// use claviger_units::{Bits, Key256, KeyId, Span, Timestamp};
/// use rand::{SeedableRng, rngs::StdRng};
///
/// let (now, mut rng) = (Timestamp::START, StdRng::seed_from_u64(1));
/// let config = |site| StoreConfig {
///     site,
///     capacity: Bits::new(1_000_000),
///     untaken_expiry: Span::from_secs(3600),
///     untaken_per_pair: 20_000,
/// };
/// let mut disks = [MemoryEngine::new(), MemoryEngine::new()];
/// let [a, b] = &mut disks;
/// let mut open = |disk: &mut MemoryEngine, site| {
///     disk.transact(|tx| KeyStore::open(tx, now, config(site), &mut rng))
/// };
/// let mut kmes = [open(a, Site::A)?, open(b, Site::B)?];
/// // The two connections' worth of a shell.
/// let carry = |disks: &mut [MemoryEngine; 2], kmes: &mut [KeyStore; 2]| {
///     for from in [0, 1].into_iter().cycle().take(20) {
///         while let Some(bytes) = kmes[from].poll_transmit() {
///             let kme = &mut kmes[1 - from];
///             disks[1 - from].transact(|tx| kme.handle_message(tx, now, &bytes))?;
///         }
///     }
///     Ok::<(), KeyStoreError>(())
/// };
/// kmes.iter_mut().for_each(|kme| kme.handle_connected(&mut rng));
/// carry(&mut disks, &mut kmes)?;
///
/// // Both QKD nodes bring the same block.
/// let id = KeyId::random(&mut rng);
/// let block = || Block {
///     number: 0,
///     provenance: Provenance { origin: Origin::Simulated, claim: Some(SecurityClaim::Gllp) },
///     acceptance: [7; 32],
///     keys: vec![BlockKey { id, owner: Site::A, key: Key256::from_bytes([9; 32]) }],
/// };
/// disks[0].transact(|tx| kmes[0].propose(tx, now, block()))?;
/// disks[1].transact(|tx| kmes[1].accept(tx, now, block()))?;
/// carry(&mut disks, &mut kmes)?;
///
/// // The master takes the key at A, its slave at B.
/// let (master, slave) = ("gateway".parse()?, "platform".parse()?);
/// let slaves = vec![Slave { sae: slave, site: Site::B }];
/// let order = Order { master, slaves, number: 1, size: Bits::KEY };
/// let at_a = disks[0].transact(|tx| kmes[0].hand_out(tx, now, &order))?;
/// carry(&mut disks, &mut kmes)?;
/// let (master, slave) = (&order.master, &order.slaves[0].sae);
/// let at_b = disks[1].transact(|tx| kmes[1].fetch(tx, now, slave, master, &[id], Inquiry::NEW))?;
/// assert!(at_a[0].key.ct_eq(&at_b[0].key));
/// assert_eq!(at_b[0].provenance, block().provenance);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct KeyStore {
    pub(crate) config: StoreConfig,
    pub(crate) peer: Peer,
    // Whether the peer has agreed with this process and nothing spoke against it since.
    pub(crate) greeted: bool,
    pub(crate) lease: Lease,
    pub(crate) levels: Levels,
    // Own blocks whose DONE the peer has not acknowledged, with its sequence number.
    pub(crate) unconfirmed: BTreeMap<BlockNumber, u64>,
    pub(crate) proposals: BTreeMap<u64, Proposal>,
    pub(crate) shares: OwnerRatio,
    pub(crate) questions: Questions,
    pub(crate) next_expiry: Option<Timestamp>,
    pub(crate) per_seconds: Meter,
    pub(crate) lately: Meter,
    pub(crate) peer_lately: u64,
    pub(crate) events: VecDeque<Event>,
}

/// How many keys wait in slots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Levels {
    pub(crate) mine: u64,
    pub(crate) theirs: u64,
    pub(crate) pending: u64,
}

impl KeyStore {
    /// Opens the store; it shows its status at once and serves once it has heard its peer.
    pub fn open(
        tx: &mut dyn Tx,
        now: Timestamp,
        config: StoreConfig,
        rng: &mut impl Rng,
    ) -> Result<Self, EngineError> {
        let peer = Peer::open(tx, table::PEER, rng)?;
        let mut store = Self {
            config,
            peer,
            greeted: false,
            lease: Lease::default(),
            levels: Levels::default(),
            unconfirmed: BTreeMap::new(),
            proposals: BTreeMap::new(),
            shares: OwnerRatio::INITIAL,
            questions: Questions::default(),
            next_expiry: None,
            per_seconds: Meter::start(now, crate::lease::DEMAND_SPAN),
            lately: Meter::start(now, LATELY),
            peer_lately: 0,
            events: VecDeque::new(),
        };
        store.load(tx)?;
        Ok(store)
    }

    /// Begins a session on a new connection to the peer.
    pub fn handle_connected(&mut self, rng: &mut impl Rng) {
        self.handle_disconnected();
        self.peer.handle_connected(rng);
        self.note_session(Session::Apart);
    }

    /// Ends the session; hand-out goes on within the lease.
    pub fn handle_disconnected(&mut self) {
        let before = self.peer.session();
        self.peer.handle_disconnected();
        self.questions.forget();
        self.lease.asked = None;
        self.note_session(before);
    }

    /// Handles one message of the peer; after an error drop the connection.
    pub fn handle_message(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        bytes: &[u8],
    ) -> Result<(), KeyStoreError> {
        let before = self.peer.session();
        let result = self.take_message(tx, now, bytes);
        self.note_session(before);
        if result.is_err() {
            self.handle_disconnected();
        }
        result
    }

    /// Returns the next message for the peer.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.peer.poll_transmit()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns where the session with the peer stands.
    #[must_use]
    pub const fn session(&self) -> Session {
        self.peer.session()
    }

    /// Tells whether keys can be handed out and fetched, as far as the peer is concerned.
    #[must_use]
    pub const fn is_serving(&self) -> bool {
        self.greeted && self.lease.confirmed && !self.lease.stopping
    }

    /// Returns how much is stored.
    pub fn stored(&self, tx: &dyn Tx) -> Result<Stored, EngineError> {
        Ok(Stored {
            mine: self.levels.mine,
            theirs: self.levels.theirs,
            share_cap: block::cap(self.shares, self.config.site, self.config.capacity),
            usable: self.lease.usable,
            leased: self.lease.headroom,
            pending: self.levels.pending,
            untaken: tx.count(table::HELD_BYTES, &[])?,
            unacknowledged: self.peer.unacknowledged(),
        })
    }

    /// Returns the size of a key whose bits are held here for slaves.
    pub fn noticed_size(&self, tx: &dyn Tx, id: KeyId) -> Result<Option<Bits>, EngineError> {
        let bytes = tx.read(table::HELD_BYTES, id.as_bytes())?;
        Ok(bytes.map(|bytes| Bits::new(8 * bytes.len() as u64)))
    }

    /// Returns what made the key that would be handed out next, and what is claimed of it; without
    /// own keys, those of the peer's next.
    pub fn provenance(&self, tx: &dyn Tx) -> Result<Option<Provenance>, EngineError> {
        for owner in [self.config.site, self.config.site.other()] {
            let next = table::Stock::page(tx, table::KEYS, &table::owner_prefix(owner), None, 1)?;
            if let Some(stock) = next.first() {
                return Ok(Some(stock.provenance));
            }
        }
        Ok(None)
    }

    /// Returns where a key stands at this site, for audits.
    pub fn standing(&self, tx: &dyn Tx, id: KeyId) -> Result<Standing, EngineError> {
        Ok(match table::find(tx, id)? {
            None => Standing::Unknown,
            Some(Place::Held) => {
                let held = table::Held::read(tx, id)?;
                Standing::Held { n_waiting: held.map_or(0, |held| held.waiting.len()) }
            }
            Some(Place::Slot(slot)) => match table::Stock::read(tx, table::KEYS, slot)? {
                Some(_) => Standing::Available { owner: slot.owner },
                None => Standing::Pending,
            },
        })
    }

    /// Erases every key at this site and begins both record streams anew, in a new generation.
    ///
    /// The remedy after a roll-back (`claviger kme reset`); the other site must do the same.
    pub fn reset(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        for each in table::ALL {
            erase_all(tx, each)?;
        }
        let before = self.peer.session();
        self.peer.reset(tx)?;
        self.greeted = false;
        self.lease = Lease::default();
        self.proposals.clear();
        self.questions.forget();
        self.peer_lately = 0;
        self.load(tx)?;
        self.note_session(before);
        Ok(())
    }

    fn load(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        let count = |owner| tx.count(table::KEYS, &table::owner_prefix(owner));
        let (mine, theirs) = (count(self.config.site)?, count(self.config.site.other())?);
        self.levels = Levels { mine, theirs, pending: tx.count(table::PENDING, &[])? };
        self.unconfirmed = crate::commit::read_unconfirmed(tx)?;
        let mut unconfirmed_keys = 0;
        for block in self.unconfirmed.keys() {
            unconfirmed_keys += tx.count(table::KEYS, &block.prefix(self.config.site))?;
        }
        self.lease.usable = mine - unconfirmed_keys;
        self.lease.highest = table::read_position(tx, table::HIGHEST_USED)?;
        self.shares = read_shares(tx)?;
        self.next_expiry = crate::fetch::first_expiry(tx)?;
        Ok(())
    }

    fn take_message(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        bytes: &[u8],
    ) -> Result<(), KeyStoreError> {
        match self.peer.handle_message(tx, bytes)? {
            None => Ok(()),
            Some(Delivery::Opened) => self.handle_opened(tx, now),
            Some(Delivery::Record(body)) => self.apply(tx, now, SiteRecord::decode(&body)?),
            Some(Delivery::Hint(body)) => self.heed(tx, now, SiteHint::decode(&body)?),
            Some(Delivery::Acked(_)) => Ok(self.confirm_blocks(tx, now)?),
        }
    }

    /// Tells the peer which limit is kept for it, the first thing both say once they agree.
    fn handle_opened(&mut self, tx: &mut dyn Tx, now: Timestamp) -> Result<(), KeyStoreError> {
        let kept = table::read_position(tx, table::LIMIT_KEPT)?;
        self.confirm_blocks(tx, now)?;
        self.greeted = true;
        self.hint(SiteHint::Kept(kept));
        Ok(())
    }

    fn apply(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        record: SiteRecord,
    ) -> Result<(), KeyStoreError> {
        let from = match record {
            SiteRecord::Ready { .. } | SiteRecord::Done { .. } => Some(Site::B),
            SiteRecord::Commit { .. } | SiteRecord::Abort { .. } => Some(Site::A),
            _ => None,
        };
        if from == Some(self.config.site) {
            return Err(KeyStoreError::SameSite);
        }
        match record {
            SiteRecord::Ready { block, acceptance, claim } => {
                self.apply_ready(tx, now, block, &acceptance, claim)?;
            }
            SiteRecord::Commit { block, ratio } => self.apply_commit(tx, now, block, ratio)?,
            SiteRecord::Abort { block } => self.apply_abort(tx, block)?,
            // The acknowledgement that travels back is all that DONE is for.
            SiteRecord::Done { .. } => {}
            SiteRecord::Notice(notice) => self.apply_notice(tx, now, &notice)?,
            SiteRecord::Displaced { ids } => self.apply_displaced(tx, &ids)?,
            SiteRecord::Taken { master, slave, ids } => {
                self.count_taken(tx, &master, &slave, ids.len() as u64)?;
            }
            SiteRecord::Expired { master, slaves, id: _ } => {
                for slave in slaves {
                    self.count_taken(tx, &master, &slave, 1)?;
                }
            }
        }
        Ok(())
    }

    fn heed(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        hint: SiteHint,
    ) -> Result<(), KeyStoreError> {
        match hint {
            SiteHint::Limit(limit) => {
                table::write_position(tx, table::LIMIT_KEPT, limit)?;
                self.hint(SiteHint::Kept(limit));
            }
            SiteHint::Kept(limit) => self.handle_kept(tx, now, limit)?,
            SiteHint::Flush { token } => self.hint(SiteHint::Flushed { token }),
            SiteHint::Flushed { token } => self.handle_flushed(token),
            SiteHint::Demand { n_keys } => self.peer_lately = n_keys,
        }
        Ok(())
    }

    pub(crate) fn hint(&mut self, hint: SiteHint) {
        self.peer.hint(&hint.encode());
    }

    pub(crate) fn append(
        &mut self,
        tx: &mut dyn Tx,
        record: &SiteRecord,
    ) -> Result<u64, EngineError> {
        self.peer.append(tx, &record.encode())
    }

    fn note_session(&mut self, before: Session) {
        let now = self.peer.session();
        if matches!(now, Session::RolledBack { .. } | Session::Superseded) {
            self.greeted = false;
            self.lease.confirmed = false;
        }
        if now != before {
            self.events.push_back(Event::SessionChanged(now));
        }
    }
}

fn read_shares(tx: &dyn Tx) -> Result<OwnerRatio, EngineError> {
    let row = tx.read(table::META, table::SHARES)?;
    Ok(match row.as_ref().map(SecretBytes::expose) {
        None => OwnerRatio::INITIAL,
        Some(&[parts]) => OwnerRatio::from_64ths_of_b(parts.into()),
        Some(_) => return Err(EngineError::Damaged(table::META.name)),
    })
}

fn erase_all(tx: &mut dyn Tx, table: claviger_durable::Table) -> Result<(), EngineError> {
    loop {
        let rows = tx.scan(table, &[], &[], table::PAGE)?;
        if rows.is_empty() {
            return Ok(());
        }
        for (key, _) in rows {
            tx.erase(table, &key)?;
        }
    }
}

/// The span over which demand decides the shares.
pub(crate) const LATELY: Span = Span::from_secs(600);
