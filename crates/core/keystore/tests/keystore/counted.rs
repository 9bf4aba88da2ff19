//! The numbers alone against the stores that hold the keys.

use claviger_keystore::{CountedStore, HandOutError, Site};
use claviger_units::Span;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::world::{BOTH, World, config, order};

/// Blocks of any size, hand-out at A at any pace, and pauses, so that shares move and keys are displaced.
#[test]
fn counted_keys_are_as_many_as_the_stores_hold() {
    let mut displaced = 0;
    for seed in 0..20 {
        let mut world = World::new(seed);
        for site in BOTH {
            world.configure(site, |config| config.untaken_per_pair = u64::MAX);
        }
        world.meet();
        let mut counted = CountedStore::new(world.now, config(Site::A).capacity);
        let mut rng = StdRng::seed_from_u64(seed);
        for step in 0..60 {
            world.now = world.now + Span::from_secs(rng.random_range(0..120));
            let now = world.now;
            let n_keys = rng.random_range(2..40);
            let ratio = world.store(Site::A).ratio(now);
            world.deliver_block(ratio.n_of(Site::A, n_keys), ratio.n_of(Site::B, n_keys));
            counted.commit(now, n_keys);
            for _ in 0..rng.random_range(0..30) {
                let handed = hand_out(&mut world);
                assert_eq!(counted.hand_out(now, Site::A), handed, "seed {seed}, step {step}");
            }
            let [at_a, at_b] = [Site::A, Site::B].map(|site| world.stored(site));
            assert_eq!((at_a.mine, at_a.theirs), (at_b.theirs, at_b.mine));
            let levels = (counted.available(Site::A), counted.available(Site::B));
            assert_eq!(levels, (at_a.mine, at_a.theirs), "seed {seed}, step {step}");
        }
        displaced += counted.displaced();
    }
    assert!(displaced > 100, "only {displaced} keys were displaced");
}

/// Hands one key out at A; tells whether there was one, once the lease covers all there are.
fn hand_out(world: &mut World) -> bool {
    loop {
        let result = world.hand_out(Site::A, &order(Site::A, 1, 256)).unwrap();
        world.run();
        match result {
            Ok(_) => return true,
            Err(HandOutError::Lease) => {}
            Err(HandOutError::Shortage { .. }) => return false,
            Err(other) => panic!("{other}"),
        }
    }
}
