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
            while packet_loss > 0.0 && rng.random_bool(packet_loss) {
                sum += 1e3 * self.wake.retransmission_s;
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
