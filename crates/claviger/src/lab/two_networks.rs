//! The live part of figure 2c: the same fleet on namespaces and on Mininet, counted device by device.

use anyhow::{Result, ensure};
use claviger_lab::figures::latency::{DeviceSeen, FleetSeen, LiveScenario, Network};
use claviger_netlab::Topology;
use claviger_units::Span;

use super::observer::{Observation, Setting, real};
use super::{mininet, net};
use crate::console;

/// Says why a scenario cannot be run here, if so.
pub(super) fn obstacle(scenario: &LiveScenario) -> Option<String> {
    let needs_mininet = scenario.networks.contains(&Network::Mininet);
    let checked = if needs_mininet { mininet::check_needs() } else { net::check_needs() };
    let error = checked.err()?;
    let lines: Vec<_> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
    Some(lines.join("; "))
}

/// Runs the fleet on each network, and counts.
pub(super) fn count(scenario: &LiveScenario, seed: u64) -> Result<FleetSeen> {
    let topology: Topology = scenario.topology.parse()?;
    let is_tree = matches!(topology, Topology::Tree { .. });
    ensure!(
        is_tree || !scenario.networks.contains(&Network::Mininet),
        "live.topology: Mininet builds trees here: tree,DEPTH,FANOUT"
    );
    let mut devices = Vec::new();
    for (place, network) in (1..).zip(&scenario.networks) {
        console::err(format_args!(
            "fig2c, live: a fleet on {network}, counted for {} s once it has settled",
            scenario.length_s
        ));
        let setting = Setting {
            network: *network,
            topology: scenario.topology.clone(),
            link: scenario.link.clone(),
            // Networks lose other frames than each other, and other seeds other ones again.
            link_seed: seed.wrapping_mul(SEEDS).wrapping_add(place * SEEDS / 8),
            wake: Span::from_secs(scenario.wake_s),
            with_dkg: true,
            length: Span::from_secs(scenario.length_s),
        };
        devices.extend(setting.observe()?.iter().map(|one| one.as_seen_on(*network)));
    }
    let by = format!("claviger lab fig2c, commit {}, seed {seed}", env!("CLAVIGER_COMMIT"));
    Ok(FleetSeen { by, devices })
}

/// How many seeds a network may use: two for each host, of which there are 2000 at most.
const SEEDS: u64 = 1 << 16;

impl Observation {
    fn as_seen_on(&self, network: Network) -> DeviceSeen {
        let mut waited: Vec<_> = self.readings.iter().map(|one| one.since_wake_ms).collect();
        waited.sort_by(f64::total_cmp);
        let n_readings = u64::try_from(waited.len()).unwrap_or(u64::MAX);
        let account = &self.account;
        DeviceSeen {
            network: network.to_string(),
            way: self.way.clone(),
            host: self.host.clone(),
            wakes: account.wakes,
            keys: account.keys + account.own_keys,
            readings: n_readings,
            reading_mean_ms: waited.iter().sum::<f64>() / real(n_readings),
            reading_median_ms: waited.get(waited.len() / 2).copied().unwrap_or(f64::NAN),
            frames: self.frames_sent,
            lost: self.frames_lost,
            crowded: self.frames_crowded,
            frame_ms: self.frame_ms,
        }
    }
}
