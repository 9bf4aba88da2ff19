//! Key frames pushed over the MQTT session of a device (`PROTOCOL.md` P3c).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use claviger_fleet::topics;
use claviger_net::mqtt::Broker;
use claviger_net::shutdown::Shutdown;
use claviger_units::Eui64;
use tokio::sync::{mpsc, oneshot};

use super::Service;
use super::doors::Doors;

/// The devices that are subscribed to their `key` topic, and the way to those who push.
#[derive(Clone)]
pub(super) struct Pushes {
    attached: Arc<Mutex<BTreeSet<Eui64>>>,
    due: mpsc::UnboundedSender<Due>,
}

/// A device, and who waits until its frame is on the way.
type Due = (Eui64, Option<oneshot::Sender<()>>);

/// What is due to be pushed.
pub(super) type Pushing = mpsc::UnboundedReceiver<Due>;

impl Pushes {
    pub(super) fn new() -> (Self, Pushing) {
        let (due, pushing) = mpsc::unbounded_channel();
        (Self { attached: Arc::default(), due }, pushing)
    }

    /// Notes that a device gets what is pushed from now on, and pushes what waits for it.
    pub(super) fn attach(&self, eui: Eui64) {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).insert(eui);
        drop(self.due.send((eui, None)));
    }

    /// Pushes what waits for a device, if it gets what is pushed, and waits until it is on the way.
    pub(super) async fn push(&self, eui: Eui64) {
        if !self.is_attached(eui) {
            return;
        }
        let (done, waiting) = oneshot::channel();
        if self.due.send((eui, Some(done))).is_ok() {
            drop(waiting.await);
        }
    }

    /// Pushes what has just become ready, without waiting.
    pub(super) fn push_soon(&self, eui: Eui64) {
        if self.is_attached(eui) {
            drop(self.due.send((eui, None)));
        }
    }

    fn is_attached(&self, eui: Eui64) -> bool {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner).contains(&eui)
    }
}

/// Pushes what is due until the signal to stop.
pub(super) async fn run(
    service: Service,
    broker: Broker<Doors>,
    mut pushing: Pushing,
    shutdown: Shutdown,
) {
    let push_all = async {
        let mut due = Vec::new();
        while pushing.recv_many(&mut due, AT_ONCE).await > 0 {
            let euis: Vec<Eui64> = due.iter().map(|(eui, _)| *eui).collect();
            let frames = service.core(move |core, tx| {
                euis.into_iter()
                    .map(|eui| core.half.ready_frame(tx, eui))
                    .collect::<Result<Vec<_>, _>>()
            });
            let Ok(frames) = frames.await else { return };
            for ((eui, done), frame) in due.drain(..).zip(frames) {
                if let Some(frame) = frame {
                    broker.publish(&topics::key(eui), frame).await;
                }
                // Nobody may wait.
                done.map(|done| done.send(()));
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = push_all => {}
    }
}

/// Devices whose frames are looked up together.
const AT_ONCE: usize = 256;
