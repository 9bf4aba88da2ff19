//! What becomes of a site that has forgotten something (`PROTOCOL.md` P3a, re-seeding).
//!
//! A gateway that has forgotten wipes what it still knows of devices and is given all of them again by the
//! platform. To a platform that has forgotten this gateway gives its devices back, sealed under keys of the
//! link; until everything is given back no new key is prepared and no telemetry forwarded. Telemetry that waits
//! here is kept in either case.

use std::collections::{BTreeMap, BTreeSet};

use claviger_durable::peer::{Forgetful, Session};
use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Epoch, telemetry};
use claviger_units::{Eui64, Key256, KeyId, Span, Timestamp};
use claviger_wire::fleet::{AdoptedDevice, FleetRecord, MAX_WITNESSES, Seed, SeedNext, Witnesses};
use rand_core::Rng;

use super::pad::PADS;
use super::rows::{ADOPTIONS, DEVICES, DeviceRow, Next, Stage, eui_of};
use super::{Gateway, GatewayEvent, Taker, coap};
use crate::adoption::{self, Batch, SeedSecrets};
use crate::lane::{Lane, pause_after};
use crate::orders::{Extraction, KeyOrder, Origin, RequestToken, damaged};
use crate::rows::{erase_all, walk};

/// Devices that are to be given back: EUI-64 → nothing, or the key id of the W that they are on their way under ‖
/// be32(the prepared epoch that went with it, or 0). While it has the row [`OPEN`], not everything is given back.
const RETURNS: Table = Table::plain("gateway_return");

/// The newest telemetry of each device that the platform has acknowledged: EUI-64 → be32(epoch) ‖ be32(counter).
const FORWARDED: Table = Table::plain("gateway_forwarded");

/// The telemetry that the platform has acknowledged last: slot → EUI-64 ‖ frame.
const WITNESSES: Table = Table::plain("gateway_witness");

/// What is given back to a platform that has forgotten it.
#[derive(Debug)]
pub(super) struct Returns {
    // Whether the platform has yet to be told that it has everything.
    is_open: bool,
    waiting: BTreeSet<Eui64>,
    // With the prepared epoch that the platform will hold then.
    given: BTreeMap<KeyId, BTreeMap<Eui64, Epoch>>,
    masters: Lane<(), RequestToken>,
    // How many times in a row the platform could not get W.
    n_failed: u32,
}

impl Default for Returns {
    fn default() -> Self {
        let (waiting, given) = (BTreeSet::new(), BTreeMap::new());
        Self { is_open: false, waiting, given, masters: Lane::new(), n_failed: 0 }
    }
}

impl Returns {
    /// Tells whether the platform lacks something.
    pub(super) const fn are_open(&self) -> bool {
        self.is_open
    }

    fn lack_master(&self) -> bool {
        let has_room = self.given.len() < MOST_GIVEN;
        !self.waiting.is_empty() && self.masters.len() == 0 && has_room
    }

    fn are_complete(&self) -> bool {
        self.is_open && self.waiting.is_empty() && self.given.is_empty()
    }
}

impl Gateway {
    /// Takes the answer to [`KeyOrder::Master`]: a key W, under which devices are given back.
    pub fn handle_mastered(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        outcome: Extraction,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        if let Some((key_id, wrapping)) = self.returns.masters.settle(now, outcome) {
            self.give_back(tx, key_id, &wrapping, rng)?;
        }
        self.pump(now);
        Ok(())
    }

    /// Begins anew where one of the two sites has forgotten something that the other knows.
    pub(super) fn begin_restoration(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let Session::RolledBack { mine } = self.peer.session() else { return Ok(()) };
        if self.peer.waits_for_beginning(tx)? {
            return Ok(());
        }
        erase_all(tx, ADOPTIONS, b"")?;
        self.fetches.forget(|_, ()| true);
        erase_all(tx, RETURNS, b"")?;
        self.returns = Returns::default();
        if mine {
            self.forget_devices(tx)?;
        } else {
            self.forget_waiting_pads(tx)?;
            self.note_returns(tx, now)?;
        }
        // They witness what a platform has read that knows it no more.
        erase_all(tx, WITNESSES, b"")?;
        self.peer.begin_anew(tx, if mine { Forgetful::Sender } else { Forgetful::Receiver })?;
        self.events.push_back(GatewayEvent::Restoring { mine });
        Ok(())
    }

    fn forget_devices(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        for table in [DEVICES, PADS.rows, PADS.keys, coap::OPENED] {
            erase_all(tx, table, b"")?;
        }
        self.allocation.forget_all();
        self.drawing = Default::default();
        self.setbacks.clear();
        self.seen.clear();
        self.pushed.clear();
        self.n_devices = 0;
        Ok(())
    }

    /// Forgets pads that no device has been given; the operator orders them again.
    fn forget_waiting_pads(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        self.drawing = Default::default();
        PADS.forget_waiting(tx)
    }

    fn note_returns(&mut self, tx: &mut dyn Tx, now: Timestamp) -> Result<(), EngineError> {
        let mut devices = Vec::new();
        walk(tx, DEVICES, |key, row| {
            devices.push((eui_of(key)?, DeviceRow::decode(row)?));
            Ok(())
        })?;
        tx.write(RETURNS, OPEN, b"")?;
        self.returns.is_open = true;
        // A key that is under way may come at any time, and its epoch would not be among what is given back.
        self.allocation.forget_orders();
        for (eui, mut row) in devices {
            tx.write(RETURNS, eui.as_bytes(), b"")?;
            self.returns.waiting.insert(eui);
            if let Some(Next::Asking { epoch, .. }) = row.next {
                // No secret has had this number.
                row.highest = Epoch::new(epoch.number() - 1).max(row.cur.epoch);
                row.next = None;
                row.store(tx, eui)?;
            }
            // One that was to be docked has lost its pad.
            if row.next.is_none() && PADS.docked(tx, eui)?.is_none() {
                self.plan(now, eui, &row);
            }
        }
        Ok(())
    }

    pub(super) fn recall_returns(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, RETURNS, |key, row| {
            if key == OPEN {
                self.returns.is_open = true;
                return Ok(());
            }
            let eui = eui_of(key)?;
            match row.expose() {
                b"" => drop(self.returns.waiting.insert(eui)),
                given => {
                    let (id, epoch) = given.split_first_chunk().ok_or(damaged(RETURNS))?;
                    let epoch =
                        epoch.try_into().map(Epoch::from_bytes).or(Err(damaged(RETURNS)))?;
                    let devices = self.returns.given.entry(KeyId::from_bytes(*id)).or_default();
                    devices.insert(eui, epoch);
                }
            }
            Ok(())
        })
    }

    /// Notes what the platform says that it has read of a device.
    pub(super) fn note_read(
        tx: &mut dyn Tx,
        eui: Eui64,
        (epoch, counter): (u32, u32),
    ) -> Result<(), EngineError> {
        let row = [epoch.to_be_bytes(), counter.to_be_bytes()].concat();
        tx.write(FORWARDED, eui.as_bytes(), &row)
    }

    /// Gives up giving a device back: it is retired, or has a new life.
    pub(super) fn forget_return(&mut self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        tx.erase(FORWARDED, eui.as_bytes())?;
        self.returns.waiting.remove(&eui);
        for devices in self.returns.given.values_mut() {
            devices.remove(&eui);
        }
        self.returns.given.retain(|_, devices| !devices.is_empty());
        tx.erase(RETURNS, eui.as_bytes())
    }

    /// Begins what is due: a W for devices that wait, and the word that everything is given back.
    pub(super) fn advance_returns(
        &mut self,
        tx: &mut dyn Tx,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        if self.peer.session() != Session::Open {
            return Ok(());
        }
        if self.returns.lack_master() {
            self.returns.masters.push((), RequestToken::random(rng));
        }
        if self.returns.are_complete() {
            tx.erase(RETURNS, OPEN)?;
            self.returns = Returns::default();
            self.peer.append(tx, &FleetRecord::GivenBack.encode())?;
            self.events.push_back(GatewayEvent::Restored);
        }
        Ok(())
    }

    /// Moves orders for a W out.
    pub(super) fn pump_returns(&mut self, now: Timestamp) {
        while self.peer.session() == Session::Open
            && let Some(((), token)) = self.returns.masters.start(now)
        {
            self.orders.push_back(KeyOrder::Master { token });
        }
    }

    /// Returns when there is something to give back, if only time is missing.
    pub(super) fn returns_wake_at(&self) -> Option<Timestamp> {
        if self.peer.session() != Session::Open {
            return None;
        }
        let at_once = self.returns.lack_master() || self.returns.are_complete();
        at_once.then_some(Timestamp::START).or_else(|| self.returns.masters.wake_at())
    }

    fn give_back(
        &mut self,
        tx: &mut dyn Tx,
        key_id: KeyId,
        wrapping: &Key256,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        let (mut batch, mut given) = (Batch::default(), BTreeMap::new());
        for &eui in &self.returns.waiting {
            let Some(row) = DeviceRow::load(tx, eui)? else { continue };
            let (seed, secrets) = seed_of(tx, eui, row, self.config.taker)?;
            let next = seed.next.as_ref().map_or(Epoch::BOOTSTRAP, |next| Epoch::new(next.epoch));
            if batch.add(seed, secrets).is_err() {
                break;
            }
            given.insert(eui, next);
        }
        for (eui, next) in &given {
            self.returns.waiting.remove(eui);
            let row = [&key_id.as_bytes()[..], &next.to_bytes()].concat();
            tx.write(RETURNS, eui.as_bytes(), &row)?;
        }
        if batch.is_empty() {
            self.returns.waiting.clear();
            return Ok(());
        }
        let adopt = adoption::seal(key_id, wrapping, batch, rng);
        self.peer.append(tx, &FleetRecord::GiveBack(adopt).encode())?;
        self.returns.given.insert(key_id, given);
        Ok(())
    }

    /// The platform holds what was given back under a W: what is prepared may leave.
    pub(super) fn hear_held(&mut self, tx: &mut dyn Tx, key_id: KeyId) -> Result<(), EngineError> {
        self.returns.n_failed = 0;
        for (eui, given) in self.returns.given.remove(&key_id).unwrap_or_default() {
            tx.erase(RETURNS, eui.as_bytes())?;
            let Some(mut row) = DeviceRow::load(tx, eui)? else { continue };
            if let Some(Next::Finished { held, stage, .. }) = &mut row.next
                && *stage == Stage::Announced
                && held.epoch == given
            {
                *stage = Stage::Ready;
                let epoch = held.epoch;
                row.store(tx, eui)?;
                self.events.push_back(GatewayEvent::Ready { eui, epoch });
            }
        }
        Ok(())
    }

    /// The platform could not get W: another one is needed.
    pub(super) fn hear_not_held(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        key_id: KeyId,
    ) -> Result<(), EngineError> {
        for eui in self.returns.given.remove(&key_id).unwrap_or_default().into_keys() {
            tx.write(RETURNS, eui.as_bytes(), b"")?;
            self.returns.waiting.insert(eui);
        }
        self.returns.n_failed += 1;
        let pause = pause_after(self.returns.n_failed, LONGEST_SETBACK);
        self.returns.masters.pause(now, pause);
        Ok(())
    }

    /// Shows the platform, at the beginning of a session, what it must have read.
    pub(super) fn show_witnesses(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        let mut frames = Vec::new();
        for (_, row) in tx.scan(WITNESSES, b"", b"", MAX_WITNESSES)? {
            let (eui, frame) = row.expose().split_first_chunk().ok_or(damaged(WITNESSES))?;
            frames.push((Eui64::from_bytes(*eui), frame.to_vec()));
        }
        self.peer.hint(&Witnesses(frames).encode());
        Ok(())
    }

    /// Notes that the platform has acknowledged a frame.
    pub(super) fn note_forwarded(
        tx: &mut dyn Tx,
        eui: Eui64,
        frame: &[u8],
    ) -> Result<(), EngineError> {
        let Ok(header) = telemetry::peek(frame) else { return Ok(()) };
        // Nobody has looked at more than this header: it must at least name an epoch of its device.
        let row = DeviceRow::load(tx, eui)?;
        let is_own = |row: &DeviceRow| {
            header.epoch == row.cur.epoch
                || row.next.as_ref().map(Next::epoch) == Some(header.epoch)
        };
        if !row.as_ref().is_some_and(is_own) {
            return Ok(());
        }
        // One place for each device, so that none pushes all others out.
        let [.., last] = eui.as_bytes();
        let slot = [last % MAX_SLOTS];
        tx.write(WITNESSES, &slot, &[eui.as_bytes(), frame].concat())?;
        let newest = (header.epoch.number(), header.counter);
        if load_forwarded(tx, eui)?.is_some_and(|forwarded| forwarded >= newest) {
            return Ok(());
        }
        Self::note_read(tx, eui, newest)
    }
}

/// Says where a device stands.
fn seed_of(
    tx: &dyn Tx,
    eui: Eui64,
    row: DeviceRow,
    taker: Taker,
) -> Result<(Seed, SeedSecrets), EngineError> {
    // What the device may have by now.
    let newest = match &row.next {
        Some(Next::Finished { held, stage: Stage::Ready, .. }) => held.epoch.number(),
        _ => row.cur.epoch.number(),
    };
    let (next, next_secret) = match row.next {
        Some(Next::Finished { held, key_id, frame, .. }) => {
            let origin = held.origin.map_or(0, Origin::to_byte);
            let next = SeedNext { epoch: held.epoch.number(), origin, key_id, frame };
            (Some(next), Some(held.secret))
        }
        Some(Next::Asking { .. }) | None => (None, None),
    };
    let pad = PADS.docked(tx, eui)?;
    let rest = pad.map(|(pad, pad_row)| {
        let from = pad_row.place_of(row.cur.epoch).map_or(0, |place| place + 1);
        PADS.rest(tx, eui, (pad, &pad_row), from)
    });
    let (pad, pad_keys) = rest.transpose()?.flatten().unzip();
    let forwarded = match taker {
        Taker::Platform => load_forwarded(tx, eui)?,
        Taker::Broker => Some((newest, u32::MAX)),
    };
    let seed = Seed {
        device: AdoptedDevice { eui, life: row.life },
        current: row.cur.epoch.number(),
        origin: row.cur.origin.map_or(0, Origin::to_byte),
        next,
        highest: row.highest.number(),
        root: row.root,
        forwarded,
        pad,
    };
    let pad = pad_keys.unwrap_or_default();
    Ok((seed, SeedSecrets { current: row.cur.secret, next: next_secret, pad }))
}

fn load_forwarded(tx: &dyn Tx, eui: Eui64) -> Result<Option<(u32, u32)>, EngineError> {
    let Some(row) = tx.read(FORWARDED, eui.as_bytes())? else { return Ok(None) };
    let (epoch, counter) = row.expose().split_first_chunk().ok_or(damaged(FORWARDED))?;
    let counter = counter.try_into().map(u32::from_be_bytes).or(Err(damaged(FORWARDED)))?;
    Ok(Some((Epoch::from_bytes(*epoch).number(), counter)))
}

const OPEN: &[u8] = b"open";

/// Batches that are unanswered at once: each waits in memory and in the store.
const MOST_GIVEN: usize = 4;

#[expect(clippy::cast_possible_truncation, reason = "it is eight")]
const MAX_SLOTS: u8 = MAX_WITNESSES as u8;

/// The longest pause between two Ws that the platform cannot get: each costs a key.
const LONGEST_SETBACK: Span = Span::from_secs(600);
