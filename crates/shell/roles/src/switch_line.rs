//! The line of one emulated switch to its controller: connected again and again, bytes to messages and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use claviger_net::shutdown::Shutdown;
use claviger_net::tls::{self, ClientStream};
use claviger_openflow::{DatapathId, Envelope, Splitter};
use claviger_switch::Connection;
use claviger_units::SaeId;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::sync::mpsc;

/// What is heard on a line.
pub(crate) enum Heard {
    Connected(DatapathId, Connection),
    Said(DatapathId, Connection, Envelope),
    Closed(DatapathId, Connection),
}

/// One switch's line.
pub(crate) struct Line {
    pub(crate) of: DatapathId,
    pub(crate) controller: SocketAddr,
    pub(crate) name: SaeId,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) heard: mpsc::Sender<Heard>,
    pub(crate) shutdown: Shutdown,
}

/// Messages of a switch, with the number of the connection they are for.
type Queued = mpsc::UnboundedReceiver<(u64, Envelope)>;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

impl Line {
    /// Keeps the line until the signal to stop.
    pub(crate) async fn keep(self, mut queued: Queued) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.connect_again(&mut queued) => {}
        }
    }

    async fn connect_again(&self, queued: &mut Queued) {
        let (mut number, mut pause) = (0, FIRST_PAUSE);
        loop {
            match tls::connect(&self.controller.to_string(), Arc::clone(&self.tls), &self.name)
                .await
            {
                Ok(stream) => {
                    number += 1;
                    pause = FIRST_PAUSE;
                    self.serve(stream, Connection(number), queued).await;
                }
                Err(error) => tracing::debug!(of = %self.of, %error, "the controller is away"),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
        }
    }

    async fn serve(&self, stream: ClientStream, connection: Connection, queued: &mut Queued) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let tell = |heard| async { drop(self.heard.send(heard).await) };
        tell(Heard::Connected(self.of, connection)).await;
        let read = async {
            let mut splitter = Splitter::new();
            let mut buffer = vec![0; 16 * 1024];
            loop {
                match reader.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => splitter.push(&buffer[..n]),
                }
                while let Some(message) = splitter
                    .next_frame()
                    .and_then(|frame| frame.map(|frame| Envelope::decode(&frame)).transpose())
                    .transpose()
                {
                    let Ok(envelope) = message else {
                        tracing::warn!(of = %self.of, "the controller says what no OpenFlow is");
                        return;
                    };
                    tell(Heard::Said(self.of, connection, envelope)).await;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = write(&mut writer, connection, queued) => {}
        }
        tell(Heard::Closed(self.of, connection)).await;
    }
}

/// Sends what is for this connection, until the other end is gone.
async fn write(
    writer: &mut WriteHalf<ClientStream>,
    Connection(current): Connection,
    queued: &mut Queued,
) {
    while let Some((number, envelope)) = queued.recv().await {
        let is_current = number == current;
        let sent = if is_current { writer.write_all(&envelope.encode()).await } else { Ok(()) };
        // TLS keeps bytes back until it is told otherwise.
        if sent.is_err() || queued.is_empty() && writer.flush().await.is_err() {
            return;
        }
    }
}
