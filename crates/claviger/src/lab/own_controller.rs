//! A controller for one laboratory: a folder, a configuration and a process of its own; and how other roles
//! are started beside it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use claviger_device::KeyPath;
use claviger_roles::config::{Raw, RawController, RawLink};
use claviger_roles::init::{self, Layout, Plan, Ports};
use serde::Serialize;
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
        settings: Settings,
        change: impl FnOnce(&mut RawController, &Ports),
    ) -> Result<Self> {
        let state = tempfile::tempdir_in(folder).context("making a folder for the controller")?;
        init::create(state.path(), &plan(port_base, settings))?;
        let ports = Ports::from_base(port_base).context("the ports do not fit")?;
        let path = Layout::below(state.path()).config("site-b/controller");
        fit(&path, |raw| change(raw, &ports))?;
        let mut process = spawn(None, "controller", &path, verbosity)?;
        ready(&mut process, "controller").await?;
        Ok(Self { process, ports, state })
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

/// What else than a controller there is to be; nothing of it matters to a controller alone.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Devices.
    pub(crate) devices: u32,
    /// Seconds between two wakes.
    pub(crate) renew_s: f64,
    /// Names and addresses in certificates, by party.
    pub(crate) names: BTreeMap<String, Vec<String>>,
}

impl Settings {
    /// A controller, and nobody who asks for more.
    pub(crate) const NONE: Self = Self { devices: 1, renew_s: 60.0, names: BTreeMap::new() };
}

/// Changes a configuration.
pub(crate) fn fit<R: Raw + Serialize>(path: &Path, change: impl FnOnce(&mut R)) -> Result<()> {
    let text = std::fs::read_to_string(path).context("reading the configuration")?;
    let mut raw: R = toml::from_str(&text)?;
    change(&mut raw);
    std::fs::write(path, toml::to_string(&raw)?).context("writing the configuration")
}

fn plan(port_base: u16, settings: Settings) -> Plan {
    let Settings { devices, renew_s, names } = settings;
    Plan {
        link: RawLink { preset: "lab".into(), loss_db: None, seed: None },
        simulated_speed: 1.0,
        eve_fraction: 0.0,
        devices,
        fibres: Vec::new(),
        renew_s,
        paths: vec![KeyPath::Https],
        pad_keys: None,
        danger_idq3p: false,
        port_base,
        names,
    }
}

/// Starts a role as the process that it is in the field, inside a host or beside the network.
pub(crate) fn spawn(host: Option<&str>, role: &str, config: &Path, verbosity: u8) -> Result<Child> {
    let words = ["run", role, "--config"].map(OsStr::new);
    let words = [&words[..], &[config.as_os_str()]].concat();
    spawn_words(host, &words, verbosity)
}

/// Starts this program with these words, inside a host or beside the network.
pub(crate) fn spawn_words(host: Option<&str>, words: &[&OsStr], verbosity: u8) -> Result<Child> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = match host {
        Some(host) => Command::from(claviger_netlab::inside(host, program)),
        None => Command::new(program),
    };
    command.args((0..verbosity).map(|_| "--verbose"));
    command.args(words);
    let errors = if verbosity > 0 { Stdio::inherit() } else { Stdio::null() };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
    command.spawn().with_context(|| format!("{words:?} cannot be started"))
}

/// Waits until a role is ready.
pub(crate) async fn ready(child: &mut Child, role: &str) -> Result<()> {
    let said = child.stdout.take().context("a role has no output")?;
    let mut lines = BufReader::new(said).lines();
    let getting_ready = async {
        while let Some(line) = lines.next_line().await? {
            if line.ends_with("ready") {
                return Ok(());
            }
        }
        bail!("the role {role} has ended; `-v` shows why")
    };
    let is_ready = tokio::time::timeout(GETTING_READY, getting_ready).await;
    is_ready.with_context(|| format!("the role {role} does not get ready; `-v` shows why"))?
}

/// How long a role may take until it serves: the devices wait until they have a label.
const GETTING_READY: Duration = Duration::from_secs(60);
