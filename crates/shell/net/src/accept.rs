//! The accept loop under every listener: whoever is silent, garbled or too many disturbs nobody.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::shutdown::Shutdown;

/// How much one listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; more are closed as soon as they are opened.
    pub connections: usize,
    /// Connections that have not finished their opening (the TLS handshake); for one more the
    /// oldest is closed, since an honest opening takes milliseconds.
    pub half_open: usize,
    /// The longest time that an opening may take.
    pub opening: Duration,
}

impl Limits {
    /// 1024 connections, 128 half-open ones of at most 5 s.
    pub const STANDARD: Self =
        Self { connections: 1024, half_open: 128, opening: Duration::from_secs(5) };
}

/// Lets this process open as many files, and so connections, as the system allows: often a thousand by
/// default, and far more on request.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Without it, fewer connections are accepted, which is told where it happens.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
}

/// What a listener has seen since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections that finished their opening.
    pub opened: u64,
    /// Connections that failed in their opening.
    pub failed: u64,
    /// Connections closed because their opening took too long.
    pub late: u64,
    /// Half-open connections closed in favour of newer ones.
    pub displaced: u64,
    /// Connections closed because there were too many.
    pub refused: u64,
    /// Failures of the system to accept a connection.
    pub unaccepted: u64,
}

/// A guard of one listener: limits and counters.
#[derive(Clone, Debug)]
pub struct Guard {
    limits: Limits,
    counters: Arc<Counters>,
}

impl Guard {
    /// Makes a guard with counters at zero; its clones share them. One listener gets at most three
    /// quarters of the files that the system lets this process open.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(files / 4 * 3).unwrap_or(usize::MAX);
        let limits = Limits { connections: limits.connections.min(most), ..limits };
        Self { limits, counters: Arc::default() }
    }

    /// Returns what was seen so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let c = &*self.counters;
        let read = |n: &AtomicU64| n.load(Relaxed);
        Counts {
            opened: read(&c.opened),
            failed: read(&c.failed),
            late: read(&c.late),
            displaced: read(&c.displaced),
            refused: read(&c.refused),
            unaccepted: read(&c.unaccepted),
        }
    }

    /// Accepts connections until `shutdown`, then waits for those that are open.
    ///
    /// Each is first opened by `open`, within the limits, and then served by `handle`, which
    /// watches `shutdown` itself. Dropping the future closes everything.
    pub async fn serve<S, O, OF, H, HF>(
        &self,
        listener: TcpListener,
        shutdown: &Shutdown,
        open: O,
        handle: H,
    ) where
        O: Fn(TcpStream, SocketAddr) -> OF,
        OF: Future<Output = io::Result<S>> + Send + 'static,
        H: Fn(S) -> HF + Clone + Send + 'static,
        HF: Future<Output = ()> + Send + 'static,
        S: Send + 'static,
    {
        let half_open = Arc::new(HalfOpen::default());
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let mut tasks = JoinSet::new();
        for serial in 0.. {
            let Some((stream, address)) = self.accept(&listener, shutdown, &mut tasks).await else {
                break;
            };
            let opening = tokio::time::timeout(self.limits.opening, open(stream, address));
            let (guard, handle) = (self.clone(), handle.clone());
            let (waiting, permits) = (Arc::clone(&half_open), Arc::clone(&permits));
            let task = async move {
                let opened = opening.await;
                if !waiting.leave(serial) {
                    return; // displaced at the last instant
                }
                if let Some(connection) = guard.judge(opened, address) {
                    match permits.try_acquire() {
                        Ok(_permit) => handle(connection).await,
                        Err(_) => guard.counters.refused.add(address, "too many connections"),
                    }
                }
            };
            if half_open.enter(serial, self.limits.half_open, || tasks.spawn(task)) {
                self.counters.displaced.add(address, "an older half-open connection is displaced");
            }
        }
        drop(listener);
        half_open.abort_all();
        while let Some(ended) = tasks.join_next().await {
            note_panic(ended);
        }
    }

    /// Returns the next connection, `None` once the end has come.
    async fn accept(
        &self,
        listener: &TcpListener,
        shutdown: &Shutdown,
        tasks: &mut JoinSet<()>,
    ) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return None,
                Some(ended) = tasks.join_next() => {
                    note_panic(ended);
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    stream.set_nodelay(true).ok();
                    return Some((stream, address));
                }
                Err(error) => {
                    self.counters.unaccepted.fetch_add(1, Relaxed);
                    tracing::debug!(%error, "a connection could not be accepted");
                    // Out of file descriptors or memory: let others give some back.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Counts how an opening ended, and keeps what succeeded.
    fn judge<S>(
        &self,
        opened: Result<io::Result<S>, tokio::time::error::Elapsed>,
        address: SocketAddr,
    ) -> Option<S> {
        match opened {
            Ok(Ok(connection)) => {
                self.counters.opened.fetch_add(1, Relaxed);
                return Some(connection);
            }
            Ok(Err(error)) => self.counters.failed.add(address, &error.to_string()),
            Err(_) => self.counters.late.add(address, "the opening took too long"),
        }
        None
    }
}

#[derive(Debug, Default)]
struct Counters {
    opened: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
    displaced: AtomicU64,
    refused: AtomicU64,
    unaccepted: AtomicU64,
}

trait Count {
    fn add(&self, address: SocketAddr, cause: &str);
}

impl Count for AtomicU64 {
    fn add(&self, address: SocketAddr, cause: &str) {
        self.fetch_add(1, Relaxed);
        tracing::debug!(%address, cause, "connection refused");
    }
}

/// The tasks of half-open connections, oldest first.
#[derive(Default)]
struct HalfOpen(Mutex<BTreeMap<u64, AbortHandle>>);

impl HalfOpen {
    /// Enters a connection; tells whether the oldest had to go for it.
    fn enter(&self, serial: u64, cap: usize, spawn: impl FnOnce() -> AbortHandle) -> bool {
        // Spawned under the lock, so that the task cannot leave before it has entered.
        let mut tasks = self.lock();
        let oldest = if tasks.len() >= cap { tasks.pop_first() } else { None };
        tasks.insert(serial, spawn());
        oldest.inspect(|(_, task)| task.abort()).is_some()
    }

    /// Takes a connection out; tells whether it was still in.
    fn leave(&self, serial: u64) -> bool {
        self.lock().remove(&serial).is_some()
    }

    fn abort_all(&self) {
        self.lock().values().for_each(AbortHandle::abort);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "the handler of a connection panicked; the others go on");
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
