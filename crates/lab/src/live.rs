//! What virtual time foretells of a fleet on an emulated network, to be compared with what was measured there.

use anyhow::{Context as _, Result, ensure};
use claviger_device::Profile;
use claviger_distill::seed;
use claviger_fleet::Sharing;
use claviger_units::{Bits, Span};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Deserialize;

use crate::fleet::{FleetConfig, Frames, run};
use crate::replay::LinkLedger;

/// A fleet on an emulated network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called.
    pub title: String,
    /// How many devices.
    pub devices: u32,
    /// How often each wakes, with a reading and a key.
    pub wake_s: u64,
    /// The preset of the link.
    pub link: String,
    /// Its buffer.
    pub buffer_bits: u64,
    /// The link of each host to its switch, either way.
    pub hop: Hop,
    /// What happens in a wake.
    pub wake: Wake,
}

/// A link of a host.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hop {
    /// How long a frame takes.
    pub delay_ms: f64,
    /// By how much that may be more or less, evenly.
    pub jitter_ms: f64,
    /// The share of frames that are lost, 0 to 1.
    pub packet_loss: f64,
}

/// What follows one another in a wake.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wake {
    /// Messages between device and gateway that wait for each other, up to the reading.
    pub legs_to_gateway: u32,
    /// Those from there to the platform.
    pub legs_to_platform: u32,
    /// How long a lost one is waited for.
    pub retransmission_s: f64,
    /// Bytes above TCP, both ways.
    pub bytes: u64,
}

/// What was counted, or foretold, over a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Keys that devices took up.
    pub keys: f64,
    /// Bytes on their connections.
    pub bytes: f64,
    /// From the measuring of a reading to the platform, the median, in milliseconds.
    pub latency_ms: f64,
}

/// A number both ways.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// What it is.
    pub name: &'static str,
    /// Measured live.
    pub live: f64,
    /// Foretold.
    pub foretold: f64,
}

impl Compared {
    /// Returns by how much the live number is off, in per cent of what was foretold.
    #[must_use]
    pub fn off_pct(&self) -> f64 {
        100.0 * (self.live / self.foretold - 1.0)
    }
}

impl Scenario {
    /// The one that comes with this program.
    pub const SHIPPED: &'static str = include_str!("../figures/live.toml");

    /// Reads one.
    ///
    /// # Errors
    ///
    /// Where it is not understood.
    pub fn from_toml(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).context("the scenario is not understood")?;
        ensure!(scenario.devices > 0 && scenario.wake_s > 0, "a fleet needs a device that wakes");
        let Hop { delay_ms, jitter_ms, packet_loss } = scenario.hop;
        ensure!((0.0..=0.4).contains(&packet_loss), "packet_loss = {packet_loss}: 0 to 0.4");
        ensure!((0.0..=10_000.0).contains(&delay_ms), "delay_ms = {delay_ms}: 0 to 10000");
        ensure!((0.0..=delay_ms).contains(&jitter_ms), "jitter_ms = {jitter_ms}: 0 to delay_ms");
        let Wake { retransmission_s, .. } = scenario.wake;
        ensure!(
            (0.0..=60.0).contains(&retransmission_s),
            "retransmission_s = {retransmission_s}: 0 to 60"
        );
        Ok(scenario)
    }

    /// Foretells what a time of `span` shows, once everybody has a key.
    ///
    /// # Errors
    ///
    /// Where the fleet cannot be.
    pub fn foretell(&self, link: &LinkLedger, span: Span, seed: u64) -> Result<Observed> {
        let wake = Span::from_secs(self.wake_s);
        let day = run(
            link,
            &FleetConfig {
                n_devices: self.devices,
                profile: Profile::waking_every(wake),
                sharing: Sharing::default(),
                capacity: Bits::new(self.buffer_bits),
                hop: Span::from_secs_f64(self.hop.delay_ms / 1e3),
                settle: Span::from_secs(600),
                span,
                frames: Frames::All,
                seed,
                threads: 1,
            },
        )?;
        let n = usize::try_from(day.readings).unwrap_or(usize::MAX).max(1);
        let mut rng = Xoshiro256PlusPlus::from_seed(seed::derive(seed, "live against virtual"));
        let mut latencies: Vec<f64> = (0..n).map(|_| self.latency_ms(&mut rng)).collect();
        latencies.sort_by(f64::total_cmp);
        Ok(Observed {
            keys: real(day.renewals),
            bytes: real(day.readings * self.wake.bytes),
            latency_ms: latencies[n / 2],
        })
    }

    /// Draws how long a reading takes: each leg crosses the link of one host.
    fn latency_ms(&self, rng: &mut Xoshiro256PlusPlus) -> f64 {
        let Hop { delay_ms, jitter_ms, packet_loss } = self.hop;
        let mut sum = 0.0;
        for _ in 0..self.wake.legs_to_gateway + self.wake.legs_to_platform {
            // RFC 6298: twice as long each time.
            let mut patience_ms = 1e3 * self.wake.retransmission_s;
            while packet_loss > 0.0 && rng.random_bool(packet_loss) {
                sum += patience_ms;
                patience_ms *= 2.0;
            }
            sum += delay_ms + rng.random_range(-1.0..=1.0) * jitter_ms;
        }
        sum
    }
}

/// Sets what was measured beside what was foretold.
#[must_use]
pub fn compare(live: Observed, foretold: Observed) -> [Compared; 3] {
    let compared = |name, live, foretold| Compared { name, live, foretold };
    [
        compared("keys", live.keys, foretold.keys),
        compared("bytes", live.bytes, foretold.bytes),
        compared("median latency (ms)", live.latency_ms, foretold.latency_ms),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use claviger_photonics::LinkPreset;

    use super::*;

    /// Without chance a reading takes its legs, and ten minutes have 20 wakes of each of 50 devices.
    #[test]
    fn what_is_foretold_can_be_reckoned() -> Result<()> {
        let mut scenario = Scenario::from_toml(Scenario::SHIPPED)?;
        (scenario.hop.jitter_ms, scenario.hop.packet_loss) = (0.0, 0.0);
        let link = LinkLedger::record(&LinkPreset::named("lab")?, 1, 2, |_| {})?;
        let told = scenario.foretell(&link, Span::from_secs(600), 1)?;
        let expected = [1000.0, 2_780_000.0, 8.0 * 60.0];
        for (told, expected) in [told.keys, told.bytes, told.latency_ms].iter().zip(expected) {
            assert!((told - expected).abs() < 1e-6, "{told} in place of {expected}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (from, to, told) in [
            ("packet_loss = 0.0005", "packet_loss = 1.0", "0 to 0.4"),
            ("jitter_ms = 3.0", "jitter_ms = 61.0", "0 to delay_ms"),
            ("devices = 50", "devices = 0", "needs a device"),
        ] {
            assert!(Scenario::SHIPPED.contains(from));
            let said = Scenario::from_toml(&Scenario::SHIPPED.replace(from, to)).err();
            let said = said.map(|error| error.to_string());
            assert!(said.as_ref().is_some_and(|said| said.contains(told)), "{to}: {said:?}");
        }
    }
}
