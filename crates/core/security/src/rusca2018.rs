//! One decoy: Rusca, Boaron, Grünenfelder, Martin and Zbinden, Applied Physics Letters 112, 171104
//! (2018).
//!
//! The key is of basis Z and of both intensities; basis X is disclosed. Composable, against
//! coherent attacks, of fixed length. No pulse is nearly dark; the vacuum is bounded from above by
//! the errors instead, for half of its bits are wrong.

use claviger_units::Bits;

use crate::account::{
    Account, Bounds, Clipping, PhotonBounds, Proof, Settings, Shifted, hoeffding,
};
use crate::counts::{Counts, Observed};
use crate::epsilon::{Epsilon, SecurityParameters};
use crate::intensity::Intensities;
use crate::sampling::{FewErrors, TooFewErrors};

/// The proof of Rusca et al. for one source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rusca2018 {
    /// μ₁, μ₂ and their probabilities.
    pub intensities: Intensities<2>,
    /// `ε_sec` and `ε_cor`.
    pub security: SecurityParameters,
    /// Whether shifted counts are clipped.
    pub clipping: Clipping,
    /// What to do with few errors.
    pub few_errors: FewErrors,
}

/// Failure chances of the proof, each a part of `ε_sec`.
const PARTS: f64 = 19.0;

impl Proof<2> for Rusca2018 {
    fn intensities(&self) -> &Intensities<2> {
        &self.intensities
    }

    /// `ℓ = ⌊s₀ + s₁ (1 − h(φ)) − leak − 6 log₂(19/ε_sec) − log₂(2/ε_cor)⌋`.
    ///
    /// γ takes `ε_sec/19` as everything else does; some copies of the paper print 21 there.
    fn account(&self, observed: &Observed<2>, leak: Bits) -> Result<Account, TooFewErrors> {
        let settings =
            Settings { parts: PARTS, security: self.security, few_errors: self.few_errors };
        let epsilon = settings.epsilon();
        let bounds = Bounds {
            key: self.photons(&observed.key, epsilon),
            test: self.photons(&observed.test, epsilon),
            single_errors: self.single_errors(&observed.test, epsilon),
            seen: observed.test.all_errors(),
        };
        settings.account(bounds, leak)
    }
}

impl Rusca2018 {
    fn shifted(&self, counts: [u64; 2], epsilon: Epsilon) -> Shifted<2> {
        Shifted::of(counts, &self.intensities.weights(), epsilon, self.clipping)
    }

    /// `s₀ ≥ τ₀ (μ₁ n⁻₂ − μ₂ n⁺₁)/(μ₁ − μ₂)`;
    /// `s₀ ≤ 2 (τ₀ e^(μ₂)/p₂ (m₂ + δ(m)) + δ(n))`, from the errors of the weaker intensity;
    /// `s₁ ≥ τ₁ μ₁ (n⁻₂ − μ₂²/μ₁² · n⁺₁ − (μ₁² − μ₂²)/μ₁² · s₀/τ₀) / (μ₂ (μ₁ − μ₂))` with the
    /// upper bound of s₀. None below zero.
    fn photons(&self, counts: &Counts<2>, epsilon: Epsilon) -> PhotonBounds {
        let n = self.shifted(counts.detections(), epsilon);
        let m = self.shifted(counts.errors(), epsilon);
        let [mu1, mu2] = *self.intensities.bare_means();
        let (tau0, tau1) = self.intensities.tau();
        let at_least = tau0 * (mu1 * n.lower[1] - mu2 * n.upper[0]) / (mu1 - mu2);
        let chance = hoeffding(counts.all_detections() as f64, epsilon);
        let at_most = 2.0 * (tau0 * m.upper[1] + chance);
        let ratio = (mu2 / mu1).powi(2);
        let several = ratio * n.upper[0] + (1.0 - ratio) * at_most / tau0;
        let single = tau1 * mu1 * (n.lower[1] - several) / (mu2 * (mu1 - mu2));
        PhotonBounds::within(counts.all_detections(), at_least, Some(at_most), single)
    }

    /// `v ≤ τ₁ (m⁺₁ − m⁻₂)/(μ₁ − μ₂)`, not below zero.
    fn single_errors(&self, test: &Counts<2>, epsilon: Epsilon) -> f64 {
        let m = self.shifted(test.errors(), epsilon);
        let [mu1, mu2] = *self.intensities.bare_means();
        let (_, tau1) = self.intensities.tau();
        (tau1 * (m.upper[0] - m.lower[1]) / (mu1 - mu2)).clamp(0.0, f64::INFINITY)
    }
}
