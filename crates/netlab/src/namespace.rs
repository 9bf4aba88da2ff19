//! Network namespaces by name, as `ip netns` keeps them, and threads that work inside.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::lab::{LabError, PRIVATE, system};

/// The namespace in which this thread works.
const OWN: &str = "/proc/thread-self/ns/net";

/// Makes a namespace and moves this thread into it for good: only threads that end afterwards do so.
pub(crate) fn make(name: &str) -> Result<(), LabError> {
    let path = path(name);
    let made = File::create_new(&path).and_then(|_| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        bind(Path::new(OWN), &path)
    });
    made.map_err(system(&format!("making the namespace {name}")))
}

/// Gives the namespace of a process a name.
pub(crate) fn name(name: &str, process: u32) -> Result<(), LabError> {
    let (from, path) = (PathBuf::from(format!("/proc/{process}/ns/net")), path(name));
    let named = File::create_new(&path).and_then(|_| bind(&from, &path));
    named.map_err(system(&format!("naming the namespace {name}")))
}

/// Opens a namespace, so that cards can be put there.
pub(crate) fn open(name: &str) -> Result<File, LabError> {
    File::open(path(name)).map_err(system(&format!("opening the namespace {name}")))
}

/// Moves this thread into a namespace for good: only threads that end afterwards do so.
pub(crate) fn enter(name: &str) -> Result<(), LabError> {
    let entered = setns(open(name)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    entered.map_err(system(&format!("entering the namespace {name}")))
}

/// Opens the namespace in which this thread works, so that cards can be put there.
pub(crate) fn own() -> Result<File, LabError> {
    File::open(OWN).map_err(system("opening the own namespace"))
}

/// Sets a value of the kernel that every namespace has for itself, such as `ipv4/ip_forward`.
pub(crate) fn set_value(name: &str, value: &str) -> Result<(), LabError> {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(system(&format!("writing {}", path.display())))
}

/// Covers a folder with a private one in memory, which other mount namespaces do not see.
pub(crate) fn cover(folder: &str) -> Result<(), LabError> {
    let covered = mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    covered.map_err(io::Error::from).map_err(system(&format!("covering {folder}")))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let bound = mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.map_err(io::Error::from)
}

/// Where a namespace has its name.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(PRIVATE).join("netns").join(name)
}
