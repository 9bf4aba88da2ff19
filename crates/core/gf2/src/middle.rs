//! Middle products: square Toeplitz matrices times vectors, by Karatsuba's identity.
//!
//! A Toeplitz matrix is constant along its diagonals, so 2N words t describe one of N × N words,
//! and its product with N words x is the *middle* of the long product t(z)·x(z): bits 64N …
//! 128N − 1, without what is below and above (bit 0 of t meets nothing).
//!
//! ```text
//!        ⎡ T₁ T₀ ⎤ ⎡x₀⎤       y₀ = T₁x₀ + T₀x₁ = T₁(x₀ + x₁) + (T₀ + T₁)x₁
//!    y = ⎣ T₂ T₁ ⎦ ⎣x₁⎦       y₁ = T₂x₀ + T₁x₁ = T₁(x₀ + x₁) + (T₁ + T₂)x₀
//! ```
//!
//! Cut in halves, the matrix has three different blocks, each Toeplitz again and a stretch of t.
//! Four products of blocks become three, because T₁(x₀ + x₁) serves both rows: addition is
//! exclusive or, and what is added twice is gone. Repeated, N² products of words become about
//! N^1.58. This is Karatsuba's multiplication transposed, and costs half of a whole product of
//! which the middle is taken (Hanrot, Quercia, Zimmermann 2004). [`split`] does the same with
//! thirds: six products instead of nine.
//!
//! Everything here is compiled for each kernel of [`crate::clmul`], hence the `inline(always)`.

use crate::lanes::{add, add_two};

/// Returns the least size of a middle product that holds `words` words.
///
/// These sizes are 8, 12 or 16 words, halved or cut in thirds any number of times.
pub(crate) fn padded(words: usize) -> usize {
    let mut size = words.next_multiple_of(4).max(8);
    while !is_padded(size) {
        size += 4;
    }
    size
}

/// Estimates the time of a middle product of a padded size, in units of a product of two words.
pub(crate) fn cost(size: usize) -> usize {
    match size {
        ..=16 => size * (size + 1),
        _ => {
            let parts = parts(size);
            // An addition of words is a small fraction of a product.
            parts * (parts + 1) / 2 * cost(size / parts) + parts * size / 2
        }
    }
}

/// Returns how many words of scratch a middle product of a padded size needs.
pub(crate) const fn scratch_words(size: usize) -> usize {
    2 * size
}

/// Computes y = T·x from smaller middle products, which `smaller` computes.
///
/// With r parts, and the parts of x counted from the last, yᵢ = Σⱼ Tᵢ₊ⱼ·xⱼ
/// = Σⱼ Tᵢ₊ⱼ·(xᵢ + xⱼ) + (Σⱼ Tᵢ₊ⱼ)·xᵢ, where the first sum leaves out j = i, and each of its
/// products stands in the rows i and j.
#[inline(always)]
pub(crate) fn split(
    t: &[u64],
    x: &[u64],
    y: &mut [u64],
    scratch: &mut [u64],
    smaller: impl Fn(&[u64], &[u64], &mut [u64], &mut [u64]),
) {
    let r = parts(x.len());
    let n = x.len() / r;
    let block = |k: usize| &t[k * n..(k + 2) * n];
    let part = |i: usize| &x[(r - 1 - i) * n..(r - i) * n];
    for i in 0..r {
        let (sum, scratch) = scratch.split_at_mut(2 * n);
        add_two(sum, block(i), block(i + 1));
        (2..r).for_each(|j| add(sum, block(i + j)));
        smaller(sum, part(i), &mut y[i * n..(i + 1) * n], scratch);
    }
    for i in 0..r {
        for j in i + 1..r {
            let (sum, scratch) = scratch.split_at_mut(n);
            let (product, scratch) = scratch.split_at_mut(n);
            add_two(sum, part(i), part(j));
            smaller(block(i + j), sum, product, scratch);
            add(&mut y[i * n..(i + 1) * n], product);
            add(&mut y[j * n..(j + 1) * n], product);
        }
    }
}

/// How many parts a padded size above the schoolbook's is cut into.
const fn parts(size: usize) -> usize {
    if size.is_multiple_of(8) { 2 } else { 3 }
}

fn is_padded(size: usize) -> bool {
    match size {
        8 | 12 | 16 => true,
        ..16 => false,
        _ => size.is_multiple_of(parts(size)) && is_padded(size / parts(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_filled_up_to_the_next_that_can_be_cut() {
        for (words, size) in
            [(1, 8), (8, 8), (9, 12), (13, 16), (17, 24), (33, 36), (37, 48), (145, 192)]
        {
            assert_eq!(padded(words), size, "{words} words");
        }
    }

    #[test]
    fn a_padded_size_is_never_half_as_large_again() {
        for words in 9..5000 {
            let size = padded(words);
            assert!(words <= size && 2 * size <= 3 * words + 6, "{words} words become {size}");
            assert_eq!(padded(size), size);
        }
    }
}
