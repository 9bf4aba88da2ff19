//! Locks on folders: one process at a time, and others are told which.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a folder cannot be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it: stop that one.
    #[error("{} is in use by another claviger{}: stop that one first", .folder.display(), pid_in_words(*.pid))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other process, where it has said who it is.
        pid: Option<u32>,
    },
    /// The file of the lock cannot be written: mend the owner or the mode of its folder.
    #[error("cannot {action} {}: check the owner and the permissions of its folder", .path.display())]
    Access {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder that belongs to this process for as long as this lives, however the process ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

/// The name of the file in the folder; it names the process that locked the folder last.
pub(crate) const NAME: &str = "lock";

impl FolderLock {
    /// Locks a folder against all other processes.
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(NAME);
        let access = |action| {
            let path = path.clone();
            move |source| LockError::Access { action, path, source }
        };
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file = options.open(&path).map_err(access("write"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let (folder, pid) = (folder.to_owned(), holder(&mut file));
                return Err(LockError::InUse { folder, pid });
            }
            Err(TryLockError::Error(source)) => return Err(access("lock")(source)),
        }
        sign(&mut file).map_err(access("write"))?;
        Ok(Self { _file: file })
    }
}

/// Tells whether some process has locked a folder.
pub(crate) fn is_held(folder: &Path) -> bool {
    let opened = OpenOptions::new().write(true).open(folder.join(NAME));
    opened.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Writes a process for people, after whatever it did.
pub(crate) fn pid_in_words(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_process_and_says_to_whom() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()));
        let held = FolderLock::take(folder.path()).unwrap();
        assert!(is_held(folder.path()));
        let refused = FolderLock::take(folder.path()).unwrap_err().to_string();
        let holder = format!("in use by another claviger (process {})", std::process::id());
        assert!(refused.contains(&holder) && refused.contains("stop that one"), "{refused}");
        drop(held);
        FolderLock::take(folder.path()).unwrap();
    }
}
