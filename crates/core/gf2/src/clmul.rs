//! The kernels: what a CPU does best with words of 64 coefficients, chosen when the program runs.
//!
//! Each kernel is the same safe text ([`crate::middle`], [`crate::ternary`]) compiled for one set
//! of instructions, around a `schoolbook` of its own for at most 16 words. The portable kernel runs
//! everywhere; tests hold all of them equal to the definition, as far as the CPU has them. There is
//! none for 512-bit vectors: no test of ours has run on a CPU that has them, and verification comes
//! before amplification, so two ends whose kernels differ would hold different keys unnoticed.
#![expect(unsafe_code, reason = "CPU instructions behind a run-time test of the CPU")]

use crate::toeplitz::Job;

/// An instruction set for carry-less products that this CPU has.
///
/// All kernels give the same bits; [`Kernel::best`] is what everything uses that does not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(
    // Invariant: `Width::runs_here` holds.
    Width,
);

impl Kernel {
    /// Returns the kernels that this CPU can run, the fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Width::ALL.iter().copied().filter(|width| width.runs_here()).map(Self).collect()
    }

    /// Returns the fastest kernel that this CPU can run.
    #[must_use]
    pub fn best() -> Self {
        let best = Width::ALL.iter().copied().find(|width| width.runs_here());
        Self(best.unwrap_or(Width::Portable))
    }

    /// Returns the name of the instruction, with the bits that one of them takes in.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Width::Bits256 => "vpclmulqdq-256",
            #[cfg(target_arch = "x86_64")]
            Width::Bits128 => "pclmulqdq",
            Width::Portable => "portable",
        }
    }

    /// Returns Σ a\[i\]·b\[last − i\] over GF(2)\[z\]: the coefficient words of one power of z⁶⁴ in
    /// the product of two long polynomials.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub(crate) fn convolve(self, a: &[u64], b: &[u64]) -> u128 {
        assert_eq!(a.len(), b.len(), "as many words on either side");
        match self.0 {
            // SAFETY: every kernel but the portable one needs `pclmulqdq`, and by the invariant
            // this CPU has what the kernel needs.
            #[cfg(target_arch = "x86_64")]
            Width::Bits128 | Width::Bits256 => unsafe { bits128::convolve(a, b) },
            Width::Portable => portable::convolve(a, b),
        }
    }

    /// Computes a middle product ([`crate::middle`]).
    #[cfg(test)]
    pub(crate) fn middle(self, t: &[u64], x: &[u64], y: &mut [u64]) {
        let mut scratch = vec![0; crate::middle::scratch_words(x.len())];
        match self.0 {
            // SAFETY: by the invariant this CPU has the instructions of the kernel.
            #[cfg(target_arch = "x86_64")]
            Width::Bits256 => unsafe { bits256::middle(t, x, y, &mut scratch) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Width::Bits128 => unsafe { bits128::middle(t, x, y, &mut scratch) },
            Width::Portable => portable::middle(t, x, y, &mut scratch),
        }
    }

    /// Computes the words of a Toeplitz hash.
    pub(crate) fn hash(self, job: &Job<'_>) -> Vec<u64> {
        match self.0 {
            // SAFETY: by the invariant this CPU has the instructions of the kernel.
            #[cfg(target_arch = "x86_64")]
            Width::Bits256 => unsafe { bits256::hash(job) },
            // SAFETY: likewise.
            #[cfg(target_arch = "x86_64")]
            Width::Bits128 => unsafe { bits128::hash(job) },
            Width::Portable => portable::hash(job),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    #[cfg(target_arch = "x86_64")]
    Bits256,
    #[cfg(target_arch = "x86_64")]
    Bits128,
    Portable,
}

impl Width {
    /// The fastest first.
    const ALL: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Bits256,
        #[cfg(target_arch = "x86_64")]
        Self::Bits128,
        Self::Portable,
    ];

    /// Tells whether this CPU, and the system that saves its registers, has the instructions.
    fn runs_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        use std::arch::is_x86_feature_detected as has;
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Bits256 => Self::Bits128.runs_here() && has!("vpclmulqdq") && has!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Bits128 => has!("pclmulqdq"),
            Self::Portable => true,
        }
    }
}

/// Compiles the safe algorithms for the instructions of one kernel: its `schoolbook` is in scope.
macro_rules! compile_algorithms {
    ($(#[$features:meta])?) => {
        /// The middle product of any padded size.
        $(#[$features])?
        pub(super) fn middle(t: &[u64], x: &[u64], y: &mut [u64], scratch: &mut [u64]) {
            match x.len() {
                8 => schoolbook::<8>(t, x, y),
                12 => schoolbook::<12>(t, x, y),
                16 => schoolbook::<16>(t, x, y),
                _ => crate::middle::split(t, x, y, scratch, |t, x, y, scratch| {
                    middle(t, x, y, scratch);
                }),
            }
        }

        /// The Toeplitz hash of any size.
        $(#[$features])?
        pub(super) fn hash(job: &crate::toeplitz::Job<'_>) -> Vec<u64> {
            job.run(|t, x, y, scratch| middle(t, x, y, scratch))
        }
    };
}

/// Defines a `schoolbook` in a module whose `Vector` holds `WORDS` words.
///
/// `multiply` takes one word of every pair of either vector: `0x00` the even ones of both, `0x01`
/// the odd ones of the first and the even ones of the second, `0x10` the reverse. A vector of t is
/// multiplied by one word of x at a time, so that the sums for the columns k, k + 2, … and those for
/// k + 1, k + 3, … stand in two registers.
#[cfg(target_arch = "x86_64")]
macro_rules! define_schoolbook {
    ($name:ident, #[$features:meta]) => {
        /// The middle product from its definition: N columns, and what the one below them carries.
        #[$features]
        pub(super) fn $name<const N: usize>(t: &[u64], x: &[u64], y: &mut [u64]) {
            let (t, x, y) = (&t[..2 * N], &x[..N], &mut y[..N]);
            let mut sums = [[zero(); 2]; 8];
            for (j, &factor) in x.iter().enumerate() {
                let factor = broadcast(factor.cast_signed());
                let columns = t[N - j..2 * N - j].as_chunks::<WORDS>().0;
                for ([even, odd], words) in sums.iter_mut().zip(columns) {
                    let words = load(words);
                    *even = xor(*even, multiply::<0x00>(words, factor));
                    *odd = xor(*odd, multiply::<0x01>(words, factor));
                }
            }
            let mut carry = column_below(x, &t[..N]);
            for ([even, odd], output) in sums.into_iter().zip(y.as_chunks_mut::<WORDS>().0) {
                *output = words(low_halves(even, odd));
                for (output, high) in output.iter_mut().zip(words(high_halves(even, odd))) {
                    *output ^= carry;
                    carry = high;
                }
            }
        }

        /// The upper half of the sum of products for column N − 1.
        #[$features]
        fn column_below(x: &[u64], t: &[u64]) -> u64 {
            let mut sum = zero();
            let t = t.as_rchunks::<WORDS>().1.iter().rev();
            for (x, t) in x.as_chunks::<WORDS>().0.iter().zip(t) {
                let (x, t) = (load(x), swap_pairs(load(t)));
                sum = xor(sum, xor(multiply::<0x10>(x, t), multiply::<0x01>(x, t)));
            }
            words(sum).as_chunks::<2>().0.iter().fold(0, |sum, [_, high]| sum ^ high)
        }
    };
}

/// Two products an instruction.
#[cfg(target_arch = "x86_64")]
mod bits256 {
    use core::arch::x86_64::{
        __m256i as Vector, _mm256_clmulepi64_epi128 as multiply, _mm256_loadu_si256,
        _mm256_permute2x128_si256, _mm256_set1_epi64x as broadcast, _mm256_setzero_si256 as zero,
        _mm256_storeu_si256, _mm256_unpackhi_epi64 as high_halves,
        _mm256_unpacklo_epi64 as low_halves, _mm256_xor_si256 as xor,
    };

    const WORDS: usize = 4;

    define_schoolbook!(schoolbook, #[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]);
    compile_algorithms!(#[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]);

    /// The pairs of words in reverse order.
    #[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]
    fn swap_pairs(words: Vector) -> Vector {
        _mm256_permute2x128_si256::<0x01>(words, words)
    }

    #[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]
    fn load(words: &[u64; WORDS]) -> Vector {
        // SAFETY: the array is as long as the vector, and the load asks for no alignment.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2,vpclmulqdq,pclmulqdq")]
    fn words(vector: Vector) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        // SAFETY: the array is as long as the vector, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) };
        words
    }
}

/// One product an instruction.
#[cfg(target_arch = "x86_64")]
mod bits128 {
    use core::arch::x86_64::{
        __m128i as Vector, _mm_clmulepi64_si128 as multiply, _mm_loadu_si128,
        _mm_set1_epi64x as broadcast, _mm_setzero_si128 as zero, _mm_storeu_si128,
        _mm_unpackhi_epi64 as high_halves, _mm_unpacklo_epi64 as low_halves, _mm_xor_si128 as xor,
    };

    const WORDS: usize = 2;

    define_schoolbook!(schoolbook, #[target_feature(enable = "pclmulqdq")]);
    compile_algorithms!(#[target_feature(enable = "pclmulqdq")]);

    #[target_feature(enable = "pclmulqdq")]
    pub(super) fn convolve(a: &[u64], b: &[u64]) -> u128 {
        let (mut even, mut odd) = (zero(), zero());
        let (pairs_a, rest_a) = a.as_chunks::<2>();
        let (rest_b, pairs_b) = b.as_rchunks::<2>();
        for (x, y) in pairs_a.iter().zip(pairs_b.iter().rev()) {
            let (x, y) = (load(x), load(y));
            even = xor(even, multiply::<0x10>(x, y));
            odd = xor(odd, multiply::<0x01>(x, y));
        }
        if let (&[x], &[y]) = (rest_a, rest_b) {
            even = xor(even, multiply::<0x00>(load(&[x, 0]), load(&[y, 0])));
        }
        let [low, high] = words(xor(even, odd));
        u128::from(high) << 64 | u128::from(low)
    }

    /// The pairs of words in reverse order.
    #[target_feature(enable = "pclmulqdq")]
    fn swap_pairs(words: Vector) -> Vector {
        words
    }

    #[target_feature(enable = "pclmulqdq")]
    fn load(words: &[u64; WORDS]) -> Vector {
        // SAFETY: the array is as long as the vector, and the load asks for no alignment.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "pclmulqdq")]
    fn words(vector: Vector) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        // SAFETY: the array is as long as the vector, and the store asks for no alignment.
        unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), vector) };
        words
    }
}

/// All of it in integer arithmetic, for CPUs without the instruction.
mod portable {
    use super::{high, low};

    compile_algorithms!();

    fn schoolbook<const N: usize>(t: &[u64], x: &[u64], y: &mut [u64]) {
        let column = |k: usize| convolve(x, &t[k + 1 - N..=k]);
        let mut carry = high(column(N - 1));
        for (i, output) in y.iter_mut().enumerate() {
            let sum = column(N + i);
            *output = low(sum) ^ carry;
            carry = high(sum);
        }
    }

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

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(value: u128) -> u64 {
    value as u64
}

const fn high(value: u128) -> u64 {
    low(value >> 64)
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

    /// The middle of a long product, from the definition.
    fn naive_middle(t: &[u64], x: &[u64]) -> Vec<u64> {
        let n = x.len();
        let column = |k: usize| naive(x, &t[k + 1 - n..=k]);
        (n..2 * n).map(|k| low(column(k)) ^ high(column(k - 1))).collect()
    }

    fn pattern(len: usize, mut state: u64) -> Vec<u64> {
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state ^ state >> 29
        };
        (0..len).map(step).collect()
    }

    fn kernels() -> Vec<Kernel> {
        let kernels = Kernel::available();
        assert_eq!(kernels.first(), Some(&Kernel::best()));
        assert_eq!(kernels.last(), Some(&Kernel(Width::Portable)));
        kernels
    }

    #[test]
    fn extreme_words_multiply_alike() {
        let extremes = [0, 1, 1 << 63, u64::MAX, 0x1111_1111_1111_1111, 0x8888_8888_8888_8888];
        for (x, y) in extremes.into_iter().flat_map(|x| extremes.map(|y| (x, y))) {
            for kernel in kernels() {
                let product = kernel.convolve(&[x], &[y]);
                assert_eq!(product, naive(&[x], &[y]), "{}: {x:x} {y:x}", kernel.name());
            }
        }
    }

    #[test]
    fn every_kernel_computes_middle_products_of_every_size() {
        // The schoolbook's sizes, halves and thirds of both, and more than one level of either.
        for size in [8, 12, 16, 24, 32, 36, 48, 64, 72, 96, 108, 128, 144, 216] {
            let (t, x) = (pattern(2 * size, 3), pattern(size, 5));
            let expected = naive_middle(&t, &x);
            for kernel in kernels() {
                let mut y = vec![!0; size];
                kernel.middle(&t, &x, &mut y);
                assert_eq!(y, expected, "{}, {size} words", kernel.name());
            }
        }
    }

    /// One bit of the matrix and one of the vector at a time.
    #[test]
    fn every_kernel_puts_every_bit_in_its_place() {
        for size in [8, 12, 16] {
            for (i, j) in
                (0..128 * size).step_by(61).flat_map(|i| [(i, 0), (i, 17), (i, 64 * size - 1)])
            {
                let (mut t, mut x, mut y) = (vec![0; 2 * size], vec![0; size], vec![!0; size]);
                t[i / 64] |= 1 << (i % 64);
                x[j / 64] |= 1 << (j % 64);
                let mut expected = vec![0; size];
                if let Some(row) = (i + j).checked_sub(64 * size).filter(|row| *row < 64 * size) {
                    expected[row / 64] |= 1 << (row % 64);
                }
                for kernel in kernels() {
                    kernel.middle(&t, &x, &mut y);
                    assert_eq!(y, expected, "{}: diagonal {i}, column {j}", kernel.name());
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_kernel_convolves_as_defined(words in vec(any::<(u64, u64)>(), 0..20)) {
            let (a, b): (Vec<u64>, Vec<u64>) = words.into_iter().unzip();
            for kernel in kernels() {
                prop_assert_eq!(kernel.convolve(&a, &b), naive(&a, &b), "{}", kernel.name());
            }
        }

        #[test]
        fn every_kernel_computes_middle_products_as_defined(
            size in prop::sample::select(vec![8_usize, 12, 16, 24, 36, 48]),
            words in vec(any::<u64>(), 3 * 48),
        ) {
            let (t, x) = (&words[..2 * size], &words[2 * 48..2 * 48 + size]);
            for kernel in kernels() {
                let mut y = vec![0; size];
                kernel.middle(t, x, &mut y);
                prop_assert_eq!(y, naive_middle(t, x), "{}", kernel.name());
            }
        }
    }
}
