//! BB84 with a weak decoy and a vacuum decoy, for blocks without end: Ma, Qi, Zhao and Lo (2005).

use claviger_units::Fraction;

use crate::channel::PlainChannel;
use crate::entropy::{Efficiency, h};
use crate::intensity::MeanPhotons;

/// The account of a link with decoys, for blocks without end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asymptotic {
    /// `Q_μ`: probability that a signal clicks.
    pub click: Fraction,
    /// `E_μ`: error rate of the clicks of signals.
    pub qber: Fraction,
    /// Y₁: probability that a pulse of one photon clicks, at least.
    pub single_yield: Fraction,
    /// `Q₁ = Y₁ μ e^(−μ)`: probability that a signal has one photon and clicks, at least.
    pub single_click: Fraction,
    /// e₁: error rate of single photons, at most.
    pub single_error: Fraction,
    /// `R = q (Q₁ (1 − h(e₁)) − Q_μ f h(E_μ))`, in bits per signal, not below zero.
    pub rate: Fraction,
}

/// Returns the account of a link with signals of `signal` photons (μ), weak decoys of `decoy`
/// photons (ν), and pulses without light.
///
/// `sifted` is q, the share of the clicks in which the bases agree. The paper's case of a vacuum
/// and a weak decoy; in a block without end the vacuum shows Y₀ itself:
/// `Y₁ ≥ μ/(μν − ν²) · (Q_ν e^ν − Q_μ e^μ ν²/μ² − (μ² − ν²)/μ² · Y₀)` and
/// `e₁ ≤ (E_ν Q_ν e^ν − Y₀/2)/(Y₁ ν)`. Decoys that are not dimmer than the signal, or dark, bound
/// nothing: the rate is zero then.
#[must_use]
pub fn account(
    channel: &PlainChannel,
    [signal, decoy]: [MeanPhotons; 2],
    sifted: Fraction,
    efficiency: Efficiency,
) -> Asymptotic {
    let (mu, nu) = (signal.as_f64(), decoy.as_f64());
    let background = channel.background.as_f64();
    let (click, qber) = (channel.click(signal), channel.qber(signal));
    let (weak, weak_qber) = (channel.click(decoy).as_f64(), channel.qber(decoy).as_f64());

    let several = click.as_f64() * mu.exp() * (nu / mu).powi(2);
    let vacuum = (1.0 - (nu / mu).powi(2)) * background;
    let single_yield =
        Fraction::clamped(mu / (mu * nu - nu * nu) * (weak * nu.exp() - several - vacuum));
    let bounded = nu > 0.0 && mu > nu && single_yield > Fraction::ZERO;

    let errors = weak_qber * weak * nu.exp() - background / 2.0;
    let single_error = if bounded { errors / (single_yield.as_f64() * nu) } else { 0.5 };
    let single_yield = if bounded { single_yield } else { Fraction::ZERO };
    let single_click = Fraction::clamped(single_yield.as_f64() * mu * (-mu).exp());
    let disclosed = click.as_f64() * efficiency.ratio() * h(qber.as_f64());
    let secret = single_click.as_f64() * (1.0 - h(single_error.clamp(0.0, 0.5)));
    Asymptotic {
        click,
        qber,
        single_yield,
        single_click,
        single_error: Fraction::clamped(single_error),
        rate: Fraction::clamped(sifted.as_f64() * (secret - disclosed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../../../vectors/vectors_decoy_asymptotic_gys.csv");

    fn means(signal: f64, decoy: f64) -> [MeanPhotons; 2] {
        [signal, decoy].map(|mean| MeanPhotons::try_new(mean).unwrap())
    }

    /// The experiment of Gobby, Yuan and Shields. At its longest distances the rate is a small
    /// difference of large numbers: eight digits there.
    #[test]
    fn every_reference_row_is_met() {
        for line in VECTORS.lines().skip(1) {
            let row: Vec<f64> = line.split(',').map(|field| field.parse().unwrap()).collect();
            let channel = PlainChannel {
                transmittance: Fraction::clamped(row[4] * 10_f64.powf(-row[1] * row[0] / 10.0)),
                background: Fraction::clamped(row[5]),
                misalignment: Fraction::clamped(row[6]),
            };
            let efficiency = Efficiency::from_ratio(row[7]);
            let got = account(&channel, means(row[2], row[3]), Fraction::clamped(0.5), efficiency);
            let digits = if row[0] > 100.0 { 1e-8 } else { 1e-9 };
            for (column, value, tolerance) in [
                (8, got.click, 1e-9),
                (9, got.qber, 1e-9),
                (10, got.single_yield, 1e-9),
                (11, got.single_click, 1e-9),
                (12, got.single_error, 1e-9),
                (13, got.rate, digits),
            ] {
                let error = (value.as_f64() / row[column] - 1.0).abs();
                assert!(error < tolerance, "{line}\ncolumn {column}: {value:?}");
            }
        }
    }

    #[test]
    fn decoys_that_bound_nothing_give_no_key() {
        let channel = PlainChannel {
            transmittance: Fraction::clamped(0.1),
            background: Fraction::clamped(1e-6),
            misalignment: Fraction::clamped(0.01),
        };
        for (signal, decoy) in [(0.5, 0.0), (0.5, 0.5), (0.1, 0.5), (0.0, 0.0)] {
            let efficiency = Efficiency::from_ratio(1.16);
            let got = account(&channel, means(signal, decoy), Fraction::clamped(0.5), efficiency);
            assert_eq!(got.rate, Fraction::ZERO, "{signal} {decoy}: {got:?}");
        }
    }
}
