//! Decibels, fractions, bits and bit rates.

use core::fmt;
use core::ops::{Add, AddAssign, Div, Mul, Sub};

use crate::time::Span;

/// A number that does not fit its quantity.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantityError {
    /// A loss below zero, or not a number: give 0 dB or more.
    #[error("{0} dB is not a loss; it must be 0 or more")]
    Loss(f64),
    /// A fraction outside [0, 1]: give a number in that range.
    #[error("{0} is not a fraction; it must lie between 0 and 1")]
    Fraction(f64),
}

/// An optical loss in decibels, 0 or more.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Decibels(f64);

impl Decibels {
    /// No loss.
    pub const ZERO: Self = Self(0.0);

    /// Makes a loss from decibels.
    pub fn from_db(db: f64) -> Result<Self, QuantityError> {
        if db.is_finite() && db >= 0.0 { Ok(Self(db)) } else { Err(QuantityError::Loss(db)) }
    }

    /// Returns the decibels.
    #[must_use]
    pub const fn as_db(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Decibels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dB", self.0)
    }
}

/// A probability, ratio or error rate between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Fraction(f64);

impl Fraction {
    /// Nothing of the whole.
    pub const ZERO: Self = Self(0.0);
    /// The whole.
    pub const ONE: Self = Self(1.0);

    /// Makes a fraction; refuses what lies outside [0, 1] and what is not a number.
    pub fn try_new(value: f64) -> Result<Self, QuantityError> {
        if (0.0..=1.0).contains(&value) {
            Ok(Self(value))
        } else {
            Err(QuantityError::Fraction(value))
        }
    }

    /// Makes a fraction; what lies outside [0, 1] is moved to the nearer end.
    #[must_use]
    pub fn clamped(value: f64) -> Self {
        if value > 0.0 { Self(value.min(1.0)) } else { Self(0.0) }
    }

    /// Makes the fraction `part / whole`, zero of an empty whole.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn of(part: u64, whole: u64) -> Self {
        if whole == 0 { Self::ZERO } else { Self::clamped(part as f64 / whole as f64) }
    }

    /// Returns the bare number in [0, 1].
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    /// Returns the number times one hundred.
    #[must_use]
    pub fn as_percent(self) -> f64 {
        self.0 * 100.0
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", self.as_percent())
    }
}

/// A number of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits(u64);

impl Bits {
    /// No bits.
    pub const ZERO: Self = Self(0);
    /// One key of the paper.
    pub const KEY: Self = Self(256);

    /// Makes a number of bits.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the bits.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0
    }

    /// Returns `self - other`, zero where `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Bits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign for Bits {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sub for Bits {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

/// How many whole times the right side fits.
impl Div for Bits {
    type Output = u64;

    fn div(self, other: Self) -> u64 {
        self.0 / other.0
    }
}

/// The rate at which `Bits` arrived within a span; zero within no time.
impl Div<Span> for Bits {
    type Output = BitRate;

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn div(self, span: Span) -> BitRate {
        let secs = span.as_secs_f64();
        BitRate(if secs > 0.0 { self.0 as f64 / secs } else { 0.0 })
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit", self.0)
    }
}

/// A rate in bits per second, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct BitRate(f64);

impl BitRate {
    /// Makes a rate from bits per second; what is negative or undefined becomes zero.
    #[must_use]
    pub fn from_bps(bps: f64) -> Self {
        Self(if bps > 0.0 { bps } else { 0.0 })
    }

    /// Returns the bits per second.
    #[must_use]
    pub const fn as_bps(self) -> f64 {
        self.0
    }
}

impl Mul<Span> for BitRate {
    type Output = Bits;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a partial bit is no bit; the cast saturates"
    )]
    fn mul(self, span: Span) -> Bits {
        Bits((self.0 * span.as_secs_f64()) as u64)
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} bit/s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_HOUR: Span = Span::from_secs(1800);

    /// Paper, performance evaluation: about 13 000 and 9 000 keys in half an hour at the two rates.
    #[test]
    fn half_hour_key_counts_match_the_paper() {
        for (bps, keys, printed) in [(1880.0, 13_218, 13_000), (1220.0, 8_578, 9_000_u64)] {
            let got = (BitRate::from_bps(bps) * HALF_HOUR) / Bits::KEY;
            assert_eq!(got, keys);
            assert!(got.abs_diff(printed) * 20 <= printed, "more than 5 % off the printed value");
        }
    }

    /// Paper, key buffer: 1 Mbit is about 3900 keys and refills in 9 or 13 minutes.
    #[test]
    fn buffer_of_one_megabit_matches_the_paper() {
        let buffer = Bits::new(1_000_000);
        assert_eq!(buffer / Bits::KEY, 3906);
        for (bps, minutes, printed) in [(1880.0, 8.87, 9.0), (1220.0, 13.66, 13.0)] {
            #[expect(clippy::cast_precision_loss, reason = "a million is exact")]
            let fill = buffer.count() as f64 / bps / 60.0_f64;
            assert!((fill - minutes).abs() < 0.01);
            assert!((fill - printed).abs() / printed < 0.06, "more than 6 % off the printed value");
        }
    }

    #[test]
    fn quantities_refuse_what_they_cannot_be() {
        assert_eq!(Decibels::from_db(-1.0), Err(QuantityError::Loss(-1.0)));
        assert!(Decibels::from_db(f64::NAN).is_err());
        assert_eq!(Fraction::try_new(1.5), Err(QuantityError::Fraction(1.5)));
        assert!(Fraction::try_new(f64::NAN).is_err());
        assert_eq!(Fraction::clamped(f64::NAN), Fraction::ZERO);
        assert_eq!(Bits::new(5) / Span::ZERO, BitRate::from_bps(0.0));
    }
}
