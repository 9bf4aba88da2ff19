//! The one task that owns the controller: switches and operators speak to it through a queue.

use std::collections::BTreeMap;

use claviger_control::{ConnectionId, Controller};
use claviger_openflow::{DecodeError, Envelope};
use claviger_units::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::happenings::Happenings;
use super::keep::Keep;
use super::switches::Outbox;
use crate::role::{Context, RoleError};

/// The way to the controller.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    inputs: mpsc::Sender<Input>,
    pub(super) happenings: Happenings,
}

type Job = Box<dyn FnOnce(&mut Controller, Timestamp) + Send>;

pub(super) enum Input {
    Connected(oneshot::Sender<ConnectionId>, Outbox),
    Said(ConnectionId, Result<Envelope, DecodeError>),
    Closed(ConnectionId),
    Job(Job),
}

/// Messages that wait for the controller: whoever sends faster waits for its turn.
const QUEUE: usize = 4096;
/// Messages that are taken at once.
const BATCH: usize = 256;

impl Handle {
    /// Hands something to the controller; `false` when it has stopped.
    pub(super) async fn pass(&self, input: Input) -> bool {
        self.inputs.send(input).await.is_ok()
    }

    /// Does something with the controller and returns what came of it; `None` when it has stopped.
    pub(super) async fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Controller, Timestamp) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |controller, now| {
            // Whoever asked may be gone.
            drop(answer.send(job(controller, now)));
        });
        self.inputs.send(Input::Job(job)).await.ok()?;
        answered.await.ok()
    }
}

pub(super) struct Actor {
    controller: Controller,
    keep: Keep,
    inputs: mpsc::Receiver<Input>,
    outboxes: BTreeMap<ConnectionId, Outbox>,
    n_connections: u64,
    happenings: Happenings,
    context: Context,
}

impl Actor {
    pub(super) fn new(controller: Controller, keep: Keep, context: Context) -> (Self, Handle) {
        let (sender, inputs) = mpsc::channel(QUEUE);
        let happenings = Happenings::new(context.clock.now());
        let handle = Handle { inputs: sender, happenings: happenings.clone() };
        let outboxes = BTreeMap::new();
        (Self { controller, keep, inputs, outboxes, n_connections: 0, happenings, context }, handle)
    }

    pub(super) async fn run(mut self) -> Result<(), RoleError> {
        let clock = self.context.clock;
        let mut batch = Vec::with_capacity(BATCH);
        self.drain();
        loop {
            let due = self.controller.poll_timeout();
            let keep = self.keep.due();
            tokio::select! {
                () = self.context.shutdown.cancelled() => {
                    self.keep.write(&self.controller)?;
                    return Ok(());
                }
                _ = self.inputs.recv_many(&mut batch, BATCH) => {
                    let now = clock.now();
                    batch.drain(..).for_each(|input| self.handle(now, input));
                }
                () = clock.sleep_until(due) => self.controller.handle_timeout(clock.now()),
                () = clock.sleep_until(keep) => self.keep.write(&self.controller)?,
            }
            self.drain();
        }
    }

    fn handle(&mut self, now: Timestamp, input: Input) {
        match input {
            Input::Connected(named, outbox) => {
                self.n_connections += 1;
                let id = ConnectionId(self.n_connections);
                self.outboxes.insert(id, outbox);
                self.controller.handle_connected(now, id);
                if named.send(id).is_err() {
                    tracing::debug!(?id, "a switch was gone at once");
                }
            }
            Input::Said(id, message) => self.controller.handle_message(now, id, message),
            Input::Closed(id) => {
                self.outboxes.remove(&id);
                self.controller.handle_disconnected(now, id);
            }
            Input::Job(job) => {
                job(&mut self.controller, now);
                // An operator may have changed who is admitted.
                self.keep.touch(now);
            }
        }
    }

    fn drain(&mut self) {
        while let Some((id, bytes)) = self.controller.poll_transmit() {
            if let Some(outbox) = self.outboxes.get(&id) {
                outbox.send(bytes);
            }
        }
        while let Some(id) = self.controller.poll_close() {
            // Without its outbox a connection ends when all is sent.
            self.outboxes.remove(&id);
        }
        let now = self.context.clock.now();
        while let Some(event) = self.controller.poll_event() {
            if Keep::wants(&event) {
                self.keep.touch(now);
            }
            self.happenings.note(now, &event, &self.context.reports);
        }
    }
}
