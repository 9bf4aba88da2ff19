//! How many keys were handed out lately.

use claviger_units::{Span, Timestamp};

/// A count over about the last `span`, from two buckets of that length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    span: Span,
    begun: Timestamp,
    current: u64,
    previous: u64,
}

impl Meter {
    pub(crate) const fn start(now: Timestamp, span: Span) -> Self {
        Self { span, begun: now, current: 0, previous: 0 }
    }

    pub(crate) fn add(&mut self, now: Timestamp, n: u64) {
        *self = self.rolled(now);
        self.current += n;
    }

    /// Returns the count over the span before `now`; the older bucket counts by what is left of it.
    pub(crate) fn count(&self, now: Timestamp) -> u64 {
        let rolled = self.rolled(now);
        let span = self.span.as_micros().max(1);
        let left = span.saturating_sub(now.since(rolled.begun).as_micros());
        let older = u128::from(rolled.previous) * u128::from(left) / u128::from(span);
        rolled.current + u64::try_from(older).unwrap_or(rolled.previous)
    }

    fn rolled(self, now: Timestamp) -> Self {
        let next = self.begun + self.span;
        if now < next {
            self
        } else if now < next + self.span {
            Self { begun: next, previous: self.current, current: 0, ..self }
        } else {
            Self::start(now, self.span)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_fades_over_two_spans() {
        let at = |secs| Timestamp::START + Span::from_secs(secs);
        let mut meter = Meter::start(at(0), Span::from_secs(10));
        meter.add(at(1), 6);
        meter.add(at(9), 4);
        for (secs, expected) in [(9, 10), (10, 10), (15, 5), (19, 1), (20, 0), (1000, 0)] {
            assert_eq!(meter.count(at(secs)), expected, "after {secs} s");
        }
    }
}
