//! The controller, and all of Claviger, under Mininet, which nobody here wrote.

use crate::process::{claviger, run};

/// Every host of a tree of nine switches reaches every other.
#[test]
fn all_pairs_of_a_tree_reach_each_other_with_mininet() {
    let ended = run(&mut claviger(&["lab", "mininet", "tree,2,8"]));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    assert!(ended.out.contains("0 of 4032 pings lost"), "{}\n{}", ended.out, ended.err);
    assert!(ended.err.contains("9 switches, 64 hosts"), "{}", ended.err);
}

/// Gateway, platform and devices are hosts, and the platform reads every device.
#[test]
fn a_fleet_on_hosts_is_read_with_mininet() {
    let counts = "sleep 2; cat $CLAVIGER_STATE/links.json";
    let arguments = ["lab", "mininet", "tree,2,3", "--fleet", "--link", "wifi"];
    let ended = run(claviger(&arguments).args(["--", "sh", "-c", counts]));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    assert!(ended.err.contains("7 devices on hosts of their own"), "{}", ended.err);
    // Every host but the gateway has a link, over which its frames went.
    let links: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let links = links.as_object().unwrap();
    let expected: Vec<String> = (2..=9).map(|n| format!("h{n}")).collect();
    assert_eq!(links.keys().cloned().collect::<Vec<_>>(), expected, "{}", ended.out);
    assert!(links.values().all(|link| link["arrived"].as_u64().unwrap() > 20), "{}", ended.out);
}
