//! The gateway's broker: who may log in, publish and subscribe, and what becomes of telemetry.

use bytes::Bytes;
use claviger_durable::Tx;
use claviger_fleet::{QueueRefusal, topics};
use claviger_frames::PskIdentity;
use claviger_net::mqtt::{BrokerHooks, LogIn, Refused};
use claviger_net::psk::Proven;
use claviger_units::{Eui64, SecretBytes};

use super::push::Pushes;
use super::{Core, Service};

/// The name under which an operator may watch the frames pass (`mosquitto_sub -u viewer`).
const VIEWER: &str = "viewer";

/// Who may do what at the gateway's broker.
pub(super) struct Doors {
    pub(super) service: Service,
    pub(super) viewer: SecretBytes,
    pub(super) pushes: Pushes,
}

/// Tells whether a connection that has proven something, if anything, is that of `user`. Under which key
/// it was proven does not matter: the password is of the present.
fn is_own(proven: Option<&Proven>, user: &str) -> bool {
    proven.is_none_or(|proven| {
        proven.identity.parse().is_ok_and(|identity: PskIdentity| identity.eui.to_string() == user)
    })
}

impl BrokerHooks for Doors {
    async fn authenticate(&self, log_in: LogIn<'_>) -> bool {
        if log_in.user == VIEWER {
            // Under the name of a device it would take the place of that device.
            let own_session = log_in.client_id.parse::<Eui64>().is_err();
            return own_session && self.viewer.ct_eq(&SecretBytes::new(log_in.password.to_vec()));
        }
        // One session a device, so that none displaces another's.
        if log_in.client_id != log_in.user || !is_own(log_in.proven, log_in.user) {
            return false;
        }
        let (user, password) = (log_in.user.to_owned(), SecretBytes::new(log_in.password.to_vec()));
        let now = self.service.context.clock.now();
        let known = self
            .service
            .core(move |core, tx| core.half.handle_login(tx, now, &user, password.expose()));
        let known = matches!(known.await, Ok(Some(_)));
        if !known {
            let why = format_args!(
                "log-in of {:?}: unknown, or its password is wrong or stale",
                log_in.user
            );
            self.service.context.reports.refused("gateway", why);
        }
        known
    }

    fn may_publish(&self, user: &str, topic: &str) -> bool {
        user.parse().is_ok_and(|eui| topics::may_publish(eui, topic))
    }

    fn may_subscribe(&self, user: &str, filter: &str) -> bool {
        if user == VIEWER {
            return filter.starts_with("claviger/v1/");
        }
        user.parse().is_ok_and(|eui| topics::may_subscribe(eui, filter))
    }

    async fn handle_publish(&self, user: &str, topic: &str, payload: Bytes) -> Result<(), Refused> {
        let Some(eui) = topics::device_of_up(topic) else { return Ok(()) };
        let now = self.service.context.clock.now();
        let job =
            move |core: &mut Core, tx: &mut dyn Tx| core.half.handle_uplink(tx, now, eui, &payload);
        match self.service.writer.run(job).await {
            Ok(Ok(())) => {
                self.service.queued.notify_one();
                // Before the acknowledgement, after which the device may go to sleep.
                self.pushes.push(eui).await;
                Ok(())
            }
            // It would never fit: acknowledged, so that the device does not repeat it for ever.
            Ok(Err(error @ QueueRefusal::TooLong { .. })) => {
                self.service.context.reports.refused("gateway", format_args!("{user}: {error}"));
                Ok(())
            }
            Ok(Err(error)) => {
                self.service.context.reports.refused("gateway", format_args!("{user}: {error}"));
                Err(Refused)
            }
            Err(_) => Err(Refused),
        }
    }

    fn handle_attached(&self, user: &str) {
        if let Ok(eui) = user.parse() {
            self.pushes.attach(eui);
        }
    }

    fn handle_detached(&self, user: &str) {
        if let Ok(eui) = user.parse() {
            self.pushes.detach(eui);
        }
    }
}
