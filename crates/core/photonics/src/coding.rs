//! How bits are put into light: protocol, intensities, and how often each basis is chosen.

use claviger_units::Fraction;

/// A protocol of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Two bases, announced; half of the clicks count.
    Bb84,
    /// The same four states, announced in pairs; a quarter of the clicks counts.
    Sarg04,
    /// BB84 with pulses of several intensities; the key comes of one basis, the other is disclosed
    /// and shows what an eavesdropper can have learnt.
    DecoyBb84,
}

impl Protocol {
    /// All protocols, in the order of the presets' documentation.
    pub const ALL: [Self; 3] = [Self::Bb84, Self::Sarg04, Self::DecoyBb84];

    /// Returns the name by which presets choose it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bb84 => "bb84",
            Self::Sarg04 => "sarg04",
            Self::DecoyBb84 => "decoy-bb84",
        }
    }
}

/// One intensity that Alice's source emits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intensity {
    /// Mean photon number of a pulse that leaves Alice.
    pub mean: f64,
    /// Share of the pulses that have it.
    pub probability: Fraction,
}

/// The most intensities that a source has: signal and two decoys.
pub const MOST_INTENSITIES: usize = 3;

/// What Alice and Bob choose from, and how often.
///
/// Probabilities are whole multiples of 2⁻¹⁵, because choices are compared as whole numbers: the
/// same at both ends and on every machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coding {
    protocol: Protocol,
    // Invariant: 1 to 3 intensities, the brightest first; the thresholds rise to 2¹⁵.
    intensities: [Intensity; MOST_INTENSITIES],
    n_intensities: usize,
    key_basis: u16,
}

/// The unit in which probabilities are counted.
const WHOLE: u16 = 1 << 15;

impl Coding {
    /// One intensity, both bases alike: BB84 or SARG04 as the era ran them.
    #[must_use]
    pub const fn plain(protocol: Protocol, mean: f64) -> Self {
        let only = Intensity { mean, probability: Fraction::ONE };
        Self { protocol, intensities: [only; 3], n_intensities: 1, key_basis: WHOLE / 2 }
    }

    /// Several intensities, brightest first, and a key basis that both ends choose with this
    /// probability. `None` unless there are 2 or 3, falling, each with its share, and the shares
    /// and the basis leave something for every case.
    #[must_use]
    pub fn decoy(intensities: &[Intensity], key_basis: Fraction) -> Option<Self> {
        let falling = intensities.windows(2).all(|pair| pair[0].mean > pair[1].mean);
        let fits = matches!(intensities.len(), 2 | MOST_INTENSITIES) && falling;
        let shares: Vec<u16> = intensities.iter().map(|i| counted(i.probability)).collect();
        let key_basis = counted(key_basis);
        let total: u32 = shares.iter().map(|&share| u32::from(share)).sum();
        let some = shares.iter().all(|&share| share > 0) && (1..WHOLE).contains(&key_basis);
        if !fits || !some || total.abs_diff(WHOLE.into()) > 3 {
            return None;
        }
        let mut rounded = [Intensity { mean: 0.0, probability: Fraction::ZERO }; 3];
        let rest: u16 = shares.iter().skip(1).sum();
        for (i, (slot, intensity)) in rounded.iter_mut().zip(intensities).enumerate() {
            // What rounding leaves goes to the signal.
            let share = if i == 0 { WHOLE - rest } else { shares[i] };
            *slot =
                Intensity { probability: Fraction::of(share.into(), WHOLE.into()), ..*intensity };
        }
        Some(Self {
            protocol: Protocol::DecoyBb84,
            intensities: rounded,
            n_intensities: intensities.len(),
            key_basis,
        })
    }

    /// Returns the protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns the intensities, the brightest first.
    #[must_use]
    pub fn intensities(&self) -> &[Intensity] {
        &self.intensities[..self.n_intensities]
    }

    /// Returns how often either end chooses the basis `Z`, the key basis of decoy-state BB84.
    #[must_use]
    pub fn key_basis(&self) -> Fraction {
        Fraction::of(self.key_basis.into(), WHOLE.into())
    }

    /// Tells whether every choice is a fair coin, so that few bits a pulse are enough.
    pub(crate) fn is_even(&self) -> bool {
        self.n_intensities == 1 && self.key_basis == WHOLE / 2
    }

    /// Tells whether 15 random bits choose the basis `Z`.
    pub(crate) const fn chooses_key_basis(&self, bits: u16) -> bool {
        bits & (WHOLE - 1) < self.key_basis
    }

    /// Returns the intensity that 15 random bits choose.
    pub(crate) fn chosen_intensity(&self, bits: u16) -> u8 {
        let bits = f64::from(bits & (WHOLE - 1)) / f64::from(WHOLE);
        let first = self.intensities[0].probability.as_f64();
        let second = first + self.intensities[1].probability.as_f64();
        match self.n_intensities {
            1 => 0,
            _ if bits < first => 0,
            2 => 1,
            _ => 1 + u8::from(bits >= second),
        }
    }
}

/// Rounds to the nearest multiple of 2⁻¹⁵.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a fraction of 2^15 is between 0 and 2^15"
)]
fn counted(share: Fraction) -> u16 {
    (share.as_f64() * f64::from(WHOLE)).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intensity(mean: f64, probability: f64) -> Intensity {
        Intensity { mean, probability: Fraction::clamped(probability) }
    }

    #[test]
    fn choices_come_as_often_as_the_shares_say() {
        let three = [intensity(0.5, 0.7), intensity(0.1, 0.2), intensity(0.0002, 0.1)];
        let coding = Coding::decoy(&three, Fraction::clamped(0.9)).unwrap();
        let mut counts = [0_u32; 3];
        let mut key = 0_u32;
        for bits in 0..WHOLE {
            counts[usize::from(coding.chosen_intensity(bits))] += 1;
            key += u32::from(coding.chooses_key_basis(bits));
        }
        for (n, intensity) in counts.iter().zip(coding.intensities()) {
            assert!((f64::from(*n) - 32768.0 * intensity.probability.as_f64()).abs() < 1e-9);
        }
        assert!((f64::from(key) - 32768.0 * coding.key_basis().as_f64()).abs() < 1e-9);
        assert_eq!(counts, [22_937, 6554, 3277]);
    }

    #[test]
    fn what_cannot_be_chosen_from_is_no_coding() {
        let (bright, dim) = (intensity(0.5, 0.7), intensity(0.1, 0.3));
        let half = Fraction::clamped(0.5);
        assert!(Coding::decoy(&[bright, dim], half).is_some());
        assert!(Coding::decoy(&[dim, bright], half).is_none(), "brightest first");
        assert!(Coding::decoy(&[bright], half).is_none(), "one intensity is no decoy");
        assert!(Coding::decoy(&[bright, intensity(0.1, 0.1)], half).is_none(), "shares add up");
        assert!(Coding::decoy(&[bright, dim], Fraction::ONE).is_none(), "both bases are needed");
        assert!(Coding::decoy(&[intensity(0.5, 1.0), intensity(0.1, 0.0)], half).is_none());
    }
}
