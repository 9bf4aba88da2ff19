//! A link as a role uses it: the connection that stands, numbered, so that nothing that was meant
//! for an old connection is sent on a new one.

use std::collections::VecDeque;

use claviger_durable::peer::Session;
use claviger_net::link::{Generation, Link, LinkEvent, Permit, SendError};
use claviger_units::SecretBytes;

/// A link with its present connection, and what waits to be sent on it.
#[derive(Debug)]
pub(crate) struct Channel {
    link: Link,
    generation: Option<Generation>,
    session: u64,
    // Invariant: empty without a connection, and never above `OUTBOX` bytes: a slow peer must not
    // keep a role from everything else, and one that has stopped reading is hung up on.
    outbox: VecDeque<SecretBytes>,
    waiting: usize,
}

/// Bytes that may wait for a peer: several of the largest blocks' messages.
const OUTBOX: usize = 64 << 20;

impl Channel {
    pub(crate) const fn new(link: Link) -> Self {
        Self { link, generation: None, session: 0, outbox: VecDeque::new(), waiting: 0 }
    }

    /// Waits for the next event, and sends meanwhile; may be dropped and called again without loss.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        let sender = self.link.sender();
        loop {
            let Some(generation) = self.generation.filter(|_| !self.outbox.is_empty()) else {
                let event = self.link.next().await;
                return self.noted(event);
            };
            tokio::select! {
                event = self.link.next() => return self.noted(event),
                permit = sender.reserve(generation) => self.pass_on(permit),
            }
        }
    }

    /// Returns the next event if it has come already.
    pub(crate) fn try_next(&mut self) -> Option<LinkEvent> {
        let event = self.link.try_next()?;
        Some(self.noted(event))
    }

    /// Tells whether a connection stands.
    pub(crate) const fn is_connected(&self) -> bool {
        self.generation.is_some()
    }

    /// Returns the number of the newest connection.
    pub(crate) const fn session(&self) -> u64 {
        self.session
    }

    /// Puts a frame behind those that wait for the present connection; [`next`](Self::next) sends
    /// them. A lost connection is told by its own event.
    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        let frame = SecretBytes::new(frame);
        if self.generation.is_none() {
            return;
        }
        self.waiting += frame.len();
        self.outbox.push_back(frame);
        if self.waiting > OUTBOX {
            tracing::warn!(bytes = self.waiting, "the other end has stopped reading; hanging up");
            self.clear();
            self.hang_up();
        }
    }

    fn clear(&mut self) {
        self.outbox.clear();
        self.waiting = 0;
    }

    /// Sends what was meant for connection number `session`, unless a newer one stands.
    pub(crate) fn send_on(&mut self, session: u64, frame: Vec<u8>) {
        if session == self.session {
            self.send(frame);
        }
    }

    fn noted(&mut self, event: LinkEvent) -> LinkEvent {
        match &event {
            LinkEvent::Connected(generation) => {
                self.generation = Some(*generation);
                self.session += 1;
                self.clear();
            }
            LinkEvent::Disconnected => {
                self.generation = None;
                self.clear();
            }
            LinkEvent::Frame(_) => {}
        }
        event
    }

    fn pass_on(&mut self, permit: Result<Permit, SendError>) {
        let next = self.outbox.pop_front();
        self.waiting -= next.as_ref().map_or(0, SecretBytes::len);
        let sent = match (permit, next) {
            (Ok(permit), Some(frame)) => permit.send(frame.expose().to_vec()),
            (Ok(_), None) => Ok(()),
            (Err(error), _) => Err(error),
        };
        match sent {
            Ok(()) => {}
            // The connection is gone, which its own event is about to tell.
            Err(SendError::Stale) => self.clear(),
            Err(error) => tracing::warn!(%error, "a frame was not sent"),
        }
    }

    /// Closes the present connection, as after a peer that broke the protocol.
    pub(crate) fn hang_up(&self) {
        self.link.hang_up();
    }
}

/// Says that a site has forgotten something, which is being mended.
pub(crate) fn restoration(mine: bool, own: &str, other: &str) -> String {
    let whose = if mine { own } else { other };
    format!(
        "the store of the {whose} was lost, or is an old copy: its devices are given to it again"
    )
}

/// Says why nothing passes between the stores of two roles, with the remedy; `None` where nothing
/// is wrong that an operator must mend.
pub(crate) fn trouble(session: Session, own: &str, other: &str) -> Option<String> {
    match session {
        // Whoever has forgotten something is given it again.
        Session::Apart | Session::Greeting | Session::Open | Session::RolledBack { .. } => None,
        Session::Superseded => Some(format!(
            "two processes run on one store of the {own} or of the {other}: stop one of them"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use claviger_net::{link, listen};

    use super::*;

    async fn next(channel: &mut Channel) -> LinkEvent {
        tokio::time::timeout(Duration::from_secs(20), channel.next()).await.expect("an event")
    }

    /// A role's channel, and a peer that reads only when it is told to.
    async fn pair() -> (Channel, Link, Generation) {
        let listener = listen::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut role = Channel::new(link::serve_plain(listener, "peer"));
        let mut peer = link::dial_plain(&address, "role");
        assert!(matches!(next(&mut role).await, LinkEvent::Connected(_)));
        let LinkEvent::Connected(generation) = peer.next().await else { panic!("not connected") };
        (role, peer, generation)
    }

    /// More than sockets and queues take.
    async fn overfill(role: &mut Channel) {
        for n in 0..FRAMES {
            role.send(vec![n; 256 * 1024]);
        }
        assert!(tokio::time::timeout(Duration::from_millis(300), role.next()).await.is_err());
        assert!(!role.outbox.is_empty(), "the peer has taken everything");
    }

    const FRAMES: u8 = 150;

    #[tokio::test]
    async fn a_slow_peer_keeps_nobody_waiting_and_loses_nothing() {
        let (mut role, mut peer, generation) = pair().await;
        overfill(&mut role).await;
        peer.sender().send(generation, vec![1, 2, 3]).await.unwrap();
        assert_eq!(next(&mut role).await, LinkEvent::Frame(vec![1, 2, 3]));
        for n in 0..FRAMES {
            let frame = tokio::select! {
                event = role.next() => panic!("{event:?}"),
                frame = peer.next() => frame,
            };
            assert_eq!(frame, LinkEvent::Frame(vec![n; 256 * 1024]));
        }
        assert!(role.outbox.is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_has_stopped_reading_is_hung_up_on() {
        let (mut role, _peer, _) = pair().await;
        for _ in 0..OUTBOX / (1 << 20) {
            role.send(vec![0; 1 << 20]);
        }
        assert_eq!(role.outbox.len(), 64);
        role.send(vec![0]);
        assert_eq!((role.outbox.len(), role.waiting), (0, 0));
        assert_eq!(next(&mut role).await, LinkEvent::Disconnected);
    }

    #[tokio::test]
    async fn nothing_that_waits_slips_into_another_connection() {
        let (mut role, peer, _) = pair().await;
        overfill(&mut role).await;
        let session = role.session();
        drop(peer);
        assert_eq!(next(&mut role).await, LinkEvent::Disconnected);
        role.send_on(session, vec![4]);
        assert!(role.outbox.is_empty() && !role.is_connected());
    }
}
