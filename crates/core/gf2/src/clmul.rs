//! The one kernel: sums of carry-less products of 64-bit words.
#![expect(unsafe_code, reason = "a CPU instruction behind a run-time test of the CPU")]

/// Returns Σ a\[i\]·b\[last − i\] over GF(2)\[z\]: the coefficient words of one power of z⁶⁴ in the
/// product of two long polynomials.
///
/// Takes the same time for all values of the same length.
///
/// # Panics
/// Where the lengths differ.
pub(crate) fn convolve(a: &[u64], b: &[u64]) -> u128 {
    assert_eq!(a.len(), b.len(), "as many words on either side");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("pclmulqdq") {
        // SAFETY: the line above found the instruction that `x86::convolve` needs.
        return unsafe { x86::convolve(a, b) };
    }
    portable::convolve(a, b)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::{
        __m128i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_setzero_si128,
        _mm_unpackhi_epi64, _mm_xor_si128,
    };

    #[target_feature(enable = "pclmulqdq")]
    pub(super) fn convolve(a: &[u64], b: &[u64]) -> u128 {
        let (mut even, mut odd) = (_mm_setzero_si128(), _mm_setzero_si128());
        let (pairs_a, rest_a) = a.as_chunks::<2>();
        let (rest_b, pairs_b) = b.as_rchunks::<2>();
        for (&x, &y) in pairs_a.iter().zip(pairs_b.iter().rev()) {
            let (x, y) = (pair(x), pair(y));
            even = _mm_xor_si128(even, _mm_clmulepi64_si128::<0x10>(x, y));
            odd = _mm_xor_si128(odd, _mm_clmulepi64_si128::<0x01>(x, y));
        }
        if let (&[x], &[y]) = (rest_a, rest_b) {
            let product = _mm_clmulepi64_si128::<0x00>(pair([x, 0]), pair([y, 0]));
            even = _mm_xor_si128(even, product);
        }
        let sum = _mm_xor_si128(even, odd);
        let low = _mm_cvtsi128_si64(sum).cast_unsigned();
        let high = _mm_cvtsi128_si64(_mm_unpackhi_epi64(sum, sum)).cast_unsigned();
        u128::from(high) << 64 | u128::from(low)
    }

    #[target_feature(enable = "pclmulqdq")]
    fn pair([low, high]: [u64; 2]) -> __m128i {
        _mm_set_epi64x(high.cast_signed(), low.cast_signed())
    }
}

/// The same in integer arithmetic, for CPUs without the instruction.
mod portable {
    pub(super) fn convolve(a: &[u64], b: &[u64]) -> u128 {
        let products = a.iter().zip(b.iter().rev()).map(|(&x, &y)| multiply(x, y));
        products.fold(0, |sum, product| sum ^ product)
    }

    fn multiply(x: u64, y: u64) -> u128 {
        // The high half of a product is the low half of the product of the mirrored factors.
        let high = low_half(x.reverse_bits(), y.reverse_bits()).reverse_bits() >> 1;
        u128::from(high) << 64 | u128::from(low_half(x, y))
    }

    /// The low 64 bits of the carry-less product.
    ///
    /// Integer multiplication of numbers in which only every fourth bit is used: the sum of a place
    /// reaches 16, and so into the next place used, only in the topmost (the `ghash_ctmul64` of
    /// `BearSSL`).
    fn low_half(x: u64, y: u64) -> u64 {
        const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;
        let part = |value: u64, offset: u32| value & EVERY_FOURTH << offset;
        let diagonal = |offset: u32| {
            let sum = (0..4)
                .fold(0, |sum, i| sum ^ part(x, i).wrapping_mul(part(y, (4 + offset - i) % 4)));
            part(sum, offset)
        };
        diagonal(0) | diagonal(1) | diagonal(2) | diagonal(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bit by bit, from the definition.
    fn naive(a: &[u64], b: &[u64]) -> u128 {
        let product = |x: u64, y: u64| {
            (0..64).filter(|i| x >> i & 1 == 1).fold(0, |sum, i| sum ^ u128::from(y) << i)
        };
        a.iter().zip(b.iter().rev()).fold(0, |sum, (&x, &y)| sum ^ product(x, y))
    }

    #[test]
    fn extreme_words_multiply_alike() {
        for x in [0, 1, 1 << 63, u64::MAX, 0x1111_1111_1111_1111, 0x8888_8888_8888_8888] {
            for y in [0, 1, 1 << 63, u64::MAX, 0x1111_1111_1111_1111, 0x8888_8888_8888_8888] {
                let expected = naive(&[x], &[y]);
                assert_eq!(convolve(&[x], &[y]), expected, "{x:x} {y:x}");
                assert_eq!(portable::convolve(&[x], &[y]), expected, "{x:x} {y:x}");
            }
        }
    }

    proptest! {
        #[test]
        fn both_kernels_are_the_definition(words in vec(any::<(u64, u64)>(), 0..9)) {
            let (a, b): (Vec<u64>, Vec<u64>) = words.into_iter().unzip();
            let expected = naive(&a, &b);
            prop_assert_eq!(convolve(&a, &b), expected);
            prop_assert_eq!(portable::convolve(&a, &b), expected);
        }
    }
}
