//! What both proofs for finite blocks share: the account of a block.

use claviger_units::{Bits, Fraction};

use crate::counts::Observed;
use crate::entropy::h;
use crate::epsilon::{Epsilon, SecurityParameters};
use crate::intensity::Intensities;
use crate::sampling::{FewErrors, PhaseError, Sample, TooFewErrors};

/// A proof for finite blocks from a source of K intensities.
pub trait Proof<const K: usize> {
    /// Returns the intensities that the proof was set up for.
    fn intensities(&self) -> &Intensities<K>;

    /// Returns the account of a block, and with it the length that its counts support.
    ///
    /// `leak` is every bit that reconciliation discloses. The bits that compare the keys afterwards
    /// are paid for by `log₂(2/ε_cor)`; if a hash is longer than that, its surplus belongs into
    /// `leak`.
    ///
    /// The length is a promise only if it was fixed before the counts were known: see
    /// [`Acceptance`](crate::Acceptance).
    fn account(&self, observed: &Observed<K>, leak: Bits) -> Result<Account, TooFewErrors>;
}

/// Whether counts shifted by their deviation may leave the range that counts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clipping {
    /// n±, m± as the proofs print them: below zero or above all counts where the deviation is
    /// large.
    AsPrinted,
    /// Counts between zero and all of the basis, which the expected counts obey by definition:
    /// as valid, and up to 15 % more key.
    Clipped,
}

/// Bounds on what the detections of one basis came from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhotonBounds {
    /// s₀: detections of pulses without a photon, at least.
    pub vacuum_at_least: f64,
    /// The same, at most; `None` where the proof needs no such bound.
    pub vacuum_at_most: Option<f64>,
    /// s₁: detections of pulses with one photon, at least.
    pub single_at_least: f64,
}

impl PhotonBounds {
    /// Keeps bounds from below within what a basis has shown.
    ///
    /// The proofs floor them at zero. Counts that no source of these intensities shows, say many of
    /// a decoy and none of the signal, can also lift them above all detections; a key must not
    /// become longer than its block by that.
    pub(crate) fn within(
        all: u64,
        vacuum_at_least: f64,
        vacuum_at_most: Option<f64>,
        single_at_least: f64,
    ) -> Self {
        let all = all as f64;
        // `max` and `min` turn what is not a number into nothing proven.
        let vacuum_at_least = vacuum_at_least.max(0.0).min(all);
        let single_at_least = single_at_least.max(0.0).min(all - vacuum_at_least);
        Self { vacuum_at_least, vacuum_at_most, single_at_least }
    }
}

/// The account of a block, with every bound on the way to its length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Account {
    /// What the detections of the key basis came from.
    pub key: PhotonBounds,
    /// What those of the test basis came from.
    pub test: PhotonBounds,
    /// v: errors of single photons in the test basis, at most.
    pub single_errors: f64,
    /// φ: the phase error of the key's single photons, at most, and its parts.
    pub phase_error: PhaseError,
    /// Bits that reconciliation discloses.
    pub leak: Bits,
    /// Bits that secrecy and correctness cost whatever the counts: `6 log₂(21/ε_sec)` or
    /// `6 log₂(19/ε_sec)`, and `log₂(2/ε_cor)`.
    pub overhead: f64,
    /// `s₀ + s₁ (1 − h(φ)) − leak − overhead`, in bits; below zero it tells how far from a key the
    /// block is.
    pub bits: f64,
    /// ℓ: the same, rounded down, not below zero.
    pub length: Bits,
}

/// Counts of each intensity turned into bounds: `e^(μ_k)/p_k · (count ± deviation)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shifted<const K: usize> {
    pub(crate) lower: [f64; K],
    pub(crate) upper: [f64; K],
}

impl<const K: usize> Shifted<K> {
    /// `n± = e^(μ_k)/p_k · (n_k ± δ(n))` with n the sum over all intensities of the basis.
    pub(crate) fn of(
        counts: [u64; K],
        weights: &[f64; K],
        epsilon: Epsilon,
        clipping: Clipping,
    ) -> Self {
        let all = counts.iter().sum::<u64>() as f64;
        let deviation = hoeffding(all, epsilon);
        let shifted = |by: f64| {
            std::array::from_fn(|k| {
                let count = counts[k] as f64 + by;
                weights[k]
                    * match clipping {
                        Clipping::AsPrinted => count,
                        Clipping::Clipped => count.clamp(0.0, all),
                    }
            })
        };
        Self { lower: shifted(-deviation), upper: shifted(deviation) }
    }
}

/// `δ(n) = √(n/2 · ln(1/ε))`, Hoeffding's deviation of a count among n (Lim et al. 2014, Eq. A1).
pub(crate) fn hoeffding(n: f64, epsilon: Epsilon) -> f64 {
    (n / 2.0 * -epsilon.as_f64().ln()).sqrt()
}

/// The bounds of a block before they become a length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) key: PhotonBounds,
    pub(crate) test: PhotonBounds,
    pub(crate) single_errors: f64,
    /// Errors seen in the test basis.
    pub(crate) seen: u64,
}

/// What a proof is set to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Into how many parts `ε_sec` is cut: 21 or 19.
    pub(crate) parts: f64,
    pub(crate) security: SecurityParameters,
    pub(crate) few_errors: FewErrors,
}

impl Settings {
    pub(crate) fn epsilon(&self) -> Epsilon {
        self.security.secrecy.part(self.parts)
    }

    /// `ℓ = ⌊s₀ + s₁ (1 − h(φ)) − leak − 6 log₂(parts/ε_sec) − log₂(2/ε_cor)⌋`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a bit is dropped and negative lengths saturate to zero"
    )]
    pub(crate) fn account(&self, bounds: Bounds, leak: Bits) -> Result<Account, TooFewErrors> {
        let Bounds { key, test, single_errors, seen } = bounds;
        let sample = Sample {
            errors: single_errors,
            sampled: test.single_at_least,
            left: key.single_at_least,
            seen,
        };
        let phase_error = sample.phase_error(self.epsilon(), self.few_errors)?;
        let secrecy = -6.0 * self.epsilon().as_f64().log2();
        let overhead = secrecy + 1.0 - self.security.correctness.as_f64().log2();
        let content =
            key.vacuum_at_least + key.single_at_least * (1.0 - h(phase_error.rate.as_f64()));
        let bits = content - leak.count() as f64 - overhead;
        let length = Bits::new(bits.max(0.0) as u64);
        Ok(Account { key, test, single_errors, phase_error, leak, overhead, bits, length })
    }
}

impl Account {
    /// Returns the secret share of the single photons, 1 − h(φ).
    #[must_use]
    pub fn single_content(&self) -> Fraction {
        Fraction::clamped(1.0 - h(self.phase_error.rate.as_f64()))
    }
}
