//! A core with its disk: what a crash takes away and what it leaves.

use claviger_durable::peer::PeerError;
use claviger_durable::{Engine, EngineError, MemoryEngine, Tx};
use claviger_fleet::{FleetError, ProvisionError, QueueRefusal};
use claviger_keystore::{KeyStoreError, ProposeError};
use claviger_kme::Declined;
use rand::rngs::StdRng;

/// Errors of cores, some of which mean that the store has failed.
pub(super) trait CoreError: From<EngineError> {
    fn store_failure(&self) -> Option<&EngineError>;
}

/// A process: its disk outlives it, its core does not.
#[derive(Debug)]
pub(super) struct Process<C> {
    pub(super) core: Option<C>,
    pub(super) disk: MemoryEngine,
    pub(super) rng: StdRng,
    /// How often it was started; what was under way for an earlier start is lost.
    pub(super) boot: u64,
    /// What the store said when it failed.
    pub(super) failure: Option<EngineError>,
}

impl<C> Process<C> {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { core: None, disk: MemoryEngine::new(), rng, boot: 0, failure: None }
    }

    pub(super) const fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// Starts it on what its disk holds, unless it dies of that.
    pub(super) fn start(
        &mut self,
        open: impl FnOnce(&mut dyn Tx, &mut StdRng) -> Result<C, EngineError>,
    ) {
        self.disk.revive();
        let rng = &mut self.rng;
        self.core = self.disk.transact(|tx| open(tx, rng)).ok();
        self.boot += 1;
    }

    /// Ends it without warning.
    pub(super) fn kill(&mut self) {
        self.core = None;
    }

    /// Runs one call in one transaction; `None` if it is down, or has died of it.
    pub(super) fn run<R, E: CoreError>(
        &mut self,
        work: impl FnOnce(&mut C, &mut dyn Tx, &mut StdRng) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let (core, rng) = (self.core.as_mut()?, &mut self.rng);
        let result = self.disk.transact(|tx| work(core, tx, rng));
        let failure = result.as_ref().err().and_then(CoreError::store_failure);
        if let Some(failure) = failure {
            self.failure = Some(failure.clone());
            self.core = None;
            return None;
        }
        Some(result)
    }
}

impl CoreError for EngineError {
    fn store_failure(&self) -> Option<&EngineError> {
        Some(self)
    }
}

impl CoreError for KeyStoreError {
    fn store_failure(&self) -> Option<&EngineError> {
        if let Self::Store(failure) = self { Some(failure) } else { None }
    }
}

impl CoreError for ProposeError {
    fn store_failure(&self) -> Option<&EngineError> {
        if let Self::Store(failure) = self { Some(failure) } else { None }
    }
}

impl CoreError for Declined {
    fn store_failure(&self) -> Option<&EngineError> {
        if let Self::Store(failure) = self { Some(failure) } else { None }
    }
}

impl CoreError for FleetError {
    fn store_failure(&self) -> Option<&EngineError> {
        match self {
            Self::Store(failure) | Self::Peer(PeerError::Store(failure)) => Some(failure),
            _ => None,
        }
    }
}

impl CoreError for QueueRefusal {
    fn store_failure(&self) -> Option<&EngineError> {
        if let Self::Store(failure) = self { Some(failure) } else { None }
    }
}

impl CoreError for ProvisionError {
    fn store_failure(&self) -> Option<&EngineError> {
        if let Self::Store(failure) = self { Some(failure) } else { None }
    }
}
