//! The chances that a promise is broken, for a block and for the life of a link.

use std::fmt;

use claviger_units::Fraction;

/// A number that is no security parameter.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("ε = {0} must lie between 0 and 1, both excluded: give something like 1e-10")]
pub struct EpsilonError(f64);

/// A chance of failure, in (0, 1).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Epsilon(f64);

impl Epsilon {
    /// Makes an ε; zero, one and what lies outside are refused.
    pub fn try_new(value: f64) -> Result<Self, EpsilonError> {
        if value > 0.0 && value < 1.0 { Ok(Self(value)) } else { Err(EpsilonError(value)) }
    }

    /// Returns the bare number in (0, 1).
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    /// Returns the n-th part.
    pub(crate) fn part(self, n: f64) -> Self {
        Self(self.0 / n)
    }

    /// Returns the square: a smoothing parameter is the root of the chance it covers.
    pub(crate) fn squared(self) -> Self {
        // Never zero, so that its logarithm stays finite.
        Self((self.0 * self.0).max(f64::MIN_POSITIVE))
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:e}", self.0)
    }
}

/// What a key is to be: `secrecy`-secret and `correctness`-correct.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SecurityParameters {
    /// `ε_sec`: `(1 − p_abort)` times the trace distance from a key that nobody knows anything of.
    pub secrecy: Epsilon,
    /// `ε_cor`: the chance that the two ends hold different keys unnoticed.
    pub correctness: Epsilon,
}

/// The ε of one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockEpsilon {
    /// `ε_sec`.
    pub secrecy: Epsilon,
    /// `ε_cor`.
    pub correctness: Epsilon,
    /// `ε_auth`: the chance that a forged transcript passed its tags.
    pub authentication: Epsilon,
}

impl BlockEpsilon {
    /// Returns `ε_sec + ε_cor + ε_auth`, at most one.
    #[must_use]
    pub fn total(self) -> Fraction {
        Fraction::clamped(self.secrecy.0 + self.correctness.0 + self.authentication.0)
    }
}

/// The ε of a link, summed over its life (PHYSICS.md §4).
///
/// Charge every block that was begun, dropped ones too: the proofs bound `(1 − p_abort)` times the
/// distance, so the freedom to abort is part of what each block costs.
///
/// ```
/// use claviger_security::{BlockEpsilon, Epsilon, EpsilonLedger};
///
/// let epsilon = Epsilon::try_new(1e-10)?;
/// let block = BlockEpsilon { secrecy: epsilon, correctness: epsilon, authentication: epsilon };
/// let mut life = EpsilonLedger::default();
/// for _ in 0..1000 {
///     life.charge(block);
/// }
/// assert!((life.total().as_f64() - 3e-7).abs() < 1e-18);
/// # Ok::<(), claviger_security::EpsilonError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EpsilonLedger {
    blocks: u64,
    // Invariant: each lies in [0, 1].
    secrecy: Fraction,
    correctness: Fraction,
    authentication: Fraction,
}

impl EpsilonLedger {
    /// Adds a block.
    pub fn charge(&mut self, block: BlockEpsilon) {
        let add = |sum: Fraction, more: Epsilon| Fraction::clamped(sum.as_f64() + more.0);
        self.blocks = self.blocks.saturating_add(1);
        self.secrecy = add(self.secrecy, block.secrecy);
        self.correctness = add(self.correctness, block.correctness);
        self.authentication = add(self.authentication, block.authentication);
    }

    /// Returns how many blocks were charged.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Returns the sum of `ε_sec`, at most one.
    #[must_use]
    pub const fn secrecy(&self) -> Fraction {
        self.secrecy
    }

    /// Returns the sum of `ε_cor`, at most one.
    #[must_use]
    pub const fn correctness(&self) -> Fraction {
        self.correctness
    }

    /// Returns the sum of `ε_auth`, at most one.
    #[must_use]
    pub const fn authentication(&self) -> Fraction {
        self.authentication
    }

    /// Returns the sum of all, at most one: then nothing is promised any more.
    #[must_use]
    pub fn total(&self) -> Fraction {
        let sum = [self.secrecy, self.correctness, self.authentication].map(Fraction::as_f64);
        Fraction::clamped(sum.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epsilon_is_neither_zero_nor_one() {
        for bad in [0.0, 1.0, -1e-10, 2.0, f64::NAN, f64::INFINITY] {
            assert!(Epsilon::try_new(bad).is_err(), "{bad}");
        }
        assert_eq!(Epsilon::try_new(1e-10).unwrap().to_string(), "1e-10");
        let smallest = Epsilon::try_new(1e-300).unwrap().squared();
        assert!(smallest.as_f64() > 0.0);
    }

    #[test]
    fn a_life_sums_and_saturates() {
        let of = |value| Epsilon::try_new(value).unwrap();
        let block =
            BlockEpsilon { secrecy: of(0.3), correctness: of(0.01), authentication: of(0.001) };
        let mut life = EpsilonLedger::default();
        assert_eq!(life.total(), Fraction::ZERO);
        life.charge(block);
        assert_eq!(life.total(), block.total());
        for _ in 0..9 {
            life.charge(block);
        }
        assert_eq!(life.blocks(), 10);
        assert_eq!((life.secrecy(), life.total()), (Fraction::ONE, Fraction::ONE));
        assert!((life.correctness().as_f64() - 0.1).abs() < 1e-12);
        assert!((life.authentication().as_f64() - 0.01).abs() < 1e-12);
    }
}
