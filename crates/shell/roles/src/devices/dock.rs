//! Docking: a device on the cable of its gateway takes a pad home.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use claviger_device::{Device, PadMark};
use claviger_frames::Epoch;
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
        StatusCode::OK => read(&answer.body).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        _ => Ok(Given::Nothing),
    }
}

/// Reads `be32(prev) ‖ be32(first) ‖ keys`.
fn read(body: &SecretBytes) -> Option<Given> {
    let (prev, rest) = body.expose().split_first_chunk()?;
    let (first, keys) = rest.split_first_chunk()?;
    let n_keys = u32::try_from(keys.len() / 32).ok()?;
    let mark = PadMark { prev: Epoch::from_bytes(*prev), first: Epoch::from_bytes(*first), n_keys };
    let is_whole = n_keys > 0 && keys.len().is_multiple_of(32) && mark.prev < mark.first;
    is_whole.then(|| Given::Pad(mark, SecretBytes::new(keys.to_vec())))
}

const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pads_are_taken() {
        let of = |prev: u32, first: u32, n_bytes: usize| {
            let head = [prev.to_be_bytes(), first.to_be_bytes()].concat();
            read(&SecretBytes::new([head, vec![7; n_bytes]].concat()))
        };
        let Some(Given::Pad(mark, keys)) = of(2, 5, 96) else { panic!("a pad of three keys") };
        assert_eq!((mark.n_keys, keys.len(), mark.first), (3, 96, Epoch::new(5)));
        for (prev, first, n_bytes) in [(2, 5, 0), (2, 5, 31), (2, 5, 33), (5, 5, 32), (6, 5, 32)] {
            assert!(of(prev, first, n_bytes).is_none(), "{prev} {first} {n_bytes}");
        }
        assert!(read(&SecretBytes::new(vec![0; 7])).is_none());
    }
}
