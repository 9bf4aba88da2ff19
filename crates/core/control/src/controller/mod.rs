//! The controller: switches come and go, hosts are found, tables follow.

mod admit;
mod compile;
mod connections;
mod discovery;
mod optics;
mod packets;
mod reading;
mod views;

pub use admit::AdmissionError;
pub use optics::{ChannelError, ChannelView, OpticsConfig};
pub use views::{HostView, PortRole, PortView, Standing, SwitchView, Trace};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_openflow::{
    DatapathId, DecodeError, Envelope, FlowMod, Message, PacketOut, Port, PortNumber,
};
use claviger_units::{MacAddr, Span, Timestamp};

use self::connections::Connection;
use self::discovery::Sweep;
use self::optics::Optics;
use crate::Place;
use crate::event::{ConnectionId, Event, Farewell};
use crate::hosts::HostTable;
use crate::lldp::LldpKey;
use crate::policy::{Admission, PacketRate, Policy, PolicyId};
use crate::range::AddressRange;
use crate::tables::{Mend, Tables};
use crate::topology::Topology;

/// What an operator decides for a controller.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// The controller's own address in the frames that it makes.
    pub mac: MacAddr,
    /// The key of the frames of discovery.
    pub lldp_key: LldpKey,
    /// What hosts may do; [`PolicyId`] counts them from 1.
    pub policies: Vec<Policy>,
    /// Where silent hosts are looked for.
    pub sweep: Vec<AddressRange>,
    /// The host whose DHCP answers are handed on.
    pub dhcp_server: Option<MacAddr>,
    /// How fast one port may bring packets of unknown cards.
    pub unknown: PacketRate,
    /// The optical switch that the quantum channel goes through.
    pub optics: Option<OpticsConfig>,
    /// How long things take.
    pub times: Times,
}

/// How long a controller waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A silent switch is asked whether it is there.
    pub echo: Span,
    /// A silent switch is given up.
    pub silence: Span,
    /// A new connection has introduced itself.
    pub handshake: Span,
    /// A barrier is answered.
    pub barrier: Span,
    /// Frames of discovery leave by every port.
    pub lldp: Span,
    /// A link is down after this long without one.
    pub link: Span,
    /// A port without an answer has hosts behind it.
    pub decide: Span,
    /// Nothing new has happened for so long: the network is settled.
    pub settle: Span,
    /// A switch that came back keeps what it has for so long at most, until the network is settled.
    pub hold: Span,
    /// Tables and counters are read again.
    pub audit: Span,
    /// An unknown card is forgotten.
    pub forget: Span,
    /// A spoof is dropped without asking again.
    pub spoof: Span,
}

impl Times {
    /// What suits wired networks.
    pub const STANDARD: Self = Self {
        echo: Span::from_secs(5),
        silence: Span::from_secs(15),
        handshake: Span::from_secs(10),
        barrier: Span::from_secs(20),
        lldp: Span::from_secs(1),
        link: Span::from_millis(3500),
        decide: Span::from_millis(250),
        settle: Span::from_millis(300),
        hold: Span::from_secs(5),
        audit: Span::from_secs(60),
        forget: Span::from_secs(300),
        spoof: Span::from_secs(60),
    };
}

/// Whether a controller may change switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mastery {
    /// It does; the number of its election is higher than that of any before.
    Primary {
        /// The number.
        generation: u64,
    },
    /// It watches, and is ready.
    Standby {
        /// The number of the last election that it knows.
        generation: u64,
    },
}

/// An OpenFlow 1.3 controller that admits hosts by name and lets each reach what it may, no more.
///
/// Drain [`poll_transmit`](Self::poll_transmit), [`poll_close`](Self::poll_close) and
/// [`poll_event`](Self::poll_event) after every `handle_*`, [`admit`](Self::admit) and
/// [`dismiss`](Self::dismiss), and call [`handle_timeout`](Self::handle_timeout) at
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
    mastery: Mastery,
    // Hosts that a policy names as the home of a service.
    servers: BTreeSet<MacAddr>,
    admissions: BTreeMap<MacAddr, Admission>,
    connections: BTreeMap<ConnectionId, Connection>,
    switches: BTreeMap<DatapathId, Switch>,
    topology: Topology,
    hosts: HostTable,
    tables: Tables,
    // Hosts at a switch under a policy: as long as there are any, the policy's entries stand there.
    populations: BTreeMap<(DatapathId, PolicyId), usize>,
    // Spoofs that are being dropped, and until when.
    spoofs: BTreeMap<(MacAddr, Place), Timestamp>,
    // What has been told, and is not told again before the next audit, however often it happens.
    warned: BTreeSet<Warning>,
    sweeps: VecDeque<Sweep>,
    next_sweep: Timestamp,
    next_lldp: Timestamp,
    // Ports that are undecided are tried more often.
    next_trial: Timestamp,
    // Rounds of discovery so far.
    n_rounds: u64,
    next_audit: Timestamp,
    // When something new was found last, if the network has not settled since.
    restless: Option<Timestamp>,
    // Since when there has been something new all the time.
    unsettled: Option<Timestamp>,
    // Before then not everything is worked out anew.
    next_whole: Timestamp,
    // Every port that is undecided, and some that were.
    undecided: BTreeSet<Place>,
    optics: Optics,
    stale: Stale,
    // The addresses of all ports of all switches: nobody else's packets carry them.
    port_macs: BTreeSet<[u8; 6]>,
    ready: BTreeSet<ConnectionId>,
    // What is still to be sent on connections that are closed.
    last_words: BTreeMap<ConnectionId, Vec<u8>>,
    closing: VecDeque<ConnectionId>,
    events: VecDeque<Event>,
}

/// What an attacker could cause to be told as often as he sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Warning {
    Forged(Place),
    Crowded(Place),
    Taken(core::net::IpAddr, MacAddr),
    Dhcp(MacAddr),
    Refusal(DatapathId),
}

/// What has to be worked out again before switches are told.
#[derive(Debug, Default)]
struct Stale {
    all: bool,
    topology: u64,
    hosts: BTreeSet<MacAddr>,
    switches: BTreeSet<DatapathId>,
    policies: BTreeSet<(DatapathId, PolicyId)>,
}

/// A switch that has introduced itself once.
#[derive(Debug)]
struct Switch {
    connection: Option<ConnectionId>,
    description: String,
    ports: BTreeMap<PortNumber, PortState>,
    // What it had when it came back is kept until then.
    hold_until: Option<Timestamp>,
    // How often in a row it has refused something.
    n_refusals: u32,
}

#[derive(Debug)]
struct PortState {
    port: Port,
    side: Side,
}

/// What is behind a port.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// Nothing: no cable, or a port of the switch's own.
    Nothing,
    /// That turns out soon; packets wait so long.
    Undecided { until: Timestamp, waiting: Vec<Vec<u8>> },
    /// Another switch.
    Trunk,
    /// Hosts.
    Hosts,
}

/// The longest that discovery goes on without what was found being counted.
const LONGEST_UNREST: Span = Span::from_secs(60);

impl Controller {
    /// Makes a controller that knows no switch yet.
    #[must_use]
    pub fn new(now: Timestamp, config: ControllerConfig, mastery: Mastery) -> Self {
        let servers = config.policies.iter().flat_map(|policy| &policy.reaches);
        let servers = servers.filter_map(|reach| match reach {
            crate::policy::Reach::Service { host, .. } => Some(*host),
            crate::policy::Reach::Peers => None,
        });
        Self {
            servers: servers.collect(),
            mastery,
            admissions: BTreeMap::new(),
            connections: BTreeMap::new(),
            switches: BTreeMap::new(),
            topology: Topology::default(),
            hosts: HostTable::default(),
            tables: Tables::default(),
            populations: BTreeMap::new(),
            spoofs: BTreeMap::new(),
            warned: BTreeSet::new(),
            sweeps: VecDeque::new(),
            next_sweep: now,
            next_lldp: now + config.times.lldp,
            next_trial: now,
            n_rounds: 0,
            next_audit: now + config.times.audit,
            restless: None,
            unsettled: None,
            next_whole: now,
            undecided: BTreeSet::new(),
            optics: Optics::NEW,
            stale: Stale::default(),
            port_macs: BTreeSet::new(),
            ready: BTreeSet::new(),
            last_words: BTreeMap::new(),
            closing: VecDeque::new(),
            events: VecDeque::new(),
            config,
        }
    }

    /// Takes what a switch said.
    pub fn handle_message(
        &mut self,
        now: Timestamp,
        from: ConnectionId,
        message: Result<Envelope, DecodeError>,
    ) {
        match message {
            Ok(envelope) => self.hear(now, from, envelope),
            Err(error) => self.part(now, from, Farewell::Garbage(error)),
        }
        self.flush(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.check_connections(now);
        self.decide_ports(now);
        self.discover(now);
        self.continue_sweeps(now);
        self.expire(now);
        self.settle(now);
        self.flush(now);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let connections = self.connections.values().filter_map(|c| c.due(&self.config.times));
        let decision = self.decisions().map(|(_, until)| until).min();
        let trial = decision.is_some().then_some(self.next_trial);
        let holds = self.switches.values().filter_map(|switch| switch.hold_until);
        let sweep = (!self.sweeps.is_empty()).then_some(self.next_sweep);
        let settled = self.restless.map(|since| since + self.config.times.settle);
        let rounds = [self.next_lldp, self.next_audit];
        let whole = (self.stale.all && self.is_primary()).then_some(self.next_whole);
        connections
            .chain(decision)
            .chain(trial)
            .chain(holds)
            .chain(sweep)
            .chain(settled)
            .chain(whole)
            .chain(rounds)
            .min()
    }

    /// Returns what is to be sent to a switch.
    pub fn poll_transmit(&mut self) -> Option<(ConnectionId, Vec<u8>)> {
        if let Some(last) = self.last_words.pop_first() {
            return Some(last);
        }
        let id = self.ready.pop_first()?;
        let bytes = self.connections.get_mut(&id).map(|c| std::mem::take(&mut c.out));
        Some((id, bytes.unwrap_or_default()))
    }

    /// Returns a connection that is to be closed once what was sent on it is out.
    pub fn poll_close(&mut self) -> Option<ConnectionId> {
        self.closing.pop_front()
    }

    /// Returns what has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    const fn is_primary(&self) -> bool {
        matches!(self.mastery, Mastery::Primary { .. })
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Tells what may happen often only once until the next audit.
    fn warn(&mut self, warning: Warning, event: Event) {
        if self.warned.insert(warning) {
            self.tell(event);
        }
    }

    /// Notes that something new was found.
    fn stir(&mut self, now: Timestamp) {
        self.restless = Some(now);
        self.unsettled = self.unsettled.or(Some(now));
    }

    /// Sends a message to a switch, if it is up and this controller is its master.
    fn send(&mut self, datapath: DatapathId, message: Message) {
        let id = self.switches.get(&datapath).and_then(|switch| switch.connection);
        if let Some(id) = id.filter(|_| self.is_primary()) {
            self.send_on(id, message);
        }
    }

    fn send_on(&mut self, id: ConnectionId, message: Message) -> u32 {
        let Some(connection) = self.connections.get_mut(&id) else { return 0 };
        self.ready.insert(id);
        connection.write(message)
    }

    fn send_packet(&mut self, to: Place, frame: Vec<u8>) {
        self.send(to.datapath, Message::PacketOut(PacketOut::through(to.port, frame)));
    }

    /// Tells whether the network is quiet, and lets go of what was held for its sake.
    fn settle(&mut self, now: Timestamp) {
        for (datapath, switch) in &mut self.switches {
            if switch.hold_until.is_some_and(|until| until <= now) {
                switch.hold_until = None;
                self.tables.touch(*datapath);
            }
        }
        let Some(since) = self.restless else { return };
        let looks = !self.sweeps.is_empty()
            || self.decisions().next().is_some()
            || self.connections.values().any(Connection::is_starting);
        // Whoever comes and goes all the time, or introduces himself without end, keeps nobody waiting.
        let is_long = self.unsettled.is_some_and(|since| now >= since + LONGEST_UNREST);
        if !is_long && (looks || now < since + self.config.times.settle) {
            // What is looked for wakes the controller itself.
            if looks {
                self.restless = Some(now);
            }
            return;
        }
        (self.restless, self.unsettled) = (None, None);
        for (datapath, switch) in &mut self.switches {
            if switch.hold_until.take().is_some() {
                self.tables.touch(*datapath);
            }
        }
        let up = self.switches.values().filter(|switch| switch.connection.is_some());
        let (n_switches, n_links) = (up.count(), self.topology.links().len());
        self.tell(Event::Settled { n_switches, n_links, n_hosts: self.hosts.len() });
    }

    /// Works out what has become stale, and tells switches what they lack.
    fn flush(&mut self, now: Timestamp) {
        if !self.is_primary() {
            return;
        }
        self.compile(now);
        for datapath in self.tables.take_touched() {
            let Some(switch) = self.switches.get(&datapath) else { continue };
            let Some(id) = switch.connection else { continue };
            let mend = if switch.hold_until.is_some() { Mend::Missing } else { Mend::All };
            let messages = self.tables.changes(datapath, mend);
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if messages.is_empty() {
                continue;
            }
            let reconciled = connection.note_changes(mend, messages.len());
            for message in messages {
                connection.write(message);
            }
            connection.want_barrier(now);
            self.ready.insert(id);
            if let Some(n_changes) = reconciled {
                self.tell(Event::Reconciled { datapath, n_changes });
            }
        }
    }

    /// Drops what comes from a card at a port for a while, without asking again.
    fn drop_for_a_while(&mut self, mac: MacAddr, place: Place) {
        let matching = claviger_openflow::Match::new()
            .with(claviger_openflow::Field::InPort, place.port.0.into())
            .with_mac(claviger_openflow::Field::EthSrc, *mac.as_bytes());
        let mut flow = FlowMod::add(0, compile::DROPPED, matching, Vec::new());
        flow.cookie = crate::tables::passing_cookie(mac);
        let seconds = self.config.times.spoof.as_micros() / 1_000_000;
        flow.hard_timeout = u16::try_from(seconds.max(1)).unwrap_or(u16::MAX);
        flow.flags = FlowMod::TELLS_REMOVAL;
        self.send(place.datapath, Message::FlowMod(flow));
    }
}
