//! The catalogue of attacks: every figure as predicted, and who notices what.

use anyhow::Result;
use claviger_lab::attack::{judge, measure};
use claviger_photonics::{Attack, Eve, LinkPreset};
use claviger_units::Span;

fn eve(attack: Attack, strength: f64) -> Result<Eve> {
    Ok(Eve::ABSENT.with(attack, attack.strength(strength)?))
}

/// The modern link with blocks a fifth as long, and more tests to make up for it.
fn with_short_blocks(name: &str) -> Result<LinkPreset> {
    if name != "decoy-1ghz" {
        return Ok(LinkPreset::named(name)?);
    }
    let text = include_str!("../../../presets/decoy-1ghz.toml")
        .replace("block_sifted_bits = 1000000", "block_sifted_bits = 200000")
        .replace("key_basis_probability = 0.82", "key_basis_probability = 0.70");
    Ok(LinkPreset::from_toml(&text)?)
}

#[test]
fn every_attack_shows_what_is_predicted() -> Result<()> {
    for name in ["lab", "lab-gllp", "decoy-1ghz"] {
        let preset = LinkPreset::named(name)?;
        for attack in Attack::ALL {
            for strength in [0.5, attack.full()] {
                for figure in measure(&preset, &eve(attack, strength)?, 150_000, 3)? {
                    assert!(figure.sigma < 4.0, "{name}, {attack} {strength}: {figure:?}");
                }
            }
        }
    }
    Ok(())
}

/// Measured errors show; everything else needs decoys, or is not seen in any figure of the link.
#[test]
fn each_link_notices_what_it_can() -> Result<()> {
    for (name, attack, seconds, noticed) in [
        ("lab", Attack::InterceptResend, 20, true),
        ("lab", Attack::Splitting, 45, false),
        ("lab", Attack::Blinding, 45, false),
        ("lab", Attack::TrojanHorse, 45, false),
        ("lab-gllp", Attack::InterceptResend, 30, true),
        ("lab-gllp", Attack::Splitting, 70, false),
        ("decoy-1ghz", Attack::InterceptResend, 1, true),
        ("decoy-1ghz", Attack::Splitting, 2, true),
        ("decoy-1ghz", Attack::TrojanHorse, 2, false),
        ("decoy-1ghz", Attack::Blinding, 2, false),
        ("decoy-1ghz", Attack::TimeShift, 4, true),
        ("decoy-1ghz", Attack::AddedLoss, 4, false),
        ("lab", Attack::TimeShift, 90, false),
        ("lab", Attack::AddedLoss, 90, false),
    ] {
        let preset = with_short_blocks(name)?;
        let verdict = judge(&preset, &eve(attack, 1.0)?, Span::from_secs(seconds), 5)?;
        assert_eq!(verdict.noticed(), noticed, "{name}, {attack}: {verdict:?}");
        assert!(verdict.after > 0, "{name} recovers from {attack}: {verdict:?}");
    }
    Ok(())
}
