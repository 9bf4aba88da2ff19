//! What a device computes in each handshake of ours, read from the wire of live connections.
//!
//! To write the captures that a unit test keeps: `CLAVIGER_WRITE_CAPTURES=1 cargo test -p claviger-net
//! --test handshakes`

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use claviger_net::accept::Limits;
use claviger_net::handshake::client_work;
use claviger_net::listen;
use claviger_net::meter::Meter;
use claviger_net::pki::{Authority, DemoAuthority, Identity};
use claviger_net::psk::{self, Credentials, Keying, PskServer};
use claviger_net::shutdown::Shutdown;
use claviger_net::tls::{self, TlsServer};
use claviger_units::Key256;
use tokio::net::TcpListener;

async fn listening() -> (TcpListener, SocketAddr) {
    let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn parties() -> (Authority, Identity) {
    let demo = DemoAuthority::generate("test authority").unwrap();
    (demo.trust(), demo.issue("gateway", &[]).unwrap().identity())
}

#[tokio::test]
async fn each_handshake_takes_what_is_told_of_it() {
    tls::install_provider();
    let shutdown = Shutdown::new();
    let mut captures = String::new();
    let mut note = |name: &str, meter: &Meter, certificates, expected: [u32; 3]| {
        let (sent, received) = meter.first_bytes();
        let work = client_work(&sent, &received, certificates).unwrap();
        let counted = [work.key_generations, work.agreements, work.verifications];
        assert_eq!((counted, work.signatures), (expected, 0), "{name}");
        let [made, agreed, verified] = expected;
        write!(captures, "{name} {certificates} {made} {agreed} {verified}").unwrap();
        for bytes in [hellos(&sent), hellos(&received)] {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write!(captures, " {digits}").unwrap();
        }
        captures.push('\n');
    };

    let (authority, identity) = parties();
    let (listener, address) = listening().await;
    let server = TlsServer::new(tls::server_auth_only(&identity), Limits::STANDARD);
    let signal = shutdown.clone();
    tokio::spawn(async move { server.serve(listener, &signal, |_, _| async {}).await });
    for (name, config, expected) in [
        ("https", tls::client_constrained(&authority), [1, 1, 2]),
        ("https_hybrid", tls::client_anonymous(&authority), [3, 2, 2]),
    ] {
        let meter = Meter::new();
        let connected = tls::connect_metered("localhost", address.port(), config, meter.clone());
        let (_stream, certificates) = connected.await.unwrap();
        note(name, &meter, certificates, expected);
    }

    let (listener, address) = listening().await;
    let lookup = Arc::new(|_: &str, _| Some(Key256::from_bytes([1; 32])));
    let server = PskServer::new(lookup, Limits::STANDARD).unwrap();
    let signal = shutdown.clone();
    tokio::spawn(async move { server.serve(listener, &signal, |_, _| async {}).await });
    for (name, keying, expected) in [
        ("psk12", Keying::Tls12, [0, 0, 0]),
        // OpenSSL makes a share that this handshake has no use for.
        ("psk13_ke", Keying::Tls13, [1, 0, 0]),
        ("psk13_dhe", Keying::Tls13Ephemeral, [1, 1, 0]),
    ] {
        let shown = Credentials { identity: "device".into(), key: Key256::from_bytes([1; 32]) };
        let meter = Meter::new();
        psk::connect(address, keying, &Arc::new(shown), meter.clone()).await.unwrap();
        note(name, &meter, 0, expected);
    }
    shutdown.trigger();
    if std::env::var_os("CLAVIGER_WRITE_CAPTURES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/captures.txt"), captures)
            .unwrap();
    }
}

/// Returns the first record, which is the hello.
fn hellos(bytes: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    &bytes[..5 + length]
}
