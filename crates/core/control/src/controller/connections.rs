//! Connections to switches: greeting, reading what they have, liveness, mastery.

use std::collections::{BTreeMap, BTreeSet};

use claviger_openflow::{
    Config, DatapathId, Description, Envelope, ErrorMessage, Features, FlowFilter, Hello, Message,
    MultipartRequest, PortChange, PortStatus, Role, RoleKind,
};
use claviger_units::{Span, Timestamp};

use super::reading::{MOST_ENTRIES, MOST_PORTS, Part, Read};
use super::{Controller, Mastery, PortState, Side, Switch, Times, Warning};
use crate::Place;
use crate::event::{ConnectionId, Event, Farewell};
use crate::tables::{Mend, host_of};

/// A connection to what may be a switch.
#[derive(Debug)]
pub(super) struct Connection {
    stage: Stage,
    since: Timestamp,
    heard: Timestamp,
    // An echo is under way since then.
    asked: Option<Timestamp>,
    last_xid: u32,
    barrier: Barrier,
    // Its tables were read, and nothing but what is missing was told since.
    is_fresh: bool,
    read: Read,
    pub(super) out: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Introducing,
    /// Another connection of the same datapath is there and was asked whether it lives.
    Contested(Features, Timestamp),
    /// It tells what it has.
    Reading(DatapathId),
    Up(DatapathId),
}

#[derive(Debug, Default)]
struct Barrier {
    under_way: Option<(u32, Timestamp)>,
    // Something was sent behind the one under way.
    wanted: bool,
}

impl Connection {
    pub(super) const fn is_starting(&self) -> bool {
        !matches!(self.stage, Stage::Up(_))
    }

    /// Returns when something is due about it.
    pub(super) fn due(&self, times: &Times) -> Option<Timestamp> {
        let echo = match self.asked {
            None => self.heard + times.echo,
            Some(_) => self.heard + times.silence,
        };
        let start = self.is_starting().then(|| self.since + times.handshake);
        let contest = match self.stage {
            Stage::Contested(_, until) => Some(until),
            _ => None,
        };
        let barrier = self.barrier.under_way.map(|(_, since)| since + times.barrier);
        [Some(echo), start, contest, barrier].into_iter().flatten().min()
    }

    pub(super) fn write(&mut self, message: Message) -> u32 {
        self.last_xid = self.last_xid.wrapping_add(1);
        Envelope { xid: self.last_xid, message }.encode_into(&mut self.out);
        self.last_xid
    }

    /// Asks for a confirmation of all that was sent, once.
    pub(super) fn want_barrier(&mut self, now: Timestamp) {
        if self.barrier.under_way.is_some() {
            self.barrier.wanted = true;
        } else {
            let xid = self.write(Message::BarrierRequest);
            self.barrier = Barrier { under_way: Some((xid, now)), wanted: false };
        }
    }

    /// Notes that tables are changed; returns the number of changes if they mend what was found.
    pub(super) fn note_changes(&mut self, mend: Mend, n_changes: usize) -> Option<usize> {
        self.read.outdated = true;
        let mends = mend == Mend::All && std::mem::take(&mut self.is_fresh);
        mends.then_some(n_changes)
    }

    /// Asks for everything that a controller has to know.
    fn read_all(&mut self) {
        self.read = Read::default();
        for question in [
            MultipartRequest::Description,
            MultipartRequest::Ports,
            MultipartRequest::Meters(u32::MAX),
        ] {
            let xid = self.write(Message::MultipartRequest(question));
            self.read.asked.insert(xid);
        }
        self.read_entries();
    }

    fn read_entries(&mut self) {
        self.read.entries.clear();
        self.read.outdated = false;
        let question = MultipartRequest::Flows(FlowFilter::ALL);
        self.read.last_xid = Some(self.write(Message::MultipartRequest(question)));
    }
}

impl Controller {
    /// Greets whoever has connected.
    pub fn handle_connected(&mut self, now: Timestamp, id: ConnectionId) {
        let mut connection = Connection {
            stage: Stage::Greeting,
            since: now,
            heard: now,
            asked: None,
            last_xid: 0,
            barrier: Barrier::default(),
            is_fresh: false,
            read: Read::default(),
            out: Vec::new(),
        };
        connection.write(Message::Hello(Hello::OURS));
        self.connections.insert(id, connection);
        self.ready.insert(id);
    }

    /// Notes that a connection is closed.
    pub fn handle_disconnected(&mut self, now: Timestamp, id: ConnectionId) {
        self.leave(now, id, Farewell::Closed);
        self.flush(now);
    }

    /// Takes every switch over; `generation` is higher than that of any election before.
    pub fn take_over(&mut self, now: Timestamp, generation: u64) {
        self.mastery = Mastery::Primary { generation };
        let up: Vec<_> = self.switches.values().filter_map(|switch| switch.connection).collect();
        for id in up {
            self.send_on(id, Message::RoleRequest(self.role()));
            self.read_again(id);
        }
        // What switches have stays until it is known again where everything is.
        for switch in self.switches.values_mut() {
            switch.hold_until = Some(now + self.config.times.hold);
        }
        // What a standby saw of ports says nothing of what is behind them.
        let places = self.up_ports();
        places.into_iter().for_each(|place| self.port_up(now, place));
        self.stale.all = true;
        self.flush(now);
    }

    /// Returns whether this controller may change switches.
    #[must_use]
    pub const fn mastery(&self) -> Mastery {
        self.mastery
    }

    pub(super) fn hear(&mut self, now: Timestamp, id: ConnectionId, envelope: Envelope) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.heard = now;
        connection.asked = None;
        let (stage, xid) = (connection.stage, envelope.xid);
        match (stage, envelope.message) {
            (_, Message::EchoRequest(bytes)) => {
                Envelope { xid, message: Message::EchoReply(bytes) }
                    .encode_into(&mut connection.out);
                self.ready.insert(id);
            }
            (_, Message::EchoReply(_)) => {}
            (Stage::Greeting, Message::Hello(hello)) if hello.is_compatible() => {
                connection.stage = Stage::Introducing;
                connection.write(Message::FeaturesRequest);
                self.ready.insert(id);
            }
            (Stage::Greeting, Message::Hello(_) | Message::Error(_)) => {
                self.part(now, id, Farewell::Version);
            }
            (Stage::Introducing, Message::FeaturesReply(features)) => {
                self.introduce(now, id, features);
            }
            (Stage::Reading(_) | Stage::Up(_), Message::RoleReply(role)) => {
                self.note_role(now, id, role);
            }
            (Stage::Reading(datapath), Message::MultipartReply { reply, more }) => {
                let part = connection.read.take_part(xid, reply, more);
                if part == Part::Taken {
                    // Who tells much has the more time for it.
                    connection.since = now;
                }
                if connection.read.is_endless() {
                    self.part(now, id, Farewell::Endless(MOST_ENTRIES));
                } else if part == Part::Last {
                    self.come_up(now, id, datapath);
                }
            }
            (Stage::Reading(_), Message::PortStatus(status)) => connection.read.note_port(status),
            (Stage::Up(datapath), Message::PortStatus(status)) => {
                self.note_port(now, datapath, status);
            }
            (Stage::Reading(datapath) | Stage::Up(datapath), Message::Error(error)) => {
                self.note_error(now, id, datapath, &error);
            }
            (Stage::Up(datapath), message) => self.hear_switch(now, id, datapath, xid, message),
            // What comes too early means nothing yet.
            _ => {}
        }
    }

    fn hear_switch(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        datapath: DatapathId,
        xid: u32,
        message: Message,
    ) {
        match message {
            Message::PacketIn(packet) if self.is_primary() => {
                self.handle_packet(now, datapath, packet);
            }
            Message::BarrierReply => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if connection.barrier.under_way.is_some_and(|(asked, _)| asked == xid) {
                    connection.barrier.under_way = None;
                    if std::mem::take(&mut connection.barrier.wanted) {
                        connection.want_barrier(now);
                        self.ready.insert(id);
                    }
                }
            }
            Message::FlowRemoved(removed) => self.note_removed(now, datapath, &removed),
            Message::MultipartReply { reply, more } => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                let part = connection.read.take_part(xid, reply, more);
                if connection.read.is_endless() {
                    self.part(now, id, Farewell::Endless(MOST_ENTRIES));
                } else if part == Part::Last {
                    self.audit(now, id, datapath);
                }
            }
            _ => {}
        }
    }

    /// Tells whether a switch has still to confirm what it was told.
    pub(super) fn is_confirming(&self, datapath: DatapathId) -> bool {
        let id = self.switches.get(&datapath).and_then(|switch| switch.connection);
        let connection = id.and_then(|id| self.connections.get(&id));
        connection.is_some_and(|connection| connection.barrier.under_way.is_some())
    }

    /// Lets a switch confirm what it was told.
    pub(super) fn confirm(&mut self, now: Timestamp, datapath: DatapathId) {
        let id = self.switches.get(&datapath).and_then(|switch| switch.connection);
        if let Some(id) = id
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.want_barrier(now);
            self.ready.insert(id);
        }
    }

    /// Asks silent switches, and gives up those that stay silent.
    pub(super) fn check_connections(&mut self, now: Timestamp) {
        let times = self.config.times;
        let due: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, c)| c.due(&times) <= Some(now))
            .map(|(&id, c)| (id, c.stage, c.heard, c.asked, c.since, c.barrier.under_way))
            .collect();
        for (id, stage, heard, asked, since, barrier) in due {
            if let Stage::Contested(features, until) = stage
                && until <= now
            {
                self.decide_contest(now, id, features, until - CONTEST);
            } else if stage_is_starting(stage) && since + times.handshake <= now {
                self.part(now, id, Farewell::Handshake(times.handshake));
            } else if barrier.is_some_and(|(_, since)| since + times.barrier <= now) {
                self.part(now, id, Farewell::NoBarrier(times.barrier));
            } else if asked.is_some() && heard + times.silence <= now {
                self.part(now, id, Farewell::Silent(times.silence));
            } else if asked.is_none() {
                self.ask(now, id);
            }
        }
    }

    /// Closes a connection from this side.
    pub(super) fn part(&mut self, now: Timestamp, id: ConnectionId, why: Farewell) {
        if matches!(why, Farewell::Version) {
            let reason = "this controller speaks OpenFlow 1.3 alone";
            self.send_on(id, Message::Error(ErrorMessage::incompatible(reason)));
        }
        // What was written goes out before the close.
        let last_words = self.connections.get_mut(&id).map(|c| std::mem::take(&mut c.out));
        if self.leave(now, id, why)
            && let Some(words) = last_words
        {
            self.farewells(id, words);
        }
    }

    /// Reads the tables of all switches again.
    pub(super) fn read_all_again(&mut self) {
        let up: Vec<_> = self.switches.values().filter_map(|switch| switch.connection).collect();
        up.into_iter().for_each(|id| self.read_again(id));
    }

    fn farewells(&mut self, id: ConnectionId, words: Vec<u8>) {
        if !words.is_empty() {
            self.last_words.insert(id, words);
        }
        self.closing.push_back(id);
    }

    fn ask(&mut self, now: Timestamp, id: ConnectionId) {
        self.send_on(id, Message::EchoRequest(Vec::new()));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.asked = Some(now);
        }
    }

    fn read_again(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.read_entries();
            self.ready.insert(id);
        }
    }

    const fn role(&self) -> Role {
        match self.mastery {
            Mastery::Primary { generation } => Role { kind: RoleKind::Master, generation },
            Mastery::Standby { generation } => Role { kind: RoleKind::Slave, generation },
        }
    }

    fn introduce(&mut self, now: Timestamp, id: ConnectionId, features: Features) {
        if features.auxiliary != 0 {
            return self.part(now, id, Farewell::Auxiliary);
        }
        let rival = self.rival_of(id, features.datapath);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match rival {
            None => {
                connection.stage = Stage::Reading(features.datapath);
                connection.write(Message::SetConfig(Config { flags: 0, miss_send_len: 0xFFFF }));
                self.send_on(id, Message::RoleRequest(self.role()));
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.read_all();
                }
            }
            Some(rival) => {
                connection.stage = Stage::Contested(features, now + CONTEST);
                self.ask(now, rival);
            }
        }
    }

    /// Returns another connection of the same datapath, up or about to be.
    fn rival_of(&self, id: ConnectionId, datapath: DatapathId) -> Option<ConnectionId> {
        let others = self.connections.iter().filter(|&(&other, _)| other != id);
        let same = |stage| matches!(stage, Stage::Reading(of) | Stage::Up(of) if of == datapath);
        others.filter(|(_, connection)| same(connection.stage)).map(|(&other, _)| other).next()
    }

    /// Whoever was there first stays if it has answered.
    fn decide_contest(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        features: Features,
        asked: Timestamp,
    ) {
        let rival = self.rival_of(id, features.datapath);
        let lives = rival.and_then(|rival| self.connections.get(&rival));
        if lives.is_some_and(|rival| rival.heard > asked) {
            return self.part(now, id, Farewell::Duplicate(features.datapath));
        }
        if let Some(rival) = rival {
            self.part(now, rival, Farewell::Replaced);
        }
        self.introduce(now, id, features);
    }

    /// Takes a switch in whose ports and tables are known.
    fn come_up(&mut self, now: Timestamp, id: ConnectionId, datapath: DatapathId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.stage = Stage::Up(datapath);
        connection.is_fresh = true;
        let read = std::mem::take(&mut connection.read);
        let description = described(&read.description);
        let ports = read.ports.into_iter().filter(|port| port.number.is_physical());
        let ports = ports.take(MOST_PORTS);
        let ports = ports.map(|port| (port.number, PortState { port, side: Side::Nothing }));
        let ports: BTreeMap<_, _> = ports.collect();
        let up = ports.values().filter(|state| state.port.is_up());
        let up: Vec<_> = up.map(|state| state.port.number).collect();
        // A switch that has nothing has nothing to keep.
        let hold_until = (!read.entries.is_empty()).then(|| now + self.config.times.hold);
        let switch = Switch {
            connection: Some(id),
            description: description.clone(),
            ports,
            hold_until,
            n_refusals: 0,
        };
        let macs = switch.ports.values().map(|state| state.port.mac);
        self.port_macs.extend(macs);
        self.switches.insert(datapath, switch);
        self.undecided.retain(|place| place.datapath != datapath);
        self.adopt_cross_connection(datapath, &read.entries);
        self.tables.learn(datapath, read.entries);
        self.tables.learn_meters(datapath, &read.meters);
        self.stale.switches.insert(datapath);
        self.stir(now);
        self.tell(Event::SwitchUp { datapath, description });
        for port in up {
            self.port_up(now, Place::new(datapath, port));
        }
    }

    /// Compares what a switch has with what it should have.
    fn audit(&mut self, now: Timestamp, id: ConnectionId, datapath: DatapathId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.read.last_xid = None;
        let entries = std::mem::take(&mut connection.read.entries);
        for entry in &entries {
            if let Some(mac) = host_of(entry.cookie).filter(|_| entry.table == 0) {
                self.note_counted(now, mac, entry.packets);
            }
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // What was read before a change says nothing of the tables after it.
        if !connection.read.outdated {
            connection.is_fresh = true;
            self.tables.learn(datapath, entries);
        }
    }

    fn note_role(&mut self, now: Timestamp, id: ConnectionId, role: Role) {
        if self.is_primary() && role.kind == RoleKind::Slave {
            self.overruled(now, id);
        }
    }

    /// Gives up a switch that says that another controller is its master. What one switch says is no
    /// reason to leave the others alone: it may lie.
    fn overruled(&mut self, now: Timestamp, id: ConnectionId) {
        let stage = self.connections.get(&id).map(|connection| connection.stage);
        if let Some(Stage::Reading(datapath) | Stage::Up(datapath)) = stage {
            self.tell(Event::Superseded { datapath });
            self.part(now, id, Farewell::Overruled);
        }
    }

    fn note_error(
        &mut self,
        now: Timestamp,
        id: ConnectionId,
        datapath: DatapathId,
        error: &ErrorMessage,
    ) {
        // An old election, or no master any more: somebody else has taken over.
        if matches!((error.kind, error.code), (11, 0) | (1, 10)) {
            if self.is_primary() {
                self.overruled(now, id);
            }
            return;
        }
        let event = Event::Rejected { datapath, error: error.to_string() };
        self.warn(Warning::Refusal(datapath), event);
        let Some(switch) = self.switches.get_mut(&datapath) else { return };
        switch.n_refusals += 1;
        // Who refuses again what it is told again is not asked for ever.
        if switch.n_refusals <= PATIENCE && switch.connection == Some(id) {
            self.read_again(id);
        }
    }

    fn note_port(&mut self, now: Timestamp, datapath: DatapathId, status: PortStatus) {
        let PortStatus { change, port } = status;
        let place = Place::new(datapath, port.number);
        let Some(switch) = self.switches.get_mut(&datapath) else { return };
        if !port.number.is_physical() {
            return;
        }
        if switch.ports.len() >= MOST_PORTS && !switch.ports.contains_key(&port.number) {
            return;
        }
        self.port_macs.insert(port.mac);
        let was_up = switch.ports.get(&port.number).is_some_and(|state| state.port.is_up());
        let is_up = port.is_up() && change != PortChange::Deleted;
        if change == PortChange::Deleted {
            switch.ports.remove(&port.number);
        } else {
            let state = switch.ports.entry(port.number);
            state
                .and_modify(|state| state.port = port.clone())
                .or_insert(PortState { port, side: Side::Nothing });
        }
        match (was_up, is_up) {
            (false, true) => self.port_up(now, place),
            (true, false) => self.port_down(now, place),
            _ => {}
        }
    }

    /// Forgets a connection; tells whether it was there.
    fn leave(&mut self, now: Timestamp, id: ConnectionId, why: Farewell) -> bool {
        let Some(connection) = self.connections.remove(&id) else { return false };
        self.ready.remove(&id);
        match connection.stage {
            Stage::Up(datapath) => {
                let Some(switch) = self.switches.get_mut(&datapath) else { return true };
                switch.connection = None;
                let macs: Vec<_> = switch.ports.values().map(|state| state.port.mac).collect();
                let others = self.switches.values().filter(|other| other.connection.is_some());
                let others: BTreeSet<_> = others
                    .flat_map(|other| other.ports.values().map(|state| state.port.mac))
                    .collect();
                for mac in macs.iter().filter(|mac| !others.contains(*mac)) {
                    self.port_macs.remove(mac);
                }
                let Some(switch) = self.switches.get_mut(&datapath) else { return true };
                switch.ports.values_mut().for_each(|port| port.side = Side::Nothing);
                self.tell(Event::SwitchDown { datapath, why });
                self.suspend_links(now, datapath);
            }
            _ => self.tell(Event::ConnectionRefused { connection: id, why }),
        }
        true
    }
}

const fn stage_is_starting(stage: Stage) -> bool {
    !matches!(stage, Stage::Up(_))
}

fn described(description: &Description) -> String {
    let named = [&description.datapath, &description.hardware, &description.manufacturer];
    named.into_iter().find(|text| !text.is_empty() && *text != "None").cloned().unwrap_or_default()
}

/// How long a switch has to show that it is there when another one of its name comes.
const CONTEST: Span = Span::from_secs(1);
/// How often in a row tables are read again because something was refused.
const PATIENCE: u32 = 3;
