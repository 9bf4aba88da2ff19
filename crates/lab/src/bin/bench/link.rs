//! Rates of the two links of the paper, and the time that a day of light takes.

use std::time::Instant;

use anyhow::{Result, ensure};
use claviger_distill::rules::OVERHEAD;
use claviger_distill::{BlockLedger, Outcome, Rules};
use claviger_lab::VirtualLink;
use claviger_photonics::theory::{BlockCosts, Efficiency, expected};
use claviger_photonics::{Eve, LinkPreset};
use claviger_units::Span;

use crate::SEED;
use crate::figure::{Figure, Length, mean};

/// The rates of both links beside those of the paper.
pub(crate) fn rates(length: Length) -> Result<Vec<Figure>> {
    let links = [("link_lab_bit_s", "lab", 1880.0), ("link_city_bit_s", "city", 1220.0)];
    links.into_iter().map(|(name, link, paper)| secret_rate(name, link, paper, length)).collect()
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
