//! The order of the second pass of `graded`: bits sorted by how likely they are wrong.
//!
//! The first pass has left parts of the key that are even. In a long one two errors hide easily,
//! in a short one hardly, and a single bit is known. Parts of one length are the rows of a table
//! that is read column by column, the rows of each column in another order. Bits of one part are
//! thus far from each other, and blocks of neighbours in this order are about as good as random
//! ones; yet there is nothing to store but where the parts begin.

use super::partition::Partition;

/// The parts of one length.
#[derive(Debug)]
pub(super) struct Grade {
    /// The index of its first bit.
    first: usize,
    /// Bits of a part, a power of two.
    length: usize,
    // Invariant: rising, and no two parts overlap.
    starts: Vec<u32>,
    columns: Vec<Column>,
}

/// The order of the rows in one column: slot s has row `factor · s + shift`, modulo their number.
#[derive(Clone, Copy, Debug)]
struct Column {
    factor: u64,
    // The product with the factor is 1, modulo the number of rows.
    inverse: u64,
    shift: u64,
}

/// All bits that are not known, long parts first.
#[derive(Debug)]
pub(super) struct Grades {
    grades: Vec<Grade>,
    length: usize,
}

impl Grades {
    /// Sorts the parts that a first pass has left; `chance` sets the orders.
    pub(super) fn of(first: &Partition, chance: &[u64]) -> Self {
        let mut starts: [Vec<u32>; GRADES] = Default::default();
        for (start, end) in first.parts().filter(|(start, end)| end - start > 1) {
            // Only the last part of a key is no power of two; it counts as several.
            let mut at = start;
            while at < end {
                let grade = (end - at).ilog2();
                starts[grade as usize].push(u32::try_from(at).unwrap_or(u32::MAX));
                at += 1 << grade;
            }
        }
        let mut order = Self { grades: Vec::new(), length: 0 };
        for (grade, starts) in starts.into_iter().enumerate().rev() {
            if !starts.is_empty() {
                let grade = Grade::new(order.length, 1 << grade, starts, chance);
                order.length += grade.len();
                order.grades.push(grade);
            }
        }
        order
    }

    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Grade> {
        self.grades.iter()
    }

    /// Returns the positions in their order.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.grades.iter().flat_map(Grade::positions)
    }

    pub(super) fn position(&self, index: usize) -> usize {
        let grade = self.grades.iter().rev().find(|grade| grade.first <= index);
        grade.map_or(0, |grade| grade.position(index - grade.first))
    }

    pub(super) fn index(&self, position: usize) -> Option<usize> {
        self.grades.iter().find_map(|grade| grade.index(position))
    }
}

impl Grade {
    fn new(first: usize, length: usize, starts: Vec<u32>, chance: &[u64]) -> Self {
        let rows = starts.len() as u64;
        let draw = |i: usize| chance[i % chance.len()];
        let (factor, inverse) = unit(draw(length.ilog2() as usize), rows);
        let mut column = Column { factor, inverse, shift: 0 };
        let columns = (0..length).map(|i| {
            column.shift = draw(GRADES + length + i) % rows;
            let this = column;
            column.factor = column.factor * factor % rows;
            column.inverse = column.inverse * inverse % rows;
            this
        });
        Self { first, length, columns: columns.collect(), starts }
    }

    /// Returns the index of the first bit.
    pub(super) const fn first(&self) -> usize {
        self.first
    }

    /// Returns the bits of one part.
    pub(super) const fn part(&self) -> usize {
        self.length
    }

    /// Returns the bits of all parts.
    pub(super) const fn len(&self) -> usize {
        self.length * self.starts.len()
    }

    fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let rows = self.starts.len();
        self.columns.iter().enumerate().flat_map(move |(number, column)| {
            let (factor, mut row) = (to_index(column.factor), to_index(column.shift));
            self.starts.iter().map(move |_| {
                let position = self.starts[row] as usize + number;
                row += factor;
                if row >= rows {
                    row -= rows;
                }
                position
            })
        })
    }

    fn position(&self, index: usize) -> usize {
        let rows = self.starts.len();
        let (number, slot) = (index / rows, index % rows);
        let column = self.columns[number];
        let row = (column.factor * slot as u64 + column.shift) % rows as u64;
        self.starts[to_index(row)] as usize + number
    }

    fn index(&self, position: usize) -> Option<usize> {
        let row = self.row(position)?;
        let number = position - self.starts[row] as usize;
        let column = self.columns.get(number)?;
        let rows = self.starts.len() as u64;
        let slot = (row as u64 + rows - column.shift) * column.inverse % rows;
        Some(self.first + number * self.starts.len() + to_index(slot))
    }

    /// Returns the last part that begins up to `position`.
    ///
    /// Parts mostly lie about evenly, so that a guess is near; halving looks at memory all over, and
    /// is for errors in bursts.
    fn row(&self, position: usize) -> Option<usize> {
        let begins_up_to = |start: &u32| *start as usize <= position;
        let (last, span) = (self.starts.len() - 1, *self.starts.last()? as usize);
        let guess = (position * last / span.max(1)).min(last);
        let (from, to) = (guess.saturating_sub(NEAR), (guess + NEAR).min(last));
        let is_near =
            begins_up_to(&self.starts[from]) && (to == last || !begins_up_to(&self.starts[to]));
        if is_near {
            return Some(from + self.starts[from..=to].partition_point(begins_up_to) - 1);
        }
        self.starts.partition_point(begins_up_to).checked_sub(1)
    }
}

/// How many parts off a guess may be.
const NEAR: usize = 16;

/// Returns a number without common divisor with `rows`, and its inverse modulo `rows`.
fn unit(chance: u64, rows: u64) -> (u64, u64) {
    if rows < 3 {
        return (1 % rows, 1 % rows);
    }
    let from = 1 + chance % (rows - 1);
    (from..rows)
        .chain(1..from)
        .find_map(|factor| inverse(factor, rows).map(|inverse| (factor, inverse)))
        .unwrap_or((1, 1))
}

/// Returns the inverse of `factor` modulo `rows`, by Euclid's algorithm.
fn inverse(factor: u64, rows: u64) -> Option<u64> {
    let (mut old, mut rest) = (rows, factor);
    // Invariant: `old` is ± old_times · factor, modulo rows, `rest` is ∓ times · factor.
    let (mut old_times, mut times, mut is_negative) = (0, 1, true);
    while rest > 0 {
        let quotient = old / rest;
        (old, rest) = (rest, old - quotient * rest);
        (old_times, times) = (times, old_times + quotient * times);
        is_negative = !is_negative;
    }
    let inverse = if is_negative { rows - old_times } else { old_times };
    (old == 1).then_some(inverse % rows)
}

fn to_index(row: u64) -> usize {
    usize::try_from(row).unwrap_or(usize::MAX)
}

/// Lengths of parts: powers of two below 2³².
pub(super) const GRADES: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::partition::{Order, Parts};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn inverses_are_inverse(factor in 1_u64..5000, rows in 2_u64..5000) {
            let factor = factor % rows;
            match inverse(factor, rows) {
                Some(inverse) => prop_assert_eq!(factor * inverse % rows, 1 % rows),
                None => prop_assert!((2..=rows).any(|d| rows % d == 0 && factor % d == 0)),
            }
        }

        /// Every bit of a part of two or more has one index, and no other has any.
        #[test]
        fn orders_are_permutations(
            lengths in prop::collection::vec(1_usize..70, 1..60), chance: [u64; 16],
        ) {
            let mut at = 0;
            let bounds: Vec<usize> = lengths.iter().map(|length| { at += length; at }).collect();
            let first =
                Partition::new(0, Order::Key, Parts::Reused, at, bounds.iter().copied());
            let grades = Grades::of(&first, &chance);
            let positions: Vec<usize> = grades.positions().collect();
            prop_assert_eq!(positions.len(), grades.len());
            for (index, &position) in positions.iter().enumerate() {
                prop_assert_eq!(grades.position(index), position);
                prop_assert_eq!(grades.index(position), Some(index));
            }
            let unknown: usize = lengths.iter().filter(|&&length| length > 1).sum();
            prop_assert_eq!(unknown, grades.len());
        }
    }
}
