//! `claviger link attack --on`: an attack on a network that runs.

use std::fs;

use crate::parties::PATIENCE;
use crate::place::{Place, utf8};
use crate::process::{claviger, eventually, run};

/// Returns the outcomes of the blocks that have ended.
fn outcomes(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.state().join("ledger.csv")).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| line.rsplit(',').next().map(str::to_owned)).collect()
}

fn wait_for_kept(place: &Place, after: usize) {
    eventually("a kept block", PATIENCE, || {
        outcomes(place).iter().skip(after).any(|outcome| outcome == "kept").then_some(())
    });
}

#[test]
fn stops_the_link_for_its_time_and_the_link_recovers() {
    let place = Place::new();
    let up = place.up(&["--devices", "1", "--renew", "5s", "--simulated-speed", "10"]);
    wait_for_kept(&place, 0);
    let (state, file) = (place.state(), place.state().join("fibre/attack.toml"));
    let attack = ["link", "attack", "intercept-resend", "--on", utf8(&state), "--for", "4s"];
    let ended = run(&mut claviger(&attack));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in ["(lab, 4 dB, simulated)", "sampled error rate above the threshold", "noticed"] {
        assert!(ended.out.contains(part), "{part} is missing in {ended:?}");
    }
    assert!(!file.exists(), "the attack is taken away");
    wait_for_kept(&place, outcomes(&place).len());
    eventually("both ends of the attack in the lines of the run", PATIENCE, || {
        let out = up.out();
        let parts = ["under attack: intercept-resend 1", "the attack on the light is over"];
        parts.iter().all(|part| out.contains(part)).then_some(())
    });
}

#[test]
fn a_bad_file_is_told_and_ignored_and_an_old_one_has_no_effect() {
    let place = Place::new();
    let up = place.up(&["--devices", "1", "--renew", "5s", "--simulated-speed", "10"]);
    wait_for_kept(&place, 0);
    let file = place.state().join("fibre/attack.toml");
    fs::write(&file, "until_unix_s = 1.0\n[[attack]]\nname = \"blinding\"\nstrength = 1.0\n")
        .unwrap();
    // Two blocks take longer than the fibre's second between two looks.
    let before = outcomes(&place).len();
    wait_for_kept(&place, before + 1);
    fs::write(&file, "[[attack]]\nname = \"blinding\"\n").unwrap();
    eventually("a refusal", PATIENCE, || up.out().contains("mend or remove it").then_some(()));
    wait_for_kept(&place, outcomes(&place).len());
    let out = up.out();
    assert!(!out.contains("under attack"), "{out}");
    assert_eq!(out.matches("mend or remove it").count(), 1, "told once: {out}");
}
