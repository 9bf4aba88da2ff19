//! Provisioning, and the adoption of devices by the gateway (`PROTOCOL.md` P3a).

use claviger_durable::{EngineError, Tx};
use claviger_frames::{DeviceRoot, Epoch, GatewaySecret, split_bootstrap};
use claviger_units::{Eui64, Key256, KeyId, Span, Timestamp};
use claviger_wire::fleet::{AdoptedDevice, FleetRecord, MAX_ADOPTED, Seed, SeedNext};
use rand_core::Rng;

use super::epochs::load_whole;
use super::pad::PADS;
use super::restore::{life_beyond_recovery, newest_read, standing_of};
use super::rows::{ANNOUNCEMENTS, DeviceRow, EPOCHS, EpochRow, HEARD, OFFERS, Offer, WINDOWS};
use super::{FetchFor, Platform, PlatformEvent};
use crate::adoption::{self, Batch, SeedSecrets};
use crate::lane::pause_after;
use crate::orders::{Extraction, Origin, damaged};
use crate::rows::{erase_all, walk};

/// Why a device is not provisioned; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// The store failed: stop the role, mend the disk, start again.
    #[error(transparent)]
    Store(#[from] EngineError),
    /// The device is provisioned already: give it a new key and provision it again by name.
    #[error("device {0} is provisioned already; provision it again with a new bootstrap key")]
    Known(Eui64),
    /// The device was bootstrapped with this key before: a bootstrap key serves once.
    #[error("device {0} has had this bootstrap key before; draw a new one")]
    UsedKey(Eui64),
}

impl Platform {
    /// Takes a new device in with its bootstrap key, which serves this once and is not kept.
    pub fn provision(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        bootstrap: &Key256,
    ) -> Result<(), ProvisionError> {
        if DeviceRow::load(tx, eui)?.is_some() {
            return Err(ProvisionError::Known(eui));
        }
        let (root, secret) = split_bootstrap(bootstrap);
        // The gateway may know a life of it that this store has lost.
        let life = life_beyond_recovery(tx, eui)?;
        self.begin_life(tx, eui, life, (root, secret))?;
        self.n_devices += 1;
        Ok(())
    }

    /// Takes a device in again with a new bootstrap key: its earlier keys are wiped, an alarm on
    /// it is over, its readings stay.
    pub fn provision_again(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        bootstrap: &Key256,
    ) -> Result<(), ProvisionError> {
        let Some(earlier) = DeviceRow::load(tx, eui)? else {
            return self.provision(tx, eui, bootstrap);
        };
        let (root, secret) = split_bootstrap(bootstrap);
        if earlier.root.as_key().ct_eq(root.as_key()) {
            return Err(ProvisionError::UsedKey(eui));
        }
        self.end_life(tx, eui, earlier.adoption)?;
        let life = life_beyond_recovery(tx, eui)?.max(earlier.life.saturating_add(1));
        self.begin_life(tx, eui, life, (root, secret))?;
        Ok(())
    }

    /// Tells whether a device is known, be it only by what is left of it.
    pub(crate) fn has(&self, tx: &dyn Tx, eui: Eui64) -> Result<bool, EngineError> {
        Ok(DeviceRow::load(tx, eui)?.is_some())
    }

    /// Tells whether a device was bootstrapped with this key last: it serves once.
    pub(crate) fn has_had(
        &self,
        tx: &dyn Tx,
        eui: Eui64,
        bootstrap: &Key256,
    ) -> Result<bool, EngineError> {
        let Some(earlier) = DeviceRow::load(tx, eui)? else { return Ok(false) };
        let (root, _) = split_bootstrap(bootstrap);
        Ok(earlier.root.as_key().ct_eq(root.as_key()))
    }

    /// Keeps a device that waits for its adoption from it, until it is [released](Self::release).
    pub(crate) fn hold(&mut self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        self.readmit(tx, eui, Offer::Waiting, Offer::Held)?;
        self.waiting.remove(&eui);
        Ok(())
    }

    /// Lets a device that was held wait for its adoption.
    pub(crate) fn release(&mut self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        if self.readmit(tx, eui, Offer::Held, Offer::Waiting)? {
            self.waiting.insert(eui);
        }
        Ok(())
    }

    fn readmit(
        &self,
        tx: &mut dyn Tx,
        eui: Eui64,
        from: Offer,
        to: Offer,
    ) -> Result<bool, EngineError> {
        let Some(mut device) = DeviceRow::load(tx, eui)? else { return Ok(false) };
        let fits = device.adoption == from;
        if fits {
            device.adoption = to;
            device.store(tx, eui)?;
        }
        Ok(fits)
    }

    /// Wipes all keys of a device, here and at the gateway. That it was here is remembered, so that its
    /// label serves nobody.
    pub fn retire(&mut self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        let Some(mut device) = DeviceRow::load(tx, eui)? else { return Ok(()) };
        self.end_life(tx, eui, device.adoption)?;
        self.waiting.remove(&eui);
        device.adoption = Offer::Held;
        device.store(tx, eui)?;
        let record = FleetRecord::Retire(AdoptedDevice { eui, life: device.life });
        self.peer.append(tx, &record.encode())?;
        Ok(())
    }

    pub(super) fn end_life(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        adoption: Offer,
    ) -> Result<(), EngineError> {
        for table in [EPOCHS, WINDOWS, HEARD, ANNOUNCEMENTS] {
            erase_all(tx, table, eui.as_bytes())?;
        }
        if let Offer::Offered(key_id) = adoption {
            tx.erase(OFFERS, &offer_key(key_id, eui))?;
        }
        self.fetches.forget(|_, order| match order {
            FetchFor::Epoch(of, _) | FetchFor::Pad(of) => *of == eui,
            FetchFor::GiveBack => false,
        });
        self.forget_pads(tx, eui)?;
        Ok(())
    }

    /// Takes the answer to [`PlatformOrder::Master`](crate::PlatformOrder::Master): a key W, under
    /// which the waiting devices go to the gateway.
    pub fn handle_mastered(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        outcome: Extraction,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        if let Some((key_id, wrapping)) = self.masters.settle(now, outcome) {
            self.offer(tx, key_id, &wrapping, rng)?;
        }
        self.pump(now);
        Ok(())
    }

    /// Notes that the gateway serves the devices of an adoption.
    pub(super) fn note_adopted(
        &mut self,
        tx: &mut dyn Tx,
        key_id: KeyId,
    ) -> Result<(), EngineError> {
        self.failed_adoptions = 0;
        self.offered.remove(&key_id);
        for eui in take_offers(tx, key_id)? {
            let Some(mut device) = DeviceRow::load(tx, eui)? else { continue };
            if device.adoption == Offer::Offered(key_id) {
                device.adoption = Offer::Adopted;
                device.store(tx, eui)?;
                self.events.push_back(PlatformEvent::Adopted { eui });
            }
        }
        Ok(())
    }

    /// Lets the devices of an adoption that the gateway could not open wait for another W.
    pub(super) fn withdraw_adoption(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        key_id: KeyId,
    ) -> Result<(), EngineError> {
        for eui in take_offers(tx, key_id)? {
            let device = DeviceRow::load(tx, eui)?;
            let device = device.filter(|device| device.adoption == Offer::Offered(key_id));
            let Some(mut device) = device else { continue };
            device.adoption = Offer::Waiting;
            device.store(tx, eui)?;
            self.waiting.insert(eui);
        }
        self.offered.remove(&key_id);
        self.failed_adoptions += 1;
        self.masters.pause(now, pause_after(self.failed_adoptions, LONGEST_SETBACK));
        self.events.push_back(PlatformEvent::AdoptionRefused { key_id });
        Ok(())
    }

    fn begin_life(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        life: u32,
        (root, secret): (DeviceRoot, GatewaySecret),
    ) -> Result<(), EngineError> {
        let zero = Epoch::BOOTSTRAP;
        let adoption = Offer::Waiting;
        DeviceRow { life, root, adoption, active: zero, highest: zero, cloned: None }
            .store(tx, eui)?;
        self.note_new(tx, eui)?;
        EpochRow::Whole { secret, origin: None, source: None }.store(tx, eui, zero)?;
        self.waiting.insert(eui);
        Ok(())
    }

    fn offer(
        &mut self,
        tx: &mut dyn Tx,
        key_id: KeyId,
        wrapping: &Key256,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        while let Some(&eui) = self.waiting.first() {
            let standing =
                DeviceRow::load(tx, eui)?.map(|device| self.seed_of(tx, eui, device, rng));
            if let Some((mut device, seed, secrets)) = standing.transpose()?.flatten() {
                if batch.add(seed, secrets).is_err() {
                    break;
                }
                device.adoption = Offer::Offered(key_id);
                device.store(tx, eui)?;
                tx.write(OFFERS, &offer_key(key_id, eui), b"")?;
            }
            self.waiting.remove(&eui);
        }
        if !batch.is_empty() {
            let adopt = adoption::seal(key_id, wrapping, batch, rng);
            self.peer.append(tx, &FleetRecord::Adopt(adopt).encode())?;
            self.offered.insert(key_id);
        }
        Ok(())
    }

    /// Returns the Ws whose ADOPT the gateway has not answered.
    pub(super) fn recall_offers(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, OFFERS, |key, _| {
            let (key_id, _) = key.split_first_chunk().ok_or(damaged(OFFERS))?;
            self.offered.insert(KeyId::from_bytes(*key_id));
            Ok(())
        })
    }

    /// Says where a device stands; nothing of one whose keys are wiped.
    fn seed_of(
        &self,
        tx: &dyn Tx,
        eui: Eui64,
        row: DeviceRow,
        rng: &mut impl Rng,
    ) -> Result<Option<(DeviceRow, Seed, SeedSecrets)>, EngineError> {
        let Some((current, next)) = standing_of(tx, eui, &row)? else { return Ok(None) };
        let held = EpochRow::load(tx, eui, current)?;
        let (Some(secret), Some(held)) = (load_whole(tx, eui, current)?, held) else {
            return Ok(None);
        };
        let next = next.map(|epoch| Ok(EpochRow::load(tx, eui, epoch)?.map(|row| (epoch, row))));
        let (next, next_secret) = match next.transpose()?.flatten() {
            Some((epoch, EpochRow::Whole { secret, origin, source: Some(source) })) => {
                let origin = origin.map_or(0, Origin::to_byte);
                let (key_id, frame) = (source.key_id, source.frame);
                (Some(SeedNext { epoch: epoch.number(), origin, key_id, frame }), Some(secret))
            }
            _ => (None, None),
        };
        let rest =
            PADS.docked(tx, eui)?.map(|(pad, row)| PADS.rest(tx, eui, (pad, &row), row.n_followed));
        let (pad, pad_keys) = rest.transpose()?.flatten().unzip();
        let device = AdoptedDevice { eui, life: row.life };
        let seed = Seed {
            device,
            current: current.number(),
            origin: held.origin().map_or(0, Origin::to_byte),
            next,
            highest: row.highest.number(),
            root: self.config.recovery.seal(device, &row.root, rng),
            forwarded: newest_read(tx, eui)?,
            pad,
        };
        let pad = pad_keys.unwrap_or_default();
        Ok(Some((row, seed, SeedSecrets { current: secret, next: next_secret, pad })))
    }
}

/// Erases the offers under a W and returns whose they were.
fn take_offers(tx: &mut dyn Tx, key_id: KeyId) -> Result<Vec<Eui64>, EngineError> {
    let rows = tx.scan(OFFERS, key_id.as_bytes(), b"", MAX_ADOPTED)?;
    let mut devices = Vec::with_capacity(rows.len());
    for (key, _) in rows {
        let (_, eui) = key.split_last_chunk().ok_or(damaged(OFFERS))?;
        devices.push(Eui64::from_bytes(*eui));
        tx.erase(OFFERS, &key)?;
    }
    Ok(devices)
}

fn offer_key(key_id: KeyId, eui: Eui64) -> Vec<u8> {
    [&key_id.as_bytes()[..], eui.as_bytes()].concat()
}

/// The longest pause between two adoptions that the gateway cannot open: each costs a key.
const LONGEST_SETBACK: Span = Span::from_secs(600);
