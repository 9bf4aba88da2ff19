//! From the error rate of a sample to that of the bits left out: sampling without replacement.
//!
//! The test basis samples the phase errors of the key. Both proofs bound the difference by γ, an
//! approximation of the hypergeometric tail (Fung, Ma and Chau 2010). **γ is not valid with few
//! errors**: without any it vanishes, though the bits left out may well hold some. With fewer than
//! [`LEAST_ERRORS`] errors the bound of Serfling (1974) takes its place, which knows nothing of the
//! number of errors and holds for any; or the block is dropped.
//!
//! The exchange is not continuous. Serfling's bound is that of the worst error rate, ½, and about
//! √(1/(4b)) times γ at an error rate b; so a block with 99 errors has a *higher* phase error than
//! one with 100, and may be left without key. That is the price of a bound that holds. How often γ
//! fails is computed exactly in this crate's tests: with ε = 4.8·10⁻¹², a 21st part of 10⁻¹⁰, nine
//! times in ten where the sample shows no error, thousands of times too often with up to 20, still
//! too often with 21, and never more than ε from 100 on.

use claviger_units::Fraction;

use crate::epsilon::Epsilon;

/// Errors below which γ is not used (PHYSICS.md §2).
pub const LEAST_ERRORS: u64 = 100;

/// What to do with fewer than [`LEAST_ERRORS`] errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FewErrors {
    /// Bound the phase error by Serfling's inequality.
    Serfling,
    /// Refuse the block.
    Abort,
}

/// A block of which the errors are too few to be judged: use a larger block or a larger share of
/// the test basis, or [`FewErrors::Serfling`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "{seen} errors in the test basis, at most {single:.1} of them of single photons, are fewer \
     than {LEAST_ERRORS}; enlarge the block or the test basis, or bound few errors by Serfling"
)]
pub struct TooFewErrors {
    /// Errors seen in the test basis.
    pub seen: u64,
    /// Of these, the most that single photons made.
    pub single: f64,
}

/// Which bound took a sample's error rate to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplingBound {
    /// γ of the proofs.
    Hypergeometric,
    /// Serfling's inequality, for few errors; it fails with a chance of ε², the square of one part
    /// of `ε_sec`.
    Serfling,
    /// None: no sample, or one that errs every other time.
    None,
}

/// The phase error of the key's single photons, at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseError {
    /// φ, at most ½: the error rate of the sample and the deviation.
    pub rate: Fraction,
    /// The error rate of the test basis' single photons, at most.
    pub sampled: Fraction,
    /// How much worse the key may be than the sample.
    pub deviation: Fraction,
    /// Where the deviation comes from.
    pub bound: SamplingBound,
}

/// A sample of single photons, in bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// v: errors among the sampled, at most.
    pub(crate) errors: f64,
    /// s₁ of the test basis, at least.
    pub(crate) sampled: f64,
    /// s₁ of the key basis, at least.
    pub(crate) left: f64,
    /// Errors seen in the test basis, of all pulses.
    pub(crate) seen: u64,
}

impl Sample {
    /// `φ = v/s + γ`, at most ½; with few errors the bound of Serfling instead of γ.
    pub(crate) fn phase_error(
        self,
        epsilon: Epsilon,
        few: FewErrors,
    ) -> Result<PhaseError, TooFewErrors> {
        let Self { errors, sampled, left, seen } = self;
        // γ sees v, not the errors seen: neither may be small.
        let enough = seen >= LEAST_ERRORS && errors >= LEAST_ERRORS as f64;
        if !enough && few == FewErrors::Abort {
            return Err(TooFewErrors { seen, single: errors });
        }
        // Written so that errors that are not a number bound nothing.
        let bounded = left > 0.0 && errors < sampled / 2.0;
        if !bounded {
            return Ok(PhaseError::unbounded());
        }
        let rate = Fraction::clamped(errors / sampled);
        let (deviation, bound) = if enough {
            let gamma = hypergeometric_deviation(rate, sampled, left, epsilon);
            (gamma, SamplingBound::Hypergeometric)
        } else {
            // The proofs use their bound as the smoothing of an entropy, which is the root of the
            // chance that it fails (Tomamichel et al. 2012): so that chance is ε², not ε. γ as
            // printed is as careful where errors are many (see there).
            let serfling = serfling_deviation(sampled, left, epsilon.squared());
            (serfling, SamplingBound::Serfling)
        };
        Ok(PhaseError {
            rate: Fraction::clamped((rate.as_f64() + deviation).min(0.5)),
            sampled: rate,
            deviation: Fraction::clamped(deviation),
            bound,
        })
    }
}

impl PhaseError {
    fn unbounded() -> Self {
        let half = Fraction::clamped(0.5);
        Self { rate: half, sampled: half, deviation: Fraction::ZERO, bound: SamplingBound::None }
    }
}

/// Returns γ, as both proofs print it:
/// `√( (c+d)(1−b)b/(c d ln 2) · log₂( (c+d)/(c d (1−b) b) · 1/ε² ) )`.
///
/// `rate` is b, the error rate of the sample; `sampled` c and `left` d count bits, above zero, in
/// the sample and outside; `epsilon` ε is `ε_sec/21` (Lim et al. 2014, Eq. 5) or `ε_sec/19` (Rusca
/// et al. 2018, of which some copies print 21 here; that would lower a length by 0.07 % at most).
///
/// A derivation gives ln 2 · log₂ where they print log₂/ln 2: the printed γ is 1/ln 2 = 1.44 times
/// as large, and its chance to fail falls as `ε^(1/ln² 2) = ε^2.08`. It is kept as printed. **Not
/// valid with few errors**, see above; zero for rates of zero and one.
#[must_use]
pub fn hypergeometric_deviation(rate: Fraction, sampled: f64, left: f64, epsilon: Epsilon) -> f64 {
    let spread = rate.as_f64() * (1.0 - rate.as_f64());
    if spread <= 0.0 {
        return 0.0;
    }
    let variance = (sampled + left) / (sampled * left) * spread;
    let odds = (sampled + left) / (sampled * left * spread) / epsilon.as_f64() / epsilon.as_f64();
    (variance / std::f64::consts::LN_2 * odds.log2()).max(0.0).sqrt()
}

/// Returns Serfling's deviation √( (c+d)(c+1) ln(1/α) / (2 d c²) ): with a chance of at least
/// 1 − α the error rate of the bits left out exceeds that of the sample by no more.
///
/// `sampled` c and `left` d count bits, above zero; `chance` is α. Serfling (1974), Corollary 1.1,
/// as Tomamichel et al. (2012) turn it from the whole to the bits left out.
#[must_use]
pub fn serfling_deviation(sampled: f64, left: f64, chance: Epsilon) -> f64 {
    let log = -chance.as_f64().ln();
    ((sampled + left) * (sampled + 1.0) * log / (2.0 * left * sampled * sampled)).sqrt()
}
