//! A fleet of 13 000 devices on emulated switches: from nothing to everybody's first key.
//!
//! Before the clock runs, a simulated link fills the buffers and falls silent. The clock covers the rest:
//! the controller and all switches start, all labels are imported, all cards are plugged in; it ends when
//! every device is let in, every table is confirmed, and the frame of every device's first key is ready.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use claviger_net::link::{self, LinkEvent};
use claviger_net::shutdown::{Shutdown, TaskGroup};
use claviger_netlab::card;
use claviger_roles::config::{RawController, RawLan};
use claviger_roles::init::Ports;
use claviger_roles::{Report, controller, lan};
use claviger_wire::enrolment::Imported;
use claviger_wire::lan::Message;
use claviger_wire::sdn::Switch;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};

use super::sites::{PATIENCE, PORT_BASE, Sites, ended, filled_with};
use crate::cli::StateArgs;
use crate::console;
use crate::platform::Platform;
use crate::sdn::Controller;

/// Measures the seconds that `n_devices` take.
pub(super) async fn measure(n_devices: u32) -> Result<f64> {
    let state = tempfile::tempdir().context("making a folder for the fleet")?;
    let mut fleet = Fleet(Sites::create(state.path(), n_devices, RENEW_S)?);
    let shutdown = Shutdown::new();
    let mut tasks = TaskGroup::new(shutdown.clone());
    let measured = fleet.run(&shutdown, &mut tasks, state.path(), n_devices).await;
    shutdown.trigger();
    tasks.finish(Duration::from_secs(5)).await;
    measured
}

/// How often keys are renewed: not within a measurement.
const RENEW_S: f64 = 3600.0;

struct Fleet(Sites);

impl Fleet {
    async fn run(
        &mut self,
        shutdown: &Shutdown,
        tasks: &mut TaskGroup,
        state: &Path,
        n_devices: u32,
    ) -> Result<f64> {
        let filled = self.0.start_keys(shutdown, tasks).await?;
        self.0.start_platform(shutdown, tasks, |_| {})?;
        self.0.start_gateway(shutdown, tasks)?;
        self.0.wait_ready(2).await?;
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
            "{n_devices} devices on {parts}, all let in and confirmed after {:.1} s; {}",
            elapsed.as_secs_f64(),
            filled_with(filled),
        ));
        Ok(elapsed.as_secs_f64())
    }

    async fn start_network(&mut self, shutdown: &Shutdown, tasks: &mut TaskGroup) -> Result<()> {
        let role = "site-b/controller";
        let (config, context) = (self.0.loaded::<RawController>(role)?, self.0.context(shutdown));
        let controller = controller::run(config, self.0.folder(role), context);
        tasks.spawn("controller", ended("controller", controller));
        let role = "site-a/switch";
        let (config, context) = (self.0.loaded::<RawLan>(role)?, self.0.context(shutdown));
        tasks.spawn("lan", ended("lan", lan::run(config, self.0.folder(role), context)));
        self.0.wait_ready(2).await
    }

    async fn next_report(&mut self, started: Instant, parts: &mut Parts) -> Result<()> {
        let report = tokio::time::timeout(PATIENCE, self.0.reports.recv()).await;
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
