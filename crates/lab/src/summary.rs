//! What a run of a link has shown, beside what theory expects of it.

use claviger_distill::{BlockLedger, Outcome, rules};
use claviger_photonics::LinkPreset;
use claviger_photonics::preset::SecurityClaim;
use claviger_photonics::theory::expected;
use claviger_security::EpsilonLedger;
use claviger_security::entropy::Efficiency;
use claviger_units::{BitRate, Bits, Fraction};
use claviger_wire::classical::DropReason;

use crate::interval::RateEstimate;

/// The ledgers of a run, summed up.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// Blocks that gave keys.
    pub kept: usize,
    /// Blocks that gave none, by their reasons, the first reason met first.
    pub dropped: Vec<(DropReason, usize)>,
    /// The rate of secret bits over kept full blocks, if there was one.
    pub rate: Option<RateEstimate>,
    /// What theory expects at the efficiency measured, else at the nominal one.
    pub theory: BitRate,
    /// The error rate of kept full blocks; where there is none, that of all samples.
    pub qber: Option<Fraction>,
    /// Disclosed bits over the least possible, over kept full blocks.
    pub efficiency: Option<Efficiency>,
    /// Keys of 256 bits that both ends held.
    pub keys: u64,
    /// What is claimed of them.
    pub claim: SecurityClaim,
    /// Chances that a promise is broken, summed over all blocks of the run.
    pub epsilon: EpsilonLedger,
}

impl RunSummary {
    /// Sums up the ended blocks of a link.
    #[must_use]
    pub fn of(preset: &LinkPreset, ledger: &[BlockLedger]) -> Self {
        let kept: Vec<_> = ledger.iter().filter(|b| b.outcome == Outcome::Kept).collect();
        let full: Vec<_> = kept.iter().copied().filter(|b| is_full(preset, b)).collect();
        let efficiency = efficiency(&full);
        let mut epsilon = EpsilonLedger::default();
        ledger.iter().for_each(|block| epsilon.charge(1, block.epsilon));
        Self {
            kept: kept.len(),
            dropped: dropped(ledger),
            rate: RateEstimate::of(full.iter().copied()),
            theory: theory_at(preset, efficiency),
            qber: qber(&full).or_else(|| sampled(ledger)),
            efficiency,
            keys: kept.iter().map(|b| u64::from(b.keys)).sum(),
            claim: preset.security().claim(),
            epsilon,
        }
    }

    /// Returns how many blocks gave no key.
    #[must_use]
    pub fn n_dropped(&self) -> usize {
        self.dropped.iter().map(|(_, n)| n).sum()
    }
}

/// Tells whether a block is none of the smaller first ones: theory is about the others.
#[must_use]
pub fn is_full(preset: &LinkPreset, block: &BlockLedger) -> bool {
    Bits::new(block.sifted.into()) >= preset.block_bits(u64::MAX)
}

/// Returns the rate of key that theory expects of full blocks with all they pay; with the preset's
/// efficiency of error correction where none was measured.
#[must_use]
pub fn theory_at(preset: &LinkPreset, measured: Option<Efficiency>) -> BitRate {
    let mut costs = preset.block_costs(rules::OVERHEAD);
    costs.efficiency = measured.unwrap_or(costs.efficiency);
    expected(preset).secret_rate_with(costs)
}

fn dropped(ledger: &[BlockLedger]) -> Vec<(DropReason, usize)> {
    let mut counts: Vec<(DropReason, usize)> = Vec::new();
    for block in ledger {
        let Outcome::Dropped(reason) = block.outcome else { continue };
        match counts.iter_mut().find(|(met, _)| *met == reason) {
            Some((_, n)) => *n += 1,
            None => counts.push((reason, 1)),
        }
    }
    counts
}

fn qber(full: &[&BlockLedger]) -> Option<Fraction> {
    let sum = |of: fn(&BlockLedger) -> u32| full.iter().map(|b| u64::from(of(b))).sum::<u64>();
    (!full.is_empty()).then(|| Fraction::of(sum(|b| b.errors), sum(|b| b.sifted)))
}

fn sampled(ledger: &[BlockLedger]) -> Option<Fraction> {
    let sampled: u64 = ledger.iter().map(|block| block.sampled).sum();
    let wrong = ledger.iter().map(|block| block.sample_errors).sum();
    (sampled > 0).then(|| Fraction::of(wrong, sampled))
}

/// The mean over the blocks, as the benchmark of the link has it.
fn efficiency(full: &[&BlockLedger]) -> Option<Efficiency> {
    let each: Vec<f64> = full.iter().filter_map(|block| block.efficiency()).collect();
    let n = f64::from(u32::try_from(each.len()).unwrap_or(u32::MAX));
    (!each.is_empty()).then(|| Efficiency::from_ratio(each.iter().sum::<f64>() / n))
}
