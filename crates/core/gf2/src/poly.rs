//! Polynomial hashing over GF(2¹²⁸), the universal hash of tags and of verification.

use core::fmt;
use core::ops::{Add, Mul};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::clmul::Kernel;

/// An element of GF(2¹²⁸) = GF(2)\[x\] / (x¹²⁸ + x⁷ + x² + x + 1).
///
/// Bit i of the number is the coefficient of xⁱ, and bytes are little-endian: bit i is bit i mod 8
/// of byte i / 8. (The reverse of GCM's order.)
#[derive(Clone, Copy, Default, PartialEq, Eq, Zeroize)]
pub struct Gf128(u128);

impl Gf128 {
    /// Reads an element, lowest coefficients first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// Returns the bytes, lowest coefficients first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// Returns low + middle·x⁶⁴ + high·x¹²⁸.
    const fn reduced(low: u128, middle: u128, high: u128) -> Self {
        let (low, high) = (low ^ middle << 64, high ^ middle >> 64);
        // x¹²⁸ = x⁷ + x² + x + 1; what this pushes beyond the top comes round once more.
        let beyond = high >> 127 ^ high >> 126 ^ high >> 121;
        let folded = high ^ beyond;
        Self(low ^ folded ^ folded << 1 ^ folded << 2 ^ folded << 7)
    }

    /// Splits into the coefficients below and from x⁶⁴ on.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    const fn halves(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }
}

#[expect(clippy::suspicious_arithmetic_impl, reason = "addition without carries is exclusive or")]
impl Add for Gf128 {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }
}

impl Mul for Gf128 {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let (a, b) = (self.halves(), other.halves());
        let kernel = Kernel::best();
        let middle = kernel.convolve(&a, &b);
        let low = kernel.convolve(&a[..1], &b[..1]);
        let high = kernel.convolve(&a[1..], &b[1..]);
        Self::reduced(low, middle, high)
    }
}

impl fmt::Debug for Gf128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gf128(..)")
    }
}

/// Hashes a message that arrives in pieces under a 128-bit key k.
///
/// The message is cut into blocks m₁ … mₙ of 16 bytes, the last filled up with zeros, and followed
/// by a block with its length in bytes: the hash is Σ mᵢ·kⁿ⁺²⁻ⁱ + length·k (Horner's rule). For any two
/// different messages of at most n blocks and any difference of hashes, at most a share of
/// (n + 1) / 2¹²⁸ of the keys gives that difference; cut to t bits, (n + 1) / 2ᵗ.
///
/// A hash alone hides neither the key nor the message: encrypt it with a one-time pad
/// (PROTOCOL.md P4), or publish the key only after the message is fixed.
///
/// ```
/// use claviger_gf2::{PolyHasher, poly_hash};
///
/// let mut hasher = PolyHasher::new(&[7; 16]);
/// hasher.update(b"sift").update(b"ed");
/// assert_eq!(hasher.finish(), poly_hash(&[7; 16], &[b"sifted"]));
/// ```
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PolyHasher {
    key: Gf128,
    sum: Gf128,
    // Invariant: the bytes of `partial` from `length % 16` on are zero.
    partial: [u8; 16],
    length: u64,
}

impl PolyHasher {
    /// Starts a hash.
    #[must_use]
    pub const fn new(key: &[u8; 16]) -> Self {
        Self { key: Gf128::from_bytes(*key), sum: Gf128(0), partial: [0; 16], length: 0 }
    }

    /// Adds a piece of the message. Where one piece ends and the next begins is not hashed.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        let to_a_block = (16 - self.used()) % 16;
        let (first, rest) = bytes.split_at(bytes.len().min(to_a_block));
        self.update_block_by_block(first);
        // The powers of the key that a run needs are worth their time in several runs.
        let (runs, rest) =
            if rest.len() < 4 * 16 * RUN { (&[][..], rest) } else { rest.as_chunks() };
        self.absorb_runs(runs);
        self.update_block_by_block(rest);
        self
    }

    fn update_block_by_block(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = self.used();
            let (now, later) = bytes.split_at(bytes.len().min(16 - used));
            self.partial[used..used + now.len()].copy_from_slice(now);
            self.length += now.len() as u64;
            if self.used() == 0 {
                self.absorb(self.partial);
                self.partial = [0; 16];
            }
            bytes = later;
        }
    }

    /// Returns the hash of all pieces.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        if self.used() > 0 {
            self.absorb(self.partial);
        }
        self.absorb(u128::from(self.length).to_le_bytes());
        self.sum.to_bytes()
    }

    const fn used(&self) -> usize {
        (self.length % 16) as usize
    }

    fn absorb(&mut self, block: [u8; 16]) {
        self.sum = (self.sum + Gf128::from_bytes(block)) * self.key;
    }

    /// Takes in runs of blocks, with one reduction for each instead of one for each block:
    /// (…((sum + m₁)·k + m₂)·k + …)·k = (sum + m₁)·kʳ + m₂·kʳ⁻¹ + … + mᵣ·k.
    fn absorb_runs(&mut self, runs: &[[u8; 16 * RUN]]) {
        if runs.is_empty() {
            return;
        }
        let kernel = Kernel::best();
        let powers = Run::powers_of(self.key);
        let mut terms = Run::ZERO;
        for run in runs {
            for (i, block) in run.as_chunks().0.iter().enumerate() {
                let carried = if i == 0 { self.sum } else { Gf128(0) };
                terms.set(i, Gf128::from_bytes(*block) + carried);
            }
            self.sum = terms.convolve(&powers, kernel);
            self.length += run.len() as u64;
        }
    }
}

/// As many elements as are multiplied before a reduction, split in halves.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Run {
    low: [u64; RUN],
    high: [u64; RUN],
    // Invariant: `low` + `high`, for Karatsuba's three products instead of four.
    sum: [u64; RUN],
}

impl Run {
    const ZERO: Self = Self { low: [0; RUN], high: [0; RUN], sum: [0; RUN] };

    /// k, k², … k to the power of `RUN`.
    fn powers_of(key: Gf128) -> Self {
        let (mut powers, mut power) = (Self::ZERO, key);
        for i in 0..RUN {
            powers.set(i, power);
            power = power * key;
        }
        powers
    }

    const fn set(&mut self, i: usize, element: Gf128) {
        let [low, high] = element.halves();
        (self.low[i], self.high[i], self.sum[i]) = (low, high, low ^ high);
    }

    /// Returns the sum of the products of the first with the last, the second with the one before …
    fn convolve(&self, other: &Self, kernel: Kernel) -> Gf128 {
        let low = kernel.convolve(&self.low, &other.low);
        let high = kernel.convolve(&self.high, &other.high);
        let middle = kernel.convolve(&self.sum, &other.sum) ^ low ^ high;
        Gf128::reduced(low, middle, high)
    }
}

/// Blocks that share a reduction.
const RUN: usize = 16;

impl fmt::Debug for PolyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolyHasher(.. {} bytes)", self.length)
    }
}

/// Hashes the concatenation of `parts` in one go; see [`PolyHasher`] for what it promises.
///
/// `["ab", "c"]` and `["a", "bc"]` hash alike: where parts have free lengths, put the lengths in.
#[must_use]
pub fn poly_hash(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = PolyHasher::new(key);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Shift and add, one coefficient at a time, with lists of coefficients instead of numbers.
    fn bitwise(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
        let bit = |bytes: &[u8; 16], i: usize| bytes[i / 8] >> (i % 8) & 1;
        let mut product = [0_u8; 255];
        for i in 0..128 {
            for j in 0..128 {
                product[i + j] ^= bit(&a, i) & bit(&b, j);
            }
        }
        for i in (128..255).rev() {
            for power in [7, 2, 1, 0] {
                product[i - 128 + power] ^= product[i];
            }
        }
        let mut bytes = [0; 16];
        (0..128).for_each(|i| bytes[i / 8] |= product[i] << (i % 8));
        bytes
    }

    fn bitwise_hash(key: [u8; 16], message: &[u8]) -> [u8; 16] {
        let mut sum = [0; 16];
        let length = (message.len() as u128).to_le_bytes();
        for block in message.chunks(16).chain([&length[..]]) {
            for (mine, theirs) in sum.iter_mut().zip(block) {
                *mine ^= theirs;
            }
            sum = bitwise(sum, key);
        }
        sum
    }

    /// x¹²⁷·x = x⁷ + x² + x + 1, and x¹²⁷·x¹²⁷ by hand: x²⁵⁴ = x¹²⁶·(x⁷+x²+x+1)
    /// = x¹²⁶ + x¹²⁷ + x¹²⁸ + x¹³³ = x¹²⁶ + x¹²⁷ + (1 + x⁵)(x⁷ + x² + x + 1).
    #[test]
    fn the_polynomial_is_the_one_named() {
        let top = Gf128(1 << 127);
        assert_eq!((top * Gf128(2)).0, 0x87);
        assert_eq!((top * top).0, 1 << 127 | 1 << 126 | 0x87 ^ 0x87 << 5);
        assert_eq!((top * Gf128(1)).0, 1 << 127);
    }

    #[test]
    fn length_and_padding_count() {
        let key = [9; 16];
        let of = |message: &[u8]| poly_hash(&key, &[message]);
        assert_ne!(of(b"ab"), of(b"ab\0"));
        assert_ne!(of(&[0; 16]), of(&[0; 32]));
        assert_ne!(of(b""), of(b"\0"));
        assert_eq!(of(b""), [0; 16], "the empty message is the zero polynomial");
    }

    proptest! {
        #[test]
        fn multiplication_is_the_bitwise_one(a: [u8; 16], b: [u8; 16]) {
            let product = Gf128::from_bytes(a) * Gf128::from_bytes(b);
            prop_assert_eq!(product.to_bytes(), bitwise(a, b));
        }

        #[test]
        fn the_hash_is_the_bitwise_one_however_it_is_cut(
            key: [u8; 16],
            message in prop_oneof![vec(any::<u8>(), 0..100), vec(any::<u8>(), 1000..2400)],
            cuts in vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(message.len() + 1)).collect();
            cuts.sort_unstable();
            let mut hasher = PolyHasher::new(&key);
            let mut start = 0;
            for cut in cuts {
                hasher.update(&message[start..cut]);
                start = cut;
            }
            hasher.update(&message[start..]);
            prop_assert_eq!(hasher.finish(), bitwise_hash(key, &message));
        }
    }
}
