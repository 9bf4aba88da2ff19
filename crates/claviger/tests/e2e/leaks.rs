//! No issued key lies in clear anywhere: not in a log line, not in a file, not on the classical
//! channel.

use std::collections::BTreeSet;
use std::fs;

use claviger_durable::{Engine as _, EngineError, Table};
use claviger_frames::{DataKeys, split_bootstrap};
use claviger_store::SqliteStore;

use crate::network::{Network, Role};
use crate::parties::{App, Operator, OurDevice, PATIENCE, StoredReading};
use crate::place::{Place, utf8};
use crate::process::{claviger, eventually, run};
use crate::search::Search;
use crate::tap::Tap;

/// Draws keys in both directions and through both interfaces, and learns them all.
fn issue(place: &Place, search: &mut Search) {
    let (a, b) = (App::a(place), App::b(place));
    for (master, slave) in [(&a, &b), (&b, &a)] {
        for round in 0..6 {
            for granted in master.get_soon(1 + round % 3) {
                search.add(&format!("key {}", granted.id), granted.key.expose());
                // Every other one is left to wait for its slave.
                if round % 2 == 0 {
                    let copy = eventually("the copy", PATIENCE, || slave.fetch(granted.id).ok());
                    assert!(copy.key.ct_eq(&granted.key));
                }
            }
        }
    }
    let state = place.state();
    for _ in 0..3 {
        let got = run(&mut claviger(&["key", "extract", "--state", utf8(&state)]));
        assert_eq!(got.code, Some(0), "{got:?}");
        let digits = got.out.lines().find_map(|line| line.strip_prefix("key     ")).unwrap();
        search.add("a key by IDQ3P", &crate::bytes::from_hex(digits));
    }
}

/// Lets a device of ours get a key, and learns everything that is derived from it.
fn adopt(place: &Place, search: &mut Search) {
    let (operator, device) = (Operator::of(place), OurDevice::new(place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    let key = device.first_key();
    let (root, first) = split_bootstrap(&device.bootstrap);
    let data = DataKeys::derive(&root, &key.secret, device.eui, key.epoch);
    for (name, key) in [
        ("the bootstrap key", &device.bootstrap),
        ("the device root", root.as_key()),
        ("the first gateway secret", first.as_key()),
        ("the device's key of the link", &key.qkd),
        ("the second gateway secret", key.secret.as_key()),
        ("the uplink key", data.up()),
        ("the downlink key", data.down()),
    ] {
        search.add(name, key.expose());
    }
}

/// Learns the keys that still wait in the buffer of a site whose entity does not run.
fn open_buffer(place: &Place, kme: &str, search: &mut Search) -> usize {
    let folder = place.layout().folder(kme);
    let (database, key) = (folder.join("store.db"), folder.join("store.key"));
    let mut store = SqliteStore::open(&database, &key).unwrap();
    let mut rows = Vec::new();
    for table in ["key_bytes", "held_bytes"] {
        let read =
            store.transact::<_, EngineError>(|tx| tx.scan(Table::secret(table), &[], &[], 10_000));
        rows.extend(read.unwrap());
    }
    for (n, (_, key)) in rows.iter().enumerate() {
        search.add(&format!("key {n} in the buffer of {kme}"), key.expose());
    }
    rows.len()
}

fn assert_clean(place: &Place, search: &Search, when: &str) {
    let mut searched = 0;
    for folder in [place.state(), place.logs()] {
        let (found, length) = search.in_folder(&folder);
        assert_eq!(found, [] as [String; 0], "{when}");
        searched += length;
    }
    assert!(searched > 1_000_000, "there were only {searched} bytes to search");
}

#[test]
fn no_key_in_any_file_any_log_or_the_classical_channel() {
    let place = Place::new();
    let quick = ["--simulated-speed", "10", "--devices", "3", "--renew", "2s"];
    place.init(&[&quick[..], &["--danger-idq3p"]].concat());
    let tap = Tap::before(place.ports().classical);
    let bob = place.layout().config("site-b/qkd");
    let text = fs::read_to_string(&bob).unwrap();
    let tapped = text.replace(&place.ports().classical.to_string(), &tap.address.to_string());
    assert_ne!(text, tapped, "Bob's configuration names Alice's address");
    fs::write(&bob, tapped).unwrap();

    let mut search = Search::default();
    let mut network = Network::start(&place, &Role::ALL);
    issue(&place, &mut search);
    adopt(&place, &mut search);
    let operator = Operator::of(&place);
    eventually("readings", PATIENCE, || operator.readings(0).filter(|all| all.len() >= 6));
    assert_clean(&place, &search, "while the roles run");

    // A sudden end leaves the logs of the databases behind.
    network.assert_all_run();
    Role::ALL.into_iter().for_each(|role| network.kill(role));
    assert_clean(&place, &search, "after a sudden end");

    let waiting = ["site-a/kme", "site-b/kme"].map(|kme| open_buffer(&place, kme, &mut search));
    assert!(waiting.iter().all(|keys| *keys > 50), "{waiting:?} keys wait in the buffers");
    assert!(search.len() > 1000, "{} forms of keys", search.len());
    assert_clean(&place, &search, "with the keys that wait in the buffers");
    let heard = tap.heard();
    let length: usize = heard.iter().map(Vec::len).sum();
    assert!(length > 100_000, "only {length} bytes were heard on the classical channel");
    for way in &heard {
        assert_eq!(search.in_bytes("the classical channel", way), [] as [String; 0]);
    }
}

#[test]
fn no_key_in_what_a_whole_run_leaves() {
    let place = Place::new();
    let quick = ["--simulated-speed", "10", "--devices", "3", "--renew", "2s", "-vv"];
    let mut up = place.up(&quick);
    eventually("a state folder", PATIENCE, || {
        place.layout().is_complete().is_ok_and(|whole| whole).then_some(())
    });
    let mut search = Search::default();
    issue(&place, &mut search);
    adopt(&place, &mut search);
    let operator = Operator::of(&place);
    eventually("a reading of each device", PATIENCE, || {
        let heard =
            |all: &[StoredReading]| all.iter().map(|r| &r.eui).collect::<BTreeSet<_>>().len();
        operator.readings(0).filter(|all| heard(all) == 3)
    });
    assert_clean(&place, &search, "while it runs");
    let ended = up.terminate();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for kme in ["site-a/kme", "site-b/kme"] {
        open_buffer(&place, kme, &mut search);
    }
    assert_clean(&place, &search, "after a clean end");
}
