//! When keys are short: since when, for how many, and until when at the present pace.

use std::collections::VecDeque;

use claviger_units::{Span, Timestamp};

use crate::{Alarm, GatewayEvent};

/// What of the last minutes tells how long a shortage will last. Devices wait in the order in which they
/// became due, and keep their epoch meanwhile.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    // The first refusal since a key came without one.
    since: Option<Timestamp>,
    is_told: bool,
    last_refusal: Option<Timestamp>,
    // When keys came, oldest first, within the window.
    came: VecDeque<Timestamp>,
}

impl Shortage {
    pub(super) fn note_key(&mut self, now: Timestamp) {
        self.came.push_back(now);
        self.forget(now);
    }

    /// Notes that the key management entity has too few keys.
    pub(super) fn note_refusal(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
        self.last_refusal = Some(now);
        self.forget(now);
    }

    /// Tells what an operator should know, once for each shortage and once for its end.
    pub(super) fn judge(&mut self, now: Timestamp, n_waiting: usize) -> Option<GatewayEvent> {
        let since = self.since?;
        if n_waiting == 0 {
            self.since = None;
            return std::mem::take(&mut self.is_told).then_some(GatewayEvent::KeysSuffice);
        }
        if self.is_told || now.since(since) < PATIENCE {
            return None;
        }
        self.is_told = true;
        let waiting = n_waiting as u64;
        let alarm = Alarm::KeysShort { waiting, expected: self.expected(waiting) };
        Some(GatewayEvent::Alarm(alarm))
    }

    /// Tells whether keys have been short of late, so that each device should ask as soon as it can. Asked
    /// for later, many keys would come after the wake that they are for and wait for the next one; too
    /// little would be asked for until then, the buffer run over, and all come short together again.
    pub(super) fn is_recent(&self, now: Timestamp) -> bool {
        self.last_refusal.is_some_and(|last| now.since(last) < CALM)
    }

    /// Returns how long those who wait now will take to be served; `None` while no key comes at all.
    fn expected(&self, waiting: u64) -> Option<Span> {
        let came = self.came.len() as u64;
        let micros = WINDOW.as_micros().checked_mul(waiting)?.checked_div(came)?;
        Some(Span::from_micros(micros))
    }

    fn forget(&mut self, now: Timestamp) {
        while self.came.front().is_some_and(|came| now.since(*came) > WINDOW) {
            self.came.pop_front();
        }
    }
}

/// How long keys may be short before it is an alarm: devices are asked for ahead of their time.
const PATIENCE: Span = Span::from_secs(60);
/// How long devices ask early after keys were short.
const CALM: Span = Span::from_secs(6 * 3600);
/// Over how long the pace is taken.
const WINDOW: Span = Span::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::START + Span::from_secs(seconds)
    }

    #[test]
    fn a_shortage_is_told_once_with_its_end_and_so_is_that() {
        let mut shortage = Shortage::default();
        assert_eq!(shortage.judge(at(0), 5), None, "nothing is short");
        // A key every ten seconds, for more devices than that.
        for n in 0..60 {
            shortage.note_key(at(10 * n));
            shortage.note_refusal(at(10 * n + 1));
            let told = shortage.judge(at(10 * n + 1), 100);
            let expected = (n == 6).then(|| {
                let expected = Some(Span::from_micros(600_000_000 * 100 / 7));
                GatewayEvent::Alarm(Alarm::KeysShort { waiting: 100, expected })
            });
            assert_eq!(told, expected, "after {n} keys");
        }
        assert_eq!(shortage.judge(at(700), 0), Some(GatewayEvent::KeysSuffice));
        assert_eq!(shortage.judge(at(701), 0), None);
    }

    #[test]
    fn a_shortage_is_recent_for_hours() {
        let mut shortage = Shortage::default();
        shortage.note_key(at(0));
        assert!(!shortage.is_recent(at(0)), "nothing is short");
        shortage.note_refusal(at(1));
        shortage.note_refusal(at(1000));
        shortage.judge(at(1000), 0);
        let hours = 6 * 3600;
        assert!(shortage.is_recent(at(999 + hours)) && !shortage.is_recent(at(1000 + hours)));
    }

    #[test]
    fn a_passing_shortage_is_none_and_one_without_any_key_has_no_end() {
        let mut shortage = Shortage::default();
        shortage.note_refusal(at(0));
        assert_eq!(shortage.judge(at(59), 1), None);
        assert_eq!(shortage.judge(at(59), 0), None, "nobody was told");
        shortage.note_refusal(at(100));
        let alarm = Alarm::KeysShort { waiting: 1, expected: None };
        assert_eq!(shortage.judge(at(160), 1), Some(GatewayEvent::Alarm(alarm)));
    }
}
