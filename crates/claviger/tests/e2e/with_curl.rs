//! ETSI GS QKD 014 with curl, which nobody here wrote (`WIRE.md` §2).

use std::net::SocketAddr;
use std::path::Path;

use claviger_net::pki::DemoAuthority;
use serde_json::{Value, json};

use crate::network::{Network, Role};
use crate::parties::{App, PATIENCE, url};
use crate::place::{Place, utf8};
use crate::process::{claviger, eventually, run};

/// What curl got.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Value,
}

/// A caller with the certificate in a folder, at one KME.
struct Caller<'a> {
    place: &'a Place,
    folder: &'a str,
    kme: SocketAddr,
}

impl Caller<'_> {
    /// Asks for a path below `/api/v1/keys`.
    fn ask(&self, path: &str, more: &[&str]) -> Reply {
        let folder = self.place.layout().folder(self.folder);
        let file = |name: &str| utf8(&folder.join(name)).to_owned();
        let (ca, pem, key) = (file("ca.pem"), file("identity.pem"), file("identity.key"));
        let url = format!("{}/api/v1/keys/{path}", url(self.kme));
        let known = ["--cacert", &ca, "--cert", &pem, "--key", &key];
        let ended = curl(&[&known[..], more, &[&url]].concat());
        assert_eq!(ended.code, Some(0), "{path} {more:?}: {ended:?}");
        reply(&ended.out)
    }
}

fn curl(arguments: &[&str]) -> crate::process::Ended {
    let mut command = std::process::Command::new("curl");
    run(command.args(["-sS", "-i", "-m", "15", "-H", "Expect:"]).args(arguments))
}

fn reply(shown: &str) -> Reply {
    let (head, body) = shown.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
    Reply { status, head: head.to_ascii_lowercase(), body }
}

fn callers(place: &Place) -> [Caller<'_>; 2] {
    let ports = place.ports();
    [
        Caller { place, folder: "site-a/app", kme: ports.kme_a },
        Caller { place, folder: "site-b/app", kme: ports.kme_b },
    ]
}

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];
const NOT_FOUND: &str = "one or more keys specified are not found on KME";

#[test]
fn the_same_key_at_both_sites_once() {
    let place = Place::new();
    let _up = place.up(&["--devices", "2", "--renew", "5s", "--simulated-speed", "10"]);
    eventually("a state folder", PATIENCE, || {
        place.layout().is_complete().is_ok_and(|whole| whole).then_some(())
    });
    let app = App::a(&place);
    eventually("keys", PATIENCE, || app.stored().filter(|stored| *stored > 20));
    let [a, b] = callers(&place);

    let got = a.ask("app-b/enc_keys", &[]);
    assert_eq!(got.status, 200, "{got:?}");
    assert!(got.head.contains("cache-control: no-store"), "{got:?}");
    let key = &got.body["keys"][0];
    assert_eq!(key["key"].as_str().unwrap().len(), 44, "256 bits in base64");
    let told = json!({"claviger_origin": "simulated", "claviger_claim": "era-heuristic"});
    assert_eq!(key["key_extension"], told);
    let path = format!("app-a/dec_keys?key_ID={}", key["key_ID"].as_str().unwrap());
    let copy = b.ask(&path, &[]);
    assert_eq!((copy.status, &copy.body), (200, &got.body));
    let again = b.ask(&path, &[]);
    assert_eq!((again.status, &again.body["message"]), (400, &json!(NOT_FOUND)));

    let three = [&JSON[..], &["-d", r#"{"number": 3, "size": 512}"#]].concat();
    let got = a.ask("app-b/enc_keys", &three);
    let keys = got.body["keys"].as_array().unwrap();
    assert_eq!((got.status, keys.len()), (200, 3));
    assert!(keys.iter().all(|key| key["key"].as_str().unwrap().len() == 88), "512 bits");
    let ids: Vec<Value> = keys.iter().map(|key| json!({"key_ID": key["key_ID"]})).collect();
    let ids = json!({ "key_IDs": ids }).to_string();
    let copy = b.ask("app-a/dec_keys", &[&JSON[..], &["-d", &ids]].concat());
    assert_eq!((copy.status, &copy.body), (200, &got.body));

    // The other way round: B hands out what it owns, A has the copy.
    let got = b.ask("app-a/enc_keys?number=2", &[]);
    let id = got.body["keys"][1]["key_ID"].as_str().unwrap();
    let copy = a.ask(&format!("app-b/dec_keys?key_ID={id}"), &[]);
    assert_eq!((copy.status, &copy.body["keys"][0]), (200, &got.body["keys"][1]));

    let status = a.ask("app-b/status", &[]).body;
    for (name, value) in [
        ("source_KME_ID", json!("kme-a")),
        ("target_KME_ID", json!("kme-b")),
        ("master_SAE_ID", json!("app-a")),
        ("slave_SAE_ID", json!("app-b")),
        ("key_size", json!(256)),
        ("max_key_per_request", json!(128)),
    ] {
        assert_eq!(status[name], value, "{name} in {status}");
    }
    assert!(status["stored_key_count"].as_u64().unwrap() > 0, "{status}");
    for (name, value) in told.as_object().unwrap() {
        assert_eq!(&status["status_extension"][name], value, "{status}");
    }
}

/// Method and arguments, path, status, and a part of the message.
type BadRequest<'a> = (&'a [&'a str], &'a str, u16, &'a str);

const BAD_REQUESTS: &[BadRequest<'_>] = &[
    (&[], "app-b/enc_keyz", 404, "nothing at this path"),
    (&["-X", "DELETE"], "app-b/enc_keys", 405, "Allow"),
    (&["-X", "PUT", "-d", "{}"], "app-b/dec_keys", 405, "Allow"),
    (&["-H", "Content-Type: text/plain", "-d", "{}"], "app-b/enc_keys", 415, "application/json"),
    (&["-d", "number=1"], "app-b/enc_keys", 415, "application/json"),
    (&[], "%20/enc_keys", 400, "slave_SAE_ID"),
    (&[], "/enc_keys", 400, "slave_SAE_ID"),
    (&[], "nobody/enc_keys", 400, "slave_SAE_ID"),
    (&[], "app-a/enc_keys", 400, "two different SAEs"),
    (&[], "app-b/enc_keys?number=0", 400, "number shall be 1 to 128"),
    (&[], "app-b/enc_keys?number=129", 400, "number shall be 1 to 128"),
    (&[], "app-b/enc_keys?number=-1", 400, "number shall be"),
    (&[], "app-b/enc_keys?number=1.5", 400, "number shall be an integer"),
    (&[], "app-b/enc_keys?number=1&number=1", 400, "at most once"),
    (&[], "app-b/enc_keys?size=100", 400, "size shall be a multiple of 8"),
    (&[], "app-b/enc_keys?size=2048", 400, "size shall be 64 to 1024 bits"),
    (&[], "app-b/enc_keys?foo=1", 400, "only number and size"),
    (&["--json", "{"], "app-b/enc_keys", 400, "not JSON"),
    (&["--json", "[]"], "app-b/enc_keys", 400, ""),
    (&["--json", r#"{"number": "1"}"#], "app-b/enc_keys", 400, "number shall be an integer"),
    (
        &["--json", r#"{"extension_mandatory": [{"x": 1}]}"#],
        "app-b/enc_keys",
        400,
        "not all extension_mandatory parameters are supported",
    ),
    (&["--json", r#"{"extension_mandatory": {"x": 1}}"#], "app-b/enc_keys", 400, "array"),
    (&["--json", r#"{"additional_slave_SAE_IDs": ["app-b"]}"#], "app-b/enc_keys", 400, "twice"),
    (&["--json", r#"{"additional_slave_SAE_IDs": [" "]}"#], "app-b/enc_keys", 400, ""),
    (&[], "app-b/dec_keys", 400, "key_ID"),
    (&[], "app-b/dec_keys?key_ID=17", 400, ""),
    (&["--json", r#"{"key_IDs": []}"#], "app-b/dec_keys", 400, "1 to 128 ids"),
    (&["--json", "{}"], "app-b/dec_keys", 400, "key_IDs"),
    (&[], "app-b/dec_keys?key_ID=00000000-0000-4000-8000-000000000000", 400, NOT_FOUND),
    (&[], "nobody/dec_keys?key_ID=00000000-0000-4000-8000-000000000000", 400, "master_SAE_ID"),
];

#[test]
fn bad_requests_are_told_why_and_spend_nothing() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let mut network = Network::with_frozen_keys(&place, &[], 30);
    let (app, [a, _]) = (App::a(&place), callers(&place));
    let stored = app.stored().unwrap();

    for (arguments, path, status, message) in BAD_REQUESTS {
        let reply = a.ask(path, arguments);
        let what = format!("{path} {arguments:?} got {reply:?}");
        assert_eq!(reply.status, *status, "{what}");
        assert!(reply.body["message"].as_str().unwrap().contains(message), "{what}");
        assert!(reply.body.get("details").is_none_or(Value::is_array), "{what}");
        assert_eq!(reply.head.contains("\nallow: get, post\r"), *status == 405, "{what}");
    }
    let long = place.logs().join("long.json");
    std::fs::write(&long, format!(r#"{{"x": "{}"}}"#, "x".repeat(70_000))).unwrap();
    let reply = a.ask("app-b/enc_keys", &["--json", &format!("@{}", utf8(&long))]);
    assert_eq!(reply.status, 413, "{reply:?}");
    assert!(reply.body["message"].is_string(), "{reply:?}");
    let reply = a.ask("app-b/enc_keys", &["-H", &format!("X-Long: {}", "x".repeat(20_000))]);
    assert_eq!(reply.status, 431, "{reply:?}");
    assert!(reply.body["message"].is_string(), "{reply:?}");
    // The answer of a HEAD is thrown away, so it must not hold a key.
    assert_eq!(a.ask("app-b/enc_keys", &["--head"]).status, 405);

    assert_eq!(app.stored(), Some(stored), "a bad request has spent a key");
    network.assert_all_run();
    assert_eq!(app.get(1).unwrap().len(), 1);
    assert_eq!(app.stored(), Some(stored - 1));
    network.stop(Role::KmeA);
}

#[test]
fn only_whom_a_key_was_made_for_gets_it() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let _network = Network::with_frozen_keys(&place, &[], 30);
    let [a, b] = callers(&place);
    let ports = place.ports();
    let (platform, operator) = ("site-b/platform", "site-b/operator");
    let stranger = |folder| Caller { place: &place, folder, kme: ports.kme_b };

    let got = a.ask("app-b/enc_keys?number=2", &[]).body;
    let id = |n: usize| got["keys"][n]["key_ID"].as_str().unwrap();
    let path = format!("app-a/dec_keys?key_ID={}", id(0));
    for folder in [platform, operator] {
        let reply = stranger(folder).ask(&path, &[]);
        assert_eq!(reply.status, 401, "{folder}: {reply:?}");
        assert!(reply.body["message"].is_string(), "{reply:?}");
    }
    // One bad id among several: nothing leaves.
    let unknown = "00000000-0000-4000-8000-000000000000";
    let both = json!({"key_IDs": [{"key_ID": id(1)}, {"key_ID": unknown}]}).to_string();
    let reply = b.ask("app-a/dec_keys", &["--json", &both]);
    assert_eq!((reply.status, &reply.body["message"]), (400, &json!(NOT_FOUND)));
    let copies = json!({"key_IDs": [{"key_ID": id(1)}, {"key_ID": id(0)}]}).to_string();
    let reply = b.ask("app-a/dec_keys", &["--json", &copies]);
    assert_eq!(reply.status, 200, "{reply:?}");
    for copy in reply.body["keys"].as_array().unwrap() {
        assert!(got["keys"].as_array().unwrap().contains(copy), "{copy} is not in {got}");
    }
}

#[test]
fn nobody_without_a_certificate_of_the_site_is_heard() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let _network = Network::start(&place, &[Role::KmeA]);
    eventually("the KME", PATIENCE, || App::a(&place).stored());
    let folder = place.layout().folder("site-a/app");
    let ca = folder.join("ca.pem");
    let foreign = place.logs().join("foreign");
    let authority = DemoAuthority::generate("another authority").unwrap();
    authority.issue("app-a", &[]).unwrap().write(&foreign, "identity").unwrap();

    let url = format!("{}/api/v1/keys/app-b/status", url(place.ports().kme_a));
    let identity = |folder: &Path| ["identity.pem", "identity.key"].map(|name| folder.join(name));
    let ask = |more: &[&str]| curl(&[&["--cacert", utf8(&ca)], more, &[&url]].concat());
    let [pem, key] = identity(&folder);
    let known = ["--cert", utf8(&pem), "--key", utf8(&key)];
    assert_eq!(reply(&ask(&known).out).status, 200);
    let [pem, key] = identity(&foreign);
    for unknown in [&[][..], &["--cert", utf8(&pem), "--key", utf8(&key)]] {
        let ended = ask(unknown);
        assert!(ended.code != Some(0) && ended.out.is_empty(), "{ended:?}");
        assert!(ended.err.contains("alert"), "no word of the handshake in {ended:?}");
    }
    // The command line says the same with a hint, since it cannot reach anybody either.
    let unreachable = run(&mut claviger(&["key", "status", "--state", utf8(&foreign)]));
    assert_eq!(unreachable.code, Some(1), "{unreachable:?}");
}
