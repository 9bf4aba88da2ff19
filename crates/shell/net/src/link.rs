//! A link carries frames between two named parties, over whatever connection there is now.
//!
//! Frames arrive in order and whole. A frame may be lost only with its connection, and the loss
//! of a connection is always told: it is the business of the records above (`PROTOCOL.md`,
//! Records) to repeat. Whoever sends names the connection it means by its [`Generation`], so that
//! nothing said on an old connection slips into a new one.
//!
//! On the wire (ours): both ends greet with eight bytes, then each frame is a 32-bit big-endian
//! length and that many bytes; a frame of length 0 is a sign of life, sent every 3 s.

mod pump;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use claviger_units::SaeId;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::accept::{Guard, Limits};
use crate::shutdown::Shutdown;
use crate::tls;

/// The longest frame in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// The number of a connection of one link, rising from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

/// What happens on a link.
#[derive(PartialEq, Eq)]
pub enum LinkEvent {
    /// A connection stands; what is sent from now on names its generation.
    Connected(Generation),
    /// The peer sent a frame on this connection.
    Frame(Vec<u8>),
    /// The connection is lost.
    Disconnected,
}

impl fmt::Debug for LinkEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(Generation(n)) => write!(f, "Connected({n})"),
            Self::Frame(frame) => write!(f, "Frame(.. {} bytes)", frame.len()),
            Self::Disconnected => f.write_str("Disconnected"),
        }
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection it was meant for is gone: drop the frame and wait for the next connection.
    #[error("the connection that the frame was meant for is gone")]
    Stale,
    /// A frame has 1 byte to 1 MiB: split it.
    #[error("a frame of {length} bytes does not fit; it has 1 to {MAX_FRAME}")]
    Unfit {
        /// The length.
        length: usize,
    },
}

/// A name that the other end of a TLS link cannot prove.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{peer}` cannot name the other end of a link: use letters, digits, hyphens and dots")]
pub struct PeerNameError {
    /// The name.
    pub peer: SaeId,
}

/// One end of a link. Dropping it closes the connection and the listener.
#[derive(Debug)]
pub struct Link {
    events: mpsc::Receiver<LinkEvent>,
    sender: LinkSender,
    _tasks: JoinSet<()>,
}

impl Link {
    /// Waits for the next event; may be dropped and called again without loss.
    ///
    /// A role that stops listening for 30 s loses the connection, so never wait for [`LinkSender`]
    /// alone, wait for both in one `select!`.
    pub async fn next(&mut self) -> LinkEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Returns the next event if it has come already.
    pub fn try_next(&mut self) -> Option<LinkEvent> {
        self.events.try_recv().ok()
    }

    /// Closes the present connection, as after a peer that broke the protocol; it is told like any
    /// other loss, and a fresh connection may follow.
    pub fn hang_up(&self) {
        self.sender.replace(None);
    }

    /// Returns the way to send.
    #[must_use]
    pub fn sender(&self) -> LinkSender {
        self.sender.clone()
    }
}

/// The sending side of a link, for any number of holders.
#[derive(Clone, Debug, Default)]
pub struct LinkSender(Arc<Mutex<Option<Current>>>);

impl LinkSender {
    /// Sends a frame on the connection `generation`; waits while 32 frames wait already.
    pub async fn send(&self, generation: Generation, frame: Vec<u8>) -> Result<(), SendError> {
        self.reserve(generation).await?.send(frame)
    }

    /// Waits until a frame will be taken; made for `select!`.
    pub async fn reserve(&self, generation: Generation) -> Result<Permit, SendError> {
        let current = self.lock().clone();
        let current = current.filter(|c| c.generation == generation).ok_or(SendError::Stale)?;
        current.queue.reserve_owned().await.map(Permit).or(Err(SendError::Stale))
    }

    fn replace(&self, current: Option<Current>) {
        *self.lock() = current;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to send one frame at once.
#[derive(Debug)]
pub struct Permit(mpsc::OwnedPermit<Vec<u8>>);

impl Permit {
    /// Sends the frame; it is lost if the connection is.
    pub fn send(self, frame: Vec<u8>) -> Result<(), SendError> {
        match frame.len() {
            1..=MAX_FRAME => drop(self.0.send(frame)),
            length => return Err(SendError::Unfit { length }),
        }
        Ok(())
    }
}

/// Waits for the party `peer`, proved by its certificate; its newest connection counts.
#[must_use]
pub fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>, peer: SaeId) -> Link {
    let name = peer.to_string();
    let open = move |stream, address| {
        let (config, peer) = (Arc::clone(&config), peer.clone());
        async move {
            let (stream, info) = tls::handshake(config, stream, address).await?;
            tls::expect_name(info.name.as_ref(), &peer)?;
            greet_back(stream).await
        }
    };
    serve(listener, name, Timing::STANDARD, Arrival::Supersedes, open)
}

/// Waits for a peer without TLS: for a channel that proves itself, or that stays on this machine.
///
/// The present connection counts until it ends: anybody can connect, and must not displace a peer
/// that has proved itself above.
#[must_use]
pub fn serve_plain(listener: TcpListener, name: &str) -> Link {
    let open = |stream, _| greet_back(stream);
    serve(listener, name.into(), Timing::STANDARD, Arrival::Waits, open)
}

/// Connects to the party `peer` at `address` (`host:port`), again and again.
///
/// Its certificate has to carry the name twice: as the common name and as a DNS name.
pub fn dial_tls(
    address: &str,
    config: Arc<ClientConfig>,
    peer: &SaeId,
) -> Result<Link, PeerNameError> {
    ServerName::try_from(peer.as_str()).or(Err(PeerNameError { peer: peer.clone() }))?;
    let (address, expected) = (address.to_owned(), peer.clone());
    let open = move || {
        let (config, address, expected) = (Arc::clone(&config), address.clone(), expected.clone());
        async move { greet(tls::connect(&address, config, &expected).await?).await }
    };
    Ok(dial(peer.to_string(), Timing::STANDARD, open))
}

/// Connects to `address` without TLS, again and again; see [`serve_plain`].
#[must_use]
pub fn dial_plain(address: &str, name: &str) -> Link {
    let address = address.to_owned();
    dial(name.into(), Timing::STANDARD, move || {
        let address = address.clone();
        async move { greet(connect(&address).await?).await }
    })
}

/// The connection that stands now.
#[derive(Clone, Debug)]
struct Current {
    generation: Generation,
    queue: mpsc::Sender<Vec<u8>>,
}

/// How long a link waits for what; tests wait less.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// A sign of life is sent so often,
    ping: Duration,
    /// and a peer that was silent for so long is dead.
    silence: Duration,
    /// The role has to take an event within this time, or both ends might wait for ever.
    deaf: Duration,
    /// First and longest pause before connecting again.
    pauses: (Duration, Duration),
    /// A connection that stood so long makes the next pause the first again.
    steady: Duration,
}

impl Timing {
    const STANDARD: Self = Self {
        ping: Duration::from_secs(3),
        silence: Duration::from_secs(10),
        deaf: Duration::from_secs(30),
        pauses: (Duration::from_millis(100), Duration::from_secs(5)),
        steady: Duration::from_secs(5),
    };
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The lasting part of one end: where events go, and which connection counts.
struct Carrier {
    name: String,
    timing: Timing,
    events: mpsc::Sender<LinkEvent>,
    sender: LinkSender,
    generation: Generation,
}

impl Carrier {
    /// Announces a connection and returns the queue of what is to be sent on it.
    async fn begin(&mut self) -> mpsc::Receiver<Vec<u8>> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        self.generation = Generation(self.generation.0 + 1);
        self.sender.replace(Some(Current { generation: self.generation, queue }));
        tracing::info!(link = self.name, "connected");
        self.tell(LinkEvent::Connected(self.generation)).await;
        waiting
    }

    /// Announces that the connection is gone.
    async fn end(&mut self, cause: &str) {
        self.sender.replace(None);
        tracing::info!(link = self.name, cause, "disconnected");
        self.tell(LinkEvent::Disconnected).await;
    }

    async fn tell(&self, event: LinkEvent) {
        // Without a receiver the link was dropped, and this task is about to end.
        self.events.send(event).await.ok();
    }
}

fn start<F: Future<Output = ()> + Send + 'static>(
    name: String,
    timing: Timing,
    run: impl FnOnce(Carrier) -> F,
) -> Link {
    let (events, receiver) = mpsc::channel(QUEUE);
    let sender = LinkSender::default();
    let carrier =
        Carrier { name, timing, events, sender: sender.clone(), generation: Generation(0) };
    let mut tasks = JoinSet::new();
    tasks.spawn(run(carrier));
    Link { events: receiver, sender, _tasks: tasks }
}

/// What a connection does that arrives while another one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// It takes the other's place: the peer is proved by its certificate and has connected anew.
    Supersedes,
    /// It is closed.
    Waits,
}

fn serve<S, O, OF>(
    listener: TcpListener,
    name: String,
    timing: Timing,
    arrival: Arrival,
    open: O,
) -> Link
where
    O: Fn(TcpStream, std::net::SocketAddr) -> OF + Send + Sync + 'static,
    OF: Future<Output = io::Result<S>> + Send + 'static,
    S: Stream + 'static,
{
    start(name, timing, async move |carrier| {
        let (arrivals, arrived) = mpsc::channel(1);
        let handle = move |stream: S| {
            let arrivals = arrivals.clone();
            async move { drop(arrivals.send(stream).await) }
        };
        let (guard, never) = (Guard::new(Limits::STANDARD), Shutdown::new());
        let carried = carry(carrier, arrived, arrival);
        tokio::join!(guard.serve(listener, &never, open, handle), carried);
    })
}

async fn carry<S: Stream>(mut carrier: Carrier, mut arrived: mpsc::Receiver<S>, arrival: Arrival) {
    let mut next = arrived.recv().await;
    while let Some(stream) = next {
        let queue = carrier.begin().await;
        let (cause, superseding) = {
            let mut run = std::pin::pin!(pump::run(stream, queue, &carrier.events, carrier.timing));
            loop {
                tokio::select! {
                    cause = &mut run => break (cause, None),
                    Some(newer) = arrived.recv() => {
                        if arrival == Arrival::Supersedes {
                            break (pump::End::Superseded, Some(newer));
                        }
                        tracing::warn!(link = carrier.name, "a second connection was closed");
                    }
                }
            }
        };
        carrier.end(&cause.to_string()).await;
        next = match superseding {
            Some(stream) => Some(stream),
            None => arrived.recv().await,
        };
    }
}

fn dial<S, O, OF>(name: String, timing: Timing, open: O) -> Link
where
    O: Fn() -> OF + Send + 'static,
    OF: Future<Output = io::Result<S>> + Send + 'static,
    S: Stream + 'static,
{
    start(name, timing, async move |mut carrier| {
        let (first, longest) = timing.pauses;
        let mut pause = first;
        let mut told = String::new();
        loop {
            match tokio::time::timeout(Limits::STANDARD.opening, open()).await {
                Ok(Ok(stream)) => {
                    let queue = carrier.begin().await;
                    let since = Instant::now();
                    let cause = pump::run(stream, queue, &carrier.events, timing).await;
                    carrier.end(&cause.to_string()).await;
                    told.clear();
                    if since.elapsed() >= timing.steady {
                        pause = first;
                    }
                }
                Ok(Err(error)) => tell_once(&mut told, &carrier.name, error.to_string()),
                Err(late) => tell_once(&mut told, &carrier.name, late.to_string()),
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = longest.min(pause * 2);
        }
    })
}

/// Tells why there is no connection, but not the same thing at each attempt.
fn tell_once(told: &mut String, link: &str, cause: String) {
    if *told != cause {
        tracing::info!(link, cause, "not connected, trying on");
        *told = cause;
    }
}

/// Half to all of the pause, so that many who lost the same server do not return at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [255];
    // Without randomness there is just no jitter.
    tls::provider().secure_random.fill(&mut random).ok();
    pause.mul_f64(0.5 + f64::from(random[0]) / 510.0)
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Greets and waits for the answer: only then does the other end count as present.
async fn greet<S: Stream>(mut stream: S) -> io::Result<S> {
    stream.write_all(GREETING).await?;
    stream.flush().await?;
    hear_greeting(&mut stream).await?;
    Ok(stream)
}

/// Waits for the greeting and answers it, so that a silent or garbled caller changes nothing.
async fn greet_back<S: Stream>(mut stream: S) -> io::Result<S> {
    hear_greeting(&mut stream).await?;
    stream.write_all(GREETING).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn hear_greeting(stream: &mut impl Stream) -> io::Result<()> {
    let mut heard = [0; GREETING.len()];
    stream.read_exact(&mut heard).await?;
    if heard == *GREETING {
        return Ok(());
    }
    Err(io::Error::other("the other end does not speak this protocol"))
}

const GREETING: &[u8; 8] = b"claviger";
const QUEUE: usize = 32;

#[cfg(test)]
mod tests;
