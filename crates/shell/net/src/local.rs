//! Sockets in a folder, for programs of this machine alone: the cable between a gateway and a device that is
//! docked there.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A socket that listens, and goes with this.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
    // Device and inode, by which it is known from what may lie there later.
    place: (u64, u64),
}

impl LocalListener {
    /// Listens at `path`, for its owner alone; over the socket that a process has left there which is no more,
    /// and over nothing else.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let short = Short::of(path)?;
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                let message = "something lies there that is no socket; remove it";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            if std::os::unix::net::UnixStream::connect(&short.path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(&short.path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let place = place_of(path)?;
        Ok(Self { listener, path: path.to_owned(), place })
    }

    /// Takes the next connection.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        if place_of(&self.path).is_ok_and(|place| place == self.place) {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// Connects to the socket at `path`.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = Short::of(path)?;
    UnixStream::connect(&short.path).await
}

fn place_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// A name that is short enough for a socket, which may have 107 bytes, while this lives.
struct Short {
    path: PathBuf,
    _folder: File,
}

impl Short {
    fn of(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let here = folder.as_os_str().is_empty();
        let folder = File::open(if here { Path::new(".") } else { folder })?;
        let number = folder.as_raw_fd().to_string();
        Ok(Self { path: Path::new("/proc/self/fd").join(number).join(name), _folder: folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn it_is_for_its_owner_and_goes_with_its_listener_whatever_the_path() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a-long-name-of-a-folder/".repeat(8));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("dock.sock");
        assert!(path.as_os_str().len() > 107);
        std::fs::write(&path, "a file of somebody").unwrap();
        assert!(LocalListener::bind(&path).is_err());
        std::fs::rename(&path, deep.join("kept")).unwrap();
        // What a process has left that was killed is taken over, what another one listens at is not.
        let left = std::os::unix::net::UnixListener::bind(Short::of(&path).unwrap().path).unwrap();
        assert!(LocalListener::bind(&path).is_err());
        drop(left);
        let listener = LocalListener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (near, far) = tokio::join!(connect(&path), listener.accept());
        near.unwrap().write_all(b"hello").await.unwrap();
        let mut heard = String::new();
        far.unwrap().read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        drop(listener);
        assert!(!path.exists() && connect(&path).await.is_err());
        // Whoever came later keeps his.
        let (first, second) = (LocalListener::bind(&path).unwrap(), deep.join("second"));
        let later = LocalListener::bind(&second).unwrap();
        std::fs::rename(&second, &path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(later);
    }
}
