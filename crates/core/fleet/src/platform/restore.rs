//! What becomes of a site that has forgotten something (`PROTOCOL.md` P3a, re-seeding).
//!
//! To a gateway that has forgotten this platform gives all devices again, each from where it is known to stand.
//! A platform that has forgotten takes no telemetry until the gateway has given its devices back: then it knows
//! their epochs, and up to which message each has been read. What it cannot judge it refuses.

use claviger_durable::peer::{Forgetful, Session};
use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Epoch, ReplayWindow, Seen};
use claviger_units::{Eui64, KeyId, Timestamp};
use claviger_wire::fleet::{
    Adopt, AdoptedDevice, EpochName, FleetRecord, Seed, SeedNext, Witnesses,
};

use super::epochs::{forget_epoch, load_whole};
use super::pad::{BATCHES, PADS};
use super::readings::open_frame;
use super::rows::{
    ANNOUNCEMENTS, DEVICES, DeviceRow, EPOCHS, EpochRow, HEARD, META, OFFERS, Offer, Source,
    WINDOWS, epoch_key, eui_of, load_window, split_epoch_key,
};
use super::{FetchFor, Platform, PlatformEvent};
use crate::Alarm;
use crate::adoption::{self, SeedSecrets};
use crate::orders::{Fetching, Origin, damaged};
use crate::rows::{PAGE, erase_all, walk};

/// Devices that the gateway may know better, until it has given them back: EUI-64 → nothing.
const AWAITED: Table = Table::plain("platform_awaited");

/// Devices that have begun a life during a restoration: EUI-64 → nothing.
const NEW: Table = Table::plain("platform_new");

/// Devices given back that cannot be read, for want of the right recovery key: EUI-64 → be32(life).
const UNRECOVERED: Table = Table::plain("platform_unrecovered");

/// Devices given back whose W is being fetched: key id of W → the record.
const GIVEN: Table = Table::secret("platform_given");

impl Platform {
    /// Begins anew where one of the two sites has forgotten something that the other knows.
    pub(super) fn begin_restoration(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        let Session::RolledBack { mine } = self.peer.session() else { return Ok(()) };
        if self.peer.waits_for_beginning(tx)? {
            return Ok(());
        }
        self.begin_anew(tx, mine)
    }

    /// Notices that telemetry is not known here that this platform has acknowledged: then its store is an old
    /// copy, although no record is missing.
    pub(super) fn hear_witnesses(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        Witnesses(frames): &Witnesses,
    ) -> Result<(), EngineError> {
        if self.is_restoring {
            return Ok(());
        }
        for (eui, frame) in frames {
            if is_forgotten(tx, now, *eui, frame)? {
                return self.begin_anew(tx, true);
            }
        }
        Ok(())
    }

    fn begin_anew(&mut self, tx: &mut dyn Tx, mine: bool) -> Result<(), EngineError> {
        for table in [ANNOUNCEMENTS, OFFERS, BATCHES, GIVEN] {
            erase_all(tx, table, b"")?;
        }
        self.fetches.forget(|_, _| true);
        PADS.forget_waiting(tx)?;
        self.failed_adoptions = 0;
        if mine {
            erase_all(tx, AWAITED, b"")?;
            tx.write(META, RESTORING, b"")?;
            self.is_restoring = true;
            for (eui, row) in load_devices(tx)? {
                if is_served(&row) {
                    tx.write(AWAITED, eui.as_bytes(), b"")?;
                }
            }
        } else {
            if self.is_restoring {
                self.close_windows(tx)?;
            }
            self.stop_restoring(tx)?;
            for (eui, row) in load_devices(tx)? {
                self.offer_again(tx, eui, row)?;
            }
        }
        self.offered.clear();
        self.peer.begin_anew(tx, if mine { Forgetful::Sender } else { Forgetful::Receiver })?;
        self.events.push_back(PlatformEvent::Restoring { mine });
        Ok(())
    }

    /// Notices, at the beginning of a session, that a gateway from which devices were expected has forgotten
    /// them too. Then nobody knows which of the messages under the present epochs were read: none of them is
    /// taken, and each device is heard again after its next renewal.
    pub(super) fn notice_double_loss(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        let (_, as_the_gateway_knows) = self.peer.begun_anew();
        if !self.is_restoring || as_the_gateway_knows == Forgetful::Receiver {
            return Ok(());
        }
        self.close_windows(tx)?;
        for (eui, row) in load_devices(tx)? {
            self.offer_again(tx, eui, row)?;
        }
        self.stop_restoring(tx)
    }

    /// Notices, at the beginning of a session, that the gateway is about to give everything back to a store that
    /// is empty: it was lost once more, before anything was said.
    pub(super) fn notice_loss(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        let is_expected = self.peer.begun_anew() == (Forgetful::Nobody, Forgetful::Receiver);
        if is_expected && self.peer.is_unused(tx)? {
            tx.write(META, RESTORING, b"")?;
            self.is_restoring = true;
        }
        Ok(())
    }

    /// Takes no message any more under the present epochs of the devices that the gateway has not given back.
    fn close_windows(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        for (eui, row) in load_devices(tx)? {
            if !is_served(&row) || tx.read(AWAITED, eui.as_bytes())?.is_none() {
                continue;
            }
            for (epoch, held) in load_epochs(tx, eui)? {
                match held {
                    EpochRow::Grace { .. } => forget_epoch(tx, eui, epoch)?,
                    EpochRow::Whole { .. } => close_window(tx, eui, epoch)?,
                }
            }
            // By its pad it may have gone on, and have been read there.
            for epoch in PADS.docked(tx, eui)?.into_iter().flat_map(|(_, row)| row.next_epochs()) {
                close_window(tx, eui, epoch)?;
            }
        }
        self.events.push_back(PlatformEvent::Alarm(Alarm::BothForgot));
        Ok(())
    }

    pub(super) fn recall_restoration(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        self.is_restoring = tx.read(META, RESTORING)?.is_some();
        walk(tx, GIVEN, |key, _record| {
            let key_id = key.try_into().map(KeyId::from_bytes).or(Err(damaged(GIVEN)))?;
            self.fetches.push(key_id, FetchFor::GiveBack);
            Ok(())
        })
    }

    pub(super) fn hear_given(&mut self, tx: &mut dyn Tx, adopt: Adopt) -> Result<(), EngineError> {
        let key_id = adopt.key_id;
        tx.write(GIVEN, key_id.as_bytes(), &FleetRecord::GiveBack(adopt).encode())?;
        self.fetches.push(key_id, FetchFor::GiveBack);
        Ok(())
    }

    /// Takes the devices of a GIVE BACK, if W is the key that they were sealed under.
    pub(super) fn settle_given(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        key_id: KeyId,
        outcome: Fetching,
    ) -> Result<(), EngineError> {
        let Some(record) = tx.read(GIVEN, key_id.as_bytes())? else { return Ok(()) };
        let Ok(FleetRecord::GiveBack(adopt)) = FleetRecord::decode(record.expose()) else {
            return Err(damaged(GIVEN));
        };
        tx.erase(GIVEN, key_id.as_bytes())?;
        let opened = match outcome {
            Fetching::Key(wrapping, _) => adoption::open(&wrapping, &adopt),
            Fetching::Refused | Fetching::Unreachable => None,
        };
        let Some(devices) = opened else {
            self.peer.append(tx, &FleetRecord::NackAdopt { key_id }.encode())?;
            return Ok(());
        };
        let mut ahead = Vec::new();
        for (seed, secrets) in devices {
            ahead.extend(self.take_back(tx, now, &seed, secrets)?);
        }
        self.peer.append(tx, &FleetRecord::Adopted { key_id }.encode())?;
        for record in ahead {
            self.peer.append(tx, &record.encode())?;
        }
        Ok(())
    }

    /// Everything was given back: what the gateway does not know waits for its adoption.
    pub(super) fn hear_given_back(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        let mut left = Vec::new();
        walk(tx, AWAITED, |key, _| {
            left.push(eui_of(key)?);
            Ok(())
        })?;
        for eui in left {
            if let Some(row) = DeviceRow::load(tx, eui)? {
                self.offer_again(tx, eui, row)?;
            }
        }
        if self.is_restoring {
            self.events.push_back(PlatformEvent::Restored);
        }
        self.stop_restoring(tx)
    }

    /// The gateway once wiped this life of a device, because this platform had said so.
    pub(super) fn hear_over(
        &mut self,
        tx: &mut dyn Tx,
        AdoptedDevice { eui, life }: AdoptedDevice,
    ) -> Result<(), EngineError> {
        let device = DeviceRow::load(tx, eui)?.filter(|device| device.life == life);
        let Some(mut device) = device else { return Ok(()) };
        if device.adoption == Offer::Held && load_epochs(tx, eui)?.is_empty() {
            return Ok(());
        }
        self.end_life(tx, eui, device.adoption)?;
        self.waiting.remove(&eui);
        device.adoption = Offer::Held;
        device.store(tx, eui)?;
        self.events.push_back(PlatformEvent::Alarm(Alarm::Over { eui }));
        Ok(())
    }

    fn stop_restoring(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        self.is_restoring = false;
        erase_all(tx, AWAITED, b"")?;
        erase_all(tx, NEW, b"")?;
        tx.erase(META, RESTORING)
    }

    /// Lets a device that the gateway served wait for its adoption again.
    fn offer_again(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        mut row: DeviceRow,
    ) -> Result<(), EngineError> {
        if is_served(&row) {
            row.adoption = Offer::Waiting;
            row.store(tx, eui)?;
            self.waiting.insert(eui);
        }
        Ok(())
    }

    /// Takes a device as the gateway knows it; returns what the gateway must be told of it.
    fn take_back(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        seed: &Seed,
        secrets: SeedSecrets,
    ) -> Result<Option<FleetRecord>, EngineError> {
        let AdoptedDevice { eui, life } = seed.device;
        let known = DeviceRow::load(tx, eui)?;
        if let Some(device) = known.as_ref().filter(|device| device.life == life)
            && device.adoption == Offer::Held
            && load_epochs(tx, eui)?.is_empty()
        {
            // It was retired here, and the gateway has not heard of it.
            tx.erase(AWAITED, eui.as_bytes())?;
            return Ok(Some(FleetRecord::Retire(seed.device)));
        }
        let mut device = match known {
            // A new life is on its way to the gateway.
            Some(device) if device.life > life => return Ok(None),
            // It was provisioned here as new, while nobody knew that the gateway had it.
            Some(device) if self.is_new(tx, seed, &device)? => {
                let device = DeviceRow { life: life + 1, ..device };
                device.store(tx, eui)?;
                return Ok(None);
            }
            Some(device) if device.life == life => device,
            earlier => {
                let Some(root) = self.config.recovery.open(seed.device, &seed.root) else {
                    tx.write(UNRECOVERED, eui.as_bytes(), &life.to_be_bytes())?;
                    self.events.push_back(PlatformEvent::Alarm(Alarm::Unrecovered { eui }));
                    return Ok(None);
                };
                match earlier {
                    Some(earlier) => self.end_life(tx, eui, earlier.adoption)?,
                    None => self.n_devices += 1,
                }
                let active = Epoch::new(seed.current);
                let (adoption, highest) = (Offer::Adopted, active);
                DeviceRow { life, root, adoption, active, highest, cloned: None }
            }
        };
        tx.erase(AWAITED, eui.as_bytes())?;
        self.waiting.remove(&eui);
        device.adoption = Offer::Adopted;
        device.highest = device.highest.max(Epoch::new(seed.highest));
        device.active = device.active.max(Epoch::new(seed.current));
        self.lay_epochs(tx, now, eui, &device, seed, secrets)?;
        device.store(tx, eui)?;
        let is_ahead = device.active.number() > seed.current;
        let name = EpochName { eui, life, epoch: device.active.number() };
        Ok(is_ahead.then_some(FleetRecord::Confirmed(name)))
    }

    /// Tells whether a device that the gateway gives back has begun anew here: since the restoration began, or
    /// with another root than the gateway has for the same life.
    fn is_new(&self, tx: &dyn Tx, seed: &Seed, device: &DeviceRow) -> Result<bool, EngineError> {
        if tx.read(NEW, seed.device.eui.as_bytes())?.is_some() {
            return Ok(true);
        }
        let root = self.config.recovery.open(seed.device, &seed.root);
        let is_other = root.is_some_and(|root| !root.as_key().ct_eq(device.root.as_key()));
        Ok(device.life == seed.device.life && is_other)
    }

    /// Notes that a device begins a life while the gateway may still give an older one back.
    pub(super) fn note_new(&self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        match self.is_restoring {
            true => tx.write(NEW, eui.as_bytes(), b""),
            false => Ok(()),
        }
    }

    /// Holds the epochs that a device may be at, and what can still be judged of the past.
    fn lay_epochs(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        device: &DeviceRow,
        seed: &Seed,
        SeedSecrets { current: secret, next, pad }: SeedSecrets,
    ) -> Result<(), EngineError> {
        let (current, active) = (Epoch::new(seed.current), device.active);
        let forwarded = seed.forwarded.map(|(epoch, counter)| (Epoch::new(epoch), counter));
        let newest_read = forwarded.map_or(Epoch::BOOTSTRAP, |(epoch, _)| epoch);
        for (epoch, _) in load_epochs(tx, eui)? {
            // Its telemetry comes in order: what was sent under an earlier epoch than the newest that was read
            // has been read before. What is above the active epoch the gateway has dropped, or gives again.
            if epoch > active || epoch < active && epoch != newest_read {
                forget_epoch(tx, eui, epoch)?;
            } else if epoch < active {
                self.begin_grace(tx, now + self.config.grace, eui, device, epoch)?;
            }
        }
        if current == active {
            let origin = Origin::from_byte(seed.origin);
            EpochRow::Whole { secret, origin, source: None }.store(tx, eui, current)?;
        }
        PADS.forget(tx, eui)?;
        if let Some(rest) = &seed.pad {
            PADS.lay(tx, (eui, device.life), rest, &pad)?;
        }
        if let Some((SeedNext { epoch, origin, key_id, frame }, secret)) =
            seed.next.as_ref().zip(next)
            && *epoch > active.number()
        {
            let (prev, key_id, frame) = (current, *key_id, frame.clone());
            let (origin, source) =
                (Origin::from_byte(*origin), Some(Source { prev, key_id, frame }));
            EpochRow::Whole { secret, origin, source }.store(tx, eui, Epoch::new(*epoch))?;
            PADS.note_followed(tx, eui, Epoch::new(*epoch))?;
        }
        if let Some((epoch, counter)) = forwarded {
            if active < epoch {
                close_window(tx, eui, active)?;
            }
            if EpochRow::load(tx, eui, epoch)?.is_some() {
                let own = load_window(tx, eui, epoch)?.highest().unwrap_or(0);
                set_window(tx, eui, epoch, &ReplayWindow::passed(counter.max(own)))?;
            }
        }
        Ok(())
    }
}

/// Returns the newest prepared epoch of a device with the one that leads there, or the active one, as far as
/// the gateway is to know them (`PROTOCOL.md` P3a, re-seeding).
pub(super) fn standing_of(
    tx: &dyn Tx,
    eui: Eui64,
    device: &DeviceRow,
) -> Result<Option<(Epoch, Option<Epoch>)>, EngineError> {
    let newest = load_epochs(tx, eui)?.pop();
    if let Some((epoch, EpochRow::Whole { source: Some(source), .. })) = newest
        && epoch > device.active
        && source.prev >= device.active
        && load_whole(tx, eui, source.prev)?.is_some()
    {
        return Ok(Some((source.prev, Some(epoch))));
    }
    Ok(load_whole(tx, eui, device.active)?.map(|_| (device.active, None)))
}

/// Tells whether a frame that was acknowledged has never been read, as far as this store knows.
fn is_forgotten(
    tx: &dyn Tx,
    now: Timestamp,
    eui: Eui64,
    frame: &[u8],
) -> Result<bool, EngineError> {
    let Some(device) = DeviceRow::load(tx, eui)? else { return Ok(false) };
    Ok(match open_frame(tx, now, eui, &device, frame)? {
        // What a quarantined device said was refused.
        Ok((message, window)) => {
            device.cloned.is_none() && window.check(message.counter) == Seen::Fresh
        }
        Err(_) => false,
    })
}

/// Returns the life with which a device that is not known here begins: above one that could not be recovered.
pub(super) fn life_beyond_recovery(tx: &mut dyn Tx, eui: Eui64) -> Result<u32, EngineError> {
    let Some(row) = tx.read(UNRECOVERED, eui.as_bytes())? else { return Ok(1) };
    let life = row.expose().try_into().map(u32::from_be_bytes).or(Err(damaged(UNRECOVERED)))?;
    tx.erase(UNRECOVERED, eui.as_bytes())?;
    Ok(life.saturating_add(1))
}

/// Returns the newest message of a device that was read: epoch and counter.
pub(super) fn newest_read(tx: &dyn Tx, eui: Eui64) -> Result<Option<(u32, u32)>, EngineError> {
    for (epoch, _) in load_epochs(tx, eui)?.into_iter().rev() {
        if let Some(counter) = load_window(tx, eui, epoch)?.highest() {
            return Ok(Some((epoch.number(), counter)));
        }
    }
    Ok(None)
}

/// Tells whether the gateway serves a device, or is about to.
const fn is_served(row: &DeviceRow) -> bool {
    matches!(row.adoption, Offer::Offered(_) | Offer::Adopted)
}

fn load_devices(tx: &dyn Tx) -> Result<Vec<(Eui64, DeviceRow)>, EngineError> {
    let mut devices = Vec::new();
    walk(tx, DEVICES, |key, row| {
        devices.push((eui_of(key)?, DeviceRow::decode(row)?));
        Ok(())
    })?;
    Ok(devices)
}

/// Returns all epochs of a device that are held, oldest first.
fn load_epochs(tx: &dyn Tx, eui: Eui64) -> Result<Vec<(Epoch, EpochRow)>, EngineError> {
    let (mut epochs, mut after) = (Vec::new(), Vec::new());
    loop {
        let rows = tx.scan(EPOCHS, eui.as_bytes(), &after, PAGE)?;
        let Some((last, _)) = rows.last() else { return Ok(epochs) };
        after.clone_from(last);
        for (key, row) in &rows {
            epochs.push((split_epoch_key(key)?.1, EpochRow::decode(row)?));
        }
    }
}

fn close_window(tx: &mut dyn Tx, eui: Eui64, epoch: Epoch) -> Result<(), EngineError> {
    set_window(tx, eui, epoch, &ReplayWindow::closed())
}

fn set_window(
    tx: &mut dyn Tx,
    eui: Eui64,
    epoch: Epoch,
    window: &ReplayWindow,
) -> Result<(), EngineError> {
    erase_all(tx, HEARD, &epoch_key(eui, epoch))?;
    tx.write(WINDOWS, &epoch_key(eui, epoch), &window.to_bytes())
}

const RESTORING: &[u8] = b"restoring";
