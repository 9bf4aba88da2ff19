//! The dock: where a device is given its pad over the cable (`PROTOCOL.md` P3, docked pad).

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use claviger_fleet::DockAnswer;
use claviger_net::http;

use super::Service;
use super::key_service::{have_of, signed_part};
use crate::role::RoleError;

/// What the gateway answers on the cable.
pub(super) fn router(service: &Service) -> Router {
    Router::new().route("/v1/devices/{eui}/pad", get(pad)).with_state(service.clone())
}

/// `GET /v1/devices/{eui}/pad?have=e`: a key frame, or a sealed pad (`claviger_frames::pad`).
async fn pad(
    State(service): State<Service>,
    Path(eui): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let now = service.context.clock.now();
    let (asked, authorization) = signed_part(&uri, &headers);
    let answer = service.core(move |core, tx| {
        let signed = (asked.as_str(), authorization.as_deref());
        core.half.handle_dock(tx, now, &eui, have_of(&asked), signed, &mut core.rng)
    });
    respond(answer.await)
}

fn respond(answer: Result<DockAnswer, RoleError>) -> Response {
    let answer = answer_to(answer);
    ([(CACHE_CONTROL, "no-store")], answer).into_response()
}

fn answer_to(answer: Result<DockAnswer, RoleError>) -> Response {
    match answer {
        Ok(DockAnswer::Frame(frame)) => {
            ([(CONTENT_TYPE, "application/cose")], frame).into_response()
        }
        Ok(DockAnswer::Pad(sealed)) => {
            ([(CONTENT_TYPE, "application/octet-stream")], sealed).into_response()
        }
        Ok(DockAnswer::Later { retry_after }) => {
            let secs = retry_after.as_micros().div_ceil(1_000_000).to_string();
            let message = "the platform has yet to agree; ask again";
            let body = http::error_response(StatusCode::SERVICE_UNAVAILABLE, message);
            ([(RETRY_AFTER, secs)], body).into_response()
        }
        Ok(DockAnswer::None) => {
            let message = "no complete pad waits for this device; order one, or wait for it";
            http::error_response(StatusCode::NOT_FOUND, message)
        }
        Ok(DockAnswer::Denied) => {
            let message = "unknown device, or its proof is wrong or stale";
            http::error_response(StatusCode::UNAUTHORIZED, message)
        }
        Err(_) => {
            let message = "the gateway's store has failed; its operator must restart it";
            http::error_response(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }
}
