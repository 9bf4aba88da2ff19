//! What is told of a key goes with it, from both nodes to both applications.

use claviger_durable::{Engine, EngineError, Table, Tx};
use claviger_keystore::{
    Container, Event, FetchError, HandOutError, Inquiry, KeyStore, Origin, Provenance, Site,
};
use claviger_security::SecurityClaim;
use claviger_units::KeyId;

use crate::world::{BOTH, World, multicast, order};

const CLAIMS: [Option<SecurityClaim>; 4] = [
    None,
    Some(SecurityClaim::EraHeuristic),
    Some(SecurityClaim::Gllp),
    Some(SecurityClaim::FiniteSize),
];

fn hand_out(world: &mut World, site: Site, number: u32, bits: u64) -> Vec<Container> {
    let order = order(site, number, bits);
    let keys =
        world.call::<_, HandOutError>(site, |store, tx, now| store.hand_out(tx, now, &order));
    keys.unwrap().unwrap()
}

/// Fetches at the other site what the master of `site` was handed.
fn fetch(world: &mut World, site: Site, ids: &[KeyId]) -> Vec<Container> {
    let order = order(site, 1, 256);
    let keys = world.call::<_, FetchError>(site.other(), |store, tx, now| {
        store.fetch(tx, now, &order.slaves[0].sae, &order.master, ids, Inquiry::NEW)
    });
    keys.unwrap().unwrap()
}

fn restart(world: &mut World, site: Site) {
    world.kill(site);
    world.start(site);
    world.meet();
}

fn next(world: &mut World, site: Site) -> Option<Provenance> {
    let work = |store: &mut KeyStore, tx: &mut dyn Tx, _| store.provenance(tx);
    world.call::<_, EngineError>(site, work).unwrap().unwrap()
}

/// Through commit, hand-out, notice and fetch; the site of the copy starts anew in between.
#[test]
fn a_claim_goes_with_its_key_at_both_sites() {
    for claim in CLAIMS {
        let expected = Provenance { origin: Origin::Simulated, claim };
        let mut world = World::with_blocks(31, &[]);
        world.claim = claim;
        for site in BOTH {
            world.deliver_block(8, 8);
            assert_eq!(BOTH.map(|site| next(&mut world, site)), [Some(expected); 2]);
            restart(&mut world, site.other());
            assert_eq!(BOTH.map(|site| next(&mut world, site)), [Some(expected); 2]);
            let mut keys = hand_out(&mut world, site, 2, 512);
            world.run();
            restart(&mut world, site.other());
            let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
            keys.extend(fetch(&mut world, site, &ids));
            assert_eq!(keys.len(), 4);
            assert!(keys.iter().all(|key| key.provenance == expected), "{claim:?}: {keys:?}");
        }
    }
}

/// The copy for a slave of the master's own site takes another way than a notice.
#[test]
fn a_claim_goes_with_the_copy_for_a_slave_of_the_same_site() {
    let mut world = World::with_blocks(32, &[]);
    world.claim = Some(SecurityClaim::FiniteSize);
    world.deliver_block(8, 1);
    let order = multicast(Site::A, 1);
    let ids = world.hand_out(Site::A, &order).unwrap().unwrap();
    restart(&mut world, Site::A);
    let local = order.slaves.iter().find(|slave| slave.site == Site::A).unwrap();
    let copies = world.call::<_, FetchError>(Site::A, |store, tx, now| {
        store.fetch(tx, now, &local.sae, &order.master, &ids, Inquiry::NEW)
    });
    assert_eq!(copies.unwrap().unwrap()[0].provenance.claim, world.claim);
}

#[test]
fn a_joined_key_claims_no_more_than_its_weakest_member() {
    for one in CLAIMS {
        for other in CLAIMS {
            let mut world = World::with_blocks(33, &[]);
            for claim in [one, other] {
                world.claim = claim;
                world.deliver_block(1, 1);
            }
            for site in BOTH {
                let mut keys = hand_out(&mut world, site, 1, 512);
                world.run();
                let id = keys[0].id;
                keys.extend(fetch(&mut world, site, &[id]));
                let claims: Vec<_> = keys.iter().map(|key| key.provenance.claim).collect();
                assert_eq!(claims, [one.min(other); 2], "{one:?} and {other:?}");
            }
        }
    }
}

/// One of the two nodes is wrong about the link, and nobody can tell which.
#[test]
fn a_block_of_which_the_nodes_claim_different_things_is_erased() {
    for by_alice in CLAIMS {
        for by_bob in CLAIMS.into_iter().filter(|claim| *claim != by_alice) {
            let mut world = World::with_blocks(34, &[]);
            world.claim = by_alice;
            let block = world.propose(3, 1).unwrap();
            let mut offer = world.offers.pop_front().unwrap();
            offer.provenance.claim = by_bob;
            world.accept(offer).unwrap().unwrap();
            world.run();
            world.check_settled("different claims");
            assert_eq!(BOTH.map(|site| world.stored(site).mine), [0; 2]);
            let told = Event::ClaimsDiffer { block, by_alice, by_bob };
            assert!(world.kme(Site::A).events.contains(&told));
            for site in BOTH {
                assert!(world.kme(site).events.contains(&Event::BlockAborted { block }));
            }
            // The next block, on which they agree, is taken.
            world.deliver_block(3, 1);
            assert_eq!(next(&mut world, Site::B).unwrap().claim, by_alice);
        }
    }
}

/// Replaces every row of a table of plain text by what `change` makes of it.
fn damage(world: &mut World, site: Site, table: Table, change: impl Fn(&mut Vec<u8>)) {
    let spoil = |tx: &mut dyn Tx| {
        for (key, row) in tx.scan(table, &[], &[], usize::MAX)? {
            let mut row = row.expose().to_vec();
            change(&mut row);
            tx.write(table, &key, &row)?;
        }
        Ok::<_, EngineError>(())
    };
    world.kme(site).disk.transact(spoil).unwrap();
}

#[test]
fn a_row_without_a_claim_or_with_an_unknown_one_is_damaged() {
    const KEYS: Table = Table::plain("keys");
    const HELD: Table = Table::plain("held_keys");
    /// How far from the end of a row of [`HELD`] its claim stands: before the time of its expiry.
    const EXPIRY: usize = 8;
    let mut world = World::with_blocks(35, &[(8, 8)]);
    let ids: Vec<_> = hand_out(&mut world, Site::A, 1, 256).iter().map(|key| key.id).collect();
    world.run();

    let unknown: fn(&mut Vec<u8>) = |row| *row.last_mut().unwrap() = 9;
    let absent: fn(&mut Vec<u8>) = |row| row.truncate(row.len() - 1);
    for change in [unknown, absent] {
        damage(&mut world, Site::A, KEYS, change);
        let order = order(Site::A, 1, 256);
        let refused = world.call::<_, HandOutError>(Site::A, |store, tx, now| {
            store.hand_out(tx, now, &order).map(drop)
        });
        assert_eq!(refused, Some(Err(HandOutError::Store(EngineError::Damaged("keys")))));
    }
    damage(&mut world, Site::B, HELD, |row| {
        let claim = row.len() - EXPIRY - 1;
        row[claim] = 9;
    });
    let order = order(Site::A, 1, 256);
    let refused = world.call::<_, FetchError>(Site::B, |store, tx, now| {
        store.fetch(tx, now, &order.slaves[0].sae, &order.master, &ids, Inquiry::NEW).map(drop)
    });
    assert_eq!(refused, Some(Err(FetchError::Store(EngineError::Damaged("held_keys")))));
}
