//! When which device is due.

use std::collections::{BTreeMap, BTreeSet};

use claviger_units::{Eui64, Timestamp};

/// At most one time per device, in order of time.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    // Invariant: both hold the same pairs.
    by_time: BTreeSet<(Timestamp, Eui64)>,
    of: BTreeMap<Eui64, Timestamp>,
}

impl Agenda {
    /// Enters a device, in place of an earlier entry.
    pub(super) fn enter(&mut self, eui: Eui64, at: Timestamp) {
        self.strike(eui);
        self.of.insert(eui, at);
        self.by_time.insert((at, eui));
    }

    /// Takes a device out.
    pub(super) fn strike(&mut self, eui: Eui64) {
        if let Some(at) = self.of.remove(&eui) {
            self.by_time.remove(&(at, eui));
        }
    }

    /// Takes out the device that has been due the longest.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Option<Eui64> {
        let &(_, eui) = self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.strike(eui);
        Some(eui)
    }

    /// Tells whether a device is due.
    pub(super) fn is_due(&self, now: Timestamp, eui: Eui64) -> bool {
        self.of.get(&eui).is_some_and(|at| *at <= now)
    }

    /// Returns when the next device is due.
    pub(super) fn first(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_entry() {
        let (a, b) = (Eui64::from_bytes([1; 8]), Eui64::from_bytes([2; 8]));
        let at = Timestamp::from_micros;
        let mut agenda = Agenda::default();
        agenda.enter(a, at(5));
        agenda.enter(b, at(7));
        agenda.enter(a, at(9));
        assert_eq!(agenda.first(), Some(at(7)));
        assert_eq!((agenda.is_due(at(8), a), agenda.is_due(at(8), b)), (false, true));
        assert_eq!((agenda.take_due(at(8)), agenda.take_due(at(8))), (Some(b), None));
        agenda.strike(a);
        assert_eq!(agenda.first(), None);
    }
}
