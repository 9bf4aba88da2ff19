//! The platform: devices provisioned, epochs held, telemetry read (`PROTOCOL.md` P3).

mod epochs;
mod pad;
mod provision;
mod readings;
mod restore;
mod rows;

pub use epochs::WhyRefused;
pub use pad::{PadError, PadState};
pub use provision::ProvisionError;
pub use readings::{Accepted, Duplicate, StoredReading, UplinkRefusal};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_durable::peer::{Delivery, Session};
use claviger_durable::{EngineError, Peer, Tx};
use claviger_frames::Epoch;
use claviger_units::{Eui64, KeyId, Span, Timestamp};
use claviger_wire::fleet::{FleetRecord, Witnesses};
use rand_core::Rng;

use self::rows::{
    ANNOUNCEMENTS, DEVICES, DeviceRow, EPOCHS, EpochRow, GRACES, Offer, PEER, epoch_key, eui_of,
    split_epoch_key, split_grace_key,
};
use crate::lane::Lane;
use crate::orders::{Origin, PlatformOrder, RequestToken, damaged};
use crate::recovery::RecoveryKey;
use crate::rows::{PAGE, walk};
use crate::{Alarm, FleetError, Half};

/// What an operator decides for a platform.
#[derive(Debug)]
pub struct PlatformConfig {
    /// How long late telemetry of a past epoch can still be read (`PROTOCOL.md` P3b.6: 36 h).
    pub grace: Span,
    /// What the roots of devices are sealed to that the gateway keeps for a platform that loses its store.
    pub recovery: RecoveryKey,
}

/// The platform's half of the fleet.
///
/// What must last stands in tables; this holds the session, the queues and the times that
/// [`open`](Self::open) makes anew.
///
/// ```
/// use claviger_durable::{Engine, EngineError, MemoryEngine};
/// use claviger_fleet::{Platform, PlatformConfig, ProvisionError, RecoveryKey, UplinkRefusal};
/// use claviger_units::{Eui64, Key256, Span, Timestamp};
/// use rand::{SeedableRng, rngs::StdRng};
///
/// let (now, mut rng) = (Timestamp::START, StdRng::seed_from_u64(1));
/// let recovery = RecoveryKey::from_key(Key256::random(&mut rng));
/// let config = PlatformConfig { grace: Span::from_secs(36 * 3600), recovery };
/// let mut store = MemoryEngine::new();
/// let platform: Result<_, EngineError> =
///     store.transact(|tx| Platform::open(tx, now, config, &mut rng));
/// let mut platform = platform?;
///
/// let (eui, bootstrap) = (Eui64::from_bytes([2, 0, 0x5E, 0xFF, 0xFE, 0x10, 0, 1]), [7; 32]);
/// let bootstrap = Key256::from_bytes(bootstrap);
/// store.transact(|tx| platform.provision(tx, eui, &bootstrap))?;
/// let again = store.transact(|tx| platform.provision(tx, eui, &bootstrap));
/// assert_eq!(again, Err(ProvisionError::Known(eui)));
///
/// let answer: Result<_, EngineError> =
///     store.transact(|tx| platform.handle_uplink(tx, now, eui, b"not telemetry"));
/// assert_eq!(answer?, Err(UplinkRefusal::Barred));
/// # Ok::<(), ProvisionError>(())
/// ```
#[derive(Debug)]
pub struct Platform {
    config: PlatformConfig,
    peer: Peer,
    // Devices that wait for an ADOPT.
    waiting: BTreeSet<Eui64>,
    masters: Lane<(), RequestToken>,
    // The Ws of adoptions that the gateway has not answered.
    offered: BTreeSet<KeyId>,
    fetches: Lane<KeyId, FetchFor>,
    orders: VecDeque<PlatformOrder>,
    events: VecDeque<PlatformEvent>,
    // How many adoptions in a row the gateway could not open.
    failed_adoptions: u32,
    // Not later than the first end of a grace.
    next_expiry: Option<Timestamp>,
    heard: BTreeMap<Eui64, Timestamp>,
    n_devices: u64,
    n_readings: u64,
    // Whether the gateway was heard since the start.
    greeted: bool,
    // Whether this store was lost or is an old copy, and the gateway has yet to give everything back.
    is_restoring: bool,
}

/// What a key is fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchFor {
    /// An announced epoch.
    Epoch(Eui64, Epoch),
    /// The pad that is being drawn for a device.
    Pad(Eui64),
    /// Devices that the gateway gives back.
    GiveBack,
}

/// What has become durable at the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlatformEvent {
    /// The gateway serves a device.
    Adopted {
        /// The device.
        eui: Eui64,
    },
    /// The gateway could not get W; its devices get another one.
    AdoptionRefused {
        /// The id of W.
        key_id: KeyId,
    },
    /// An epoch is held and may be released.
    Prepared {
        /// The device.
        eui: Eui64,
        /// The epoch.
        epoch: Epoch,
    },
    /// An epoch cannot be held; the gateway drops it.
    Refused {
        /// The device.
        eui: Eui64,
        /// The epoch.
        epoch: Epoch,
        /// The reason.
        why: WhyRefused,
    },
    /// The first telemetry under an epoch has come.
    Confirmed {
        /// The device.
        eui: Eui64,
        /// The epoch.
        epoch: Epoch,
    },
    /// The store of one of the sites was lost, or is an old copy: its devices are given to it again.
    Restoring {
        /// Whether it was this platform's.
        mine: bool,
    },
    /// The gateway has given back all that this platform had forgotten.
    Restored,
    /// Somebody must look.
    Alarm(Alarm),
}

/// A device as the platform knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformDevice {
    /// The device.
    pub eui: Eui64,
    /// Whether the gateway serves it.
    pub adoption: Adoption,
    /// The highest epoch that telemetry has come under.
    pub active: Epoch,
    /// Where the key of that epoch comes from; `None` for epoch 0.
    pub origin: Option<Origin>,
    /// The newest epoch prepared beyond the active one.
    pub prepared: Option<Epoch>,
    /// Where two devices have spoken as one; set, it is quarantined.
    pub cloned: Option<(Epoch, u32)>,
    /// When it was last read since this platform started.
    pub last_reading: Option<Timestamp>,
}

/// Whether the gateway serves a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// It is not to be adopted yet, or no longer.
    Held,
    /// It waits for a key of the KME.
    Waiting,
    /// It is under way to the gateway.
    Offered,
    /// The gateway has answered for it.
    Adopted,
}

/// The platform in one look.
#[derive(Clone, Debug)]
pub struct PlatformStatus {
    /// The session with the gateway.
    pub session: Session,
    /// Whether this store was lost or is an old copy, and the gateway has yet to give everything back: until
    /// then no telemetry is taken.
    pub is_restoring: bool,
    /// Devices provisioned.
    pub n_devices: u64,
    /// Devices that wait for their adoption.
    pub n_waiting: usize,
    /// Announced epochs whose key is being fetched.
    pub n_fetching: usize,
    /// Readings stored.
    pub n_readings: u64,
    /// How long no key is fetched, because the last tries failed.
    pub key_pause: Span,
}

impl Platform {
    /// Opens the platform on its tables; orders that were under way are given again.
    pub fn open(
        tx: &mut dyn Tx,
        now: Timestamp,
        config: PlatformConfig,
        rng: &mut impl Rng,
    ) -> Result<Self, EngineError> {
        let mut platform = Self {
            config,
            peer: Peer::open(tx, PEER, rng)?,
            waiting: BTreeSet::new(),
            masters: Lane::new(),
            offered: BTreeSet::new(),
            fetches: Lane::with_room(COPIES_IN_FLIGHT),
            orders: VecDeque::new(),
            events: VecDeque::new(),
            failed_adoptions: 0,
            next_expiry: first_expiry(tx)?,
            heard: BTreeMap::new(),
            n_devices: 0,
            n_readings: readings::load_count(tx)?,
            greeted: false,
            is_restoring: false,
        };
        platform.recall_devices(tx)?;
        platform.recall_announcements(tx)?;
        platform.recall_batches(tx)?;
        platform.recall_restoration(tx)?;
        platform.recall_offers(tx)?;
        platform.pump(now);
        Ok(platform)
    }

    /// Lists up to `limit` devices above `after`, in rising order.
    pub fn devices(
        &self,
        tx: &dyn Tx,
        after: Option<Eui64>,
        limit: usize,
    ) -> Result<Vec<PlatformDevice>, EngineError> {
        let after = after.as_ref().map_or(&[][..], |eui| eui.as_bytes());
        let rows = tx.scan(DEVICES, b"", after, limit)?;
        rows.iter()
            .map(|(key, row)| self.describe(tx, eui_of(key)?, &DeviceRow::decode(row)?))
            .collect()
    }

    /// Returns a device as the platform knows it.
    pub fn device(&self, tx: &dyn Tx, eui: Eui64) -> Result<Option<PlatformDevice>, EngineError> {
        let row = DeviceRow::load(tx, eui)?;
        row.map(|row| self.describe(tx, eui, &row)).transpose()
    }

    /// Returns the platform in one look.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> PlatformStatus {
        PlatformStatus {
            session: self.peer.session(),
            is_restoring: self.is_restoring,
            n_devices: self.n_devices,
            n_waiting: self.waiting.len(),
            n_fetching: self.fetches.len(),
            n_readings: self.n_readings,
            key_pause: self.fetches.delay(now).max(self.masters.delay(now)),
        }
    }

    fn apply(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        record: FleetRecord,
    ) -> Result<(), FleetError> {
        match record {
            FleetRecord::NackAdopt { key_id } => self.withdraw_adoption(tx, now, key_id)?,
            FleetRecord::Adopted { key_id } => self.note_adopted(tx, key_id)?,
            FleetRecord::GiveBack(adopt) => self.hear_given(tx, adopt)?,
            FleetRecord::GivenBack => self.hear_given_back(tx)?,
            FleetRecord::Over(device) => self.hear_over(tx, device)?,
            FleetRecord::Announce(announce) => self.hear_announcement(tx, announce)?,
            FleetRecord::Drop(name) => self.drop_epoch(tx, name)?,
            FleetRecord::PadDrawn(drawn) => self.hear_drawn(tx, drawn)?,
            FleetRecord::PadDock(dock) => self.hear_dock(tx, dock)?,
            FleetRecord::PadUndock(pad) => Self::hear_undock(tx, pad)?,
            FleetRecord::PadReached(name) => Self::hear_reached(tx, name)?,
            FleetRecord::Adopt(_)
            | FleetRecord::Retire(_)
            | FleetRecord::Prepared(_)
            | FleetRecord::Nack(_)
            | FleetRecord::Confirmed(_)
            | FleetRecord::PadOrder(_)
            | FleetRecord::PadHeld(_)
            | FleetRecord::PadDocked(_)
            | FleetRecord::PadUnknown(_) => return Err(FleetError::Misdirected),
        }
        Ok(())
    }

    fn describe(
        &self,
        tx: &dyn Tx,
        eui: Eui64,
        row: &DeviceRow,
    ) -> Result<PlatformDevice, EngineError> {
        let beyond = tx.scan(EPOCHS, eui.as_bytes(), &epoch_key(eui, row.active), PAGE)?;
        let newest = beyond.last().map(|(key, _)| split_epoch_key(key)).transpose()?;
        let adoption = match row.adoption {
            Offer::Held => Adoption::Held,
            Offer::Waiting => Adoption::Waiting,
            Offer::Offered(_) => Adoption::Offered,
            Offer::Adopted => Adoption::Adopted,
        };
        Ok(PlatformDevice {
            eui,
            adoption,
            active: row.active,
            origin: EpochRow::load(tx, eui, row.active)?.and_then(|epoch| epoch.origin()),
            prepared: newest.map(|(_, epoch)| epoch),
            cloned: row.cloned,
            last_reading: self.heard.get(&eui).copied(),
        })
    }

    fn recall_devices(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, DEVICES, |key, row| {
            self.n_devices += 1;
            if DeviceRow::decode(row)?.adoption == Offer::Waiting {
                self.waiting.insert(eui_of(key)?);
            }
            Ok(())
        })
    }

    fn recall_announcements(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, ANNOUNCEMENTS, |key, record| {
            let Ok(FleetRecord::Announce(announce)) = FleetRecord::decode(record.expose()) else {
                return Err(damaged(ANNOUNCEMENTS));
            };
            let (eui, epoch) = split_epoch_key(key)?;
            self.fetches.push(announce.key_id, FetchFor::Epoch(eui, epoch));
            Ok(())
        })
    }

    /// Moves orders out, as far as their lanes are open.
    fn pump(&mut self, now: Timestamp) {
        while let Some((key_id, _)) = self.fetches.start(now) {
            self.orders.push_back(PlatformOrder::Fetch { key_id });
        }
        while self.may_master()
            && let Some(((), token)) = self.masters.start(now)
        {
            self.orders.push_back(PlatformOrder::Master { token });
        }
    }

    /// Tells whether a W is asked for now: its ADOPT would only wait otherwise, while the key
    /// grows old at the other KME.
    fn may_master(&self) -> bool {
        self.peer.session() == Session::Open && !self.is_restoring
    }

    fn lacks_master(&self) -> bool {
        let has_room = self.offered.len() < MOST_OFFERED;
        self.may_master() && !self.waiting.is_empty() && self.masters.len() == 0 && has_room
    }

    /// Tells whether this store may be an old copy, so that it cannot judge what it has read: only
    /// the gateway can tell, and it has not been heard since the start, or has said so.
    fn is_barred(&self) -> bool {
        !self.greeted
            || self.is_restoring
            || matches!(
                self.peer.session(),
                Session::RolledBack { mine: true } | Session::Superseded
            )
    }
}

/// Adoptions that are unanswered at once: each waits in memory and in the store.
const MOST_OFFERED: usize = 4;

/// Copies of keys that are asked for at once: two requests of what a KME usually gives in one.
const COPIES_IN_FLIGHT: usize = 256;

/// Returns the first end of a grace.
fn first_expiry(tx: &dyn Tx) -> Result<Option<Timestamp>, EngineError> {
    let first = tx.scan(GRACES, b"", b"", 1)?;
    first.first().map(|(key, _)| split_grace_key(key).map(|(until, ..)| until)).transpose()
}

impl Half for Platform {
    type Order = PlatformOrder;
    type Event = PlatformEvent;

    fn handle_connected(&mut self, rng: &mut impl Rng) {
        self.peer.handle_connected(rng);
    }

    fn handle_disconnected(&mut self) {
        self.peer.handle_disconnected();
    }

    fn handle_message(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        bytes: &[u8],
    ) -> Result<(), FleetError> {
        // A connection on which this half has begun anew is about to be closed.
        if self.peer.session() == Session::Apart {
            return Ok(());
        }
        let delivery = self.peer.handle_message(tx, bytes)?;
        self.begin_restoration(tx)?;
        match &delivery {
            Some(Delivery::Opened) => {
                self.notice_loss(tx)?;
                self.notice_double_loss(tx)?;
            }
            Some(Delivery::Hint(body)) => {
                self.greeted = true;
                self.hear_witnesses(tx, now, &Witnesses::decode(body)?)?;
            }
            _ => {}
        }
        if let Some(Delivery::Record(body)) = delivery {
            let applied = FleetRecord::decode(&body).map_err(FleetError::from);
            let applied = applied.and_then(|record| self.apply(tx, now, record));
            // What was not applied must not be acknowledged.
            applied.inspect_err(|_cause| self.peer.handle_disconnected())?;
        }
        self.pump(now);
        Ok(())
    }

    fn handle_timeout(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        self.end_graces(tx, now)?;
        if self.lacks_master() {
            self.masters.push((), RequestToken::random(rng));
        }
        self.pump(now);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let masters = self.masters.wake_at().filter(|_| self.may_master());
        let at_once = self.lacks_master().then_some(Timestamp::START);
        [masters, at_once, self.fetches.wake_at(), self.next_expiry].into_iter().flatten().min()
    }

    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.peer.poll_transmit()
    }

    fn poll_order(&mut self) -> Option<Self::Order> {
        self.orders.pop_front()
    }

    fn poll_event(&mut self) -> Option<Self::Event> {
        self.events.pop_front()
    }

    fn session(&self) -> Session {
        self.peer.session()
    }
}
