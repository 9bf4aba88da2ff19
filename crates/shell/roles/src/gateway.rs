//! The gateway: hands key frames to devices by HTTPS, takes their telemetry by MQTT, and forwards
//! it; keeps the other half of the fleet's records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use claviger_durable::{EngineError, Tx};
use claviger_fleet::{
    Extraction, FrameForm, Gateway, GatewayConfig, GatewayEvent, KeyAnswer, KeyOrder, QueueRefusal,
    QueuedUplink, topics,
};
use claviger_frames::Epoch;
use claviger_net::accept::Limits as Connections;
use claviger_net::link;
use claviger_net::mqtt::{
    Access, Broker, BrokerHooks, Forwarder, LogIn, PublishError, Refused, STANDARD_LIMITS,
};
use claviger_net::shutdown::TaskGroup;
use claviger_net::tls::{self, TlsServer};
use claviger_net::{http, listen};
use claviger_store::Writer;
use claviger_units::{Bits, Eui64, SaeId, SecretBytes, Span};
use tokio::sync::{Notify, mpsc};

use crate::config::GatewayRoleConfig;
use crate::hub::{self, Hub, Names, Outputs};
use crate::orders::{MOST_KEYS, extractions, fetching, tell_ended};
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};
use crate::sae::{KeyClient, KeyError};

/// The name under which an operator may watch the frames pass (`mosquitto_sub -u viewer`).
const VIEWER: &str = "viewer";

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
    let https = listen::tcp(config.keys).await?;
    let mqtt = listen::tcp(config.mqtt).await?;
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    let server = tls::server_auth_only(&identity);
    let (router, shutdown) = (service.router(), context.shutdown.clone());
    let guarded = TlsServer::new(Arc::clone(&server), Connections::STANDARD);
    tasks.spawn("key service", async move {
        http::serve(https, &guarded, router, &shutdown).await;
    });
    let viewer = read_password(&folder, "viewer.password")?;
    let doors = Arc::new(Doors { service: service.clone(), viewer });
    let (broker, shutdown) = (Broker::new(doors, STANDARD_LIMITS), context.shutdown.clone());
    tasks.spawn("device broker", async move {
        broker.serve_tls(mqtt, server, &shutdown).await;
    });
    let password = read_password(&folder, "forwarder.password")?;
    let forwarder = forwarder(config.platform_mqtt, &password).over_tls(client);
    tasks.spawn("forwarder", service.clone().forward(Forwarder::new(forwarder)));
    context.reports.tell(Report::Ready("gateway"));
    let names = Names { own: "gateway", other: "platform" };
    let hub = Hub::new(names, (service.writer.clone(), outputs), platform, context.clone());
    let (asked, asking) = mpsc::unbounded_channel();
    let counter = Counter { service: service.clone(), keys, platform: config.platform_sae.clone() };
    tasks.spawn("extraction", counter.clone().extract(asking));
    let fill = move |order| counter.clone().fill(order, asked.clone());
    let ended = tokio::select! {
        ended = hub.run(|event| service.tell(event), fill) => ended,
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
}

impl Service {
    fn open(
        config: &GatewayRoleConfig,
        folder: &Folder,
        context: Context,
    ) -> Result<(Self, Outputs<Gateway>), RoleError> {
        // A tenth of the period is left for shortages, so that the key is ready at the wake.
        let prepare_after = Span::from_micros(config.renew.as_micros() / 10 * 9);
        let now = context.clock.now();
        let config = GatewayConfig { prepare_after };
        let (writer, outputs) =
            hub::open(folder, move |tx, rng| Gateway::open(tx, now, config, rng))?;
        Ok((Self { writer, context, queued: Arc::new(Notify::new()) }, outputs))
    }

    fn router(&self) -> Router {
        Router::new().route("/v1/devices/{eui}/key", get(key)).with_state(self.clone())
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
        loop {
            let batch = self.core(move |core, tx| core.half.next_uplinks(tx, after, 64)).await?;
            let Some(last) = batch.last() else { return Ok(n_passed) };
            after = last.seq;
            for uplink in batch {
                let eui = uplink.eui;
                if let Forwarded::PassedOver(error) = self.forward_one(forwarder, uplink).await? {
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

/// `GET /v1/devices/{eui}/key?have=e` (`PROTOCOL.md` P3c).
async fn key(
    State(service): State<Service>,
    Path(eui): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let now = service.context.clock.now();
    let asked = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let authorization = authorization.map(str::to_owned);
    let answer = service.core(move |core, tx| {
        let have = asked.split_once("?have=").map(|(_, have)| have.to_owned());
        let authorization = authorization.as_deref();
        core.half.handle_key_request(tx, now, &eui, have.as_deref(), &asked, authorization)
    });
    let fresh = [(CACHE_CONTROL, "no-store")];
    match answer.await {
        Ok(KeyAnswer::Frame(frame)) => {
            (fresh, [(CONTENT_TYPE, "application/cose")], frame).into_response()
        }
        Ok(KeyAnswer::NothingDue) => (StatusCode::NO_CONTENT, fresh).into_response(),
        Ok(KeyAnswer::Later { retry_after }) => {
            let secs = retry_after.as_micros().div_ceil(1_000_000).to_string();
            let message = "no key is ready for this device yet; ask again later";
            let body = http::error_response(StatusCode::SERVICE_UNAVAILABLE, message);
            (fresh, [(RETRY_AFTER, secs)], body).into_response()
        }
        Ok(KeyAnswer::Denied) => {
            let message = "unknown device, or its proof is wrong or stale";
            (fresh, http::error_response(StatusCode::UNAUTHORIZED, message)).into_response()
        }
        Err(_) => {
            let message = "the gateway's store has failed; its operator must restart it";
            http::error_response(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }
}

/// Who may do what at the gateway's broker.
struct Doors {
    service: Service,
    viewer: SecretBytes,
}

impl BrokerHooks for Doors {
    async fn authenticate(&self, log_in: LogIn<'_>) -> bool {
        if log_in.user == VIEWER {
            // Under the name of a device it would take the place of that device.
            let own_session = log_in.client_id.parse::<Eui64>().is_err();
            return own_session && self.viewer.ct_eq(&SecretBytes::new(log_in.password.to_vec()));
        }
        // One session a device, so that none displaces another's.
        if log_in.client_id != log_in.user {
            return false;
        }
        let (user, password) = (log_in.user.to_owned(), SecretBytes::new(log_in.password.to_vec()));
        let now = self.service.context.clock.now();
        let known = self
            .service
            .core(move |core, tx| core.half.handle_login(tx, now, &user, password.expose()));
        let known = matches!(known.await, Ok(Some(_)));
        if !known {
            let why = format_args!(
                "log-in of {:?}: unknown, or its password is wrong or stale",
                log_in.user
            );
            self.service.context.reports.refused("gateway", why);
        }
        known
    }

    fn may_publish(&self, user: &str, topic: &str) -> bool {
        user.parse().is_ok_and(|eui| topics::may_publish(eui, topic))
    }

    fn may_subscribe(&self, user: &str, filter: &str) -> bool {
        if user == VIEWER {
            return filter.starts_with("claviger/v1/");
        }
        user.parse().is_ok_and(|eui| topics::may_subscribe(eui, filter))
    }

    async fn handle_publish(&self, user: &str, topic: &str, payload: Bytes) -> Result<(), Refused> {
        let Some(eui) = topics::device_of_up(topic) else { return Ok(()) };
        let now = self.service.context.clock.now();
        let job =
            move |core: &mut Core, tx: &mut dyn Tx| core.half.handle_uplink(tx, now, eui, &payload);
        match self.service.writer.run(job).await {
            Ok(Ok(())) => {
                self.service.queued.notify_one();
                Ok(())
            }
            // It would never fit: acknowledged, so that the device does not repeat it for ever.
            Ok(Err(error @ QueueRefusal::TooLong { .. })) => {
                self.service.context.reports.refused("gateway", format_args!("{user}: {error}"));
                Ok(())
            }
            Ok(Err(error)) => {
                self.service.context.reports.refused("gateway", format_args!("{user}: {error}"));
                Err(Refused)
            }
            Err(_) => Err(Refused),
        }
    }

    fn handle_attached(&self, _: &str) {}
}

impl Service {
    fn tell(&self, event: GatewayEvent) {
        match event {
            GatewayEvent::Alarm(alarm) => {
                self.context.reports.refused("gateway", format_args!("alarm: {alarm:?}"));
            }
            GatewayEvent::Refused { eui, epoch } => {
                let why = format_args!("{eui}: the platform could not hold epoch {epoch}");
                self.context.reports.refused("gateway", why);
            }
            GatewayEvent::Ready { eui, epoch } => {
                self.context.reports.tell(Report::Prepared { eui, epoch: epoch.number() });
            }
            _ => {}
        }
    }
}

/// Where the gateway gets its keys.
#[derive(Clone)]
struct Counter {
    service: Service,
    keys: KeyClient,
    platform: SaeId,
}

/// A device, and the epoch that it needs a key for.
type Asked = (Eui64, Epoch);

impl Counter {
    /// Does what the core ordered, and reports the outcome; an error ends with the writer.
    async fn fill(self, order: KeyOrder, asked: mpsc::UnboundedSender<Asked>) {
        match order {
            // The counter ends with the role.
            KeyOrder::Extract { eui, epoch, .. } => drop(asked.send((eui, epoch))),
            KeyOrder::Fetch { key_id } => {
                let outcome = fetching(self.keys.dec_keys(&self.platform, &[key_id]).await);
                let now = self.service.context.clock.now();
                let filled = self
                    .service
                    .core(move |core, tx| core.half.handle_fetched(tx, now, key_id, outcome));
                tell_ended(filled.await);
            }
        }
    }

    /// Draws the keys that devices need, as many at a time as are asked for and granted
    /// (`PROTOCOL.md` P3b.2).
    async fn extract(self, mut asking: mpsc::UnboundedReceiver<Asked>) {
        let shutdown = self.service.context.shutdown.clone();
        let extract_all = async {
            let mut asked = Vec::new();
            while asking.recv_many(&mut asked, MOST_KEYS).await > 0 {
                self.extract_for(std::mem::take(&mut asked)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = extract_all => {}
        }
    }

    async fn extract_for(&self, mut asked: Vec<Asked>) {
        let mut size = asked.len();
        while !asked.is_empty() {
            size = size.min(asked.len());
            let number = u32::try_from(size).unwrap_or(u32::MAX);
            let answer = self.keys.enc_keys(&self.platform, number, Bits::KEY).await;
            let is_too_many = matches!(
                answer,
                Err(KeyError::Unavailable { .. }
                    | KeyError::Refused { status: StatusCode::BAD_REQUEST, .. })
            );
            // Nothing is spent: fewer may be there, or be granted at once.
            if is_too_many && size > 1 {
                size /= 2;
                continue;
            }
            // What is true of one key is true of all that are asked for after it.
            let n_answered = if answer.is_ok() { size } else { asked.len() };
            let answered = asked.drain(..n_answered).collect::<Vec<_>>();
            self.report(answered, extractions(n_answered, answer)).await;
        }
    }

    async fn report(&self, asked: Vec<Asked>, outcomes: Vec<Extraction>) {
        let now = self.service.context.clock.now();
        let filled = self.service.core(move |core, tx| {
            for ((eui, epoch), outcome) in asked.into_iter().zip(outcomes) {
                core.half.handle_extracted(tx, now, eui, epoch, outcome, &mut core.rng)?;
            }
            Ok(())
        });
        tell_ended(filled.await);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use claviger_net::clock::Clock;
    use claviger_net::shutdown::Shutdown;

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
    }

    fn service(folder: &Folder) -> Service {
        let (reports, _) = Reporter::channel();
        let context = Context { clock: Clock::start(), shutdown: Shutdown::new(), reports };
        let now = context.clock.now();
        let form = FrameForm::Compact;
        let config = GatewayConfig { prepare_after: Span::from_secs(60), form };
        let (writer, _) =
            hub::open(folder, move |tx, rng| Gateway::open(tx, now, config, rng)).unwrap();
        Service { writer, context, queued: Arc::new(Notify::new()) }
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
        assert_eq!(n_passed.unwrap(), 2);
        let expected = BTreeMap::from([(topics::up(wanted), b"24".to_vec())]);
        assert_eq!(*broker.taken.lock().unwrap(), expected);
        let left = service.core(|core, tx| core.half.next_uplinks(tx, 0, 9)).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|uplink| uplink.frame).collect();
        assert_eq!(left, [b"1", b"3"], "kept for the next round");
    }
}
