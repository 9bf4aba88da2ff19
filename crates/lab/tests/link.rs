//! The link in virtual time against its own theory.

use anyhow::Result;
use claviger_distill::{BlockLedger, Outcome};
use claviger_lab::VirtualLink;
use claviger_photonics::theory::expected;
use claviger_photonics::{Eve, LinkPreset};
use claviger_security::entropy::Efficiency;
use claviger_units::{Bits, Fraction, Span};
use claviger_wire::classical::DropReason;

fn run(name: &str, span: Span, seed: u64) -> Result<VirtualLink> {
    let preset = LinkPreset::named(name)?;
    let mut link = VirtualLink::start(&preset, Eve::ABSENT, seed)?;
    link.run_for(span)?;
    Ok(link)
}

/// Within 3 % of the theory at the measured efficiency, tags and block length, and within 10 % of
/// the paper's 1880 and 1220 bit/s.
#[test]
fn secret_rates_agree_with_theory_and_paper() -> Result<()> {
    for (name, paper) in [("lab", 1880.0), ("city", 1220.0)] {
        let link = run(name, Span::from_secs(600), 7)?;
        let kept: Vec<_> = link.ledger().iter().filter(|b| b.outcome == Outcome::Kept).collect();
        let dropped = link.ledger().len() - kept.len();
        assert!(kept.len() > 20 && dropped <= 2, "{} kept, {dropped} dropped", kept.len());
        let disclosed: Vec<f64> = kept.iter().filter_map(|b| b.efficiency()).collect();
        let f = disclosed.iter().sum::<f64>() / f64::from(u32::try_from(disclosed.len())?);
        let preset = LinkPreset::named(name)?;
        let mut costs = preset.block_costs(Bits::new(256 + 64));
        costs.efficiency = Efficiency::from_ratio(f);
        let theory = expected(&preset).secret_rate_with(costs).as_bps();
        let measured = link.secret_rate().as_bps();
        assert!((measured / theory - 1.0).abs() < 0.03, "{name}: {measured} against {theory}");
        assert!((measured / paper - 1.0).abs() < 0.10, "{name}: {measured} against the paper");
    }
    Ok(())
}

#[test]
fn one_seed_gives_one_ledger_and_one_set_of_keys() -> Result<()> {
    let csv =
        |link: &VirtualLink| link.ledger().iter().map(BlockLedger::to_csv).collect::<Vec<_>>();
    let (mut first, mut again) =
        (run("lab", Span::from_secs(30), 3)?, run("lab", Span::from_secs(30), 3)?);
    assert_eq!(csv(&first), csv(&again));
    assert_ne!(csv(&first), csv(&run("lab", Span::from_secs(30), 4)?));
    let (first, again) = (first.take_blocks(), again.take_blocks());
    assert!(!first.is_empty() && first.len() == again.len());
    for (a, b) in first.iter().zip(&again) {
        assert!(a.keys.iter().zip(&b.keys).all(|(a, b)| a.0 == b.0 && a.2.ct_eq(&b.2)));
    }
    Ok(())
}

/// The first three blocks close at 20 000 sifted bits so that keys exist after seconds.
#[test]
fn the_first_blocks_are_short() -> Result<()> {
    let link = run("lab", Span::from_secs(60), 1)?;
    let sifted: Vec<_> = link.ledger().iter().map(|b| b.sifted).take(4).collect();
    assert!(sifted[..3].iter().all(|s| (20_000..22_000).contains(s)), "{sifted:?}");
    assert!((100_000..102_000).contains(&sifted[3]), "{sifted:?}");
    assert!(link.ledger()[0].end < Span::from_secs(5));
    Ok(())
}

/// SARG04 under full intercept and resend: a third of the bits are wrong; the link stops at once
/// and gives key again once Eve is gone.
#[test]
fn an_eavesdropper_stops_the_link_and_it_recovers() -> Result<()> {
    let preset = LinkPreset::named("lab")?;
    let mut link = VirtualLink::start(&preset, Eve::ABSENT, 5)?;
    link.run_for(Span::from_secs(15))?;
    let before = link.take_blocks().len();
    link.set_eve(Eve::intercepting(Fraction::ONE));
    link.run_for(Span::from_secs(40))?;
    let caught =
        link.ledger().iter().filter(|b| b.outcome == Outcome::Dropped(DropReason::SampledQber));
    let (n, worst) = caught.fold((0, 0.0_f64), |(n, q), b| (n + 1, q.max(b.qber().as_percent())));
    assert!(before >= 2 && n >= 8 && worst > 20.0, "{before} before, {n} caught, {worst} %");
    assert!(link.take_blocks().len() <= 1, "at most the block that was closed before Eve came");
    link.set_eve(Eve::ABSENT);
    link.run_for(Span::from_secs(100))?;
    assert!(!link.take_blocks().is_empty());
    Ok(())
}

/// Decoy states with blocks of finite length: every key has just the length that was promised before
/// the first pulse, at the rate that theory expects.
#[test]
fn a_modern_link_keeps_what_it_promises() -> Result<()> {
    let preset = LinkPreset::named("decoy-1ghz")?;
    let link = run("decoy-1ghz", Span::from_secs(8), 7)?;
    let full = preset.block_bits(u64::MAX);
    let blocks: Vec<_> =
        link.ledger().iter().filter(|b| Bits::new(b.sifted.into()) == full).collect();
    let kept: Vec<_> = blocks.iter().filter(|b| b.outcome == Outcome::Kept).collect();
    assert!(blocks.len() >= 3 && kept.len() + 2 >= blocks.len(), "{} kept", kept.len());
    let theory = expected(&preset);
    let promised = theory.promise(full).map(|promise| promise.length().count());
    for block in kept {
        assert_eq!(Some(u64::from(block.secret) + 64), promised, "verification has its 64 bits");
        assert!(
            block.epsilon.secrecy > Fraction::ZERO && block.counts.tests.iter().sum::<u64>() > 0
        );
    }
    let costs = preset.block_costs(Bits::new(256 + 64));
    let (measured, theory) = (link.secret_rate().as_bps(), theory.secret_rate_with(costs).as_bps());
    assert!((measured / theory - 1.0).abs() < 0.03, "{measured} against {theory}");
    Ok(())
}

/// BB84 without decoys under the bound of GLLP, which states no ε.
#[test]
fn the_strict_reading_of_the_papers_fibre_gives_key() -> Result<()> {
    let link = run("lab-gllp", Span::from_secs(60), 7)?;
    let kept: Vec<_> = link.ledger().iter().filter(|b| b.outcome == Outcome::Kept).collect();
    assert!(kept.len() >= 3, "{} kept", kept.len());
    Ok(())
}
