//! What goes over a connection, counted where it enters the system: bytes, turns, and its first bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What has gone over a connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent, above TCP.
    pub sent: u64,
    /// Bytes received, above TCP.
    pub received: u64,
    /// How often the direction turned from sending to receiving: round trips waited for.
    pub turns: u32,
}

impl Traffic {
    /// Returns the bytes of both directions.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.sent + self.received
    }

    /// Returns what came since an earlier state of the same connection.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            received: self.received - earlier.received,
            turns: self.turns - earlier.turns,
        }
    }
}

/// Reads a meter while its connection is in use elsewhere; clones read the same.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Count>>);

#[derive(Debug, Default)]
struct Count {
    traffic: Traffic,
    is_sending: bool,
    // The first bytes of either direction: hellos are in clear, all that follows is sealed.
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Meter {
    /// Makes a meter that has counted nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what has gone by so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.lock().traffic
    }

    /// Returns the first bytes that were sent and received, [`KEPT`] of each at most.
    #[must_use]
    pub fn first_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let count = self.lock();
        (count.sent.clone(), count.received.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, bytes: &[u8]) {
        let mut count = self.lock();
        count.traffic.sent += bytes.len() as u64;
        count.is_sending |= !bytes.is_empty();
        keep(&mut count.sent, bytes);
    }

    fn received(&self, bytes: &[u8]) {
        let mut count = self.lock();
        count.traffic.received += bytes.len() as u64;
        if count.is_sending && !bytes.is_empty() {
            count.is_sending = false;
            count.traffic.turns += 1;
        }
        keep(&mut count.received, bytes);
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}

/// How much of either direction a meter keeps.
pub const KEPT: usize = 4096;

/// A stream with a meter at its side.
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    meter: Meter,
}

impl<S> Metered<S> {
    /// Counts what goes over `stream` from now on.
    #[must_use]
    pub const fn new(stream: S, meter: Meter) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &polled {
            self.meter.received(&buffer.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(length)) = &polled {
            self.meter.sent(&bytes[..*length]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_and_turns_are_counted() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let meter = Meter::new();
        let mut near = Metered::new(near, meter.clone());
        for question in [&b"one"[..], b"three"] {
            near.write_all(question).await.unwrap();
            near.write_all(b"!").await.unwrap();
            let mut heard = vec![0; question.len() + 1];
            far.read_exact(&mut heard).await.unwrap();
            far.write_all(&[7; 5000]).await.unwrap();
            near.read_exact(&mut [0; 5000]).await.unwrap();
        }
        let traffic = meter.traffic();
        assert_eq!(traffic, Traffic { sent: 10, received: 10_000, turns: 2 });
        let since = traffic.since(&Traffic { sent: 4, received: 5000, turns: 1 });
        assert_eq!((since.bytes(), since.turns), (5006, 1));
        let (sent, received) = meter.first_bytes();
        assert_eq!((sent.as_slice(), received.len()), (&b"one!three!"[..], KEPT));
    }
}
