//! Gateway and platform: their records, and the queue of telemetry between them.

use claviger_durable::{Engine, EngineError, Tx};
use claviger_fleet::{
    Accepted, Duplicate, FrameForm, Gateway, GatewayConfig, Half, Platform, PlatformConfig,
    QueuedUplink, RecoveryKey, Sharing, Taker, UplinkRefusal,
};
use claviger_frames::Epoch;
use claviger_units::{Eui64, Key256, Site, Span, Timestamp};
use rand::RngExt;
use rand::rngs::StdRng;

use super::agenda::Event;
use super::keys::Asker;
use super::process::CoreError;
use super::{LATENCY, Party, Stream, VirtualChain};

/// The gateway's client at the platform's broker: one frame at a time, repeated until
/// acknowledged.
#[derive(Debug, Default)]
pub(super) struct Forwarder {
    /// Number of the last attempt.
    attempt: u64,
    is_waiting: bool,
}

impl Forwarder {
    pub(super) const fn is_idle(&self) -> bool {
        !self.is_waiting
    }

    /// Forgets what was under way, with the process.
    pub(super) const fn stop(&mut self) {
        self.attempt += 1;
        self.is_waiting = false;
    }
}

impl VirtualChain {
    /// Runs one call of the gateway in its transaction, and carries out what it wants.
    pub(super) fn at_gateway<R, E: CoreError>(
        &mut self,
        work: impl FnOnce(&mut Gateway, &mut dyn Tx, Timestamp, &mut StdRng) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let (now, was_up) = (self.now, self.gateway.is_up());
        let result = self.gateway.run(|gateway, tx, rng| work(gateway, tx, now, rng));
        if result.is_some() {
            self.drain_gateway();
        } else if was_up {
            self.bury(Party::Gateway);
        }
        result
    }

    /// Runs one call of the platform in its transaction, and carries out what it wants.
    pub(super) fn at_platform<R, E: CoreError>(
        &mut self,
        work: impl FnOnce(&mut Platform, &mut dyn Tx, Timestamp, &mut StdRng) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let (now, was_up) = (self.now, self.platform.is_up());
        let result = self.platform.run(|platform, tx, rng| work(platform, tx, now, rng));
        if result.is_some() {
            self.drain_platform();
        } else if was_up {
            self.bury(Party::Platform);
        }
        result
    }

    pub(super) fn start_gateway(&mut self) {
        let now = self.now;
        let prepare_after = claviger_fleet::prepare_after(self.config.renew);
        let sharing = Sharing::default();
        let (form, queue_bytes) = (FrameForm::Compact, GatewayConfig::QUEUE_BYTES);
        let taker = Taker::Platform;
        let config = GatewayConfig { prepare_after, form, sharing, queue_bytes, taker };
        self.gateway.start(|tx, rng| Gateway::open(tx, now, config, rng));
        self.drain_gateway();
        self.forward();
    }

    pub(super) fn start_platform(&mut self) {
        let now = self.now;
        self.platform.start(|tx, rng| Platform::open(tx, now, platform_config(), rng));
        self.drain_platform();
    }

    fn drain_gateway(&mut self) {
        let Some(gateway) = self.gateway.core.as_mut() else { return };
        let frames: Vec<_> = std::iter::from_fn(|| gateway.poll_transmit()).collect();
        let orders: Vec<_> = std::iter::from_fn(|| gateway.poll_order()).collect();
        let events: Vec<_> = std::iter::from_fn(|| gateway.poll_event()).collect();
        for bytes in frames {
            self.send(Stream::Fleet, Site::B, bytes);
        }
        for order in orders {
            self.ask(Asker::Gateway(order));
        }
        for event in events {
            self.audit.note_gateway(event);
        }
    }

    fn drain_platform(&mut self) {
        let Some(platform) = self.platform.core.as_mut() else { return };
        let frames: Vec<_> = std::iter::from_fn(|| platform.poll_transmit()).collect();
        let orders: Vec<_> = std::iter::from_fn(|| platform.poll_order()).collect();
        let events: Vec<_> = std::iter::from_fn(|| platform.poll_event()).collect();
        for bytes in frames {
            self.send(Stream::Fleet, Site::A, bytes);
        }
        for order in orders {
            self.ask(Asker::Platform(order));
        }
        for event in events {
            self.audit.note_platform(event);
        }
    }

    pub(super) fn connect_fleet(&mut self) {
        self.at_gateway(|gateway, _, _, rng| {
            gateway.handle_connected(rng);
            Ok::<_, EngineError>(())
        });
        self.at_platform(|platform, _, _, rng| {
            platform.handle_connected(rng);
            Ok::<_, EngineError>(())
        });
    }

    pub(super) fn disconnect_fleet(&mut self) {
        self.at_gateway(|gateway, _, _, _| {
            gateway.handle_disconnected();
            Ok::<_, EngineError>(())
        });
        self.at_platform(|platform, _, _, _| {
            platform.handle_disconnected();
            Ok::<_, EngineError>(())
        });
    }

    /// Carries the oldest queued telemetry to the platform, if none is on its way.
    pub(super) fn forward(&mut self) {
        if self.forwarder.is_waiting {
            return;
        }
        let oldest = self.at_gateway(|gateway, tx, _, _| gateway.next_uplinks(tx, 0, 1));
        let Some(Ok(oldest)) = oldest else { return };
        let Some(QueuedUplink { seq, eui, frame }) = oldest.into_iter().next() else { return };
        self.forwarder.attempt += 1;
        self.forwarder.is_waiting = true;
        let attempt = self.forwarder.attempt;
        self.enter_after(LATENCY, Event::Uplink { attempt, seq, eui, frame });
        self.enter_after(UNACKNOWLEDGED, Event::UplinkLost { attempt });
    }

    /// The platform acknowledges what it has committed (`PROTOCOL.md` P3d), and what it can never
    /// read; the acknowledgement may be lost.
    pub(super) fn handle_uplink(&mut self, attempt: u64, seq: u64, eui: Eui64, frame: &[u8]) {
        let read =
            self.at_platform(|platform, tx, now, _| platform.handle_uplink(tx, now, eui, frame));
        match read {
            None | Some(Err(_) | Ok(Err(UplinkRefusal::Barred))) => return,
            Some(Ok(Err(refusal))) => {
                self.audit.violate(format!("telemetry of {eui} was refused: {refusal}"));
            }
            Some(Ok(Ok(Accepted { epoch, counter, reading, duplicate, .. }))) => match duplicate {
                Duplicate::No => self.audit.note_reading(eui, epoch, counter, &reading),
                Duplicate::SameBytes => self.audit.note_repeat(eui, epoch, counter),
            },
        }
        if !self.is_ack_lost() {
            self.enter_after(LATENCY, Event::UplinkAck { attempt, seq });
        }
    }

    pub(super) fn handle_uplink_ack(&mut self, attempt: u64, seq: u64) {
        if attempt != self.forwarder.attempt || !self.forwarder.is_waiting {
            return;
        }
        self.forwarder.is_waiting = false;
        self.at_gateway(|gateway, tx, _, _| gateway.handle_forwarded(tx, seq));
        self.forward();
    }

    pub(super) fn handle_uplink_lost(&mut self, attempt: u64) {
        if attempt == self.forwarder.attempt && self.forwarder.is_waiting {
            self.forwarder.is_waiting = false;
            self.forward();
        }
    }

    pub(super) fn is_ack_lost(&mut self) -> bool {
        self.rng.random_bool(self.ack_loss.as_f64())
    }

    /// Returns the newest epoch of a device that the platform holds durably.
    pub(super) fn newest_epoch_held(&mut self, eui: Eui64) -> Option<Epoch> {
        let now = self.now;
        let device: Result<_, EngineError> = match self.platform.core.as_ref() {
            Some(platform) => self.platform.disk.transact(|tx| platform.device(tx, eui)),
            None => self.platform.disk.snapshot().transact(|tx| {
                let rng = &mut self.rng;
                Platform::open(tx, now, platform_config(), rng)?.device(tx, eui)
            }),
        };
        let device = device.ok()??;
        Some(device.prepared.unwrap_or(device.active))
    }
}

/// `PROTOCOL.md` P3b.6: an epoch that was left reads late telemetry for 36 hours. No store is lost here: any
/// recovery key will do.
fn platform_config() -> PlatformConfig {
    let recovery = RecoveryKey::from_key(Key256::from_bytes([7; 32]));
    PlatformConfig { grace: Span::from_secs(36 * 3600), recovery }
}

/// How long the forwarder waits for an acknowledgement.
const UNACKNOWLEDGED: Span = Span::from_secs(5);
