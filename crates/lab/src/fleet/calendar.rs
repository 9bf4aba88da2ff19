//! When each device wakes next, in order of time.

use claviger_units::{Span, Timestamp};

/// Wakes in buckets of a second: entering one costs the same however many there are.
///
/// Wakes of one instant come in the order of their devices, so that a run does not depend on who was entered
/// first.
#[derive(Debug)]
pub(super) struct Calendar {
    // The bucket of second `n` is `n - first`. Invariant: `open` holds what is left of the first one, the
    // last wake first.
    buckets: std::collections::VecDeque<Vec<(Timestamp, u32)>>,
    first: u64,
    open: Vec<(Timestamp, u32)>,
}

impl Calendar {
    pub(super) fn new() -> Self {
        Self { buckets: std::collections::VecDeque::new(), first: 0, open: Vec::new() }
    }

    /// Enters a wake; one that is past comes next.
    pub(super) fn enter(&mut self, at: Timestamp, device: u32) {
        let second = at.as_micros() / SECOND;
        let Some(place) = second.checked_sub(self.first).filter(|place| *place > 0) else {
            let place = self.open.partition_point(|wake| *wake > (at, device));
            self.open.insert(place, (at, device));
            return;
        };
        let place = usize::try_from(place - 1).expect("a run has fewer seconds than that");
        if place >= self.buckets.len() {
            self.buckets.resize_with(place + 1, Vec::new);
        }
        self.buckets[place].push((at, device));
    }

    /// Returns the time of the next wake.
    pub(super) fn first(&mut self) -> Option<Timestamp> {
        while self.open.is_empty() {
            self.open = self.buckets.pop_front()?;
            self.first += 1;
            self.open.sort_unstable_by(|a, b| b.cmp(a));
        }
        self.open.last().map(|(at, _)| *at)
    }

    /// Takes the next wake out.
    pub(super) fn take_first(&mut self) -> Option<(Timestamp, u32)> {
        self.first()?;
        self.open.pop()
    }
}

const SECOND: u64 = Span::from_secs(1).as_micros();

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn wakes_come_in_order_whenever_they_were_entered() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut calendar = Calendar::new();
        let mut expected = std::collections::BTreeSet::new();
        let mut now = 0;
        for step in 0..20_000 {
            if step % 3 < 2 || expected.is_empty() {
                let at = Timestamp::from_micros(now + rng.random_range(0..100_000_000_u64));
                if expected.insert((at, step)) {
                    calendar.enter(at, step);
                }
            } else {
                let next = expected.pop_first().unwrap();
                assert_eq!((calendar.first(), calendar.take_first()), (Some(next.0), Some(next)));
                now = next.0.as_micros();
            }
        }
        while let Some(next) = expected.pop_first() {
            assert_eq!(calendar.take_first(), Some(next));
        }
        assert_eq!(calendar.take_first(), None);
    }
}
