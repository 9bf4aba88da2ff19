//! The key service by CoAP with OSCORE, asked by `aiocoap`, which nobody here wrote.

use std::process::Command;

use claviger_frames::{Epoch, EpochKeys, key_frame, oscore_id_context};

use crate::bytes::{from_hex, hex};
use crate::network::{Network, Role};
use crate::parties::{Operator, OurDevice, PATIENCE};
use crate::place::{Place, utf8};
use crate::process::{Ended, eventually, python, run};

/// Asks for `/k` under the security context in a folder, and prints code and payload.
const SCRIPT: &str = r#"
import asyncio, sys
import aiocoap
from aiocoap.oscore import FilesystemSecurityContext

async def main():
    port, folder, path = sys.argv[1:]
    protocol = await aiocoap.Context.create_client_context()
    server = "coap://127.0.0.1:" + port
    protocol.client_credentials[server + "/*"] = FilesystemSecurityContext(folder)
    request = aiocoap.Message(code=aiocoap.GET, uri=server + "/" + path)
    response = await asyncio.wait_for(protocol.request(request).response, 10)
    print(response.code.dotted, response.payload.hex())
    await protocol.shutdown()

asyncio.run(main())
"#;

/// Writes the security context of a device, as aiocoap reads it.
fn context(place: &Place, name: &str, secret: &[u8], id_context: &[u8]) -> std::path::PathBuf {
    let folder = place.scratch(name);
    let settings = format!(
        r#"{{"sender-id_hex": "01", "recipient-id_hex": "00", "secret_hex": "{}",
            "id-context_hex": "{}", "algorithm": "AES-CCM-16-64-128", "kdf-hashfun": "sha256"}}"#,
        hex(secret),
        hex(id_context),
    );
    std::fs::write(folder.join("settings.json"), settings).unwrap();
    folder
}

fn ask(place: &Place, folder: &std::path::Path, path: &str) -> Ended {
    let port = place.ports().gateway_coap.port().to_string();
    run(Command::new(python()).args(["-c", SCRIPT, &port, utf8(folder), path]))
}

#[test]
fn a_key_comes_by_coap_to_whom_it_belongs_with_aiocoap() {
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

    let (secret, none) = (device.first_secret(), Epoch::new(0));
    let (master, name) = (secret.oscore_master_secret(), oscore_id_context(device.eui, none));
    let own = context(&place, "own", master.expose(), &name);
    for round in 0..2 {
        let told = ask(&place, &own, "k");
        let payload = told.out.trim().strip_prefix("2.05 ").unwrap_or_else(|| panic!("{told:?}"));
        let (epoch, qkd) = key_frame::open(&secret, none, &from_hex(payload)).unwrap();
        assert!(epoch == known.epoch && qkd.ct_eq(&known.qkd), "round {round}");
    }
    assert_eq!(ask(&place, &own, "elsewhere").out.trim(), "4.04");

    let stranger = context(&place, "stranger", &[1; 32], &name);
    let unknown = oscore_id_context("02ffffffffffffff".parse().unwrap(), none);
    let nobody = context(&place, "nobody", master.expose(), &unknown);
    for folder in [stranger, nobody] {
        let told = ask(&place, &folder, "k");
        assert!(told.code != Some(0) || told.out.trim() == "4.01", "{told:?}");
    }
    // A counter that is rolled back in the device repeats a question: it gets nothing.
    let sequence = own.join("sequence.json");
    assert!(sequence.is_file());
    std::fs::remove_file(sequence).unwrap();
    let told = ask(&place, &own, "k");
    assert!(told.code != Some(0) || told.out.trim() == "4.01", "{told:?}");
    network.assert_all_run();
}
