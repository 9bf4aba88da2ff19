//! What is forged, garbled or truncated gets no key, and costs none.

use std::net::UdpSocket;
use std::time::Duration;

use claviger_frames::{
    DataKeys, DeviceRoot, Epoch, EpochKeys, Reading, split_bootstrap, telemetry,
};
use claviger_net::http::Answer;
use claviger_net::mqtt::{Access, Client};
use claviger_net::tls;
use claviger_units::{Eui64, Timestamp};

use crate::bytes::crc;
use crate::network::{Network, Role};
use crate::parties::{App, DeviceKey, Operator, OurDevice, PATIENCE, authority};
use crate::place::{Place, utf8};
use crate::process::{claviger, eventually, run};

/// A request for a new key by IDQ3P (`WIRE.md` §1).
fn request(length: u8, number: u32, device: u8) -> Vec<u8> {
    let head = [&[0; 9][..], &[length], &number.to_le_bytes(), &[device], &[0; 10]].concat();
    [&head[..], &crc(&head).to_be_bytes()].concat()
}

#[test]
fn malformed_datagrams_get_no_answer_and_spend_nothing() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--danger-idq3p"]);
    let mut network = Network::with_frozen_keys(&place, &[], 30);
    let app = App::a(&place);
    let stored = app.stored().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(place.ports().idq3p_a).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let receive = || {
        let mut buffer = [0; 2048];
        socket.recv(&mut buffer).map(|length| buffer[..length].to_vec())
    };

    let good = |number| request(32, number, 1);
    let mut wrong_sum = good(1);
    wrong_sum[28] ^= 1;
    let mut answer_type = good(2);
    answer_type[0] = 1;
    let sum = crc(&answer_type[..25]).to_be_bytes();
    answer_type[25..].copy_from_slice(&sum);
    let mut malformed: Vec<Vec<u8>> = (0..29).map(|length| good(3)[..length].to_vec()).collect();
    malformed.extend([[&good(4)[..], &[0]].concat(), wrong_sum, answer_type]);
    malformed.extend([vec![0; 29], vec![0xFF; 62], vec![0x55; 9000]]);
    for datagram in &malformed {
        socket.send(datagram).unwrap();
    }
    // Well-formed but impossible: told so, and nothing is spent either.
    for (number, length, device, status) in
        [(10, 0, 1, 3), (11, 33, 1, 3), (12, 32, 0, 4), (13, 32, 13, 4), (14, 32, 2, 4)]
    {
        socket.send(&request(length, number, device)).unwrap();
        let answer = receive().unwrap();
        assert_eq!((answer.len(), answer[0], answer[14]), (62, 1, status), "request {number}");
        assert_eq!(answer[10..14], number.to_le_bytes(), "an answer to something malformed");
        assert_eq!(answer[15..47], [0; 32], "no key beside a refusal");
    }
    assert_eq!(app.stored(), Some(stored), "a bad datagram has spent a key");

    socket.send(&good(20)).unwrap();
    let answer = receive().unwrap();
    assert_eq!((answer[10], answer[14], answer[15..47] != [0; 32]), (20, 0, true));
    // The same datagram again within two seconds is the same request.
    socket.send(&good(20)).unwrap();
    assert_eq!(receive().unwrap(), answer);
    assert_eq!(app.stored(), Some(stored - 1));
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(receive().is_err(), "there was one answer more than there were good requests");
    network.assert_all_run();
}

#[test]
fn extraction_without_authentication_is_off_unless_asked_for() {
    let place = Place::new();
    place.init(&[]);
    let mut network = Network::start(&place, &[Role::KmeA]);
    eventually("the KME", PATIENCE, || App::a(&place).stored());
    // Bound here, so nowhere else.
    UdpSocket::bind(place.ports().idq3p_a).unwrap();
    let state = place.state();
    let ended = run(&mut claviger(&["key", "extract", "--state", utf8(&state)]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("IDQ3P is off at site A"), "{ended:?}");
    network.assert_all_run();
}

/// Status, body and headers of an answer, but for its date.
fn shown(answer: &Answer) -> (u16, Vec<u8>, Vec<String>) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let headers = headers.map(|header| format!("{header:?}")).collect();
    (answer.status.as_u16(), answer.body.expose().to_vec(), headers)
}

#[test]
fn forged_key_requests_all_get_the_same_401_and_spend_nothing() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let mut network = Network::with_frozen_keys(
        &place,
        &[Role::Platform, Role::Gateway, Role::Controller, Role::Lan],
        30,
    );
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    let key = device.first_key();
    let ports = place.ports();
    let buffers = [
        App::of(&place, "site-a/gateway", ports.kme_a, "platform"),
        App::of(&place, "site-b/platform", ports.kme_b, "gateway"),
    ];
    let stored = || buffers.each_ref().map(|app| app.stored().unwrap());
    let before = stored();

    let (first, none) = (Epoch::new(0), device.first_secret());
    let own = format!("/v1/devices/{}/key?have=0", device.eui);
    let stranger = "/v1/devices/02005efffe100001/key?have=0".to_owned();
    let sign = |epoch, path: &str| none.request_authorization(epoch, path);
    let genuine = sign(first, &own);
    let (front, mac) = genuine.split_once("mac=").unwrap();
    let (first_digit, rest) = mac.split_at(1);
    let flipped = format!("{}{rest}", if first_digit == "A" { "B" } else { "A" });
    let forged = [
        (own.clone(), None),
        (own.clone(), Some(String::new())),
        (own.clone(), Some("Bearer of_good_news".to_owned())),
        (own.clone(), Some(format!("{front}mac={}", "A".repeat(43)))),
        (own.clone(), Some(format!("{front}mac={flipped}"))),
        (own.clone(), Some(format!("{front}mac=?"))),
        (own.clone(), Some(sign(Epoch::new(7), &own))),
        (own.clone(), Some(sign(first, &stranger))),
        (own.clone(), Some(sign(first, &own.replace("have=0", "have=1")))),
        (own.clone(), Some(key.secret.request_authorization(Epoch::new(9), &own))),
        (stranger.clone(), Some(sign(first, &stranger))),
        (stranger, None),
        ("/v1/devices/nobody/key?have=0".to_owned(), Some(genuine.clone())),
    ];
    let mut answers = Vec::new();
    for (path, authorization) in &forged {
        let answer = device.ask(path, authorization.as_deref()).unwrap();
        assert_eq!(answer.status.as_u16(), 401, "{path} with {authorization:?}");
        answers.push(shown(&answer));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert!(String::from_utf8_lossy(&answers[0].1).contains("message"));
    assert_eq!(stored(), before, "a forged request has spent a key");

    // The device itself gets its frame as before, byte for byte.
    let frame = device.ask(&own, Some(&genuine)).unwrap();
    assert_eq!(frame.status.as_u16(), 200);
    assert_eq!(stored(), before, "a repeated request has spent a key");
    network.assert_all_run();
}

/// Publishes as a device, and waits until the gateway has the frame.
fn publish(place: &Place, eui: Eui64, password: &str, frame: Vec<u8>) {
    let (port, name) = (place.ports().gateway_mqtt.port(), eui.to_string());
    let access = Access::plain("localhost", port, &name, &name, password)
        .over_tls(tls::client_anonymous(&authority(place)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _inbox) = Client::connect(&access).await.unwrap();
        client.publish(&format!("claviger/v1/{eui}/up"), frame.into()).await.unwrap();
        client.disconnect().await;
    });
}

#[test]
fn forged_repeated_and_cloned_telemetry_is_not_stored() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--devices", "2", "--renew", "2s"]);
    let network = Network::start(&place, &Role::ALL);
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    let DeviceKey { epoch, secret, .. } = device.first_key();
    let (eui, password) = (device.eui, secret.mqtt_password(device.eui));
    let root = split_bootstrap(&device.bootstrap).0;
    let genuine = DataKeys::derive(&root, &secret, eui, epoch);
    // All that a gateway has: the secret of the epoch, but not the root.
    let guessed = DeviceRoot::from_key(secret.as_key().duplicate());
    let forged = DataKeys::derive(&guessed, &secret, eui, epoch);
    let neighbour: Eui64 = "02005efffe100001".parse().unwrap();
    let next = Epoch::new(epoch.number() + 1);
    let seal = |keys, eui, epoch, counter, light_lux| {
        let (temperature_centi_c, humidity_permille, battery_mv) = (2137, 431, 2950);
        let taken = Timestamp::from_micros(1_700_000_000_000_000);
        let reading =
            Reading { temperature_centi_c, humidity_permille, light_lux, battery_mv, taken };
        telemetry::seal(keys, eui, epoch, counter, &reading.encode()).unwrap()
    };

    let frame = seal(&genuine, eui, epoch, 0, 100);
    let mut flipped = frame.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let attempts = [
        (seal(&forged, eui, epoch, 0, 101), "does not verify"),
        (seal(&genuine, neighbour, epoch, 0, 102), "does not verify"),
        (seal(&genuine, eui, next, 0, 103), "is not held"),
        (flipped, "does not verify"),
        (frame[..frame.len() - 1].to_vec(), "not"),
        (b"no frame".to_vec(), "not a telemetry frame"),
        (frame.clone(), ""),
        (frame, ""),
        (seal(&genuine, eui, epoch, 1, 104), ""),
        (seal(&genuine, eui, epoch, 1, 105), "the device is cloned"),
        (seal(&genuine, eui, epoch, 2, 106), "the device is quarantined"),
    ];
    for (frame, refusal) in attempts {
        let told = |network: &Network<'_>| {
            let log = network.log(Role::Platform);
            log.lines()
                .filter(|line| line.contains(&*eui.to_string()) && line.contains(refusal))
                .count()
        };
        let before = told(&network);
        publish(&place, eui, &password, frame);
        if !refusal.is_empty() {
            eventually(refusal, PATIENCE, || (told(&network) > before).then_some(()));
        }
    }
    let stored = |eui: Eui64| {
        let all = eventually("the readings", PATIENCE, || operator.readings(0));
        all.into_iter().filter(|reading| reading.eui == eui.to_string()).collect::<Vec<_>>()
    };
    let places: Vec<_> = stored(eui).iter().map(|r| (r.epoch, r.counter)).collect();
    assert_eq!(places, [(epoch.number(), 0), (epoch.number(), 1)]);
    // The others are heard as before.
    let before = stored(neighbour).len();
    eventually("a neighbour", PATIENCE, || (stored(neighbour).len() > before + 1).then_some(()));
}
