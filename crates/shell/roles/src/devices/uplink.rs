//! The gateway as devices reach it: every path of keys, and the broker, each counted on its connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode};
use claviger_device::{Device, KeyAnswer, KeyPath};
use claviger_frames::PskVersion;
use claviger_net::handshake::{PublicKeyWork, client_work};
use claviger_net::http::{self, Answer};
use claviger_net::meter::{Meter, Traffic};
use claviger_net::mqtt::Access;
use claviger_net::psk::{self, Credentials, Keying};
use claviger_net::{coap, tls};
use claviger_units::Span;
use rustls::ClientConfig;

/// Where the gateway's services are.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) host: String,
    pub(super) keys: u16,
    pub(super) psk: Option<SocketAddr>,
    pub(super) coap: Option<SocketAddr>,
    pub(super) mqtt: SocketAddr,
    pub(super) mqtt_psk: Option<SocketAddr>,
    pub(super) tls: Arc<ClientConfig>,
}

/// What went over the wire for a question, and what it took to compute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) handshake: Traffic,
    pub(super) traffic: Traffic,
    pub(super) work: PublicKeyWork,
}

impl Uplink {
    /// Asks the key service over TLS with its certificate.
    pub(super) async fn get(
        &self,
        path_and_query: &str,
        authorization: &str,
    ) -> io::Result<(Answer, Count)> {
        let meter = Meter::new();
        let tls = Arc::clone(&self.tls);
        let (stream, certificates) =
            tls::connect_metered(&self.host, self.keys, tls, meter.clone()).await?;
        let handshake = meter.traffic();
        let headers = [("authorization", authorization)];
        let answer = http::get_once(stream, &self.host, path_and_query, &headers).await?;
        Ok((answer, Count::of(&meter, handshake, certificates)))
    }

    /// Asks the key service over TLS with a pre-shared key.
    pub(super) async fn get_by_psk(
        &self,
        device: &Device,
        path: KeyPath,
        path_and_query: &str,
    ) -> io::Result<(Answer, Count)> {
        let (address, version) = self.psk.zip(path.psk_version()).ok_or_else(unconfigured)?;
        let (meter, shown) = (Meter::new(), credentials(device, version));
        let stream = psk::connect(address, keying(path), &shown, meter.clone()).await?;
        let handshake = meter.traffic();
        let answer = http::get_once(stream, &self.host, path_and_query, &[]).await?;
        Ok((answer, Count::of(&meter, handshake, 0)))
    }

    /// Sends a datagram to the CoAP port until `is_answer` takes one that comes back.
    pub(super) async fn ask_by_coap(
        &self,
        datagram: &[u8],
        is_answer: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Count> {
        let address = self.coap.ok_or_else(unconfigured)?;
        let (answer, traffic) = coap::ask(address, datagram, is_answer).await?;
        answer.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
        Ok(Count { traffic, ..Count::default() })
    }

    /// Says how a device reaches the broker: over TLS with a pre-shared key, unless it is one that works
    /// with certificates anyway.
    pub(super) fn broker(&self, device: &Device) -> Access {
        let (host, eui) = (self.mqtt.ip().to_string(), device.eui().to_string());
        let access = Access::plain(&host, self.mqtt.port(), &eui, &eui, &device.mqtt_password());
        let path = device.path();
        match self.mqtt_psk.zip(path.session_version()) {
            Some((address, version)) => {
                let keying =
                    if version == PskVersion::Tls12 { Keying::Tls12 } else { keying(path) };
                access.over_psk(address, keying, credentials(device, version))
            }
            None => access.over_tls(Arc::clone(&self.tls)),
        }
    }
}

impl Count {
    fn of(meter: &Meter, handshake: Traffic, certificates: u32) -> Self {
        let (sent, received) = meter.first_bytes();
        let work = client_work(&sent, &received, certificates).unwrap_or_else(|error| {
            tracing::warn!(%error, "a handshake of ours cannot be read");
            PublicKeyWork::default()
        });
        Self { handshake, traffic: meter.traffic(), work }
    }
}

const fn keying(path: KeyPath) -> Keying {
    match path {
        KeyPath::Psk13Ke => Keying::Tls13,
        KeyPath::Psk13Dhe => Keying::Tls13Ephemeral,
        KeyPath::Psk12 | KeyPath::Https | KeyPath::Oscore | KeyPath::Push | KeyPath::Pad => {
            Keying::Tls12
        }
    }
}

fn credentials(device: &Device, version: PskVersion) -> Arc<Credentials> {
    let identity = device.psk_identity(version).to_string();
    Arc::new(Credentials { identity, key: device.pre_shared_key(version) })
}

fn unconfigured() -> io::Error {
    io::Error::other("the configuration names no address for this path")
}

/// Reads the answer of the key service (`PROTOCOL.md` P3c).
pub(super) fn key_answer<'a>(
    status: StatusCode,
    headers: &HeaderMap,
    body: &'a [u8],
) -> KeyAnswer<'a> {
    match status {
        StatusCode::OK => KeyAnswer::Frame(body),
        StatusCode::NO_CONTENT => KeyAnswer::NothingDue,
        StatusCode::UNAUTHORIZED => KeyAnswer::Denied,
        StatusCode::SERVICE_UNAVAILABLE => {
            let seconds =
                headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            KeyAnswer::Later { retry_after: seconds.map_or(Span::ZERO, Span::from_secs) }
        }
        _ => KeyAnswer::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_key_service_is_understood() {
        let later = |secs| KeyAnswer::Later { retry_after: Span::from_secs(secs) };
        for (status, retry_after, expected) in [
            (200, None, KeyAnswer::Frame(b"frame")),
            (204, None, KeyAnswer::NothingDue),
            (401, None, KeyAnswer::Denied),
            (503, Some("3"), later(3)),
            (503, Some("Fri, 31 Dec 1999 23:59:59 GMT"), later(0)),
            (503, Some("-1"), later(0)),
            (503, None, later(0)),
            (404, None, KeyAnswer::Unreachable),
            (500, Some("3"), KeyAnswer::Unreachable),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = retry_after {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                key_answer(status, &headers, b"frame"),
                expected,
                "{status} {retry_after:?}"
            );
        }
    }
}
