//! How bad a link is.

use std::fmt;
use std::str::FromStr;

use claviger_units::{BitRate, Fraction, Span};

/// What happens to frames on one direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// From the last bit sent to the last bit received.
    pub delay: Span,
    /// How much more or less it may be, evenly; frames stay in order.
    pub jitter: Span,
    /// The share of frames that never arrive, each by itself.
    pub loss: Fraction,
    /// How fast bits are sent; a frame waits for those before it, [`Impairment::QUEUE`] at most.
    pub rate: Option<BitRate>,
}

/// A text that is no impairment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no link: {why}; write fibre, wifi, 802.15.4 or such as delay=5ms,jitter=1ms,loss=1%,rate=250k"
)]
pub struct ImpairmentError {
    text: String,
    why: &'static str,
}

impl Impairment {
    /// The longest that a frame waits for its turn; those that would wait longer are dropped.
    pub const QUEUE: Span = Span::from_secs(1);

    /// 25 km of single-mode fibre: 4.9 µs/km at 1550 nm (group index 1.468), and 1 Gbit/s.
    #[must_use]
    pub fn fibre() -> Self {
        let rate = Some(BitRate::from_bps(1e9));
        let delay = Span::from_micros(123);
        Self { delay, jitter: Span::from_micros(0), loss: Fraction::ZERO, rate }
    }

    /// A busy cell of IEEE 802.11n at 2.4 GHz. Chosen, not measured: what is left for one station at
    /// 20 MHz with rivals, 1 to 3 ms to get its turn, and what retries do not mend.
    #[must_use]
    pub fn wifi() -> Self {
        Self {
            delay: Span::from_millis(2),
            jitter: Span::from_millis(1),
            loss: Fraction::clamped(0.005),
            rate: Some(BitRate::from_bps(20e6)),
        }
    }

    /// One hop of IEEE 802.15.4 at 2.4 GHz: 250 kbit/s, which is 32 µs for a byte; the first backoff of
    /// CSMA-CA is 0 to 7 units of 320 µs (IEEE 802.15.4-2020, `macMinBe` 3), and assessment and turnaround
    /// add 0.32 ms. The loss is chosen: 1 % after retries.
    #[must_use]
    pub fn low_power_radio() -> Self {
        Self {
            delay: Span::from_micros(1_440),
            jitter: Span::from_micros(1_120),
            loss: Fraction::clamped(0.01),
            rate: Some(BitRate::from_bps(250e3)),
        }
    }
}

impl FromStr for Impairment {
    type Err = ImpairmentError;

    fn from_str(text: &str) -> Result<Self, ImpairmentError> {
        match text {
            "fibre" => return Ok(Self::fibre()),
            "wifi" => return Ok(Self::wifi()),
            "802.15.4" => return Ok(Self::low_power_radio()),
            _ => {}
        }
        let wrong = |why| ImpairmentError { text: text.to_owned(), why };
        let none = Span::from_micros(0);
        let mut link = Self { delay: none, jitter: none, loss: Fraction::ZERO, rate: None };
        for part in text.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| wrong("NAME=VALUE is missing"))?;
            match name {
                "delay" => link.delay = span(value).map_err(wrong)?,
                "jitter" => link.jitter = span(value).map_err(wrong)?,
                "loss" => link.loss = share(value).map_err(wrong)?,
                "rate" => link.rate = Some(rate(value).map_err(wrong)?),
                _ => return Err(wrong("only delay, jitter, loss and rate are known")),
            }
        }
        if link.jitter > link.delay {
            return Err(wrong("the jitter is larger than the delay"));
        }
        Ok(link)
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |span: Span| span.as_secs_f64() * 1e3;
        let (delay, jitter) = (millis(self.delay), millis(self.jitter));
        write!(f, "delay={delay}ms,jitter={jitter}ms,loss={}%", self.loss.as_percent())?;
        match self.rate {
            Some(rate) => write!(f, ",rate={}k", rate.as_bps() / 1e3),
            None => Ok(()),
        }
    }
}

fn span(text: &str) -> Result<Span, &'static str> {
    let (number, per_second) = match (text.strip_suffix("us"), text.strip_suffix("ms")) {
        (Some(number), _) => (number, 1e6),
        (_, Some(number)) => (number, 1e3),
        _ => (text.strip_suffix('s').ok_or("a time needs us, ms or s")?, 1.0),
    };
    let seconds = positive(number).ok_or("a time is a number from 0 on")? / per_second;
    if seconds > 60.0 { Err("a time is 60 s at most") } else { Ok(Span::from_secs_f64(seconds)) }
}

fn share(text: &str) -> Result<Fraction, &'static str> {
    let number = text.strip_suffix('%').and_then(positive).ok_or("a loss is such as 1%")?;
    Fraction::try_new(number / 100.0).or(Err("a loss lies between 0% and 100%"))
}

fn rate(text: &str) -> Result<BitRate, &'static str> {
    let (number, factor) = match (text.strip_suffix('k'), text.strip_suffix('M')) {
        (Some(number), _) => (number, 1e3),
        (_, Some(number)) => (number, 1e6),
        _ => (text.strip_suffix('G').ok_or("a rate needs k, M or G, for bits in a second")?, 1e9),
    };
    let bps = positive(number).map(|number| number * factor);
    let fits = bps.filter(|bps| (1e3..=1e12).contains(bps));
    fits.map(BitRate::from_bps).ok_or("a rate lies between 1k and 1000G")
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_written_as_it_is_read() {
        let text = "delay=5ms,jitter=1ms,loss=1%,rate=250k";
        let link: Impairment = text.parse().unwrap();
        assert_eq!(link.delay, Span::from_millis(5));
        assert_eq!(link.to_string(), text);
        for link in [Impairment::fibre(), Impairment::wifi(), Impairment::low_power_radio()] {
            assert_eq!(link.to_string().parse(), Ok(link));
        }
        assert_eq!("wifi".parse(), Ok(Impairment::wifi()));
    }

    #[test]
    fn what_is_no_link_is_refused_with_an_example() {
        let wrong = [
            "",
            "lte",
            "delay",
            "delay=5",
            "delay=-1ms",
            "loss=2",
            "loss=101%",
            "rate=5",
            "rate=0k",
            "delay=1ms,jitter=2ms",
            "delay=NaNms",
            "delay=61s",
            "speed=1k",
        ];
        for text in wrong {
            let told = text.parse::<Impairment>().unwrap_err().to_string();
            assert!(told.contains("delay=5ms") && told.contains(text), "{told}");
        }
    }
}
