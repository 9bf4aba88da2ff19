//! Both sites of a measurement in this process, with buffers that a simulated link has filled before.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use claviger_device::KeyPath;
use claviger_net::clock::Clock;
use claviger_net::shutdown::{Shutdown, TaskGroup};
use claviger_photonics::Eve;
use claviger_roles::config::{
    self, Raw, RawFibre, RawGateway, RawKme, RawLink, RawPlatform, RawQkd,
};
use claviger_roles::init::{self, Layout, Plan};
use claviger_roles::{
    Context, Folder, Report, Reporter, RoleError, fibre, gateway, kme, platform, qkd,
};
use claviger_units::Site;
use tokio::sync::{mpsc, watch};

use crate::console;
use crate::lab::own_controller;

/// The bits that are in either buffer before the clock runs.
const BUFFER: u64 = 16_000_000;
/// The link that has filled them.
const PRESET: &str = "decoy-1ghz";
/// The first port.
pub(super) const PORT_BASE: u16 = 15_950;
/// Nothing goes on for so long: something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Two sites, and where their roles tell what happens.
pub(super) struct Sites {
    pub(super) layout: Layout,
    clock: Clock,
    reporter: Reporter,
    pub(super) reports: mpsc::UnboundedReceiver<Report>,
}

impl Sites {
    /// Makes the folders as `claviger init` does.
    pub(super) fn create(state: &Path, n_devices: u32, renew_s: f64) -> Result<Self> {
        init::create(state, &plan(n_devices, renew_s))?;
        let (reporter, reports) = Reporter::channel();
        Ok(Self { layout: Layout::below(state), clock: Clock::start(), reporter, reports })
    }

    /// Starts both key management entities and fills them; returns how many keys are in the first.
    pub(super) async fn start_keys(
        &mut self,
        shutdown: &Shutdown,
        tasks: &mut TaskGroup,
    ) -> Result<u64> {
        for (name, role) in [("kme a", "site-a/kme"), ("kme b", "site-b/kme")] {
            let config = self.fitted::<RawKme>(role, |raw| raw.capacity_bits = BUFFER)?;
            let kme = kme::run(config, self.folder(role), self.context(shutdown));
            tasks.spawn(name, ended(name, kme));
        }
        self.fill_buffers().await
    }

    pub(super) fn start_platform(
        &self,
        shutdown: &Shutdown,
        tasks: &mut TaskGroup,
        fit: impl FnOnce(&mut RawPlatform),
    ) -> Result<()> {
        let role = "site-b/platform";
        let config = self.fitted::<RawPlatform>(role, fit)?;
        let platform = platform::run(config, self.folder(role), self.context(shutdown));
        tasks.spawn("platform", ended("platform", platform));
        Ok(())
    }

    pub(super) fn start_gateway(&self, shutdown: &Shutdown, tasks: &mut TaskGroup) -> Result<()> {
        let role = "site-a/gateway";
        let (config, context) = (self.loaded::<RawGateway>(role)?, self.context(shutdown));
        let gateway = gateway::run(config, self.folder(role), context);
        tasks.spawn("gateway", ended("gateway", gateway));
        Ok(())
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

    pub(super) async fn wait_ready(&mut self, mut n_roles: usize) -> Result<()> {
        while n_roles > 0 {
            let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
            if matches!(report.context("a role does not get ready")?, Some(Report::Ready(_))) {
                n_roles -= 1;
            }
        }
        Ok(())
    }

    pub(super) fn context(&self, shutdown: &Shutdown) -> Context {
        Context { clock: self.clock, shutdown: shutdown.clone(), reports: self.reporter.clone() }
    }

    pub(super) fn folder(&self, role: &str) -> Folder {
        Folder::new(self.layout.folder(role))
    }

    pub(super) fn loaded<R: Raw>(&self, role: &str) -> Result<R::Config> {
        Ok(config::load::<R>(&self.layout.config(role))?)
    }

    pub(super) fn fitted<R: Raw + serde::Serialize>(
        &self,
        role: &str,
        fit: impl FnOnce(&mut R),
    ) -> Result<R::Config> {
        let path = self.layout.config(role);
        own_controller::fit(&path, fit)?;
        self.loaded::<R>(role)
    }
}

fn plan(devices: u32, renew_s: f64) -> Plan {
    Plan {
        link: RawLink { preset: PRESET.into(), loss_db: None, seed: None },
        simulated_speed: 1.0,
        eve_fraction: 0.0,
        devices,
        fibres: Vec::new(),
        renew_s,
        paths: vec![KeyPath::Push],
        pad_keys: None,
        danger_idq3p: false,
        port_base: PORT_BASE,
        names: BTreeMap::new(),
    }
}

/// What a figure that was taken with such buffers says of them.
pub(super) fn filled_with(n_keys: u64) -> String {
    let capacity = BUFFER / 1_000_000;
    format!(
        "buffers filled beforehand with {n_keys} keys by {PRESET} (simulated) at {capacity} Mbit capacity"
    )
}

pub(super) async fn ended(name: &'static str, role: impl Future<Output = Result<(), RoleError>>) {
    if let Err(error) = role.await {
        console::err(format_args!("{name}: {error}"));
    }
}
