//! Whole messages: those of RFC 8613 appendix C, and what an attacker may try.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, also in its helpers")]

use claviger_frames::ReplayWindow;
use claviger_oscore::{Context, Keying, OscoreError};
use coap_lite::{CoapOption, MessageClass, Packet, RequestType};
use proptest::prelude::*;

const SECRET: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const SALT: &str = "9e7ca92223786340";
const REQUEST: &str = "44025d1f00003974396c6f63616c686f7374620914ff612f1092f1776f1c1668b3825e";
const HELLO: &str = "64455d1f00003974ff48656c6c6f20576f726c6421";

fn hex(text: &str) -> Vec<u8> {
    let digit = |c: u8| u8::try_from(char::from(c).to_digit(16).unwrap()).unwrap();
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn packet(text: &str) -> Packet {
    Packet::from_bytes(&hex(text)).unwrap()
}

fn context(salt: &str, id_context: Option<&str>, own: &str, peer: &str, next: u32) -> Context {
    let id_context = id_context.map(hex);
    let keying = Keying {
        master_secret: &SECRET,
        master_salt: &hex(salt),
        id_context: id_context.as_deref(),
        own_id: &hex(own),
        peer_id: &hex(peer),
    };
    Context::derive(&keying).unwrap().resumed(next, ReplayWindow::new())
}

fn client() -> Context {
    context(SALT, None, "", "01", 20)
}

fn server() -> Context {
    context(SALT, None, "01", "", 0)
}

/// Appendix C.4 to C.6.
#[test]
fn requests_are_those_of_the_standard() {
    for (mut from, mut to, plain, protected) in [
        (client(), server(), "44015d1f00003974396c6f63616c686f737483747631", REQUEST),
        (
            context("", None, "00", "01", 20),
            context("", None, "01", "00", 0),
            "440171c30000b932396c6f63616c686f737483747631",
            "440271c30000b932396c6f63616c686f737463091400ff4ed339a5a379b0b8bc731fffb0",
        ),
        (
            context(SALT, Some("37cbf3210017a2d3"), "", "01", 20),
            context(SALT, Some("37cbf3210017a2d3"), "01", "", 0),
            "44012f8eef9bbf7a396c6f63616c686f737483747631",
            "44022f8eef9bbf7a396c6f63616c686f73746b19140837cbf3210017a2d3ff72cd7273fd331ac45cffbe55c3",
        ),
    ] {
        let (sent, asked) = from.protect_request(&packet(plain)).unwrap();
        assert_eq!(sent.to_bytes().unwrap(), hex(protected));
        let (heard, request) = to.open_request(&sent).unwrap();
        assert_eq!(heard.to_bytes().unwrap(), hex(plain));
        assert_eq!(asked, request);
        assert_eq!(from.next_sequence(), Some(21));
    }
}

/// Appendix C.7 and C.8.
#[test]
fn responses_are_those_of_the_standard() {
    let (mut client, mut server) = (client(), server());
    let (_, asked) =
        client.protect_request(&packet("44015d1f00003974396c6f63616c686f737483747631")).unwrap();
    let (_, request) = server.open_request(&packet(REQUEST)).unwrap();
    let own_nonce = server.protect_further_response(&packet(HELLO), &request).unwrap();
    let expected = "64445d1f00003974920100ff4d4c13669384b67354b2b6175ff4b8658c666a6cf88e";
    assert_eq!(own_nonce.to_bytes().unwrap(), hex(expected));
    let sent = server.protect_response(&packet(HELLO), request).unwrap();
    let expected = "64445d1f0000397490ffdbaad1e9a7e7b2a813d3c31524378303cdafae119106";
    assert_eq!(sent.to_bytes().unwrap(), hex(expected));
    for sent in [sent, own_nonce] {
        let heard = client.open_response(&sent, &asked).unwrap();
        assert_eq!(heard.to_bytes().unwrap(), hex(HELLO));
    }
}

#[test]
fn a_request_is_opened_once_and_by_its_own_context_alone() {
    let mut server = server();
    let sent = packet(REQUEST);
    assert!(server.open_request(&sent).is_ok());
    assert_eq!(server.open_request(&sent).unwrap_err(), OscoreError::Replayed);
    // After a restart the window says the same.
    let kept = server.window().clone();
    let mut again = self::server().resumed(0, kept);
    assert_eq!(again.open_request(&sent).unwrap_err(), OscoreError::Replayed);
    let mut other = context(SALT, None, "01", "02", 0);
    assert_eq!(other.open_request(&sent).unwrap_err(), OscoreError::UnknownContext);
    let mut other = context("00", None, "01", "", 0);
    assert_eq!(other.open_request(&sent).unwrap_err(), OscoreError::Forged);
    let plain = packet("44015d1f00003974396c6f63616c686f737483747631");
    assert_eq!(other.open_request(&plain).unwrap_err(), OscoreError::NotProtected);
}

#[test]
fn a_response_answers_the_request_that_was_asked() {
    let (mut client, mut server) = (client(), server());
    let mut question = Packet::new();
    question.header.code = MessageClass::Request(RequestType::Get);
    let (first, asked_first) = client.protect_request(&question).unwrap();
    let (_, asked_second) = client.protect_request(&question).unwrap();
    let (_, request) = server.open_request(&first).unwrap();
    let answer = server.protect_response(&packet(HELLO), request).unwrap();
    assert_eq!(client.open_response(&answer, &asked_second).unwrap_err(), OscoreError::Forged);
    assert!(client.open_response(&answer, &asked_first).is_ok());
}

#[test]
fn nothing_is_sent_without_a_sequence_number_and_nothing_that_is_not_carried() {
    let mut client = client().resumed(u32::MAX, ReplayWindow::new());
    let question = Packet::new();
    assert!(client.protect_request(&question).is_ok());
    assert_eq!(client.next_sequence(), None);
    assert_eq!(client.protect_request(&question).unwrap_err(), OscoreError::Exhausted);
    let mut observing = Packet::new();
    observing.add_option(CoapOption::Observe, vec![]);
    let mut client = self::client();
    assert_eq!(client.protect_request(&observing).unwrap_err(), OscoreError::Malformed);
    assert_eq!(client.next_sequence(), Some(20));
}

proptest! {
    #[test]
    fn an_altered_request_is_refused_and_the_true_one_still_opened(
        at in 0_usize..35, bit in 0_u8..8,
    ) {
        let mut server = server();
        let mut bytes = hex(REQUEST);
        bytes[at] ^= 1 << bit;
        // Header, token and options for proxies are not protected.
        if let Ok(altered) = Packet::from_bytes(&bytes) {
            let is_outside = at < 19;
            prop_assert!(is_outside || server.open_request(&altered).is_err(), "byte {}", at);
        }
        let opened = server.open_request(&packet(REQUEST));
        prop_assert!(opened.is_ok() || opened == Err(OscoreError::Replayed));
    }

    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut message = Packet::new();
        message.add_option(CoapOption::Oscore, noise.clone());
        message.payload.clone_from(&noise);
        prop_assert!(server().open_request(&message).is_err());
    }

    #[test]
    fn whatever_is_sent_is_heard(
        path in "[a-z]{0,20}", payload in proptest::collection::vec(any::<u8>(), 0..600),
        number in 0_u32..1_000_000,
    ) {
        let (mut client, mut server) = (client().resumed(number, ReplayWindow::new()), server());
        let mut question = Packet::new();
        question.header.code = MessageClass::Request(RequestType::Put);
        question.set_token(vec![1, 2]);
        question.add_option(CoapOption::UriPath, path.into_bytes());
        question.payload = payload;
        let (sent, _) = client.protect_request(&question).unwrap();
        let sent = Packet::from_bytes(&sent.to_bytes().unwrap()).unwrap();
        let (heard, _) = server.open_request(&sent).unwrap();
        prop_assert_eq!(heard.to_bytes().unwrap(), question.to_bytes().unwrap());
    }
}
