//! Pads at the platform: ordered by the operator, held like the gateway's, followed by what a device says.

use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{DataKeys, Epoch, telemetry};
use claviger_units::{Eui64, KeyId};
use claviger_wire::fleet::{
    AdoptedDevice, FleetRecord, MAX_PAD, PadDock, PadDrawn, PadMark, PadName, PadOrder,
};

use super::rows::{DeviceRow, EpochRow, Offer, Source};
use super::{FetchFor, Platform};
use crate::orders::{Fetching, damaged};
use crate::pads::{Dock, PadKey, PadRow, Pads, Step};
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
        // One that was never docked serves nobody beside the new one.
        for (pad, _) in pads.iter().filter(|(_, row)| row.dock.is_none()) {
            PADS.erase(tx, eui, *pad)?;
        }
        let pad = pads.last().map_or(1, |(last, _)| last + 1);
        PADS.store(tx, eui, pad, &PadRow { life, n_keys, n_drawn: 0, n_held: 0, dock: None })?;
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
        let row = PADS.load_named(tx, drawn.pad)?;
        let fits = row.is_some_and(|row| {
            let end = u64::from(drawn.from) + drawn.key_ids.len() as u64;
            drawn.from == row.n_held && row.n_drawn == row.n_held && end <= row.n_keys.into()
        });
        let (Some(mut row), true) = (row, fits) else {
            // Of an earlier life, or of a state that was lost here.
            let n_held = row.map_or(0, |row| row.n_held);
            return self.tell_held(tx, drawn.pad, n_held);
        };
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
        let row = PADS.load_named(tx, name)?;
        let device = DeviceRow::load(tx, eui)?.filter(|device| device.life == name.device.life);
        let held = super::epochs::load_whole(tx, eui, prev)?;
        let (Some(mut row), Some(mut device), Some(_)) =
            (row.filter(PadRow::is_complete), device, held)
        else {
            // Of an earlier life, or of a state that was lost here.
            return self.tell_held(tx, name, row.map_or(0, |row| row.n_held));
        };
        row.dock = Some(Dock { prev, first, is_agreed: true });
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

    /// Holds the epochs up to the one that a frame is sealed under, where a docked pad leads there and the
    /// frame proves that its device has gone the same way.
    pub(super) fn follow_pad(
        tx: &mut dyn Tx,
        eui: Eui64,
        device: &DeviceRow,
        frame: &[u8],
    ) -> Result<(), EngineError> {
        let Ok(header) = telemetry::peek(frame) else { return Ok(()) };
        let epoch = header.epoch;
        if epoch <= device.active || EpochRow::load(tx, eui, epoch)?.is_some() {
            return Ok(());
        }
        let Some((pad, row)) = PADS.docked(tx, eui)? else { return Ok(()) };
        let Some(dock) = row.dock.filter(|_| row.place_of(epoch).is_some()) else {
            return Ok(());
        };
        let from = if device.active >= dock.first { device.active } else { dock.prev };
        if epoch.number() - from.max(dock.first).number() > MAX_REACH {
            return Ok(());
        }
        let Some(secret) = super::epochs::load_whole(tx, eui, from)? else { return Ok(()) };
        let mut steps: Vec<Step> = Vec::new();
        while steps.last().is_none_or(|last| last.epoch < epoch) {
            let at = steps.last().map_or((from, &secret), |last| (last.epoch, &last.secret));
            match PADS.step(tx, eui, (pad, &row), at)? {
                Some(step) => steps.push(step),
                None => return Ok(()),
            }
        }
        let Some(last) = steps.last() else { return Ok(()) };
        let keys = DataKeys::derive(&device.root, &last.secret, eui, epoch);
        if telemetry::open(&keys, eui, frame).is_err() {
            return Ok(());
        }
        for Step { prev, epoch, secret, key_id, origin } in steps {
            let source = Some(Source { prev, key_id, origin, frame: Vec::new() });
            EpochRow::Whole { secret, source }.store(tx, eui, epoch)?;
        }
        PADS.use_up(tx, eui, (pad, &row), epoch)
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

/// How many epochs of a pad a device may have left without a frame that came through. It steps on only after
/// an acknowledged reading, so that one is honest; more are for what brokers reorder.
const MAX_REACH: u32 = 64;
