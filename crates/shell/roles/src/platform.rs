//! The platform: decrypts telemetry with its own site's copy of the keys, stores readings, and
//! shows them to operators; provisions devices and sees to it that the network lets them in.

mod desk;
mod network;
mod registry;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use claviger_durable::{EngineError, Tx};
use claviger_fleet::provisioning::{Provisioning, ProvisioningEvent};
use claviger_fleet::{
    Duplicate, PlatformConfig, PlatformEvent, PlatformOrder, RecoveryKey, UplinkRefusal, topics,
};
use claviger_frames::Reading;
use claviger_net::accept::Limits as Connections;
use claviger_net::link;
use claviger_net::mqtt::{
    Broker, BrokerHooks, LogIn, Message, Refused, STANDARD_LIMITS, Subscription,
};
use claviger_net::shutdown::{Shutdown, TaskGroup};
use claviger_net::tls::{self, TlsServer};
use claviger_net::{http, listen};
use claviger_store::Writer;
use claviger_units::{Bits, Key256, KeyId, SaeId, SecretBytes, Span};
use tokio::sync::{Notify, mpsc};

use self::network::{Controller, Network};
use crate::channel::restoration;
use crate::config::PlatformRoleConfig;
use crate::hub::{self, Hub, Names, Outputs};
use crate::orders::{MOST_KEYS, extraction, fetchings, tell_ended};
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};
use crate::sae::{KeyClient, KeyError};

/// Runs a platform until the signal to stop.
pub async fn run(
    config: PlatformRoleConfig,
    folder: Folder,
    context: Context,
) -> Result<(), RoleError> {
    let (identity, authority) = folder.identity()?;
    let client = http::Client::new(&tls::client_mutual(&identity, &authority));
    let enrolment = config.enrolment.as_ref();
    let controller =
        enrolment.map(|enrolment| Controller::new(&enrolment.controller_url, client.clone()));
    let (service, outputs) = Service::open(&config, controller, &folder, context.clone())?;
    let keys = KeyClient::new(&config.kme_url, client);
    let server = tls::server_mutual(&identity, &authority);
    let gateway = listen::tcp(config.gateway).await?;
    let gateway = link::serve_tls(gateway, Arc::clone(&server), config.gateway_name.clone());
    let https = listen::tcp(config.https).await?;
    let mqtt = listen::tcp(config.mqtt).await?;
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    let (router, shutdown) = (desk::router(service.clone()), context.shutdown.clone());
    let guarded = TlsServer::new(Arc::clone(&server), Connections::STANDARD);
    tasks.spawn("platform https", async move {
        http::serve_up_to(registry::MAX_IMPORT, https, &guarded, router, &shutdown).await;
    });
    if let Some(network) = Network::of(&service) {
        tasks.spawn("enrolment", network.run());
    }
    let path = folder.file("forwarder.password");
    let password = std::fs::read(&path).map(SecretBytes::new);
    let password = password.map_err(|source| RoleError::Password { path, source })?;
    let doors = Arc::new(Doors {
        service: service.clone(),
        gateway: config.gateway_name.clone(),
        password,
    });
    if let Some(foreign) = &config.broker {
        let subscription = Subscription::new(folder.broker_access(foreign)?, topics::ALL_UP);
        let receiving = receive(Arc::clone(&doors), subscription, context.shutdown.clone());
        tasks.spawn("foreign broker", receiving);
    }
    let (broker, shutdown) = (Broker::new(doors, STANDARD_LIMITS), context.shutdown.clone());
    tasks.spawn("platform broker", async move {
        broker.serve_tls(mqtt, server, &shutdown).await;
    });
    context.reports.tell(Report::Ready("platform"));
    let names = Names { own: "platform", other: "gateway" };
    let hub = Hub::new(names, (service.writer.clone(), outputs), gateway, context.clone());
    let (asked, asking) = mpsc::unbounded_channel();
    let counter = Counter { service: service.clone(), keys, gateway: config.gateway_name.clone() };
    tasks.spawn("copies of keys", counter.clone().fetch(asking));
    let fill = move |order| counter.clone().fill(order, asked.clone());
    let ended = tokio::select! {
        ended = hub.run(|event| service.tell(event), fill) => ended,
        name = tasks.lost() => Err(RoleError::Lost(name)),
    };
    context.shutdown.trigger();
    tasks.finish(Duration::from_secs(2)).await;
    ended
}

/// Takes telemetry from a broker of another maker until the signal to stop.
async fn receive(doors: Arc<Doors>, subscription: Subscription, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = subscription.receive(|message: Message| doors.take(message.topic, message.payload)) => {}
    }
}

type Core = hub::Core<Provisioning>;

#[derive(Clone)]
struct Service {
    writer: Writer<Core>,
    context: Context,
    operator: SaeId,
    installer: SaeId,
    /// What a device may reach whose label names no policy.
    policy: String,
    /// Where the network has one that admits devices.
    controller: Option<Controller>,
    /// Admissions have changed.
    changed: Arc<Notify>,
    /// Labels were brought, so that a card may belong to a device that was seen before.
    brought: Arc<Notify>,
}

impl Service {
    fn open(
        config: &PlatformRoleConfig,
        controller: Option<Controller>,
        folder: &Folder,
        context: Context,
    ) -> Result<(Self, Outputs<Provisioning>), RoleError> {
        let now = context.clock.now();
        let platform = PlatformConfig {
            grace: Span::from_secs(36 * 3600),
            recovery: read_recovery_key(folder)?,
        };
        let approval = config.enrolment.as_ref().map(|enrolment| enrolment.approval);
        let (writer, outputs) =
            hub::open(folder, move |tx, rng| Provisioning::open(tx, now, platform, approval, rng))?;
        let service = Self {
            writer,
            context,
            operator: config.operator.clone(),
            installer: config.installer.clone(),
            policy: config.enrolment.as_ref().map_or_else(String::new, |it| it.policy.clone()),
            controller,
            changed: Arc::default(),
            brought: Arc::default(),
        };
        Ok((service, outputs))
    }

    async fn core<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core, &mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, RoleError> {
        Ok(self.writer.run(job).await??)
    }
}

fn read_recovery_key(folder: &Folder) -> Result<RecoveryKey, RoleError> {
    let path = folder.file("recovery.key");
    let read = std::fs::read(&path).map(SecretBytes::new);
    let bytes = read.map_err(|source| RoleError::RecoveryKey { path: path.clone(), source })?;
    let key = Key256::from_slice(bytes.expose());
    key.map(RecoveryKey::from_key).ok_or(RoleError::RecoveryKeyLength { path })
}

/// Who may do what at the platform's broker: the gateway brings telemetry, nobody else anything.
struct Doors {
    service: Service,
    gateway: SaeId,
    password: SecretBytes,
}

impl BrokerHooks for Doors {
    async fn authenticate(&self, log_in: LogIn<'_>) -> bool {
        let offered = SecretBytes::new(log_in.password.to_vec());
        let known = log_in.user == self.gateway.as_str() && self.password.ct_eq(&offered);
        if !known {
            let why = format_args!(
                "log-in of {:?}: not the gateway, or its password is wrong",
                log_in.user
            );
            self.service.context.reports.refused("platform", why);
        }
        known
    }

    fn may_publish(&self, _: &str, topic: &str) -> bool {
        topics::device_of_up(topic).is_some()
    }

    fn may_subscribe(&self, _: &str, _: &str) -> bool {
        false
    }

    async fn handle_publish(&self, _: &str, topic: &str, payload: Bytes) -> Result<(), Refused> {
        self.take(topic.to_owned(), payload).await
    }

    fn handle_attached(&self, _: &str) {}

    fn handle_detached(&self, _: &str) {}
}

impl Doors {
    /// Takes telemetry. The acknowledgement means that reading, replay window and epoch are durable (P3d).
    async fn take(&self, topic: String, payload: Bytes) -> Result<(), Refused> {
        let Some(eui) = topics::device_of_up(&topic) else { return Ok(()) };
        let (now, reports) = (self.service.context.clock.now(), &self.service.context.reports);
        let read =
            self.service.core(move |core, tx| core.half.handle_uplink(tx, now, eui, &payload));
        match read.await.or(Err(Refused))? {
            Ok(accepted) if accepted.duplicate == Duplicate::SameBytes => Ok(()),
            Ok(accepted) => {
                let reading = Reading::decode(&accepted.reading);
                reports.tell(Report::Decrypted {
                    eui,
                    epoch: accepted.epoch.number(),
                    counter: accepted.counter,
                    reading: reading.map_or_else(|_| "not a reading".into(), |r| r.to_string()),
                });
                Ok(())
            }
            Err(UplinkRefusal::Barred) => Err(Refused),
            Err(refusal) => {
                reports.refused("platform", format_args!("{eui}: {refusal}"));
                Ok(())
            }
        }
    }
}

impl Service {
    fn tell(&self, event: ProvisioningEvent) {
        let reports = &self.context.reports;
        let event = match event {
            ProvisioningEvent::Platform(event) => event,
            ProvisioningEvent::AdmissionsChanged => return self.changed.notify_one(),
            ProvisioningEvent::Brought => return self.brought.notify_one(),
            ProvisioningEvent::Ordered(order) => {
                let (number, keys) = (order.number, order.devices.len());
                return reports.tell(Report::Ordered { number, keys });
            }
            _ => return,
        };
        match event {
            PlatformEvent::Alarm(alarm) => {
                reports.refused("platform", format_args!("alarm: {alarm:?}"));
            }
            PlatformEvent::Restoring { mine } => {
                reports.refused("platform", restoration(mine, "platform", "gateway"));
            }
            PlatformEvent::Restored => tracing::info!("everything is given back"),
            PlatformEvent::Refused { eui, epoch, why } => {
                reports.refused(
                    "platform",
                    format_args!("{eui}: epoch {epoch} cannot be held: {why:?}"),
                );
            }
            _ => {}
        }
    }
}

/// Where the platform gets its keys.
#[derive(Clone)]
struct Counter {
    service: Service,
    keys: KeyClient,
    gateway: SaeId,
}

impl Counter {
    /// Does what the core ordered, and reports the outcome; an error ends with the writer.
    async fn fill(self, order: PlatformOrder, asked: mpsc::UnboundedSender<KeyId>) {
        match order {
            PlatformOrder::Master { .. } => {
                let outcome = extraction(self.keys.enc_keys(&self.gateway, 1, Bits::KEY).await);
                let now = self.service.context.clock.now();
                let filled = self.service.core(move |core, tx| {
                    core.half.platform.handle_mastered(tx, now, outcome, &mut core.rng)
                });
                tell_ended(filled.await);
            }
            // The counter ends with the role.
            PlatformOrder::Fetch { key_id } => drop(asked.send(key_id)),
        }
    }

    /// Fetches the copies of announced keys, as many at a time as are asked for.
    async fn fetch(self, mut asking: mpsc::UnboundedReceiver<KeyId>) {
        let shutdown = self.service.context.shutdown.clone();
        let fetch_all = async {
            let mut asked = Vec::new();
            while asking.recv_many(&mut asked, MOST_KEYS).await > 0 {
                self.fetch_these(std::mem::take(&mut asked)).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = fetch_all => {}
        }
    }

    /// All or none are given; where one is refused, they are asked for in ever smaller parts.
    async fn fetch_these(&self, asked: Vec<KeyId>) {
        let mut parts = VecDeque::from([asked]);
        while let Some(mut part) = parts.pop_front() {
            let answer = self.keys.dec_keys(&self.gateway, &part).await;
            let is_refused =
                matches!(answer, Err(KeyError::Refused { status: StatusCode::BAD_REQUEST, .. }));
            if is_refused && part.len() > 1 {
                let second = part.split_off(part.len() / 2);
                parts.extend([part, second]);
                continue;
            }
            let outcomes = fetchings(part.len(), answer);
            let now = self.service.context.clock.now();
            let filled = self.service.core(move |core, tx| {
                for (key_id, outcome) in part.into_iter().zip(outcomes) {
                    core.half.platform.handle_fetched(tx, now, key_id, outcome)?;
                }
                Ok(())
            });
            tell_ended(filled.await);
        }
    }
}
