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
    let ended = run(&mut claviger(&["lab", "mininet", "tree,2,3", "--fleet", "--link", "wifi"]));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    assert!(ended.err.contains("7 devices on hosts of their own"), "{}", ended.err);
    // The links were counted over which all this went.
    let sent = ended.err.lines().find_map(|line| line.strip_prefix("links of hosts: "));
    let sent: u64 = sent.and_then(|line| line.split(' ').next()).unwrap().parse().unwrap();
    assert!(sent > 7 * 20, "{}", ended.err);
}

/// A command runs once inside, whatever it returns, and finds what the links of the hosts have carried.
#[test]
fn a_command_has_its_exit_code_with_mininet() {
    let command = "ping -c 3 10.0.0.2 >&2; sleep 2; cat $CLAVIGER_STATE/links.json; exit 75";
    let command = format!("nsenter --net=/run/netns/h3 sh -c '{command}'");
    let ended = run(claviger(&["lab", "mininet", "tree,1,3", "--link", "delay=20ms"])
        .args(["--", "sh", "-c", &command]));
    assert_eq!(ended.code, Some(75), "{}\n{}", ended.out, ended.err);
    let links: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let links = links.as_object().unwrap();
    // The first host has a cable.
    assert_eq!(links.keys().cloned().collect::<Vec<_>>(), ["h2", "h3"], "{}", ended.out);
    for link in links.values() {
        let count = |name: &str| link[name].as_u64().unwrap();
        assert!(count("arrived") >= 6 && count("lost") + count("crowded") == 0, "{}", ended.out);
        assert!(count("under_way_us") >= 20_000 * count("arrived"), "{}", ended.out);
    }
}
