//! The embedded broker: `mqtt5` behind our own accept loop, log-in, access rules and commits.
//!
//! `mqtt5` asks an event handler about every PUBLISH and waits for its answer before it routes
//! the message and acknowledges it: there the frame is committed. The handler has no way to say
//! no; a refused frame is therefore swallowed without any acknowledgement, and the connection is
//! closed, so that the client sees at once that it must publish again. Every connection has a
//! handler of its own, which knows the user and can close just this connection.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{self, Poll};
use std::time::Duration;

use bytes::Bytes;
use mqtt5::QoS;
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::events::{
    BrokerEventHandler, ClientConnectEvent, ClientPublishEvent, ClientSubscribeEvent, PublishAction,
};
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::QueueLimits;
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::tls_acceptor::TlsStreamWrapper;
use mqtt5::broker::transport::{BrokerTransport, WebSocketTransport};
use mqtt5::broker::{
    BrokerConfig, DynamicStorage, MemoryBackend, ResourceLimits, ResourceMonitor, StorageBackend,
};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use super::MAX_PACKET;
use crate::accept::{Guard, Limits};
use crate::psk::{self, Proven, PskPeer, PskServer};
use crate::shutdown::Shutdown;
use crate::tls;

/// What a role decides about its broker's clients.
pub trait BrokerHooks: Send + Sync + 'static {
    /// Tells whether a client may log in. A role that gives each user one client id should check
    /// it: a second connection under an id displaces the first.
    fn authenticate(&self, log_in: LogIn<'_>) -> impl Future<Output = bool> + Send;

    /// Tells whether `user` may publish to `topic`.
    fn may_publish(&self, user: &str, topic: &str) -> bool;

    /// Tells whether `user` may subscribe to `filter`.
    fn may_subscribe(&self, user: &str, filter: &str) -> bool;

    /// Commits a message; only then it goes to subscribers, and is acknowledged.
    ///
    /// Called one message at a time for each connection. A message may come again: its sender
    /// repeats it until it sees the acknowledgement.
    fn handle_publish(
        &self,
        user: &str,
        topic: &str,
        payload: Bytes,
    ) -> impl Future<Output = Result<(), Refused>> + Send;

    /// Notes that messages published to `user`'s subscriptions now reach it: after a
    /// subscription, and after a connection that goes on with an old session.
    fn handle_attached(&self, user: &str);

    /// Notes that the last connection of `user` has ended.
    fn handle_detached(&self, user: &str);
}

/// Who wants to log in.
#[derive(Clone, Copy)]
pub struct LogIn<'a> {
    /// The name of the session.
    pub client_id: &'a str,
    /// The name of the user.
    pub user: &'a str,
    /// What the user offers as proof.
    pub password: &'a [u8],
    /// What the connection has proven below MQTT, where that is anything ([`Broker::serve_psk`]).
    pub proven: Option<&'a Proven>,
}

impl fmt::Debug for LogIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogIn")
            .field("client_id", &self.client_id)
            .field("user", &self.user)
            .field("identity", &self.proven.map(|proven| &proven.identity))
            .finish_non_exhaustive()
    }
}

/// A message was not committed: it is not acknowledged, and its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message was not committed: publish it again later")]
pub struct Refused;

/// 20 000 clients, 128 of them still in their TLS handshake.
pub const STANDARD_LIMITS: Limits = Limits { connections: 20_000, ..Limits::STANDARD };

/// An MQTT 5 and 3.1.1 broker in this process; clones are the same broker.
///
/// It keeps everything in memory: what must survive, its hooks commit.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use bytes::Bytes;
/// use claviger_net::mqtt::{Access, Broker, BrokerHooks, Client, LogIn, Refused, STANDARD_LIMITS};
/// use claviger_net::{listen, shutdown::Shutdown};
///
/// #[derive(Default)]
/// struct Desk(Mutex<Vec<Bytes>>);
///
/// impl BrokerHooks for Desk {
///     async fn authenticate(&self, log_in: LogIn<'_>) -> bool {
///         log_in.password == b"open sesame"
///     }
///     fn may_publish(&self, user: &str, topic: &str) -> bool {
///         topic == format!("claviger/v1/{user}/up")
///     }
///     fn may_subscribe(&self, _: &str, _: &str) -> bool {
///         false
///     }
///     async fn handle_publish(&self, _: &str, _: &str, payload: Bytes) -> Result<(), Refused> {
///         self.0.lock().unwrap().push(payload);
///         Ok(())
///     }
///     fn handle_attached(&self, _: &str) {}
///     fn handle_detached(&self, _: &str) {}
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let desk = Arc::new(Desk::default());
/// let broker = Broker::new(Arc::clone(&desk), STANDARD_LIMITS);
/// let listener = listen::tcp("127.0.0.1:0".parse()?).await?;
/// let port = listener.local_addr()?.port();
/// let shutdown = Shutdown::new();
/// let serving = broker.serve_plain(listener, &shutdown);
/// let device = async {
///     let access = Access::plain("127.0.0.1", port, "dev1", "dev1", "open sesame");
///     let (client, _inbox) = Client::connect(&access).await?;
///     client.publish("claviger/v1/dev1/up", "frame".into()).await?;
///     shutdown.trigger();
///     Ok::<_, Box<dyn std::error::Error>>(())
/// };
/// tokio::join!(serving, device).1?;
/// assert_eq!(*desk.0.lock().unwrap(), ["frame"]);
/// # Ok(())
/// # }
/// ```
pub struct Broker<H>(Arc<Shared<H>>);

struct Shared<H> {
    hooks: Arc<H>,
    limits: Limits,
    config: BrokerConfig,
    router: Arc<MessageRouter>,
    storage: Arc<DynamicStorage>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    seats: Mutex<Seats>,
}

/// The connections of each user, by their serial numbers. Invariant: no user has none.
type Seats = BTreeMap<String, Vec<(u64, broadcast::Sender<()>)>>;

impl<H> Shared<H> {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: BrokerHooks> Broker<H> {
    /// Makes a broker that listens nowhere yet.
    ///
    /// Hooks that publish should hold a channel to whoever holds the broker, not the broker.
    #[must_use]
    pub fn new(hooks: Arc<H>, limits: Limits) -> Self {
        let storage = MemoryBackend::with_queue_limits(BACKLOG);
        let storage = Arc::new(DynamicStorage::Memory(storage));
        let router = MessageRouter::with_storage(Arc::clone(&storage))
            .with_fallback_queue_limits(BACKLOG)
            .with_retained_limits(limits.connections.saturating_mul(2), MAX_RETAINED);
        Self(Arc::new(Shared {
            hooks,
            limits,
            config: config(&limits),
            router: Arc::new(router),
            storage,
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::new(ResourceMonitor::new(no_limits())),
            seats: Mutex::default(),
        }))
    }

    /// Serves clients in clear until `shutdown`; for loopback.
    pub async fn serve_plain(&self, listener: TcpListener, shutdown: &Shutdown) {
        let open = |stream, address| async move { Ok((BrokerTransport::tcp(stream), address)) };
        let handle = self.handler(shutdown);
        let guard = Guard::new(self.0.limits);
        self.with_upkeep(guard.serve(listener, shutdown, open, handle)).await;
    }

    /// Serves clients over TLS until `shutdown`.
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        shutdown: &Shutdown,
    ) {
        let open = |stream, address| {
            let tls = Arc::clone(&tls);
            async move {
                let (stream, peer) = tls::handshake(tls, stream, address).await?;
                Ok((BrokerTransport::tls(TlsStreamWrapper::new(stream)), peer.address))
            }
        };
        let handle = self.handler(shutdown);
        let guard = Guard::new(self.0.limits);
        self.with_upkeep(guard.serve(listener, shutdown, open, handle)).await;
    }

    /// Serves clients with pre-shared keys until `shutdown`.
    pub async fn serve_psk(&self, listener: TcpListener, psk: &PskServer, shutdown: &Shutdown) {
        let (broker, signal) = (self.clone(), shutdown.clone());
        let handle = move |stream, peer: PskPeer| {
            let (broker, signal) = (broker.clone(), signal.clone());
            let address = peer.address;
            let transport = BrokerTransport::WebSocket(Box::new(AnyStream { stream, address }));
            async move { broker.attend(transport, address, Some(peer.proven), &signal).await }
        };
        self.with_upkeep(psk.serve(listener, shutdown, handle)).await;
    }

    /// Closes the connections of a user, which may connect again.
    pub fn close(&self, user: &str) {
        for (_, close) in self.0.seats().get(user).into_iter().flatten() {
            drop(close.send(()));
        }
    }

    /// Publishes to the subscribers of `topic` with `QoS` 1, past the hooks; never retained.
    ///
    /// A client that is away gets it only if it left a persistent session.
    pub async fn publish(&self, topic: &str, payload: Vec<u8>) {
        let publish = PublishPacket::new(topic, payload, QoS::AtLeastOnce);
        self.0.router.route_message(&publish, None).await;
    }

    fn handler(
        &self,
        shutdown: &Shutdown,
    ) -> impl Fn((BrokerTransport, SocketAddr)) -> Pin<Box<dyn Future<Output = ()> + Send>>
    + Clone
    + Send
    + 'static {
        let (broker, shutdown) = (self.clone(), shutdown.clone());
        move |(transport, address)| {
            let (broker, shutdown) = (broker.clone(), shutdown.clone());
            Box::pin(async move { broker.attend(transport, address, None, &shutdown).await })
        }
    }

    /// Serves one client until it goes, is closed, or the broker shuts down.
    async fn attend(
        &self,
        transport: BrokerTransport,
        address: SocketAddr,
        proven: Option<Proven>,
        shutdown: &Shutdown,
    ) {
        let shared = &self.0;
        let (close, closing) = broadcast::channel(1);
        let seat = Arc::new(Seat {
            shared: Arc::clone(shared),
            close: close.clone(),
            proven,
            guest: OnceLock::new(),
        });
        let mut config = shared.config.clone();
        config.event_handler = Some(Arc::clone(&seat) as Arc<dyn BrokerEventHandler>);
        let handler = ClientHandler::new(
            transport,
            address,
            Arc::new(config),
            Arc::clone(&shared.router),
            Arc::clone(&seat) as Arc<dyn AuthProvider>,
            Some(Arc::clone(&shared.storage)),
            Arc::clone(&shared.stats),
            Arc::clone(&shared.monitor),
            closing,
        );
        let overdue = async {
            shutdown.cancelled().await;
            drop(close.send(()));
            if seat.guest.get().is_some() {
                tokio::time::sleep(FAREWELL).await;
            }
        };
        tokio::select! {
            ended = handler.run() => match ended {
                Err(error) if !error.is_normal_disconnect() => {
                    tracing::debug!(%address, %error, "an MQTT connection ended");
                }
                _ => {}
            },
            () = overdue => tracing::debug!(%address, "an MQTT connection was cut off"),
        }
        seat.leave();
    }

    /// Forgets expired sessions while `serving` goes on.
    async fn with_upkeep(&self, serving: impl Future<Output = ()>) {
        let upkeep = async {
            loop {
                tokio::time::sleep(UPKEEP).await;
                if let Err(error) = self.0.storage.cleanup_expired().await {
                    tracing::warn!(%error, "expired MQTT sessions could not be removed");
                }
                self.0.router.sweep_sessions().await;
            }
        };
        tokio::select! {
            () = serving => {}
            () = upkeep => {}
        }
    }
}

impl<H> Clone for Broker<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H> fmt::Debug for Broker<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

/// One connection's place: it connects the broker's questions with the hooks.
struct Seat<H> {
    shared: Arc<Shared<H>>,
    close: broadcast::Sender<()>,
    // What the connection has proven below MQTT.
    proven: Option<Proven>,
    // Set at log-in.
    guest: OnceLock<Guest>,
}

struct Guest {
    user: String,
    version: u8,
    serial: u64,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

impl<H: BrokerHooks> Seat<H> {
    async fn admit(&self, connect: &ConnectPacket) -> bool {
        let (Some(user), Some(password)) = (&connect.username, &connect.password) else {
            return false;
        };
        let hooks = &self.shared.hooks;
        let proven = self.proven.as_ref();
        let log_in = LogIn { client_id: &connect.client_id, user, password, proven };
        let admitted = hooks.authenticate(log_in).await
            // The last will goes past `on_client_publish`.
            && connect.will.as_ref().is_none_or(|will| hooks.may_publish(user, &will.topic));
        let serial = SERIAL.fetch_add(1, Relaxed);
        let guest = Guest { user: user.clone(), version: connect.protocol_version, serial };
        if !admitted || self.guest.set(guest).is_err() {
            return false;
        }
        self.shared.seats().entry(user.clone()).or_default().push((serial, self.close.clone()));
        true
    }

    /// Gives the place up.
    fn leave(&self) {
        let Some(Guest { user, serial, .. }) = self.guest.get() else { return };
        let is_last = {
            let mut seats = self.shared.seats();
            let Some(of_user) = seats.get_mut(user) else { return };
            of_user.retain(|(other, _)| other != serial);
            of_user.is_empty() && seats.remove(user).is_some()
        };
        if is_last {
            self.shared.hooks.handle_detached(user);
        }
    }

    async fn commit(&self, event: ClientPublishEvent) -> Result<(), Refused> {
        let guest = self.guest.get().ok_or(Refused)?;
        if !self.shared.hooks.may_publish(&guest.user, &event.topic) {
            return Err(Refused);
        }
        self.shared.hooks.handle_publish(&guest.user, &event.topic, event.payload).await
    }
}

impl<H: BrokerHooks> AuthProvider for Seat<H> {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        address: SocketAddr,
    ) -> Boxed<'a, mqtt5::error::Result<AuthResult>> {
        Box::pin(async move {
            if self.admit(connect).await {
                let user = connect.username.clone().unwrap_or_default();
                return Ok(AuthResult::success_with_user(user));
            }
            let (user, client_id) = (&connect.username, &connect.client_id);
            tracing::info!(%address, ?user, client_id, "an MQTT log-in was refused");
            Ok(AuthResult::fail(ReasonCode::NotAuthorized))
        })
    }

    fn authorize_publish<'a>(
        &'a self,
        _client_id: &str,
        _user: Option<&'a str>,
        topic: &'a str,
    ) -> Boxed<'a, bool> {
        // MQTT 3.1.1 cannot say no in an acknowledgement: there, `commit` refuses.
        let allowed = self.guest.get().is_some_and(|guest| {
            guest.version < 5 || self.shared.hooks.may_publish(&guest.user, topic)
        });
        Box::pin(std::future::ready(allowed))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user: Option<&'a str>,
        filter: &'a str,
    ) -> Boxed<'a, bool> {
        let guest = self.guest.get();
        let allowed =
            guest.is_some_and(|guest| self.shared.hooks.may_subscribe(&guest.user, filter));
        Box::pin(std::future::ready(allowed))
    }
}

impl<H: BrokerHooks> BrokerEventHandler for Seat<H> {
    fn on_client_publish<'a>(&'a self, event: ClientPublishEvent) -> Boxed<'a, PublishAction> {
        Box::pin(async move {
            let topic = Arc::clone(&event.topic);
            if self.commit(event).await.is_ok() {
                return PublishAction::Continue;
            }
            let user = self.guest.get().map(|guest| &guest.user);
            tracing::info!(?user, %topic, "an MQTT message was refused, its connection is closed");
            drop(self.close.send(()));
            // QoS 0 to a topic that nobody can subscribe: no acknowledgement, no delivery.
            PublishAction::Transform(PublishPacket::new(NOWHERE, Bytes::new(), QoS::AtMostOnce))
        })
    }

    fn on_client_connect<'a>(&'a self, event: ClientConnectEvent) -> Boxed<'a, ()> {
        if let (Some(guest), false) = (self.guest.get(), event.clean_start) {
            self.shared.hooks.handle_attached(&guest.user);
        }
        Box::pin(std::future::ready(()))
    }

    fn on_client_subscribe<'a>(&'a self, _event: ClientSubscribeEvent) -> Boxed<'a, ()> {
        if let Some(guest) = self.guest.get() {
            self.shared.hooks.handle_attached(&guest.user);
        }
        Box::pin(std::future::ready(()))
    }
}

/// Any stream at all, as the library takes it: for a web socket, the only one of its transports that is not
/// tied to a kind of stream.
struct AnyStream {
    stream: psk::ServerStream,
    address: SocketAddr,
}

impl WebSocketTransport for AnyStream {
    fn peer_addr(&self) -> mqtt5::error::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl AsyncRead for AnyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AnyStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What `mqtt5` shall keep to; its defaults are open to all.
fn config(limits: &Limits) -> BrokerConfig {
    let mut config = BrokerConfig::new()
        .with_max_clients(limits.connections)
        .with_max_packet_size(MAX_PACKET as usize)
        .with_maximum_qos(1)
        .with_session_expiry(SESSION)
        .with_max_subscriptions_per_client(16)
        .with_server_receive_maximum(128)
        .with_client_channel_capacity(256)
        .with_sys_topics_enabled(false);
    config.topic_alias_maximum = 0;
    config.shared_subscription_available = false;
    config
}

/// Connections are counted by our own accept loop.
fn no_limits() -> ResourceLimits {
    ResourceLimits {
        max_connections: usize::MAX,
        max_connections_per_ip: usize::MAX,
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::MAX,
        rate_limit_window: Duration::from_secs(1),
    }
}

/// What waits for a client that is slow or away; the oldest goes first.
const BACKLOG: QueueLimits = QueueLimits { max_messages: 1024, max_bytes: 1 << 20 };

/// A retained `state` is a word.
const MAX_RETAINED: usize = 1024;

/// How long the broker remembers a client that went away.
const SESSION: Duration = Duration::from_secs(24 * 3600);

/// How often expired sessions are removed.
const UPKEEP: Duration = Duration::from_secs(60);

/// How long a connection may go on with its last message after the signal to stop.
const FAREWELL: Duration = Duration::from_secs(3);

const NOWHERE: &str = "$claviger/refused";
