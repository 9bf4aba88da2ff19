//! Two sites on one bench: key stores in memory, and a wire between them that can be held up.

use std::collections::{BTreeMap, VecDeque};

use claviger_durable::{Engine, EngineError, MemoryEngine, Tx};
use claviger_keystore::{Block, BlockKey, Inquiry, KeyStore, Origin, Provenance, StoreConfig};
use claviger_security::SecurityClaim;
use claviger_units::{Bits, Key256, KeyId, SaeId, SecretBytes, Site, Span, Timestamp};
use claviger_wire::etsi014::{KeyContainer, KeyIds, KeyRequest, Status};
use claviger_wire::idq3p::{ByteOrder, Request, RequestId, Response, Wanted};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::{
    AuditLine, Call, DatagramDeclined, Declined, DevicePair, Event, Kme, KmeConfig, Limits,
    SaeBinding,
};

pub(super) const ORDER: ByteOrder = ByteOrder::LittleEndian;

/// `gateway` and `printer` belong to A, `platform` and `archive` to B.
pub(super) fn config(site: Site) -> KmeConfig {
    let (kme_id, peer_kme_id, sae, peer) = match site {
        Site::A => ("kme-a", "kme-b", "gateway", "platform"),
        Site::B => ("kme-b", "kme-a", "platform", "gateway"),
    };
    let saes =
        [("gateway", Site::A), ("printer", Site::A), ("platform", Site::B), ("archive", Site::B)];
    KmeConfig {
        kme_id: kme_id.to_owned(),
        peer_kme_id: peer_kme_id.to_owned(),
        site,
        saes: saes.into_iter().map(|(id, site)| (sae_id(id), SaeBinding { site })).collect(),
        limits: Limits::DESIGN,
        idq3p_order: ORDER,
        idq3p_devices: BTreeMap::from([(1, DevicePair { sae: sae_id(sae), peer: sae_id(peer) })]),
    }
}

pub(super) fn sae_id(text: &str) -> SaeId {
    text.parse().unwrap()
}

/// One site: its disk, its key store, its KME.
pub(super) struct Party {
    pub(super) engine: MemoryEngine,
    pub(super) store: KeyStore,
    pub(super) kme: Kme,
    wire: VecDeque<Vec<u8>>,
}

impl Party {
    fn start(site: Site, mut engine: MemoryEngine, now: Timestamp, rng: &mut StdRng) -> Self {
        let stored = StoreConfig {
            site,
            capacity: Bits::new(1_000_000),
            untaken_expiry: Span::from_secs(3600),
            untaken_per_pair: 20_000,
        };
        let store = engine.transact::<_, EngineError>(|tx| KeyStore::open(tx, now, stored, rng));
        let kme = Kme::new(config(site)).unwrap();
        Self { engine, store: store.unwrap(), kme, wire: VecDeque::new() }
    }

    /// Everything durable that a request could spend, and whether the disk was touched at all.
    pub(super) fn state(&mut self) -> (String, u64) {
        let store = &self.store;
        let stored = self.engine.transact::<_, EngineError>(|tx| store.stored(tx)).unwrap();
        (format!("{stored:?}"), self.engine.operations())
    }

    pub(super) fn deliverable(&mut self, master: &str, slave: &str) -> u64 {
        let (store, master, slave) = (&self.store, sae_id(master), sae_id(slave));
        let count = |tx: &mut dyn Tx| store.deliverable(tx, &master, &slave);
        self.engine.transact::<_, EngineError>(count).unwrap()
    }

    /// How many keys wait here for slaves.
    pub(super) fn untaken(&mut self) -> u64 {
        let store = &self.store;
        self.engine.transact::<_, EngineError>(|tx| store.stored(tx)).unwrap().untaken
    }

    pub(super) fn audit(&mut self) -> Vec<AuditLine> {
        let kme = &self.kme;
        self.engine.transact::<_, EngineError>(|tx| kme.audit(tx, 0, 9)).unwrap()
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.kme.poll_event()).collect()
    }
}

/// What the simulated link says of its keys, with a preset of the paper.
pub(super) const SIMULATED: Provenance =
    Provenance { origin: Origin::Simulated, claim: Some(SecurityClaim::EraHeuristic) };

/// Both sites and the time.
pub(super) struct World {
    pub(super) a: Party,
    pub(super) b: Party,
    pub(super) now: Timestamp,
    rng: StdRng,
    blocks: u64,
}

impl World {
    /// Two connected sites with empty buffers.
    pub(super) fn empty() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Timestamp::START + Span::from_secs(1000);
        let a = Party::start(Site::A, MemoryEngine::new(), now, &mut rng);
        let b = Party::start(Site::B, MemoryEngine::new(), now, &mut rng);
        let mut world = Self { a, b, now, rng, blocks: 0 };
        world.connect();
        world
    }

    /// Two connected sites with a block of `n_keys`, most of them owned by A.
    pub(super) fn with_keys(n_keys: usize) -> Self {
        let mut world = Self::empty();
        world.add_block(n_keys, SIMULATED);
        world
    }

    /// Lets both sites distil a block and returns the ids of its keys.
    pub(super) fn add_block(&mut self, n_keys: usize, provenance: Provenance) -> Vec<KeyId> {
        self.blocks += 1;
        let owners = self.a.store.ratio(self.now).owners(n_keys);
        let names: Vec<_> = owners
            .into_iter()
            .map(|owner| (KeyId::random(&mut self.rng), owner, Key256::random(&mut self.rng)))
            .collect();
        let block = || Block {
            number: self.blocks,
            provenance,
            acceptance: [0; 32],
            keys: names
                .iter()
                .map(|(id, owner, key)| BlockKey { id: *id, owner: *owner, key: key.duplicate() })
                .collect(),
        };
        let (store, now) = (&mut self.a.store, self.now);
        self.a.engine.transact(|tx| store.propose(tx, now, block())).unwrap();
        let store = &mut self.b.store;
        self.b.engine.transact(|tx| store.accept(tx, now, block())).unwrap();
        self.settle();
        names.iter().map(|(id, ..)| *id).collect()
    }

    pub(super) fn connect(&mut self) {
        self.a.store.handle_connected(&mut self.rng);
        self.b.store.handle_connected(&mut self.rng);
        self.settle();
    }

    pub(super) fn disconnect(&mut self) {
        for party in [&mut self.a, &mut self.b] {
            party.store.handle_disconnected();
            party.wire.clear();
        }
    }

    /// Starts A again from a copy of its disk.
    pub(super) fn restart_a_from(&mut self, disk: MemoryEngine) {
        self.disconnect();
        self.a = Party::start(Site::A, disk, self.now, &mut self.rng);
        self.connect();
    }

    /// Starts A again, as after `kill -9`.
    pub(super) fn restart_a(&mut self) {
        let disk = self.a.engine.snapshot();
        self.restart_a_from(disk);
    }

    /// Carries messages until both sites are silent.
    pub(super) fn settle(&mut self) {
        let now = self.now;
        for _ in 0..1000 {
            for party in [&mut self.a, &mut self.b] {
                party.wire.extend(std::iter::from_fn(|| party.store.poll_transmit()));
            }
            if self.a.wire.is_empty() && self.b.wire.is_empty() {
                return;
            }
            deliver(now, &mut self.a.wire, &mut self.b.engine, &mut self.b.store);
            deliver(now, &mut self.b.wire, &mut self.a.engine, &mut self.a.store);
        }
        panic!("the two key stores never fall silent");
    }

    pub(super) fn party(&mut self, site: Site) -> &mut Party {
        match site {
            Site::A => &mut self.a,
            Site::B => &mut self.b,
        }
    }

    pub(super) fn status(
        &mut self,
        site: Site,
        caller: &str,
        slave: &str,
    ) -> Result<Status, Declined> {
        let (caller, Party { engine, store, kme, .. }) = (sae_id(caller), self.party(site));
        let call = Call { caller: &caller, other: slave, inquiry: Inquiry::NEW };
        engine.transact(|tx| kme.status(tx, store, call))
    }

    /// "Get key" with a JSON body.
    pub(super) fn enc_keys(
        &mut self,
        site: Site,
        (caller, slave): (&str, &str),
        body: &str,
    ) -> Result<KeyContainer, Declined> {
        let now = self.now;
        let (caller, Party { engine, store, kme, .. }) = (sae_id(caller), self.party(site));
        let call = Call { caller: &caller, other: slave, inquiry: Inquiry::NEW };
        let request = KeyRequest::from_body(body.as_bytes());
        engine.transact(|tx| kme.enc_keys(tx, now, store, call, request))
    }

    /// "Get key with key IDs".
    pub(super) fn dec_keys(
        &mut self,
        site: Site,
        (caller, master): (&str, &str),
        ids: &[KeyId],
    ) -> Result<KeyContainer, Declined> {
        self.dec_keys_again(site, (caller, master), ids, Inquiry::NEW)
    }

    /// A further try of the request that has made this inquiry.
    pub(super) fn dec_keys_again(
        &mut self,
        site: Site,
        (caller, master): (&str, &str),
        ids: &[KeyId],
        inquiry: Inquiry,
    ) -> Result<KeyContainer, Declined> {
        let now = self.now;
        let (caller, Party { engine, store, kme, .. }) = (sae_id(caller), self.party(site));
        let call = Call { caller: &caller, other: master, inquiry };
        let request = KeyIds { ids: ids.to_vec() };
        engine.transact(|tx| kme.dec_keys(tx, now, store, call, Ok(request)))
    }

    /// "Get key with key IDs" as the shell does it: what is pending is asked again.
    pub(super) fn dec_keys_patiently(
        &mut self,
        site: Site,
        pair: (&str, &str),
        ids: &[KeyId],
    ) -> Result<KeyContainer, Declined> {
        match self.dec_keys(site, pair, ids) {
            Err(Declined::Pending { inquiry, .. }) => {
                self.settle();
                self.dec_keys_again(site, pair, ids, inquiry)
            }
            settled => settled,
        }
    }

    /// Hands a datagram to the KME of a site.
    pub(super) fn datagram(
        &mut self,
        site: Site,
        source: &str,
        bytes: &[u8],
    ) -> Result<SecretBytes, DatagramDeclined> {
        self.datagram_again(site, source, bytes, Inquiry::NEW)
    }

    /// A further try with the datagram that has made this inquiry.
    pub(super) fn datagram_again(
        &mut self,
        site: Site,
        source: &str,
        bytes: &[u8],
        inquiry: Inquiry,
    ) -> Result<SecretBytes, DatagramDeclined> {
        let now = self.now;
        let Party { engine, store, kme, .. } = self.party(site);
        let source = source.as_bytes();
        engine.transact(|tx| kme.handle_datagram(tx, now, store, source, bytes, inquiry))
    }

    /// Asks by IDQ3P and reads the answer, whatever it says.
    pub(super) fn ask(&mut self, site: Site, source: &str, request: &Request) -> Response {
        let answer = match self.datagram(site, source, &request.encode(ORDER)) {
            Ok(answer) | Err(DatagramDeclined::Refused(answer)) => answer,
            Err(other) => panic!("no answer: {other}"),
        };
        Response::decode(answer.expose(), ORDER).unwrap()
    }
}

/// Delivers what waits on a wire.
fn deliver(
    now: Timestamp,
    wire: &mut VecDeque<Vec<u8>>,
    engine: &mut MemoryEngine,
    store: &mut KeyStore,
) {
    for message in wire.drain(..) {
        engine.transact(|tx| store.handle_message(tx, now, &message)).unwrap();
    }
}

pub(super) fn request(wanted: Wanted, length: u8, number: u32) -> Request {
    Request::ask(wanted, length, RequestId::from_number(number, ORDER), 1)
}
