//! The controller on Open vSwitch, in namespaces of this test's own, switches connected by TLS.

use std::process::Command;

use crate::parties::PATIENCE;
use crate::place::Place;
use crate::process::{Process, claviger, eventually, run};

/// Every claim of the script holds, and nothing is left behind.
#[test]
fn a_network_of_open_vswitch_keeps_its_promises_with_netlab() {
    let before = interfaces();
    let script = include_str!("with_netlab.sh");
    let arguments = ["lab", "net", "run", "ring,4", "--tls", "--policy", "sensor", "--"];
    let ended = run(claviger(&arguments).args(["bash", "-c", script]));
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    let claims: Vec<&str> = ended.out.lines().filter(|line| !line.starts_with("cut of")).collect();
    assert!(claims.iter().all(|line| line.starts_with("ok ")), "{}\n{}", ended.out, ended.err);
    // As many as the script makes: none is passed over in silence.
    assert_eq!(claims.len(), script.matches("say ").count() + 3 + 1, "{}", ended.out);
    assert_eq!(interfaces(), before);
}

/// The network of the machine, which a lab must not touch.
fn interfaces() -> String {
    run(Command::new("ip").args(["-o", "link"])).out
}

/// A network stands until it is taken down, and its links are as bad as they were asked to be.
#[test]
fn a_network_stands_with_links_that_delay_until_it_is_taken_down_with_netlab() {
    let name = format!("e2e-{}", std::process::id());
    let net = |arguments: &[&str]| run(&mut claviger(&[&["lab", "net"], arguments].concat()));
    let link = ["--link", "delay=20ms", "--for", "60s", "--name", &name];
    let up = net(&[&["up", "tree,1,2"], &link[..]].concat());
    assert_eq!(up.code, Some(0), "{up:?}");
    assert!(up.out.contains("3 hosts"), "{up:?}");
    let again = net(&["up", "tree,1,2", "--name", &name]);
    assert!(again.err.contains("stands already"), "{again:?}");
    let ping = ["ip", "netns", "exec", "h1", "ping", "-c", "3", "10.67.0.1"];
    let pinged = net(&[&["exec", &name, "--"], &ping[..]].concat());
    assert_eq!(pinged.code, Some(0), "{pinged:?}");
    // There and back; the gateway has a cable.
    let least = pinged.out.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let least: f64 = least.and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
    assert!((40.0..60.0).contains(&least), "{pinged:?}");
    let down = net(&["down", &name]);
    assert_eq!(down.code, Some(0), "{down:?}");
    let gone = net(&["exec", &name, "--", "true"]);
    assert!(gone.err.contains("no network"), "{gone:?}");
}

/// Figure 2c has a live part, counted below TCP, which is made again from what was counted.
#[test]
fn figure_2c_is_measured_with_netlab() {
    let place = Place::new();
    let scratch = place.scratch("figures");
    let folder = |name: &str| scratch.join(name).display().to_string();
    let (config, small) = (folder("small.toml"), small_figure_2c());
    std::fs::write(&config, &small).unwrap();
    let made = |out: &str, live: &str| {
        let arguments = ["lab", "fig2c", "--quick", "--config", &config, "--live", live, "--out"];
        let ended = run(claviger(&arguments).arg(out));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let sheet = |name: &str| std::fs::read_to_string(format!("{out}/{name}.csv")).unwrap();
        [sheet("fig2c-devices"), sheet("fig2c-live"), sheet("fig2c")]
    };
    let (first, second) = (folder("first"), folder("second"));
    let counted = made(&first, "always");
    let rows: Vec<Vec<&str>> = counted[0]
        .lines()
        .filter(|line| line.starts_with("namespaces,"))
        .map(|line| line.split(',').collect())
        .collect();
    let hosts: Vec<_> = rows.iter().map(|row| (row[1], row[2])).collect();
    assert_eq!(
        hosts,
        [("https", "h1"), ("dkg", "h2"), ("https", "h3"), ("dkg", "h4")],
        "{}",
        counted[0]
    );
    for row in &rows {
        let number = |n: usize| row[n].parse::<f64>().unwrap();
        let [wakes, keys, readings, latency, median, frames] = [3, 4, 5, 6, 7, 8].map(number);
        assert!((2.0..=5.0).contains(&wakes) && (2.0..=5.0).contains(&readings), "{row:?}");
        assert!((keys - wakes).abs() <= 1.0, "{row:?}");
        assert!(median < 1000.0 && number(10) < 1.0, "{row:?}");
        assert!(frames > 20.0 * wakes, "{row:?}");
        // Twelve or fourteen messages of 1 ms at least, and no wake is taken for another.
        assert!((12.0..4000.0).contains(&latency), "{row:?}");
    }
    for claim in ["packets, live", "loss below TCP, live", "live, median", "live, mean"] {
        let page = std::fs::read_to_string(format!("{first}/fig2c.html")).unwrap();
        assert!(page.contains(claim), "{claim}");
    }
    assert_eq!(made(&second, &format!("{first}/fig2c-devices.csv")), counted);
    std::fs::write(&config, small.replace("delay_ms = 2.0", "delay_ms = 3.0")).unwrap();
    let arguments = ["lab", "fig2c", "--quick", "--config", &config, "--live"];
    let refused =
        run(claviger(&arguments).args([&format!("{first}/fig2c-devices.csv"), "--out", &second]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("another scenario"), "{refused:?}");
}

/// Figure 2c with a live part that takes a minute.
fn small_figure_2c() -> String {
    let mut small = include_str!("../../../lab/figures/fig2c.toml").to_owned();
    for (from, to) in [
        ("[\"namespaces\", \"mininet\"]", "[\"namespaces\"]"),
        ("tree,2,6", "tree,1,5"),
        ("wake_s = 10\n", "wake_s = 5\n"),
        ("length_s = 300", "length_s = 20"),
    ] {
        assert!(small.contains(from), "{from}");
        small = small.replace(from, to);
    }
    small
}

/// Whoever kills the figure ends the network on which it is measured.
#[test]
fn a_killed_figure_leaves_no_network_with_netlab() {
    let place = Place::new();
    let scratch = place.scratch("figures");
    let config = scratch.join("small.toml");
    std::fs::write(&config, small_figure_2c()).unwrap();
    let seed = 1_000_000 + u64::from(std::process::id());
    let mut command = claviger(&["lab", "fig2c", "--quick", "--live", "always", "--config"]);
    command.arg(&config).arg("--out").arg(scratch.join("out"));
    let mut figure =
        Process::start(&place.logs(), "figure", command.args(["--seed", &seed.to_string()]));
    // No other network has these seeds.
    let mark = format!("net inside .*link-seed {} ", (seed << 16) + (1 << 13));
    let is_running = || run(Command::new("pgrep").args(["-f", "--", &mark])).code == Some(0);
    eventually("the network", PATIENCE, || is_running().then_some(()));
    figure.kill();
    eventually("its end", PATIENCE, || (!is_running()).then_some(()));
}

/// Whoever is killed leaves nothing: neither the network nor what was running inside.
#[test]
fn a_killed_network_leaves_nothing_with_netlab() {
    let place = Place::new();
    let mark = format!("6{:07}", std::process::id());
    let arguments = ["lab", "net", "run", "tree,1,1", "--", "sleep", &mark];
    let mut lab = Process::start(&place.logs(), "lab", &mut claviger(&arguments));
    let is_running = || {
        let found = run(Command::new("pgrep").args(["-f", &format!("^sleep {mark}$")]));
        found.code == Some(0)
    };
    eventually("the command inside", PATIENCE, || is_running().then_some(()));
    lab.kill();
    eventually("its end", PATIENCE, || (!is_running()).then_some(()));
}
