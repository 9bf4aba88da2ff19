//! Pads at the platform: ordered by the operator, held like the gateway's, followed by what a device says.

use std::collections::BTreeSet;

use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{DataKeys, Epoch, telemetry};
use claviger_units::{Eui64, KeyId};
use claviger_wire::fleet::{
    AdoptedDevice, EpochName, FleetRecord, MAX_PAD, PadDock, PadDrawn, PadMark, PadName, PadOrder,
};

use super::rows::{DeviceRow, EpochRow, Offer, Source};
use super::{FetchFor, Platform};
use crate::orders::{Fetching, damaged};
use crate::pads::{Dock, MOST_AHEAD, PadKey, PadRow, Pads, Step};
use crate::rows::walk;

/// The pads of the platform.
pub(super) const PADS: Pads =
    Pads { rows: Table::plain("platform_pad"), keys: Table::secret("platform_pad_key") };

/// Keys that are being fetched for a pad: EUI-64 → the record that announced them.
pub(super) const BATCHES: Table = Table::plain("platform_pad_batch");

/// Why no pad is ordered; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PadError {
    /// The store failed: stop the role, mend the disk, start again.
    #[error(transparent)]
    Store(#[from] EngineError),
    /// The gateway does not serve the device: provision it, and wait until it is adopted.
    #[error("device {0} is not served by the gateway; provision it and wait for its first key")]
    NotServed(Eui64),
    /// Another pad of the device is being drawn: wait for it.
    #[error("a pad of device {0} is being drawn already; wait until it is complete")]
    UnderWay(Eui64),
    /// A complete pad waits for the device: dock it.
    #[error("a complete pad waits for device {0}; dock the device first")]
    Waits(Eui64),
    /// No device needs so many keys, or none.
    #[error("a pad has from 1 to {MAX_PAD} keys; a year of one every half hour is 17520")]
    Length,
}

/// A pad, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PadState {
    /// Which pad of the device's present life, from 1.
    pub pad: u32,
    /// How many keys were ordered.
    pub n_keys: u32,
    /// How many are held at both sites.
    pub n_held: u32,
    /// The first epoch that it serves, once its device is docked.
    pub first: Option<Epoch>,
}

impl Platform {
    /// Orders a pad of `n_keys` keys for a device; returns its number.
    pub fn order_pad(&mut self, tx: &mut dyn Tx, eui: Eui64, n_keys: u32) -> Result<u32, PadError> {
        if !(1..=MAX_PAD).contains(&n_keys) {
            return Err(PadError::Length);
        }
        let device = DeviceRow::load(tx, eui)?.filter(|row| row.adoption == Offer::Adopted);
        let Some(DeviceRow { life, .. }) = device else { return Err(PadError::NotServed(eui)) };
        let pads = PADS.of(tx, eui)?;
        if pads.iter().any(|(_, row)| !row.is_complete()) {
            return Err(PadError::UnderWay(eui));
        }
        if pads.iter().any(|(_, row)| row.dock.is_none()) {
            return Err(PadError::Waits(eui));
        }
        let pad = pads.last().map_or(1, |(last, _)| last + 1);
        PADS.store(tx, eui, pad, &PadRow::ordered(life, n_keys))?;
        let order = PadOrder { device: AdoptedDevice { eui, life }, pad, n_keys };
        self.peer.append(tx, &FleetRecord::PadOrder(order).encode())?;
        Ok(pad)
    }

    /// Lists the pads of a device, oldest first; one that is used up is gone.
    pub fn pads(&self, tx: &dyn Tx, eui: Eui64) -> Result<Vec<PadState>, EngineError> {
        let state = |(pad, row): (u32, PadRow)| PadState {
            pad,
            n_keys: row.n_keys,
            n_held: row.n_held,
            first: row.dock.map(|dock| dock.first),
        };
        Ok(PADS.of(tx, eui)?.into_iter().map(state).collect())
    }

    /// Takes note of keys that the gateway has drawn for a pad, which are fetched next.
    pub(super) fn hear_drawn(
        &mut self,
        tx: &mut dyn Tx,
        drawn: PadDrawn,
    ) -> Result<(), EngineError> {
        let eui = drawn.pad.device.eui;
        let Some(mut row) = PADS.load_named(tx, drawn.pad)? else {
            return self.tell_unknown(tx, drawn.pad);
        };
        let ids: BTreeSet<_> = drawn.key_ids.iter().collect();
        let end = u64::from(drawn.from) + drawn.key_ids.len() as u64;
        let fits = drawn.from == row.n_held
            && row.n_drawn == row.n_held
            && end <= row.n_keys.into()
            && ids.len() == drawn.key_ids.len()
            && !ids.into_iter().any(|id| self.fetches.contains(*id));
        if !fits {
            // A state was lost here, or these are not the keys of a batch.
            return self.tell_held(tx, drawn.pad, row.n_held);
        }
        row.n_drawn = drawn.from + u32::try_from(drawn.key_ids.len()).unwrap_or(u32::MAX);
        PADS.store(tx, eui, drawn.pad.pad, &row)?;
        self.fetch_batch(tx, &drawn)?;
        tx.write(BATCHES, eui.as_bytes(), &FleetRecord::PadDrawn(drawn).encode())
    }

    /// Takes the answer for one key of a batch.
    pub(super) fn settle_pad_key(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        key_id: KeyId,
        outcome: Fetching,
    ) -> Result<(), EngineError> {
        let Some(drawn) = read_batch(tx, eui)? else { return Ok(()) };
        let Some(mut row) = PADS.load_named(tx, drawn.pad)? else { return Ok(()) };
        let pad = drawn.pad.pad;
        let Some(place) = drawn.key_ids.iter().position(|id| *id == key_id) else {
            return Ok(());
        };
        let place = drawn.from + u32::try_from(place).unwrap_or(u32::MAX);
        match outcome {
            Fetching::Key(key, origin) => {
                PADS.put_key(tx, (eui, pad, place), &PadKey { key_id, origin, key })?;
                if self.is_fetching_for(eui) {
                    return Ok(());
                }
                row.n_held = row.n_drawn;
            }
            // A key that is lost takes those drawn with it along: places have no gaps.
            _ => {
                self.fetches.forget(|_, order| *order == FetchFor::Pad(eui));
                PADS.erase_keys_from(tx, eui, pad, row.n_held)?;
                row.n_drawn = row.n_held;
            }
        }
        PADS.store(tx, eui, pad, &row)?;
        tx.erase(BATCHES, eui.as_bytes())?;
        self.tell_held(tx, drawn.pad, row.n_held)
    }

    /// Agrees that a complete pad serves from an epoch on.
    pub(super) fn hear_dock(&mut self, tx: &mut dyn Tx, dock: PadDock) -> Result<(), EngineError> {
        let PadDock { pad: name, prev, first } = dock;
        let (eui, pad) = (name.device.eui, name.pad);
        let (prev, first) = (Epoch::new(prev), Epoch::new(first));
        let device = DeviceRow::load(tx, eui)?.filter(|device| device.life == name.device.life);
        let (Some(mut row), Some(mut device)) = (PADS.load_named(tx, name)?, device) else {
            return self.tell_unknown(tx, name);
        };
        if !row.is_complete() {
            return self.tell_held(tx, name, row.n_held);
        }
        // Its last readings by an earlier pad may still be on their way.
        Self::hold_up_to(tx, eui, prev)?;
        if super::epochs::load_whole(tx, eui, prev)?.is_none() || first <= device.active {
            PADS.erase(tx, eui, pad)?;
            return self.tell_unknown(tx, name);
        }
        row.dock = Some(Dock { prev, first, is_agreed: true, is_given: false });
        PADS.store(tx, eui, pad, &row)?;
        // An earlier pad is over.
        for (earlier, _) in PADS.of(tx, eui)?.into_iter().filter(|(other, _)| *other < pad) {
            PADS.erase(tx, eui, earlier)?;
        }
        device.highest = device.highest.max(row.last().unwrap_or(first));
        device.store(tx, eui)?;
        self.peer.append(tx, &FleetRecord::PadDocked(dock).encode())?;
        Ok(())
    }

    /// Forgets that a device was docked: it went without its pad, which nobody has seen.
    pub(super) fn hear_undock(tx: &mut dyn Tx, name: PadName) -> Result<(), EngineError> {
        let eui = name.device.eui;
        let Some(mut row) = PADS.load_named(tx, name)? else { return Ok(()) };
        let (Some(dock), Some(mut device)) = (row.dock.take(), DeviceRow::load(tx, eui)?) else {
            return Ok(());
        };
        PADS.store(tx, eui, name.pad, &row)?;
        // Of its numbers only the first has belonged to a secret, at the gateway.
        device.highest = dock.first;
        device.store(tx, eui)
    }

    /// Holds the epochs up to the one that the gateway has seen a device at.
    pub(super) fn hear_reached(tx: &mut dyn Tx, name: EpochName) -> Result<(), EngineError> {
        let device = DeviceRow::load(tx, name.eui)?.filter(|device| device.life == name.life);
        match device {
            Some(_) => Self::hold_up_to(tx, name.eui, Epoch::new(name.epoch)),
            None => Ok(()),
        }
    }

    /// Holds the epochs up to the one that a frame is sealed under, where a docked pad leads there and the
    /// frame proves that its device has gone the same way.
    pub(super) fn follow_pad(
        tx: &mut dyn Tx,
        eui: Eui64,
        device: &DeviceRow,
        frame: &[u8],
    ) -> Result<(), EngineError> {
        let Ok(header) = telemetry::peek(frame) else { return Ok(()) };
        let Some(path) = Self::path_to(tx, eui, header.epoch, MOST_AHEAD)? else { return Ok(()) };
        let Some(last) = path.steps.last() else { return Ok(()) };
        let keys = DataKeys::derive(&device.root, &last.secret, eui, last.epoch);
        match telemetry::open(&keys, eui, frame) {
            Ok(_) => Self::take_steps(tx, eui, path),
            Err(_) => Ok(()),
        }
    }

    fn hold_up_to(tx: &mut dyn Tx, eui: Eui64, epoch: Epoch) -> Result<(), EngineError> {
        match Self::path_to(tx, eui, epoch, MAX_PAD)? {
            Some(path) => Self::take_steps(tx, eui, path),
            None => Ok(()),
        }
    }

    /// Computes the epochs from the last one that is held up to `epoch`, if a docked pad leads there and it is
    /// not further than `most`; nothing if it is held already.
    fn path_to(
        tx: &dyn Tx,
        eui: Eui64,
        epoch: Epoch,
        most: u32,
    ) -> Result<Option<Path>, EngineError> {
        let Some((pad, row)) = PADS.docked(tx, eui)? else { return Ok(None) };
        let (Some(dock), Some(place)) = (row.dock, row.place_of(epoch)) else { return Ok(None) };
        if place < row.n_followed || place - row.n_followed >= most {
            return Ok(None);
        }
        let from = match row.n_followed.checked_sub(1) {
            None => dock.prev,
            Some(last) => Epoch::new(dock.first.number() + last),
        };
        let Some(secret) = super::epochs::load_whole(tx, eui, from)? else { return Ok(None) };
        let mut steps: Vec<Step> = Vec::new();
        while steps.last().is_none_or(|last| last.epoch < epoch) {
            let at = steps.last().map_or((from, &secret), |last| (last.epoch, &last.secret));
            match PADS.step(tx, eui, (pad, &row), at)? {
                Some(step) => steps.push(step),
                None => return Ok(None),
            }
        }
        Ok(Some(Path { pad, row, n_followed: place + 1, steps }))
    }

    fn take_steps(tx: &mut dyn Tx, eui: Eui64, path: Path) -> Result<(), EngineError> {
        let Path { pad, mut row, n_followed, steps } = path;
        row.n_followed = n_followed;
        PADS.store(tx, eui, pad, &row)?;
        for Step { prev, epoch, secret, key_id, origin } in steps {
            let (origin, source) = (Some(origin), Some(Source { prev, key_id, frame: Vec::new() }));
            EpochRow::Whole { secret, origin, source }.store(tx, eui, epoch)?;
            PADS.use_up(tx, eui, (pad, &row), epoch)?;
        }
        Ok(())
    }

    pub(super) fn recall_batches(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, BATCHES, |_, record| match FleetRecord::decode(record.expose()) {
            Ok(FleetRecord::PadDrawn(drawn)) => self.fetch_batch(tx, &drawn),
            _ => Err(damaged(BATCHES)),
        })
    }

    pub(super) fn forget_pads(&mut self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        PADS.forget(tx, eui)?;
        tx.erase(BATCHES, eui.as_bytes())
    }

    /// Orders the keys of a batch that are not here yet.
    fn fetch_batch(&mut self, tx: &dyn Tx, drawn: &PadDrawn) -> Result<(), EngineError> {
        let eui = drawn.pad.device.eui;
        for (place, key_id) in (drawn.from..).zip(&drawn.key_ids) {
            if PADS.key(tx, eui, drawn.pad.pad, place)?.is_none() {
                self.fetches.push(*key_id, FetchFor::Pad(eui));
            }
        }
        Ok(())
    }

    fn is_fetching_for(&self, eui: Eui64) -> bool {
        self.fetches.orders().any(|order| *order == FetchFor::Pad(eui))
    }

    fn tell_unknown(&mut self, tx: &mut dyn Tx, pad: PadName) -> Result<(), EngineError> {
        self.peer.append(tx, &FleetRecord::PadUnknown(pad).encode())?;
        Ok(())
    }

    fn tell_held(&mut self, tx: &mut dyn Tx, pad: PadName, n_held: u32) -> Result<(), EngineError> {
        self.peer.append(tx, &FleetRecord::PadHeld(PadMark { pad, n_held }).encode())?;
        Ok(())
    }
}

fn read_batch(tx: &dyn Tx, eui: Eui64) -> Result<Option<PadDrawn>, EngineError> {
    let Some(record) = tx.read(BATCHES, eui.as_bytes())? else { return Ok(None) };
    match FleetRecord::decode(record.expose()) {
        Ok(FleetRecord::PadDrawn(drawn)) => Ok(Some(drawn)),
        _ => Err(damaged(BATCHES)),
    }
}

/// Epochs that follow from a pad.
struct Path {
    pad: u32,
    row: PadRow,
    n_followed: u32,
    steps: Vec<Step>,
}
