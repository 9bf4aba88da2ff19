//! Histories of crash, loss and restart against the real cores (the rules of `PROTOCOL.md` P3b).
//!
//! The invariants are those of the explicit-state model of P3b: a device is never at an epoch that
//! the platform does not hold; from every state everything goes on by itself once faults stop; no
//! key serves twice; no reading is accepted twice; each epoch is confirmed once.

use claviger_frames::Epoch;
use claviger_units::Span;
use rand::RngExt;

use crate::world::{self, Fate, Side, World};

/// One random step, with everything that can go wrong.
fn step(
    world: &mut World,
    in_the_air: &mut Vec<(usize, Vec<u8>)>,
    heard: &mut Vec<(usize, Vec<u8>)>,
) {
    let n = world.rng.random_range(0..world.devices.len());
    match world.rng.random_range(0..100) {
        0..=24 => {
            let to = if world.chance(50) { Side::Gateway } else { Side::Platform };
            world.carry(to);
        }
        25..=44 => {
            let fate = match world.rng.random_range(0..100) {
                0..=79 => Fate::Answered,
                80..=86 => Fate::AnswerLost,
                87..=93 => Fate::Unreachable,
                _ => Fate::Shortage,
            };
            if world.chance(50) {
                world.serve_gateway(fate)
            } else {
                world.serve_platform(fate)
            };
        }
        45..=54 => {
            world.now = world.now + Span::from_secs(world.rng.random_range(0..40));
            world.time_out();
        }
        55..=66 => {
            if let Some(frame) = world.ask(n)
                && world.chance(90)
            {
                in_the_air.push((n, frame));
            }
        }
        67..=76 if !in_the_air.is_empty() => {
            let at = world.rng.random_range(0..in_the_air.len());
            let (to, frame) = in_the_air[at].clone();
            // A frame may be lost, come again, come late, or find the battery empty.
            if !world.chance(20) {
                in_the_air.remove(at);
            }
            if world.chance(85) && world.devices[to].take(&frame) {
                world.check_every_device_is_followed();
            }
        }
        77..=83 => {
            if let Some(frame) = world.publish(n)
                && heard.len() < 64
            {
                heard.push((n, frame));
            }
        }
        84..=92 => {
            let (place, is_ack_lost) = (world.rng.random_range(0..4), world.chance(20));
            world.forward(place, is_ack_lost);
        }
        93 if !heard.is_empty() => {
            // Somebody plays an old frame to the platform.
            let (of, frame) = heard[world.rng.random_range(0..heard.len())].clone();
            let eui = world.devices[of].eui;
            world.uplink(eui, &frame);
        }
        94 if world.chance(30) => world.kmes.burn_one(),
        95 if world.chance(50) => world.disconnect(),
        96 if world.chance(30) => {
            let side = if world.chance(50) { Side::Gateway } else { Side::Platform };
            world.kill(side);
        }
        97 => {
            let (store, lives) = (world.rng.random_range(0..2), world.rng.random_range(0..40));
            world.stores[store].die_after(lives);
        }
        _ => {
            if !world.is_connected {
                world.connect();
            }
        }
    }
}

#[test]
fn no_history_loses_a_device_or_a_reading() {
    let (mut n_crashes, mut n_confirmed) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, 3);
        let (mut in_the_air, mut heard) = (Vec::new(), Vec::new());
        for _ in 0..5000 {
            step(&mut world, &mut in_the_air, &mut heard);
        }
        world.check_readings();
        n_crashes += world.n_crashes;
        n_confirmed += world.confirmations().count();
        for store in &mut world.stores {
            store.revive();
        }
        world.check_recovery();
        // What was queued durably has been read; what the device never got acknowledged may be.
        assert!(world.check_readings() > 3 * 40);
    }
    assert!(n_crashes > 60 * 30, "only {n_crashes} crashes");
    assert!(n_confirmed > 60 * 20, "only {n_confirmed} epochs in the storm");
}

/// A quiet run from provisioning to the second epoch, told to die at one operation of one store.
fn run_with_death(side: usize, at: u64) -> World {
    let mut world = World::empty(7);
    world.stores[side].die_after(at);
    world.provision(2);
    for _ in 0..3 {
        world.settle();
        for n in 0..2 {
            world.wake(n);
            world.check_every_device_is_followed();
        }
        world.now = world.now + world::PERIOD;
    }
    world.settle();
    world
}

#[test]
fn a_death_at_any_operation_is_survived() {
    for side in 0..2 {
        let mut at = 0;
        loop {
            let mut world = run_with_death(side, at);
            let has_died = world.n_crashes > 0;
            world.stores[side].revive();
            world.check_recovery();
            world.check_readings();
            assert!(world.devices.iter().all(|device| device.epoch > Epoch::new(4)));
            if !has_died {
                break;
            }
            at += 1;
        }
        assert!(at > 60, "only {at} operations on side {side}");
    }
}
