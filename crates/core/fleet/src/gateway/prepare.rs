//! Adoption and preparation: announce before release (`PROTOCOL.md` P3a, P3b).

use claviger_durable::{EngineError, Tx};
use claviger_frames::{Epoch, GatewaySecret, ProofKeys, key_frame};
use claviger_units::{Eui64, Key256, KeyId, Span, Timestamp};
use claviger_wire::fleet::{Adopt, AdoptedDevice, Announce, EpochName, FleetRecord, Seed};
use rand_core::Rng;

use super::pad::PADS;
use super::rows::{ADOPTIONS, DEVICES, DeviceRow, Held, Next, RETIRED, Stage};
use super::{FrameForm, Gateway, GatewayEvent};
use crate::adoption::{self, SeedSecrets};
use crate::lane::pause_after;
use crate::orders::{Extraction, Fetching, Origin, RequestToken, damaged};
use crate::{Alarm, FleetError};

impl Gateway {
    /// Takes the answer to [`KeyOrder::Extract`](crate::KeyOrder::Extract).
    pub fn handle_extracted(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        epoch: Epoch,
        outcome: Extraction,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        match outcome {
            Extraction::Key(key_id, key, origin) => {
                self.allocation.granted(now, (eui, epoch));
                self.announce(tx, eui, epoch, (key_id, key, origin), rng)?;
            }
            Extraction::TokenAnswered => self.ask_anew(tx, eui, epoch, rng)?,
            Extraction::Shortage => self.allocation.too_few(now, (eui, epoch)),
            Extraction::Unreachable => self.allocation.unreachable(now, (eui, epoch)),
        }
        self.events.extend(self.allocation.judge(now));
        self.pump(now);
        Ok(())
    }

    /// Takes the answer to [`KeyOrder::Fetch`](crate::KeyOrder::Fetch).
    pub fn handle_fetched(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        key_id: KeyId,
        outcome: Fetching,
    ) -> Result<(), EngineError> {
        match outcome {
            Fetching::Key(wrapping, _) => {
                self.fetches.succeed(key_id);
                self.open_adoption(tx, now, key_id, &wrapping)?;
            }
            Fetching::Refused => {
                self.fetches.succeed(key_id);
                self.refuse_adoption(tx, key_id)?;
            }
            Fetching::Unreachable => self.fetches.fail(now, key_id),
        }
        self.pump(now);
        Ok(())
    }

    /// Applies a record of the platform.
    pub(super) fn apply(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        record: FleetRecord,
    ) -> Result<(), FleetError> {
        match record {
            FleetRecord::Adopt(adopt) => self.keep_adoption(tx, adopt)?,
            FleetRecord::Adopted { key_id } => self.hear_held(tx, key_id)?,
            FleetRecord::NackAdopt { key_id } => self.hear_not_held(tx, now, key_id)?,
            FleetRecord::Prepared(name) => self.release(tx, name)?,
            FleetRecord::Nack(name) => self.drop_refused(tx, now, name)?,
            FleetRecord::Confirmed(name) => self.confirm(tx, now, name)?,
            FleetRecord::Retire(device) => self.retire(tx, device)?,
            FleetRecord::PadOrder(order) => self.hear_pad_order(tx, order)?,
            FleetRecord::PadHeld(mark) => self.hear_pad_held(tx, now, mark)?,
            FleetRecord::PadUnknown(pad) => self.hear_pad_unknown(tx, now, pad)?,
            FleetRecord::PadDocked(dock) => self.hear_docked(tx, dock)?,
            FleetRecord::GiveBack(_)
            | FleetRecord::GivenBack
            | FleetRecord::Over(_)
            | FleetRecord::Announce(_)
            | FleetRecord::Drop(_)
            | FleetRecord::PadDrawn(_)
            | FleetRecord::PadDock(_)
            | FleetRecord::PadUndock(_)
            | FleetRecord::PadReached(_) => return Err(FleetError::Misdirected),
        }
        Ok(())
    }

    /// Begins the preparation of devices that are due (P3b.1), a bounded number at a time.
    pub(super) fn begin_due(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        for _ in 0..BEGINNINGS {
            let Some(eui) = self.allocation.take_due(now) else { break };
            let Some(mut row) = DeviceRow::load(tx, eui)?.filter(|row| row.next.is_none()) else {
                continue;
            };
            let epoch = Epoch::new(row.highest.number() + 1);
            let token = RequestToken::random(rng);
            row.highest = epoch;
            row.next = Some(Next::Asking { epoch, token });
            row.store(tx, eui)?;
            self.allocation.ask((eui, epoch), token);
        }
        Ok(())
    }

    /// Plans the next preparation of a device without one.
    pub(super) fn plan(&mut self, now: Timestamp, eui: Eui64, row: &DeviceRow) {
        self.plan_at(eui, row, self.allocation.next_time(now, row.cur.epoch, row.since));
    }

    /// Makes `next` the current epoch: the device has shown that it holds it (P3b.7).
    pub(super) fn promote(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        mut row: DeviceRow,
    ) -> Result<(), EngineError> {
        let Some(Next::Finished { held, .. }) = row.next.take() else { return Ok(()) };
        if row.cur.epoch == Epoch::BOOTSTRAP {
            row.retired = Some(ProofKeys::of(&row.cur.secret));
        }
        Self::forget_epoch(tx, eui, row.cur.epoch)?;
        // What is pushed at the end of one wake is shown in the next: its time began with the first.
        let pushed = self.pushed.remove(&eui).filter(|(epoch, _)| *epoch == held.epoch);
        row.cur = held;
        row.since = pushed.map_or(now, |(_, at)| at.min(now));
        let name = EpochName { eui, life: row.life, epoch: row.cur.epoch.number() };
        self.use_pad(tx, name)?;
        let by_pad = Self::prepare_by_pad(tx, eui, &mut row)?;
        row.store(tx, eui)?;
        self.setbacks.remove(&eui);
        if !by_pad {
            self.plan(now, eui, &row);
        }
        self.events.push_back(GatewayEvent::Promoted { eui, epoch: row.cur.epoch });
        Ok(())
    }

    fn plan_at(&mut self, eui: Eui64, row: &DeviceRow, at: Timestamp) {
        if row.highest.number() - row.cur.epoch.number() < key_frame::MAX_STEP {
            self.allocation.plan(eui, at);
        } else {
            self.events.push_back(GatewayEvent::Alarm(Alarm::OutOfReach { eui }));
        }
    }

    fn ask_anew(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        epoch: Epoch,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        let Some(mut row) = DeviceRow::load(tx, eui)? else { return Ok(()) };
        if !is_asking(&row, epoch) {
            self.allocation.end((eui, epoch));
            return Ok(());
        }
        let token = RequestToken::random(rng);
        row.next = Some(Next::Asking { epoch, token });
        row.store(tx, eui)?;
        self.allocation.repeat((eui, epoch), token);
        Ok(())
    }

    /// Finishes an epoch and announces it, in one transaction (P3b.3). A key that nobody waits
    /// for any more is dropped here: burnt.
    fn announce(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        epoch: Epoch,
        (key_id, key, origin): (KeyId, Key256, Origin),
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        let row = DeviceRow::load(tx, eui)?.filter(|row| is_asking(row, epoch));
        let Some(mut row) = row else { return Ok(()) };
        let frame = self.write_frame(&row.cur.secret, epoch, &key, rng);
        let secret = row.cur.secret.next(&key, eui, row.cur.epoch, epoch);
        let record = FleetRecord::Announce(Announce {
            name: EpochName { eui, life: row.life, epoch: epoch.number() },
            prev: row.cur.epoch.number(),
            key_id,
            frame: frame.clone(),
        });
        let held = Held { epoch, secret, origin: Some(origin) };
        row.next = Some(Next::Finished { held, key_id, frame, stage: Stage::Announced });
        row.store(tx, eui)?;
        self.peer.append(tx, &record.encode())?;
        Ok(())
    }

    fn write_frame(
        &self,
        secret: &GatewaySecret,
        epoch: Epoch,
        key: &Key256,
        rng: &mut impl Rng,
    ) -> Vec<u8> {
        match self.config.form {
            FrameForm::Compact => key_frame::seal_compact(secret, epoch, key).to_vec(),
            FrameForm::Cose => {
                let mut iv = [0; 12];
                rng.fill_bytes(&mut iv);
                key_frame::seal(secret, epoch, key, iv)
            }
            FrameForm::CoseCcm => {
                let mut iv = [0; 13];
                rng.fill_bytes(&mut iv);
                key_frame::seal_ccm(secret, epoch, key, iv)
            }
        }
    }

    fn release(&mut self, tx: &mut dyn Tx, name: EpochName) -> Result<(), EngineError> {
        let Some(mut row) = announced(tx, name)? else { return Ok(()) };
        if let Some(Next::Finished { stage, .. }) = &mut row.next {
            *stage = Stage::Ready;
        }
        row.store(tx, name.eui)?;
        let epoch = Epoch::new(name.epoch);
        self.events.push_back(GatewayEvent::Ready { eui: name.eui, epoch });
        Ok(())
    }

    /// Drops an epoch that the platform cannot hold (P3b.5). What is ready was released, perhaps,
    /// and stays.
    fn drop_refused(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        name: EpochName,
    ) -> Result<(), EngineError> {
        let EpochName { eui, .. } = name;
        let Some(mut row) = announced(tx, name)? else { return Ok(()) };
        if matches!(row.next, Some(Next::Finished { stage: Stage::Ready, .. })) {
            return Ok(());
        }
        row.next = None;
        row.store(tx, eui)?;
        self.peer.append(tx, &FleetRecord::Drop(name).encode())?;
        let setbacks = self.setbacks.entry(eui).or_default();
        *setbacks += 1;
        let pause = pause_after(*setbacks, LONGEST_SETBACK);
        self.plan_at(eui, &row, now + pause);
        self.events.push_back(GatewayEvent::Refused { eui, epoch: Epoch::new(name.epoch) });
        Ok(())
    }

    fn confirm(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        name: EpochName,
    ) -> Result<(), EngineError> {
        if let Some(row) = announced(tx, name)? {
            return self.promote(tx, now, name.eui, row);
        }
        // By its pad the device may have gone on while this gateway had not heard of it.
        loop {
            let row = DeviceRow::load(tx, name.eui)?.filter(|row| row.life == name.life);
            let row = row.filter(|row| {
                let next = row.next.as_ref().map(Next::epoch);
                row.is_next_by_pad() && next.is_some_and(|next| next.number() <= name.epoch)
            });
            let Some(row) = row else { return Ok(()) };
            self.promote(tx, now, name.eui, row)?;
        }
    }

    fn keep_adoption(&mut self, tx: &mut dyn Tx, adopt: Adopt) -> Result<(), EngineError> {
        let key_id = adopt.key_id;
        tx.write(ADOPTIONS, key_id.as_bytes(), &FleetRecord::Adopt(adopt).encode())?;
        self.fetches.push(key_id, ());
        Ok(())
    }

    /// Takes the devices of an adoption over, if W is the key that it was sealed under.
    fn open_adoption(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        key_id: KeyId,
        wrapping: &Key256,
    ) -> Result<(), EngineError> {
        let Some(record) = tx.read(ADOPTIONS, key_id.as_bytes())? else { return Ok(()) };
        let Ok(FleetRecord::Adopt(adopt)) = FleetRecord::decode(record.expose()) else {
            return Err(damaged(ADOPTIONS));
        };
        let Some(devices) = adoption::open(wrapping, &adopt) else {
            return self.refuse_adoption(tx, key_id);
        };
        for (seed, secrets) in devices {
            self.adopt(tx, now, seed, secrets)?;
        }
        tx.erase(ADOPTIONS, key_id.as_bytes())?;
        self.peer.append(tx, &FleetRecord::Adopted { key_id }.encode())?;
        Ok(())
    }

    fn adopt(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        seed: Seed,
        SeedSecrets { current, next, pad }: SeedSecrets,
    ) -> Result<(), EngineError> {
        let AdoptedDevice { eui, life } = seed.device;
        if retired_life(tx, eui)?.is_some_and(|retired| retired >= life) {
            // The platform has forgotten that it said so.
            self.peer.append(tx, &FleetRecord::Over(seed.device).encode())?;
            return Ok(());
        }
        let earlier = DeviceRow::load(tx, eui)?;
        if earlier.as_ref().is_some_and(|row| row.life >= life) {
            return Ok(());
        }
        Self::forget_questions(tx, eui)?;
        self.forget_pads(tx, eui)?;
        self.forget_return(tx, eui)?;
        if let Some(newest) = seed.forwarded {
            Self::note_read(tx, eui, newest)?;
        }
        if earlier.is_some() {
            self.allocation.forget(eui);
        } else {
            self.n_devices += 1;
        }
        self.setbacks.remove(&eui);
        if let Some(rest) = &seed.pad {
            PADS.lay(tx, (eui, life), rest, &pad)?;
        }
        let mut row = row_of(now, seed, current, next);
        let by_pad = row.next.is_none() && Self::prepare_by_pad(tx, eui, &mut row)?;
        row.store(tx, eui)?;
        let next = row.next.as_ref().map(Next::epoch);
        self.note_unknown_questions(tx, eui, [row.cur.epoch].into_iter().chain(next))?;
        self.events.push_back(GatewayEvent::Adopted { eui });
        match &row.next {
            Some(Next::Finished { held, .. }) => {
                self.events.push_back(GatewayEvent::Ready { eui, epoch: held.epoch });
            }
            _ if by_pad => {}
            _ => self.plan(now, eui, &row),
        }
        Ok(())
    }

    /// Wipes a life of a device that is over, and remembers that, lest a late adoption bring it back.
    fn retire(
        &mut self,
        tx: &mut dyn Tx,
        AdoptedDevice { eui, life }: AdoptedDevice,
    ) -> Result<(), EngineError> {
        tx.write(RETIRED, eui.as_bytes(), &life.to_be_bytes())?;
        if DeviceRow::load(tx, eui)?.is_none_or(|row| row.life > life) {
            return Ok(());
        }
        tx.erase(DEVICES, eui.as_bytes())?;
        Self::forget_questions(tx, eui)?;
        self.forget_pads(tx, eui)?;
        self.forget_return(tx, eui)?;
        self.n_devices -= 1;
        self.allocation.forget(eui);
        self.setbacks.remove(&eui);
        self.seen.remove(&eui);
        self.pushed.remove(&eui);
        self.events.push_back(GatewayEvent::Retired { eui });
        Ok(())
    }

    fn refuse_adoption(&mut self, tx: &mut dyn Tx, key_id: KeyId) -> Result<(), EngineError> {
        if tx.read(ADOPTIONS, key_id.as_bytes())?.is_some() {
            tx.erase(ADOPTIONS, key_id.as_bytes())?;
            self.peer.append(tx, &FleetRecord::NackAdopt { key_id }.encode())?;
        }
        Ok(())
    }
}

/// Returns the row of a device that the platform has handed over.
fn row_of(
    now: Timestamp,
    seed: Seed,
    current: GatewaySecret,
    next: Option<GatewaySecret>,
) -> DeviceRow {
    let held = |number, secret, origin| {
        let (epoch, origin) = (Epoch::new(number), Origin::from_byte(origin));
        Held { epoch, secret, origin }
    };
    DeviceRow {
        life: seed.device.life,
        cur: held(seed.current, current, seed.origin),
        highest: Epoch::new(seed.highest),
        since: now,
        next: seed.next.zip(next).map(|(next, secret)| Next::Finished {
            held: held(next.epoch, secret, next.origin),
            key_id: next.key_id,
            frame: next.frame,
            // The platform holds it.
            stage: Stage::Ready,
        }),
        retired: None,
        root: seed.root,
        may_be_ahead: seed.pad.is_some(),
    }
}

/// Returns the last life of a device that was retired.
fn retired_life(tx: &dyn Tx, eui: Eui64) -> Result<Option<u32>, EngineError> {
    let row = tx.read(RETIRED, eui.as_bytes())?;
    let life = row.map(|row| row.expose().try_into().map(u32::from_be_bytes));
    life.transpose().or(Err(damaged(RETIRED)))
}

/// Loads the device of `name` if that is the epoch it has been announced with.
fn announced(tx: &dyn Tx, name: EpochName) -> Result<Option<DeviceRow>, EngineError> {
    Ok(DeviceRow::load(tx, name.eui)?.filter(|row| row.is_announced_as(name.eui, name)))
}

fn is_asking(row: &DeviceRow, wanted: Epoch) -> bool {
    matches!(row.next, Some(Next::Asking { epoch, .. }) if epoch == wanted)
}

/// How many preparations begin in one transaction.
const BEGINNINGS: usize = 64;

/// The longest pause between two epochs of a device that the platform refuses: each costs a key.
const LONGEST_SETBACK: Span = Span::from_secs(600);
