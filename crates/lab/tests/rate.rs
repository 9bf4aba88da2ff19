//! The rate over loss: theory, the real link, and the bound.

use anyhow::Result;
use claviger_lab::rate::{RatePoint, RateRun};
use claviger_lab::summary::RunSummary;
use claviger_photonics::LinkPreset;
use claviger_units::{BitRate, Decibels, Fraction};

fn played(preset: &LinkPreset, db: f64, blocks: usize) -> Result<RunSummary> {
    let mut run = RateRun::start(preset, Decibels::from_db(db)?, blocks, 7)?;
    assert_eq!(run.progress(), Fraction::ZERO);
    while !run.is_over() {
        run.run_window()?;
        assert!(run.progress() > Fraction::ZERO);
    }
    assert_eq!(run.progress(), Fraction::ONE);
    Ok(run.summary())
}

/// Theory at the measured efficiency, within three half-widths of the 95 % interval.
#[test]
fn simulated_rates_are_those_of_theory_over_loss() -> Result<()> {
    let preset = LinkPreset::named("lab")?;
    for db in [0.0, 10.0] {
        let summary = played(&preset, db, 4)?;
        let rate = summary.rate.ok_or_else(|| anyhow::anyhow!("no block at {db} dB"))?;
        let margin = rate.margin.map_or(f64::INFINITY, BitRate::as_bps);
        let off = (rate.rate.as_bps() - summary.theory.as_bps()).abs();
        assert_eq!(rate.blocks, 4);
        assert!(off < 3.0 * margin && off < 0.1 * summary.theory.as_bps(), "{db} dB: {summary:?}");
    }
    Ok(())
}

#[test]
fn no_link_exceeds_the_bound_and_too_much_loss_is_told_with_its_reason() -> Result<()> {
    for name in LinkPreset::NAMES {
        let preset = LinkPreset::named(name)?;
        let points = (0..=50)
            .step_by(5)
            .map(|db| Ok(RatePoint::of(&preset, Decibels::from_db(f64::from(db))?)));
        let points: Vec<RatePoint> = points.collect::<Result<_>>()?;
        assert!(points[0].bound.as_bps().is_infinite() && points[0].key.is_ok(), "{name}");
        assert!(points.iter().all(|p| p.key.is_err() || p.key.is_ok_and(|rate| rate < p.bound)));
        let far = points.last().and_then(|point| point.key.err());
        assert!(far.is_some_and(|why| why.to_string().contains("lower the loss to")), "{name}");
    }
    Ok(())
}

/// Blocks of a link with decoys keep a length promised beforehand, and a summary sums their ε.
#[test]
fn a_claim_with_an_epsilon_is_summed() -> Result<()> {
    let summary = played(&LinkPreset::named("decoy-1ghz")?, 4.0, 1)?;
    let blocks = f64::from(u32::try_from(summary.kept + summary.n_dropped())?);
    let secrecy = summary.epsilon.sums().secrecy.as_f64();
    assert!((secrecy - 1e-10 * blocks).abs() < 1e-12, "{summary:?}");
    assert!(summary.rate.is_some_and(|rate| rate.margin.is_none()), "one block has no interval");
    assert_eq!(played(&LinkPreset::named("lab")?, 4.0, 1)?.epsilon.sums().secrecy, Fraction::ZERO);
    Ok(())
}
