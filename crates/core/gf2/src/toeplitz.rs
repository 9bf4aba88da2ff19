//! Toeplitz hashing, which takes from a key what an eavesdropper may know of it.

use zeroize::Zeroizing;

use crate::bits::BitString;
use crate::clmul::Kernel;
use crate::lanes::add;
use crate::middle;
use crate::ternary::Plan;

/// Returns the product of the Toeplitz matrix of `seed` with `input`: `output_bits` bits.
///
/// With n input bits, yᵢ = ⊕ⱼ seed\[i − j + n − 1\]·xⱼ, so that the seed's last bit stands in the
/// lower left corner of the matrix, its first in the upper right one. The family is universal₂
/// for a uniform seed, which must be public only after the input is fixed and is used once
/// (PHYSICS.md §4).
///
/// Takes the same time for all values of the same lengths.
///
/// ```
/// use claviger_gf2::{BitString, toeplitz};
///
/// let bits = |text: &str| text.chars().map(|c| c == '1').collect::<BitString>();
/// // The rows of the matrix are 011, 101.
/// let output = toeplitz(&bits("110"), &bits("1101"), 2);
/// assert!(output.ct_eq(&bits("11")));
/// ```
///
/// # Panics
/// Where the seed does not have n + `output_bits` − 1 bits, or the input is empty.
#[must_use]
pub fn toeplitz(input: &BitString, seed: &BitString, output_bits: usize) -> BitString {
    toeplitz_by(Kernel::best(), input, seed, output_bits)
}

/// Does what [`toeplitz`] does with a kernel of one's own choice, to compare them.
///
/// # Panics
/// Where the seed does not have n + `output_bits` − 1 bits, or the input is empty.
#[must_use]
pub fn toeplitz_by(
    kernel: Kernel,
    input: &BitString,
    seed: &BitString,
    output_bits: usize,
) -> BitString {
    let n = input.len();
    assert!(n > 0, "an empty input has nothing to hash");
    assert_eq!(seed.len(), n + output_bits - 1, "a seed has input + output - 1 bits");
    if output_bits == 0 {
        return BitString::new();
    }
    // The output is the coefficients n − 1 … n + m − 2 of seed(z)·input(z). With as many zeros
    // before the seed as bring the first of them to the start of a word, nothing is shifted later.
    let first = (n - 1).div_ceil(64);
    let diagonals = shifted_up(seed, 64 * first - (n - 1));
    let job = Job::new(&diagonals, input.words(), first, output_bits.div_ceil(64));
    BitString::from_words(kernel.hash(&job), output_bits)
}

/// The words of a Toeplitz hash: those of d(z)·x(z) from word `first` on.
///
/// Nobody asks for what is below and above them, so there are two ways to less than the whole
/// product: square tiles of the matrix, each a middle product, for small or oblong matrices; and a
/// cyclic product, just long enough that what wraps around falls below `first`.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    diagonals: &'a [u64],
    input: &'a [u64],
    first: usize,
    outputs: usize,
    way: Way,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Middle products of this many words.
    Tiles(usize),
    Cycle(Plan),
}

impl<'a> Job<'a> {
    /// Describes the cheapest way to `outputs` words.
    fn new(diagonals: &'a [u64], input: &'a [u64], first: usize, outputs: usize) -> Self {
        let side = middle::padded(input.len().min(outputs));
        let n_tiles = input.len().div_ceil(side) * outputs.div_ceil(side);
        // The last bit of the product is beyond the last output by less than the input's length,
        // which is what lies below the first.
        let plan = Plan::for_words((first + outputs).max(diagonals.len()));
        let way = if n_tiles * middle::cost(side) <= plan.cost() {
            Way::Tiles(side)
        } else {
            Way::Cycle(plan)
        };
        Self { diagonals, input, first, outputs, way }
    }

    /// Computes the words with a kernel's middle product.
    #[inline(always)]
    pub(crate) fn run(
        &self,
        middle: impl Fn(&[u64], &[u64], &mut [u64], &mut [u64]) + Copy,
    ) -> Vec<u64> {
        match self.way {
            Way::Tiles(side) => self.tiles(side, middle),
            Way::Cycle(plan) => {
                let wanted = self.first..self.first + self.outputs;
                plan.cyclic_product(self.diagonals, self.input, wanted, middle)
            }
        }
    }

    /// Adds up the products of square tiles, in a matrix that zeros fill up to whole tiles.
    #[inline(always)]
    fn tiles(
        &self,
        side: usize,
        middle: impl Fn(&[u64], &[u64], &mut [u64], &mut [u64]),
    ) -> Vec<u64> {
        let (columns, rows) = (self.input.len().div_ceil(side), self.outputs.div_ceil(side));
        let diagonals =
            padded(self.diagonals, columns * side - self.first, (columns + rows) * side);
        let input = padded(self.input, 0, columns * side);
        let mut product = Zeroizing::new(vec![0; side]);
        let mut scratch = Zeroizing::new(vec![0; middle::scratch_words(side)]);
        let mut output = vec![0; rows * side];
        for (row, output) in output.chunks_exact_mut(side).enumerate() {
            for (column, input) in input.chunks_exact(side).enumerate() {
                let start = (columns - 1 - column + row) * side;
                middle(&diagonals[start..start + 2 * side], input, &mut product, &mut scratch);
                add(output, &product);
            }
        }
        output
    }
}

/// Puts `shift` < 64 zeros before a string.
fn shifted_up(string: &BitString, shift: usize) -> Zeroizing<Vec<u64>> {
    let (words, len) = (string.words(), (string.len() + shift).div_ceil(64));
    let mut shifted = Zeroizing::new(Vec::with_capacity(len));
    shifted.push(words[0] << shift);
    // Two shifts, because one by 64 would be none.
    let above = words.windows(2).map(|pair| pair[1] << shift | pair[0] >> 1 >> (63 - shift));
    shifted.extend(above);
    if shifted.len() < len {
        shifted.push(words[words.len() - 1] >> 1 >> (63 - shift));
    }
    shifted
}

/// Copies words into `len` words of zeros, from `start` on.
fn padded(words: &[u64], start: usize, len: usize) -> Zeroizing<Vec<u64>> {
    let mut padded = Zeroizing::new(vec![0; len]);
    padded[start..start + words.len()].copy_from_slice(words);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn naive(input: &BitString, seed: &BitString, output_bits: usize) -> BitString {
        let n = input.len();
        let row = |i| (0..n).fold(false, |sum, j| sum ^ (seed.bit(i + n - 1 - j) & input.bit(j)));
        (0..output_bits).map(row).collect()
    }

    fn pattern(len: usize, mut state: u64) -> BitString {
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 63 == 1
        };
        (0..len).map(step).collect()
    }

    /// Both ways in turn, whatever is cheaper.
    fn both_ways(kernel: Kernel, input: &BitString, seed: &BitString, m: usize) -> [BitString; 2] {
        let (n, outputs) = (input.len(), m.div_ceil(64));
        let first = (n - 1).div_ceil(64);
        let diagonals = shifted_up(seed, 64 * first - (n - 1));
        let plan = Plan::for_words(diagonals.len());
        let side = middle::padded(input.words().len().min(outputs));
        [Way::Tiles(side), Way::Cycle(plan)].map(|way| {
            let job = Job { diagonals: &diagonals, input: input.words(), first, outputs, way };
            BitString::from_words(kernel.hash(&job), m)
        })
    }

    fn check(n: usize, m: usize) {
        let (input, seed) = (pattern(n, 7), pattern(n + m - 1, 11));
        let expected = naive(&input, &seed, m);
        assert!(toeplitz(&input, &seed, m).ct_eq(&expected), "{n} bits to {m}");
        for kernel in Kernel::available().into_iter().filter(|_| m > 0) {
            let [tiles, cycle] = both_ways(kernel, &input, &seed, m);
            assert!(tiles.ct_eq(&expected), "{n} bits to {m} by tiles, {}", kernel.name());
            assert!(cycle.ct_eq(&expected), "{n} bits to {m} by a cycle, {}", kernel.name());
        }
    }

    /// All up to a word and a bit; then borders of words, with outputs longer than inputs too.
    #[test]
    fn all_small_lengths_agree_with_the_definition() {
        for n in 1..66 {
            (0..66).for_each(|m| check(n, m));
        }
        for n in [1, 2, 63, 64, 65, 127, 128, 129, 200] {
            for m in [0, 1, 2, 63, 64, 65, 128, 129, 333] {
                check(n, m);
            }
        }
    }

    /// One word and one bit less and more than what a middle product holds.
    #[test]
    fn lengths_around_every_padded_size_agree_with_the_definition() {
        for words in [8, 12, 16, 24, 36] {
            for n in [64 * words - 64, 64 * words - 1, 64 * words, 64 * words + 1, 64 * words + 64]
            {
                check(n, 64 * words / 2);
                check(200, n);
                check(n, n);
            }
        }
    }

    /// Lengths at which the transform is cut another way: too long for the definition, but the two
    /// ways have nothing but middle products in common.
    #[test]
    fn tiles_and_cycles_agree_where_plans_change() {
        let plan = |words: usize| format!("{:?}", Plan::for_words(words));
        let changes = (20..1500).filter(|&words| plan(words) != plan(words + 1));
        for words in changes {
            for n in [64 * words - 1, 64 * words, 64 * words + 1] {
                let m = n / 3;
                let (input, seed) = (pattern(n - m, 3), pattern(n - 1, 5));
                let [tiles, cycle] = both_ways(Kernel::best(), &input, &seed, m);
                assert!(tiles.ct_eq(&cycle), "{} bits to {m}", n - m);
            }
        }
    }

    fn check_corners(n: usize, m: usize, kernels: &[Kernel]) {
        let (input, seed) = (pattern(n, 3), pattern(n + m - 1, 5));
        let row =
            |i: usize| (0..n).fold(false, |sum, j| sum ^ (seed.bit(i + n - 1 - j) & input.bit(j)));
        let rows = [0, 1, 63, 64, m / 2 + 1, m - 2, m - 1].map(|i| (i, row(i)));
        for &kernel in kernels {
            let output = toeplitz_by(kernel, &input, &seed, m);
            assert_eq!(output.len(), m);
            for (i, expected) in rows {
                assert_eq!(output.bit(i), expected, "bit {i} of {m}, {}", kernel.name());
            }
        }
    }

    #[test]
    fn blocks_of_the_link_agree_with_the_definition_in_their_corners() {
        for m in [40_000, 50_001, 99_999] {
            check_corners(100_000, m, &Kernel::available());
        }
    }

    #[test]
    fn a_million_bits_agree_with_the_definition_in_their_corners() {
        check_corners(1 << 20, 1 << 19, &Kernel::available());
        check_corners((1 << 20) + 1, 300_007, &[Kernel::best()]);
        check_corners(1 << 20, 256, &[Kernel::best()]);
    }

    #[test]
    fn sixteen_million_bits_agree_with_the_definition_in_their_corners() {
        check_corners(1 << 24, 1 << 23, &[Kernel::best()]);
    }

    proptest! {
        #[test]
        fn toeplitz_is_its_definition(
            input in vec(any::<bool>(), 1..1200),
            m in 0_usize..1200,
            state: u64,
        ) {
            let input: BitString = input.into_iter().collect();
            let seed = pattern(input.len() + m - 1, state);
            let expected = naive(&input, &seed, m);
            for kernel in Kernel::available() {
                prop_assert!(toeplitz_by(kernel, &input, &seed, m).ct_eq(&expected));
            }
        }

        #[test]
        fn tiles_and_cycles_agree(n in 1_usize..40_000, m in 1_usize..40_000, state: u64) {
            let (input, seed) = (pattern(n, state), pattern(n + m - 1, !state));
            let [tiles, cycle] = both_ways(Kernel::best(), &input, &seed, m);
            prop_assert!(tiles.ct_eq(&cycle));
        }
    }
}
