//! The three methods of ETSI GS QKD 014 by HTTPS.

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use claviger_kme::{Call, Refusal, RefusalKind};
use claviger_net::http;
use claviger_units::SaeId;
use claviger_wire::etsi014::{KeyIds, KeyRequest};

use super::{Failure, Service};

/// The paths of the standard, for any application with a certificate.
pub(super) fn router(service: Service) -> Router {
    Router::new()
        .route("/api/v1/keys/{sae}/status", get(status))
        .route("/api/v1/keys/{sae}/enc_keys", get(enc_keys_get).post(enc_keys_post))
        .route("/api/v1/keys/{sae}/dec_keys", get(dec_keys_get).post(dec_keys_post))
        .with_state(service)
}

/// From domain to HTTP, once: the three error classes of ETSI GS QKD 014.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self::Refused(refusal) = self else {
            let message = "the key store has failed; the operator must restart this KME";
            return http::error_response(StatusCode::SERVICE_UNAVAILABLE, message);
        };
        let status = match refusal.kind() {
            RefusalKind::BadRequest => StatusCode::BAD_REQUEST,
            RefusalKind::Unauthorized => StatusCode::UNAUTHORIZED,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, [(CONTENT_TYPE, "application/json")], refusal.body().to_json()).into_response()
    }
}

/// The caller's name, if its certificate has one.
type Caller = Option<Extension<SaeId>>;

fn caller(caller: Caller) -> Result<SaeId, Failure> {
    caller.map(|Extension(name)| name).ok_or(Failure::Refused(Refusal::Unregistered))
}

async fn status(
    State(service): State<Service>,
    name: Caller,
    Path(slave): Path<String>,
) -> Result<Response, Failure> {
    let name = caller(name)?;
    let answer = service.ask(move |core, tx, _, inquiry| {
        core.kme.status(tx, &core.store, Call { caller: &name, other: &slave, inquiry })
    });
    let body = answer.await?.to_json();
    Ok((no_store(), body).into_response())
}

async fn enc_keys_get(
    State(service): State<Service>,
    name: Caller,
    Path(slave): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    enc_keys(&service, name, slave, move || KeyRequest::from_query(pairs(query.as_deref()))).await
}

async fn enc_keys_post(
    State(service): State<Service>,
    name: Caller,
    Path(slave): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = not_json(&headers, &body) {
        return refused;
    }
    enc_keys(&service, name, slave, move || KeyRequest::from_body(&body)).await.into_response()
}

async fn enc_keys(
    service: &Service,
    name: Caller,
    slave: String,
    request: impl Fn() -> Result<KeyRequest, claviger_wire::etsi014::RequestError>
    + Clone
    + Send
    + 'static,
) -> Result<Response, Failure> {
    let name = caller(name)?;
    let keys = service.ask(move |core, tx, now, inquiry| {
        let call = Call { caller: &name, other: &slave, inquiry };
        core.kme.enc_keys(tx, now, &mut core.store, call, request())
    });
    let keys = keys.await?;
    Ok((no_store(), keys.to_json().expose().to_vec()).into_response())
}

async fn dec_keys_get(
    State(service): State<Service>,
    name: Caller,
    Path(master): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    dec_keys(&service, name, master, move || KeyIds::from_query(pairs(query.as_deref()))).await
}

async fn dec_keys_post(
    State(service): State<Service>,
    name: Caller,
    Path(master): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(refused) = not_json(&headers, &body) {
        return refused;
    }
    dec_keys(&service, name, master, move || KeyIds::from_body(&body)).await.into_response()
}

async fn dec_keys(
    service: &Service,
    name: Caller,
    master: String,
    request: impl Fn() -> Result<KeyIds, claviger_wire::etsi014::RequestError> + Clone + Send + 'static,
) -> Result<Response, Failure> {
    let name = caller(name)?;
    let keys = service.ask(move |core, tx, now, inquiry| {
        let call = Call { caller: &name, other: &master, inquiry };
        core.kme.dec_keys(tx, now, &mut core.store, call, request())
    });
    let keys = keys.await?;
    Ok((no_store(), keys.to_json().expose().to_vec()).into_response())
}

/// Splits a query; what is percent-encoded is decoded.
fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let parsed = axum::http::Uri::builder()
        .path_and_query(format!("/?{}", query.unwrap_or_default()))
        .build()
        .ok();
    let pairs = parsed
        .and_then(|uri| axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
    // What cannot be split is kept whole as a name that no request knows.
    pairs.map_or_else(|| vec![(query.unwrap_or_default().to_owned(), String::new())], |q| q.0)
}

fn not_json(headers: &HeaderMap, body: &Bytes) -> Option<Response> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let json = kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let refused = !body.is_empty() && !json;
    refused.then(|| {
        let message = "send the body with Content-Type: application/json";
        http::error_response(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    })
}

const fn no_store() -> [(axum::http::HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")]
}
