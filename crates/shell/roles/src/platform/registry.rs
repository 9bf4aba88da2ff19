//! What operators ask of enrolment by HTTPS: who stands where, labels in bulk, measures, orders, the
//! audit log.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use claviger_durable::{EngineError, Tx};
use claviger_fleet::ProvisionError;
use claviger_fleet::enrolment::{AuditEntry, Enrolment, EnrolmentError, FirstKeys, Measure};
use claviger_fleet::labels::{self, Fault, Label};
use claviger_fleet::provisioning::Known;
use claviger_units::{MacAddr, SaeId};
use claviger_wire::enrolment as wire;
use serde::Deserialize;

use super::desk::{Refused, admit};
use super::network::Trouble;
use super::{Core, Service};

/// The longest list of labels that is taken: some 40 000 devices.
pub(super) const MAX_IMPORT: usize = 4 << 20;

/// Only the operator's certificate opens these doors.
pub(super) fn router() -> Router<Service> {
    Router::new()
        .route("/v1/enrolments", get(list).post(import))
        .route("/v1/enrolments/{mac}/{measure}", post(take_measure))
        .route("/v1/orders", get(orders))
        .route("/v1/audit", get(audit))
}

type Caller = Option<Extension<SaeId>>;

impl Service {
    /// Does something with enrolment, where there is a controller.
    async fn registry<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Core, &mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, Refused> {
        if self.controller.is_none() {
            let why =
                "this platform knows no controller that admits devices: give it an [enrolment]";
            return Err(Refused(StatusCode::CONFLICT, why.to_owned()));
        }
        self.core(job).await.or(Err(Refused::store_failed()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
}

/// Entries of one answer.
const PAGE: usize = 1000;

async fn list(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    admit(&[&service.operator], caller)?;
    let message = "ask with after=MAC and limit=1..1000";
    let Query(query) = query.or(Err(Refused::bad_request(message)))?;
    let after = query.after.map(|mac| mac.parse::<MacAddr>()).transpose();
    let after = after.map_err(|error| Refused::bad_request(&error.to_string()))?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE).contains(&limit) {
        return Err(Refused::bad_request(message));
    }
    let found = service.registry(move |core, tx| match core.half.enrolments() {
        Some(enrolments) => enrolments.list(tx, after, limit),
        None => Ok(Vec::new()),
    });
    let enrolments = found.await?.into_iter().map(shown_enrolment).collect();
    Ok(Json(wire::Enrolments { enrolments }).into_response())
}

fn shown_enrolment(device: Enrolment) -> wire::Enrolment {
    wire::Enrolment {
        mac: device.mac.to_string(),
        standing: format!("{:?}", device.standing).to_lowercase(),
        policy: device.policy,
        place: device.place,
        since_s: device.since.as_secs_f64(),
        order: (device.order > 0).then_some(device.order),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    #[serde(default)]
    form: Form,
    /// Of the labels that name none.
    policy: Option<String>,
}

/// How labels are written.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Csv,
    Qr,
}

async fn import(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Bytes,
) -> Result<Response, Refused> {
    let who = admit(&[&service.operator], caller)?;
    let message = "ask with form=csv or form=qr, and policy=NAME with the latter";
    let Query(query) = query.or(Err(Refused::bad_request(message)))?;
    let text = std::str::from_utf8(&body).or(Err(Refused::bad_request("send text in UTF-8")))?;
    let policy = query.policy.unwrap_or_else(|| service.policy.clone());
    let read = match query.form {
        Form::Csv => labels::from_csv(text),
        Form::Qr => labels::from_qr(text, &policy),
    };
    let labels = read.map_err(|faults| all_faults(&faults))?;
    check_policies(&service, &labels).await?;
    let (now, n_devices) = (service.context.clock.now(), labels.len());
    let lines: Vec<usize> = labels.iter().map(|label| label.line).collect();
    let brought = service
        .registry(move |core, tx| core.half.bring(tx, now, who.as_str(), &labels, Known::Refused));
    match brought.await? {
        Ok(()) => {
            let imported = wire::Imported { devices: n_devices };
            Ok((StatusCode::CREATED, Json(imported)).into_response())
        }
        Err(faults) => {
            let line = |at: usize| lines.get(at).copied().unwrap_or_default();
            let told = faults.iter().map(|(at, fault)| match fault {
                ProvisionError::Known(_) => {
                    format!("line {}: the card is enrolled already; retire it first", line(*at))
                }
                fault => format!("line {}: {fault}", line(*at)),
            });
            Err(Refused(StatusCode::CONFLICT, listed(told)))
        }
    }
}

fn all_faults(faults: &[Fault]) -> Refused {
    Refused(StatusCode::BAD_REQUEST, listed(faults.iter().map(ToString::to_string)))
}

/// Tells all faults, a line each.
fn listed(faults: impl Iterator<Item = String>) -> String {
    let faults: Vec<_> = faults.collect();
    format!("nothing was imported, {} faults:\n{}", faults.len(), faults.join("\n"))
}

/// Asks the controller whether it has the policies of these labels.
async fn check_policies(service: &Service, labels: &[Label]) -> Result<(), Refused> {
    let Some(controller) = &service.controller else { return Ok(()) };
    let away = |trouble: Trouble| Refused(StatusCode::SERVICE_UNAVAILABLE, trouble.to_string());
    let policies = controller.policies().await.map_err(away)?;
    let unknown = labels.iter().filter(|label| !policies.contains(&label.policy));
    let told = unknown.map(|label| {
        let (line, policy, known) = (label.line, &label.policy, policies.join(", "));
        format!("line {line}: the controller has no policy {policy}; it has {known}")
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() { Ok(()) } else { Err(Refused::bad_request(&listed(told.into_iter()))) }
}

async fn take_measure(
    State(service): State<Service>,
    caller: Caller,
    Path((mac, measure)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refused> {
    let who = admit(&[&service.operator], caller)?;
    let mac: MacAddr = mac
        .parse()
        .map_err(|error: claviger_units::IdError| Refused::bad_request(&error.to_string()))?;
    let measure = measure_of(&measure)?;
    let reason =
        if body.is_empty() { Ok(wire::Reason::default()) } else { serde_json::from_slice(&body) };
    let reason = reason.or(Err(Refused::bad_request("send {\"why\": text}, or nothing")))?;
    if reason.why.len() > MAX_REASON {
        return Err(Refused::bad_request("a reason has at most 1000 bytes"));
    }
    let now = service.context.clock.now();
    let taken = service.registry(move |core, tx| {
        match core.half.take_measure(tx, now, (who.as_str(), &reason.why), mac, measure) {
            Err(EnrolmentError::Store(error)) => Err(error),
            other => Ok(other),
        }
    });
    match taken.await? {
        Ok(standing) => {
            let standing = format!("{standing:?}").to_lowercase();
            Ok(Json(wire::Outcome { mac: mac.to_string(), standing }).into_response())
        }
        Err(error @ EnrolmentError::Unknown(_)) => {
            Err(Refused(StatusCode::NOT_FOUND, error.to_string()))
        }
        Err(error) => Err(Refused(StatusCode::CONFLICT, error.to_string())),
    }
}

const MAX_REASON: usize = 1000;

fn measure_of(name: &str) -> Result<Measure, Refused> {
    Ok(match name {
        "approve" => Measure::Approve,
        "suspend" => Measure::Suspend,
        "resume" => Measure::Resume,
        "quarantine" => Measure::Quarantine,
        "release" => Measure::Release,
        "retire" => Measure::Retire,
        _ => {
            let known = "a measure is approve, suspend, resume, quarantine, release or retire";
            return Err(Refused(StatusCode::NOT_FOUND, known.to_owned()));
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AfterQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_s: u64,
}

async fn orders(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<AfterQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    admit(&[&service.operator], caller)?;
    let Query(AfterQuery { after, .. }) = query.or(Err(Refused::bad_request(AFTER)))?;
    let found = service.registry(move |core, tx| match core.half.enrolments() {
        Some(enrolments) => enrolments.orders(tx, after, PAGE),
        None => Ok(Vec::new()),
    });
    let orders = found.await?.into_iter().map(|FirstKeys { number, placed, devices }| {
        wire::Order { number, placed_s: placed.as_secs_f64(), keys: devices.len() }
    });
    Ok(Json(wire::Orders { orders: orders.collect() }).into_response())
}

const AFTER: &str = "ask with after=NUMBER, and of the audit log with wait_s=0..30";

async fn audit(
    State(service): State<Service>,
    caller: Caller,
    query: Result<Query<AfterQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    admit(&[&service.operator], caller)?;
    let Query(AfterQuery { after, wait_s }) = query.or(Err(Refused::bad_request(AFTER)))?;
    if wait_s > 30 {
        return Err(Refused::bad_request(AFTER));
    }
    let patience = tokio::time::sleep(Duration::from_secs(wait_s));
    tokio::pin!(patience);
    loop {
        let found = service.registry(move |core, tx| match core.half.enrolments() {
            Some(enrolments) => enrolments.audit(tx, after, PAGE),
            None => Ok(Vec::new()),
        });
        let entries: Vec<_> = found.await?.into_iter().map(shown_entry).collect();
        let is_over = tokio::select! {
            biased;
            () = std::future::ready(()), if !entries.is_empty() => true,
            () = &mut patience => true,
            () = service.context.shutdown.cancelled() => true,
            () = tokio::time::sleep(LOOK_AGAIN) => false,
        };
        if is_over {
            return Ok(Json(wire::Audit { entries }).into_response());
        }
    }
}

/// How soon whoever waits for the log sees what was written.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

fn shown_entry(entry: AuditEntry) -> wire::AuditEntry {
    wire::AuditEntry {
        seq: entry.seq,
        at_s: entry.at.as_secs_f64(),
        who: entry.who,
        mac: entry.mac.to_string(),
        what: entry.what,
    }
}
