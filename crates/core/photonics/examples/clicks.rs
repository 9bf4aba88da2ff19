//! Prints how many clicks a second one core simulates, and how fast that is against the link.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints times")]

use std::time::Instant;

use claviger_photonics::{Eve, Fibre, LinkPreset};
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

fn main() -> Result<(), claviger_photonics::preset::PresetError> {
    for name in LinkPreset::NAMES {
        let preset = LinkPreset::named(name)?;
        let rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut fibre = Fibre::new(&preset, &[1; 32], &[2; 32], Eve::ABSENT, rng);
        let start = Instant::now();
        let clicks = std::iter::from_fn(|| fibre.click_before(u64::MAX)).take(5_000_000);
        let end = clicks.last().map_or(0, |click| click.pulse);
        let (took, light) = (start.elapsed().as_secs_f64(), preset.time_of(end));
        println!(
            "{name}: {:.1} million clicks/s, {:.0} times the link",
            5.0 / took,
            light.as_secs_f64() / took
        );
    }
    Ok(())
}
