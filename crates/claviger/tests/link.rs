//! `claviger link run`, `rate` and `attack` as a researcher meets them.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests may panic as the tests do")]

use std::fs;
use std::process::{Command, Output, Stdio};

/// Runs to the end; returns the exit code, the standard output and the standard error.
fn link(line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
    command.arg("link").args(line.split_whitespace()).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_run_is_a_ledger_and_a_summary_and_a_seed_plays_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let play = |name: &str| {
        let file = |ending| folder.path().join(format!("{name}.{ending}")).display().to_string();
        let (csv, json) = (file("csv"), file("jsonl"));
        let (code, out, err) = link(&format!("run --for 60s --seed 7 --csv {csv} --json {json}"));
        assert_eq!(code, Some(0), "{err}");
        (out, fs::read_to_string(csv).unwrap(), fs::read_to_string(json).unwrap())
    };
    let ((out, csv, json), (_, again, _)) = (play("first"), play("again"));
    for part in ["(simulated)", "kept", "secret    ", "± ", "theory    ", "claim     era-heuristic"]
    {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    assert_eq!(csv, again);
    assert_eq!(json.lines().count() + 1, csv.lines().count());
    assert!(json.lines().all(|line| line.starts_with("{\"simulated\":true,")), "{json}");
}

#[test]
fn an_eavesdropper_leaves_no_key_and_the_summary_says_why() {
    let (code, out, err) = link("run --for 10s --seed 7 --eve 1");
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("× sampled error rate above the threshold"), "{out}");
    assert!(out.contains("no full block was kept"), "{out}");
}

#[test]
fn rates_are_a_table_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (csv, svg) = (file("rate.csv"), file("rate.svg"));
    let line =
        format!("rate --loss-db 4..28 --step 12 --blocks 2 --seed 7 --csv {csv} --svg {svg}");
    let (code, out, err) = link(&line);
    assert_eq!(code, Some(0), "{err}");
    for part in ["1893", "no key", "no key comes of a link with 28 dB", "simulated"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let rows = fs::read_to_string(csv).unwrap();
    assert_eq!(rows.lines().count(), 4, "{rows}");
    assert!(fs::read_to_string(svg).unwrap().contains("</svg>"));
}

#[test]
fn an_attack_is_explained_and_judged() {
    let (code, out, err) = link("attack blinding --seed 7 --for 40s");
    assert_eq!(code, Some(0), "{err}");
    for part in ["predicted", "guessed right by Eve", "not noticed", "photocurrent", "simulated"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let (code, list, _) = link("attack");
    assert_eq!((code, &list), (Some(0), &link("attack list").1));
    assert!(list.contains("trojan-horse") && list.contains("added-loss"), "{list}");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_remedy() {
    for (line, code, parts) in [
        ("attack pns", 2, &["no attack `pns`", "photon-number-splitting"][..]),
        ("attack blinding --strength 2", 1, &["a share between 0 and 1, not 2"]),
        ("attack added-loss --strength 90", 1, &["0 to 60 dB"]),
        ("attack blinding --on /nowhere", 1, &["no state folder", "--on"]),
        ("attack blinding --loss-db 40", 1, &["no key comes of", "lower the loss"]),
        ("run --preset lob", 1, &["lab, city, clavis2"]),
        ("run --loss-db 30", 1, &["no key comes of a link with 30 dB"]),
        ("run --csv /nowhere/x.csv", 1, &["/nowhere/x.csv cannot be written"]),
        ("rate --loss-db 20..0", 2, &["write 0..20"]),
        ("rate --loss-db 0..20 --step 0.01", 1, &["take a larger --step"]),
    ] {
        let (ended, _, err) = link(line);
        assert_eq!(ended, Some(code), "{line}\n{err}");
        assert!(parts.iter().all(|part| err.contains(part)), "{line}\n{err}");
    }
}
