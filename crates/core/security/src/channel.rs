//! What a link is expected to show, pulse by pulse.

use claviger_units::Fraction;

use crate::counts::{Counts, Observed};
use crate::intensity::{Intensities, MeanPhotons};

/// A link as the asymptotic formulas see it (the model of Ma, Qi, Zhao and Lo 2005).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainChannel {
    /// η: share of Alice's photons that Bob would count; fibre, optics and detectors together.
    pub transmittance: Fraction,
    /// Y₀: probability of a click without light, of both detectors together.
    pub background: Fraction,
    /// `e_d`: share of the photons that go to the wrong detector.
    pub misalignment: Fraction,
}

impl PlainChannel {
    /// Returns the probability of a click: `Q = Y₀ + 1 − e^(−ημ)`.
    #[must_use]
    pub fn click(&self, mean: MeanPhotons) -> Fraction {
        Fraction::clamped(self.background.as_f64() + self.lit(mean))
    }

    /// Returns the error rate of the clicks: `E = (e₀ Y₀ + e_d (1 − e^(−ημ))) / Q` with e₀ = ½
    /// (dark clicks err every other time); a half where nothing clicks.
    #[must_use]
    pub fn qber(&self, mean: MeanPhotons) -> Fraction {
        let click = self.click(mean).as_f64();
        let errors = self.background.as_f64() / 2.0 + self.misalignment.as_f64() * self.lit(mean);
        Fraction::clamped(if click > 0.0 { errors / click } else { 0.5 })
    }

    fn lit(&self, mean: MeanPhotons) -> f64 {
        -(-self.transmittance.as_f64() * mean.as_f64()).exp_m1()
    }
}

/// A link with gated detectors that remember (Lim et al. 2014, §IV).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedChannel {
    /// `η_ch`: share of Alice's photons that reach Bob's detectors.
    pub transmittance: Fraction,
    /// `η_Bob`: share of these that are counted.
    pub detector_efficiency: Fraction,
    /// `p_dc`: probability of a dark count, of one detector in one gate.
    pub dark_count: Fraction,
    /// `p_ap`: probability that a click is followed by an afterpulse.
    pub afterpulse: Fraction,
    /// `e_mis`: share of the counted photons that go to the wrong detector.
    pub misalignment: Fraction,
    /// Pulses after a detection in which both detectors are blind; the paper has none.
    pub dead_gates: u64,
}

/// The counts that a link is expected to show when a block closes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation<const K: usize> {
    /// Pulses that it takes, those that meet blind detectors included.
    pub pulses: u64,
    /// The counts, rounded.
    pub observed: Observed<K>,
}

impl GatedChannel {
    /// Returns the probability of a detection, afterpulses included:
    /// `R = D (1 + p_ap)` with `D = 1 − (1 − 2 p_dc) e^(−ημ)`.
    #[must_use]
    pub fn detection(&self, mean: MeanPhotons) -> Fraction {
        Fraction::clamped(self.first(mean) * (1.0 + self.afterpulse.as_f64()))
    }

    /// Returns the probability of a wrong bit: `e = p_dc + e_mis (1 − e^(−ημ)) + p_ap D / 2`.
    ///
    /// η is `η_ch η_Bob` in both terms. The paper prints `η_ch` alone in the second, which would
    /// let photons err that no detector has counted.
    #[must_use]
    pub fn error(&self, mean: MeanPhotons) -> Fraction {
        let lit = -(-self.efficiency() * mean.as_f64()).exp_m1();
        let afterpulses = self.afterpulse.as_f64() * self.first(mean) / 2.0;
        Fraction::clamped(self.dark_count.as_f64() + self.misalignment.as_f64() * lit + afterpulses)
    }

    /// Returns what to expect when `block` detections have come together in the key basis, which
    /// both ends choose with probability `key_basis`.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of pulses, rounded; the cast saturates"
    )]
    pub fn expect<const K: usize>(
        &self,
        intensities: &Intensities<K>,
        key_basis: Fraction,
        block: u64,
    ) -> Expectation<K> {
        let (means, shares) = (intensities.means(), intensities.probabilities());
        let weighted = |probability: &dyn Fn(MeanPhotons) -> Fraction| -> [f64; K] {
            std::array::from_fn(|k| shares[k].as_f64() * probability(means[k]).as_f64())
        };
        let detections = weighted(&|mean| self.detection(mean));
        let errors = weighted(&|mean| self.error(mean));
        let both = |basis: f64| basis * basis;
        let key = both(key_basis.as_f64());
        let test = both(1.0 - key_basis.as_f64());
        let clicking: f64 = detections.iter().sum();
        let live = block as f64 / (key * clicking);
        let counts = |share: f64| {
            let of = |rates: [f64; K]| rates.map(|rate| live * share * rate);
            Counts::rounded(of(detections), of(errors))
        };
        let observed = Observed { key: counts(key), test: counts(test) };
        let pulses = live * (1.0 + self.dead_gates as f64 * clicking);
        Expectation { pulses: pulses.round() as u64, observed }
    }

    fn efficiency(&self) -> f64 {
        self.transmittance.as_f64() * self.detector_efficiency.as_f64()
    }

    /// D: the probability of a detection that is no afterpulse.
    fn first(&self, mean: MeanPhotons) -> f64 {
        let dark = 2.0 * self.dark_count.as_f64();
        let silent = (-self.efficiency() * mean.as_f64()).exp();
        // 1 − (1 − 2 p_dc) e^(−ημ), without losing digits where both are small.
        -(-self.efficiency() * mean.as_f64()).exp_m1() + dark * silent
    }
}
