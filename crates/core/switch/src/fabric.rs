//! Switches, the cables between them, and the cards at their ports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_openflow::{DatapathId, Envelope, PortNumber};
use claviger_units::{MacAddr, Timestamp};

use crate::{Connection, LinkState, Switch};

/// A port of a switch.
pub type Socket = (DatapathId, PortNumber);

/// Switches that are wired to each other. Frames need no time; a frame for a port without a cable is
/// lost.
#[derive(Debug, Default)]
pub struct Fabric {
    switches: BTreeMap<DatapathId, Switch>,
    cables: BTreeMap<Socket, End>,
    frames: VecDeque<(End, Vec<u8>)>,
    arrived: VecDeque<(MacAddr, Vec<u8>)>,
    // Switches that may have something to say, or to send out.
    touched: BTreeSet<DatapathId>,
    said: VecDeque<(DatapathId, Connection, Envelope)>,
    n_lost: u64,
}

/// What a cable leads to.
#[derive(Clone, Copy, Debug)]
enum End {
    Port(Socket),
    Card(MacAddr),
}

/// Frames that one step lets pass: tables that let frames circle do not stop everything else.
const MOST_FRAMES: usize = 100_000;

impl Fabric {
    /// Adds a switch; nothing is plugged in.
    pub fn add(&mut self, mut switch: Switch, n_ports: u32) {
        for port in 1..=n_ports {
            switch.handle_link(PortNumber(port), LinkState::Down);
        }
        self.switches.insert(switch.datapath(), switch);
    }

    /// Returns all switches.
    pub fn switches(&self) -> impl Iterator<Item = &Switch> {
        self.switches.values()
    }

    /// Joins two ports by a cable.
    pub fn join(&mut self, a: Socket, b: Socket) {
        self.cables.insert(a, End::Port(b));
        self.cables.insert(b, End::Port(a));
        self.set_link(a, LinkState::Up);
        self.set_link(b, LinkState::Up);
    }

    /// Takes the cable between two ports away.
    pub fn cut(&mut self, a: Socket, b: Socket) {
        for socket in [a, b] {
            self.cables.remove(&socket);
            self.set_link(socket, LinkState::Down);
        }
    }

    /// Plugs a card in.
    pub fn plug(&mut self, card: MacAddr, socket: Socket) {
        self.cables.insert(socket, End::Card(card));
        self.set_link(socket, LinkState::Up);
    }

    fn set_link(&mut self, (datapath, port): Socket, state: LinkState) {
        self.with(datapath, |switch| switch.handle_link(port, state));
    }

    /// Does something with a switch.
    pub fn with<R>(
        &mut self,
        datapath: DatapathId,
        job: impl FnOnce(&mut Switch) -> R,
    ) -> Option<R> {
        let switch = self.switches.get_mut(&datapath)?;
        self.touched.insert(datapath);
        Some(job(switch))
    }

    /// Takes a frame of the card at a port.
    pub fn send(&mut self, socket: Socket, frame: Vec<u8>) {
        self.frames.push_back((End::Port(socket), frame));
    }

    /// Lets frames run until they have arrived or are lost.
    pub fn run(&mut self, now: Timestamp) {
        let mut n_run = 0;
        loop {
            while let Some((end, frame)) = self.frames.pop_front() {
                n_run += 1;
                match end {
                    _ if n_run > MOST_FRAMES => self.n_lost += 1,
                    End::Card(card) => self.arrived.push_back((card, frame)),
                    End::Port((datapath, port)) => {
                        self.with(datapath, |switch| switch.handle_frame(now, port, frame));
                    }
                }
            }
            let Some(datapath) = self.touched.pop_first() else { return };
            let Some(switch) = self.switches.get_mut(&datapath) else { continue };
            while let Some((connection, envelope)) = switch.poll_transmit() {
                self.said.push_back((datapath, connection, envelope));
            }
            while let Some((port, frame)) = switch.poll_output() {
                match self.cables.get(&(datapath, port)) {
                    Some(&end) => self.frames.push_back((end, frame)),
                    None => self.n_lost += 1,
                }
            }
        }
    }

    /// Lets entries of the tables go whose time is over.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        for (datapath, switch) in &mut self.switches {
            if switch.poll_timeout().is_some_and(|due| due <= now) {
                switch.handle_timeout(now);
                self.touched.insert(*datapath);
            }
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.switches.values().filter_map(Switch::poll_timeout).min()
    }

    /// Returns the next message of a switch for a controller.
    pub fn poll_transmit(&mut self) -> Option<(DatapathId, Connection, Envelope)> {
        self.said.pop_front()
    }

    /// Returns the next frame that has reached a card.
    pub fn poll_arrival(&mut self) -> Option<(MacAddr, Vec<u8>)> {
        self.arrived.pop_front()
    }

    /// Returns how many frames were lost at ports without a cable, or because they circled.
    #[must_use]
    pub const fn n_lost(&self) -> u64 {
        self.n_lost
    }
}
