//! The best intensities for a link: a search that gives the same answer every time.
//!
//! First every point of a coarse grid, then steps from the best of these, smaller and smaller, to
//! less than a thousandth of a variable's range. Deterministic; some tens of milliseconds. What it
//! finds is a maximum nearby, not proven to be the highest; no proof depends on it.

use claviger_units::{Bits, Fraction};

use crate::account::{Account, Clipping, Proof};
use crate::channel::{Expectation, GatedChannel};
use crate::entropy::Efficiency;
use crate::epsilon::SecurityParameters;
use crate::intensity::{Intensities, MeanPhotons};
use crate::lim2014::Lim2014;
use crate::rusca2018::Rusca2018;
use crate::sampling::FewErrors;

/// What is to be made large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Secret bits per pulse, ℓ/N: the most key in a time.
    PerPulse,
    /// Secret bits per bit of the key basis, ℓ/n: for a link whose error correction is slower than
    /// its light. Dimmer pulses and more of the test basis always help, so the pulses that a block
    /// takes are given; they decide the share of the key basis.
    PerSiftedBit {
        /// Pulses that a block takes.
        pulses: u64,
    },
}

/// A link that wants its intensities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    /// The link.
    pub channel: GatedChannel,
    /// n: detections in the key basis that close a block.
    pub block: u64,
    /// Efficiency of error correction.
    pub efficiency: Efficiency,
    /// `ε_sec` and `ε_cor`.
    pub security: SecurityParameters,
    /// Whether shifted counts are clipped.
    pub clipping: Clipping,
    /// What to do with few errors.
    pub few_errors: FewErrors,
    /// What is to be made large.
    pub goal: Goal,
}

/// The best that was found for a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting<const K: usize, P> {
    /// The proof, with the intensities and their probabilities.
    pub proof: P,
    /// Probability that either end chooses the key basis.
    pub key_basis: Fraction,
    /// Pulses and counts to expect of a block.
    pub expectation: Expectation<K>,
    /// The account of these counts. Its length is no promise yet: see
    /// [`Acceptance`](crate::Acceptance).
    pub account: Account,
}

impl<const K: usize, P> Setting<K, P> {
    /// Returns ℓ/N, secret bits per pulse.
    #[must_use]
    pub fn secret_per_pulse(&self) -> Fraction {
        Fraction::of(self.account.length.count(), self.expectation.pulses)
    }

    /// Returns ℓ/n, secret bits per bit of the key basis.
    #[must_use]
    pub fn secret_share(&self) -> Fraction {
        let n = self.expectation.observed.key.all_detections();
        Fraction::of(self.account.length.count(), n)
    }
}

/// Looks for the best source with two decoys, the weaker of which has `weakest` photons; what the
/// modulator cannot make darker. `None` where nothing gives key.
///
/// ```
/// use claviger_security::account::Clipping;
/// use claviger_security::channel::GatedChannel;
/// use claviger_security::entropy::Efficiency;
/// use claviger_security::optimise::{Goal, Task, two_decoys};
/// use claviger_security::sampling::FewErrors;
/// use claviger_security::{Epsilon, MeanPhotons, SecurityParameters};
/// use claviger_units::Fraction;
///
/// let task = Task {
///     channel: GatedChannel {
///         transmittance: Fraction::try_new(0.4)?,
///         detector_efficiency: Fraction::try_new(0.1)?,
///         dark_count: Fraction::try_new(6e-7)?,
///         afterpulse: Fraction::try_new(0.04)?,
///         misalignment: Fraction::try_new(0.005)?,
///         dead_gates: 0,
///     },
///     block: 100_000,
///     efficiency: Efficiency::from_ratio(1.16),
///     security: SecurityParameters {
///         secrecy: Epsilon::try_new(1e-10)?,
///         correctness: Epsilon::try_new(1e-15)?,
///     },
///     clipping: Clipping::AsPrinted,
///     few_errors: FewErrors::Serfling,
///     goal: Goal::PerPulse,
/// };
/// let best = two_decoys(&task, MeanPhotons::try_new(2e-4)?).ok_or("no key")?;
/// assert!(best.secret_per_pulse().as_f64() > 5.2e-4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn two_decoys(task: &Task, weakest: MeanPhotons) -> Option<Setting<3, Lim2014>> {
    let at = |[mean, decoy, often, next, basis]: [f64; 5]| {
        let means = [mean, mean * decoy, weakest.as_f64()];
        let rest = 1.0 - often;
        let probabilities = [often, rest * next, rest * (1.0 - next)];
        let intensities = Intensities::two_decoys(means, probabilities).ok()?;
        let Task { security, clipping, few_errors, .. } = *task;
        task.setting(Lim2014 { intensities, security, clipping, few_errors }, basis)
    };
    let best = climb(&[MEAN, SHARE, SHARE, SHARE, BASIS], |point| task.value(at(point).as_ref()));
    at(best).filter(|setting| setting.account.length > Bits::ZERO)
}

/// Looks for the best source with one decoy. `None` where nothing gives key.
#[must_use]
pub fn one_decoy(task: &Task) -> Option<Setting<2, Rusca2018>> {
    let at = |[mean, decoy, often, basis]: [f64; 4]| {
        let intensities =
            Intensities::one_decoy([mean, mean * decoy], [often, 1.0 - often]).ok()?;
        let Task { security, clipping, few_errors, .. } = *task;
        task.setting(Rusca2018 { intensities, security, clipping, few_errors }, basis)
    };
    let best = climb(&[MEAN, SHARE, SHARE, BASIS], |point| task.value(at(point).as_ref()));
    at(best).filter(|setting| setting.account.length > Bits::ZERO)
}

impl Task {
    fn setting<const K: usize, P: Proof<K>>(&self, proof: P, basis: f64) -> Option<Setting<K, P>> {
        let key_basis = self.key_basis(proof.intensities(), basis)?;
        let expectation = self.channel.expect(proof.intensities(), key_basis, self.block);
        let key = expectation.observed.key;
        let leak = self.efficiency.leak(key.all_errors(), key.all_detections());
        let account = proof.account(&expectation.observed, leak).ok()?;
        Some(Setting { proof, key_basis, expectation, account })
    }

    /// The probability of the key basis: `proposed`, or what lets a block close after the pulses
    /// that are given; `None` where they are too few.
    fn key_basis<const K: usize>(
        &self,
        intensities: &Intensities<K>,
        proposed: f64,
    ) -> Option<Fraction> {
        let basis = match self.goal {
            Goal::PerPulse => proposed,
            Goal::PerSiftedBit { pulses } => {
                let always = self.channel.expect(intensities, Fraction::ONE, self.block).pulses;
                (always as f64 / pulses as f64).sqrt()
            }
        };
        (basis < 1.0).then(|| Fraction::clamped(basis))
    }

    /// What is to be made large; below zero, and comparable, where there is no key.
    fn value<const K: usize, P>(&self, setting: Option<&Setting<K, P>>) -> f64 {
        let Some(setting) = setting else { return f64::NEG_INFINITY };
        let bits = setting.account.bits;
        match self.goal {
            Goal::PerPulse if bits > 0.0 => bits / setting.expectation.pulses as f64,
            Goal::PerPulse | Goal::PerSiftedBit { .. } => bits / self.block as f64,
        }
    }
}

/// From where to where a variable is looked for.
type Range = (f64, f64);

/// Mean photon number of the signal.
const MEAN: Range = (0.02, 1.0);
/// A share or a ratio.
const SHARE: Range = (0.01, 0.99);
/// Probability of the key basis. Below a half the bases would rather change their parts.
const BASIS: Range = (0.5, 0.995);

/// Points of the grid along each variable.
const LEVELS: usize = 5;
/// From how many points of the grid to go on.
const STARTS: usize = 4;
/// Halvings of the grid's distance: to a thousandth of the range and less.
const HALVINGS: u32 = 9;

/// Returns the point with the largest value that the search finds.
fn climb<const D: usize>(ranges: &[Range; D], value: impl Fn([f64; D]) -> f64) -> [f64; D] {
    let mut starts: Vec<([f64; D], f64)> = Vec::new();
    for index in 0..count(LEVELS, D) {
        let point = grid_point(ranges, index);
        starts.push((point, value(point)));
        // Stable, so that of equals the first stays.
        starts.sort_by(|a, b| b.1.total_cmp(&a.1));
        starts.truncate(STARTS);
    }
    let tops = starts.into_iter().map(|start| refine(ranges, &value, start));
    let best = tops.reduce(|best, top| if top.1 > best.1 { top } else { best });
    best.map_or_else(|| grid_point(ranges, 0), |(point, _)| point)
}

/// The middle of one of LEVELS parts of each range; `index` has one digit for each variable.
fn grid_point<const D: usize>(ranges: &[Range; D], index: usize) -> [f64; D] {
    let mut digits = index;
    ranges.map(|(from, to)| {
        let digit = digits % LEVELS;
        digits /= LEVELS;
        from + (to - from) * (digit as f64 + 0.5) / LEVELS as f64
    })
}

/// Steps to the best neighbour while one is better, then halves the steps.
fn refine<const D: usize>(
    ranges: &[Range; D],
    value: &impl Fn([f64; D]) -> f64,
    start: ([f64; D], f64),
) -> ([f64; D], f64) {
    let mut best = start;
    let mut step = 1.0 / LEVELS as f64;
    for _ in 0..HALVINGS {
        step /= 2.0;
        while let Some(better) = best_neighbour(ranges, value, best, step) {
            best = better;
        }
    }
    best
}

/// The best of the 3^D − 1 neighbours, diagonal ones included: the value has ridges between the
/// variables. `None` where none is better.
fn best_neighbour<const D: usize>(
    ranges: &[Range; D],
    value: &impl Fn([f64; D]) -> f64,
    (centre, height): ([f64; D], f64),
    step: f64,
) -> Option<([f64; D], f64)> {
    let mut best = (centre, height);
    for index in 0..count(3, D) {
        let mut digits = index;
        let mut point = centre;
        for (x, (from, to)) in point.iter_mut().zip(ranges) {
            let direction = (digits % 3) as f64 - 1.0;
            digits /= 3;
            *x = (*x + direction * step * (to - from)).clamp(*from, *to);
        }
        let reached = value(point);
        if reached > best.1 {
            best = (point, reached);
        }
    }
    (best.1 > height).then_some(best)
}

/// How many points a lattice of `side` points along each of `variables` has.
fn count(side: usize, variables: usize) -> usize {
    (0..variables).map(|_| side).product()
}
