//! A seed makes a run reproducible in link time, and says so wherever its keys show.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::parties::{App, PATIENCE};
use crate::place::{Place, utf8};
use crate::process::{claviger, eventually, run};

/// Returns the lines of the ledger, without its header.
fn blocks(place: &Place) -> Vec<String> {
    let text = fs::read_to_string(place.state().join("ledger.csv")).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn two_starts_see_the_same_light() {
    let places = [(); 3].map(|()| Place::new());
    let length = ["--devices", "2", "--renew", "3s", "--simulated-speed", "10", "--for", "9s"];
    let seeds: [&[&str]; 3] = [&["--seed", "7"], &["--seed", "7"], &[]];
    // Together, so that they disturb each other's timing.
    let runs = places.iter().zip(seeds).map(|(place, seed)| place.up(&[&length, seed].concat()));
    for mut run in runs.collect::<Vec<_>>() {
        let ended = run.wait(Duration::from_secs(60));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
    let [one, other, free] = places.each_ref().map(blocks);
    let both = one.len().min(other.len());
    assert!(both >= 4, "too few blocks to compare: {one:#?} {other:#?}");
    assert_eq!(one[..both], other[..both]);
    // Without a seed the light is new; the number of a block is all that stays.
    let shared = one.iter().zip(&free).filter(|(one, free)| one == free);
    assert_eq!(shared.count(), 0, "{one:#?} {free:#?}");
}

#[test]
fn its_keys_are_labelled() {
    const LABEL: &str = "simulated, seeded: reproducible, never to be used";
    let place = Place::new();
    let up = place.up(&["--devices", "1", "--simulated-speed", "10", "--seed", "3"]);
    eventually("a state folder", PATIENCE, || {
        place.state().join("run.json").exists().then_some(())
    });
    let run_file = fs::read_to_string(place.state().join("run.json")).unwrap();
    let run_file: Value = serde_json::from_str(&run_file).unwrap();
    assert_eq!((&run_file["seeded"], &run_file["simulated"]), (&true.into(), &true.into()));

    let (a, b) = (App::a(&place), App::b(&place));
    let key = a.get_soon(1).remove(0);
    let copy = b.fetch(key.id).unwrap();
    assert_eq!((key.origin.as_deref(), copy.origin.as_deref()), (Some(LABEL), Some(LABEL)));
    let extension = a.status().unwrap().status_extension.unwrap();
    assert_eq!(extension.claviger_origin.as_deref(), Some(LABEL));
    let state = place.state();
    for command in [&["key", "status"][..], &["key", "get"], &["link"]] {
        let told = run(&mut claviger(&[command, &["--state", utf8(&state)]].concat()));
        assert!(told.out.contains("reproducible, never to be used"), "{command:?}: {told:?}");
        let claims = command[0] != "key" || told.out.contains("era-heuristic");
        assert!(claims, "{command:?}: {told:?}");
    }
    assert!(up.out().contains("seeded: reproducible, never to be used"), "{}", up.out());
}
