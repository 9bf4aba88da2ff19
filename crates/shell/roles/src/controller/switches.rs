//! One connection to a switch: bytes to messages and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use claviger_openflow::{Envelope, Splitter};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot};

use super::actor::{Handle, Input};

/// What waits to be sent to one switch. Dropping it ends the connection once all is sent.
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    overflowing: Arc<Notify>,
}

/// Bytes that may wait for a switch; one that does not read any more is hung up on.
const OUTBOX: usize = 64 << 20;

impl Outbox {
    pub(super) fn send(&self, bytes: Vec<u8>) {
        let waiting = self.waiting.fetch_add(bytes.len(), Relaxed) + bytes.len();
        if waiting > OUTBOX {
            self.overflowing.notify_one();
        }
        // Nobody sends any more on a connection that is closing.
        drop(self.queue.send(bytes));
    }
}

/// Serves a connection to its end.
pub(super) async fn serve<S>(stream: S, handle: Handle)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (queue, queued) = mpsc::unbounded_channel();
    let (waiting, overflowing) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let outbox =
        Outbox { queue, waiting: Arc::clone(&waiting), overflowing: Arc::clone(&overflowing) };
    let (named, name) = oneshot::channel();
    if !handle.pass(Input::Connected(named, outbox)).await {
        return;
    }
    let Ok(id) = name.await else { return };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        let mut splitter = Splitter::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => splitter.push(&buffer[..n]),
            }
            loop {
                let message = match splitter.next_frame() {
                    Ok(Some(frame)) => Envelope::decode(&frame),
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let is_broken = message.is_err();
                if !handle.pass(Input::Said(id, message)).await {
                    return;
                }
                if is_broken {
                    // The controller has closed the connection; its last words are on their way.
                    return std::future::pending().await;
                }
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write(&mut writer, queued, &waiting) => {}
        () = overflowing.notified() => tracing::warn!(?id, "the switch has stopped reading"),
    }
    handle.pass(Input::Closed(id)).await;
    // The other end may be gone before.
    drop(writer.shutdown().await);
}

/// Sends what is queued until the queue is closed or the switch is gone.
async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    mut queued: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: &AtomicUsize,
) {
    while let Some(bytes) = queued.recv().await {
        let sent = writer.write_all(&bytes).await;
        waiting.fetch_sub(bytes.len(), Relaxed);
        // TLS keeps bytes back until it is told otherwise.
        if sent.is_err() || queued.is_empty() && writer.flush().await.is_err() {
            return;
        }
    }
}
