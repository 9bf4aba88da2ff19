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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockEpsilon {
    /// `ε_sec`, zero where the claim states none.
    pub secrecy: Fraction,
    /// `ε_cor + ε_auth`: the chance that the ends hold different keys unnoticed, or that a forged
    /// transcript passed its tags.
    pub others: Fraction,
}

/// The ε of a link, summed over its life (PHYSICS.md §4).
///
/// Charge every block that was begun, dropped ones too: the proofs bound `(1 − p_abort)` times the
/// distance, so the freedom to abort is part of what each block costs.
///
/// ```
/// use claviger_security::{BlockEpsilon, EpsilonLedger};
/// use claviger_units::Fraction;
///
/// let epsilon = Fraction::clamped(1e-10);
/// let mut life = EpsilonLedger::default();
/// life.charge(1000, BlockEpsilon { secrecy: epsilon, others: epsilon });
/// assert!((life.total().as_f64() - 2e-7).abs() < 1e-18);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EpsilonLedger {
    blocks: u64,
    sums: BlockEpsilon,
}

impl EpsilonLedger {
    /// Takes sums up again where they were left.
    #[must_use]
    pub const fn resume(blocks: u64, sums: BlockEpsilon) -> Self {
        Self { blocks, sums }
    }

    /// Adds `blocks` blocks of the same ε.
    pub fn charge(&mut self, blocks: u64, each: BlockEpsilon) {
        let add = |sum: Fraction, more: Fraction| {
            Fraction::clamped(sum.as_f64() + blocks as f64 * more.as_f64())
        };
        self.blocks = self.blocks.saturating_add(blocks);
        self.sums = BlockEpsilon {
            secrecy: add(self.sums.secrecy, each.secrecy),
            others: add(self.sums.others, each.others),
        };
    }

    /// Returns how many blocks were charged.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Returns the sums, each at most one.
    #[must_use]
    pub const fn sums(&self) -> BlockEpsilon {
        self.sums
    }

    /// Returns the sum of all, at most one: then nothing is promised any more.
    #[must_use]
    pub fn total(&self) -> Fraction {
        Fraction::clamped(self.sums.secrecy.as_f64() + self.sums.others.as_f64())
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
        let of = Fraction::clamped;
        let block = BlockEpsilon { secrecy: of(0.3), others: of(0.01) };
        let mut life = EpsilonLedger::default();
        assert_eq!(life.total(), Fraction::ZERO);
        life.charge(1, block);
        assert_eq!((life.sums(), life.total()), (block, of(0.31)));
        let mut resumed = EpsilonLedger::resume(life.blocks(), life.sums());
        resumed.charge(9, block);
        assert_eq!(resumed.blocks(), 10);
        assert_eq!((resumed.sums().secrecy, resumed.total()), (Fraction::ONE, Fraction::ONE));
        assert!((resumed.sums().others.as_f64() - 0.1).abs() < 1e-12);
    }
}
