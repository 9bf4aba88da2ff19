//! Orders of one kind to a KME: how many at a time, who is next, when to try again.

use std::collections::BTreeMap;

use claviger_units::{Key256, KeyId, Span, Timestamp};

use crate::orders::{Extraction, RequestToken};
use crate::turns::{Rank, Turn, Turns};

/// A queue of orders that gives every device its turn (`PROTOCOL.md` P3b.2).
///
/// An order that fails goes behind the others of its rank and makes the whole lane pause, 1 s at first,
/// 10 s in the end; after a pause a single order probes, and its success opens the lane again. One that was
/// only too early keeps its place.
#[derive(Debug)]
pub(crate) struct Lane<K, V> {
    orders: BTreeMap<K, V>,
    // Invariant: every key of `orders` is in exactly one of these two, and no other is.
    waiting: Turns<K>,
    in_flight: BTreeMap<K, Turn>,
    failures: u32,
    resume: Timestamp,
    most_in_flight: usize,
}

impl<K: Ord + Copy, V: Copy> Lane<K, V> {
    pub(crate) const fn new() -> Self {
        Self::with_room(IN_FLIGHT)
    }

    /// Makes a lane for orders that are carried out many at a time.
    pub(crate) const fn with_room(most_in_flight: usize) -> Self {
        Self {
            orders: BTreeMap::new(),
            waiting: Turns::new(),
            in_flight: BTreeMap::new(),
            failures: 0,
            resume: Timestamp::START,
            most_in_flight,
        }
    }

    /// Puts an order at the back of the queue, unless there is one of this key.
    pub(crate) fn push(&mut self, key: K, order: V) {
        self.push_as(key, order, Rank::default());
    }

    /// Puts an order behind all of its rank, unless there is one of this key.
    pub(crate) fn push_as(&mut self, key: K, order: V, rank: Rank) {
        if self.orders.insert(key, order).is_none() {
            self.waiting.push(key, rank);
        }
    }

    /// Starts the next order, if the lane is open.
    pub(crate) fn start(&mut self, now: Timestamp) -> Option<(K, V)> {
        if now < self.resume || !self.has_room() {
            return None;
        }
        let (key, turn) = self.waiting.pop()?;
        self.in_flight.insert(key, turn);
        self.orders.get(&key).map(|order| (key, *order))
    }

    /// Ends an order for good and opens the lane; `None` if it is not in flight.
    pub(crate) fn succeed(&mut self, key: K) -> Option<V> {
        self.failures = 0;
        self.in_flight.remove(&key)?;
        self.orders.remove(&key)
    }

    /// Puts an order that failed behind the others, and pauses.
    pub(crate) fn fail(&mut self, now: Timestamp, key: K) {
        if let Some(turn) = self.in_flight.remove(&key) {
            self.waiting.send_back(key, turn);
            self.pause_after_failure(now);
        }
    }

    /// Puts an order back that nothing is wrong with but the time, and pauses.
    pub(crate) fn postpone(&mut self, now: Timestamp, key: K) {
        if let Some(turn) = self.in_flight.remove(&key) {
            self.waiting.give_back(key, turn);
            self.pause_after_failure(now);
        }
    }

    fn pause_after_failure(&mut self, now: Timestamp) {
        if now >= self.resume {
            self.failures = self.failures.saturating_add(1);
            self.resume = now + pause_after(self.failures, LONGEST_PAUSE);
        }
    }

    /// Puts an order back into its place, in another wording.
    pub(crate) fn repeat(&mut self, key: K, order: V) {
        if let Some(turn) = self.in_flight.remove(&key) {
            self.orders.insert(key, order);
            self.waiting.give_back(key, turn);
        }
    }

    /// Keeps the lane closed for at least `span`.
    pub(crate) fn pause(&mut self, now: Timestamp, span: Span) {
        self.resume = self.resume.max(now + span);
    }

    /// Forgets orders; what is in flight is answered in vain.
    pub(crate) fn forget(&mut self, unwanted: impl Fn(&K, &V) -> bool) {
        self.orders.retain(|key, order| !unwanted(key, order));
        self.waiting.retain(|key| self.orders.contains_key(key));
        self.in_flight.retain(|key, _| self.orders.contains_key(key));
    }

    /// Returns when the next order can start, if only time is missing.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        (!self.waiting.is_empty() && self.has_room()).then_some(self.resume)
    }

    /// Returns how long a new order has to wait at least.
    pub(crate) const fn delay(&self, now: Timestamp) -> Span {
        self.resume.since(now)
    }

    pub(crate) fn orders(&self) -> impl Iterator<Item = &V> {
        self.orders.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.orders.contains_key(&key)
    }

    fn has_room(&self) -> bool {
        let limit = if self.failures > 0 { 1 } else { self.most_in_flight };
        self.in_flight.len() < limit
    }
}

/// Orders for a W, one at a time, from either site.
impl Lane<(), RequestToken> {
    /// Takes the answer to an order and returns the key, if it is one.
    pub(crate) fn settle(
        &mut self,
        now: Timestamp,
        outcome: Extraction,
    ) -> Option<(KeyId, Key256)> {
        match outcome {
            Extraction::Key(key_id, wrapping, _) => {
                self.succeed(());
                return Some((key_id, wrapping));
            }
            // The key of that token is burnt; the next time-out draws another token.
            Extraction::TokenAnswered => {
                self.succeed(());
            }
            Extraction::Shortage | Extraction::Unreachable => self.fail(now, ()),
        }
        None
    }
}

/// Returns the pause after the `n`-th failure in a row: 1 s, doubling up to `longest`.
pub(crate) fn pause_after(n_failures: u32, longest: Span) -> Span {
    Span::from_secs(1 << n_failures.saturating_sub(1).min(30)).min(longest)
}

const IN_FLIGHT: usize = 32;
const LONGEST_PAUSE: Span = Span::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::START + Span::from_secs(secs)
    }

    #[test]
    fn everyone_has_a_turn_during_a_shortage() {
        let mut lane = Lane::new();
        for key in 0..3 {
            lane.push(key, ());
        }
        let mut now = at(0);
        let mut tried = Vec::new();
        for _ in 0..3 {
            while let Some((key, ())) = lane.start(now) {
                tried.push(key);
            }
            for key in 0..3 {
                lane.fail(now, key);
            }
            now = lane.wake_at().unwrap();
        }
        assert_eq!(tried, [0, 1, 2, 0, 1]);
        assert_eq!(now, at(1 + 2 + 4));
    }

    #[test]
    fn pauses_grow_to_ten_seconds_and_end_with_a_success() {
        let mut lane = Lane::new();
        lane.push('a', ());
        let mut now = at(0);
        for pause in [1, 2, 4, 8, 10, 10] {
            lane.start(now).unwrap();
            lane.fail(now, 'a');
            assert_eq!(lane.delay(now), Span::from_secs(pause));
            now = lane.wake_at().unwrap();
        }
        lane.start(now).unwrap();
        assert_eq!(lane.succeed('a'), Some(()));
        assert_eq!((lane.len(), lane.wake_at()), (0, None));
    }

    #[test]
    fn a_failure_of_a_stranger_changes_nothing() {
        let mut lane: Lane<char, ()> = Lane::new();
        lane.fail(at(0), 'x');
        assert_eq!(lane.delay(at(0)), Span::ZERO);
        assert_eq!(lane.len(), 0);
    }
}
