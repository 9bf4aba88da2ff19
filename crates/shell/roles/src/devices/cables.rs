//! The cables of emulated devices to the emulated network: a device reaches its gateway only where the
//! network lets it.

use std::collections::{BTreeMap, BTreeSet};

use claviger_net::link::{self, LinkEvent};
use claviger_units::MacAddr;
use claviger_wire::lan::Message;
use tokio::sync::{mpsc, oneshot};

use crate::channel::Channel;

/// The devices' end of their cables.
#[derive(Clone, Debug)]
pub(super) struct Cables(mpsc::UnboundedSender<Wish>);

#[derive(Debug)]
enum Wish {
    Attach(MacAddr),
    Knock(MacAddr, Door, oneshot::Sender<bool>),
}

/// A port of the server in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Tcp(u16),
    Udp(u16),
}

/// What carries the devices' wishes to the network.
pub(super) struct Carrier {
    channel: Channel,
    wishes: mpsc::UnboundedReceiver<Wish>,
    cards: BTreeSet<MacAddr>,
    waiting: BTreeMap<u64, oneshot::Sender<bool>>,
    newest: u64,
}

impl Cables {
    /// Lays cables to the network at `address`; they carry nothing unless [`Carrier::run`] does.
    pub(super) fn lay(address: &str) -> (Self, Carrier) {
        let (sender, wishes) = mpsc::unbounded_channel();
        let channel = Channel::new(link::dial_plain(address, "the emulated network"));
        let (cards, waiting) = (BTreeSet::new(), BTreeMap::new());
        (Self(sender), Carrier { channel, wishes, cards, waiting, newest: 0 })
    }

    /// Plugs a card in.
    pub(super) fn attach(&self, mac: MacAddr) {
        // The carrier ends only with the role.
        drop(self.0.send(Wish::Attach(mac)));
    }

    /// Tells whether a card reaches a port of its server through the network.
    pub(super) async fn reaches(&self, mac: MacAddr, door: Door) -> bool {
        let (answer, answered) = oneshot::channel();
        drop(self.0.send(Wish::Knock(mac, door, answer)));
        answered.await.unwrap_or(false)
    }
}

impl Carrier {
    /// Carries wishes and answers, for ever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                event = self.channel.next() => self.handle_event(event),
                Some(wish) = self.wishes.recv() => self.handle_wish(wish),
            }
        }
    }

    fn handle_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected(_) => {
                for &mac in &self.cards {
                    self.channel.send(Message::Attach { mac }.encode());
                }
            }
            // Whoever waits hears that its answer is lost.
            LinkEvent::Disconnected => self.waiting.clear(),
            LinkEvent::Frame(frame) => match Message::decode(&frame) {
                Ok(Message::Answer { id, is_open }) => {
                    let answer = self.waiting.remove(&id);
                    if answer.is_some_and(|answer| answer.send(is_open).is_err()) {
                        tracing::debug!(id, "a device that has stopped waits no more");
                    }
                }
                _ => tracing::warn!("the emulated network spoke out of turn"),
            },
        }
    }

    fn handle_wish(&mut self, wish: Wish) {
        match wish {
            Wish::Attach(mac) => {
                self.cards.insert(mac);
                self.channel.send(Message::Attach { mac }.encode());
            }
            // Without the network nothing is reached; the answer's end is dropped.
            Wish::Knock(..) if !self.channel.is_connected() => {}
            Wish::Knock(mac, door, answer) => {
                self.newest += 1;
                self.waiting.insert(self.newest, answer);
                let (port, is_udp) = match door {
                    Door::Tcp(port) => (port, false),
                    Door::Udp(port) => (port, true),
                };
                self.channel.send(Message::Knock { id: self.newest, mac, port, is_udp }.encode());
            }
        }
    }
}
