//! A fleet of 13 000 devices on emulated switches: from nothing to everybody's first key.
//!
//! Before the clock runs, a simulated link fills the buffers and falls silent. The clock covers the rest:
//! the controller and all switches start, all labels are imported, all cards are plugged in; it ends when
//! every device is let in, every table is confirmed, and the frame of every device's first key is ready.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use claviger_device::KeyPath;
use claviger_net::clock::Clock;
use claviger_net::link::{self, LinkEvent};
use claviger_net::shutdown::{Shutdown, TaskGroup};
use claviger_netlab::card;
use claviger_photonics::Eve;
use claviger_roles::config::{
    self, Raw, RawController, RawFibre, RawGateway, RawKme, RawLan, RawLink, RawPlatform, RawQkd,
};
use claviger_roles::init::{self, Layout, Plan, Ports};
use claviger_roles::{
    Context, Folder, Report, Reporter, RoleError, controller, fibre, gateway, kme, lan, platform,
    qkd,
};
use claviger_units::Site;
use claviger_wire::enrolment::Imported;
use claviger_wire::lan::Message;
use claviger_wire::sdn::Switch;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::{mpsc, watch};

use crate::cli::StateArgs;
use crate::console;
use crate::lab::own_controller;
use crate::platform::Platform;
use crate::sdn::Controller;

/// The bits that are in either buffer before the clock runs.
const BUFFER: u64 = 16_000_000;
/// The link that has filled them.
const PRESET: &str = "decoy-1ghz";
const PORT_BASE: u16 = 15_950;

/// Measures the seconds that `n_devices` take.
pub(super) async fn measure(n_devices: u32) -> Result<f64> {
    let state = tempfile::tempdir().context("making a folder for the fleet")?;
    init::create(state.path(), &plan(n_devices))?;
    let layout = Layout::below(state.path());
    let (reporter, reports) = Reporter::channel();
    let mut fleet = Fleet { layout, clock: Clock::start(), reporter, reports };
    let shutdown = Shutdown::new();
    let mut tasks = TaskGroup::new(shutdown.clone());
    let measured = fleet.run(&shutdown, &mut tasks, state.path(), n_devices).await;
    shutdown.trigger();
    tasks.finish(Duration::from_secs(5)).await;
    measured
}

fn plan(devices: u32) -> Plan {
    Plan {
        link: RawLink { preset: PRESET.into(), loss_db: None, seed: None },
        simulated_speed: 1.0,
        eve_fraction: 0.0,
        devices,
        fibres: Vec::new(),
        renew_s: 3600.0,
        paths: vec![KeyPath::Https],
        danger_idq3p: false,
        port_base: PORT_BASE,
        names: BTreeMap::new(),
    }
}

struct Fleet {
    layout: Layout,
    clock: Clock,
    reporter: Reporter,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl Fleet {
    async fn run(
        &mut self,
        shutdown: &Shutdown,
        tasks: &mut TaskGroup,
        state: &Path,
        n_devices: u32,
    ) -> Result<f64> {
        let filled = self.start_sites(shutdown, tasks).await?;
        let labels = labels(n_devices);
        let started = Instant::now();
        self.start_network(shutdown, tasks).await?;
        let importing = tokio::spawn(import(state.to_owned(), labels));
        let ports = Ports::from_base(PORT_BASE).context("the ports do not fit")?;
        let plugging = tokio::spawn(plug_in(ports.lan.to_string(), n_devices));
        let mut parts = Parts::default();
        while parts.prepared < n_devices {
            self.next_report(started, &mut parts).await?;
        }
        parts.ready = started.elapsed();
        importing.await??;
        plugging.await??;
        confirmed(state, n_devices).await?;
        let elapsed = started.elapsed();
        console::err(format_args!(
            "{n_devices} devices on {parts}, all let in and confirmed after {:.1} s; buffers filled \
             beforehand with {filled} keys by {PRESET} (simulated) at {} Mbit capacity",
            elapsed.as_secs_f64(),
            BUFFER / 1_000_000,
        ));
        Ok(elapsed.as_secs_f64())
    }

    /// Starts what makes, keeps and uses keys; returns how many are in the first buffer.
    async fn start_sites(&mut self, shutdown: &Shutdown, tasks: &mut TaskGroup) -> Result<u64> {
        for (name, role) in [("kme a", "site-a/kme"), ("kme b", "site-b/kme")] {
            let config = self.fitted::<RawKme>(role, |raw| raw.capacity_bits = BUFFER)?;
            let kme = kme::run(config, self.folder(role), self.context(shutdown));
            tasks.spawn(name, ended(name, kme));
        }
        let filled = self.fill_buffers().await?;
        let role = "site-b/platform";
        let (config, context) = (self.loaded::<RawPlatform>(role)?, self.context(shutdown));
        let platform = platform::run(config, self.folder(role), context);
        tasks.spawn("platform", ended("platform", platform));
        let role = "site-a/gateway";
        let (config, context) = (self.loaded::<RawGateway>(role)?, self.context(shutdown));
        let gateway = gateway::run(config, self.folder(role), context);
        tasks.spawn("gateway", ended("gateway", gateway));
        self.wait_ready(2).await?;
        Ok(filled)
    }

    async fn start_network(&mut self, shutdown: &Shutdown, tasks: &mut TaskGroup) -> Result<()> {
        let role = "site-b/controller";
        let (config, context) = (self.loaded::<RawController>(role)?, self.context(shutdown));
        let controller = controller::run(config, self.folder(role), context);
        tasks.spawn("controller", ended("controller", controller));
        let role = "site-a/switch";
        let (config, context) = (self.loaded::<RawLan>(role)?, self.context(shutdown));
        tasks.spawn("lan", ended("lan", lan::run(config, self.folder(role), context)));
        self.wait_ready(2).await
    }

    /// Lets a simulated link fill the buffers, and returns how many keys they hold.
    async fn fill_buffers(&mut self) -> Result<u64> {
        let shutdown = Shutdown::new();
        let mut tasks = TaskGroup::new(shutdown.clone());
        let (_eve, watched) = watch::channel(Eve::ABSENT);
        let config = self.loaded::<RawFibre>("fibre")?;
        let light = fibre::run(config, self.folder("fibre"), watched, self.context(&shutdown));
        tasks.spawn("fibre", ended("fibre", light));
        for (name, folder) in [("qkd a", "site-a/qkd"), ("qkd b", "site-b/qkd")] {
            let config = self.loaded::<RawQkd>(folder)?;
            tasks.spawn(
                name,
                ended(name, qkd::run(config, self.folder(folder), self.context(&shutdown))),
            );
        }
        let (mut held, begun) = ([0; 2], Instant::now());
        loop {
            let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
            let report = report.context("the link has filled nothing for too long")?;
            if let Some(Report::Buffer { site, available, capacity }) = report {
                held[usize::from(site == Site::B)] = available;
                // The last block may not fit whole.
                if held.iter().all(|&keys| 100 * keys >= 97 * capacity) {
                    break;
                }
            }
            anyhow::ensure!(begun.elapsed() < 10 * PATIENCE, "the buffers do not fill: {held:?}");
        }
        shutdown.trigger();
        tasks.finish(Duration::from_secs(5)).await;
        console::err(format_args!("buffers filled in {:.0} s", begun.elapsed().as_secs_f64()));
        Ok(held[0])
    }

    async fn wait_ready(&mut self, mut n_roles: usize) -> Result<()> {
        while n_roles > 0 {
            let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
            if matches!(report.context("a role does not get ready")?, Some(Report::Ready(_))) {
                n_roles -= 1;
            }
        }
        Ok(())
    }

    async fn next_report(&mut self, started: Instant, parts: &mut Parts) -> Result<()> {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        let report = report.with_context(|| format!("nothing goes on any more: {parts:?}"))?;
        match report {
            Some(Report::Settled { switches, hosts, .. }) => {
                parts.n_switches = switches;
                if hosts > parts.n_hosts {
                    (parts.n_hosts, parts.seen) = (hosts, started.elapsed());
                }
            }
            Some(Report::Ordered { keys, .. }) => {
                parts.n_orders += 1;
                parts.placed = started.elapsed();
                parts.ordered += keys;
            }
            Some(Report::Prepared { epoch: 1, .. }) => {
                parts.prepared += 1;
                if parts.prepared == 1 {
                    parts.first_ready = started.elapsed();
                }
            }
            Some(Report::Halted { role, why }) => bail!("{role}: {why}"),
            _ => {}
        }
        Ok(())
    }

    fn context(&self, shutdown: &Shutdown) -> Context {
        Context { clock: self.clock, shutdown: shutdown.clone(), reports: self.reporter.clone() }
    }

    fn folder(&self, role: &str) -> Folder {
        Folder::new(self.layout.folder(role))
    }

    fn loaded<R: Raw>(&self, role: &str) -> Result<R::Config> {
        Ok(config::load::<R>(&self.layout.config(role))?)
    }

    fn fitted<R: Raw + serde::Serialize>(
        &self,
        role: &str,
        fit: impl FnOnce(&mut R),
    ) -> Result<R::Config> {
        let path = self.layout.config(role);
        own_controller::fit(&path, fit)?;
        self.loaded::<R>(role)
    }
}

/// What was told so far.
#[derive(Debug, Default)]
struct Parts {
    n_switches: usize,
    n_hosts: usize,
    seen: Duration,
    n_orders: usize,
    placed: Duration,
    first_ready: Duration,
    ordered: usize,
    prepared: u32,
    ready: Duration,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} emulated switches: all seen after {:.1} s, {} order(s) for {} first keys, the last after \
             {:.1} s, the first ready after {:.1} s and all after {:.1} s",
            self.n_switches,
            self.seen.as_secs_f64(),
            self.n_orders,
            self.ordered,
            self.placed.as_secs_f64(),
            self.first_ready.as_secs_f64(),
            self.ready.as_secs_f64(),
        )
    }
}

/// Nothing goes on for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

async fn ended(name: &'static str, role: impl Future<Output = Result<(), RoleError>>) {
    if let Err(error) = role.await {
        console::err(format_args!("{name}: {error}"));
    }
}

fn labels(n_devices: u32) -> String {
    let mut rng = StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails");
    let mut text = "mac,bootstrap_key,policy\n".to_owned();
    for number in 1..=n_devices {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let digits = key.map(|byte| format!("{byte:02x}")).concat();
        text += &format!("{},{digits},sensor\n", card(number));
    }
    text
}

async fn import(state: std::path::PathBuf, labels: String) -> Result<()> {
    let platform = Platform::open(&StateArgs { state })?;
    let imported: Imported = platform.post_text("/v1/enrolments", labels.into_bytes()).await?;
    tracing::debug!(imported.devices, "labels imported");
    Ok(())
}

async fn plug_in(address: String, n_devices: u32) -> Result<()> {
    let mut cables = link::dial_plain(&address, "cables of the fleet");
    let sender = cables.sender();
    let LinkEvent::Connected(generation) = cables.next().await else {
        bail!("the emulated network does not answer");
    };
    for number in 1..=n_devices {
        let frame = Message::Attach { mac: card(number) }.encode();
        sender.send(generation, frame).await.context("plugging a card in")?;
    }
    // The cards stay plugged in when their cables are gone, but what is on its way must arrive.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// Waits until every device is let in and every switch has confirmed its tables.
async fn confirmed(state: &Path, n_devices: u32) -> Result<()> {
    let controller = Controller::of(state)?;
    let begun = Instant::now();
    loop {
        let hosts = controller.hosts().await?;
        let admitted =
            hosts.iter().filter(|host| host.policy.as_deref() == Some("sensor") && host.present);
        let n_admitted = admitted.count();
        let switches = controller.switches().await?;
        let is_done = |switch: &&Switch| switch.up && switch.differing == 0 && !switch.confirming;
        let n_done = switches.iter().filter(is_done).count();
        if n_admitted == n_devices as usize && n_done == switches.len() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let n_switches = switches.len();
            bail!(
                "{n_admitted} of {n_devices} devices let in, {n_done} of {n_switches} switches done"
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
