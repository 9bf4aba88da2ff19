//! What Alice and Bob choose for each pulse, recomputable for any pulse at any time.

use core::fmt;

use aes::Aes256;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};

use crate::coding::Coding;
use crate::states::{Basis, Choice, State};

/// Alice's choices for every pulse, from a seed.
///
/// The choice for a pulse depends on the seed and on the pulse's index only (AES-256 of a counter
/// that the index names), so nothing is kept for pulses that never click.
///
/// ```
/// use claviger_photonics::{ChoiceGenerator, LinkPreset};
///
/// let coding = LinkPreset::named("lab")?.coding();
/// let mut alice = ChoiceGenerator::new(&[1; 32], &coding);
/// let mut fibre = ChoiceGenerator::new(&[1; 32], &coding);
/// let early = alice.choice(3);
/// assert_eq!(alice.choice(1_000_000_007), fibre.choice(1_000_000_007));
/// assert_eq!(fibre.choice(3), early);
/// # Ok::<(), claviger_photonics::preset::PresetError>(())
/// ```
pub struct ChoiceGenerator {
    stream: PulseStream,
    coding: Coding,
}

impl ChoiceGenerator {
    /// Makes the generator of `seed`, which is as secret as the key that will come of it.
    #[must_use]
    pub fn new(seed: &[u8; 32], coding: &Coding) -> Self {
        Self { stream: PulseStream::new(seed, Stream::Alice), coding: *coding }
    }

    /// Returns the choice for the pulse of that index.
    pub fn choice(&mut self, pulse: u64) -> Choice {
        let block = self.stream.block(pulse / self.pulses_per_block());
        self.read(&block, pulse)
    }

    /// Returns the choices for these pulses, faster than one by one.
    #[must_use]
    pub fn choices(&self, pulses: &[u64]) -> Vec<Choice> {
        in_pipeline(pulses, |pulses| self.choices_of(pulses))
    }

    /// The same for a fixed number of them.
    pub(crate) fn choices_of(&self, pulses: &[u64; PIPELINE]) -> [Choice; PIPELINE] {
        let blocks = self.stream.blocks(pulses.map(|pulse| pulse / self.pulses_per_block()));
        core::array::from_fn(|i| self.read(&blocks[i], pulses[i]))
    }

    fn pulses_per_block(&self) -> u64 {
        if self.coding.is_even() { 32 } else { 4 }
    }

    fn read(&self, block: &Block, pulse: u64) -> Choice {
        if self.coding.is_even() { even(block, pulse) } else { self.weighted(block, pulse) }
    }

    /// Four bytes a pulse: value and basis in two, the intensity in two.
    fn weighted(&self, block: &Block, pulse: u64) -> Choice {
        let [a, b, c, d] = entry(block, pulse);
        let (first, second) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let basis = if self.coding.chooses_key_basis(first) { Basis::Z } else { Basis::X };
        Choice {
            state: State { basis, value: first >> 15 == 1 },
            companion: false,
            intensity: self.coding.chosen_intensity(second),
        }
    }
}

/// Four bits a pulse, of which one is unused, so that none straddles two bytes.
fn even(block: &Block, pulse: u64) -> Choice {
    let [byte] = entry(block, pulse / 2);
    let bits = byte >> (pulse % 2 * 4);
    let state = State { basis: Basis::of_key_bit(bits & 1 != 0), value: bits & 2 != 0 };
    Choice { state, companion: bits & 4 != 0, intensity: 0 }
}

/// Bob's bases for every pulse, from a seed; see [`ChoiceGenerator`].
pub struct BasisGenerator {
    stream: PulseStream,
    coding: Coding,
}

impl BasisGenerator {
    /// Makes the generator of `seed`, which is as secret as the key that will come of it.
    #[must_use]
    pub fn new(seed: &[u8; 32], coding: &Coding) -> Self {
        Self { stream: PulseStream::new(seed, Stream::Bob), coding: *coding }
    }

    /// Returns the basis for the pulse of that index.
    pub fn basis(&mut self, pulse: u64) -> Basis {
        let block = self.stream.block(pulse / self.pulses_per_block());
        self.read(&block, pulse)
    }

    /// Returns the bases for these pulses, faster than one by one.
    #[must_use]
    pub fn bases(&self, pulses: &[u64]) -> Vec<Basis> {
        in_pipeline(pulses, |pulses| self.bases_of(pulses))
    }

    /// The same for a fixed number of them.
    pub(crate) fn bases_of(&self, pulses: &[u64; PIPELINE]) -> [Basis; PIPELINE] {
        let blocks = self.stream.blocks(pulses.map(|pulse| pulse / self.pulses_per_block()));
        core::array::from_fn(|i| self.read(&blocks[i], pulses[i]))
    }

    fn pulses_per_block(&self) -> u64 {
        if self.coding.is_even() { 128 } else { 8 }
    }

    /// A bit a pulse where the bases are even, else two bytes.
    fn read(&self, block: &Block, pulse: u64) -> Basis {
        if self.coding.is_even() {
            let [byte] = entry(block, pulse / 8);
            return Basis::of_key_bit(byte >> (pulse % 8) & 1 != 0);
        }
        let bits = u16::from_le_bytes(entry(block, pulse));
        if self.coding.chooses_key_basis(bits) { Basis::Z } else { Basis::X }
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

/// What the cipher yields at once.
type Block = [u8; 16];

/// The entry of `N` bytes of that index, in a block that holds it.
fn entry<const N: usize>(block: &Block, index: u64) -> [u8; N] {
    let (entries, _) = block.as_chunks::<N>();
    let within = index % entries.len() as u64;
    usize::try_from(within).map_or([0; N], |within| entries[within])
}

/// Random blocks that can be read at any index.
struct PulseStream {
    cipher: Aes256,
    stream: Stream,
    // The block that was read last, with its number.
    last: (u64, Block),
}

/// Blocks on their way through the cipher at once: each takes many cycles, but a new one can begin
/// in every cycle.
pub(crate) const PIPELINE: usize = 8;

/// Looks up any number of pulses, a pipeline of them at a time.
fn in_pipeline<T>(pulses: &[u64], look_up: impl Fn(&[u64; PIPELINE]) -> [T; PIPELINE]) -> Vec<T> {
    let (whole, rest) = pulses.as_chunks();
    let mut last = [0; PIPELINE];
    last[..rest.len()].copy_from_slice(rest);
    let mut all = Vec::with_capacity(pulses.len());
    all.extend(whole.iter().flat_map(&look_up));
    all.extend(look_up(&last).into_iter().take(rest.len()));
    all
}

impl PulseStream {
    fn new(seed: &[u8; 32], stream: Stream) -> Self {
        let cipher = Aes256::new(&Array::from(*seed));
        let mut new = Self { cipher, stream, last: (0, [0; 16]) };
        new.last.1 = new.encrypt(0);
        new
    }

    fn block(&mut self, number: u64) -> Block {
        if number != self.last.0 {
            self.last = (number, self.encrypt(number));
        }
        self.last.1
    }

    fn blocks(&self, numbers: [u64; PIPELINE]) -> [Block; PIPELINE] {
        let mut blocks = numbers.map(|number| self.counter(number));
        self.cipher.encrypt_blocks(&mut blocks);
        blocks.map(Into::into)
    }

    fn encrypt(&self, number: u64) -> Block {
        let mut block = self.counter(number);
        self.cipher.encrypt_block(&mut block);
        block.into()
    }

    fn counter(&self, number: u64) -> Array<u8, aes::cipher::consts::U16> {
        Array::from((u128::from(self.stream as u8) << 64 | u128::from(number)).to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::{Intensity, Protocol};
    use claviger_units::Fraction;
    use proptest::prelude::*;

    fn alice(seed: u8) -> ChoiceGenerator {
        ChoiceGenerator::new(&[seed; 32], &Coding::plain(Protocol::Sarg04, 1.0))
    }

    fn bob(seed: u8) -> BasisGenerator {
        BasisGenerator::new(&[seed; 32], &Coding::plain(Protocol::Sarg04, 1.0))
    }

    fn decoy() -> Coding {
        let intensities = [(0.5, 0.7), (0.1, 0.2), (0.0, 0.1)];
        let intensities = intensities
            .map(|(mean, share)| Intensity { mean, probability: Fraction::clamped(share) });
        Coding::decoy(&intensities, Fraction::clamped(0.9)).unwrap()
    }

    #[test]
    fn weighted_choices_are_as_weighted_and_independent() {
        let coding = decoy();
        let mut alice = ChoiceGenerator::new(&[5; 32], &coding);
        let mut bob = BasisGenerator::new(&[5; 32], &coding);
        let mut cells = [[[[0_u32; 2]; 2]; 2]; 3];
        for pulse in 0..200_000 {
            let (choice, basis) = (alice.choice(pulse), bob.basis(pulse));
            let [a, b] = [choice.state.basis, basis].map(|basis| usize::from(basis.key_bit()));
            cells[usize::from(choice.intensity)][a][b][usize::from(choice.state.value)] += 1;
        }
        let mut chi2 = 0.0;
        for (k, by_basis) in cells.iter().enumerate() {
            let share = coding.intensities()[k].probability.as_f64();
            for (a, by_bob) in by_basis.iter().enumerate() {
                for (b, by_value) in by_bob.iter().enumerate() {
                    let p = |x: usize| {
                        [coding.key_basis().as_f64(), 1.0 - coding.key_basis().as_f64()][x]
                    };
                    let expected = 100_000.0 * share * p(a) * p(b);
                    chi2 += by_value
                        .iter()
                        .map(|&n| (f64::from(n) - expected).powi(2) / expected)
                        .sum::<f64>();
                }
            }
        }
        assert!(chi2 < 49.8, "{chi2} has a chance below 1 in 1000 with 23 degrees of freedom");
    }

    #[test]
    fn choices_are_even_and_independent() {
        let (mut alice, mut bob) = (alice(5), bob(5));
        let mut cells = [0_u32; 16];
        for pulse in 0..160_000 {
            let choice = alice.choice(pulse);
            let bits = [
                choice.state.basis.key_bit(),
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
        let mut alice = alice(0);
        let mut bob = bob(0);
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
            "X01Z X11Z X01X X00X Z11Z Z11X X11X X01Z Z10X Z00X X01X X10Z Z11X X10Z Z01Z Z10X "
        );
    }

    proptest! {
        #[test]
        fn any_pulse_can_be_asked_again_in_any_order(pulses in prop::collection::vec(any::<u64>(), 1..40)) {
            let mut there = alice(9);
            let mut bob = bob(9);
            let first: Vec<_> = pulses.iter().map(|&p| (there.choice(p), bob.basis(p))).collect();
            let again: Vec<_> = pulses.iter().rev().map(|&p| (there.choice(p), bob.basis(p))).collect();
            prop_assert!(first.iter().eq(again.iter().rev()));
            let together = there.choices(&pulses).into_iter().zip(bob.bases(&pulses));
            prop_assert!(first.into_iter().eq(together));
            for &p in &pulses {
                let fresh = alice(9).choice(p);
                prop_assert_eq!(there.choice(p), fresh);
            }
        }
    }
}
