//! Counting a fleet from inside its network: `claviger lab observe`, which the live parts of the laboratory
//! start there; and those who start it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use claviger_frames::next_wake;
use claviger_lab::figures::latency::Network;
use claviger_netlab::Carried;
use claviger_roles::config::RawDevices;
use claviger_roles::devices::DevicesAccount;
use claviger_roles::init::Layout;
use claviger_units::{Eui64, Span, Timestamp};
use claviger_wire::platform::{Reading, Readings};
use serde::{Deserialize, Serialize};

use super::links;
use super::shelf::write_whole;
use crate::cli::StateArgs;
use crate::cli::lab::LabObserveArgs;
use crate::console;
use crate::platform::Platform;

/// A network to be built, with a fleet on it.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) network: Network,
    pub(super) topology: String,
    /// The link of each host but the gateway, and from what its chance is made.
    pub(super) link: String,
    pub(super) link_seed: u64,
    pub(super) wake: Span,
    /// Whether every other device makes its keys itself.
    pub(super) with_dkg: bool,
    pub(super) length: Span,
}

/// What was counted of one device over a time.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Observation {
    pub(super) host: String,
    /// `dkg` where it makes its keys itself, or else their path.
    pub(super) way: String,
    pub(super) account: DevicesAccount,
    /// What its link has carried.
    pub(super) frames_sent: u64,
    pub(super) frames_lost: u64,
    pub(super) frames_crowded: u64,
    /// The mean of those that arrived, in milliseconds.
    pub(super) frame_ms: f64,
    pub(super) readings: Vec<Waited>,
}

/// How long a reading took to the platform, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Waited {
    /// Since the wake began.
    pub(super) since_wake_ms: f64,
    /// Since it was measured.
    pub(super) since_taken_ms: f64,
}

/// After how many wakes of each device a fleet is taken to have settled: at the start all come at once, and some
/// wakes are none of their slots.
const SETTLE: u64 = 3;

impl Setting {
    /// Builds the network, lets the fleet live there, and counts.
    pub(super) fn observe(&self) -> Result<Vec<Observation>> {
        let program =
            std::env::current_exe().context("this program does not know where it lies")?;
        let folder = tempfile::tempdir().context("a folder for the numbers cannot be made")?;
        let file = folder.path().join("counted.json");
        let seconds = |span: Span| format!("{}s", span.as_secs_f64());
        let settle = seconds(Span::from_micros(SETTLE * self.wake.as_micros()));
        let mut command = super::bound(&program);
        match self.network {
            Network::Namespaces => command.args(["lab", "net", "run"]),
            Network::Mininet => command.args(["lab", "mininet"]),
        };
        let link_seed = self.link_seed.to_string();
        command.args([&self.topology, "--link", &self.link, "--link-seed", &link_seed]);
        command
            .args(["--fleet", "--wake", &seconds(self.wake)])
            .args(self.with_dkg.then_some("--dkg"))
            .arg("--");
        command.arg(&program).args(["lab", "observe", "--for", &seconds(self.length)]);
        command.args(["--settle", &settle, "--out"]).arg(&file);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("{program:?} does not start"))?;
        ensure!(status.success(), "the fleet could not be observed: see above");
        let text = fs::read_to_string(&file).context("the observer has left nothing")?;
        serde_json::from_str(&text).context("what the observer has left is not understood")
    }
}

/// Counts, inside the network.
pub(super) async fn observe(args: &LabObserveArgs) -> Result<()> {
    let state = std::env::var_os("CLAVIGER_STATE")
        .context("`claviger lab live` and `lab fig2c` run this, inside a network")?;
    let state = PathBuf::from(state);
    let platform = Platform::open(&StateArgs { state: state.clone() })?;
    let devices = Device::all(&state)?;
    tokio::time::sleep(Duration::from(args.settle)).await;
    let (mut after, mut readings) = (0, Vec::new());
    read(&platform, &mut after, &mut readings).await?;
    let before = states(&state, &devices)?;
    readings.clear();
    tokio::time::sleep(Duration::from(args.length)).await;
    let states = states(&state, &devices)?;
    read(&platform, &mut after, &mut readings).await?;
    let mut by_device = BTreeMap::<&str, Vec<&Reading>>::new();
    for reading in &readings {
        by_device.entry(&reading.eui).or_default().push(reading);
    }
    let observations: Vec<_> = devices
        .into_iter()
        .zip(before.iter().zip(&states))
        .map(|(device, (before, after))| {
            let readings = by_device.remove(&*device.eui.to_string()).unwrap_or_default();
            let waited = readings.iter().filter_map(|reading| device.waited(reading)).collect();
            device.observed(before, after, waited)
        })
        .collect();
    let n_readings: usize = observations.iter().map(|one| one.readings.len()).sum();
    ensure!(n_readings > 0, "no reading came in this time");
    console::err(format_args!("observed: {n_readings} readings of {} devices", observations.len()));
    write_whole(&args.out, &serde_json::to_string(&observations)?)
}

/// A device of the network.
struct Device {
    host: String,
    folder: PathBuf,
    eui: Eui64,
    way: String,
    wake: Span,
}

/// What a device and its link have done so far.
type State = (DevicesAccount, Carried);

impl Device {
    /// Finds all devices below the state folder, and how they live.
    fn all(state: &Path) -> Result<Vec<Self>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(state).with_context(|| format!("reading {}", state.display()))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(host) = name.strip_prefix("devices-") else { continue };
            let text = fs::read_to_string(Layout::below(state).config(&name));
            let raw: RawDevices = toml::from_str(&text.context("reading how a device lives")?)?;
            let path = raw.paths.into_iter().next().context("a device has no path")?;
            devices.push(Self {
                host: host.to_owned(),
                folder: state.join(&name),
                eui: claviger_netlab::card(raw.first).into(),
                way: if raw.dkg_peer.is_some() { "dkg".to_owned() } else { path },
                wake: Span::from_secs_f64(raw.wake_s),
            });
        }
        ensure!(!devices.is_empty(), "there is no device on a host of its own: run with --fleet");
        devices.sort_by_key(|device| device.eui);
        Ok(devices)
    }

    /// Reckons how long a reading took.
    fn waited(&self, reading: &Reading) -> Option<Waited> {
        let taken_s = reading.taken_s?;
        let taken = Timestamp::START + Span::from_secs_f64(taken_s) + ROUNDING;
        // The last slot until then.
        let before = Timestamp::START
            + Span::from_micros(
                taken.since(Timestamp::START).as_micros().saturating_sub(self.wake.as_micros()),
            );
        let woke = next_wake(before, self.eui, self.wake);
        let woke_s = woke.since(Timestamp::START).as_secs_f64();
        Some(Waited {
            since_wake_ms: 1e3 * (reading.received_s - woke_s),
            since_taken_ms: 1e3 * (reading.received_s - taken_s),
        })
    }

    fn observed(self, before: &State, after: &State, readings: Vec<Waited>) -> Observation {
        let (account, link) = (after.0.since(&before.0), after.1.since(&before.1));
        Observation {
            host: self.host,
            way: self.way,
            account,
            frames_sent: link.sent,
            frames_lost: link.lost,
            frames_crowded: link.crowded,
            frame_ms: 1e3 * link.under_way.as_secs_f64() / real(link.arrived),
            readings,
        }
    }
}

/// When a reading was taken is told in whole milliseconds.
const ROUNDING: Span = Span::from_millis(1);

/// Reads what the devices and their links have done; devices write it down every two seconds.
fn states(state: &Path, devices: &[Device]) -> Result<Vec<State>> {
    let links = links::read(state)?;
    let state = |device: &Device| {
        let path = device.folder.join("account.json");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()));
        let account: DevicesAccount = serde_json::from_str(&text?)?;
        let link = links.get(&device.host);
        let link = link.with_context(|| format!("no link of {} is counted", device.host))?;
        Ok((account, *link))
    };
    devices.iter().map(state).collect()
}

/// Reads what is new at the platform.
async fn read(platform: &Platform, after: &mut u64, kept: &mut Vec<Reading>) -> Result<()> {
    loop {
        let page: Readings =
            platform.ask(&format!("/v1/readings?after={after}&limit=1000")).await?;
        let Some(last) = page.readings.last() else { return Ok(()) };
        *after = last.seq;
        kept.extend(page.readings);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_the_last_slot_before_its_reading() {
        let (eui, wake) = (Eui64::from_bytes([7; 8]), Span::from_secs(10));
        let device =
            Device { host: "h1".into(), folder: PathBuf::new(), eui, way: "https".into(), wake };
        let slot = next_wake(Timestamp::from_micros(1_700_000_000_000_000), eui, wake);
        let slot_s = slot.since(Timestamp::START).as_secs_f64();
        for after_ms in [-0.9, 0.0, 35.0, 9_900.0] {
            let taken_s = slot_s + after_ms / 1e3;
            let text = format!(
                r#"{{"seq":1,"eui":"{eui}","epoch":3,"key_origin":"simulated","counter":0,"received_s":{},"taken_s":{taken_s}}}"#,
                taken_s + 0.02
            );
            let reading: Reading = serde_json::from_str(&text).unwrap();
            let waited = device.waited(&reading).unwrap();
            assert!((waited.since_taken_ms - 20.0).abs() < 0.01, "{waited:?}");
            assert!((waited.since_wake_ms - after_ms - 20.0).abs() < 0.01, "{waited:?}");
        }
    }
}
