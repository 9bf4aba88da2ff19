//! The other ways to a key frame: pre-shared keys, CoAP with OSCORE, and frames that are pushed.

use claviger_fleet::{
    Alarm, CoapAnswer, CoapDatagram, FrameForm, GatewayEvent, KeyAnswer, KeyOrder, Rank, Sharing,
};
use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion};
use claviger_oscore::Context;
use claviger_oscore::key_service::{self, Answer, Side as End};
use claviger_units::{Key256, Span, Timestamp};
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};

use crate::world::{Device, Fate, PREPARE_AFTER, Side, World};

const ONE: Epoch = Epoch::new(1);
const WAKE: Span = Span::from_secs(5);

/// A world with one device whose first frame is ready.
fn ready() -> World {
    let mut world = World::new(1, 1);
    world.settle();
    world
}

fn identity(world: &World, epoch: Epoch, version: PskVersion) -> String {
    PskIdentity { eui: world.devices[0].eui, epoch, version }.to_string()
}

fn key_of(world: &mut World, identity: &str, version: PskVersion) -> Option<Key256> {
    world.at_gateway(|g, tx, _, _| Ok(g.pre_shared_key(tx, identity, version)?)).unwrap()
}

/// Asks on a connection that has proven to hold the key of `identity` that the device derives.
fn ask_by_key(world: &mut World, have: &str, identity: &str) -> KeyAnswer {
    let version = identity.parse::<PskIdentity>().unwrap().version;
    let key = world.devices[0].secret.pre_shared_key(version);
    ask_with(world, have, identity, &key)
}

fn ask_with(world: &mut World, have: &str, identity: &str, key: &Key256) -> KeyAnswer {
    let eui = world.devices[0].eui.to_string();
    let answer = world.at_gateway(|g, tx, now, _| {
        Ok(g.handle_proven_request(tx, now, &eui, Some(have), (identity, key))?)
    });
    answer.unwrap()
}

/// Bootstraps the first device anew, and prepares its first frame.
fn begin_second_life(world: &mut World) {
    let (eui, fresh) = (world.devices[0].eui, Key256::from_bytes([77; 32]));
    world.at_platform(|p, tx, _, _| Ok(p.provision_again(tx, eui, &fresh))).unwrap().unwrap();
    let sent = std::mem::take(&mut world.devices[0].sent);
    world.devices[0] = Device { sent, life: 2, ..Device::bootstrapped(eui, &fresh) };
    world.settle();
}

fn n_label_alarms(world: &World) -> usize {
    let alarm = GatewayEvent::Alarm(Alarm::LabelUsed { eui: world.devices[0].eui });
    world.gateway_events.iter().filter(|event| **event == alarm).count()
}

#[test]
fn frames_of_every_form_lead_on() {
    for (form, length) in
        [(FrameForm::Compact, 44), (FrameForm::Cose, 77), (FrameForm::CoseCcm, 80)]
    {
        let mut world = World::new(1, 1);
        world.form = form;
        world.kill(Side::Gateway);
        world.settle();
        assert_eq!(world.ask(0).unwrap().len(), length, "{form:?}");
        for _ in 0..3 {
            world.wake(0);
            world.settle();
            world.now = world.now + PREPARE_AFTER;
            world.settle();
        }
        assert_eq!(world.devices[0].epoch, Epoch::new(3), "{form:?}");
        world.check_agreement();
    }
}

#[test]
fn a_pre_shared_key_is_that_of_the_epoch_and_version() {
    let mut world = ready();
    for version in [PskVersion::Tls12, PskVersion::Tls13] {
        let own = identity(&world, Epoch::BOOTSTRAP, version);
        let found = key_of(&mut world, &own, version).unwrap();
        assert!(found.ct_eq(&world.devices[0].secret.pre_shared_key(version)));
        let other =
            if version == PskVersion::Tls12 { PskVersion::Tls13 } else { PskVersion::Tls12 };
        assert!(key_of(&mut world, &own, other).is_none(), "a key is for one version");
    }
    for stranger in ["", "x", "02ffffffffffffff:0:12", "02005efffe100001:7:12"] {
        assert!(key_of(&mut world, stranger, PskVersion::Tls12).is_none(), "{stranger}");
    }
}

#[test]
fn a_proven_identity_gets_its_own_frame_and_promotes_by_the_next() {
    let mut world = ready();
    let own = identity(&world, Epoch::BOOTSTRAP, PskVersion::Tls12);
    let first = world.devices[0].secret.duplicate();
    let KeyAnswer::Frame(frame) = ask_by_key(&mut world, "0", &own) else { panic!() };
    let wrong = Key256::from_bytes([9; 32]);
    assert_eq!(ask_with(&mut world, "0", &own, &wrong), KeyAnswer::Denied, "another key");
    assert_eq!(ask_by_key(&mut world, "1", &own), KeyAnswer::Denied, "another epoch than proven");
    let eui = world.devices[0].eui;
    assert_eq!(
        world.at_gateway(|g, tx, _, _| Ok(g.ready_frame(tx, eui)?)).unwrap().as_ref(),
        Some(&frame),
        "what is pushed is what is fetched"
    );
    assert!(world.devices[0].take(&frame));
    // The handshake alone promotes nobody: only the request behind it does.
    let next = identity(&world, ONE, PskVersion::Tls13);
    let found = key_of(&mut world, &next, PskVersion::Tls13).unwrap();
    assert!(found.ct_eq(&world.devices[0].secret.pre_shared_key(PskVersion::Tls13)));
    let promoted = GatewayEvent::Promoted { eui, epoch: ONE };
    assert!(!world.gateway_events.contains(&promoted));
    assert_eq!(ask_by_key(&mut world, "1", &next), KeyAnswer::NothingDue);
    assert!(world.gateway_events.contains(&promoted));
    let old = first.pre_shared_key(PskVersion::Tls12);
    assert_eq!(ask_with(&mut world, "0", &own, &old), KeyAnswer::Denied, "epoch 0 is over");
    assert_eq!(world.at_gateway(|g, tx, _, _| Ok(g.ready_frame(tx, eui)?)).unwrap(), None);
}

/// A pushed key is shown one wake later, but its time began when it was pushed: the next is prepared as soon as that of a
/// device which asks.
#[test]
fn the_time_of_a_pushed_key_begins_when_it_is_pushed() {
    for lost in [false, true] {
        let mut world = ready();
        let eui = world.devices[0].eui;
        let push = |world: &mut World| {
            world.at_gateway(|g, tx, now, _| Ok(g.push_frame(tx, now, eui)?)).unwrap()
        };
        let frame = push(&mut world).unwrap();
        if lost {
            // It did not arrive, and is pushed again in the next wake: only then its time begins.
            world.now = world.now + WAKE;
            assert_eq!(push(&mut world).as_ref(), Some(&frame));
        }
        let pushed = world.now;
        assert!(world.devices[0].take(&frame));
        world.now = world.now + WAKE;
        world.publish(0);
        world.settle();
        assert!(world.gateway_events.contains(&GatewayEvent::Promoted { eui, epoch: ONE }));
        world.now = pushed + PREPARE_AFTER;
        let before = world.now;
        world.now = Timestamp::from_micros(before.as_micros() - 1_000);
        world.settle();
        assert!(world.ask(0).is_none(), "not before its time");
        world.now = before;
        world.settle();
        assert!(push(&mut world).is_some(), "lost: {lost}");
    }
}

/// A connection that stays open proves what it proved at its beginning, and no more.
#[test]
fn a_connection_of_an_earlier_life_is_nobodys() {
    let mut world = ready();
    let frame = world.ask(0).unwrap();
    assert!(world.devices[0].take(&frame));
    let stolen = world.devices[0].secret.duplicate();
    let own = identity(&world, ONE, PskVersion::Tls12);
    assert_eq!(ask_by_key(&mut world, "1", &own), KeyAnswer::NothingDue);
    begin_second_life(&mut world);
    assert!(world.ask(0).is_some(), "epoch 1 of the second life is ready");
    let key = stolen.pre_shared_key(PskVersion::Tls12);
    world.gateway_events.clear();
    assert_eq!(ask_with(&mut world, "1", &own, &key), KeyAnswer::Denied);
    let mut old = key_service::context(End::Device, &stolen, world.devices[0].eui, ONE);
    let (question, _) = old.protect_request(&key_service::question()).unwrap();
    assert_eq!(code(send(&mut world, &question.to_bytes().unwrap())), UNAUTHORIZED);
    assert!(world.gateway_events.is_empty(), "{:?}", world.gateway_events);
    world.wake(0);
    world.settle();
    assert_eq!(world.devices[0].epoch, ONE, "the device goes on");
}

/// Whoever uses the label after its device has left it has read a label that should be destroyed.
#[test]
fn the_use_of_a_label_after_its_time_is_an_alarm_at_every_door() {
    let mut world = ready();
    let (eui, label) = (world.devices[0].eui, world.devices[0].secret.duplicate());
    let mut context = device_end(&world);
    let ask = |context: &mut Context| {
        context.protect_request(&key_service::question()).unwrap().0.to_bytes().unwrap()
    };
    let recorded = ask(&mut context);
    send(&mut world, &recorded);
    world.wake(0);
    world.settle();
    assert_eq!((world.devices[0].epoch, n_label_alarms(&world)), (ONE, 0));

    assert_eq!(code(send(&mut world, &recorded)), UNAUTHORIZED);
    assert_eq!(n_label_alarms(&world), 0, "a recorded question proves nothing");
    let late = ask(&mut context);
    assert_eq!(code(send(&mut world, &late)), UNAUTHORIZED);
    assert_eq!(n_label_alarms(&world), 1, "by CoAP");
    assert_eq!(code(send(&mut world, &late)), UNAUTHORIZED);
    assert_eq!(n_label_alarms(&world), 1, "the same once more");

    for (n, version) in [(2, PskVersion::Tls12), (3, PskVersion::Tls13)] {
        let own = identity(&world, Epoch::BOOTSTRAP, version);
        let key = key_of(&mut world, &own, version).unwrap();
        assert!(key.ct_eq(&label.pre_shared_key(version)));
        assert_eq!(ask_with(&mut world, "0", &own, &key), KeyAnswer::Denied);
        assert_eq!(n_label_alarms(&world), n, "{version:?}");
    }
    let password = label.mqtt_password(eui);
    let logged_in = world.at_gateway(|g, tx, now, _| {
        Ok(g.handle_login(tx, now, &eui.to_string(), password.as_bytes())?)
    });
    assert_eq!((logged_in, n_label_alarms(&world)), (Some(None), 4), "at the broker");
    let path = format!("/v1/devices/{eui}/key?have=0");
    let signed = label.request_authorization(Epoch::BOOTSTRAP, &path);
    let answer = world.at_gateway(|g, tx, now, _| {
        let eui = eui.to_string();
        Ok(g.handle_key_request(tx, now, &eui, Some("0"), &path, Some(&signed))?)
    });
    assert_eq!((answer, n_label_alarms(&world)), (Some(KeyAnswer::Denied), 5), "by HTTPS");
}

/// The device's end of OSCORE.
fn device_end(world: &World) -> Context {
    let device = &world.devices[0];
    key_service::context(End::Device, &device.secret, device.eui, device.epoch)
}

fn send(world: &mut World, datagram: &[u8]) -> Option<Packet> {
    let bytes = match CoapDatagram::read(datagram) {
        CoapDatagram::Noise => return None,
        CoapDatagram::Answered(bytes) => bytes,
        CoapDatagram::Claim(claim) => {
            let answer = world.at_gateway(|g, tx, now, _| Ok(g.handle_coap(tx, now, &claim)?));
            let CoapAnswer { datagram, asker } = answer.unwrap().unwrap();
            let eui = world.devices[0].eui;
            let packet = Packet::from_bytes(&datagram).unwrap();
            let is_refusal = packet.header.code == UNAUTHORIZED;
            assert_eq!(asker, Some(eui).filter(|_| !is_refusal), "kept for who has proven");
            datagram
        }
    };
    Some(Packet::from_bytes(&bytes).unwrap())
}

fn code(packet: Option<Packet>) -> MessageClass {
    packet.expect("an answer").header.code
}

const UNAUTHORIZED: MessageClass = MessageClass::Response(ResponseType::Unauthorized);

#[test]
fn a_question_by_coap_is_answered_once() {
    let mut world = ready();
    let mut context = device_end(&world);
    let (question, asked) = context.protect_request(&key_service::question()).unwrap();
    let bytes = question.to_bytes().unwrap();
    let response = send(&mut world, &bytes).unwrap();
    assert_eq!(response.header.get_type(), MessageType::Acknowledgement);
    let opened = context.open_response(&response, &asked).unwrap();
    let Some(Answer::Frame(frame)) = Answer::of(&opened) else { panic!("{opened:?}") };
    assert_eq!(world.ask(0), Some(frame.clone()), "every way leads to the same frame");
    assert_eq!(code(send(&mut world, &bytes)), UNAUTHORIZED, "a repeat");
    world.kill(Side::Gateway);
    world.revive();
    assert_eq!(code(send(&mut world, &bytes)), UNAUTHORIZED, "a repeat after a restart");
    assert!(world.devices[0].take(&frame));

    // The next epoch has a context of its own, whose first question promotes.
    let mut next = device_end(&world);
    let (question, asked) = next.protect_request(&key_service::question()).unwrap();
    let response = send(&mut world, &question.to_bytes().unwrap()).unwrap();
    let answer = Answer::of(&next.open_response(&response, &asked).unwrap());
    assert_eq!(answer, Some(Answer::NothingDue));
    let eui = world.devices[0].eui;
    assert!(world.gateway_events.contains(&GatewayEvent::Promoted { eui, epoch: ONE }));
    let (late, _) = context.protect_request(&key_service::question()).unwrap();
    assert_eq!(code(send(&mut world, &late.to_bytes().unwrap())), UNAUTHORIZED, "a past epoch");
}

#[test]
fn what_is_due_but_not_ready_is_put_off_by_coap_too() {
    let mut world = ready();
    world.wake(0);
    world.settle();
    world.now = world.now + PREPARE_AFTER;
    world.time_out();
    assert!(world.serve_gateway(Fate::Shortage));
    let mut context = device_end(&world);
    let (question, asked) = context.protect_request(&key_service::question()).unwrap();
    let response = send(&mut world, &question.to_bytes().unwrap()).unwrap();
    let answer = Answer::of(&context.open_response(&response, &asked).unwrap());
    assert_eq!(answer, Some(Answer::Later(1)));
}

#[test]
fn strangers_by_coap_learn_nothing_and_change_nothing() {
    let mut world = ready();
    let device = &world.devices[0];
    let mut stranger = key_service::context(
        End::Device,
        &claviger_frames::GatewaySecret::from_key(Key256::from_bytes([1; 32])),
        device.eui,
        device.epoch,
    );
    let unknown = "02ffffffffffffff".parse().unwrap();
    let mut nobody = key_service::context(End::Device, &device.secret, unknown, device.epoch);
    for context in [&mut stranger, &mut nobody] {
        let (question, _) = context.protect_request(&key_service::question()).unwrap();
        assert_eq!(code(send(&mut world, &question.to_bytes().unwrap())), UNAUTHORIZED);
    }
    let plain = key_service::question().to_bytes().unwrap();
    assert_eq!(code(send(&mut world, &plain)), UNAUTHORIZED, "in clear");
    // A path that is not there is told only to who belongs here.
    let mut own = device_end(&world);
    let mut other = key_service::question();
    other.add_option(coap_lite::CoapOption::UriPath, b"x".to_vec());
    let (question, asked) = own.protect_request(&other).unwrap();
    let response = send(&mut world, &question.to_bytes().unwrap()).unwrap();
    let opened = own.open_response(&response, &asked).unwrap();
    assert_eq!(Answer::of(&opened), Some(Answer::NotFound));
    // Under the next epoch it promotes like any other, and opens no question a second time.
    let recorded = question.to_bytes().unwrap();
    let frame = world.ask(0).unwrap();
    assert!(world.devices[0].take(&frame));
    let mut next = device_end(&world);
    for _ in 0..2 {
        let (question, asked) = next.protect_request(&other).unwrap();
        let datagram = question.to_bytes().unwrap();
        let response = send(&mut world, &datagram).unwrap();
        let opened = next.open_response(&response, &asked).unwrap();
        assert_eq!(Answer::of(&opened), Some(Answer::NotFound));
        assert_eq!(code(send(&mut world, &datagram)), UNAUTHORIZED);
        assert_eq!(code(send(&mut world, &recorded)), UNAUTHORIZED);
    }
    let eui = world.devices[0].eui;
    assert!(world.gateway_events.contains(&GatewayEvent::Promoted { eui, epoch: ONE }));
    // A ping gets a reset; noise, answers and empty acknowledgements get nothing.
    assert_eq!(send(&mut world, &[0x40, 0, 1, 2]).unwrap().to_bytes().unwrap(), [0x70, 0, 1, 2]);
    for noise in [&[][..], &[0x40], &[0x60, 0, 1, 2], &[0x60, 0x45, 1, 2], &[0xFF; 40]] {
        assert_eq!(send(&mut world, noise), None, "{noise:?}");
    }
    assert_eq!(world.request(0), Some(KeyAnswer::NothingDue), "the device is served as before");
}

/// P3b.2: whoever is in a lower class is asked for first, then tenants by their shares, then by age.
#[test]
fn keys_that_are_short_go_by_class_share_and_age() {
    let mut world = World::empty(1);
    let rank = |priority, tenant, share| Rank { priority, tenant, share };
    world.sharing = Sharing::default()
        .with("020000fffe000006", rank(0, 0, 1))
        .with("020000fffe000003", rank(1, 1, 1))
        .with("020000fffe000005", rank(1, 1, 1))
        .with("020000fffe0000", rank(1, 2, 2));
    world.kill(Side::Gateway);
    world.provision(8);
    world.connect();
    while world.carry(Side::Gateway)
        || world.carry(Side::Platform)
        || world.serve_platform(Fate::Answered)
        || world.time_out()
        || (matches!(world.gateway_orders.front(), Some(KeyOrder::Fetch { .. }))
            && world.serve_gateway(Fate::Answered))
    {}
    let asked = world.gateway_orders.iter().map(|order| match order {
        KeyOrder::Extract { eui, .. } => eui.as_bytes()[7],
        other => panic!("{other:?}"),
    });
    let asked: Vec<u8> = asked.collect();
    assert_eq!(asked[0], 6, "{asked:?}");
    let of_small = |asked: &[u8]| asked.iter().filter(|n| [3, 5].contains(*n)).count();
    assert_eq!((of_small(&asked[1..4]), of_small(&asked[1..])), (1, 2), "{asked:?}");
    let of_large: Vec<u8> = asked[1..].iter().copied().filter(|n| ![3, 5].contains(n)).collect();
    assert!(of_large.is_sorted(), "{of_large:?}");
}
