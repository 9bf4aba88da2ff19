//! How fast privacy amplification is, and beside it the hash of tags and of verification.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use claviger_gf2::{BitString, Kernel, poly_hash, toeplitz_by};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::SEED;
use crate::figure::{Figure, Length};

/// Input bits amplified to half as many, on one core: the median of some runs.
pub(crate) fn speeds(length: Length) -> Result<Vec<Figure>> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let exponents: &[u32] = if length == Length::Quick { &[17, 20] } else { &[17, 20, 22, 24] };
    let mut remarks = vec!["2^20 bits to 2^19, seed given; bar 100, aim 500".to_owned()];
    let mut value = 0.0;
    for &exponent in exponents {
        let block = Block::random(1 << exponent, &mut rng);
        let kernels = Kernel::available();
        let speeds: Vec<f64> = kernels.iter().map(|kernel| block.mbit_s(*kernel)).collect();
        if exponent == 20 {
            value = speeds[0];
        }
        let named = kernels.iter().zip(&speeds);
        let named: Vec<_> = named.map(|(kernel, x)| format!("{} {x:.0}", kernel.name())).collect();
        remarks.push(format!("2^{exponent} bits: {}", named.join(", ")));
    }
    remarks.push("others at 2^20: 491 (additive FFT, AVX2), 50 (Karatsuba), 25 (gf2x)".to_owned());
    remarks.push(format!("polynomial hash of 1 MiB: {:.2} GB/s", hash_gb_s(&mut rng)));
    Ok(vec![Figure { name: "pa_mbit_s_2p20", value, unit: "Mbit/s", remarks }])
}

struct Block {
    input: BitString,
    seed: BitString,
    output_bits: usize,
}

impl Block {
    fn random(n: usize, rng: &mut StdRng) -> Self {
        let output_bits = n / 2;
        let mut bits = |len: usize| (0..len).map(|_| rng.random::<bool>()).collect();
        Self { input: bits(n), seed: bits(n + output_bits - 1), output_bits }
    }

    fn mbit_s(&self, kernel: Kernel) -> f64 {
        let (input, seed) = (&self.input, &self.seed);
        let seconds = median_seconds(|| {
            drop(black_box(toeplitz_by(kernel, black_box(input), seed, self.output_bits)));
        });
        input.len() as f64 / seconds / 1e6
    }
}

fn hash_gb_s(rng: &mut StdRng) -> f64 {
    let message: Vec<u8> = (0..1 << 20).map(|_| rng.random()).collect();
    let seconds = median_seconds(|| {
        black_box(poly_hash(&[9; 16], &[black_box(&message)]));
    });
    message.len() as f64 / seconds / 1e9
}

/// The median over as many runs as fit into a third of a second, three at least.
fn median_seconds(mut work: impl FnMut()) -> f64 {
    work();
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begun.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        work();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
