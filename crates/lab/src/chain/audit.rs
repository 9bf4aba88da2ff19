//! What must hold at every step, and what happened, as numbers and as one hash.

use std::collections::{BTreeMap, BTreeSet};

use claviger_fleet::{Alarm, GatewayEvent, PlatformEvent, StoredReading, WhyRefused};
use claviger_frames::Epoch;
use claviger_frames::telemetry::Header;
use claviger_keystore::{Event as StoreEvent, Session};
use claviger_kme::Event as Line;
use claviger_units::{Eui64, KeyId, SaeId, Site};
use claviger_wire::etsi014::Key;
use claviger_wire::peer::PeerMessage;
use claviger_wire::site::SiteRecord;
use sha2::{Digest, Sha256};

/// What happened in a run, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks available at A.
    pub blocks: u64,
    /// Keys available at A.
    pub keys: u64,
    /// Blocks that one end did not hold any more.
    pub aborted: u64,
    /// Keys destroyed by their owners to make room.
    pub displaced: u64,
    /// Keys destroyed by their owners after a start, because they might have been handed out.
    pub burnt: u64,
    /// Keys handed to masters, at both sites.
    pub handed_out: u64,
    /// Copies given to slaves, at both sites.
    pub fetched: u64,
    /// Epochs and adoptions that the other side could not take up.
    pub refused: u64,
    /// Epochs that devices moved to.
    pub renewals: u64,
    /// Telemetry frames sealed by devices.
    pub frames: u64,
    /// Readings stored at the platform.
    pub readings: u64,
    /// Telemetry that came to the platform again.
    pub repeats: u64,
    /// Processes and devices that died and started again.
    pub crashes: u64,
    /// Connections of record streams that broke.
    pub cuts: u64,
}

/// The name of a telemetry frame.
type Frame = (Eui64, Epoch, u32);

/// Sees everything that passes.
#[derive(Debug)]
pub(super) struct Audit {
    pub(super) tally: Tally,
    violations: Vec<String>,
    hash: Sha256,
    drawn: Vec<KeyId>,
    handed_out: BTreeSet<KeyId>,
    fetched: BTreeSet<(KeyId, SaeId)>,
    // Keys in NOTICEs; those of a hand-out whose answer was lost are there too.
    noticed: BTreeSet<KeyId>,
    // The last record seen on the wire, by sender.
    tapped: [u64; 2],
    // What each key hashes to, as the first of its holders got it.
    bits: BTreeMap<KeyId, [u8; 32]>,
    sealed: BTreeMap<Frame, [u8; 32]>,
    acknowledged: BTreeSet<Frame>,
    read: BTreeSet<Frame>,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self {
            tally: Tally::default(),
            violations: Vec::new(),
            hash: Sha256::new(),
            drawn: Vec::new(),
            handed_out: BTreeSet::new(),
            fetched: BTreeSet::new(),
            noticed: BTreeSet::new(),
            tapped: [0; 2],
            bits: BTreeMap::new(),
            sealed: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            read: BTreeSet::new(),
        }
    }

    pub(super) fn violate(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Returns the hash over all that happened so far.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Returns every key that the link ever made.
    pub(super) fn drawn(&self) -> &[KeyId] {
        &self.drawn
    }

    /// Returns telemetry that the gateway has acknowledged and the platform has not read.
    pub(super) fn unread(&self) -> usize {
        self.acknowledged.difference(&self.read).count()
    }

    pub(super) fn note_drawn(&mut self, ids: impl Iterator<Item = KeyId>) {
        for id in ids {
            self.hash.update(id.as_bytes());
            self.drawn.push(id);
        }
    }

    pub(super) fn note_store(&mut self, site: Site, event: StoreEvent) {
        match event {
            StoreEvent::BlockCommitted { n_keys, .. } if site == Site::A => {
                self.tally.blocks += 1;
                self.tally.keys += n_keys;
            }
            StoreEvent::BlockAborted { .. } if site == Site::A => self.tally.aborted += 1,
            StoreEvent::Displaced { n_keys } => self.tally.displaced += n_keys,
            StoreEvent::Burnt { n_keys } => self.tally.burnt += n_keys,
            StoreEvent::Unmatched { id } => {
                self.violate(format!("site {site}: the peer spoke of key {id}, which is not here"));
            }
            StoreEvent::SessionChanged(
                session @ (Session::RolledBack { .. } | Session::Superseded),
            ) => self.violate(format!("site {site}: {session:?} without a roll-back")),
            _ => {}
        }
    }

    pub(super) fn note_line(&mut self, site: Site, line: Line) {
        match line {
            Line::HandedOut { ids, .. } => {
                for id in ids {
                    self.hash.update(b"out");
                    self.hash.update(id.as_bytes());
                    self.tally.handed_out += 1;
                    if !self.handed_out.insert(id) {
                        self.violate(format!("site {site}: key {id} was handed out twice"));
                    }
                }
            }
            Line::Fetched { slave, ids, .. } => {
                for id in ids {
                    self.tally.fetched += 1;
                    if !self.fetched.insert((id, slave.clone())) {
                        self.violate(format!("site {site}: {slave} got key {id} twice"));
                    }
                }
            }
            Line::Refused { .. } | Line::DeviceRefused { .. } => {}
        }
    }

    /// Reads the records of a KME on the wire: a hand-out whose answer was lost shows here.
    pub(super) fn tap(&mut self, site: Site, bytes: &[u8]) {
        let Ok(PeerMessage::Record { seq, body }) = PeerMessage::decode(bytes) else { return };
        let tapped = &mut self.tapped[site as usize];
        if seq <= *tapped {
            return;
        }
        *tapped = seq;
        if let Ok(SiteRecord::Notice(notice)) = SiteRecord::decode(&body) {
            for id in notice.keys.into_iter().flatten() {
                if !self.noticed.insert(id) {
                    self.violate(format!("site {site}: key {id} was spent twice"));
                }
            }
        }
    }

    /// Compares the keys that an application got with those that others got under the same ids.
    pub(super) fn note_keys(&mut self, site: Site, keys: &[Key]) {
        for Key { id, key, .. } in keys {
            let digest = Sha256::digest(key.expose()).into();
            if *self.bits.entry(*id).or_insert(digest) != digest {
                self.violate(format!("site {site}: key {id} is another one at the other site"));
            }
        }
    }

    pub(super) fn note_gateway(&mut self, event: GatewayEvent) {
        match event {
            // Too large a fleet for its link breaks no promise.
            GatewayEvent::Alarm(Alarm::KeysShort { .. }) => {}
            GatewayEvent::Alarm(alarm) => self.note_alarm(alarm),
            GatewayEvent::Refused { .. } => self.tally.refused += 1,
            _ => {}
        }
    }

    pub(super) fn note_platform(&mut self, event: PlatformEvent) {
        match event {
            PlatformEvent::Alarm(alarm) => self.note_alarm(alarm),
            PlatformEvent::AdoptionRefused { .. } => self.tally.refused += 1,
            PlatformEvent::Refused { eui, epoch, why } if why != WhyRefused::KeyLost => {
                self.violate(format!("device {eui}: epoch {epoch} cannot be held: {why:?}"));
            }
            _ => {}
        }
    }

    fn note_alarm(&mut self, alarm: Alarm) {
        self.violate(format!("alarm: {alarm:?}"));
    }

    pub(super) fn note_epoch(&mut self, eui: Eui64, epoch: Epoch) {
        self.hash.update(eui.as_bytes());
        self.hash.update(epoch.to_bytes());
        self.tally.renewals += 1;
    }

    /// No two messages leave under the same key and counter (`DESIGN.md`, invariant 10).
    pub(super) fn note_frame(&mut self, eui: Eui64, header: Header, frame: &[u8]) {
        let digest = Sha256::digest(frame).into();
        self.hash.update(frame);
        match self.sealed.insert((eui, header.epoch, header.counter), digest) {
            None => self.tally.frames += 1,
            Some(first) if first == digest => {}
            Some(_) => self.violate(format!("device {eui}: {header:?} was used for two messages")),
        }
    }

    pub(super) fn note_acknowledged(&mut self, eui: Eui64, header: Header) {
        self.acknowledged.insert((eui, header.epoch, header.counter));
    }

    /// The platform never accepts a replay (`DESIGN.md`, invariant 10).
    pub(super) fn note_reading(&mut self, eui: Eui64, epoch: Epoch, counter: u32, reading: &[u8]) {
        self.hash.update(reading);
        self.tally.readings += 1;
        let frame = (eui, epoch, counter);
        if !self.sealed.contains_key(&frame) {
            self.violate(format!("device {eui} never sent message {counter} of epoch {epoch}"));
        }
        if !self.read.insert(frame) {
            self.violate(format!("device {eui}: message {counter} of epoch {epoch} twice"));
        }
    }

    /// What the platform has read already, perhaps just before it died and could say so.
    pub(super) fn note_repeat(&mut self, eui: Eui64, epoch: Epoch, counter: u32) {
        self.tally.repeats += 1;
        if self.read.insert((eui, epoch, counter)) {
            self.tally.readings += 1;
        }
    }

    /// Compares what the platform has stored with what it was seen to read.
    pub(super) fn note_stored(&mut self, stored: &[StoredReading]) {
        let names: BTreeSet<Frame> =
            stored.iter().map(|reading| (reading.eui, reading.epoch, reading.counter)).collect();
        if names.len() != stored.len() || names != self.read {
            let (n_stored, n_read) = (stored.len(), self.read.len());
            self.violate(format!("{n_stored} readings are stored, {n_read} were read"));
        }
    }
}
