//! A broker of another maker on the devices' side: telemetry is received from it, key frames are retained at it.
//!
//! Who may publish and read what is that broker's to say. What passes it is sealed between a device and the
//! platform, or the gateway, and tells it nothing; a device is known by what it sends, not by its log-in, and
//! takes its next key by the frame that waits under its `key` topic.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use claviger_durable::Tx;
use claviger_fleet::{DeviceStanding, QueueRefusal, topics};
use claviger_net::mqtt::{Forwarder, Message, Refused, Subscription};
use claviger_net::shutdown::Shutdown;
use claviger_units::Eui64;
use tokio::sync::Notify;

use super::{Core, Service};

/// The devices whose frame at the foreign broker has changed, or may have been lost there.
#[derive(Clone, Default)]
pub(super) struct Retained(Arc<Shared>);

#[derive(Default)]
struct Shared {
    due: Mutex<BTreeSet<Eui64>>,
    changed: Notify,
}

impl Retained {
    /// Lets the frame of a device be put under its topic, or taken away where there is none.
    pub(super) fn renew(&self, eui: Eui64) {
        self.due().insert(eui);
        self.0.changed.notify_one();
    }

    fn take(&self) -> Option<Eui64> {
        self.due().pop_first()
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<Eui64>> {
        self.0.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives telemetry and retains key frames until the signal to stop.
pub(super) async fn run(
    service: Service,
    subscription: Subscription,
    forwarder: Forwarder,
    retained: Retained,
    shutdown: Shutdown,
) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = receive(&service, &subscription, &retained) => {}
        () = retain_all(&service, &forwarder, &retained) => {}
    }
}

async fn receive(
    service: &Service,
    subscription: &Subscription,
    retained: &Retained,
) -> Infallible {
    subscription.receive(|message| take(service.clone(), retained.clone(), message)).await
}

/// Puts a reading into the queue; only a full queue makes the broker wait.
async fn take(
    service: Service,
    retained: Retained,
    Message { topic, payload }: Message,
) -> Result<(), Refused> {
    let Some(eui) = topics::device_of_up(&topic) else { return Ok(()) };
    let now = service.context.clock.now();
    let job = move |core: &mut Core, tx: &mut dyn Tx| {
        // Whoever may publish at that broker has proven nothing.
        match core.half.standing_of(tx, eui)? {
            DeviceStanding::Served => {}
            DeviceStanding::Unknown => return Ok(None),
            DeviceStanding::NotYetKnown => return Err(QueueRefusal::Full),
        }
        let queued = core.half.handle_uplink(tx, now, eui, &payload);
        // The broker may have been emptied since the frame was put there.
        let waits = core.half.ready_frame(tx, eui)?.is_some();
        queued.map(|()| Some(waits))
    };
    match service.writer.run(job).await {
        Ok(Ok(None)) => {
            let why = format_args!("{eui}: dropped: not a device of this gateway");
            service.context.reports.refused("gateway", why);
            Ok(())
        }
        Ok(Ok(Some(waits))) => {
            service.queued.notify_one();
            if waits {
                retained.renew(eui);
            }
            Ok(())
        }
        Ok(Err(QueueRefusal::Store(_))) | Err(_) => Err(Refused),
        Ok(Err(error @ QueueRefusal::Full)) => {
            service.context.reports.refused("gateway", format_args!("{eui}: {error}"));
            Err(Refused)
        }
        // The broker has told the device that it is kept, and others wait behind it.
        Ok(Err(error)) => {
            service.context.reports.refused("gateway", format_args!("{eui}: dropped: {error}"));
            Ok(())
        }
    }
}

async fn retain_all(service: &Service, forwarder: &Forwarder, retained: &Retained) {
    loop {
        let Some(eui) = retained.take() else {
            retained.0.changed.notified().await;
            continue;
        };
        let frame = service.core(move |core, tx| core.half.ready_frame(tx, eui));
        let Ok(frame) = frame.await else { return };
        let frame = Bytes::from(frame.unwrap_or_default());
        if let Err(error) = forwarder.retain(&topics::key(eui), frame).await {
            let why = format_args!("key frame of {eui}: {error}");
            service.context.reports.refused("gateway", why);
        }
    }
}
