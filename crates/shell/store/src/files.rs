//! The files of a store before SQLite sees them: database, lock, master key.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use claviger_units::Key256;
use zeroize::Zeroizing;

/// Why a store cannot be opened; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the store: stop it, or use another directory.
    #[error("{} is in use by another process: stop that one, or choose another state directory", .path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// There is no store: create one, or give the right path.
    #[error("there is no store at {}: check the state directory, or create a new one", .path.display())]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// A store is there already: open it, or choose another path.
    #[error("{} holds a store already: open that one, or choose another state directory", .path.display())]
    Exists {
        /// The database.
        path: PathBuf,
    },
    /// The system refuses access: mend owner, mode or disk.
    #[error("cannot {action} {}: check the owner, the permissions and the free space of its directory", .path.display())]
    Access {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A database of some other program: choose another path.
    #[error("{} belongs to another program: choose another state directory", .path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// A database that a later version wrote: run that version.
    #[error("{} was written by a newer version (layout {found}, this one knows {known}): run that version, or choose another state directory", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// The layout of the file.
        found: i32,
        /// The newest layout known here.
        known: i32,
    },
    /// The file is no database any more: restore it, or reset this site.
    #[error("{} is corrupt: restore it from a backup, or remove it and reset this site", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
    },
    /// The database failed otherwise; the source says how.
    #[error("cannot read the store {}: check the disk", .path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The key file is not this store's: give the one made together with it.
    #[error("the master key {} does not fit the store {}: use the key file made together with it", .key_path.display(), .path.display())]
    WrongKey {
        /// The database.
        path: PathBuf,
        /// The key file.
        key_path: PathBuf,
    },
    /// The key file does not hold 32 bytes: restore it.
    #[error("the master key {} does not have 32 bytes: restore it from a backup", .key_path.display())]
    BadKey {
        /// The key file.
        key_path: PathBuf,
    },
    /// Others can read the key file: close it to them.
    #[error("the master key {} can be read by others: run `chmod 600 {}`", .key_path.display(), .key_path.display())]
    OpenKey {
        /// The key file.
        key_path: PathBuf,
    },
}

/// Makes the directory of `path`, and those above it, for the owner alone.
pub(crate) fn make_directory(path: &Path) -> Result<(), OpenError> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
    else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(access("create the directory", directory))
}

/// Locks the store against other processes, for as long as the file lives.
///
/// The lock lies beside the database: closing any second handle of the database itself would
/// drop the locks that SQLite holds on it.
pub(crate) fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = path.with_added_extension("lock");
    let opened =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
    let file = opened.map_err(access("write", &lock_path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(access("lock", &lock_path)(source)),
    }
}

/// Makes sure that the database file is there, readable by its owner alone, and writable.
pub(crate) fn touch(path: &Path) -> Result<(), OpenError> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.map(drop).map_err(access("write", path))
}

/// Reads the master key.
pub(crate) fn read_key(key_path: &Path) -> Result<Key256, OpenError> {
    let mut file = File::open(key_path).map_err(access("read", key_path))?;
    let mode = file.metadata().map_err(access("read", key_path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(OpenError::OpenKey { key_path: key_path.to_owned() });
    }
    let mut bytes = Zeroizing::new([0; 33]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]).map_err(access("read", key_path))? {
            0 => break,
            n => length += n,
        }
    }
    Key256::from_slice(&bytes[..length])
        .ok_or_else(|| OpenError::BadKey { key_path: key_path.to_owned() })
}

/// Draws a master key and writes it, or reads the one that an unfinished creation left.
pub(crate) fn create_key(key_path: &Path) -> Result<Key256, OpenError> {
    if key_path.exists() {
        return read_key(key_path);
    }
    make_directory(key_path)?;
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut bytes[..])
        .map_err(|e| access("draw random bytes for", key_path)(io::Error::other(e)))?;
    // Written aside and renamed: a crash leaves a whole key or none.
    let unfinished = key_path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(access("write", &unfinished))?;
    file.write_all(&bytes[..])
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&unfinished, key_path))
        .map_err(access("write", key_path))?;
    sync_directory(key_path)?;
    Ok(Key256::from_bytes(*bytes))
}

/// Makes the name of a new file durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(access("sync", directory))
}

fn access(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Access { action, path: path.to_owned(), source }
}
