//! The state folder: who may use it, and which kind of run made it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use claviger_roles::config::RawFibre;
use claviger_roles::init::{self, InitError, Layout, Plan, Ports, ROLES};

use crate::lock::{self, FolderLock, LockError, pid_in_words};

/// Why a state folder cannot be used; nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The folder or a file in it cannot be made, read or removed.
    #[error("cannot {action} {}: choose a folder that you may write to with --state", .path.display())]
    Access {
        /// What was being done.
        action: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process runs on it.
    #[error(
        "{} is in use by another claviger{}: stop that one, or choose another folder with --state and other ports with --port-base",
        .path.display(), pid_in_words(*.pid)
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other process, where it has said who it is.
        pid: Option<u32>,
    },
    /// A role runs on it by itself, and reads its configuration there.
    #[error(
        "{} is in use by a role that runs by itself{}: stop every `claviger run` of this state folder, or choose another folder with --state and other ports with --port-base",
        .path.display(), pid_in_words(*.pid)
    )]
    RoleRuns {
        /// The folder of the role.
        path: PathBuf,
        /// Its process, where it has said who it is.
        pid: Option<u32>,
    },
    /// Something else lies there, or the first start was interrupted.
    #[error("{} holds files that are not Claviger's, or an unfinished start: choose another folder with --state, or remove it", .path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// Reproducible and real keys must not meet.
    #[error("{} was made {made}, and this run is {asked}: their keys must not meet, so choose another folder with --state", .path.display())]
    OtherKind {
        /// The folder.
        path: PathBuf,
        /// How it was made.
        made: &'static str,
        /// What was asked for now.
        asked: &'static str,
    },
    /// Its folders or configurations cannot be written.
    #[error(transparent)]
    Init(#[from] InitError),
}

/// A state folder that belongs to this process for as long as this lives.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    layout: Layout,
    roles: Vec<FolderLock>,
    _lock: FolderLock,
}

impl StateFolder {
    /// Makes the folder where it is missing, and locks it and the folders of its roles against
    /// other processes.
    pub(crate) fn claim(path: &Path) -> Result<Self, StateError> {
        let layout = Layout::below(path);
        // Nothing is written into a folder of somebody else, not even a lock.
        if !layout.is_complete()? && path.exists() && !is_empty(path)? {
            return Err(StateError::Foreign { path: path.into() });
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(access("make the folder", path))?;
        let lock = FolderLock::take(path).map_err(another_runs)?;
        Ok(Self { path: path.into(), roles: lock_roles(&layout)?, layout, _lock: lock })
    }

    /// Brings the folder to what `plan` asks for.
    ///
    /// A seeded run begins from nothing, so that two of them are alike.
    pub(crate) fn prepare(&mut self, plan: &Plan) -> Result<Ports, StateError> {
        if self.layout.is_complete()? {
            match (self.made_seeded()?, plan.link.seed.is_some()) {
                (false, false) => return Ok(init::configure(&self.path, plan)?),
                (true, true) => self.empty()?,
                (made, asked) => {
                    let kind = |seeded| if seeded { "with --seed" } else { "without --seed" };
                    let (made, asked) = (kind(made), kind(asked));
                    return Err(StateError::OtherKind { path: self.path.clone(), made, asked });
                }
            }
        }
        init::create(&self.path, plan)?;
        // The folders are new ones.
        self.roles.clear();
        self.roles = lock_roles(&self.layout)?;
        let ports = Ports::from_base(plan.port_base);
        Ok(ports.ok_or(InitError::PortBase { base: plan.port_base })?)
    }

    /// Returns where the roles have their folders.
    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the path of a file directly in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn made_seeded(&self) -> Result<bool, StateError> {
        let path = self.layout.config("fibre");
        let text = fs::read_to_string(&path).map_err(access("read", &path))?;
        let fibre: Result<RawFibre, _> = toml::from_str(&text);
        let seeded = fibre.map(|fibre| fibre.link.seed.is_some());
        seeded.map_err(io::Error::other).map_err(access("understand", &path))
    }

    /// Removes what a seeded run left; the mark of completeness first.
    fn empty(&self) -> Result<(), StateError> {
        for name in OURS {
            let path = self.path.join(name);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(access("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// All that a run makes in the folder, but the lock.
const OURS: [&str; 8] = [
    "claviger.toml",
    "run.json",
    "ledger.csv",
    "claviger.log",
    "site-a",
    "site-b",
    "fibre",
    "devices",
];

fn is_empty(path: &Path) -> Result<bool, StateError> {
    let mut entries = fs::read_dir(path).map_err(access("read the folder", path))?;
    let ours = |name: &str| name == lock::NAME || name == "run.json";
    Ok(entries.all(|entry| entry.is_ok_and(|e| e.file_name().to_str().is_some_and(ours))))
}

fn lock_roles(layout: &Layout) -> Result<Vec<FolderLock>, StateError> {
    let folders = ROLES.iter().map(|role| layout.folder(role)).filter(|folder| folder.is_dir());
    folders.map(|folder| FolderLock::take(&folder).map_err(a_role_runs)).collect()
}

fn another_runs(error: LockError) -> StateError {
    match error {
        LockError::InUse { folder: path, pid } => StateError::InUse { path, pid },
        LockError::Access { action, path, source } => StateError::Access { action, path, source },
    }
}

fn a_role_runs(error: LockError) -> StateError {
    match error {
        LockError::InUse { folder: path, pid } => StateError::RoleRuns { path, pid },
        LockError::Access { action, path, source } => StateError::Access { action, path, source },
    }
}

fn access(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Access { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use claviger_device::KeyPath;
    use claviger_roles::config::RawLink;

    use super::*;

    fn plan(seed: Option<u64>) -> Plan {
        Plan {
            link: RawLink { preset: "lab".into(), loss_db: None, seed },
            simulated_speed: 1.0,
            eve_fraction: 0.0,
            devices: 3,
            fibres: Vec::new(),
            renew_s: 60.0,
            paths: vec![KeyPath::Https],
            pad_keys: None,
            danger_idq3p: true,
            port_base: 14_000,
            names: BTreeMap::new(),
        }
    }

    #[test]
    fn a_folder_belongs_to_one_process_and_says_to_whom() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        let held = StateFolder::claim(&state).unwrap();
        assert!(lock::is_held(&state));
        let refused = StateFolder::claim(&state).unwrap_err().to_string();
        assert!(refused.contains(&format!("(process {})", std::process::id())), "{refused}");
        drop(held);
        assert!(!lock::is_held(&state));
        StateFolder::claim(&state).unwrap();
    }

    #[test]
    fn nothing_is_written_into_a_foreign_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
        assert!(matches!(StateFolder::claim(folder.path()), Err(StateError::Foreign { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_changed_under_a_role_that_runs_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        StateFolder::claim(folder.path()).unwrap().prepare(&plan(None)).unwrap();
        let layout = Layout::below(folder.path());
        for role in ROLES {
            let _running = FolderLock::take(&layout.folder(role)).unwrap();
            let refused = StateFolder::claim(folder.path()).unwrap_err().to_string();
            for part in [role, "a role that runs by itself", "stop every `claviger run`"] {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        }
        // Nor does a role start under a folder that is claimed, new folders included.
        let mut state = StateFolder::claim(folder.path()).unwrap();
        state.prepare(&plan(None)).unwrap();
        assert!(ROLES.iter().all(|role| lock::is_held(&layout.folder(role))));
        let fresh = tempfile::tempdir().unwrap();
        let mut state = StateFolder::claim(fresh.path()).unwrap();
        for seed in [7, 8] {
            state.prepare(&plan(Some(seed))).unwrap();
            let layout = Layout::below(fresh.path());
            assert!(ROLES.iter().all(|role| lock::is_held(&layout.folder(role))));
        }
    }

    #[test]
    fn another_layout_is_refused_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        StateFolder::claim(folder.path()).unwrap().prepare(&plan(None)).unwrap();
        let marker = folder.path().join("claviger.toml");
        for (text, parts) in [
            ("layout = 99\nsites = 3\n", ["layout 99", "the version that made it"]),
            ("layout = 0\n", ["layout 0", "the version that made it"]),
            ("", ["does not say `layout = 5`", "restore it"]),
            ("layout = \"two\"", ["does not say `layout = 5`", "restore it"]),
        ] {
            fs::write(&marker, text).unwrap();
            let refused = StateFolder::claim(folder.path()).unwrap_err().to_string();
            for part in parts.iter().chain(&["claviger.toml", "--state"]) {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        }
        fs::write(&marker, "layout = 5\n").unwrap();
        StateFolder::claim(folder.path()).unwrap();
    }

    #[test]
    fn a_state_goes_on_but_a_seeded_one_begins_from_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = StateFolder::claim(folder.path()).unwrap();
        let certificate = state.layout().folder("site-a/kme").join("identity.pem");
        state.prepare(&plan(Some(7))).unwrap();
        let first = fs::read(&certificate).unwrap();
        state.prepare(&plan(Some(8))).unwrap();
        assert_ne!(fs::read(&certificate).unwrap(), first);
        assert!(matches!(state.prepare(&plan(None)), Err(StateError::OtherKind { .. })));

        let folder = tempfile::tempdir().unwrap();
        let mut state = StateFolder::claim(folder.path()).unwrap();
        let certificate = state.layout().folder("site-a/kme").join("identity.pem");
        state.prepare(&plan(None)).unwrap();
        let first = fs::read(&certificate).unwrap();
        state.prepare(&Plan { devices: 5, ..plan(None) }).unwrap();
        assert_eq!(fs::read(&certificate).unwrap(), first);
        assert!(matches!(state.prepare(&plan(Some(7))), Err(StateError::OtherKind { .. })));
    }
}
