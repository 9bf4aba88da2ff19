//! Rates of links against theory and paper, and the time that a day of light takes.

use std::time::Instant;

use anyhow::{Result, ensure};
use claviger_distill::rules::OVERHEAD;
use claviger_distill::{BlockLedger, Outcome, Rules};
use claviger_lab::VirtualLink;
use claviger_photonics::theory::{BlockCosts, expected};
use claviger_photonics::{Eve, LinkPreset};
use claviger_security::entropy::Efficiency;
use claviger_units::Span;

use crate::SEED;
use crate::figure::{Figure, Length, mean};

/// The rates of both links beside those of the paper, and how far all links are off their theory.
pub(crate) fn rates(length: Length) -> Result<Vec<Figure>> {
    let short = length == Length::Quick;
    let lab = Rate::measure("lab", if short { 600 } else { 3600 })?;
    let city = Rate::measure("city", if short { 600 } else { 3600 })?;
    let modern = Rate::measure("decoy-1ghz", if short { 12 } else { 60 })?;
    let worst = [&lab, &city, &modern].map(Rate::off_theory).map(f64::abs);
    let error = Figure {
        name: "link_theory_error_pct",
        value: 100.0 * worst.into_iter().fold(0.0, f64::max),
        unit: "%",
        remarks: [&lab, &city, &modern].map(Rate::against_theory).to_vec(),
    };
    Ok(vec![lab.figure("link_lab_bit_s", 1880.0), city.figure("link_city_bit_s", 1220.0), error])
}

/// The rate of secret bits over kept full blocks, beside theory at the efficiency just measured.
struct Rate {
    link: &'static str,
    value: f64,
    theory: f64,
    /// Half of the 95 % interval of the mean over blocks, as a share of it.
    interval: f64,
    run: String,
}

impl Rate {
    fn measure(link: &'static str, seconds: u64) -> Result<Self> {
        let preset = LinkPreset::named(link)?;
        let mut run = VirtualLink::start(&preset, Eve::ABSENT, SEED)?;
        run.run_for(Span::from_secs(seconds))?;
        let full = Rules::of(&preset).target(u32::MAX);
        let blocks = || run.ledger().iter().filter(|block| full <= block.sifted as usize);
        let kept: Vec<_> = blocks().filter(|block| block.outcome == Outcome::Kept).collect();
        let efficiencies: Vec<_> = kept.iter().filter_map(|block| block.efficiency()).collect();
        ensure!(efficiencies.len() > 1, "{link}: not two blocks were kept in {seconds} s");
        let f = mean(&efficiencies);
        let costs =
            BlockCosts { efficiency: Efficiency::from_ratio(f), ..preset.block_costs(OVERHEAD) };
        let qber = mean(&kept.iter().map(|b| BlockLedger::qber(b).as_f64()).collect::<Vec<_>>());
        let rates: Vec<f64> = kept.iter().map(|block| block_rate(block)).collect();
        let (n, all) = (kept.len(), blocks().count());
        Ok(Self {
            link,
            value: run.secret_rate().as_bps(),
            theory: expected(&preset).secret_rate_with(costs).as_bps(),
            interval: interval_95(&rates) / mean(&rates),
            run: format!(
                "{seconds} s of light, {n} of {all} full blocks kept, QBER {:.2} %, f = {f:.3}",
                100.0 * qber
            ),
        })
    }

    fn off_theory(&self) -> f64 {
        self.value / self.theory - 1.0
    }

    fn against_theory(&self) -> String {
        let compared = compared("theory at this efficiency", self.value, self.theory, 0.03);
        format!("{}: {compared}, 95 % interval ±{:.2} %", self.link, 100.0 * self.interval)
    }

    fn figure(self, name: &'static str, paper: f64) -> Figure {
        let remarks = vec![
            self.run.clone(),
            compared("theory at this efficiency", self.value, self.theory, 0.03),
            compared("paper", self.value, paper, 0.10),
        ];
        Figure { name, value: self.value, unit: "bit/s", remarks }
    }
}

fn block_rate(block: &BlockLedger) -> f64 {
    let span = (block.end.as_secs_f64() - block.begin.as_secs_f64()).max(f64::MIN_POSITIVE);
    f64::from(block.secret - block.reserve) / span
}

/// Twice the deviation of the mean: for ten blocks and more, Student's factor is between 2.3 and 2.
fn interval_95(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    let n = values.len() as f64;
    2.0 * (squares / (n - 1.0) / n).sqrt()
}

/// Says how far off a value is, and whether that is within the bar.
fn compared(what: &str, value: f64, reference: f64, bar: f64) -> String {
    let off = value / reference - 1.0;
    let verdict = if off.abs() <= bar { "met" } else { "MISSED" };
    let (off, bar) = (100.0 * off, 100.0 * bar);
    format!("{what} {reference:.0} bit/s: {off:+.1} % (bar ±{bar:.0} %: {verdict})")
}

/// The time that a day of the lab link takes: light, both ends, every message.
pub(crate) fn lab_day(length: Length) -> Result<Vec<Figure>> {
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
    Ok(vec![Figure { name: "link_lab_24h_s", value, unit: "s", remarks }])
}
