//! IDQ3P: the behaviour of `WIRE.md` §1 and the retransmissions of `PROTOCOL.md` P2.

use std::num::NonZeroU64;

use claviger_durable::EngineError;
use claviger_units::{Bits, Site, Span};
use claviger_wire::idq3p::{DatagramError, Request, Response, Status, Wanted};

use super::world::{ORDER, SIMULATED, World, request};
use crate::{DatagramDeclined, Event, Interface};

const ALICE: &str = "127.0.0.1:40001";
const BOB: &str = "127.0.0.1:40002";

fn by_id(response: &Response) -> Wanted {
    Wanted::Id(NonZeroU64::new(response.key_id).unwrap())
}

/// A key that Alice has got, with its notice at B.
fn key_of_alice(world: &mut World) -> Response {
    let response = world.ask(Site::A, ALICE, &request(Wanted::New, 32, 1));
    assert_eq!(response.status, Status::Success);
    world.settle();
    response
}

#[test]
fn alice_asks_anew_and_bob_by_id() {
    let mut world = World::with_keys(64);
    for length in [32, 1, 16] {
        let ours = request(Wanted::New, length, length.into());
        let at_a = world.ask(Site::A, ALICE, &ours);
        assert_eq!((at_a.status, at_a.length), (Status::Success, length));
        assert_eq!((at_a.request_id, at_a.device), (ours.request_id, 1));
        world.settle();
        let at_b = world.ask(Site::B, BOB, &request(by_id(&at_a), length, 9));
        assert_eq!((at_b.status, at_b.key_id), (Status::Success, at_a.key_id));
        let (one, other) = (at_a.key().unwrap(), at_b.key().unwrap());
        assert!(one.ct_eq(&other) && one.len() == usize::from(length));
    }
}

/// `WIRE.md` §1: the real unit answers the same id again and again; ours must not.
#[test]
fn a_key_is_given_to_bob_once() {
    let mut world = World::with_keys(64);
    let at_a = key_of_alice(&mut world);
    let first = world.ask(Site::B, BOB, &request(by_id(&at_a), 32, 1));
    let second = world.ask(Site::B, BOB, &request(by_id(&at_a), 32, 2));
    assert_eq!((first.status, second.status), (Status::Success, Status::UnknownKey));
    assert!(second.key().is_none());
}

#[test]
fn alice_drains_the_buffer_until_no_more_keys() {
    let mut world = World::with_keys(16);
    let mut got = 0;
    while world.ask(Site::A, ALICE, &request(Wanted::New, 32, got)).status == Status::Success {
        world.settle();
        got += 1;
    }
    let last = world.ask(Site::A, ALICE, &request(Wanted::New, 32, 99));
    assert_eq!((last.status, last.key_id), (Status::NoMoreKeys, 0));
    assert!((8..16).contains(&got), "A's share of 16 keys is most of them, not {got}");
}

/// `WIRE.md` §1: nothing spent in any of these.
#[test]
fn impossible_requests_spend_nothing() {
    let mut world = World::with_keys(64);
    let at_a = key_of_alice(&mut world);
    let unknown = Wanted::Id(NonZeroU64::new(7).unwrap());
    let foreign = Request { device: 2, ..request(Wanted::New, 32, 1) };
    let before = (world.a.state().0, world.b.state().0);
    for (site, asked, status) in [
        (Site::A, request(Wanted::New, 0, 1), Status::WrongLength),
        (Site::A, request(Wanted::New, 33, 1), Status::WrongLength),
        (Site::A, request(Wanted::New, 255, 1), Status::WrongLength),
        (Site::A, foreign, Status::InvalidRequest),
        (Site::A, Request { device: 0, ..foreign }, Status::InvalidRequest),
        (Site::B, Request { wanted: by_id(&at_a), ..foreign }, Status::InvalidRequest),
        (Site::B, request(unknown, 32, 1), Status::UnknownKey),
        (Site::B, request(by_id(&at_a), 31, 1), Status::WrongLength),
        (Site::B, request(by_id(&at_a), 0, 1), Status::WrongLength),
        (Site::A, request(by_id(&at_a), 32, 2), Status::UnknownKey),
    ] {
        let answer = world.ask(site, BOB, &asked);
        assert_eq!(answer.status, status, "{asked:?}");
        assert_eq!((answer.key_id, answer.length), (asked.wanted.number(), asked.length));
        assert!(answer.key.expose().iter().all(|&octet| octet == 0), "{asked:?}");
    }
    assert_eq!((world.a.state().0, world.b.state().0), before);
    assert_eq!(world.ask(Site::B, BOB, &request(by_id(&at_a), 32, 1)).status, Status::Success);
}

#[test]
fn damaged_datagrams_are_counted_and_not_answered() {
    let mut world = World::with_keys(64);
    let good = request(Wanted::New, 32, 1).encode(ORDER);
    let before = world.a.state();
    let mut flipped = good.clone();
    flipped[9] ^= 1;
    let response = request(Wanted::New, 32, 1).refused(Status::NoMoreKeys).encode(ORDER);
    let mut typed = good.clone();
    typed[0] = 1;
    for (bytes, error) in [
        (&good[..28], DatagramError::Length(28)),
        (&[][..], DatagramError::Length(0)),
        (response.expose(), DatagramError::Length(62)),
        (&typed, DatagramError::Type(1)),
        (&flipped, DatagramError::Checksum),
    ] {
        match world.datagram(Site::A, ALICE, bytes) {
            Err(DatagramDeclined::Dropped(dropped)) => assert_eq!(dropped, error),
            other => panic!("{bytes:?} led to {other:?}"),
        }
    }
    let counters = world.a.kme.counters();
    assert_eq!((counters.wrong_length, counters.wrong_type, counters.wrong_checksum), (3, 1, 1));
    assert_eq!(world.a.state(), before);
    assert_eq!(world.a.events(), []);
}

/// `PROTOCOL.md` P2, Retry: same address and port and all 29 bytes, within 2 s, at most 3 answers.
#[test]
fn a_retransmission_gets_the_same_answer_twice_more() {
    let mut world = World::with_keys(64);
    let asked = request(Wanted::New, 32, 1);
    let first = world.ask(Site::A, ALICE, &asked).key_id;
    world.now = world.now + Span::from_secs(2);
    let again =
        [world.ask(Site::A, ALICE, &asked).key_id, world.ask(Site::A, ALICE, &asked).key_id];
    assert_eq!(again, [first; 2]);
    assert_eq!(world.a.kme.counters().repeated, 2);
    assert_ne!(world.ask(Site::A, ALICE, &asked).key_id, first);
}

#[test]
fn what_differs_in_anything_is_a_new_request() {
    for (source, number, later) in [
        ("127.0.0.1:40009", 1, Span::ZERO),
        (ALICE, 2, Span::ZERO),
        (ALICE, 1, Span::from_millis(2001)),
    ] {
        let mut world = World::with_keys(64);
        let first = world.ask(Site::A, ALICE, &request(Wanted::New, 32, 1)).key_id;
        world.now = world.now + later;
        let second = world.ask(Site::A, source, &request(Wanted::New, 32, number)).key_id;
        assert_ne!(first, second, "{source} {number} {later}");
    }
}

#[test]
fn kept_answers_are_wiped_after_two_seconds() {
    let mut world = World::with_keys(64);
    assert_eq!(world.a.kme.poll_timeout(), None);
    key_of_alice(&mut world);
    let end = world.a.kme.poll_timeout().unwrap();
    assert!(end > world.now + Span::from_secs(2));
    world.a.kme.handle_timeout(end);
    assert_eq!(world.a.kme.poll_timeout(), None);
}

#[test]
fn an_id_that_the_notice_has_not_reached_waits_and_then_succeeds() {
    let mut world = World::with_keys(64);
    let at_a = world.ask(Site::A, ALICE, &request(Wanted::New, 32, 1));
    let asked = request(by_id(&at_a), 32, 2);
    match world.datagram(Site::B, BOB, &asked.encode(ORDER)) {
        Err(DatagramDeclined::Pending { last, .. }) => {
            let late = Response::decode(last.expose(), ORDER).unwrap();
            assert_eq!(late.status, Status::NoMoreKeys);
        }
        other => panic!("not pending: {other:?}"),
    }
    assert_eq!(world.b.events(), []);
    world.settle();
    assert_eq!(world.ask(Site::B, BOB, &asked).status, Status::Success);
}

/// The client repeats while the first datagram still waits: one key is spent, not two.
#[test]
fn a_retransmission_of_a_waiting_request_gets_the_same_key() {
    let mut world = World::with_keys(64);
    let at_a = world.ask(Site::A, ALICE, &request(Wanted::New, 32, 1));
    let asked = request(by_id(&at_a), 32, 2);
    for _ in 0..2 {
        let waiting = world.datagram(Site::B, BOB, &asked.encode(ORDER));
        assert!(matches!(waiting, Err(DatagramDeclined::Pending { .. })), "{waiting:?}");
    }
    world.settle();
    let answers = [world.ask(Site::B, BOB, &asked), world.ask(Site::B, BOB, &asked)];
    assert!(answers.iter().all(|answer| answer.key.ct_eq(&at_a.key)));
    assert_eq!(world.b.kme.counters().repeated, 1);
}

/// A key that waits in both buffers does not exist for Bob: he cannot draw keys by guessing ids.
#[test]
fn a_key_that_nobody_was_handed_cannot_be_fetched() {
    let mut world = World::empty();
    let waiting = world.add_block(16, SIMULATED);
    let before = (world.a.state().0, world.b.state().0);
    for id in waiting {
        let asked = request(Wanted::Id(NonZeroU64::new(id.low64()).unwrap()), 32, 1).encode(ORDER);
        let first = world.datagram(Site::B, BOB, &asked);
        let Err(DatagramDeclined::Pending { inquiry, .. }) = first else {
            panic!("{id} led to {first:?}");
        };
        world.settle();
        match world.datagram_again(Site::B, BOB, &asked, inquiry) {
            Err(DatagramDeclined::Refused(answer)) => {
                let answer = Response::decode(answer.expose(), ORDER).unwrap();
                assert_eq!(answer.status, Status::UnknownKey, "{id}");
            }
            other => panic!("{id} led to {other:?}"),
        }
    }
    assert_eq!((world.a.state().0, world.b.state().0), before);
}

#[test]
fn without_the_peer_nothing_is_promised() {
    let mut world = World::with_keys(64);
    let at_a = world.ask(Site::A, ALICE, &request(Wanted::New, 32, 1));
    world.disconnect();
    let asked = request(by_id(&at_a), 32, 2);
    assert_eq!(world.ask(Site::B, BOB, &asked).status, Status::NoMoreKeys);
    world.connect();
    assert_eq!(world.ask(Site::B, BOB, &asked).status, Status::Success);
}

/// `PROTOCOL.md` P2: one key, one life, whichever interface asks.
#[test]
fn a_key_has_one_life_over_both_interfaces() {
    let mut world = World::with_keys(64);
    let at_a = key_of_alice(&mut world);
    let [Event::HandedOut { interface: Interface::Idq3p, ids, size, .. }] = &*world.a.events()
    else {
        panic!("one hand-out by IDQ3P")
    };
    assert_eq!((ids[0].low64(), *size), (at_a.key_id, Bits::KEY));
    let copy = world.dec_keys(Site::B, ("platform", "gateway"), ids).unwrap();
    assert!(copy.keys[0].key.ct_eq(&at_a.key().unwrap()));
    world.b.events();
    assert_eq!(world.ask(Site::B, BOB, &request(by_id(&at_a), 32, 1)).status, Status::UnknownKey);
    let refused = Event::DeviceRefused { device: 1, status: Status::UnknownKey };
    assert_eq!(world.b.events(), [refused]);
}

/// A key handed out for others is as good as unknown to this device.
#[test]
fn a_key_for_another_slave_does_not_exist() {
    let mut world = World::with_keys(64);
    let other = world.enc_keys(Site::A, ("gateway", "archive"), "").unwrap();
    world.settle();
    let id = Wanted::Id(NonZeroU64::new(other.keys[0].id.low64()).unwrap());
    assert_eq!(world.ask(Site::B, BOB, &request(id, 32, 1)).status, Status::UnknownKey);
    let fetched = world.dec_keys(Site::B, ("archive", "gateway"), &[other.keys[0].id]);
    assert_eq!(fetched.unwrap().keys.len(), 1);
}

#[test]
fn a_dying_disk_spends_no_answer() {
    let mut world = World::with_keys(64);
    let asked = request(Wanted::New, 32, 1).encode(ORDER);
    world.a.engine.die_after(0);
    match world.datagram(Site::A, ALICE, &asked) {
        Err(DatagramDeclined::Store(EngineError::Died)) => {}
        other => panic!("the disk is dead, but: {other:?}"),
    }
    assert_eq!(world.a.kme.poll_timeout(), None);
    assert_eq!(world.a.events(), []);
}
