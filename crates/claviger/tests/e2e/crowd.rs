//! Whoever is silent, garbled, a stranger or one too many disturbs nobody else.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use claviger_net::mqtt::{Access, Client, ConnectError};
use claviger_net::tls;

use crate::parties::{App, Operator, OurDevice, PATIENCE, authority};
use crate::place::Place;
use crate::process::eventually;
use crate::up::summary;

/// The start of a TLS handshake whose rest never comes.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];

/// Opens twenty connections to a port: half of them silent, the others with noise.
fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    // The last one knows how our own links greet.
    let says: [&[u8]; 5] = [
        b"GET / HTTP/1.0\r\n\r\n",
        &[0xFF; 4096],
        HALF_A_HELLO,
        &[0; 100],
        b"claviger\0\0\0\x05hello",
    ];
    let open = |n: usize| {
        let mut stream = TcpStream::connect(address).ok()?;
        if n % 2 == 1 {
            stream.write_all(says[n / 2 % says.len()]).ok()?;
        }
        Some(stream)
    };
    (0..20).filter_map(open).collect()
}

#[test]
fn strangers_at_every_port_neither_delay_nor_break_anything() {
    let place = Place::new();
    let quick = ["--devices", "6", "--renew", "3s", "--simulated-speed", "10", "--json"];
    let mut up = place.up(&[&quick[..], &["--for", "16s"]].concat());
    eventually("a state folder", PATIENCE, || {
        place.layout().is_complete().is_ok_and(|whole| whole).then_some(())
    });
    App::a(&place).get_soon(1);
    let ports = place.ports();
    let listeners = [
        ports.kme_a,
        ports.kme_b,
        ports.gateway_keys,
        ports.gateway_mqtt,
        ports.platform,
        ports.platform_mqtt,
        ports.platform_records,
        ports.kme_records,
        ports.classical,
        ports.node_a,
        ports.node_b,
        ports.light_a,
        ports.light_b,
    ];
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    let mut waves = 0;
    while up.ended().is_none() {
        let crowds: Vec<_> = listeners.into_iter().map(crowd).collect();
        if crowds.iter().any(|crowd| crowd.len() < 20) {
            break; // the run is about to end
        }
        let begun = Instant::now();
        let served = App::a(&place).get(1);
        assert!(begun.elapsed() < Duration::from_secs(2), "a key took {:?}", begun.elapsed());
        let read = operator.readings(0);
        let forged = device.ask("/v1/devices/02005efffe100001/key?have=1", None);
        log_in_with_a_wrong_key(&place);
        if up.ended().is_none() && served.is_ok() && read.is_some() && forged.is_some() {
            waves += 1;
        }
        std::thread::sleep(Duration::from_millis(500)); // the crowd stays a while
    }
    assert!(waves >= 5, "only {waves} crowds came through");
    let ended = up.wait(PATIENCE);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let summary = summary(&ended);
    assert_eq!(summary["readings_sent"], summary["readings_decrypted"], "{summary}");
    assert_eq!(summary["violations"], 0, "{summary}");
    // The last refusals may be under way when the run ends.
    assert!(summary["refusals"].as_u64().unwrap() + 2 >= waves, "{waves} crowds: {summary}");
}

/// Tries to log in as a device that is there, under its client id, and must not displace it.
fn log_in_with_a_wrong_key(place: &Place) {
    let (port, eui) = (place.ports().gateway_mqtt.port(), "02005efffe100001");
    let access = Access::plain("localhost", port, eui, eui, "AAAA")
        .over_tls(tls::client_anonymous(&authority(place)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(Client::connect(&access)) {
        Ok(_) => panic!("a wrong password opens the broker"),
        Err(ConnectError::Refused(_)) => {}
        Err(error) => assert!(matches!(error, ConnectError::Unreachable(_)), "{error}"),
    }
}
