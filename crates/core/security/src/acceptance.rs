//! A length promised beforehand, and the test that a block must pass to have it.
//!
//! Both proofs are of *fixed length*: they bound the secrecy of a key of ℓ bits that is made where
//! a test on the counts is passed, with ℓ and the test fixed before the counts are known. Computing
//! ℓ from each block's own counts is another protocol, which they do not cover. So:
//!
//! 1. **The leak.** Both ends fix the most bits that reconciliation may disclose: [`leak_cap`],
//!    that is f·n·h of the error rate expected of the key basis and k standard deviations more. A
//!    block that discloses more is dropped, one that discloses less is charged all the same.
//! 2. **The length.** ℓ is what the proof gives for the expected counts, each shifted by k standard
//!    deviations (k times its root, as for a Poissonian count) in the direction that costs key, all
//!    at once, with the leak at its cap ([`Acceptance::decide`]). Were ℓ linear in independent
//!    counts, a share Φ(k) of the honest blocks would pass at the least (84 % for k = 1, 97.7 % for
//!    k = 2); in truth it is more, since deviations seldom all point one way. The cap of the leak
//!    is a second test, which a share Φ(k) passes.
//! 3. **The test.** A block passes where the proof gives its observed counts, with the leak at its
//!    cap, ℓ bits or more ([`Acceptance::accept`]). Its key then has ℓ bits, never more.
//!
//! Nothing of this needs the expectation to be true: it decides how often blocks pass, not how
//! secret their keys are. What must be fixed beforehand as well, by the caller: when a block closes
//! (at a number of detections in the key basis, as in both proofs, not when its error rate looks
//! good), and which intensities were sent.

use claviger_units::{Bits, Fraction};

use crate::account::{Account, Proof};
use crate::counts::{Counts, Observed};
use crate::entropy::Efficiency;
use crate::sampling::TooFewErrors;

/// A number of standard deviations, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Deviations(f64);

/// A number of standard deviations out of range: give 1 to 3.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} standard deviations are no margin; give a number between 0 and 100, say 2")]
pub struct DeviationsError(f64);

impl Deviations {
    /// Makes a number of standard deviations.
    pub fn try_new(deviations: f64) -> Result<Self, DeviationsError> {
        if (0.0..=100.0).contains(&deviations) {
            Ok(Self(deviations))
        } else {
            Err(DeviationsError(deviations))
        }
    }

    /// The counts that lie so many deviations below, not below zero, and above.
    fn around(self, count: f64) -> [f64; 2] {
        let deviation = self.0 * count.sqrt();
        [(count - deviation).max(0.0), count + deviation]
    }
}

/// Returns the most bits that reconciliation may disclose: f·n·h(m/n) with n the expected
/// detections of the key basis and m its expected errors, k standard deviations above.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, rounded up; the cast saturates"
)]
pub fn leak_cap<const K: usize>(
    expected: &Counts<K>,
    efficiency: Efficiency,
    deviations: Deviations,
) -> Bits {
    let bits = expected.all_detections();
    // Beyond a half the entropy would fall again.
    let [_, errors] = deviations.around(expected.all_errors() as f64);
    let errors = errors.ceil().min(bits as f64 / 2.0);
    efficiency.leak(errors as u64, bits)
}

/// A link of which no block can be promised a key.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoPromise {
    /// The expected counts, less their deviations, leave nothing: enlarge the block, or lower the
    /// loss, the error rate or the deviations.
    #[error(
        "the expected counts less their deviations are {:.0} bits short of a key ({phase_error} \
         phase errors among {singles:.0} single photons); enlarge the block or lower the loss",
        -.bits
    )]
    NoKey {
        /// What the formula gives, not above zero.
        bits: f64,
        /// The phase error, at most.
        phase_error: Fraction,
        /// Single photons in the key basis, at least.
        singles: f64,
    },
    /// Too few errors are expected to be judged.
    #[error(transparent)]
    TooFewErrors(#[from] TooFewErrors),
}

/// Why a block does not have the length that was promised; it must be dropped.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// Reconciliation disclosed more than was fixed beforehand: look at the error rate, or decide
    /// with a higher cap.
    #[error(
        "reconciliation disclosed {leaked}, more than the {cap} fixed beforehand; look for what \
         raised the error rate of the key basis, or fix a higher cap"
    )]
    Leak {
        /// Bits disclosed.
        leaked: Bits,
        /// Bits that might have been.
        cap: Bits,
    },
    /// Too few single photons: look at the loss and at the intensities, or for one who holds pulses
    /// of one photon back.
    #[error(
        "the block supports {} of the {promised} promised: {:.0} single photons for certain where \
         {expected:.0} were planned; look at the loss and the intensities of the source, or for \
         photon-number splitting",
        .account.length, .account.key.single_at_least
    )]
    SinglePhotons {
        /// Length promised.
        promised: Bits,
        /// Single photons on which the promise was built.
        expected: f64,
        /// The block's account.
        account: Box<Account>,
    },
    /// Too high a phase error: look for an eavesdropper, or at the alignment of the test basis.
    #[error(
        "the block supports {} of the {promised} promised: up to {} phase errors where {expected} \
         were planned; look for an eavesdropper, or at the alignment of the test basis",
        .account.length, .account.phase_error.rate
    )]
    PhaseErrors {
        /// Length promised.
        promised: Bits,
        /// Phase error on which the promise was built.
        expected: Fraction,
        /// The block's account.
        account: Box<Account>,
    },
    /// Too few errors to be judged.
    #[error(transparent)]
    TooFewErrors(#[from] TooFewErrors),
}

/// A block that has passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accepted {
    /// Length of its key: the one promised, to the bit.
    pub length: Bits,
    /// Its account, for the ledger; the account's own length is what might have been.
    pub account: Account,
}

/// A promise: the length of every key, and the test that a block must pass to have one.
///
/// ```
/// use claviger_security::acceptance::{Acceptance, Deviations, leak_cap};
/// use claviger_security::account::Clipping;
/// use claviger_security::entropy::Efficiency;
/// use claviger_security::sampling::FewErrors;
/// use claviger_security::{Counts, Epsilon, Intensities, Lim2014, Observed, SecurityParameters};
/// use claviger_units::Bits;
///
/// let proof = Lim2014 {
///     intensities: Intensities::two_decoys([0.4, 0.15, 0.0002], [0.1, 0.5, 0.4])?,
///     security: SecurityParameters {
///         secrecy: Epsilon::try_new(1e-10)?,
///         correctness: Epsilon::try_new(1e-15)?,
///     },
///     clipping: Clipping::AsPrinted,
///     few_errors: FewErrors::Serfling,
/// };
/// let expected = Observed {
///     key: Counts::try_new([34_474, 65_451, 75], [829, 1576, 4])?,
///     test: Counts::try_new([6332, 12_022, 14], [152, 289, 1])?,
/// };
/// let margin = Deviations::try_new(1.0)?;
/// let cap = leak_cap(&expected.key, Efficiency::from_ratio(1.16), margin);
/// let acceptance = Acceptance::decide(proof, &expected, cap, margin)?;
///
/// // A block that shows just what was expected passes, and gets no bit more than promised.
/// let accepted = acceptance.accept(&expected, Bits::new(19_004))?;
/// assert_eq!(accepted.length, acceptance.length());
/// assert!(accepted.account.length > accepted.length);
/// assert!(acceptance.accept(&expected, Bits::new(25_000)).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acceptance<const K: usize, P> {
    proof: P,
    // Invariant: `plan.length` is above zero and `plan.leak` is the cap.
    plan: Account,
}

impl<const K: usize, P: Proof<K>> Acceptance<K, P> {
    /// Fixes the length of a link's keys from what it is expected to show, as the module's text
    /// says.
    pub fn decide(
        proof: P,
        expected: &Observed<K>,
        leak_cap: Bits,
        deviations: Deviations,
    ) -> Result<Self, NoPromise> {
        let adverse = adverse(&proof, expected, leak_cap, deviations);
        let plan = proof.account(&adverse, leak_cap)?;
        if plan.length > Bits::ZERO {
            return Ok(Self { proof, plan });
        }
        Err(NoPromise::NoKey {
            bits: plan.bits.min(0.0),
            phase_error: plan.phase_error.rate,
            singles: plan.key.single_at_least,
        })
    }

    /// Returns the length promised.
    #[must_use]
    pub const fn length(&self) -> Bits {
        self.plan.length
    }

    /// Returns the most bits that reconciliation may disclose.
    #[must_use]
    pub const fn leak_cap(&self) -> Bits {
        self.plan.leak
    }

    /// Returns the account of the counts on which the promise was built.
    #[must_use]
    pub const fn plan(&self) -> &Account {
        &self.plan
    }

    /// Tests a block that disclosed `leaked` bits in reconciliation: it has exactly the length
    /// promised, or it must be dropped.
    pub fn accept(&self, observed: &Observed<K>, leaked: Bits) -> Result<Accepted, Rejection> {
        let (promised, cap) = (self.length(), self.leak_cap());
        if leaked > cap {
            return Err(Rejection::Leak { leaked, cap });
        }
        let account = self.proof.account(observed, cap)?;
        if account.length >= promised {
            return Ok(Accepted { length: promised, account });
        }
        Err(self.shortfall(account))
    }

    /// Names what costs more key: the photons that are missing or the errors that are too many.
    fn shortfall(&self, account: Account) -> Rejection {
        let (plan, promised) = (&self.plan, self.length());
        let missing = plan.key.single_at_least - account.key.single_at_least;
        let spoilt = plan.single_content().as_f64() - account.single_content().as_f64();
        let account = Box::new(account);
        if missing * plan.single_content().as_f64() >= spoilt * account.key.single_at_least {
            let expected = plan.key.single_at_least;
            Rejection::SinglePhotons { promised, expected, account }
        } else {
            Rejection::PhaseErrors { promised, expected: plan.phase_error.rate, account }
        }
    }
}

/// Shifts every expected count by its deviations in the direction that costs key.
///
/// The direction is found by trying both for each count alone: it depends on the proof, and where a
/// bound is floored a count may not matter at all.
fn adverse<const K: usize>(
    proof: &impl Proof<K>,
    expected: &Observed<K>,
    leak_cap: Bits,
    deviations: Deviations,
) -> Observed<K> {
    // A block that cannot be judged is worse than any that can.
    let bits = |counts: Table<K>| {
        let account = proof.account(&observed(counts), leak_cap);
        account.map_or(f64::NEG_INFINITY, |account| account.bits)
    };
    let middle = table(expected);
    let mut shifted = middle;
    for kind in 0..middle.len() {
        for k in 0..K {
            let with = |count: f64| {
                let mut counts = middle;
                counts[kind][k] = count;
                (bits(counts), count)
            };
            let [low, high] = deviations.around(middle[kind][k]).map(with);
            shifted[kind][k] = if low.0 < high.0 { low.1 } else { high.1 };
        }
    }
    observed(shifted)
}

/// Detections and errors of the key basis, then of the test basis.
type Table<const K: usize> = [[f64; K]; 4];

fn table<const K: usize>(Observed { key, test }: &Observed<K>) -> Table<K> {
    let counts = [key.detections(), key.errors(), test.detections(), test.errors()];
    counts.map(|counts| counts.map(|count| count as f64))
}

fn observed<const K: usize>([detections, errors, tested, wrong]: Table<K>) -> Observed<K> {
    Observed { key: Counts::rounded(detections, errors), test: Counts::rounded(tested, wrong) }
}
