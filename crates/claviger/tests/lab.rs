//! The laboratory as its user meets it: figures that repeat, sweeps that go on, and nothing half written.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests may panic as the tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn claviger(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs to the end; returns the exit code, the standard output and the standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = claviger(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A small study, with everything that the shipped configuration has.
fn small(shipped: &str, quick: &[(&str, &str)]) -> String {
    let begin = shipped.find("[quick]").unwrap();
    let end = begin + shipped[begin..].find("\n\n").unwrap();
    let quick = quick.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>();
    format!("{}[quick]\n{quick}{}", &shipped[..begin], &shipped[end..])
}

fn sheets(folder: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sheets = files.filter(|path| path.extension().is_some_and(|ending| ending == "csv"));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    sheets.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn a_figure_is_the_same_in_any_folder_on_any_number_of_threads() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("mine.toml");
    let shipped = include_str!("../../lab/figures/fig2a.toml");
    let small =
        small(shipped, &[("devices", "40"), ("sample", "5"), ("seeds", "3"), ("link_blocks", "1")]);
    fs::write(&config, small).unwrap();
    let made = |folder: &str, more: &[&str]| {
        let out = place.path().join(folder);
        let config = config.to_str().unwrap();
        let arguments =
            ["lab", "fig2a", "--quick", "--config", config, "--out", out.to_str().unwrap()];
        let (code, said, err) = run(&[&arguments[..], more].concat());
        assert_eq!(code, Some(0), "{err}");
        assert!(said.contains("paper \u{2212}18 %") && said.contains("fig2a.html"), "{said}");
        let report = fs::read_to_string(out.join("fig2a.html")).unwrap();
        for part in ["<svg", "modelled", "simulated", "paper-literal", "contradicted", "</html>"] {
            assert!(report.contains(part), "{part}");
        }
        assert!(!report.contains("src=") && !report.contains("href=\"http"), "needs nothing else");
        sheets(&out)
    };
    let first = made("one", &["--threads", "1"]);
    assert_eq!(
        first.keys().collect::<Vec<_>>(),
        ["fig2a-fleet.csv", "fig2a-sweep.csv", "fig2a.csv"]
    );
    assert_eq!(first, made("two/deep", &["--threads", "2"]));
    let other = made("three", &["--seed", "9"]);
    assert_ne!(first["fig2a.csv"], other["fig2a.csv"]);
    let sheet = &first["fig2a.csv"];
    let begun = format!("# claviger lab fig2a, commit {}", env!("CLAVIGER_COMMIT"));
    assert!(sheet.starts_with(&begun), "{sheet}");
    assert!(sheet.contains("# link = \"lab\"") && sheet.ends_with(" rows\n"), "{sheet}");
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("bad.toml");
    let out = place.path().join("out");
    let shipped = include_str!("../../lab/figures/fig2b.toml");
    for (from, to, told) in [
        ("seeds = 30", "seeds = 0", "1 or more"),
        ("profile = \"fipy\"", "profile = \"toaster\"", "there is no profile"),
        ("link = \"lab\"", "link = \"pub\"", "pub"),
        ("sample = 200", "samples = 200", "samples"),
        ("packet_loss = 0.001", "packet_loss = 1.5", "0 to 0.4"),
        ("renew_s = 1800", "renew_s = 0", "must be wake_s or more"),
        ("wake_s = [60,", "wake_s = [0,", "must be above 0"),
        ("devices = 13_000", "devices = 0", "1 or more"),
    ] {
        assert!(shipped.contains(from), "{from}");
        fs::write(&config, shipped.replacen(from, to, 1)).unwrap();
        let (code, _, err) = run(&[
            "lab",
            "fig2b",
            "--config",
            config.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ]);
        assert_eq!(code, Some(1), "{to}: {err}");
        assert!(err.contains("fig2b cannot be made") && err.contains(told), "{to}: {err}");
        assert!(sheets(&out).is_empty() && !out.join("fig2b.html").exists());
    }
    let (code, _, err) = run(&["lab", "all", "--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(err.contains("name that figure"), "{err}");
}

const GRID: &str = "link = [\"lab\"]\nloss_db = [4.0, 30.0]\ndevices = [10, 20, 30]\nrenew_s = [1800]\n\
    wake_s = [300]\nbuffer_bits = [1_000_000]\nway = [\"push\", \"https\"]\nagainst = \"dkg\"\n\
    profile = [\"fipy\"]\npacket_loss = [0.0]\nhours = 1.0\nseeds = 2\nlink_blocks = 1\n[radio]\n\
    retransmission_s = 1.0\nreading_packets = 12\nreading_bytes = 900\nreading_half_round_trips = 9\n";

#[test]
fn a_sweep_goes_on_where_it_was() {
    let place = tempfile::tempdir().unwrap();
    let grid = place.path().join("grid.toml");
    fs::write(&grid, GRID).unwrap();
    let sweep = |out: &Path, more: &[&str]| {
        let arguments = ["lab", "sweep", grid.to_str().unwrap(), "--out", out.to_str().unwrap()];
        run(&[&arguments[..], more].concat())
    };
    let (one, two) = (place.path().join("one"), place.path().join("two"));
    let (code, said, err) = sweep(&one, &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(said.contains("12 points"), "{said}");
    let whole = fs::read_to_string(one.join("grid.csv")).unwrap();
    assert!(whole.contains("impossible: ") && whole.ends_with("# end, 12 rows\n"), "{whole}");
    assert!(!one.join("grid.unfinished").exists());

    // The other is interrupted: its journal holds some rows, the last one torn.
    fs::create_dir_all(&two).unwrap();
    let mut running =
        claviger(&["lab", "sweep", grid.to_str().unwrap(), "--out", two.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    let journal = two.join("grid.unfinished");
    let rows = || fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    while rows() < 3 && running.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    if journal.exists() {
        assert!(!two.join("grid.csv").exists(), "nothing half looks whole");
        let torn = fs::read_to_string(&journal).unwrap() + "lab\t4";
        fs::write(&journal, torn).unwrap();
        let (code, _, err) = sweep(&two, &["--seed", "7"]);
        assert_eq!(code, Some(1));
        assert!(err.contains("another grid, seed or version"), "{err}");
        let (code, _, err) = sweep(&two, &[]);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.contains("were run before"), "{err}");
    }
    assert_eq!(fs::read_to_string(two.join("grid.csv")).unwrap(), whole);
}

#[test]
fn capacity_says_whether_a_link_feeds_a_fleet_and_what_is_short() {
    let capacity = |more: &[&str]| {
        let arguments = ["lab", "capacity", "--blocks", "2", "--for", "6h"];
        run(&[&arguments[..], more].concat())
    };
    for (arguments, code, told) in [
        (&["--devices", "500"][..], 0, "it holds"),
        (&["--devices", "20000"], 1, "too few keys"),
        (&["--devices", "10000", "--buffer-bits", "8000"], 1, "larger buffer"),
        (&["--devices", "20000", "--wake", "5m", "--fail-closed", "31m"], 1, "waited for a key"),
        (&["--devices", "200", "--wake", "25m"], 1, "a whole number of wakes"),
        (&["--devices", "200", "--wake", "5m", "--fail-closed", "10m"], 1, "too"),
        (&["--devices", "5", "--renew", "30d"], 1, "look for longer"),
        (&["--devices", "10", "--loss-db", "30"], 1, "lower the loss"),
        (&["--devices", "0"], 1, "1 or more"),
    ] {
        let (ended, out, err) = capacity(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {out}{err}");
        assert!(out.contains(told) || err.contains(told), "{arguments:?}: {out}{err}");
    }
    let (_, out, _) = capacity(&["--devices", "500", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["outcome"], &value["missed"]), (&"holds".into(), &0.into()));
}
