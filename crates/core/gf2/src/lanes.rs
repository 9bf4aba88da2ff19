//! Sums of words, four at a time.
//!
//! Slices here are a multiple of four words long; of longer ones the rest is left alone. Compiled
//! once for each kernel of [`crate::clmul`], hence the `inline(always)`.

/// Words that are worked upon at a time: read together before any is written, so that the compiler
/// needs no proof that slices do not overlap, and finds vectors.
pub(crate) const LANE: usize = 4;

/// Adds `other` to `sum`.
#[inline(always)]
pub(crate) fn add(sum: &mut [u64], other: &[u64]) {
    for (sum, other) in sum.as_chunks_mut().0.iter_mut().zip(other.as_chunks().0) {
        *sum = xor(*sum, *other);
    }
}

/// Writes a + b.
#[inline(always)]
pub(crate) fn add_two(sum: &mut [u64], a: &[u64], b: &[u64]) {
    let terms = a.as_chunks().0.iter().zip(b.as_chunks().0);
    for (sum, (a, b)) in sum.as_chunks_mut().0.iter_mut().zip(terms) {
        *sum = xor(*a, *b);
    }
}

/// Copies without the call that `copy_from_slice` makes for lengths unknown to the compiler.
#[inline(always)]
pub(crate) fn copy(to: &mut [u64], from: &[u64]) {
    for (to, from) in to.as_chunks_mut::<LANE>().0.iter_mut().zip(from.as_chunks().0) {
        *to = *from;
    }
}

#[inline(always)]
pub(crate) fn xor(a: [u64; LANE], b: [u64; LANE]) -> [u64; LANE] {
    core::array::from_fn(|i| a[i] ^ b[i])
}
