//! What the devices of this process have done, in a file that is written every few seconds.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_units::{Eui64, Span};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The name of the file in the folder of the role.
pub(super) const NAME: &str = "account.json";

/// A wake of a device that has a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake {
    /// From the end of sleep to its next beginning.
    pub(super) took: Span,
    /// Whether all its readings were acknowledged.
    pub(super) is_delivered: bool,
    /// How old its key is, where it was taken up since the start.
    pub(super) key_age: Option<Span>,
}

/// Sums over all devices of a process since its start; two states of one file can be subtracted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DevicesAccount {
    /// Wakes of devices that have a key.
    pub wakes: u64,
    /// Those after which a reading still waited for its acknowledgement.
    pub undelivered: u64,
    /// Those that ended under a key older than its time and one wake more, of keys taken up since the
    /// start.
    pub late: u64,
    /// Keys of the link that were taken up.
    #[serde(default)]
    pub keys: u64,
    /// Keys that devices made themselves, for comparison.
    #[serde(default)]
    pub own_keys: u64,
    /// Bytes on the devices' own connections, above TCP or UDP, both ways: sessions that ended, and exchanges
    /// for keys beside them.
    #[serde(default)]
    pub bytes: u64,
    /// Devices that have delivered a reading.
    pub served: u64,
    /// Seconds from the start until every device had.
    pub all_served_s: Option<f64>,
    /// How many wakes took at most as long as [`DevicesAccount::bound_ms`] says for that place, and longer
    /// than it says for the place before.
    pub took: Vec<u64>,
}

impl DevicesAccount {
    /// Returns the upper end of a place of [`took`](Self::took): 1 ms, and a tenth more for each.
    #[must_use]
    pub fn bound_ms(place: usize) -> f64 {
        (0..place).fold(1.0, |bound, _| bound * 1.1)
    }

    /// Returns what came since an earlier state.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.took.iter().chain(std::iter::repeat(&0));
        Self {
            wakes: self.wakes - earlier.wakes,
            undelivered: self.undelivered - earlier.undelivered,
            took: self.took.iter().zip(before).map(|(now, before)| now - before).collect(),
            late: self.late - earlier.late,
            keys: self.keys - earlier.keys,
            own_keys: self.own_keys - earlier.own_keys,
            bytes: self.bytes - earlier.bytes,
            ..self.clone()
        }
    }

    /// Adds what other devices have done meanwhile.
    #[must_use]
    pub fn beside(&self, other: &Self) -> Self {
        let places = self.took.len().max(other.took.len());
        let at = |account: &Self, place| account.took.get(place).copied().unwrap_or_default();
        Self {
            wakes: self.wakes + other.wakes,
            undelivered: self.undelivered + other.undelivered,
            late: self.late + other.late,
            keys: self.keys + other.keys,
            own_keys: self.own_keys + other.own_keys,
            bytes: self.bytes + other.bytes,
            served: self.served + other.served,
            all_served_s: self.all_served_s.zip(other.all_served_s).map(|(a, b)| a.max(b)),
            took: (0..places).map(|place| at(self, place) + at(other, place)).collect(),
        }
    }

    /// Returns the time in milliseconds that this share of the wakes did not exceed, a tenth too long at
    /// most; `None` without wakes.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let total: u64 = self.took.iter().sum();
        let mut n_below = 0;
        let place = self.took.iter().position(|n| {
            n_below += n;
            as_f64(n_below) >= share * as_f64(total)
        });
        place.filter(|_| total > 0).map(Self::bound_ms)
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of wakes lie far below 2^53")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// Keeps the sums.
#[derive(Debug)]
pub(super) struct Account {
    started: Instant,
    n_devices: usize,
    // How old a key may be at the end of a wake.
    oldest: Option<Span>,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    account: DevicesAccount,
    served: BTreeSet<Eui64>,
}

impl Account {
    pub(super) fn new(n_devices: usize, oldest: Option<Span>) -> Self {
        Self { started: Instant::now(), n_devices, oldest, sums: Mutex::default() }
    }

    pub(super) fn note(&self, eui: Eui64, wake: &Wake) {
        let mut sums = self.lock();
        let Sums { account, served } = &mut *sums;
        account.wakes += 1;
        account.undelivered += u64::from(!wake.is_delivered);
        let is_late = wake.key_age.zip(self.oldest).is_some_and(|(age, oldest)| age > oldest);
        account.late += u64::from(is_late);
        let took_ms = 1e3 * wake.took.as_secs_f64();
        let place = (0..PLACES).find(|place| took_ms <= DevicesAccount::bound_ms(*place));
        account.took.resize(PLACES, 0);
        if let Some(n_wakes) = account.took.get_mut(place.unwrap_or(PLACES - 1)) {
            *n_wakes += 1;
        }
        if wake.is_delivered && served.insert(eui) {
            account.served += 1;
            if served.len() == self.n_devices {
                account.all_served_s = Some(self.started.elapsed().as_secs_f64());
            }
        }
    }

    /// Notes a key that was taken up.
    pub(super) fn note_key(&self) {
        self.lock().account.keys += 1;
    }

    /// Notes a key that a device has made itself, and what went over the wire for it.
    pub(super) fn note_own_key(&self, n_bytes: u64) {
        let account = &mut self.lock().account;
        account.own_keys += 1;
        account.bytes += n_bytes;
    }

    /// Notes what went over a connection that has ended.
    pub(super) fn note_bytes(&self, n_bytes: u64) {
        self.lock().account.bytes += n_bytes;
    }

    /// Writes the file now and then, for ever.
    pub(super) async fn keep(&self, path: &Path) -> Infallible {
        loop {
            tokio::time::sleep(PACE).await;
            self.write(path);
        }
    }

    /// Writes the file; whoever reads it sees the old state or the new one.
    pub(super) fn write(&self, path: &Path) {
        let text = serde_json::to_string(&self.lock().account).expect("numbers make JSON");
        let fresh = path.with_extension("new");
        if let Err(error) = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path)) {
            tracing::warn!(path = %path.display(), %error, "the account is not written");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PACE: Duration = Duration::from_secs(2);
/// The last place stands for 21 s and more.
const PLACES: usize = 106;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_subtracted_and_added_and_have_quantiles() {
        let account = Account::new(2, Some(Span::from_secs(1000)));
        let note = |number, millis, is_delivered| {
            let key_age = Some(Span::from_secs(millis));
            let took = Span::from_millis(millis);
            account.note(Eui64::from_bytes([number; 8]), &Wake { took, is_delivered, key_age });
        };
        note(1, 5, true);
        account.note_key();
        account.note_bytes(500);
        let before = account.lock().account.clone();
        assert_eq!((before.wakes, before.served, before.all_served_s), (1, 1, None));
        assert_eq!((before.keys, before.bytes), (1, 500));
        account.note_own_key(130);
        account.note_bytes(70);
        for _ in 0..98 {
            note(1, 10, true);
        }
        note(2, 500, false);
        note(2, 2000, true);
        let after = account.lock().account.clone();
        assert!(after.all_served_s.is_some());
        let since = after.since(&before);
        assert_eq!((since.wakes, since.undelivered, since.late), (100, 1, 1));
        assert_eq!((since.keys, since.bytes, since.beside(&before).bytes), (0, 200, 700));
        assert_eq!((since.own_keys, since.beside(&since).own_keys), (1, 2));
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| since.quantile_ms(share).unwrap());
        assert!((10.0..=11.0).contains(&half) && (500.0..=550.0).contains(&most), "{half} {most}");
        assert!((2000.0..=2200.0).contains(&all), "{all}");
        let both = since.beside(&since);
        assert_eq!((both.wakes, both.quantile_ms(0.5)), (200, Some(half)));
        assert_eq!(DevicesAccount::default().quantile_ms(0.5), None);
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let (path, account) = (folder.path().join(NAME), Account::new(1, None));
        let wake = Wake { took: Span::from_secs(99), is_delivered: true, key_age: None };
        account.note(Eui64::from_bytes([1; 8]), &wake);
        account.write(&path);
        let read: DevicesAccount =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read, account.lock().account);
    }
}
