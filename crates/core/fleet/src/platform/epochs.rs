//! Every epoch is held here before a device can reach it (`PROTOCOL.md` P3b).

use claviger_durable::{EngineError, Tx};
use claviger_frames::{DataKeys, Epoch, GatewaySecret, key_frame};
use claviger_units::{Eui64, Key256, KeyId, Timestamp};
use claviger_wire::fleet::{Announce, EpochName, FleetRecord};

use super::rows::{
    ANNOUNCEMENTS, DeviceRow, EPOCHS, EpochRow, GRACES, HEARD, Source, WINDOWS, epoch_key,
    grace_key, split_epoch_key, split_grace_key,
};
use super::{FetchFor, Platform, PlatformEvent, first_expiry};
use crate::orders::{Fetching, Origin, damaged};
use crate::rows::PAGE;

/// Why an announced epoch cannot be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhyRefused {
    /// Its key is lost or burnt: another one follows.
    KeyLost,
    /// The KMEs gave the two sites different keys, or the frame does not open.
    Mismatch,
    /// It does not follow from anything held here: an earlier life, or state was lost.
    Unconnected,
}

impl Platform {
    /// Takes the answer to [`PlatformOrder::Fetch`](crate::PlatformOrder::Fetch).
    pub fn handle_fetched(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        key_id: KeyId,
        outcome: Fetching,
    ) -> Result<(), EngineError> {
        if let Fetching::Unreachable = outcome {
            self.fetches.fail(now, key_id);
        } else {
            match self.fetches.succeed(key_id) {
                Some(FetchFor::Epoch(eui, epoch)) => {
                    let key = match outcome {
                        Fetching::Key(key, origin) => Ok((key, origin)),
                        _ => Err(WhyRefused::KeyLost),
                    };
                    self.settle_announcement(tx, eui, epoch, key)?;
                }
                Some(FetchFor::Pad(eui)) => self.settle_pad_key(tx, eui, key_id, outcome)?,
                Some(FetchFor::GiveBack) => self.settle_given(tx, now, key_id, outcome)?,
                None => {}
            }
        }
        self.pump(now);
        Ok(())
    }

    /// Takes note of a finished epoch, whose key is fetched next.
    pub(super) fn hear_announcement(
        &mut self,
        tx: &mut dyn Tx,
        announce: Announce,
    ) -> Result<(), EngineError> {
        let EpochName { eui, life, epoch } = announce.name;
        let (name, key_id, epoch) = (announce.name, announce.key_id, Epoch::new(epoch));
        let device = DeviceRow::load(tx, eui)?.filter(|device| device.life == life);
        let Some(mut device) = device else {
            return self.refuse(tx, name, WhyRefused::Unconnected);
        };
        let fits = epoch > device.highest
            && epoch.number() - device.active.number() <= key_frame::MAX_STEP
            && load_whole(tx, eui, Epoch::new(announce.prev))?.is_some()
            && !self.fetches.contains(key_id);
        device.highest = device.highest.max(epoch);
        device.store(tx, eui)?;
        if !fits {
            return self.refuse(tx, name, WhyRefused::Unconnected);
        }
        let record = FleetRecord::Announce(announce).encode();
        tx.write(ANNOUNCEMENTS, &epoch_key(eui, epoch), &record)?;
        self.fetches.push(key_id, FetchFor::Epoch(eui, epoch));
        Ok(())
    }

    /// Drops an epoch that the gateway has dropped; one that a device may have reached stays.
    pub(super) fn drop_epoch(
        &mut self,
        tx: &mut dyn Tx,
        EpochName { eui, life, epoch }: EpochName,
    ) -> Result<(), EngineError> {
        let epoch = Epoch::new(epoch);
        let device = DeviceRow::load(tx, eui)?.filter(|device| device.life == life);
        if device.is_some_and(|device| epoch > device.active) {
            tx.erase(EPOCHS, &epoch_key(eui, epoch))?;
            tx.erase(ANNOUNCEMENTS, &epoch_key(eui, epoch))?;
            self.fetches.forget(|_, order| *order == FetchFor::Epoch(eui, epoch));
        }
        Ok(())
    }

    /// Makes `epoch` the active one on its first telemetry; what is older only reads late
    /// telemetry from now on (P3b.6).
    pub(super) fn activate(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        device: &mut DeviceRow,
        epoch: Epoch,
    ) -> Result<(), EngineError> {
        let until = now + self.config.grace;
        for past in epochs_between(tx, eui, device.active, epoch)? {
            self.begin_grace(tx, until, eui, device, past)?;
        }
        device.active = epoch;
        device.store(tx, eui)?;
        let name = EpochName { eui, life: device.life, epoch: epoch.number() };
        self.peer.append(tx, &FleetRecord::Confirmed(name).encode())?;
        self.events.push_back(PlatformEvent::Confirmed { eui, epoch });
        Ok(())
    }

    /// Erases epochs whose grace is over, a bounded number at a time.
    pub(super) fn end_graces(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        if self.next_expiry.is_none_or(|at| at > now) {
            return Ok(());
        }
        for (key, _) in tx.scan(GRACES, b"", b"", EXPIRIES)? {
            let (until, eui, epoch) = split_grace_key(&key)?;
            if until > now {
                break;
            }
            tx.erase(GRACES, &key)?;
            // The number may have come back in a later life of the device.
            let row = EpochRow::load(tx, eui, epoch)?;
            if matches!(row, Some(EpochRow::Grace { until: of, .. }) if of == until) {
                forget_epoch(tx, eui, epoch)?;
            }
        }
        self.next_expiry = first_expiry(tx)?;
        Ok(())
    }

    fn settle_announcement(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        epoch: Epoch,
        key: Result<(Key256, Origin), WhyRefused>,
    ) -> Result<(), EngineError> {
        let row = epoch_key(eui, epoch);
        let Some(record) = tx.read(ANNOUNCEMENTS, &row)? else { return Ok(()) };
        let Ok(FleetRecord::Announce(announce)) = FleetRecord::decode(record.expose()) else {
            return Err(damaged(ANNOUNCEMENTS));
        };
        tx.erase(ANNOUNCEMENTS, &row)?;
        let name = announce.name;
        let prev = load_whole(tx, eui, Epoch::new(announce.prev))?;
        let held = key.and_then(|(key, origin)| {
            let prev = prev.ok_or(WhyRefused::Unconnected)?;
            follow(&prev, &key, origin, announce).ok_or(WhyRefused::Mismatch)
        });
        match held {
            Err(why) => self.refuse(tx, name, why),
            Ok(held) => {
                held.store(tx, eui, epoch)?;
                self.peer.append(tx, &FleetRecord::Prepared(name).encode())?;
                self.events.push_back(PlatformEvent::Prepared { eui, epoch });
                Ok(())
            }
        }
    }

    fn refuse(
        &mut self,
        tx: &mut dyn Tx,
        name: EpochName,
        why: WhyRefused,
    ) -> Result<(), EngineError> {
        self.peer.append(tx, &FleetRecord::Nack(name).encode())?;
        let epoch = Epoch::new(name.epoch);
        self.events.push_back(PlatformEvent::Refused { eui: name.eui, epoch, why });
        Ok(())
    }

    pub(super) fn begin_grace(
        &mut self,
        tx: &mut dyn Tx,
        until: Timestamp,
        eui: Eui64,
        device: &DeviceRow,
        past: Epoch,
    ) -> Result<(), EngineError> {
        if past == Epoch::BOOTSTRAP {
            return tx.erase(EPOCHS, &epoch_key(eui, past));
        }
        let Some(EpochRow::Whole { secret, origin, .. }) = EpochRow::load(tx, eui, past)? else {
            return Ok(());
        };
        let keys = DataKeys::derive(&device.root, &secret, eui, past);
        EpochRow::Grace { keys, until, origin }.store(tx, eui, past)?;
        tx.write(GRACES, &grace_key(until, eui, past), b"")?;
        self.next_expiry = Some(self.next_expiry.map_or(until, |at| at.min(until)));
        Ok(())
    }
}

/// Computes the epoch that `announce` leads to, if its frame gives a device at `prev` the very
/// key that this site's KME has given.
fn follow(
    prev: &GatewaySecret,
    key: &Key256,
    origin: Origin,
    announce: Announce,
) -> Option<EpochRow> {
    let EpochName { eui, epoch, .. } = announce.name;
    let (from, epoch) = (Epoch::new(announce.prev), Epoch::new(epoch));
    let (target, wrapped) = key_frame::open(prev, from, &announce.frame).ok()?;
    if target != epoch || !wrapped.ct_eq(key) {
        return None;
    }
    let secret = prev.next(key, eui, from, epoch);
    let Announce { key_id, frame, .. } = announce;
    let source = Some(Source { prev: from, key_id, frame });
    Some(EpochRow::Whole { secret, origin: Some(origin), source })
}

pub(super) fn load_whole(
    tx: &dyn Tx,
    eui: Eui64,
    epoch: Epoch,
) -> Result<Option<GatewaySecret>, EngineError> {
    Ok(match EpochRow::load(tx, eui, epoch)? {
        Some(EpochRow::Whole { secret, .. }) => Some(secret),
        Some(EpochRow::Grace { .. }) | None => None,
    })
}

/// Returns the epochs of a device from `first` up to but not including `end`.
fn epochs_between(
    tx: &dyn Tx,
    eui: Eui64,
    first: Epoch,
    end: Epoch,
) -> Result<Vec<Epoch>, EngineError> {
    let mut epochs = vec![first];
    loop {
        let last = epochs.last().copied().unwrap_or(first);
        let rows = tx.scan(EPOCHS, eui.as_bytes(), &epoch_key(eui, last), PAGE)?;
        if rows.is_empty() {
            return Ok(epochs);
        }
        for (key, _) in rows {
            let (_, epoch) = split_epoch_key(&key)?;
            if epoch >= end {
                return Ok(epochs);
            }
            epochs.push(epoch);
        }
    }
}

pub(super) fn forget_epoch(tx: &mut dyn Tx, eui: Eui64, epoch: Epoch) -> Result<(), EngineError> {
    let key = epoch_key(eui, epoch);
    tx.erase(EPOCHS, &key)?;
    tx.erase(WINDOWS, &key)?;
    loop {
        let heard = tx.scan(HEARD, &key, b"", PAGE)?;
        if heard.is_empty() {
            return Ok(());
        }
        for (counter, _) in heard {
            tx.erase(HEARD, &counter)?;
        }
    }
}

/// How many graces end in one transaction.
const EXPIRIES: usize = 16;
