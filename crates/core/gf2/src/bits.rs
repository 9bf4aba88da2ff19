//! Strings of bits in 64-bit words.

use core::fmt;
use core::ops::Range;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A string of secret bits.
///
/// Bit i is bit i mod 64 (counted from the least significant) of word i / 64, and bit i mod 8 of
/// byte i / 8. Not `Clone`, not `PartialEq`; `Debug` prints the length only; the words are wiped on
/// drop and when the string grows.
///
/// ```
/// use claviger_gf2::BitString;
///
/// let mut bits: BitString = [true, false, true, true].into_iter().collect();
/// bits.flip(1);
/// assert_eq!(*bits.to_bytes(), [0b1111]);
/// assert!(!bits.parity(0..4) && bits.parity(1..4));
/// assert_eq!(format!("{bits:?}"), "BitString(.. 4 bits)");
/// ```
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub struct BitString {
    // Invariant: exactly `len.div_ceil(64)` words, and every bit from `len` on is zero.
    words: Vec<u64>,
    len: usize,
}

impl BitString {
    /// Makes an empty string.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Vec::new(), len: 0 }
    }

    /// Makes an empty string with room for `bits` bits.
    #[must_use]
    pub fn with_capacity(bits: usize) -> Self {
        Self { words: Vec::with_capacity(bits.div_ceil(64)), len: 0 }
    }

    /// Makes a string of `len` zeros.
    #[must_use]
    pub fn with_len(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// Reads `len` bits from exactly `len.div_ceil(8)` bytes.
    ///
    /// `None` for another number of bytes, and where a bit beyond the last is not zero: every
    /// string has one encoding.
    #[must_use]
    pub fn from_bytes(bytes: &[u8], len: usize) -> Option<Self> {
        if bytes.len() != len.div_ceil(8) {
            return None;
        }
        let mut words = Vec::with_capacity(len.div_ceil(64));
        words.extend(
            bytes
                .chunks(8)
                .map(|chunk| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))),
        );
        let string = Self { words, len };
        (string.words.last().copied().unwrap_or(0) & !string.last_mask() == 0).then_some(string)
    }

    /// Takes over words, of which the first `len` bits count.
    pub(crate) fn from_words(words: Vec<u64>, len: usize) -> Self {
        let mut string = Self { words, len };
        string.words.truncate(len.div_ceil(64));
        string.clear_excess();
        string
    }

    /// Returns the bits as bytes; what is beyond the last bit is zero.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.words.len() * 8);
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.truncate(self.len.div_ceil(8));
        Zeroizing::new(bytes)
    }

    /// Returns the number of bits.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there are no bits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the words; bits beyond the last are zero.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Returns bit `index`.
    ///
    /// # Panics
    /// Beyond the last bit.
    #[must_use]
    pub fn bit(&self, index: usize) -> bool {
        self.check(index);
        self.words[index / 64] >> (index % 64) & 1 == 1
    }

    /// Sets bit `index` to `value`.
    ///
    /// # Panics
    /// Beyond the last bit.
    pub fn set(&mut self, index: usize, value: bool) {
        self.check(index);
        let word = &mut self.words[index / 64];
        *word = *word & !(1 << (index % 64)) | u64::from(value) << (index % 64);
    }

    /// Inverts bit `index`.
    ///
    /// # Panics
    /// Beyond the last bit.
    pub fn flip(&mut self, index: usize) {
        self.check(index);
        self.words[index / 64] ^= 1 << (index % 64);
    }

    /// Appends one bit.
    pub fn push(&mut self, value: bool) {
        let shift = self.len % 64;
        match self.words.last_mut().filter(|_| shift != 0) {
            Some(last) => *last |= u64::from(value) << shift,
            None => {
                self.make_room(1);
                self.words.push(u64::from(value));
            }
        }
        self.len += 1;
    }

    /// Appends all bits of `other`.
    pub fn append(&mut self, other: &Self) {
        let shift = self.len % 64;
        self.make_room(other.words.len());
        if shift == 0 {
            self.words.extend_from_slice(&other.words);
        } else {
            for &word in &other.words {
                if let Some(last) = self.words.last_mut() {
                    *last |= word << shift;
                }
                self.words.push(word >> (64 - shift));
            }
        }
        self.len += other.len;
        self.words.truncate(self.len.div_ceil(64));
    }

    /// Copies the bits of `range` into a string of their own.
    ///
    /// # Panics
    /// Where the range ends beyond the last bit or before its start.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        self.check_range(&range);
        let (first, shift, len) = (range.start / 64, range.start % 64, range.len());
        let mut words = Vec::with_capacity(len.div_ceil(64));
        words.extend((first..first + len.div_ceil(64)).map(|i| {
            let above = self.words.get(i + 1).copied().unwrap_or(0);
            // Two shifts, because one by 64 would be none.
            self.words[i] >> shift | above << 1 << (63 - shift)
        }));
        Self::from_words(words, len)
    }

    /// Copies the bits at `positions`, in that order: a permutation, or a choice.
    ///
    /// # Panics
    /// Where a position lies beyond the last bit.
    #[must_use]
    pub fn gather(&self, positions: &[u32]) -> Self {
        let mut words = Vec::with_capacity(positions.len().div_ceil(64));
        words.extend(positions.chunks(64).map(|chunk| {
            let bit = |&position: &u32| u64::from(self.bit(position as usize));
            chunk.iter().rev().fold(0, |word, position| word << 1 | bit(position))
        }));
        Self { words, len: positions.len() }
    }

    /// Adds `other` bit by bit.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn xor(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "bit strings of one length");
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine ^= theirs;
        }
    }

    /// Returns the parity of the bits of `range`: true for an odd number of ones.
    ///
    /// # Panics
    /// Where the range ends beyond the last bit or before its start.
    #[must_use]
    pub fn parity(&self, range: Range<usize>) -> bool {
        self.check_range(&range);
        if range.is_empty() {
            return false;
        }
        let (first, last) = (range.start / 64, (range.end - 1) / 64);
        let from = u64::MAX << (range.start % 64);
        let to = u64::MAX >> (63 - (range.end - 1) % 64);
        let sum = if first == last {
            self.words[first] & from & to
        } else {
            let between = self.words[first + 1..last].iter().fold(0, |sum, word| sum ^ word);
            self.words[first] & from ^ between ^ self.words[last] & to
        };
        sum.count_ones() % 2 == 1
    }

    /// Returns the parity of the bits where `mask` is one.
    ///
    /// # Panics
    /// Where the lengths differ.
    #[must_use]
    pub fn parity_masked(&self, mask: &Self) -> bool {
        assert_eq!(self.len, mask.len, "bit strings of one length");
        let sum = self.words.iter().zip(&mask.words).fold(0, |sum, (word, mask)| sum ^ word & mask);
        sum.count_ones() % 2 == 1
    }

    /// Returns the number of ones.
    #[must_use]
    pub fn count_ones(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns the bits one after the other.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.len).map(|index| self.words[index / 64] >> (index % 64) & 1 == 1)
    }

    /// Compares without telling by time where the first difference lies.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        let pairs = self.words.iter().zip(&other.words);
        let difference = pairs.fold(0, |sum, (mine, theirs)| sum | (mine ^ theirs));
        self.len == other.len && core::hint::black_box(difference) == 0
    }

    /// Makes a second holder of the same bits, on purpose and by name.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { words: self.words.clone(), len: self.len }
    }

    /// Makes room for `more` words without leaving a copy of the old ones behind.
    fn make_room(&mut self, more: usize) {
        let needed = self.words.len() + more;
        if needed > self.words.capacity() {
            let mut grown = Vec::with_capacity(needed.max(self.words.len() * 2));
            grown.extend_from_slice(&self.words);
            core::mem::replace(&mut self.words, grown).zeroize();
        }
    }

    /// The bits of the last word that belong to the string.
    const fn last_mask(&self) -> u64 {
        match self.len % 64 {
            0 => u64::MAX,
            used => (1 << used) - 1,
        }
    }

    fn clear_excess(&mut self) {
        let mask = self.last_mask();
        if let Some(last) = self.words.last_mut() {
            *last &= mask;
        }
    }

    fn check(&self, index: usize) {
        assert!(index < self.len, "bit {index} of a string of {} bits", self.len);
    }

    fn check_range(&self, range: &Range<usize>) {
        let fits = range.start <= range.end && range.end <= self.len;
        assert!(fits, "bits {range:?} of a string of {} bits", self.len);
    }
}

impl FromIterator<bool> for BitString {
    fn from_iter<I: IntoIterator<Item = bool>>(bits: I) -> Self {
        let bits = bits.into_iter();
        let mut string = Self::with_capacity(bits.size_hint().0);
        let mut word = 0;
        bits.for_each(|bit| {
            word |= u64::from(bit) << (string.len % 64);
            string.len += 1;
            if string.len.is_multiple_of(64) {
                string.make_room(1);
                string.words.push(core::mem::take(&mut word));
            }
        });
        if !string.len.is_multiple_of(64) {
            string.make_room(1);
            string.words.push(word);
        }
        string
    }
}

impl fmt::Debug for BitString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BitString(.. {} bits)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn string(bits: &[bool]) -> BitString {
        bits.iter().copied().collect()
    }

    fn bools(string: &BitString) -> Vec<bool> {
        string.iter().collect()
    }

    #[test]
    fn bytes_are_refused_unless_they_are_the_one_encoding() {
        assert!(BitString::from_bytes(&[0b111], 3).is_some());
        assert!(BitString::from_bytes(&[0b1111], 3).is_none(), "a bit beyond the last");
        assert!(BitString::from_bytes(&[1, 0], 3).is_none(), "a byte too many");
        assert!(BitString::from_bytes(&[], 3).is_none(), "a byte too few");
        assert!(BitString::from_bytes(&[], 0).is_some_and(|s| s.is_empty()));
    }

    #[test]
    fn bit_i_is_bit_i_mod_8_of_byte_i_div_8() {
        let mut bits = BitString::with_len(70);
        bits.set(9, true);
        bits.set(69, true);
        assert_eq!(*bits.to_bytes(), [0, 2, 0, 0, 0, 0, 0, 0, 32]);
        assert_eq!(bits.words(), [1 << 9, 1 << 5]);
    }

    #[test]
    #[should_panic(expected = "bit 3 of a string of 3 bits")]
    fn a_bit_beyond_the_last_panics() {
        let _ = BitString::with_len(3).bit(3);
    }

    proptest! {
        #[test]
        fn every_operation_is_what_it_is_on_a_list(
            bits in vec(any::<bool>(), 0..300),
            more in vec(any::<bool>(), 0..300),
            cut: (prop::sample::Index, prop::sample::Index),
            picks in vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let mut s = string(&bits);
            prop_assert_eq!(bools(&s), bits.clone());
            prop_assert_eq!(s.count_ones(), bits.iter().filter(|b| **b).count());
            let again = BitString::from_bytes(&s.to_bytes(), s.len()).unwrap();
            prop_assert!(again.ct_eq(&s) && s.duplicate().ct_eq(&s));

            let (i, j) = (cut.0.index(bits.len() + 1), cut.1.index(bits.len() + 1));
            let (i, j) = (i.min(j), i.max(j));
            let odd = |bits: &[bool]| bits.iter().fold(false, |sum, b| sum ^ b);
            prop_assert_eq!(bools(&s.slice(i..j)), &bits[i..j]);
            prop_assert_eq!(s.parity(i..j), odd(&bits[i..j]));
            let mask: BitString = (0..bits.len()).map(|k| (i..j).contains(&k)).collect();
            prop_assert_eq!(s.parity_masked(&mask), odd(&bits[i..j]));
            if !bits.is_empty() {
                let at: Vec<u32> = picks.iter().map(|p| u32::try_from(p.index(bits.len())).unwrap()).collect();
                let picked: Vec<bool> = at.iter().map(|&p| bits[p as usize]).collect();
                prop_assert_eq!(bools(&s.gather(&at)), picked);
                let k = cut.0.index(bits.len());
                s.flip(k);
                prop_assert!(s.bit(k) != bits[k] && !s.ct_eq(&string(&bits)));
                s.set(k, bits[k]);
            }
            s.append(&string(&more));
            prop_assert_eq!(bools(&s), [bits, more].concat());
            let twin = s.duplicate();
            s.xor(&twin);
            prop_assert_eq!(s.count_ones(), 0);
        }
    }
}
