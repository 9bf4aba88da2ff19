//! One line for what may go wrong in a thousand devices at once.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use claviger_units::{Span, Timestamp};

use crate::report::Reporter;

/// Complaints of one kind, of which at most one per [`PAUSE`] is passed on.
#[derive(Debug)]
pub(super) struct Complaints(Mutex<State>);

#[derive(Debug)]
struct State {
    quiet_until: Timestamp,
    n_silenced: u64,
}

impl Complaints {
    /// Passes nothing on before `start`.
    pub(super) const fn quiet_until(start: Timestamp) -> Self {
        Self(Mutex::new(State { quiet_until: start, n_silenced: 0 }))
    }

    /// Passes a complaint on, or counts it for the next one that is passed on.
    pub(super) fn refused(&self, now: Timestamp, reports: &Reporter, why: impl fmt::Display) {
        match self.admit(now) {
            Some(0) => reports.refused("devices", why),
            Some(n) => reports.refused("devices", format_args!("{why} (and {n} others like it)")),
            None => tracing::debug!(%why, "refused"),
        }
    }

    /// Returns how many were silenced since the last one, `None` if this one is silenced too.
    fn admit(&self, now: Timestamp) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now < state.quiet_until {
            state.n_silenced += 1;
            return None;
        }
        state.quiet_until = now + PAUSE;
        Some(std::mem::take(&mut state.n_silenced))
    }
}

const PAUSE: Span = Span::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_speaks_for_many() {
        let at = |secs| Timestamp::START + Span::from_secs(secs);
        let complaints = Complaints::quiet_until(at(5));
        let passed = [0, 5, 5, 6, 14, 15, 30].map(|secs| complaints.admit(at(secs)));
        assert_eq!(passed, [None, Some(1), None, None, None, Some(3), Some(0)]);
    }
}
