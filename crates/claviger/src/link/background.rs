//! Long work on a thread of its own, which a signal asks to come to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use rand::rand_core::UnwrapErr;
use rand::{RngExt as _, rngs::SysRng};

use crate::signals::Signals;

/// Whether somebody wants an end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Tells whether the work is to come to its end.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs work to its end, which is sooner after a signal.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut signals = Signals::listen()?;
    let stop = Stop::default();
    let seen = stop.clone();
    let mut worker = tokio::task::spawn_blocking(move || work(&seen));
    loop {
        tokio::select! {
            done = &mut worker => return done.context("the work has panicked")?,
            () = signals.next() => stop.ask(),
        }
    }
}

/// Returns the seed that was asked for, or one of the system, short enough to be typed again.
pub(crate) fn seed_or_fresh(asked: Option<u64>) -> u64 {
    asked.unwrap_or_else(|| u64::from(UnwrapErr(SysRng).random::<u32>()))
}
