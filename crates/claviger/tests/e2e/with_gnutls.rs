//! A client that makes no ephemeral key at all: `gnutls-cli` with a pre-shared key, which nobody here wrote.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion};
use claviger_net::handshake::client_work;

use crate::bytes::{contains, hex};
use crate::network::{Network, Role};
use crate::parties::{Operator, OurDevice, PATIENCE};
use crate::place::Place;
use crate::process::eventually;
use crate::tap::Tap;

#[test]
fn a_client_without_key_shares_does_no_public_key_work_with_gnutls() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let mut network = Network::with_frozen_keys(
        &place,
        &[Role::Platform, Role::Gateway, Role::Controller, Role::Lan],
        30,
    );
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    device.first_key();

    for (version, priority) in [
        (PskVersion::Tls13, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+PSK:-GROUP-ALL"),
        (PskVersion::Tls12, "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+PSK"),
    ] {
        let tap = Tap::before(place.ports().gateway_psk);
        let identity = PskIdentity { eui: device.eui, epoch: Epoch::new(0), version };
        let key = hex(device.first_secret().pre_shared_key(version).expose());
        let mut client = Command::new("gnutls-cli")
            .args(["127.0.0.1", "--port", &tap.address.port().to_string()])
            .args(["--priority", priority, "--pskusername", &identity.to_string()])
            .args(["--pskkey", &key, "--no-ca-verification"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let question = format!(
            "GET /v1/devices/{}/key?have=0 HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n",
            device.eui
        );
        // Its input stays open until the gateway has answered and closed.
        let mut input = client.stdin.take().unwrap();
        input.write_all(question.as_bytes()).unwrap();
        let mut told = Vec::new();
        client.stdout.take().unwrap().read_to_end(&mut told).unwrap();
        client.wait().unwrap();
        assert!(contains(&told, b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&told));

        let heard = tap.heard();
        let is_hello = |bytes: &&Vec<u8>| bytes.get(5) == Some(&1);
        let sent = heard.iter().find(is_hello).unwrap();
        let received = heard.iter().find(|bytes| bytes.get(5) == Some(&2)).unwrap();
        let work = client_work(sent, received, 0).unwrap();
        assert_eq!(work.total(), 0, "{version:?}: {work:?}");
    }
    network.assert_all_run();
}
