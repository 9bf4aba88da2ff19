//! TLS with pre-shared keys: no certificate, and with the right version no public-key work either.
//!
//! OpenSSL, since `rustls` has no external pre-shared keys. The server looks every key up while the
//! handshake waits, and keeps none: a stranger goes on with a random key and fails at its proof, so that
//! nobody learns from the outside which identities there are. There are no tickets and no resumption.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use claviger_units::Key256;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_openssl::SslStream;

use crate::accept::{Counts, Guard, Limits};
use crate::meter::{Meter, Metered};
use crate::shutdown::Shutdown;

/// Finds the key of an identity for the version that is negotiated, where there is one. It is called in the
/// middle of a handshake, on the thread of a connection, and may wait for a store, but for nothing slower;
/// while [`MOST_LOOKUPS`] are under way, one more handshake goes on as a stranger's.
pub type Lookup = Arc<dyn Fn(&str, Version) -> Option<Key256> + Send + Sync>;

/// A server that knows its clients by pre-shared keys, behind the accept loop of [`Guard`].
///
/// TLS 1.3 and 1.2. Whoever offers TLS 1.3 without ephemeral keys gets it; who insists on them gets them.
#[derive(Clone)]
pub struct PskServer {
    context: SslContext,
    guard: Guard,
}

impl std::fmt::Debug for PskServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PskServer").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// The stream of an accepted connection.
pub type ServerStream = SslStream<TcpStream>;

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug)]
pub struct PskPeer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Whom it has proven to be.
    pub proven: Proven,
    /// The version that was negotiated.
    pub version: Version,
}

/// What a handshake has proven. An identity may get another key while the connection stands: whoever acts
/// on it later compares the key too.
#[derive(Clone, Debug)]
pub struct Proven {
    /// The identity.
    pub identity: Arc<str>,
    /// The key that its holder has used.
    pub key: Arc<Key256>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Version {
    fn of(ssl: &SslRef) -> Option<Self> {
        match ssl.version2() {
            Some(SslVersion::TLS1_2) => Some(Self::Tls12),
            Some(SslVersion::TLS1_3) => Some(Self::Tls13),
            _ => None,
        }
    }
}

impl PskServer {
    /// Joins a look-up with limits; clones share the counters.
    pub fn new(lookup: Lookup, limits: Limits) -> io::Result<Self> {
        let mut builder = base(SslMethod::tls_server())?;
        builder.set_options(SslOptions::CIPHER_SERVER_PREFERENCE | without_ephemeral_keys());
        builder.set_num_tickets(0)?;
        let places = Semaphore::new(MOST_LOOKUPS);
        builder.set_psk_server_callback(move |ssl, identity, key| {
            let identity = identity.and_then(|bytes| std::str::from_utf8(bytes).ok());
            let asked = identity.zip(Version::of(ssl));
            let proven = asked.and_then(|(identity, version)| {
                let _place = places.try_acquire().ok()?;
                let found = blocking(|| lookup(identity, version))?;
                Some(Proven { identity: identity.into(), key: Arc::new(found) })
            });
            let written = write_key(proven.as_ref().map(|proven| &*proven.key), key);
            ssl.set_ex_data(*PEER, proven);
            written
        });
        Ok(Self { context: builder.build(), guard: Guard::new(limits) })
    }

    /// Returns what was seen so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.guard.counts()
    }

    /// Serves connections until `shutdown`, then waits for the open ones.
    ///
    /// `handle` watches `shutdown` itself. Dropping the future closes everything.
    pub async fn serve<H, F>(&self, listener: TcpListener, shutdown: &Shutdown, handle: H)
    where
        H: Fn(ServerStream, PskPeer) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let open = |stream, address| accept(self.context.clone(), stream, address);
        let handle = move |(stream, peer)| handle(stream, peer);
        self.guard.serve(listener, shutdown, open, handle).await;
    }
}

async fn accept(
    context: SslContext,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<(ServerStream, PskPeer)> {
    let ssl = Ssl::new(&context)?;
    let mut stream = SslStream::new(ssl, stream)?;
    Pin::new(&mut stream).accept().await.map_err(io::Error::other)?;
    let proven = stream.ssl().ex_data(*PEER).cloned().flatten();
    let proven = proven.ok_or_else(|| io::Error::other("no pre-shared key was proven"))?;
    let version = Version::of(stream.ssl()).ok_or_else(|| io::Error::other("unknown version"))?;
    Ok((stream, PskPeer { address, proven, version }))
}

/// Lets other connections go on, on other threads, while `work` waits for the store.
fn blocking<R>(work: impl FnOnce() -> R) -> R {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// How a client keys its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keying {
    /// TLS 1.2 with the pre-shared key alone.
    Tls12,
    /// TLS 1.3 with the pre-shared key alone.
    Tls13,
    /// TLS 1.3 with the pre-shared key and ephemeral keys on P-256.
    Tls13Ephemeral,
}

/// What a client shows.
#[derive(Debug)]
pub struct Credentials {
    /// Its identity.
    pub identity: String,
    /// The key of that.
    pub key: Key256,
}

/// A connection as its client sees it.
pub type ClientStream = SslStream<Metered<TcpStream>>;

/// Connects to `address` with a pre-shared key, which proves both ends; all that goes over the wire is
/// counted by `meter`.
pub async fn connect(
    address: SocketAddr,
    keying: Keying,
    credentials: &Arc<Credentials>,
    meter: Meter,
) -> io::Result<ClientStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let context = match keying {
        Keying::Tls12 => &*TLS12,
        Keying::Tls13 => &*TLS13,
        Keying::Tls13Ephemeral => &*TLS13_EPHEMERAL,
    };
    let context = context.as_ref().map_err(|error| io::Error::other(error.clone()))?;
    let mut ssl = Ssl::new(context)?;
    ssl.set_ex_data(*OWN, Arc::clone(credentials));
    let mut stream = SslStream::new(ssl, Metered::new(stream, meter))?;
    Pin::new(&mut stream).connect().await.map_err(io::Error::other)?;
    Ok(stream)
}

type Contexts = LazyLock<Result<SslContext, ErrorStack>>;
static TLS12: Contexts = LazyLock::new(|| client(Keying::Tls12));
static TLS13: Contexts = LazyLock::new(|| client(Keying::Tls13));
static TLS13_EPHEMERAL: Contexts = LazyLock::new(|| client(Keying::Tls13Ephemeral));

fn client(keying: Keying) -> Result<SslContext, ErrorStack> {
    let mut builder = base(SslMethod::tls_client())?;
    let version = match keying {
        Keying::Tls12 => SslVersion::TLS1_2,
        Keying::Tls13 | Keying::Tls13Ephemeral => SslVersion::TLS1_3,
    };
    builder.set_min_proto_version(Some(version))?;
    builder.set_max_proto_version(Some(version))?;
    if keying == Keying::Tls13 {
        builder.set_options(without_ephemeral_keys());
    }
    // A device offers what it needs and no more: one suite, one group, no bytes to please middle boxes.
    builder.set_cipher_list("PSK-AES128-GCM-SHA256")?;
    builder.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
    builder.set_groups_list("P-256")?;
    builder.set_sigalgs_list("ECDSA+SHA256")?;
    builder.clear_options(SslOptions::ENABLE_MIDDLEBOX_COMPAT);
    builder.set_options(NO_ENCRYPT_THEN_MAC);
    // Nobody shows a certificate: the key proves the server too.
    builder.set_verify(SslVerifyMode::PEER);
    builder.set_psk_client_callback(|ssl, _hint, identity, key| {
        let Some(own) = ssl.ex_data(*OWN) else { return Ok(0) };
        let text = own.identity.as_bytes();
        let Some(place) = identity.get_mut(..=text.len()) else { return Ok(0) };
        let (name, end) = place.split_at_mut(text.len());
        name.copy_from_slice(text);
        end.fill(0);
        write_key(Some(&own.key), key)
    });
    Ok(builder.build())
}

fn base(method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(method)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    // An external key belongs to one hash: SHA-256 (`PROTOCOL.md` P3).
    builder.set_cipher_list("PSK-AES128-GCM-SHA256:PSK-CHACHA20-POLY1305:PSK-AES128-CCM")?;
    builder.set_ciphersuites(
        "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256",
    )?;
    builder.set_groups_list("P-256:X25519")?;
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_COMPRESSION);
    Ok(builder)
}

/// `SSL_OP_ALLOW_NO_DHE_KEX` and `SSL_OP_PREFER_NO_DHE_KEX`, which the bindings do not name.
const fn without_ephemeral_keys() -> SslOptions {
    SslOptions::from_bits_retain(1 << 10 | 1 << 35)
}

/// `SSL_OP_NO_ENCRYPT_THEN_MAC`: all suites here encrypt and authenticate in one.
const NO_ENCRYPT_THEN_MAC: SslOptions = SslOptions::from_bits_retain(1 << 19);

/// Writes a key for OpenSSL: a random one where there is none, which nobody can prove to hold.
fn write_key(found: Option<&Key256>, place: &mut [u8]) -> Result<usize, ErrorStack> {
    let Some(place) = place.get_mut(..32) else { return Ok(0) };
    match found {
        Some(key) => place.copy_from_slice(key.expose()),
        None => openssl::rand::rand_bytes(place)?,
    }
    Ok(place.len())
}

/// How many keys are looked up at once, by one server: each holds a thread while the store is slow.
pub const MOST_LOOKUPS: usize = 64;

/// Where a connection keeps for whom its key was found, if it was.
static PEER: LazyLock<Index<Ssl, Option<Proven>>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL has memory for an index"));
/// Where a client's connection keeps what it shows.
static OWN: LazyLock<Index<Ssl, Arc<Credentials>>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("OpenSSL has memory for an index"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const KEYINGS: [Keying; 3] = [Keying::Tls12, Keying::Tls13, Keying::Tls13Ephemeral];

    fn key(byte: u8) -> Key256 {
        Key256::from_bytes([byte; 32])
    }

    fn credentials(identity: &str, byte: u8) -> Arc<Credentials> {
        Arc::new(Credentials { identity: identity.to_owned(), key: key(byte) })
    }

    type Asked = Arc<Mutex<Vec<(String, Version)>>>;

    /// Serves who holds 32 bytes of 1 as `known`; answers with who that is.
    async fn serve(shutdown: &Shutdown) -> (SocketAddr, PskServer, Asked) {
        let asked: Asked = Arc::default();
        let noted = Arc::clone(&asked);
        let lookup: Lookup = Arc::new(move |identity, version| {
            noted.lock().unwrap().push((identity.to_owned(), version));
            (identity == "known").then(|| key(1))
        });
        let server = PskServer::new(lookup, Limits::STANDARD).unwrap();
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, shutdown) = (server.clone(), shutdown.clone());
        tokio::spawn(async move {
            let handle = |mut stream: ServerStream, peer: PskPeer| async move {
                let text = format!("{} by {:?}", peer.proven.identity, peer.version);
                stream.write_all(text.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            };
            serving.serve(listener, &shutdown, handle).await;
        });
        (address, server, asked)
    }

    #[tokio::test]
    async fn who_holds_the_key_is_served_by_each_version() {
        let shutdown = Shutdown::new();
        let (address, _server, _) = serve(&shutdown).await;
        for keying in KEYINGS {
            let meter = Meter::new();
            let connected = connect(address, keying, &credentials("known", 1), meter.clone()).await;
            let mut heard = String::new();
            connected.unwrap().read_to_string(&mut heard).await.unwrap();
            let version = if keying == Keying::Tls12 { "Tls12" } else { "Tls13" };
            assert_eq!(heard, format!("known by {version}"));
            assert!((300..900).contains(&meter.traffic().bytes()), "{keying:?} {meter:?}");
        }
        shutdown.trigger();
    }

    #[tokio::test]
    async fn strangers_and_wrong_keys_fail_alike_and_leave_no_trace() {
        let shutdown = Shutdown::new();
        let (address, server, asked) = serve(&shutdown).await;
        for keying in KEYINGS {
            let mut told = Vec::new();
            for (identity, byte) in [("known", 2), ("stranger", 1)] {
                let (offered, meter) = (credentials(identity, byte), Meter::new());
                let refused = connect(address, keying, &offered, meter.clone()).await;
                let error = refused.expect_err("no such key").to_string();
                // The identity is the only thing that differs in length, and only in what is sent.
                told.push((alert_of(&error), meter.traffic().received));
            }
            assert_eq!(told[0], told[1], "{keying:?}");
        }
        let all_failed = async {
            while server.counts().failed < 6 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, all_failed).await.expect("six refusals");
        assert_eq!(server.counts().opened, 0);
        let asked = asked.lock().unwrap();
        let of_tls12 = asked.iter().filter(|(_, version)| *version == Version::Tls12).count();
        assert_eq!((asked.len(), of_tls12), (6, 2));
        shutdown.trigger();
    }

    /// What an error says of its cause, without where in the library it was found.
    fn alert_of(error: &str) -> String {
        error.split(':').skip(1).collect()
    }

    const LONG: std::time::Duration = std::time::Duration::from_secs(20);

    /// Whoever opens handshakes by the thousand takes no threads but these.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_so_many_keys_are_looked_up_at_once() {
        let (under_way, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(())));
        let held = Arc::clone(&gate);
        let (noted, barrier) = (Arc::clone(&under_way), Arc::clone(&gate));
        let lookup: Lookup = Arc::new(move |_, _| {
            noted.add_permits(1);
            drop(barrier.lock().unwrap());
            Some(key(1))
        });
        let limits = Limits { half_open: 2 * MOST_LOOKUPS, ..Limits::STANDARD };
        let server = PskServer::new(lookup, limits).unwrap();
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        let (signal, serving) = (shutdown.clone(), server.clone());
        tokio::spawn(async move {
            serving.serve(listener, &signal, |_, _| async {}).await;
        });
        let connecting = |_| {
            tokio::spawn(async move {
                connect(address, Keying::Tls12, &credentials("any", 1), Meter::new()).await.is_ok()
            })
        };
        let (mut waiting, refused) = {
            let _closed = held.lock().unwrap();
            let mut waiting: Vec<_> = (0..MOST_LOOKUPS).map(connecting).collect();
            let most = u32::try_from(MOST_LOOKUPS).unwrap();
            let all = futures_block(async { under_way.acquire_many(most).await.unwrap().forget() });
            all.expect("so many look-ups begin");
            let one_more = connecting(0);
            let refused = futures_block(one_more).expect("it fails at once").unwrap();
            assert!(waiting.iter_mut().all(|task| !task.is_finished()));
            (waiting, refused)
        };
        assert!(!refused, "one more is a stranger");
        for task in &mut waiting {
            assert!(task.await.unwrap(), "the others had only to wait");
        }
        shutdown.trigger();
    }

    /// Waits on this thread, which holds a lock meanwhile.
    fn futures_block<F: Future>(future: F) -> Result<F::Output, tokio::time::error::Elapsed> {
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async { tokio::time::timeout(LONG, future).await })
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_slow_store_holds_no_other_connection_up() {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let lookup: Lookup = Arc::new(move |identity, _| {
            if identity == "slow" {
                gate.lock().unwrap().recv().unwrap_err();
            }
            Some(key(1))
        });
        let server = PskServer::new(lookup, Limits::STANDARD).unwrap();
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        let signal = shutdown.clone();
        let served = tokio::spawn(async move {
            let handle = |mut stream: ServerStream, _| async move {
                stream.shutdown().await.ok();
            };
            server.serve(listener, &signal, handle).await;
        });
        let slow = tokio::spawn(async move {
            connect(address, Keying::Tls12, &credentials("slow", 1), Meter::new()).await
        });
        for keying in KEYINGS {
            connect(address, keying, &credentials("quick", 1), Meter::new()).await.unwrap();
        }
        assert!(!slow.is_finished());
        drop(open);
        slow.await.unwrap().unwrap();
        shutdown.trigger();
        served.await.unwrap();
    }
}
