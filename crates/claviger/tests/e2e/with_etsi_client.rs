//! ETSI GS QKD 014 with the Python client `etsi-qkd-014-client`, which nobody here wrote.

use std::process::Command;

use serde_json::{Value, json};

use crate::parties::{App, PATIENCE};
use crate::place::{Place, utf8};
use crate::process::{eventually, python, run};

/// Prints what the client made of each answer, as one JSON object.
const SCRIPT: &str = r#"
import json, sys
from etsi_qkd_014_client import QKD014Client

def client(port, folder):
    files = [folder + "/" + name for name in ("identity.pem", "identity.key", "ca.pem")]
    return QKD014Client("localhost:" + port, *files)

def pairs(container):
    return [[key.key_id, key.key] for key in container.keys]

port_a, folder_a, port_b, folder_b = sys.argv[1:]
a, b = client(port_a, folder_a), client(port_b, folder_b)
code, status = a.get_status("app-b")
told = {"status": [code, vars(status)]}
code, one = a.get_key("app-b")
told["one"] = [code, pairs(one)]
code, copy = b.get_key_with_key_IDs("app-a", [one.keys[0].key_id])
told["copy"] = [code, pairs(copy)]
code, many = a.get_key("app-b", number=3, size=512)
told["many"] = [code, pairs(many)]
code, copies = b.get_key_with_key_IDs("app-a", [key.key_id for key in many.keys])
told["copies"] = [code, pairs(copies)]
code, error = b.get_key_with_key_IDs("app-a", [one.keys[0].key_id])
told["again"] = [code, error.message]
code, error = a.get_key("nobody")
told["nobody"] = [code, error.message]
code, error = a.get_key("app-b", extension_mandatory=[{"colour": "blue"}])
told["extension"] = [code, error.message]
print(json.dumps(told))
"#;

#[test]
fn the_same_keys_at_both_sites() {
    let place = Place::new();
    let _up = place.up(&["--devices", "2", "--renew", "5s", "--simulated-speed", "10"]);
    eventually("a state folder", PATIENCE, || {
        place.layout().is_complete().is_ok_and(|whole| whole).then_some(())
    });
    let app = App::a(&place);
    eventually("keys", PATIENCE, || app.stored().filter(|stored| *stored > 20));

    let ports = [place.ports().kme_a, place.ports().kme_b].map(|kme| kme.port().to_string());
    let folders = ["site-a/app", "site-b/app"].map(|folder| place.layout().folder(folder));
    let told = run(Command::new(python()).args(["-c", SCRIPT]).args([
        &ports[0],
        utf8(&folders[0]),
        &ports[1],
        utf8(&folders[1]),
    ]));
    assert_eq!(told.code, Some(0), "{told:?}");
    let told: Value = serde_json::from_str(&told.out).unwrap();

    assert_eq!(told["status"][0], 200, "{told}");
    assert_eq!(told["status"][1]["source_kme_id"], "kme-a", "{told}");
    assert_eq!(told["status"][1]["key_size"], 256, "{told}");
    assert_eq!(told["one"][0], 200, "{told}");
    assert_eq!(told["one"][1][0][1].as_str().unwrap().len(), 44, "{told}");
    assert_eq!(told["copy"], told["one"], "{told}");
    assert_eq!(told["many"][0], 200, "{told}");
    assert_eq!(told["many"][1].as_array().unwrap().len(), 3, "{told}");
    assert_eq!(told["copies"], told["many"], "{told}");
    let not_found = "one or more keys specified are not found on KME";
    assert_eq!(told["again"], json!([400, not_found]), "{told}");
    assert_eq!(told["nobody"][0], 400, "{told}");
    let unsupported = "not all extension_mandatory parameters are supported";
    assert_eq!(told["extension"], json!([400, unsupported]), "{told}");
}
