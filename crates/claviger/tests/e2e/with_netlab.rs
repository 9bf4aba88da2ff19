//! The controller on Open vSwitch, in namespaces of this test's own, switches connected by TLS.

use std::process::Command;

use crate::process::{claviger, run};

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
