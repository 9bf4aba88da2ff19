//! Two ends of a record stream over stores that die and connections that break.

#![expect(clippy::unwrap_used, reason = "a test that fails here fails as it should")]

use std::collections::VecDeque;

use claviger_durable::engine::Engine;
use claviger_durable::peer::{Delivery, Forgetful, Peer, PeerError, PeerTables, Session};
use claviger_durable::{EngineError, MemoryEngine, Table};
use claviger_wire::peer::{Hello, PeerMessage, Tally};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const TABLES: PeerTables =
    PeerTables { meta: Table::plain("peer_meta"), outbox: Table::plain("peer_outbox") };
const APPLIED: Table = Table::plain("applied");

/// One site: a store, and a process while it lives.
struct Site {
    store: MemoryEngine,
    peer: Option<Peer>,
    inbox: VecDeque<Vec<u8>>,
    appended: u64,
}

impl Site {
    fn start(&mut self, rng: &mut StdRng) {
        self.store.revive();
        self.peer = self.store.transact(|tx| Peer::open(tx, TABLES, rng)).ok();
    }

    fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().unwrap()
    }

    fn append(&mut self) -> Result<u64, EngineError> {
        let body = self.appended.to_be_bytes();
        self.appended += 1;
        let peer = self.peer.as_mut().unwrap();
        self.store.transact(|tx| peer.append(tx, &body))
    }

    /// Handles the next message, keeping the body of a record in the same transaction.
    fn receive(&mut self) -> Result<Option<Delivery>, PeerError> {
        let bytes = self.inbox.pop_front().unwrap();
        let peer = self.peer.as_mut().unwrap();
        self.store.transact(|tx| {
            let delivery = peer.handle_message(tx, &bytes)?;
            if let Some(Delivery::Record(body)) = &delivery {
                let n = tx.count(APPLIED, b"")?;
                tx.write(APPLIED, &n.to_be_bytes(), body)?;
            }
            Ok(delivery)
        })
    }

    fn applied(&mut self) -> Vec<Vec<u8>> {
        let rows = self.store.transact::<_, EngineError>(|tx| tx.scan(APPLIED, b"", b"", 9999));
        rows.unwrap().into_iter().map(|(_, body)| body.expose().to_vec()).collect()
    }
}

struct World {
    sites: [Site; 2],
    rng: StdRng,
}

impl World {
    fn new(seed: u64) -> Self {
        let site =
            || Site { store: MemoryEngine::new(), peer: None, inbox: VecDeque::new(), appended: 0 };
        let mut world = Self { sites: [site(), site()], rng: StdRng::seed_from_u64(seed) };
        world.sites.iter_mut().for_each(|site| site.start(&mut world.rng));
        world
    }

    fn disconnect(&mut self) {
        for site in &mut self.sites {
            site.inbox.clear();
            site.peer.iter_mut().for_each(Peer::handle_disconnected);
        }
    }

    fn connect(&mut self) {
        self.disconnect();
        for site in &mut self.sites {
            site.peer.as_mut().unwrap().handle_connected(&mut self.rng);
        }
    }

    fn carry(&mut self) {
        for from in [0, 1] {
            while let Some(bytes) = self.sites[from].peer.as_mut().and_then(Peer::poll_transmit) {
                self.sites[1 - from].inbox.push_back(bytes);
            }
        }
    }

    /// Lets everything arrive that is on its way.
    fn run(&mut self) {
        loop {
            self.carry();
            let mut quiet = true;
            for site in &mut self.sites {
                while !site.inbox.is_empty() {
                    site.receive().unwrap();
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn meet(&mut self) -> [Session; 2] {
        self.connect();
        self.run();
        self.sites.each_mut().map(|site| site.peer().session())
    }

    fn restart(&mut self, i: usize) {
        self.disconnect();
        self.sites[i].start(&mut self.rng);
    }
}

#[test]
fn records_wait_for_the_peer_and_arrive_once_in_order() {
    let mut world = World::new(1);
    for _ in 0..300 {
        world.sites[0].append().unwrap();
    }
    assert_eq!(world.meet(), [Session::Open; 2]);
    assert_eq!(world.sites[0].peer().unacknowledged(), 0);
    world.sites[0].append().unwrap();
    world.carry();
    world.restart(1);
    assert_eq!(world.meet(), [Session::Open; 2]);
    let expected: Vec<_> = (0..301_u64).map(|n| n.to_be_bytes().to_vec()).collect();
    assert_eq!(world.sites[1].applied(), expected);
}

#[test]
fn hints_are_lost_while_apart() {
    let mut world = World::new(1);
    world.sites[0].peer().hint(b"lost");
    assert_eq!(world.meet(), [Session::Open; 2]);
    world.sites[0].peer().hint(b"heard");
    world.carry();
    assert_eq!(world.sites[1].receive(), Ok(Some(Delivery::Hint(b"heard".to_vec()))));
}

/// `PROTOCOL.md`, HELLO: you saw more of mine than I remember.
#[test]
fn a_side_that_forgot_its_own_records_is_rolled_back() {
    let mut world = World::new(2);
    let backup = world.sites[0].store.snapshot();
    world.sites[0].append().unwrap();
    world.meet();
    world.sites[0].store = backup;
    world.restart(0);
    assert_eq!(world.meet(), [true, false].map(|mine| Session::RolledBack { mine }));
}

/// `PROTOCOL.md`, HELLO: you saw fewer of mine than I know you acknowledged.
#[test]
fn a_side_that_forgot_what_it_acknowledged_is_rolled_back() {
    let mut world = World::new(3);
    let backup = world.sites[1].store.snapshot();
    world.sites[0].append().unwrap();
    world.meet();
    world.sites[1].store = backup;
    world.restart(1);
    assert_eq!(world.meet(), [false, true].map(|mine| Session::RolledBack { mine }));
}

/// `PROTOCOL.md`, HELLO: another hash.
#[test]
fn a_side_that_wrote_another_history_is_rolled_back() {
    for n_after in [1, 2] {
        let mut world = World::new(4);
        world.meet();
        let backup = world.sites[0].store.snapshot();
        world.sites[0].append().unwrap();
        world.run();
        world.sites[0].store = backup;
        world.restart(0);
        for _ in 0..n_after {
            world.sites[0].append().unwrap();
        }
        let expected = [true, false].map(|mine| Session::RolledBack { mine });
        assert_eq!(world.meet(), expected, "{n_after} other records");
    }
}

#[test]
fn a_new_store_of_the_peer_is_noticed() {
    let mut world = World::new(5);
    world.sites[0].append().unwrap();
    world.meet();
    world.sites[1].store = MemoryEngine::new();
    world.restart(1);
    assert_eq!(world.meet(), [false, true].map(|mine| Session::RolledBack { mine }));
}

#[test]
fn nothing_flows_after_a_roll_back_until_both_sides_are_reset() {
    let mut world = World::new(6);
    let backup = world.sites[0].store.snapshot();
    world.sites[0].append().unwrap();
    world.meet();
    world.sites[0].store = backup;
    world.restart(0);
    world.meet();
    for i in [0, 1] {
        world.sites[i].append().unwrap();
        world.sites[i].peer().hint(b"no");
        assert_eq!(world.sites[i].peer().poll_transmit(), None);
    }
    let reset = |world: &mut World, i: usize| {
        world.disconnect();
        let site = &mut world.sites[i];
        let peer = site.peer.as_mut().unwrap();
        site.store.transact(|tx| peer.reset(tx)).unwrap();
    };
    // One side reset alone, even twice, changes nothing for the other.
    reset(&mut world, 0);
    reset(&mut world, 0);
    assert_eq!(world.meet(), [false, true].map(|mine| Session::RolledBack { mine }));
    reset(&mut world, 1);
    assert_eq!(world.meet(), [Session::Open; 2]);
    assert_eq!(world.sites.each_mut().map(|site| site.peer().generation()), [2, 2]);
    world.sites[1].append().unwrap();
    world.run();
    assert_eq!(world.sites[0].applied(), [1_u64.to_be_bytes().to_vec()]);
}

/// Acts as an owner does that lets the forgetful side be given everything again.
fn begin_anew_where_needed(world: &mut World) -> bool {
    let mut any = false;
    for site in &mut world.sites {
        let peer = site.peer.as_mut().unwrap();
        let Session::RolledBack { mine } = peer.session() else { continue };
        let anew = if mine { Forgetful::Sender } else { Forgetful::Receiver };
        any |= site
            .store
            .transact(|tx| {
                let is_new = !peer.waits_for_beginning(tx)?;
                if is_new {
                    peer.begin_anew(tx, anew)?;
                }
                Ok::<_, EngineError>(is_new)
            })
            .unwrap();
    }
    any
}

/// Both sides agree on who had forgotten, in whatever order they learn of it.
#[test]
fn both_sides_begin_anew_and_know_why() {
    for (lost, first) in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)] {
        let mut world = World::new(9);
        for _ in 0..3 {
            world.sites[0].append().unwrap();
            world.sites[1].append().unwrap();
            world.meet();
        }
        let backup = world.sites[lost].store.snapshot();
        world.sites[lost].append().unwrap();
        world.meet();
        world.sites[lost].store = if first == 2 { MemoryEngine::new() } else { backup };
        world.restart(lost);
        world.meet();
        // One of them comes no further than to its own beginning, and the connection is lost.
        if first < 2 {
            let forgetful = |site: usize| {
                if site == lost { Forgetful::Sender } else { Forgetful::Receiver }
            };
            let site = &mut world.sites[first];
            let peer = site.peer.as_mut().unwrap();
            site.store.transact(|tx| peer.begin_anew(tx, forgetful(first))).unwrap();
            world.restart(first);
            let expected = [0, 1].map(|site| Session::RolledBack { mine: site == lost });
            assert_eq!(world.meet(), expected, "{lost} forgot, {first} was first");
        }
        let mut n_meetings = 0;
        while begin_anew_where_needed(&mut world) {
            world.meet();
            n_meetings += 1;
        }
        assert!((1..3).contains(&n_meetings), "{n_meetings} meetings");
        assert_eq!(world.meet(), [Session::Open; 2]);
        let peers =
            world.sites.each_mut().map(|site| (site.peer().begun_anew(), site.peer().generation()));
        let of = |site: usize| if site == lost { Forgetful::Sender } else { Forgetful::Receiver };
        assert_eq!(peers.map(|(anew, _)| anew), [(of(0), of(1)), (of(1), of(0))]);
        assert_eq!(peers[0].1, peers[1].1);
    }
}

#[test]
fn a_store_that_runs_twice_is_refused_with_both_its_processes() {
    let mut world = World::new(7);
    world.meet();
    let first = world.sites[0].peer.take();
    world.restart(0);
    assert_eq!(world.meet(), [Session::Open; 2]);
    let second = std::mem::replace(&mut world.sites[0].peer, first);
    assert_eq!(world.meet(), [Session::Superseded; 2]);
    world.sites[0].peer = second;
    assert_eq!(world.meet(), [Session::Superseded; 2]);
}

#[test]
fn messages_out_of_place_are_refused() {
    let mut world = World::new(8);
    let hello = PeerMessage::Hello(Hello {
        nonce: [9; 16],
        store: [0; 16],
        boot: [0; 16],
        generation: 0,
        anew: Forgetful::Nobody,
        sent: Tally::default(),
        seen: Tally::default(),
        acked: 0,
    });
    let record = |seq| PeerMessage::Record { seq, body: Vec::new() };
    let check = |world: &mut World, message: PeerMessage, expected: PeerError| {
        world.sites[0].inbox = [message.encode()].into();
        assert_eq!(world.sites[0].receive(), Err(expected));
    };
    check(&mut world, hello.clone(), PeerError::Unexpected("a HELLO"));
    world.connect();
    // The answer of a dead process to an older challenge.
    check(&mut world, hello, PeerError::Unexpected("a HELLO"));
    check(&mut world, record(1), PeerError::Unexpected("a record"));
    world.meet();
    check(&mut world, record(2), PeerError::Gap { expected: 1, got: 2 });
    check(&mut world, PeerMessage::Ack { seq: 1 }, PeerError::Unsent { last: 0, got: 1 });
    let challenge = PeerMessage::Challenge { nonce: [0; 16] };
    check(&mut world, challenge, PeerError::Unexpected("a challenge"));
}

/// Plays random steps in which stores die at any operation and connections break anywhere.
fn play(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..300 {
        let i = world.rng.random_range(0..2);
        if world.rng.random_ratio(1, 8) {
            let lives = world.rng.random_range(0..8);
            world.sites[i].store.die_after(lives);
        }
        let step = world.rng.random_range(0..10);
        let alive = match step {
            0 => {
                world.connect();
                true
            }
            1..4 => world.sites[i].append().is_ok(),
            _ => {
                world.carry();
                let site = &mut world.sites[i];
                let received = if site.inbox.is_empty() { Ok(None) } else { site.receive() };
                let died = matches!(received, Err(PeerError::Store(_)));
                assert!(died || received.is_ok(), "seed {seed}: {received:?}");
                !died
            }
        };
        if !alive {
            world.restart(i);
            // A record whose transaction failed was never made.
            let site = &mut world.sites[i];
            let own = site.peer().acked() + site.peer().unacknowledged();
            site.appended = own;
        }
    }
    for site in &mut world.sites {
        site.store.revive();
    }
    assert_eq!(world.meet(), [Session::Open; 2], "seed {seed}");
    let sent = world.sites.each_ref().map(|site| site.appended);
    for (applied, n_sent) in world.sites.each_mut().map(Site::applied).into_iter().rev().zip(sent) {
        let expected: Vec<_> = (0..n_sent).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(applied, expected, "seed {seed}");
    }
}

#[test]
fn no_crash_loses_or_repeats_a_record() {
    for seed in 0..300 {
        play(seed);
    }
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(messages: Vec<Vec<u8>>, kind in 1u8..7) {
        let mut world = World::new(9);
        world.meet();
        for bytes in messages {
            world.sites[0].inbox = [[&[kind], bytes.as_slice()].concat()].into();
            drop(world.sites[0].receive());
        }
    }
}
