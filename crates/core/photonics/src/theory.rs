//! What the formulas of PHYSICS.md §§1 and 2 expect of a link.
//!
//! The era's secret fraction (trusted detectors, individual attacks) **is a heuristic, not a bound,
//! even in its class**; the two other claims are those of `claviger_security`.

use claviger_security::entropy::{Efficiency, binary_entropy};
use claviger_security::{MeanPhotons, SecurityParameters, gllp};
use claviger_units::{BitRate, Bits, Fraction};

use crate::coding::{Coding, Protocol};
use crate::eve::Eve;
use crate::preset::{LinkPreset, Optics, Security};
use crate::promise::{self, BlockCounts, ByIntensity, Promise};
use crate::statistics::{PulseStatistics, Sifting};

/// What a block pays besides the secret fraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockCosts {
    /// Sifted bits in the block, the sample included.
    pub sifted: Bits,
    /// Share of them that is disclosed to estimate the error rate, and lost.
    pub sample: Fraction,
    /// Efficiency of the error correction.
    pub efficiency: Efficiency,
    /// Bits for tags and verification.
    pub overhead: Bits,
}

/// What an eavesdropper is conceded of the detected pulses because they had several photons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PhotonTags {
    /// BB84: every photon more than one tells her the bit.
    Bb84 {
        /// Share of the clicks from pulses with two photons or more.
        leaked: Fraction,
    },
    /// SARG04: one photon more tells her part of the bit, two tell her all.
    Sarg04 {
        /// Share of the clicks from pulses with exactly two photons.
        stored: Fraction,
        /// Share of the clicks from pulses with three photons or more.
        leaked: Fraction,
    },
}

/// Bits that one stored copy of a SARG04 state gives away (PHYSICS.md §1).
const LEAK_OF_ONE_COPY: f64 = 0.3991;
/// Phase error over bit error of single photons in SARG04 (Tamaki and Lo; exact for one photon).
const PHASE_OVER_BIT_ERROR: f64 = 1.5;

impl PhotonTags {
    /// Counts the tags of pulses that click with probability `click`.
    ///
    /// She is assumed to deliver the pulses that serve her without loss, so what counts is the
    /// share among the clicks; give the click probability of theory or the one observed.
    #[must_use]
    pub fn of(preset: &LinkPreset, click: Fraction) -> Self {
        Self::under(&preset.coding(), &preset.optics, click.as_f64())
    }

    fn under(coding: &Coding, optics: &Optics, click: f64) -> Self {
        let mean = coding.intensities()[0].mean;
        let share =
            |probability: f64| Fraction::clamped(probability * optics.bob_efficiency / click);
        let (none, one, two) =
            ((-mean).exp(), (-mean).exp() * mean, (-mean).exp() * mean.powi(2) / 2.0);
        match coding.protocol() {
            Protocol::Bb84 | Protocol::DecoyBb84 => Self::Bb84 { leaked: share(1.0 - none - one) },
            Protocol::Sarg04 => {
                let leaked = share(1.0 - none - one - two);
                let stored = share(two).as_f64().min(1.0 - leaked.as_f64());
                Self::Sarg04 { stored: Fraction::clamped(stored), leaked }
            }
        }
    }

    /// Returns the share of a sifted block that is secret, before error correction discloses any.
    #[must_use]
    pub fn secret_content(self, qber: Fraction) -> Fraction {
        let qber = qber.as_f64();
        // All errors are charged to the clicks of which she does not know everything already.
        let charged = |clean: f64| if clean > 0.0 { (qber / clean).min(0.5) } else { 0.5 };
        let content = match self {
            Self::Bb84 { leaked } => {
                let clean = 1.0 - leaked.as_f64();
                clean * (1.0 - h(charged(clean)))
            }
            Self::Sarg04 { stored, leaked } => {
                let single = 1.0 - stored.as_f64() - leaked.as_f64();
                let phase = PHASE_OVER_BIT_ERROR * charged(single + stored.as_f64());
                single * (1.0 - h(phase.min(0.5))) + stored.as_f64() * (1.0 - LEAK_OF_ONE_COPY)
            }
        };
        Fraction::clamped(content)
    }

    /// Returns the share of a sifted block that is left as key: the content less f·h(QBER).
    #[must_use]
    pub fn secret_fraction(self, qber: Fraction, efficiency: Efficiency) -> Fraction {
        let disclosed = efficiency.ratio() * h(qber.as_f64());
        Fraction::clamped(self.secret_content(qber).as_f64() - disclosed)
    }
}

/// The expected figures of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkTheory {
    /// Mean photon number of the brightest pulse that leaves Alice.
    pub mean_photon_number: f64,
    /// Probability that a pulse clicks, outside dead times.
    pub click: Fraction,
    /// Share of the time in which trains pass.
    pub duty: Fraction,
    /// Share of the pulses that meet no dead time.
    pub alive: Fraction,
    /// Clicks.
    pub raw: BitRate,
    /// Sifted bits that become key.
    pub sifted: BitRate,
    /// Sifted bits that are disclosed as tests; none without decoys.
    pub tested: BitRate,
    /// Error rate of the sifted bits that become key.
    pub qber: Fraction,
    /// Share of the sifted bits that is left as key, with the preset's reconciliation efficiency;
    /// with blocks without end, or those of the preset where the claim is for finite blocks.
    pub secret_fraction: Fraction,
    /// The rate of key that follows.
    pub secret_rate: BitRate,
    content: Content,
}

/// What of a reconciled block is secret before anything is disclosed of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Content {
    Era(PhotonTags),
    Gllp { mean: MeanPhotons, click: Fraction },
    Finite(Finite),
}

/// What decides about the keys of blocks of finite length.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Finite {
    rates: IntensityRates,
    sifted: f64,
    coding: Coding,
    parameters: SecurityParameters,
    efficiency: Efficiency,
}

/// Sifted bits a second of every intensity.
#[derive(Clone, Copy, Debug, PartialEq)]
struct IntensityRates {
    key: ByIntensity<Sifting>,
    test: ByIntensity<Sifting>,
}

impl LinkTheory {
    /// Returns the rate of key with blocks of finite length, a sample and a measured efficiency.
    ///
    /// Where a length is promised beforehand, the measured efficiency is not asked for: a block that
    /// discloses less is charged all the same.
    #[must_use]
    pub fn secret_rate_with(&self, costs: BlockCosts) -> BitRate {
        let sifted = costs.sifted.count() as f64;
        let kept = sifted * (1.0 - costs.sample.as_f64());
        let left = match &self.content {
            // There the block has its bits without the sample.
            Content::Finite(finite) => {
                let length = finite.promise(sifted).map_or(Bits::ZERO, |promise| promise.length());
                length.count() as f64 * (1.0 - costs.sample.as_f64())
            }
            Content::Era(_) | Content::Gllp { .. } => {
                self.content(kept) - kept * costs.efficiency.ratio() * h(self.qber.as_f64())
            }
        };
        let key = left.max(0.0) - costs.overhead.count() as f64;
        BitRate::from_bps(self.sifted.as_bps() * key / sifted)
    }

    /// Returns the share of blocks of this many bits that is secret before any is disclosed.
    #[must_use]
    pub fn secret_content(&self, bits: Bits) -> Fraction {
        let bits = bits.count() as f64;
        Fraction::clamped(self.content(bits) / bits)
    }

    /// Returns what is promised of blocks of this many bits; `None` where the claim knows no promise
    /// or none can be given.
    #[must_use]
    pub fn promise(&self, bits: Bits) -> Option<Promise> {
        match &self.content {
            Content::Finite(finite) => finite.promise(bits.count() as f64),
            Content::Era(_) | Content::Gllp { .. } => None,
        }
    }

    fn content(&self, bits: f64) -> f64 {
        match &self.content {
            Content::Era(tags) => bits * tags.secret_content(self.qber).as_f64(),
            Content::Gllp { mean, click } => {
                bits * gllp::secret_content(*mean, *click, self.qber).as_f64()
            }
            Content::Finite(Finite { coding, parameters, .. }) => {
                let counts = self.content.counts(bits);
                promise::content(coding, *parameters, &counts).unwrap_or(0.0)
            }
        }
    }
}

impl Content {
    fn counts(&self, bits: f64) -> BlockCounts {
        match self {
            Self::Finite(finite) => finite.counts(bits),
            Self::Era(_) | Self::Gllp { .. } => BlockCounts::default(),
        }
    }
}

impl Finite {
    /// What a block of so many key bits is expected to show.
    fn counts(&self, bits: f64) -> BlockCounts {
        let seconds = bits / self.sifted;
        let counts = |of: &ByIntensity<Sifting>, get: fn(&Sifting) -> f64| {
            core::array::from_fn(|k| whole(get(&of[k]) * seconds))
        };
        let IntensityRates { key, test } = &self.rates;
        BlockCounts {
            key: counts(key, |s| s.kept),
            key_errors: counts(key, |s| s.wrong),
            tests: counts(test, |s| s.kept),
            test_errors: counts(test, |s| s.wrong),
        }
    }

    fn promise(&self, bits: f64) -> Option<Promise> {
        Promise::of(&self.coding, self.parameters, &self.counts(bits), self.efficiency)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an expected count is positive; the cast saturates"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

/// Returns what to expect of a link as it runs.
#[must_use]
pub fn expected(preset: &LinkPreset) -> LinkTheory {
    let optics = &preset.optics;
    let coding = preset.coding();
    let statistics = match coding.protocol() {
        Protocol::DecoyBb84 => PulseStatistics::of(preset, &Eve::ABSENT),
        plain => plain_statistics(plain, &coding, optics),
    };
    let cycle = Cycle::of(optics, statistics.click);
    let rates = cycle.rates(&coding, &statistics);
    let sum = |all: &[Sifting; 3], get: &dyn Fn(&Sifting) -> f64| all.iter().map(get).sum::<f64>();
    let sifted = BitRate::from_bps(sum(&rates.key, &|s| s.kept));
    let qber = Fraction::clamped(sum(&rates.key, &|s| s.wrong) / sifted.as_bps());
    let click = Fraction::clamped(statistics.click);
    let mean = coding.intensities()[0].mean;
    let content = match preset.security() {
        Security::EraHeuristic => {
            Content::Era(PhotonTags::under(&coding, optics, statistics.click))
        }
        Security::Gllp => {
            let mean = MeanPhotons::try_new(mean).unwrap_or_default();
            Content::Gllp { mean, click }
        }
        Security::FiniteSize(parameters) => {
            let efficiency = preset.reconciliation_efficiency();
            Content::Finite(Finite {
                rates,
                sifted: sifted.as_bps(),
                coding,
                parameters,
                efficiency,
            })
        }
    };
    let mut theory = LinkTheory {
        mean_photon_number: mean,
        click,
        duty: Fraction::clamped(optics.duty()),
        alive: Fraction::clamped(cycle.alive),
        raw: BitRate::from_bps(cycle.raw),
        sifted,
        tested: BitRate::from_bps(sum(&rates.test, &|s| s.kept)),
        qber,
        secret_fraction: Fraction::ZERO,
        secret_rate: BitRate::default(),
        content,
    };
    let costs = BlockCosts { sample: Fraction::ZERO, ..preset.block_costs(Bits::ZERO) };
    theory.secret_rate = theory.secret_rate_with(costs);
    theory.secret_fraction = Fraction::clamped(theory.secret_rate.as_bps() / sifted.as_bps());
    theory
}

/// What a link shows, and what of it Eve knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// Clicks.
    pub raw: BitRate,
    /// Sifted bits that become key.
    pub sifted: BitRate,
    /// Error rate of these.
    pub qber: Fraction,
    /// Share of these that Eve's best guess gets right; a half is nothing.
    pub guessed: Fraction,
    /// Share of these that comes from each intensity.
    pub by_intensity: ByIntensity<Fraction>,
    /// How far a count of clicks strays: deviation over the root of the count.
    pub unevenness: f64,
}

/// Returns what a link shows while Eve does this, summed over all cases.
#[must_use]
pub fn shown_under(preset: &LinkPreset, eve: &Eve) -> Shown {
    let (optics, coding) = (&preset.optics, preset.coding());
    let statistics = PulseStatistics::of(preset, eve);
    let cycle = Cycle::of(optics, statistics.click);
    let rates = cycle.rates(&coding, &statistics);
    let sifted: f64 = rates.key.iter().map(|s| s.kept).sum();
    let wrong: f64 = rates.key.iter().map(|s| s.wrong).sum();
    // Of an afterpulse nobody knows anything.
    let lit = cycle.pulses * cycle.alive * statistics.key_of_all(&coding).kept;
    let guessed = cycle.pulses * cycle.alive * statistics.guessed + (sifted - lit) / 2.0;
    let p = statistics.click;
    Shown {
        raw: BitRate::from_bps(cycle.raw),
        sifted: BitRate::from_bps(sifted),
        qber: Fraction::clamped(wrong / sifted),
        guessed: Fraction::clamped(guessed / sifted),
        by_intensity: rates.key.map(|s| Fraction::clamped(s.kept / sifted)),
        // A cycle is a dead time and a geometric gap, whose deviation is about its mean.
        unevenness: (1.0 - p).sqrt() / p / (optics.dead_gates as f64 + 1.0 / p),
    }
}

/// The formulas of PHYSICS.md §1. They leave out that of two clicks in a gate a coin decides, which
/// [`PulseStatistics`] does not; the difference is some 10⁻³ of the error rate.
fn plain_statistics(protocol: Protocol, coding: &Coding, optics: &Optics) -> PulseStatistics {
    let (captured, beside) = optics.gate_shares();
    let mean = coding.intensities()[0].mean * optics.transmittance() * optics.bob_efficiency;
    let signal = 1.0 - (-mean * captured).exp();
    let spilt = 1.0 - (-2.0 * mean * beside).exp();
    let dark = (1.0 - spilt) * (1.0 - optics.dark_count_probability).powi(2);
    let click = 1.0 - (1.0 - signal) * dark;
    let (kept, wrong) = sifting(protocol, optics.visibility, signal / click);
    let mut key = [Sifting::default(); 3];
    key[0] = Sifting { kept: kept * click, wrong: wrong * click };
    PulseStatistics { click, key, test: [Sifting::default(); 3], guessed: click * kept / 2.0 }
}

/// Clicks in the long run, with what dead times cost and afterpulses add.
struct Cycle {
    /// Pulses a second, the pauses between trains included.
    pulses: f64,
    /// Clicks a second.
    raw: f64,
    /// Share of the pulses that meet no dead time.
    alive: f64,
    /// Share of the clicks that are afterpulses.
    afterpulses: f64,
}

impl Cycle {
    fn of(optics: &Optics, click: f64) -> Self {
        let pulses = optics.mean_pulse_rate();
        let dead = optics.dead_gates as f64;
        let released = 1.0 / (1.0 + optics.afterpulses.mean_gates);
        // A trap is released in this gate, or nothing happens, or light clicks and the trap has to
        // outlast the dead time; then the same again.
        let outlasts = (1.0 - released).powf(dead);
        let seen = released / (1.0 - (1.0 - released) * (1.0 - click + click * outlasts));
        let afterpulses = optics.afterpulses.probability * seen;
        let raw = pulses * click / (1.0 - afterpulses + dead * click);
        Self { pulses, raw, alive: 1.0 - raw * dead / pulses, afterpulses }
    }

    /// Sifted bits a second of each intensity. An afterpulse falls on whatever pulse there is, so its
    /// bit is even and the intensity as often as it is sent.
    fn rates(&self, coding: &Coding, statistics: &PulseStatistics) -> IntensityRates {
        let echoes = self.raw * self.afterpulses;
        let basis = coding.key_basis().as_f64();
        let (in_key, in_test) = match coding.protocol() {
            Protocol::Bb84 | Protocol::Sarg04 => (0.5, 0.0),
            Protocol::DecoyBb84 => (basis.powi(2), (1.0 - basis).powi(2)),
        };
        let of = |all: &[Sifting; 3], matching: f64| {
            core::array::from_fn(|k| {
                let share = coding.intensities().get(k).map_or(0.0, |i| i.probability.as_f64());
                let echo = echoes * share * matching;
                let lit = self.pulses * self.alive * share;
                Sifting { kept: lit * all[k].kept + echo, wrong: lit * all[k].wrong + echo / 2.0 }
            })
        };
        IntensityRates { key: of(&statistics.key, in_key), test: of(&statistics.test, in_test) }
    }
}

/// The shares of all clicks that are kept, and that are kept and wrong; `signal` of them are light,
/// the others dark counts.
fn sifting(protocol: Protocol, visibility: f64, signal: f64) -> (f64, f64) {
    let (dark, miss) = (1.0 - signal, 1.0 - visibility);
    match protocol {
        Protocol::Bb84 | Protocol::DecoyBb84 => (0.5, 0.5 * (signal * miss / 2.0 + dark / 2.0)),
        Protocol::Sarg04 => {
            (signal * (1.0 + miss) / 4.0 + dark / 2.0, signal * miss / 4.0 + dark / 4.0)
        }
    }
}

fn h(x: f64) -> f64 {
    binary_entropy(Fraction::clamped(x)).as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_units::Decibels;

    const VECTORS: &str = include_str!("../../../../vectors/vectors_clavis2.csv");
    const LAB: &str = include_str!("../../../../presets/lab.toml");
    const CITY: &str = include_str!("../../../../presets/city.toml");

    fn preset_of_row(preset: &str, loss_db: f64, protocol: &str) -> LinkPreset {
        let set_up = if loss_db <= 4.0 { LAB } else { CITY };
        let text = match preset {
            "P1_physics" => set_up.to_owned(),
            "P2_nominal_dead10us" => set_up
                .replace("dead_time_us = 30.0", "dead_time_us = 10.0")
                .replace("dark_count_probability = 5.0e-6", "dark_count_probability = 1.0e-5"),
            other => panic!("{other}"),
        };
        let text = match protocol {
            "bb84" => text
                .replace("protocol = \"sarg04\"", "protocol = \"bb84\"")
                .replace("\"2*sqrt(t)\"", "\"t\""),
            _ => text,
        };
        LinkPreset::from_toml(&text).unwrap().with_loss(Decibels::from_db(loss_db).unwrap())
    }

    #[test]
    fn every_reference_row_is_met_to_nine_digits() {
        let mut rows = 0;
        for line in VECTORS.lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |column: usize| fields[column].parse::<f64>().unwrap();
            let got = expected(&preset_of_row(fields[0], number(1), fields[2]));
            for (column, value) in [
                (3, got.mean_photon_number),
                (4, got.click.as_f64()),
                (5, got.duty.as_f64()),
                (6, got.alive.as_f64()),
                (7, got.raw.as_bps()),
                (8, got.sifted.as_bps()),
                (9, got.qber.as_f64()),
                (10, got.secret_fraction.as_f64()),
                (11, got.secret_rate.as_bps()),
                // The alternative with a yield fitted to the paper.
                (12, got.sifted.as_bps() * 0.144),
            ] {
                let error = (value / number(column) - 1.0).abs();
                assert!(error < 1e-9, "{line}\ncolumn {column}: {value}");
            }
            rows += 1;
        }
        assert_eq!(rows, 32);
    }

    /// PHYSICS.md §1: 1925 and 1138 bit/s, and about 1908 and 1124 with 256 bits of tags and 64 of
    /// verification a block. The paper has 1880 and 1220.
    #[test]
    fn the_presets_come_close_to_the_paper() {
        for (name, endless, blocks, paper) in
            [("lab", 1925.0, 1908.0, 1880.0), ("city", 1138.0, 1124.0, 1220.0)]
        {
            let preset = LinkPreset::named(name).unwrap();
            let theory = expected(&preset);
            let costs = BlockCosts { sample: Fraction::ZERO, ..preset.block_costs(Bits::new(320)) };
            assert!((theory.secret_rate.as_bps() - endless).abs() < 0.5);
            assert!((theory.secret_rate_with(costs).as_bps() - blocks).abs() < 0.5);
            let off = theory.secret_rate_with(costs).as_bps() / paper - 1.0;
            assert!(off.abs() < 0.1, "{name}: {off} off the paper");
        }
    }

    #[test]
    fn a_sample_costs_its_share_of_the_key() {
        let preset = LinkPreset::named("lab").unwrap();
        let theory = expected(&preset);
        let none = BlockCosts { sample: Fraction::ZERO, ..preset.block_costs(Bits::ZERO) };
        let half = BlockCosts { sample: Fraction::clamped(0.5), ..none };
        let ratio = theory.secret_rate_with(half).as_bps() / theory.secret_rate_with(none).as_bps();
        assert!((ratio - 0.5).abs() < 1e-12);
        let ruinous = BlockCosts { overhead: Bits::new(1_000_000), ..none };
        assert_eq!(theory.secret_rate_with(ruinous), BitRate::default());
    }

    /// The reasoning behind `abort_qber` in the presets.
    #[test]
    fn beyond_the_abort_threshold_no_error_correction_leaves_a_key() {
        for (name, era, limit) in [("lab", 0.0631, 0.0736), ("city", 0.0625, 0.0769)] {
            let preset = LinkPreset::named(name).unwrap();
            let theory = expected(&preset);
            let Content::Era(tags) = theory.content else { panic!("{name} claims more") };
            let zero = |efficiency: Efficiency| {
                let rates = (0..5000).map(|n| Fraction::clamped(f64::from(n) * 1e-4));
                let mut barren =
                    rates.filter(|qber| tags.secret_fraction(*qber, efficiency).as_f64() <= 0.0);
                barren.next().unwrap().as_f64()
            };
            assert!((zero(preset.reconciliation_efficiency()) - era).abs() < 5e-5);
            assert!((zero(Efficiency::from_ratio(1.0)) - limit).abs() < 5e-5);
            assert!(preset.abort_qber().as_f64() > limit);
        }
    }
}
