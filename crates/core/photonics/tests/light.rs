//! The clicks of the fibre against a slow play of every photon, and against the formulas.
#![expect(clippy::cast_precision_loss, clippy::unwrap_used, reason = "counts of clicks; tests")]

mod reference;

use claviger_photonics::sift::{self, Announcement, Purpose};
use claviger_photonics::{Click, Coding, Eve, Fibre, LinkPreset, PulseStatistics, theory};
use claviger_units::{Decibels, Fraction};
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::reference::{ALICE, BOB, CLEAN, Link, Played, bad, choices};

fn fibre(preset: &LinkPreset, eve: Eve, seed: u64) -> Fibre {
    Fibre::new(preset, &ALICE, &BOB, eve, Xoshiro256PlusPlus::seed_from_u64(seed))
}

fn until(fibre: &mut Fibre, pulse: u64) -> Vec<Click> {
    std::iter::from_fn(|| fibre.click_before(pulse)).collect()
}

fn take(fibre: &mut Fibre, clicks: usize) -> Vec<Click> {
    std::iter::from_fn(|| fibre.click_before(u64::MAX)).take(clicks).collect()
}

/// Sifted key bits and errors among the clicks.
fn sift(coding: &Coding, clicks: &[Click]) -> (f64, f64) {
    let (mut alice, mut bob) = choices(coding);
    let protocol = coding.protocol();
    let bits = clicks.iter().filter_map(|click| {
        let choice = alice.choice(click.pulse);
        let said = Announcement::of(protocol, choice);
        let theirs = sift::at_bob(protocol, bob.basis(click.pulse), click.detector, said)?;
        let mine = sift::at_alice(protocol, choice);
        (mine.purpose == Purpose::Key).then_some(mine.bit != theirs.bit)
    });
    let wrong: Vec<bool> = bits.collect();
    (wrong.len() as f64, wrong.iter().filter(|wrong| **wrong).count() as f64)
}

/// How far `part` of `whole` lies from `share`, in standard deviations.
fn sigmas(part: f64, whole: f64, share: f64) -> f64 {
    (part - whole * share).abs() / (whole * share * (1.0 - share)).sqrt().max(1e-9)
}

/// How far two histograms of one distribution lie apart, in standard deviations of χ².
fn apart(mine: &[f64], theirs: &[f64]) -> f64 {
    let ratio = (mine.iter().sum::<f64>() / theirs.iter().sum::<f64>()).sqrt();
    let cells: Vec<f64> = (mine.iter().zip(theirs))
        .filter(|(a, b)| *a + *b > 10.0)
        .map(|(a, b)| (a / ratio - b * ratio).powi(2) / (a + b))
        .collect();
    let degrees = cells.len() as f64 - 1.0;
    (cells.iter().sum::<f64>() - degrees) / (2.0 * degrees).max(1.0).sqrt()
}

/// Clicks by Alice's choice, Bob's basis and his detector.
fn by_choice(coding: &Coding, clicks: &[Played]) -> Vec<f64> {
    let (mut alice, mut bob) = choices(coding);
    let mut cells = vec![0.0; 48];
    for &(pulse, detector) in clicks {
        let choice = alice.choice(pulse);
        let bits = [
            choice.state.basis.key_bit(),
            choice.state.value,
            bob.basis(pulse).key_bit(),
            detector.value(),
        ];
        let cell = bits.iter().fold(0, |n, &bit| n * 2 + usize::from(bit));
        cells[16 * usize::from(choice.intensity) + cell] += 1.0;
    }
    cells
}

/// Clicks by the live pulses between them and the one before.
fn by_gap(clicks: &[Played], dead_gates: u64, width: u64) -> Vec<f64> {
    let mut cells = vec![0.0; 40];
    for pair in clicks.windows(2) {
        let bin = usize::try_from((pair[1].0 - pair[0].0 - 1 - dead_gates) / width).unwrap();
        cells[bin.min(39)] += 1.0;
    }
    cells
}

fn plain(clicks: &[Click]) -> Vec<Played> {
    clicks.iter().map(|click| (click.pulse, click.detector)).collect()
}

fn share(share: f64) -> Fraction {
    Fraction::try_new(share).unwrap()
}

fn eve(fraction: f64) -> Eve {
    Eve::intercepting(share(fraction))
}

/// Every kind of link and of attack, against the play of every single photon.
#[test]
fn events_have_the_statistics_of_every_single_photon() {
    let lab = Link {
        mean: 1.2619,
        transmittance: 0.3981,
        efficiency: 0.1,
        dark: 5e-6,
        dead_gates: 150,
        visibility: 0.985,
        ..bad()
    };
    let dim = Link { mean: 0.6, visibility: 0.95, ..bad() };
    let echoing = Link { afterpulses: Some((0.3, 4.0)), ..bad() };
    let smeared = Link { jitter: Some((0.5, 0.24)), ..bad() };
    let decoys = Link {
        protocol: "decoy-bb84",
        mean: 0.9,
        decoys: &[(0.9, 0.5), (0.3, 0.3), (0.0, 0.2)],
        key_basis: 0.8,
        jitter: Some((0.6, 0.2)),
        afterpulses: Some((0.1, 10.0)),
        ..bad()
    };
    let bb84 = Link { protocol: "bb84", ..bad() };
    let all = Eve {
        intercept_resend: share(0.3),
        splitting: share(0.3),
        blinding: share(0.2),
        time_shift: share(0.6),
        trojan_horse: share(0.25),
        ..Eve::ABSENT
    };
    let split = Eve { splitting: share(1.0), ..Eve::ABSENT };
    let blind = Eve { blinding: share(1.0), ..Eve::ABSENT };
    let shift = Eve { time_shift: share(0.7), ..Eve::ABSENT };
    for (name, link, eve, pulses, width) in [
        ("bad", bad(), Eve::ABSENT, 1_000_000, 1),
        ("bad, intercepted", bad(), eve(0.5), 1_000_000, 1),
        ("lab", lab, Eve::ABSENT, 8_000_000, 3),
        ("echoing", echoing, Eve::ABSENT, 1_000_000, 1),
        ("smeared", smeared, Eve::ABSENT, 1_000_000, 1),
        ("bb84, split", bb84, split, 1_000_000, 1),
        ("dim, split", dim, split, 1_500_000, 1),
        ("bb84, blinded", bb84, blind, 1_000_000, 1),
        ("bad, shifted", bad(), shift, 1_000_000, 1),
        ("decoys", decoys, Eve::ABSENT, 1_500_000, 1),
        ("decoys, everything", decoys, all, 1_500_000, 1),
    ] {
        let preset = link.preset();
        let coding = preset.coding();
        let slow = link.pulse_by_pulse(&eve, pulses, 1);
        let fast = plain(&until(&mut fibre(&preset, eve, 2), pulses * 3));
        let (mine, theirs) = (fast.len() as f64 / 3.0, slow.len() as f64);
        // Dead time makes counts more even than Poisson's, so this is a mild demand.
        assert!(
            (mine - theirs).abs() < 3.0 * (theirs * 4.0 / 3.0).sqrt(),
            "{name}: {mine} {theirs}"
        );
        let choices = apart(&by_choice(&coding, &fast), &by_choice(&coding, &slow));
        let gaps =
            apart(&by_gap(&fast, link.dead_gates, width), &by_gap(&slow, link.dead_gates, width));
        assert!(choices < 3.5 && gaps < 3.5, "{name}: choices {choices}, gaps {gaps}");
    }
}

/// PHYSICS.md §1: (2 − V)/4 of the signal clicks are conclusive, (1 − V)/(2 − V) of those wrong.
#[test]
fn visibility_alone_makes_the_errors_of_the_formula() {
    for visibility in [1.0, 0.985, 0.9, 0.5, 0.0] {
        let preset = Link { visibility, ..CLEAN }.preset();
        let clicks = take(&mut fibre(&preset, Eve::ABSENT, 4), 400_000);
        let (sifted, errors) = sift(&preset.coding(), &clicks);
        let (kept, wrong) = ((2.0 - visibility) / 4.0, (1.0 - visibility) / (2.0 - visibility));
        assert!(sigmas(sifted, 4e5, kept) < 3.5, "V = {visibility}: {sifted} sifted");
        assert!(sigmas(errors, sifted, wrong) < 3.5, "V = {visibility}: {errors} errors");
    }
}

/// Half of the dark counts are conclusive, and half of those wrong.
#[test]
fn dark_counts_alone_are_noise() {
    let dark = Link { mean: 0.001, transmittance: 1e-6, dark: 0.01, ..CLEAN }.preset();
    let clicks = take(&mut fibre(&dark, Eve::ABSENT, 5), 400_000);
    let (sifted, errors) = sift(&dark.coding(), &clicks);
    assert!(sigmas(sifted, 4e5, 0.5) < 3.5 && sigmas(errors, sifted, 0.5) < 3.5);
}

/// Measured without errors otherwise: x/(2 + x) of the sifted bits are wrong in SARG04, up to a
/// third; x/4 in BB84.
#[test]
fn intercepting_shows_as_the_error_rate_that_theory_says() {
    for (protocol, x) in
        ["sarg04", "bb84"].into_iter().flat_map(|p| [0.0, 0.1, 0.5, 1.0].map(|x| (p, x)))
    {
        let preset = Link { protocol, ..CLEAN }.preset();
        let clicks = take(&mut fibre(&preset, eve(x), 6), 400_000);
        let (sifted, errors) = sift(&preset.coding(), &clicks);
        let (kept, wrong) =
            if protocol == "bb84" { (0.5, x / 4.0) } else { ((2.0 + x) / 8.0, x / (2.0 + x)) };
        assert!(sigmas(sifted, 4e5, kept) < 3.5, "{protocol}, x = {x}: {sifted} sifted");
        assert!(sigmas(errors, sifted, wrong) < 3.5, "{protocol}, x = {x}: {errors} errors");
    }
}

#[test]
fn an_eavesdropper_may_come_and_go() {
    let preset = CLEAN.preset();
    let mut fibre = fibre(&preset, Eve::ABSENT, 7);
    for (now, wrong) in [(Eve::ABSENT, 0.0), (eve(1.0), 1.0 / 3.0), (Eve::ABSENT, 0.0)] {
        fibre.set_eve(now);
        let (sifted, errors) = sift(&preset.coding(), &take(&mut fibre, 50_000));
        assert!(sigmas(errors, sifted, wrong) < 3.5, "{errors} of {sifted} wrong");
    }
}

/// All presets over some minutes of light, dark counts, double clicks and afterpulses included.
/// Alice is not told of another path, so that her photon numbers stay what they were.
#[test]
fn a_path_of_another_loss_lets_so_much_less_light_through() {
    let lab = LinkPreset::named("lab").unwrap();
    let (near, length) = (lab.loss(), 4_000_000);
    let far = Decibels::from_db(near.as_db() + 10.0).unwrap();
    let mut fibre = fibre(&lab, Eve::ABSENT, 5);
    let mut counted = |loss: Decibels, end: u64| {
        fibre.set_loss(loss);
        until(&mut fibre, end).len() as f64
    };
    let counts = [
        counted(near, length),
        counted(far, 2 * length),
        counted(Decibels::from_db(200.0).unwrap(), 3 * length),
        counted(near, 4 * length),
    ];
    // Clicks a gate that is not dead, of all gates.
    let live = |clicks: f64| {
        let dead = clicks * lab.dead_gates() as f64;
        clicks / (length as f64 - dead)
    };
    let dark = live(counts[2]);
    let ratio = (live(counts[0]) - dark) / (live(counts[1]) - dark);
    assert!((ratio / 10.0 - 1.0).abs() < 0.1, "{ratio} instead of 10: {counts:?}");
    assert!((counts[3] / counts[0] - 1.0).abs() < 0.02, "{counts:?}");
    assert!(dark < 0.2 * live(counts[1]), "{counts:?}");
}

#[test]
fn the_presets_run_as_theory_expects() {
    for name in LinkPreset::NAMES {
        let preset = LinkPreset::named(name).unwrap();
        let theory = theory::expected(&preset);
        let mut fibre = fibre(&preset, Eve::ABSENT, 9);
        let clicks = take(&mut fibre, 2_000_000);
        let n = clicks.len() as f64;
        let end = clicks.last().unwrap().pulse + 1 + preset.dead_gates();

        // A cycle is a dead time and a geometric gap, whose deviation is about its mean.
        let p = theory.click.as_f64();
        let deviation = (1.0 - p).sqrt() / p / (preset.dead_gates() as f64 + 1.0 / p) / n.sqrt();
        let raw = n / preset.time_of(end).as_secs_f64();
        assert!(
            (raw / theory.raw.as_bps() - 1.0).abs() < 3.0 * deviation + 2e-4,
            "{name}: {raw} clicks/s for {}",
            theory.raw
        );
        let (sifted, errors) = sift(&preset.coding(), &clicks);
        let kept = theory.sifted.as_bps() / theory.raw.as_bps();
        assert!(sigmas(sifted, n, kept) < 3.5, "{name}: {sifted} sifted of {n}, expected {kept}");
        assert!(
            sigmas(errors, sifted, theory.qber.as_f64()) < 3.5,
            "{name}: {errors} errors of {sifted}"
        );
    }
}

/// The sum over all cases is the limit of what is drawn, whatever Eve does.
#[test]
fn averages_are_those_of_the_sum_over_all_cases() {
    let preset = Link { dead_gates: 0, ..bad() }.preset();
    let eve = Eve { intercept_resend: share(0.5), time_shift: share(0.5), ..Eve::ABSENT };
    let sum = PulseStatistics::of(&preset, &eve);
    let pulses = 3_000_000;
    let clicks = until(&mut fibre(&preset, eve, 12), pulses);
    assert!(sigmas(clicks.len() as f64, pulses as f64, sum.click) < 3.5);
    let (sifted, errors) = sift(&preset.coding(), &clicks);
    assert!(sigmas(sifted, pulses as f64, sum.key[0].kept) < 3.5);
    assert!(sigmas(errors, pulses as f64, sum.key[0].wrong) < 3.5);
}

#[test]
fn no_click_falls_into_a_dead_time() {
    for dead_gates in [0, 1, 150] {
        let preset = Link { dead_gates, ..bad() }.preset();
        let clicks = take(&mut fibre(&preset, Eve::ABSENT, 10), 100_000);
        let nearest = clicks.windows(2).map(|pair| pair[1].pulse - pair[0].pulse).min();
        assert_eq!(nearest, Some(dead_gates + 1), "and none is wasted either");
    }
}

#[test]
fn a_seed_gives_the_same_clicks_for_ever() {
    let run = |seed| {
        let lab = LinkPreset::named("lab").unwrap();
        take(&mut fibre(&lab, eve(0.25), seed), 1000)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
    let first: Vec<(u64, bool)> =
        run(11).iter().take(6).map(|click| (click.pulse, click.detector.value())).collect();
    assert_eq!(first, FIRST);
}

const FIRST: [(u64, bool); 6] =
    [(54, true), (213, false), (464, false), (631, true), (786, false), (945, false)];
