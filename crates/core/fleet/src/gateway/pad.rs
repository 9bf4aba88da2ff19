//! Pads at the gateway: drawn when nobody else needs a key, given to a docked device by cable, and followed
//! without a word over the air.

use std::collections::BTreeMap;

use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Epoch, GatewaySecret, pad};
use claviger_units::{Eui64, Key256, KeyId, SecretBytes, Span, Timestamp};
use claviger_wire::fleet::{
    AdoptedDevice, EpochName, FleetRecord, MAX_PAD_BATCH, PadDock, PadDrawn, PadMark, PadName,
    PadOrder,
};
use rand_core::Rng;
use zeroize::Zeroizing;

use super::doors::Proof;
use super::rows::{DeviceRow, Held, Next, Stage};
use super::{Gateway, GatewayEvent};
use crate::Alarm;
use crate::lane::pause_after;
use crate::orders::{KeyOrder, Origin, damaged};
use crate::pads::{Dock, MOST_AHEAD, PadKey, PadRow, Pads, Step, split_row_key};
use crate::rows::walk;

/// The pads of the gateway.
pub(super) const PADS: Pads =
    Pads { rows: Table::plain("gateway_pad"), keys: Table::secret("gateway_pad_key") };

/// The answer to a device on the cable.
#[derive(Debug)]
pub enum DockAnswer {
    /// First this key frame, which may have left already: take it, and ask again.
    Frame(Vec<u8>),
    /// The pad, or what is left of it, sealed for the device as it is now ([`claviger_frames::pad`]).
    Pad(Vec<u8>),
    /// The platform has yet to agree: ask again.
    Later {
        /// When, whole seconds.
        retry_after: Span,
    },
    /// No complete pad waits for this device: order one, or wait until it is drawn.
    None,
    /// Wrong, unknown or stale, one answer for all.
    Denied,
}

/// The answer to [`KeyOrder::ExtractPad`].
#[derive(Debug)]
pub enum PadExtraction {
    /// Keys, as many as were asked for; whoever reports them has no copy left.
    Keys(Vec<(KeyId, Key256, Origin)>),
    /// Devices need the keys that there are, or the KME cannot be reached.
    Later,
}

/// Which pads want keys.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    // Pads of which nothing is on its way to the platform, and how many keys they lack.
    waiting: BTreeMap<(Eui64, u32), u32>,
    in_flight: Option<((Eui64, u32), u32)>,
    resume: Timestamp,
    // Batches in a row that the platform could not get.
    n_lost: u32,
}

impl Gateway {
    /// Takes the answer to [`KeyOrder::ExtractPad`].
    pub fn handle_pad_extracted(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        outcome: PadExtraction,
    ) -> Result<(), EngineError> {
        if let Some(((eui, pad), n_lacking)) = self.drawing.in_flight.take() {
            match outcome {
                PadExtraction::Keys(keys) => self.keep_drawn(tx, eui, pad, &keys)?,
                PadExtraction::Later => {
                    self.drawing.waiting.insert((eui, pad), n_lacking);
                    self.drawing.resume = now + PAUSE;
                }
            }
        }
        self.pump(now);
        Ok(())
    }

    /// Answers `GET /v1/devices/{eui}/pad?have=e` of a device on the cable. As often as it asks, it is given what
    /// its pad still holds from the epoch on that it proves.
    pub fn handle_dock(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: &str,
        have: Option<&str>,
        (path_and_query, authorization): (&str, Option<&str>),
        rng: &mut impl Rng,
    ) -> Result<DockAnswer, EngineError> {
        let signed = (path_and_query, authorization);
        let Some((eui, row, proof)) = self.prove_signed(tx, now, eui, have, signed)? else {
            return Ok(DockAnswer::Denied);
        };
        match proof {
            Proof::Retired => {
                self.events.push_back(GatewayEvent::Alarm(Alarm::LabelUsed { eui }));
                return Ok(DockAnswer::Denied);
            }
            _ if self.is_barred() => return Ok(DockAnswer::Later { retry_after: SOON }),
            Proof::Current => {}
            Proof::Next => self.promote(tx, now, eui, row)?,
        }
        self.seen.insert(eui, now);
        match DeviceRow::load(tx, eui)? {
            Some(row) => self.dock(tx, eui, row, rng),
            None => Ok(DockAnswer::Denied),
        }
    }

    fn dock(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        row: DeviceRow,
        rng: &mut impl Rng,
    ) -> Result<DockAnswer, EngineError> {
        let pads = PADS.of(tx, eui)?;
        // One that leads on goes before any other, since its device may have taken the next step already.
        if let Some(&(pad, pad_row)) = pads.iter().rfind(|(_, pad)| pad.dock.is_some()) {
            if pad_row.dock.is_some_and(|dock| !dock.is_agreed) {
                return Ok(DockAnswer::Later { retry_after: SOON });
            }
            if let Some(next) = pad_row.next_after(row.cur.epoch) {
                return Self::give(tx, (eui, pad, pad_row), &row, next, rng);
            }
        }
        match pads.into_iter().rfind(|(_, pad)| pad.is_complete() && pad.dock.is_none()) {
            Some((pad, pad_row)) => {
                let device = AdoptedDevice { eui, life: row.life };
                self.propose_dock(tx, PadName { device, pad }, pad_row, row)
            }
            None => Ok(DockAnswer::None),
        }
    }

    /// Seals what a pad holds from the epoch on that its device has, and notes that it may leave.
    fn give(
        tx: &mut dyn Tx,
        (eui, pad, mut pad_row): (Eui64, u32, PadRow),
        row: &DeviceRow,
        next: Epoch,
        rng: &mut impl Rng,
    ) -> Result<DockAnswer, EngineError> {
        let from = pad_row.place_of(next).unwrap_or(0);
        let n_left = usize::try_from(pad_row.n_keys - from).unwrap_or_default();
        let mut keys = Zeroizing::new(Vec::with_capacity(32 * n_left));
        for place in from..pad_row.n_keys {
            let Some(key) = PADS.key(tx, eui, pad, place)? else { return Ok(DockAnswer::None) };
            keys.extend_from_slice(key.key.expose());
        }
        if let Some(dock) = pad_row.dock.as_mut().filter(|dock| !dock.is_given) {
            dock.is_given = true;
            PADS.store(tx, eui, pad, &pad_row)?;
        }
        let mut iv = [0; 12];
        rng.fill_bytes(&mut iv);
        let keys = SecretBytes::new(std::mem::take(&mut *keys));
        let sealed = pad::seal(&row.cur.secret, eui, (row.cur.epoch, next), &keys, iv);
        Ok(DockAnswer::Pad(sealed))
    }

    /// Proposes from which epoch on a pad serves: above all that was ever used, and from the one that its
    /// device has proven and can leave by nothing else.
    fn propose_dock(
        &mut self,
        tx: &mut dyn Tx,
        pad: PadName,
        mut pad_row: PadRow,
        mut row: DeviceRow,
    ) -> Result<DockAnswer, EngineError> {
        let eui = pad.device.eui;
        let (prev, first) = (row.cur.epoch, row.highest.number().checked_add(1));
        let last = first.and_then(|first| first.checked_add(pad_row.n_keys));
        let (Some(first), Some(_)) = (first, last) else { return Ok(DockAnswer::None) };
        match row.next.take() {
            Some(Next::Finished { frame, stage: Stage::Ready, .. }) => {
                return Ok(DockAnswer::Frame(frame));
            }
            Some(Next::Finished { held, .. }) => {
                let name = EpochName { eui, life: row.life, epoch: held.epoch.number() };
                self.peer.append(tx, &FleetRecord::Drop(name).encode())?;
            }
            Some(Next::Asking { .. }) | None => {}
        }
        self.allocation.forget(eui);
        row.store(tx, eui)?;
        let first = Epoch::new(first);
        pad_row.dock = Some(Dock { prev, first, is_agreed: false, is_given: false });
        PADS.store(tx, eui, pad.pad, &pad_row)?;
        let record = PadDock { pad, prev: prev.number(), first: first.number() };
        self.peer.append(tx, &FleetRecord::PadDock(record).encode())?;
        Ok(DockAnswer::Later { retry_after: SOON })
    }

    /// Takes the order of a pad.
    pub(super) fn hear_pad_order(
        &mut self,
        tx: &mut dyn Tx,
        PadOrder { device, pad, n_keys }: PadOrder,
    ) -> Result<(), EngineError> {
        let AdoptedDevice { eui, life } = device;
        if DeviceRow::load(tx, eui)?.is_none_or(|row| row.life != life) {
            return Ok(());
        }
        // The platform knows what its device has: whatever else was drawn here, or comes under a number that
        // was used before, serves nobody.
        let is_used = |row: &PadRow| row.dock.is_some_and(|dock| dock.is_agreed);
        for (other, row) in PADS.of(tx, eui)? {
            if other == pad || !is_used(&row) {
                self.forget_pad(tx, eui, other)?;
            }
        }
        PADS.store(tx, eui, pad, &PadRow::ordered(life, n_keys))?;
        self.drawing.waiting.insert((eui, pad), n_keys);
        Ok(())
    }

    /// Takes note of how much of a pad the platform holds; what it lost is drawn again.
    pub(super) fn hear_pad_held(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        PadMark { pad: name, n_held }: PadMark,
    ) -> Result<(), EngineError> {
        let (eui, pad) = (name.device.eui, name.pad);
        // The platform may also have lost what it held when its device was to be docked.
        let is_open = |row: &PadRow| row.dock.is_none_or(|dock| !dock.is_agreed);
        let row = PADS.load_named(tx, name)?.filter(is_open);
        let Some(mut row) = row.filter(|row| n_held <= row.n_drawn) else { return Ok(()) };
        if row.dock.take().is_some() {
            self.plan_again(tx, now, eui)?;
        }
        if n_held < row.n_drawn {
            PADS.erase_keys_from(tx, eui, pad, n_held)?;
            self.drawing.n_lost += 1;
            let pause = pause_after(self.drawing.n_lost, LONGEST_SETBACK);
            self.drawing.resume = self.drawing.resume.max(now + pause);
            self.events.push_back(GatewayEvent::PadSetback { eui });
        } else {
            self.drawing.n_lost = 0;
        }
        (row.n_held, row.n_drawn) = (n_held, n_held);
        PADS.store(tx, eui, pad, &row)?;
        if row.is_complete() {
            self.events.push_back(GatewayEvent::PadComplete { eui });
        } else {
            self.drawing.waiting.insert((eui, pad), row.n_keys - n_held);
        }
        Ok(())
    }

    /// The platform can follow the pad: it may be given to its device.
    pub(super) fn hear_docked(
        &mut self,
        tx: &mut dyn Tx,
        PadDock { pad: name, prev, first }: PadDock,
    ) -> Result<(), EngineError> {
        let (eui, pad) = (name.device.eui, name.pad);
        let Some(mut pad_row) = PADS.load_named(tx, name)? else { return Ok(()) };
        let Some(mut row) = DeviceRow::load(tx, eui)? else { return Ok(()) };
        let proposed = pad_row.dock.as_mut().filter(|own| {
            (own.prev, own.first) == (Epoch::new(prev), Epoch::new(first)) && !own.is_agreed
        });
        let Some(own) = proposed else { return Ok(()) };
        own.is_agreed = true;
        PADS.store(tx, eui, pad, &pad_row)?;
        for (earlier, _) in PADS.of(tx, eui)?.into_iter().filter(|(other, _)| *other < pad) {
            self.forget_pad(tx, eui, earlier)?;
        }
        row.highest = pad_row.last().unwrap_or(row.highest).max(row.highest);
        Self::prepare_by_pad(tx, eui, &mut row)?;
        row.store(tx, eui)?;
        self.events.push_back(GatewayEvent::Docked { eui });
        Ok(())
    }

    /// The platform knows nothing of a pad, or cannot follow it: nobody has it, and nobody gets it.
    pub(super) fn hear_pad_unknown(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        name: PadName,
    ) -> Result<(), EngineError> {
        let (eui, pad) = (name.device.eui, name.pad);
        let row = PADS.load_named(tx, name)?;
        let Some(row) = row.filter(|row| row.dock.is_none_or(|dock| !dock.is_agreed)) else {
            return Ok(());
        };
        self.forget_pad(tx, eui, pad)?;
        self.events.push_back(GatewayEvent::PadSetback { eui });
        if row.dock.is_some() {
            self.plan_again(tx, now, eui)?;
        }
        Ok(())
    }

    /// Lets a device have keys over the air again that asks for one there instead of taking its pad; only
    /// while the pad has not left, since otherwise the device may have it and go on by it at any time.
    pub(super) fn undock(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        row: &mut DeviceRow,
    ) -> Result<(), EngineError> {
        let Some((pad, mut pad_row)) = PADS.docked(tx, eui)? else { return Ok(()) };
        let Some(dock) = pad_row.dock.filter(|dock| dock.is_agreed && !dock.is_given) else {
            return Ok(());
        };
        // Of the pad's numbers only the first has belonged to a secret.
        (row.next, row.highest) = (None, dock.first);
        row.store(tx, eui)?;
        pad_row.dock = None;
        PADS.store(tx, eui, pad, &pad_row)?;
        let device = AdoptedDevice { eui, life: row.life };
        self.peer.append(tx, &FleetRecord::PadUndock(PadName { device, pad }).encode())?;
        self.plan(now, eui, row);
        Ok(())
    }

    /// Plans the next epoch of a device that was to be docked and is not.
    fn plan_again(&mut self, tx: &dyn Tx, now: Timestamp, eui: Eui64) -> Result<(), EngineError> {
        if let Some(row) = DeviceRow::load(tx, eui)?.filter(|row| row.next.is_none()) {
            self.plan(now, eui, &row);
        }
        Ok(())
    }

    /// Makes the next epoch ready that the pad of a device leads to, if it has one: the device steps there
    /// by itself. Returns whether a pad decides over the next epoch.
    pub(super) fn prepare_by_pad(
        tx: &dyn Tx,
        eui: Eui64,
        row: &mut DeviceRow,
    ) -> Result<bool, EngineError> {
        let Some((pad, pad_row)) = PADS.docked(tx, eui)? else { return Ok(false) };
        let at = (row.cur.epoch, &row.cur.secret);
        if let Some(step) = PADS.step(tx, eui, (pad, &pad_row), at)? {
            let Step { epoch, secret, key_id, origin, .. } = step;
            let held = Held { epoch, secret, origin: Some(origin) };
            // Without a frame: nothing of it ever leaves.
            row.next =
                Some(Next::Finished { held, key_id, frame: Vec::new(), stage: Stage::Ready });
        }
        Ok(true)
    }

    /// Erases what of a pad has led to an epoch that its device holds, and tells the platform where that is.
    pub(super) fn use_pad(&mut self, tx: &mut dyn Tx, name: EpochName) -> Result<(), EngineError> {
        let (eui, epoch) = (name.eui, Epoch::new(name.epoch));
        let docked = PADS.docked(tx, eui)?;
        let Some((pad, row)) = docked.filter(|(_, row)| row.place_of(epoch).is_some()) else {
            return Ok(());
        };
        self.peer.append(tx, &FleetRecord::PadReached(name).encode())?;
        PADS.use_up(tx, eui, (pad, &row), epoch)
    }

    /// Lets the gateway catch up with a device that went on by its pad before this store was lost: it may be
    /// further than the platform knew. Whoever `holds` the secret of an epoch on its way, of the `wanted` one if
    /// it names one, is at that epoch.
    pub(super) fn catch_up(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        wanted: Option<Epoch>,
        holds: impl Fn(&GatewaySecret) -> bool,
    ) -> Result<bool, EngineError> {
        if self.is_barred() {
            return Ok(false);
        }
        let Some(row) = DeviceRow::load(tx, eui)? else { return Ok(false) };
        let proven = Self::steps_ahead(tx, eui, &row)?
            .into_iter()
            .find(|step| wanted.is_none_or(|wanted| step.epoch == wanted) && holds(&step.secret));
        let Some(Step { epoch, .. }) = proven else { return Ok(false) };
        while let Some(row) = DeviceRow::load(tx, eui)?
            && row.next.as_ref().is_some_and(|next| next.epoch() < epoch)
        {
            self.promote(tx, now, eui, row)?;
        }
        // What it asked from there before the loss is forgotten like the rest.
        self.note_unknown_questions(tx, eui, [epoch])?;
        Ok(true)
    }

    /// Returns the epochs beyond the next one that a device may have come to by its pad, unseen.
    pub(super) fn steps_ahead(
        tx: &dyn Tx,
        eui: Eui64,
        row: &DeviceRow,
    ) -> Result<Vec<Step>, EngineError> {
        let (Some(Next::Finished { held, .. }), true) = (&row.next, row.may_be_ahead) else {
            return Ok(Vec::new());
        };
        let Some((pad, pad_row)) = PADS.docked(tx, eui)? else { return Ok(Vec::new()) };
        let mut steps: Vec<Step> = Vec::new();
        while steps.len() < MOST_AHEAD as usize {
            let at =
                steps.last().map_or((held.epoch, &held.secret), |last| (last.epoch, &last.secret));
            match PADS.step(tx, eui, (pad, &pad_row), at)? {
                Some(step) => steps.push(step),
                None => break,
            }
        }
        Ok(steps)
    }

    fn forget_pad(&mut self, tx: &mut dyn Tx, eui: Eui64, pad: u32) -> Result<(), EngineError> {
        self.drawing.forget(|other| *other == (eui, pad));
        PADS.erase(tx, eui, pad)
    }

    pub(super) fn forget_pads(&mut self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        self.drawing.forget(|(of, _)| *of == eui);
        PADS.forget(tx, eui)
    }

    pub(super) fn recall_pads(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, PADS.rows, |key, _| {
            let (eui, pad) = split_row_key(key).ok_or(damaged(PADS.rows))?;
            let row = PADS.load(tx, eui, pad)?;
            if let Some(row) = row.filter(|row| !row.is_complete() && row.n_drawn == row.n_held) {
                self.drawing.waiting.insert((eui, pad), row.n_keys - row.n_held);
            }
            Ok(())
        })
    }

    /// Orders keys for a pad, if no device waits for one.
    pub(super) fn pump_pads(&mut self, now: Timestamp) {
        if !self.may_draw() || now < self.drawing.resume {
            return;
        }
        if let Some((pad, n_lacking)) = self.drawing.waiting.pop_first() {
            self.drawing.in_flight = Some((pad, n_lacking));
            let most = usize::try_from(n_lacking).unwrap_or(usize::MAX).min(MAX_PAD_BATCH);
            self.orders.push_back(KeyOrder::ExtractPad { most });
        }
    }

    /// Returns when keys for a pad can be ordered, if only time is missing.
    pub(super) fn pads_wake_at(&self) -> Option<Timestamp> {
        (self.may_draw() && !self.drawing.waiting.is_empty()).then_some(self.drawing.resume)
    }

    fn may_draw(&self) -> bool {
        self.may_extract() && self.allocation.n_asking() == 0 && self.drawing.in_flight.is_none()
    }

    fn keep_drawn(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        pad: u32,
        keys: &[(KeyId, Key256, Origin)],
    ) -> Result<(), EngineError> {
        let row = PADS.load(tx, eui, pad)?.filter(|row| row.n_drawn == row.n_held);
        // Of a pad that is no more: what was drawn for it is burnt.
        let Some(mut row) = row else { return Ok(()) };
        let from = row.n_drawn;
        let room = usize::try_from(row.n_keys - from).unwrap_or(usize::MAX);
        let mut key_ids = Vec::new();
        for (place, (key_id, key, origin)) in (from..).zip(keys.iter().take(room)) {
            let (key_id, origin, key) = (*key_id, *origin, key.duplicate());
            PADS.put_key(tx, (eui, pad, place), &PadKey { key_id, origin, key })?;
            key_ids.push(key_id);
        }
        if key_ids.is_empty() {
            self.drawing.waiting.insert((eui, pad), row.n_keys - from);
            return Ok(());
        }
        row.n_drawn += u32::try_from(key_ids.len()).unwrap_or(u32::MAX);
        PADS.store(tx, eui, pad, &row)?;
        let device = AdoptedDevice { eui, life: row.life };
        let drawn = PadDrawn { pad: PadName { device, pad }, from, key_ids };
        self.peer.append(tx, &FleetRecord::PadDrawn(drawn).encode())?;
        Ok(())
    }
}

impl Drawing {
    fn forget(&mut self, unwanted: impl Fn(&(Eui64, u32)) -> bool) {
        self.waiting.retain(|pad, _| !unwanted(pad));
        self.in_flight = self.in_flight.filter(|(pad, _)| !unwanted(pad));
    }
}

/// The longest pause between two batches that the platform cannot get: each costs its keys.
const LONGEST_SETBACK: Span = Span::from_secs(600);
/// How long pads wait when there are no keys to spare.
const PAUSE: Span = Span::from_secs(10);
/// When a device on the cable asks again.
const SOON: Span = Span::from_secs(1);
