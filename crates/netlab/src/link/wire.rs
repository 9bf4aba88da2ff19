//! One direction of a link: what becomes of each frame.

use claviger_units::{Span, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Impairment;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never arrives, by chance.
    Lost,
    /// It never arrives, as too many wait before it.
    Crowded,
    /// It arrives then.
    ArrivesAt(Timestamp),
}

/// One direction of a link. The same seed and the same frames at the same times give the same fates.
#[derive(Debug)]
pub struct Wire {
    impairment: Impairment,
    rng: StdRng,
    is_free_at: Timestamp,
    last_arrival: Timestamp,
}

impl Wire {
    /// A wire that has carried nothing yet.
    #[must_use]
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        let never = Timestamp::from_micros(0);
        let rng = StdRng::seed_from_u64(seed);
        Self { impairment, rng, is_free_at: never, last_arrival: never }
    }

    /// Takes a frame of `length` bytes that is sent now.
    pub fn send(&mut self, now: Timestamp, length: usize) -> Fate {
        // Both are drawn for every frame, so that one frame's fate does not shift the next one's.
        let is_lost = self.rng.random_bool(self.impairment.loss.as_f64());
        let wobble = self.rng.random_range(-1.0..=1.0) * self.impairment.jitter.as_secs_f64();
        let begins = self.is_free_at.max(now);
        if begins.since(now) > Impairment::QUEUE {
            return Fate::Crowded;
        }
        // What is lost has been sent all the same.
        self.is_free_at = begins + self.time_to_send(length);
        if is_lost {
            return Fate::Lost;
        }
        let delay = (self.impairment.delay.as_secs_f64() + wobble).max(0.0);
        let arrival = self.is_free_at + Span::from_secs_f64(delay);
        self.last_arrival = self.last_arrival.max(arrival);
        Fate::ArrivesAt(self.last_arrival)
    }

    fn time_to_send(&self, length: usize) -> Span {
        let Some(rate) = self.impairment.rate else { return Span::from_micros(0) };
        // Frames are shorter than 2^32.
        let bits = 8.0 * u32::try_from(length).map_or(f64::MAX, f64::from);
        Span::from_secs_f64(bits / rate.as_bps())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(1_000 * millis)
    }

    fn wire(text: &str) -> Wire {
        Wire::new(text.parse().unwrap(), 7)
    }

    #[test]
    fn frames_wait_for_those_before_them() {
        // 125 bytes are 4 ms at 250 kbit/s.
        let mut wire = wire("delay=1ms,rate=250k");
        assert_eq!(wire.send(at(10), 125), Fate::ArrivesAt(at(15)));
        assert_eq!(wire.send(at(11), 125), Fate::ArrivesAt(at(19)));
        assert_eq!(wire.send(at(100), 125), Fate::ArrivesAt(at(105)));
    }

    #[test]
    fn a_queue_does_not_grow_for_ever() {
        let mut wire = wire("rate=1k");
        let fates: Vec<_> = (0..20).map(|_| wire.send(at(0), 25)).collect();
        // A frame takes 200 ms: that which waits for a second goes, that for 1.2 s does not.
        let n_carried = fates.iter().filter(|fate| **fate != Fate::Crowded).count();
        assert_eq!(n_carried, 6);
    }

    #[test]
    fn jitter_keeps_its_bounds_and_the_order() {
        let mut wire = wire("delay=5ms,jitter=4ms");
        let mut last = at(0);
        let mut delays = Vec::new();
        for n in 0..2_000 {
            let Fate::ArrivesAt(arrival) = wire.send(at(100 * n), 64) else { panic!("lost") };
            assert!(arrival >= last);
            last = arrival;
            delays.push(arrival.since(at(100 * n)).as_micros());
        }
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!((1_000..1_100).contains(least) && (8_900..=9_000).contains(most), "{least} {most}");
        // In one moment the order is kept, however the delays fall.
        let mut arrivals: Vec<_> = (0..100).map(|_| wire.send(at(1_000_000), 64)).collect();
        let sent = arrivals.clone();
        arrivals.sort_by_key(|fate| match fate {
            Fate::ArrivesAt(at) => *at,
            Fate::Lost | Fate::Crowded => panic!("lost"),
        });
        assert_eq!(arrivals, sent);
    }

    #[test]
    fn the_share_that_is_lost_is_the_one_asked_for_and_the_same_with_the_same_seed() {
        let fates = |seed| -> Vec<Fate> {
            let mut wire = Wire::new("loss=10%".parse().unwrap(), seed);
            (0..20_000).map(|n| wire.send(at(n), 64)).collect()
        };
        let n_lost = fates(1).iter().filter(|fate| **fate == Fate::Lost).count();
        // Five standard deviations of 42.
        assert!(n_lost.abs_diff(2_000) < 212, "{n_lost}");
        assert_eq!(fates(1), fates(1));
        assert_ne!(fates(1), fates(2));
    }
}
