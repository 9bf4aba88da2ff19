//! `claviger lab live`: a fleet on an emulated network, counted, beside what virtual time foretells of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use claviger_lab::live::{Compared, Observed, Scenario, compare};
use claviger_lab::replay::LinkLedger;
use claviger_photonics::LinkPreset;
use claviger_roles::devices::DevicesAccount;
use claviger_units::Span;
use claviger_wire::platform::{Reading, Readings};
use serde::{Deserialize, Serialize};

use super::shelf::write_whole;
use crate::cli::StateArgs;
use crate::cli::lab::{LabLiveArgs, LabObserveArgs};
use crate::console;
use crate::platform::Platform;

/// How far a number may be off, in per cent.
pub(crate) const MOST_OFF: f64 = 5.0;

/// After how many wakes of each device a fleet is taken to have settled.
const SETTLE: u64 = 3;

/// What the observer writes down.
#[derive(Debug, Serialize, Deserialize)]
struct Counted {
    keys: u64,
    bytes: u64,
    wakes: u64,
    readings: usize,
    latency_ms: f64,
}

/// Runs the fleet, foretells it, and prints both; exit code 1 if a number is too far off.
pub(super) fn run(args: &LabLiveArgs) -> Result<ExitCode> {
    let compared = both(args)?;
    for one in &compared {
        let (off, Compared { name, live, foretold }) = (one.off_pct(), one);
        console::out(match args.json {
            true => serde_json::json!({
                "name": name, "live": live, "virtual": foretold, "off_pct": off,
            })
            .to_string(),
            false => format!("{name:20} live {live:12.1}   virtual {foretold:12.1}   {off:+.2} %"),
        });
    }
    Ok(if worst(&compared) <= MOST_OFF { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the greatest difference, whichever way, in per cent.
pub(crate) fn worst(compared: &[Compared]) -> f64 {
    compared.iter().map(|one| one.off_pct().abs()).fold(0.0, f64::max)
}

/// Runs the fleet live and in virtual time.
pub(crate) fn both(args: &LabLiveArgs) -> Result<[Compared; 3]> {
    let text = match &args.config {
        None => Scenario::SHIPPED.to_owned(),
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("the scenario {} cannot be read", path.display()))?,
    };
    let scenario = Scenario::from_toml(&text)?;
    super::net::check_needs()?;
    let folder = tempfile::tempdir().context("a folder for the numbers cannot be made")?;
    let counted = counted(&scenario, args.length, folder.path())?;
    let live = Observed {
        keys: real(counted.keys),
        bytes: real(counted.bytes),
        latency_ms: counted.latency_ms,
    };
    let link = LinkLedger::record(&LinkPreset::named(&scenario.link)?, args.seed, 20, |_| {})?;
    Ok(compare(live, scenario.foretell(&link, args.length, args.seed)?))
}

/// Lets the fleet live on an emulated network, with an observer inside.
fn counted(scenario: &Scenario, length: Span, folder: &Path) -> Result<Counted> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let file = folder.join("counted.json");
    let hop = scenario.hop;
    let link = format!(
        "delay={}ms,jitter={}ms,loss={}%",
        hop.delay_ms,
        hop.jitter_ms,
        100.0 * hop.packet_loss
    );
    // Beside the hosts of the tree there is the gateway, and the last of them is the platform.
    let topology = format!("tree,1,{}", scenario.devices + 1);
    let (length, settle) =
        (format!("{}s", length.as_secs_f64()), format!("{}s", SETTLE * scenario.wake_s));
    let mut command = Command::new(&program);
    command.args(["lab", "net", "run", &topology, "--fleet", "--link", &link, "--"]);
    command
        .arg(&program)
        .args(["lab", "observe", "--for", &length, "--settle", &settle, "--out"])
        .arg(&file);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.context("`claviger lab net run` does not start")?;
    ensure!(status.success(), "the fleet could not be observed: see above");
    let text = fs::read_to_string(&file).context("the observer has left nothing")?;
    serde_json::from_str(&text).context("what the observer has left is not understood")
}

/// Counts from inside the network.
pub(super) async fn observe(args: &LabObserveArgs) -> Result<()> {
    let state = std::env::var_os("CLAVIGER_STATE").context("run this by `claviger lab live`")?;
    let state = PathBuf::from(state);
    let platform = Platform::open(&StateArgs { state: state.clone() })?;
    // At the start all come at once, and some wakes are none of their slots.
    tokio::time::sleep(Duration::from(args.settle)).await;
    let (mut after, mut kept) = (0, Vec::new());
    read(&platform, &mut after, &mut kept).await?;
    let before = accounts(&state)?;
    kept.clear();
    tokio::time::sleep(Duration::from(args.length)).await;
    let counted = accounts(&state)?.since(&before);
    read(&platform, &mut after, &mut kept).await?;
    let waited =
        kept.iter().filter_map(|reading| Some(1e3 * (reading.received_s - reading.taken_s?)));
    let mut latencies: Vec<f64> = waited.collect();
    latencies.sort_by(f64::total_cmp);
    let middle = latencies.get(latencies.len() / 2).context("no reading came in this time")?;
    let counted = Counted {
        keys: counted.keys,
        bytes: counted.bytes,
        wakes: counted.wakes,
        readings: latencies.len(),
        latency_ms: *middle,
    };
    console::err(format_args!("observed: {counted:?}"));
    write_whole(&args.out, &serde_json::to_string(&counted)?)
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

/// Adds up what all devices have done; each writes it down every two seconds.
fn accounts(state: &Path) -> Result<DevicesAccount> {
    let mut sum = DevicesAccount::default();
    for entry in fs::read_dir(state).with_context(|| format!("reading {}", state.display()))? {
        let path = entry?.path().join("account.json");
        if let Ok(text) = fs::read_to_string(&path) {
            let account = serde_json::from_str(&text);
            sum = sum.beside(&account.with_context(|| format!("reading {}", path.display()))?);
        }
    }
    ensure!(sum.wakes > 0, "no device below {} has woken yet", state.display());
    Ok(sum)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}
