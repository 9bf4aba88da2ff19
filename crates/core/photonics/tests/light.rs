//! The clicks of the fibre against a slow play of every photon, and against the formulas.
#![expect(clippy::cast_precision_loss, clippy::unwrap_used, reason = "counts of clicks; tests")]

use claviger_photonics::sarg04::conclude;
use claviger_photonics::{
    Basis, BasisGenerator, ChoiceGenerator, Click, Detector, Eve, Fibre, LinkPreset, theory,
};
use claviger_units::Fraction;
use rand::rngs::StdRng;
use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const ALICE: [u8; 32] = [0xA1; 32];
const BOB: [u8; 32] = [0xB0; 32];

/// The numbers of a link, here a bright and bad one: double clicks and dark counts are common.
#[derive(Clone, Copy)]
struct Link {
    mean: f64,
    transmittance: f64,
    efficiency: f64,
    dark: f64,
    dead_gates: u64,
    visibility: f64,
}

const BAD: Link = Link {
    mean: 3.0,
    transmittance: 0.5,
    efficiency: 0.4,
    dark: 0.02,
    dead_gates: 7,
    visibility: 0.8,
};

/// As the lab, and dim enough that single photons dominate.
const CLEAN: Link = Link {
    mean: 0.5,
    transmittance: 0.1,
    efficiency: 0.2,
    dark: 0.0,
    dead_gates: 0,
    visibility: 1.0,
};

impl Link {
    fn preset(&self) -> LinkPreset {
        let lab = include_str!("../../../../presets/lab.toml");
        let lines: Vec<String> = lab.lines().map(|line| self.line(line)).collect();
        LinkPreset::from_toml(&lines.join("\n")).unwrap()
    }

    fn line(&self, line: &str) -> String {
        let value = match line.split(" = ").next() {
            Some("mean_photon_number") => self.mean,
            Some("loss_db") => -10.0 * self.transmittance.log10(),
            Some("bob_efficiency") => self.efficiency,
            Some("dark_count_probability") => self.dark,
            Some("dead_time_us") => self.dead_gates as f64 / 5.0,
            Some("visibility") => self.visibility,
            _ => return line.to_owned(),
        };
        format!("{} = {value:?}", line.split(" = ").next().unwrap())
    }

    fn fibre(&self, eve: Eve, seed: u64) -> Fibre {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Fibre::new(&self.preset(), &ALICE, &BOB, eve, rng)
    }

    /// Plays every photon of every pulse: the reference, as slow as it is plain.
    fn pulse_by_pulse(&self, eve: f64, pulses: u64, seed: u64) -> Vec<Click> {
        let mut alice = ChoiceGenerator::from_seed(&ALICE);
        let mut bob = BasisGenerator::from_seed(&BOB);
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut clicks, mut blind_until) = (Vec::new(), 0);
        for pulse in 0..pulses {
            if pulse < blind_until {
                continue;
            }
            let mut light = alice.choice(pulse).state;
            if uniform(&mut rng) < eve {
                let basis = Basis::of_key_bit(uniform(&mut rng) < 0.5);
                if basis != light.basis {
                    light.value = uniform(&mut rng) < 0.5;
                }
                light.basis = basis;
            }
            let matching = bob.basis(pulse) == light.basis;
            let towards_one = match (matching, light.value) {
                (false, _) => 0.5,
                (true, true) => f64::midpoint(1.0, self.visibility),
                (true, false) => (1.0 - self.visibility) / 2.0,
            };
            let mut fired = [uniform(&mut rng) < self.dark, uniform(&mut rng) < self.dark];
            for _ in 0..poisson(self.mean, &mut rng) {
                if uniform(&mut rng) < self.transmittance * self.efficiency {
                    fired[usize::from(uniform(&mut rng) < towards_one)] = true;
                }
            }
            let value = match fired {
                [false, false] => continue,
                [true, true] => uniform(&mut rng) < 0.5,
                [_, one] => one,
            };
            clicks.push(Click { pulse, detector: Detector::for_value(value) });
            blind_until = pulse + 1 + self.dead_gates;
        }
        clicks
    }
}

fn uniform(rng: &mut StdRng) -> f64 {
    (rng.next_u64() >> 11) as f64 / 2_f64.powi(53)
}

fn poisson(mean: f64, rng: &mut StdRng) -> u32 {
    let mut left = uniform(rng) * mean.exp();
    let mut term = 1.0;
    let mut n = 0;
    while left >= term && n < 100 {
        left -= term;
        n += 1;
        term *= mean / f64::from(n);
    }
    n
}

fn until(fibre: &mut Fibre, pulse: u64) -> Vec<Click> {
    let next = || (fibre.next_pulse() < pulse).then(|| fibre.next_click());
    std::iter::from_fn(next).collect()
}

fn take(fibre: &mut Fibre, clicks: usize) -> Vec<Click> {
    (0..clicks).map(|_| fibre.next_click()).collect()
}

/// Sifted bits and errors among the clicks.
fn sift(clicks: &[Click]) -> (f64, f64) {
    let (mut alice, mut bob) =
        (ChoiceGenerator::from_seed(&ALICE), BasisGenerator::from_seed(&BOB));
    let bits = clicks.iter().filter_map(|click| {
        let choice = alice.choice(click.pulse);
        let bit = conclude(bob.basis(click.pulse), click.detector, choice.announcement())?;
        Some(bit != choice.key_bit())
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
    (cells.iter().sum::<f64>() - degrees) / (2.0 * degrees).sqrt()
}

/// Clicks by Alice's state, Bob's basis and his detector.
fn by_choice(clicks: &[Click]) -> [f64; 16] {
    let (mut alice, mut bob) =
        (ChoiceGenerator::from_seed(&ALICE), BasisGenerator::from_seed(&BOB));
    let mut cells = [0.0; 16];
    for click in clicks {
        let sent = alice.choice(click.pulse).state;
        let bits = [
            sent.basis.key_bit(),
            sent.value,
            bob.basis(click.pulse).key_bit(),
            click.detector.value(),
        ];
        cells[bits.iter().fold(0, |n, &bit| n * 2 + usize::from(bit))] += 1.0;
    }
    cells
}

/// Clicks by the live pulses between them and the one before.
fn by_gap(clicks: &[Click], dead_gates: u64, width: u64) -> [f64; 40] {
    let mut cells = [0.0; 40];
    for pair in clicks.windows(2) {
        let bin =
            usize::try_from((pair[1].pulse - pair[0].pulse - 1 - dead_gates) / width).unwrap();
        cells[bin.min(39)] += 1.0;
    }
    cells
}

fn eve(fraction: f64) -> Eve {
    Eve { intercept_resend: Fraction::try_new(fraction).unwrap() }
}

#[test]
fn events_have_the_statistics_of_every_single_photon() {
    let lab = Link {
        mean: 1.2619,
        transmittance: 0.3981,
        efficiency: 0.1,
        dark: 5e-6,
        dead_gates: 150,
        visibility: 0.985,
    };
    for (name, link, share, pulses, width) in [
        ("bad", BAD, 0.0, 2_000_000, 1),
        ("bad, Eve", BAD, 0.5, 2_000_000, 1),
        ("lab", lab, 0.0, 12_000_000, 3),
    ] {
        let slow = link.pulse_by_pulse(share, pulses, 1);
        let fast = until(&mut link.fibre(eve(share), 2), pulses * 3);
        let (mine, theirs) = (fast.len() as f64 / 3.0, slow.len() as f64);
        // Dead time makes counts more even than Poisson's, so this is a mild demand.
        assert!(
            (mine - theirs).abs() < 3.0 * (theirs * 4.0 / 3.0).sqrt(),
            "{name}: {mine} {theirs}"
        );
        let choices = apart(&by_choice(&fast), &by_choice(&slow));
        let gaps =
            apart(&by_gap(&fast, link.dead_gates, width), &by_gap(&slow, link.dead_gates, width));
        assert!(choices < 3.5 && gaps < 3.5, "{name}: choices {choices}, gaps {gaps}");
        let ((sifted, errors), (s, e)) = (sift(&fast), sift(&slow));
        let (kept, wrong) = (sifted / fast.len() as f64, errors / sifted);
        assert!(sigmas(s, theirs, kept) < 3.5, "{name}: {kept} of the clicks sifted");
        assert!(sigmas(e, s, wrong) < 3.5, "{name}: {wrong} of them wrong");
    }
}

/// PHYSICS.md §1: (2 − V)/4 of the signal clicks are conclusive, (1 − V)/(2 − V) of those wrong.
#[test]
fn visibility_alone_makes_the_errors_of_the_formula() {
    for visibility in [1.0, 0.985, 0.9, 0.5, 0.0] {
        let clicks = take(&mut Link { visibility, ..CLEAN }.fibre(Eve::ABSENT, 4), 400_000);
        let (sifted, errors) = sift(&clicks);
        let (kept, wrong) = ((2.0 - visibility) / 4.0, (1.0 - visibility) / (2.0 - visibility));
        assert!(sigmas(sifted, 4e5, kept) < 3.5, "V = {visibility}: {sifted} sifted");
        assert!(sigmas(errors, sifted, wrong) < 3.5, "V = {visibility}: {errors} errors");
    }
}

/// Half of the dark counts are conclusive, and half of those wrong.
#[test]
fn dark_counts_alone_are_noise() {
    let dark = Link { mean: 0.001, transmittance: 1e-6, dark: 0.01, ..CLEAN };
    let clicks = take(&mut dark.fibre(Eve::ABSENT, 5), 400_000);
    let (sifted, errors) = sift(&clicks);
    assert!(sigmas(sifted, 4e5, 0.5) < 3.5 && sigmas(errors, sifted, 0.5) < 3.5);
}

/// Measured without errors otherwise: x/(2 + x) of the sifted bits are wrong, up to a third.
#[test]
fn intercepting_shows_as_the_error_rate_that_theory_says() {
    for share in [0.0, 0.1, 0.5, 1.0] {
        let clicks = take(&mut CLEAN.fibre(eve(share), 6), 400_000);
        let (sifted, errors) = sift(&clicks);
        assert!(sigmas(sifted, 4e5, (2.0 + share) / 8.0) < 3.5, "x = {share}: {sifted} sifted");
        assert!(
            sigmas(errors, sifted, share / (2.0 + share)) < 3.5,
            "x = {share}: {errors} errors"
        );
    }
}

#[test]
fn an_eavesdropper_may_come_and_go() {
    let mut fibre = CLEAN.fibre(Eve::ABSENT, 7);
    for (now, share) in [(Eve::ABSENT, 0.0), (eve(1.0), 1.0 / 3.0), (Eve::ABSENT, 0.0)] {
        fibre.set_eve(now);
        let (sifted, errors) = sift(&take(&mut fibre, 50_000));
        assert!(sigmas(errors, sifted, share) < 3.5, "{errors} of {sifted} wrong");
    }
}

/// The two set-ups over some minutes of light, dark counts and double clicks included.
#[test]
fn the_presets_run_as_theory_expects() {
    for name in LinkPreset::NAMES {
        let preset = LinkPreset::named(name).unwrap();
        let theory = theory::expected(&preset);
        let rng = Xoshiro256PlusPlus::seed_from_u64(9);
        let mut fibre = Fibre::new(&preset, &ALICE, &BOB, Eve::ABSENT, rng);
        let clicks = take(&mut fibre, 2_000_000);
        let n = clicks.len() as f64;
        let end = fibre.next_pulse();

        // A cycle is a dead time and a geometric gap, whose deviation is about its mean.
        let p = theory.click.as_f64();
        let deviation = (1.0 - p).sqrt() / p / (preset.dead_gates() as f64 + 1.0 / p) / n.sqrt();
        let raw = n / preset.time_of(end).as_secs_f64();
        assert!(
            (raw / theory.raw.as_bps() - 1.0).abs() < 3.0 * deviation,
            "{name}: {raw} clicks/s"
        );
        let seen = preset.observed_click_probability(clicks.len() as u64, end).unwrap().as_f64();
        assert!((seen / p - 1.0).abs() < 3.0 / n.sqrt(), "{name}: {seen} a pulse");

        let (sifted, errors) = sift(&clicks);
        let kept = theory.sifted.as_bps() / theory.raw.as_bps();
        assert!(sigmas(sifted, n, kept) < 3.0, "{name}: {sifted} sifted");
        assert!(sigmas(errors, sifted, theory.qber.as_f64()) < 3.0, "{name}: {errors} errors");
    }
}

#[test]
fn no_click_falls_into_a_dead_time() {
    for dead_gates in [0, 1, 150] {
        let clicks = take(&mut Link { dead_gates, ..BAD }.fibre(Eve::ABSENT, 10), 100_000);
        let nearest = clicks.windows(2).map(|pair| pair[1].pulse - pair[0].pulse).min();
        assert_eq!(nearest, Some(dead_gates + 1), "and none is wasted either");
    }
}

#[test]
fn a_seed_gives_the_same_clicks_for_ever() {
    let run = |seed| {
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let lab = LinkPreset::named("lab").unwrap();
        take(&mut Fibre::new(&lab, &ALICE, &BOB, eve(0.25), rng), 1000)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
    let first: Vec<(u64, bool)> =
        run(11).iter().take(6).map(|click| (click.pulse, click.detector.value())).collect();
    assert_eq!(
        first,
        [(16, false), (190, true), (365, true), (529, true), (682, true), (834, false)]
    );
}
