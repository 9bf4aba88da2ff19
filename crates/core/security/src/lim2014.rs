//! Two decoys: Lim, Curty, Walenta, Xu and Zbinden, Phys. Rev. A 89, 022307 (2014).
//!
//! The key is of basis X and of all intensities; basis Z is disclosed. Composable, against coherent
//! attacks, of fixed length.

use claviger_units::Bits;

use crate::account::{Account, Bounds, Clipping, PhotonBounds, Proof, Settings, Shifted};
use crate::counts::{Counts, Observed};
use crate::epsilon::{Epsilon, SecurityParameters};
use crate::intensity::Intensities;
use crate::sampling::{FewErrors, TooFewErrors};

/// The proof of Lim et al. for one source.
///
/// ```
/// use claviger_security::account::{Clipping, Proof};
/// use claviger_security::sampling::FewErrors;
/// use claviger_security::{Counts, Epsilon, Intensities, Lim2014, Observed, SecurityParameters};
/// use claviger_units::Bits;
///
/// let proof = Lim2014 {
///     intensities: Intensities::two_decoys([0.4, 0.15, 0.0002], [0.1, 0.5, 0.4])?,
///     security: SecurityParameters {
///         secrecy: Epsilon::try_new(1e-10)?,
///         correctness: Epsilon::try_new(1e-15)?,
///     },
///     clipping: Clipping::AsPrinted,
///     few_errors: FewErrors::Serfling,
/// };
/// let block = Observed {
///     key: Counts::try_new([34_474, 65_451, 75], [829, 1576, 4])?,
///     test: Counts::try_new([6332, 12_022, 14], [152, 289, 1])?,
/// };
/// assert_eq!(proof.account(&block, Bits::new(19_004))?.length, Bits::new(22_371));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lim2014 {
    /// μ₁, μ₂, μ₃ and their probabilities.
    pub intensities: Intensities<3>,
    /// `ε_sec` and `ε_cor`.
    pub security: SecurityParameters,
    /// Whether shifted counts are clipped.
    pub clipping: Clipping,
    /// What to do with few errors.
    pub few_errors: FewErrors,
}

/// Failure chances of the proof, each a part of `ε_sec` (below its Eq. B3).
const PARTS: f64 = 21.0;

impl Proof<3> for Lim2014 {
    fn intensities(&self) -> &Intensities<3> {
        &self.intensities
    }

    /// Their Eq. 1, with Eq. 2 and 3 for both bases and Eq. 4 and 5 for the phase error.
    fn account(&self, observed: &Observed<3>, leak: Bits) -> Result<Account, TooFewErrors> {
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

impl Lim2014 {
    fn shifted(&self, counts: [u64; 3], epsilon: Epsilon) -> Shifted<3> {
        Shifted::of(counts, &self.intensities.weights(), epsilon, self.clipping)
    }

    /// Eq. 2: `s₀ ≥ τ₀ (μ₂ n⁻₃ − μ₃ n⁺₂)/(μ₂ − μ₃)`;
    /// Eq. 3: `s₁ ≥ τ₁ μ₁ (n⁻₂ − n⁺₃ − (μ₂² − μ₃²)/μ₁² · (n⁺₁ − s₀/τ₀)) / d` with
    /// `d = μ₁ (μ₂ − μ₃) − μ₂² + μ₃²`. Neither below zero.
    fn photons(&self, counts: &Counts<3>, epsilon: Epsilon) -> PhotonBounds {
        let n = self.shifted(counts.detections(), epsilon);
        let [mu1, mu2, mu3] = *self.intensities.bare_means();
        let (tau0, tau1) = self.intensities.tau();
        let vacuum = tau0 * (mu2 * n.lower[2] - mu3 * n.upper[1]) / (mu2 - mu3);
        let vacuum = vacuum.max(0.0);
        let squares = mu2 * mu2 - mu3 * mu3;
        let several = squares / (mu1 * mu1) * (n.upper[0] - vacuum / tau0);
        let single =
            tau1 * mu1 * (n.lower[1] - n.upper[2] - several) / (mu1 * (mu2 - mu3) - squares);
        PhotonBounds::within(counts.all_detections(), vacuum, None, single)
    }

    /// Eq. 4: `v ≤ τ₁ (m⁺₂ − m⁻₃)/(μ₂ − μ₃)`, not below zero.
    fn single_errors(&self, test: &Counts<3>, epsilon: Epsilon) -> f64 {
        let m = self.shifted(test.errors(), epsilon);
        let [_, mu2, mu3] = *self.intensities.bare_means();
        let (_, tau1) = self.intensities.tau();
        (tau1 * (m.upper[1] - m.lower[2]) / (mu2 - mu3)).clamp(0.0, f64::INFINITY)
    }
}
