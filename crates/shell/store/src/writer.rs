//! Group commit: one thread owns a core and its store; many callers share one sync of the disk.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use claviger_durable::{Engine, EngineError, Tx};
use tokio::sync::{oneshot, watch};

use crate::sqlite::SqliteStore;

/// Why a job has no result: nothing is known to be durable, and the role must be restarted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store failed: open it again, with a new core.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The writer was stopped, or its thread died, before the job was done.
    #[error("the writer of the store has stopped")]
    Stopped,
}

/// A handle to the thread that owns a core `C` and its store.
///
/// Jobs run one after the other, each in its own savepoint of a shared transaction; no caller is
/// answered before the transaction is synced to disk. An `Err` of a job takes back that job's
/// writes only. An error of the engine ends the thread: the core may have moved ahead of the
/// disk, so every caller of that transaction, and all later ones, get [`StoreError`].
///
/// ```
/// use claviger_durable::{EngineError, Table, Tx};
/// use claviger_store::{SqliteStore, Writer};
///
/// const TALLY: Table = Table::plain("tally");
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let store = SqliteStore::create(&dir.path().join("a.db"), &dir.path().join("a.key"))?;
/// let writer = Writer::spawn(store, |_| Ok::<_, EngineError>(0_u8), |_| {})?;
/// let job = |core: &mut u8, tx: &mut dyn Tx| {
///     tx.write(TALLY, b"jobs", &[*core + 1])?;
///     *core += 1;
///     Ok::<_, EngineError>(*core)
/// };
/// assert_eq!(writer.run(job).await??, 1);
/// writer.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer<C> {
    queue: Sender<Message<C>>,
    alive: watch::Receiver<()>,
}

/// Runs in the open transaction; its answer is given when the fate of that is known.
type Job<C> = Box<dyn FnOnce(&mut C, &mut SqliteStore) -> Result<Answer, EngineError> + Send>;
type Answer = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

enum Message<C> {
    Job(Job<C>),
    Stop(oneshot::Sender<()>),
}

impl<C: Send + 'static> Writer<C> {
    /// Makes the core with `open`, in one transaction, and starts the thread.
    ///
    /// `after` is called once now and after every commit: it passes on what the core wants sent,
    /// without waiting for anybody.
    pub fn spawn<E: From<EngineError>>(
        mut store: SqliteStore,
        open: impl FnOnce(&mut dyn Tx) -> Result<C, E>,
        after: impl FnMut(&mut C) + Send + 'static,
    ) -> Result<Self, E> {
        let core = store.transact(open)?;
        let (queue, jobs) = mpsc::channel();
        let (life, alive) = watch::channel(());
        let actor = Actor { store, core, after, scrub_at: None };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                actor.run(&jobs);
                drop(life);
            })
            .or(Err(EngineError::Failed("the system gives no thread")))?;
        Ok(Self { queue, alive })
    }

    /// Runs `job` and returns its result once that is durable.
    ///
    /// A caller that goes away does not take the job back.
    pub async fn run<R, E>(
        &self,
        job: impl FnOnce(&mut C, &mut dyn Tx) -> Result<R, E> + Send + 'static,
    ) -> Result<Result<R, E>, StoreError>
    where
        R: Send + 'static,
        E: Send + 'static,
    {
        self.begin(job).await
    }

    /// Puts `job` behind those that were begun before, and returns what [`run`](Self::run) does once that is
    /// awaited: jobs that are begun together become durable together.
    pub fn begin<R, E, F>(
        &self,
        job: F,
    ) -> impl Future<Output = Result<Result<R, E>, StoreError>> + Send + use<C, R, E, F>
    where
        F: FnOnce(&mut C, &mut dyn Tx) -> Result<R, E> + Send + 'static,
        R: Send + 'static,
        E: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job<C> = Box::new(move |core, store| match store.savepoint(|tx| job(core, tx)) {
            Ok(result) => {
                let answer = move |fate: Result<(), _>| {
                    drop(sender.send(fate.map(|()| result).map_err(StoreError::Engine)));
                };
                Ok(Box::new(answer) as Answer)
            }
            Err(error) => {
                drop(sender.send(Err(StoreError::Engine(error.clone()))));
                Err(error)
            }
        });
        // Where the queue is closed the job is dropped, and the sender with it.
        drop(self.queue.send(Message::Job(job)));
        async move { receiver.await.unwrap_or(Err(StoreError::Stopped)) }
    }

    /// Lets the jobs before this one finish, closes the store and waits until that is done.
    pub async fn stop(&self) {
        let (sender, closed) = oneshot::channel();
        if self.queue.send(Message::Stop(sender)).is_ok() {
            // An error means that the store was closed before it could answer.
            drop(closed.await);
        }
    }

    /// Waits until the thread has ended, by [`Writer::stop`] or by an error of the engine.
    pub async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }
}

impl<C> Clone for Writer<C> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), alive: self.alive.clone() }
    }
}

struct Actor<C, A> {
    store: SqliteStore,
    core: C,
    after: A,
    scrub_at: Option<Instant>,
}

impl<C, A: FnMut(&mut C)> Actor<C, A> {
    fn run(mut self, jobs: &Receiver<Message<C>>) {
        let end = self.serve(jobs);
        drop(self);
        match end {
            Ok(Some(stopped)) => drop(stopped.send(())),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the writer of the store ends"),
        }
    }

    /// Serves until asked to stop, or until all handles are gone.
    fn serve(
        &mut self,
        jobs: &Receiver<Message<C>>,
    ) -> Result<Option<oneshot::Sender<()>>, EngineError> {
        (self.after)(&mut self.core);
        loop {
            match self.next(jobs) {
                Ok(first) => {
                    let stop = self.group(first, jobs)?;
                    if stop.is_some() {
                        return Ok(stop);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            if self.scrub_at.is_some_and(|at| at <= Instant::now()) {
                self.store.scrub()?;
                self.scrub_at = None;
            }
        }
    }

    fn next(&self, jobs: &Receiver<Message<C>>) -> Result<Message<C>, RecvTimeoutError> {
        match self.scrub_at {
            Some(at) => jobs.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => jobs.recv().or(Err(RecvTimeoutError::Disconnected)),
        }
    }

    /// Runs `first` and what else is waiting in one transaction.
    fn group(
        &mut self,
        first: Message<C>,
        jobs: &Receiver<Message<C>>,
    ) -> Result<Option<oneshot::Sender<()>>, EngineError> {
        let mut answers = Vec::new();
        let mut stop = None;
        self.store.begin()?;
        for message in std::iter::once(first).chain(jobs.try_iter()).take(GROUP) {
            match message {
                Message::Job(job) => match job(&mut self.core, &mut self.store) {
                    Ok(answer) => answers.push(answer),
                    Err(error) => return Err(refuse(answers, error)),
                },
                Message::Stop(sender) => {
                    stop = Some(sender);
                    break;
                }
            }
        }
        if let Err(error) = self.store.commit() {
            return Err(refuse(answers, error));
        }
        if self.store.needs_scrub() {
            self.scrub_at.get_or_insert_with(|| Instant::now() + SCRUB_DELAY);
        }
        (self.after)(&mut self.core);
        answers.into_iter().for_each(|answer| answer(Ok(())));
        Ok(stop)
    }
}

fn refuse(answers: Vec<Answer>, error: EngineError) -> EngineError {
    answers.into_iter().for_each(|answer| answer(Err(error.clone())));
    error
}

/// How many jobs share a commit at most, so that none waits long for the others.
const GROUP: usize = 256;

/// How long an erased secret may stay in the log: one emptying serves many commits.
const SCRUB_DELAY: Duration = Duration::from_millis(200);
