//! A controller for one laboratory: a folder, a configuration and a process of its own.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use claviger_roles::config::{RawController, RawLink};
use claviger_roles::init::{self, Layout, Plan, Ports};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A controller that runs as the process that it is in the field, until this is dropped.
#[derive(Debug)]
pub(crate) struct OwnController {
    process: Child,
    ports: Ports,
    state: TempDir,
}

impl OwnController {
    /// Makes the folders as `claviger init` does, lets `fit` change the configuration, and waits
    /// until the controller is ready.
    pub(crate) async fn start(
        folder: &Path,
        port_base: u16,
        verbosity: u8,
        fit: impl FnOnce(&mut RawController),
    ) -> Result<Self> {
        let state = tempfile::tempdir_in(folder).context("making a folder for the controller")?;
        init::create(state.path(), &plan(port_base))?;
        let ports = Ports::from_base(port_base).context("the ports do not fit")?;
        let path = Layout::below(state.path()).config("site-b/controller");
        let text = std::fs::read_to_string(&path).context("reading the configuration")?;
        let mut raw: RawController = toml::from_str(&text)?;
        fit(&mut raw);
        std::fs::write(&path, toml::to_string(&raw)?).context("writing the configuration")?;
        Ok(Self { process: start(&path, verbosity).await?, ports, state })
    }

    /// Returns the folder for `--state`.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// Returns where it listens.
    pub(crate) const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Returns the number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }
}

/// Nothing of it matters but the controller.
fn plan(port_base: u16) -> Plan {
    Plan {
        link: RawLink { preset: "lab".into(), loss_db: None, seed: None },
        simulated_speed: 1.0,
        eve_fraction: 0.0,
        devices: 1,
        fibres: Vec::new(),
        renew_s: 60.0,
        danger_idq3p: false,
        port_base,
    }
}

async fn start(config: &Path, verbosity: u8) -> Result<Child> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new(program);
    command.args((0..verbosity).map(|_| "--verbose"));
    command.args(["run", "controller", "--config"]).arg(config);
    let errors = if verbosity > 0 { Stdio::inherit() } else { Stdio::null() };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
    let mut child = command.spawn().context("the controller cannot be started")?;
    let said = child.stdout.take().context("the controller has no output")?;
    let mut lines = BufReader::new(said).lines();
    while let Some(line) = lines.next_line().await? {
        if line.ends_with("ready") {
            return Ok(child);
        }
    }
    bail!("the controller has ended; `-v` shows why")
}
