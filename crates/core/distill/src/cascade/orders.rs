//! The public chance of Cascade: random orders of the key and random halves of it.

use std::sync::Arc;

use claviger_photonics::Cascade;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Orders and halves drawn from a public seed.
///
/// Drawing costs more than the correction of a block, so a session draws once. That is sound:
/// what is disclosed is counted whatever the orders are, and what they leave uncorrected the
/// verification finds. They must be random against the errors of a block, and who could place
/// errors to suit known orders could spoil blocks more simply. Each session draws anew.
#[derive(Debug)]
pub struct Orders {
    kind: Cascade,
    seed: [u8; 32],
    capacity: usize,
    chance: [u64; 256],
    // Invariant: each is a permutation of `0..capacity`.
    shuffles: Vec<Vec<u32>>,
    // Invariant: each has a bit for every position below `capacity`.
    halves: Vec<Vec<u64>>,
}

impl Orders {
    /// Draws what schedule `kind` needs for keys of `bits` bits.
    #[must_use]
    pub fn draw(kind: Cascade, bits: usize, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let capacity = capacity(kind, bits);
        let (n_shuffles, n_halves) = needs(kind);
        let identity: Vec<u32> = (0..u32::try_from(capacity).unwrap_or(u32::MAX)).collect();
        let shuffles = (0..n_shuffles).map(|_| {
            let mut order = identity.clone();
            order.shuffle(&mut rng);
            order
        });
        let shuffles = shuffles.collect();
        let half = |_| (0..capacity.div_ceil(64)).map(|_| rng.next_u64()).collect();
        let halves = (0..n_halves).map(half).collect();
        let chance = core::array::from_fn(|_| rng.next_u64());
        Self { kind, seed, capacity, chance, shuffles, halves }
    }

    /// Tells whether these are the orders that [`Self::draw`] would draw.
    #[must_use]
    pub fn fits(&self, kind: Cascade, bits: usize, seed: &[u8; 32]) -> bool {
        self.kind == kind && self.seed == *seed && self.capacity == capacity(kind, bits)
    }

    pub(super) const fn kind(&self) -> Cascade {
        self.kind
    }

    pub(super) const fn seed(&self) -> [u8; 32] {
        self.seed
    }

    /// Returns the bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.capacity * (4 * self.shuffles.len() + self.halves.len() / 8)
    }

    /// Returns shuffle `number` without the positions from `bits` on.
    pub(super) fn shuffle(&self, number: usize, bits: usize) -> impl Iterator<Item = u32> + '_ {
        self.shuffles[number].iter().copied().filter(move |&position| (position as usize) < bits)
    }

    /// Returns numbers drawn for orders that are calculated, not stored.
    pub(super) const fn chance(&self) -> &[u64] {
        &self.chance
    }

    pub(super) fn half(&self, number: usize) -> &[u64] {
        &self.halves[number]
    }
}

/// The orders of the blocks of a session, drawn when first needed.
#[derive(Debug, Default)]
pub(crate) struct SessionOrders {
    seed: Option<[u8; 32]>,
    last: Option<Arc<Orders>>,
}

impl SessionOrders {
    /// Returns the seed of the next block: that of the session, drawn for its first block, or a
    /// fresh one for the original schedule.
    pub(crate) fn seed(&mut self, kind: Cascade, rng: &mut impl Rng) -> [u8; 32] {
        let mut fresh = [0; 32];
        rng.fill_bytes(&mut fresh);
        if kind == Cascade::Original { fresh } else { *self.seed.get_or_insert(fresh) }
    }

    /// Tells whether the other end may use `seed` for its next block: drawing orders costs more than
    /// a block, so a session has one seed, but in the original schedule.
    pub(crate) fn takes(&mut self, kind: Cascade, seed: [u8; 32]) -> bool {
        kind == Cascade::Original || *self.seed.get_or_insert(seed) == seed
    }

    /// Returns the orders for keys of `bits` bits, those of the last block if they fit.
    pub(crate) fn of(&mut self, kind: Cascade, bits: usize, seed: [u8; 32]) -> Arc<Orders> {
        let last = self.last.take().filter(|last| last.fits(kind, bits, &seed));
        let orders = last.unwrap_or_else(|| Arc::new(Orders::draw(kind, bits, seed)));
        self.last = Some(Arc::clone(&orders));
        orders
    }
}

/// Blocks of about the same length share their orders: rounded up to one of 16 steps per octave.
/// The original schedule draws for each block.
fn capacity(kind: Cascade, bits: usize) -> usize {
    match kind {
        Cascade::Original => bits,
        _ => bits.next_multiple_of((bits.next_power_of_two() / 32).max(64)),
    }
}

/// How many shuffles and halves a schedule needs.
const fn needs(kind: Cascade) -> (usize, usize) {
    match kind {
        Cascade::Original => (3, 0),
        Cascade::Yan => (1, 8),
        Cascade::MartinezMateo => (2, 11),
        Cascade::Graded => (0, 13),
    }
}

/// Returns the parity of the bits of `words` from `start` to before `end`.
pub(super) fn parity(words: &[u64], start: usize, end: usize) -> bool {
    if start >= end {
        return false;
    }
    let (first, last) = (start / 64, (end - 1) / 64);
    let from = u64::MAX << (start % 64);
    let to = u64::MAX >> (63 - (end - 1) % 64);
    // Most ranges lie within a word.
    if first == last {
        return (words[first] & from & to).count_ones() % 2 == 1;
    }
    let between = words[first + 1..last].iter().fold(0, |sum, word| sum ^ word);
    (words[first] & from ^ between ^ words[last] & to).count_ones() % 2 == 1
}

/// Returns the parity of the bits of `words` from `start` to before `end` that lie in `half`.
pub(super) fn parity_within(words: &[u64], half: &[u64], start: usize, end: usize) -> bool {
    if start >= end {
        return false;
    }
    let (first, last) = (start / 64, (end - 1) / 64);
    let inside = words[first..=last].iter().zip(&half[first..=last]);
    let mut sum = inside.fold(0, |sum, (word, half)| sum ^ word & half);
    // Takes out what lies before the start and behind the end.
    sum ^= words[first] & half[first] & !(u64::MAX << (start % 64));
    sum ^= words[last] & half[last] & !(u64::MAX >> (63 - (end - 1) % 64));
    sum.count_ones() % 2 == 1
}

/// Returns what is left of a range without the positions at its ends that `half` does not have.
pub(super) fn trim(half: &[u64], start: u32, end: u32) -> Option<(u32, u32)> {
    let has = |at: u32| half[at as usize / 64] >> (at % 64) & 1 == 1;
    let first = (start..end).find(|&at| has(at))?;
    let last = (first..end).rev().find(|&at| has(at))?;
    Some((first, last + 1))
}
