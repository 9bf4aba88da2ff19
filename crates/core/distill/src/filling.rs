//! The block that is being filled with sifted bits: the same rules at both ends, so that both close
//! or drop it at the same batch without a word.

use claviger_gf2::BitString;
use claviger_photonics::promise::{BlockCounts, ByIntensity};
use claviger_units::Fraction;
use claviger_wire::classical::Batch;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::authenticate::Transcript;
use crate::rules::Rules;
use crate::sifted::{SiftedBatch, count};

/// What a finished batch means for the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// More batches are needed.
    Continue,
    /// The block has its bits.
    Closed,
    /// The sampled error rate is above the threshold.
    Suspicious,
}

/// Light and clicks of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// The pulse at which its first window began.
    pub(crate) begin: u64,
    /// The pulse at which its last window ended.
    pub(crate) end: u64,
    /// Windows of light; those of a pause in between are none of it.
    pub(crate) windows: u64,
    /// Clicks in these windows.
    pub(crate) clicks: u64,
}

/// A block on its way to enough sifted bits.
#[derive(Debug)]
pub(crate) struct Filling {
    /// The batch that comes next.
    pub(crate) next: Batch,
    /// Sifted bits that were not given away.
    pub(crate) key: BitString,
    /// The intensity of each.
    pub(crate) intensities: Vec<u8>,
    /// Tests so far.
    pub(crate) counts: BlockCounts,
    /// Everything said about the block so far.
    pub(crate) transcript: Transcript,
    /// Light and clicks so far.
    pub(crate) tally: Tally,
    /// Bits given away to estimate the error rate.
    pub(crate) sampled: u64,
    /// Of these, how many differed.
    pub(crate) sample_errors: u64,
    /// Draws whatever is drawn for this block, so that it does not depend on what else is under
    /// way at the same time.
    pub(crate) rng: StdRng,
    // Sifted bits of all batches, of which a fixed share is sampled.
    sifted: u64,
}

impl Filling {
    /// Starts block `number` of a session with this seed.
    #[must_use]
    pub(crate) fn new(number: u64, seed: &[u8; 32]) -> Self {
        let own = Sha256::new().chain_update(seed).chain_update(number.to_be_bytes());
        Self {
            next: Batch { block: number, number: 0 },
            key: BitString::new(),
            intensities: Vec::new(),
            counts: BlockCounts::default(),
            transcript: Transcript::default(),
            tally: Tally::default(),
            sampled: 0,
            sample_errors: 0,
            rng: StdRng::from_seed(own.finalize().into()),
            sifted: 0,
        }
    }

    /// Returns how many of `sifted` further bits are to be sampled, by the fixed share.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count is a count; the cast saturates"
    )]
    pub(crate) fn n_samples(&self, sifted: usize, rules: &Rules) -> usize {
        let due = (self.sifted + sifted as u64) as f64 * rules.sample.as_f64();
        ((due as u64).saturating_sub(self.sampled) as usize).min(sifted)
    }

    /// Counts the clicks of the window that ends at `end`.
    pub(crate) fn see(&mut self, clicks: usize, end: u64, rules: &Rules) {
        if self.tally.end == 0 {
            self.tally.begin = end.saturating_sub(rules.window);
        }
        self.tally.end = end;
        self.tally.windows += 1;
        self.tally.clicks += clicks as u64;
    }

    /// Takes in a batch: what was sifted, which bits of it were sampled, and how many differed of
    /// them and of the tests.
    pub(crate) fn add(
        &mut self,
        batch: &SiftedBatch,
        sampled: &[u32],
        errors: (u32, ByIntensity<u32>),
        rules: &Rules,
        target: usize,
    ) -> Filled {
        let mut taken = sampled.iter().copied().peekable();
        for (i, (bit, &intensity)) in batch.key.iter().zip(&batch.intensities).enumerate() {
            if taken.next_if(|&at| at as usize == i).is_none() {
                self.key.push(bit);
                self.intensities.push(intensity);
            }
        }
        self.sifted += batch.key.len() as u64;
        self.sampled += sampled.len() as u64;
        self.sample_errors += u64::from(errors.0);
        let tests = count(&batch.test_intensities);
        for (k, &wrong) in errors.1.iter().enumerate() {
            self.counts.tests[k] += tests[k];
            self.counts.test_errors[k] += u64::from(wrong);
        }
        self.next.number += 1;
        if self.is_suspicious(rules) {
            Filled::Suspicious
        } else if self.key.len() >= target {
            Filled::Closed
        } else {
            Filled::Continue
        }
    }

    /// Keeps just `bits` of the key, chosen by what was said of the block: its length was promised for
    /// so many, not for those of a whole last batch. Which go nobody knows before the last click is
    /// announced, so what is left is as good a sample as the tests, wherever Eve was in the block.
    pub(crate) fn cut(&mut self, bits: usize) {
        let all = self.key.len();
        let mut rng = ChaCha8Rng::from_seed(self.transcript.digest());
        let mut gone = rand::seq::index::sample(&mut rng, all, all.saturating_sub(bits)).into_vec();
        gone.sort_unstable();
        let mut gone = gone.into_iter().peekable();
        let left = (0..all).filter(|i| gone.next_if_eq(i).is_none());
        let left: Vec<u32> = left.map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect();
        self.key = self.key.gather(&left);
        self.intensities = left.iter().map(|&i| self.intensities[i as usize]).collect();
    }

    /// Returns the error rate of the sampled bits.
    #[must_use]
    pub(crate) fn sampled_qber(&self) -> Fraction {
        Fraction::of(self.sample_errors, self.sampled)
    }

    /// Three standard deviations above the threshold, from 64 bits on: a link at a quarter of its
    /// threshold is stopped by chance once in 10⁸ blocks, a full intercept-resend attack within
    /// some hundred sampled bits. What lies in between is judged when all errors are counted.
    fn is_suspicious(&self, rules: &Rules) -> bool {
        let (n, abort) = (self.sampled as f64, rules.abort.as_f64());
        let allowed = abort * n + 3.0 * (n * abort * (1.0 - abort)).sqrt();
        self.sampled >= 64 && self.sample_errors as f64 > allowed
    }
}
