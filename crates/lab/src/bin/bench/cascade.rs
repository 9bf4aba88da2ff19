//! What error correction discloses.

use anyhow::{Result, bail};
use claviger_distill::cascade::{Answerer, Corrector, Schedule, Step};
use claviger_distill::rules::VERIFICATION_BITS;
use claviger_gf2::BitString;
use claviger_security::entropy::binary_entropy;
use claviger_units::Fraction;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::SEED;
use crate::figure::{Figure, Length, mean};

/// Disclosed parities over the Shannon limit of the errors corrected, mean over 20 runs.
pub(crate) fn efficiency(_: Length) -> Result<Figure> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let (mut ratios, mut residual, mut failed) = (Vec::new(), 0, 0);
    for _ in 0..CASCADE_RUNS {
        let run = reconcile(&mut rng)?;
        let entropy = binary_entropy(Fraction::of(run.errors.into(), CASCADE_BITS as u64)).as_f64();
        ratios.push(f64::from(run.leaked) / (CASCADE_BITS as f64 * entropy));
        residual += run.residual;
        failed += u32::from(run.residual > 0);
    }
    let verification = f64::from(VERIFICATION_BITS)
        / (CASCADE_BITS as f64 * binary_entropy(Fraction::clamped(CASCADE_QBER)).as_f64());
    let remarks = vec![
        format!("{CASCADE_BITS} bits at 2 %, original schedule, mean of {CASCADE_RUNS} runs"),
        "every parity that left Alice is counted".to_owned(),
        format!(
            "{residual} errors left in {failed} of {CASCADE_RUNS} runs; verification drops those \
             blocks, its {VERIFICATION_BITS} bits would add {verification:.4}"
        ),
        "others with this schedule: 1.157 (cascade-cpp)".to_owned(),
    ];
    Ok(Figure { name: "cascade_f_2pct", value: mean(&ratios), unit: "ratio", remarks })
}

struct Reconciliation {
    errors: u32,
    leaked: u32,
    residual: usize,
}

/// Runs both halves of Cascade against each other on random bits.
fn reconcile(rng: &mut StdRng) -> Result<Reconciliation> {
    let alice: BitString = (0..CASCADE_BITS).map(|_| rng.random::<bool>()).collect();
    let flips: Vec<bool> = (0..CASCADE_BITS).map(|_| rng.random_bool(CASCADE_QBER)).collect();
    let bob: BitString = flips.iter().enumerate().map(|(i, flip)| alice.bit(i) ^ flip).collect();
    let seed = rng.random();
    let schedule = || Schedule::original(CASCADE_BITS, Fraction::clamped(CASCADE_QBER), seed);
    let mut answerer = Answerer::new(schedule(), &alice);
    let mut corrector = Corrector::new(schedule(), bob);
    let mut step = corrector.handle_parities(0, &answerer.parities(0));
    loop {
        step = match step {
            Some(Step::Ask(ranges)) => {
                answerer.answer(&ranges).and_then(|answers| corrector.handle_answer(&answers))
            }
            Some(Step::NextPass(pass)) => corrector.handle_parities(pass, &answerer.parities(pass)),
            Some(Step::Done) => break,
            None => bail!("the two halves of Cascade misunderstand each other"),
        };
    }
    let leaked = answerer.leaked();
    let corrected = corrector.into_key();
    let residual = (0..CASCADE_BITS).filter(|&i| alice.bit(i) != corrected.bit(i)).count();
    let errors = u32::try_from(flips.iter().filter(|flip| **flip).count())?;
    Ok(Reconciliation { errors, leaked, residual })
}

const CASCADE_BITS: usize = 100_000;
const CASCADE_QBER: f64 = 0.02;
const CASCADE_RUNS: u32 = 20;
