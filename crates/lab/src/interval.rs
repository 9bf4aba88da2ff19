//! Rates with the interval in which the true one lies nineteen times out of twenty.

use claviger_distill::BlockLedger;
use claviger_units::BitRate;

/// A rate of secret bits that blocks have shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateEstimate {
    /// All their bits over all their time.
    pub rate: BitRate,
    /// Half of the 95 % interval, by Student over the blocks; one block alone tells none.
    pub margin: Option<BitRate>,
    /// How many blocks there were.
    pub blocks: usize,
}

impl RateEstimate {
    /// Estimates the rate from blocks, pads for the next tags not counted; `None` of none.
    ///
    /// A block's bits and its time vary together, so the interval is that of the ratio of their sums:
    /// by what each block's bits miss the common rate times its time.
    #[must_use]
    pub fn of<'a>(blocks: impl IntoIterator<Item = &'a BlockLedger>) -> Option<Self> {
        let blocks: Vec<(f64, f64)> = blocks.into_iter().map(bits_and_seconds).collect();
        let (bits, seconds) =
            blocks.iter().fold((0.0, 0.0), |(bits, secs), block| (bits + block.0, secs + block.1));
        if seconds <= 0.0 {
            return None;
        }
        let rate = bits / seconds;
        let missed: f64 = blocks.iter().map(|(bits, secs)| (bits - rate * secs).powi(2)).sum();
        let n = real(blocks.len());
        let margin = student(blocks.len().saturating_sub(1)).map(|quantile| {
            BitRate::from_bps(quantile * (missed * n / (n - 1.0)).sqrt() / seconds)
        });
        Some(Self { rate: BitRate::from_bps(rate), margin, blocks: blocks.len() })
    }

    /// Tells whether a rate lies in the interval; `None` where there is no interval.
    #[must_use]
    pub fn holds(&self, rate: BitRate) -> Option<bool> {
        let off = (rate.as_bps() - self.rate.as_bps()).abs();
        self.margin.map(|margin| off <= margin.as_bps())
    }
}

/// A mean over repetitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half of the 95 % interval, by Student over the repetitions; one alone tells none.
    pub margin: Option<f64>,
    /// How many repetitions there were.
    pub n: usize,
}

impl Estimate {
    /// Estimates from one value for each repetition; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / real(n);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let margin =
            student(n - 1).map(|quantile| quantile * (squares / (real(n - 1) * real(n))).sqrt());
        Some(Self { mean, margin, n })
    }

    /// Returns by how much this mean is above another's, of other repetitions, with the interval of Welch; `None`
    /// where one of them has no interval.
    #[must_use]
    pub fn above(&self, other: &Self) -> Option<Self> {
        let variance = |one: &Self| Some((one.margin? / student(one.n - 1)?).powi(2));
        let (ours, theirs) = (variance(self)?, variance(other)?);
        let sum = ours + theirs;
        // Welch and Satterthwaite; without any variance there is nothing to be unsure of.
        let freedom = |one: f64, n: usize| one * one / real(n - 1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is positive, and rounded down"
        )]
        let freedom = match sum > 0.0 {
            true => (sum * sum / (freedom(ours, self.n) + freedom(theirs, other.n))) as usize,
            false => 1,
        };
        let margin = student(freedom.max(1))? * sum.sqrt();
        Some(Self { mean: self.mean - other.mean, margin: Some(margin), n: self.n + other.n })
    }

    /// Returns the lower and the upper end of the interval; the mean where there is none.
    #[must_use]
    pub fn ends(&self) -> (f64, f64) {
        let margin = self.margin.unwrap_or(0.0);
        (self.mean - margin, self.mean + margin)
    }
}

fn bits_and_seconds(block: &BlockLedger) -> (f64, f64) {
    let bits = f64::from(block.secret) - f64::from(block.reserve);
    (bits, block.end.as_secs_f64() - block.begin.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "counts of blocks stay far below 2^53")]
fn real(count: usize) -> f64 {
    count as f64
}

/// Returns Student's two-sided 95 % quantile; `None` without a degree of freedom.
fn student(freedom: usize) -> Option<f64> {
    let tabled = freedom.checked_sub(1)?;
    Some(TABLE.get(tabled).copied().unwrap_or_else(|| expanded(real(freedom))))
}

/// The quantiles of one to ten degrees of freedom: Abramowitz and Stegun, table 26.10.
const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/// Abramowitz and Stegun, 26.7.5; from eleven degrees on as exact as their table.
fn expanded(freedom: f64) -> f64 {
    /// The normal distribution's.
    const Z: f64 = 1.959_964;
    let terms = [
        Z,
        (Z.powi(3) + Z) / 4.0,
        (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0,
        (3.0 * Z.powi(7) + 19.0 * Z.powi(5) + 17.0 * Z.powi(3) - 15.0 * Z) / 384.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| sum / freedom + term)
}

#[cfg(test)]
mod tests {
    use claviger_distill::Outcome;
    use claviger_photonics::preset::SecurityClaim;
    use claviger_photonics::promise::BlockCounts;
    use claviger_security::BlockEpsilon;
    use claviger_units::Span;

    use super::*;

    fn block(secret: u32, seconds: u64) -> BlockLedger {
        BlockLedger {
            block: 1,
            begin: Span::ZERO,
            end: Span::from_secs(seconds),
            clicks: 0,
            counts: BlockCounts::default(),
            claim: SecurityClaim::EraHeuristic,
            sifted: 100_000,
            sampled: 781,
            sample_errors: 12,
            errors: 1_500,
            leaked: 13_000,
            verification: 64,
            secret,
            reserve: 256,
            remainder: 0,
            keys: 1,
            epsilon: BlockEpsilon::default(),
            outcome: Outcome::Kept,
        }
    }

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
        for (freedom, quantile) in [(1, 12.706), (4, 2.776), (11, 2.201), (30, 2.042), (120, 1.980)]
        {
            assert!((student(freedom).unwrap_or_default() - quantile).abs() < 6e-4, "{freedom}");
        }
        assert_eq!(student(0), None);
    }

    /// Bits 1000, 1200, 1100 in ten seconds each: mean 110, deviation of the mean 10/√3.
    #[test]
    fn of_equal_times_the_interval_is_that_of_the_mean() -> Result<(), &'static str> {
        let blocks = [1256, 1456, 1356].map(|secret| block(secret, 10));
        let estimate = RateEstimate::of(&blocks).ok_or("no rate")?;
        assert!((estimate.rate.as_bps() - 110.0).abs() < 1e-9);
        let margin = estimate.margin.ok_or("no margin")?.as_bps();
        assert!((margin - 4.303 * 10.0 / 3.0_f64.sqrt()).abs() < 1e-6, "{margin}");
        assert_eq!(estimate.holds(BitRate::from_bps(100.0)), Some(true));
        assert_eq!(estimate.holds(BitRate::from_bps(50.0)), Some(false));
        Ok(())
    }

    /// 1, 2, 3: mean 2, deviation of the mean 1/√3.
    #[test]
    fn a_mean_has_the_interval_of_student() -> Result<(), &'static str> {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]).ok_or("none")?;
        let margin = estimate.margin.ok_or("no margin")?;
        assert!((margin - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert!((estimate.mean - 2.0).abs() < 1e-12);
        assert_eq!(Estimate::of(&[5.0]).map(|one| one.ends()), Some((5.0, 5.0)));
        assert_eq!(Estimate::of(&[]), None);
        Ok(())
    }

    /// Variances of the means: 1/3 and 5/3; 4.07 degrees of freedom, of which four are whole.
    #[test]
    fn a_difference_has_the_interval_of_welch() -> Result<(), &'static str> {
        let one = Estimate::of(&[1.0, 2.0, 3.0]).ok_or("none")?;
        let other = Estimate::of(&[4.0, 6.0, 8.0, 10.0]).ok_or("none")?;
        let above = one.above(&other).ok_or("no interval")?;
        assert!((above.mean + 5.0).abs() < 1e-12);
        let margin = above.margin.ok_or("no margin")?;
        assert!((margin - 2.776 * 2.0_f64.sqrt()).abs() < 1e-9, "{margin}");
        assert_eq!(one.above(&Estimate::of(&[5.0]).ok_or("none")?), None);
        Ok(())
    }

    #[test]
    fn one_block_tells_no_interval_and_none_no_rate() {
        let estimate = RateEstimate::of(&[block(1256, 10)]);
        assert_eq!(estimate.and_then(|one| one.margin), None);
        assert_eq!(estimate.and_then(|one| one.holds(BitRate::default())), None);
        assert_eq!(RateEstimate::of([]), None);
    }
}
