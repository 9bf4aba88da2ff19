//! `claviger up`: the whole chain in one process, judged by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::parties::{App, Operator, PATIENCE, StoredReading};
use crate::place::Place;
use crate::process::{Ended, eventually};

const LENGTH: Duration = Duration::from_secs(60);

/// Returns the last line, which is the summary.
pub(crate) fn summary(ended: &Ended) -> Value {
    serde_json::from_str(ended.out.lines().last().unwrap()).unwrap()
}

#[test]
fn ends_with_zero_and_with_the_figures_of_a_good_run() {
    let place = Place::new();
    let paths = "https,psk12,psk13_ke,psk13_dhe,oscore,push";
    let quick = ["--renew", "4s", "--simulated-speed", "5", "--json", "--keys-by", paths];
    let ended = place.up(&[&["--devices", "6", "--for", "18s"], &quick[..]].concat()).wait(LENGTH);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.out.lines().count(), 1, "with --json the summary stands alone");
    let summary = summary(&ended);
    let number = |name: &str| summary[name].as_f64().unwrap();
    for (name, value) in [("devices", 6.0), ("keyed", 6.0), ("violations", 0.0)] {
        assert!((number(name) - value).abs() < 0.5, "{name} in {summary}");
    }
    assert_eq!(summary["readings_sent"], summary["readings_decrypted"], "{summary}");
    assert!(number("readings_sent") >= 12.0, "{summary}");
    // Six devices and their adoption at the least.
    assert!(number("keys_delivered") >= 7.0, "{summary}");
    assert!(number("first_reading_s") < 15.0, "{summary}");
    let off = number("secret_bit_s") / number("theory_bit_s") - 1.0;
    assert!(off.abs() < 0.1, "{off} away from theory in {summary}");
    assert!((0.005..0.03).contains(&number("qber")), "{summary}");
    assert_eq!(summary["simulated"], Value::Bool(true), "{summary}");
    assert!(ended.err.contains("(simulated"), "{}", ended.err);
    assert!(!place.state().join("run.json").exists(), "nobody runs any more");
    every_path_was_counted(&summary);
}

/// What each path takes: handshakes of at most what `PHYSICS.md` §5 measured, but for what is named here.
fn every_path_was_counted(summary: &Value) {
    let paths = summary["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 6, "{summary}");
    for (path, handshake, bytes, operations) in [
        // The leaf has names and is signed by an authority. OpenSSL makes a share for `psk13_ke` too.
        ("https", 900.0..1250.0, 1200.0..1700.0, 4.0),
        ("psk12", 250.0..537.0, 500.0..786.0, 0.0),
        ("psk13_ke", 300.0..534.0, 600.0..900.0, 1.0),
        ("psk13_dhe", 350.0..639.0, 700.0..1000.0, 2.0),
        ("oscore", 0.0..1.0, 90.0..100.0, 0.0),
        // With the subscription, where the frame came on its heels.
        ("push", 0.0..1.0, 60.0..330.0, 0.0),
    ] {
        let found = paths.iter().find(|found| found["path"] == path).unwrap();
        let number = |name: &str| found[name].as_f64().unwrap();
        assert!(handshake.contains(&number("handshake_bytes")), "{found}");
        assert!(bytes.contains(&number("bytes")), "{found}");
        assert_eq!(found["public_key_operations"], operations, "{found}");
    }
}

/// A docked device takes key after key out of its pad.
#[test]
fn a_docked_device_gets_its_keys_without_a_byte_on_the_air() {
    let place = Place::new();
    let few = ["--devices", "2", "--renew", "2s", "--simulated-speed", "20", "--pad-keys", "4"];
    let few = [&few[..], &["--keys-by", "pad"]].concat();
    let ended = place.up(&[&few[..], &["--json", "--for", "25s"]].concat()).wait(LENGTH);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let summary = summary(&ended);
    let of = |path: &str| {
        let paths = summary["paths"].as_array().unwrap();
        paths.iter().find(|found| found["path"] == path).cloned().unwrap_or_default()
    };
    let by_pad = of("pad");
    for what in ["bytes", "handshake_bytes", "public_key_operations"] {
        assert_eq!(by_pad[what], 0.0, "{summary}");
    }
    // More than one pad of four keys each: they were used up and followed by others.
    assert!(by_pad["keys"].as_u64().unwrap() > 4, "{summary}");
    assert_eq!(summary["readings_sent"], summary["readings_decrypted"], "{summary}");
    assert_eq!(summary["violations"], 0, "{summary}");
}

#[test]
fn goes_on_after_a_sudden_end_and_ends_when_asked() {
    let place = Place::new();
    let quick = ["--devices", "3", "--renew", "3s", "--simulated-speed", "10"];
    let mut first = place.up(&quick);
    let operator = eventually("the operator", PATIENCE, || {
        place.layout().is_complete().is_ok_and(|whole| whole).then(|| Operator::of(&place))
    });
    let euis = |all: &[StoredReading]| all.iter().map(|r| r.eui.clone()).collect::<BTreeSet<_>>();
    eventually("all devices", PATIENCE, || operator.readings(0).filter(|a| euis(a).len() == 3));
    first.kill();
    let mut second = place.up(&quick);
    let before = eventually("the old readings", PATIENCE, || operator.readings(0));
    assert_eq!(euis(&before).len(), 3, "{before:?}");
    assert!(before.iter().all(|reading| reading.key_origin == "simulated"), "{before:?}");
    let keys = App::a(&place).get_soon(2);
    assert!(keys.iter().all(|granted| granted.origin.as_deref() == Some("simulated")));
    // Every device goes on: none begins anew, none is lost.
    for device in euis(&before) {
        let of = |readings: &[StoredReading]| {
            let own = readings.iter().filter(|reading| reading.eui == device);
            own.map(|reading| (reading.epoch, reading.counter)).max()
        };
        eventually("a later reading of each device", PATIENCE, || {
            operator.readings(0).filter(|readings| of(readings) > of(&before))
        });
    }
    let ended = second.terminate();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn an_eavesdropper_leaves_no_key_and_the_run_says_so() {
    let place = Place::new();
    let quick = ["--devices", "2", "--renew", "3s", "--simulated-speed", "20", "--json"];
    let ended = place.up(&[&quick[..], &["--eve", "0.5", "--for", "5s"]].concat()).wait(LENGTH);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let summary = summary(&ended);
    for (name, value) in [("keyed", 0), ("keys_delivered", 0), ("blocks_kept", 0)] {
        assert_eq!(summary[name], value, "{name} in {summary}");
    }
    assert!(summary["blocks_dropped"].as_u64().unwrap() > 0, "{summary}");
    let reasons = summary["reasons"].to_string();
    assert!(reasons.contains("the link gave no key"), "{reasons}");
    assert!(ended.err.contains("above the threshold"), "{}", ended.err);
}
