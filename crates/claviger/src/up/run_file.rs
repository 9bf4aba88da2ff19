//! `STATE/run.json`: who runs on a state folder, and where to find it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use claviger_roles::init::Ports;
use serde::{Deserialize, Serialize};

/// What the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// The process.
    pub(crate) pid: u32,
    /// The link in words.
    pub(crate) link: String,
    /// Always true here: no hardware.
    pub(crate) simulated: bool,
    /// How much faster than the wall clock the link runs.
    pub(crate) simulated_speed: f64,
    /// Whether its keys are reproducible and never to be used.
    pub(crate) seeded: bool,
    /// Devices.
    pub(crate) devices: u32,
    /// Every address by its name.
    pub(crate) addresses: BTreeMap<String, SocketAddr>,
}

/// The name of the file in the state folder.
pub(crate) const NAME: &str = "run.json";

impl RunFile {
    /// Lists the ports by their names.
    pub(crate) fn addresses(ports: &Ports) -> Result<BTreeMap<String, SocketAddr>> {
        Ok(serde_json::from_value(serde_json::to_value(ports)?)?)
    }

    /// Reads the file of a state folder, `None` where there is none.
    pub(crate) fn load(state: &Path) -> Result<Option<Self>> {
        let path = state.join(NAME);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                let text = read.with_context(|| format!("{} cannot be read", path.display()))?;
                let run = serde_json::from_str(&text);
                run.map(Some).with_context(|| format!("{} is not understood", path.display()))
            }
        }
    }

    /// Writes the file; it is there until what is returned is dropped.
    pub(crate) fn publish(&self, path: PathBuf) -> Result<Published> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Published(path))
    }
}

/// A run file that lies there for all to read.
#[derive(Debug)]
pub(crate) struct Published(PathBuf);

impl Drop for Published {
    fn drop(&mut self) {
        // If it stays, the lock still tells that nobody runs.
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_file_is_there_while_somebody_runs() {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::from_base(14_000).unwrap();
        let run = RunFile {
            pid: 7,
            link: "lab, 4 dB".into(),
            simulated: true,
            simulated_speed: 1.0,
            seeded: false,
            devices: 24,
            addresses: RunFile::addresses(&ports).unwrap(),
        };
        assert_eq!(run.addresses["kme_a"], ports.kme_a);
        let published = run.publish(folder.path().join(NAME)).unwrap();
        assert_eq!(RunFile::load(folder.path()).unwrap(), Some(run));
        drop(published);
        assert_eq!(RunFile::load(folder.path()).unwrap(), None);
    }
}
