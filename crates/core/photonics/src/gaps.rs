//! Chances and gaps, drawn so that a run is the same on every machine.

use rand_core::Rng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// An event of fixed probability, to a precision of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chance(u64);

impl Chance {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates; a certain event fails once in 2^64 times"
    )]
    pub(crate) fn of(probability: f64) -> Self {
        Self((pinned(probability) * 2_f64.powi(64)) as u64)
    }

    pub(crate) fn is_possible(self) -> bool {
        self.0 > 0
    }

    pub(crate) fn comes_true(self, rng: &mut Xoshiro256PlusPlus) -> bool {
        rng.next_u64() < self.0
    }
}

pub(crate) fn coin(rng: &mut Xoshiro256PlusPlus) -> bool {
    rng.next_u64() >> 63 == 1
}

/// Draws a number evenly from [0, 1), a multiple of 2⁻⁵³.
pub(crate) fn uniform(rng: &mut Xoshiro256PlusPlus) -> f64 {
    (rng.next_u64() >> 11) as f64 * (-53_f64).exp2()
}

/// Rounds to 36 significant bits, so that a last bit of another machine's `exp` or `pow` does not
/// change a run. The relative error of 10⁻¹¹ would show after 10²² clicks.
pub(crate) const fn pinned(value: f64) -> f64 {
    const CUT: u64 = 1 << 17;
    f64::from_bits((value.to_bits() + CUT / 2) & !(CUT - 1))
}

/// Draws how many pulses pass before one comes true: k with probability (1 − p)ᵏ·p.
#[derive(Debug)]
pub(crate) enum Gaps {
    /// Short gaps, from a table.
    Short(Vec<Slot>),
    /// Long ones, digit by digit.
    Long(Vec<Chance>),
}

/// A place of the alias table: the gap of its own number below the threshold, else the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    threshold: u64,
    other: u32,
}

impl Gaps {
    /// The largest table: beyond, gaps are drawn digit by digit.
    const LARGEST: f64 = 2048.0;
    /// Gaps of 2⁴⁸ pulses and more, two years of light, are not drawn.
    const MOST_DIGITS: usize = 48;

    pub(crate) fn new(probability: f64) -> Self {
        let p = pinned(probability);
        // So many places that most draws end within the table.
        let places = (3.0 / p).ceil();
        if places > Self::LARGEST { Self::digits(p) } else { Self::table(p, places.max(2.0)) }
    }

    /// The binary digits of a geometric number are independent of each other: digit i is one with
    /// probability qⁱ/(1 + qⁱ), where qⁱ stands for (1 − p) to the power 2ⁱ. So each is a [`Chance`]
    /// of its own; no logarithm, no rounding of the number drawn.
    fn digits(p: f64) -> Self {
        let powers = core::iter::successors(Some(1.0 - p), |power| Some(power * power));
        let chances = powers.map(|power| Chance::of(power / (1.0 + power)));
        Self::Long(
            chances.take(Self::MOST_DIGITS).take_while(|chance| chance.is_possible()).collect(),
        )
    }

    /// Walker's alias method over the gaps 0 … n − 1 and "n and more", which is followed by a fresh
    /// draw because gaps have no memory.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places are few, and the cast of a threshold saturates"
    )]
    fn table(p: f64, places: f64) -> Self {
        let n = places as usize;
        let mut survives = 1.0;
        let mut weights = Vec::with_capacity(n + 1);
        for _ in 0..n {
            weights.push(survives * p * (n + 1) as f64);
            survives *= 1.0 - p;
        }
        weights.push(survives * (n + 1) as f64);
        let whole = 2_f64.powi(64);
        let mut slots: Vec<Slot> =
            (0..=n as u32).map(|own| Slot { threshold: u64::MAX, other: own }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..=n).partition(|&i| weights[i] < 1.0);
        while let (Some(&less), Some(&more)) = (small.last(), large.last()) {
            small.pop();
            slots[less] = Slot { threshold: (weights[less] * whole) as u64, other: more as u32 };
            weights[more] -= 1.0 - weights[less];
            if weights[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self::Short(slots)
    }

    pub(crate) fn draw(&self, rng: &mut Xoshiro256PlusPlus) -> u64 {
        match self {
            Self::Long(digits) => digits
                .iter()
                .enumerate()
                .fold(0, |gap, (i, chance)| gap | u64::from(chance.comes_true(rng)) << i),
            Self::Short(slots) => draw_from(slots, rng),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the product's halves are taken apart")]
fn draw_from(slots: &[Slot], rng: &mut Xoshiro256PlusPlus) -> u64 {
    let last = slots.len() as u64 - 1;
    let mut passed = 0;
    loop {
        let product = u128::from(rng.next_u64()) * slots.len() as u128;
        let (place, within) = ((product >> 64) as u64, product as u64);
        let slot = slots[place as usize];
        let gap = if within < slot.threshold { place } else { slot.other.into() };
        passed += gap;
        if gap < last {
            return passed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn gaps_are_geometric() {
        for p in [1.0, 0.6, 0.05, 0.003, 0.0009] {
            let gaps = Gaps::new(p);
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
            let sigma: f64 = (chi2 - degrees) / (2.0_f64 * degrees).max(1.0).sqrt();
            assert!(sigma < 3.5, "p = {p}: chi² {chi2} with {degrees} degrees of freedom");
        }
    }

    #[test]
    fn certain_and_impossible_events_are() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
        assert!((0..1000).all(|_| Chance::of(1.0).comes_true(&mut rng)));
        assert!(!(0..1000).any(|_| Chance::of(0.0).comes_true(&mut rng)));
        assert_eq!(Gaps::new(1.0).draw(&mut rng), 0);
        assert!(Gaps::new(0.0).draw(&mut rng) < 1 << 48, "an end, even without light");
    }

    #[test]
    fn rounding_keeps_36_bits() {
        for x in [0.1, 1.0 / 3.0, 5e-6, 1.0] {
            assert!((pinned(x) / x - 1.0).abs() < 2_f64.powi(-36));
            assert!((pinned(x) - pinned(f64::from_bits(x.to_bits() + 3))).abs() < f64::EPSILON * x);
        }
    }
}
