//! `claviger lab live`: a fleet on an emulated network, counted, beside what virtual time foretells of it.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use claviger_lab::figures::latency::Network;
use claviger_lab::live::{Compared, Observed, Scenario, compare};
use claviger_lab::replay::LinkLedger;
use claviger_photonics::LinkPreset;
use claviger_roles::devices::DevicesAccount;
use claviger_units::Span;

use super::observer::{Setting, real};
use crate::cli::lab::LabLiveArgs;
use crate::console;

/// How far a number may be off, in per cent.
pub(crate) const MOST_OFF: f64 = 5.0;

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
    let live = counted(&scenario, args.length)?;
    let link = LinkLedger::record(&LinkPreset::named(&scenario.link)?, args.seed, 20, |_| {})?;
    Ok(compare(live, scenario.foretell(&link, args.length, args.seed)?))
}

/// Lets the fleet live on an emulated network, with an observer inside.
fn counted(scenario: &Scenario, length: Span) -> Result<Observed> {
    let hop = scenario.hop;
    let link = format!(
        "delay={}ms,jitter={}ms,loss={}%",
        hop.delay_ms,
        hop.jitter_ms,
        100.0 * hop.packet_loss
    );
    let devices = Setting {
        network: Network::Namespaces,
        // Beside the hosts of the tree there is the gateway, and the last of them is the platform.
        topology: format!("tree,1,{}", scenario.devices + 1),
        link,
        link_seed: 1,
        wake: Span::from_secs(scenario.wake_s),
        with_dkg: false,
        length,
    }
    .observe()?;
    let sum = devices.iter().fold(DevicesAccount::default(), |sum, one| sum.beside(&one.account));
    let mut latencies: Vec<f64> =
        devices.iter().flat_map(|one| &one.readings).map(|one| one.since_taken_ms).collect();
    latencies.sort_by(f64::total_cmp);
    let middle = latencies.get(latencies.len() / 2).context("no reading came in this time")?;
    Ok(Observed { keys: real(sum.keys), bytes: real(sum.bytes), latency_ms: *middle })
}
