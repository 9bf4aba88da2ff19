//! A docked pad: keys for many epochs, given by cable, each used once without a word over the air.

use alloc::format;
use alloc::string::String;

use claviger_frames::pad::{self, OpenedPad};
use claviger_frames::{Epoch, EpochKeys};
use claviger_units::{Key256, SecretBytes, Timestamp};

use crate::actions::KeyAnswer;
use crate::device::{Device, RESERVED};

/// Where a pad lies in the epochs of its device; the keys themselves stay with the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadMark {
    /// The epoch that the device held when it was docked.
    pub prev: Epoch,
    /// The epoch that the first key leads to.
    pub first: Epoch,
    /// How many keys it had at first.
    pub n_keys: u32,
    /// The mark of the life that it belongs to ([`claviger_frames::DeviceRoot::mark`]).
    pub life: [u8; 8],
}

impl PadMark {
    /// Returns the place of the key that leads on from an epoch, and the epoch that it leads to.
    #[must_use]
    pub fn next_after(&self, epoch: Epoch) -> Option<(u32, Epoch)> {
        let place = if epoch == self.prev { 0 } else { self.n_used(epoch) };
        let next = self.first.number().checked_add(place).filter(|_| place < self.n_keys)?;
        (epoch == self.prev || place > 0).then_some((place, Epoch::new(next)))
    }

    /// Returns how many keys have been used by a device at an epoch.
    #[must_use]
    pub fn n_used(&self, epoch: Epoch) -> u32 {
        match epoch.number().checked_sub(self.first.number()) {
            Some(place) => place.saturating_add(1).min(self.n_keys),
            None => 0,
        }
    }

    /// Tells whether a device at this epoch can go on by the pad, or has come to its end by it.
    fn fits(&self, epoch: Epoch) -> bool {
        epoch == self.prev || (1..=self.n_keys).contains(&self.n_used(epoch))
    }
}

impl Device {
    /// Returns path and query, and the `Authorization` header, with which a docked device asks for its pad
    /// over the cable.
    #[must_use]
    pub fn dock_request(&self) -> (String, String) {
        let epoch = self.held.epoch;
        let path_and_query = format!("/v1/devices/{}/pad?have={epoch}", self.held.eui);
        let authorization = self.held.gateway.request_authorization(epoch, &path_and_query);
        (path_and_query, authorization)
    }

    /// Opens what came over the cable: the mark, and the keys to be kept with it; `None` for what its gateway
    /// has not made for the device as it is now.
    #[must_use]
    pub fn open_pad(&self, sealed: &[u8]) -> Option<(PadMark, SecretBytes)> {
        let OpenedPad { prev, first, keys } =
            pad::open(&self.held.gateway, self.held.eui, self.held.epoch, sealed)?;
        let n_keys = u32::try_from(keys.len() / 32).ok()?;
        Some((PadMark { prev, first, n_keys, life: self.held.root.mark() }, keys))
    }

    /// Begins to use a pad whose keys lie in flash, all of them; false if it is of another life, or leads
    /// nowhere from the epoch that the device holds: erase it, and dock the device again.
    pub fn attach_pad(&mut self, mark: PadMark) -> bool {
        let fits = mark.fits(self.held.epoch) && mark.life == self.held.root.mark();
        self.pad = Some(mark).filter(|_| fits);
        // At the epoch that it was docked with its gateway knows it.
        self.is_followed |= fits && self.held.epoch == mark.prev;
        fits
    }

    /// Tells whether a pad leads on from the epoch that the device holds.
    #[must_use]
    pub fn has_pad(&self) -> bool {
        self.pad_next().is_some()
    }

    /// Returns how many keys of the pad are used: whoever keeps them erases those.
    #[must_use]
    pub fn n_pad_keys_used(&self) -> Option<u32> {
        self.pad.map(|mark| mark.n_used(self.held.epoch))
    }

    /// Tells whether the pad leads on, so that nothing is taken from the air.
    pub(crate) fn pad_next(&self) -> Option<(u32, Epoch)> {
        self.pad.and_then(|mark| mark.next_after(self.held.epoch))
    }

    /// Takes the key of the pad that [`KeyRequest::Pad`](crate::KeyRequest::Pad) named; `None` where it
    /// cannot be read: the device then lacks its pad until it is docked again, for what is left of it.
    pub fn handle_pad_key(&mut self, now: Timestamp, key: Option<&Key256>) {
        if !self.waits_for_answer() {
            return;
        }
        match self.pad_next().zip(key) {
            Some(((_, epoch), key)) => {
                self.counters.renewals += 1;
                self.counters.derivations += 2;
                self.begin_commit(self.held.renewed(epoch, key, RESERVED), Some(now));
            }
            None => self.pad = None,
        }
        self.handle_asked(now, KeyAnswer::Unreachable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_leads_from_one_epoch_to_the_next() {
        let mark = PadMark { prev: Epoch::new(4), first: Epoch::new(9), n_keys: 3, life: [0; 8] };
        let next = |epoch| mark.next_after(Epoch::new(epoch)).map(|(n, to)| (n, to.number()));
        for (epoch, expected, n_used, fits) in [
            (3, None, 0, false),
            (4, Some((0, 9)), 0, true),
            (5, None, 0, false),
            (9, Some((1, 10)), 1, true),
            (10, Some((2, 11)), 2, true),
            (11, None, 3, true),
        ] {
            assert_eq!(next(epoch), expected, "{epoch}");
            assert_eq!(mark.n_used(Epoch::new(epoch)), n_used, "{epoch}");
            assert_eq!(mark.fits(Epoch::new(epoch)), fits, "{epoch}");
        }
    }
}
