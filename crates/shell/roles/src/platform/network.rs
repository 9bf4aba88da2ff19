//! The platform's dealings with the controller of the network: what that sees goes into enrolment, and
//! who is enrolled is let in.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use claviger_fleet::enrolment::Admission;
use claviger_net::http::{Answer, Client, ClientError};
use claviger_units::MacAddr;
use claviger_wire::etsi014::ErrorBody;
use claviger_wire::sdn;
use serde::de::DeserializeOwned;

use super::Service;
use crate::role::RoleError;

/// The controller as the platform reaches it.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    url: String,
    client: Client,
}

/// Why the controller did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the network's controller is away: {0}")]
    Away(#[from] ClientError),
    #[error("the network's controller refuses ({}): {message}", status.as_u16())]
    Refused { status: StatusCode, message: String },
    #[error("the network's controller is not understood: run the same version at both ends")]
    OtherVersion,
    /// What it says goes on elsewhere than where it left off: everything is looked at anew.
    #[error("the network's controller has started anew")]
    StartedAnew,
    #[error(transparent)]
    Store(#[from] RoleError),
}

impl Controller {
    pub(super) fn new(url: &str, client: Client) -> Self {
        Self { url: url.to_owned(), client }
    }

    /// Returns the names of its policies.
    pub(super) async fn policies(&self) -> Result<Vec<String>, Trouble> {
        Ok(self.get::<sdn::Policies>("/v1/policies").await?.policies)
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Trouble> {
        let answer = self.client.get(&format!("{}{path}", self.url), &[]).await;
        let answer = accepted(answer)?;
        serde_json::from_slice(answer.body.expose()).or(Err(Trouble::OtherVersion))
    }

    async fn admit(&self, admit: Vec<sdn::Admission>) -> Result<(), Trouble> {
        let admissions = sdn::Admissions { admit, replace: false };
        let body = serde_json::to_vec(&admissions).or(Err(Trouble::OtherVersion))?;
        let url = format!("{}/v1/admissions", self.url);
        accepted(self.client.put_json(&url, body).await).map(drop)
    }

    async fn dismiss(&self, mac: MacAddr) -> Result<(), Trouble> {
        let url = format!("{}/v1/admissions/{mac}", self.url);
        accepted(self.client.delete(&url).await).map(drop)
    }
}

fn accepted(answer: Result<Answer, ClientError>) -> Result<Answer, Trouble> {
    let answer = answer?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    let message = ErrorBody::from_json(answer.body.expose()).unwrap_or_default().message;
    Err(Trouble::Refused { status: answer.status, message })
}

/// Keeps enrolment and controller in step.
pub(super) struct Network {
    service: Service,
    controller: Controller,
}

/// Who is let in at the controller, as far as this side knows: card → policy.
type Admitted = HashMap<MacAddr, String>;

impl Network {
    /// `None` where the platform knows no controller.
    pub(super) fn of(service: &Service) -> Option<Self> {
        let controller = service.controller.clone()?;
        Some(Self { service: service.clone(), controller })
    }

    /// Works until the signal to stop, however often the controller goes away.
    pub(super) async fn run(self) {
        let shutdown = self.service.context.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.sessions() => {}
        }
    }

    async fn sessions(&self) {
        let mut is_told = false;
        loop {
            match self.session().await {
                Trouble::StartedAnew => is_told = false,
                Trouble::Store(error) => {
                    tracing::debug!(%error, "enrolment ended with the store");
                    return std::future::pending().await;
                }
                // At the start the controller may need a moment more than this role.
                Trouble::Away(error) if !is_told => {
                    tracing::warn!(error = ?error, "the network's controller is away");
                    is_told = true;
                }
                Trouble::Away(_) => {}
                trouble => self.service.context.reports.refused("platform", trouble),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Looks at everything, then follows what changes on either side; returns what ended it.
    async fn session(&self) -> Trouble {
        let began = async {
            let events: sdn::Events =
                self.controller.get(&format!("/v1/events?after={}", u64::MAX)).await?;
            let policies = self.controller.policies().await?;
            let admitted = self.look().await?;
            self.service.core(|core, tx| core.half.recall_changes(tx)).await?;
            Ok((events, policies, admitted))
        };
        let (events, policies, admitted) = match began.await {
            Ok(began) => began,
            Err(trouble) => return trouble,
        };
        tracing::info!(run = events.run, "in step with the network's controller");
        let quarantine = policies.iter().any(|name| name == QUARANTINE);
        tokio::select! {
            Err(trouble) = self.follow(events.newest, events.run) => trouble,
            Err(trouble) = self.carry(admitted, quarantine) => trouble,
            else => Trouble::StartedAnew,
        }
    }

    /// Looks at all hosts, and returns who is let in.
    async fn look(&self) -> Result<Admitted, Trouble> {
        let (mut admitted, mut after) = (Admitted::new(), String::new());
        loop {
            let page: sdn::Hosts = self.controller.get(&format!("/v1/hosts{after}")).await?;
            let Some(last) = page.hosts.last() else {
                if page.settled {
                    self.settle().await?;
                }
                return Ok(admitted);
            };
            after = format!("?after={}", last.mac);
            let mut seen = Vec::new();
            for host in page.hosts {
                let mac = host.mac.parse::<MacAddr>().or(Err(Trouble::OtherVersion))?;
                seen.extend(host.place.filter(|_| host.present).map(|place| (mac, place)));
                admitted.extend(host.policy.map(|policy| (mac, policy)));
            }
            self.see(seen).await?;
        }
    }

    /// Follows what the controller sees.
    async fn follow(&self, mut after: u64, run: u64) -> Result<(), Trouble> {
        loop {
            let path = format!("/v1/events?after={after}&wait_s={PATIENCE_S}");
            let page: sdn::Events = self.controller.get(&path).await?;
            let first = page.events.first().map_or(after + 1, |event| event.seq);
            if page.run != run || first != after + 1 {
                return Err(Trouble::StartedAnew);
            }
            after = page.events.last().map_or(after, |event| event.seq);
            self.hear(page.events).await?;
        }
    }

    async fn hear(&self, events: Vec<sdn::Event>) -> Result<(), Trouble> {
        let mut seen = Vec::new();
        for sdn::Event { kind, mac, place, .. } in events {
            let mac = mac.and_then(|mac| mac.parse::<MacAddr>().ok());
            match (kind.as_str(), mac.zip(place)) {
                ("host-appeared" | "host-bound" | "host-moved", Some(found)) => seen.push(found),
                ("spoofed", Some((mac, place))) => self.note_spoofed(mac, place).await?,
                ("settled", _) => {
                    self.see(std::mem::take(&mut seen)).await?;
                    self.settle().await?;
                }
                _ => {}
            }
        }
        self.see(seen).await
    }

    async fn see(&self, seen: Vec<(MacAddr, String)>) -> Result<(), Trouble> {
        if seen.is_empty() {
            return Ok(());
        }
        let now = self.service.context.clock.now();
        Ok(self.service.core(move |core, tx| core.half.handle_seen(tx, now, &seen)).await?)
    }

    async fn settle(&self) -> Result<(), Trouble> {
        let now = self.service.context.clock.now();
        Ok(self.service.core(move |core, tx| core.half.handle_settled(tx, now)).await?)
    }

    async fn note_spoofed(&self, mac: MacAddr, place: String) -> Result<(), Trouble> {
        let now = self.service.context.clock.now();
        let noted =
            self.service.core(move |core, tx| core.half.handle_spoofed(tx, now, mac, &place));
        Ok(noted.await?)
    }

    /// Carries admissions to the controller as they change.
    async fn carry(&self, mut admitted: Admitted, quarantine: bool) -> Result<(), Trouble> {
        loop {
            let take = |core: &mut super::Core, tx: &mut dyn claviger_durable::Tx| {
                core.half.take_changes(tx, BATCH)
            };
            let changes = self.service.core(take).await?;
            if changes.is_empty() {
                tokio::select! {
                    () = self.service.changed.notified() => {}
                    () = self.service.brought.notified() => admitted.extend(self.look().await?),
                }
                continue;
            }
            let mut admit = Vec::new();
            for (mac, admission) in changes {
                match policy_of(admission, quarantine) {
                    Some(policy) if admitted.get(&mac) != Some(&policy) => {
                        admit.push((mac, policy));
                    }
                    None if admitted.contains_key(&mac) => {
                        self.dismiss(mac).await?;
                        admitted.remove(&mac);
                    }
                    // The controller knows it so.
                    Some(_) | None => {}
                }
            }
            for (mac, policy) in self.admit(admit).await? {
                admitted.insert(mac, policy);
            }
        }
    }

    /// Shuts a device out; one that the controller keeps, as a server of its own, is told and left to it.
    async fn dismiss(&self, mac: MacAddr) -> Result<(), Trouble> {
        match self.controller.dismiss(mac).await {
            Err(
                trouble @ Trouble::Refused {
                    status: StatusCode::BAD_REQUEST | StatusCode::CONFLICT,
                    ..
                },
            ) => {
                let why = format_args!("{mac} is not shut out: {trouble}");
                self.service.context.reports.refused("platform", why);
                Ok(())
            }
            other => other,
        }
    }

    /// Lets devices in, and returns those that the controller has taken.
    async fn admit(
        &self,
        admit: Vec<(MacAddr, String)>,
    ) -> Result<Vec<(MacAddr, String)>, Trouble> {
        let told = |all: &[(MacAddr, String)]| all.iter().map(told_admission).collect();
        if admit.is_empty() {
            return Ok(admit);
        }
        match self.controller.admit(told(&admit)).await {
            Ok(()) => return Ok(admit),
            Err(Trouble::Refused {
                status: StatusCode::BAD_REQUEST | StatusCode::CONFLICT,
                ..
            }) => {}
            Err(trouble) => return Err(trouble),
        }
        // One of them is not taken; the others shall not suffer for it.
        let mut taken = Vec::new();
        for one in admit {
            match self.controller.admit(told(std::slice::from_ref(&one))).await {
                Ok(()) => taken.push(one),
                Err(trouble @ Trouble::Refused { .. }) => {
                    let why = format_args!("{} is not let in: {trouble}", one.0);
                    self.service.context.reports.refused("platform", why);
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(taken)
    }
}

fn policy_of(admission: Admission, quarantine: bool) -> Option<String> {
    match admission {
        Admission::Admitted { policy } => Some(policy),
        Admission::Quarantined if quarantine => Some(QUARANTINE.to_owned()),
        Admission::Quarantined | Admission::Barred => None,
    }
}

fn told_admission((mac, policy): &(MacAddr, String)) -> sdn::Admission {
    let (mac, policy) = (mac.to_string(), policy.clone());
    sdn::Admission { mac, policy, place: None, addresses: Vec::new(), fixed: false }
}

/// The policy of devices in quarantine; where the controller has none, they reach nothing.
const QUARANTINE: &str = "quarantine";
/// Admissions in one request, which the controller takes up to 64 KiB of.
const BATCH: usize = 250;
/// How long a request for events waits for one, in seconds: shorter than a client waits for an answer.
const PATIENCE_S: u64 = 5;
/// How long to wait before the controller is tried again.
const PAUSE: Duration = Duration::from_secs(1);
