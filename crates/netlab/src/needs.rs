//! What a lab needs of the machine, and what to do where it is missing.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Something that a lab needs and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    what: &'static str,
    remedy: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Programs, and the Debian package that brings each.
const PROGRAMS: [(&str, &str, &str); 7] = [
    ("setpriv", "there is no setpriv", "install util-linux"),
    ("unshare", "there is no unshare", "install util-linux"),
    ("ip", "there is no ip", "install iproute2"),
    ("ovsdb-server", "there is no ovsdb-server", "install openvswitch-switch"),
    ("ovs-vswitchd", "there is no ovs-vswitchd", "install openvswitch-switch"),
    ("ovs-vsctl", "there is no ovs-vsctl", "install openvswitch-switch"),
    ("ethtool", "there is no ethtool", "install ethtool"),
];

/// Returns all that is missing for a lab; nothing where one can be run.
#[must_use]
pub fn missing() -> Vec<Missing> {
    let programs = PROGRAMS.iter().filter(|(program, ..)| !is_there(program));
    let mut missing: Vec<_> = programs.map(|&(_, what, remedy)| Missing { what, remedy }).collect();
    if is_there("unshare") && !may_enclose() {
        missing.push(Missing {
            what: "namespaces cannot be made",
            remedy: "run as root; in a container, allow it CAP_SYS_ADMIN and CAP_NET_ADMIN",
        });
    }
    missing
}

fn may_enclose() -> bool {
    let tried = crate::enclosed("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.any(|folder| folder.join(program).is_file())
}

/// Returns a command that is found where administrators' programs lie as well.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    command
}
