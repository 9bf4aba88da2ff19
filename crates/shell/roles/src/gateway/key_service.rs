//! The key service of devices: by HTTPS with a certificate or a pre-shared key, and by CoAP.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use claviger_fleet::{CoapAnswer, CoapDatagram, KeyAnswer};
use claviger_frames::PskVersion;
use claviger_net::coap::Answer;
use claviger_net::http;
use claviger_net::psk::{Lookup, PskPeer, Version};

use super::Service;
use crate::role::RoleError;

/// The service on connections that prove nothing of the client: each request carries a MAC.
pub(super) fn signed(service: &Service) -> Router {
    Router::new().route("/v1/devices/{eui}/key", get(key)).with_state(service.clone())
}

/// The service on connections whose client is proven by its pre-shared key.
pub(super) fn proven(service: &Service) -> Router {
    Router::new().route("/v1/devices/{eui}/key", get(key_by_psk)).with_state(service.clone())
}

/// Finds pre-shared keys in the store, while a handshake waits.
pub(super) fn lookup(service: &Service) -> Lookup {
    let service = service.clone();
    Arc::new(move |identity, version| {
        let (identity, (found, finding)) = (identity.to_owned(), std::sync::mpsc::channel());
        let version = match version {
            Version::Tls12 => PskVersion::Tls12,
            Version::Tls13 => PskVersion::Tls13,
        };
        // The answer comes by a channel of its own: it waits for no commit, as it changes nothing.
        drop(service.writer.begin(move |core, tx| {
            let key = core.half.pre_shared_key(tx, &identity, version)?;
            drop(found.send(key));
            Ok::<_, claviger_durable::EngineError>(())
        }));
        finding.recv().ok().flatten()
    })
}

/// Answers a datagram at the CoAP port.
pub(super) async fn answer_datagram(service: Service, datagram: Vec<u8>) -> Option<Answer> {
    let claim = match CoapDatagram::read(&datagram) {
        CoapDatagram::Noise => return None,
        CoapDatagram::Answered(datagram) => return Some(Answer { datagram, asker: None }),
        CoapDatagram::Claim(claim) => claim,
    };
    let now = service.context.clock.now();
    let answer = service.core(move |core, tx| core.half.handle_coap(tx, now, &claim));
    let CoapAnswer { datagram, asker } = answer.await.ok().flatten()?;
    Some(Answer { datagram, asker })
}

/// `GET /v1/devices/{eui}/key?have=e` (`PROTOCOL.md` P3c).
async fn key(
    State(service): State<Service>,
    Path(eui): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let now = service.context.clock.now();
    let (asked, authorization) = signed_part(&uri, &headers);
    let answer = service.core(move |core, tx| {
        let authorization = authorization.as_deref();
        core.half.handle_key_request(tx, now, &eui, have_of(&asked), &asked, authorization)
    });
    respond(answer.await)
}

/// The same on a connection whose handshake has proven who asks.
async fn key_by_psk(
    State(service): State<Service>,
    Path(eui): Path<String>,
    Extension(peer): Extension<PskPeer>,
    uri: Uri,
) -> Response {
    let now = service.context.clock.now();
    let asked = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let answer = service.core(move |core, tx| {
        let proven = (&*peer.proven.identity, &*peer.proven.key);
        core.half.handle_proven_request(tx, now, &eui, have_of(&asked), proven)
    });
    respond(answer.await)
}

/// Returns path and query of a request, and what signs them.
pub(super) fn signed_part(uri: &Uri, headers: &HeaderMap) -> (String, Option<String>) {
    let asked = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    (asked, authorization.map(str::to_owned))
}

pub(super) fn have_of(path_and_query: &str) -> Option<&str> {
    path_and_query.split_once("?have=").map(|(_, have)| have)
}

fn respond(answer: Result<KeyAnswer, RoleError>) -> Response {
    let fresh = [(CACHE_CONTROL, "no-store")];
    match answer {
        Ok(KeyAnswer::Frame(frame)) => {
            (fresh, [(CONTENT_TYPE, "application/cose")], frame).into_response()
        }
        Ok(KeyAnswer::NothingDue) => (StatusCode::NO_CONTENT, fresh).into_response(),
        Ok(KeyAnswer::Later { retry_after }) => {
            let secs = retry_after.as_micros().div_ceil(1_000_000).to_string();
            let message = "no key is ready for this device yet; ask again later";
            let body = http::error_response(StatusCode::SERVICE_UNAVAILABLE, message);
            (fresh, [(RETRY_AFTER, secs)], body).into_response()
        }
        Ok(KeyAnswer::Denied) => {
            let message = "unknown device, or its proof is wrong or stale";
            (fresh, http::error_response(StatusCode::UNAUTHORIZED, message)).into_response()
        }
        Err(_) => {
            let message = "the gateway's store has failed; its operator must restart it";
            http::error_response(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }
}
