//! The life of one device: what its core decides, carried over its flash and its network.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use claviger_device::{Action, Delivery, Device, KeyAnswer, KeyPath, KeyRequest, Profile};
use claviger_fleet::topics;
use claviger_frames::Epoch;
use claviger_frames::telemetry::Header;
use claviger_net::dkg;
use claviger_net::meter::{Meter, Traffic};
use claviger_net::mqtt::{self, ConnectError, PublishError};
use claviger_store::StoreError;
use claviger_units::{Eui64, Timestamp};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::account::{Account, Wake};
use super::cables::{Cables, Door};
use super::complaints::Complaints;
use super::dock::{self, Given};
use super::operator::Operator;
use super::shelf::Shelf;
use super::uplink::{Count, Uplink, key_answer};
use crate::report::{Exchanged, Report};
use crate::role::Context;

/// What a device finds around itself.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) context: Context,
    pub(super) shelf: Shelf,
    /// Who provisions; labels are carried by hand without.
    pub(super) operator: Option<Operator>,
    /// The profile of each device, in turn.
    pub(super) profiles: Vec<Profile>,
    pub(super) uplink: Uplink,
    /// The cables to the emulated network, where there is one.
    pub(super) cables: Option<Cables>,
    /// What the devices have done.
    pub(super) account: Account,
    /// Where the gateway docks devices, and how many keys a pad is ordered with.
    pub(super) dock: Option<(PathBuf, u32)>,
    /// With whom a key is made that is destroyed, before each reading.
    pub(super) dkg_peer: Option<SocketAddr>,
    /// Exchanges with the gateway that may be under way at once.
    pub(super) exchanges: Semaphore,
    /// That a device is denied which has no key of the link yet.
    pub(super) strangers: Complaints,
    /// That a device is denied which has one.
    pub(super) refusals: Complaints,
}

/// Lives as a device until the signal to stop, once the platform knows it.
pub(super) async fn live(
    surroundings: Arc<Surroundings>,
    eui: Eui64,
    profile: Profile,
) -> Result<(), StoreError> {
    if let Some((cables, mac)) = surroundings.cables.as_ref().zip(eui.mac()) {
        cables.attach(mac);
    }
    tokio::select! {
        () = surroundings.context.shutdown.cancelled() => return Ok(()),
        provisioned = provision(&surroundings, eui) => provisioned?,
    }
    let flash = surroundings.shelf.flash(eui).await?;
    let now = surroundings.context.clock.now();
    match Device::boot(now, &flash, profile) {
        Ok(mut device) => {
            if let Some(mark) = surroundings.shelf.pad(eui).await?
                && !device.attach_pad(mark)
            {
                surroundings.shelf.forget_pad(eui).await?;
            }
            Life::begin(device, profile, surroundings).run().await
        }
        Err(error) => {
            surroundings.context.reports.refused("devices", format_args!("{eui}: {error}"));
            Ok(())
        }
    }
}

/// Brings the label of a new device to the platform and destroys it.
async fn provision(surroundings: &Surroundings, eui: Eui64) -> Result<(), StoreError> {
    let Some(operator) = &surroundings.operator else { return Ok(()) };
    if let Some(label) = surroundings.shelf.label(eui).await? {
        operator.provision(eui, &label).await;
        surroundings.shelf.destroy_label(eui).await?;
    }
    Ok(())
}

struct Life {
    device: Device,
    surroundings: Arc<Surroundings>,
    rng: StdRng,
    /// The epoch that was last told.
    epoch: Epoch,
    /// The newest frame that was last told as sent.
    sent: Option<(Epoch, u32)>,
    /// How long it waits for an answer.
    patience: Duration,
    /// The session of this wake.
    session: Option<Session>,
    /// When this wake began.
    woke: Option<Timestamp>,
    /// When the key was taken up, where that was since the start.
    keyed: Option<Timestamp>,
    /// How many keys of its pad were erased last.
    n_erased: u32,
    /// Whether the next pad is ordered.
    is_pad_ordered: bool,
}

/// A connection with the broker, and what arrives on it.
struct Session {
    client: mqtt::Client,
    inbox: mqtt::Inbox,
    meter: Meter,
    /// What had gone over the wire before the subscription.
    connected: Traffic,
}

impl Life {
    fn begin(device: Device, profile: Profile, surroundings: Arc<Surroundings>) -> Self {
        let rng = StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails");
        let (epoch, patience) = (device.epoch(), Duration::from(profile.patience));
        Self {
            epoch,
            device,
            surroundings,
            rng,
            sent: None,
            patience,
            session: None,
            woke: None,
            keyed: None,
            n_erased: 0,
            is_pad_ordered: false,
        }
    }

    async fn run(mut self) -> Result<(), StoreError> {
        loop {
            self.keep().await?;
            match self.device.poll_action() {
                Some(Action::RequestKey(request)) => self.request_key(&request).await,
                Some(Action::Publish { header, frame }) => self.publish(header, frame).await,
                None if self.device.is_broken() => {
                    let why = format_args!("{}: its flash does not keep", self.device.eui());
                    self.surroundings.context.reports.refused("devices", why);
                    return Ok(());
                }
                None if self.device.is_asleep() => {
                    self.end_session().await;
                    self.end_wake();
                    let is_docking = self.lacks_pad() && !self.dock().await?;
                    // What was pushed at the last moment is kept before it sleeps.
                    if self.device.is_asleep() && self.sleep(is_docking).await == Waking::Never {
                        return Ok(());
                    }
                }
                None => self.wait().await,
            }
        }
    }

    /// Writes what the flash is due, and tells a new epoch once it lies there.
    async fn keep(&mut self) -> Result<(), StoreError> {
        let eui = self.device.eui();
        while let Some(write) = self.device.poll_flash() {
            let read_back = self.surroundings.shelf.write_slot(eui, write).await?;
            self.device.handle_flash(read_back.expose());
        }
        if self.device.epoch() > self.epoch {
            self.epoch = self.device.epoch();
            self.keyed = Some(self.surroundings.context.clock.now());
            let epoch = self.epoch.number();
            self.surroundings.context.reports.tell(Report::Keyed { eui, epoch });
            self.surroundings.account.note_key();
        }
        match self.device.n_pad_keys_used() {
            Some(n_used) if n_used > self.n_erased => {
                self.surroundings.shelf.use_pad(eui, n_used).await?;
                self.n_erased = n_used;
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells whether the device lives by pads and has none, or none that leads on.
    fn lacks_pad(&self) -> bool {
        self.device.path() == KeyPath::Pad
            && self.device.epoch() > Epoch::BOOTSTRAP
            && !self.device.has_pad()
    }

    /// Orders a pad, where the operator works here, and asks for it over the cable; tells whether the device
    /// has it now.
    async fn dock(&mut self) -> Result<bool, StoreError> {
        let (eui, surroundings) = (self.device.eui(), Arc::clone(&self.surroundings));
        let Some((socket, n_keys)) = &surroundings.dock else { return Ok(false) };
        if let Some(operator) = surroundings.operator.as_ref().filter(|_| !self.is_pad_ordered) {
            self.is_pad_ordered = operator.order_pad(eui, *n_keys).await;
        }
        match dock::ask(socket, &self.device).await {
            Ok(Given::Frame(frame)) => {
                self.device.handle_pushed(self.surroundings.context.clock.now(), &frame);
                self.keep().await?;
            }
            Ok(Given::Pad(mark, keys)) => {
                surroundings.shelf.keep_pad(eui, mark, keys).await?;
                self.is_pad_ordered = false;
                self.n_erased = 0;
                return Ok(self.device.attach_pad(mark));
            }
            Ok(Given::Soon | Given::Nothing) => {}
            Err(error) => tracing::debug!(%eui, %error, "not docked"),
        }
        Ok(false)
    }

    /// Tells whether the network lets the device reach a service of its gateway; complains where not.
    async fn reaches(&self, door: Door) -> bool {
        let Some((cables, mac)) = self.surroundings.cables.as_ref().zip(self.device.eui().mac())
        else {
            return true;
        };
        let is_open = cables.reaches(mac, door).await;
        if !is_open {
            // At the start the network has yet to find it, whether it has a key or not.
            let Surroundings { context, strangers, .. } = &*self.surroundings;
            let eui = self.device.eui();
            let why = format_args!("device {eui}: the network does not let it reach its gateway");
            strangers.refused(context.clock.now(), &context.reports, why);
        }
        is_open
    }

    /// Takes a key of the pad, for which nothing goes over the air.
    async fn take_pad_key(&mut self, place: u32) {
        let key = self.surroundings.shelf.pad_key(self.device.eui(), place).await;
        let now = self.surroundings.context.clock.now();
        self.device.handle_pad_key(now, key.ok().flatten().as_ref());
        self.tell_exchange(KeyPath::Pad, Count::default());
    }

    async fn request_key(&mut self, request: &KeyRequest) {
        let door = match request {
            KeyRequest::Https { .. } => KEY_SERVICE,
            KeyRequest::Psk { .. } => KEY_SERVICE_PSK,
            KeyRequest::Coap { .. } => KEY_SERVICE_COAP,
            KeyRequest::Await => self.broker_door(),
            KeyRequest::Pad { place } => return self.take_pad_key(*place).await,
        };
        if !self.reaches(door).await {
            return self.take_answer(KeyAnswer::Unreachable);
        }
        let surroundings = Arc::clone(&self.surroundings);
        // An error would mean that the semaphore was closed, which nobody does.
        let place = surroundings.exchanges.acquire().await;
        let patience = self.patience;
        let exchange = self.exchange_key(&surroundings.uplink, request, place.ok());
        let exchanged = tokio::time::timeout(patience, exchange).await;
        let exchanged = exchanged.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = exchanged {
            tracing::debug!(eui = %self.device.eui(), %error, "no key");
            self.take_answer(KeyAnswer::Unreachable);
        }
    }

    /// Asks, and hands the answer to the device; gives its place up when it does nothing but wait.
    async fn exchange_key(
        &mut self,
        uplink: &Uplink,
        request: &KeyRequest,
        place: Option<SemaphorePermit<'_>>,
    ) -> io::Result<()> {
        let (answer, count) = match request {
            KeyRequest::Https { path_and_query, authorization } => {
                uplink.get(path_and_query, authorization).await?
            }
            KeyRequest::Psk { path_and_query, path } => {
                uplink.get_by_psk(&self.device, *path, path_and_query).await?
            }
            KeyRequest::Coap { datagram } => {
                let clock = self.surroundings.context.clock;
                let device = &mut self.device;
                let ends = |answer: &[u8]| device.handle_coap(clock.now(), answer);
                let count = uplink.ask_by_coap(datagram, ends).await?;
                self.tell_exchange(KeyPath::Oscore, count);
                return Ok(());
            }
            KeyRequest::Await => return self.await_key(place).await,
            KeyRequest::Pad { .. } => return Err(io::ErrorKind::Unsupported.into()),
        };
        let path = match request {
            KeyRequest::Psk { path, .. } => *path,
            _ => self.device.path(),
        };
        self.take_answer(key_answer(answer.status, &answer.headers, answer.body.expose()));
        self.tell_exchange(path, count);
        Ok(())
    }

    fn take_answer(&mut self, answer: KeyAnswer<'_>) {
        if answer == KeyAnswer::Denied {
            self.complain("the gateway denies it a key");
        }
        self.device.handle_key_answer(self.surroundings.context.clock.now(), answer);
    }

    /// Tells what an exchange took; a key frame has come if the flash is due for it.
    fn tell_exchange(&self, path: KeyPath, Count { handshake, traffic, work }: Count) {
        let eui = self.device.eui();
        let is_renewal = self.device.poll_flash().is_some();
        // What comes over a session is counted with that.
        if path != KeyPath::Push {
            self.surroundings.account.note_bytes(traffic.bytes());
        }
        let told = Exchanged { eui, path, is_renewal, handshake, traffic, work };
        self.surroundings.context.reports.tell(Report::Exchanged(told));
    }

    /// Holds a session until a key frame is pushed over it.
    async fn await_key(&mut self, place: Option<SemaphorePermit<'_>>) -> io::Result<()> {
        let mut session = match self.open_session().await {
            Ok(session) => session,
            Err(Undelivered::Connect(ConnectError::Refused(_))) => {
                self.take_answer(KeyAnswer::Denied);
                return Ok(());
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        drop(place);
        // What came on the heels of the subscription is counted with it: it cannot be told apart.
        let pushed = session.inbox.try_next();
        let before = if pushed.is_some() { session.connected } else { session.meter.traffic() };
        if let Some(message) = pushed {
            self.device.handle_pushed(self.surroundings.context.clock.now(), &message.payload);
        }
        while self.device.poll_flash().is_none() {
            let Some(message) = session.inbox.next().await else {
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            self.device.handle_pushed(self.surroundings.context.clock.now(), &message.payload);
        }
        // The acknowledgement is part of it, and leaves within the millisecond.
        for _ in 0..ACKNOWLEDGING {
            if session.meter.traffic().sent > before.sent {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let traffic = session.meter.traffic().since(&before);
        self.tell_exchange(KeyPath::Push, Count { traffic, ..Count::default() });
        self.session = Some(session);
        Ok(())
    }

    async fn publish(&mut self, header: Header, frame: Vec<u8>) {
        let (eui, reports) = (self.device.eui(), self.surroundings.context.reports.clone());
        let place = (header.epoch, header.counter);
        if self.sent.is_none_or(|sent| sent < place) {
            // Before the attempt: a reading that never arrives must be missed.
            self.sent = Some(place);
            reports.tell(Report::Sent { eui });
        }
        let delivery = self.deliver(frame).await;
        if delivery == Delivery::Acknowledged {
            reports.tell(Report::Acknowledged { eui });
        }
        self.device.handle_published(self.surroundings.context.clock.now(), header, delivery);
    }

    /// Publishes a frame on the session of this wake, and keeps that only if it served.
    async fn deliver(&mut self, frame: Vec<u8>) -> Delivery {
        if !self.reaches(self.broker_door()).await {
            return Delivery::Failed;
        }
        let surroundings = Arc::clone(&self.surroundings);
        let _place = surroundings.exchanges.acquire().await;
        let session = self.session.take().filter(|session| session.client.is_alive());
        let exchange = self.exchange(session, frame);
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(Ok(session)) => {
                self.session = Some(session);
                self.take_pushed();
                return Delivery::Acknowledged;
            }
            Ok(Err(Undelivered::Connect(ConnectError::Refused(_)))) => {
                self.complain("the gateway's broker refuses its log-in");
            }
            Ok(Err(Undelivered::Publish(PublishError::Refused(_) | PublishError::NotNow(_)))) => {
                self.complain("the gateway's broker refuses its reading");
            }
            Ok(Err(error)) => tracing::debug!(eui = %self.device.eui(), %error, "not delivered"),
            Err(_) => tracing::debug!(eui = %self.device.eui(), "no acknowledgement in time"),
        }
        Delivery::Failed
    }

    async fn exchange(
        &self,
        session: Option<Session>,
        frame: Vec<u8>,
    ) -> Result<Session, Undelivered> {
        let session = match session {
            Some(session) => session,
            None => self.open_session().await?,
        };
        session.client.publish(&topics::up(self.device.eui()), frame.into()).await?;
        Ok(session)
    }

    /// Connects to the broker, subscribed to what is pushed where that is the device's path.
    async fn open_session(&self) -> Result<Session, Undelivered> {
        let meter = Meter::new();
        let access = self.surroundings.uplink.broker(&self.device).metered(meter.clone());
        let (client, inbox) = mqtt::Client::connect(&access).await?;
        let connected = meter.traffic();
        if self.device.path() == KeyPath::Push {
            client.subscribe(&topics::key(self.device.eui())).await?;
        }
        Ok(Session { client, inbox, meter, connected })
    }

    /// Gives the device what was pushed so far.
    fn take_pushed(&mut self) {
        let now = self.surroundings.context.clock.now();
        while let Some(message) = self.session.as_mut().and_then(|session| session.inbox.try_next())
        {
            self.device.handle_pushed(now, &message.payload);
        }
    }

    /// Ends the session of this wake, with what was pushed until then.
    async fn end_session(&mut self) {
        let Some(Session { client, mut inbox, meter, .. }) = self.session.take() else { return };
        client.disconnect().await;
        self.surroundings.account.note_bytes(meter.traffic().bytes());
        let now = self.surroundings.context.clock.now();
        while let Some(message) = inbox.try_next() {
            self.device.handle_pushed(now, &message.payload);
        }
    }

    /// Notes how a wake went.
    fn end_wake(&mut self) {
        let now = self.surroundings.context.clock.now();
        if let Some(woke) = self.woke.take().filter(|_| self.epoch > Epoch::BOOTSTRAP) {
            let wake = Wake {
                took: now.since(woke),
                is_delivered: self.device.n_waiting() == 0,
                key_age: self.keyed.map(|keyed| now.since(keyed)),
            };
            self.surroundings.account.note(self.device.eui(), &wake);
        }
    }

    fn broker_door(&self) -> Door {
        if self.device.path().session_version().is_some() { BROKER_PSK } else { BROKER }
    }

    /// A device that the gateway has not adopted yet is denied too: nothing is wrong at first.
    fn complain(&self, what: &str) {
        let Surroundings { context, strangers, refusals, .. } = &*self.surroundings;
        let known = self.device.epoch() > Epoch::BOOTSTRAP;
        let complaints = if known { refusals } else { strangers };
        let why = format_args!("device {}: {what}", self.device.eui());
        complaints.refused(context.clock.now(), &context.reports, why);
    }

    /// Sleeps until the next wake, or for a moment while it lies on the cable.
    async fn sleep(&mut self, is_docking: bool) -> Waking {
        let surroundings = Arc::clone(&self.surroundings);
        tokio::select! {
            biased;
            () = surroundings.context.shutdown.cancelled() => Waking::Never,
            () = self.wait() => Waking::Due,
            () = tokio::time::sleep(DOCKING), if is_docking => Waking::Docking,
        }
    }

    /// Makes a key as devices do that have none delivered, and destroys it.
    async fn make_own_key(&self) {
        let Some(peer) = self.surroundings.dkg_peer else { return };
        match tokio::time::timeout(self.patience, dkg::make(peer)).await {
            Ok(Ok(traffic)) => self.surroundings.account.note_own_key(traffic.bytes()),
            failed => tracing::debug!(eui = %self.device.eui(), ?failed, "no key of its own"),
        }
    }

    async fn wait(&mut self) {
        let clock = self.surroundings.context.clock;
        clock.sleep_until(self.device.poll_timeout()).await;
        if self.device.is_asleep() {
            self.woke = Some(clock.now());
            self.make_own_key().await;
        }
        self.device.handle_timeout(clock.now(), &mut self.rng);
    }
}

/// The gateway's services in the network, whatever the loopback ports are where they listen.
const KEY_SERVICE: Door = Door::Tcp(8443);
const KEY_SERVICE_PSK: Door = Door::Tcp(8444);
const KEY_SERVICE_COAP: Door = Door::Udp(5683);
const BROKER: Door = Door::Tcp(8883);
const BROKER_PSK: Door = Door::Tcp(8884);

/// How often a device on the cable asks for its pad.
const DOCKING: Duration = Duration::from_secs(2);

/// How many milliseconds an acknowledgement that is due may take to leave.
const ACKNOWLEDGING: u32 = 100;

/// How a sleep ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waking {
    Due,
    Docking,
    Never,
}

/// Why a frame is not known to have arrived.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}
