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
    /// Nothing yet, but soon: the sites agree about it.
    Soon,
    /// Nothing.
    Nothing,
}

/// Asks over the socket of the gateway, for as long as it is to come soon.
pub(super) async fn ask(socket: &Path, device: &Device) -> io::Result<Given> {
    for _ in 0..TRIES {
        match ask_once(socket, device).await? {
            Given::Soon => tokio::time::sleep(PAUSE).await,
            given => return Ok(given),
        }
    }
    Ok(Given::Soon)
}

async fn ask_once(socket: &Path, device: &Device) -> io::Result<Given> {
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
        StatusCode::SERVICE_UNAVAILABLE => Ok(Given::Soon),
        _ => Ok(Given::Nothing),
    }
}

/// Between two questions on the cable, and how many there are at most: a question over the air in between
/// would undo what the sites agree about.
const PAUSE: Duration = Duration::from_millis(200);
const TRIES: u32 = 50;

const PATIENCE: Duration = Duration::from_secs(10);
