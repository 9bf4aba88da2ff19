//! HTTPS over real sockets: curl and our own client against hostile neighbours.

#![expect(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use claviger_net::accept::{Counts, Limits};
use claviger_net::http::{self, Client, ClientError};
use claviger_net::pki::DemoAuthority;
use claviger_net::shutdown::Shutdown;
use claviger_net::tls::{self, PeerInfo, TlsServer};
use claviger_units::SaeId;
use rustls::{NamedGroup, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    authority: DemoAuthority,
    server: TlsServer,
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Site {
    async fn mutual(limits: Limits) -> Self {
        Self::start(limits, |authority| {
            let identity = authority.issue("kme-a", &[]).unwrap().identity();
            tls::server_mutual(&identity, &authority.trust())
        })
        .await
    }

    async fn auth_only() -> Self {
        Self::start(Limits::STANDARD, |authority| {
            tls::server_auth_only(&authority.issue("gateway", &[]).unwrap().identity())
        })
        .await
    }

    async fn start(
        limits: Limits,
        config: impl FnOnce(&DemoAuthority) -> Arc<ServerConfig>,
    ) -> Self {
        let authority = DemoAuthority::generate("demo").unwrap();
        let server = TlsServer::new(config(&authority), limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let (serving, signal) = (server.clone(), shutdown.clone());
        let task =
            tokio::spawn(async move { http::serve(listener, &serving, router(), &signal).await });
        Self { authority, server, address, shutdown, task }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    fn client(&self, name: &str) -> Client {
        let identity = self.authority.issue(name, &[]).unwrap().identity();
        Client::new(&tls::client_mutual(&identity, &self.authority.trust()))
    }

    async fn counted(&self, seen: impl Fn(Counts) -> bool) {
        let wait = async {
            while !seen(self.server.counts()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{:?}", self.server.counts());
    }
}

fn router() -> Router {
    let who = |peer: Extension<PeerInfo>, name: Option<Extension<SaeId>>| async move {
        assert_eq!(peer.name.as_ref(), name.as_deref());
        name.map_or("nobody".into(), |name| name.to_string())
    };
    let echo = |Json(value): Json<Value>| async move { Json(value) };
    Router::new().route("/who", get(who)).route("/echo", post(echo))
}

/// Runs curl and returns its standard output, or its error text.
async fn curl(args: &[&str]) -> Result<String, String> {
    let ran = tokio::process::Command::new("curl").args(["-sS", "-m", "10"]).args(args).output();
    let ran = ran.await.expect("curl is installed");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if ran.status.success() { Ok(text(ran.stdout)) } else { Err(text(ran.stderr)) }
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn with_curl_a_client_is_known_by_its_certificate() {
    let site = Site::mutual(Limits::STANDARD).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    site.authority.write_certificate(&ca).unwrap();
    site.authority.issue("sae-1", &[]).unwrap().write(dir.path(), "sae-1").unwrap();
    let (pem, key) = (dir.path().join("sae-1.pem"), dir.path().join("sae-1.key"));
    let trust = ["--cacert", utf8(&ca)];
    let known = [&trust[..], &["--cert", utf8(&pem), "--key", utf8(&key)]].concat();

    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}/who", site.address.port());
        assert_eq!(curl(&[&known[..], &[&url]].concat()).await.as_deref(), Ok("sae-1"));
    }
    for version in ["--tls-max", "--tlsv1.3"] {
        let args = [&known[..], &[version], if version == "--tls-max" { &["1.2"] } else { &[] }];
        let url = site.url("/who");
        assert_eq!(curl(&[&args.concat()[..], &[&url]].concat()).await.as_deref(), Ok("sae-1"));
    }
    let refused = curl(&[&trust[..], &[&site.url("/who")]].concat()).await.unwrap_err();
    assert!(refused.contains("certificate required"), "{refused}");
    site.counted(|seen| seen.failed == 1).await;

    let head = format!("X-Long: {}", "x".repeat(http::MAX_HEAD));
    let url = site.url("/who");
    let show = ["-w", "\n%{http_code} %{content_type} %header{allow}"];
    let ask = async |args: &[&str]| curl(&[&known, &show[..], args].concat()).await.unwrap();
    let cases = [
        (ask(&["-X", "DELETE", &url]).await, "405 application/json GET"),
        (ask(&["-H", &head, &url]).await, "431 application/json "),
        (ask(&[&site.url("/nothing")]).await, "404 application/json "),
        (ask(&["-d", "{}", &site.url("/echo")]).await, "415 application/json "),
    ];
    for (got, expected) in cases {
        let (body, last) = got.rsplit_once('\n').unwrap();
        assert_eq!(last, expected, "{body}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    // A HEAD would carry out what its GET does, and throw the answer away.
    let head = ask(&["--head", "-o", "/dev/null", &url]).await;
    assert_eq!(head.trim(), "405 application/json GET");
}

#[tokio::test]
async fn bodies_up_to_64_kilobytes_are_taken() {
    let site = Site::mutual(Limits::STANDARD).await;
    let client = site.client("sae-1");
    let body = |length: usize| format!("\"{}\"", "x".repeat(length - 2)).into_bytes();
    for (length, status) in [
        (http::MAX_BODY, StatusCode::OK),
        (http::MAX_BODY + 1, StatusCode::PAYLOAD_TOO_LARGE),
        (16 * http::MAX_BODY, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = client.post_json(&site.url("/echo"), &[], body(length)).await.unwrap();
        assert_eq!(answer.status, status, "{length}");
    }
    let answer = client.post_json(&site.url("/echo"), &[], b"{".to_vec()).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.expose().starts_with(b"{\"message\":"), "{answer:?}");
}

#[tokio::test]
async fn silent_and_garbled_clients_disturb_nobody() {
    let limits = Limits { half_open: 4, ..Limits::STANDARD };
    let site = Site::mutual(limits).await;
    let client = site.client("sae-1");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(site.address).await.unwrap());
    }
    let mut garbled = TcpStream::connect(site.address).await.unwrap();
    garbled.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let answer = client.get(&site.url("/who"), &[]).await.unwrap();
    assert_eq!(answer.body.expose(), b"sae-1");
    garbled.read_to_end(&mut Vec::new()).await.ok();
    site.counted(|seen| seen.displaced >= 16 && seen.failed == 1 && seen.opened == 1).await;
}

#[tokio::test]
async fn a_silent_client_is_closed_in_time() {
    let limits = Limits { opening: Duration::from_millis(50), ..Limits::STANDARD };
    let site = Site::mutual(limits).await;
    let mut silent = TcpStream::connect(site.address).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 1])).await.unwrap();
    assert_eq!(closed.unwrap_or(0), 0);
    site.counted(|seen| seen.late == 1).await;
}

#[tokio::test]
async fn too_many_connections_are_refused() {
    let site = Site::mutual(Limits { connections: 1, ..Limits::STANDARD }).await;
    let (first, second) = (site.client("sae-1"), site.client("sae-2"));
    first.get(&site.url("/who"), &[]).await.unwrap();
    let refused = second.get(&site.url("/who"), &[]).await.unwrap_err();
    assert!(matches!(refused, ClientError::Lost { .. }), "{refused:?}");
    assert_eq!(site.server.counts().refused, 1);
    first.get(&site.url("/who"), &[]).await.unwrap();
    drop(first);
    let url = site.url("/who");
    let freed = async { while second.get(&url, &[]).await.is_err() {} };
    tokio::time::timeout(PATIENCE, freed).await.expect("room again");
}

#[tokio::test]
async fn the_client_trusts_only_its_authority() {
    let site = Site::auth_only().await;
    let trusting = Client::new(&tls::client_anonymous(&site.authority.trust()));
    let answer = trusting.get(&site.url("/who"), &[("X-Any", "1")]).await.unwrap();
    assert_eq!(answer.body.expose(), b"nobody");

    let other = DemoAuthority::generate("demo").unwrap();
    let wary = Client::new(&tls::client_anonymous(&other.trust()));
    let refused = wary.get(&site.url("/who"), &[]).await.unwrap_err();
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused:?}");
    let plain = trusting.get(&format!("http://{}/who", site.address), &[]).await;
    assert!(plain.is_err(), "https only");
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    let site = Site::auth_only().await;
    let config = tls::client_anonymous(&site.authority.trust());
    let tcp = TcpStream::connect(site.address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_clean_stop_answers_what_was_asked() {
    let authority = DemoAuthority::generate("demo").unwrap();
    let identity = authority.issue("gateway", &[]).unwrap().identity();
    let server = TlsServer::new(tls::server_auth_only(&identity), Limits::STANDARD);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/slow", listener.local_addr().unwrap().port());
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes) = (Arc::clone(&begun), Arc::clone(&go));
    let slow = || async move {
        begins.notify_one();
        goes.notified().await;
        "done"
    };
    let router = Router::new().route("/slow", get(slow));
    let shutdown = Shutdown::new();
    let signal = shutdown.clone();
    let serving =
        tokio::spawn(async move { http::serve(listener, &server, router, &signal).await });

    let client = Client::new(&tls::client_anonymous(&authority.trust()));
    let asking = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move { client.get(&url, &[]).await }
    });
    begun.notified().await;
    shutdown.trigger();
    tokio::task::yield_now().await;
    go.notify_one();
    assert_eq!(asking.await.unwrap().unwrap().body.expose(), b"done");
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    let refused = client.get(&url, &[]).await.unwrap_err();
    assert!(matches!(refused, ClientError::Unreachable { .. }), "{refused:?}");
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_the_end() {
    let site = Site::mutual(Limits::STANDARD).await;
    site.client("sae-1").get(&site.url("/who"), &[]).await.unwrap();
    let _idle = TcpStream::connect(site.address).await.unwrap();
    site.shutdown.trigger();
    tokio::time::timeout(Duration::from_secs(3), site.task).await.unwrap().unwrap();
}
