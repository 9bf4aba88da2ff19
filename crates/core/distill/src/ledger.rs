//! The ledger of a block: everything that an auditor asks of its key.

use core::fmt;

use claviger_photonics::promise::{BlockCounts, ByIntensity};
use claviger_security::{BlockEpsilon, SecurityClaim};
use claviger_units::{Fraction, Span};
use claviger_wire::classical::DropReason;

/// What became of a block, in numbers that both ends know.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockLedger {
    /// Number of the block.
    pub block: u64,
    /// Link time at which its first window began.
    pub begin: Span,
    /// Link time at which its last window ended.
    pub end: Span,
    /// Clicks at Bob's detectors.
    pub clicks: u64,
    /// Bits and errors by intensity.
    pub counts: BlockCounts,
    /// What is claimed of its keys.
    pub claim: SecurityClaim,
    /// Sifted bits after sampling.
    pub sifted: u32,
    /// Bits given away to estimate the error rate.
    pub sampled: u64,
    /// Of these, how many differed.
    pub sample_errors: u64,
    /// Bits that reconciliation flipped.
    pub errors: u32,
    /// Parities disclosed.
    pub leaked: u32,
    /// Hash bits disclosed by verification.
    pub verification: u32,
    /// Secret bits after amplification.
    pub secret: u32,
    /// Of these, bits that went to the authentication reserve.
    pub reserve: u32,
    /// Of these, bits that fill no whole key and were destroyed.
    pub remainder: u32,
    /// Keys of 256 bits.
    pub keys: u32,
    /// What its promises may fail by, from the stage on at which they can: secrecy from the first
    /// click, the others from verification.
    pub epsilon: BlockEpsilon,
    /// Whether the key buffers took it.
    pub outcome: Outcome,
}

/// Whether a block gave keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Still on its way.
    Open,
    /// Both key buffers hold it.
    Kept,
    /// It was dropped.
    Dropped(DropReason),
}

impl BlockLedger {
    /// The names of the columns of [`Self::to_csv`].
    pub const CSV_HEADER: &'static str = "block,begin_s,end_s,clicks,sifted,sampled,sample_errors,tests,test_errors,errors,qber,leaked,f,verification,secret,reserve,remainder,keys,claim,epsilon,secrecy,outcome";

    /// Notes what was corrected, by intensity; false where that cannot be.
    pub(crate) fn note_errors(&mut self, errors: ByIntensity<u32>) -> bool {
        self.counts.key_errors = errors.map(u64::from);
        self.errors = errors.iter().fold(0, |sum: u32, &n| sum.saturating_add(n));
        let mut pairs = self.counts.key_errors.iter().zip(self.counts.key);
        pairs.all(|(&wrong, all)| wrong <= all)
    }

    /// Returns the error rate: of the corrected block, else of the sample.
    #[must_use]
    pub fn qber(&self) -> Fraction {
        if self.leaked > 0 {
            Fraction::of(self.errors.into(), self.sifted.into())
        } else {
            Fraction::of(self.sample_errors, self.sampled)
        }
    }

    /// Returns the reconciliation efficiency f = disclosed / (n·h(QBER)), `None` before the end
    /// of reconciliation and for an error-free block.
    #[must_use]
    pub fn efficiency(&self) -> Option<f64> {
        let q = self.qber().as_f64();
        let entropy = -(q * q.log2() + (1.0 - q) * (1.0 - q).log2());
        let f = f64::from(self.leaked) / (f64::from(self.sifted) * entropy);
        (self.leaked > 0 && f.is_finite()).then_some(f)
    }

    /// Returns the ledger as one line of CSV.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let f = self.efficiency().map(|f| format!("{f:.4}")).unwrap_or_default();
        let outcome = self.outcome;
        format!(
            "{},{:.3},{:.3},{},{},{},{},{},{},{},{:.6},{},{f},{},{},{},{},{},{},{:.3e},{:.3e},{outcome}",
            self.block,
            self.begin.as_secs_f64(),
            self.end.as_secs_f64(),
            self.clicks,
            self.sifted,
            self.sampled,
            self.sample_errors,
            self.counts.tests.iter().sum::<u64>(),
            self.counts.test_errors.iter().sum::<u64>(),
            self.errors,
            self.qber().as_f64(),
            self.leaked,
            self.verification,
            self.secret,
            self.reserve,
            self.remainder,
            self.keys,
            self.claim,
            self.epsilon.others.as_f64(),
            self.epsilon.secrecy.as_f64(),
        )
    }

    /// Returns the ledger as one line of JSON: the columns of [`Self::to_csv`], with every count by
    /// intensity, the brightest first. No text in it needs escaping.
    #[must_use]
    pub fn to_json(&self) -> String {
        let f = self.efficiency().map_or_else(|| "null".to_owned(), |f| format!("{f:.4}"));
        let BlockCounts { key, key_errors, tests, test_errors } = &self.counts;
        let numbers = [
            ("clicks", self.clicks),
            ("sifted", self.sifted.into()),
            ("sampled", self.sampled),
            ("sample_errors", self.sample_errors),
            ("errors", self.errors.into()),
            ("leaked", self.leaked.into()),
            ("verification", self.verification.into()),
            ("secret", self.secret.into()),
            ("reserve", self.reserve.into()),
            ("remainder", self.remainder.into()),
            ("keys", self.keys.into()),
        ];
        let numbers = numbers.map(|(name, number)| format!("\"{name}\":{number}")).join(",");
        format!(
            "{{\"block\":{},\"begin_s\":{:.3},\"end_s\":{:.3},{numbers},\"key\":{key:?},\
             \"key_errors\":{key_errors:?},\"tests\":{tests:?},\"test_errors\":{test_errors:?},\
             \"qber\":{:.6},\"f\":{f},\"claim\":\"{}\",\"epsilon\":{:e},\"secrecy\":{:e},\
             \"outcome\":\"{}\"}}",
            self.block,
            self.begin.as_secs_f64(),
            self.end.as_secs_f64(),
            self.qber().as_f64(),
            self.claim,
            self.epsilon.others.as_f64(),
            self.epsilon.secrecy.as_f64(),
            self.outcome,
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Kept => f.write_str("kept"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
        }
    }
}
