//! What error correction discloses, and how fast it is.

mod delay;

use anyhow::{Result, ensure};
use claviger_distill::cascade::{Answerer, Corrector, Orders, Schedule, blocks_in_flight};
use claviger_distill::rules::VERIFICATION_BITS;
use claviger_gf2::BitString;
use claviger_photonics::Cascade;
use claviger_security::entropy;
use claviger_units::Fraction;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::sync::Arc;

use crate::SEED;
use crate::figure::{Figure, Length, mean};
use delay::{Line, run};

/// Disclosed parities over the Shannon limit at five error rates, with the best schedule.
pub(crate) fn efficiencies(_: Length) -> Result<Vec<Figure>> {
    BARS.iter().map(|&(name, qber, bar)| efficiency(name, qber, bar)).collect()
}

fn efficiency(name: &'static str, qber: f64, bar: f64) -> Result<Figure> {
    let best = Runs::of(BEST, qber, BLOCKS)?;
    let others = Cascade::ALL.into_iter().filter(|&kind| kind != BEST);
    let others = others.map(|kind| {
        let runs = Runs::of(kind, qber, BLOCKS / 10)?;
        let (f, rounds) = (mean(&runs.ratios), mean(&runs.rounds));
        Ok(format!("`{}` {f:.3} in {rounds:.0} round trips", kind.name()))
    });
    let others = others.collect::<Result<Vec<_>>>()?.join(", ");
    let verification = f64::from(VERIFICATION_BITS) / (binary_entropy(qber) * BITS as f64);
    let value = mean(&best.ratios);
    let remarks = vec![
        format!("bar {bar}: {}; schedule `{}`", verdict(value <= bar), BEST.name()),
        format!("{BITS} bits, mean of {BLOCKS} blocks, every parity counted; {}", best.leftovers()),
        format!("{:.0} round trips; error rate estimated from 1 bit in 64", mean(&best.rounds)),
        format!("the verification's {VERIFICATION_BITS} bits would add {:.4}", verification),
        others,
    ];
    Ok(Figure { name, value, unit: "ratio", remarks })
}

/// Speed of one core per party, alone and over two delays.
pub(crate) fn speeds(length: Length) -> Result<Vec<Figure>> {
    let pairs = Source::new(BEST, SPEED_QBER).take(64);
    let blocks = if length == Length::Quick { 256 } else { 1024 };
    let alone = run(&pairs, &Line { blocks, in_flight: 1, round_trip_s: 0.0 })?;
    let few = run(&pairs, &Line { blocks, in_flight: 8, round_trip_s: 0.0 })?;
    let far = run(&pairs, &Line { blocks, in_flight: 64, round_trip_s: 10e-3 })?;
    let in_flight = blocks_in_flight(BEST, BITS);
    let line = |round_trip_s| Line { blocks: blocks.max(4 * in_flight), in_flight, round_trip_s };
    let (near, delayed) = (run(&pairs, &line(0.0))?, run(&pairs, &line(1e-3))?);
    let (speed, ratio) = (alone.core_mbit_s(), delayed.mbit_s / near.mbit_s);
    let memory = Schedule::bytes_per_block(BEST, BITS) * in_flight;
    let alone = [
        format!("bar 40: {}; key bits over the time of the busier party", verdict(speed >= 40.0)),
        format!(
            "the median block takes Alice {:.3} ms, Bob {:.3} ms",
            alone.alice_ms, alone.bob_ms
        ),
        "processor time; one thread plays both, one block after the other".to_owned(),
    ];
    let near = [
        format!("bar 0.80: {}; {in_flight} blocks in flight", verdict(ratio >= 0.8)),
        format!("{:.1} Mbit/s; without delay {:.1} Mbit/s", delayed.mbit_s, near.mbit_s),
        format!("8 blocks in flight fit the caches: {:.1} Mbit/s without delay", few.mbit_s),
        format!("{:.0} MB a party and what was said (bound 512 MB)", memory as f64 / 1e6),
        VIRTUAL.to_owned(),
    ];
    let far_remarks = [
        format!("bar 2.5: {}; 64 blocks in flight", verdict(far.mbit_s >= 2.5)),
        VIRTUAL.to_owned(),
    ];
    Ok(vec![
        figure("cascade_mbit_s_2pct", speed, "Mbit/s", &alone),
        figure("cascade_rtt1ms_ratio", ratio, "ratio", &near),
        figure("cascade_mbit_s_rtt10ms", far.mbit_s, "Mbit/s", &far_remarks),
    ])
}

fn figure(name: &'static str, value: f64, unit: &'static str, remarks: &[String]) -> Figure {
    Figure { name, value, unit, remarks: remarks.to_vec() }
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Two keys of 100 000 bits, and how they are to be reconciled.
pub(crate) struct Pair {
    pub(crate) alice: BitString,
    pub(crate) bob: BitString,
    pub(crate) schedule: Schedule,
}

impl Pair {
    pub(crate) fn answerer(&self) -> Answerer {
        Answerer::new(self.schedule.clone(), self.alice.duplicate())
    }

    pub(crate) fn corrector(&self) -> Corrector {
        Corrector::new(self.schedule.clone(), self.bob.duplicate())
    }
}

/// Draws pairs of keys with errors; the orders are those of one session.
struct Source {
    rng: StdRng,
    kind: Cascade,
    qber: f64,
    orders: Arc<Orders>,
}

impl Source {
    fn new(kind: Cascade, qber: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(SEED);
        let orders = Arc::new(Orders::draw(kind, BITS, rng.random()));
        Self { rng, kind, qber, orders }
    }

    /// The era's schedule draws its orders for each block.
    fn next(&mut self) -> Pair {
        if self.kind == Cascade::Original {
            self.orders = Arc::new(Orders::draw(self.kind, BITS, self.rng.random()));
        }
        let mut bytes = vec![0; BITS / 8];
        self.rng.fill_bytes(&mut bytes);
        let alice = BitString::from_bytes(&bytes, BITS).unwrap_or_default();
        let mut bob = alice.duplicate();
        for i in 0..BITS {
            if self.rng.random_bool(self.qber) {
                bob.flip(i);
            }
        }
        let sampled = BITS as u64 / 64;
        let errors = (0..sampled).filter(|_| self.rng.random_bool(self.qber)).count();
        let estimate = Fraction::of(errors as u64, sampled);
        let schedule = Schedule::new(BITS, estimate, Arc::clone(&self.orders));
        Pair { alice, bob, schedule }
    }

    fn take(mut self, n: usize) -> Vec<Pair> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// What some blocks came to.
#[derive(Default)]
struct Runs {
    ratios: Vec<f64>,
    rounds: Vec<f64>,
    left: Vec<usize>,
}

impl Runs {
    fn of(kind: Cascade, qber: f64, blocks: usize) -> Result<Self> {
        let mut source = Source::new(kind, qber);
        let mut runs = Self::default();
        for _ in 0..blocks {
            runs.add(&source.next())?;
        }
        Ok(runs)
    }

    fn add(&mut self, pair: &Pair) -> Result<()> {
        let errors = differing(&pair.alice, &pair.bob);
        let (mut answerer, mut corrector) = (pair.answerer(), pair.corrector());
        while answerer.search().asked() > 0 {
            let differences = corrector.handle_parities(&answerer.parities())?;
            answerer.handle_differences(&differences)?;
        }
        let disclosed = answerer.search().disclosed();
        ensure!(disclosed == corrector.search().disclosed(), "the ends count differently");
        let entropy = binary_entropy(errors as f64 / BITS as f64);
        self.ratios.push(f64::from(disclosed) / (BITS as f64 * entropy));
        self.rounds.push(f64::from(answerer.search().rounds()));
        self.left.push(differing(&pair.alice, &corrector.into_key()));
        Ok(())
    }

    fn leftovers(&self) -> String {
        let failed = self.left.iter().filter(|&&left| left > 0).count();
        let total: usize = self.left.iter().sum();
        format!("{total} errors left, in {failed} blocks, which verification drops")
    }
}

pub(crate) fn differing(a: &BitString, b: &BitString) -> usize {
    let mut sum = a.duplicate();
    sum.xor(b);
    sum.count_ones()
}

/// The figures, with error rate and bar.
const BARS: [(&str, f64, f64); 5] = [
    ("cascade_f_1pct", 0.01, 1.06),
    ("cascade_f_2pct", 0.02, 1.06),
    ("cascade_f_3pct", 0.03, 1.06),
    ("cascade_f_5pct", 0.05, 1.07),
    ("cascade_f_8pct", 0.08, 1.09),
];

const BEST: Cascade = Cascade::Graded;
const SPEED_QBER: f64 = 0.02;
const BLOCKS: usize = 200;
pub(crate) const BITS: usize = 100_000;
const VIRTUAL: &str =
    "virtual time: each step takes what it was measured to take, each word the delay";

fn binary_entropy(share: f64) -> f64 {
    entropy::binary_entropy(Fraction::clamped(share)).as_f64()
}
