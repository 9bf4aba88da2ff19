//! Cascade, the interactive reconciliation of the era: Bob corrects his bits to Alice's.
//!
//! Original schedule (Brassard and Salvail, 1993): four passes; the first in the order of the key
//! with blocks of `0.73 / QBER` bits, each further pass in a fresh random order with blocks twice
//! as long. A block of odd parity is halved until the error is found; each correction makes blocks
//! of earlier passes odd again, and they are searched in turn. All searches of a round are asked
//! in one message, so that a block costs round trips by depth, not by errors.

use claviger_gf2::BitString;
use claviger_units::Fraction;
use claviger_wire::classical::Range;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Passes of the original schedule.
pub const PASSES: u8 = 4;

/// The orders and block lengths that both ends derive from the closing message.
#[derive(Debug)]
pub struct Schedule {
    // Invariant: every order is a permutation of `0..bits`; the first is the identity, kept empty.
    orders: Vec<Vec<u32>>,
    first_length: usize,
    bits: usize,
}

impl Schedule {
    /// Derives the schedule of `bits` bits at an estimated error rate, from a public seed.
    #[must_use]
    pub fn original(bits: usize, estimate: Fraction, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        let identity: Vec<u32> = (0..u32::try_from(bits).unwrap_or(u32::MAX)).collect();
        let mut orders = vec![Vec::new()];
        for _ in 1..PASSES {
            let mut order = identity.clone();
            order.shuffle(&mut rng);
            orders.push(order);
        }
        Self { orders, first_length: first_length(bits, estimate), bits }
    }

    /// Returns how many blocks a pass has.
    #[must_use]
    pub fn n_blocks(&self, pass: u8) -> usize {
        self.bits.div_ceil(self.length(pass))
    }

    /// Returns the key position at `index` in the order of `pass`.
    fn position(&self, pass: u8, index: usize) -> usize {
        match self.orders[usize::from(pass)].as_slice() {
            [] => index,
            order => order[index] as usize,
        }
    }

    fn length(&self, pass: u8) -> usize {
        self.first_length << pass
    }

    fn block(&self, pass: u8, number: usize) -> Range {
        let length = self.length(pass);
        let start = number * length;
        range(pass, start, length.min(self.bits - start))
    }
}

/// Alice's half: she answers parities of her key and counts them.
#[derive(Debug)]
pub struct Answerer {
    schedule: Schedule,
    // Invariant: `sums[pass]` bit i is the parity of the first i bits in the order of the pass.
    sums: Vec<BitString>,
    leaked: u32,
}

impl Answerer {
    /// Prepares to answer for `key`.
    #[must_use]
    pub fn new(schedule: Schedule, key: &BitString) -> Self {
        let sums = (0..PASSES).map(|pass| prefix_parities(&schedule, pass, key)).collect();
        Self { schedule, sums, leaked: 0 }
    }

    /// Returns the parities of all blocks of a pass.
    #[must_use]
    pub fn parities(&mut self, pass: u8) -> BitString {
        let n = self.schedule.n_blocks(pass);
        let bits = (0..n).map(|i| self.parity(self.schedule.block(pass, i))).collect();
        self.leaked += count(n);
        bits
    }

    /// Returns the parities of the ranges, `None` if one lies outside the key.
    pub fn answer(&mut self, ranges: &[Range]) -> Option<BitString> {
        let inside = |r: &Range| {
            r.pass < PASSES && r.length > 0 && at(r.start) + at(r.length) <= self.schedule.bits
        };
        // Whoever asks for more parities than twice the bits is after the key, not the errors.
        let asked = self.leaked as usize + ranges.len();
        if !ranges.iter().all(inside) || asked > 2 * self.schedule.bits {
            return None;
        }
        self.leaked += count(ranges.len());
        Some(ranges.iter().map(|&r| self.parity(r)).collect())
    }

    /// Returns how many parities have been disclosed.
    #[must_use]
    pub const fn leaked(&self) -> u32 {
        self.leaked
    }

    fn parity(&self, r: Range) -> bool {
        let sums = &self.sums[usize::from(r.pass)];
        sums.bit(at(r.start)) ^ sums.bit(at(r.start) + at(r.length))
    }
}

/// What Bob does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// He asks for the parities of these ranges.
    Ask(Vec<Range>),
    /// He asks for the parities of this pass.
    NextPass(u8),
    /// All passes are even.
    Done,
}

/// Bob's half: he searches and corrects.
#[derive(Debug)]
pub struct Corrector {
    schedule: Schedule,
    key: BitString,
    // Invariant: `inverse[pass][position]` is the index of the position in the order of the pass.
    inverse: Vec<Vec<u32>>,
    // Invariant: `odd[pass][block]` tells whether Bob's parity differs from Alice's.
    odd: Vec<Vec<bool>>,
    // Ranges of odd parity under search, and the halves that were asked for.
    searches: Vec<Range>,
    pass: u8,
    corrected: u32,
    leaked: u32,
}

impl Corrector {
    /// Prepares to correct `key`.
    #[must_use]
    pub fn new(schedule: Schedule, key: BitString) -> Self {
        let inverse = schedule.orders.iter().map(|order| invert(order)).collect();
        Self {
            schedule,
            key,
            inverse,
            odd: Vec::new(),
            searches: Vec::new(),
            pass: 0,
            corrected: 0,
            leaked: 0,
        }
    }

    /// Takes Alice's parities of the pass that was asked for; `None` if their number is wrong.
    pub fn handle_parities(&mut self, pass: u8, parities: &BitString) -> Option<Step> {
        let n = self.schedule.n_blocks(pass);
        if at_u8(pass) != self.odd.len() || parities.len() != n || !self.searches.is_empty() {
            return None;
        }
        let odd = (0..n).map(|i| self.parity(self.schedule.block(pass, i)) != parities.bit(i));
        self.odd.push(odd.collect());
        self.pass = pass;
        self.leaked += count(n);
        self.next_step()
    }

    /// Takes Alice's answers to the ranges asked for last; `None` if their number is wrong.
    pub fn handle_answer(&mut self, answers: &BitString) -> Option<Step> {
        if answers.len() != self.searches.len() || self.searches.is_empty() {
            return None;
        }
        self.leaked += count(answers.len());
        for (i, search) in core::mem::take(&mut self.searches).into_iter().enumerate() {
            let (first, second) = halves(search);
            let differs = self.parity(first) != answers.bit(i);
            let found = if differs { first } else { second };
            if found.length > 1 {
                self.searches.push(found);
            } else {
                self.correct(self.schedule.position(found.pass, at(found.start)));
            }
        }
        self.next_step()
    }

    /// Returns how many answers are due.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.searches.len()
    }

    /// Returns how many blocks each pass has.
    #[must_use]
    pub fn n_blocks(&self) -> [usize; PASSES as usize] {
        [0, 1, 2, 3].map(|pass| self.schedule.n_blocks(pass))
    }

    /// Returns how many bits were flipped.
    #[must_use]
    pub const fn corrected(&self) -> u32 {
        self.corrected
    }

    /// Returns how many parities have been disclosed.
    #[must_use]
    pub const fn leaked(&self) -> u32 {
        self.leaked
    }

    /// Ends with the corrected key.
    #[must_use]
    pub fn into_key(self) -> BitString {
        self.key
    }

    /// Goes on with the searches under way; starts new ones only where none is, the smallest
    /// blocks first, because two searches that meet the same error would undo each other.
    fn next_step(&mut self) -> Option<Step> {
        self.searches.retain(|search| search.length > 1);
        if self.searches.is_empty() {
            self.start_searches();
        }
        // Parities that contradict each other would let the search go on for ever.
        if self.is_hopeless() || self.leaked as usize > 2 * self.schedule.bits.max(PASSES.into()) {
            return None;
        }
        if !self.searches.is_empty() {
            let asked = self.searches.iter().map(|&search| halves(search).0);
            return Some(Step::Ask(asked.collect()));
        }
        Some(if self.pass + 1 < PASSES { Step::NextPass(self.pass + 1) } else { Step::Done })
    }

    /// Puts every odd block of the earliest pass that has any under search. Blocks of one pass
    /// share no bit, so that their searches cannot disturb each other. Single bits are corrected
    /// at once.
    fn start_searches(&mut self) {
        while !self.is_hopeless() {
            let Some(pass) = self.odd.iter().position(|blocks| blocks.contains(&true)) else {
                return;
            };
            let pass = u8::try_from(pass).unwrap_or(PASSES);
            let n = self.schedule.n_blocks(pass);
            let odd = (0..n).filter(|&i| self.odd[usize::from(pass)][i]);
            let (single, longer): (Vec<_>, Vec<_>) =
                odd.map(|i| self.schedule.block(pass, i)).partition(|block| block.length == 1);
            self.searches = longer;
            for block in &single {
                self.correct(self.schedule.position(pass, at(block.start)));
            }
            if !self.searches.is_empty() || single.is_empty() {
                return;
            }
        }
    }

    /// More corrections than bits: the other end does not tell the parities of one key.
    fn is_hopeless(&self) -> bool {
        self.corrected as usize > self.schedule.bits
    }

    fn correct(&mut self, position: usize) {
        self.key.flip(position);
        self.corrected += 1;
        for (pass, odd) in self.odd.iter_mut().enumerate() {
            let index = match self.inverse[pass].as_slice() {
                [] => position,
                inverse => inverse[position] as usize,
            };
            let block = index / (self.schedule.first_length << pass);
            odd[block] = !odd[block];
        }
    }

    fn parity(&self, r: Range) -> bool {
        let indices = at(r.start)..at(r.start) + at(r.length);
        indices.fold(false, |sum, i| sum ^ self.key.bit(self.schedule.position(r.pass, i)))
    }
}

/// `0.73 / QBER`, at least 4 bits and at most half of the key.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the quotient is positive and the cast saturates"
)]
fn first_length(bits: usize, estimate: Fraction) -> usize {
    let ideal = (0.73 / estimate.as_f64().max(1e-6)) as usize;
    ideal.clamp(4, (bits / 2).max(4))
}

fn prefix_parities(schedule: &Schedule, pass: u8, key: &BitString) -> BitString {
    let mut sum = false;
    let mut sums = BitString::with_len(schedule.bits + 1);
    for i in 0..schedule.bits {
        sum ^= key.bit(schedule.position(pass, i));
        sums.set(i + 1, sum);
    }
    sums
}

fn invert(order: &[u32]) -> Vec<u32> {
    let mut inverse = vec![0; order.len()];
    for (index, &position) in (0_u32..).zip(order) {
        inverse[position as usize] = index;
    }
    inverse
}

fn halves(r: Range) -> (Range, Range) {
    let half = r.length / 2;
    let first = Range { length: half, ..r };
    (first, Range { start: r.start + half, length: r.length - half, ..r })
}

fn range(pass: u8, start: usize, length: usize) -> Range {
    Range { pass, start: count(start), length: count(length) }
}

fn at(index: u32) -> usize {
    index as usize
}

fn at_u8(pass: u8) -> usize {
    usize::from(pass)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, rngs::StdRng};

    /// Runs both halves against each other; returns Alice's key, Bob's, and the parities.
    fn reconcile(bits: usize, qber: f64, seed: u64) -> (BitString, BitString, u32) {
        let mut rng = StdRng::seed_from_u64(seed);
        let alice: BitString = (0..bits).map(|_| rng.random::<bool>()).collect();
        let bob: BitString = (0..bits).map(|i| alice.bit(i) ^ rng.random_bool(qber)).collect();
        let schedule = || Schedule::original(bits, Fraction::clamped(qber), [7; 32]);
        let mut answerer = Answerer::new(schedule(), &alice);
        let mut corrector = Corrector::new(schedule(), bob);
        let mut step = corrector.handle_parities(0, &answerer.parities(0)).unwrap();
        loop {
            step = match step {
                Step::Ask(ranges) => {
                    corrector.handle_answer(&answerer.answer(&ranges).unwrap()).unwrap()
                }
                Step::NextPass(pass) => {
                    corrector.handle_parities(pass, &answerer.parities(pass)).unwrap()
                }
                Step::Done => break,
            };
        }
        assert_eq!(answerer.leaked(), corrector.leaked(), "both ends count alike");
        (alice, corrector.into_key(), answerer.leaked())
    }

    /// BASELINES.md, cascade-cpp: f = 1.157 for the original schedule at 2 % and 10⁵ bits.
    #[test]
    fn efficiency_is_that_of_the_original_schedule() {
        let (alice, bob, leaked) = reconcile(100_000, 0.02, 1);
        let wrong = (0..alice.len()).filter(|&i| alice.bit(i) != bob.bit(i)).count();
        assert!(wrong <= 4, "{wrong} residual errors");
        let h = -(0.02_f64 * 0.02_f64.log2() + 0.98 * 0.98_f64.log2());
        let f = f64::from(leaked) / (100_000.0 * h);
        assert!((1.10..1.20).contains(&f), "f = {f}");
    }

    #[test]
    fn ranges_outside_the_key_are_refused() {
        let schedule = Schedule::original(100, Fraction::clamped(0.02), [0; 32]);
        let mut answerer = Answerer::new(schedule, &BitString::with_len(100));
        for r in [range(0, 99, 2), range(0, 0, 0), range(4, 0, 1), range(0, usize::MAX, 1)] {
            assert!(answerer.answer(&[r]).is_none());
        }
        assert_eq!(answerer.leaked(), 0);
    }

    /// Answers of a liar: random bits.
    #[test]
    fn a_lying_answerer_is_given_up() {
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let bits = 1 + rng.random_range(0..300);
            let schedule = Schedule::original(bits, Fraction::clamped(0.1), [3; 32]);
            let mut corrector = Corrector::new(schedule, BitString::with_len(bits));
            let mut lie = |n: usize| (0..n).map(|_| rng.random::<bool>()).collect::<BitString>();
            let mut step = corrector.handle_parities(0, &lie(corrector.n_blocks()[0]));
            let mut rounds = 0;
            while let Some(now) = step.filter(|step| *step != Step::Done) {
                rounds += 1;
                assert!(rounds < 10_000, "the search must end");
                step = match now {
                    Step::Ask(ranges) => corrector.handle_answer(&lie(ranges.len())),
                    Step::NextPass(pass) => {
                        let n = corrector.n_blocks()[usize::from(pass)];
                        corrector.handle_parities(pass, &lie(n))
                    }
                    Step::Done => None,
                };
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn small_blocks_end(bits in 1_usize..400, qber in 0.0..0.5_f64, seed: u64) {
            let (_, bob, leaked) = reconcile(bits, qber, seed);
            prop_assert_eq!(bob.len(), bits);
            prop_assert!(leaked > 0);
        }
    }
}
