//! A network in virtual time: emulated switches, cables, hosts that speak ARP, and the controller, with
//! nothing between them but bytes and delays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use claviger_control::{
    Admission, ConnectionId, Controller, ControllerConfig, Event, LldpKey, Mastery, Movement,
    PacketRate, Place, Policy, PolicyId, Times,
};
use claviger_openflow::{DatapathId, Description, Envelope, Message, PortNumber, Splitter};
use claviger_switch::{Connection, LinkState, Switch, SwitchConfig};
use claviger_units::{MacAddr, Span, Timestamp};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, LaxNetSlice, LaxSlicedPacket, PacketBuilder,
    TransportSlice,
};

/// From a switch to the controller, and back.
const CONTROL_DELAY: Span = Span::from_micros(200);
/// Along a cable.
const CABLE_DELAY: Span = Span::from_micros(20);
const CONTROLLER_MAC: MacAddr = MacAddr::from_bytes([0x02, 0xC1, 0xA7, 0, 0, 1]);
const KEY: LldpKey = LldpKey::from_bytes([9; 32]);

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) controller: Controller,
    pub(crate) switches: BTreeMap<u64, Switch>,
    pub(crate) events: Vec<(Timestamp, Event)>,
    pub(crate) hosts: BTreeMap<MacAddr, Host>,
    /// Switches that read and say nothing.
    pub(crate) mute: BTreeSet<u64>,
    /// Switches that answer everything but barriers.
    pub(crate) unconfirming: BTreeSet<u64>,
    cables: BTreeMap<Place, End>,
    connections: BTreeMap<u64, ConnectionId>,
    next_connection: u64,
    queue: BTreeMap<(Timestamp, u64), Delivery>,
    n_queued: u64,
}

pub(crate) struct Host {
    pub(crate) ip: Ipv4Addr,
    pub(crate) at: Place,
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) neighbours: BTreeMap<Ipv4Addr, MacAddr>,
}

#[derive(Clone, Copy)]
enum End {
    Port(Place),
    Host(MacAddr),
}

enum Delivery {
    ToController(ConnectionId, Envelope),
    ToSwitch(u64, ConnectionId, Envelope),
    Frame(End, Vec<u8>),
}

pub(crate) fn config(policies: Vec<Policy>) -> ControllerConfig {
    ControllerConfig {
        mac: CONTROLLER_MAC,
        lldp_key: KEY,
        policies,
        sweep: Vec::new(),
        optics: None,
        dhcp_server: None,
        unknown: PacketRate { per_second: 100, burst: 50 },
        times: Times::STANDARD,
    }
}

pub(crate) fn place(datapath: u64, port: u32) -> Place {
    Place::new(DatapathId(datapath), PortNumber(port))
}

pub(crate) fn mac(n: u32) -> MacAddr {
    let [_, a, b, c] = n.to_be_bytes();
    MacAddr::from_bytes([0x02, 0, 0x5E, a, b, c])
}

pub(crate) fn ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0A00_0000 + n)
}

pub(crate) fn admission(n: u32, policy: u16) -> Admission {
    Admission {
        mac: mac(n),
        policy: PolicyId(policy),
        place: None,
        addresses: Vec::new(),
        movement: Movement::AfterUnplugging,
    }
}

impl World {
    pub(crate) fn new(config: ControllerConfig) -> Self {
        let now = Timestamp::from_micros(1_000_000_000);
        Self {
            now,
            controller: Controller::new(now, config, Mastery::Primary { generation: 1 }),
            switches: BTreeMap::new(),
            events: Vec::new(),
            hosts: BTreeMap::new(),
            mute: BTreeSet::new(),
            unconfirming: BTreeSet::new(),
            cables: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            queue: BTreeMap::new(),
            n_queued: 0,
        }
    }

    /// Adds a switch with ports from 1 on; it is not connected yet.
    pub(crate) fn add_switch(&mut self, datapath: u64, n_ports: u32) {
        let description =
            Description { datapath: format!("s{datapath}"), ..Description::default() };
        let switch = Switch::new(
            self.now,
            SwitchConfig {
                datapath: DatapathId(datapath),
                description,
                ports: (1..=n_ports).map(|n| format!("eth{n}")).collect(),
                n_tables: 4,
                most_entries: 100_000,
            },
        );
        self.switches.insert(datapath, switch);
        // What has no cable has no light.
        for port in 1..=n_ports {
            self.set_link(place(datapath, port), LinkState::Down);
        }
    }

    pub(crate) fn join(&mut self, a: Place, b: Place) {
        self.cables.insert(a, End::Port(b));
        self.cables.insert(b, End::Port(a));
        self.set_link(a, LinkState::Up);
        self.set_link(b, LinkState::Up);
    }

    pub(crate) fn add_host(&mut self, n: u32, at: Place) -> MacAddr {
        let host = Host { ip: ip(n), at, received: Vec::new(), neighbours: BTreeMap::new() };
        self.hosts.insert(mac(n), host);
        self.cables.insert(at, End::Host(mac(n)));
        self.set_link(at, LinkState::Up);
        mac(n)
    }

    /// Plugs a host in somewhere else.
    pub(crate) fn move_host(&mut self, mac: MacAddr, to: Place) {
        let from = std::mem::replace(&mut self.hosts.get_mut(&mac).unwrap().at, to);
        self.cables.remove(&from);
        self.set_link(from, LinkState::Down);
        self.cables.insert(to, End::Host(mac));
        self.set_link(to, LinkState::Up);
    }

    /// A tree of switches with `fanout` hosts below each of the last; hosts count from 1. Returns how
    /// many.
    pub(crate) fn tree(&mut self, depth: u32, fanout: u32) -> u32 {
        let (mut next, mut n_hosts) = (1, 0);
        self.subtree(depth, fanout, &mut next, &mut n_hosts);
        n_hosts
    }

    fn subtree(&mut self, depth: u32, fanout: u32, next: &mut u64, n_hosts: &mut u32) -> u64 {
        let own = *next;
        *next += 1;
        self.add_switch(own, fanout + 1);
        for port in 1..=fanout {
            if depth == 1 {
                *n_hosts += 1;
                self.add_host(*n_hosts, place(own, port));
            } else {
                let child = self.subtree(depth - 1, fanout, next, n_hosts);
                self.join(place(own, port), place(child, fanout + 1));
            }
        }
        own
    }

    pub(crate) fn admit(&mut self, admissions: impl IntoIterator<Item = Admission>) {
        self.controller.admit(self.now, admissions).unwrap();
        self.drain();
    }

    pub(crate) fn dismiss(&mut self, mac: MacAddr) {
        self.controller.dismiss(self.now, [mac]);
        self.drain();
    }

    pub(crate) fn take_over(&mut self, generation: u64) {
        self.controller.take_over(self.now, generation);
        self.drain();
    }

    pub(crate) fn connect_all(&mut self) {
        let datapaths: Vec<u64> = self.switches.keys().copied().collect();
        for datapath in datapaths {
            self.connect(datapath);
        }
    }

    pub(crate) fn connect(&mut self, datapath: u64) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(datapath, id);
        self.controller.handle_connected(self.now, id);
        self.switches.get_mut(&datapath).unwrap().handle_connected(Connection(id.0));
        self.drain();
        id
    }

    pub(crate) fn disconnect(&mut self, datapath: u64) {
        let Some(id) = self.connections.remove(&datapath) else { return };
        self.switches.get_mut(&datapath).unwrap().handle_disconnected(Connection(id.0));
        self.controller.handle_disconnected(self.now, id);
        self.drain();
    }

    /// The controller dies and another one begins, with what was kept of the allow-list.
    pub(crate) fn restart_controller(
        &mut self,
        config: ControllerConfig,
        mastery: Mastery,
        kept: Vec<Admission>,
    ) {
        for (datapath, id) in std::mem::take(&mut self.connections) {
            self.switches.get_mut(&datapath).unwrap().handle_disconnected(Connection(id.0));
        }
        self.queue.retain(|_, delivery| matches!(delivery, Delivery::Frame(..)));
        self.controller = Controller::new(self.now, config, mastery);
        self.controller.admit(self.now, kept).unwrap();
        self.drain();
    }

    pub(crate) fn set_link(&mut self, at: Place, state: LinkState) {
        self.switches.get_mut(&at.datapath.0).unwrap().handle_link(at.port, state);
        self.drain();
    }

    pub(crate) fn cut(&mut self, a: Place, b: Place) {
        self.cables.remove(&a);
        self.cables.remove(&b);
        self.set_link(a, LinkState::Down);
        self.set_link(b, LinkState::Down);
    }

    /// Lets a cable swallow everything while both ends show light.
    pub(crate) fn swallow(&mut self, a: Place, b: Place) {
        self.cables.remove(&a);
        self.cables.remove(&b);
    }

    pub(crate) fn send(&mut self, from: MacAddr, frame: Vec<u8>) {
        let at = self.hosts[&from].at;
        self.send_at(at, frame);
    }

    /// Sends a frame into a port, whoever may be there.
    pub(crate) fn send_at(&mut self, at: Place, frame: Vec<u8>) {
        self.push(CABLE_DELAY, Delivery::Frame(End::Port(at), frame));
    }

    /// A host tells everybody that it is there.
    pub(crate) fn announce(&mut self, from: MacAddr) {
        let ip = self.hosts[&from].ip;
        self.send(from, arp(ArpOperation::REQUEST, (from, ip), (from, ip), [0xFF; 6]));
    }

    /// Tells whether a packet to a service arrives, after the question for the card.
    pub(crate) fn reaches(&mut self, from: MacAddr, to: MacAddr, port: u16) -> bool {
        let (ip, target) = (self.hosts[&from].ip, self.hosts[&to].ip);
        let nobody = MacAddr::from_bytes([0; 6]);
        self.send(from, arp(ArpOperation::REQUEST, (from, ip), (nobody, target), [0xFF; 6]));
        self.run_for(Span::from_millis(5));
        let card = self.hosts[&from].neighbours.get(&target).copied();
        card.is_some_and(|card| self.delivers(from, card, to, port))
    }

    /// Tells whether a packet to a service arrives that is sent to this card.
    pub(crate) fn delivers(
        &mut self,
        from: MacAddr,
        card: MacAddr,
        to: MacAddr,
        port: u16,
    ) -> bool {
        let frame = syn((from, self.hosts[&from].ip), (card, self.hosts[&to].ip), (40_000, port));
        self.delivers_frame(from, to, frame)
    }

    pub(crate) fn delivers_frame(&mut self, from: MacAddr, to: MacAddr, frame: Vec<u8>) -> bool {
        let before = self.count(to, &frame);
        self.send(from, frame.clone());
        self.run_for(Span::from_millis(5));
        self.count(to, &frame) > before
    }

    fn count(&self, host: MacAddr, frame: &[u8]) -> usize {
        self.hosts[&host].received.iter().filter(|received| *received == frame).count()
    }

    pub(crate) fn run_for(&mut self, span: Span) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until the network is settled; returns how long that took.
    pub(crate) fn run_until_settled(&mut self) -> Span {
        let (start, from) = (self.now, self.events.len());
        let end = start + Span::from_secs(30);
        while !self.events[from..].iter().any(|(_, e)| matches!(e, Event::Settled { .. })) {
            assert!(self.step(end), "the network does not settle");
        }
        self.now.since(start)
    }

    pub(crate) fn told(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }

    /// Fails where the tables of a switch are not as they should be.
    pub(crate) fn check_tables(&self) {
        for view in self.controller.switches().iter().filter(|view| view.is_up) {
            assert_eq!(view.n_differing, 0, "{}", view.datapath);
            let passing = |cookie: u64| cookie >> 48 == 0xC1FF;
            let entries = self.switches[&view.datapath.0].entries(self.now);
            let n = entries.iter().filter(|entry| !passing(entry.cookie)).count();
            assert_eq!(n, view.n_entries, "{}", view.datapath);
        }
    }

    /// Does what is next, if it is due until `end`.
    fn step(&mut self, end: Timestamp) -> bool {
        let due = [
            self.queue.first_key_value().map(|(&(at, _), _)| at),
            self.controller.poll_timeout().map(|at| at.max(self.now)),
            self.switches.values().filter_map(Switch::poll_timeout).min(),
        ];
        let Some(at) = due.into_iter().flatten().min().filter(|&at| at <= end) else {
            return false;
        };
        self.now = at.max(self.now);
        if let Some(delivery) = self.queue.first_entry().filter(|first| first.key().0 <= self.now) {
            match delivery.remove() {
                Delivery::ToController(id, envelope) => {
                    self.controller.handle_message(self.now, id, Ok(envelope));
                }
                Delivery::ToSwitch(datapath, id, envelope) => {
                    let is_current = self.connections.get(&datapath) == Some(&id);
                    let is_passed_over = envelope.message == Message::BarrierRequest
                        && self.unconfirming.contains(&datapath);
                    if is_current && !self.mute.contains(&datapath) && !is_passed_over {
                        let switch = self.switches.get_mut(&datapath).unwrap();
                        switch.handle_message(self.now, Connection(id.0), envelope);
                    }
                }
                Delivery::Frame(End::Port(at), frame) => {
                    let switch = self.switches.get_mut(&at.datapath.0).unwrap();
                    switch.handle_frame(self.now, at.port, frame);
                }
                Delivery::Frame(End::Host(mac), frame) => self.hear(mac, frame),
            }
        } else {
            self.controller.handle_timeout(self.now);
            self.switches.values_mut().for_each(|switch| switch.handle_timeout(self.now));
        }
        self.drain();
        true
    }

    fn drain(&mut self) {
        while let Some((id, bytes)) = self.controller.poll_transmit() {
            let Some((&datapath, _)) = self.connections.iter().find(|(_, of)| **of == id) else {
                continue;
            };
            let mut splitter = Splitter::new();
            splitter.push(&bytes);
            while let Some(frame) = splitter.next_frame().unwrap() {
                let envelope = Envelope::decode(&frame).unwrap();
                self.push(CONTROL_DELAY, Delivery::ToSwitch(datapath, id, envelope));
            }
        }
        while let Some(id) = self.controller.poll_close() {
            if let Some((&datapath, _)) = self.connections.iter().find(|(_, of)| **of == id) {
                self.connections.remove(&datapath);
                self.switches.get_mut(&datapath).unwrap().handle_disconnected(Connection(id.0));
            }
        }
        while let Some(event) = self.controller.poll_event() {
            self.events.push((self.now, event));
        }
        let datapaths: Vec<u64> = self.switches.keys().copied().collect();
        for datapath in datapaths {
            let switch = self.switches.get_mut(&datapath).unwrap();
            let mut deliveries = Vec::new();
            while let Some((Connection(id), envelope)) = switch.poll_transmit() {
                let envelope = Envelope::decode(&envelope.encode()).unwrap();
                if !self.mute.contains(&datapath) {
                    let to = Delivery::ToController(ConnectionId(id), envelope);
                    deliveries.push((CONTROL_DELAY, to));
                }
            }
            while let Some((port, frame)) = switch.poll_output() {
                if let Some(&end) = self.cables.get(&Place::new(DatapathId(datapath), port)) {
                    deliveries.push((CABLE_DELAY, Delivery::Frame(end, frame)));
                }
            }
            deliveries.into_iter().for_each(|(delay, delivery)| self.push(delay, delivery));
        }
    }

    /// A host answers for its address, and remembers answers.
    fn hear(&mut self, mac: MacAddr, frame: Vec<u8>) {
        let host = self.hosts.get_mut(&mac).unwrap();
        if frame[..6] != *mac.as_bytes() && frame[0] & 1 == 0 {
            return;
        }
        host.received.push(frame.clone());
        let Ok(packet) = LaxSlicedPacket::from_ethernet(&frame) else { return };
        let Some(LaxNetSlice::Arp(asked)) = packet.net else { return };
        let sender = MacAddr::from_bytes(asked.sender_hw_addr().try_into().unwrap());
        let address = |bytes: &[u8]| Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap());
        let sender_ip = address(asked.sender_protocol_addr());
        match asked.operation() {
            ArpOperation::REPLY => drop(host.neighbours.insert(sender_ip, sender)),
            _ if address(asked.target_protocol_addr()) == host.ip => {
                let ip = host.ip;
                let to = *sender.as_bytes();
                let answer = arp(ArpOperation::REPLY, (mac, ip), (sender, sender_ip), to);
                self.send(mac, answer);
            }
            _ => {}
        }
    }

    fn push(&mut self, delay: Span, delivery: Delivery) {
        self.n_queued += 1;
        self.queue.insert((self.now + delay, self.n_queued), delivery);
    }
}

fn arp(
    operation: ArpOperation,
    (mac, ip): (MacAddr, Ipv4Addr),
    (target_mac, target): (MacAddr, Ipv4Addr),
    to: [u8; 6],
) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        mac.as_bytes(),
        &ip.octets(),
        target_mac.as_bytes(),
        &target.octets(),
    );
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(*mac.as_bytes(), to).arp(packet.unwrap());
    builder.write_to_vec(&mut frame).unwrap();
    frame
}

/// The first packet of a connection.
pub(crate) fn syn(
    from: (MacAddr, Ipv4Addr),
    to: (MacAddr, Ipv4Addr),
    (source, destination): (u16, u16),
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(*from.0.as_bytes(), *to.0.as_bytes())
        .ipv4(from.1.octets(), to.1.octets(), 64)
        .tcp(source, destination, 7, 1000)
        .write_to_vec(&mut frame, b"")
        .unwrap();
    frame
}

/// Returns the destination port of a packet, for what a test wants to know of it.
pub(crate) fn port_of(frame: &[u8]) -> Option<u16> {
    match LaxSlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some(tcp.destination_port()),
        _ => None,
    }
}

pub(crate) fn address(n: u32) -> IpAddr {
    ip(n).into()
}
