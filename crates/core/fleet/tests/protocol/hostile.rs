//! What comes in that should not, line by line: a stated refusal at the right place, an alarm where an operator
//! must act, and never a device that is lost to somebody who has nothing but the network.
//!
//! Others of these lines stand where their rule does: a cloned device and a label used twice in `rules` and `ways`,
//! sites on old copies in `restored`, power cuts and rolled-back counters in the tests of the crate `device`.

use claviger_fleet::{
    Alarm, CoapDatagram, Duplicate, PlatformEvent, ProvisionError, QueueRefusal, UplinkRefusal,
};
use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion};
use claviger_units::{Eui64, Key256, Span};
use rand::RngExt;

use crate::world::{Device, PERIOD, PREPARE_AFTER, Side, World};

fn keyed(seed: u64, n_devices: u8) -> World {
    let mut world = World::new(seed, n_devices);
    world.settle();
    (0..usize::from(n_devices)).for_each(|n| world.wake(n));
    world.settle();
    world
}

fn n_alarms(world: &World) -> usize {
    let at_platform = |event: &&PlatformEvent| matches!(event, PlatformEvent::Alarm(_));
    world.platform_events.iter().filter(at_platform).count()
}

/// A broker that duplicates, reorders and drops: what comes is read once, in whatever order, and is no clone.
#[test]
fn a_broker_that_duplicates_reorders_and_drops_does_no_harm() {
    let mut world = keyed(31, 2);
    let (mut on_the_way, mut n_sent, mut n_dropped, mut n_again) = (Vec::new(), 0, 0, 0);
    for round in 0..300 {
        for n in 0..2 {
            let eui = world.devices[n].eui;
            for _ in 0..world.rng.random_range(0..4) {
                let frame = world.devices[n].speak();
                n_sent += 1;
                if world.chance(10) {
                    n_dropped += 1;
                    continue;
                }
                on_the_way.push((eui, frame.clone()));
                if world.chance(30) {
                    on_the_way.push((eui, frame));
                }
            }
        }
        // Up to a hundred messages wait, and any of them may be next.
        while on_the_way.len() > if round == 299 { 0 } else { 100 } {
            let at = world.rng.random_range(0..on_the_way.len());
            let (eui, frame) = on_the_way.swap_remove(at);
            match world.uplink(eui, &frame).unwrap() {
                Ok(read) if read.duplicate == Duplicate::SameBytes => n_again += 1,
                Ok(_) => {}
                Err(refusal) => panic!("an honest frame: {refusal}"),
            }
        }
    }
    let before = 2;
    assert_eq!(world.check_readings(), before + n_sent - n_dropped);
    assert!(n_again > 50 && n_dropped > 30, "{n_again} came twice, {n_dropped} never");
    assert_eq!(n_alarms(&world), 0);
    world.check_recovery();
}

/// Cut anywhere, a frame is refused and changes nothing.
#[test]
fn a_truncated_frame_is_refused_wherever_it_is_cut() {
    let mut world = keyed(32, 1);
    let eui = world.devices[0].eui;
    let frame = world.devices[0].speak();
    for length in 0..frame.len() {
        let refusal = world.uplink(eui, &frame[..length]).unwrap().unwrap_err();
        assert!(
            matches!(refusal, UplinkRefusal::Malformed | UplinkRefusal::Unverified),
            "{length} bytes: {refusal}"
        );
    }
    assert!(world.uplink(eui, &frame).unwrap().is_ok());
    world.now = world.now + PREPARE_AFTER;
    world.settle();
    let key_frame = world.ask(0).unwrap();
    for length in 0..key_frame.len() {
        assert!(!world.devices[0].take(&key_frame[..length]), "{length} bytes");
    }
    assert!(world.devices[0].take(&key_frame));
}

/// A device asleep for a year finds its frame, and is read under the key that it had.
#[test]
fn a_device_asleep_for_a_year_goes_on() {
    let mut world = keyed(33, 2);
    world.now = world.now + PREPARE_AFTER;
    world.settle();
    let unheard = world.devices[0].speak();
    // The other one renews every hundred seconds for a month, and then now and then.
    for step in 0..400 {
        world.wake(1);
        world.settle();
        world.now = world.now + if step < 100 { PERIOD } else { Span::from_secs(105_000) };
        world.settle();
    }
    assert!(world.now.since(claviger_units::Timestamp::START) > Span::from_secs(365 * 86_400));
    let eui = world.devices[0].eui;
    let read = world.uplink(eui, &unheard).unwrap().unwrap();
    assert_eq!(read.epoch, Epoch::new(1));
    let before = world.devices[0].epoch;
    world.wake(0);
    world.settle();
    assert!(world.devices[0].epoch > before, "its frame was there");
    world.check_recovery();
}

/// A bootstrap key serves once, whoever brings it again.
#[test]
fn a_stolen_bootstrap_key_does_nothing_the_second_time() {
    let bootstrap = World::bootstrap_of_first(34);
    let mut world = keyed(34, 1);
    let eui = world.devices[0].eui;
    let again = world.at_platform(|p, tx, _, _| Ok(p.provision(tx, eui, &bootstrap))).unwrap();
    assert_eq!(again, Err(ProvisionError::Known(eui)));
    let again =
        world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &bootstrap))).unwrap();
    assert_eq!(again, Err(ProvisionError::UsedKey(eui)));
    // At the gateway the thief is refused, and the operator is told.
    let thief = Device::bootstrapped(eui, &bootstrap);
    let honest = std::mem::replace(&mut world.devices[0], thief);
    assert_eq!(world.request(0), Some(claviger_fleet::KeyAnswer::Denied));
    let told = claviger_fleet::GatewayEvent::Alarm(Alarm::LabelUsed { eui });
    assert!(world.gateway_events.contains(&told));
    world.devices[0] = honest;
    world.check_recovery();
}

/// Somebody with the network and no key tries every door, with the names, epochs and frames that he has seen: nothing
/// of it moves a device, spends a key or stops anybody.
#[test]
fn an_attacker_who_only_has_the_network_moves_nobody() {
    let mut world = keyed(35, 3);
    let mut heard: Vec<(Eui64, Vec<u8>)> = Vec::new();
    for round in 0..40_u32 {
        for n in 0..3 {
            world.wake(n);
            let eui = world.devices[n].eui;
            heard.extend(world.publish(n).map(|frame| (eui, frame)));
        }
        world.settle();
        let before = world.devices.iter().map(|device| device.epoch).collect::<Vec<_>>();
        let n_keys = world.kmes.n_keys;
        for n in 0..3 {
            attack(&mut world, n, round, &heard);
        }
        let after = world.devices.iter().map(|device| device.epoch).collect::<Vec<_>>();
        assert_eq!((after, world.kmes.n_keys), (before, n_keys));
        world.now = world.now + PERIOD;
        world.settle();
    }
    assert_eq!(n_alarms(&world), 0);
    world.check_recovery();
    world.check_readings();
}

fn attack(world: &mut World, n: usize, round: u32, heard: &[(Eui64, Vec<u8>)]) {
    let (eui, epoch) = (world.devices[n].eui, world.devices[n].epoch.number());
    let other = Device::bootstrapped(eui, &Key256::random(&mut world.rng));
    for claimed in [0, epoch.saturating_sub(1), epoch, epoch + 1, epoch + 1000, u32::MAX] {
        let path = format!("/v1/devices/{eui}/key?have={claimed}");
        let (have, name) = (claimed.to_string(), eui.to_string());
        let signed = other.secret.request_authorization(Epoch::new(claimed), &path);
        for authorization in [None, Some(""), Some("Claviger epoch=1, mac="), Some(&*signed)] {
            let answer = world.at_gateway(|g, tx, now, _| {
                Ok(g.handle_key_request(tx, now, &name, Some(&have), &path, authorization)?)
            });
            assert_eq!(answer, Some(claviger_fleet::KeyAnswer::Denied));
        }
        let version = PskVersion::Tls12;
        let identity = PskIdentity { eui, epoch: Epoch::new(claimed), version }.to_string();
        let guess = other.secret.pre_shared_key(version);
        let answer = world.at_gateway(|g, tx, now, _| {
            Ok(g.handle_proven_request(tx, now, &name, Some(&have), (&identity, &guess))?)
        });
        assert_eq!(answer, Some(claviger_fleet::KeyAnswer::Denied));
        let mut context = claviger_oscore::key_service::context(
            claviger_oscore::key_service::Side::Device,
            &other.secret,
            eui,
            Epoch::new(claimed),
        );
        let (question, _) =
            context.protect_request(&claviger_oscore::key_service::question()).unwrap();
        if let CoapDatagram::Claim(claim) = CoapDatagram::read(&question.to_bytes().unwrap()) {
            let answer = world.at_gateway(|g, tx, now, _| Ok(g.handle_coap(tx, now, &claim)?));
            assert_eq!(answer.flatten().unwrap().asker, None);
        }
    }
    let password = other.secret.mqtt_password(eui);
    let who = world.at_gateway(|g, tx, now, _| {
        Ok(g.handle_login(tx, now, &eui.to_string(), password.as_bytes())?)
    });
    assert_eq!(who, Some(None));
    // What was heard, played again, bent, and under another name.
    for (of, frame) in heard.iter().rev().take(20) {
        let again = world.uplink(*of, frame).unwrap();
        assert!(again.is_err() || again.is_ok_and(|read| read.duplicate == Duplicate::SameBytes));
        if *of != eui {
            assert!(world.uplink(eui, frame).unwrap().is_err());
        }
        let mut bent = frame.clone();
        let at = round as usize % bent.len();
        bent[at] ^= 0x10;
        assert!(world.uplink(*of, &bent).unwrap().is_err());
    }
    let long = vec![0; 5000];
    world.at_gateway(|g, tx, now, _| {
        let refused = g.handle_uplink(tx, now, eui, &long);
        assert_eq!(refused, Err(QueueRefusal::TooLong { length: 5000 }));
        Ok(())
    });
}

/// The platform is deaf to a side that is none.
#[test]
fn noise_on_the_link_between_the_sites_is_refused_and_forgotten() {
    let mut world = keyed(36, 1);
    for length in [0, 1, 2, 17, 300] {
        let noise: Vec<u8> = (0..length).map(|_| world.rng.random()).collect();
        for side in [Side::Gateway, Side::Platform] {
            assert!(world.refuses(side, &noise), "{length} bytes to the {side:?}");
        }
        world.disconnect();
        world.settle();
    }
    world.check_recovery();
}
