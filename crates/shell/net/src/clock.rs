//! The one clock: wall time at start, moved on by the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use claviger_units::{Span, Timestamp};
use tokio::time::Instant;

/// A clock that agrees with the wall at its start and never goes back.
///
/// A copy shows the same time. It follows tokio's paused time in tests.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use claviger_net::clock::Clock;
/// use claviger_units::Span;
///
/// let clock = Clock::start();
/// let deadline = clock.now() + Span::from_millis(2);
/// clock.sleep_until(Some(deadline)).await;
/// assert!(clock.now() >= deadline);
/// # });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Timestamp,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock once and starts from there.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(Timestamp::START + Span::from(wall))
    }

    /// Starts at a given time.
    #[must_use]
    pub fn starting_at(wall: Timestamp) -> Self {
        Self { wall, start: Instant::now() }
    }

    /// Returns the time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall + Span::from(self.start.elapsed())
    }

    /// Waits until `deadline`; for ever without one.
    pub async fn sleep_until(&self, deadline: Option<Timestamp>) {
        let instant = deadline
            .and_then(|deadline| self.start.checked_add(Duration::from(deadline.since(self.wall))));
        match instant {
            Some(instant) => tokio::time::sleep_until(instant).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_micros(43_200_000_000);

    #[tokio::test(start_paused = true)]
    async fn time_passes_as_tokio_says() {
        let clock = Clock::starting_at(NOON);
        let deadline = NOON + Span::from_secs(3600);
        clock.sleep_until(Some(deadline)).await;
        assert!(clock.now() >= deadline);
        assert!(clock.now().since(deadline) < Span::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_past_deadline_is_due_and_none_never_is() {
        let clock = Clock::starting_at(NOON);
        clock.sleep_until(Some(Timestamp::START)).await;
        assert_eq!(clock.now(), NOON);
        let far = Some(Timestamp::from_micros(u64::MAX));
        for never in [None, far] {
            let waited =
                tokio::time::timeout(Duration::from_secs(86_400), clock.sleep_until(never));
            assert!(waited.await.is_err());
        }
    }

    #[tokio::test]
    async fn a_started_clock_agrees_with_the_wall() {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(Clock::start().now() >= Timestamp::START + Span::from(wall));
    }
}
