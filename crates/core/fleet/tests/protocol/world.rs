//! A gateway, a platform, two KMEs, a wire, and devices that hold exactly one epoch; with faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_durable::peer::Session;
use claviger_durable::{Engine, EngineError, MemoryEngine, Tx};
use claviger_fleet::{
    Accepted, Duplicate, Extraction, Fetching, FleetError, FrameForm, Gateway, GatewayConfig,
    GatewayEvent, Half, KeyAnswer, KeyOrder, Origin, PadExtraction, Platform, PlatformConfig,
    PlatformEvent, PlatformOrder, ProvisionError, QueueRefusal, RecoveryKey, RequestToken, Sharing,
    Taker, UplinkRefusal,
};
use claviger_frames::{
    DataKeys, DeviceRoot, Epoch, EpochKeys, GatewaySecret, key_frame, split_bootstrap, telemetry,
};
use claviger_units::{Eui64, Key256, KeyId, Span, Timestamp};
use claviger_wire::fleet::{EpochName, FleetRecord};
use claviger_wire::peer::PeerMessage;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const PREPARE_AFTER: Span = Span::from_secs(60);
pub(crate) const GRACE: Span = Span::from_secs(36 * 3600);
pub(crate) const PERIOD: Span = Span::from_secs(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Gateway,
    Platform,
}

/// Both KMEs, as their clients see them: each key goes to its slave once.
#[derive(Default)]
pub(crate) struct Kmes {
    untaken: BTreeMap<KeyId, (Side, [u8; 32])>,
    answered: BTreeSet<RequestToken>,
    pub(crate) n_keys: usize,
}

impl Kmes {
    pub(crate) fn enc_keys(
        &mut self,
        slave: Side,
        token: RequestToken,
        rng: &mut StdRng,
    ) -> Extraction {
        if !self.answered.insert(token) {
            return Extraction::TokenAnswered;
        }
        let (id, key, origin) = self.new_key(slave, rng);
        Extraction::Key(id, key, origin)
    }

    fn new_key(&mut self, slave: Side, rng: &mut StdRng) -> (KeyId, Key256, Origin) {
        let (id, key) = (KeyId::random(rng), Key256::random(rng));
        self.untaken.insert(id, (slave, *key.expose()));
        self.n_keys += 1;
        (id, key, Origin::Simulated)
    }

    pub(crate) fn dec_keys(&mut self, slave: Side, id: KeyId) -> Fetching {
        match self.untaken.remove(&id) {
            Some((of, key)) if of == slave => {
                Fetching::Key(Key256::from_bytes(key), Origin::Simulated)
            }
            _ => Fetching::Refused,
        }
    }

    /// Lets all keys expire before they are taken.
    pub(crate) fn burn_all(&mut self) {
        self.untaken.clear();
    }

    /// Lets a key expire before it is taken.
    pub(crate) fn burn_one(&mut self) {
        self.untaken.pop_first();
    }
}

/// A device: one epoch, one counter, and what it remembers having sent.
pub(crate) struct Device {
    pub(crate) eui: Eui64,
    pub(crate) life: u32,
    pub(crate) root: DeviceRoot,
    pub(crate) secret: GatewaySecret,
    pub(crate) epoch: Epoch,
    pub(crate) counter: u32,
    pub(crate) sent: BTreeMap<(Epoch, u32), Vec<u8>>,
}

impl Device {
    pub(crate) fn bootstrapped(eui: Eui64, bootstrap: &Key256) -> Self {
        let (root, secret) = split_bootstrap(bootstrap);
        let epoch = Epoch::BOOTSTRAP;
        Self { eui, life: 1, root, secret, epoch, counter: 0, sent: BTreeMap::new() }
    }

    pub(crate) fn data_keys(&self) -> DataKeys {
        DataKeys::derive(&self.root, &self.secret, self.eui, self.epoch)
    }

    /// Seals the next reading.
    pub(crate) fn speak(&mut self) -> Vec<u8> {
        let (epoch, counter) = (self.epoch, self.counter);
        self.counter += 1;
        let reading = format!("{} {epoch} {counter}", self.eui).into_bytes();
        let frame = telemetry::seal(&self.data_keys(), self.eui, epoch, counter, &reading).unwrap();
        self.sent.insert((epoch, counter), reading);
        frame
    }

    /// Opens a key frame and steps to its epoch; a frame that does not fit changes nothing.
    pub(crate) fn take(&mut self, frame: &[u8]) -> bool {
        let Ok((epoch, key)) = key_frame::open(&self.secret, self.epoch, frame) else {
            return false;
        };
        self.secret = self.secret.next(&key, self.eui, self.epoch, epoch);
        (self.epoch, self.counter) = (epoch, 0);
        true
    }

    fn request(&self) -> (String, String) {
        let path = format!("/v1/devices/{}/key?have={}", self.eui, self.epoch);
        let authorization = self.secret.request_authorization(self.epoch, &path);
        (path, authorization)
    }
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) rng: StdRng,
    pub(crate) stores: [MemoryEngine; 2],
    gateway: Option<Gateway>,
    platform: Option<Platform>,
    pub(crate) is_connected: bool,
    to_gateway: VecDeque<Vec<u8>>,
    to_platform: VecDeque<Vec<u8>>,
    pub(crate) gateway_orders: VecDeque<KeyOrder>,
    pub(crate) platform_orders: VecDeque<PlatformOrder>,
    pub(crate) gateway_events: Vec<GatewayEvent>,
    pub(crate) platform_events: Vec<PlatformEvent>,
    pub(crate) kmes: Kmes,
    pub(crate) devices: Vec<Device>,
    // Every record that ever was on the wire, by sender and seq; of earlier generations of the streams apart.
    records: [BTreeMap<u64, FleetRecord>; 2],
    past_records: Vec<(Side, FleetRecord)>,
    // The readings whose acknowledgement has come to the gateway.
    acknowledged: BTreeSet<(Eui64, u32, Epoch, u32)>,
    // Whether a store was lost or put back, and not everything has settled since: devices may be denied.
    pub(crate) is_shaken: bool,
    // Which recovery key the platform is started with next.
    pub(crate) recovery: u8,
    // How many stores were lost or put back.
    pub(crate) n_losses: usize,
    // Readings that were refused since a store was lost.
    pub(crate) n_refused: usize,
    // The one frame of each epoch.
    frames: BTreeMap<(Eui64, u32, Epoch), Vec<u8>>,
    pub(crate) n_crashes: usize,
    // What the gateway is started with next.
    pub(crate) sharing: Sharing,
    pub(crate) queue_bytes: u64,
    pub(crate) taker: Taker,
    pub(crate) form: FrameForm,
}

impl World {
    pub(crate) fn empty(seed: u64) -> Self {
        let mut world = Self {
            now: Timestamp::START + Span::from_secs(1_000_000),
            rng: StdRng::seed_from_u64(seed),
            stores: [MemoryEngine::new(), MemoryEngine::new()],
            gateway: None,
            platform: None,
            is_connected: false,
            to_gateway: VecDeque::new(),
            to_platform: VecDeque::new(),
            gateway_orders: VecDeque::new(),
            platform_orders: VecDeque::new(),
            gateway_events: Vec::new(),
            platform_events: Vec::new(),
            kmes: Kmes::default(),
            devices: Vec::new(),
            records: [BTreeMap::new(), BTreeMap::new()],
            past_records: Vec::new(),
            acknowledged: BTreeSet::new(),
            is_shaken: false,
            recovery: 77,
            n_losses: 0,
            n_refused: 0,
            frames: BTreeMap::new(),
            n_crashes: 0,
            sharing: Sharing::default(),
            queue_bytes: GatewayConfig::QUEUE_BYTES,
            taker: Taker::Platform,
            form: FrameForm::Compact,
        };
        world.revive();
        world
    }

    /// A world with `n_devices` provisioned.
    pub(crate) fn new(seed: u64, n_devices: u8) -> Self {
        let mut world = Self::empty(seed);
        world.provision(n_devices);
        world
    }

    /// Provisions devices, again and again where the platform dies of it.
    pub(crate) fn provision(&mut self, n_devices: u8) {
        for n in 0..n_devices {
            let eui = Eui64::from_bytes([2, 0, 0, 0xFF, 0xFE, 0, 0, n]);
            let bootstrap = Key256::random(&mut self.rng);
            let provisioned = |world: &mut Self| {
                world.at_platform(|p, tx, _, _| match p.provision(tx, eui, &bootstrap) {
                    Ok(()) | Err(ProvisionError::Known(_)) => Ok(()),
                    Err(ProvisionError::Store(cause)) => Err(cause.into()),
                    Err(refusal) => panic!("{refusal}"),
                })
            };
            while provisioned(self).is_none() {}
            self.devices.push(Device::bootstrapped(eui, &bootstrap));
        }
    }

    /// The bootstrap key of the first device of a world of one device under `seed`.
    pub(crate) fn bootstrap_of_first(seed: u64) -> Key256 {
        Key256::random(&mut Self::empty(seed).rng)
    }

    // ---- the two processes ----

    /// Opens whatever is dead, as often as it takes.
    pub(crate) fn revive(&mut self) {
        let now = self.now;
        while self.gateway.is_none() {
            let form = self.form;
            let (sharing, queue_bytes) = (self.sharing.clone(), self.queue_bytes);
            let (prepare_after, taker) = (PREPARE_AFTER, self.taker);
            let config = GatewayConfig { prepare_after, form, sharing, queue_bytes, taker };
            let rng = &mut self.rng;
            self.gateway = self.stores[0].transact(|tx| Gateway::open(tx, now, config, rng)).ok();
            if self.gateway.is_none() {
                self.stores[0].revive();
            }
        }
        while self.platform.is_none() {
            let config = platform_config(self.recovery);
            let rng = &mut self.rng;
            self.platform = self.stores[1].transact(|tx| Platform::open(tx, now, config, rng)).ok();
            if self.platform.is_none() {
                self.stores[1].revive();
            }
        }
        self.drain();
    }

    /// Runs one call of the gateway in its transaction; `None` if it died of it.
    pub(crate) fn at_gateway<R>(
        &mut self,
        work: impl FnOnce(&mut Gateway, &mut dyn Tx, Timestamp, &mut StdRng) -> Result<R, FleetError>,
    ) -> Option<R> {
        let (now, rng) = (self.now, &mut self.rng);
        let gateway = self.gateway.as_mut().unwrap();
        let result = self.stores[0].transact(|tx| work(gateway, tx, now, rng).map_err(Failure));
        self.after(Side::Gateway, result)
    }

    /// Runs one call of the platform in its transaction; `None` if it died of it.
    pub(crate) fn at_platform<R>(
        &mut self,
        work: impl FnOnce(&mut Platform, &mut dyn Tx, Timestamp, &mut StdRng) -> Result<R, FleetError>,
    ) -> Option<R> {
        let (now, rng) = (self.now, &mut self.rng);
        let platform = self.platform.as_mut().unwrap();
        let result = self.stores[1].transact(|tx| work(platform, tx, now, rng).map_err(Failure));
        self.after(Side::Platform, result)
    }

    fn after<R>(&mut self, side: Side, result: Result<R, Failure>) -> Option<R> {
        match result {
            Ok(answer) => {
                self.drain();
                Some(answer)
            }
            Err(failure) => {
                assert!(failure.is_death(), "{:?}", failure.0);
                self.kill(side);
                None
            }
        }
    }

    /// Kills a process without warning and starts it again.
    pub(crate) fn kill(&mut self, side: Side) {
        self.n_crashes += 1;
        match side {
            Side::Gateway => {
                self.gateway = None;
                self.gateway_orders.clear();
                self.stores[0].revive();
            }
            Side::Platform => {
                self.platform = None;
                self.platform_orders.clear();
                self.stores[1].revive();
            }
        }
        self.disconnect();
        self.revive();
    }

    pub(crate) fn disconnect(&mut self) {
        self.is_connected = false;
        self.to_gateway.clear();
        self.to_platform.clear();
        if let Some(gateway) = &mut self.gateway {
            gateway.handle_disconnected();
        }
        if let Some(platform) = &mut self.platform {
            platform.handle_disconnected();
        }
    }

    pub(crate) fn connect(&mut self) {
        self.is_connected = true;
        self.gateway.as_mut().unwrap().handle_connected(&mut self.rng);
        self.platform.as_mut().unwrap().handle_connected(&mut self.rng);
        self.drain();
    }

    fn drain(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            while let Some(bytes) = gateway.poll_transmit() {
                tap((&mut self.records[0], &mut self.past_records), Side::Gateway, &bytes);
                self.to_platform.push_back(bytes);
            }
            self.gateway_orders.extend(std::iter::from_fn(|| gateway.poll_order()));
            self.gateway_events.extend(std::iter::from_fn(|| gateway.poll_event()));
        }
        if let Some(platform) = &mut self.platform {
            while let Some(bytes) = platform.poll_transmit() {
                tap((&mut self.records[1], &mut self.past_records), Side::Platform, &bytes);
                self.to_gateway.push_back(bytes);
            }
            self.platform_orders.extend(std::iter::from_fn(|| platform.poll_order()));
            self.platform_events.extend(std::iter::from_fn(|| platform.poll_event()));
        }
    }

    // ---- steps ----

    /// Carries one message over the wire; `false` if there is none.
    pub(crate) fn carry(&mut self, to: Side) -> bool {
        let queue = match to {
            Side::Gateway => &mut self.to_gateway,
            Side::Platform => &mut self.to_platform,
        };
        let Some(bytes) = queue.pop_front() else { return false };
        match to {
            Side::Gateway => self.at_gateway(|g, tx, now, _| g.handle_message(tx, now, &bytes)),
            Side::Platform => self.at_platform(|p, tx, now, _| p.handle_message(tx, now, &bytes)),
        };
        // Whoever has begun its streams anew hangs up.
        let session = match to {
            Side::Gateway => self.gateway.as_ref().map(Half::session),
            Side::Platform => self.platform.as_ref().map(Half::session),
        };
        if self.is_connected && session == Some(Session::Apart) {
            self.disconnect();
        }
        true
    }

    /// Tells whether a side refuses a message that nobody sent.
    pub(crate) fn refuses(&mut self, side: Side, bytes: &[u8]) -> bool {
        let now = self.now;
        let (store, refused) = match side {
            Side::Gateway => {
                let gateway = self.gateway.as_mut().unwrap();
                let taken = self.stores[0]
                    .transact(|tx| gateway.handle_message(tx, now, bytes).map_err(Failure));
                (0, taken.is_err())
            }
            Side::Platform => {
                let platform = self.platform.as_mut().unwrap();
                let taken = self.stores[1]
                    .transact(|tx| platform.handle_message(tx, now, bytes).map_err(Failure));
                (1, taken.is_err())
            }
        };
        self.stores[store].revive();
        refused
    }

    /// Puts a store in place of that of a side, as after a disaster.
    pub(crate) fn replace_store(&mut self, side: Side, store: MemoryEngine) {
        self.stores[side as usize] = store;
        self.is_shaken = true;
        self.n_losses += 1;
        self.kill(side);
    }

    /// Lets the KME of the gateway answer the oldest order by `fate`; `false` if there is none.
    pub(crate) fn serve_gateway(&mut self, fate: Fate) -> bool {
        let Some(order) = self.gateway_orders.pop_front() else { return false };
        match order {
            KeyOrder::Extract { eui, epoch, token } => {
                let Some(outcome) = self.extract(Side::Platform, token, fate) else { return true };
                self.at_gateway(|g, tx, now, rng| {
                    Ok(g.handle_extracted(tx, now, eui, epoch, outcome, rng)?)
                });
            }
            KeyOrder::Master { token } => {
                let Some(outcome) = self.extract(Side::Platform, token, fate) else { return true };
                self.at_gateway(|g, tx, now, rng| Ok(g.handle_mastered(tx, now, outcome, rng)?));
            }
            KeyOrder::ExtractPad { most } => {
                let outcome = match fate {
                    Fate::Answered => PadExtraction::Keys(
                        (0..most)
                            .map(|_| self.kmes.new_key(Side::Platform, &mut self.rng))
                            .collect(),
                    ),
                    _ => PadExtraction::Later,
                };
                self.at_gateway(|g, tx, now, _| Ok(g.handle_pad_extracted(tx, now, outcome)?));
            }
            KeyOrder::Fetch { key_id } => {
                let outcome = self.fetch(Side::Gateway, key_id, fate);
                self.at_gateway(|g, tx, now, _| Ok(g.handle_fetched(tx, now, key_id, outcome)?));
            }
        }
        true
    }

    /// Lets the KME of the platform answer the oldest order by `fate`; `false` if there is none.
    pub(crate) fn serve_platform(&mut self, fate: Fate) -> bool {
        let Some(order) = self.platform_orders.pop_front() else { return false };
        match order {
            PlatformOrder::Master { token } => {
                let Some(outcome) = self.extract(Side::Gateway, token, fate) else { return true };
                self.at_platform(|p, tx, now, rng| Ok(p.handle_mastered(tx, now, outcome, rng)?));
            }
            PlatformOrder::Fetch { key_id } => {
                let outcome = self.fetch(Side::Platform, key_id, fate);
                self.at_platform(|p, tx, now, _| Ok(p.handle_fetched(tx, now, key_id, outcome)?));
            }
        }
        true
    }

    fn extract(&mut self, slave: Side, token: RequestToken, fate: Fate) -> Option<Extraction> {
        Some(match fate {
            Fate::Answered => self.kmes.enc_keys(slave, token, &mut self.rng),
            Fate::AnswerLost => {
                drop(self.kmes.enc_keys(slave, token, &mut self.rng));
                Extraction::Unreachable
            }
            Fate::Unreachable => Extraction::Unreachable,
            Fate::Shortage => Extraction::Shortage,
        })
    }

    fn fetch(&mut self, slave: Side, key_id: KeyId, fate: Fate) -> Fetching {
        match fate {
            Fate::Answered => self.kmes.dec_keys(slave, key_id),
            Fate::AnswerLost => {
                drop(self.kmes.dec_keys(slave, key_id));
                Fetching::Unreachable
            }
            Fate::Unreachable | Fate::Shortage => Fetching::Unreachable,
        }
    }

    /// Calls whoever is due.
    pub(crate) fn time_out(&mut self) -> bool {
        let due = |at: Option<Timestamp>, now| at.is_some_and(|at| at <= now);
        let mut any = false;
        if due(self.gateway.as_ref().unwrap().poll_timeout(), self.now) {
            self.at_gateway(|g, tx, now, rng| Ok(g.handle_timeout(tx, now, rng)?));
            any = true;
        }
        if due(self.platform.as_ref().unwrap().poll_timeout(), self.now) {
            self.at_platform(|p, tx, now, rng| Ok(p.handle_timeout(tx, now, rng)?));
            any = true;
        }
        any
    }

    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        let gateway = self.gateway.as_ref().unwrap().poll_timeout();
        let platform = self.platform.as_ref().unwrap().poll_timeout();
        [gateway, platform].into_iter().flatten().min()
    }

    /// Lets a device ask for its key; returns the frame, if there is one.
    pub(crate) fn ask(&mut self, n: usize) -> Option<Vec<u8>> {
        let Device { eui, life, epoch, .. } = self.devices[n];
        let n_keys = self.kmes.n_keys;
        let answer = self.request(n)?;
        assert_eq!(self.kmes.n_keys, n_keys, "a request spent a key");
        match answer {
            KeyAnswer::Frame(frame) => {
                let target = key_frame::target(&frame).unwrap();
                let first = self.frames.entry((eui, life, target)).or_insert_with(|| frame.clone());
                assert_eq!(*first, frame, "an epoch has two frames");
                Some(frame)
            }
            KeyAnswer::Denied if self.is_shaken => None,
            KeyAnswer::Denied => {
                assert_eq!(epoch, Epoch::BOOTSTRAP, "device {eui} at {epoch} is locked out");
                None
            }
            KeyAnswer::NothingDue | KeyAnswer::Later { .. } => None,
        }
    }

    pub(crate) fn request(&mut self, n: usize) -> Option<KeyAnswer> {
        let device = &self.devices[n];
        let (path, authorization) = device.request();
        let (eui, have) = (device.eui.to_string(), device.epoch.to_string());
        self.at_gateway(|g, tx, now, _| {
            let authorization = Some(authorization.as_str());
            Ok(g.handle_key_request(tx, now, &eui, Some(&have), &path, authorization)?)
        })
    }

    /// Lets a device log in at the broker and publish a reading; the gateway may die of either.
    pub(crate) fn publish(&mut self, n: usize) -> Option<Vec<u8>> {
        let eui = self.devices[n].eui;
        if self.devices[n].epoch == Epoch::BOOTSTRAP {
            return None;
        }
        let password = self.devices[n].secret.mqtt_password(eui);
        let who = self.at_gateway(|g, tx, now, _| {
            Ok(g.handle_login(tx, now, &eui.to_string(), password.as_bytes())?)
        })?;
        if who.is_none() && self.is_shaken {
            return None;
        }
        assert_eq!(who, Some(eui), "device {eui} cannot log in");
        let frame = self.devices[n].speak();
        self.at_gateway(|g, tx, now, _| match g.handle_uplink(tx, now, eui, &frame) {
            Ok(()) => Ok(()),
            Err(QueueRefusal::Store(cause)) => Err(cause.into()),
            Err(refusal) => panic!("{refusal}"),
        });
        Some(frame)
    }

    /// Forwards a queued reading; what the platform has answered is taken out of the queue, unless
    /// the acknowledgement is lost.
    pub(crate) fn forward(&mut self, place: usize, is_ack_lost: bool) -> bool {
        let queued = self.at_gateway(|g, tx, _, _| Ok(g.next_uplinks(tx, 0, place + 1)?));
        let Some(uplink) = queued.and_then(|mut queued| queued.pop()) else { return false };
        let Some(answer) = self.uplink(uplink.eui, &uplink.frame) else { return true };
        if answer == Err(UplinkRefusal::Barred) {
            return false; // The queue keeps it until the platform has heard the gateway.
        }
        let accepted = match answer {
            Ok(accepted) => accepted,
            Err(refusal) => {
                assert!(self.n_losses > 0, "an honest reading is read: {refusal}");
                self.n_refused += 1;
                self.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, uplink.seq)?));
                return true;
            }
        };
        let device = self.devices.iter().find(|device| device.eui == uplink.eui).unwrap();
        let name = (uplink.eui, device.life, accepted.epoch, accepted.counter);
        assert!(
            accepted.duplicate == Duplicate::SameBytes || !self.acknowledged.contains(&name),
            "{name:?} was read and acknowledged before"
        );
        assert_eq!(device.sent.get(&(accepted.epoch, accepted.counter)), Some(&accepted.reading));
        if !is_ack_lost
            && self.at_gateway(|g, tx, _, _| Ok(g.handle_forwarded(tx, uplink.seq)?)).is_some()
        {
            self.acknowledged.insert(name);
        }
        true
    }

    pub(crate) fn uplink(
        &mut self,
        eui: Eui64,
        frame: &[u8],
    ) -> Option<Result<Accepted, UplinkRefusal>> {
        self.at_platform(|p, tx, now, _| Ok(p.handle_uplink(tx, now, eui, frame)?))
    }

    /// One device's whole wake: ask, step, publish.
    pub(crate) fn wake(&mut self, n: usize) {
        if let Some(frame) = self.ask(n) {
            self.devices[n].take(&frame);
        }
        self.publish(n);
    }

    /// Runs everything that needs no time to pass, without faults.
    pub(crate) fn settle(&mut self) {
        loop {
            if !self.is_connected {
                self.connect();
            }
            let goes_on = self.carry(Side::Gateway)
                || self.carry(Side::Platform)
                || self.serve_gateway(Fate::Answered)
                || self.serve_platform(Fate::Answered)
                || self.time_out()
                || self.forward(0, false);
            if !goes_on && self.is_connected {
                break;
            }
        }
        let n_served = self.gateway.as_ref().unwrap().status(self.now).n_devices;
        let is_restoring = self.platform.as_ref().unwrap().status(self.now).is_restoring;
        self.is_shaken &= is_restoring || n_served < self.devices.len() as u64;
    }

    /// Lets the two sites speak until neither has anything to say, without their KMEs.
    pub(crate) fn settle_link(&mut self) {
        loop {
            if !self.is_connected {
                self.connect();
            }
            let goes_on = self.carry(Side::Gateway) || self.carry(Side::Platform);
            if !goes_on && self.is_connected {
                return;
            }
        }
    }

    pub(crate) fn n_queued(&self) -> u64 {
        self.gateway.as_ref().unwrap().status(self.now).n_queued_uplinks
    }

    pub(crate) fn has_message(&self, to: Side) -> bool {
        match to {
            Side::Gateway => !self.to_gateway.is_empty(),
            Side::Platform => !self.to_platform.is_empty(),
        }
    }

    pub(crate) fn has_order(&self, of: Side) -> bool {
        match of {
            Side::Gateway => !self.gateway_orders.is_empty(),
            Side::Platform => !self.platform_orders.is_empty(),
        }
    }

    pub(crate) fn n_orders(&self, of: Side) -> usize {
        match of {
            Side::Gateway => self.gateway_orders.len(),
            Side::Platform => self.platform_orders.len(),
        }
    }

    /// Puts the order that was given first behind the others.
    pub(crate) fn overtake(&mut self, of: Side) {
        match of {
            Side::Gateway => self.gateway_orders.rotate_left(1),
            Side::Platform => self.platform_orders.rotate_left(1),
        }
    }

    /// Says how things stand, but for names, keys and counters.
    pub(crate) fn likeness(&mut self) -> String {
        let (gateway, platform) = (self.gateway.as_ref().unwrap(), self.platform.as_ref().unwrap());
        let at_gateway: Result<_, EngineError> =
            self.stores[0].transact(|tx| gateway.devices(tx, None, usize::MAX));
        let at_gateway: Vec<_> =
            at_gateway.unwrap().into_iter().map(|d| (d.current, d.next)).collect();
        let at_platform: Result<_, EngineError> =
            self.stores[1].transact(|tx| platform.devices(tx, None, usize::MAX));
        let at_platform = at_platform.unwrap().into_iter();
        let at_platform: Vec<_> = at_platform.map(|d| (d.adoption, d.active, d.prepared)).collect();
        let status = platform.status(self.now);
        let messages = [&self.to_gateway, &self.to_platform].map(|queue| {
            let kinds = queue.iter().map(|message| message.first().copied());
            kinds.collect::<Vec<_>>()
        });
        let is_master = |order: &KeyOrder| matches!(order, KeyOrder::Master { .. });
        let first = self.gateway_orders.front().map(is_master);
        let orders = (self.gateway_orders.len(), self.platform_orders.len(), first);
        let device = (self.devices[0].epoch, self.n_queued(), self.devices[0].counter.min(1));
        format!(
            "{at_gateway:?} {at_platform:?} {:?} {:?} {} {messages:?} {orders:?} {device:?} {}",
            gateway.status(self.now).session,
            status.session,
            status.is_restoring,
            self.is_connected
        )
    }

    /// Lets `span` pass without faults, every device waking once a period.
    pub(crate) fn pass(&mut self, span: Span) {
        let end = self.now + span;
        let mut next_wake = self.now;
        loop {
            self.settle();
            if self.now >= next_wake {
                for n in 0..self.devices.len() {
                    self.wake(n);
                }
                next_wake = self.now + PERIOD;
                continue;
            }
            let next = self.next_timeout().into_iter().chain([next_wake]).min().unwrap();
            if next > end {
                return;
            }
            self.now = self.now.max(next);
        }
    }

    // ---- what must hold ----

    /// A device that speaks now is read by what the platform holds durably.
    pub(crate) fn check_every_device_is_followed(&mut self) {
        for n in 0..self.devices.len() {
            let device = &self.devices[n];
            if device.epoch == Epoch::BOOTSTRAP {
                continue;
            }
            let frame = telemetry::seal(
                &device.data_keys(),
                device.eui,
                device.epoch,
                device.counter + 1_000_000,
                b"probe",
            )
            .unwrap();
            let (eui, now) = (device.eui, self.now);
            let mut copy = self.stores[1].snapshot();
            let mut rng = StdRng::seed_from_u64(0);
            let read = copy.transact(|tx| {
                Platform::open(tx, now, platform_config(77), &mut rng)?
                    .can_open(tx, now, eui, &frame)
            });
            let read: Result<_, EngineError> = read;
            assert!(read.unwrap(), "device {eui} is at {}, unfollowed", self.devices[n].epoch);
        }
    }

    /// Every reading was sent, and is stored once.
    pub(crate) fn check_readings(&mut self) -> usize {
        let platform = self.platform.as_ref().unwrap();
        let readings: Result<_, EngineError> =
            self.stores[1].transact(|tx| platform.readings(tx, 0, None, usize::MAX));
        let readings = readings.unwrap();
        let mut seen = BTreeSet::new();
        for (place, reading) in readings.iter().enumerate() {
            assert_eq!((reading.seq, reading.origin), (place as u64 + 1, Some(Origin::Simulated)));
            assert!(
                seen.insert((reading.eui, reading.epoch, reading.counter)),
                "{reading:?} was accepted twice"
            );
            let device = self.devices.iter().find(|device| device.eui == reading.eui).unwrap();
            assert_eq!(device.sent.get(&(reading.epoch, reading.counter)), Some(&reading.reading));
        }
        readings.len()
    }

    /// No key serves two epochs, no epoch has two keys, and each is confirmed once at most.
    pub(crate) fn check_records(&self) {
        let past =
            |side| self.past_records.iter().filter(move |(of, _)| *of == side).map(|(_, r)| r);
        let (mut keys, mut announced) = (BTreeSet::new(), BTreeSet::new());
        for record in past(Side::Gateway).chain(self.records[0].values()) {
            match record {
                FleetRecord::Announce(announce) => {
                    assert!(keys.insert(announce.key_id), "a key serves twice");
                    let is_new = announced.insert(announce.name);
                    // What a gateway announced that was lost, and nobody has heard, it says again.
                    assert!(is_new || self.n_losses > 0, "an epoch has two keys");
                }
                FleetRecord::GiveBack(given) => {
                    assert!(keys.insert(given.key_id), "W serves twice");
                }
                _ => {}
            }
        }
        let mut confirmed = BTreeSet::new();
        for record in past(Side::Platform).chain(self.records[1].values()) {
            match record {
                FleetRecord::Adopt(adopt) => assert!(keys.insert(adopt.key_id), "W serves twice"),
                FleetRecord::Confirmed(name) => {
                    assert!(announced.contains(name), "{name:?} was never announced");
                    let is_new = confirmed.insert(*name);
                    assert!(is_new || self.n_losses > 0, "{name:?} is confirmed twice");
                }
                _ => {}
            }
        }
    }

    /// Gateway, platform and devices agree.
    pub(crate) fn check_agreement(&mut self) {
        let gateway = self.gateway.as_ref().unwrap();
        let at_gateway: Result<_, EngineError> =
            self.stores[0].transact(|tx| gateway.devices(tx, None, usize::MAX));
        let platform = self.platform.as_ref().unwrap();
        let at_platform: Result<_, EngineError> =
            self.stores[1].transact(|tx| platform.devices(tx, None, usize::MAX));
        let (at_gateway, at_platform) = (at_gateway.unwrap(), at_platform.unwrap());
        assert_eq!(at_gateway.len(), self.devices.len());
        assert_eq!(at_platform.len(), self.devices.len());
        for ((device, at_gateway), at_platform) in
            self.devices.iter().zip(at_gateway).zip(at_platform)
        {
            assert_eq!((at_gateway.eui, at_platform.eui), (device.eui, device.eui));
            assert_eq!(at_gateway.current, device.epoch, "gateway and device {}", device.eui);
            assert_eq!(at_platform.active, device.epoch, "platform and device {}", device.eui);
            assert_eq!(at_platform.cloned, None);
            assert!(
                matches!(at_gateway.next, None | Some(claviger_fleet::NextEpoch::Ready(_))),
                "{at_gateway:?}"
            );
        }
    }

    /// Without faults everything goes on from any state: epochs rise, and all agree.
    pub(crate) fn check_recovery(&mut self) {
        // The longest pause is 600 s; several may follow one another.
        self.pass(Span::from_secs(2 * 3600));
        let before: Vec<Epoch> = self.devices.iter().map(|device| device.epoch).collect();
        let n_keys = self.kmes.n_keys;
        self.pass(PERIOD_TIMES_4);
        for (device, before) in self.devices.iter().zip(before) {
            let steps = device.epoch.number().saturating_sub(before.number());
            assert!((3..=5).contains(&steps), "{} renewed {steps} times", device.eui);
        }
        let per_renewal = (self.kmes.n_keys - n_keys) / self.devices.len();
        assert!((3..=5).contains(&per_renewal), "{per_renewal} keys for 4 renewals");
        self.settle();
        self.check_agreement();
        self.check_every_device_is_followed();
        self.check_records();
    }

    pub(crate) fn confirmations(&self) -> impl Iterator<Item = EpochName> {
        self.records[1].values().filter_map(|record| match record {
            FleetRecord::Confirmed(name) => Some(*name),
            _ => None,
        })
    }

    /// Tells whether the gateway has sent a DROP of `epoch`.
    pub(crate) fn is_dropped(&self, epoch: Epoch) -> bool {
        let mut records = self.records[0].values();
        records.any(|r| matches!(r, FleetRecord::Drop(name) if name.epoch == epoch.number()))
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }
}

fn platform_config(recovery: u8) -> PlatformConfig {
    let recovery = RecoveryKey::from_key(Key256::from_bytes([recovery; 32]));
    PlatformConfig { grace: GRACE, recovery }
}

/// What becomes of an order at a KME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    AnswerLost,
    Unreachable,
    Shortage,
}

struct Failure(FleetError);

impl From<EngineError> for Failure {
    fn from(cause: EngineError) -> Self {
        Self(cause.into())
    }
}

impl Failure {
    fn is_death(&self) -> bool {
        use claviger_durable::peer::PeerError;
        matches!(
            self.0,
            FleetError::Store(EngineError::Died)
                | FleetError::Peer(PeerError::Store(EngineError::Died))
        )
    }
}

fn tap(
    (records, past): (&mut BTreeMap<u64, FleetRecord>, &mut Vec<(Side, FleetRecord)>),
    side: Side,
    bytes: &[u8],
) {
    if let Ok(PeerMessage::Record { seq, body }) = PeerMessage::decode(bytes) {
        let record = FleetRecord::decode(&body).unwrap();
        if seq == 1 && records.get(&1).is_some_and(|first| *first != record) {
            past.extend(std::mem::take(records).into_values().map(|record| (side, record)));
        }
        let first = records.entry(seq).or_insert_with(|| record.clone());
        assert_eq!(*first, record, "record {seq} has changed");
    }
}

const PERIOD_TIMES_4: Span = Span::from_secs(400);
