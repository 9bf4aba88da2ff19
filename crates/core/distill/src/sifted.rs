//! The sifted clicks of a batch.

use claviger_gf2::BitString;
use claviger_photonics::promise::ByIntensity;
use claviger_photonics::sift::{Purpose, Sifted};

/// The clicks of a batch that both ends keep, as one end has them, in order.
#[derive(Debug, Default)]
pub(crate) struct SiftedBatch {
    /// Bits that may become key.
    pub(crate) key: BitString,
    /// The intensity of each.
    pub(crate) intensities: Vec<u8>,
    /// Bits that are disclosed.
    pub(crate) tests: BitString,
    /// The intensity of each.
    pub(crate) test_intensities: Vec<u8>,
}

impl SiftedBatch {
    pub(crate) fn push(&mut self, click: Sifted) {
        let (bits, intensities) = match click.purpose {
            Purpose::Key => (&mut self.key, &mut self.intensities),
            Purpose::Test => (&mut self.tests, &mut self.test_intensities),
        };
        bits.push(click.bit);
        intensities.push(click.intensity);
    }

    /// Counts the tests that differ from the other end's, by intensity.
    pub(crate) fn test_errors(&self, theirs: &BitString) -> ByIntensity<u32> {
        let mut differing = self.tests.duplicate();
        differing.xor(theirs);
        let mut errors = [0; 3];
        for (_, &k) in differing.iter().zip(&self.test_intensities).filter(|(wrong, _)| *wrong) {
            errors[usize::from(k)] += 1;
        }
        errors
    }
}

/// Counts entries by intensity.
pub(crate) fn count(intensities: &[u8]) -> ByIntensity<u64> {
    let mut counts = [0; 3];
    for &k in intensities {
        counts[usize::from(k)] += 1;
    }
    counts
}
