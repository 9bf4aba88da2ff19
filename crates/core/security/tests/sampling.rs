//! The bounds of sampling without replacement against the exact chance that they fail.
#![expect(clippy::cast_precision_loss, clippy::unwrap_used, reason = "counts; tests")]

use claviger_security::account::{Clipping, Proof};
use claviger_security::sampling::{
    FewErrors, LEAST_ERRORS, SamplingBound, hypergeometric_deviation, serfling_deviation,
};
use claviger_security::{
    Account, Counts, Epsilon, Intensities, Lim2014, Observed, SecurityParameters,
};
use claviger_units::{Bits, Fraction};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// ε of Lim et al. for `ε_sec = 10⁻¹⁰`.
const EPSILON: f64 = 1e-10 / 21.0;

fn epsilon(value: f64) -> Epsilon {
    Epsilon::try_new(value).unwrap()
}

/// A sample of `sampled` bits out of `sampled + left`.
struct Urn {
    sampled: usize,
    left: usize,
    /// ln(n!) by n.
    log_factorials: Vec<f64>,
}

impl Urn {
    fn new(sampled: usize, left: usize) -> Self {
        let mut log_factorials = vec![0.0];
        for n in 1..=sampled + left {
            log_factorials.push(log_factorials[n - 1] + (n as f64).ln());
        }
        Self { sampled, left, log_factorials }
    }

    fn log_choose(&self, n: usize, k: usize) -> f64 {
        self.log_factorials[n] - self.log_factorials[k] - self.log_factorials[n - k]
    }

    /// The chance that of `errors` errors the sample shows a number within `seen`, and that its
    /// error rate and `deviation` are still below the error rate of the bits left out.
    fn failure(
        &self,
        errors: usize,
        seen: std::ops::RangeInclusive<usize>,
        deviation: impl Fn(usize) -> f64,
    ) -> f64 {
        let Self { sampled, left, .. } = *self;
        let least = errors.saturating_sub(left).max(*seen.start());
        let most = errors.min(sampled).min(*seen.end());
        let fails = |k: &usize| {
            (errors - k) as f64 / left as f64 > *k as f64 / sampled as f64 + deviation(*k)
        };
        let chance = |k: usize| {
            let ways =
                self.log_choose(errors, k) + self.log_choose(sampled + left - errors, sampled - k);
            (ways - self.log_choose(sampled + left, sampled)).exp()
        };
        (least..=most).filter(fails).map(chance).sum()
    }

    fn gamma(&self, chance: f64) -> impl Fn(usize) -> f64 {
        let (sampled, left) = (self.sampled as u64, self.left as f64);
        move |k| {
            let rate = Fraction::of(k as u64, sampled);
            hypergeometric_deviation(rate, sampled as f64, left, epsilon(chance))
        }
    }

    fn serfling(&self, chance: f64) -> impl Fn(usize) -> f64 {
        let deviation = serfling_deviation(self.sampled as f64, self.left as f64, epsilon(chance));
        move |_| deviation
    }
}

#[test]
fn serfling_holds_for_every_number_of_errors() {
    for (sampled, left) in [(20, 200), (100, 100), (300, 60), (300, 3000)] {
        let urn = Urn::new(sampled, left);
        for alpha in [0.5, 0.05, 1e-3, 1e-6] {
            for errors in 0..=sampled + left {
                let failure = urn.failure(errors, 0..=sampled, urn.serfling(alpha));
                assert!(failure <= alpha, "{errors} in {sampled} + {left}: {failure} > {alpha}");
            }
        }
    }
}

/// The worst chance of γ to fail over all numbers of errors, with `seen` of them in the sample.
fn worst_of_gamma(urn: &Urn, seen: std::ops::RangeInclusive<usize>) -> f64 {
    let share = (urn.sampled + urn.left) / urn.sampled;
    let most = (seen.end() * 4 * share + 400).min(urn.sampled + urn.left);
    let step = seen.end() / 4 + 1;
    let chances = (1..most).step_by(step);
    chances.map(|errors| urn.failure(errors, seen.clone(), urn.gamma(EPSILON))).fold(0.0, f64::max)
}

/// Why there is a rule for few errors, and why it may end at 100.
#[test]
fn gamma_fails_with_few_errors_and_holds_with_a_hundred() {
    let urn = Urn::new(3000, 30_000);
    assert!(worst_of_gamma(&urn, 0..=0) > 0.9);
    assert!(worst_of_gamma(&urn, 1..=5) > 1e6 * EPSILON);
    assert!(worst_of_gamma(&urn, 6..=20) > 1e3 * EPSILON);
    assert!(worst_of_gamma(&urn, 21..=60) > EPSILON);
    for urn in [Urn::new(1000, 10_000), urn, Urn::new(5000, 5000)] {
        assert!(worst_of_gamma(&urn, 100..=200) < 1e-3 * EPSILON);
    }
}

/// The same by drawing: of 2000 bits 4 are wrong, 1000 are sampled.
#[test]
fn drawn_samples_agree_with_both_bounds() {
    const ALPHA: f64 = 0.05;
    let urn = Urn::new(1000, 1000);
    let (gamma, serfling) = (urn.gamma(ALPHA), urn.serfling(ALPHA));
    let mut rng = StdRng::seed_from_u64(7);
    let (mut gamma_failed, mut serfling_failed) = (0_u32, 0_u32);
    let draws = 20_000;
    for _ in 0..draws {
        let seen = sampled_errors(4, 1000, 2000, &mut rng);
        let excess = (4 - seen) as f64 / 1000.0 - seen as f64 / 1000.0;
        gamma_failed += u32::from(excess > gamma(seen));
        serfling_failed += u32::from(excess > serfling(seen));
    }
    let share = f64::from(gamma_failed) / f64::from(draws);
    let exact = urn.failure(4, 0..=4, gamma);
    assert!(exact > ALPHA && (share - exact).abs() < 0.01, "{share}, exactly {exact}");
    assert!(f64::from(serfling_failed) / f64::from(draws) <= ALPHA);
}

/// Places `errors` among `all` bits and counts those among the first `sampled`.
fn sampled_errors(errors: usize, sampled: usize, all: usize, rng: &mut StdRng) -> usize {
    let mut places: Vec<usize> = Vec::new();
    while places.len() < errors {
        let place = rng.random_range(0..all);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.iter().filter(|place| **place < sampled).count()
}

/// The first block of the reference table with other errors in its test basis.
fn block(errors: [u64; 3], few_errors: FewErrors) -> (Lim2014, Observed<3>) {
    let proof = Lim2014 {
        intensities: Intensities::two_decoys([0.4, 0.15, 0.0002], [0.1, 0.5, 0.4]).unwrap(),
        security: SecurityParameters { secrecy: epsilon(1e-10), correctness: epsilon(1e-15) },
        clipping: Clipping::AsPrinted,
        few_errors,
    };
    let key = Counts::try_new([34_474, 65_451, 75], [829, 1576, 4]).unwrap();
    let test = Counts::try_new([6332, 12_022, 14], errors).unwrap();
    (proof, Observed { key, test })
}

fn account(errors: [u64; 3]) -> Account {
    let (proof, observed) = block(errors, FewErrors::Serfling);
    proof.account(&observed, Bits::new(19_004)).unwrap()
}

#[test]
fn with_fewer_than_a_hundred_errors_the_bound_changes() {
    let (few, enough) = (account([40, 59, 0]), account([40, 60, 0]));
    assert_eq!(enough.phase_error.bound, SamplingBound::Hypergeometric);
    assert_eq!(few.phase_error.bound, SamplingBound::Serfling);
    // Not continuous, and on the safe side.
    assert!(few.phase_error.deviation > enough.phase_error.deviation);
    assert!(few.length < enough.length);
    // Without an error γ alone would have promised that the key has none.
    let none = account([0, 0, 0]);
    assert!(none.phase_error.deviation == few.phase_error.deviation, "{none:?}");
    assert!(none.length > few.length && few.length > Bits::ZERO);
}

#[test]
fn few_errors_may_end_a_block() {
    for errors in [[0, 0, 0], [40, 59, 0]] {
        let (proof, observed) = block(errors, FewErrors::Abort);
        let refused = proof.account(&observed, Bits::ZERO).unwrap_err();
        assert_eq!(refused.seen, errors.iter().sum::<u64>());
        assert!(refused.seen < LEAST_ERRORS);
        assert!(refused.to_string().contains("enlarge the block"), "{refused}");
    }
    let (proof, observed) = block([40, 60, 0], FewErrors::Abort);
    assert!(proof.account(&observed, Bits::ZERO).is_ok());
    // A test basis without any detection shows no errors either.
    let test = Counts::try_new([0; 3], [0; 3]).unwrap();
    assert!(proof.account(&Observed { test, ..observed }, Bits::ZERO).is_err());
}

/// Many errors of the weakest intensity can pull v down to nothing; γ would vanish with it.
#[test]
fn many_errors_do_not_help_where_single_photons_show_few() {
    let (mut proof, observed) = block([40, 60, 0], FewErrors::Serfling);
    let test = Counts::try_new([6332, 12_022, 1000], [0, 0, 1000]).unwrap();
    let observed = Observed { test, ..observed };
    for clipping in [Clipping::AsPrinted, Clipping::Clipped] {
        proof.clipping = clipping;
        let got = proof.account(&observed, Bits::ZERO).unwrap();
        assert!(got.phase_error.bound != SamplingBound::Hypergeometric, "{got:?}");
    }
}

/// Intensities at the edge of what exists, where the arithmetic leaves the range of numbers.
#[test]
fn strange_sources_prove_nothing() {
    for means in
        [[1e-200, 1e-201, 0.0], [100.0, 99.0, 0.5], [100.0, 1e-300, 0.0], [1e-8, 1e-9, 0.0]]
    {
        let (mut proof, observed) = block([152, 289, 1], FewErrors::Serfling);
        proof.intensities = Intensities::two_decoys(means, [1e-9, 0.5, 0.5 - 1e-9]).unwrap();
        let got = proof.account(&observed, Bits::ZERO).unwrap();
        assert_eq!(got.length, Bits::ZERO, "{means:?}: {got:?}");
    }
}

proptest! {
    #[test]
    fn serfling_falls_with_every_bit_and_with_the_chance(
        sampled in 1_u32..1_000_000, left in 1_u32..1_000_000, log in 1_i32..300,
    ) {
        let (c, d, alpha) = (f64::from(sampled), f64::from(left), 10_f64.powi(-log));
        let deviation = serfling_deviation(c, d, epsilon(alpha));
        prop_assert!(deviation.is_finite() && deviation > 0.0);
        prop_assert!(serfling_deviation(c + 1.0, d, epsilon(alpha)) < deviation);
        prop_assert!(serfling_deviation(c, d + 1.0, epsilon(alpha)) < deviation);
        prop_assert!(serfling_deviation(c, d, epsilon(alpha * 0.1)) > deviation);
    }

    /// More errors, less key, within either bound; and no counts break the arithmetic.
    #[test]
    fn errors_never_lengthen_a_key_within_a_bound(m1 in 0_u64..3000, m2 in 0_u64..6000) {
        let (less, more) = (account([m1, m2, 0]), account([m1, m2 + 1, 0]));
        if less.phase_error.bound == more.phase_error.bound {
            prop_assert!(more.phase_error.rate >= less.phase_error.rate);
            prop_assert!(more.length <= less.length);
        }
    }

    #[test]
    fn every_block_has_an_account(
        key: [(u32, u32); 3], test: [(u32, u32); 3], leak: u32, clipped: bool,
    ) {
        let (mut proof, _) = block([0; 3], FewErrors::Serfling);
        proof.clipping = if clipped { Clipping::Clipped } else { Clipping::AsPrinted };
        let counts = |pairs: [(u32, u32); 3]| {
            let larger = pairs.map(|(a, b)| u64::from(a.max(b)));
            Counts::try_new(larger, pairs.map(|(a, b)| u64::from(a.min(b)))).unwrap()
        };
        let observed = Observed { key: counts(key), test: counts(test) };
        let got = proof.account(&observed, Bits::new(leak.into())).unwrap();
        prop_assert!(got.bits.is_finite());
        prop_assert!(got.phase_error.rate.as_f64() <= 0.5);
        prop_assert!(got.length.count() <= observed.key.all_detections());
    }
}
