//! What operators ask of the platform by HTTPS: readings, devices, provisioning; enrolment stands in
//! `registry`.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_durable::{EngineError, Tx};
use claviger_fleet::labels::Label;
use claviger_fleet::provisioning::Known;
use claviger_fleet::{Origin, PadError, PadState, PlatformDevice, ProvisionError, StoredReading};
use claviger_frames::{Epoch, Reading};
use claviger_net::http;
use claviger_units::{Eui64, Key256, SaeId, SecretBytes};
use claviger_wire::platform as wire;
use serde::Deserialize;

use super::{Core, Service, registry};

/// Only the operator's certificate opens these doors; an installer's opens those of new devices and pads.
pub(super) fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/readings", get(readings))
        .route("/v1/devices", get(devices).post(provision))
        .route("/v1/devices/{eui}/pads", get(pads).post(order_pad))
        .merge(registry::router())
        .with_state(service)
}

/// Why an operator gets nothing; nothing has changed.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    pub(super) fn bad_request(message: &str) -> Self {
        Self(StatusCode::BAD_REQUEST, message.to_owned())
    }

    pub(super) fn store_failed() -> Self {
        let message = "the platform's store has failed; its operator must restart it";
        Self(StatusCode::SERVICE_UNAVAILABLE, message.to_owned())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        http::error_response(self.0, &self.1)
    }
}

/// Returns the caller's name, if it is one of these.
pub(super) fn admit(
    allowed: &[&SaeId],
    caller: Option<Extension<SaeId>>,
) -> Result<SaeId, Refused> {
    let admitted = caller.map(|Extension(name)| name).filter(|name| allowed.contains(&name));
    let message = "this certificate does not open this door; use the operator's";
    admitted.ok_or_else(|| Refused(StatusCode::UNAUTHORIZED, message.to_owned()))
}

/// What may be asked of `GET /v1/readings`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadingsQuery {
    #[serde(default)]
    after: u64,
    eui: Option<String>,
    limit: Option<usize>,
}

fn shown_reading(stored: StoredReading) -> wire::Reading {
    let reading = Reading::decode(&stored.reading).ok();
    wire::Reading {
        seq: stored.seq,
        eui: stored.eui.to_string(),
        epoch: stored.epoch.number(),
        key_origin: stored.origin.map(shown_origin),
        counter: stored.counter,
        received_s: stored.received.as_secs_f64(),
        taken_s: reading.as_ref().map(|reading| reading.taken.as_secs_f64()),
        temperature_c: reading.as_ref().map(Reading::temperature_c),
        humidity_pct: reading.as_ref().map(Reading::humidity_pct),
        light_lux: reading.as_ref().map(|reading| reading.light_lux),
        battery_mv: reading.as_ref().map(|reading| reading.battery_mv),
    }
}

const fn shown_origin(origin: Origin) -> wire::KeyOrigin {
    match origin {
        Origin::Simulated => wire::KeyOrigin::Simulated,
        Origin::Link => wire::KeyOrigin::Unlabelled,
    }
}

async fn readings(
    State(service): State<Service>,
    caller: Option<Extension<SaeId>>,
    query: Result<Query<ReadingsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refused> {
    admit(&[&service.operator], caller)?;
    let message = "ask with after=SEQ, limit=1..1000 and eui=16 hex digits";
    let Query(query) = query.or(Err(Refused::bad_request(message)))?;
    let limit = query.limit.unwrap_or(100);
    let eui = query.eui.map(|eui| eui.parse::<Eui64>()).transpose();
    let eui = eui.map_err(|error| Refused::bad_request(&error.to_string()))?;
    if !(1..=1000).contains(&limit) {
        return Err(Refused::bad_request(message));
    }
    let found =
        service.core(move |core, tx| core.half.platform.readings(tx, query.after, eui, limit));
    let found = found.await.or(Err(Refused::store_failed()))?;
    let readings = found.into_iter().map(shown_reading).collect();
    Ok(Json(wire::Readings { readings }).into_response())
}

fn shown_device(device: PlatformDevice) -> wire::Device {
    wire::Device {
        eui: device.eui.to_string(),
        adoption: format!("{:?}", device.adoption).to_lowercase(),
        epoch: device.active.number(),
        prepared: device.prepared.map(Epoch::number),
        key_origin: device.origin.map(shown_origin),
    }
}

async fn devices(
    State(service): State<Service>,
    caller: Option<Extension<SaeId>>,
) -> Result<Response, Refused> {
    admit(&[&service.operator], caller)?;
    let found = service.core(|core, tx| core.half.platform.devices(tx, None, 100_000));
    let found = found.await.or(Err(Refused::store_failed()))?;
    let devices = found.into_iter().map(shown_device).collect();
    Ok(Json(wire::Devices { devices }).into_response())
}

/// What `POST /v1/devices` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvisionIn {
    eui: String,
    /// 32 bytes in base64; serves this once and is not kept.
    bootstrap_key: String,
    /// Whether a device that is known already is to start anew, with a new bootstrap key.
    #[serde(default)]
    again: bool,
}

async fn provision(
    State(service): State<Service>,
    caller: Option<Extension<SaeId>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let caller = admit(&[&service.operator, &service.installer], caller)?;
    let message = "send {\"eui\": 16 hex digits, \"bootstrap_key\": 32 bytes in base64}";
    let asked: ProvisionIn =
        serde_json::from_slice(&body).or(Err(Refused::bad_request(message)))?;
    let eui: Eui64 = asked.eui.parse().or(Err(Refused::bad_request(message)))?;
    let key = STANDARD.decode(&asked.bootstrap_key).map(SecretBytes::new);
    let key = key.ok().and_then(|key| Key256::from_slice(key.expose()));
    let key = key.ok_or_else(|| Refused::bad_request(message))?;
    let known = if asked.again { Known::BeginsAnew } else { Known::Refused };
    let (now, policy) = (service.context.clock.now(), service.policy.clone());
    let provisioned =
        service.writer.run(move |core: &mut Core, tx: &mut dyn Tx| -> Result<_, EngineError> {
            match (core.half.enrolments(), eui.mac()) {
                (Some(_), None) => Ok(Err(Unfit::NoCard)),
                (Some(_), Some(mac)) => {
                    let label = Label { mac, key, policy, line: 1 };
                    let brought = core.half.bring(tx, now, caller.as_str(), &[label], known)?;
                    Ok(brought.map_err(|faults| Unfit::Label(first(faults))))
                }
                (None, _) => {
                    let platform = &mut core.half.platform;
                    let provisioned = match known {
                        Known::Refused => platform.provision(tx, eui, &key),
                        Known::BeginsAnew => platform.provision_again(tx, eui, &key),
                    };
                    match provisioned {
                        Err(ProvisionError::Store(error)) => Err(error),
                        other => Ok(other.map_err(|error| Unfit::Label(Some(error)))),
                    }
                }
            }
        });
    match provisioned.await {
        Ok(Ok(Ok(()))) => Ok(StatusCode::CREATED.into_response()),
        Ok(Ok(Err(Unfit::NoCard))) => {
            let why =
                format!("{eui} is the EUI-64 of no MAC address, and this network admits cards");
            Err(Refused(StatusCode::BAD_REQUEST, why))
        }
        Ok(Ok(Err(Unfit::Label(error)))) => {
            let why = error.map_or_else(String::new, |error| error.to_string());
            Err(Refused(StatusCode::CONFLICT, why))
        }
        Ok(Err(_)) | Err(_) => Err(Refused::store_failed()),
    }
}

/// What `POST /v1/devices/{eui}/pads` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PadIn {
    /// How many keys the pad gets.
    keys: u32,
}

async fn pads(
    State(service): State<Service>,
    caller: Option<Extension<SaeId>>,
    Path(eui): Path<String>,
) -> Result<Response, Refused> {
    admit(&[&service.operator], caller)?;
    let eui: Eui64 = eui.parse().map_err(unknown_name)?;
    let found = service.core(move |core, tx| core.half.platform.pads(tx, eui));
    let found = found.await.or(Err(Refused::store_failed()))?;
    let shown = |state: PadState| wire::Pad {
        pad: state.pad,
        keys: state.n_keys,
        held: state.n_held,
        first_epoch: state.first.map(Epoch::number),
    };
    let pads = found.into_iter().map(shown).collect();
    Ok(Json(wire::Pads { pads }).into_response())
}

async fn order_pad(
    State(service): State<Service>,
    caller: Option<Extension<SaeId>>,
    Path(eui): Path<String>,
    body: Bytes,
) -> Result<Response, Refused> {
    admit(&[&service.operator, &service.installer], caller)?;
    let eui: Eui64 = eui.parse().map_err(unknown_name)?;
    let asked: PadIn = serde_json::from_slice(&body)
        .or(Err(Refused::bad_request("send {\"keys\": how many the pad shall have}")))?;
    let job = move |core: &mut Core, tx: &mut dyn Tx| match core
        .half
        .platform
        .order_pad(tx, eui, asked.keys)
    {
        Err(PadError::Store(error)) => Err(error),
        other => Ok(other),
    };
    match service.core(job).await.or(Err(Refused::store_failed()))? {
        Ok(pad) => {
            let ordered = wire::Pad { pad, keys: asked.keys, held: 0, first_epoch: None };
            Ok((StatusCode::CREATED, Json(ordered)).into_response())
        }
        Err(error @ PadError::Length) => Err(Refused::bad_request(&error.to_string())),
        Err(error) => Err(Refused(StatusCode::CONFLICT, error.to_string())),
    }
}

fn unknown_name(error: impl std::fmt::Display) -> Refused {
    Refused::bad_request(&error.to_string())
}

/// Why a device is not taken in.
enum Unfit {
    /// Its name comes of no card.
    NoCard,
    /// Its label.
    Label(Option<ProvisionError>),
}

fn first(faults: Vec<(usize, ProvisionError)>) -> Option<ProvisionError> {
    faults.into_iter().next().map(|(_, fault)| fault)
}
