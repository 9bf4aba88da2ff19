//! The life of one device: what its core decides, carried over flash, HTTPS and MQTT.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode};
use claviger_device::{Action, Delivery, Device, KeyAnswer, Profile};
use claviger_fleet::topics;
use claviger_frames::Epoch;
use claviger_frames::telemetry::Header;
use claviger_net::http;
use claviger_net::mqtt::{self, Access, ConnectError, PublishError};
use claviger_store::StoreError;
use claviger_units::{Eui64, Span};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use rustls::ClientConfig;
use tokio::sync::Semaphore;

use super::cables::Cables;
use super::complaints::Complaints;
use super::operator::Operator;
use super::shelf::Shelf;
use crate::report::Report;
use crate::role::Context;

/// What a device finds around itself.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) context: Context,
    pub(super) shelf: Shelf,
    /// Who provisions; labels are carried by hand without.
    pub(super) operator: Option<Operator>,
    pub(super) profile: Profile,
    /// The way to the gateway's key service, without a certificate.
    pub(super) keys: http::Client,
    pub(super) gateway_url: String,
    pub(super) broker: SocketAddr,
    pub(super) broker_tls: Arc<ClientConfig>,
    /// The cables to the emulated network, where there is one.
    pub(super) cables: Option<Cables>,
    /// Exchanges with the gateway that may be under way at once.
    pub(super) exchanges: Semaphore,
    /// That a device is denied which has no key of the link yet.
    pub(super) strangers: Complaints,
    /// That a device is denied which has one.
    pub(super) refusals: Complaints,
}

/// Lives as a device until the signal to stop, once the platform knows it.
pub(super) async fn live(surroundings: Arc<Surroundings>, eui: Eui64) -> Result<(), StoreError> {
    if let Some((cables, mac)) = surroundings.cables.as_ref().zip(eui.mac()) {
        cables.attach(mac);
    }
    tokio::select! {
        () = surroundings.context.shutdown.cancelled() => return Ok(()),
        provisioned = provision(&surroundings, eui) => provisioned?,
    }
    let flash = surroundings.shelf.flash(eui).await?;
    let now = surroundings.context.clock.now();
    match Device::boot(now, &flash, surroundings.profile) {
        Ok(device) => Life::begin(device, surroundings).run().await,
        Err(error) => {
            surroundings.context.reports.refused("devices", format_args!("{eui}: {error}"));
            Ok(())
        }
    }
}

/// Brings the label of a new device to the platform and destroys it.
async fn provision(surroundings: &Surroundings, eui: Eui64) -> Result<(), StoreError> {
    let Some(operator) = &surroundings.operator else { return Ok(()) };
    if let Some(label) = surroundings.shelf.label(eui).await? {
        operator.provision(eui, &label).await;
        surroundings.shelf.destroy_label(eui).await?;
    }
    Ok(())
}

struct Life {
    device: Device,
    surroundings: Arc<Surroundings>,
    rng: StdRng,
    /// The epoch that was last told.
    epoch: Epoch,
    /// The newest frame that was last told as sent.
    sent: Option<(Epoch, u32)>,
    /// The connection of this wake.
    broker: Option<mqtt::Client>,
}

impl Life {
    fn begin(device: Device, surroundings: Arc<Surroundings>) -> Self {
        let rng = StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails");
        Self { epoch: device.epoch(), device, surroundings, rng, sent: None, broker: None }
    }

    async fn run(mut self) -> Result<(), StoreError> {
        loop {
            self.keep().await?;
            match self.device.poll_action() {
                Some(Action::RequestKey { path_and_query, authorization }) => {
                    self.request_key(&path_and_query, &authorization).await;
                }
                Some(Action::Publish { header, frame }) => self.publish(header, frame).await,
                None if self.device.is_broken() => {
                    let why = format_args!("{}: its flash does not keep", self.device.eui());
                    self.surroundings.context.reports.refused("devices", why);
                    return Ok(());
                }
                None if self.device.is_asleep() => {
                    if self.sleep().await == Waking::Never {
                        return Ok(());
                    }
                }
                None => self.wait().await,
            }
        }
    }

    /// Writes what the flash is due, and tells a new epoch once it lies there.
    async fn keep(&mut self) -> Result<(), StoreError> {
        let eui = self.device.eui();
        while let Some(write) = self.device.poll_flash() {
            let read_back = self.surroundings.shelf.write_slot(eui, write).await?;
            self.device.handle_flash(read_back.expose());
        }
        if self.device.epoch() > self.epoch {
            self.epoch = self.device.epoch();
            let epoch = self.epoch.number();
            self.surroundings.context.reports.tell(Report::Keyed { eui, epoch });
        }
        Ok(())
    }

    /// Tells whether the network lets the device reach a service of its gateway; complains where not.
    async fn reaches(&self, port: u16) -> bool {
        let Some((cables, mac)) = self.surroundings.cables.as_ref().zip(self.device.eui().mac())
        else {
            return true;
        };
        let is_open = cables.reaches(mac, port).await;
        if !is_open {
            // At the start the network has yet to find it, whether it has a key or not.
            let Surroundings { context, strangers, .. } = &*self.surroundings;
            let eui = self.device.eui();
            let why = format_args!("device {eui}: the network does not let it reach its gateway");
            strangers.refused(context.clock.now(), &context.reports, why);
        }
        is_open
    }

    async fn request_key(&mut self, path_and_query: &str, authorization: &str) {
        if !self.reaches(KEY_SERVICE).await {
            let now = self.surroundings.context.clock.now();
            return self.device.handle_key_answer(now, KeyAnswer::Unreachable);
        }
        let Surroundings { keys, gateway_url, exchanges, .. } = &*self.surroundings;
        // An error would mean that the semaphore was closed, which nobody does.
        let place = exchanges.acquire().await;
        let url = format!("{gateway_url}{path_and_query}");
        let answer = keys.get(&url, &[("authorization", authorization)]).await;
        drop(place);
        let answer = match &answer {
            Ok(answer) => key_answer(answer.status, &answer.headers, answer.body.expose()),
            Err(error) => {
                tracing::debug!(eui = %self.device.eui(), %error, "no key");
                KeyAnswer::Unreachable
            }
        };
        if answer == KeyAnswer::Denied {
            self.complain("the gateway denies it a key");
        }
        self.device.handle_key_answer(self.surroundings.context.clock.now(), answer);
    }

    async fn publish(&mut self, header: Header, frame: Vec<u8>) {
        let (eui, reports) = (self.device.eui(), self.surroundings.context.reports.clone());
        let place = (header.epoch, header.counter);
        if self.sent.is_none_or(|sent| sent < place) {
            // Before the attempt: a reading that never arrives must be missed.
            self.sent = Some(place);
            reports.tell(Report::Sent { eui });
        }
        let delivery = self.deliver(frame).await;
        if delivery == Delivery::Acknowledged {
            reports.tell(Report::Acknowledged { eui });
        }
        self.device.handle_published(self.surroundings.context.clock.now(), header, delivery);
    }

    /// Publishes a frame on the connection of this wake, and keeps that only if it served.
    async fn deliver(&mut self, frame: Vec<u8>) -> Delivery {
        if !self.reaches(BROKER).await {
            return Delivery::Failed;
        }
        let surroundings = Arc::clone(&self.surroundings);
        let _place = surroundings.exchanges.acquire().await;
        let broker = self.broker.take().filter(mqtt::Client::is_alive);
        let exchange = self.exchange(broker, frame);
        let patience = Duration::from(surroundings.profile.patience);
        match tokio::time::timeout(patience, exchange).await {
            Ok(Ok(broker)) => {
                self.broker = Some(broker);
                return Delivery::Acknowledged;
            }
            Ok(Err(Undelivered::Connect(ConnectError::Refused(_)))) => {
                self.complain("the gateway's broker refuses its log-in");
            }
            Ok(Err(Undelivered::Publish(PublishError::Refused(_) | PublishError::NotNow(_)))) => {
                self.complain("the gateway's broker refuses its reading");
            }
            Ok(Err(error)) => tracing::debug!(eui = %self.device.eui(), %error, "not delivered"),
            Err(_) => tracing::debug!(eui = %self.device.eui(), "no acknowledgement in time"),
        }
        Delivery::Failed
    }

    async fn exchange(
        &self,
        broker: Option<mqtt::Client>,
        frame: Vec<u8>,
    ) -> Result<mqtt::Client, Undelivered> {
        let eui = self.device.eui();
        let broker = match broker {
            Some(broker) => broker,
            None => mqtt::Client::connect(&self.access()).await?.0,
        };
        broker.publish(&topics::up(eui), frame.into()).await?;
        Ok(broker)
    }

    fn access(&self) -> Access {
        let Surroundings { broker, broker_tls, .. } = &*self.surroundings;
        let (host, eui) = (broker.ip().to_string(), self.device.eui().to_string());
        Access::plain(&host, broker.port(), &eui, &eui, &self.device.mqtt_password())
            .over_tls(Arc::clone(broker_tls))
    }

    /// A device that the gateway has not adopted yet is denied too: nothing is wrong at first.
    fn complain(&self, what: &str) {
        let Surroundings { context, strangers, refusals, .. } = &*self.surroundings;
        let known = self.device.epoch() > Epoch::BOOTSTRAP;
        let complaints = if known { refusals } else { strangers };
        let why = format_args!("device {}: {what}", self.device.eui());
        complaints.refused(context.clock.now(), &context.reports, why);
    }

    /// Ends the wake and sleeps until the next one.
    async fn sleep(&mut self) -> Waking {
        if let Some(broker) = self.broker.take() {
            broker.disconnect().await;
        }
        let surroundings = Arc::clone(&self.surroundings);
        tokio::select! {
            biased;
            () = surroundings.context.shutdown.cancelled() => Waking::Never,
            () = self.wait() => Waking::Due,
        }
    }

    async fn wait(&mut self) {
        let clock = self.surroundings.context.clock;
        clock.sleep_until(self.device.poll_timeout()).await;
        self.device.handle_timeout(clock.now(), &mut self.rng);
    }
}

/// The gateway's services in the network, whatever the loopback ports are where they listen.
const KEY_SERVICE: u16 = 8443;
const BROKER: u16 = 8883;

/// How a sleep ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waking {
    Due,
    Never,
}

/// Why a frame is not known to have arrived.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Reads the answer of the key service (`PROTOCOL.md` P3c).
fn key_answer<'a>(status: StatusCode, headers: &HeaderMap, body: &'a [u8]) -> KeyAnswer<'a> {
    match status {
        StatusCode::OK => KeyAnswer::Frame(body),
        StatusCode::NO_CONTENT => KeyAnswer::NothingDue,
        StatusCode::UNAUTHORIZED => KeyAnswer::Denied,
        StatusCode::SERVICE_UNAVAILABLE => {
            let seconds =
                headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            KeyAnswer::Later { retry_after: seconds.map_or(Span::ZERO, Span::from_secs) }
        }
        _ => KeyAnswer::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_key_service_is_understood() {
        let later = |secs| KeyAnswer::Later { retry_after: Span::from_secs(secs) };
        for (status, retry_after, expected) in [
            (200, None, KeyAnswer::Frame(b"frame")),
            (204, None, KeyAnswer::NothingDue),
            (401, None, KeyAnswer::Denied),
            (503, Some("3"), later(3)),
            (503, Some("Fri, 31 Dec 1999 23:59:59 GMT"), later(0)),
            (503, Some("-1"), later(0)),
            (503, None, later(0)),
            (404, None, KeyAnswer::Unreachable),
            (500, Some("3"), KeyAnswer::Unreachable),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = retry_after {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                key_answer(status, &headers, b"frame"),
                expected,
                "{status} {retry_after:?}"
            );
        }
    }
}
