//! An orderly end: one signal to all, and a deadline for the slow.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

/// The signal to stop, shared by all clones.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Shutdown {
    /// Makes a signal that nobody has given yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default would hide that it must be shared")]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Gives the signal, once and for all.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Tells whether the signal was given.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the signal.
    pub async fn cancelled(&self) {
        let mut signal = self.0.subscribe();
        // Never an error, since `self` keeps the sender alive.
        drop(signal.wait_for(|given| *given).await);
    }
}

/// Named tasks that end together.
#[derive(Debug)]
pub struct TaskGroup {
    shutdown: Shutdown,
    tasks: JoinSet<()>,
    names: BTreeMap<Id, String>,
    panicked: Vec<String>,
}

/// How a group of tasks ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Tasks that panicked.
    pub panicked: Vec<String>,
    /// Tasks that were still running at the deadline and were cut off.
    pub cut_off: Vec<String>,
}

impl TaskGroup {
    /// Makes an empty group that ends by `shutdown`.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: JoinSet::new(), names: BTreeMap::new(), panicked: Vec::new() }
    }

    /// Starts a task; it should end soon after the group's signal.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Waits until a task ends though nobody gave the signal, and returns its name; for ever, if
    /// none does. Made for `select!`.
    pub async fn lost(&mut self) -> String {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
            let name = self.names.get(&id).cloned().unwrap_or_default();
            let early = !self.shutdown.is_triggered();
            self.note(ended);
            if early {
                return name;
            }
        }
        std::future::pending().await
    }

    /// Waits until every task has ended, after the signal at most `grace` longer.
    ///
    /// A task that panics gives the signal. What still runs at the deadline is cut off.
    pub async fn finish(mut self, grace: Duration) -> Ending {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = self.join_all() => return self.ending(),
            () = shutdown.cancelled() => {}
        }
        if tokio::time::timeout(grace, self.join_all()).await.is_err() {
            self.tasks.abort_all();
        }
        self.ending()
    }

    async fn join_all(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.note(ended);
        }
    }

    fn note(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or_default();
        if ended.is_err() {
            tracing::error!(task = name, "panicked: everything stops");
            self.panicked.push(name);
            self.shutdown.trigger();
        }
    }

    fn ending(self) -> Ending {
        Ending { panicked: self.panicked, cut_off: self.names.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn tasks_end_by_the_signal_and_the_slow_are_cut_off() {
        let shutdown = Shutdown::new();
        let mut group = TaskGroup::new(shutdown.clone());
        let signal = shutdown.clone();
        group.spawn("willing", async move { signal.cancelled().await });
        group.spawn("stubborn", std::future::pending());
        shutdown.trigger();
        shutdown.trigger();
        assert!(shutdown.is_triggered());
        let ending = group.finish(GRACE).await;
        assert_eq!(ending, Ending { panicked: vec![], cut_off: vec!["stubborn".into()] });
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_the_others() {
        let shutdown = Shutdown::new();
        let mut group = TaskGroup::new(shutdown.clone());
        let signal = shutdown.clone();
        group.spawn("willing", async move { signal.cancelled().await });
        group.spawn("broken", async { panic!("on purpose") });
        let ending = group.finish(GRACE).await;
        assert_eq!(ending, Ending { panicked: vec!["broken".into()], cut_off: vec![] });
    }
}
