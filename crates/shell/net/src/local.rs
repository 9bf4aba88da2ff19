//! Sockets in a folder, for programs of this machine alone: the cable between a gateway and a device that is
//! docked there.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A socket that listens, and goes with this.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalListener {
    /// Listens at `path`, over what a process that died has left there; for its owner alone.
    pub fn bind(path: &Path) -> io::Result<Self> {
        std::fs::remove_file(path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let listener = within(path, UnixListener::bind)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Takes the next connection.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// Connects to the socket at `path`.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let connecting = within(path, std::os::unix::net::UnixStream::connect)?;
    connecting.set_nonblocking(true)?;
    UnixStream::from_std(connecting)
}

/// Calls with a name of `path` that is short enough for a socket, which may have 107 bytes.
fn within<R>(path: &Path, call: impl FnOnce(PathBuf) -> io::Result<R>) -> io::Result<R> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?;
    call(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
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
        std::fs::write(&path, "left behind").unwrap();
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
    }
}
