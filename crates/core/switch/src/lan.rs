//! A local network of emulated switches with emulated cards: what devices plug into where there is no
//! real one.
//!
//! Every edge switch hangs on two spines, and a server on the first of them. A card announces its
//! address, answers for it, and *knocks*: it sends a TCP SYN to a port of the server through the switches,
//! and a SYN that arrives is answered. So a device reaches the server exactly where the tables of the
//! switches let it.

use core::net::Ipv4Addr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_openflow::{DatapathId, Description, Envelope, PortNumber};
use claviger_units::{MacAddr, Span, Timestamp};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, LaxNetSlice,
    LaxSlicedPacket, PacketBuilder, TransportSlice,
};

use crate::fabric::{Fabric, Socket};
use crate::{Connection, Switch, SwitchConfig};

/// What a network is made of.
#[derive(Clone, Copy, Debug)]
pub struct LanConfig {
    /// Edge switches.
    pub n_edges: u32,
    /// Ports of an edge switch for cards.
    pub ports: u32,
    /// The card and the address of the server.
    pub server: (MacAddr, Ipv4Addr),
}

/// A network of switches and cards.
#[derive(Debug)]
pub struct Lan {
    fabric: Fabric,
    server: (MacAddr, Ipv4Addr),
    cards: BTreeMap<MacAddr, Card>,
    sockets: Vec<Socket>,
    taken: BTreeSet<usize>,
    // When a card announces itself again.
    announcements: BTreeSet<(Timestamp, MacAddr, u32)>,
    // By the port that the card knocks from, and the card.
    knocks: BTreeMap<(MacAddr, u16), Knock>,
    due_knocks: BTreeSet<(Timestamp, MacAddr, u16)>,
    next_port: u16,
    answers: VecDeque<(u64, bool)>,
}

#[derive(Debug)]
struct Card {
    socket: Socket,
    ip: Ipv4Addr,
    /// Something has come for it: the network knows it.
    is_heard: bool,
}

/// A port of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Of TCP: a connection is begun there.
    Tcp(u16),
    /// Of UDP: a datagram is sent there, and one comes back.
    Udp(u16),
}

#[derive(Debug)]
struct Knock {
    id: u64,
    door: Door,
    n_tries: usize,
}

/// All ports for cards are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {0} ports of the emulated network are taken")]
pub struct NoPort(pub usize);

const SPINES: [DatapathId; 2] = [DatapathId(1), DatapathId(2)];
/// Edge switches count from here.
const FIRST_EDGE: u64 = 0x101;
/// Pauses between the announcements of a card that nothing has come for.
const ANNOUNCEMENTS: [Span; 5] = [
    Span::from_millis(500),
    Span::from_secs(1),
    Span::from_secs(2),
    Span::from_secs(4),
    Span::from_secs(8),
];
/// The server announces itself so often: controllers come and go.
const SERVER_PACE: Span = Span::from_secs(5);
/// Pauses after each SYN of a knock.
const TRIES: [Span; 3] = [Span::from_millis(200), Span::from_millis(600), Span::from_millis(1200)];
/// Ports from which cards knock (RFC 6335 §6).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;
const BROADCAST: [u8; 6] = [0xFF; 6];

impl Lan {
    /// Builds the network; the server is plugged in.
    #[must_use]
    pub fn new(now: Timestamp, config: &LanConfig) -> Self {
        let mut fabric = Fabric::default();
        let edges = (FIRST_EDGE..).take(config.n_edges as usize).map(DatapathId);
        let edges: Vec<_> = edges.collect();
        for spine in SPINES {
            // One port for every edge, and one for the server.
            let n_ports = config.n_edges + 1;
            fabric.add(switch(now, spine, "spine", n_ports), n_ports);
        }
        let mut sockets = Vec::new();
        for (n, &edge) in (1..).zip(&edges) {
            let n_ports = config.ports + 2;
            fabric.add(switch(now, edge, "edge", n_ports), n_ports);
            for (uplink, spine) in (config.ports + 1..).zip(SPINES) {
                fabric.join((edge, PortNumber(uplink)), (spine, PortNumber(n)));
            }
            sockets.extend((1..=config.ports).map(|port| (edge, PortNumber(port))));
        }
        let mut lan = Self {
            fabric,
            server: config.server,
            cards: BTreeMap::new(),
            sockets,
            taken: BTreeSet::new(),
            announcements: BTreeSet::new(),
            knocks: BTreeMap::new(),
            due_knocks: BTreeSet::new(),
            next_port: *EPHEMERAL.start(),
            answers: VecDeque::new(),
        };
        let (mac, ip) = config.server;
        lan.plug(now, mac, ip, (SPINES[0], PortNumber(config.n_edges + 1)));
        lan
    }

    /// Returns the switches and the cables between them.
    #[must_use]
    pub const fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// Returns the switches and the cables between them, to be changed.
    pub const fn fabric_mut(&mut self) -> &mut Fabric {
        &mut self.fabric
    }

    /// Plugs a card in at the port that follows from its name, or the next free one; there it stays.
    /// Its address follows from its name too.
    pub fn attach(&mut self, now: Timestamp, mac: MacAddr) -> Result<(), NoPort> {
        if self.cards.contains_key(&mac) {
            self.announce(mac);
            self.run(now);
            return Ok(());
        }
        let socket = self.free_socket(mac).ok_or(NoPort(self.sockets.len()))?;
        self.plug(now, mac, address_of(mac), socket);
        self.run(now);
        Ok(())
    }

    /// The same card gets the same port again, in whatever order cards come.
    fn free_socket(&mut self, mac: MacAddr) -> Option<Socket> {
        let [.., d, e, f] = *mac.as_bytes();
        let number = u32::from_be_bytes([0, d & 0x0F, e, f]) as usize;
        let n_sockets = self.sockets.len();
        let wanted = number.wrapping_sub(1) % n_sockets;
        let mut places = (wanted..n_sockets).chain(0..wanted);
        let place = places.find(|place| !self.taken.contains(place))?;
        self.taken.insert(place);
        self.sockets.get(place).copied()
    }

    fn plug(&mut self, now: Timestamp, mac: MacAddr, ip: Ipv4Addr, socket: Socket) {
        self.fabric.plug(mac, socket);
        self.cards.insert(mac, Card { socket, ip, is_heard: false });
        self.announcements.insert((now, mac, 0));
    }

    /// Lets a card knock at a port of the server; [`poll_answer`](Self::poll_answer) gives the outcome
    /// under the same `id`.
    pub fn knock(&mut self, now: Timestamp, id: u64, mac: MacAddr, door: Door) {
        if !self.cards.contains_key(&mac) {
            self.answers.push_back((id, false));
            return;
        }
        let from = self.next_port;
        self.next_port = if from == *EPHEMERAL.end() { *EPHEMERAL.start() } else { from + 1 };
        let earlier = self.knocks.insert((mac, from), Knock { id, door, n_tries: 0 });
        // After thousands of others from the same port: nobody waits for it any more.
        self.answers.extend(earlier.map(|knock| (knock.id, false)));
        self.try_knock(now, mac, from);
        self.run(now);
    }

    fn try_knock(&mut self, now: Timestamp, mac: MacAddr, from: u16) {
        let Some(knock) = self.knocks.get_mut(&(mac, from)) else { return };
        let Some(&pause) = TRIES.get(knock.n_tries) else {
            self.answers.push_back((knock.id, false));
            self.knocks.remove(&(mac, from));
            return;
        };
        knock.n_tries += 1;
        let (door, is_again) = (knock.door, knock.n_tries > 1);
        self.due_knocks.insert((now + pause, mac, from));
        if is_again {
            self.announce(mac);
        }
        let Some(card) = self.cards.get(&mac) else { return };
        let own = (mac, card.ip);
        let frame = match door {
            Door::Tcp(port) => segment(own, self.server, (from, port), Kind::Syn),
            Door::Udp(port) => datagram(own, self.server, (from, port)),
        };
        self.fabric.send(card.socket, frame);
    }

    fn announce(&mut self, mac: MacAddr) {
        let Some(card) = self.cards.get(&mac) else { return };
        let own = (mac, card.ip);
        self.fabric.send(card.socket, arp(ArpOperation::REQUEST, own, own, BROADCAST));
    }

    /// Begins a connection of a switch to a controller.
    pub fn handle_connected(&mut self, now: Timestamp, of: DatapathId, connection: Connection) {
        self.fabric.with(of, |switch| switch.handle_connected(connection));
        self.run(now);
    }

    /// Ends a connection.
    pub fn handle_disconnected(&mut self, of: DatapathId, connection: Connection) {
        self.fabric.with(of, |switch| switch.handle_disconnected(connection));
    }

    /// Takes a message of a controller for a switch.
    pub fn handle_message(
        &mut self,
        now: Timestamp,
        of: DatapathId,
        connection: Connection,
        envelope: Envelope,
    ) {
        self.fabric.with(of, |switch| switch.handle_message(now, connection, envelope));
        self.run(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.fabric.handle_timeout(now);
        while let Some(&(at, mac, from)) = self.due_knocks.first().filter(|first| first.0 <= now) {
            self.due_knocks.remove(&(at, mac, from));
            self.try_knock(now, mac, from);
        }
        while let Some(&(at, mac, n)) = self.announcements.first().filter(|first| first.0 <= now) {
            self.announcements.remove(&(at, mac, n));
            let is_server = mac == self.server.0;
            if !is_server && self.cards.get(&mac).is_none_or(|card| card.is_heard) {
                continue;
            }
            self.announce(mac);
            let pause = ANNOUNCEMENTS.get(n as usize).copied();
            let pause = if is_server { Some(pause.unwrap_or(SERVER_PACE)) } else { pause };
            self.announcements.extend(pause.map(|pause| (now + pause, mac, n.saturating_add(1))));
        }
        self.run(now);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let announcement = self.announcements.first().map(|&(at, ..)| at);
        let knock = self.due_knocks.first().map(|&(at, ..)| at);
        [announcement, knock, self.fabric.poll_timeout()].into_iter().flatten().min()
    }

    /// Returns the next message of a switch for a controller.
    pub fn poll_transmit(&mut self) -> Option<(DatapathId, Connection, Envelope)> {
        self.fabric.poll_transmit()
    }

    /// Returns the outcome of a knock: whether the server has answered.
    pub fn poll_answer(&mut self) -> Option<(u64, bool)> {
        self.answers.pop_front()
    }

    /// Lets frames run, and cards answer what they get.
    fn run(&mut self, now: Timestamp) {
        loop {
            self.fabric.run(now);
            let Some((mac, frame)) = self.fabric.poll_arrival() else { return };
            self.hear(mac, &frame);
        }
    }

    fn hear(&mut self, mac: MacAddr, frame: &[u8]) {
        let Some(heard) = read(frame) else { return };
        let Some(card) = self.cards.get_mut(&mac).filter(|card| heard.is_for(mac, card.ip)) else {
            return;
        };
        card.is_heard = true;
        let own = (mac, card.ip);
        let reply = match heard {
            Heard::Asks { who, .. } => arp(ArpOperation::REPLY, own, who, *who.0.as_bytes()),
            Heard::Segment { from, ports: (theirs, ours), kind: Kind::Syn, .. }
                if mac == self.server.0 =>
            {
                segment(own, from, (ours, theirs), Kind::SynAck)
            }
            Heard::Segment { from, ports: (_, ours), kind: Kind::SynAck, .. }
                if from == self.server =>
            {
                let knock = self.knocks.remove(&(mac, ours));
                self.answers.extend(knock.map(|knock| (knock.id, true)));
                return;
            }
            Heard::Datagram { from, ports: (theirs, ours), .. } if mac == self.server.0 => {
                datagram(own, from, (ours, theirs))
            }
            Heard::Datagram { from, ports: (_, ours), .. } if from == self.server => {
                let knock = self.knocks.remove(&(mac, ours));
                self.answers.extend(knock.map(|knock| (knock.id, true)));
                return;
            }
            Heard::Segment { .. } | Heard::Datagram { .. } => return,
        };
        self.fabric.send(card.socket, reply);
    }
}

fn switch(now: Timestamp, datapath: DatapathId, kind: &str, n_ports: u32) -> Switch {
    let description = Description {
        manufacturer: "Claviger".into(),
        hardware: "emulated".into(),
        datapath: format!("{kind} {:x}", datapath.0),
        ..Description::default()
    };
    let ports = (1..=n_ports).map(|n| format!("port{n}")).collect();
    let config = SwitchConfig { datapath, description, ports, n_tables: 4, most_entries: 200_000 };
    Switch::new(now, config)
}

/// The address of a card in `10.64.0.0/10`: the low 22 bits of its name.
fn address_of(mac: MacAddr) -> Ipv4Addr {
    let [.., d, e, f] = *mac.as_bytes();
    Ipv4Addr::from_bits(0x0A40_0000 | u32::from_be_bytes([0, d & 0x3F, e, f]))
}

type Station = (MacAddr, Ipv4Addr);

/// Which step of TCP's handshake a segment is (RFC 9293 §3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
}

/// What a card understands.
enum Heard {
    Asks { who: Station, about: Ipv4Addr },
    Segment { from: Station, to: Station, ports: (u16, u16), kind: Kind },
    Datagram { from: Station, to: Station, ports: (u16, u16) },
}

impl Heard {
    fn is_for(&self, mac: MacAddr, ip: Ipv4Addr) -> bool {
        match *self {
            Self::Asks { about, who } => about == ip && who.0 != mac,
            Self::Segment { to, .. } | Self::Datagram { to, .. } => to == (mac, ip),
        }
    }
}

fn read(frame: &[u8]) -> Option<Heard> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let header = packet.link.as_ref()?;
    let etherparse::LinkSlice::Ethernet2(header) = header else { return None };
    let (source, target) = (header.source(), header.destination());
    match (&packet.net?, &packet.transport) {
        (LaxNetSlice::Arp(arp), _) if arp.operation() == ArpOperation::REQUEST => {
            let sender = <[u8; 4]>::try_from(arp.sender_protocol_addr()).ok()?;
            let about = <[u8; 4]>::try_from(arp.target_protocol_addr()).ok()?;
            let card = <[u8; 6]>::try_from(arp.sender_hw_addr()).ok()?;
            let who = (MacAddr::from_bytes(card), sender.into());
            Some(Heard::Asks { who, about: about.into() })
        }
        (LaxNetSlice::Ipv4(ip), Some(TransportSlice::Tcp(tcp))) if tcp.syn() => {
            let header = ip.header();
            Some(Heard::Segment {
                from: (MacAddr::from_bytes(source), header.source_addr()),
                to: (MacAddr::from_bytes(target), header.destination_addr()),
                ports: (tcp.source_port(), tcp.destination_port()),
                kind: if tcp.ack() { Kind::SynAck } else { Kind::Syn },
            })
        }
        (LaxNetSlice::Ipv4(ip), Some(TransportSlice::Udp(udp))) => {
            let header = ip.header();
            Some(Heard::Datagram {
                from: (MacAddr::from_bytes(source), header.source_addr()),
                to: (MacAddr::from_bytes(target), header.destination_addr()),
                ports: (udp.source_port(), udp.destination_port()),
            })
        }
        _ => None,
    }
}

fn datagram(from: Station, to: Station, (source, target): (u16, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(*from.0.as_bytes(), *to.0.as_bytes())
        .ipv4(from.1.octets(), to.1.octets(), 64)
        .udp(source, target);
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write_to_vec(&mut frame, &[]).expect("a vector takes all");
    frame
}

fn arp(operation: ArpOperation, sender: Station, target: Station, to: [u8; 6]) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        sender.0.as_bytes(),
        &sender.1.octets(),
        target.0.as_bytes(),
        &target.1.octets(),
    );
    let packet = packet.expect("the lengths of addresses are given by their types");
    let (source, destination) = (*sender.0.as_bytes(), to);
    let header = Ethernet2Header { source, destination, ether_type: EtherType::ARP };
    let mut frame = header.to_bytes().to_vec();
    frame.extend(packet.to_bytes());
    frame
}

fn segment(from: Station, to: Station, (source, target): (u16, u16), kind: Kind) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(*from.0.as_bytes(), *to.0.as_bytes())
        .ipv4(from.1.octets(), to.1.octets(), 64)
        .tcp(source, target, 0, 65_535)
        .syn();
    let builder = match kind {
        Kind::Syn => builder,
        Kind::SynAck => builder.ack(1),
    };
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write_to_vec(&mut frame, &[]).expect("a vector takes all");
    frame
}
