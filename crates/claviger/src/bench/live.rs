//! A live fleet on this machine: gateway and devices as processes of their own, devices that connect for
//! each wake, first in their slots and then all at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use claviger_net::shutdown::{Shutdown, TaskGroup};
use claviger_roles::config::{RawAtBoot, RawDevices};
use claviger_roles::devices::DevicesAccount;
use tokio::process::{Child, Command};

use super::sites::{Sites, filled_with};
use crate::console;
use crate::lab::own_controller;

/// What a live fleet has shown.
#[derive(Debug)]
pub(super) struct Shown {
    /// Wakes whose readings did not get through, and wakes under a key that should have been renewed.
    pub(super) missed: u64,
    /// Wakes that were looked at.
    pub(super) wakes: u64,
    /// The time that 99 of 100 wakes took at most.
    pub(super) p99_ms: f64,
    /// From the start of all devices at once until each had delivered a reading.
    pub(super) storm_s: f64,
    /// The most memory that the gateway has held, its broker included.
    pub(super) gateway_mb: f64,
}

/// Runs `n_devices` for `length`.
pub(super) async fn measure(n_devices: u32, length: Duration) -> Result<Shown> {
    let state = tempfile::tempdir().context("making a folder for the fleet")?;
    let mut sites = Sites::create(state.path(), n_devices, RENEW_S)?;
    let shutdown = Shutdown::new();
    let mut tasks = TaskGroup::new(shutdown.clone());
    let shown = run(&mut sites, &shutdown, &mut tasks, (n_devices, length)).await;
    shutdown.trigger();
    tasks.finish(Duration::from_secs(5)).await;
    shown
}

async fn run(
    sites: &mut Sites,
    shutdown: &Shutdown,
    tasks: &mut TaskGroup,
    (n_devices, length): (u32, Duration),
) -> Result<Shown> {
    let filled = sites.start_keys(shutdown, tasks).await?;
    console::err(filled_with(filled));
    // No network of switches: every device that is brought is adopted.
    sites.start_platform(shutdown, tasks, |raw| raw.enrolment = None)?;
    sites.wait_ready(1).await?;
    let config = sites.layout.config("site-a/gateway");
    let mut gateway = own_controller::spawn(None, "gateway", &config, 0)?;
    own_controller::ready(&mut gateway, "gateway").await?;

    let agents = Agents::prepare(sites, n_devices)?;
    let begun = Instant::now();
    let running = agents.start(RawAtBoot::Slot).await?;
    agents.wait_for(n_devices, ADOPTION).await?;
    let took = begun.elapsed().as_secs_f64();
    console::err(format_args!("{n_devices} devices provisioned, keyed and read in {took:.0} s"));
    let before = agents.account()?;
    tokio::time::sleep(length).await;
    let slots = agents.account()?.since(&before);
    stop(running).await?;

    let running = agents.start(RawAtBoot::Once).await?;
    agents.wait_for(n_devices, STORM).await?;
    let storm = agents.account()?;
    let gateway_mb = resident_mb(&gateway)?;
    stop(running).await?;
    ensure!(slots.wakes > 0, "no device has woken in {} s", length.as_secs());
    Ok(Shown {
        missed: slots.undelivered + slots.late,
        wakes: slots.wakes,
        p99_ms: slots.quantile_ms(0.99).unwrap_or(f64::INFINITY),
        storm_s: storm.all_served_s.unwrap_or(f64::INFINITY),
        gateway_mb,
    })
}

/// The folders of the processes that emulate the fleet.
struct Agents(Vec<PathBuf>);

impl Agents {
    fn prepare(sites: &Sites, n_devices: u32) -> Result<Self> {
        let origin = sites.layout.folder("devices");
        let share = n_devices.div_ceil(PROCESSES);
        let mut folders = Vec::new();
        for first in (1..=n_devices).step_by(share as usize) {
            let folder = origin.with_file_name(format!("devices-{first}"));
            fs::create_dir_all(&folder).context("making the folder of an agent")?;
            for file in ["ca.pem", "identity.pem", "identity.key", "config.toml"] {
                fs::copy(origin.join(file), folder.join(file)).context("filling a folder")?;
            }
            own_controller::fit(&folder.join("config.toml"), |raw: &mut RawDevices| {
                raw.first = first;
                raw.devices = share.min(n_devices + 1 - first);
                raw.wake_s = WAKE_S;
                raw.renew_s = Some(RENEW_S);
                raw.lan = None;
            })?;
            folders.push(folder);
        }
        Ok(Self(folders))
    }

    async fn start(&self, at_boot: RawAtBoot) -> Result<Vec<Child>> {
        let mut running = Vec::new();
        for folder in &self.0 {
            let config = folder.join("config.toml");
            own_controller::fit(&config, |raw: &mut RawDevices| raw.at_boot = at_boot)?;
            drop(fs::remove_file(folder.join("account.json")));
            running.push(own_controller::spawn(None, "devices", &config, 0)?);
        }
        for child in &mut running {
            own_controller::ready(child, "devices").await?;
        }
        Ok(running)
    }

    /// Adds up what all agents have done; those that have written nothing yet have done nothing.
    fn account(&self) -> Result<DevicesAccount> {
        let read = |folder: &PathBuf| match fs::read_to_string(folder.join("account.json")) {
            Ok(text) => Ok(serde_json::from_str(&text)?),
            Err(_) => Ok(DevicesAccount::default()),
        };
        let accounts: Result<Vec<DevicesAccount>> = self.0.iter().map(read).collect();
        let sum = accounts?.into_iter().reduce(|sum, account| sum.beside(&account));
        sum.context("a fleet has one agent at least")
    }

    /// Waits until every device has delivered a reading.
    async fn wait_for(&self, n_devices: u32, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let account = self.account()?;
            if account.served >= u64::from(n_devices) && account.all_served_s.is_some() {
                return Ok(());
            }
            if begun.elapsed() > patience {
                bail!("{} of {n_devices} devices have delivered a reading", account.served);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Ends processes as an operator does, and waits for them.
async fn stop(running: Vec<Child>) -> Result<()> {
    for mut child in running {
        let process = child.id().context("an agent has ended by itself")?;
        let asked = Command::new("kill").args(["-TERM", &process.to_string()]).status().await?;
        ensure!(asked.success(), "an agent cannot be ended");
        let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
        ended.context("an agent does not end")??;
    }
    Ok(())
}

/// Reads the most memory that a process has held, in megabytes.
fn resident_mb(process: &Child) -> Result<f64> {
    let process = process.id().context("the gateway has ended")?;
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .context("the system does not tell how much memory a process holds")?
        .trim()
        .parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Seconds between two keys of a device.
const RENEW_S: f64 = 1800.0;
/// Seconds between two readings of a device.
const WAKE_S: f64 = 300.0;
/// Processes that share the fleet.
const PROCESSES: u32 = 2;
/// How long it may take until everybody has a key and has delivered a reading.
const ADOPTION: Duration = Duration::from_secs(900);
const STORM: Duration = Duration::from_secs(300);
