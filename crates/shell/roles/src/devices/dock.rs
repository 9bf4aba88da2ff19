//! Docking: a device on the cable of its gateway takes a pad home.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use claviger_device::{Device, PadMark};
use claviger_net::{http, local};
use claviger_units::SecretBytes;

/// What a device is given on the cable.
pub(super) enum Given {
    /// A key frame to take first.
    Frame(Vec<u8>),
    /// A pad, with its keys.
    Pad(PadMark, SecretBytes),
    /// Nothing yet.
    Nothing,
}

/// Asks once, over the socket of the gateway.
pub(super) async fn ask(socket: &Path, device: &Device) -> io::Result<Given> {
    let (path_and_query, authorization) = device.dock_request();
    let headers = [("authorization", authorization.as_str())];
    let exchange = async {
        let stream = local::connect(socket).await?;
        http::get_once(stream, "dock", &path_and_query, &headers).await
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await??;
    let is_frame = answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/cose");
    match answer.status {
        StatusCode::OK if is_frame => Ok(Given::Frame(answer.body.expose().to_vec())),
        StatusCode::OK => match device.open_pad(answer.body.expose()) {
            Some((mark, keys)) => Ok(Given::Pad(mark, keys)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a pad for this device")),
        },
        _ => Ok(Given::Nothing),
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
