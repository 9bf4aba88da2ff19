//! One rule of `PROTOCOL.md` P3 after the other, in a world where only the named thing goes wrong.

use claviger_durable::peer::Session;
use claviger_durable::{Engine, EngineError, MemoryEngine, Table};
use claviger_fleet::{
    Alarm, Duplicate, Extraction, Fetching, GatewayEvent, KeyAnswer, KeyOrder, LostUplinks,
    NextEpoch, Origin, PlatformEvent, PlatformOrder, ProvisionError, QueueRefusal, UplinkRefusal,
    WhyRefused,
};
use claviger_frames::{Epoch, EpochKeys, telemetry};
use claviger_units::{Eui64, Key256, KeyId, Span};

use crate::world::{Device, Fate, GRACE, PERIOD, PREPARE_AFTER, Side, World};

const ONE: Epoch = Epoch::new(1);

/// A world with one device whose first frame is ready.
fn ready() -> World {
    let mut world = World::new(1, 1);
    world.settle();
    world
}

/// A world with one device at epoch 1, confirmed.
fn keyed() -> World {
    let mut world = ready();
    world.wake(0);
    world.settle();
    assert_eq!(world.devices[0].epoch, ONE);
    world
}

fn rows(store: &mut MemoryEngine, table: &'static str) -> u64 {
    store.transact::<_, EngineError>(|tx| tx.count(Table::secret(table), b"")).unwrap()
}

fn carry_all(world: &mut World) {
    while world.carry(Side::Gateway) || world.carry(Side::Platform) {}
}

/// P3a.2, P3a.3: W is used once; one that is lost is replaced.
#[test]
fn a_lost_w_is_replaced() {
    let mut world = World::new(2, 3);
    world.connect();
    carry_all(&mut world);
    world.time_out();
    assert!(world.serve_platform(Fate::Answered), "the platform asks for W");
    world.kmes.burn_one();
    carry_all(&mut world);
    assert!(world.serve_gateway(Fate::Answered), "the gateway fetches W");
    carry_all(&mut world);
    let refused = |e: &PlatformEvent| matches!(e, PlatformEvent::AdoptionRefused { .. });
    assert!(world.platform_events.iter().any(refused));
    world.time_out();
    assert!(world.platform_orders.is_empty(), "a new W waits for a second");
    world.now = world.now + Span::from_secs(1);
    world.settle();
    assert_eq!(world.kmes.n_keys, 2 + 3);
    assert!((0..3).all(|n| world.ask(n).is_some()));
}

/// P3a.2: up to 1000 devices per W.
#[test]
fn a_thousand_devices_share_one_w() {
    let mut world = World::new(3, 0);
    for n in 0..1001_u64 {
        let (eui, key) = (Eui64::from_bytes(n.to_be_bytes()), Key256::random(&mut world.rng));
        world.at_platform(|p, tx, _, _| Ok(p.provision(tx, eui, &key))).unwrap().unwrap();
    }
    world.connect();
    carry_all(&mut world);
    world.time_out();
    while world.serve_platform(Fate::Answered) || world.time_out() {}
    carry_all(&mut world);
    let fetches = |o: &&KeyOrder| matches!(o, KeyOrder::Fetch { .. });
    assert_eq!(world.gateway_orders.iter().filter(fetches).count(), 2);
    world.settle();
    let status = world.at_gateway(|g, _, now, _| Ok(g.status(now))).unwrap();
    assert_eq!((status.n_devices, status.n_adopting, status.n_asking), (1001, 0, 0));
    assert_eq!(world.kmes.n_keys, 2 + 1001);
}

/// P3b.5: only a ready frame leaves the gateway.
#[test]
fn a_frame_is_released_only_once_the_platform_holds_it() {
    let mut world = World::new(4, 1);
    world.connect();
    while world.serve_platform(Fate::Answered)
        || world.carry(Side::Gateway)
        || world.carry(Side::Platform)
        || world.time_out()
        || matches!(world.gateway_orders.front(), Some(KeyOrder::Fetch { .. }))
            && world.serve_gateway(Fate::Answered)
    {}
    let later = KeyAnswer::Later { retry_after: Span::from_secs(1) };
    assert_eq!(world.request(0), Some(later.clone()), "its key is being asked for");
    assert!(world.serve_gateway(Fate::Answered));
    assert_eq!(world.request(0), Some(later.clone()), "it is announced");
    carry_all(&mut world);
    assert_eq!(world.request(0), Some(later), "the platform fetches the key");
    assert!(world.serve_platform(Fate::Answered));
    carry_all(&mut world);
    let frame = world.ask(0).expect("it is ready");
    assert!(world.devices[0].take(&frame));
}

/// P3b.2: a shortage lets the device wait at its epoch; an answered token is replaced, its epoch
/// is not.
#[test]
fn a_shortage_costs_patience_and_nothing_else() {
    let mut world = keyed();
    world.now = world.now + PREPARE_AFTER;
    world.time_out();
    let Some(&KeyOrder::Extract { epoch, token, .. }) = world.gateway_orders.front() else {
        panic!("a key is asked for")
    };
    let n_keys = world.kmes.n_keys;
    assert!(world.serve_gateway(Fate::Shortage));
    let later = KeyAnswer::Later { retry_after: Span::from_secs(1) };
    assert_eq!(world.request(0), Some(later));
    assert_eq!(world.kmes.n_keys, n_keys);
    world.now = world.now + Span::from_secs(1);
    world.time_out();
    let same = KeyOrder::Extract { eui: world.devices[0].eui, epoch, token };
    assert_eq!(world.gateway_orders.front(), Some(&same));
    assert!(world.serve_gateway(Fate::AnswerLost));
    world.now = world.now + Span::from_secs(10);
    world.time_out();
    assert_eq!(world.gateway_orders.front(), Some(&same));
    assert!(world.serve_gateway(Fate::Answered), "the token was answered");
    let Some(&KeyOrder::Extract { epoch: again, token: other, .. }) = world.gateway_orders.front()
    else {
        panic!("a key is asked for once more")
    };
    assert_eq!(again, epoch);
    assert_ne!(other, token);
    world.settle();
    assert!(world.ask(0).is_some());
}

/// A shortage that lasts is an alarm, with how many wait, and so is its end.
#[test]
fn a_lasting_shortage_is_told_and_so_is_its_end() {
    let mut world = keyed();
    world.now = world.now + PREPARE_AFTER;
    world.time_out();
    let told = |world: &World| {
        let is_told = |event: &&GatewayEvent| {
            matches!(event, GatewayEvent::Alarm(Alarm::KeysShort { waiting: 1, .. }))
        };
        world.gateway_events.iter().filter(is_told).count()
    };
    for n in 0..12 {
        assert_eq!(told(&world), usize::from(n > 6), "after {n} refusals");
        assert!(world.serve_gateway(Fate::Shortage));
        world.now = world.now + Span::from_secs(10);
        world.time_out();
    }
    assert!(!world.gateway_events.contains(&GatewayEvent::KeysSuffice));
    world.settle();
    assert!(world.gateway_events.contains(&GatewayEvent::KeysSuffice));
    assert_eq!(told(&world), 1);
}

/// P3b.4: a key that the platform cannot get is refused, and another epoch follows.
#[test]
fn a_lost_key_costs_an_epoch_number() {
    let mut world = keyed();
    world.now = world.now + PREPARE_AFTER;
    world.time_out();
    assert!(world.serve_gateway(Fate::Answered));
    world.kmes.burn_one();
    world.settle();
    let (eui, epoch) = (world.devices[0].eui, Epoch::new(2));
    let refused = PlatformEvent::Refused { eui, epoch, why: WhyRefused::KeyLost };
    assert!(world.platform_events.contains(&refused));
    assert!(world.gateway_events.contains(&GatewayEvent::Refused { eui, epoch }));
    assert!(world.is_dropped(epoch), "the platform is told so");
    world.pass(PERIOD);
    assert_eq!(world.devices[0].epoch, Epoch::new(3));
}

/// P3, Key frame: a device follows 1024 steps; what is refused for so long is an alarm.
#[test]
fn a_device_that_can_no_longer_follow_is_named() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    let alarm = GatewayEvent::Alarm(Alarm::OutOfReach { eui });
    let n_keys = world.kmes.n_keys;
    while !world.gateway_events.contains(&alarm) {
        world.now = world.now + Span::from_secs(600);
        world.time_out();
        assert!(world.serve_gateway(Fate::Answered));
        world.kmes.burn_one();
        world.settle();
    }
    assert_eq!(world.kmes.n_keys, n_keys + 1024);
    world.now = world.now + Span::from_secs(600);
    world.settle();
    assert_eq!(world.kmes.n_keys, n_keys + 1024, "no further key is spent");
    assert_eq!(world.request(0), Some(KeyAnswer::NothingDue));
}

/// P3b.4: the platform holds an epoch only if its own KME gave it the key that is in the frame.
#[test]
fn two_kmes_that_disagree_are_noticed() {
    let mut world = keyed();
    world.now = world.now + PREPARE_AFTER;
    world.time_out();
    assert!(world.serve_gateway(Fate::Answered));
    carry_all(&mut world);
    let Some(PlatformOrder::Fetch { key_id }) = world.platform_orders.pop_front() else {
        panic!("the key is fetched")
    };
    world.at_platform(|p, tx, now, _| {
        let other = Fetching::Key(Key256::from_bytes([1; 32]), Origin::Link);
        Ok(p.handle_fetched(tx, now, key_id, other)?)
    });
    let mismatch =
        |e: &PlatformEvent| matches!(e, PlatformEvent::Refused { why: WhyRefused::Mismatch, .. });
    assert!(world.platform_events.iter().any(mismatch));
    carry_all(&mut world);
    assert_eq!(world.ask(0), None);
}

/// P3b.1, P3b.7: one key per device and period, ahead of its slot.
#[test]
fn the_next_key_is_prepared_ahead_and_only_one() {
    let mut world = keyed();
    assert_eq!(world.request(0), Some(KeyAnswer::NothingDue));
    let n_keys = world.kmes.n_keys;
    world.now = world.now + PREPARE_AFTER;
    world.settle();
    world.now = world.now + Span::from_secs(365 * 24 * 3600);
    world.settle();
    assert_eq!(world.kmes.n_keys, n_keys + 1);
    let frame = world.ask(0).expect("a device asleep for a year finds its frame");
    assert_eq!(world.ask(0), Some(frame));
}

/// P3 `tls-cert`: wrong, unknown and stale all get the same answer, and nothing is spent.
#[test]
fn strangers_learn_nothing() {
    let mut world = keyed();
    let n_keys = world.kmes.n_keys;
    let device = &world.devices[0];
    let eui = device.eui.to_string();
    let path = format!("/v1/devices/{eui}/key?have=1");
    let good = device.secret.request_authorization(ONE, &path);
    let other = Device::bootstrapped(device.eui, &Key256::from_bytes([1; 32]));
    let forged = other.secret.request_authorization(ONE, &path);
    let renamed = good.replace("epoch=1", "epoch=2");
    let unknown = "02ffffffffffffff";
    for (eui, have, path, authorization) in [
        (eui.as_str(), Some("1"), path.as_str(), None),
        (&eui, Some("1"), &path, Some("")),
        (&eui, Some("1"), &path, Some("Basic x")),
        (&eui, Some("1"), &path, Some(forged.as_str())),
        (&eui, Some("2"), &path, Some(&renamed)),
        (&eui, Some("2"), &path, Some(&good)),
        (&eui, None, &path, Some(&good)),
        (&eui, Some("1"), "/v1/devices/x/key?have=1", Some(&good)),
        (unknown, Some("1"), &path, Some(&good)),
        ("?", Some("1"), &path, Some(&good)),
    ] {
        let answer = world.at_gateway(|g, tx, now, _| {
            Ok(g.handle_key_request(tx, now, eui, have, path, authorization)?)
        });
        assert_eq!(answer, Some(KeyAnswer::Denied), "{eui} {have:?} {path} {authorization:?}");
    }
    for (user, password) in [(eui.as_str(), "x"), (unknown, "x"), ("", "")] {
        let who = world
            .at_gateway(|g, tx, now, _| Ok(g.handle_login(tx, now, user, password.as_bytes())?));
        assert_eq!(who, Some(None), "{user}");
    }
    assert_eq!(world.kmes.n_keys, n_keys);
    assert_eq!(world.request(0), Some(KeyAnswer::NothingDue));
}

/// P3a.6: whoever uses the printed label later is noticed.
#[test]
fn a_late_use_of_the_label_is_an_alarm() {
    let mut world = ready();
    let label =
        Device { counter: 0, ..Device::bootstrapped(world.devices[0].eui, &bootstrap_of(1)) };
    world.wake(0);
    world.settle();
    world.devices.push(label);
    assert_eq!(world.request(1), Some(KeyAnswer::Denied));
    let alarm = GatewayEvent::Alarm(Alarm::LabelUsed { eui: world.devices[0].eui });
    assert!(world.gateway_events.contains(&alarm));
    assert_eq!(rows(&mut world.stores[1], "platform_epoch"), 1, "G_0 is wiped at the platform");
}

/// The bootstrap key that [`World::new`] draws for its first device under `seed`.
fn bootstrap_of(seed: u64) -> Key256 {
    World::bootstrap_of_first(seed)
}

/// P3b.7: an authenticated request under `next` promotes, without any help of the platform.
#[test]
fn a_log_in_under_the_next_epoch_promotes() {
    let mut world = ready();
    let frame = world.ask(0).unwrap();
    assert!(world.devices[0].take(&frame));
    world.disconnect();
    world.publish(0);
    let (eui, epoch) = (world.devices[0].eui, ONE);
    assert!(world.gateway_events.contains(&GatewayEvent::Promoted { eui, epoch }));
    let status = world.at_gateway(|g, _, now, _| Ok(g.status(now))).unwrap();
    assert_eq!((status.session, status.n_queued_uplinks), (Session::Apart, 1));
    world.settle();
    let devices = world.at_gateway(|g, tx, _, _| Ok(g.devices(tx, None, 9)?)).unwrap();
    assert_eq!((devices[0].current, devices[0].next), (ONE, None));
    assert_eq!(
        (devices[0].origin, devices[0].last_seen),
        (Some(Origin::Simulated), Some(world.now))
    );
    assert_eq!(world.confirmations().count(), 1);
}

/// P3d: what the platform makes of frames that come again, late, changed, or from elsewhere.
#[test]
fn telemetry_is_read_once() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    let frame = world.devices[0].speak();
    let first = world.uplink(eui, &frame).unwrap().unwrap();
    assert_eq!((first.epoch, first.counter, first.duplicate), (ONE, 1, Duplicate::No));
    let again = world.uplink(eui, &frame).unwrap().unwrap();
    assert_eq!((again.reading, again.duplicate), (first.reading, Duplicate::SameBytes));
    let mut changed = frame.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(world.uplink(eui, &changed), Some(Err(UplinkRefusal::Unverified)));
    assert_eq!(world.uplink(eui, b"?"), Some(Err(UplinkRefusal::Malformed)));
    let stranger = Eui64::from_bytes([9; 8]);
    assert_eq!(world.uplink(stranger, &frame), Some(Err(UplinkRefusal::UnknownDevice)));
    let late = world.devices[0].speak();
    world.devices[0].counter += 2000;
    let far = world.devices[0].speak();
    assert!(world.uplink(eui, &far).unwrap().is_ok());
    assert_eq!(world.uplink(eui, &late), Some(Err(UplinkRefusal::Replayed(2))));
    assert_eq!(world.check_readings(), 3);
}

/// P3: telemetry belongs to the device whose topic it has.
#[test]
fn a_frame_under_another_topic_does_not_verify() {
    let mut world = World::new(5, 2);
    world.settle();
    world.wake(0);
    world.wake(1);
    world.settle();
    let frame = world.devices[0].speak();
    let other = world.devices[1].eui;
    assert_eq!(world.uplink(other, &frame), Some(Err(UplinkRefusal::Unverified)));
}

/// P3d: two messages under one counter, both valid, mean two devices; a new key ends it.
#[test]
fn a_clone_is_quarantined_until_a_new_bootstrap() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    let frame = world.devices[0].speak();
    assert!(world.uplink(eui, &frame).unwrap().is_ok());
    let keys = world.devices[0].data_keys();
    let twin = telemetry::seal(&keys, eui, ONE, 1, b"another reading").unwrap();
    assert_eq!(world.uplink(eui, &twin), Some(Err(UplinkRefusal::Cloned(1))));
    let alarm = PlatformEvent::Alarm(Alarm::Cloned { eui, epoch: ONE, counter: 1 });
    assert!(world.platform_events.contains(&alarm));
    world.kill(Side::Platform);
    let next = world.devices[0].speak();
    world.revive();
    assert_eq!(world.uplink(eui, &next), Some(Err(UplinkRefusal::Barred)), "not heard yet");
    world.settle();
    assert_eq!(world.uplink(eui, &next), Some(Err(UplinkRefusal::Quarantined)));

    let used = bootstrap_of(1);
    let known = world.at_platform(|p, tx, _, _| Ok(p.provision(tx, eui, &used))).unwrap();
    assert_eq!(known, Err(ProvisionError::Known(eui)));
    let again = world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &used))).unwrap();
    assert_eq!(again, Err(ProvisionError::UsedKey(eui)));
    let fresh = Key256::from_bytes([5; 32]);
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    let sent = std::mem::take(&mut world.devices[0].sent);
    world.devices[0] = Device { sent, life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.pass(Span::from_secs(1));
    assert_eq!(world.devices[0].epoch, ONE, "the second life counts anew");
    assert_eq!(world.confirmations().filter(|name| name.life == 2).count(), 1);
    let next = world.devices[0].speak();
    assert!(world.uplink(eui, &next).unwrap().is_ok());
}

/// Records of an earlier life that are still under way change nothing in the new one.
#[test]
fn an_earlier_life_does_not_reach_into_the_new_one() {
    let mut world = World::new(6, 1);
    world.connect();
    while world.carry(Side::Gateway)
        || world.serve_platform(Fate::Answered)
        || world.time_out()
        || world.gateway_orders.len() == 1 && world.serve_gateway(Fate::Answered)
    {
        if world.kmes.n_keys < 2 {
            world.carry(Side::Platform);
        }
    }
    assert_eq!(world.kmes.n_keys, 2, "epoch 1 of the first life is under way");
    let (eui, fresh) = (world.devices[0].eui, Key256::from_bytes([5; 32]));
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    world.devices[0] = Device { life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.pass(Span::from_secs(1));
    let unconnected = PlatformEvent::Refused { eui, epoch: ONE, why: WhyRefused::Unconnected };
    assert!(world.platform_events.contains(&unconnected));
    assert_eq!(world.devices[0].epoch, ONE);
    world.settle();
    world.check_agreement();
}

/// A retired device leaves nothing of itself at either side, and no late adoption brings it back.
#[test]
fn a_retired_device_is_forgotten_at_both_sides() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    let late = world.devices[0].speak();
    world.at_platform(|p, tx, _, _| Ok(p.retire(tx, eui)?)).unwrap();
    world.settle();
    assert_eq!(rows(&mut world.stores[0], "gateway_device"), 0);
    assert_eq!(rows(&mut world.stores[1], "platform_epoch"), 0);
    let refused = Some(Err(UplinkRefusal::UnknownEpoch(ONE)));
    assert_eq!(world.uplink(eui, &late), refused);
    let n_keys = world.kmes.n_keys;
    world.now = world.now + PERIOD;
    world.settle();
    assert_eq!(world.kmes.n_keys, n_keys, "no key is spent on it");
    // With a new label it is a new device.
    let fresh = Key256::from_bytes([5; 32]);
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    world.devices[0] = Device { life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.pass(PERIOD);
    assert_eq!(rows(&mut world.stores[0], "gateway_device"), 1);
    assert!(world.devices[0].epoch >= ONE);
}

/// What is retired while its adoption is under way is not served.
#[test]
fn a_device_that_is_retired_before_the_gateway_has_it_is_never_served() {
    let mut world = World::new(6, 1);
    world.connect();
    let eui = world.devices[0].eui;
    while rows(&mut world.stores[0], "gateway_adoption") == 0 {
        assert!(
            world.carry(Side::Gateway)
                || world.carry(Side::Platform)
                || world.serve_platform(Fate::Answered)
                || world.time_out()
        );
    }
    world.at_platform(|p, tx, _, _| Ok(p.retire(tx, eui)?)).unwrap();
    world.now = world.now + PERIOD;
    world.settle();
    assert_eq!(rows(&mut world.stores[0], "gateway_device"), 0);
    assert_eq!(rows(&mut world.stores[0], "gateway_adoption"), 0);
}

/// P3b.6: what is past can be read for 36 h, and then by nobody.
#[test]
fn late_telemetry_is_read_in_grace_only() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    let (late, too_late) = (world.devices[0].speak(), world.devices[0].speak());
    world.now = world.now + PREPARE_AFTER;
    world.settle();
    world.wake(0);
    world.settle();
    assert_eq!(world.devices[0].epoch, Epoch::new(2));
    world.now = world.now + GRACE - Span::from_secs(1);
    assert!(world.uplink(eui, &late).unwrap().is_ok());
    world.now = world.now + Span::from_secs(1);
    assert_eq!(world.uplink(eui, &too_late), Some(Err(UplinkRefusal::UnknownEpoch(ONE))));
    assert_eq!(rows(&mut world.stores[1], "platform_epoch"), 2);
    world.time_out();
    assert_eq!(rows(&mut world.stores[1], "platform_epoch"), 1, "its keys are wiped");
    assert_eq!(rows(&mut world.stores[1], "platform_grace"), 0);
    assert_eq!(rows(&mut world.stores[1], "platform_window"), 1);
    assert_eq!(rows(&mut world.stores[1], "platform_heard"), 1);
}

/// A device that fetches keys but never speaks is followed through all of them.
#[test]
fn prepared_epochs_follow_from_prepared_epochs() {
    let mut world = ready();
    for _ in 0..3 {
        let frame = world.ask(0).unwrap();
        assert!(world.devices[0].take(&frame));
        assert_eq!(world.request(0), Some(KeyAnswer::NothingDue), "promoted");
        world.now = world.now + PREPARE_AFTER;
        world.settle();
    }
    let at = |world: &mut World| {
        world.at_platform(|p, tx, _, _| Ok(p.devices(tx, None, 9)?)).unwrap().remove(0)
    };
    let device = at(&mut world);
    assert_eq!((device.active, device.prepared), (Epoch::BOOTSTRAP, Some(Epoch::new(4))));
    world.wake(0);
    world.settle();
    let device = at(&mut world);
    assert_eq!((device.active, device.prepared), (Epoch::new(4), None));
    assert_eq!(device.origin, Some(Origin::Simulated));
}

/// P3d: the queue is bounded, and what cannot be a reading is refused.
#[test]
fn the_queue_refuses_what_it_cannot_keep() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    let refused =
        world.at_gateway(|g, tx, now, _| Ok(g.handle_uplink(tx, now, eui, &[0; 5000]))).unwrap();
    assert_eq!(refused, Err(QueueRefusal::TooLong { length: 5000 }));
    for n in 0..5 {
        world.at_gateway(|g, tx, now, _| Ok(g.handle_uplink(tx, now, eui, &[n]))).unwrap().unwrap();
    }
    world.kill(Side::Gateway);
    let queued = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, 9)?)).unwrap();
    assert_eq!(queued.iter().map(|q| q.frame[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let seq = queued[2].seq;
    world.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, seq)?));
    world.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, seq)?));
    let behind = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, queued[1].seq, 1)?)).unwrap();
    assert_eq!(behind, [queued[3].clone()]);
    let status = world.at_gateway(|g, _, now, _| Ok(g.status(now))).unwrap();
    assert_eq!(status.n_queued_uplinks, 4);
}

/// One device that floods the queue leaves room for all others, and is told so.
#[test]
fn a_device_has_a_share_of_the_queue_and_no_more() {
    let mut world = World::new(8, 2);
    let [flooding, modest] = [0, 1].map(|n| world.devices[n].eui);
    let queue = |world: &mut World, eui, frame: &[u8]| {
        world.at_gateway(|g, tx, now, _| Ok(g.handle_uplink(tx, now, eui, frame))).unwrap()
    };
    for _ in 0..1000 {
        assert_eq!(queue(&mut world, flooding, b"flood"), Ok(()));
    }
    assert_eq!(queue(&mut world, flooding, b"flood"), Err(QueueRefusal::Share));
    assert_eq!(queue(&mut world, modest, b"reading"), Ok(()));
    // Also after a start, until one of its frames is forwarded.
    world.kill(Side::Gateway);
    assert_eq!(queue(&mut world, flooding, b"flood"), Err(QueueRefusal::Share));
    let lost = world.at_gateway(|g, _, now, _| Ok(g.status(now).lost_uplinks)).unwrap();
    assert_eq!(lost, LostUplinks { over_share: 1, ..LostUplinks::default() });
    let first = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, 1)?)).unwrap();
    world.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, first[0].seq)?));
    assert_eq!(queue(&mut world, flooding, b"flood"), Ok(()));
    assert_eq!(queue(&mut world, flooding, b"flood"), Err(QueueRefusal::Share));
}

/// The queue is bounded by what it takes on the disk, over a start too; what is forwarded makes room.
#[test]
fn a_full_queue_refuses_and_loses_nothing() {
    let mut world = World::new(8, 1);
    let eui = world.devices[0].eui;
    world.queue_bytes = 10 * (64 + 100);
    world.kill(Side::Gateway);
    let queue = |world: &mut World| {
        world.at_gateway(|g, tx, now, _| Ok(g.handle_uplink(tx, now, eui, &[7; 100]))).unwrap()
    };
    for _ in 0..10 {
        assert_eq!(queue(&mut world), Ok(()));
    }
    assert_eq!(queue(&mut world), Err(QueueRefusal::Full));
    world.kill(Side::Gateway);
    assert_eq!(queue(&mut world), Err(QueueRefusal::Full));
    let first = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, 1)?)).unwrap();
    world.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, first[0].seq)?));
    assert_eq!((queue(&mut world), queue(&mut world)), (Ok(()), Err(QueueRefusal::Full)));
    let status = world.at_gateway(|g, _, now, _| Ok(g.status(now))).unwrap();
    assert_eq!((status.n_queued_uplinks, status.lost_uplinks.full), (10, 2));
}

/// What the platform's broker refuses for good goes, with an alarm, and stops nobody.
#[test]
fn an_undeliverable_frame_is_dropped_by_name() {
    let mut world = keyed();
    let eui = world.devices[0].eui;
    for n in 0..3 {
        world.at_gateway(|g, tx, now, _| Ok(g.handle_uplink(tx, now, eui, &[n]))).unwrap().unwrap();
    }
    let queued = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, 9)?)).unwrap();
    let seq = queued[0].seq;
    for _ in 0..2 {
        world.at_gateway(|g, tx, _, _| Ok(g.handle_undeliverable(tx, seq)?));
    }
    let left = world.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, 9)?)).unwrap();
    assert_eq!(left, queued[1..]);
    let status = world.at_gateway(|g, _, now, _| Ok(g.status(now))).unwrap();
    assert_eq!((status.n_queued_uplinks, status.lost_uplinks.undeliverable), (2, 1));
    let alarm = GatewayEvent::Alarm(Alarm::Undeliverable { eui, seq });
    assert_eq!(world.gateway_events.iter().filter(|event| **event == alarm).count(), 1);
}

/// Readings are listed in order, of all devices or of one.
#[test]
fn readings_are_paged() {
    let mut world = World::new(8, 2);
    world.pass(Span::from_secs(300));
    let n_readings = world.check_readings();
    let list = |world: &mut World, after, eui, limit| {
        world.at_platform(|p, tx, _, _| Ok(p.readings(tx, after, eui, limit)?)).unwrap()
    };
    let all = list(&mut world, 0, None, 100);
    assert_eq!(all.len(), n_readings);
    assert_eq!(list(&mut world, all[1].seq, None, 2), all[2..4]);
    let eui = world.devices[1].eui;
    let own: Vec<_> = all.iter().filter(|reading| reading.eui == eui).cloned().collect();
    assert_eq!(list(&mut world, 0, Some(eui), 100), own);
    assert_eq!(list(&mut world, own[0].seq, Some(eui), 1), own[1..2]);
    world.kill(Side::Platform);
    world.wake(0);
    world.settle();
    assert_eq!(world.check_readings(), n_readings + 1);
}

/// Answers to orders of an earlier process, or to none, change nothing.
#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    let mut world = keyed();
    let (eui, key_id) = (world.devices[0].eui, KeyId::from_bytes([1; 16]));
    let key = || Key256::from_bytes([1; 32]);
    let before = world.at_gateway(|g, tx, _, _| Ok(g.devices(tx, None, 9)?)).unwrap();
    world.at_gateway(|g, tx, now, rng| {
        for epoch in [0, 1, 2] {
            let answer = Extraction::Key(key_id, key(), Origin::Link);
            g.handle_extracted(tx, now, eui, Epoch::new(epoch), answer, rng)?;
            g.handle_extracted(tx, now, eui, Epoch::new(epoch), Extraction::TokenAnswered, rng)?;
        }
        Ok(g.handle_fetched(tx, now, key_id, Fetching::Key(key(), Origin::Link))?)
    });
    world.at_platform(|p, tx, now, rng| {
        p.handle_fetched(tx, now, key_id, Fetching::Refused)?;
        Ok(p.handle_mastered(tx, now, Extraction::Key(key_id, key(), Origin::Link), rng)?)
    });
    let after = world.at_gateway(|g, tx, _, _| Ok(g.devices(tx, None, 9)?)).unwrap();
    assert_eq!(after, before);
    assert!(!world.carry(Side::Gateway) && !world.carry(Side::Platform));
    assert_eq!(after[0].next, None::<NextEpoch>);
}
