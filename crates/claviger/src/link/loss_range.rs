//! `--loss-db 0..20`: losses from one end to the other.

use std::str::FromStr;

use claviger_units::{Decibels, QuantityError};

/// Losses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LossRange {
    // Invariant: `from <= to <= MOST_DB`.
    from: Decibels,
    to: Decibels,
}

/// A text that is no range of losses, or a range that cannot be worked through.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum LossRangeError {
    /// It is neither a number nor two with `..` between: write one of these.
    #[error("`{0}` is no loss and no range of losses: write decibels such as 4, or 0..20")]
    Malformed(String),
    /// A loss cannot be negative.
    #[error(transparent)]
    Loss(#[from] QuantityError),
    /// The larger loss stands first: turn them round.
    #[error("the losses are the wrong way round: write {to}..{from}", from = .from.as_db(), to = .to.as_db())]
    Reversed {
        /// What stands first.
        from: Decibels,
        /// What stands last.
        to: Decibels,
    },
    /// No fibre is so long: stay below.
    #[error("{0} is more than any link bears: stay at {MOST_DB} dB or below")]
    TooFar(Decibels),
    /// Every point is a link of its own: take larger steps.
    #[error(
        "these are {points} losses, and at most {MOST_POINTS} are worked through: take a larger --step, such as --step {step}"
    )]
    TooMany {
        /// How many there would be.
        points: usize,
        /// A step that would do.
        step: f64,
    },
}

const MOST_DB: f64 = 60.0;
const MOST_POINTS: usize = 200;

impl FromStr for LossRange {
    type Err = LossRangeError;

    fn from_str(text: &str) -> Result<Self, LossRangeError> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let loss = |part: &str| {
            let db = part.trim().parse().or(Err(LossRangeError::Malformed(text.to_owned())))?;
            Ok::<_, LossRangeError>(Decibels::from_db(db)?)
        };
        let (from, to) = (loss(from)?, loss(to)?);
        match [from, to].into_iter().find(|db| db.as_db() > MOST_DB) {
            Some(far) => Err(LossRangeError::TooFar(far)),
            None if from > to => Err(LossRangeError::Reversed { from, to }),
            None => Ok(Self { from, to }),
        }
    }
}

impl LossRange {
    /// Returns the losses from one end to the other; the last step may be a shorter one.
    pub(crate) fn points(self, step: Decibels) -> Result<Vec<Decibels>, LossRangeError> {
        let width = self.to.as_db() - self.from.as_db();
        let steps = steps(width / step.as_db());
        if steps >= MOST_POINTS {
            let step = (width / 100.0).max(0.01);
            return Err(LossRangeError::TooMany { points: steps + 1, step });
        }
        let at = |n: u8| self.from.as_db() + f64::from(n) * step.as_db();
        let most = u8::try_from(MOST_POINTS).unwrap_or(u8::MAX);
        let inner = (0..most).map(at).take_while(|db| *db < self.to.as_db() - 1e-9);
        // Without the noise of binary fractions, so that 0.3 is the same loss however it is reached.
        let losses = inner.chain([self.to.as_db()]).map(|db| (db * 1e6).round() / 1e6);
        Ok(losses.filter_map(|db| Decibels::from_db(db).ok()).collect())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 60 dB in steps of 0.01; the cast saturates"
)]
fn steps(of: f64) -> usize {
    (of - 1e-9).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(text: &str, step: f64) -> Vec<f64> {
        let range: LossRange = text.parse().unwrap();
        let points = range.points(Decibels::from_db(step).unwrap()).unwrap();
        points.into_iter().map(Decibels::as_db).collect()
    }

    #[test]
    fn both_ends_are_included() {
        assert_eq!(points("0..3", 1.0), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(points("0..1", 0.4), [0.0, 0.4, 0.8, 1.0]);
        assert_eq!(points("0..0.3", 0.1), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(points("4", 1.0), [4.0]);
        assert_eq!(points("7.5..7.5", 0.01), [7.5]);
        assert_eq!(points("0..20", 1.0).len(), 21);
    }

    #[test]
    fn what_is_no_range_is_refused_with_what_would_be_right() {
        for (text, right) in [
            ("", "such as 4, or 0..20"),
            ("a..b", "such as 4, or 0..20"),
            ("0-20", "such as 4, or 0..20"),
            ("0..", "such as 4, or 0..20"),
            ("20..0", "write 0..20"),
            ("-1..4", "0 or more"),
            ("0..NaN", "0 or more"),
            ("0..1000", "stay at 60 dB"),
        ] {
            let error = text.parse::<LossRange>().unwrap_err().to_string();
            assert!(error.contains(right), "{text}: {error}");
        }
    }

    #[test]
    fn too_many_points_are_refused_with_a_step_that_does() {
        let range: LossRange = "0..60".parse().unwrap();
        let step = |db| Decibels::from_db(db).unwrap();
        let refused = range.points(step(0.01)).unwrap_err();
        assert_eq!(refused, LossRangeError::TooMany { points: 6001, step: 0.6 });
        assert!(refused.to_string().contains("--step 0.6"));
        assert_eq!(range.points(step(0.6)).unwrap().len(), 101);
    }
}
