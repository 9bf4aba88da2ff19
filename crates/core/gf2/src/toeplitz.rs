//! Toeplitz hashing, which takes from a key what an eavesdropper may know of it.

use zeroize::Zeroizing;

use crate::bits::BitString;
use crate::clmul::convolve;

/// Returns the product of the Toeplitz matrix of `seed` with `input`: `output_bits` bits.
///
/// With n input bits, yᵢ = ⊕ⱼ seed\[i − j + n − 1\]·xⱼ, so that the seed's last bit stands in the
/// lower left corner of the matrix, its first in the upper right one. The family is universal₂
/// for a uniform seed, which must be public only after the input is fixed and is used once
/// (PHYSICS.md §4).
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
    let n = input.len();
    assert!(n > 0, "an empty input has nothing to hash");
    assert_eq!(seed.len(), n + output_bits - 1, "a seed has input + output - 1 bits");
    if output_bits == 0 {
        return BitString::new();
    }
    // The output is the coefficients n − 1 … n + m − 2 of seed(z)·input(z).
    let (first, end) = ((n - 1) / 64, (n + output_bits - 2) / 64 + 1);
    let offset = (n - 1) % 64;
    let product = product_words(seed.words(), input.words(), first..end);
    BitString::from_words(product, (end - first) * 64).slice(offset..offset + output_bits)
}

/// The words `wanted` of the product of two polynomials.
fn product_words(a: &[u64], b: &[u64], wanted: core::ops::Range<usize>) -> Vec<u64> {
    // Each sum reaches over two words: its upper half belongs to the word above.
    let sums = wanted.start.saturating_sub(1)..wanted.end;
    let start = sums.start;
    let sums = Zeroizing::new(sums.map(|k| coefficient(a, b, k)).collect::<Vec<u128>>());
    let mut words = Vec::with_capacity(wanted.len());
    words.extend(wanted.map(|k| {
        let below = if k == 0 { 0 } else { sums[k - 1 - start] };
        low(sums[k - start]) ^ low(below >> 64)
    }));
    words
}

/// Σ a\[i\]·b\[k − i\] over all i that both have.
fn coefficient(a: &[u64], b: &[u64], k: usize) -> u128 {
    let from = (k + 1).saturating_sub(b.len());
    let to = a.len().min(k + 1);
    if from >= to {
        return 0;
    }
    convolve(&a[from..to], &b[k + 1 - to..k + 1 - from])
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(value: u128) -> u64 {
    value as u64
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

    /// Lengths around the borders of words, and with outputs longer than inputs.
    #[test]
    fn all_small_lengths_agree_with_the_definition() {
        for n in [1, 2, 63, 64, 65, 127, 128, 129, 200] {
            for m in [0, 1, 2, 63, 64, 65, 128, 129, 333] {
                let (input, seed) = (pattern(n, 7), pattern(n + m - 1, 11));
                assert!(
                    toeplitz(&input, &seed, m).ct_eq(&naive(&input, &seed, m)),
                    "{n} bits to {m}"
                );
            }
        }
    }

    #[test]
    fn a_block_of_the_link_agrees_with_the_definition_in_its_corners() {
        let (n, m) = (100_000, 40_000);
        let (input, seed) = (pattern(n, 3), pattern(n + m - 1, 5));
        let output = toeplitz(&input, &seed, m);
        for i in [0, 1, 63, 64, 20_001, m - 1] {
            let expected =
                (0..n).fold(false, |sum, j| sum ^ (seed.bit(i + n - 1 - j) & input.bit(j)));
            assert_eq!(output.bit(i), expected, "bit {i}");
        }
    }

    proptest! {
        #[test]
        fn toeplitz_is_its_definition(
            input in vec(any::<bool>(), 1..400),
            m in 0_usize..400,
            state: u64,
        ) {
            let input: BitString = input.into_iter().collect();
            let seed = pattern(input.len() + m - 1, state);
            prop_assert!(toeplitz(&input, &seed, m).ct_eq(&naive(&input, &seed, m)));
        }
    }
}
