//! HTTPS: an axum router behind the guarded accept loop, and a client that trusts one authority.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use claviger_units::SecretBytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::local::LocalListener;
use crate::psk::{PskPeer, PskServer};
use crate::shutdown::Shutdown;
use crate::tls::{PeerInfo, TlsServer};

/// The longest request body of [`serve`]; a longer one gets 413.
pub const MAX_BODY: usize = 64 * 1024;
/// The longest head of a request; a longer one gets 431.
pub const MAX_HEAD: usize = 16 * 1024;

/// Serves `router` over TLS until `shutdown`; requests under way are answered first.
///
/// Every request carries the extension [`PeerInfo`] and, where the client's certificate has a
/// name, the extension [`claviger_units::SaeId`]. Every answer of 400 and above has the JSON body
/// `{"message": ..}` of ETSI GS QKD 014 (`WIRE.md` §2), whoever made it. No path has the method
/// HEAD, which axum would answer by a GET without its body: a GET may spend a key.
pub async fn serve(listener: TcpListener, tls: &TlsServer, router: Router, shutdown: &Shutdown) {
    serve_up_to(MAX_BODY, listener, tls, router, shutdown).await;
}

/// Does what [`serve`] does, with request bodies of up to `max_body` bytes.
pub async fn serve_up_to(
    max_body: usize,
    listener: TcpListener,
    tls: &TlsServer,
    router: Router,
    shutdown: &Shutdown,
) {
    let signal = shutdown.clone();
    let router = router.layer(DefaultBodyLimit::max(max_body));
    let handle = move |stream, peer| {
        serve_connection(stream, Guest::Certified(peer), max_body, router.clone(), signal.clone())
    };
    tls.serve(listener, shutdown, handle).await;
}

/// Does what [`serve`] does for clients with pre-shared keys; every request carries the extension
/// [`PskPeer`].
pub async fn serve_psk(
    listener: TcpListener,
    psk: &PskServer,
    router: Router,
    shutdown: &Shutdown,
) {
    let signal = shutdown.clone();
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY));
    let handle = move |stream, peer| {
        serve_connection(stream, Guest::Keyed(peer), MAX_BODY, router.clone(), signal.clone())
    };
    psk.serve(listener, shutdown, handle).await;
}

/// Does what [`serve`] does for programs of this machine, a few at a time; nothing of them is proven.
pub async fn serve_local(listener: LocalListener, router: Router, shutdown: &Shutdown) {
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY));
    let places = Arc::new(Semaphore::new(MOST_LOCAL));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok(stream) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // One more is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let served =
            serve_connection(stream, Guest::Local, MAX_BODY, router.clone(), shutdown.clone());
        tokio::spawn(async move {
            served.await;
            drop(place);
        });
    }
}

/// Connections of this machine at once.
const MOST_LOCAL: usize = 16;
/// How long to wait when the system has no room for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone)]
enum Guest {
    /// A program of this machine.
    Local,
    /// A connection of TLS with certificates.
    Certified(PeerInfo),
    /// A connection of TLS with a pre-shared key.
    Keyed(PskPeer),
}

impl Guest {
    const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Local => None,
            Self::Certified(peer) => Some(peer.address),
            Self::Keyed(peer) => Some(peer.address),
        }
    }

    fn introduce(self, extensions: &mut Extensions) {
        match self {
            Self::Local => {}
            Self::Certified(peer) => {
                if let Some(name) = peer.name.clone() {
                    extensions.insert(name);
                }
                extensions.insert(peer);
            }
            Self::Keyed(peer) => {
                extensions.insert(peer);
            }
        }
    }
}

/// Makes an answer with the error body of ETSI GS QKD 014: `{"message": ..}`.
#[must_use]
pub fn error_response(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "message": message }))).into_response()
}

/// The end at which the body of an answer is written, piece by piece.
#[derive(Debug)]
pub struct BodySender(http_body_util::channel::Sender<Bytes>);

/// Returns a body and the end at which it is written; it is complete when that end is dropped.
pub fn streamed() -> (BodySender, Body) {
    let (sender, body) = http_body_util::channel::Channel::<Bytes>::new(16);
    (BodySender(sender), Body::new(body))
}

impl BodySender {
    /// Writes a piece; `false` when nobody reads any more.
    pub async fn send(&mut self, piece: impl Into<Bytes> + Send) -> bool {
        self.0.send_data(piece.into()).await.is_ok()
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    guest: Guest,
    max_body: usize,
    router: Router,
    shutdown: Shutdown,
) {
    let address = guest.address();
    let service =
        service_fn(move |request| answer(request, guest.clone(), max_body, router.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(READ_TIME)
        .max_headers(2 * MAX_HEADERS)
        .max_buf_size(4 * MAX_HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(?address, %error, "connection broke");
    }
}

async fn answer(
    request: Request<Incoming>,
    guest: Guest,
    max_body: usize,
    router: Router,
) -> Result<Response, Infallible> {
    let (mut head, body) = request.into_parts();
    let body = match read(&head, body, max_body).await {
        Ok(body) => body,
        Err(StatusCode::PAYLOAD_TOO_LARGE) => {
            let message = format!("the request body is longer than {max_body} bytes");
            return Ok(error_response(StatusCode::PAYLOAD_TOO_LARGE, &message));
        }
        Err(status) => return Ok(error_response(status, meaning(status))),
    };
    guest.introduce(&mut head.extensions);
    if head.method == Method::HEAD {
        head.method = Method::OPTIONS; // which no path has either: 404 or 405
    }
    let Ok(response) = router.oneshot(Request::from_parts(head, Body::from(body))).await;
    Ok(with_message(response).await)
}

/// Reads the whole body, within the limits of size and time.
async fn read(head: &Parts, body: Incoming, max_body: usize) -> Result<Bytes, StatusCode> {
    let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let length = head.uri.to_string().len() + lines.sum::<usize>();
    if length > MAX_HEAD || head.headers.len() > MAX_HEADERS {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    tokio::time::timeout(READ_TIME, collect(body, max_body))
        .await
        .or(Err(StatusCode::REQUEST_TIMEOUT))?
}

async fn collect(mut body: Incoming, max_body: usize) -> Result<Bytes, StatusCode> {
    let max_drain = max_body.max(MAX_DRAIN);
    if body.size_hint().lower() > max_drain as u64 {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let (mut kept, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.or(Err(StatusCode::BAD_REQUEST))?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        length += data.len();
        // A somewhat too long body is read to its end, or the client would never see the answer.
        if length <= max_body {
            kept.extend_from_slice(data);
        } else if length > max_drain {
            break;
        }
    }
    if length > max_body { Err(StatusCode::PAYLOAD_TOO_LARGE) } else { Ok(kept.into()) }
}

/// Gives every error its JSON body; keeps the headers (`Allow`), and the text as the message.
async fn with_message(response: Response) -> Response {
    let status = response.status();
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = if text.is_empty() { meaning(status) } else { &text };
    let (error, body) = error_response(status, message).into_parts();
    head.headers.remove(CONTENT_LENGTH);
    head.headers.extend(error.headers);
    disallow_head(&mut head.headers);
    Response::from_parts(head, body)
}

/// Takes HEAD out of `Allow`, where axum lists it beside every GET.
fn disallow_head(headers: &mut HeaderMap) {
    let Some(methods) = headers.get(ALLOW).and_then(|methods| methods.to_str().ok()) else {
        return;
    };
    let others = methods.split(',').map(str::trim).filter(|method| *method != "HEAD");
    let others = HeaderValue::try_from(others.collect::<Vec<_>>().join(", "));
    headers.insert(ALLOW, others.expect("parts of a header value make one"));
}

fn meaning(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is nothing at this path",
        StatusCode::METHOD_NOT_ALLOWED => "this path has other methods, see the header Allow",
        StatusCode::REQUEST_TIMEOUT => "the request body did not arrive in time",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "send the body as application/json",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the request head is longer than 16384 bytes"
        }
        _ => status.canonical_reason().unwrap_or("error"),
    }
}

/// An HTTPS client that trusts one authority, uses no proxy and follows no redirection.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most 1 MiB; it may hold keys.
    pub body: SecretBytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection, so the request was not sent: try again later.
    #[error("cannot connect to {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the HTTP library said.
        source: reqwest::Error,
    },
    /// The request may have been carried out, but its answer was lost.
    #[error("the answer of {url} was lost")]
    Lost {
        /// What was asked.
        url: String,
        /// What the HTTP library said.
        source: reqwest::Error,
    },
    /// The answer is longer than 1 MiB: the server is not what it should be.
    #[error("the answer of {url} is longer than 1 MiB")]
    TooLong {
        /// What was asked.
        url: String,
    },
}

impl Client {
    /// Makes a client from [`crate::tls::client_mutual`] or [`crate::tls::client_anonymous`].
    ///
    /// It waits at most 3 s for a connection and 10 s for an answer.
    #[must_use]
    pub fn new(tls: &Arc<ClientConfig>) -> Self {
        Self(build(ClientConfig::clone(tls)))
    }

    /// Asks for `url`.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer, ClientError> {
        send(self.0.get(url), url, headers).await
    }

    /// Sends a JSON body to `url`.
    pub async fn post_json(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let json = HeaderValue::from_static("application/json");
        send(self.0.post(url).header(CONTENT_TYPE, json).body(body), url, headers).await
    }

    /// Sends text to `url`.
    pub async fn post_text(&self, url: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        send(self.0.post(url).header(CONTENT_TYPE, text).body(body), url, &[]).await
    }

    /// Puts a JSON body at `url`.
    pub async fn put_json(&self, url: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        let json = HeaderValue::from_static("application/json");
        send(self.0.put(url).header(CONTENT_TYPE, json).body(body), url, &[]).await
    }

    /// Deletes what is at `url`.
    pub async fn delete(&self, url: &str) -> Result<Answer, ClientError> {
        send(self.0.delete(url), url, &[]).await
    }
}

/// Asks for a path on a connection that is made for this one question, and closes it.
///
/// The head of the question has nothing but `host` and what `headers` name: where each byte costs, none
/// says who asks by which program.
pub async fn get_once<S>(
    stream: S,
    host: &str,
    path_and_query: &str,
    headers: &[(&str, &str)],
) -> io::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let path: Uri = path_and_query.parse().map_err(io::Error::other)?;
    let mut request = Request::get(path).header(HOST, host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(http_body_util::Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = http_body_util::Limited::new(body, MAX_DRAIN).collect().await;
        Ok::<_, hyper::Error>((head, body))
    };
    let (carried, exchanged) = tokio::join!(connection, exchange);
    let (head, body) = exchanged.map_err(io::Error::other)?;
    if let Err(error) = carried {
        tracing::debug!(%error, "a connection was not closed in order");
    }
    let body = body.map_err(io::Error::other)?.to_bytes();
    let body = SecretBytes::new(body.to_vec());
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn build(tls: ClientConfig) -> reqwest::Client {
    let built = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(3))
        .timeout(Duration::from_secs(10))
        // Shorter than `READ_TIME`, after which the server closes an idle connection.
        .pool_idle_timeout(Duration::from_secs(5))
        .build();
    built.expect("the TLS configuration is complete and there is no proxy to parse")
}

async fn send(
    mut request: reqwest::RequestBuilder,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<Answer, ClientError> {
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let fault = |source: reqwest::Error| match source.without_url() {
        source if source.is_connect() || source.is_builder() => {
            ClientError::Unreachable { url: url.into(), source }
        }
        source => ClientError::Lost { url: url.into(), source },
    };
    let mut response = request.send().await.map_err(fault)?;
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(fault)? {
        if body.len() + part.len() > MAX_DRAIN {
            return Err(ClientError::TooLong { url: url.into() });
        }
        body.extend_from_slice(&part);
    }
    let headers = std::mem::take(response.headers_mut());
    Ok(Answer { status: response.status(), headers, body: SecretBytes::new(body) })
}

const MAX_HEADERS: usize = 100;
const MAX_DRAIN: usize = 1 << 20;
const READ_TIME: Duration = Duration::from_secs(10);
