//! A place of its own for each test: a folder, and a row of ports.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use claviger_roles::init::{Layout, Ports};
use tempfile::TempDir;

use crate::process::{Process, claviger, run};

/// Where a network runs.
#[derive(Debug)]
pub(crate) struct Place {
    folder: TempDir,
    row: PortRow,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), row: PortRow::take() };
        fs::create_dir(place.logs()).unwrap();
        place
    }

    /// Makes a folder for what a test writes itself.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// Returns the state folder, which is not there at first.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns where the processes of this place write what they say.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout::below(&self.state())
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports::from_base(self.row.base).unwrap()
    }

    /// Starts `claviger up` here; it ends by itself after two minutes, or the time in `more`.
    pub(crate) fn up(&self, more: &[&str]) -> Process {
        let length = if more.contains(&"--for") { &[][..] } else { &["--for", "120s"] };
        let (place, name) = (self.arguments(), format!("up-{}", self.row.base));
        let place: Vec<&str> = place.iter().map(String::as_str).collect();
        let arguments = [&["up"], &place[..], length, more].concat();
        Process::start(&self.logs(), &name, &mut claviger(&arguments))
    }

    /// Makes the folders of all roles.
    pub(crate) fn init(&self, more: &[&str]) {
        let place = self.arguments();
        let place: Vec<&str> = place.iter().map(String::as_str).collect();
        let ended = run(&mut claviger(&[&["init"], &place[..], more].concat()));
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    fn arguments(&self) -> [String; 4] {
        let (state, base) = (utf8(&self.state()).to_owned(), self.row.base.to_string());
        ["--state".to_owned(), state, "--port-base".to_owned(), base]
    }
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Ports that no other test has, for as long as this lives.
#[derive(Debug)]
struct PortRow {
    base: u16,
    _lock: File,
}

const _: () = assert!(PortRow::FIRST + PortRow::ROWS * Ports::COUNT <= 32_768);

impl PortRow {
    /// All of them below the range from which the system takes ports by itself: there a connection of anybody
    /// may have the port of a role that is not up at the moment.
    const FIRST: u16 = 28_000;
    const ROWS: u16 = 200;

    fn take() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ports");
        fs::create_dir_all(&folder).unwrap();
        let start = u16::try_from(std::process::id() % u32::from(Self::ROWS)).unwrap();
        let rows = (0..Self::ROWS).map(|n| (start + n) % Self::ROWS);
        let bases = rows.map(|row| Self::FIRST + row * Ports::COUNT);
        bases.into_iter().find_map(|base| Self::lock(&folder, base)).expect("a free row of ports")
    }

    fn lock(folder: &Path, base: u16) -> Option<Self> {
        let path = folder.join(base.to_string());
        let lock = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        lock.try_lock().ok()?;
        let free = |port| {
            let address = (Ipv4Addr::LOCALHOST, port);
            TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
        };
        (base..base + Ports::COUNT).all(free).then_some(Self { base, _lock: lock })
    }
}
