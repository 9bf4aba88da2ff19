//! Each rule of `PROTOCOL.md` P1 and P2 by itself.

use claviger_durable::peer::Session;
use claviger_durable::{Engine, EngineError, Table, Tx};
use claviger_keystore::{
    Block, BlockKey, BlockStanding, Event, FetchError, HandOutError, Inquiry, KeyStore,
    KeyStoreError, Origin, ProposeError, Provenance, Site, Slave, Standing,
};
use claviger_units::{Bits, Key256, KeyId, OwnerRatio, Span};
use claviger_wire::peer::PeerMessage;
use claviger_wire::site::{Notice, SiteRecord};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use crate::world::{self, BOTH, World, multicast, order, sae};

const A: Site = Site::A;
const B: Site = Site::B;
/// Keys of a vendor's hardware that states no claim.
const UNCLAIMED: Provenance = Provenance { origin: Origin::Hardware, claim: None };

fn slave(name: &str, site: Site) -> Slave {
    Slave { sae: sae(name), site }
}

/// What a fetch has asked that must wait for the peer.
fn incomplete(result: Option<Result<(), FetchError>>) -> Inquiry {
    match result {
        Some(Err(FetchError::Incomplete { inquiry })) => inquiry,
        other => panic!("{other:?} in place of Incomplete"),
    }
}

/// How many records Alice has sent, all acknowledged: READYs make COMMITs, nothing else happened.
fn sent_by_alice(world: &mut World) -> u64 {
    assert_eq!(world.stored(A).unacknowledged, 0);
    world.next_block
}

fn available(owner: Site) -> [Standing; 2] {
    [Standing::Available { owner }; 2]
}

#[test]
fn a_block_becomes_available_at_both_ends() {
    let mut world = World::with_blocks(1, &[(7, 1)]);
    world.check_settled("one block");
    let ids = world.ids.clone();
    assert_eq!(world.standings(ids[0]), available(A));
    assert_eq!(world.standings(ids[7]), available(B));
    for (site, mine) in [(A, 7), (B, 1)] {
        let stored = world.stored(site);
        assert_eq!((stored.mine, stored.theirs), (mine, 8 - mine));
        assert_eq!((stored.usable, stored.leased), (mine, mine), "all leased at {site:?}");
        let n_keys = 8;
        assert!(world.kme(site).events.contains(&Event::BlockCommitted { block: 0, n_keys }));
    }
}

#[test]
fn alice_aborts_what_she_does_not_hold() {
    let mut world = World::with_blocks(1, &[]);
    // Her process died after the proposal.
    world.propose(3, 1).unwrap();
    world.kill(A);
    world.start(A);
    world.meet();
    let offer = world.offers.pop_front().unwrap();
    world.accept(offer).unwrap().unwrap();
    assert_eq!(world.stored(B).pending, 4);
    world.run();
    world.check_settled("aborted");
    assert_eq!(world.stored(B).mine, 0);
    assert!(world.kme(B).events.contains(&Event::BlockAborted { block: 0 }));
    // Her node declared another acceptance than Bob's.
    world.propose(3, 1).unwrap();
    let mut offer = world.offers.pop_front().unwrap();
    offer.acceptance[31] ^= 1;
    world.accept(offer).unwrap().unwrap();
    world.run();
    world.check_settled("another acceptance");
    assert_eq!(world.stored(A).mine + world.stored(B).mine, 0);
    // Her node withdrew it.
    let number = world.propose(3, 1).unwrap();
    world.store(A).withdraw(number);
    let offer = world.offers.pop_front().unwrap();
    world.accept(offer).unwrap().unwrap();
    world.run();
    assert_eq!(world.stored(A).mine + world.stored(B).mine, 0);
}

#[test]
fn a_block_is_taken_once_and_only_in_a_session() {
    let mut world = World::new(1);
    assert_eq!(world.propose(3, 1), Err(ProposeError::Apart));
    world.meet();
    world.deliver_block(3, 1);
    // Ids of the refused proposal come first.
    let first = world.ids[4];
    let block = |number, ids: &[KeyId]| {
        let key = |id: &KeyId| BlockKey { id: *id, owner: A, key: Key256::from_bytes([1; 32]) };
        let keys = ids.iter().map(key).collect();
        Block { number, provenance: UNCLAIMED, acceptance: [0; 32], keys }
    };
    let new = KeyId::random(&mut world.rng);
    for (stale, why) in [
        (block(0, &[new]), "a number in use"),
        (block(9, &[first]), "an id in use"),
        (block(9, &[new, new]), "an id twice"),
        (block(9, &[]), "empty"),
    ] {
        assert_eq!(world.accept(stale), Some(Err(ProposeError::Stale)), "{why}");
    }
    let number = world.propose(1, 1).unwrap();
    let twice = world.call(A, |store, tx, now| store.propose(tx, now, block(number, &[new])));
    assert_eq!(twice, Some(Err(ProposeError::Stale)));
}

/// A node whose answer got lost offers again: whatever it then hears decides over its pads.
#[test]
fn a_block_that_is_offered_again_gets_the_true_answer() {
    let again = |world: &mut World, offer: &Block| {
        let [at_a, at_b] = BOTH.map(|_| world::copy(offer));
        let at_a = world.call(A, |store, tx, now| store.propose(tx, now, at_a)).unwrap();
        [at_a, world.accept(at_b).unwrap()].map(Result::ok)
    };
    let mut world = World::with_blocks(16, &[]);
    world.propose(3, 1).unwrap();
    let offer = world.offers.pop_front().unwrap();
    assert_eq!(again(&mut world, &offer), [Some(BlockStanding::Held); 2]);
    assert_eq!(again(&mut world, &offer), [Some(BlockStanding::Held); 2]);
    assert_eq!(world.stored(B).pending, 4);
    world.run();
    assert_eq!(again(&mut world, &offer), [Some(BlockStanding::Committed); 2]);
    // Also when it was long ago, its keys are gone, and the peer is away.
    world.hand_out(A, &order(A, 3, 256)).unwrap().unwrap();
    world.hand_out(B, &order(B, 1, 256)).unwrap().unwrap();
    world.run();
    for site in BOTH {
        world.kill(site);
        world.start(site);
    }
    assert_eq!(again(&mut world, &offer), [Some(BlockStanding::Committed); 2]);
    // What was aborted stays so.
    world.meet();
    let number = world.propose(3, 1).unwrap();
    let offer = world.offers.pop_front().unwrap();
    world.store(A).withdraw(number);
    assert_eq!(world.accept(world::copy(&offer)), Some(Ok(BlockStanding::Held)));
    world.run();
    assert_eq!(again(&mut world, &offer), [None; 2], "stale");
    world.check_settled("offered again");
}

/// Only of late: what is remembered of blocks stays bounded.
#[test]
fn old_blocks_are_forgotten() {
    let mut world = World::with_blocks(17, &[]);
    for _ in 0..300 {
        world.deliver_block(1, 1);
    }
    let count = |tx: &mut dyn Tx| tx.count(Table::plain("block_verdicts"), &[]);
    for site in BOTH {
        assert_eq!(world.kme(site).disk.transact::<_, EngineError>(count), Ok(256));
    }
}

#[test]
fn a_key_goes_to_its_master_and_then_to_its_slave() {
    let mut world = World::with_blocks(2, &[(4, 2)]);
    for (at, to) in [(A, B), (B, A)] {
        let order = order(at, 2, 256);
        let ids = world.hand_out(at, &order).unwrap().unwrap();
        let slave = &order.slaves[0];
        assert_eq!(world.fetch_patiently(slave, &order.master, &ids), Some(Ok(())));
        let again = world.fetch(slave, &order.master, &ids);
        assert_eq!(again, Some(Err(FetchError::Taken { id: ids[0] })), "from {at:?} to {to:?}");
        world.run();
        let left = if at == A { 2 } else { 0 };
        let stored = world.stored(to);
        assert_eq!((stored.theirs, stored.untaken), (left, 0));
    }
    world.check_settled("both directions");
}

#[test]
fn keys_leave_in_the_order_of_their_positions() {
    let mut world = World::with_blocks(3, &[(3, 1), (3, 1)]);
    let made = world.ids.clone();
    let mut left = Vec::new();
    for number in [2, 1, 3] {
        left.extend(world.hand_out(A, &order(A, number, 256)).unwrap().unwrap());
    }
    assert_eq!(left, [&made[0..3], &made[4..7]].concat());
}

#[test]
fn too_few_keys_spend_nothing() {
    let mut world = World::with_blocks(4, &[(3, 1)]);
    let check = |world: &mut World, number, bits, available| {
        let refused = world.hand_out(A, &order(A, number, bits)).unwrap();
        let needed = u64::from(number);
        assert_eq!(refused, Err(HandOutError::Shortage { available, needed }));
    };
    check(&mut world, 4, 256, 3);
    check(&mut world, 2, 512, 1);
    check(&mut world, 1000, 1 << 63, 0);
    assert_eq!(world.stored(A).mine, 3);
    assert!(world.hand_out(A, &order(A, 3, 256)).unwrap().is_ok());
}

#[test]
fn an_order_that_is_none_spends_nothing() {
    let mut world = World::with_blocks(4, &[(3, 1)]);
    let mut bad = vec![order(A, 0, 256), order(A, 1, 0), order(A, 1, 257), order(A, 1, 256)];
    bad[3].slaves.clear();
    for slave in [bad[0].master.clone(), bad[0].slaves[0].sae.clone()] {
        let mut twice = order(A, 1, 256);
        twice.slaves.push(Slave { sae: slave, site: B });
        bad.push(twice);
    }
    for order in bad {
        let refused = world.hand_out(A, &order).unwrap();
        assert!(matches!(refused, Err(HandOutError::Order(_))), "{order:?}");
    }
    assert_eq!(world.stored(A).mine, 3);
}

#[test]
fn joined_keys_are_cut_and_named_after_their_first_member() {
    let mut world = World::with_blocks(5, &[(9, 1)]);
    let made = world.ids.clone();
    for (number, bits, members) in [(2, 264, 2), (1, 1024, 4), (1, 64, 1)] {
        let order = order(A, number, bits);
        let before = world.stored(A).mine;
        let ids = world.hand_out(A, &order).unwrap().unwrap();
        assert_eq!(before - world.stored(A).mine, u64::from(number) * members);
        let first = made.iter().position(|id| *id == ids[0]).unwrap();
        assert_eq!(first as u64, 9 - before);
        world.run();
        assert_eq!(world.stored(B).theirs, world.stored(A).mine, "members are gone at both ends");
        // `fetch` compares the bits with the master's.
        assert_eq!(world.fetch(&order.slaves[0], &order.master, &ids), Some(Ok(())));
    }
}

#[test]
fn each_slave_takes_its_copy_once() {
    let mut world = World::with_blocks(6, &[(2, 2)]);
    let order = multicast(A, 1);
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    world.run();
    assert_eq!(world.stored(A).untaken, 1, "a slave of the master's own KME");
    assert_eq!(world.stored(B).untaken, 1, "one copy for two slaves");
    for slave in &order.slaves {
        assert_eq!(world.fetch(slave, &order.master, &ids), Some(Ok(())));
        let again = world.fetch(slave, &order.master, &ids);
        assert_eq!(again, Some(Err(FetchError::Taken { id: ids[0] })));
    }
    assert_eq!([world.stored(A).untaken, world.stored(B).untaken], [0, 0]);
    // Slaves only at the master's own KME: the peer just erases its copy.
    let mut local = order;
    local.slaves.retain(|slave| slave.site == A);
    let ids = world.hand_out(A, &local).unwrap().unwrap();
    world.run();
    assert_eq!(world.standings(ids[0])[1], Standing::Unknown);
    assert_eq!(world.fetch(&local.slaves[0], &local.master, &ids), Some(Ok(())));
    world.run();
    world.check_settled("multicast");
}

/// `WIRE.md` §2: known (400), named (401), not yet taken (400), in this order; all or nothing.
#[test]
fn a_fetch_is_judged_in_order_and_spends_nothing_on_refusal() {
    let mut world = World::with_blocks(7, &[(4, 1)]);
    let order = order(A, 3, 256);
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    let (slave_b, master) = (order.slaves[0].clone(), order.master.clone());
    world.run();
    assert_eq!(world.fetch(&slave_b, &master, &ids[..1]), Some(Ok(())));
    let never = KeyId::random(&mut world.rng);
    let waiting = world.ids[3];
    let stranger = slave("stranger", B);
    let (unknown, foreign) =
        (FetchError::Unknown { id: never }, |id| FetchError::NotEntitled { id });
    for (who, by, asked, expected) in [
        (&slave_b, &master, vec![ids[1], never], unknown.clone()),
        (&stranger, &master, vec![ids[0], never], unknown),
        (&slave_b, &master, vec![waiting], FetchError::Unknown { id: waiting }),
        (&stranger, &master, vec![ids[0]], foreign(ids[0])),
        (&slave_b, &sae("another"), vec![ids[1]], foreign(ids[1])),
        (&slave_b, &master, vec![ids[1], ids[0]], FetchError::Taken { id: ids[0] }),
        (&slave_b, &master, vec![ids[1], ids[1]], FetchError::Taken { id: ids[1] }),
    ] {
        assert_eq!(world.fetch_patiently(who, by, &asked), Some(Err(expected)), "{asked:?}");
    }
    assert_eq!(world.fetch(&slave_b, &master, &ids[1..]), Some(Ok(())));
}

#[test]
fn unknown_is_never_said_on_incomplete_knowledge() {
    let mut world = World::with_blocks(8, &[(4, 1)]);
    let order = order(A, 1, 256);
    let (slave, master) = (order.slaves[0].clone(), order.master.clone());
    // The notice is still on its way.
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    let inquiry = incomplete(world.fetch(&slave, &master, &ids));
    assert_eq!(incomplete(world.fetch_again(&slave, &master, &ids, inquiry)), inquiry);
    world.run();
    assert!(world.kme(B).events.contains(&Event::KnowledgeComplete));
    assert_eq!(world.fetch(&slave, &master, &ids), Some(Ok(())));
    // The owner cannot be heard.
    world.disconnect();
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    assert_eq!(world.fetch(&slave, &master, &ids), Some(Err(FetchError::Apart)));
    world.connect();
    assert_eq!(world.fetch(&slave, &master, &ids), Some(Err(FetchError::Apart)));
    world.run();
    assert_eq!(world.fetch(&slave, &master, &ids), Some(Ok(())));
    // An answer about the past says nothing about a key handed out since.
    let next = world.ids[2];
    let unknown = Some(Err(FetchError::Unknown { id: next }));
    assert_eq!(world.fetch_patiently(&slave, &master, &[next]), unknown);
    assert_eq!(world.hand_out(A, &order), Some(Ok(vec![next])));
    assert_eq!(world.fetch_patiently(&slave, &master, &[next]), Some(Ok(())));
}

/// `PROTOCOL.md` P2: a question whose asker left says nothing to who comes after it.
#[test]
fn an_answer_serves_only_who_asked() {
    let mut world = World::with_blocks(8, &[(4, 1)]);
    let order = order(A, 1, 256);
    let (slave, master) = (order.slaves[0].clone(), order.master.clone());
    let next = world.ids[0];
    // Somebody asks too early, and is gone when the answer comes.
    let early = incomplete(world.fetch(&slave, &master, &[next]));
    world.run();
    assert_eq!(world.hand_out(A, &order), Some(Ok(vec![next])));
    let late = incomplete(world.fetch(&slave, &master, &[next]));
    let unknown = Some(Err(FetchError::Unknown { id: next }));
    assert_eq!(world.fetch_again(&slave, &master, &[next], early), unknown);
    world.run();
    assert_eq!(world.fetch_again(&slave, &master, &[next], late), Some(Ok(())));
    // A question that went down with its connection is put again.
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    let lost = incomplete(world.fetch(&slave, &master, &ids));
    world.disconnect();
    assert_eq!(world.fetch_again(&slave, &master, &ids, lost), Some(Err(FetchError::Apart)));
    world.meet();
    assert_eq!(world.fetch_again(&slave, &master, &ids, lost), Some(Ok(())));
    let never = KeyId::random(&mut world.rng);
    let again = incomplete(world.fetch_again(&slave, &master, &[never], lost));
    assert_ne!(again, lost);
    world.run();
    let unknown = Some(Err(FetchError::Unknown { id: never }));
    assert_eq!(world.fetch_again(&slave, &master, &[never], again), unknown);
    // One request asks once, however often it is tried.
    let inquiry = incomplete(world.fetch(&slave, &master, &[never]));
    assert_eq!(world.kme(A).inbox.len(), 1);
    assert_eq!(incomplete(world.fetch_again(&slave, &master, &[never], inquiry)), inquiry);
    assert_eq!(world.kme(A).inbox.len(), 1);
}

#[test]
fn hand_out_goes_on_without_the_peer_within_the_lease() {
    let mut world = World::with_blocks(9, &[(100, 1)]);
    // The share's cap is 112 keys: the window is a quarter of it.
    assert_eq!(world.stored(A).leased, 28);
    world.disconnect();
    let order = order(A, 28, 256);
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    let one = world::order(A, 1, 256);
    assert_eq!(world.hand_out(A, &one), Some(Err(HandOutError::Apart)));
    world.meet();
    assert_eq!(world.fetch(&order.slaves[0], &order.master, &ids), Some(Ok(())));
    assert!(world.hand_out(A, &one).unwrap().is_ok());
}

#[test]
fn more_is_asked_for_when_half_is_used() {
    let mut world = World::with_blocks(10, &[(100, 1)]);
    for (number, leased) in [(13, 15), (1, 28), (14, 28)] {
        world.hand_out(A, &order(A, number, 256)).unwrap().unwrap();
        world.run();
        assert_eq!(world.stored(A).leased, leased, "after {number} more");
    }
    // A request larger than what is left asks for that much.
    let large = order(A, 50, 256);
    assert_eq!(world.hand_out(A, &large), Some(Err(HandOutError::Lease)));
    world.kme(A).events.clear();
    world.run();
    assert_eq!(world.kme(A).events, [Event::LeaseGrown]);
    assert!(world.hand_out(A, &large).unwrap().is_ok());
}

#[test]
fn an_unclean_start_burns_what_was_leased_and_a_clean_stop_costs_nothing() {
    for (clean, burnt) in [(true, 0), (false, 25)] {
        let mut world = World::with_blocks(11, &[(100, 1)]);
        world.hand_out(A, &order(A, 3, 256)).unwrap().unwrap();
        world.run();
        if clean {
            world.store(A).stop();
            assert_eq!(world.hand_out(A, &order(A, 1, 256)), Some(Err(HandOutError::Stopping)));
            world.run();
            assert_eq!(world.kme(A).events.last(), Some(&Event::LeaseReturned));
        }
        world.kill(A);
        world.start(A);
        assert_eq!(world.hand_out(A, &order(A, 1, 256)), Some(Err(HandOutError::Apart)));
        world.meet();
        assert_eq!(world.stored(A).mine, 97 - burnt);
        let event = Event::Burnt { n_keys: burnt };
        assert_eq!(world.kme(A).events.contains(&event), burnt > 0);
        world.check_settled("restarted");
        assert!(world.hand_out(A, &order(A, 1, 256)).unwrap().is_ok());
    }
}

/// `PROTOCOL.md` P2 ●: the receiver of COMMIT hands out only once its DONE is acknowledged.
#[test]
fn bob_waits_until_his_done_is_acknowledged() {
    let mut world = World::with_blocks(12, &[]);
    world.propose(1, 3).unwrap();
    let offer = world.offers.pop_front().unwrap();
    world.accept(offer).unwrap().unwrap();
    while world.stored(B).mine == 0 {
        world.receive(A);
        world.receive(B);
    }
    // Lost between COMMIT and the acknowledgement of DONE.
    world.disconnect();
    let refused = world.hand_out(B, &order(B, 1, 256));
    assert_eq!(refused, Some(Err(HandOutError::Shortage { available: 0, needed: 1 })));
    assert_eq!((world.stored(B).mine, world.stored(B).usable), (3, 0));
    world.kill(B);
    world.start(B);
    assert_eq!(world.stored(B).usable, 0);
    world.meet();
    assert_eq!(world.stored(B).usable, 3);
    assert!(world.hand_out(B, &order(B, 1, 256)).unwrap().is_ok());
}

#[test]
fn a_full_share_displaces_its_own_oldest_keys() {
    let mut world = World::with_blocks(13, &[(60, 30), (60, 30)]);
    let made = world.ids.clone();
    // Caps: 112 keys of A, 64 of B.
    assert_eq!((world.stored(A).mine, world.stored(B).mine), (112, 60));
    assert!(world.kme(A).events.contains(&Event::Displaced { n_keys: 8 }));
    world.deliver_block(2, 10);
    assert_eq!((world.stored(A).mine, world.stored(B).mine), (112, 64));
    for (gone, kept) in [(made[9], made[10]), (made[65], made[66])] {
        assert_eq!(world.standings(gone), [Standing::Unknown; 2]);
        assert!(matches!(world.standings(kept)[0], Standing::Available { .. }));
    }
    world.check_settled("displaced");
}

#[test]
fn a_displaced_block_larger_than_the_share_keeps_the_newest() {
    let mut world = World::with_blocks(14, &[(1, 70)]);
    assert_eq!(world.stored(B).mine, 64);
    world.check_settled("one large block");
    assert!(world.hand_out(B, &order(B, 1, 256)).unwrap().is_ok());
}

#[test]
fn at_the_hard_cap_the_link_pauses() {
    let mut world = World::with_blocks(15, &[]);
    // Bob accepts block after block that Alice never answers: 256 keys are twice the capacity.
    for _ in 0..2 {
        world.propose(64, 64).unwrap();
        let offer = world.offers.pop_front().unwrap();
        assert_eq!(world.accept(offer), Some(Ok(BlockStanding::Held)));
    }
    assert_eq!(world.propose(1, 1), Err(ProposeError::Busy));
    world.store(A).withdraw(0);
    world.propose(1, 1).unwrap();
    let offer = world.offers.pop_front().unwrap();
    assert_eq!(world.accept(offer), Some(Err(ProposeError::Busy)));
}

#[test]
fn untaken_keys_expire_with_a_record() {
    let mut world = World::with_blocks(16, &[(4, 1)]);
    let order = multicast(A, 2);
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    world.run();
    world.fetch(&order.slaves[0], &order.master, &ids[..1]).unwrap().unwrap();
    world.now = world.now + Span::from_secs(3599);
    for site in BOTH {
        world.expire(site);
    }
    assert_eq!((world.stored(A).untaken, world.stored(B).untaken), (2, 2));
    world.now = world.store(B).poll_timeout().unwrap();
    let late = world.fetch(&order.slaves[1], &order.master, &ids[..1]);
    assert_eq!(late, Some(Err(FetchError::Unknown { id: ids[0] })));
    for site in BOTH {
        world.expire(site);
    }
    world.run();
    assert_eq!((world.stored(A).untaken, world.stored(B).untaken), (0, 0));
    assert_eq!(world.store(B).poll_timeout(), None);
    assert!(world.kme(B).events.contains(&Event::Expired { n_keys: 2 }));
    world.check_settled("expired");
    assert_eq!(world.standings(ids[0]), [Standing::Unknown; 2]);
}

#[test]
fn a_slave_that_never_comes_stops_its_master_and_no_one_else() {
    let mut world = World::with_blocks(17, &[(10, 1)]);
    world.configure(A, |config| config.untaken_per_pair = 3);
    world.meet();
    world.deliver_block(10, 1);
    let order = multicast(A, 2);
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    let slave = sae("slave-B");
    let refused = Some(Err(HandOutError::Backlog { slave: slave.clone() }));
    assert_eq!(world.hand_out(A, &order), refused);
    let mut elsewhere = world::order(A, 3, 256);
    elsewhere.slaves = vec![Slave { sae: sae("another"), site: B }];
    assert!(world.hand_out(A, &elsewhere).unwrap().is_ok());
    world.run();
    // TAKEN by some and EXPIRED for the others both free their places.
    let deliverable = |world: &mut World| {
        let work = |store: &mut KeyStore, tx: &mut dyn Tx, _| {
            store.deliverable(tx, &sae("master-A"), &slave)
        };
        world.call::<_, EngineError>(A, work).unwrap().unwrap()
    };
    assert_eq!(deliverable(&mut world), 1);
    world.fetch(&order.slaves[0], &order.master, &ids).unwrap().unwrap();
    world.run();
    assert_eq!(deliverable(&mut world), 3);
    assert_eq!(
        world.hand_out(A, &order),
        Some(Err(HandOutError::Backlog { slave: sae("second") }))
    );
    world.now = world.now + Span::from_secs(3600);
    for site in BOTH {
        world.expire(site);
    }
    world.run();
    assert!(world.hand_out(A, &order).unwrap().is_ok());
}

#[test]
fn the_split_follows_what_both_sides_hand_out() {
    let mut world = World::with_blocks(18, &[(8, 60)]);
    let now = world.now;
    let of_b = |world: &mut World, site, now| {
        let owners = world.store(site).ratio(now).owners(64);
        owners.into_iter().filter(|owner| *owner == B).count()
    };
    assert_eq!((of_b(&mut world, A, now), of_b(&mut world, B, now)), (8, 8));
    world.hand_out(B, &order(B, 16, 256)).unwrap().unwrap();
    world.run();
    world.hand_out(B, &order(B, 16, 256)).unwrap().unwrap();
    world.deliver_block(8, 8);
    // Bob's demand travelled with his READY, and the new shares with Alice's COMMIT.
    assert_eq!(of_b(&mut world, A, now), 26);
    world.deliver_block(8, 8);
    assert_eq!(of_b(&mut world, B, now), 26);
    let later = now + Span::from_secs(3600);
    assert_eq!(of_b(&mut world, B, later), 26, "Bob's cap follows the blocks");
}

#[test]
fn a_restored_side_serves_nobody_until_both_are_reset() {
    for victim in BOTH {
        let mut world = World::with_blocks(19, &[(10, 10)]);
        let backup = world.kme(victim).disk.snapshot();
        let order = order(victim, 2, 256);
        let ids = world.hand_out(victim, &order).unwrap().unwrap();
        world.run();
        world.kill(victim);
        world.kme(victim).disk = backup;
        world.start(victim);
        let sessions = BOTH.map(|site| Session::RolledBack { mine: site == victim });
        assert_eq!(world.meet(), sessions);
        for site in BOTH {
            let refused = world.hand_out(site, &world::order(site, 1, 256));
            assert_eq!(refused, Some(Err(HandOutError::RolledBack)));
            let fetched = world.fetch(&slave("slave-B", site), &order.master, &ids);
            assert_eq!(fetched, Some(Err(FetchError::RolledBack)));
        }
        assert_eq!(world.propose(1, 1), Err(ProposeError::RolledBack));
        for site in BOTH {
            world.reset(site).unwrap();
        }
        assert_eq!(world.meet(), [Session::Open; 2]);
        world.check_settled("reset");
        assert_eq!(world.stored(victim).mine, 0);
        world.deliver_block(3, 3);
        assert!(world.hand_out(victim, &order).unwrap().is_ok());
    }
}

#[test]
fn idq3p_finds_a_key_by_the_low_half_of_its_id() {
    let mut world = World::with_blocks(20, &[(2, 1)]);
    let order = order(A, 1, 256);
    let [id]: [KeyId; 1] = world.hand_out(A, &order).unwrap().unwrap().try_into().unwrap();
    let resolve = |world: &mut World, low64| {
        let work = |store: &mut KeyStore, tx: &mut dyn Tx, _| store.resolve(tx, low64);
        world.call::<_, EngineError>(B, work).unwrap().unwrap()
    };
    // Before and after the notice, and after it was taken.
    assert_eq!(resolve(&mut world, id.low64()), Some(id));
    assert_eq!(world.fetch_patiently(&order.slaves[0], &order.master, &[id]), Some(Ok(())));
    assert_eq!(resolve(&mut world, id.low64()), Some(id));
    assert_eq!(resolve(&mut world, !id.low64()), None);
}

/// A peer that speaks the format but not the truth: nothing panics, and own keys stay.
#[test]
fn records_that_contradict_the_store_destroy_nothing_of_mine() {
    let mut world = World::with_blocks(24, &[(4, 2)]);
    let made = world.ids.clone();
    let (mine, theirs, never) = (made[4], made[0], KeyId::random(&mut world.rng));
    let notice = |size, keys| {
        let (master, slaves) = (sae("m"), vec![sae("s")]);
        SiteRecord::Notice(Notice { master, slaves, size: Bits::new(size), keys })
    };
    let hostile = [
        SiteRecord::Commit { block: 77, ratio: OwnerRatio::INITIAL },
        SiteRecord::Abort { block: 0 },
        SiteRecord::Displaced { ids: vec![mine, never] },
        SiteRecord::Taken { master: sae("m"), slave: sae("s"), ids: vec![never, mine] },
        SiteRecord::Expired { master: sae("m"), slaves: vec![sae("s")], id: mine },
        notice(256, vec![vec![mine], vec![], vec![never]]),
        notice(512, vec![vec![theirs, theirs]]),
        notice(u64::MAX, vec![vec![made[1]]]),
    ];
    let first = 1 + sent_by_alice(&mut world);
    for (record, seq) in hostile.into_iter().zip(first..) {
        let bytes = PeerMessage::Record { seq, body: record.encode() }.encode();
        world.kme(B).inbox.clear();
        world.kme(B).inbox.push_back(bytes);
        world.receive(B);
    }
    let unmatched = |event: &&Event| matches!(event, Event::Unmatched { .. });
    assert!(world.kme(B).events.iter().filter(unmatched).count() >= 5);
    assert_eq!(world.stored(B).mine, 2);
    assert_eq!(world.standings(mine)[1], Standing::Available { owner: B });
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(hint in any::<bool>(), kind in 0u8..10, body: Vec<u8>) {
        let mut world = World::with_blocks(25, &[(2, 2)]);
        let body = [&[kind], body.as_slice()].concat();
        let seq = 1 + sent_by_alice(&mut world);
        let message =
            if hint { PeerMessage::Hint { body } } else { PeerMessage::Record { seq, body } };
        for bytes in [message.encode(), vec![kind]] {
            let handled: Option<Result<(), KeyStoreError>> =
                world.call(B, |store, tx, now| store.handle_message(tx, now, &bytes));
            prop_assert!(handled.is_some());
        }
    }
}

#[test]
fn two_kmes_of_one_site_refuse_each_other() {
    let mut world = World::with_blocks(21, &[(2, 1)]);
    let ready = SiteRecord::Ready { block: 9, acceptance: [0; 32], claim: None };
    let seq = 1 + sent_by_alice(&mut world);
    let bytes = PeerMessage::Record { seq, body: ready.encode() }.encode();
    let refused = world.call(B, |store, tx, now| store.handle_message(tx, now, &bytes));
    assert_eq!(refused, Some(Err(KeyStoreError::SameSite)));
    assert_eq!(world.store(B).session(), Session::Apart, "and no acknowledgement leaves");
    assert!(world.kme(A).inbox.is_empty());
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let frames = || {
        let mut world = World::with_blocks(22, &[(20, 5)]);
        world.hand_out(A, &order(A, 5, 256)).unwrap().unwrap();
        world.kme(B).inbox.clone()
    };
    assert_eq!(frames(), frames());
    assert!(!frames().is_empty());
}

#[test]
fn records_never_hold_key_bytes() {
    let mut rng = StdRng::seed_from_u64(23);
    let mut world = World::with_blocks(23, &[]);
    let marker = Key256::from_bytes([0xC5; 32]);
    let id = KeyId::random(&mut rng);
    let block = || Block {
        number: 0,
        provenance: UNCLAIMED,
        acceptance: [1; 32],
        keys: vec![BlockKey { id, owner: A, key: marker.duplicate() }],
    };
    let mut frames = Vec::new();
    world.call(A, |store, tx, now| store.propose(tx, now, block())).unwrap().unwrap();
    world.accept(block()).unwrap().unwrap();
    let mut pump = |world: &mut World| {
        while world.kmes.iter().any(|kme| !kme.inbox.is_empty()) {
            for site in BOTH {
                frames.extend(world.kme(site).inbox.iter().cloned());
                world.receive(site);
            }
        }
    };
    pump(&mut world);
    let order = order(A, 1, 128);
    let ids = world.hand_out(A, &order).unwrap().unwrap();
    pump(&mut world);
    world.fetch(&order.slaves[0], &order.master, &ids).unwrap().unwrap();
    pump(&mut world);
    assert_eq!(Bits::new(128), order.size);
    assert!(frames.len() > 8);
    assert!(frames.iter().all(|frame| !frame.windows(8).any(|eight| eight == [0xC5; 8])));
}
