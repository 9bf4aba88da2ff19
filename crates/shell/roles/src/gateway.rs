//! The gateway: gives key frames to devices, takes their telemetry by MQTT, and forwards it; keeps the
//! other half of the fleet's records.

mod counter;
mod dock;
mod doors;
mod foreign;
mod key_service;
mod push;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use claviger_durable::{EngineError, Tx};
use claviger_fleet::{Alarm, Gateway, GatewayConfig, GatewayEvent, QueuedUplink, Taker, topics};
use claviger_net::accept::Limits as Connections;
use claviger_net::link;
use claviger_net::local::LocalListener;
use claviger_net::mqtt::{Access, Broker, Forwarder, PublishError, STANDARD_LIMITS, Subscription};
use claviger_net::psk::PskServer;
use claviger_net::shutdown::TaskGroup;
use claviger_net::tls::{self, TlsServer};
use claviger_net::{coap, http, listen};
use claviger_store::Writer;
use claviger_units::{Eui64, SecretBytes};
use rustls::ServerConfig;
use tokio::sync::{Notify, mpsc};

use self::counter::Counter;
use self::doors::Doors;
use self::foreign::Retained;
use self::push::Pushes;
use crate::channel::restoration;
use crate::config::GatewayRoleConfig;
use crate::hub::{self, Hub, Names, Outputs};
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};
use crate::sae::KeyClient;

/// Runs a gateway until the signal to stop.
pub async fn run(
    config: GatewayRoleConfig,
    folder: Folder,
    context: Context,
) -> Result<(), RoleError> {
    let (service, outputs) = Service::open(&config, &folder, context.clone())?;
    let (identity, authority) = folder.identity()?;
    let client = tls::client_mutual(&identity, &authority);
    let keys = KeyClient::new(&config.kme_url, http::Client::new(&client));
    let platform =
        link::dial_tls(&config.platform.to_string(), Arc::clone(&client), &config.platform_name)?;
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    let server = tls::server_auth_only(&identity);
    service.serve_keys(&mut tasks, &config, Arc::clone(&server)).await?;
    let viewer = read_password(&folder, "viewer.password")?;
    let broker = service.serve_broker(&mut tasks, &config, server, viewer).await?;
    let forwarder = match &config.platform_broker {
        // It keeps nothing for a platform that has never been there.
        Some(broker) => Forwarder::new(folder.broker_access(broker)?).for_a_subscriber(),
        None => {
            let password = read_password(&folder, "forwarder.password")?;
            Forwarder::new(forwarder(config.platform_mqtt, &password).over_tls(client))
        }
    };
    tasks.spawn("forwarder", service.clone().forward(forwarder));
    if let (Some(foreign), Some(retained)) = (&config.device_broker, &service.retained) {
        let access = folder.broker_access(foreign)?;
        let subscription = Subscription::new(access.clone().named_apart("up"), topics::ALL_UP);
        let keys = Forwarder::new(access.named_apart("key"));
        let (retained, shutdown) = (retained.clone(), context.shutdown.clone());
        let serving = foreign::run(service.clone(), subscription, keys, retained, shutdown);
        tasks.spawn("foreign broker", serving);
    }
    context.reports.tell(Report::Ready("gateway"));
    let names = Names { own: "gateway", other: "platform" };
    let hub = Hub::new(names, (service.writer.clone(), outputs), platform, context.clone());
    let (asked, asking) = mpsc::unbounded_channel();
    let counter = Counter { service: service.clone(), keys, platform: config.platform_sae.clone() };
    tasks.spawn("extraction", counter.clone().extract(asking));
    let fill = move |order| counter.clone().fill(order, asked.clone());
    let ended = tokio::select! {
        ended = hub.run(|event| service.tell(event, &broker), fill) => ended,
        name = tasks.lost() => Err(RoleError::Lost(name)),
    };
    context.shutdown.trigger();
    tasks.finish(Duration::from_secs(2)).await;
    ended
}

fn forwarder(address: SocketAddr, password: &SecretBytes) -> Access {
    let password = String::from_utf8_lossy(password.expose());
    Access::plain(&address.ip().to_string(), address.port(), "gateway", "gateway", &password)
}

fn read_password(folder: &Folder, name: &str) -> Result<SecretBytes, RoleError> {
    let path = folder.file(name);
    let read = std::fs::read(&path).map(SecretBytes::new);
    read.map_err(|error| RoleError::Password { path, source: error })
}

type Core = hub::Core<Gateway>;

#[derive(Clone)]
struct Service {
    writer: Writer<Core>,
    context: Context,
    queued: Arc<Notify>,
    pushes: Pushes,
    /// Where devices use a broker of another maker.
    retained: Option<Retained>,
}

impl Service {
    fn open(
        config: &GatewayRoleConfig,
        folder: &Folder,
        context: Context,
    ) -> Result<(Self, Outputs<Gateway>), RoleError> {
        let prepare_after = claviger_fleet::prepare_after(config.renew);
        let now = context.clock.now();
        let retained = config.device_broker.is_some().then(Retained::default);
        let sharing = config.sharing.clone();
        let (form, queue_bytes) = (config.form, config.queue_bytes);
        let taker = match config.platform_broker {
            Some(_) => Taker::Broker,
            None => Taker::Platform,
        };
        let config = GatewayConfig { prepare_after, form, sharing, queue_bytes, taker };
        let (writer, outputs) =
            hub::open(folder, move |tx, rng| Gateway::open(tx, now, config, rng))?;
        let (queued, pushes) = (Arc::new(Notify::new()), Pushes::default());
        Ok((Self { writer, context, queued, pushes, retained }, outputs))
    }

    /// Opens every door at which devices ask for keys.
    async fn serve_keys(
        &self,
        tasks: &mut TaskGroup,
        config: &GatewayRoleConfig,
        server: Arc<ServerConfig>,
    ) -> Result<(), RoleError> {
        let https = listen::tcp(config.keys).await?;
        let (router, shutdown) = (key_service::signed(self), self.context.shutdown.clone());
        let guarded = TlsServer::new(server, Connections::STANDARD);
        tasks.spawn("key service", async move {
            http::serve(https, &guarded, router, &shutdown).await;
        });
        if let Some(address) = config.psk {
            let listener = listen::tcp(address).await?;
            let psk = self.psk_server(Connections::STANDARD)?;
            let (router, shutdown) = (key_service::proven(self), self.context.shutdown.clone());
            tasks.spawn("key service by pre-shared keys", async move {
                http::serve_psk(listener, &psk, router, &shutdown).await;
            });
        }
        if let Some(path) = &config.dock {
            let listener = LocalListener::bind(path)
                .map_err(|source| RoleError::Socket { path: path.clone(), source })?;
            let (router, shutdown) = (dock::router(self), self.context.shutdown.clone());
            tasks.spawn("dock", async move {
                http::serve_local(listener, router, &shutdown).await;
            });
        }
        if let Some(address) = config.coap {
            let socket = listen::udp(address).await?;
            let (service, shutdown) = (self.clone(), self.context.shutdown.clone());
            tasks.spawn("key service by CoAP", async move {
                let answer =
                    move |datagram| key_service::answer_datagram(service.clone(), datagram);
                coap::serve(socket, &shutdown, answer).await;
            });
        }
        Ok(())
    }

    /// Opens the broker, and pushes key frames to who is subscribed there.
    async fn serve_broker(
        &self,
        tasks: &mut TaskGroup,
        config: &GatewayRoleConfig,
        server: Arc<ServerConfig>,
        viewer: SecretBytes,
    ) -> Result<Broker<Doors>, RoleError> {
        let doors = Doors { service: self.clone(), viewer, pushes: self.pushes.clone() };
        let broker = Broker::new(Arc::new(doors), STANDARD_LIMITS);
        let shutdown = self.context.shutdown.clone();
        let mqtt = listen::tcp(config.mqtt).await?;
        let (serving, signal) = (broker.clone(), shutdown.clone());
        tasks.spawn("device broker", async move { serving.serve_tls(mqtt, server, &signal).await });
        if let Some(address) = config.mqtt_psk {
            let listener = listen::tcp(address).await?;
            let psk = self.psk_server(STANDARD_LIMITS)?;
            let (serving, signal) = (broker.clone(), shutdown.clone());
            tasks.spawn("device broker by pre-shared keys", async move {
                serving.serve_psk(listener, &psk, &signal).await;
            });
        }
        tasks.spawn("pushes", push::run(self.clone(), broker.clone(), shutdown));
        Ok(broker)
    }

    fn psk_server(&self, limits: Connections) -> Result<PskServer, RoleError> {
        PskServer::new(key_service::lookup(self), limits).map_err(RoleError::OpenSsl)
    }

    async fn core<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core, &mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, RoleError> {
        Ok(self.writer.run(job).await??)
    }

    /// Carries queued telemetry to the platform's broker, oldest first, until the signal to stop.
    async fn forward(self, forwarder: Forwarder) {
        let shutdown = self.context.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.forward_all(&forwarder) => {}
        }
    }

    /// Goes round after round, so that a frame that is not taken now stops no other.
    async fn forward_all(&self, forwarder: &Forwarder) {
        loop {
            let queued = self.queued.notified();
            match self.forward_round(forwarder).await {
                Ok(0) => queued.await,
                Ok(_) => tokio::time::sleep(ROUND_PAUSE).await,
                Err(_) => return,
            }
        }
    }

    /// Carries what is queued, from the front; returns how many frames were passed over.
    async fn forward_round(&self, forwarder: &Forwarder) -> Result<u32, RoleError> {
        let (mut after, mut n_passed) = (0, 0);
        // What a device has sent later must not overtake what was passed over.
        let mut held_up = BTreeSet::new();
        loop {
            let batch = self.core(move |core, tx| core.half.next_uplinks(tx, after, 64)).await?;
            let Some(last) = batch.last() else { return Ok(n_passed) };
            after = last.seq;
            for uplink in batch {
                let eui = uplink.eui;
                if held_up.contains(&eui) {
                    continue;
                }
                if let Forwarded::PassedOver(error) = self.forward_one(forwarder, uplink).await? {
                    held_up.insert(eui);
                    // Once a round: what stops one frame may stop all.
                    if n_passed == 0 {
                        self.tell_broker_error(eui, error);
                    }
                    n_passed += 1;
                }
                if n_passed == MOST_PASSED {
                    return Ok(n_passed);
                }
            }
        }
    }

    async fn forward_one(
        &self,
        forwarder: &Forwarder,
        uplink: QueuedUplink,
    ) -> Result<Forwarded, RoleError> {
        let QueuedUplink { seq, eui, frame } = uplink;
        let error = match forwarder.deliver(&topics::up(eui), frame.into()).await {
            Ok(()) => {
                self.core(move |core, tx| core.half.handle_forwarded(tx, seq)).await?;
                return Ok(Forwarded::Settled);
            }
            Err(error) => error,
        };
        match error {
            PublishError::Refused(_) | PublishError::Invalid => {
                self.tell_broker_error(eui, error);
                self.core(move |core, tx| core.half.handle_undeliverable(tx, seq)).await?;
                Ok(Forwarded::Settled)
            }
            _ => Ok(Forwarded::PassedOver(error)),
        }
    }

    fn tell_broker_error(&self, eui: Eui64, error: PublishError) {
        let why = format_args!("telemetry of {eui}: {error}");
        self.context.reports.refused("gateway", why);
    }
}

/// What became of a frame.
enum Forwarded {
    /// It is out of the queue.
    Settled,
    /// It stays, and is tried again in the next round.
    PassedOver(PublishError),
}

/// How long to wait before the next round when the broker did not take all.
const ROUND_PAUSE: Duration = Duration::from_secs(5);
/// How many frames a round passes over before it waits: by then it is not the frames.
const MOST_PASSED: u32 = 64;

impl Service {
    fn tell(&self, event: GatewayEvent, broker: &Broker<Doors>) {
        if let (
            Some(retained),
            GatewayEvent::Ready { eui, .. }
            | GatewayEvent::Promoted { eui, .. }
            | GatewayEvent::Retired { eui },
        ) = (&self.retained, event)
        {
            retained.renew(eui);
        }
        match event {
            // A session must not outlive the life of its device that it was opened in.
            GatewayEvent::Adopted { eui } | GatewayEvent::Retired { eui } => {
                broker.close(&eui.to_string());
            }
            GatewayEvent::Alarm(Alarm::KeysShort { waiting, expected }) => {
                let until = expected.map_or_else(
                    || "no key comes at all".to_owned(),
                    |span| format!("at the present pace until the last has one: {span}"),
                );
                let why = format_args!("keys are short: {waiting} devices wait for one; {until}");
                self.context.reports.refused("gateway", why);
            }
            GatewayEvent::Alarm(alarm) => {
                self.context.reports.refused("gateway", format_args!("alarm: {alarm:?}"));
            }
            GatewayEvent::PadSetback { eui } => {
                let why = format_args!(
                    "{eui}: keys drawn for its pad serve nobody; the platform could not get them"
                );
                self.context.reports.refused("gateway", why);
            }
            GatewayEvent::PadComplete { eui } => {
                tracing::info!(%eui, "its pad is complete: dock the device");
            }
            GatewayEvent::Docked { eui } => tracing::info!(%eui, "docked: it is given its pad"),
            GatewayEvent::Restoring { mine } => {
                let why = restoration(mine, "gateway", "platform");
                self.context.reports.refused("gateway", why);
            }
            GatewayEvent::Restored => {
                tracing::info!("the platform has everything again");
                self.queued.notify_one();
            }
            GatewayEvent::KeysSuffice => tracing::info!("keys are no longer short"),
            GatewayEvent::Refused { eui, epoch } => {
                let why = format_args!("{eui}: the platform could not hold epoch {epoch}");
                self.context.reports.refused("gateway", why);
            }
            GatewayEvent::Ready { eui, epoch } => {
                self.context.reports.tell(Report::Prepared { eui, epoch: epoch.number() });
                self.pushes.push_soon(eui);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use bytes::Bytes;
    use claviger_fleet::{FrameForm, Sharing};
    use claviger_net::clock::Clock;
    use claviger_net::mqtt::{BrokerHooks, LogIn, Refused};
    use claviger_net::shutdown::Shutdown;
    use claviger_units::Span;

    use super::*;
    use crate::report::Reporter;

    /// A broker of the platform that does not take the frames of one device.
    struct Choosy {
        unwanted: Eui64,
        taken: Mutex<BTreeMap<String, Vec<u8>>>,
    }

    impl BrokerHooks for Choosy {
        async fn authenticate(&self, _: LogIn<'_>) -> bool {
            true
        }

        fn may_publish(&self, _: &str, topic: &str) -> bool {
            topics::device_of_up(topic) != Some(self.unwanted)
        }

        fn may_subscribe(&self, _: &str, _: &str) -> bool {
            false
        }

        async fn handle_publish(&self, _: &str, topic: &str, frame: Bytes) -> Result<(), Refused> {
            self.taken.lock().unwrap().entry(topic.to_owned()).or_default().extend(&frame);
            Ok(())
        }

        fn handle_attached(&self, _: &str) {}

        fn handle_detached(&self, _: &str) {}
    }

    fn service(folder: &Folder) -> Service {
        let (reports, _) = Reporter::channel();
        let context = Context { clock: Clock::start(), shutdown: Shutdown::new(), reports };
        let now = context.clock.now();
        let form = FrameForm::Compact;
        let sharing = Sharing::default();
        let (prepare_after, queue_bytes) = (Span::from_secs(60), GatewayConfig::QUEUE_BYTES);
        let taker = Taker::Platform;
        let config = GatewayConfig { prepare_after, form, sharing, queue_bytes, taker };
        let (writer, _) =
            hub::open(folder, move |tx, rng| Gateway::open(tx, now, config, rng)).unwrap();
        let (queued, pushes) = (Arc::new(Notify::new()), Pushes::default());
        Service { writer, context, queued, pushes, retained: None }
    }

    #[tokio::test]
    async fn a_frame_that_is_not_taken_stops_no_other() {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let service = service(&Folder::new(folder.path().to_owned()));
        let [unwanted, wanted] = [1, 2].map(|n| Eui64::from_bytes([n; 8]));
        let broker = Arc::new(Choosy { unwanted, taken: Mutex::default() });
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let access =
            Access::plain("127.0.0.1", listener.local_addr().unwrap().port(), "gateway", "g", "p");
        let (serving, shutdown) =
            (Broker::new(Arc::clone(&broker), STANDARD_LIMITS), Shutdown::new());
        tokio::spawn(async move { serving.serve_plain(listener, &shutdown).await });

        let now = service.context.clock.now();
        for (eui, frame) in [(unwanted, b"1"), (wanted, b"2"), (unwanted, b"3"), (wanted, b"4")] {
            let job = move |core: &mut Core, tx: &mut dyn Tx| {
                core.half.handle_uplink(tx, now, eui, frame)
            };
            service.writer.run(job).await.unwrap().unwrap();
        }
        let forwarder = Forwarder::new(access);
        let round = service.forward_round(&forwarder);
        let n_passed = tokio::time::timeout(Duration::from_secs(20), round).await.unwrap();
        assert_eq!(n_passed.unwrap(), 1, "the later one of that device waits behind the first");
        let expected = BTreeMap::from([(topics::up(wanted), b"24".to_vec())]);
        assert_eq!(*broker.taken.lock().unwrap(), expected);
        let left = service.core(|core, tx| core.half.next_uplinks(tx, 0, 9)).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|uplink| uplink.frame).collect();
        assert_eq!(left, [b"1", b"3"], "kept for the next round");
    }
}
