//! Cyclic products of long polynomials, by a Fourier transform with cube roots (Schönhage 1977).
//!
//! A Fourier transform turns a cyclic product of K numbers into K single products, if among the
//! numbers there is a root of unity ω of order K. The usual powers of two are out of the question
//! over GF(2), where 1 + 1 = 0 leaves nothing to divide by; so K = 3ᵏ. Single bits have no such
//! root, but bundles of bits have. In the ring of the polynomials modulo x²ᴸ + xᴸ + 1
//!
//! - x³ᴸ = 1, because (x²ᴸ + xᴸ + 1)(xᴸ + 1) = x³ᴸ + 1: to multiply by a root is to shift bits;
//! - ζ = xᴸ is a cube root of 1 with 1 + ζ + ζ² = 0, so that the transform can be undone, and the
//!   factor K that this leaves is odd, hence 1.
//!
//! So either factor is cut into K pieces of at most L bits, each the lower half of an element
//! a₀ + a₁ζ. Both are transformed ([`Plan::forward`]), multiplied element by element
//! ([`Plan::multiply`]) and transformed back ([`Plan::backward`]). What comes out are sums of
//! products of pieces, of less than 2L bits and thus whole ([`Plan::join`]). Only the K products of
//! elements multiply; everything else adds and shifts, about N·log K bits for factors of N.
//!
//! Everything here is compiled for each kernel of [`crate::clmul`], hence the `inline(always)`.

use core::ops::Range;

use zeroize::Zeroizing;

use crate::lanes::{LANE, add, add_two, copy};
use crate::middle;

/// How a cyclic product of a certain length is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// K = 3ᵏ, the number of elements.
    elements: usize,
    /// Words of a factor in each element. Invariant: `64 * piece <= bits`.
    piece: usize,
    /// L. Invariant: `3 * bits` is a multiple of `elements`.
    bits: usize,
    /// Words of half an element, with zeros beyond L bits. Invariant: a padded size of a middle
    /// product.
    half: usize,
}

impl Plan {
    /// Chooses the cheapest way for a cyclic product of at least `words` words.
    pub(crate) fn for_words(words: usize) -> Self {
        let plans = (2..12).map(|k| Self::with_levels(k, words));
        plans.min_by_key(Self::cost).expect("the range is not empty")
    }

    fn with_levels(k: u32, words: usize) -> Self {
        let elements = 3_usize.pow(k);
        let piece = words.div_ceil(elements);
        let bits = (64 * piece).next_multiple_of(elements / 3);
        Self { elements, piece, bits, half: middle::padded(bits.div_ceil(64)) }
    }

    /// Estimates the time of a product, in units of a product of two words.
    pub(crate) fn cost(&self) -> usize {
        let levels = self.elements.ilog(3) as usize;
        let shifts = 3 * levels * self.half * COST_OF_LEVEL_PERCENT / 100;
        self.elements * (3 * middle::cost(self.half) + shifts)
    }

    /// Returns the words `wanted` of a(x)·b(x) modulo xᴺ + 1, with N the bits of the plan or more.
    #[inline(always)]
    pub(crate) fn cyclic_product(
        &self,
        a: &[u64],
        b: &[u64],
        wanted: Range<usize>,
        middle: impl Fn(&[u64], &[u64], &mut [u64], &mut [u64]) + Copy,
    ) -> Vec<u64> {
        let mut shifter = Shifter::new(self.half);
        // One allocation for both, and for the result: memory new to the process is slow.
        let len = self.elements * 2 * self.half;
        let mut elements = Zeroizing::new(vec![0; 2 * len]);
        let (a_elements, b_elements) = elements.split_at_mut(len);
        let inner = self.elements_in_cache();
        for (words, elements) in [(a, &mut *a_elements), (b, &mut *b_elements)] {
            self.cut(words, elements);
            self.forward(elements, self.elements, inner, &mut shifter);
        }
        let mut scratch = Zeroizing::new(vec![0; 6 * self.half + middle::scratch_words(self.half)]);
        let len = inner * 2 * self.half;
        for (a, b) in a_elements.chunks_exact_mut(len).zip(b_elements.chunks_exact_mut(len)) {
            self.forward(a, inner, 1, &mut shifter);
            self.forward(b, inner, 1, &mut shifter);
            let pairs = a.chunks_exact(2 * self.half).zip(b.chunks_exact_mut(2 * self.half));
            for (a, b) in pairs {
                self.multiply(a, b, &mut shifter, &mut scratch, middle);
            }
            self.backward(b, 1, inner, &mut shifter);
        }
        self.backward(b_elements, inner, self.elements, &mut shifter);
        self.join(b_elements, a_elements);
        a_elements[wanted].to_vec()
    }

    /// Cuts a factor into pieces, each the lower half of an element.
    #[inline(always)]
    fn cut(&self, words: &[u64], elements: &mut [u64]) {
        let pieces = words.chunks(self.piece);
        assert!(pieces.len() <= self.elements, "a factor fits into the cycle");
        for (element, piece) in elements.chunks_exact_mut(2 * self.half).zip(pieces) {
            element[..piece.len()].copy_from_slice(piece);
        }
    }

    /// Adds the elements up, each at its place in the cycle.
    #[inline(always)]
    fn join(&self, elements: &[u64], words: &mut [u64]) {
        words.fill(0);
        let (skip, shift) = (self.bits / 64, self.bits % 64);
        for (k, element) in elements.chunks_exact(2 * self.half).enumerate() {
            let (low, high) = element.split_at(self.half);
            let place = &mut words[k * self.piece..];
            add(place, low);
            let mut carry = 0;
            for (word, &high) in place[skip..].iter_mut().zip(high) {
                *word ^= high << shift | carry;
                carry = high >> 1 >> (63 - shift);
            }
        }
        // The product of two pieces is two pieces long: the last one reaches round by one.
        let (cycle, beyond) = words.split_at_mut(self.elements * self.piece);
        cycle.iter_mut().zip(&beyond[..self.piece]).for_each(|(word, beyond)| *word ^= beyond);
    }

    /// Returns how many elements of either factor go through all inner steps while they stay in the
    /// CPU's nearer caches. A power of three.
    fn elements_in_cache(&self) -> usize {
        let mut inner = self.elements;
        while inner * 2 * 2 * self.half * 8 > CACHE_BYTES && inner > 1 {
            inner /= 3;
        }
        inner
    }

    /// Splits blocks of `from` elements into transformed blocks of `to`.
    ///
    /// After all steps, from K to 1, element k is the value at a power of ω whose exponent is k with
    /// its ternary digits reversed. Products do not mind the order.
    #[inline(always)]
    fn forward(&self, elements: &mut [u64], from: usize, to: usize, shifter: &mut Shifter) {
        let mut block = from;
        while block > to {
            for block in elements.chunks_exact_mut(block * 2 * self.half) {
                for (step, [a, b, c]) in self.triples(block) {
                    butterfly(a, b, c, Turn::Forward);
                    shifter.multiply_by_power(b, step, self.bits);
                    shifter.multiply_by_power(c, 2 * step, self.bits);
                }
            }
            block /= 3;
        }
    }

    /// Undoes what [`Plan::forward`] does from `to` to `from`.
    #[inline(always)]
    fn backward(&self, elements: &mut [u64], from: usize, to: usize, shifter: &mut Shifter) {
        let mut block = 3 * from;
        while block <= to {
            for block in elements.chunks_exact_mut(block * 2 * self.half) {
                for (step, [a, b, c]) in self.triples(block) {
                    shifter.multiply_by_power(b, 3 * self.bits - step, self.bits);
                    shifter.multiply_by_power(c, 6 * self.bits - 2 * step, self.bits);
                    butterfly(a, b, c, Turn::Backward);
                }
            }
            block *= 3;
        }
    }

    /// Returns the j-th elements of the three thirds of a block for every j, and with them the
    /// power of x that is the j-th power of the block's root of unity.
    #[inline(always)]
    fn triples<'a>(
        &self,
        block: &'a mut [u64],
    ) -> impl Iterator<Item = (usize, [&'a mut [u64]; 3])> + use<'a> {
        let (third, bits) = (block.len() / 3, self.bits);
        let n_triples = third / (2 * self.half);
        let (a, rest) = block.split_at_mut(third);
        let (b, c) = rest.split_at_mut(third);
        let [a, b, c] = [a, b, c].map(|third| third.chunks_exact_mut(2 * self.half));
        let triples = a.zip(b).zip(c).enumerate();
        triples.map(move |(j, ((a, b), c))| (j * bits / n_triples, [a, b, c]))
    }

    /// Multiplies b by a in the ring.
    ///
    /// Multiplication by a is a matrix of four blocks of L × L bits. Let P₀ and P₁ be the lower
    /// triangular Toeplitz matrices of a₀ and a₁, Q₀ and Q₁ the upper ones that hold what carries
    /// over. With x²ᴸ = xᴸ + 1 the blocks are Toeplitz, and two are the same:
    ///
    /// ```text
    ///   ⎡ S + U    S   ⎤ ⎡b₀⎤     U = P₀ + P₁ + Q₀     the product is S(b₀ + b₁) + U·b₀
    ///   ⎣   S    S + V ⎦ ⎣b₁⎦     V = P₀ + Q₁                     and S(b₀ + b₁) + V·b₁
    ///                             S = U + V
    /// ```
    ///
    /// Three middle products, once more by Karatsuba's trick.
    #[inline(always)]
    fn multiply(
        &self,
        a: &[u64],
        b: &mut [u64],
        shifter: &mut Shifter,
        scratch: &mut [u64],
        middle: impl Fn(&[u64], &[u64], &mut [u64], &mut [u64]),
    ) {
        let half = self.half;
        let (diagonals, scratch) = scratch.split_at_mut(2 * half);
        let (shared, scratch) = scratch.split_at_mut(half);
        let (sum, scratch) = scratch.split_at_mut(half);
        let (products, scratch) = scratch.split_at_mut(2 * half);
        shifter.load(a);
        let (b0, b1) = b.split_at(half);
        add_two(sum, b0, b1);
        // U, V and S: above the diagonal the bits of one part of a, from it on those of another.
        let matrices = [(Part::Low, Part::Sum), (Part::High, Part::Low), (Part::Sum, Part::High)];
        let (low, high) = products.split_at_mut(half);
        for ((above, below), (x, y)) in
            matrices.into_iter().zip([(b0, &mut *low), (b1, high), (sum, shared)])
        {
            shifter.read(above, self.bits, &mut diagonals[..half]);
            copy(&mut diagonals[half..], shifter.part(below));
            middle(diagonals, x, y, scratch);
        }
        for (b, product) in b.chunks_exact_mut(half).zip(products.chunks_exact(half)) {
            add_two(b, product, shared);
            clear_from(b, self.bits);
        }
    }
}

/// Sends (a, b, c) to (a + b + c, a + ζb + ζ²c, a + ζ²b + ζc), the second and third as `turn` says.
#[inline(always)]
fn butterfly(a: &mut [u64], b: &mut [u64], c: &mut [u64], turn: Turn) {
    let half = a.len() / 2;
    let [(a0, a1), (b0, b1), (c0, c1)] = [a, b, c].map(|element| element.split_at_mut(half));
    butterfly_of_halves(a0, a1, b0, b1, c0, c1, turn);
}

/// With b = b₀ + b₁ζ and ζ² = ζ + 1: ζb = b₁ + (b₀ + b₁)ζ and ζ²b = (b₀ + b₁) + b₀ζ.
///
/// Each half is an argument of its own so that the compiler knows that none overlaps another.
#[inline(always)]
fn butterfly_of_halves(
    a0: &mut [u64],
    a1: &mut [u64],
    b0: &mut [u64],
    b1: &mut [u64],
    c0: &mut [u64],
    c1: &mut [u64],
    turn: Turn,
) {
    let n = a0.len();
    let (a1, b0, b1) = (&mut a1[..n], &mut b0[..n], &mut b1[..n]);
    let (c0, c1) = (&mut c0[..n], &mut c1[..n]);
    for i in 0..n {
        let (b_sum, c_sum) = (b0[i] ^ b1[i], c0[i] ^ c1[i]);
        let once = (a0[i] ^ b1[i] ^ c_sum, a1[i] ^ b_sum ^ c0[i]);
        let twice = (a0[i] ^ b_sum ^ c1[i], a1[i] ^ b0[i] ^ c_sum);
        (a0[i], a1[i]) = (a0[i] ^ b0[i] ^ c0[i], a1[i] ^ b1[i] ^ c1[i]);
        ((b0[i], b1[i]), (c0[i], c1[i])) = match turn {
            Turn::Forward => (once, twice),
            Turn::Backward => (twice, once),
        };
    }
}

#[derive(Clone, Copy)]
enum Turn {
    Forward,
    Backward,
}

/// Reads the parts of an element from any bit on: they stand here between zeros.
struct Shifter {
    half: usize,
    // Invariant: for each part `half` words of zeros, the part, and `half + LANE` words of zeros.
    padded: Zeroizing<Vec<u64>>,
}

/// What of an element a₀ + a₁ζ is read: a₀, a₁ or a₀ + a₁.
#[derive(Clone, Copy)]
enum Part {
    Low,
    High,
    Sum,
}

impl Shifter {
    fn new(half: usize) -> Self {
        Self { half, padded: Zeroizing::new(vec![0; 3 * (3 * half + LANE)]) }
    }

    /// Puts an element in the place of the last.
    #[inline(always)]
    fn load(&mut self, element: &[u64]) {
        let (half, stride) = (self.half, self.stride());
        let (low, high) = element.split_at(half);
        let (to_low, rest) = self.padded.split_at_mut(stride);
        let (to_high, to_sum) = rest.split_at_mut(stride);
        copy(&mut to_low[half..2 * half], low);
        copy(&mut to_high[half..2 * half], high);
        add_two(&mut to_sum[half..2 * half], low, high);
    }

    /// Multiplies an element by x to the power of `exponent`.
    ///
    /// The part that is shifted beyond xᴸ comes back once in either half, as x²ᴸ = xᴸ + 1.
    #[inline(always)]
    fn multiply_by_power(&mut self, element: &mut [u64], exponent: usize, bits: usize) {
        let (turns, shift) = (exponent / bits % 3, exponent % bits);
        if turns == 0 && shift == 0 {
            return;
        }
        self.load(element);
        let (low, high, sum) = match turns {
            0 => (Part::Low, Part::High, Part::Sum),
            1 => (Part::High, Part::Sum, Part::Low),
            _ => (Part::Sum, Part::Low, Part::High),
        };
        let (to_low, to_high) = element.split_at_mut(self.half);
        let (stay, back) = (64 * self.half - shift, 64 * self.half + bits - shift);
        self.read_two((low, stay), (high, back), to_low);
        self.read_two((high, stay), (sum, back), to_high);
        clear_from(to_low, bits);
        clear_from(to_high, bits);
    }

    /// Reads half an element from `bit` of a padded part on.
    #[inline(always)]
    fn read(&self, part: Part, bit: usize, to: &mut [u64]) {
        shifted(to, self.at(part, bit), bit % 64);
    }

    /// Reads the sum of what stands at two places.
    #[inline(always)]
    fn read_two(&self, one: (Part, usize), two: (Part, usize), to: &mut [u64]) {
        shifted_sum(to, self.at(one.0, one.1), one.1 % 64, self.at(two.0, two.1), two.1 % 64);
    }

    /// The words that the bits from `bit` on stand in, one more than half an element has.
    #[inline(always)]
    fn at(&self, part: Part, bit: usize) -> &[u64] {
        let from = self.start(part) + bit / 64;
        &self.padded[from..=from + self.half]
    }

    #[inline(always)]
    fn part(&self, part: Part) -> &[u64] {
        let start = self.start(part) + self.half;
        &self.padded[start..start + self.half]
    }

    const fn start(&self, part: Part) -> usize {
        self.stride() * part as usize
    }

    const fn stride(&self) -> usize {
        3 * self.half + LANE
    }
}

/// What the nearer caches hold for certain.
const CACHE_BYTES: usize = 1 << 18;

/// The time that one level of a transform takes for a word of both halves of an element, in percent
/// of that of a product of two words; measured.
const COST_OF_LEVEL_PERCENT: usize = 350;

/// Writes `from` shifted down by less than a word.
#[inline(always)]
fn shifted(to: &mut [u64], from: &[u64], shift: usize) {
    let n = to.len();
    let (low, high) = (&from[..n], &from[1..=n]);
    for i in 0..n {
        // Two shifts, because one by 64 would be none.
        to[i] = low[i] >> shift | high[i] << 1 << (63 - shift);
    }
}

/// Writes the sum of two, each shifted down by a distance of its own.
#[inline(always)]
fn shifted_sum(to: &mut [u64], one: &[u64], shift: usize, two: &[u64], other_shift: usize) {
    let n = to.len();
    let (low, high) = (&one[..n], &one[1..=n]);
    let (low2, high2) = (&two[..n], &two[1..=n]);
    for i in 0..n {
        to[i] = (low[i] >> shift | high[i] << 1 << (63 - shift))
            ^ (low2[i] >> other_shift | high2[i] << 1 << (63 - other_shift));
    }
}

/// Clears the bits from `bit` on.
#[inline(always)]
fn clear_from(words: &mut [u64], bit: usize) {
    let beyond = &mut words[bit / 64..];
    if let Some(first) = beyond.first_mut() {
        *first &= (1 << (bit % 64)) - 1;
    }
    beyond.iter_mut().skip(1).for_each(|word| *word = 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clmul::Kernel;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// The cyclic product, bit by bit.
    fn naive(plan: &Plan, a: &[u64], b: &[u64]) -> Vec<u64> {
        let cycle = plan.elements * plan.piece;
        let bit = |words: &[u64], i: usize| words[i / 64] >> (i % 64) & 1 == 1;
        let mut product = vec![0; cycle];
        for i in (0..64 * a.len()).filter(|&i| bit(a, i)) {
            for j in (0..64 * b.len()).filter(|&j| bit(b, j)) {
                let at = (i + j) % (64 * cycle);
                product[at / 64] ^= 1 << (at % 64);
            }
        }
        product
    }

    fn cyclic(plan: &Plan, a: &[u64], b: &[u64]) -> Vec<u64> {
        let kernel = Kernel::best();
        let cycle = 0..plan.elements * plan.piece;
        plan.cyclic_product(a, b, cycle, |t, x, y, _| kernel.middle(t, x, y))
    }

    #[test]
    fn a_plan_is_long_enough_and_has_its_root_of_unity() {
        for words in (1..500).chain([24_575, 24_576, 24_577, 393_216]) {
            for k in 2..9 {
                let plan = Plan::with_levels(k, words);
                assert!(words <= plan.elements * plan.piece, "{words} words, {k} levels");
                assert!(64 * plan.piece <= plan.bits && plan.bits <= 64 * plan.half);
                assert_eq!(3 * plan.bits % plan.elements, 0);
                assert_eq!(plan.half, middle::padded(plan.half));
            }
        }
    }

    #[test]
    fn full_cycles_wrap_around_at_every_depth() {
        for (k, words) in [(1, 3), (1, 6), (2, 9), (2, 45), (3, 27), (3, 54), (4, 81)] {
            let plan = Plan::with_levels(k, words);
            let a: Vec<u64> =
                (1..=words as u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
            let b: Vec<u64> = a.iter().rev().map(|word| word ^ word >> 7).collect();
            assert_eq!(cyclic(&plan, &a, &b), naive(&plan, &a, &b), "{plan:?}");
            let ones = vec![u64::MAX; words];
            assert_eq!(cyclic(&plan, &a, &ones), naive(&plan, &a, &ones), "{plan:?}");
        }
    }

    /// xᵉ·xᶠ = xᵉ⁺ᶠ, also beyond x³ᴸ = 1, and 1 + xᴸ + x²ᴸ = 0.
    #[test]
    fn powers_of_x_add_up() {
        let bits = 9 * 81;
        let half = middle::padded(12);
        let mut shifter = Shifter::new(half);
        let mut power = |exponent: usize| {
            let mut element = vec![0; 2 * half];
            element[0] = 1;
            shifter.multiply_by_power(&mut element, exponent, bits);
            element
        };
        let sum =
            |a: &[u64], b: &[u64]| -> Vec<u64> { a.iter().zip(b).map(|(a, b)| a ^ b).collect() };
        assert_eq!(sum(&power(0), &power(bits)), power(2 * bits));
        for e in 0..3 * bits {
            assert_eq!(power(e), power(e + 3 * bits));
            assert_eq!(sum(&power(e), &power(e + bits)), power(e + 2 * bits), "x to the {e}");
            let mut shifted = power(e);
            Shifter::new(half).multiply_by_power(&mut shifted, bits + 100, bits);
            assert_eq!(shifted, power(e + bits + 100));
        }
    }

    proptest! {
        #[test]
        fn cyclic_products_are_their_definition(
            k in 1_u32..5,
            a in vec(any::<u64>(), 1..40),
            b in vec(any::<u64>(), 1..40),
        ) {
            let plan = Plan::with_levels(k, a.len().max(b.len()));
            prop_assert_eq!(cyclic(&plan, &a, &b), naive(&plan, &a, &b));
        }
    }
}
