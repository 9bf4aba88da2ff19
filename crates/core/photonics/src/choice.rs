//! What Alice and Bob choose for each pulse, recomputable for any pulse at any time.

use core::fmt;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::sarg04::{Basis, Choice, State};

/// Alice's choices: state and companion of every pulse, from a seed.
///
/// The choice for a pulse depends on the seed and on the pulse's index only (`ChaCha8` at a place
/// that the index names), so nothing is kept for pulses that never click. Asking in rising order
/// is fastest: a refill serves 512 pulses.
///
/// ```
/// use claviger_photonics::ChoiceGenerator;
///
/// let (mut alice, mut fibre) = (ChoiceGenerator::from_seed(&[1; 32]), ChoiceGenerator::from_seed(&[1; 32]));
/// let early = alice.choice(3);
/// assert_eq!(alice.choice(1_000_000_007), fibre.choice(1_000_000_007));
/// assert_eq!(fibre.choice(3), early);
/// ```
pub struct ChoiceGenerator(PulseStream);

impl ChoiceGenerator {
    /// Makes the generator of `seed`, which is as secret as the key that will come of it.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(PulseStream::new(seed, Stream::Alice))
    }

    /// Returns the choice for the pulse of that index.
    pub fn choice(&mut self, pulse: u64) -> Choice {
        // Four bits a pulse, of which one is unused, so that none straddles two bytes.
        let bits = self.0.byte(pulse / 2) >> (pulse % 2 * 4);
        let state = State { basis: Basis::of_key_bit(bits & 1 != 0), value: bits & 2 != 0 };
        Choice { state, companion: bits & 4 != 0 }
    }
}

/// Bob's bases for every pulse, from a seed; see [`ChoiceGenerator`].
pub struct BasisGenerator(PulseStream);

impl BasisGenerator {
    /// Makes the generator of `seed`, which is as secret as the key that will come of it.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(PulseStream::new(seed, Stream::Bob))
    }

    /// Returns the basis for the pulse of that index.
    pub fn basis(&mut self, pulse: u64) -> Basis {
        Basis::of_key_bit(self.0.byte(pulse / 8) >> (pulse % 8) & 1 != 0)
    }
}

impl fmt::Debug for ChoiceGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChoiceGenerator(..)")
    }
}

impl fmt::Debug for BasisGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BasisGenerator(..)")
    }
}

/// Keeps the two sides independent should both get the same seed by mistake.
#[derive(Clone, Copy)]
enum Stream {
    Alice = 1,
    Bob = 2,
}

/// Random bytes that can be read at any index.
struct PulseStream {
    rng: ChaCha8Rng,
    // Invariant: `bytes` holds those of indices `chunk * CHUNK ..`.
    chunk: u64,
    bytes: [u8; CHUNK],
}

/// What one step of the generator yields: four `ChaCha` blocks.
const CHUNK: usize = 256;

impl PulseStream {
    fn new(seed: &[u8; 32], stream: Stream) -> Self {
        let mut rng = ChaCha8Rng::from_seed(*seed);
        rng.set_stream(stream as u64);
        let mut bytes = [0; CHUNK];
        rng.fill_bytes(&mut bytes);
        Self { rng, chunk: 0, bytes }
    }

    fn byte(&mut self, index: u64) -> u8 {
        let chunk = index / CHUNK as u64;
        if chunk != self.chunk {
            self.rng.set_word_pos(u128::from(chunk) * (CHUNK as u128 / 4));
            self.rng.fill_bytes(&mut self.bytes);
            self.chunk = chunk;
        }
        // The index within a chunk is the lowest byte of the index.
        let [within, ..] = index.to_le_bytes();
        self.bytes[usize::from(within)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn choices_are_even_and_independent() {
        let (mut alice, mut bob) =
            (ChoiceGenerator::from_seed(&[5; 32]), BasisGenerator::from_seed(&[5; 32]));
        let mut cells = [0_u32; 16];
        for pulse in 0..160_000 {
            let choice = alice.choice(pulse);
            let bits = [
                choice.key_bit(),
                choice.state.value,
                choice.companion,
                bob.basis(pulse).key_bit(),
            ];
            cells[bits.iter().fold(0, |n, &bit| n * 2 + usize::from(bit))] += 1;
        }
        let chi2: f64 = cells.iter().map(|&n| (f64::from(n) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 37.7, "{chi2} has a chance below 1 in 1000 with 15 degrees of freedom");
    }

    /// Pinned, because Alice and the fibre may be different builds on different machines.
    #[test]
    fn the_first_choices_of_a_seed_never_change() {
        let mut alice = ChoiceGenerator::from_seed(&[0; 32]);
        let mut bob = BasisGenerator::from_seed(&[0; 32]);
        let text: String = (0..16)
            .map(|pulse| (alice.choice(pulse), bob.basis(pulse)))
            .map(|(a, b)| {
                format!(
                    "{:?}{}{}{b:?} ",
                    a.state.basis,
                    u8::from(a.state.value),
                    u8::from(a.companion)
                )
            })
            .collect();
        assert_eq!(
            text,
            "X10Z Z10Z X11Z Z00Z X10Z Z01Z X10Z X10Z X00X X11Z X10X Z00X Z11X Z00Z Z10Z Z01X "
        );
    }

    proptest! {
        #[test]
        fn any_pulse_can_be_asked_again_in_any_order(pulses in prop::collection::vec(any::<u64>(), 1..20)) {
            let mut there = ChoiceGenerator::from_seed(&[9; 32]);
            let mut bob = BasisGenerator::from_seed(&[9; 32]);
            let first: Vec<_> = pulses.iter().map(|&p| (there.choice(p), bob.basis(p))).collect();
            let again: Vec<_> = pulses.iter().rev().map(|&p| (there.choice(p), bob.basis(p))).collect();
            prop_assert!(first.into_iter().eq(again.into_iter().rev()));
            for &p in &pulses {
                let fresh = ChoiceGenerator::from_seed(&[9; 32]).choice(p);
                prop_assert_eq!(there.choice(p), fresh);
            }
        }
    }
}
