//! BB84 with weak pulses and without decoys: Gottesman, Lo, Lütkenhaus and Preskill (2004).
//!
//! Every pulse with two photons or more is *tagged*: Eve knows its bit, makes Bob detect it for
//! certain, and all errors fall on the others. The formulas hold for blocks without end; they do
//! not charge for the finite statistics of a block. They hold for BB84 only, not for SARG04.

use claviger_units::Fraction;

use crate::channel::PlainChannel;
use crate::entropy::{Efficiency, h};
use crate::intensity::MeanPhotons;

/// The GLLP account of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gllp {
    /// Q: probability of a click.
    pub click: Fraction,
    /// E: error rate of the clicks.
    pub qber: Fraction,
    /// Ω: share of the clicks from pulses that are not tagged, at least; below zero where tagged
    /// pulses alone could make all clicks.
    pub untagged: f64,
    /// `R = q Q (Ω (1 − h(E/Ω)) − f h(E))`, in bits per pulse, not below zero.
    pub rate: Fraction,
}

/// Returns the account of a link whose pulses have `mean` photons.
///
/// `sifted` is q, the share of the clicks in which the bases agree: ½ for BB84 as it was.
#[must_use]
pub fn account(
    channel: &PlainChannel,
    mean: MeanPhotons,
    sifted: Fraction,
    efficiency: Efficiency,
) -> Gllp {
    let (click, qber) = (channel.click(mean), channel.qber(mean));
    let content = secret_content(mean, click, qber).as_f64();
    let secret = content - efficiency.ratio() * h(qber.as_f64());
    let rate = Fraction::clamped(sifted.as_f64() * click.as_f64() * secret);
    Gllp { click, qber, untagged: untagged(mean, click), rate }
}

/// Returns `Ω = 1 − P(n ≥ 2)/Q`, the share of the clicks that no tagged pulse can have made; may be
/// negative, and is minus infinity where nothing clicks.
#[must_use]
pub fn untagged(mean: MeanPhotons, click: Fraction) -> f64 {
    if click > Fraction::ZERO {
        1.0 - mean.multi_photon().as_f64() / click.as_f64()
    } else {
        f64::NEG_INFINITY
    }
}

/// Returns the share of a sifted block that is secret before error correction discloses any:
/// `Ω (1 − h(E/Ω))`, from observed figures.
///
/// `mean` is the mean photon number of the pulses that left Alice, `click` the share of the pulses
/// that clicked among those that met no dead time, `qber` the error rate of the sifted bits after
/// correction. Zero where tagged pulses could have made all clicks, or half of the others erred.
#[must_use]
pub fn secret_content(mean: MeanPhotons, click: Fraction, qber: Fraction) -> Fraction {
    let untagged = untagged(mean, click);
    if untagged <= 0.0 {
        return Fraction::ZERO;
    }
    let charged = (qber.as_f64() / untagged).min(0.5);
    Fraction::clamped(untagged * (1.0 - h(charged)))
}

/// Returns the mean photon number with the best rate, and its account; `None` where none of up to
/// one photon a pulse gives key.
///
/// Tries every thousandth of a photon, then narrows the best step down.
#[must_use]
pub fn best_mean(
    channel: &PlainChannel,
    sifted: Fraction,
    efficiency: Efficiency,
) -> Option<(MeanPhotons, Gllp)> {
    let at = |mean: f64| {
        let mean = MeanPhotons::try_new(mean).unwrap_or_default();
        (mean, account(channel, mean, sifted, efficiency))
    };
    let better =
        |a: (MeanPhotons, Gllp), b: (MeanPhotons, Gllp)| if b.1.rate > a.1.rate { b } else { a };
    let mut best = (1..=1000_u16).map(|n| at(f64::from(n) * STEP)).reduce(better)?;
    let mut step = STEP;
    for _ in 0..NARROWINGS {
        step /= 2.0;
        let middle = best.0.as_f64();
        best = [at(middle - step), at(middle + step)].into_iter().fold(best, better);
    }
    (best.1.rate > Fraction::ZERO).then_some(best)
}

/// Photons per pulse between two trials.
const STEP: f64 = 0.001;
/// 0.001 / 2²⁰: beyond that the rate does not change.
const NARROWINGS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../../../vectors/vectors_gllp.csv");
    const HALF: f64 = 0.5;

    fn rows() -> Vec<Vec<f64>> {
        let lines = VECTORS.lines().skip(1);
        lines.map(|line| line.split(',').map(|field| field.parse().unwrap()).collect()).collect()
    }

    fn channel(row: &[f64]) -> PlainChannel {
        PlainChannel {
            transmittance: Fraction::clamped(10_f64.powf(-row[0] / 10.0) * row[1]),
            background: Fraction::clamped(row[2]),
            misalignment: Fraction::clamped(row[3]),
        }
    }

    #[test]
    fn every_reference_row_is_met_to_nine_digits() {
        for row in rows() {
            let mean = MeanPhotons::try_new(row[5]).unwrap();
            let efficiency = Efficiency::from_ratio(row[4]);
            let got = account(&channel(&row), mean, Fraction::clamped(HALF), efficiency);
            for (column, value) in
                [(6, got.click.as_f64()), (7, got.qber.as_f64()), (8, got.untagged)]
            {
                assert!((value / row[column] - 1.0).abs() < 1e-9, "{row:?}, {column}: {value}");
            }
            let slack = 1e-9 * row[9];
            assert!((got.rate.as_f64() - row[9]).abs() <= slack, "{row:?}: {}", got.rate.as_f64());
        }
    }

    /// The reference tried every thousandth of a photon; we may be better by what lies between.
    #[test]
    fn the_best_mean_is_that_of_the_reference() {
        for row in rows() {
            let best =
                best_mean(&channel(&row), Fraction::clamped(HALF), Efficiency::from_ratio(row[4]));
            if row[9] > 0.0 {
                let (mean, got) = best.unwrap();
                assert!((mean.as_f64() - row[5]).abs() < STEP, "{row:?}: {mean:?}");
                let gain = got.rate.as_f64() / row[9] - 1.0;
                assert!((0.0..1e-3).contains(&gain), "{row:?}: {gain}");
            } else {
                assert_eq!(best, None, "{row:?}");
            }
        }
    }

    /// PHYSICS.md §1: a strict reading of the paper's hardware gives about 816 and 169 bit/s at 4
    /// and 7 dB: 5 MHz, delay line 21.5 km, dead time 30 µs.
    #[test]
    fn the_papers_hardware_would_give_what_physics_says() {
        for (loss_db, km, printed) in [(4.0, 8.4, 816.0), (7.0, 8.5, 169.0)] {
            let channel = PlainChannel {
                transmittance: Fraction::clamped(0.1 * 10_f64.powf(-loss_db / 10.0)),
                background: Fraction::clamped(1e-5),
                misalignment: Fraction::clamped(0.0075),
            };
            let efficiency = Efficiency::from_ratio(1.16);
            let (_, best) = best_mean(&channel, Fraction::clamped(HALF), efficiency).unwrap();
            let alive = 1.0 / (1.0 + 150.0 * best.click.as_f64());
            let rate = 5e6 * 21.5 / (21.5 + km) * alive * best.rate.as_f64();
            assert!((rate - printed).abs() < 1.0, "{loss_db} dB: {rate}");
        }
    }

    #[test]
    fn observed_figures_that_cannot_give_key_give_none() {
        let content = |mean: f64, click: f64, qber: f64| {
            let mean = MeanPhotons::try_new(mean).unwrap();
            secret_content(mean, Fraction::clamped(click), Fraction::clamped(qber)).as_f64()
        };
        assert!((content(0.0, 0.01, 0.0) - 1.0).abs() < 1e-12, "single photons, no errors");
        for (mean, click, qber) in
            [(0.1, 0.0, 0.0), (1.0, 0.01, 0.0), (0.0, 0.01, 0.5), (0.02, 4e-4, 0.3)]
        {
            assert!(content(mean, click, qber) <= 0.0, "{mean} {click} {qber}");
        }
    }
}
