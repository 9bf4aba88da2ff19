//! The fibre in one direction: from Alice's choices to Bob's clicks, without work for empty pulses.
//!
//! A pulse clicks with the same probability whatever was chosen for it, because both detectors are
//! alike and the bases only decide how the light is split between them. So the gap to the next
//! click is drawn first, and choices, eavesdropper and detector are worked out for that pulse
//! alone. Nothing is approximated: the statistics are those of playing pulse by pulse, which a test
//! does as a reference.

use claviger_units::Fraction;
use rand_core::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::choice::{BasisGenerator, ChoiceGenerator};
use crate::preset::LinkPreset;
use crate::sarg04::{Basis, Detector, State};
use crate::theory::{self, Protocol};

/// One click at Bob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Click {
    /// The index of the pulse; [`LinkPreset::time_of`] says when that was.
    pub pulse: u64,
    /// The detector that fired. Where both did, a coin decided which counts.
    pub detector: Detector,
}

/// What is done to the light on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eve {
    /// Share of the pulses that she measures, each in a basis of her own chance, and sends on as she
    /// found them, as bright as before. At 1 the sifted error rate rises to a third.
    pub intercept_resend: Fraction,
}

impl Eve {
    /// Nobody there.
    pub const ABSENT: Self = Self { intercept_resend: Fraction::ZERO };
}

/// The light between Alice and Bob: an endless row of clicks, in rising order of their pulses.
///
/// ```
/// use claviger_photonics::{Eve, Fibre, LinkPreset};
/// use rand_core::SeedableRng;
/// use rand_xoshiro::Xoshiro256PlusPlus;
///
/// let lab = LinkPreset::named("lab")?;
/// let rng = Xoshiro256PlusPlus::seed_from_u64(1);
/// let mut fibre = Fibre::new(&lab, &[1; 32], &[2; 32], Eve::ABSENT, rng);
/// let mut clicks = 0;
/// while fibre.next_pulse() < 1_000_000 {
///     fibre.next_click();
///     clicks += 1;
/// }
/// assert!((5_000..7_000).contains(&clicks), "{clicks}");
/// # Ok::<(), claviger_photonics::preset::PresetError>(())
/// ```
#[derive(Debug)]
pub struct Fibre {
    alice: ChoiceGenerator,
    bob: BasisGenerator,
    rng: Xoshiro256PlusPlus,
    gaps: GeometricGaps,
    wrong_detector: Chance,
    dead_gates: u64,
    eavesdropped: Chance,
    // Invariant: the pulse that clicks next; beyond the dead time of every earlier click.
    next: u64,
}

impl Fibre {
    /// Lights up the fibre with the seeds of Alice's choices and of Bob's bases; `rng` draws what
    /// nature decides.
    #[must_use]
    pub fn new(
        preset: &LinkPreset,
        alice_seed: &[u8; 32],
        bob_seed: &[u8; 32],
        eve: Eve,
        mut rng: Xoshiro256PlusPlus,
    ) -> Self {
        let pulse = Pulse::of(preset);
        let gaps = GeometricGaps::new(pulse.click);
        let next = gaps.draw(&mut rng);
        Self {
            alice: ChoiceGenerator::from_seed(alice_seed),
            bob: BasisGenerator::from_seed(bob_seed),
            rng,
            gaps,
            wrong_detector: Chance::of(pulse.wrong_detector),
            dead_gates: preset.dead_gates(),
            eavesdropped: Chance::of(eve.intercept_resend.as_f64()),
            next,
        }
    }

    /// Returns the index of the pulse that clicks next, without moving on to it.
    #[must_use]
    pub const fn next_pulse(&self) -> u64 {
        self.next
    }

    /// Moves on to the next click and returns it.
    pub fn next_click(&mut self) -> Click {
        let pulse = self.next;
        let detector = self.detect(pulse);
        // Both detectors are blind for the dead time, then as likely to click as ever.
        let gap = self.gaps.draw(&mut self.rng);
        self.next = pulse.saturating_add(1 + self.dead_gates).saturating_add(gap);
        Click { pulse, detector }
    }

    /// Changes what is done to the light, from the pulse of the next click on.
    pub fn set_eve(&mut self, eve: Eve) {
        self.eavesdropped = Chance::of(eve.intercept_resend.as_f64());
    }

    /// Decides which detector fires for a pulse that makes one fire.
    fn detect(&mut self, pulse: u64) -> Detector {
        let mut arriving = self.alice.choice(pulse).state;
        if self.eavesdropped.comes_true(&mut self.rng) {
            arriving = intercept(arriving, &mut self.rng);
        }
        if self.bob.basis(pulse) == arriving.basis {
            let wrong = self.wrong_detector.comes_true(&mut self.rng);
            Detector::for_value(arriving.value ^ wrong)
        } else {
            // The light is split evenly, so either detector is as likely, dark counts or not.
            Detector::for_value(coin(&mut self.rng))
        }
    }
}

/// Measures in a random basis and sends on what was found.
fn intercept(sent: State, rng: &mut Xoshiro256PlusPlus) -> State {
    let basis = Basis::of_key_bit(coin(rng));
    if basis == sent.basis { sent } else { State { basis, value: coin(rng) } }
}

fn coin(rng: &mut Xoshiro256PlusPlus) -> bool {
    rng.next_u64() >> 63 == 1
}

/// The probabilities of one pulse outside dead times.
struct Pulse {
    /// At least one detector fires.
    click: f64,
    /// It is the wrong one, given a click and matching bases; half of the double clicks count.
    wrong_detector: f64,
}

impl Pulse {
    /// Photon numbers are Poissonian and each photon takes its own way, so the two detectors fire
    /// independently: each with 1 − (1 − dark)·exp(−λ) where λ is its share of the mean.
    fn of(preset: &LinkPreset) -> Self {
        let optics = &preset.optics;
        let mean = theory::mean_at_detectors(Protocol::Sarg04, optics);
        let fires =
            |share: f64| 1.0 - (1.0 - optics.dark_count_probability) * (-mean * share).exp();
        let right = fires(f64::midpoint(1.0, optics.visibility));
        let wrong = fires((1.0 - optics.visibility) / 2.0);
        let click = 1.0 - (1.0 - right) * (1.0 - wrong);
        let only_wrong = wrong * (1.0 - right);
        Self { click, wrong_detector: (only_wrong + right * wrong / 2.0) / click }
    }
}

/// An event of fixed probability, to a precision of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug)]
struct Chance(u64);

impl Chance {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates; a certain event fails once in 2^64 times"
    )]
    fn of(probability: f64) -> Self {
        Self((pinned(probability) * 2_f64.powi(64)) as u64)
    }

    fn comes_true(self, rng: &mut Xoshiro256PlusPlus) -> bool {
        rng.next_u64() < self.0
    }
}

/// Rounds to 36 significant bits, so that a last bit of another machine's `exp` or `pow` does not
/// change a run. The relative error of 10⁻¹¹ would show after 10²² clicks.
const fn pinned(value: f64) -> f64 {
    const CUT: u64 = 1 << 17;
    f64::from_bits((value.to_bits() + CUT / 2) & !(CUT - 1))
}

/// Draws how many pulses pass before one clicks: k with probability (1 − p)ᵏ·p.
///
/// The binary digits of a geometric number are independent of each other: digit i is one with
/// probability qⁱ/(1 + qⁱ), where qⁱ stands for (1 − p) to the power 2ⁱ. So each is a [`Chance`] of
/// its own; no logarithm, no rounding of the number drawn.
#[derive(Debug)]
struct GeometricGaps {
    digits: Vec<Chance>,
}

impl GeometricGaps {
    /// Gaps of 2⁴⁸ pulses and more, two years of light, are not drawn.
    const MOST_DIGITS: usize = 48;

    fn new(click: f64) -> Self {
        let powers = core::iter::successors(Some(1.0 - pinned(click)), |power| Some(power * power));
        let chances = powers.map(|power| Chance::of(power / (1.0 + power)));
        let digits = chances.take(Self::MOST_DIGITS).take_while(|chance| chance.0 > 0).collect();
        Self { digits }
    }

    fn draw(&self, rng: &mut Xoshiro256PlusPlus) -> u64 {
        let digits = self.digits.iter().enumerate();
        digits.fold(0, |gap, (i, chance)| gap | u64::from(chance.comes_true(rng)) << i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn gaps_are_geometric() {
        for p in [0.6, 0.05, 0.003] {
            let gaps = GeometricGaps::new(p);
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(8);
            // Bins of about a twentieth of the mean, the last open.
            let width = (0.05 / p).ceil();
            let mut bins = [0.0; 60];
            for _ in 0..400_000 {
                let bin = (gaps.draw(&mut rng) as f64 / width).floor().min(59.0);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and 59"
                )]
                let bin = bin as usize;
                bins[bin] += 1.0;
            }
            let survives = |bin: usize| (1.0 - p).powf(bin as f64 * width);
            let (mut chi2, mut degrees) = (0.0, -1.0);
            for (bin, seen) in bins.iter().enumerate() {
                let beyond = if bin == 59 { 0.0 } else { survives(bin + 1) };
                let expected = 400_000.0 * (survives(bin) - beyond);
                if expected > 5.0 {
                    chi2 += (seen - expected).powi(2) / expected;
                    degrees += 1.0;
                }
            }
            let sigma: f64 = (chi2 - degrees) / (2.0_f64 * degrees).sqrt();
            assert!(sigma < 3.5, "p = {p}: chi² {chi2} with {degrees} degrees of freedom");
        }
    }

    #[test]
    fn certain_and_impossible_events_are() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        assert!((0..1000).all(|_| Chance::of(1.0).comes_true(&mut rng)));
        assert!(!(0..1000).any(|_| Chance::of(0.0).comes_true(&mut rng)));
        assert_eq!(GeometricGaps::new(1.0).draw(&mut rng), 0);
        assert!(GeometricGaps::new(0.0).draw(&mut rng) < 1 << 48, "an end, even without light");
    }

    #[test]
    fn rounding_keeps_36_bits() {
        for x in [0.1, 1.0 / 3.0, 5e-6, 1.0] {
            assert!((pinned(x) / x - 1.0).abs() < 2_f64.powi(-36));
            assert!((pinned(x) - pinned(f64::from_bits(x.to_bits() + 3))).abs() < f64::EPSILON * x);
        }
    }
}
