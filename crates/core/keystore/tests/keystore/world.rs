//! Two KMEs over stores in memory, joined by a connection that keeps order and may break.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;

use claviger_durable::engine::Engine;
use claviger_durable::{EngineError, MemoryEngine, Tx};
use claviger_keystore::{
    Block, BlockKey, BlockStanding, Container, Event, FetchError, HandOutError, Inquiry, KeyStore,
    KeyStoreError, Order, Origin, ProposeError, Provenance, Session, Site, Slave, Standing,
    StoreConfig,
};
use claviger_security::SecurityClaim;
use claviger_units::{Bits, Key256, KeyId, SaeId, Span, Timestamp};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// One KME: its disk, its process while it lives, and what is on its way to it.
pub(crate) struct Kme {
    pub(crate) disk: MemoryEngine,
    pub(crate) store: Option<KeyStore>,
    pub(crate) inbox: VecDeque<Vec<u8>>,
    pub(crate) events: Vec<Event>,
    config: StoreConfig,
}

/// What the applications have got: the truth against which both KMEs are judged.
/// What a master has got.
pub(crate) struct Handed {
    pub(crate) at: Site,
    pub(crate) when: Timestamp,
    pub(crate) slaves: Vec<Slave>,
    pub(crate) bits: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Applications {
    pub(crate) handed: BTreeMap<KeyId, Handed>,
    /// Copies by slave.
    pub(crate) fetched: BTreeMap<(KeyId, SaeId), Vec<u8>>,
    /// Fetches whose answer was lost in a crash: the copy may be gone.
    pub(crate) lost: Vec<(KeyId, SaeId)>,
}

pub(crate) struct World {
    pub(crate) kmes: [Kme; 2],
    pub(crate) now: Timestamp,
    pub(crate) rng: StdRng,
    pub(crate) connected: bool,
    pub(crate) apps: Applications,
    /// Every key ever made.
    pub(crate) ids: Vec<KeyId>,
    pub(crate) next_block: u64,
    /// Whether block numbers jump about.
    pub(crate) shuffled: bool,
    /// What both nodes claim of the blocks to come.
    pub(crate) claim: Option<SecurityClaim>,
    /// Blocks on the classical channel to Bob.
    pub(crate) offers: VecDeque<Block>,
    /// Deaths by the engine so far.
    pub(crate) deaths: u32,
}

pub(crate) const BOTH: [Site; 2] = [Site::A, Site::B];

pub(crate) fn sae(text: &str) -> SaeId {
    text.parse().unwrap()
}

/// The master of a site and three slaves: one here, two at the other site.
pub(crate) fn order(at: Site, number: u32, bits: u64) -> Order {
    let other = at.other();
    Order {
        master: sae(&format!("master-{at:?}")),
        slaves: vec![Slave { sae: sae(&format!("slave-{other:?}")), site: other }],
        number,
        size: Bits::new(bits),
    }
}

pub(crate) fn multicast(at: Site, number: u32) -> Order {
    let mut order = order(at, number, 256);
    order.slaves.push(Slave { sae: sae("second"), site: at.other() });
    order.slaves.push(Slave { sae: sae("local"), site: at });
    order
}

pub(crate) fn config(site: Site) -> StoreConfig {
    StoreConfig {
        site,
        capacity: Bits::new(128 * 256),
        untaken_expiry: Span::from_secs(3600),
        untaken_per_pair: 1000,
    }
}

/// The same block once more, as a node offers it again.
pub(crate) fn copy(block: &Block) -> Block {
    let again = |key: &BlockKey| BlockKey { key: key.key.duplicate(), ..*key };
    let Block { number, provenance, acceptance, ref keys } = *block;
    Block { number, provenance, acceptance, keys: keys.iter().map(again).collect() }
}

impl World {
    /// Two running KMEs, apart.
    pub(crate) fn new(seed: u64) -> Self {
        let kme = |site| Kme {
            disk: MemoryEngine::new(),
            store: None,
            inbox: VecDeque::new(),
            events: Vec::new(),
            config: config(site),
        };
        let mut world = Self {
            kmes: BOTH.map(kme),
            now: Timestamp::START,
            rng: StdRng::seed_from_u64(seed),
            connected: false,
            apps: Applications::default(),
            ids: Vec::new(),
            next_block: 0,
            shuffled: false,
            claim: Some(SecurityClaim::EraHeuristic),
            offers: VecDeque::new(),
            deaths: 0,
        };
        for site in BOTH {
            world.start(site);
        }
        world
    }

    /// Two KMEs that agree and hold these blocks, all leases settled.
    pub(crate) fn with_blocks(seed: u64, blocks: &[(usize, usize)]) -> Self {
        let mut world = Self::new(seed);
        world.meet();
        for &(of_a, of_b) in blocks {
            world.deliver_block(of_a, of_b);
        }
        world
    }

    pub(crate) fn kme(&mut self, site: Site) -> &mut Kme {
        &mut self.kmes[site as usize]
    }

    pub(crate) fn store(&mut self, site: Site) -> &mut KeyStore {
        self.kme(site).store.as_mut().unwrap()
    }

    pub(crate) fn is_up(&self, site: Site) -> bool {
        self.kmes[site as usize].store.is_some()
    }

    pub(crate) fn configure(&mut self, site: Site, change: impl FnOnce(&mut StoreConfig)) {
        change(&mut self.kme(site).config);
        self.kill(site);
        self.start(site);
    }

    /// Starts the process of a site; the disk lives again.
    pub(crate) fn start(&mut self, site: Site) {
        let (now, config) = (self.now, self.kmes[site as usize].config);
        let kme = &mut self.kmes[site as usize];
        kme.disk.revive();
        let rng = &mut self.rng;
        let store = kme.disk.transact(|tx| KeyStore::open(tx, now, config, rng));
        kme.store = Some(store.unwrap());
    }

    /// `kill -9`, without a word to anyone.
    pub(crate) fn kill(&mut self, site: Site) {
        self.disconnect();
        let kme = self.kme(site);
        kme.store = None;
        kme.events.clear();
    }

    pub(crate) fn disconnect(&mut self) {
        self.connected = false;
        for kme in &mut self.kmes {
            kme.inbox.clear();
            kme.store.iter_mut().for_each(KeyStore::handle_disconnected);
        }
    }

    pub(crate) fn connect(&mut self) {
        self.disconnect();
        self.connected = true;
        for site in BOTH {
            let store = self.kmes[site as usize].store.as_mut().unwrap();
            store.handle_connected(&mut self.rng);
            self.drain(site);
        }
    }

    /// Connects and lets everything arrive; returns both sessions.
    pub(crate) fn meet(&mut self) -> [Session; 2] {
        self.connect();
        self.run();
        self.sessions()
    }

    pub(crate) fn sessions(&self) -> [Session; 2] {
        BOTH.map(|site| self.kmes[site as usize].store.as_ref().unwrap().session())
    }

    /// Runs one call in one transaction, as the shell does; `None` if the process died in it.
    pub(crate) fn call<R, E: From<EngineError> + PartialEq + Debug>(
        &mut self,
        site: Site,
        work: impl FnOnce(&mut KeyStore, &mut dyn Tx, Timestamp) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let now = self.now;
        let kme = self.kme(site);
        let store = kme.store.as_mut().unwrap();
        let result = kme.disk.transact(|tx| work(store, tx, now));
        if result.as_ref().err() == Some(&E::from(EngineError::Died)) {
            self.deaths += 1;
            self.kill(site);
            return None;
        }
        self.drain(site);
        Some(result)
    }

    fn drain(&mut self, site: Site) {
        let mut frames = Vec::new();
        let kme = self.kme(site);
        let store = kme.store.as_mut().unwrap();
        frames.extend(std::iter::from_fn(|| store.poll_transmit()));
        kme.events.extend(std::iter::from_fn(|| store.poll_event()));
        if self.connected && self.is_up(site.other()) {
            self.kme(site.other()).inbox.extend(frames);
        }
    }

    /// Lets one message arrive.
    pub(crate) fn receive(&mut self, site: Site) {
        let Some(bytes) = self.kme(site).inbox.pop_front() else { return };
        let received: Option<Result<(), KeyStoreError>> =
            self.call(site, |store, tx, now| store.handle_message(tx, now, &bytes));
        if let Some(result) = received {
            assert_eq!(result, Ok(()), "{site:?} refused a message");
        }
    }

    /// Lets everything arrive.
    pub(crate) fn run(&mut self) {
        while self.connected && self.kmes.iter().any(|kme| !kme.inbox.is_empty()) {
            for site in BOTH {
                if self.is_up(site) {
                    self.receive(site);
                }
            }
        }
    }

    /// Alice's node proposes a block of random keys; Bob's copy waits on the classical channel.
    pub(crate) fn propose(&mut self, of_a: usize, of_b: usize) -> Result<u64, ProposeError> {
        let owners = [vec![Site::A; of_a], vec![Site::B; of_b]].concat();
        let number = self.next_block * if self.shuffled { 2_654_435_761 } else { 1 } % (1 << 32);
        let mut copies = BOTH.map(|_| Vec::new());
        for owner in owners {
            let (id, key) = (KeyId::random(&mut self.rng), Key256::random(&mut self.rng));
            self.ids.push(id);
            let copy = || BlockKey { id, owner, key: key.duplicate() };
            copies.iter_mut().for_each(|keys| keys.push(copy()));
        }
        let acceptance = self.rng.random();
        let provenance = Provenance { origin: Origin::Simulated, claim: self.claim };
        let [block, offer] = copies.map(|keys| Block { number, provenance, acceptance, keys });
        self.call(Site::A, |store, tx, now| store.propose(tx, now, block)).unwrap()?;
        self.next_block += 1;
        self.offers.push_back(offer);
        Ok(number)
    }

    pub(crate) fn accept(&mut self, offer: Block) -> Option<Result<BlockStanding, ProposeError>> {
        self.call(Site::B, |store, tx, now| store.accept(tx, now, offer))
    }

    /// A block from the proposal to the end of all its records.
    pub(crate) fn deliver_block(&mut self, of_a: usize, of_b: usize) -> u64 {
        let number = self.propose(of_a, of_b).unwrap();
        let offer = self.offers.pop_back().unwrap();
        self.accept(offer).unwrap().unwrap();
        self.run();
        number
    }

    /// A master asks; what it gets is noted, and must be new.
    pub(crate) fn hand_out(
        &mut self,
        site: Site,
        order: &Order,
    ) -> Option<Result<Vec<KeyId>, HandOutError>> {
        let result = self.call(site, |store, tx, now| store.hand_out(tx, now, order))?;
        Some(result.map(|containers| {
            assert_eq!(containers.len(), order.number as usize);
            containers.into_iter().map(|key| self.note_handed(site, order, &key)).collect()
        }))
    }

    fn note_handed(&mut self, site: Site, order: &Order, key: &Container) -> KeyId {
        assert_eq!(key.key.len() as u64 * 8, order.size.count());
        let (when, slaves, bits) = (self.now, order.slaves.clone(), key.key.expose().to_vec());
        let known = self.apps.handed.insert(key.id, Handed { at: site, when, slaves, bits });
        assert!(known.is_none(), "ONCE-ONLY: {} handed out twice", key.id);
        key.id
    }

    /// A slave asks; what it gets is noted, and must be new and equal to the master's.
    pub(crate) fn fetch(
        &mut self,
        slave: &Slave,
        master: &SaeId,
        ids: &[KeyId],
    ) -> Option<Result<(), FetchError>> {
        self.fetch_again(slave, master, ids, Inquiry::NEW)
    }

    /// A further try of the fetch that has made this inquiry.
    pub(crate) fn fetch_again(
        &mut self,
        slave: &Slave,
        master: &SaeId,
        ids: &[KeyId],
        inquiry: Inquiry,
    ) -> Option<Result<(), FetchError>> {
        let work = |store: &mut KeyStore, tx: &mut dyn Tx, now| {
            store.fetch(tx, now, &slave.sae, master, ids, inquiry)
        };
        let Some(result) = self.call(slave.site, work) else {
            self.apps.lost.extend(ids.iter().map(|id| (*id, slave.sae.clone())));
            return None;
        };
        Some(result.map(|containers| {
            assert_eq!(containers.iter().map(|key| key.id).collect::<Vec<_>>(), ids);
            for Container { id, key, .. } in containers {
                let bytes = key.expose().to_vec();
                if let Some(handed) = self.apps.handed.get(&id) {
                    assert_eq!(bytes, handed.bits, "the bits of {id} differ");
                }
                let known = self.apps.fetched.insert((id, slave.sae.clone()), bytes);
                assert!(known.is_none(), "ONCE-ONLY: {id} fetched twice by {}", slave.sae);
            }
        }))
    }

    /// Fetches and waits as the kme core does: asks again once the peer has answered.
    pub(crate) fn fetch_patiently(
        &mut self,
        slave: &Slave,
        master: &SaeId,
        ids: &[KeyId],
    ) -> Option<Result<(), FetchError>> {
        match self.fetch(slave, master, ids)? {
            Err(FetchError::Incomplete { inquiry }) => {
                self.run();
                if self.is_up(slave.site) {
                    self.fetch_again(slave, master, ids, inquiry)
                } else {
                    None
                }
            }
            result => Some(result),
        }
    }

    pub(crate) fn standings(&mut self, id: KeyId) -> [Standing; 2] {
        BOTH.map(|site| {
            let work = |store: &mut KeyStore, tx: &mut dyn Tx, _| store.standing(tx, id);
            self.call::<_, EngineError>(site, work).unwrap().unwrap()
        })
    }

    pub(crate) fn stored(&mut self, site: Site) -> claviger_keystore::Stored {
        let work = |store: &mut KeyStore, tx: &mut dyn Tx, _| store.stored(tx);
        self.call::<_, EngineError>(site, work).unwrap().unwrap()
    }

    /// `claviger kme reset` at one site; `None` if the process died in it.
    pub(crate) fn reset(&mut self, site: Site) -> Option<()> {
        self.disconnect();
        let work = |store: &mut KeyStore, tx: &mut dyn Tx, _| store.reset(tx);
        self.call::<_, EngineError>(site, work).map(Result::unwrap)
    }

    pub(crate) fn expire(&mut self, site: Site) {
        let work = |store: &mut KeyStore, tx: &mut dyn Tx, now| store.handle_timeout(tx, now);
        if let Some(result) = self.call::<_, EngineError>(site, work) {
            result.unwrap();
        }
    }

    /// The checks of the reference model's `bad()` that hold once all records have arrived:
    /// no orphan, no disagreement, nothing pending.
    pub(crate) fn check_settled(&mut self, story: &str) {
        assert_eq!(self.sessions(), [Session::Open; 2], "{story}");
        for site in BOTH {
            let stored = self.stored(site);
            assert_eq!((stored.pending, stored.unacknowledged), (0, 0), "{story}: at {site:?}");
            let unmatched = |event: &&Event| matches!(event, Event::Unmatched { .. });
            assert_eq!(self.kme(site).events.iter().find(unmatched), None, "{story}");
        }
        let mut available = [[0_u64; 2]; 2];
        for id in self.ids.clone() {
            let agreed = match self.standings(id) {
                [Standing::Available { owner: a }, Standing::Available { owner: b }] => {
                    for counts in &mut available {
                        counts[a as usize] += 1;
                    }
                    a == b
                }
                [a, b] => [a, b]
                    .iter()
                    .all(|standing| matches!(standing, Standing::Unknown | Standing::Held { .. })),
            };
            assert!(agreed, "ORPHAN/DISAGREE, {story}: {id} stands {:?}", self.standings(id));
        }
        for site in BOTH {
            let stored = self.stored(site);
            let [mine, theirs] = [site, site.other()].map(|o| available[site as usize][o as usize]);
            assert_eq!((stored.mine, stored.theirs), (mine, theirs), "{story}: levels at {site:?}");
        }
    }

    /// Agreement: what was handed out can be fetched, unless it was, or its answer was lost.
    pub(crate) fn check_fetchable(&mut self, story: &str) {
        let now = self.now;
        let young = |handed: &Handed| now.since(handed.when) < Span::from_secs(3600);
        let handed = self.apps.handed.iter().filter(|(_, handed)| young(handed));
        let handed: Vec<_> =
            handed.map(|(id, handed)| (*id, handed.at, handed.slaves.clone())).collect();
        for (id, at, slaves) in handed {
            for slave in &slaves {
                let done = (id, slave.sae.clone());
                let gone = self.apps.fetched.contains_key(&done);
                let perhaps = self.apps.lost.contains(&done);
                let got = self.fetch_patiently(slave, &sae(&format!("master-{at:?}")), &[id]);
                let expected = if gone { Err(FetchError::Taken { id }) } else { Ok(()) };
                let fits = got == Some(expected)
                    || (perhaps && got == Some(Err(FetchError::Taken { id })));
                assert!(fits, "AGREEMENT, {story}: {} fetched {id}: {got:?}", slave.sae);
            }
        }
    }
}
