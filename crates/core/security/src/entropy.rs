//! Binary entropy, the price of error correction, and the limit of every link without repeaters.

use claviger_units::{Bits, Fraction};

/// Returns the binary entropy `h(x) = −x log₂ x − (1 − x) log₂(1 − x)`, zero at both ends.
#[must_use]
pub fn binary_entropy(x: Fraction) -> Fraction {
    Fraction::clamped(h(x.as_f64()))
}

/// The binary entropy as a bare number, zero outside (0, 1).
pub(crate) fn h(x: f64) -> f64 {
    if x > 0.0 && x < 1.0 { -x * x.log2() - (1.0 - x) * (1.0 - x).log2() } else { 0.0 }
}

/// Bits that error correction discloses, over the Shannon limit n·h(QBER); everything counted.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Efficiency(f64);

impl Efficiency {
    /// Makes an efficiency from the ratio; negative or undefined ratios become zero.
    #[must_use]
    pub const fn from_ratio(ratio: f64) -> Self {
        Self(if ratio > 0.0 { ratio } else { 0.0 })
    }

    /// Returns the ratio: 1 is the limit, larger is worse.
    #[must_use]
    pub const fn ratio(self) -> f64 {
        self.0
    }

    /// Returns the bits that correcting m `errors` among n `bits` is expected to disclose:
    /// `f·n·h(m/n)`, rounded up. Zero of an empty block.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of bits, rounded up; the cast saturates"
    )]
    pub fn leak(self, errors: u64, bits: u64) -> Bits {
        let qber = Fraction::of(errors, bits).as_f64();
        Bits::new((self.0 * bits as f64 * h(qber)).ceil() as u64)
    }
}

/// Returns the most secret bits per pulse and mode that any protocol without repeaters can give:
/// `−log₂(1 − t)`, infinite without loss.
///
/// Pirandola, Laurenza, Ottaviani and Banchi (2017), the PLOB bound; `transmittance` t is the
/// fibre's alone, detectors are not charged.
#[must_use]
pub fn repeaterless_bound(transmittance: Fraction) -> f64 {
    -(-transmittance.as_f64()).ln_1p() / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_symmetric_and_one_at_a_half() {
        let at = |x| binary_entropy(Fraction::clamped(x)).as_f64();
        for (x, expected) in [(0.0, 0.0), (0.5, 1.0), (1.0, 0.0), (0.11, 0.499_915_958_164_528)] {
            assert!((at(x) - expected).abs() < 1e-14, "h({x}) = {}", at(x));
            assert!((at(x) - at(1.0 - x)).abs() < 1e-14);
        }
    }

    /// PHYSICS.md §1: 0.732 and 0.321 bit per pulse at 4 and 7 dB.
    #[test]
    fn the_repeaterless_bound_is_that_of_physics() {
        for (loss_db, printed) in [(4.0, 0.732), (7.0, 0.321)] {
            let bound = repeaterless_bound(Fraction::clamped(10_f64.powf(-loss_db / 10.0)));
            assert!((bound - printed).abs() < 5e-4, "{loss_db} dB: {bound}");
        }
        assert!(repeaterless_bound(Fraction::ONE).is_infinite());
        // 1.44 t far away, where a subtraction from one would lose every digit.
        let far = repeaterless_bound(Fraction::clamped(1e-18));
        assert!((far * 1e18 - std::f64::consts::LOG2_E).abs() < 1e-12);
    }

    #[test]
    fn the_leak_is_rounded_up() {
        let f = Efficiency::from_ratio(1.16);
        assert_eq!(f.leak(2417, 100_000), Bits::new(19_054));
        assert_eq!(f.leak(0, 100_000), Bits::ZERO);
        assert_eq!(f.leak(0, 0), Bits::ZERO);
    }
}
