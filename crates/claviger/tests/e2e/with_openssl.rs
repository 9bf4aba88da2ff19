//! The key service for pre-shared keys with `openssl s_client`, which nobody here wrote.

use std::io::Write as _;
use std::process::{Command, Stdio};

use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion, key_frame};

use crate::bytes::hex;
use crate::network::{Network, Role};
use crate::parties::{Operator, OurDevice, PATIENCE};
use crate::place::Place;
use crate::process::eventually;

/// Asks for a key on a connection of `s_client`; returns what came back, and whether it said it was well.
fn ask(place: &Place, device: &OurDevice, options: &[&str], identity: &str, key: &[u8]) -> Vec<u8> {
    let address = place.ports().gateway_psk.to_string();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &address, "-psk", &hex(key)])
        .args(["-psk_identity", identity])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let question = format!(
        "GET /v1/devices/{}/key?have=0 HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n",
        device.eui
    );
    // A connection that was refused takes no question.
    drop(client.stdin.as_mut().unwrap().write_all(question.as_bytes()));
    client.wait_with_output().unwrap().stdout
}

#[test]
fn a_key_comes_by_either_version_and_only_with_the_right_secret_with_openssl() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let mut network = Network::with_frozen_keys(
        &place,
        &[Role::Platform, Role::Gateway, Role::Controller, Role::Lan],
        30,
    );
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    let known = device.first_key();

    let secret = device.first_secret();
    let named =
        |version| PskIdentity { eui: device.eui, epoch: Epoch::new(0), version }.to_string();
    for (version, options) in [
        (PskVersion::Tls12, &["-tls1_2"][..]),
        (PskVersion::Tls13, &["-tls1_3"]),
        (PskVersion::Tls13, &["-tls1_3", "-allow_no_dhe_kex"]),
    ] {
        let key = secret.pre_shared_key(version);
        let answer = ask(&place, &device, options, &named(version), key.expose());
        let (head, frame) = split(&answer).unwrap_or_else(|| panic!("{options:?}: {answer:?}"));
        assert!(head.starts_with("HTTP/1.1 200"), "{options:?}: {head}");
        let (epoch, qkd) = key_frame::open(&secret, Epoch::new(0), frame).unwrap();
        assert!(epoch == known.epoch && qkd.ct_eq(&known.qkd), "the same frame by every path");

        let other =
            if version == PskVersion::Tls12 { PskVersion::Tls13 } else { PskVersion::Tls12 };
        for (identity, key) in [
            (named(version), secret.pre_shared_key(other)),
            (named(other), secret.pre_shared_key(other)),
            (named(version).replace(":0:", ":7:"), secret.pre_shared_key(version)),
            ("02ffffffffffffff:0:12".to_owned(), secret.pre_shared_key(version)),
            ("nobody".to_owned(), secret.pre_shared_key(version)),
        ] {
            let refused = ask(&place, &device, options, &identity, key.expose());
            assert_eq!(refused, b"", "{identity} by {options:?}");
        }
    }
    network.assert_all_run();
}

/// Splits an answer into its head and its body.
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]))
}
