//! The other ways to a key frame: pre-shared keys, CoAP with OSCORE, and frames that are pushed.

use claviger_fleet::{GatewayEvent, KeyAnswer};
use claviger_frames::{Epoch, PskIdentity, PskVersion};
use claviger_oscore::Context;
use claviger_oscore::key_service::{self, Answer, Side as End};
use claviger_units::Key256;
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};

use crate::world::{Fate, PREPARE_AFTER, Side, World};

const ONE: Epoch = Epoch::new(1);

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

fn ask_by_key(world: &mut World, have: &str, identity: &str) -> KeyAnswer {
    let eui = world.devices[0].eui.to_string();
    let answer = world.at_gateway(|g, tx, now, _| {
        Ok(g.handle_proven_request(tx, now, &eui, Some(have), identity)?)
    });
    answer.unwrap()
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
    let KeyAnswer::Frame(frame) = ask_by_key(&mut world, "0", &own) else { panic!() };
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
    assert!(key_of(&mut world, &own, PskVersion::Tls12).is_none(), "epoch 0 is over");
    assert_eq!(ask_by_key(&mut world, "0", &own), KeyAnswer::Denied);
    assert_eq!(world.at_gateway(|g, tx, _, _| Ok(g.ready_frame(tx, eui)?)).unwrap(), None);
}

/// The device's end of OSCORE.
fn device_end(world: &World) -> Context {
    let device = &world.devices[0];
    key_service::context(End::Device, &device.secret, device.eui, device.epoch)
}

fn send(world: &mut World, datagram: &[u8]) -> Option<Packet> {
    let answer = world.at_gateway(|g, tx, now, _| Ok(g.handle_coap(tx, now, datagram)?)).unwrap();
    answer.map(|bytes| Packet::from_bytes(&bytes).unwrap())
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
    // A ping gets a reset; noise, answers and empty acknowledgements get nothing.
    assert_eq!(send(&mut world, &[0x40, 0, 1, 2]).unwrap().to_bytes().unwrap(), [0x70, 0, 1, 2]);
    for noise in [&[][..], &[0x40], &[0x60, 0, 1, 2], &[0x60, 0x45, 1, 2], &[0xFF; 40]] {
        assert_eq!(send(&mut world, noise), None, "{noise:?}");
    }
    assert!(world.ask(0).is_some(), "the device is served as before");
}
