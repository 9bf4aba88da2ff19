//! A subscription that outlives connections and processes: for brokers that are not our own.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use rumqttc::{
    AckMode, AsyncClient, Event, EventLoop, MqttOptions, Packet, PersistedAckMode,
    PersistedSession, Publish, SessionMode, SessionStore, SessionStoreError, SessionStoreKey,
};
use tokio::sync::mpsc;

use super::client::{Access, IN_FLIGHT, Message, PublishError, log_in, subscribe_on};
use super::{ConnectError, Refused};

/// A subscription whose messages wait at the broker while nobody is there to take them.
///
/// A message is acknowledged once it has been taken; until then the broker gives it again, at every
/// connection. Guarantees begin here: what the broker has lost before is lost (`PROTOCOL.md` P3d).
#[derive(Clone, Debug)]
pub struct Subscription {
    access: Access,
    filter: String,
}

impl Subscription {
    /// Names what to receive, and from whom; the client id of `access` is the name of the session.
    #[must_use]
    pub fn new(access: Access, filter: &str) -> Self {
        Self { access, filter: filter.to_owned() }
    }

    /// Receives until it is dropped. `take` is called with the messages in the order in which they came, many at
    /// a time; a refusal ends the connection, and what was not taken comes again.
    pub async fn receive<F>(&self, take: impl Fn(Message) -> F) -> Infallible
    where
        F: Future<Output = Result<(), Refused>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            if let Err(error) = self.receive_once(&take).await {
                let cause: &dyn std::error::Error = &error;
                tracing::warn!(access = ?self.access, cause, "the MQTT subscription waits");
            }
            if began.elapsed() > LAST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
        }
    }

    /// Receives as long as one connection lasts.
    async fn receive_once<F>(&self, take: &impl Fn(Message) -> F) -> Result<(), ConnectError>
    where
        F: Future<Output = Result<(), Refused>>,
    {
        let (requests, mut events) =
            AsyncClient::builder(self.options()).capacity(WINDOW.into()).build();
        log_in(&mut events).await?;
        tracing::info!(access = ?self.access, filter = self.filter, "subscribing");
        let (messages, inbox) = mpsc::channel(INBOX);
        tokio::select! {
            () = pump(&mut events, &messages) => Ok(()),
            () = self.take_all(&requests, inbox, take) => Ok(()),
        }
    }

    fn options(&self) -> MqttOptions {
        let mut options = self.access.options();
        options.set_session_mode(SessionMode::Persistent);
        options.set_session_expiry_interval(Some(KEPT_S));
        options.set_session_store(Receiving);
        options.set_ack_mode(AckMode::Manual);
        options.set_receive_maximum(Some(WINDOW));
        options
    }

    /// Takes messages and acknowledges them, in their order (MQTT 5 §4.6), until one is refused.
    async fn take_all<F>(
        &self,
        requests: &AsyncClient,
        mut inbox: mpsc::Receiver<Publish>,
        take: &impl Fn(Message) -> F,
    ) where
        F: Future<Output = Result<(), Refused>>,
    {
        // What waits in the session comes before the broker has answered.
        let mut subscribing = std::pin::pin!(subscribe_on(requests, &self.filter));
        let (mut is_subscribed, mut under_way) = (false, FuturesOrdered::new());
        loop {
            tokio::select! {
                subscribed = &mut subscribing, if !is_subscribed => match subscribed {
                    Ok(()) => is_subscribed = true,
                    Err(PublishError::NotSubscribed) => {
                        let (access, filter) = (&self.access, &self.filter);
                        tracing::warn!(?access, filter, "refused: look at the broker's access list");
                        return;
                    }
                    Err(_) => return,
                },
                Some(publish) = inbox.recv(), if under_way.len() < WINDOW.into() => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let message = Message { topic, payload: publish.payload.clone() };
                    let taking = take(message);
                    under_way.push_back(async move { (taking.await, publish) });
                }
                Some((taken, publish)) = under_way.next() => {
                    if taken.is_err() || requests.ack(&publish).await.is_err() {
                        return;
                    }
                }
                else => return,
            }
        }
    }
}

/// What this side knows of a session over which it only receives, with `QoS` 1: nothing that it would have to
/// keep, since what it has not acknowledged comes again. The library resumes a session of the broker only if
/// somebody says so.
#[derive(Debug)]
struct Receiving;

type Kept<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

impl SessionStore for Receiving {
    fn load<'a>(&'a self, key: &'a SessionStoreKey) -> Kept<'a, Option<PersistedSession>> {
        let session = PersistedSession {
            format_version: 1,
            client_id: key.client_id().to_owned(),
            clean_start: false,
            session_expiry_interval: Some(KEPT_S),
            outgoing_inflight_upper_limit: Some(IN_FLIGHT),
            ack_mode: PersistedAckMode::Manual,
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        };
        Box::pin(std::future::ready(Ok(Some(session))))
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Kept<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Kept<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Carries one connection until its end.
async fn pump(events: &mut EventLoop, messages: &mpsc::Sender<Publish>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                // Never waiting here: acknowledgements go out by the same loop.
                if messages.try_send(publish).is_err() {
                    tracing::warn!("the MQTT broker sends more at once than it was asked to");
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "an MQTT subscription ended");
                return;
            }
        }
    }
}

/// Messages that may lie here unread: more than any broker sends that was told of the window.
const INBOX: usize = 4096;
/// Messages under way at once.
const WINDOW: u16 = 64;
/// How long a broker shall keep the session of a site that is away: a week, in seconds.
const KEPT_S: u32 = 7 * 24 * 3600;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);
