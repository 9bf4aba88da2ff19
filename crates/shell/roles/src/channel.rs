//! A link as a role uses it: the connection that stands, numbered, so that nothing that was meant
//! for an old connection is sent on a new one.

use claviger_durable::peer::Session;
use claviger_net::link::{Generation, Link, LinkEvent};

/// A link with its present connection.
#[derive(Debug)]
pub(crate) struct Channel {
    link: Link,
    generation: Option<Generation>,
    session: u64,
}

impl Channel {
    pub(crate) const fn new(link: Link) -> Self {
        Self { link, generation: None, session: 0 }
    }

    /// Waits for the next event; may be dropped and called again without loss.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        let event = self.link.next().await;
        match &event {
            LinkEvent::Connected(generation) => {
                self.generation = Some(*generation);
                self.session += 1;
            }
            LinkEvent::Disconnected => self.generation = None,
            LinkEvent::Frame(_) => {}
        }
        event
    }

    /// Tells whether a connection stands.
    pub(crate) const fn is_connected(&self) -> bool {
        self.generation.is_some()
    }

    /// Returns the number of the newest connection.
    pub(crate) const fn session(&self) -> u64 {
        self.session
    }

    /// Sends on the present connection; a lost one is told by its own event.
    pub(crate) async fn send(&self, frame: Vec<u8>) {
        if let Some(generation) = self.generation {
            self.link.sender().send(generation, frame).await.ok();
        }
    }

    /// Sends what was meant for connection number `session`, unless a newer one stands.
    pub(crate) async fn send_on(&self, session: u64, frame: Vec<u8>) {
        if session == self.session {
            self.send(frame).await;
        }
    }

    /// Closes the present connection, as after a peer that broke the protocol.
    pub(crate) fn hang_up(&self) {
        self.link.hang_up();
    }
}

/// Says why nothing passes between the stores of two roles, with the remedy; `None` where nothing
/// is wrong that an operator must mend.
pub(crate) fn trouble(session: Session, own: &str, other: &str) -> Option<String> {
    let remedy =
        "put the newest copy back, or begin both sites anew with `claviger init` in a fresh folder";
    match session {
        Session::Apart | Session::Greeting | Session::Open => None,
        Session::RolledBack { mine } => {
            let whose = if mine { own } else { other };
            Some(format!("the store of the {whose} was rolled back to an old copy: {remedy}"))
        }
        Session::Superseded => Some(format!(
            "two processes run on one store of the {own} or of the {other}: stop one of them"
        )),
    }
}
