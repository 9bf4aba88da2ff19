//! How bright the pulses are, and how often.

use claviger_units::Fraction;

/// Intensities that no proof covers.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IntensityError {
    /// A mean photon number out of range, or not a number: give 0 to 100.
    #[error("{0} is no mean photon number of a quantum source; it must lie between 0 and 100")]
    Mean(f64),
    /// Two decoys in a wrong order: give the brightest first, and μ₁ > μ₂ + μ₃.
    #[error("the means {0:?} must obey μ₁ > μ₂ + μ₃ and μ₂ > μ₃ ≥ 0; brighten the signal")]
    TwoDecoys([f64; 3]),
    /// A decoy as bright as the signal, or dark: give the signal first, and μ₁ > μ₂ > 0.
    #[error("the means {0:?} must obey μ₁ > μ₂ > 0; brighten the signal, or the decoy")]
    OneDecoy([f64; 2]),
    /// An intensity that is hardly ever sent: give each at least one pulse in 10⁹.
    #[error("{0} is no probability of an intensity; each must be at least 1e-9 and below 1")]
    Probability(f64),
    /// Probabilities that leave something out: make them sum to one.
    #[error("the probabilities of the intensities sum to {0}; they must sum to 1")]
    Sum(f64),
}

/// A mean photon number of a pulse, 0 to 100; no quantum source is brighter.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct MeanPhotons(f64);

impl MeanPhotons {
    /// Makes a mean photon number from photons per pulse.
    pub fn try_new(photons: f64) -> Result<Self, IntensityError> {
        if (0.0..=100.0).contains(&photons) {
            Ok(Self(photons))
        } else {
            Err(IntensityError::Mean(photons))
        }
    }

    /// Returns the photons per pulse.
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    /// Returns the probability of two photons or more: `1 − (1 + μ) e^(−μ)`.
    #[must_use]
    pub fn multi_photon(self) -> Fraction {
        // By way of e^(−μ) − 1, which keeps its digits for dim pulses.
        let lit = -(-self.0).exp_m1();
        Fraction::clamped(lit - self.0 * (1.0 - lit))
    }
}

/// The intensities of a decoy-state source, the brightest first, with their probabilities.
///
/// `Intensities<3>` has two decoys, `Intensities<2>` one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intensities<const K: usize> {
    // Invariant: in the order and the distances that the proof of K intensities asks for.
    means: [f64; K],
    // Invariant: each in [10⁻⁹, 1), summing to one within rounding. With means of at most 100 all
    // weights e^μ/p are finite.
    probabilities: [f64; K],
}

impl Intensities<3> {
    /// Makes the intensities of a source with two decoys: μ₁ > μ₂ + μ₃ and μ₂ > μ₃ ≥ 0 (Lim et
    /// al. 2014, §II).
    pub fn two_decoys(means: [f64; 3], probabilities: [f64; 3]) -> Result<Self, IntensityError> {
        check_means(&means)?;
        let [signal, decoy, weakest] = means;
        if signal <= decoy + weakest || decoy <= weakest {
            return Err(IntensityError::TwoDecoys(means));
        }
        Self::with(means, probabilities)
    }
}

impl Intensities<2> {
    /// Makes the intensities of a source with one decoy: μ₁ > μ₂ > 0 (Rusca et al. 2018).
    pub fn one_decoy(means: [f64; 2], probabilities: [f64; 2]) -> Result<Self, IntensityError> {
        check_means(&means)?;
        let [signal, decoy] = means;
        if signal <= decoy || decoy <= 0.0 {
            return Err(IntensityError::OneDecoy(means));
        }
        Self::with(means, probabilities)
    }
}

impl<const K: usize> Intensities<K> {
    fn with(means: [f64; K], probabilities: [f64; K]) -> Result<Self, IntensityError> {
        let improper = |p: &&f64| !(**p >= RAREST && **p < 1.0);
        if let Some(&bad) = probabilities.iter().find(improper) {
            return Err(IntensityError::Probability(bad));
        }
        let sum: f64 = probabilities.iter().sum();
        if (sum - 1.0).abs() > ROUNDING {
            return Err(IntensityError::Sum(sum));
        }
        Ok(Self { means, probabilities })
    }

    /// Returns the mean photon numbers, the brightest first.
    #[must_use]
    pub fn means(&self) -> [MeanPhotons; K] {
        self.means.map(MeanPhotons)
    }

    /// Returns how often each intensity is sent.
    #[must_use]
    pub fn probabilities(&self) -> [Fraction; K] {
        self.probabilities.map(Fraction::clamped)
    }

    pub(crate) const fn bare_means(&self) -> &[f64; K] {
        &self.means
    }

    /// τ₀ and τ₁: the probabilities of a pulse with no and with one photon,
    /// `τ_n = Σ_k p_k e^(−μ_k) μ_k^n / n!` (Lim et al. 2014, below Eq. 2).
    pub(crate) fn tau(&self) -> (f64, f64) {
        let pairs = self.means.iter().zip(&self.probabilities);
        pairs.fold((0.0, 0.0), |(none, one), (mean, probability)| {
            let vacuum = probability * (-mean).exp();
            (none + vacuum, one + vacuum * mean)
        })
    }

    /// `e^(μ_k)/p_k`: what turns counts of one intensity into counts of photon numbers.
    pub(crate) fn weights(&self) -> [f64; K] {
        std::array::from_fn(|k| self.means[k].exp() / self.probabilities[k])
    }
}

fn check_means(means: &[f64]) -> Result<(), IntensityError> {
    means.iter().try_for_each(|mean| MeanPhotons::try_new(*mean).map(drop))
}

/// The least probability of an intensity.
const RAREST: f64 = 1e-9;
/// How far a sum of probabilities may be from one.
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intensities_out_of_order_are_refused() {
        let even = [0.5, 0.25, 0.25];
        for (means, probabilities, good) in [
            ([0.4, 0.2, 0.0], even, true),
            ([0.4, 0.2, 0.2], even, false),
            ([0.4, 0.3, 0.1], even, false),
            ([0.2, 0.4, 0.0], even, false),
            ([0.4, 0.2, -0.1], even, false),
            ([f64::NAN, 0.2, 0.0], even, false),
            ([f64::INFINITY, 0.2, 0.0], even, false),
            ([0.4, 0.2, 0.0], [0.5, 0.5, 0.0], false),
            ([0.4, 0.2, 0.0], [0.5, 0.25, 0.2], false),
            ([0.4, 0.2, 0.0], [f64::NAN, 0.25, 0.2], false),
        ] {
            let made = Intensities::two_decoys(means, probabilities);
            assert_eq!(made.is_ok(), good, "{means:?} {probabilities:?}: {made:?}");
        }
        assert!(Intensities::one_decoy([0.4, 0.1], [0.3, 0.7]).is_ok());
        assert!(Intensities::one_decoy([0.1, 0.4], [0.3, 0.7]).is_err());
        assert!(Intensities::one_decoy([0.4, 0.0], [0.3, 0.7]).is_err());
    }

    #[test]
    fn dim_pulses_keep_the_digits_of_their_second_photon() {
        for (mean, expected) in [(1e-8_f64, 0.5e-16), (0.5, 1.0 - 1.5 * (-0.5_f64).exp())] {
            let got = MeanPhotons::try_new(mean).unwrap().multi_photon().as_f64();
            assert!((got / expected - 1.0).abs() < 1e-7, "{mean}: {got}");
        }
    }
}
