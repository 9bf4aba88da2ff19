//! Sites that have lost their store, or run on an old copy: everything is given to them again, and the devices
//! carry on (`PROTOCOL.md` P3a, re-seeding).

use std::collections::{BTreeSet, VecDeque};

use claviger_durable::{Engine, EngineError, MemoryEngine, Table};
use claviger_fleet::{
    Adoption, Alarm, CoapDatagram, DockAnswer, GatewayEvent, KeyAnswer, PlatformEvent,
    UplinkRefusal,
};
use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion, pad};
use claviger_oscore::key_service::{self, Answer, Side as End};
use claviger_units::{Eui64, Key256, Span};
use coap_lite::Packet;

use crate::world::{Device, Fate, PERIOD, PREPARE_AFTER, Side, World};

/// A world of three devices: one has renewed its key and said so, one has renewed it and not been heard since,
/// one has never woken.
fn lived_in(seed: u64) -> World {
    let mut world = World::new(seed, 3);
    world.settle();
    for _ in 0..3 {
        world.wake(0);
        world.wake(1);
        world.settle();
        world.now = world.now + PERIOD;
        world.settle();
    }
    world.wake(0);
    world.settle();
    let frame = world.ask(1).expect("its frame is ready");
    assert!(world.devices[1].take(&frame));
    world
}

/// Lets time pass until every site and device agrees and goes on.
fn recover(world: &mut World) {
    world.settle();
    world.check_every_device_is_followed();
    world.check_recovery();
    world.check_readings();
}

fn count(world: &World, wanted: impl Fn(&PlatformEvent) -> bool) -> usize {
    world.platform_events.iter().filter(|event| wanted(event)).count()
}

#[test]
fn a_gateway_that_has_lost_its_disk_is_given_every_device_again() {
    let mut world = lived_in(1);
    world.replace_store(Side::Gateway, MemoryEngine::new());
    world.settle();
    assert!(world.gateway_events.contains(&GatewayEvent::Restoring { mine: true }));
    assert!(world.platform_events.contains(&PlatformEvent::Restoring { mine: false }));
    for n in 0..3 {
        world.publish(n);
    }
    world.settle();
    assert_eq!(world.n_refused, 0, "nothing was sent that the platform cannot read");
    recover(&mut world);
}

#[test]
fn a_gateway_on_an_old_copy_is_given_every_device_again() {
    for age in 0..3 {
        let mut world = lived_in(2);
        let backup = world.stores[0].snapshot();
        for _ in 0..age {
            for n in 0..3 {
                world.wake(n);
            }
            world.settle();
            world.now = world.now + PREPARE_AFTER;
            world.settle();
        }
        world.replace_store(Side::Gateway, backup);
        recover(&mut world);
        let forgot = world.gateway_events.contains(&GatewayEvent::Restoring { mine: true });
        assert_eq!(forgot, age > 0);
    }
}

/// What waits at the gateway, and what was told to a device, outlasts the restoration of the platform.
#[test]
fn a_platform_on_an_old_copy_is_given_back_what_it_forgot_and_reads_nothing_twice() {
    let mut world = lived_in(3);
    let backup = world.stores[1].snapshot();
    for _ in 0..2 {
        for n in 0..3 {
            world.wake(n);
        }
        world.settle();
        world.now = world.now + PREPARE_AFTER;
        world.settle();
    }
    let old = world.publish(0).unwrap();
    world.settle();
    let n_before = world.check_readings();
    world.disconnect();
    let waiting = world.publish(0).unwrap();
    world.replace_store(Side::Platform, backup);
    let eui = world.devices[0].eui;
    assert_eq!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Barred)));
    world.settle();
    assert!(world.gateway_events.contains(&GatewayEvent::Restored));
    assert_eq!(count(&world, |event| *event == PlatformEvent::Restored), 1);
    // The queue has been read, and what had been read before the loss is not taken again.
    let n_after = world.check_readings();
    assert!(n_after < n_before, "the readings of the old copy, and one more");
    let read = world.uplink(eui, &waiting).unwrap().unwrap();
    assert_eq!(read.duplicate, claviger_fleet::Duplicate::SameBytes);
    assert!(matches!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Replayed(_)))));
    recover(&mut world);
    assert_eq!(world.n_refused, 0);
}

#[test]
fn a_platform_that_has_lost_its_disk_reads_its_devices_again() {
    let mut world = lived_in(4);
    world.disconnect();
    world.publish(0).unwrap();
    world.replace_store(Side::Platform, MemoryEngine::new());
    world.settle();
    assert_eq!(world.check_readings(), 1, "what waited");
    recover(&mut world);
    assert_eq!((world.n_refused, count(&world, |e| matches!(e, PlatformEvent::Alarm(_)))), (0, 0));
}

/// Without the recovery key a lost platform cannot read what it is given back, and says so.
#[test]
fn without_the_recovery_key_a_lost_platform_says_what_it_cannot_read() {
    let mut world = lived_in(5);
    world.recovery = 78;
    world.replace_store(Side::Platform, MemoryEngine::new());
    world.settle();
    let unrecovered =
        |event: &PlatformEvent| matches!(event, PlatformEvent::Alarm(Alarm::Unrecovered { .. }));
    assert_eq!(count(&world, unrecovered), 3);
    let (eui, frame) = (world.devices[0].eui, world.devices[0].speak());
    assert_eq!(world.uplink(eui, &frame), Some(Err(UplinkRefusal::UnknownDevice)));
    // The right one put back, and once more an empty store: nothing was spoilt.
    world.recovery = 77;
    world.replace_store(Side::Platform, MemoryEngine::new());
    recover(&mut world);
}

/// No record tells of a reading: the gateway shows what the platform has acknowledged last.
#[test]
fn a_platform_that_has_forgotten_nothing_but_readings_is_noticed() {
    let mut world = lived_in(14);
    let backup = world.stores[1].snapshot();
    let old = world.publish(0).unwrap();
    world.settle();
    world.replace_store(Side::Platform, backup);
    world.settle();
    assert_eq!(count(&world, |e| *e == PlatformEvent::Restoring { mine: true }), 1);
    let eui = world.devices[0].eui;
    assert!(matches!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Replayed(_)))));
    recover(&mut world);
    // Connections that break, and frames that were refused, are no sign of it.
    for n in 0..20 {
        world.wake(n % 3);
        if n == 7 {
            let forged = [&old[..old.len() - 1], &[0]].concat();
            world.at_gateway(|g, tx, now, _| {
                g.handle_uplink(tx, now, eui, &forged).unwrap();
                Ok(())
            });
        }
        world.settle();
        world.disconnect();
        world.settle();
    }
    assert_eq!(count(&world, |e| *e == PlatformEvent::Restoring { mine: true }), 1);
}

/// With a broker in between an acknowledgement says nothing of what was read: no witness, and a platform that is lost
/// takes each device again from its next renewal on.
#[test]
fn with_a_broker_in_between_what_was_read_is_not_guessed() {
    let mut world = World::new(20, 2);
    world.taker = claviger_fleet::Taker::Broker;
    world.kill(Side::Gateway);
    world.settle();
    (0..2).for_each(|n| world.wake(n));
    world.settle();
    // The broker takes what the platform never sees.
    let eui = world.devices[0].eui;
    world.publish(0).unwrap();
    let queued = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, 9)?)).unwrap();
    for uplink in queued {
        world.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, uplink.seq)?));
    }
    world.disconnect();
    world.settle();
    assert_eq!(count(&world, |e| matches!(e, PlatformEvent::Restoring { .. })), 0);
    let old = world.publish(0).unwrap();
    world.settle();
    world.replace_store(Side::Platform, MemoryEngine::new());
    world.settle();
    assert!(matches!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Unjudged(_)))));
    recover(&mut world);
}

/// A device that was retired does not come back with an old copy of either side.
#[test]
fn a_retired_device_stays_retired() {
    let mut world = lived_in(6);
    let backups = [0, 1].map(|side| world.stores[side].snapshot());
    let eui = world.devices[0].eui;
    world.at_platform(|p, tx, _, _| Ok(p.retire(tx, eui)?)).unwrap();
    world.devices.remove(0);
    world.settle();
    for (side, backup) in [Side::Platform, Side::Gateway].into_iter().zip(backups.into_iter().rev())
    {
        world.replace_store(side, backup);
        recover_without(&mut world, eui);
    }
    assert_eq!(count(&world, |e| *e == PlatformEvent::Alarm(Alarm::Over { eui })), 1);
}

/// As [`recover`], where one device more is known to the platform and none of its keys.
fn recover_without(world: &mut World, eui: Eui64) {
    world.settle();
    world.pass(Span::from_secs(700));
    let known = world.at_platform(|p, tx, _, _| Ok(p.device(tx, eui)?)).unwrap().unwrap();
    assert_eq!((known.adoption, known.prepared), (Adoption::Held, None));
    let devices = world.at_gateway(|g, tx, _, _| Ok(g.devices(tx, None, 9)?)).unwrap();
    assert!(devices.iter().all(|device| device.eui != eui));
    assert_eq!(devices.len(), world.devices.len());
}

/// The platform retires a device while the gateway is away, and loses its word with the stream.
#[test]
fn a_retirement_that_was_under_way_is_said_again() {
    let mut world = lived_in(7);
    world.disconnect();
    let eui = world.devices[0].eui;
    world.at_platform(|p, tx, _, _| Ok(p.retire(tx, eui)?)).unwrap();
    world.devices.remove(0);
    let backup = world.stores[1].snapshot();
    world.settle_link();
    world.replace_store(Side::Platform, backup);
    recover_without(&mut world, eui);
}

/// A device that began a new life since the copy has it afterwards.
#[test]
fn a_new_life_outlasts_an_old_copy_of_the_platform() {
    let mut world = lived_in(8);
    let backup = world.stores[1].snapshot();
    let (eui, fresh) = (world.devices[0].eui, Key256::from_bytes([79; 32]));
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    let sent = std::mem::take(&mut world.devices[0].sent);
    world.devices[0] = Device { sent: sent.clone(), life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.settle();
    world.wake(0);
    world.settle();
    world.replace_store(Side::Platform, backup);
    world.settle();
    world.check_every_device_is_followed();
    world.pass(Span::from_secs(700));
    world.check_agreement();
    assert!(world.devices[0].epoch > Epoch::new(2));
}

/// The gateway is lost before it has given back what the platform forgot: nobody can tell any more what was read
/// under the present keys, so it is refused until the next renewal.
#[test]
fn what_both_have_forgotten_is_not_guessed() {
    let mut world = lived_in(9);
    let backup = world.stores[1].snapshot();
    let old = world.publish(0).unwrap();
    world.settle();
    world.replace_store(Side::Platform, backup);
    world.settle_link();
    world.replace_store(Side::Gateway, MemoryEngine::new());
    world.settle();
    assert!(world.platform_events.contains(&PlatformEvent::Alarm(Alarm::BothForgot)));
    let eui = world.devices[0].eui;
    assert!(matches!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Unjudged(_)))));
    world.pass(Span::from_secs(700));
    let n_refused = world.n_refused;
    world.check_recovery();
    assert_eq!(world.n_refused, n_refused, "renewed, each is read again");
}

/// The same, where something was said in between: one device was on its way back.
#[test]
fn what_both_have_forgotten_one_after_the_other_is_not_guessed() {
    for serves in 1..4 {
        let mut world = lived_in(15);
        let backup = world.stores[1].snapshot();
        let old = world.publish(0).unwrap();
        world.settle();
        world.replace_store(Side::Platform, backup);
        for _ in 0..serves {
            world.settle_link();
            world.time_out();
            world.serve_gateway(Fate::Answered);
        }
        world.settle_link();
        world.replace_store(Side::Gateway, MemoryEngine::new());
        world.settle();
        assert!(
            world.platform_events.contains(&PlatformEvent::Alarm(Alarm::BothForgot)),
            "{serves}"
        );
        let eui = world.devices[0].eui;
        assert!(matches!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Unjudged(_)))));
        world.pass(Span::from_secs(700));
        world.check_recovery();
    }
}

/// Each site is lost once, and everything is as before each time: what was read is not read again, even of a device
/// that has said nothing in between.
#[test]
fn one_loss_after_another_repeats_nothing() {
    let mut world = lived_in(16);
    let backup = world.stores[1].snapshot();
    let old = world.publish(0).unwrap();
    world.settle();
    world.replace_store(Side::Gateway, MemoryEngine::new());
    world.settle();
    let eui = world.devices[0].eui;
    for store in [backup, MemoryEngine::new()] {
        world.replace_store(Side::Platform, store);
        world.settle();
        assert!(matches!(world.uplink(eui, &old), Some(Err(UplinkRefusal::Replayed(_)))));
    }
    recover(&mut world);
}

/// A platform that is lost once more, before a word was said, takes nothing until it has everything.
#[test]
fn a_platform_that_is_lost_twice_knows_that_it_lacks_something() {
    let mut world = lived_in(17);
    world.replace_store(Side::Platform, MemoryEngine::new());
    while world.gateway_events.last() != Some(&GatewayEvent::Restoring { mine: false }) {
        if !world.is_connected {
            world.connect();
        }
        let _ = world.carry(Side::Gateway) || world.carry(Side::Platform);
    }
    world.replace_store(Side::Platform, MemoryEngine::new());
    world.settle_link();
    let (eui, frame) = (world.devices[0].eui, world.devices[0].speak());
    assert_eq!(world.uplink(eui, &frame), Some(Err(UplinkRefusal::Barred)));
    recover(&mut world);
    assert_eq!(world.n_refused, 0);
}

/// A device that cannot be recovered begins a new life, which the gateway takes for what it is.
#[test]
fn what_cannot_be_recovered_is_bootstrapped_anew() {
    let mut world = lived_in(18);
    world.recovery = 78;
    world.replace_store(Side::Platform, MemoryEngine::new());
    world.settle();
    for (n, byte) in (0..3).zip(80..) {
        let (eui, fresh) = (world.devices[n].eui, Key256::from_bytes([byte; 32]));
        world.at_platform(|p, tx, _, _| Ok(p.provision(tx, eui, &fresh))).unwrap().unwrap();
        world.devices[n] = Device { life: 2, ..Device::bootstrapped(eui, &fresh) };
    }
    world.settle();
    for _ in 0..3 {
        (0..3).for_each(|n| world.wake(n));
        world.settle();
        world.now = world.now + PERIOD;
    }
    world.pass(Span::from_secs(700));
    world.check_agreement();
    assert!(world.devices.iter().all(|device| device.epoch > Epoch::new(2)));
}

/// A device is provisioned with a new label while its old life is on its way back.
#[test]
fn a_new_label_during_a_restoration_is_a_new_life() {
    let mut world = lived_in(19);
    world.replace_store(Side::Platform, MemoryEngine::new());
    world.settle_link();
    let (eui, fresh) = (world.devices[0].eui, Key256::from_bytes([81; 32]));
    world.at_platform(|p, tx, _, _| Ok(p.provision(tx, eui, &fresh))).unwrap().unwrap();
    let sent = std::mem::take(&mut world.devices[0].sent);
    world.devices[0] = Device { sent, life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.is_shaken = true;
    world.settle();
    world.pass(Span::from_secs(700));
    world.check_every_device_is_followed();
    world.check_agreement();
}

/// The same, where the gateway knows a later life of it, and whatever becomes of the recovery key.
#[test]
fn a_new_label_during_a_restoration_outlasts_every_older_life() {
    for recovery in [77, 78] {
        let mut world = lived_in(22);
        let eui = world.devices[0].eui;
        let begin_life = |world: &mut World, byte, life| {
            let fresh = Key256::from_bytes([byte; 32]);
            let begun = world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh)));
            begun.unwrap().unwrap();
            let sent = std::mem::take(&mut world.devices[0].sent);
            world.devices[0] = Device { sent, life, ..Device::bootstrapped(eui, &fresh) };
        };
        begin_life(&mut world, 82, 2);
        world.settle();
        world.recovery = recovery;
        world.replace_store(Side::Platform, MemoryEngine::new());
        world.settle_link();
        begin_life(&mut world, 83, 3);
        world.is_shaken = true;
        world.settle();
        world.devices.truncate(if recovery == 77 { 3 } else { 1 });
        world.pass(Span::from_secs(700));
        assert!(world.devices[0].epoch > Epoch::new(2), "{recovery}");
        let known = world.at_platform(|p, tx, _, _| Ok(p.device(tx, eui)?)).unwrap().unwrap();
        assert_eq!((known.adoption, known.active), (Adoption::Adopted, world.devices[0].epoch));
    }
}

/// A platform on an old copy, with a new recovery key: a device that began a life since the copy cannot be recovered,
/// and begins the one after.
#[test]
fn a_life_that_cannot_be_recovered_is_passed_over() {
    let mut world = lived_in(23);
    let backup = world.stores[1].snapshot();
    let eui = world.devices[0].eui;
    let begin_life = |world: &mut World, byte, life| {
        let fresh = Key256::from_bytes([byte; 32]);
        let begun = world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh)));
        begun.unwrap().unwrap();
        world.devices[0] = Device { life, ..Device::bootstrapped(eui, &fresh) };
        world.settle();
    };
    begin_life(&mut world, 84, 2);
    world.wake(0);
    world.settle();
    world.recovery = 78;
    world.replace_store(Side::Platform, backup);
    world.settle();
    assert_eq!(count(&world, |e| *e == PlatformEvent::Alarm(Alarm::Unrecovered { eui })), 1);
    world.is_shaken = true;
    begin_life(&mut world, 85, 3);
    world.pass(Span::from_secs(700));
    world.check_agreement();
    assert!(world.devices[0].epoch > Epoch::new(2));
}

/// Keys W that are lost on the way are replaced, in either direction.
#[test]
fn a_w_that_is_lost_during_a_restoration_is_replaced() {
    for side in [Side::Gateway, Side::Platform] {
        let mut world = lived_in(10);
        world.replace_store(side, MemoryEngine::new());
        for n in 0..6 {
            world.settle_link();
            world.serve_gateway(Fate::Answered);
            world.serve_platform(Fate::Answered);
            if n < 3 {
                world.kmes.burn_all();
            }
            world.time_out();
            world.now = world.now + Span::from_secs(20);
        }
        recover(&mut world);
    }
}

/// A store that dies at any operation of a restoration, on either side, spoils nothing.
#[test]
fn a_death_at_any_operation_of_a_restoration_is_survived() {
    for (lost, dying) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut at = 0;
        loop {
            let mut world = lived_in(11);
            let side = if lost == 0 { Side::Gateway } else { Side::Platform };
            world.replace_store(side, MemoryEngine::new());
            let n_crashes = world.n_crashes;
            world.stores[dying].die_after(at);
            world.settle();
            world.stores[dying].revive();
            let has_died = world.n_crashes > n_crashes;
            world.pass(Span::from_secs(700));
            world.check_every_device_is_followed();
            world.check_agreement();
            world.check_records();
            if !has_died {
                break;
            }
            at += 1;
        }
        assert!(at > 15, "only {at} operations of {dying} where {lost} was lost");
    }
}

// ---- doors ----

/// The window of opened requests is lost with the store: the answer to one that comes again has a nonce of its
/// own, since its request's was used.
#[test]
fn an_answer_after_the_loss_of_the_window_has_a_nonce_of_its_own() {
    let mut world = lived_in(12);
    let device = &world.devices[0];
    let (eui, epoch) = (device.eui, device.epoch);
    let mut context = key_service::context(End::Device, &device.secret, eui, epoch);
    let (request, asked) = context.protect_request(&key_service::question()).unwrap();
    let ask = |world: &mut World| {
        let CoapDatagram::Claim(claim) = CoapDatagram::read(&request.to_bytes().unwrap()) else {
            panic!("a claim")
        };
        let answer = world.at_gateway(|g, tx, now, _| Ok(g.handle_coap(tx, now, &claim)?));
        Packet::from_bytes(&answer.unwrap().unwrap().datagram).unwrap()
    };
    let mut answers = vec![ask(&mut world)];
    for _ in 0..2 {
        world.replace_store(Side::Gateway, MemoryEngine::new());
        world.settle();
        answers.push(ask(&mut world));
        let refused = ask(&mut world);
        assert!(context.open_response(&refused, &asked).is_err(), "once for each memory");
    }
    let ivs: BTreeSet<Vec<u8>> = answers.iter().map(own_nonce).collect();
    assert_eq!(ivs.len(), 3, "{ivs:?}");
    for answer in &answers {
        let opened = context.open_response(answer, &asked).unwrap();
        assert!(matches!(Answer::of(&opened), Some(Answer::NothingDue | Answer::Later(_))));
    }
}

/// Returns the OSCORE option of an answer: empty where the nonce of the request is used.
fn own_nonce(answer: &Packet) -> Vec<u8> {
    let option = answer.get_option(coap_lite::CoapOption::Oscore).unwrap();
    option.front().cloned().unwrap_or_default()
}

/// A world whose first device has a pad of 200 keys, and has made five steps by it; the platform has heard of
/// three.
fn docked() -> (World, pad::OpenedPad) {
    let mut world = lived_in(13);
    let eui = world.devices[0].eui;
    world.at_platform(|p, tx, _, _| Ok(p.order_pad(tx, eui, 200))).unwrap().unwrap();
    world.settle();
    let pad = loop {
        let device = &world.devices[0];
        let (name, have) = (eui.to_string(), device.epoch.to_string());
        let path = format!("/v1/devices/{name}/pad?have={have}");
        let signed = device.secret.request_authorization(device.epoch, &path);
        let answer = world.at_gateway(|g, tx, now, rng| {
            Ok(g.handle_dock(tx, now, &name, Some(&have), (&path, Some(&signed)), rng)?)
        });
        match answer.unwrap() {
            DockAnswer::Pad(sealed) => {
                let device = &world.devices[0];
                break pad::open(&device.secret, eui, device.epoch, &sealed).unwrap();
            }
            DockAnswer::Frame(frame) => assert!(world.devices[0].take(&frame)),
            DockAnswer::Later { .. } => world.settle(),
            other => panic!("{other:?}"),
        }
    };
    for _ in 0..3 {
        step(&mut world.devices[0], &pad);
        world.publish(0);
        world.settle();
    }
    world.disconnect();
    for _ in 0..2 {
        step(&mut world.devices[0], &pad);
        world.publish(0);
    }
    (world, pad)
}

fn step(device: &mut Device, pad: &pad::OpenedPad) {
    let next =
        if device.epoch == pad.prev { pad.first.number() } else { device.epoch.number() + 1 };
    let place = (next - pad.first.number()) as usize;
    let key = Key256::from_slice(&pad.keys.expose()[32 * place..][..32]).unwrap();
    let next = Epoch::new(next);
    device.secret = device.secret.next(&key, device.eui, device.epoch, next);
    (device.epoch, device.counter) = (next, 0);
}

fn n_left(world: &mut World, side: Side) -> u64 {
    let table = Table::secret(["gateway_pad_key", "platform_pad_key"][side as usize]);
    world.stores[side as usize].transact::<_, EngineError>(|tx| tx.count(table, b"")).unwrap()
}

/// A pad goes over with its device, and a device that is further by it than the platform knew is found.
#[test]
fn a_docked_device_goes_on_by_its_pad_whichever_site_is_lost() {
    for lost in [Side::Gateway, Side::Platform] {
        for ahead in [0, 7] {
            let (mut world, pad) = docked();
            for _ in 0..ahead {
                step(&mut world.devices[0], &pad);
                world.publish(0);
            }
            world.replace_store(lost, MemoryEngine::new());
            world.settle();
            for n in 1..=5 {
                world.publish(0).expect("it can log in");
                world.settle();
                let held = 200 - (5 + ahead + n - 1);
                assert_eq!(n_left(&mut world, Side::Gateway), held, "{lost:?} lost, step {n}");
                // What may come next was given back as an epoch, not as a key.
                let held = held - u64::from(lost == Side::Platform && n == 1);
                assert_eq!(n_left(&mut world, Side::Platform), held, "{lost:?} lost, step {n}");
                step(&mut world.devices[0], &pad);
            }
            world.publish(0).unwrap();
            world.settle();
            world.check_every_device_is_followed();
        }
    }
}

/// Through whichever door it comes.
#[test]
fn a_device_ahead_of_a_lost_gateway_is_found_at_every_door() {
    let with_claim = |world: &mut World| {
        assert_eq!(world.request(0), Some(KeyAnswer::NothingDue));
    };
    let with_key = |world: &mut World| {
        let device = &world.devices[0];
        let (eui, epoch, version) = (device.eui, device.epoch, PskVersion::Tls12);
        let identity = PskIdentity { eui, epoch, version }.to_string();
        let own = device.secret.pre_shared_key(version);
        let found = world.at_gateway(|g, tx, _, _| Ok(g.pre_shared_key(tx, &identity, version)?));
        assert!(found.unwrap().expect("it is looked up").ct_eq(&own));
        let (name, have) = (eui.to_string(), epoch.to_string());
        let answer = world.at_gateway(|g, tx, now, _| {
            Ok(g.handle_proven_request(tx, now, &name, Some(&have), (&identity, &own))?)
        });
        assert_eq!(answer, Some(KeyAnswer::NothingDue));
    };
    let by_coap = |world: &mut World| {
        let device = &world.devices[0];
        let (eui, epoch) = (device.eui, device.epoch);
        let mut context = key_service::context(End::Device, &device.secret, eui, epoch);
        let (request, asked) = context.protect_request(&key_service::question()).unwrap();
        let CoapDatagram::Claim(claim) = CoapDatagram::read(&request.to_bytes().unwrap()) else {
            panic!("a claim")
        };
        let answer = world.at_gateway(|g, tx, now, _| Ok(g.handle_coap(tx, now, &claim)?));
        let answer = Packet::from_bytes(&answer.unwrap().unwrap().datagram).unwrap();
        let opened = context.open_response(&answer, &asked).unwrap();
        assert_eq!(Answer::of(&opened), Some(Answer::NothingDue));
    };
    let doors: [&dyn Fn(&mut World); 3] = [&with_claim, &with_key, &by_coap];
    for door in doors {
        let (mut world, _pad) = docked();
        let stranger = Device::bootstrapped(world.devices[0].eui, &Key256::from_bytes([9; 32]));
        world.replace_store(Side::Gateway, MemoryEngine::new());
        world.settle();
        // Who only says that he is further is not.
        let honest = std::mem::replace(&mut world.devices[0], stranger);
        world.devices[0].epoch = honest.epoch;
        assert_eq!(world.request(0), Some(KeyAnswer::Denied));
        world.devices[0] = honest;
        door(&mut world);
        world.publish(0).unwrap();
        world.settle();
        world.check_every_device_is_followed();
    }
}

/// What the device once asked from a place in its pad that it has left is played to a gateway that has lost its
/// memory: it is answered under a nonce that was never used, and the device, which is further, is still found.
#[test]
fn an_old_question_does_not_shut_out_a_device_that_is_ahead() {
    let (mut world, pad) = docked();
    let device = &world.devices[0];
    let mut context = key_service::context(End::Device, &device.secret, device.eui, device.epoch);
    let (question, asked) = context.protect_request(&key_service::question()).unwrap();
    let ask = |world: &mut World| {
        let CoapDatagram::Claim(claim) = CoapDatagram::read(&question.to_bytes().unwrap()) else {
            panic!("a claim")
        };
        let answer = world.at_gateway(|g, tx, now, _| Ok(g.handle_coap(tx, now, &claim)?));
        Packet::from_bytes(&answer.unwrap().unwrap().datagram).unwrap()
    };
    let before = ask(&mut world);
    for _ in 0..4 {
        step(&mut world.devices[0], &pad);
        world.publish(0);
    }
    world.replace_store(Side::Gateway, MemoryEngine::new());
    world.settle();
    let again = ask(&mut world);
    assert!(context.open_response(&again, &asked).is_ok());
    assert_eq!((own_nonce(&before).len(), own_nonce(&again).is_empty()), (0, false));
    world.publish(0).expect("it can log in");
    world.settle();
    world.check_every_device_is_followed();
}

// ---- histories ----

/// How often each thing may happen in a history, as in the configurations of the explicit-state model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Faults {
    crash: [u8; 2],
    old_copy: [u8; 2],
    loss: [u8; 2],
    lost_frame: u8,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Wait,
    Connect,
    Carry(Side),
    Serve(Side, Fate),
    /// The order that was given first is answered last.
    Overtake(Side),
    Ask,
    Take,
    LoseFrame,
    Publish,
    Forward,
    Crash(Side),
    BackUp(Side),
    Restore(Side),
    Lose(Side),
}

const SIDES: [Side; 2] = [Side::Gateway, Side::Platform];

/// A world in the middle of a history.
struct Moment {
    world: World,
    left: Faults,
    in_the_air: Option<Vec<u8>>,
    copies: [Option<MemoryEngine>; 2],
    n_waits: u8,
}

impl Moment {
    fn first(faults: Faults) -> Self {
        let mut world = World::new(21, 1);
        world.settle();
        world.wake(0);
        world.settle();
        Self { world, left: faults, in_the_air: None, copies: [None, None], n_waits: 0 }
    }

    fn acts(&self) -> Vec<Act> {
        let mut acts = vec![Act::Ask];
        let mut may = |is: bool, act| acts.extend(is.then_some(act));
        // Epochs enough for the device to be two behind.
        may(self.n_waits < 3, Act::Wait);
        may(!self.world.is_connected, Act::Connect);
        may(self.in_the_air.is_some(), Act::Take);
        may(self.in_the_air.is_some() && self.left.lost_frame > 0, Act::LoseFrame);
        may(self.world.n_queued() == 0, Act::Publish);
        may(self.world.n_queued() > 0, Act::Forward);
        for (n, side) in SIDES.into_iter().enumerate() {
            may(self.world.has_message(side), Act::Carry(side));
            may(self.world.has_order(side), Act::Serve(side, Fate::Answered));
            may(self.world.n_orders(side) > 1, Act::Overtake(side));
            may(self.world.has_order(side) && self.left.crash[n] > 0, Act::Crash(side));
            may(self.left.old_copy[n] > 0 && self.copies[n].is_none(), Act::BackUp(side));
            may(self.left.old_copy[n] > 0 && self.copies[n].is_some(), Act::Restore(side));
            may(self.left.loss[n] > 0, Act::Lose(side));
        }
        acts
    }

    fn go(&mut self, act: Act) {
        let world = &mut self.world;
        match act {
            Act::Wait => {
                world.now = world.now + PREPARE_AFTER;
                self.n_waits += 1;
                while world.time_out() {}
            }
            Act::Connect => world.connect(),
            Act::Carry(side) => drop(world.carry(side)),
            Act::Serve(Side::Gateway, fate) => drop(world.serve_gateway(fate)),
            Act::Serve(Side::Platform, fate) => drop(world.serve_platform(fate)),
            Act::Overtake(side) => world.overtake(side),
            Act::Ask => self.in_the_air = world.ask(0).or(self.in_the_air.take()),
            Act::Take => {
                let frame = self.in_the_air.take().unwrap_or_default();
                world.devices[0].take(&frame);
            }
            Act::LoseFrame => {
                self.in_the_air = None;
                self.left.lost_frame -= 1;
            }
            Act::Publish => drop(world.publish(0)),
            Act::Forward => drop(world.forward(0, false)),
            Act::Crash(side) => {
                // The order is carried out, and nobody hears the answer.
                match side {
                    Side::Gateway => world.serve_gateway(Fate::AnswerLost),
                    Side::Platform => world.serve_platform(Fate::AnswerLost),
                };
                world.kill(side);
                self.left.crash[side as usize] -= 1;
            }
            Act::BackUp(side) => {
                self.copies[side as usize] = Some(world.stores[side as usize].snapshot());
            }
            Act::Restore(side) => {
                let copy = self.copies[side as usize].take().unwrap_or_default();
                world.replace_store(side, copy);
                self.left.old_copy[side as usize] -= 1;
            }
            Act::Lose(side) => {
                world.replace_store(side, MemoryEngine::new());
                self.left.loss[side as usize] -= 1;
            }
        }
        // Whoever is due is called; a session that has begun needs no time.
        while world.time_out() {}
    }

    /// Tells two moments apart, but for names, keys and counters.
    fn likeness(&mut self) -> String {
        let has_copy = self.copies.each_ref().map(Option::is_some);
        let frame = self
            .in_the_air
            .as_ref()
            .and_then(|frame| claviger_frames::key_frame::target(frame).ok());
        format!("{} {:?} {frame:?} {has_copy:?} {}", self.world.likeness(), self.left, self.n_waits)
    }
}

/// Goes through histories in the order of their length, until `most` moments were seen that differ; from each of
/// them everything must come right by itself.
fn explore(faults: Faults, most: usize) {
    let most =
        std::env::var("CLAVIGER_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(most);
    let replay = |history: &[Act]| {
        let mut moment = Moment::first(faults);
        history.iter().for_each(|act| moment.go(*act));
        moment
    };
    let mut seen = BTreeSet::new();
    let mut to_go = VecDeque::from([Vec::new()]);
    let mut n_shaken = 0;
    while let Some(history) = to_go.pop_front() {
        let acts = replay(&history).acts();
        for act in acts {
            let mut longer = history.clone();
            longer.push(act);
            let caught = std::panic::catch_unwind(|| {
                let mut moment = replay(&longer);
                let likeness = moment.likeness();
                (moment, likeness)
            });
            let Ok((mut moment, likeness)) = caught else { panic!("{faults:?}: {longer:?}") };
            if seen.len() >= most || !seen.insert(likeness) {
                continue;
            }
            n_shaken += usize::from(moment.world.n_losses > 0);
            let recovered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                check_it_comes_right(&mut moment.world);
            }));
            assert!(recovered.is_ok(), "{faults:?}: {longer:?}");
            to_go.push_back(longer);
        }
        if seen.len() >= most {
            break;
        }
    }
    assert!(n_shaken * 10 > seen.len(), "{n_shaken} of {} moments after a loss", seen.len());
}

fn check_it_comes_right(world: &mut World) {
    world.settle();
    world.check_every_device_is_followed();
    world.pass(Span::from_secs(800));
    let before = world.devices[0].epoch;
    world.pass(Span::from_secs(300));
    assert!(world.devices[0].epoch > before, "no renewal");
    world.check_agreement();
    world.check_readings();
    world.check_records();
}

/// `grb_frame`, `gloss_frame`, `prb_frame` and `gp_frame` of the model, and a platform that is lost.
#[test]
fn a_gateway_on_an_old_copy_in_every_short_history() {
    explore(Faults { old_copy: [1, 0], ..Faults::default() }, SHORT);
}

#[test]
fn a_gateway_that_is_lost_in_every_short_history() {
    explore(Faults { loss: [1, 0], lost_frame: 1, ..Faults::default() }, SHORT);
}

#[test]
fn a_platform_on_an_old_copy_in_every_short_history() {
    explore(Faults { old_copy: [0, 1], ..Faults::default() }, SHORT);
}

#[test]
fn a_platform_that_is_lost_in_every_short_history() {
    explore(Faults { loss: [0, 1], lost_frame: 1, ..Faults::default() }, SHORT);
}

#[test]
fn a_gateway_that_is_lost_and_a_platform_that_crashes_in_every_short_history() {
    explore(Faults { loss: [1, 0], crash: [0, 1], ..Faults::default() }, SHORT);
}

/// Moments that are looked at by default; `CLAVIGER_HISTORIES` says how many otherwise.
const SHORT: usize = 1500;
