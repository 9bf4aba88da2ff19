//! The binary as a user meets it: help, wrong flags, and folders and ports that cannot be had.
#![expect(clippy::unwrap_used, reason = "the helpers of these tests may panic as the tests do")]

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use claviger_roles::init::Ports;

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

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Finds a base below which a row of ports is free just now.
fn free_ports() -> u16 {
    let is_free = |port| {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok()
    };
    // Far from the range from which the system takes ports by itself, and another row each time.
    let n_rows = 9600 / Ports::COUNT;
    let first = u16::try_from(std::process::id() % u32::from(n_rows)).unwrap();
    let bases = (0..n_rows).map(|n| 10_000 + (first + n) % n_rows * Ports::COUNT);
    bases.into_iter().find(|base| (*base..*base + Ports::COUNT).all(is_free)).unwrap()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_help_teaches() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for part in ["claviger up --for 90s", "simulated", "key get-by-id", "Run one role"] {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    let (code, out, _) = run(&["up", "--help"]);
    assert_eq!(code, Some(0));
    // Lines are broken to the width of the terminal.
    let out = out.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in
        ["[default: 24]", "[default: 60s]", "[default: ./claviger-state]", "Exit code:", "--eve"]
    {
        assert!(out.contains(part), "{part} is missing in\n{out}");
    }
    for command in ["init", "run", "readings", "devices", "link"] {
        assert_eq!(run(&[command, "--help"]).0, Some(0), "{command}");
    }
}

#[test]
fn wrong_flags_are_refused_with_what_would_be_right() {
    for (arguments, right) in [
        (&["up", "--for", "90"][..], "such as 90s, 5m"),
        (&["up", "--eve", "2"], "between 0 and 1"),
        (&["up", "--devises", "3"], "--devices"),
        (&["up", "--seed", "-1"], "a whole number between 0 and"),
        (&["run", "kmee", "--config", "x"], "possible values"),
        (&["key", "get-by-id", "abc"], "UUID"),
    ] {
        let (code, _, err) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}\n{err}");
        assert!(err.contains(right), "{arguments:?}\n{err}");
    }
}

#[test]
fn what_the_link_cannot_hold_is_refused_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let up = |more: &[&str]| run(&[&["up", "--for", "1s", "--state", path(&state)], more].concat());
    for (more, reason) in [
        (&["--devices", "5000"][..], "--devices 443"),
        (&["--loss-db", "30"], "no key comes of a link with 30 dB"),
        (&["--link", "lob"], "lab, city, clavis2"),
    ] {
        let (code, _, err) = up(more);
        assert_eq!(code, Some(1), "{more:?}\n{err}");
        assert!(err.starts_with("error: ") && err.contains(reason), "{more:?}\n{err}");
    }
    assert!(!state.join("claviger.toml").exists());
}

#[test]
fn a_foreign_folder_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    let (code, _, err) = run(&["up", "--for", "1s", "--state", path(folder.path())]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("not Claviger's") && err.contains("--state"), "{err}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let state = file.join("state");
    let (code, _, err) = run(&["init", "--state", path(&state)]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("cannot make the folder") && err.contains("--state"), "{err}");
}

#[test]
fn init_makes_both_sites_and_a_seed_makes_another_kind_of_state() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (code, out, err) = run(&["init", "--state", path(&state), "--devices", "3"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("feeds 443 devices every 60 s") && out.contains("asked for 3"), "{out}");
    for file in ["site-a/kme/config.toml", "site-b/qkd/link.secret", "devices/identity.pem"] {
        assert!(state.join(file).is_file(), "{file}");
    }
    let (code, _, err) = run(&["init", "--state", path(&state), "--seed", "7"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("without --seed") && err.contains("must not meet"), "{err}");
    let (code, out, err) = run(&["link", "--state", path(&state)]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("lab, 4 dB (simulated)") && out.contains("running   not by"), "{out}");
}

#[test]
fn clients_without_a_network_say_what_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let state = path(folder.path());
    for arguments in
        [&["key", "get"][..], &["key", "extract"], &["readings"], &["devices"], &["sdn", "hosts"]]
    {
        let (code, _, err) = run(&[arguments, &["--state", state]].concat());
        assert_eq!(code, Some(1), "{arguments:?}\n{err}");
        assert!(err.contains("start `claviger up`"), "{arguments:?}\n{err}");
    }
    // The same where the folder is there and nobody runs.
    let base = free_ports().to_string();
    assert_eq!(run(&["init", "--danger-idq3p", "--state", state, "--port-base", &base]).0, Some(0));
    for arguments in
        [&["key", "get"][..], &["key", "extract"], &["readings"], &["devices"], &["sdn", "hosts"]]
    {
        let (code, _, err) = run(&[arguments, &["--state", state]].concat());
        assert_eq!(code, Some(1), "{arguments:?}\n{err}");
        assert!(err.contains("start `claviger up`"), "{arguments:?}\n{err}");
    }
}

#[test]
fn a_lab_that_cannot_be_built_says_what_is_missing_and_what_works_without() {
    for (arguments, without) in [
        (["lab", "net", "run", "tree,2,2"].as_slice(), "`claviger up` needs none of it"),
        (&["lab", "mininet", "tree,2,2"], "`claviger lab net` needs no Mininet"),
    ] {
        let mut command = claviger(arguments);
        let output = command.env("PATH", "/nowhere").output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("install util-linux") && err.contains(without), "{err}");
    }
    let (code, _, err) = run(&["lab", "net", "run", "tree,4,10"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("at most 500 and 2000 fit"), "{err}");
}

#[test]
fn an_occupied_port_is_named_before_anything_is_made_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let base = free_ports();
    let arguments = ["up", "--for", "60s", "--state", path(&state), "--port-base"];
    let refused = |what: &str| {
        let (code, out, err) = run(&[&arguments[..], &[&base.to_string()]].concat());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(&format!("{what} is occupied")), "{err}");
        assert!(err.contains("stop the other program") && err.contains("--port-base"), "{err}");
    };
    let occupied = TcpListener::bind(("127.0.0.1", base + 14)).unwrap();
    refused(&format!("port {}", base + 14));
    drop(occupied);
    let _occupied = UdpSocket::bind(("127.0.0.1", base + 3)).unwrap();
    refused(&format!("UDP port {}", base + 3));
    let left: Vec<_> = std::fs::read_dir(&state).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn a_damaged_store_ends_the_run_before_an_address_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let base = free_ports().to_string();
    let place = ["--state", path(&state), "--port-base", &base];
    let (code, _, err) = run(&[&["init"], &place[..]].concat());
    assert_eq!(code, Some(0), "{err}");
    std::fs::write(state.join("site-b/platform/store.db"), "no database").unwrap();
    let (code, out, err) = run(&[&["up", "--for", "60s"], &place[..]].concat());
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(err.contains("site-b/platform/store.db") && err.contains("restore it"), "{err}");
    assert!(!out.contains("curl"), "{out}");
}

#[test]
fn a_folder_whose_roles_run_by_themselves_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let base = free_ports().to_string();
    let place = ["--state", path(&state), "--port-base", &base];
    assert_eq!(run(&[&["init", "--devices", "3"], &place[..]].concat()).0, Some(0));
    let config = state.join("fibre/config.toml");
    let mut role = claviger(&["run", "fibre", "--config", path(&config)]);
    let mut role = Running(role.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(role.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "fibre: ready");

    let devices = std::fs::read(state.join("devices/config.toml")).unwrap();
    for command in [&["up", "--for", "1s"][..], &["init"]] {
        let (code, out, err) = run(&[command, &["--devices", "5"], &place].concat());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        let holder = format!("a role that runs by itself (process {})", role.0.id());
        for part in ["/fibre", &holder, "stop every `claviger run`", "--state"] {
            assert!(err.contains(part), "{part} is missing in {err}");
        }
    }
    assert_eq!(std::fs::read(state.join("devices/config.toml")).unwrap(), devices);
    drop(role);
    assert_eq!(run(&[&["init", "--devices", "5"], &place[..]].concat()).0, Some(0));
}

#[test]
fn a_folder_of_another_layout_is_refused_by_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let state = path(folder.path());
    assert_eq!(run(&["init", "--state", state]).0, Some(0));
    std::fs::write(folder.path().join("claviger.toml"), "layout = 99\n").unwrap();
    for command in [&["up"][..], &["init"], &["link"], &["readings"], &["key", "get"]] {
        let (code, out, err) = run(&[command, &["--state", state]].concat());
        assert_eq!((code, out.as_str()), (Some(1), ""), "{command:?}\n{err}");
        for part in ["claviger.toml", "layout 99", "knows layout 5", "run the version that made it"]
        {
            assert!(err.contains(part), "{part} is missing in {err}");
        }
    }
}

#[test]
fn a_site_without_a_store_has_nothing_to_reset() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["init", "--state", path(folder.path())]).0, Some(0));
    let config = folder.path().join("site-a/kme/config.toml");
    let (code, _, err) = run(&["kme", "reset", "--config", path(&config)]);
    assert_eq!(code, Some(1), "{err}");
    for part in ["site A has no key store", "nothing to reset", "site-a/kme/store.db", "site B"] {
        assert!(err.contains(part), "{part} is missing in {err}");
    }
    let secret = folder.path().join("fresh.secret");
    assert_eq!(run(&["link", "reseed", path(&secret)]).0, Some(0));
    let config = folder.path().join("site-a/qkd/config.toml");
    let (code, _, err) = run(&["link", "reseed", path(&secret), "--config", path(&config)]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("no reserve to fill") && err.contains("site-a/qkd/store.db"), "{err}");
}

/// As in `claviger link | head -1`, when `head` has gone before the first line.
#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["init", "--state", path(folder.path())]).0, Some(0));
    for arguments in [&["--help"][..], &["up", "--help"], &["--version"], &["link"], &["init"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = claviger(arguments);
        let Output { status, stderr, .. } =
            command.current_dir(&folder).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_second_run_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let base = free_ports().to_string();
    let arguments = ["up", "--devices", "2", "--state", path(&state), "--port-base", &base];
    let child = claviger(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = Running(child);
    let mut lines = BufReader::new(first.0.stdout.take().unwrap()).lines();
    let sentence = lines.next().unwrap().unwrap();
    assert!(sentence.contains("bit/s (simulated) feeds"), "{sentence}");
    let (code, _, err) = run(&arguments);
    assert_eq!(code, Some(1), "{err}");
    let holder = format!("in use by another claviger (process {})", first.0.id());
    assert!(err.contains(&holder), "{err}");
    // Nor does a role start beside it.
    let config = state.join("fibre/config.toml");
    let (code, _, err) = run(&["run", "fibre", "--config", path(&config)]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("/fibre is") && err.contains(&holder), "{err}");
}

/// `PROTOCOL.md` P4: the last resort when the reserve is used up.
#[test]
fn both_ends_take_a_fresh_link_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (state, secret) = (folder.path().join("state"), folder.path().join("fresh.secret"));
    let base = free_ports().to_string();
    let up = ["up", "--devices", "2", "--renew", "4s", "--simulated-speed", "10", "--for", "12s"];
    let up = [&up[..], &["--state", path(&state), "--port-base", &base]].concat();
    let (code, _, err) = run(&up);
    assert_eq!(code, Some(0), "{err}");

    let (code, out, _) = run(&["link", "reseed", path(&secret)]);
    assert_eq!(code, Some(0), "{out}");
    let (code, _, err) = run(&["link", "reseed", path(&secret)]);
    assert!(code == Some(1) && err.contains("never overwritten"), "{err}");
    for end in ["site-a", "site-b"] {
        let config = state.join(end).join("qkd/config.toml");
        let (code, out, err) = run(&["link", "reseed", path(&secret), "--config", path(&config)]);
        assert_eq!(code, Some(0), "{out}{err}");
        let (code, _, err) = run(&["link", "reseed", path(&secret), "--config", path(&config)]);
        assert!(code == Some(1) && err.contains("never serve twice"), "{err}");
    }
    let (code, _, err) = run(&up);
    assert_eq!(code, Some(0), "the link goes on with the fresh secret\n{err}");
}
