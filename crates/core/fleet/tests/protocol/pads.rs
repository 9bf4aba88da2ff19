//! Docked pads: drawn at both sites, handed over once, and followed without a word over the air.

use claviger_durable::Engine;
use claviger_fleet::{DockAnswer, DockedPad, GatewayEvent, KeyAnswer, PadError, UplinkRefusal};
use claviger_frames::{Epoch, EpochKeys};
use claviger_units::Key256;

use crate::world::{Device, Side, World};

/// A world with one device at epoch 1, and a pad ordered for it.
fn ordered(n_keys: u32) -> World {
    let mut world = World::new(1, 1);
    world.settle();
    world.wake(0);
    world.settle();
    let eui = world.devices[0].eui;
    let pad = world.at_platform(|p, tx, _, _| Ok(p.order_pad(tx, eui, n_keys))).unwrap();
    assert!(matches!(pad, Ok(1)), "{pad:?}");
    world
}

fn dock(world: &mut World) -> DockAnswer {
    let device = &world.devices[0];
    let (eui, have) = (device.eui.to_string(), device.epoch.to_string());
    let path = format!("/v1/devices/{eui}/pad?have={have}");
    let signed = device.secret.request_authorization(device.epoch, &path);
    world
        .at_gateway(|g, tx, now, _| {
            Ok(g.handle_dock(tx, now, &eui, Some(&have), (&path, Some(&signed)))?)
        })
        .unwrap()
}

/// Docks the first device, however often it must ask, and returns its pad.
fn docked(world: &mut World) -> DockedPad {
    for _ in 0..10 {
        match dock(world) {
            DockAnswer::Pad(pad) => return pad,
            DockAnswer::Frame(frame) => assert!(world.devices[0].take(&frame)),
            DockAnswer::Later { .. } => world.settle(),
            other => panic!("{other:?}"),
        }
    }
    panic!("no pad")
}

/// Lets the first device step by its pad.
fn step(device: &mut Device, pad: &DockedPad) {
    let next = if device.epoch == pad.prev { pad.first } else { after(device.epoch) };
    let place = (next.number() - pad.first.number()) as usize;
    let key = Key256::from_slice(&pad.keys.expose()[32 * place..][..32]).unwrap();
    device.secret = device.secret.next(&key, device.eui, device.epoch, next);
    (device.epoch, device.counter) = (next, 0);
}

fn after(epoch: Epoch) -> Epoch {
    Epoch::new(epoch.number() + 1)
}

fn n_rows(world: &mut World, side: Side, table: &'static str) -> u64 {
    let table = claviger_durable::Table::secret(table);
    let counted = world.stores[side as usize]
        .transact::<_, claviger_durable::EngineError>(|tx| tx.count(table, b""));
    counted.unwrap()
}

#[test]
fn a_pad_is_drawn_at_both_sites_and_leads_on_to_its_last_key() {
    let mut world = ordered(300);
    world.settle();
    let eui = world.devices[0].eui;
    assert!(world.gateway_events.contains(&GatewayEvent::PadComplete { eui }));
    for side in [Side::Gateway, Side::Platform] {
        let table = ["gateway_pad_key", "platform_pad_key"][side as usize];
        assert_eq!(n_rows(&mut world, side, table), 300);
    }
    let pad = docked(&mut world);
    assert_eq!((pad.keys.expose().len(), pad.prev), (300 * 32, world.devices[0].epoch));
    let n_keys = world.kmes.n_keys;
    for n in 1..=300_u32 {
        step(&mut world.devices[0], &pad);
        // A second device at the door with the old secret is nobody; nothing is to be had over the air.
        world.publish(0);
        world.settle();
        assert_eq!(world.request(0), Some(KeyAnswer::NothingDue));
        let pushed = world.at_gateway(|g, tx, _, _| Ok(g.ready_frame(tx, eui)?)).unwrap();
        if n < 300 {
            assert_eq!(pushed, None);
            let left = u64::from(300 - n);
            assert!(n_rows(&mut world, Side::Gateway, "gateway_pad_key") == left, "{n}");
            assert!(n_rows(&mut world, Side::Platform, "platform_pad_key") == left, "{n}");
        }
    }
    assert_eq!(world.kmes.n_keys, n_keys, "no other key was drawn meanwhile");
    assert_eq!(world.check_readings(), 301);
    // The pad is used up: keys come over the air again.
    world.pass(crate::world::PREPARE_AFTER);
    world.pass(crate::world::PREPARE_AFTER);
    assert!(world.devices[0].epoch > Epoch::new(pad.first.number() + 299), "by key frames");
    assert!(matches!(dock(&mut world), DockAnswer::None));
}

#[test]
fn what_the_platform_cannot_get_is_drawn_again_without_gaps() {
    let mut world = ordered(200);
    // The first batch is drawn, and one of its keys expires before the platform has asked for it.
    for _ in 0..100 {
        if world.kmes.n_keys > 100 {
            break;
        }
        let _ = world.carry(Side::Gateway)
            || world.carry(Side::Platform)
            || world.serve_gateway(crate::world::Fate::Answered);
    }
    let n_keys = world.kmes.n_keys;
    world.kmes.burn_one();
    world.settle();
    assert!(world.kmes.n_keys - n_keys > 72, "the first batch was drawn once more");
    let eui = world.devices[0].eui;
    assert!(world.gateway_events.contains(&GatewayEvent::PadComplete { eui }));
    let pad = docked(&mut world);
    for _ in 0..200 {
        step(&mut world.devices[0], &pad);
        world.publish(0);
        world.settle();
    }
    assert_eq!(world.check_readings(), 201);
}

#[test]
fn deaths_and_lost_answers_cost_no_pad() {
    for seed in 0..40 {
        let mut world = ordered(150);
        let mut is_docked = false;
        for n in 0..400_u64 {
            if !world.is_connected {
                world.connect();
            }
            match (seed * 31 + n * 7) % 11 {
                0 if n % 5 == 0 => world.kill(Side::Gateway),
                1 if n % 5 == 1 => world.kill(Side::Platform),
                2..=4 => drop(world.carry(Side::Gateway)),
                5..=7 => drop(world.carry(Side::Platform)),
                8 => drop(world.serve_gateway(crate::world::Fate::Answered)),
                9 => drop(world.serve_platform(crate::world::Fate::Answered)),
                _ => drop(world.time_out()),
            }
            world.revive();
            if n > 200 && !is_docked {
                is_docked = matches!(dock(&mut world), DockAnswer::Pad(_));
            }
        }
        for _ in 0..20 {
            world.settle();
            world.now = world.now + claviger_units::Span::from_secs(30);
        }
        let pad = docked(&mut world);
        for _ in 0..150 {
            step(&mut world.devices[0], &pad);
            world.publish(0);
            world.settle();
        }
        assert_eq!(world.check_readings(), 151, "seed {seed}");
    }
}

#[test]
fn forged_frames_do_not_use_a_pad_up_and_late_ones_are_followed() {
    let mut world = ordered(100);
    world.settle();
    let pad = docked(&mut world);
    let eui = world.devices[0].eui;
    for _ in 0..3 {
        step(&mut world.devices[0], &pad);
    }
    let frame = world.devices[0].speak();
    let mut forged = frame.clone();
    *forged.last_mut().unwrap() ^= 1;
    let epoch = world.devices[0].epoch;
    let refused = world.uplink(eui, &forged).unwrap();
    assert_eq!(refused, Err(UplinkRefusal::UnknownEpoch(epoch)));
    assert_eq!(n_rows(&mut world, Side::Platform, "platform_pad_key"), 100);
    // Two epochs of which nothing came through.
    assert!(world.uplink(eui, &frame).unwrap().is_ok());
    assert_eq!(n_rows(&mut world, Side::Platform, "platform_pad_key"), 97);
    // An honest device is never so far ahead.
    for _ in 0..70 {
        step(&mut world.devices[0], &pad);
    }
    let far = world.devices[0].speak();
    assert!(world.uplink(eui, &far).unwrap().is_err());
}

#[test]
fn a_pad_is_for_one_life_of_one_device_that_is_served() {
    let mut world = World::new(1, 1);
    let eui = world.devices[0].eui;
    let order = |world: &mut World, n| {
        world.at_platform(|p, tx, _, _| Ok(p.order_pad(tx, eui, n))).unwrap()
    };
    assert_eq!(order(&mut world, 10), Err(PadError::NotServed(eui)));
    world.settle();
    assert_eq!(order(&mut world, 0), Err(PadError::Length));
    assert_eq!(order(&mut world, 17_569), Err(PadError::Length));
    assert_eq!(order(&mut world, 10), Ok(1));
    assert_eq!(order(&mut world, 10), Err(PadError::UnderWay(eui)));
    assert!(matches!(dock(&mut world), DockAnswer::None), "it is not complete");
    world.settle();
    assert_eq!(order(&mut world, 20), Ok(2), "one that nobody was docked with is replaced");
    world.settle();
    let stolen = world.devices[0].secret.duplicate();
    let pad = docked(&mut world);
    assert_eq!(pad.keys.expose().len(), 20 * 32);
    // Once the device shows that it uses the pad, nobody else gets it.
    step(&mut world.devices[0], &pad);
    world.publish(0);
    world.settle();
    assert!(matches!(dock(&mut world), DockAnswer::None));
    let now = std::mem::replace(&mut world.devices[0].secret, stolen);
    assert!(matches!(dock(&mut world), DockAnswer::Denied));
    world.devices[0].secret = now;
    // A new life wipes it everywhere.
    let fresh = Key256::from_bytes([77; 32]);
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    let sent = std::mem::take(&mut world.devices[0].sent);
    world.devices[0] = Device { sent, life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.settle();
    for (side, table) in [(Side::Gateway, "gateway_pad_key"), (Side::Platform, "platform_pad_key")]
    {
        assert_eq!(n_rows(&mut world, side, table), 0, "{table}");
    }
    assert_eq!(order(&mut world, 5), Ok(1));
}
