//! Devices as their operator enrols them: labels in, measures, and the log of who did what.

use std::fs;

use crate::parties::PATIENCE;
use crate::place::{Place, utf8};
use crate::process::{Ended, claviger, eventually, run};

const FIRST: &str = "02:00:5e:10:00:01";
const UNPLUGGED: &str = "02:00:5e:20:00:09";

/// Labels of which none is good but the first, and what is wrong with each.
const WRONG: &str = "mac,bootstrap_key,policy
02:00:5e:20:00:01,000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f,sensor
02:00:5e:20:00:02,00,sensor
02:00:5e:20:00:01,000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f,sensor
";

#[test]
fn labels_come_in_whole_and_measures_are_taken_and_logged() {
    let place = Place::new();
    let up = place.up(&["--devices", "2", "--renew", "3s", "--simulated-speed", "10"]);
    let state = place.state();
    let sdn = |arguments: &[&str]| -> Ended {
        run(&mut claviger(&[&["sdn"], arguments, &["--state", utf8(&state)]].concat()))
    };
    let standing = |mac: &str| {
        let line = sdn(&["devices"]).out.lines().find(|line| line.starts_with(mac))?.to_owned();
        line.split_whitespace().nth(1).map(str::to_owned)
    };
    let policy = |mac: &str| {
        let line = sdn(&["hosts"]).out.lines().find(|line| line.starts_with(mac))?.to_owned();
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    // The first reading makes a device active; both were keyed by one order.
    eventually("two active devices", PATIENCE, || {
        (sdn(&["devices"]).out.matches("  active ").count() == 2).then_some(())
    });
    let orders = sdn(&["orders"]).out;
    assert!(orders.contains("2 first keys for 2 new devices"), "{orders}");

    let labels = place.logs().join("labels.csv");
    fs::write(&labels, WRONG).unwrap();
    let refused = sdn(&["import", utf8(&labels)]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("line 3") && refused.err.contains("line 4"), "{refused:?}");
    assert!(!refused.err.contains("0405060708"), "{refused:?}");
    assert_eq!(sdn(&["devices"]).out.lines().count(), 2);

    let good = WRONG.lines().take(2).collect::<Vec<_>>().join("\n");
    fs::write(&labels, good.replace("02:00:5e:20:00:01", UNPLUGGED)).unwrap();
    let imported = sdn(&["import", utf8(&labels)]);
    assert!(imported.out.starts_with("1 devices are enrolled"), "{imported:?}");
    // Who was never seen gets no key.
    let line = sdn(&["devices"]).out.lines().find(|l| l.starts_with(UNPLUGGED)).unwrap().to_owned();
    assert!(line.contains("not seen") && !line.contains("order"), "{line}");

    let early = sdn(&["suspend", UNPLUGGED]);
    assert!(early.err.contains("it takes no part yet"), "{early:?}");
    for (measure, after) in [
        ("suspend", "suspended"),
        ("resume", "active"),
        ("quarantine", "quarantined"),
        ("release", "active"),
    ] {
        let ended = sdn(&[measure, FIRST, "--why", "a drill"]);
        assert_eq!(ended.code, Some(0), "{measure}: {ended:?}");
        assert_eq!(standing(FIRST).as_deref(), Some(after), "{measure}");
        let expected = match after {
            "active" => "sensor",
            "suspended" => "unknown",
            other => other.trim_end_matches('d'),
        };
        // `quarantined` devices have the policy `quarantine`.
        eventually(after, PATIENCE, || {
            policy(FIRST).filter(|policy| policy.starts_with(expected)).map(drop)
        });
    }
    assert_eq!(sdn(&["retire", FIRST, "--why", "its last day"]).code, Some(0));
    let late = sdn(&["approve", FIRST]);
    assert_eq!(late.code, Some(1), "{late:?}");

    let audit = sdn(&["audit"]).out;
    let of_first: Vec<&str> = audit.lines().filter(|line| line.contains(FIRST)).collect();
    assert_eq!(of_first.iter().filter(|line| line.contains("a drill")).count(), 4, "{audit}");
    assert!(of_first.iter().any(|line| line.contains("its last day")), "{audit}");
    assert!(of_first.iter().any(|line| line.contains("operator")), "{audit}");
    drop(up);
}
