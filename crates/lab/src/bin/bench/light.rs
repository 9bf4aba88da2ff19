//! How fast light is simulated, and how true: clicks a second, and attacks against their theory.

use std::hint::black_box;

use anyhow::{Context as _, Result};
use claviger_lab::attack::{AttackFigure, measure};
use claviger_photonics::{Attack, Eve, Fibre, LinkPreset};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::SEED;
use crate::figure::{Figure, Length, processor_seconds};

/// Pulses, empty ones included, that one core plays in a second on the link of the paper.
pub(crate) fn speed(length: Length) -> Result<Vec<Figure>> {
    let clicks = if length == Length::Quick { 5_000_000 } else { 40_000_000 };
    let mut remarks =
        vec!["bar 1.2e9, aim 5e9; processor time of one thread, every pulse counted".to_owned()];
    let mut value = 0.0;
    for name in LinkPreset::NAMES {
        let preset = LinkPreset::named(name)?;
        let rng = Xoshiro256PlusPlus::seed_from_u64(SEED);
        let mut fibre = Fibre::new(&preset, &[1; 32], &[2; 32], Eve::ABSENT, rng);
        let mut pulses = 0;
        let seconds = processor_seconds(|| {
            for _ in 0..clicks {
                if let Some(click) = black_box(fibre.click_before(u64::MAX)) {
                    pulses = click.pulse;
                }
            }
        });
        if name == "lab" {
            value = pulses as f64 / seconds;
        }
        remarks.push(format!(
            "{name}: {:.2e} pulses/s, {:.1} million clicks/s",
            pulses as f64 / seconds,
            f64::from(clicks) / seconds / 1e6
        ));
    }
    Ok(vec![Figure { name: "photonics_pulses_per_s", value, unit: "1/s", remarks }])
}

/// The figure of any attack on any link that lies farthest from its prediction.
pub(crate) fn attacks(length: Length) -> Result<Vec<Figure>> {
    let clicks = if length == Length::Quick { 200_000 } else { 2_000_000 };
    let mut worst: Option<(String, AttackFigure)> = None;
    let mut count = 0;
    for name in ["lab", "city", "lab-gllp", "decoy-1ghz"] {
        let preset = LinkPreset::named(name)?;
        for (attack, part) in Attack::ALL.into_iter().flat_map(|a| [0.3, 1.0].map(|p| (a, p))) {
            let eve = Eve::ABSENT.with(attack, attack.strength(part * attack.full())?);
            for figure in measure(&preset, &eve, clicks, SEED)? {
                count += 1;
                if worst.as_ref().is_none_or(|(_, least)| figure.sigma > least.sigma) {
                    worst = Some((format!("{attack} on {name}"), figure));
                }
            }
        }
    }
    let (which, figure) = worst.context("no attack was measured")?;
    let AttackFigure { name, predicted, measured, unit, sigma } = figure;
    let remarks = vec![
        format!("bar 4, aim 3; the worst of {count} figures, each of {clicks} clicks"),
        format!("{which}: {name} {measured:.3} {unit}, predicted {predicted:.3}"),
    ];
    Ok(vec![Figure { name: "attack_theory_sigma", value: sigma, unit: "sigma", remarks }])
}
