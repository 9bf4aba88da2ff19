//! The platform: decrypts telemetry with its own site's copy of the keys, stores readings, and
//! shows them to operators; provisions devices.

mod desk;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_fleet::{
    Duplicate, FleetError, Platform, PlatformConfig, PlatformEvent, PlatformOrder, UplinkRefusal,
    topics,
};
use claviger_frames::Reading;
use claviger_net::accept::Limits as Connections;
use claviger_net::link::{self, LinkEvent};
use claviger_net::mqtt::{Broker, BrokerHooks, LogIn, Refused, STANDARD_LIMITS};
use claviger_net::shutdown::TaskGroup;
use claviger_net::tls::{self, TlsServer};
use claviger_net::{http, listen};
use claviger_store::{StoreError, Writer};
use claviger_units::{Bits, SaeId, SecretBytes, Span, Timestamp};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::sync::{Semaphore, mpsc};

use crate::channel::{Channel, trouble};
use crate::config::PlatformRoleConfig;
use crate::orders::{extraction, fetching};
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};
use crate::sae::KeyClient;

/// Runs a platform until the signal to stop.
pub async fn run(
    config: PlatformRoleConfig,
    folder: Folder,
    context: Context,
) -> Result<(), RoleError> {
    let (service, outputs) = Service::open(&config, &folder, context.clone())?;
    let (identity, authority) = folder.identity()?;
    let client = tls::client_mutual(&identity, &authority);
    let keys = KeyClient::new(&config.kme_url, http::Client::new(&client));
    let server = tls::server_mutual(&identity, &authority);
    let gateway = listen::tcp(config.gateway).await?;
    let gateway = link::serve_tls(gateway, Arc::clone(&server), config.gateway_name.clone());
    let https = listen::tcp(config.https).await?;
    let mqtt = listen::tcp(config.mqtt).await?;
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    let (router, shutdown) = (desk::router(service.clone()), context.shutdown.clone());
    let guarded = TlsServer::new(Arc::clone(&server), Connections::STANDARD);
    tasks.spawn("platform https", async move {
        http::serve(https, &guarded, router, &shutdown).await;
    });
    let path = folder.file("forwarder.password");
    let password = std::fs::read(&path).map(SecretBytes::new);
    let password = password.map_err(|source| RoleError::Password { path, source })?;
    let doors = Arc::new(Doors {
        service: service.clone(),
        gateway: config.gateway_name.clone(),
        password,
    });
    let (broker, shutdown) = (Broker::new(doors, STANDARD_LIMITS), context.shutdown.clone());
    tasks.spawn("platform broker", async move {
        broker.serve_tls(mqtt, server, &shutdown).await;
    });
    context.reports.tell(Report::Ready("platform"));
    let hub = Hub {
        orders: Arc::new(Semaphore::new(16)),
        service,
        outputs,
        gateway: Channel::new(gateway),
        gateway_sae: config.gateway_name,
        keys,
        timer: None,
    };
    let ended = tokio::select! {
        ended = hub.run() => ended,
        name = tasks.lost() => Err(RoleError::Lost(name)),
    };
    context.shutdown.trigger();
    tasks.finish(Duration::from_secs(2)).await;
    ended
}

struct Core {
    platform: Platform,
    rng: StdRng,
    /// Number of the connection to the gateway.
    session: u64,
    /// Where the session over it stood when that was last told.
    told: Session,
}

enum Output {
    Gateway { session: u64, frame: Vec<u8> },
    Order(PlatformOrder),
    Event(PlatformEvent),
    Session(Session),
    Timer(Option<Timestamp>),
}

#[derive(Clone)]
struct Service {
    writer: Writer<Core>,
    context: Context,
    operator: SaeId,
    installer: SaeId,
}

impl Service {
    fn open(
        config: &PlatformRoleConfig,
        folder: &Folder,
        context: Context,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Output>), RoleError> {
        let now = context.clock.now();
        let grace = PlatformConfig { grace: Span::from_secs(36 * 3600) };
        let (sender, outputs) = mpsc::unbounded_channel();
        let writer = folder.writer(
            move |tx| {
                let mut rng =
                    StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails");
                let platform = Platform::open(tx, now, grace, &mut rng)?;
                Ok::<_, EngineError>(Core { platform, rng, session: 0, told: Session::Apart })
            },
            move |core| drain(core, &sender),
        )?;
        let (operator, installer) = (config.operator.clone(), config.installer.clone());
        Ok((Self { writer, context, operator, installer }, outputs))
    }

    async fn core<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core, &mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, RoleError> {
        Ok(self.writer.run(job).await??)
    }
}

/// Who may do what at the platform's broker: the gateway brings telemetry, nobody else anything.
struct Doors {
    service: Service,
    gateway: SaeId,
    password: SecretBytes,
}

impl BrokerHooks for Doors {
    async fn authenticate(&self, log_in: LogIn<'_>) -> bool {
        let offered = SecretBytes::new(log_in.password.to_vec());
        let known = log_in.user == self.gateway.as_str() && self.password.ct_eq(&offered);
        if !known {
            let why = format_args!(
                "log-in of {:?}: not the gateway, or its password is wrong",
                log_in.user
            );
            self.service.context.reports.refused("platform", why);
        }
        known
    }

    fn may_publish(&self, _: &str, topic: &str) -> bool {
        topics::device_of_up(topic).is_some()
    }

    fn may_subscribe(&self, _: &str, _: &str) -> bool {
        false
    }

    /// The acknowledgement means that reading, replay window and epoch are durable (P3d).
    async fn handle_publish(&self, _: &str, topic: &str, payload: Bytes) -> Result<(), Refused> {
        let Some(eui) = topics::device_of_up(topic) else { return Ok(()) };
        let (now, reports) = (self.service.context.clock.now(), &self.service.context.reports);
        let read =
            self.service.core(move |core, tx| core.platform.handle_uplink(tx, now, eui, &payload));
        match read.await.or(Err(Refused))? {
            Ok(accepted) if accepted.duplicate == Duplicate::SameBytes => Ok(()),
            Ok(accepted) => {
                let reading = Reading::decode(&accepted.reading);
                reports.tell(Report::Decrypted {
                    eui,
                    epoch: accepted.epoch.number(),
                    counter: accepted.counter,
                    reading: reading.map_or_else(|_| "not a reading".into(), |r| r.to_string()),
                });
                Ok(())
            }
            Err(UplinkRefusal::Barred) => Err(Refused),
            Err(refusal) => {
                reports.refused("platform", format_args!("{eui}: {refusal}"));
                Ok(())
            }
        }
    }

    fn handle_attached(&self, _: &str) {}
}

/// The platform's links, and the loop that serves them.
struct Hub {
    service: Service,
    outputs: mpsc::UnboundedReceiver<Output>,
    gateway: Channel,
    gateway_sae: SaeId,
    keys: KeyClient,
    orders: Arc<Semaphore>,
    timer: Option<Timestamp>,
}

impl Hub {
    async fn run(mut self) -> Result<(), RoleError> {
        let (clock, shutdown) = (self.service.context.clock, self.service.context.shutdown.clone());
        loop {
            let timer = self.timer;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.service.writer.ended() => return Err(StoreError::Stopped.into()),
                Some(output) = self.outputs.recv() => self.carry_out(output),
                event = self.gateway.next() => self.handle_gateway(event).await?,
                () = clock.sleep_until(timer) => self.handle_timer().await?,
            }
        }
        self.service.writer.stop().await;
        Ok(())
    }

    async fn handle_gateway(&mut self, event: LinkEvent) -> Result<(), RoleError> {
        match event {
            LinkEvent::Connected(_) => {
                let session = self.gateway.session();
                let connect = self.service.core(move |core, _| {
                    core.session = session;
                    core.platform.handle_connected(&mut core.rng);
                    Ok(())
                });
                connect.await
            }
            LinkEvent::Disconnected => {
                let disconnect = self.service.core(|core, _| {
                    core.platform.handle_disconnected();
                    Ok(())
                });
                disconnect.await
            }
            LinkEvent::Frame(frame) => {
                let now = self.service.context.clock.now();
                let job = move |core: &mut Core, tx: &mut dyn Tx| {
                    core.platform.handle_message(tx, now, &frame)
                };
                match self.service.writer.run(job).await? {
                    Ok(()) => {}
                    Err(FleetError::Store(error)) => return Err(error.into()),
                    Err(error) => {
                        self.service.context.reports.refused("platform", error);
                        self.gateway.hang_up();
                    }
                }
                Ok(())
            }
        }
    }

    async fn handle_timer(&mut self) -> Result<(), RoleError> {
        let now = self.service.context.clock.now();
        self.timer = None;
        let due =
            self.service.core(move |core, tx| core.platform.handle_timeout(tx, now, &mut core.rng));
        due.await
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Gateway { session, frame } => self.gateway.send_on(session, frame),
            Output::Timer(timer) => self.timer = timer,
            Output::Event(event) => self.tell(event),
            Output::Session(session) => {
                if let Some(why) = trouble(session, "platform", "gateway") {
                    self.service.context.reports.halted("platform", why);
                }
            }
            Output::Order(order) => {
                let (service, keys) = (self.service.clone(), self.keys.clone());
                let (gateway, places) = (self.gateway_sae.clone(), Arc::clone(&self.orders));
                tokio::spawn(async move {
                    // An error would mean that the semaphore was closed, which nobody does.
                    let place = places.acquire_owned().await;
                    service.fill(order, &keys, &gateway).await;
                    drop(place);
                });
            }
        }
    }

    fn tell(&self, event: PlatformEvent) {
        tracing::info!(?event, "platform");
        let reports = &self.service.context.reports;
        match event {
            PlatformEvent::Alarm(alarm) => {
                reports.refused("platform", format_args!("alarm: {alarm:?}"));
            }
            PlatformEvent::Refused { eui, epoch, why } => {
                reports.refused(
                    "platform",
                    format_args!("{eui}: epoch {epoch} cannot be held: {why:?}"),
                );
            }
            _ => {}
        }
    }
}

impl Service {
    /// Gets a key that the core ordered, and reports the outcome; an error ends with the writer.
    async fn fill(&self, order: PlatformOrder, keys: &KeyClient, gateway: &SaeId) {
        let filled = match order {
            PlatformOrder::Master { .. } => {
                let outcome = extraction(keys.enc_keys(gateway, 1, Bits::KEY).await);
                let now = self.context.clock.now();
                let filled = self.core(move |core, tx| {
                    core.platform.handle_mastered(tx, now, outcome, &mut core.rng)
                });
                filled.await
            }
            PlatformOrder::Fetch { key_id } => {
                let outcome = fetching(keys.dec_keys(gateway, &[key_id]).await);
                let now = self.context.clock.now();
                let filled = self
                    .core(move |core, tx| core.platform.handle_fetched(tx, now, key_id, outcome));
                filled.await
            }
        };
        if let Err(error) = filled {
            tracing::debug!(%error, "an order ended with the store");
        }
    }
}

fn drain(core: &mut Core, outputs: &mpsc::UnboundedSender<Output>) {
    // The receiver outlives the writer but for the end of the role, when nothing matters any more.
    let give = |output| drop(outputs.send(output));
    while let Some(frame) = core.platform.poll_transmit() {
        give(Output::Gateway { session: core.session, frame });
    }
    while let Some(order) = core.platform.poll_order() {
        give(Output::Order(order));
    }
    while let Some(event) = core.platform.poll_event() {
        give(Output::Event(event));
    }
    let session = core.platform.session();
    if std::mem::replace(&mut core.told, session) != session {
        give(Output::Session(session));
    }
    give(Output::Timer(core.platform.poll_timeout()));
}
