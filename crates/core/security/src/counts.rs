//! What a block has shown.

/// Counts that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{errors} errors among {detections} detections: one of the two was counted wrongly")]
pub struct CountsError {
    errors: u64,
    detections: u64,
}

/// Detections and errors of one basis, for each of K intensities, the brightest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts<const K: usize> {
    // Invariant: no error without a detection, and the sums fit 64 bits.
    detections: [u64; K],
    errors: [u64; K],
}

impl<const K: usize> Counts<K> {
    /// Makes counts; more errors than detections are refused.
    pub fn try_new(detections: [u64; K], errors: [u64; K]) -> Result<Self, CountsError> {
        let mut pairs = errors.into_iter().zip(detections);
        match pairs.find(|(errors, detections)| errors > detections || *detections > MOST) {
            Some((errors, detections)) => Err(CountsError { errors, detections }),
            None => Ok(Self { detections, errors }),
        }
    }

    /// Makes counts from expected numbers, rounded.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an expected count is no part of a count; the cast saturates"
    )]
    pub(crate) fn rounded(detections: [f64; K], errors: [f64; K]) -> Self {
        let count = |x: f64| (x.round() as u64).min(MOST);
        let detections = detections.map(count);
        let errors = std::array::from_fn(|k| count(errors[k]).min(detections[k]));
        Self { detections, errors }
    }

    /// Returns the detections of each intensity.
    #[must_use]
    pub const fn detections(&self) -> [u64; K] {
        self.detections
    }

    /// Returns the errors of each intensity.
    #[must_use]
    pub const fn errors(&self) -> [u64; K] {
        self.errors
    }

    /// Returns the detections of all intensities.
    #[must_use]
    pub fn all_detections(&self) -> u64 {
        self.detections.iter().sum()
    }

    /// Returns the errors of all intensities.
    #[must_use]
    pub fn all_errors(&self) -> u64 {
        self.errors.iter().sum()
    }
}

/// More detections of one intensity than any block has; keeps every sum exact in 64-bit floats.
const MOST: u64 = 1 << 50;

/// The counts of a block in both bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed<const K: usize> {
    /// The basis that the key comes from (X of Lim et al., Z of Rusca et al.). Its errors are
    /// those that reconciliation has corrected; one decoy needs them for the vacuum, two do not.
    pub key: Counts<K>,
    /// The other basis: every bit is disclosed, and its errors bound the phase errors of the key.
    pub test: Counts<K>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_errors_than_detections_are_refused() {
        assert!(Counts::try_new([5, 3], [5, 3]).is_ok());
        let error = Counts::try_new([5, 3], [0, 4]).unwrap_err().to_string();
        assert!(error.starts_with("4 errors among 3 detections"), "{error}");
        assert!(Counts::try_new([u64::MAX, 3], [0, 0]).is_err());
    }
}
