//! The file of a preset, and what is checked of it.

use std::ops::RangeInclusive;

use claviger_units::{Bits, Decibels, Fraction};
use serde::Deserialize;

use super::{Blocks, Cascade, LinkPreset, MAX_LOSS_DB, MeanPhotons, Optics};
use crate::theory::Efficiency;

/// A preset as its file has it: units in the names of the keys, nothing checked yet.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPreset {
    /// What the link is called: 1 to 32 lower-case letters, digits and hyphens.
    pub name: String,
    /// How bits are encoded: `sarg04`.
    pub protocol: String,
    /// Pulses per second within a train.
    pub pulse_rate_hz: f64,
    /// Loss of the quantum channel from Alice to Bob.
    pub loss_db: f64,
    /// Length of the fibre between the sites.
    pub fibre_km: f64,
    /// Length of Alice's delay line, which holds one train.
    pub delay_line_km: f64,
    /// Mean photon number of a pulse that leaves Alice: a number, or `2*sqrt(t)`.
    pub mean_photon_number: RawMean,
    /// Transmission of Bob's optics times the efficiency of his detectors.
    pub bob_efficiency: f64,
    /// Probability of a dark count, per detector and gate.
    pub dark_count_probability: f64,
    /// How long a click blocks both detectors.
    pub dead_time_us: f64,
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
    #[error("there is no preset {name:?}; there are lab and city, or give the path of a file")]
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
        check.that(raw.protocol == "sarg04", "protocol", &raw.protocol, "sarg04");
        let cascade = Cascade::ALL.into_iter().find(|cascade| cascade.name() == raw.cascade);
        let known = "original, yan, martinez-mateo or graded";
        check.that(cascade.is_some(), "cascade", &raw.cascade, known);
        let efficiency =
            check.number("reconciliation_efficiency", raw.reconciliation_efficiency, 1.0..=2.0, "");
        let sample = check.number("sample_fraction", raw.sample_fraction, 0.0..=0.5, "");
        let abort = check.number("abort_qber", raw.abort_qber, 0.0..=0.5, "");
        let preset = Self {
            optics: check.optics(&raw),
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
        let loss = self.number("loss_db", raw.loss_db, 0.0..=f64::from(MAX_LOSS_DB), "dB");
        let rate = self.number("pulse_rate_hz", raw.pulse_rate_hz, 1e3..=1e10, "Hz");
        let dark = raw.dark_count_probability;
        Optics {
            pulse_rate_hz: rate,
            loss: Decibels::from_db(loss).expect("a number in range is a loss"),
            fibre_km: self.number("fibre_km", raw.fibre_km, 0.0..=1e3, "km"),
            delay_line_km: self.number("delay_line_km", raw.delay_line_km, 0.1..=1e3, "km"),
            mean: self.mean(&raw.mean_photon_number),
            bob_efficiency: self.number("bob_efficiency", raw.bob_efficiency, 1e-4..=1.0, ""),
            dark_count_probability: self.number("dark_count_probability", dark, 0.0..=0.1, ""),
            dead_gates: self.dead_gates(raw.dead_time_us, raw.pulse_rate_hz),
            visibility: self.number("visibility", raw.visibility, 0.0..=1.0, ""),
        }
    }

    fn mean(&mut self, raw: &RawMean) -> MeanPhotons {
        const KEY: &str = "mean_photon_number";
        match raw {
            RawMean::Number(mean) => MeanPhotons::Fixed(self.number(KEY, *mean, 1e-3..=10.0, "")),
            RawMean::Rule(rule) => {
                self.that(rule == "2*sqrt(t)", KEY, rule, "2*sqrt(t), or a number");
                MeanPhotons::FollowsLoss
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
            self.that((2_000..=10_000_000).contains(&bits), key, bits, "2000 to 10000000 bits");
        }
        Blocks {
            sifted: Bits::new(raw.block_sifted_bits),
            first_count: first.count,
            first_sifted: Bits::new(first.sifted_bits),
        }
    }
}

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
            ("protocol", "\"bb84\""),
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
