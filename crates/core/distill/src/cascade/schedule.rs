//! Which blocks a key is cut into, pass by pass.

use core::ops::Range;
use std::sync::Arc;

use claviger_photonics::Cascade;
use claviger_units::Fraction;

use super::grades::Grades;
use super::orders::Orders;
use super::partition::{Order, Partition, Parts};

/// What both ends derive from the closing message: passes, block lengths, orders.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Cascade,
    bits: usize,
    estimate: f64,
    orders: Arc<Orders>,
}

/// A step of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Blocks of one length, in the order of the key or in a random one.
    Blocks { shuffle: Option<usize>, length: usize },
    /// Blocks of bits that are about equally likely to be wrong.
    Graded,
    /// Random halves of the key, each in so many regions.
    Halves { halves: Range<usize>, regions: u32 },
}

impl Schedule {
    /// Derives the schedule of `bits` bits at an estimated error rate.
    ///
    /// # Panics
    /// Where the orders were drawn for another kind of schedule or for shorter keys.
    #[must_use]
    pub fn new(bits: usize, estimate: Fraction, orders: Arc<Orders>) -> Self {
        let kind = orders.kind();
        assert!(orders.fits(kind, bits, &orders.seed()), "orders for keys of this length");
        // Below one error in a million bits, and above one in four, no other schedule would help.
        Self { kind, bits, estimate: estimate.as_f64().clamp(1e-6, 0.25), orders }
    }

    /// Returns the bits of the key.
    #[must_use]
    pub const fn bits(&self) -> usize {
        self.bits
    }

    /// Returns the bytes that one end holds for a block under correction, the transcript apart.
    #[must_use]
    pub const fn bytes_per_block(kind: Cascade, bits: usize) -> usize {
        let shuffled = match kind {
            Cascade::Original => 3,
            Cascade::Yan => 1,
            Cascade::MartinezMateo => 2,
            Cascade::Graded => 0,
        };
        // Each shuffle as drawn, its order and inverse; of up to four passes the key and two sets of
        // marks; the asks of a round and where parts begin.
        shuffled * 12 * bits + 4 * (3 * bits / 8) + 2 * bits
    }

    /// Returns the random orders.
    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Tells whether searches begin in what earlier ones have left, and in all passes at once.
    pub(super) fn is_eager(&self) -> bool {
        self.kind != Cascade::Original
    }

    /// Returns the step of that number.
    pub(super) fn stage(&self, number: usize) -> Option<Stage> {
        let q = self.estimate;
        let blocks = |shuffle: usize, length: usize| Stage::Blocks {
            shuffle: shuffle.checked_sub(1),
            length: length.clamp(1, self.bits.max(1)),
        };
        let halves = |halves, regions| Stage::Halves { halves, regions };
        let stage = match (self.kind, number) {
            // Brassard and Salvail, 1993.
            (Cascade::Original, 0..4) => {
                let first = floor(0.73 / q).clamp(4, (self.bits / 2).max(4));
                blocks(number, first << number)
            }
            // Yan et al., 2008: 0.8 / QBER, five times that, then halves of the key.
            (Cascade::Yan, 0) => blocks(0, floor(0.8 / q).max(4)),
            (Cascade::Yan, 1) => blocks(1, 5 * floor(0.8 / q).max(4)),
            (Cascade::Yan, 2) => halves(0..8, 1),
            // Martinez-Mateo et al., 2015, variant 8, with α = log2(1/QBER) − 1/2: 2^⌈α⌉,
            // 2^⌈(α + 12)/2⌉, 4096, then halves of the key.
            (Cascade::MartinezMateo, 0) => blocks(0, power_above(HALF_SQRT2 / q)),
            (Cascade::MartinezMateo, 1) => blocks(1, power_above((HALF_SQRT2 / q).sqrt() * 64.0)),
            (Cascade::MartinezMateo, 2) => blocks(2, 4096),
            (Cascade::MartinezMateo, 3) => halves(0..11, 1),
            (Cascade::Graded, 0) => blocks(0, power_near(1.0 / q)),
            (Cascade::Graded, 1) => Stage::Graded,
            (Cascade::Graded, 2) => halves(0..1, 16),
            (Cascade::Graded, 3) => halves(1..13, 1),
            _ => return None,
        };
        Some(stage)
    }

    /// Makes pass `number` of blocks of one length.
    pub(super) fn partition(&self, number: u8, shuffle: Option<usize>, length: usize) -> Partition {
        let order = shuffle.map_or(Order::Key, |shuffle| {
            Order::of(self.orders.shuffle(shuffle, self.bits).collect(), self.bits)
        });
        let parts = if self.is_eager() { Parts::Reused } else { Parts::Forgotten(length) };
        let bounds = (0..self.bits).step_by(length).skip(1);
        Partition::new(number, order, parts, self.bits, bounds)
    }

    /// Makes pass `number` of bits sorted by how likely they are wrong, each sort in blocks whose
    /// length suits it: a question about half of a block is then as open as a question of one
    /// bit can be.
    pub(super) fn graded(&self, number: u8, first: &Partition) -> Partition {
        let grades = Grades::of(first, self.orders.chance());
        // Longer blocks cost fewer parities and more round trips, which at high error rates are few.
        let errors_per_block = if self.estimate < 0.04 { 1.4 } else { 2.0 };
        let mut bounds = Vec::new();
        for grade in grades.iter() {
            let block = power_near(errors_per_block / left_over(self.estimate, grade.part()));
            // The last block has up to half a block more, or half of it less.
            let last = grade.len().saturating_sub(block / 2);
            bounds.push(grade.first());
            bounds.extend((block..last.max(1)).step_by(block).map(|at| grade.first() + at));
        }
        let length = grades.len();
        let order = Order::Graded(grades);
        Partition::new(number, order, Parts::Reused, length, bounds.into_iter())
    }
}

/// Returns the error rate of bits of error rate `q` in parts of `length` bits that are even.
///
/// Multiplication alone, which gives the same on every machine.
fn left_over(q: f64, length: usize) -> f64 {
    let mut bias = 1.0; // (1 − 2q)^(length − 1)
    let (mut square, mut rest) = (1.0 - 2.0 * q, length.saturating_sub(1));
    while rest > 0 {
        if rest % 2 == 1 {
            bias *= square;
        }
        square *= square;
        rest /= 2;
    }
    q * (1.0 - bias) / (1.0 + bias * (1.0 - 2.0 * q))
}

/// Returns the power of two with the nearest logarithm.
fn power_near(x: f64) -> usize {
    power_above(HALF_SQRT2 * x)
}

/// Returns the smallest power of two that is not below `x`.
///
/// Halves of a power of two are equal down to the single bit, which makes every answer as open as
/// it can be; comparisons alone, which give the same on every machine.
fn power_above(x: f64) -> usize {
    let mut power = 1;
    while (power as f64) < x && power < 1 << 31 {
        power *= 2;
    }
    power
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the quotient is positive and the cast saturates"
)]
fn floor(x: f64) -> usize {
    x as usize
}

/// Returns how many blocks of `bits` bits one end may hold closed and not ended at once.
///
/// As many as hide a round trip of some milliseconds behind the work on the others, within the
/// memory of an end: 512 MB with the transcripts of honest blocks. A round of one block hides
/// behind those of the others, so more blocks than rounds have nothing left to hide.
#[must_use]
pub const fn blocks_in_flight(kind: Cascade, bits: usize) -> usize {
    // Clicks, announcements and masks of the sifting: some 16 bytes for a sifted bit.
    let per_block = Schedule::bytes_per_block(kind, bits) + 16 * bits;
    let fit = MEMORY / per_block.saturating_add(1);
    if fit < 4 {
        4
    } else if fit > ROUNDS {
        ROUNDS
    } else {
        fit
    }
}

/// Bytes that the blocks of one end may take.
const MEMORY: usize = 512_000_000;

/// Rounds of a block, about.
const ROUNDS: usize = 192;

const HALF_SQRT2: f64 = core::f64::consts::FRAC_1_SQRT_2;
