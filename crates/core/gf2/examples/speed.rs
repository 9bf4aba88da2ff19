//! Prints how fast each kernel amplifies, and how fast the polynomial hash is.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints times")]

use std::hint::black_box;
use std::time::Instant;

use claviger_gf2::{BitString, Kernel, poly_hash, toeplitz_by};

fn main() {
    let bits = |len: usize| (0..len).map(|i| i.wrapping_mul(0x9E37_79B9) >> 13 & 1 == 1);
    let median = |n: usize, work: &dyn Fn()| {
        let mut times: Vec<_> = (0..n)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        (times[0], times[n / 2])
    };
    let sizes: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let sizes = if sizes.is_empty() { vec![100_000, 1 << 17, 1 << 20, 1 << 22] } else { sizes };
    for n in sizes {
        let m = n / 2;
        let (input, seed) =
            (bits(n).collect::<BitString>(), bits(n + m - 1).collect::<BitString>());
        for kernel in Kernel::available()
            .into_iter()
            .take(std::env::var("KERNELS").map_or(9, |k| k.parse().unwrap()))
        {
            let reps = if kernel.name() == "portable" { 3 } else { (1 << 26) / n + 5 };
            let (best, med) =
                median(reps, &|| drop(black_box(toeplitz_by(kernel, black_box(&input), &seed, m))));
            println!(
                "{:<15} {n:>9} to {m:>8}: best {:.3} ms, median {:.3} ms, {:.0} Mbit/s",
                kernel.name(),
                best * 1e3,
                med * 1e3,
                n as f64 / med / 1e6
            );
        }
    }
    let message = vec![7; 1 << 20];
    let (best, med) = median(50, &|| {
        black_box(poly_hash(&[9; 16], &[black_box(&message)]));
    });
    println!("poly_hash, 1 MiB: {:.2} GB/s best {:.2}", 1.048576e-3 / med, 1.048576e-3 / best);
}
