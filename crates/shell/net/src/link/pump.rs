//! Bytes of one connection ⇄ frames.

use std::fmt;
use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use zeroize::{Zeroize, Zeroizing};

use super::{LinkEvent, MAX_FRAME, Stream, Timing};

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The other end closed it.
    Closed,
    /// It broke.
    Broken(io::Error),
    /// Nothing was heard for too long.
    Silent,
    /// The other end announced a frame that is too long.
    Oversized(usize),
    /// The role did not listen.
    Deaf,
    /// The peer connected anew.
    Superseded,
    /// The role hung up.
    HungUp,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the other end closed the connection"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
            Self::Silent => f.write_str("the other end fell silent"),
            Self::Oversized(length) => write!(f, "a frame of {length} bytes is too long"),
            Self::Deaf => f.write_str("this end did not take its events in time"),
            Self::HungUp => f.write_str("this end hung up"),
            Self::Superseded => f.write_str("the other end connected anew"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Carries frames both ways until the connection ends.
pub(super) async fn run(
    stream: impl Stream,
    queue: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<LinkEvent>,
    timing: Timing,
) -> End {
    let (reading, writing) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read(reading, events, timing) => ended,
        ended = write(writing, queue, timing) => ended,
    };
    ended.err().unwrap_or(End::Closed)
}

async fn read(
    mut stream: impl AsyncRead + Unpin,
    events: &mpsc::Sender<LinkEvent>,
    timing: Timing,
) -> Result<(), End> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(frame) = take_frame(&mut buffer)? {
            if !frame.is_empty() {
                let told = events.send_timeout(LinkEvent::Frame(frame.to_vec()), timing.deaf);
                told.await.or(Err(End::Deaf))?;
            }
        }
        buffer.reserve(READ_SIZE);
        if timeout(timing.silence, stream.read_buf(&mut buffer)).await.or(Err(End::Silent))?? == 0 {
            return Ok(());
        }
    }
}

/// Takes the first frame out of `buffer` once it is whole.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<BytesMut>, End> {
    let Some(&[a, b, c, d]) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_FRAME {
        return Err(End::Oversized(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    Ok(Some(buffer.split_to(4 + length).split_off(4)))
}

async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Vec<u8>>,
    timing: Timing,
) -> Result<(), End> {
    let mut ping = interval(timing.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut bytes = BytesMut::new();
    loop {
        tokio::select! {
            frame = queue.recv() => put_frame(&mut bytes, Zeroizing::new(frame.ok_or(End::HungUp)?)),
            _ = ping.tick() => put_frame(&mut bytes, Zeroizing::default()),
        }
        while bytes.len() < READ_SIZE
            && let Ok(frame) = queue.try_recv()
        {
            put_frame(&mut bytes, Zeroizing::new(frame));
        }
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        bytes.as_mut().zeroize();
        bytes.clear();
    }
}

/// Appends a frame and wipes it: some carry keys.
fn put_frame(bytes: &mut BytesMut, frame: Zeroizing<Vec<u8>>) {
    bytes.put_u32(u32::try_from(frame.len()).expect("a frame has at most 1 MiB"));
    bytes.put_slice(&frame);
}

const READ_SIZE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(frames: Vec<Vec<u8>>, cut in 1usize..40) {
            let mut sent = BytesMut::new();
            for frame in &frames {
                put_frame(&mut sent, Zeroizing::new(frame.clone()));
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in sent.chunks(cut) {
                buffer.put_slice(piece);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_frame(&mut buffer) {}
        }
    }
}
