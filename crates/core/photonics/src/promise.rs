//! The length that every block of a link with decoys is promised before it is sent.

use claviger_security::acceptance::{Acceptance, Deviations, leak_cap};
use claviger_security::account::Clipping;
use claviger_security::entropy::Efficiency;
use claviger_security::sampling::FewErrors;
use claviger_security::{
    Counts, Intensities, Lim2014, Observed, Proof, Rusca2018, SecurityParameters,
};
use claviger_units::Bits;

use crate::coding::Coding;

/// One count for each intensity, the brightest first.
pub type ByIntensity<T> = [T; 3];

/// What of a block the proofs for decoy states count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Bits under reconciliation.
    pub key: ByIntensity<u64>,
    /// Of these, those that were corrected.
    pub key_errors: ByIntensity<u64>,
    /// Bits disclosed as tests.
    pub tests: ByIntensity<u64>,
    /// Of these, those that differed.
    pub test_errors: ByIntensity<u64>,
}

/// The promise of one block size, under the proof for the source's intensities: that of Rusca et al.
/// for one decoy, that of Lim et al. for two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise(Kind);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    OneDecoy(Acceptance<2, Rusca2018>),
    TwoDecoys(Acceptance<3, Lim2014>),
}

/// How far below expectation a block may fall and still have the length. One deviation costs about
/// 6 % of a key of a million bits, and 19 of 20 blocks pass.
const LENGTH_MARGIN: f64 = 1.0;
/// How far above expectation errors may rise before reconciliation discloses too much; three
/// deviations cost 1 to 2 % of the key.
const LEAK_MARGIN: f64 = 3.0;

/// Reconciliation in two ways tells Bob's differences as well as Alice's parities, one for one. Given
/// the parities they speak of errors only, but the proofs for blocks of finite length do not cover
/// that step (Tupkary and Lütkenhaus, arXiv 2307.00576), so here both are charged.
const BOTH_ENDS: f64 = 2.0;

impl Promise {
    /// Decides on the length of blocks that are expected to show these counts, reconciled with this
    /// efficiency or a better one; `None` where no key can be promised.
    #[must_use]
    pub fn of(
        coding: &Coding,
        parameters: SecurityParameters,
        expected: &BlockCounts,
        efficiency: Efficiency,
    ) -> Option<Self> {
        if let Some(proof) = one_decoy(coding, parameters) {
            return decide(proof, expected, efficiency).map(Kind::OneDecoy).map(Self);
        }
        let proof = two_decoys(coding, parameters)?;
        decide(proof, expected, efficiency).map(Kind::TwoDecoys).map(Self)
    }

    /// Returns the length of every key.
    #[must_use]
    pub const fn length(&self) -> Bits {
        match &self.0 {
            Kind::OneDecoy(acceptance) => acceptance.length(),
            Kind::TwoDecoys(acceptance) => acceptance.length(),
        }
    }

    /// Returns how much reconciliation may disclose at most, both ends' words together.
    #[must_use]
    pub const fn most_disclosed(&self) -> Bits {
        match &self.0 {
            Kind::OneDecoy(acceptance) => acceptance.leak_cap(),
            Kind::TwoDecoys(acceptance) => acceptance.leak_cap(),
        }
    }

    /// Tells whether a block keeps the promise of which Alice disclosed so many parities, and Bob as
    /// many differences. Its key then has the length promised, never more.
    #[must_use]
    pub fn is_kept_by(&self, counts: &BlockCounts, parities: Bits) -> bool {
        let leaked = Bits::new(2 * parities.count());
        match &self.0 {
            Kind::OneDecoy(acceptance) => counts
                .observed()
                .is_some_and(|observed| acceptance.accept(&observed, leaked).is_ok()),
            Kind::TwoDecoys(acceptance) => counts
                .observed()
                .is_some_and(|observed| acceptance.accept(&observed, leaked).is_ok()),
        }
    }
}

/// Returns the secret bits that the proof finds in a block of these counts before anything is
/// disclosed of it, the shares of its own ε taken off.
pub(crate) fn content(
    coding: &Coding,
    parameters: SecurityParameters,
    counts: &BlockCounts,
) -> Option<f64> {
    let account = match one_decoy(coding, parameters) {
        Some(proof) => proof.account(&counts.observed()?, Bits::ZERO),
        None => two_decoys(coding, parameters)?.account(&counts.observed()?, Bits::ZERO),
    };
    Some(account.ok()?.bits)
}

impl BlockCounts {
    fn observed<const K: usize>(&self) -> Option<Observed<K>> {
        let first = |all: &ByIntensity<u64>| -> Option<[u64; K]> { all.get(..K)?.try_into().ok() };
        Some(Observed {
            key: Counts::try_new(first(&self.key)?, first(&self.key_errors)?).ok()?,
            test: Counts::try_new(first(&self.tests)?, first(&self.test_errors)?).ok()?,
        })
    }
}

fn decide<const K: usize, P: Proof<K>>(
    proof: P,
    expected: &BlockCounts,
    efficiency: Efficiency,
) -> Option<Acceptance<K, P>> {
    let expected = expected.observed()?;
    let [length, leak] = [LENGTH_MARGIN, LEAK_MARGIN].map(Deviations::try_new);
    let both_ends = Efficiency::from_ratio(BOTH_ENDS * efficiency.ratio());
    let cap = leak_cap(&expected.key, both_ends, leak.ok()?);
    Acceptance::decide(proof, &expected, cap, length.ok()?).ok()
}

fn one_decoy(coding: &Coding, security: SecurityParameters) -> Option<Rusca2018> {
    let [means, shares] = columns(coding)?;
    let intensities = Intensities::one_decoy(means, shares).ok()?;
    let (clipping, few_errors) = (Clipping::AsPrinted, FewErrors::Serfling);
    Some(Rusca2018 { intensities, security, clipping, few_errors })
}

fn two_decoys(coding: &Coding, security: SecurityParameters) -> Option<Lim2014> {
    let [means, shares] = columns(coding)?;
    let intensities = Intensities::two_decoys(means, shares).ok()?;
    let (clipping, few_errors) = (Clipping::AsPrinted, FewErrors::Serfling);
    Some(Lim2014 { intensities, security, clipping, few_errors })
}

/// Means and shares of a source with just K intensities.
fn columns<const K: usize>(coding: &Coding) -> Option<[[f64; K]; 2]> {
    let all: &[_; K] = coding.intensities().try_into().ok()?;
    Some([all.map(|i| i.mean), all.map(|i| i.probability.as_f64())])
}
