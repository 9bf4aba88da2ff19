//! The private namespaces in which a lab lives.

use std::ffi::OsStr;
use std::process::Command;

/// Returns a command that runs `program` in network, mount and process namespaces of its own.
///
/// It is the first of its process namespace's children: when it ends, the kernel kills whatever it has
/// started, however it was started. And it ends when the thread that has started the command does, be it
/// killed: the kernel is told so at both steps (`setpriv`, `--kill-child`).
pub fn enclosed(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
    ]);
    command.arg(program);
    command
}
