//! Carry-less arithmetic: bit strings, Toeplitz hashing, polynomial hashing over GF(2¹²⁸).
//!
//! Everything here works on secrets: nothing branches on a bit or looks up by it except where a
//! caller asks for single bits, and every buffer is wiped when it is dropped. The only `unsafe` of
//! the project is the call of the CPU's carry-less multiplication in `clmul`; a portable twin does
//! the same, and property tests hold the two equal.
//!
//! A Toeplitz hash (`toeplitz`) is made of middle products (`middle`), for long inputs between
//! Fourier transforms (`ternary`), both compiled for each instruction set that the CPU may have.

mod bits;
mod clmul;
mod lanes;
mod middle;
mod poly;
mod ternary;
mod toeplitz;

pub use bits::BitString;
pub use clmul::Kernel;
pub use poly::{Gf128, PolyHasher, poly_hash};
pub use toeplitz::{toeplitz, toeplitz_by};
