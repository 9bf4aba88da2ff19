//! The first moments of a run: nobody is told to use a port before a role listens on it.

use std::time::Duration;

use claviger_roles::Report;
use tokio::sync::mpsc;

use super::network::{DEVICES, Ended, Network};
use crate::signals::Signals;

/// What has happened before the network could be used.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    /// What the roles have told.
    pub(crate) reports: Vec<Report>,
    /// The first role that has ended already: the network cannot be used.
    pub(crate) ended: Option<Ended>,
    /// Whether somebody wants an end already.
    pub(crate) is_interrupted: bool,
    ready: usize,
}

/// The roles that others call: all but the devices, which may take long to make their labels.
const LISTENERS: usize = 8;
/// A role that is neither ready nor ended by now has a slow disk; its state shows in the view.
const PATIENCE: Duration = Duration::from_secs(10);

impl Beginning {
    /// Waits until every role listens, one has ended, or somebody wants an end.
    pub(crate) async fn wait(
        network: &mut Network,
        reports: &mut mpsc::UnboundedReceiver<Report>,
        signals: &mut Signals,
    ) -> Self {
        let mut beginning = Self::default();
        let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
        while beginning.is_open() {
            tokio::select! {
                Some(report) = reports.recv() => beginning.note(report),
                Some(ended) = network.ended.recv() => beginning.ended = Some(ended),
                () = signals.next() => beginning.is_interrupted = true,
                () = &mut patience => break,
            }
        }
        beginning
    }

    fn note(&mut self, report: Report) {
        if matches!(report, Report::Ready(role) if role != DEVICES) {
            self.ready += 1;
        }
        self.reports.push(report);
    }

    const fn is_open(&self) -> bool {
        self.ready < LISTENERS && self.ended.is_none() && !self.is_interrupted
    }
}
