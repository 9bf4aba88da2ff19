//! The file of a preset, and what is checked of it.

use std::ops::RangeInclusive;

use claviger_security::entropy::Efficiency;
use claviger_security::{Epsilon, SecurityClaim, SecurityParameters};
use claviger_units::{Bits, Decibels, Fraction};
use serde::Deserialize;

use super::{
    Afterpulses, Arrival, Blocks, Cascade, LinkPreset, MAX_LOSS_DB, MeanPhotons, Optics, Security,
    Source, Trains,
};
use crate::coding::{Coding, Intensity, Protocol};

/// A preset as its file has it: units in the names of the keys, nothing checked yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPreset {
    /// What the link is called: 1 to 32 lower-case letters, digits and hyphens.
    pub name: String,
    /// How bits are encoded: `sarg04`, `bb84` or `decoy-bb84`.
    pub protocol: String,
    /// What is claimed of the keys: `era-heuristic`, `gllp` or `finite-size`.
    pub security: String,
    /// Pulses per second, within a train where there are trains.
    pub pulse_rate_hz: f64,
    /// Loss of the quantum channel from Alice to Bob.
    pub loss_db: f64,
    /// Insertion loss of an optical switch in it, on top; none if absent.
    #[serde(default)]
    pub switch_loss_db: f64,
    /// Length of the fibre between the sites.
    pub fibre_km: f64,
    /// Length of Alice's delay line, which holds one train; absent for a one-way link.
    pub delay_line_km: Option<f64>,
    /// Mean photon number of a pulse that leaves Alice: a number, `t` or `2*sqrt(t)`. Not with decoys.
    pub mean_photon_number: Option<RawMean>,
    /// The intensities of decoy-state BB84, the brightest first: two or three.
    pub intensities: Option<Vec<RawIntensity>>,
    /// How far the modulator dims the brightest pulse at most; as far as asked if absent.
    pub extinction_db: Option<f64>,
    /// How often either end chooses the basis of the key; with decoys only.
    pub key_basis_probability: Option<f64>,
    /// Transmission of Bob's optics times the efficiency of his detectors.
    pub bob_efficiency: f64,
    /// Probability of a dark count, per detector and gate.
    pub dark_count_probability: f64,
    /// How long a click blocks both detectors.
    pub dead_time_us: f64,
    /// Afterpulses; none if absent.
    pub afterpulses: Option<RawAfterpulses>,
    /// Width of the gate and jitter of the arrival; if absent all is part of the efficiency.
    pub gate: Option<RawGate>,
    /// Visibility of the interference.
    pub visibility: f64,
    /// Schedule of the error correction: `original`, `yan`, `martinez-mateo` or `graded`.
    pub cascade: String,
    /// Disclosed bits over the Shannon limit that theory expects of that schedule.
    pub reconciliation_efficiency: f64,
    /// Sifted bits in a block.
    pub block_sifted_bits: u64,
    /// Smaller blocks at the start.
    pub first_blocks: RawFirstBlocks,
    /// Share of the sifted bits disclosed to estimate the error rate.
    pub sample_fraction: f64,
    /// Error rate above which a block is dropped unreconciled.
    pub abort_qber: f64,
    /// Chance that a block's key is not secret; with `finite-size` only.
    pub epsilon_secrecy: Option<f64>,
    /// Chance that the ends differ unnoticed; with `finite-size` only.
    pub epsilon_correctness: Option<f64>,
}

/// The mean photon number as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum RawMean {
    /// Photons per pulse.
    Number(f64),
    /// A rule that follows the loss.
    Rule(String),
}

/// An intensity as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIntensity {
    /// Photons per pulse.
    pub mean: f64,
    /// Share of the pulses.
    pub probability: f64,
}

/// Afterpulses as their file has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAfterpulses {
    /// Chance that a click is followed by one, after the dead time.
    pub probability: f64,
    /// Mean time from the end of the dead time to it.
    pub mean_us: f64,
}

/// The gate as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGate {
    /// How long it is open.
    pub width_ps: f64,
    /// Standard deviation of the arrival.
    pub jitter_ps: f64,
}

/// The smaller first blocks as their file has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFirstBlocks {
    /// How many blocks are small.
    pub count: u64,
    /// Sifted bits in each of them.
    pub sifted_bits: u64,
}

/// Why a preset cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresetError {
    /// Not TOML, or a key is missing, unknown or of the wrong type: the source names it.
    #[error("the preset does not read as the description of a link")]
    Syntax(#[source] Box<toml::de::Error>),
    /// Values out of range: mend each key that is named.
    #[error("the preset has values that cannot be: {}", listed(.0))]
    Faults(Vec<Fault>),
    /// No built-in preset has this name: take one of those that exist, or the path of a file.
    #[error("there is no preset {name:?}; there are {}, or give the path of a file", LinkPreset::NAMES.join(", "))]
    UnknownName {
        /// The name asked for.
        name: String,
    },
}

/// A value that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} (must be {right})")]
pub struct Fault {
    /// The key in the file.
    pub key: &'static str,
    /// What the file says.
    pub value: String,
    /// What would be right.
    pub right: String,
}

fn listed(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl TryFrom<RawPreset> for LinkPreset {
    type Error = PresetError;

    fn try_from(raw: RawPreset) -> Result<Self, PresetError> {
        let mut check = Check(Vec::new());
        let name_fits = (1..=32).contains(&raw.name.len())
            && raw.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        check.that(name_fits, "name", &raw.name, "1 to 32 lower-case letters, digits and hyphens");
        let cascade = Cascade::ALL.into_iter().find(|cascade| cascade.name() == raw.cascade);
        let known = "original, yan, martinez-mateo or graded";
        check.that(cascade.is_some(), "cascade", &raw.cascade, known);
        let efficiency =
            check.number("reconciliation_efficiency", raw.reconciliation_efficiency, 1.0..=2.0, "");
        let sample = check.number("sample_fraction", raw.sample_fraction, 0.0..=0.5, "");
        let abort = check.number("abort_qber", raw.abort_qber, 0.0..=0.5, "");
        let preset = Self {
            optics: check.optics(&raw),
            source: check.source(&raw),
            security: check.security(&raw),
            cascade: cascade.unwrap_or(Cascade::Original),
            efficiency: Efficiency::from_ratio(efficiency),
            blocks: check.blocks(&raw),
            sample_fraction: Fraction::clamped(sample),
            abort_qber: Fraction::clamped(abort),
            name: raw.name,
        };
        if check.0.is_empty() { Ok(preset) } else { Err(PresetError::Faults(check.0)) }
    }
}

/// The faults found so far.
struct Check(Vec<Fault>);

impl Check {
    fn that(&mut self, holds: bool, key: &'static str, value: impl ToString, right: impl ToString) {
        if !holds {
            self.0.push(Fault { key, value: value.to_string(), right: right.to_string() });
        }
    }

    /// Returns the value; for one out of range, noted as a fault, the nearest in range stands in.
    fn number(
        &mut self,
        key: &'static str,
        value: f64,
        range: RangeInclusive<f64>,
        unit: &'static str,
    ) -> f64 {
        let (least, most) = range.into_inner();
        let right = format!("{least} to {most} {unit}");
        self.that((least..=most).contains(&value), key, value, right.trim_end());
        value.max(least).min(most)
    }

    fn optics(&mut self, raw: &RawPreset) -> Optics {
        const MOST: f64 = MAX_LOSS_DB as f64;
        let fibre = self.number("loss_db", raw.loss_db, 0.0..=MOST, "dB");
        let switch = self.number("switch_loss_db", raw.switch_loss_db, 0.0..=MOST, "dB");
        let rate = self.number("pulse_rate_hz", raw.pulse_rate_hz, 1e3..=1e10, "Hz");
        let dark = raw.dark_count_probability;
        Optics {
            pulse_rate_hz: rate,
            loss: Decibels::from_db(fibre + switch).expect("numbers in range are a loss"),
            fibre_km: self.number("fibre_km", raw.fibre_km, 0.0..=1e3, "km"),
            trains: raw.delay_line_km.map_or(Trains::None, |km| Trains::Through {
                delay_line_km: self.number("delay_line_km", km, 0.1..=1e3, "km"),
            }),
            bob_efficiency: self.number("bob_efficiency", raw.bob_efficiency, 1e-4..=1.0, ""),
            dark_count_probability: self.number("dark_count_probability", dark, 0.0..=0.1, ""),
            dead_gates: self.dead_gates(raw.dead_time_us, raw.pulse_rate_hz),
            afterpulses: self.afterpulses(raw.afterpulses.as_ref(), rate),
            arrival: self.arrival(raw.gate.as_ref(), rate),
            visibility: self.number("visibility", raw.visibility, 0.0..=1.0, ""),
        }
    }

    fn afterpulses(&mut self, raw: Option<&RawAfterpulses>, rate: f64) -> Afterpulses {
        let Some(raw) = raw else { return Afterpulses { probability: 0.0, mean_gates: 0.0 } };
        let mean = self.number("afterpulses.mean_us", raw.mean_us, 0.0..=1e4, "µs");
        Afterpulses {
            // Beyond a half each click would soon be an echo of the one before.
            probability: self.number("afterpulses.probability", raw.probability, 0.0..=0.5, ""),
            mean_gates: mean * 1e-6 * rate,
        }
    }

    fn arrival(&mut self, raw: Option<&RawGate>, rate: f64) -> Arrival {
        let Some(raw) = raw else { return Arrival::InGate };
        let period = 1e12 / rate;
        let width = self.number("gate.width_ps", raw.width_ps, 1.0..=period, "ps, one period");
        // Wider, and light would reach gates beyond the neighbouring ones.
        let jitter = self.number("gate.jitter_ps", raw.jitter_ps, 0.1..=period / 4.0, "ps");
        Arrival::Spread { jitter: jitter / period, gate: width / period }
    }

    fn source(&mut self, raw: &RawPreset) -> Source {
        let protocol = Protocol::ALL.into_iter().find(|p| p.name() == raw.protocol);
        let names = Protocol::ALL.map(Protocol::name).join(", ");
        self.that(protocol.is_some(), "protocol", &raw.protocol, format!("one of {names}"));
        let protocol = protocol.unwrap_or(Protocol::Bb84);
        let decoys = protocol == Protocol::DecoyBb84;
        for (key, given, belongs) in [
            ("mean_photon_number", raw.mean_photon_number.is_some(), !decoys),
            ("intensities", raw.intensities.is_some(), decoys),
            ("key_basis_probability", raw.key_basis_probability.is_some(), decoys),
        ] {
            let right = if belongs { "given" } else { "left out" };
            let value = if given { "a value" } else { "nothing" };
            self.that(given == belongs, key, value, format!("{right} with {}", protocol.name()));
        }
        let stray = raw.extinction_db.is_some() && !decoys;
        self.that(!stray, "extinction_db", "a value", "left out without decoys");
        if decoys {
            self.decoys(raw)
        } else {
            let mean = raw.mean_photon_number.as_ref();
            let mean = mean.map_or(MeanPhotons::Transmittance, |mean| self.mean(mean));
            Source::Plain { protocol, mean }
        }
    }

    fn mean(&mut self, raw: &RawMean) -> MeanPhotons {
        const KEY: &str = "mean_photon_number";
        match raw {
            RawMean::Number(mean) => MeanPhotons::Fixed(self.number(KEY, *mean, 1e-3..=10.0, "")),
            RawMean::Rule(rule) if rule == "t" => MeanPhotons::Transmittance,
            RawMean::Rule(rule) => {
                self.that(rule == "2*sqrt(t)", KEY, rule, "t, 2*sqrt(t), or a number");
                MeanPhotons::TwiceRoot
            }
        }
    }

    fn decoys(&mut self, raw: &RawPreset) -> Source {
        let given = raw.intensities.as_deref().unwrap_or_default();
        let extinction = raw.extinction_db.map_or(0.0, |db| {
            10_f64.powf(-self.number("extinction_db", db, 10.0..=60.0, "dB") / 10.0)
        });
        let brightest = given.iter().map(|i| i.mean).fold(0.0, f64::max);
        let mut intensities = Vec::with_capacity(given.len());
        for (k, raw) in given.iter().enumerate() {
            let mean = self.number("intensities.mean", raw.mean, 0.0..=3.0, "");
            let share = self.number("intensities.probability", raw.probability, 1e-4..=1.0, "");
            // What the modulator lets through adds to every dimmed pulse.
            let leak = if k == 0 { 0.0 } else { brightest * extinction };
            intensities
                .push(Intensity { mean: mean + leak, probability: Fraction::clamped(share) });
        }
        let key_basis = raw.key_basis_probability.unwrap_or(0.5);
        let key_basis = self.number("key_basis_probability", key_basis, 0.01..=0.99, "");
        let coding = Coding::decoy(&intensities, Fraction::clamped(key_basis));
        let right = "two or three, the brightest first, with shares that add up to 1";
        self.that(coding.is_some(), "intensities", format!("{} of them", given.len()), right);
        let means: Vec<f64> = intensities.iter().map(|i| i.mean).collect();
        if let [signal, decoy, dark] = means[..] {
            let value = format!("{signal}, {decoy}, {dark}");
            let right = "a signal brighter than both decoys together";
            self.that(signal > decoy + dark, "intensities", value, right);
        }
        Source::Decoy(coding.unwrap_or_else(|| Coding::plain(Protocol::Bb84, 0.5)))
    }

    fn security(&mut self, raw: &RawPreset) -> Security {
        let claim = raw.security.parse::<SecurityClaim>();
        let names = SecurityClaim::ALL.map(|claim| claim.to_string()).join(", ");
        self.that(claim.is_ok(), "security", &raw.security, format!("one of {names}"));
        let claim = claim.unwrap_or(SecurityClaim::EraHeuristic);
        let protocols: &[&str] = match claim {
            SecurityClaim::EraHeuristic => &["sarg04", "bb84"],
            SecurityClaim::Gllp => &["bb84"],
            SecurityClaim::FiniteSize => &["decoy-bb84"],
        };
        let fits = protocols.contains(&raw.protocol.as_str());
        let known = Protocol::ALL.iter().any(|p| p.name() == raw.protocol);
        let right = format!("a claim for {}, or that protocol", protocols.join(" or "));
        self.that(fits || !known, "security", &raw.security, right);
        let finite = claim == SecurityClaim::FiniteSize;
        let mut epsilon = |key, given: Option<f64>, otherwise| {
            let right = if finite { "given with finite-size" } else { "left out" };
            let value = given.map_or("nothing".to_owned(), |value| value.to_string());
            self.that(given.is_some() == finite, key, value, right);
            let value = self.number(key, given.unwrap_or(otherwise), 1e-30..=1e-3, "");
            Epsilon::try_new(value).expect("a number in range is a chance")
        };
        let secrecy = epsilon("epsilon_secrecy", raw.epsilon_secrecy, 1e-10);
        let correctness = epsilon("epsilon_correctness", raw.epsilon_correctness, 1e-15);
        // Verification compares 64 bits of a polynomial hash: more than that it cannot promise.
        let least = (raw.block_sifted_bits as f64 / 128.0 + 2.0) * (-64.0_f64).exp2();
        self.that(
            !finite || correctness.as_f64() >= least,
            "epsilon_correctness",
            correctness,
            format!("{least:.1e} or more with blocks of {} bits", raw.block_sifted_bits),
        );
        match claim {
            SecurityClaim::EraHeuristic => Security::EraHeuristic,
            SecurityClaim::Gllp => Security::Gllp,
            SecurityClaim::FiniteSize => {
                Security::FiniteSize(SecurityParameters { secrecy, correctness })
            }
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, and in a range far below 2^53"
    )]
    fn dead_gates(&mut self, dead_time_us: f64, pulse_rate_hz: f64) -> u64 {
        let gates =
            self.number("dead_time_us", dead_time_us, 0.0..=1e3, "µs") * 1e-6 * pulse_rate_hz;
        let whole = (gates - gates.round()).abs() < 1e-6;
        self.that(whole, "dead_time_us", dead_time_us, "a whole number of pulses");
        gates.round() as u64
    }

    fn blocks(&mut self, raw: &RawPreset) -> Blocks {
        let first = &raw.first_blocks;
        for (key, bits) in [
            ("block_sifted_bits", raw.block_sifted_bits),
            ("first_blocks.sifted_bits", first.sifted_bits),
        ] {
            self.that((2_000..=MAX_BLOCK).contains(&bits), key, bits, "2000 to 3000000 bits");
        }
        Blocks {
            sifted: Bits::new(raw.block_sifted_bits),
            first_count: first.count,
            first_sifted: Bits::new(first.sifted_bits),
        }
    }
}

/// The seed of the amplification of a block and the names of its keys have to fit into one message.
const MAX_BLOCK: u64 = 3_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: &str = include_str!("../../../../../presets/lab.toml");

    /// The lab preset with one line replaced.
    fn lab_with(key: &str, value: &str) -> Result<LinkPreset, PresetError> {
        let start = format!("{key} = ");
        let line = |line: &str| {
            if line.starts_with(&start) { format!("{start}{value}") } else { line.to_owned() }
        };
        let text: Vec<String> = LAB.lines().map(line).collect();
        assert_ne!(text.join("\n"), LAB.trim_end(), "no line for {key}, or the same value");
        LinkPreset::from_toml(&text.join("\n"))
    }

    fn faults(preset: Result<LinkPreset, PresetError>) -> Vec<Fault> {
        match preset {
            Err(PresetError::Faults(faults)) => faults,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_value_that_cannot_be_is_named() {
        for (key, value) in [
            ("name", "\"A B\""),
            ("protocol", "\"bb85\""),
            ("pulse_rate_hz", "0"),
            ("loss_db", "-1"),
            ("loss_db", "nan"),
            ("fibre_km", "-8.4"),
            ("delay_line_km", "0"),
            ("mean_photon_number", "\"sqrt(t)\""),
            ("mean_photon_number", "0"),
            ("bob_efficiency", "1.1"),
            ("dark_count_probability", "-1e-6"),
            ("dead_time_us", "30.1"),
            ("dead_time_us", "inf"),
            ("visibility", "1.5"),
            ("cascade", "\"turbo\""),
            ("reconciliation_efficiency", "0.9"),
            ("block_sifted_bits", "0"),
            ("sample_fraction", "1"),
            ("abort_qber", "0.6"),
        ] {
            let faults = faults(lab_with(key, value));
            assert_eq!(faults.len(), 1, "{key} = {value}: {faults:?}");
            assert_eq!(faults[0].key, key);
        }
        let small = faults(lab_with("first_blocks", "{ count = 3, sifted_bits = 7 }"));
        assert_eq!(small[0].key, "first_blocks.sifted_bits");
    }

    #[test]
    fn one_error_lists_all_faults() {
        let text = LAB
            .replace("loss_db = 4.0", "loss_db = -4")
            .replace("visibility = 0.985", "visibility = 2");
        let error = LinkPreset::from_toml(&text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the preset has values that cannot be: loss_db = -4 (must be 0 to 60 dB); \
             visibility = 2 (must be 0 to 1)"
        );
    }

    #[test]
    fn unknown_missing_and_mistyped_keys_are_refused() {
        use std::error::Error;
        for (text, named) in [
            (format!("colour = 1\n{LAB}"), "colour"),
            (LAB.replace("visibility = 0.985", ""), "visibility"),
            (LAB.replace("visibility = 0.985", "visibility = \"good\""), "visibility"),
        ] {
            let error = LinkPreset::from_toml(&text).unwrap_err();
            let source = error.source().unwrap().to_string();
            assert!(source.contains(named), "{source}");
        }
    }
}
