//! Key frames pushed over the MQTT session of a device (`PROTOCOL.md` P3c).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use claviger_fleet::topics;
use claviger_net::mqtt::Broker;
use claviger_net::shutdown::Shutdown;
use claviger_units::Eui64;
use tokio::sync::{Notify, oneshot};

use super::Service;
use super::doors::Doors;

/// The devices that are subscribed to their `key` topic, and those to whom a frame is due.
#[derive(Clone, Default)]
pub(super) struct Pushes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    devices: Mutex<Devices>,
    due: Notify,
}

#[derive(Default)]
struct Devices {
    attached: BTreeSet<Eui64>,
    // Who waits until the frame of a device is on the way. Invariant: only attached devices are due, each
    // once, so that there are never more than connections.
    due: BTreeMap<Eui64, Vec<oneshot::Sender<()>>>,
}

impl Pushes {
    /// Notes that a device gets what is pushed from now on, and pushes what waits for it.
    pub(super) fn attach(&self, eui: Eui64) {
        self.devices().attached.insert(eui);
        self.push_soon(eui);
    }

    /// Notes that a device has gone.
    pub(super) fn detach(&self, eui: Eui64) {
        let mut devices = self.devices();
        devices.attached.remove(&eui);
        devices.due.remove(&eui);
    }

    /// Pushes what waits for a device, if it gets what is pushed, and waits until it is on the way.
    pub(super) async fn push(&self, eui: Eui64) {
        let (done, waiting) = oneshot::channel();
        if self.enter(eui, Some(done)) {
            // An error tells that the device has gone.
            drop(waiting.await);
        }
    }

    /// Pushes what has just become ready, without waiting.
    pub(super) fn push_soon(&self, eui: Eui64) {
        self.enter(eui, None);
    }

    fn enter(&self, eui: Eui64, done: Option<oneshot::Sender<()>>) -> bool {
        let mut devices = self.devices();
        let is_attached = devices.attached.contains(&eui);
        if is_attached {
            devices.due.entry(eui).or_default().extend(done);
            self.0.due.notify_one();
        }
        is_attached
    }

    fn take(&self) -> Vec<(Eui64, Vec<oneshot::Sender<()>>)> {
        let due = &mut self.devices().due;
        std::iter::from_fn(|| due.pop_first()).take(AT_ONCE).collect()
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.0.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pushes what is due until the signal to stop.
pub(super) async fn run(service: Service, broker: Broker<Doors>, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = push_all(&service, &broker) => {}
    }
}

async fn push_all(service: &Service, broker: &Broker<Doors>) {
    loop {
        let due = service.pushes.take();
        if due.is_empty() {
            service.pushes.0.due.notified().await;
            continue;
        }
        let euis: Vec<Eui64> = due.iter().map(|(eui, _)| *eui).collect();
        let now = service.context.clock.now();
        let frames = service.core(move |core, tx| {
            euis.into_iter()
                .map(|eui| core.half.push_frame(tx, now, eui))
                .collect::<Result<Vec<_>, _>>()
        });
        let Ok(frames) = frames.await else { return };
        for ((eui, waiting), frame) in due.into_iter().zip(frames) {
            if let Some(frame) = frame {
                broker.publish(&topics::key(eui), frame).await;
            }
            for done in waiting {
                // Nobody may wait any more.
                done.send(()).ok();
            }
        }
    }
}

/// Devices whose frames are looked up together.
const AT_ONCE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_device_is_due_once_and_only_while_it_is_there() {
        let (pushes, [here, away]) = (Pushes::default(), [1, 2].map(|n| Eui64::from_bytes([n; 8])));
        pushes.attach(here);
        for eui in [here, here, away] {
            pushes.push_soon(eui);
        }
        let due: Vec<_> = pushes.take().into_iter().map(|(eui, _)| eui).collect();
        assert_eq!(due, [here]);
        assert!(pushes.take().is_empty());

        // Who waits for a frame of a device that goes does not wait for ever.
        let waiting = pushes.push(here);
        let gone = async { pushes.detach(here) };
        tokio::join!(waiting, gone);
        pushes.push(here).await;
        assert!(pushes.take().is_empty() && pushes.devices().attached.is_empty());
    }
}
