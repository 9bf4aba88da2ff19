//! What operators and the provisioning application ask of the controller by HTTPS.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use claviger_control::{
    Admission, ChannelAlarm, ChannelError, Controller, HostView, PolicyId, PortRole, Standing,
    SwitchView,
};
use claviger_net::http;
use claviger_units::{MacAddr, SaeId, Timestamp};
use claviger_wire::sdn;
use serde::Deserialize;

use super::actor::Handle;
use super::keep::{parse, policy_of};
use crate::config::{ControllerRoleConfig, SERVERS};
use crate::role::Context;

/// Only certificates of the operator and of the provisioning application open these doors.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    handle: Handle,
    allowed: [SaeId; 2],
    /// Who may ring the alarm of the quantum channel.
    alarmists: Vec<SaeId>,
    policies: Vec<String>,
    servers: Vec<MacAddr>,
    context: Context,
}

impl Desk {
    pub(super) fn new(handle: Handle, config: &ControllerRoleConfig, context: Context) -> Self {
        Self {
            handle,
            allowed: [config.operator.clone(), config.provisioning.clone()],
            alarmists: config.crossing.iter().flat_map(|(_, names)| names.clone()).collect(),
            policies: config.policies.iter().map(|policy| policy.name.clone()).collect(),
            servers: config.servers.iter().map(|server| server.mac).collect(),
            context,
        }
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/v1/switches", get(switches))
            .route("/v1/links", get(links))
            .route("/v1/hosts", get(hosts))
            .route("/v1/policies", get(policies))
            .route("/v1/channel", get(channel).put(move_channel))
            .route("/v1/channel/alarms", post(ring))
            .route("/v1/trace", get(trace))
            .route("/v1/events", get(events))
            .route("/v1/events/stream", get(stream))
            .route("/v1/admissions", put(admit))
            .route("/v1/admissions/{mac}", delete(dismiss))
            .with_state(self)
    }

    fn check(&self, caller: Option<Extension<SaeId>>) -> Result<(), Refused> {
        let admitted = caller.is_some_and(|Extension(name)| self.allowed.contains(&name));
        let message = "this certificate does not open this door; use the operator's";
        if admitted { Ok(()) } else { Err(Refused(StatusCode::UNAUTHORIZED, message.to_owned())) }
    }

    /// The provisioning application has no business with the quantum channel.
    fn check_operator(&self, caller: Option<Extension<SaeId>>) -> Result<(), Refused> {
        let [operator, _] = &self.allowed;
        self.check(caller.filter(|Extension(name)| name == operator))
    }

    async fn ask<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Controller, Timestamp) -> R + Send + 'static,
    ) -> Result<R, Refused> {
        let stopped =
            || Refused(StatusCode::SERVICE_UNAVAILABLE, "the controller is stopping".into());
        self.handle.ask(job).await.ok_or_else(stopped)
    }

    fn policy_name(&self, PolicyId(number): PolicyId) -> Option<String> {
        self.policies.get(usize::from(number).checked_sub(1)?).cloned()
    }

    fn shown_host(&self, host: HostView) -> sdn::Host {
        sdn::Host {
            mac: host.mac.to_string(),
            place: host.place.map(|place| place.to_string()),
            addresses: host.addresses.iter().map(ToString::to_string).collect(),
            policy: match host.standing {
                Standing::Unknown => None,
                Standing::Admitted(policy) => self.policy_name(policy),
            },
            present: host.is_present,
            seen_s: host.seen.map(Timestamp::as_secs_f64),
            entries: host.n_entries,
        }
    }
}

/// Why somebody gets nothing; nothing has changed.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl Refused {
    fn bad_request(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        http::error_response(self.0, &self.1)
    }
}

type Caller = Option<Extension<SaeId>>;

async fn switches(State(desk): State<Desk>, caller: Caller) -> Result<Response, Refused> {
    desk.check(caller)?;
    let switches = desk.ask(|controller, _| controller.switches()).await?;
    let switches = switches.into_iter().map(shown_switch).collect();
    Ok(Json(sdn::Switches { switches }).into_response())
}

fn shown_switch(switch: SwitchView) -> sdn::Switch {
    let ports = switch.ports.into_iter().map(|port| sdn::Port {
        number: port.number.0,
        name: port.name,
        role: match port.role {
            PortRole::Down => "down",
            PortRole::Undecided => "undecided",
            PortRole::Trunk => "trunk",
            PortRole::Hosts => "hosts",
        }
        .to_owned(),
    });
    sdn::Switch {
        datapath: switch.datapath.to_string(),
        description: switch.description,
        up: switch.is_up,
        ports: ports.collect(),
        entries: switch.n_entries,
        differing: switch.n_differing,
        confirming: switch.is_confirming,
    }
}

async fn links(State(desk): State<Desk>, caller: Caller) -> Result<Response, Refused> {
    desk.check(caller)?;
    let links = desk.ask(|controller, _| controller.links()).await?;
    let links = links.into_iter().map(|(a, b)| [a.to_string(), b.to_string()]).collect();
    Ok(Json(sdn::Links { links }).into_response())
}

/// Which hosts are asked for: those after a card, in rising order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsQuery {
    after: Option<String>,
}

async fn hosts(
    State(desk): State<Desk>,
    caller: Caller,
    query: Result<Query<HostsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    desk.check(caller)?;
    let Query(query) = query.or(Err(Refused::bad_request("ask with after=MAC, or without")))?;
    let after = query.after.map(|text| text.parse::<MacAddr>()).transpose();
    let after = after.map_err(|error| Refused::bad_request(error.to_string()))?;
    let found = move |controller: &mut Controller, _| {
        (controller.hosts(after, PAGE), controller.is_settled())
    };
    let (hosts, settled) = desk.ask(found).await?;
    let hosts = hosts.into_iter().map(|host| desk.shown_host(host)).collect();
    Ok(Json(sdn::Hosts { hosts, settled }).into_response())
}

async fn policies(State(desk): State<Desk>, caller: Caller) -> Result<Response, Refused> {
    desk.check(caller)?;
    let others = desk.policies.iter().filter(|name| *name != SERVERS);
    Ok(Json(sdn::Policies { policies: others.cloned().collect() }).into_response())
}

async fn channel(State(desk): State<Desk>, caller: Caller) -> Result<Response, Refused> {
    desk.check(caller)?;
    let view = desk.ask(|controller, _| controller.channel()).await?;
    let none = || Refused(StatusCode::NOT_FOUND, ChannelError::NoOptics.to_string());
    let view = view.ok_or_else(none)?;
    let fibres = view.fibres.into_iter().map(|(name, light)| sdn::Fibre { name, light }).collect();
    let shown = sdn::Channel { fibre: view.fibre, fibres, confirmed: view.is_confirmed };
    Ok(Json(shown).into_response())
}

async fn move_channel(
    State(desk): State<Desk>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, Refused> {
    desk.check_operator(caller)?;
    let form = "send {\"fibre\": name}";
    let asked: sdn::MoveChannel =
        serde_json::from_slice(&body).or(Err(Refused::bad_request(form)))?;
    let moved = desk.ask(move |controller, now| controller.move_channel(now, &asked.fibre));
    let refused = |error: ChannelError| Refused(StatusCode::NOT_FOUND, error.to_string());
    moved.await?.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Only the ends of the quantum channel ring the alarm.
async fn ring(State(desk): State<Desk>, caller: Caller, body: Bytes) -> Result<Response, Refused> {
    let is_end = caller.is_some_and(|Extension(name)| desk.alarmists.contains(&name));
    if !is_end {
        let why = "this certificate rings no alarm: only the ends of the quantum channel do";
        return Err(Refused(StatusCode::UNAUTHORIZED, why.to_owned()));
    }
    let form = "send {\"alarm\": \"qber\"} or {\"alarm\": \"loss-of-light\"}";
    let rung: sdn::ChannelAlarm =
        serde_json::from_slice(&body).or(Err(Refused::bad_request(form)))?;
    let alarm = match rung.alarm {
        sdn::Alarm::Qber => ChannelAlarm::Qber,
        sdn::Alarm::LossOfLight => ChannelAlarm::LossOfLight,
    };
    desk.ask(move |controller, now| controller.handle_channel_alarm(now, alarm)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceQuery {
    from: String,
    to: String,
}

async fn trace(
    State(desk): State<Desk>,
    caller: Caller,
    query: Result<Query<TraceQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    desk.check(caller)?;
    let form = "ask with from=MAC&to=MAC";
    let Query(query) = query.or(Err(Refused::bad_request(form)))?;
    let [from, to] = [query.from, query.to].map(|text| {
        text.parse::<MacAddr>().map_err(|error| Refused::bad_request(error.to_string()))
    });
    let (from, to) = (from?, to?);
    let trace = desk.ask(move |controller, _| controller.trace(from, to)).await?;
    let path = trace.path.map(|hops| hops.iter().map(ToString::to_string).collect());
    let shown = sdn::Trace {
        from: trace.from.map(|place| place.to_string()),
        to: trace.to.map(|place| place.to_string()),
        allowed: trace.is_allowed,
        path,
        differing: trace.differing.iter().map(ToString::to_string).collect(),
    };
    Ok(Json(shown).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_s: u64,
}

/// Hosts or events of one answer.
const PAGE: usize = 1000;

async fn events(
    State(desk): State<Desk>,
    caller: Caller,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    desk.check(caller)?;
    let form = "ask with after=SEQ and wait_s=0..30";
    let Query(query) = query.or(Err(Refused::bad_request(form)))?;
    if query.wait_s > 30 {
        return Err(Refused::bad_request(form));
    }
    let happenings = &desk.handle.happenings;
    tokio::select! {
        () = happenings.wait_for(query.after) => {}
        () = tokio::time::sleep(Duration::from_secs(query.wait_s)) => {}
        () = desk.context.shutdown.cancelled() => {}
    }
    Ok(Json(happenings.after(query.after, PAGE)).into_response())
}

/// The same as a stream that does not end (server-sent events).
async fn stream(State(desk): State<Desk>, caller: Caller) -> Result<Response, Refused> {
    desk.check(caller)?;
    let (mut sender, body) = http::streamed();
    tokio::spawn(async move {
        let mut seq = desk.handle.happenings.after(u64::MAX, 0).newest;
        loop {
            tokio::select! {
                () = desk.handle.happenings.wait_for(seq) => {}
                () = desk.context.shutdown.cancelled() => return,
                () = tokio::time::sleep(SIGN_OF_LIFE) => {}
            }
            let page = desk.handle.happenings.after(seq, PAGE);
            // A comment, so that a dead connection shows.
            let mut text = if page.events.is_empty() { ":\n\n".to_owned() } else { String::new() };
            for event in page.events {
                seq = event.seq;
                let json = serde_json::to_string(&event).unwrap_or_default();
                text += &format!("id: {seq}\nevent: {}\ndata: {json}\n\n", event.kind);
            }
            if !sender.send(text).await {
                return;
            }
        }
    });
    let head = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((head, body).into_response())
}

const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

async fn admit(State(desk): State<Desk>, caller: Caller, body: Bytes) -> Result<Response, Refused> {
    desk.check(caller)?;
    let asked: sdn::Admissions = serde_json::from_slice(&body)
        .map_err(|error| Refused::bad_request(format!("not a list of admissions: {error}")))?;
    let mut admissions: Vec<Admission> = Vec::new();
    for one in &asked.admit {
        let admission = parse(one, |name| policy_of(&desk.policies, name));
        admissions.push(admission.map_err(Refused::bad_request)?);
    }
    let servers = desk.servers.clone();
    if let Some(taken) = admissions.iter().find(|one| servers.contains(&one.mac)) {
        let why = format!("{} is a server of the controller's configuration", taken.mac);
        return Err(Refused(StatusCode::CONFLICT, why));
    }
    let admitted = desk.ask(move |controller, now| {
        if asked.replace {
            let stays = |mac| servers.contains(&mac) || admissions.iter().any(|one| one.mac == mac);
            let gone = controller
                .hosts(None, usize::MAX)
                .into_iter()
                .filter(|host| matches!(host.standing, Standing::Admitted(_)) && !stays(host.mac));
            let gone: Vec<_> = gone.map(|host| host.mac).collect();
            controller.dismiss(now, gone);
        }
        controller.admit(now, admissions)
    });
    admitted.await?.map_err(|error| Refused::bad_request(error.to_string()))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn dismiss(
    State(desk): State<Desk>,
    caller: Caller,
    Path(mac): Path<String>,
) -> Result<Response, Refused> {
    desk.check(caller)?;
    let mac: MacAddr = mac
        .parse()
        .map_err(|error: claviger_units::IdError| Refused::bad_request(error.to_string()))?;
    if desk.servers.contains(&mac) {
        let why = format!("{mac} is a server of the controller's configuration");
        return Err(Refused(StatusCode::CONFLICT, why));
    }
    desk.ask(move |controller, now| controller.dismiss(now, [mac])).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
