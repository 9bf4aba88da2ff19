//! The live part of figure 2c: the same fleet on namespaces and on Mininet, counted device by device.

use anyhow::Result;
use claviger_lab::figures::latency::{DeviceSeen, LiveScenario};
use claviger_units::Span;

use super::mininet;
use super::net;
use super::observer::{Network, Observation, Setting, real};
use crate::console;

/// Says why a scenario cannot be run here, if so.
pub(super) fn obstacle(scenario: &LiveScenario) -> Option<String> {
    let needs_mininet = scenario.networks.iter().any(|network| network == MININET);
    let checked = if needs_mininet { mininet::check_needs() } else { net::check_needs() };
    let error = checked.err()?;
    let lines: Vec<_> = format!("{error:#}").lines().map(|line| line.trim().to_owned()).collect();
    Some(lines.join(" "))
}

/// Runs the fleet on each network, and counts.
pub(super) fn count(scenario: &LiveScenario) -> Result<Vec<DeviceSeen>> {
    let mut seen = Vec::new();
    for name in &scenario.networks {
        console::err(format_args!(
            "fig2c, live: a fleet on {name}, counted for {} s once it has settled",
            scenario.length_s
        ));
        let setting = Setting {
            network: if name == MININET { Network::Mininet } else { Network::Namespaces },
            topology: scenario.topology.clone(),
            link: scenario.link.clone(),
            wake: Span::from_secs(scenario.wake_s),
            with_dkg: true,
            length: Span::from_secs(scenario.length_s),
        };
        seen.extend(setting.observe()?.iter().map(|one| one.as_seen_on(name)));
    }
    Ok(seen)
}

const MININET: &str = "mininet";

impl Observation {
    fn as_seen_on(&self, network: &str) -> DeviceSeen {
        let mut waited: Vec<_> = self.readings.iter().map(|one| one.since_wake_ms).collect();
        waited.sort_by(f64::total_cmp);
        let n_readings = u64::try_from(waited.len()).unwrap_or(u64::MAX);
        DeviceSeen {
            network: network.to_owned(),
            way: self.way.clone(),
            host: self.host.clone(),
            wakes: self.account.wakes,
            readings: n_readings,
            reading_mean_ms: waited.iter().sum::<f64>() / real(n_readings),
            reading_median_ms: waited.get(waited.len() / 2).copied().unwrap_or(f64::NAN),
            frames: self.frames_sent,
            lost: self.frames_lost,
            frame_ms: self.frame_ms,
        }
    }
}
