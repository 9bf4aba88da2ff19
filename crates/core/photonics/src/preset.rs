//! The parameters of a link, read from a file and checked.

mod raw;

pub use claviger_security::SecurityClaim;
use claviger_security::SecurityParameters;
use claviger_security::entropy::{Efficiency, binary_entropy};
use claviger_units::{BitRate, Bits, Decibels, Fraction, Span};

pub use self::raw::{
    Fault, PresetError, RawAfterpulses, RawFirstBlocks, RawGate, RawIntensity, RawMean, RawPreset,
};
use crate::coding::{Coding, Protocol};
use crate::theory::{self, BlockCosts};

/// The link gives no key, and these are the numbers.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "no key comes of a link with {loss}: of its {sifted} of sifted bits {qber} are wrong, and \
     correcting them discloses {corrected} of a block of which {secret} are secret; {}",
    advice(*.most)
)]
pub struct NoKey {
    /// The loss asked for.
    pub loss: Decibels,
    /// The rate of sifted bits.
    pub sifted: BitRate,
    /// The error rate of the sifted bits.
    pub qber: Fraction,
    /// The share of a block that is secret before error correction.
    pub secret: Fraction,
    /// The share of a block that error correction discloses.
    pub corrected: Fraction,
    /// The largest loss in tenths of a decibel with which this link gives a key, if there is any.
    pub most: Option<Decibels>,
}

fn advice(most: Option<Decibels>) -> String {
    match most {
        Some(loss) => format!("lower the loss to {loss} or less"),
        None => "no loss is small enough: mend the optics".to_owned(),
    }
}

/// The error correction a link runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cascade {
    /// The schedule of Brassard and Salvail: four passes, first blocks of 0.73 / QBER bits.
    Original,
    /// That of Yan et al.: blocks of 0.8 / QBER bits, then of five times that, then random halves.
    Yan,
    /// Variant 8 of Martinez-Mateo et al.: blocks of powers of two, parts reused, random halves.
    MartinezMateo,
    /// Blocks of powers of two, in the second pass of bits that are equally likely to be wrong.
    Graded,
}

impl Cascade {
    /// Every schedule.
    pub const ALL: [Self; 4] = [Self::Original, Self::Yan, Self::MartinezMateo, Self::Graded];

    /// Returns the name that a preset's file gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Yan => "yan",
            Self::MartinezMateo => "martinez-mateo",
            Self::Graded => "graded",
        }
    }
}

/// A checked description of a link: light, detectors, blocks, and the claim of its keys.
///
/// ```
/// use claviger_photonics::{LinkPreset, theory};
/// use claviger_units::Decibels;
///
/// let lab = LinkPreset::named("lab")?;
/// assert_eq!(theory::expected(&lab).secret_rate.to_string(), "1925 bit/s");
/// let longer = lab.clone().with_loss(Decibels::from_db(7.0)?);
/// assert!(theory::expected(&longer).secret_rate < theory::expected(&lab).secret_rate);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LinkPreset {
    name: String,
    pub(crate) optics: Optics,
    source: Source,
    security: Security,
    cascade: Cascade,
    efficiency: Efficiency,
    blocks: Blocks,
    sample_fraction: Fraction,
    abort_qber: Fraction,
}

/// What decides about clicks. Invariant: every number is in the range that a [`RawPreset`] is
/// checked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Optics {
    pub(crate) pulse_rate_hz: f64,
    /// Of fibre and optical switch together.
    pub(crate) loss: Decibels,
    pub(crate) fibre_km: f64,
    pub(crate) trains: Trains,
    pub(crate) bob_efficiency: f64,
    pub(crate) dark_count_probability: f64,
    pub(crate) dead_gates: u64,
    pub(crate) afterpulses: Afterpulses,
    pub(crate) arrival: Arrival,
    pub(crate) visibility: f64,
}

/// Whether pulses come in trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Trains {
    /// Plug and play: a delay line holds one train, and both fibres must empty before the next.
    Through { delay_line_km: f64 },
    /// One way: pulses come without pause.
    None,
}

/// Charges that an avalanche leaves behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Afterpulses {
    /// Chance that an avalanche leaves one that is released after the dead time.
    pub(crate) probability: f64,
    /// Gates until its release, on average, counted from the end of the dead time.
    pub(crate) mean_gates: f64,
}

/// When photons are registered, relative to the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrival {
    /// In the gate: what misses it is part of the efficiency.
    InGate,
    /// Spread by jitter: a normal distribution with this deviation, and gates of this width, both
    /// in parts of the time between two pulses.
    Spread { jitter: f64, gate: f64 },
}

/// What Alice's source emits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Source {
    /// One intensity; both bases alike.
    Plain { protocol: Protocol, mean: MeanPhotons },
    /// Several intensities, of which the extinction of the modulator is part already.
    Decoy(Coding),
}

/// The brightness of a pulse that leaves Alice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MeanPhotons {
    /// t, the transmittance: the best of the era for BB84.
    Transmittance,
    /// 2√t: the best of the era for SARG04.
    TwiceRoot,
    Fixed(f64),
}

impl MeanPhotons {
    pub(crate) fn at(self, transmittance: f64) -> f64 {
        match self {
            Self::Transmittance => transmittance,
            Self::TwiceRoot => 2.0 * transmittance.sqrt(),
            Self::Fixed(mean) => mean,
        }
    }
}

/// What is claimed of the keys, and what the claim needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Security {
    /// The secret fraction of the era.
    EraHeuristic,
    /// The bound of GLLP for blocks without end.
    Gllp,
    /// A bound for each block as it is.
    FiniteSize(SecurityParameters),
}

impl Security {
    /// Returns the claim.
    #[must_use]
    pub const fn claim(&self) -> SecurityClaim {
        match self {
            Self::EraHeuristic => SecurityClaim::EraHeuristic,
            Self::Gllp => SecurityClaim::Gllp,
            Self::FiniteSize(_) => SecurityClaim::FiniteSize,
        }
    }
}

impl Optics {
    /// Share of photons that arrive at Bob.
    pub(crate) fn transmittance(&self) -> f64 {
        10_f64.powf(-self.loss.as_db() / 10.0)
    }

    /// Share of the time in which trains pass: the delay line fills, then both fibres empty.
    pub(crate) fn duty(&self) -> f64 {
        match self.trains {
            Trains::Through { delay_line_km } => delay_line_km / (delay_line_km + self.fibre_km),
            Trains::None => 1.0,
        }
    }

    /// Pulses per second, the pauses between trains included.
    pub(crate) fn mean_pulse_rate(&self) -> f64 {
        self.pulse_rate_hz * self.duty()
    }

    /// Shares of the photons that are registered in their own gate, and in each neighbouring one.
    pub(crate) fn gate_shares(&self) -> (f64, f64) {
        match self.arrival {
            Arrival::InGate => (1.0, 0.0),
            Arrival::Spread { jitter, gate } => {
                let half = gate / 2.0;
                let own = normal_between(-half / jitter, half / jitter);
                (own, normal_between((1.0 - half) / jitter, (1.0 + half) / jitter))
            }
        }
    }
}

/// The normal distribution between two bounds, in deviations; Simpson's rule, to about 10⁻¹².
fn normal_between(low: f64, high: f64) -> f64 {
    const STEPS: u32 = 2000;
    let (low, high) = (low.clamp(-12.0, 12.0), high.clamp(-12.0, 12.0));
    let step = (high - low) / f64::from(STEPS);
    let density = |x: f64| (-x * x / 2.0).exp() / core::f64::consts::TAU.sqrt();
    let sum: f64 = (0..=STEPS)
        .map(|i| {
            let weight = match i {
                0 | STEPS => 1.0,
                i if i % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * density(low + f64::from(i) * step)
        })
        .sum();
    sum * step / 3.0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    sifted: Bits,
    first_count: u64,
    first_sifted: Bits,
}

impl LinkPreset {
    /// The built-in presets: the paper's two set-ups, the hardware of its era at any loss, the
    /// paper's fibre under a stricter reading, and a modern link.
    pub const NAMES: [&str; 5] = ["lab", "city", "clavis2", "lab-gllp", "decoy-1ghz"];

    /// Returns a built-in preset.
    pub fn named(name: &str) -> Result<Self, PresetError> {
        match name {
            "lab" => Self::from_toml(include_str!("../../../../presets/lab.toml")),
            "city" => Self::from_toml(include_str!("../../../../presets/city.toml")),
            "clavis2" => Self::from_toml(include_str!("../../../../presets/clavis2.toml")),
            "lab-gllp" => Self::from_toml(include_str!("../../../../presets/lab-gllp.toml")),
            "decoy-1ghz" => Self::from_toml(include_str!("../../../../presets/decoy-1ghz.toml")),
            _ => Err(PresetError::UnknownName { name: name.to_owned() }),
        }
    }

    /// Reads and checks a preset.
    pub fn from_toml(text: &str) -> Result<Self, PresetError> {
        let raw: RawPreset =
            toml::from_str(text).map_err(|error| PresetError::Syntax(Box::new(error)))?;
        raw.try_into()
    }

    /// Returns the protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self.source {
            Source::Plain { protocol, .. } => protocol,
            Source::Decoy(_) => Protocol::DecoyBb84,
        }
    }

    /// Returns what both ends choose from at the link's loss.
    #[must_use]
    pub fn coding(&self) -> Coding {
        match self.source {
            Source::Plain { protocol, mean } => {
                Coding::plain(protocol, mean.at(self.optics.transmittance()))
            }
            Source::Decoy(coding) => coding,
        }
    }

    /// Returns what is claimed of the keys.
    #[must_use]
    pub const fn security(&self) -> Security {
        self.security
    }

    /// Returns the same link with another loss, that of an optical switch included; a mean photon
    /// number given as a rule follows it.
    #[must_use]
    pub fn with_loss(mut self, loss: Decibels) -> Self {
        self.optics.loss = loss;
        self
    }

    /// Returns what the link is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the loss of the quantum channel.
    #[must_use]
    pub const fn loss(&self) -> Decibels {
        self.optics.loss
    }

    /// Returns the error correction to run.
    #[must_use]
    pub const fn cascade(&self) -> Cascade {
        self.cascade
    }

    /// Returns the efficiency that theory expects of the error correction.
    #[must_use]
    pub const fn reconciliation_efficiency(&self) -> Efficiency {
        self.efficiency
    }

    /// Returns how many sifted bits close the block of that number; the first block is number 0.
    #[must_use]
    pub const fn block_bits(&self, number: u64) -> Bits {
        if number < self.blocks.first_count { self.blocks.first_sifted } else { self.blocks.sifted }
    }

    /// Tells whether the block of that number is one of the smaller first ones.
    #[must_use]
    pub const fn is_first(&self, number: u64) -> bool {
        number < self.blocks.first_count
    }

    /// Returns the share of the sifted bits that is disclosed to estimate the error rate.
    #[must_use]
    pub const fn sample_fraction(&self) -> Fraction {
        self.sample_fraction
    }

    /// Returns the error rate above which a block is dropped unreconciled.
    #[must_use]
    pub const fn abort_qber(&self) -> Fraction {
        self.abort_qber
    }

    /// Returns how many pulses after a click both detectors are blind.
    #[must_use]
    pub const fn dead_gates(&self) -> u64 {
        self.optics.dead_gates
    }

    /// Returns how long after the start of the link the pulse of that index is sent.
    ///
    /// Indices count pulses only. The pauses between trains (a train is one filling of the delay
    /// line, some 100 µs) are spread evenly over the pulses: on every scale above a train rates and
    /// times are right, and no index is wasted on a gate without light.
    #[must_use]
    pub fn time_of(&self, pulse: u64) -> Span {
        Span::from_secs_f64(pulse as f64 / self.optics.mean_pulse_rate())
    }

    /// Returns how many pulses are sent within `span`: the inverse of [`Self::time_of`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a pulse is no pulse; the cast saturates"
    )]
    pub fn pulses_in(&self, span: Span) -> u64 {
        (span.as_secs_f64() * self.optics.mean_pulse_rate()) as u64
    }

    /// Returns the click probability of a pulse that meets no dead time, as a run has shown it;
    /// the pulses that the clicks themselves blocked are left out. `None` before the first click.
    #[must_use]
    pub fn observed_click_probability(&self, clicks: u64, pulses: u64) -> Option<Fraction> {
        let live = pulses.saturating_sub(clicks.saturating_mul(self.optics.dead_gates));
        (clicks > 0 && live >= clicks).then(|| Fraction::of(clicks, live))
    }

    /// Returns what a full-sized block costs, given the bits that go to tags and verification.
    #[must_use]
    pub const fn block_costs(&self, overhead: Bits) -> BlockCosts {
        BlockCosts {
            sifted: self.blocks.sifted,
            sample: self.sample_fraction,
            efficiency: self.efficiency,
            overhead,
        }
    }

    /// Tells whether the link gives key at all, with `overhead` bits a block for tags and
    /// verification; ask this before starting a link.
    pub fn viability(&self, overhead: Bits) -> Result<(), NoKey> {
        let costs = self.block_costs(overhead);
        let gives_key = |link: &Self| theory::expected(link).secret_rate_with(costs).as_bps() > 0.0;
        if gives_key(self) {
            return Ok(());
        }
        let expected = theory::expected(self);
        let tenths = (0..=MAX_LOSS_DB * 10).rev().map(|n| Decibels::from_db(f64::from(n) / 10.0));
        let mut losses = tenths.filter_map(Result::ok);
        Err(NoKey {
            loss: self.loss(),
            sifted: expected.sifted,
            qber: expected.qber,
            secret: expected.secret_content(costs.sifted),
            corrected: Fraction::clamped(
                costs.efficiency.ratio() * binary_entropy(expected.qber).as_f64(),
            ),
            most: losses.find(|loss| gives_key(&self.clone().with_loss(*loss))),
        })
    }
}

const MAX_LOSS_DB: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_presets_are_the_papers_set_ups() {
        let [lab, city] = ["lab", "city"].map(|name| LinkPreset::named(name).unwrap());
        assert_eq!((lab.name(), lab.loss().as_db()), ("lab", 4.0));
        assert_eq!((city.name(), city.loss().as_db()), ("city", 7.0));
        for preset in [&lab, &city] {
            assert_eq!(preset.dead_gates(), 150);
            assert_eq!([0, 2, 3].map(|n| preset.block_bits(n).count()), [20_000, 20_000, 100_000]);
            assert_eq!(preset.viability(Bits::new(320)), Ok(()));
        }
        let error = LinkPreset::named("lob").unwrap_err().to_string();
        assert!(error.contains("lab, city, clavis2"), "{error}");
    }

    #[test]
    fn a_link_without_key_says_why_and_how_far_it_reaches() {
        let city = LinkPreset::named("city").unwrap();
        let with = |db| city.clone().with_loss(Decibels::from_db(db).unwrap());
        let refused = with(25.0).viability(Bits::new(320)).unwrap_err();
        assert_eq!(refused.most, Some(Decibels::from_db(18.1).unwrap()), "{refused}");
        assert_eq!(with(18.1).viability(Bits::new(320)), Ok(()));
        assert!(with(18.2).viability(Bits::new(320)).is_err());
        let text = include_str!("../../../../presets/lab.toml");
        let dim = LinkPreset::from_toml(&text.replace("visibility = 0.985", "visibility = 0.5"));
        let dim = dim.unwrap().viability(Bits::new(320)).unwrap_err();
        assert_eq!(dim.most, None);
        assert!(dim.to_string().ends_with("no loss is small enough: mend the optics"), "{dim}");
    }

    #[test]
    fn pulses_and_times_are_inverse() {
        let lab = LinkPreset::named("lab").unwrap();
        // 5 MHz times 21.5 / 29.9.
        assert_eq!(lab.pulses_in(Span::from_secs(1)), 3_595_317);
        assert_eq!(lab.time_of(3_595_318).as_micros(), 1_000_000);
    }
}
