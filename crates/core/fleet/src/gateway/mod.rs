//! The gateway: keys prepared ahead, frames handed out, telemetry queued (`PROTOCOL.md` P3b, P3c).

mod coap;
mod doors;
mod pad;
mod prepare;
mod restore;
mod rows;
mod uplinks;

pub use coap::{CoapAnswer, CoapClaim, CoapDatagram};
pub use doors::KeyAnswer;
pub use pad::{DockAnswer, PadExtraction};
pub use uplinks::{LostUplinks, QueueRefusal, QueuedUplink};

use std::collections::{BTreeMap, VecDeque};

use claviger_durable::peer::{Delivery, Session};
use claviger_durable::{EngineError, Peer, Tx};
use claviger_frames::{Epoch, GatewaySecret};
use claviger_units::{Eui64, Key256, KeyId, Span, Timestamp};
use claviger_wire::fleet::FleetRecord;
use rand_core::Rng;

use crate::allocation::Allocation;
use crate::gateway::rows::{ADOPTIONS, DEVICES, DeviceRow, Next, PEER, Stage, eui_of};
use crate::lane::Lane;
use crate::orders::{KeyOrder, Origin, damaged};
use crate::rows::walk;
use crate::turns::Sharing;
use crate::{Alarm, FleetError, Half};

/// What an operator decides for a gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// How long after a device took its epoch the next one is prepared: its renew period less a
    /// margin. Where keys have been short of late it is prepared at once.
    pub prepare_after: Span,
    /// How key frames are written.
    pub form: FrameForm,
    /// Who gets a key when there are too few.
    pub sharing: Sharing,
    /// How much telemetry waits while the platform is away, in bytes on the disk; more is refused to the
    /// devices, who send it again.
    pub queue_bytes: u64,
    /// Who takes telemetry for the platform, and so what an acknowledgement says.
    pub taker: Taker,
}

/// Who takes telemetry for the platform.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Taker {
    /// Its own broker: what is acknowledged has been read (`PROTOCOL.md` P3d).
    #[default]
    Platform,
    /// A broker of another maker: what is acknowledged is on its way. A platform that loses its store cannot be
    /// told what it had read, and each device is heard again from the next key on that it does not have yet.
    Broker,
}

impl GatewayConfig {
    /// A day of 13 000 devices with a reading every five minutes, and as much again.
    pub const QUEUE_BYTES: u64 = 1 << 30;
}

/// How a key frame is written; devices read either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrameForm {
    /// In 44 bytes, with nothing but AES: for radios where each byte costs, and for devices without GCM.
    #[default]
    Compact,
    /// As `COSE_Encrypt0` (RFC 9052) with A256GCM, in 77 bytes.
    Cose,
    /// As `COSE_Encrypt0` with AES-CCM-16-128-256, in 80 bytes: for devices that have AES in hardware, and no GCM.
    CoseCcm,
}

/// The gateway's half of the fleet.
///
/// What must last stands in tables; this holds the session, the queues and the times that
/// [`open`](Self::open) makes anew.
///
/// ```
/// use claviger_durable::{Engine, EngineError, MemoryEngine};
/// use claviger_fleet::{FrameForm, Gateway, GatewayConfig, KeyAnswer, Sharing, Taker};
/// use claviger_units::{Span, Timestamp};
/// use rand::{SeedableRng, rngs::StdRng};
///
/// let (now, mut rng) = (Timestamp::START, StdRng::seed_from_u64(1));
/// let form = FrameForm::Compact;
/// let sharing = Sharing::default();
/// let (prepare_after, queue_bytes) = (Span::from_secs(1500), GatewayConfig::QUEUE_BYTES);
/// let taker = Taker::Platform;
/// let config = GatewayConfig { prepare_after, form, sharing, queue_bytes, taker };
/// let mut store = MemoryEngine::new();
/// let gateway: Result<_, EngineError> =
///     store.transact(|tx| Gateway::open(tx, now, config, &mut rng));
/// let mut gateway = gateway?;
///
/// let (eui, path) = ("02005efffe100001", "/v1/devices/02005efffe100001/key?have=0");
/// let answer: Result<_, EngineError> = store
///     .transact(|tx| gateway.handle_key_request(tx, now, eui, Some("0"), path, Some("Basic x")));
/// assert_eq!(answer?, KeyAnswer::Denied);
/// # Ok::<(), EngineError>(())
/// ```
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    peer: Peer,
    allocation: Allocation,
    fetches: Lane<KeyId, ()>,
    orders: VecDeque<KeyOrder>,
    events: VecDeque<GatewayEvent>,
    // How often in a row the platform has refused a device's next epoch.
    setbacks: BTreeMap<Eui64, u32>,
    seen: BTreeMap<Eui64, Timestamp>,
    // When the epoch was pushed last that a device has not shown yet.
    pushed: BTreeMap<Eui64, (Epoch, Timestamp)>,
    drawing: pad::Drawing,
    returns: restore::Returns,
    n_devices: u64,
    uplinks: uplinks::Levels,
    // Stands in for the secrets of strangers, so that refusing them takes as long.
    decoy: GatewaySecret,
}

/// What has become durable at the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatewayEvent {
    /// A device is served from now on.
    Adopted {
        /// The device.
        eui: Eui64,
    },
    /// The frame of an epoch may leave.
    Ready {
        /// The device.
        eui: Eui64,
        /// The epoch.
        epoch: Epoch,
    },
    /// The platform could not hold an epoch, which is dropped; another one follows.
    Refused {
        /// The device.
        eui: Eui64,
        /// The epoch.
        epoch: Epoch,
    },
    /// The device holds the epoch.
    Promoted {
        /// The device.
        eui: Eui64,
        /// The epoch.
        epoch: Epoch,
    },
    /// A pad is held at both sites: its device can be docked.
    PadComplete {
        /// The device.
        eui: Eui64,
    },
    /// Keys that were drawn for a pad serve nobody: the platform could not get them, or knows nothing of the
    /// pad. What is missing is drawn again, after a pause.
    PadSetback {
        /// The device.
        eui: Eui64,
    },
    /// A device is given its pad.
    Docked {
        /// The device.
        eui: Eui64,
    },
    /// A device is served no longer, and nothing of it is kept.
    Retired {
        /// The device.
        eui: Eui64,
    },
    /// The store of one of the sites was lost, or is an old copy: its devices are given to it again.
    Restoring {
        /// Whether it was this gateway's.
        mine: bool,
    },
    /// The platform has everything again that it had forgotten.
    Restored,
    /// A shortage that was told is over: nobody waits for a key any more.
    KeysSuffice,
    /// Somebody must look.
    Alarm(Alarm),
}

/// A device as the gateway knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayDevice {
    /// The device.
    pub eui: Eui64,
    /// The epoch that it was last known to hold.
    pub current: Epoch,
    /// Where the key of that epoch comes from; `None` for epoch 0.
    pub origin: Option<Origin>,
    /// The epoch in preparation.
    pub next: Option<NextEpoch>,
    /// When it was last heard since this gateway started.
    pub last_seen: Option<Timestamp>,
}

/// How far the preparation of an epoch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextEpoch {
    /// Its key is being asked for.
    Asking(Epoch),
    /// It waits for the platform.
    Announced(Epoch),
    /// The device can have it.
    Ready(Epoch),
}

/// What a gateway knows of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceStanding {
    /// It serves the device.
    Served,
    /// It serves no such device.
    Unknown,
    /// It serves none, but has not been told of all that it may serve: its store was lost, or is new.
    NotYetKnown,
}

/// The gateway in one look.
#[derive(Clone, Debug)]
pub struct GatewayStatus {
    /// The session with the platform.
    pub session: Session,
    /// Devices adopted.
    pub n_devices: u64,
    /// Keys being asked for.
    pub n_asking: usize,
    /// Adoptions whose key is being fetched.
    pub n_adopting: usize,
    /// How long no key is asked for, because the last tries failed.
    pub key_pause: Span,
    /// Telemetry frames not yet forwarded.
    pub n_queued_uplinks: u64,
    /// Telemetry frames that did not get through since the start.
    pub lost_uplinks: LostUplinks,
}

impl Gateway {
    /// Opens the gateway on its tables; orders that were under way are given again.
    pub fn open(
        tx: &mut dyn Tx,
        now: Timestamp,
        config: GatewayConfig,
        rng: &mut impl Rng,
    ) -> Result<Self, EngineError> {
        let peer = Peer::open(tx, PEER, rng)?;
        let mut gateway = Self {
            allocation: Allocation::new(config.sharing.clone(), config.prepare_after),
            config,
            peer,
            fetches: Lane::new(),
            orders: VecDeque::new(),
            events: VecDeque::new(),
            setbacks: BTreeMap::new(),
            seen: BTreeMap::new(),
            pushed: BTreeMap::new(),
            drawing: pad::Drawing::default(),
            returns: restore::Returns::default(),
            n_devices: 0,
            uplinks: uplinks::Levels::default(),
            decoy: GatewaySecret::from_key(Key256::random(rng)),
        };
        gateway.recall_devices(tx, now)?;
        gateway.recall_uplinks(tx)?;
        gateway.recall_adoptions(tx)?;
        gateway.recall_pads(tx)?;
        gateway.recall_returns(tx)?;
        gateway.pump(now);
        Ok(gateway)
    }

    /// Lists up to `limit` devices above `after`, in rising order.
    pub fn devices(
        &self,
        tx: &dyn Tx,
        after: Option<Eui64>,
        limit: usize,
    ) -> Result<Vec<GatewayDevice>, EngineError> {
        let after = after.as_ref().map_or(&[][..], |eui| eui.as_bytes());
        let rows = tx.scan(DEVICES, b"", after, limit)?;
        rows.iter()
            .map(|(key, row)| Ok(self.describe(eui_of(key)?, &DeviceRow::decode(row)?)))
            .collect()
    }

    /// Tells what this gateway knows of a name, for brokers that let in whom they do not know.
    pub fn standing_of(&self, tx: &dyn Tx, eui: Eui64) -> Result<DeviceStanding, EngineError> {
        let is_told = self.n_devices > 0 && self.fetches.len() == 0;
        Ok(match DeviceRow::load(tx, eui)? {
            Some(_) => DeviceStanding::Served,
            None if is_told && self.peer.session() == Session::Open => DeviceStanding::Unknown,
            None => DeviceStanding::NotYetKnown,
        })
    }

    /// Returns the gateway in one look.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> GatewayStatus {
        GatewayStatus {
            session: self.peer.session(),
            n_devices: self.n_devices,
            n_asking: self.allocation.n_asking(),
            n_adopting: self.fetches.len(),
            key_pause: self.allocation.delay(now),
            n_queued_uplinks: self.uplinks.n_frames,
            lost_uplinks: self.uplinks.lost,
        }
    }

    fn describe(&self, eui: Eui64, row: &DeviceRow) -> GatewayDevice {
        let next = row.next.as_ref().map(|next| match next {
            Next::Asking { epoch, .. } => NextEpoch::Asking(*epoch),
            Next::Finished { held, stage: Stage::Announced, .. } => {
                NextEpoch::Announced(held.epoch)
            }
            Next::Finished { held, stage: Stage::Ready, .. } => NextEpoch::Ready(held.epoch),
        });
        let last_seen = self.seen.get(&eui).copied();
        GatewayDevice { eui, current: row.cur.epoch, origin: row.cur.origin, next, last_seen }
    }

    fn recall_adoptions(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, ADOPTIONS, |key, _record| {
            let key_id = key.try_into().map(KeyId::from_bytes).or(Err(damaged(ADOPTIONS)))?;
            self.fetches.push(key_id, ());
            Ok(())
        })
    }

    fn recall_devices(&mut self, tx: &dyn Tx, now: Timestamp) -> Result<(), EngineError> {
        walk(tx, DEVICES, |key, row| {
            self.recall_device(tx, now, eui_of(key)?, &DeviceRow::decode(row)?)
        })
    }

    fn recall_device(
        &mut self,
        tx: &dyn Tx,
        now: Timestamp,
        eui: Eui64,
        row: &DeviceRow,
    ) -> Result<(), EngineError> {
        self.n_devices += 1;
        match &row.next {
            Some(Next::Asking { epoch, token }) => {
                self.allocation.ask((eui, *epoch), *token);
            }
            Some(Next::Finished { .. }) => {}
            None if pad::PADS.docked(tx, eui)?.is_some() => {}
            None => self.plan(now, eui, row),
        }
        Ok(())
    }

    /// Moves orders out, as far as their lanes are open.
    fn pump(&mut self, now: Timestamp) {
        while let Some((key_id, ())) = self.fetches.start(now) {
            self.orders.push_back(KeyOrder::Fetch { key_id });
        }
        while self.may_extract()
            && let Some(((eui, epoch), token)) = self.allocation.start(now)
        {
            self.orders.push_back(KeyOrder::Extract { eui, epoch, token });
        }
        self.pump_pads(now);
        self.pump_returns(now);
    }

    /// Tells whether a key is asked for now: its ANNOUNCE would only wait otherwise, while the key
    /// grows old at the other KME.
    fn may_extract(&self) -> bool {
        matches!(self.peer.session(), Session::Open) && !self.returns.are_open()
    }
}

impl Half for Gateway {
    type Order = KeyOrder;
    type Event = GatewayEvent;

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
        self.begin_restoration(tx, now)?;
        if matches!(delivery, Some(Delivery::Opened)) {
            self.show_witnesses(tx)?;
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
        self.begin_due(tx, now, rng)?;
        self.advance_returns(tx, rng)?;
        self.pump(now);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let extracts = self.allocation.wake_at().filter(|_| self.may_extract());
        let others = [self.fetches.wake_at(), self.pads_wake_at(), self.returns_wake_at()];
        [self.allocation.first_due(), extracts].into_iter().chain(others).flatten().min()
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
