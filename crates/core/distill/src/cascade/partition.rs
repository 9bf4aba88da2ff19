//! One pass of Cascade: the key, or a part of it, in blocks, and what is known of them.

use claviger_gf2::BitString;

use super::grades::Grades;
use super::marks::Marks;
use super::search::{Ask, Place};

/// In which order a pass has the bits of the key.
#[derive(Debug)]
pub(super) enum Order {
    /// That of the key.
    Key,
    /// Another; positions that the pass leaves out have no index.
    Shuffled {
        /// The position at each index.
        positions: Vec<u32>,
        /// The index of each position.
        indices: Vec<u32>,
    },
    /// Sorted by what an earlier pass has told.
    Graded(Grades),
}

impl Order {
    /// Takes `positions` as the order of a key of `bits` bits.
    pub(super) fn of(positions: Vec<u32>, bits: usize) -> Self {
        let mut indices = vec![NOWHERE; bits];
        for (index, &position) in (0..).zip(&positions) {
            indices[position as usize] = index;
        }
        Self::Shuffled { positions, indices }
    }

    /// Returns the bits of a key in this order.
    pub(super) fn gather(&self, key: &BitString) -> BitString {
        match self {
            Self::Key => key.duplicate(),
            Self::Shuffled { positions, .. } => key.gather(positions),
            Self::Graded(grades) => {
                let words = key.words();
                let bit = |position: usize| words[position / 64] >> (position % 64) & 1 == 1;
                grades.positions().map(bit).collect()
            }
        }
    }

    fn position(&self, index: usize) -> usize {
        match self {
            Self::Graded(grades) => grades.position(index),
            Self::Key => index,
            Self::Shuffled { positions, .. } => positions[index] as usize,
        }
    }

    fn index(&self, position: usize) -> Option<usize> {
        match self {
            Self::Graded(grades) => grades.index(position),
            Self::Key => Some(position),
            Self::Shuffled { indices, .. } => Some(indices[position])
                .filter(|&index| index != NOWHERE)
                .map(|index| index as usize),
        }
    }
}

/// What becomes of the parities of parts once the error of a block is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// They serve later searches, which begin in the part and not in the block.
    Reused,
    /// They are forgotten, as in 1993; every block has this length.
    Forgotten(usize),
}

/// The blocks of a pass, and the parts that searches have cut them into.
#[derive(Debug)]
pub(super) struct Partition {
    number: u8,
    order: Order,
    parts: Parts,
    // Invariant: 0, the length, and wherever a part begins of which the difference is known are
    // cuts; odd are the beginnings of parts in which the ends differ in parity, unless the round
    // under way asks about them.
    marks: Marks,
    // Invariant: every odd part of more than one bit is here, maybe twice, and even ones may be.
    waiting: Vec<(u32, u32)>,
}

impl Partition {
    /// Makes pass `number` of `length` bits with blocks that begin at 0 and at `bounds`.
    pub(super) fn new(
        number: u8,
        order: Order,
        parts: Parts,
        length: usize,
        bounds: impl Iterator<Item = usize>,
    ) -> Self {
        let mut marks = Marks::new(length + 1);
        marks.cut(0);
        bounds.for_each(|bound| marks.cut(bound));
        marks.cut(length);
        Self { number, order, parts, marks, waiting: Vec::new() }
    }

    pub(super) const fn order(&self) -> &Order {
        &self.order
    }

    /// Returns the parts, one after the other.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut start = 0;
        core::iter::from_fn(move || {
            let end = self.marks.next_cut(start)?;
            Some((core::mem::replace(&mut start, end), end))
        })
    }

    pub(super) fn position(&self, index: usize) -> usize {
        self.order.position(index)
    }

    pub(super) fn index(&self, position: usize) -> Option<usize> {
        self.order.index(position)
    }

    /// Tells whether the single bit at `index` is known to be wrong.
    pub(super) fn is_wrong(&self, index: usize) -> bool {
        self.marks.is_odd(index) && self.marks.is_cut(index)
    }

    /// Notes the difference of a whole block; returns a block of a single wrong bit.
    pub(super) fn note_block(&mut self, start: u32, end: u32, differs: bool) -> Option<u32> {
        if differs { self.note_odd(start, end) } else { None }
    }

    /// Notes the difference of the first half of an odd part; returns a single wrong bit.
    pub(super) fn note_half(&mut self, ask: Ask, differs: bool) -> Option<u32> {
        self.marks.cut(ask.middle as usize);
        // Either answer is as likely: no branch to be guessed wrong.
        let start = if differs { ask.start } else { ask.middle };
        let end = if differs { ask.middle } else { ask.end };
        self.note_odd(start, end)
    }

    /// Takes in that the bit at `index` was corrected; returns a single bit that is wrong now.
    pub(super) fn handle_corrected(&mut self, index: usize) -> Option<u32> {
        let start = self.marks.last_cut(index);
        if self.marks.is_odd(start) {
            self.marks.set_even(start);
            return None;
        }
        let end = self.marks.next_cut(start)?;
        self.note_odd(u32::try_from(start).ok()?, u32::try_from(end).ok()?)
    }

    /// Forgets the parts of the block whose error at `index` was found, if parts are not reused.
    pub(super) fn forget_parts(&mut self, index: usize) {
        let Parts::Forgotten(length) = self.parts else { return };
        let start = index / length * length;
        while let Some(cut) = self.marks.next_cut(start).filter(|&cut| cut < start + length) {
            if self.marks.next_cut(cut).is_none() {
                return; // The end of the key.
            }
            self.marks.join(cut);
        }
    }

    /// Tells whether an odd part waits.
    pub(super) fn has_odd(&self) -> bool {
        self.waiting.iter().any(|&(start, _)| self.marks.is_odd(start as usize))
    }

    /// Asks for the first halves of all odd parts.
    pub(super) fn ask(&mut self, asks: &mut Vec<Ask>) {
        for (start, end) in self.waiting.drain(..) {
            if self.marks.is_odd(start as usize) {
                self.marks.set_even(start as usize);
                let middle = start + (end - start) / 2;
                asks.push(Ask { place: Place::Pass(self.number), start, middle, end });
            }
        }
    }

    /// Returns a single bit; puts a longer part among those that wait.
    fn note_odd(&mut self, start: u32, end: u32) -> Option<u32> {
        self.marks.set_odd(start as usize);
        if end - start == 1 {
            return Some(start);
        }
        self.waiting.push((start, end));
        None
    }
}

const NOWHERE: u32 = u32::MAX;
