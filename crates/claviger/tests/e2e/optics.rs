//! The optical switch of `claviger up --spare-fibre`: the controller moves the quantum channel away from
//! an eavesdropper, and from a fibre that is cut.

use std::time::Duration;

use crate::parties::{PATIENCE, put_channel_as};
use crate::place::{Place, utf8};
use crate::process::{claviger, eventually, run};
use crate::up::summary;

const LENGTH: Duration = Duration::from_secs(90);

#[test]
fn the_channel_leaves_an_eavesdropper_and_the_link_resumes() {
    let place = Place::new();
    let quick = ["--devices", "2", "--renew", "4s", "--simulated-speed", "10", "--json"];
    let spare = ["--spare-fibre", "city", "--eve", "1", "--for", "30s"];
    let ended = place.up(&[&quick[..], &spare].concat()).wait(LENGTH);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let summary = summary(&ended);
    assert_eq!((&summary["fibre"], &summary["channel_moves"]), (&"city".into(), &1.into()));
    assert!(summary["blocks_dropped"].as_u64().unwrap() >= 1, "{summary}");
    assert!(summary["blocks_kept"].as_u64().unwrap() >= 1, "{summary}");
    assert!(summary["qber"].as_f64().unwrap() < 0.05, "{summary}");
}

#[test]
fn the_channel_leaves_a_fibre_that_is_cut_and_an_operator_moves_it_back() {
    let place = Place::new();
    let quick = ["--devices", "1", "--renew", "5s", "--simulated-speed", "10"];
    let up = place.up(&[&quick[..], &["--spare-fibre", "city"]].concat());
    let state = place.state();
    let sdn = |arguments: &[&str]| {
        run(&mut claviger(&[&["sdn"], arguments, &["--state", utf8(&state)]].concat()))
    };
    eventually("the first fibre", PATIENCE, || {
        let ended = sdn(&["channel"]);
        let is_there = ended.out.lines().any(|line| {
            line.starts_with("lab") && line.contains("light") && line.ends_with("quantum channel")
        });
        (is_there && ended.err.is_empty()).then_some(())
    });
    let cut = ["link", "cut", "lab", "--on", utf8(&state), "--for", "3s"];
    let ended = run(&mut claviger(&cut));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let events = sdn(&["events"]).out;
    let moved = "quantum channel moved from lab to city: there is no light in it";
    assert!(events.contains(moved), "{events}");
    // Whoever admits devices does not move the channel.
    assert_eq!(put_channel_as(&place, "site-b/platform", "lab"), Some(401));
    let unknown = sdn(&["channel", "--to", "moon"]);
    assert!(unknown.err.contains("there is no fibre moon"), "{unknown:?}");
    // The fibre is mended a moment after its time.
    eventually("the first fibre again", PATIENCE, || {
        let back = sdn(&["channel", "--to", "lab"]);
        back.out
            .lines()
            .any(|line| line.starts_with("lab") && line.ends_with("quantum channel"))
            .then_some(())
    });
    eventually("a block after it", PATIENCE, || up.out().contains("kept").then_some(()));
    let wrong = run(&mut claviger(&["link", "cut", "moon", "--on", utf8(&state)]));
    assert!(wrong.err.contains("there is lab, city"), "{wrong:?}");
}
