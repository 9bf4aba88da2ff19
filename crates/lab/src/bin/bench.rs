//! Measures the link: `bench link [--quick] [--json]`.
//!
//! Every figure keeps its name for good. With `--json` one object a line, else a table with the
//! bars of the project beside it.
#![expect(clippy::print_stdout, reason = "this is what the program is for")]
#![expect(clippy::cast_precision_loss, reason = "counts of bits stay far below 2^53")]

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use claviger_distill::cascade::{Answerer, Corrector, Schedule, Step};
use claviger_distill::rules::{OVERHEAD, VERIFICATION_BITS};
use claviger_distill::{BlockLedger, Outcome, Rules};
use claviger_gf2::BitString;
use claviger_lab::VirtualLink;
use claviger_photonics::theory::{BlockCosts, Efficiency, binary_entropy, expected};
use claviger_photonics::{Eve, LinkPreset};
use claviger_units::{Fraction, Span};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (mut area, mut length, mut format) = (None, Length::Full, Format::Table);
    for argument in &arguments {
        match argument.as_str() {
            "--quick" => length = Length::Quick,
            "--json" => format = Format::Json,
            "link" if area.is_none() => area = Some(()),
            other => bail!("bench knows `link`, --quick and --json, not `{other}`"),
        }
    }
    ensure!(area.is_some(), "name what to measure: bench link [--quick] [--json]");
    if format == Format::Table {
        println!("{:<16} {:>10} {:<7} remarks", "figure", "value", "unit");
    }
    for measure in [lab_rate, city_rate, cascade_efficiency, lab_day] {
        measure(length)?.print(format);
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    Full,
    Quick,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// How it was measured, and what it is to be compared with.
    remarks: Vec<String>,
}

impl Figure {
    fn print(&self, format: Format) {
        let Self { name, value, unit, remarks } = self;
        match format {
            Format::Json => {
                println!(r#"{{"figure": "{name}", "value": {value}, "unit": "{unit}"}}"#);
            }
            Format::Table => {
                let mut remarks = remarks.iter();
                let first = remarks.next().map_or("", String::as_str);
                println!("{name:<16} {value:>10.3} {unit:<7} {first}");
                for remark in remarks {
                    println!("{:<35} {remark}", "");
                }
            }
        }
    }
}

fn lab_rate(length: Length) -> Result<Figure> {
    secret_rate("link_lab_bit_s", "lab", 1880.0, length)
}

fn city_rate(length: Length) -> Result<Figure> {
    secret_rate("link_city_bit_s", "city", 1220.0, length)
}

/// The rate of secret bits over kept full blocks, beside theory at the efficiency just measured.
fn secret_rate(name: &'static str, link: &str, paper: f64, length: Length) -> Result<Figure> {
    let preset = LinkPreset::named(link)?;
    let span = Span::from_secs(if length == Length::Quick { 600 } else { 3600 });
    let mut run = VirtualLink::start(&preset, Eve::ABSENT, SEED)?;
    run.run_for(span)?;
    let full = Rules::of(&preset).target(u32::MAX);
    let blocks = || run.ledger().iter().filter(|block| full <= block.sifted as usize);
    let kept: Vec<_> = blocks().filter(|block| block.outcome == Outcome::Kept).collect();
    let efficiencies: Vec<_> = kept.iter().filter_map(|block| block.efficiency()).collect();
    ensure!(!efficiencies.is_empty(), "no block was kept in {span}");
    let f = mean(&efficiencies);
    let costs =
        BlockCosts { efficiency: Efficiency::from_ratio(f), ..preset.block_costs(OVERHEAD) };
    let theory = expected(&preset).secret_rate_with(costs).as_bps();
    let value = run.secret_rate().as_bps();
    let remarks = vec![
        format!(
            "{:.0} s of light, {} of {} full blocks kept, QBER {:.2} %, f = {f:.3}",
            span.as_secs_f64(),
            kept.len(),
            blocks().count(),
            100.0 * mean(&kept.iter().map(|b| BlockLedger::qber(b).as_f64()).collect::<Vec<_>>()),
        ),
        compared("theory at this efficiency", value, theory, 0.03),
        compared("paper", value, paper, 0.10),
    ];
    Ok(Figure { name, value, unit: "bit/s", remarks })
}

/// Says how far off a value is, and whether that is within the bar.
fn compared(what: &str, value: f64, reference: f64, bar: f64) -> String {
    let off = value / reference - 1.0;
    let verdict = if off.abs() <= bar { "met" } else { "MISSED" };
    let (off, bar) = (100.0 * off, 100.0 * bar);
    format!("{what} {reference:.0} bit/s: {off:+.1} % (bar ±{bar:.0} %: {verdict})")
}

/// Disclosed parities over the Shannon limit of the errors corrected, mean over 20 runs.
fn cascade_efficiency(_: Length) -> Result<Figure> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let (mut ratios, mut residual, mut failed) = (Vec::new(), 0, 0);
    for _ in 0..CASCADE_RUNS {
        let run = reconcile(&mut rng)?;
        let entropy = binary_entropy(f64::from(run.errors) / CASCADE_BITS as f64);
        ratios.push(f64::from(run.leaked) / (CASCADE_BITS as f64 * entropy));
        residual += run.residual;
        failed += u32::from(run.residual > 0);
    }
    let verification =
        f64::from(VERIFICATION_BITS) / (CASCADE_BITS as f64 * binary_entropy(CASCADE_QBER));
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

/// The time that a day of the lab link takes: light, both ends, every message.
fn lab_day(length: Length) -> Result<Figure> {
    let parts: u32 = if length == Length::Quick { 48 } else { 1 };
    let preset = LinkPreset::named("lab")?;
    let begun = Instant::now();
    let mut run = VirtualLink::start(&preset, Eve::ABSENT, SEED)?;
    run.run_for(Span::from_secs(86_400 / u64::from(parts)))?;
    let measured = begun.elapsed().as_secs_f64();
    let value = measured * f64::from(parts);
    let n_blocks = run.ledger().len();
    let mut remarks =
        vec![format!("{n_blocks} blocks, {:.0} times as fast as light", 86_400.0 / value)];
    if parts > 1 {
        let how = format!("NOT a whole day: 1/{parts} of it took {measured:.2} s, times {parts}");
        remarks.insert(0, how);
    }
    Ok(Figure { name: "link_lab_24h_s", value, unit: "s", remarks })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

const SEED: u64 = 1;
const CASCADE_BITS: usize = 100_000;
const CASCADE_QBER: f64 = 0.02;
const CASCADE_RUNS: u32 = 20;
