//! Docked pads: drawn at both sites, handed over once, and followed without a word over the air.

use claviger_durable::Engine;
use claviger_fleet::{DockAnswer, GatewayEvent, KeyAnswer, PadError, UplinkRefusal};
use claviger_frames::pad::{self, OpenedPad};
use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion};
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
        .at_gateway(|g, tx, now, rng| {
            Ok(g.handle_dock(tx, now, &eui, Some(&have), (&path, Some(&signed)), rng)?)
        })
        .unwrap()
}

/// Docks the first device, however often it must ask, and returns its pad.
fn docked(world: &mut World) -> OpenedPad {
    for _ in 0..10 {
        match dock(world) {
            DockAnswer::Pad(pad) => return opened(world, &pad),
            DockAnswer::Frame(frame) => assert!(world.devices[0].take(&frame)),
            DockAnswer::Later { .. } => world.settle(),
            other => panic!("{other:?}"),
        }
    }
    panic!("no pad")
}

fn opened(world: &World, sealed: &[u8]) -> OpenedPad {
    let device = &world.devices[0];
    pad::open(&device.secret, device.eui, device.epoch, sealed).expect("made for the device")
}

/// Asks for a key over the air, as a device does that has no pad.
fn ask_by_air(world: &mut World) -> KeyAnswer {
    world.request(0).unwrap()
}

/// Lets the first device step by its pad.
fn step(device: &mut Device, pad: &OpenedPad) {
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
        // Nothing is to be had over the air.
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
    for _ in 0..4 {
        world.settle();
        world.now = world.now + claviger_units::Span::from_secs(1);
    }
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
    // What is further ahead than any device the gateway has told of costs the platform no work.
    for _ in 0..70 {
        step(&mut world.devices[0], &pad);
    }
    let far = world.devices[0].speak();
    assert!(world.uplink(eui, &far).unwrap().is_err());
    assert_eq!(n_rows(&mut world, Side::Platform, "platform_pad_key"), 97);
}

/// The broker cannot be reached for days, but the key service can: the device goes on, the gateway sees it,
/// and tells the platform, which reads all that comes at last.
#[test]
fn a_device_whose_readings_do_not_come_through_is_followed_all_the_same() {
    let mut world = ordered(300);
    world.settle();
    let pad = docked(&mut world);
    let eui = world.devices[0].eui;
    let mut late = Vec::new();
    for n in 0..200 {
        step(&mut world.devices[0], &pad);
        if n % 50 == 0 {
            late.push(world.devices[0].speak());
        }
        let device = &world.devices[0];
        let version = PskVersion::Tls12;
        let identity = PskIdentity { eui, epoch: device.epoch, version }.to_string();
        let (have, key) = (device.epoch.to_string(), device.secret.pre_shared_key(version));
        let answer = world.at_gateway(|g, tx, now, _| {
            let eui = eui.to_string();
            Ok(g.handle_proven_request(tx, now, &eui, Some(&have), (&identity, &key))?)
        });
        assert_eq!(answer, Some(KeyAnswer::NothingDue));
    }
    world.settle();
    for frame in late {
        assert!(world.uplink(eui, &frame).unwrap().is_ok());
    }
    world.publish(0);
    world.settle();
    assert_eq!(world.check_readings(), 1 + 4 + 1);
}

/// On the way to its pad a device may be unplugged: it gets keys over the air as before, and may come back.
#[test]
fn a_device_that_goes_without_its_pad_is_served_over_the_air_again() {
    let mut world = ordered(2000);
    world.settle();
    let before = world.devices[0].epoch;
    while !matches!(dock(&mut world), DockAnswer::Later { .. }) {
        world.wake(0);
    }
    world.settle();
    // The platform has agreed, the pad has not left: a question over the air undoes it.
    ask_by_air(&mut world);
    world.settle();
    for _ in 0..3 {
        world.pass(crate::world::PREPARE_AFTER);
    }
    let epoch = world.devices[0].epoch;
    assert!(epoch > after(before) && epoch.number() < 20, "{epoch}: numbers are not thrown away");
    // Docked again, with another first epoch, it goes on by the same pad.
    let pad = docked(&mut world);
    assert_eq!((pad.prev, pad.keys.len()), (world.devices[0].epoch, 2000 * 32));
    for _ in 0..3 {
        step(&mut world.devices[0], &pad);
        world.publish(0);
        world.settle();
    }
    // Now it has left: only the device decides over it.
    assert_eq!(ask_by_air(&mut world), KeyAnswer::NothingDue);
    step(&mut world.devices[0], &pad);
    world.publish(0);
    world.settle();
    world.check_readings();
}

/// Even a pad of more keys than a frame may step over ends in keys over the air; and one that the device has
/// lost on the way is given again, what is left of it.
#[test]
fn a_long_pad_that_was_lost_on_the_way_leads_to_its_end() {
    let mut world = ordered(1200);
    world.settle();
    let mut pad = docked(&mut world);
    for n in 0..1200 {
        if n % 400 == 399 {
            pad = docked(&mut world);
            assert_eq!(pad.keys.len(), (1200 - n) * 32);
        }
        step(&mut world.devices[0], &pad);
        world.publish(0);
        world.settle();
    }
    let last = world.devices[0].epoch;
    world.pass(crate::world::PREPARE_AFTER);
    world.pass(crate::world::PREPARE_AFTER);
    assert!(world.devices[0].epoch > last, "keys over the air again");
    assert!(!world.gateway_events.iter().any(|event| matches!(event, GatewayEvent::Alarm(_))));
}

/// What the platform knows nothing of, or cannot get, is not drawn over and over.
#[test]
fn a_pad_that_serves_nobody_burns_no_keys() {
    // A new life begins while the gateway still draws for the old one, and hears nothing of the new.
    let mut world = ordered(1000);
    for _ in 0..40 {
        let _ = world.carry(Side::Gateway)
            || world.carry(Side::Platform)
            || world.serve_gateway(crate::world::Fate::Answered);
    }
    let (eui, fresh) = (world.devices[0].eui, Key256::from_bytes([77; 32]));
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    let n_keys = world.kmes.n_keys;
    for _ in 0..500 {
        let _ = world.carry(Side::Gateway)
            || world.carry(Side::Platform)
            || world.serve_gateway(crate::world::Fate::Answered);
    }
    assert!(world.kmes.n_keys - n_keys <= 256, "{} keys burnt", world.kmes.n_keys - n_keys);

    // The platform's KME has no key that it should have: batches come ever more slowly.
    let mut world = ordered(1000);
    let n_keys = world.kmes.n_keys;
    for _ in 0..2000 {
        let _ = world.carry(Side::Gateway)
            || world.carry(Side::Platform)
            || world.serve_gateway(crate::world::Fate::Answered)
            || world.time_out()
            || {
                world.kmes.burn_all();
                world.serve_platform(crate::world::Fate::Answered)
            };
        world.now = world.now + claviger_units::Span::from_millis(500);
    }
    let burnt = (world.kmes.n_keys - n_keys) / 128;
    assert!((2..16).contains(&burnt), "{burnt} batches in 1000 s");
    assert!(world.gateway_events.contains(&GatewayEvent::PadSetback { eui }));
}

#[test]
fn a_dock_that_is_refused_leaves_the_device_where_it_was() {
    let mut world = ordered(200);
    world.settle();
    // The platform has lost the pad meanwhile.
    let eui = world.devices[0].eui;
    let keys = claviger_durable::Table::secret("platform_pad");
    let erased = world.stores[Side::Platform as usize]
        .transact::<_, claviger_durable::EngineError>(|tx| {
            for (row, _) in tx.scan(keys, b"", b"", 9)? {
                tx.erase(keys, &row)?;
            }
            Ok(())
        });
    erased.unwrap();
    for _ in 0..3 {
        if let DockAnswer::Frame(frame) = dock(&mut world) {
            assert!(world.devices[0].take(&frame));
        }
        world.settle();
    }
    assert!(matches!(dock(&mut world), DockAnswer::None));
    assert!(world.gateway_events.contains(&GatewayEvent::PadSetback { eui }));
    let before = world.devices[0].epoch;
    world.pass(crate::world::PREPARE_AFTER);
    world.pass(crate::world::PREPARE_AFTER);
    assert!(world.devices[0].epoch > before, "keys over the air go on");
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
    assert_eq!(order(&mut world, 20), Err(PadError::Waits(eui)), "it waits for its device");
    let stolen = world.devices[0].secret.duplicate();
    let pad = docked(&mut world);
    assert_eq!(pad.keys.expose().len(), 10 * 32);
    // The next pad is drawn while the first is in use, and waits until that is used up.
    step(&mut world.devices[0], &pad);
    world.publish(0);
    world.settle();
    assert_eq!(order(&mut world, 20), Ok(2));
    world.settle();
    let DockAnswer::Pad(rest) = dock(&mut world) else { panic!("what is left of the first") };
    assert_eq!(opened(&world, &rest).keys.len(), 9 * 32);
    // Whoever has an earlier secret of the device gets nothing.
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
