//! The last passes of Cascade: parities of random halves of the key, which need no order.
//!
//! Few errors are left by then. The parity of a half, or of a region of it, is the parity of the
//! key where a mask is one, and a search in it goes by position.

use core::ops::Range;

use super::orders::{Orders, trim};
use super::search::{Ask, Place};

/// The positions of one half of the key within one region of it.
#[derive(Debug)]
struct Check {
    half: usize,
    region: (u32, u32),
    // Whether the ends differ in parity, once that is known.
    odd: bool,
    // Where an odd number of errors is being searched.
    search: Option<(u32, u32)>,
}

/// The halves asked for so far.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Check>);

impl Checks {
    /// Asks for the parities of `count` equal regions of some halves of a key of `bits` bits.
    pub(super) fn open(
        &mut self,
        (orders, bits): (&Orders, u32),
        halves: Range<usize>,
        count: u32,
        asks: &mut Vec<Ask>,
    ) {
        let bound = |i: u32| u32::try_from(u64::from(bits) * u64::from(i) / u64::from(count));
        for half in halves {
            for i in 0..count {
                let (Ok(start), Ok(end)) = (bound(i), bound(i + 1)) else { continue };
                // Of nothing the parity is known.
                let Some(region) = trim(orders.half(half), start, end) else { continue };
                let Ok(number) = u16::try_from(self.0.len()) else { continue };
                self.0.push(Check { half, region, odd: false, search: None });
                let (start, end) = region;
                asks.push(Ask { place: Place::Check(number), start, middle: end, end });
            }
        }
    }

    /// Returns which half a check is of.
    pub(super) fn half(&self, number: u16) -> usize {
        self.0[usize::from(number)].half
    }

    /// Notes the difference of a whole region.
    pub(super) fn note_region(&mut self, number: u16, differs: bool) {
        self.0[usize::from(number)].odd = differs;
    }

    /// Notes the difference of the first half of a search; returns the bit that is wrong.
    pub(super) fn note_half(
        &mut self,
        number: u16,
        ask: Ask,
        differs: bool,
        orders: &Orders,
    ) -> Option<u32> {
        let check = &mut self.0[usize::from(number)];
        let (start, end) = if differs { (ask.start, ask.middle) } else { (ask.middle, ask.end) };
        check.narrow(start, end, orders)
    }

    /// Tells whether the single bit at `position` is what the search of a check has come to.
    pub(super) fn is_wrong(&self, number: u16, position: u32) -> bool {
        self.0[usize::from(number)].search == Some((position, position + 1))
    }

    /// Takes in that the bit at `position` was corrected.
    pub(super) fn handle_corrected(&mut self, position: u32, orders: &Orders) {
        let has = |(start, end): (u32, u32)| (start..end).contains(&position);
        for check in &mut self.0 {
            let word = orders.half(check.half)[position as usize / 64];
            if word >> (position % 64) & 1 == 1 && has(check.region) {
                check.odd = !check.odd;
                check.search = check.search.filter(|&range| !has(range));
            }
        }
    }

    /// Starts to search the odd regions of the first half that has any: they share no position.
    /// Tells whether there was one; a region of a single bit goes to `found`.
    pub(super) fn start(&mut self, orders: &Orders, found: &mut Vec<(Place, u32)>) -> bool {
        let is_due = |check: &Check| check.odd && check.search.is_none();
        let Some(half) = self.0.iter().find(|check| is_due(check)).map(|check| check.half) else {
            return false;
        };
        for (number, check) in (0..).zip(&mut self.0) {
            if check.half == half && is_due(check) {
                let (start, end) = check.region;
                let single = check.narrow(start, end, orders);
                found.extend(single.map(|position| (Place::Check(number), position)));
            }
        }
        true
    }

    /// Asks for the first halves of all searches.
    pub(super) fn ask(&self, asks: &mut Vec<Ask>) {
        for (number, check) in (0..).zip(&self.0) {
            let Some((start, end)) = check.search.filter(|(start, end)| end - start > 1) else {
                continue;
            };
            let middle = start + (end - start) / 2;
            asks.push(Ask { place: Place::Check(number), start, middle, end });
        }
    }
}

impl Check {
    fn narrow(&mut self, start: u32, end: u32, orders: &Orders) -> Option<u32> {
        self.search = trim(orders.half(self.half), start, end);
        self.search.filter(|(start, end)| end - start == 1).map(|(start, _)| start)
    }
}
