//! One pass of Cascade: the key, or a part of it, in blocks, and what is known of them.

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

    fn position(&self, index: usize) -> usize {
        match self {
            Self::Key => index,
            Self::Shuffled { positions, .. } => positions[index] as usize,
        }
    }

    fn index(&self, position: usize) -> Option<usize> {
        match self {
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
    // Invariant: has 0 and the length, and where a part begins of which the difference is known.
    cuts: Marks,
    // Invariant: has the beginnings of those parts in which the ends differ in parity.
    odd: Marks,
    // Invariant: has the beginnings of the parts in `waiting` and in the round under way.
    listed: Marks,
    // Invariant: every odd part of more than one bit is here or in the round under way.
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
        let mut cuts = Marks::new(length + 1);
        cuts.insert(0);
        bounds.for_each(|bound| cuts.insert(bound));
        cuts.insert(length);
        let (odd, listed) = (Marks::new(length + 1), Marks::new(length + 1));
        Self { number, order, parts, cuts, odd, listed, waiting: Vec::new() }
    }

    /// Returns the parts in their order.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut start = 0;
        core::iter::from_fn(move || {
            let end = self.cuts.first_above(start)?;
            Some((core::mem::replace(&mut start, end), end))
        })
    }

    /// Returns the positions where they are not those of the key.
    pub(super) fn positions(&self) -> Option<&[u32]> {
        match &self.order {
            Order::Key => None,
            Order::Shuffled { positions, .. } => Some(positions),
        }
    }

    pub(super) fn position(&self, index: usize) -> usize {
        self.order.position(index)
    }

    pub(super) fn index(&self, position: usize) -> Option<usize> {
        self.order.index(position)
    }

    /// Tells whether the single bit at `index` is known to be wrong.
    pub(super) fn is_wrong(&self, index: usize) -> bool {
        self.odd.has(index) && self.cuts.has(index)
    }

    /// Notes the difference of a whole block; returns a block of a single wrong bit.
    pub(super) fn note_block(&mut self, start: u32, end: u32, differs: bool) -> Option<u32> {
        if !differs {
            return None;
        }
        self.odd.insert(start as usize);
        self.list(start, end)
    }

    /// Notes the difference of the first half of an odd part; returns a single wrong bit.
    pub(super) fn note_half(&mut self, ask: Ask, differs: bool) -> Option<u32> {
        self.listed.remove(ask.start as usize);
        self.cuts.insert(ask.middle as usize);
        // Either answer is as likely: no branch to be guessed wrong.
        self.odd.toggle_if(!differs, ask.start as usize);
        self.odd.toggle_if(!differs, ask.middle as usize);
        let start = if differs { ask.start } else { ask.middle };
        let end = if differs { ask.middle } else { ask.end };
        self.list(start, end)
    }

    /// Takes in that the bit at `index` was corrected; returns a single bit that is wrong now.
    pub(super) fn handle_corrected(&mut self, index: usize) -> Option<u32> {
        let start = self.cuts.last_up_to(index);
        if !self.odd.toggle(start) || self.listed.has(start) {
            return None;
        }
        let end = self.cuts.first_above(start)?;
        self.list(u32::try_from(start).ok()?, u32::try_from(end).ok()?)
    }

    /// Forgets the parts of the block whose error at `index` was found, if parts are not reused.
    pub(super) fn forget_parts(&mut self, index: usize) {
        let Parts::Forgotten(length) = self.parts else { return };
        let start = index / length * length;
        while let Some(cut) = self.cuts.first_above(start).filter(|&cut| cut < start + length) {
            if self.cuts.first_above(cut).is_none() {
                return; // The end of the key.
            }
            self.cuts.remove(cut);
        }
    }

    /// Tells whether an odd part waits.
    pub(super) fn has_odd(&mut self) -> bool {
        let (odd, listed) = (&self.odd, &mut self.listed);
        self.waiting.retain(|&(start, _)| {
            let keep = odd.has(start as usize);
            if !keep {
                listed.remove(start as usize);
            }
            keep
        });
        !self.waiting.is_empty()
    }

    /// Asks for the first halves of all odd parts.
    pub(super) fn ask(&mut self, asks: &mut Vec<Ask>) {
        for (start, end) in self.waiting.drain(..) {
            if self.odd.has(start as usize) {
                let middle = start + (end - start) / 2;
                asks.push(Ask { place: Place::Pass(self.number), start, middle, end });
            } else {
                self.listed.remove(start as usize);
            }
        }
    }

    fn list(&mut self, start: u32, end: u32) -> Option<u32> {
        if end - start == 1 {
            return Some(start);
        }
        self.listed.insert(start as usize);
        self.waiting.push((start, end));
        None
    }
}

const NOWHERE: u32 = u32::MAX;
