//! Prints how long the amplification of one block and the hash of one megabyte take.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints times")]

use std::hint::black_box;
use std::time::Instant;

use claviger_gf2::{BitString, poly_hash, toeplitz};

fn main() {
    let bits = |len: usize| (0..len).map(|i| i.wrapping_mul(0x9E37_79B9) >> 13 & 1 == 1);
    let (input, seed) =
        (bits(100_000).collect::<BitString>(), bits(139_999).collect::<BitString>());
    let best = |work: &dyn Fn()| {
        let times = (0..20).map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let block = best(&|| drop(black_box(toeplitz(black_box(&input), &seed, 40_000))));
    println!("toeplitz, 100 000 to 40 000 bits: {block:?}");
    let message = vec![7; 1 << 20];
    let hash = best(&|| {
        black_box(poly_hash(&[9; 16], &[black_box(&message)]));
    });
    println!("poly_hash, 1 MiB: {hash:?}");
}
