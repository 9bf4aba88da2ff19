//! The client: one connection, every publication awaited; and a forwarder that reconnects.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet,
    PubAckReason, PublishOptions, PublishResult, QoS, SubscribeNoticeError, TlsConfiguration,
    Transport,
};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};

use super::MAX_PACKET;
use crate::meter::{Meter, Metered};
use crate::psk::{self, Credentials, Keying};

/// How to reach a broker, and as whom.
#[derive(Clone)]
pub struct Access {
    host: String,
    port: u16,
    transport: Secured,
    meter: Option<Meter>,
    client_id: String,
    user: String,
    password: String,
}

/// What is between TCP and MQTT.
#[derive(Clone)]
enum Secured {
    Plain,
    Certificate(Arc<ClientConfig>),
    PreShared(SocketAddr, Keying, Arc<Credentials>),
}

impl Access {
    /// A broker in clear; for loopback.
    #[must_use]
    pub fn plain(host: &str, port: u16, client_id: &str, user: &str, password: &str) -> Self {
        Self {
            host: host.to_owned(),
            port,
            transport: Secured::Plain,
            meter: None,
            client_id: client_id.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// The same user with another session beside the first: its name ends with `part`.
    #[must_use]
    pub fn named_apart(self, part: &str) -> Self {
        Self { client_id: format!("{}-{part}", self.client_id), ..self }
    }

    /// The same broker over TLS; `host` must be a name in its certificate.
    #[must_use]
    pub fn over_tls(self, tls: Arc<ClientConfig>) -> Self {
        Self { transport: Secured::Certificate(tls), ..self }
    }

    /// The same broker at `address` over TLS with a pre-shared key, which proves both ends.
    #[must_use]
    pub fn over_psk(self, address: SocketAddr, keying: Keying, shown: Arc<Credentials>) -> Self {
        Self { transport: Secured::PreShared(address, keying, shown), ..self }
    }

    /// Counts all that goes over the wire.
    #[must_use]
    pub fn metered(self, meter: Meter) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Returns how the library shall connect, for a session that ends with its connection.
    pub(super) fn options(&self) -> MqttOptions {
        let mut options = MqttOptions::new(self.client_id.clone(), (self.host.clone(), self.port));
        options.set_credentials(self.user.clone(), self.password.clone());
        options.set_keep_alive(KEEP_ALIVE_S).set_connect_timeout(CONNECT);
        options.set_max_packet_size(Some(MAX_PACKET));
        // A session ends with its connection; a broker may keep one for long that does not say so.
        options.set_session_expiry_interval(Some(0));
        // The library keeps a place for each message that may be under way: without this for 65 535.
        options.set_outgoing_inflight_upper_limit(IN_FLIGHT);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        self.dial(&mut options);
        options
    }

    fn dial(&self, options: &mut MqttOptions) {
        let meter = self.meter.clone().unwrap_or_default();
        match &self.transport {
            Secured::PreShared(address, keying, shown) => {
                let (address, keying, shown) = (*address, *keying, Arc::clone(shown));
                options.set_socket_connector(move |_, _| {
                    let (shown, meter) = (Arc::clone(&shown), meter.clone());
                    async move { psk::connect(address, keying, &shown, meter).await }
                });
                return;
            }
            Secured::Certificate(tls) => {
                let tls = TlsConfiguration::Rustls(Arc::clone(tls));
                options.set_transport(Transport::tls_with_config(tls));
            }
            Secured::Plain => {}
        }
        if self.meter.is_some() {
            options.set_socket_connector(move |host, _| connect_metered(host, meter.clone()));
        }
    }
}

async fn connect_metered(host: String, meter: Meter) -> io::Result<Metered<TcpStream>> {
    let stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    Ok(Metered::new(stream, meter))
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} at {}:{})", self.user, self.host, self.port)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The broker refuses this client: check its user and password.
    #[error("the MQTT broker refuses the log-in ({0:?}): check the user and the password")]
    Refused(ConnectReturnCode),
    /// The broker cannot be reached, or does not speak MQTT: try again later.
    #[error("the MQTT broker cannot be reached")]
    Unreachable(#[source] Box<ConnectionError>),
}

/// Why a message is not known to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker can never take this message: give it up.
    #[error("the MQTT broker refuses the message for good ({0:?})")]
    Refused(PubAckReason),
    /// The broker does not take the message now: look at its access list and its quota, and try
    /// again later.
    #[error("the MQTT broker does not take the message now ({0:?}): check its access list")]
    NotNow(PubAckReason),
    /// The broker does not let this user subscribe.
    #[error("the MQTT broker refuses the subscription")]
    NotSubscribed,
    /// The message is none: it is too long, or its topic is empty or has wildcards.
    #[error("the MQTT message is too long, or its topic is invalid")]
    Invalid,
    /// The connection ended before the acknowledgement: connect and publish again.
    #[error("the MQTT connection ended before the acknowledgement")]
    Lost,
}

/// A message from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Bytes,
}

/// One connection to a broker, for as long as it lasts; dropping it closes it.
#[derive(Debug)]
pub struct Client {
    requests: AsyncClient,
    alive: watch::Receiver<()>,
}

/// The messages that arrive on a connection.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Message>);

impl Inbox {
    /// Returns the next message, `None` once the connection has ended.
    pub async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }

    /// Returns a message that has arrived already.
    pub fn try_next(&mut self) -> Option<Message> {
        self.0.try_recv().ok()
    }
}

impl Client {
    /// Connects and logs in, with a new session.
    pub async fn connect(access: &Access) -> Result<(Self, Inbox), ConnectError> {
        let (requests, mut events) =
            AsyncClient::builder(access.options()).capacity(IN_FLIGHT.into()).build();
        log_in(&mut events).await?;
        let (messages, inbox) = mpsc::channel(INBOX);
        let (life, alive) = watch::channel(());
        tokio::spawn(async move {
            pump(&mut events, &messages).await;
            drop(life);
        });
        Ok((Self { requests, alive }, Inbox(inbox)))
    }

    /// Subscribes with `QoS` 1 and waits for the broker's word.
    pub async fn subscribe(&self, filter: &str) -> Result<(), PublishError> {
        subscribe_on(&self.requests, filter).await
    }

    /// Publishes with `QoS` 1; `Ok` means that the broker has committed it.
    ///
    /// Calls may run side by side; each waits for its own acknowledgement.
    pub async fn publish(&self, topic: &str, payload: Bytes) -> Result<(), PublishError> {
        self.publish_as(topic, payload, PublishOptions::at_least_once()).await.map(drop)
    }

    async fn publish_as(
        &self,
        topic: &str,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Taken, PublishError> {
        if payload.len() + topic.len() + OVERHEAD > MAX_PACKET as usize {
            return Err(PublishError::Invalid);
        }
        let sent = self.requests.publish_tracked(topic, payload, options).await;
        match sent.map_err(|error| invalid_or_lost(&error))?.wait_async().await {
            Ok(PublishResult::Qos1(answer)) => taken(answer.reason),
            Ok(_) => Ok(Taken::ForSomebody),
            Err(_) => Err(PublishError::Lost),
        }
    }

    /// Says good-bye and waits until the connection is closed.
    pub async fn disconnect(mut self) {
        if self.requests.disconnect_with_timeout(GOOD_BYE).await.is_ok() {
            drop(tokio::time::timeout(2 * GOOD_BYE, self.alive.changed()).await);
        }
    }

    /// Tells whether the connection still stands.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.has_changed().is_ok()
    }
}

/// Waits until the broker has let this client in.
pub(super) async fn log_in(events: &mut EventLoop) -> Result<(), ConnectError> {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => return Ok(()),
            Ok(_) => {}
            Err(ConnectionError::ConnectionRefused(code)) => {
                return Err(ConnectError::Refused(code));
            }
            Err(error) => return Err(ConnectError::Unreachable(Box::new(error))),
        }
    }
}

/// Subscribes with `QoS` 1 and waits for the broker's word.
pub(super) async fn subscribe_on(requests: &AsyncClient, filter: &str) -> Result<(), PublishError> {
    let asked = requests.subscribe_tracked(filter, QoS::AtLeastOnce).await;
    match asked.map_err(|error| invalid_or_lost(&error))?.wait_completion_async().await {
        Ok(_) => Ok(()),
        Err(SubscribeNoticeError::V5SubAckFailure(_)) => Err(PublishError::NotSubscribed),
        Err(_) => Err(PublishError::Lost),
    }
}

/// Carries one connection until its end; what is unacknowledged then is lost.
async fn pump(events: &mut EventLoop, messages: &mpsc::Sender<Message>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                let message = Message { topic, payload: publish.payload };
                // Nobody reads: the messages of this user can wait for the next connection.
                if let Err(mpsc::error::TrySendError::Full(message)) = messages.try_send(message) {
                    tracing::warn!(topic = message.topic, "an unread MQTT message is dropped");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "an MQTT connection ended");
                return;
            }
        }
    }
}

/// Whether somebody was there for a message that a broker has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    ForSomebody,
    /// Nobody is subscribed, so the broker has dropped it.
    ForNobody,
}

const fn taken(reason: PubAckReason) -> Result<Taken, PublishError> {
    match reason {
        PubAckReason::Success => Ok(Taken::ForSomebody),
        PubAckReason::NoMatchingSubscribers => Ok(Taken::ForNobody),
        _ => Err(refusal(reason)),
    }
}

/// Tells what lies in the message itself from what an operator may mend, or what passes.
const fn refusal(reason: PubAckReason) -> PublishError {
    match reason {
        PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
            PublishError::Refused(reason)
        }
        PubAckReason::Success
        | PubAckReason::NoMatchingSubscribers
        | PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::NotAuthorized
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded => PublishError::NotNow(reason),
    }
}

fn invalid_or_lost(error: &rumqttc::ClientError) -> PublishError {
    match error {
        rumqttc::ClientError::InvalidRequest(_) => PublishError::Invalid,
        _ => PublishError::Lost,
    }
}

/// A sender that reconnects until every message is acknowledged.
///
/// It holds nothing durable: whoever calls it keeps the message until `Ok`.
#[derive(Debug)]
pub struct Forwarder {
    access: Access,
    current: Mutex<Option<Arc<Client>>>,
    connected: watch::Sender<bool>,
    needs_subscriber: bool,
}

impl Forwarder {
    /// Makes a forwarder; it connects with the first message.
    #[must_use]
    pub fn new(access: Access) -> Self {
        let (current, connected) = (Mutex::new(None), watch::Sender::new(false));
        Self { access, current, connected, needs_subscriber: false }
    }

    /// Counts a message that the broker takes for nobody as not taken, so that it is kept: for brokers that only
    /// hand on.
    #[must_use]
    pub fn for_a_subscriber(self) -> Self {
        Self { needs_subscriber: true, ..self }
    }

    /// Publishes with `QoS` 1, again after every lost connection, until the broker has committed
    /// or refused the message.
    ///
    /// Calls may run side by side; dropping one gives its message up.
    pub async fn deliver(&self, topic: &str, payload: Bytes) -> Result<(), PublishError> {
        let taken = self.deliver_as(topic, payload, PublishOptions::at_least_once()).await?;
        if taken == Taken::ForNobody && self.needs_subscriber {
            return Err(PublishError::NotNow(PubAckReason::NoMatchingSubscribers));
        }
        Ok(())
    }

    /// As [`deliver`](Self::deliver); the broker keeps the message for whoever subscribes later, in place of the
    /// one before, and an empty one takes its place away.
    pub async fn retain(&self, topic: &str, payload: Bytes) -> Result<(), PublishError> {
        let options = PublishOptions::at_least_once().retained();
        self.deliver_as(topic, payload, options).await.map(drop)
    }

    async fn deliver_as(
        &self,
        topic: &str,
        payload: Bytes,
        options: PublishOptions,
    ) -> Result<Taken, PublishError> {
        loop {
            let client = self.client().await;
            match client.publish_as(topic, payload.clone(), options.clone()).await {
                Err(PublishError::Lost) => {
                    self.connected.send_replace(false);
                    // A broker that accepts the log-in and then closes must not be hammered.
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                settled => return settled,
            }
        }
    }

    /// Tells whether the last message found a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Returns the standing connection, or makes one, however long that takes.
    async fn client(&self) -> Arc<Client> {
        let mut current = self.current.lock().await;
        if let Some(client) = current.as_ref().filter(|client| client.is_alive()) {
            return Arc::clone(client);
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match Client::connect(&self.access).await {
                Ok((client, _inbox)) => {
                    tracing::info!(access = ?self.access, "the MQTT forwarder is connected");
                    self.connected.send_replace(true);
                    return Arc::clone(current.insert(Arc::new(client)));
                }
                Err(error) => {
                    self.connected.send_replace(false);
                    let cause: &dyn std::error::Error = &error;
                    tracing::warn!(access = ?self.access, cause, "the MQTT forwarder waits");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
        }
    }
}

const KEEP_ALIVE_S: u16 = 30;
const CONNECT: Duration = Duration::from_secs(5);
const GOOD_BYE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Publications on their way on one connection.
pub(super) const IN_FLIGHT: u16 = 128;

/// Messages that a slow reader may leave lying.
const INBOX: usize = 64;

/// What a PUBLISH adds to topic and payload: header, lengths, packet id, properties.
const OVERHEAD: usize = 12;
