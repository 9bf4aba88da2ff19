//! The switch: its ports, its tables, and what controllers ask of it.

use std::collections::{BTreeMap, VecDeque};

use claviger_openflow::{
    Action, Command, Config, DatapathId, Description, Envelope, ErrorMessage, Features, Field,
    FlowFilter, FlowMod, Instruction, Message, MeterCommand, MeterMod, MultipartReply,
    MultipartRequest, NO_BUFFER, Port, PortChange, PortNumber, PortStats, PortStatus,
};
use claviger_units::Timestamp;

use crate::controllers::Controllers;
use crate::meter::{Meter, count, duration};
use crate::table::{Entry, Removal, Table};

/// What a switch is.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// Its name among switches.
    pub datapath: DatapathId,
    /// What its operator calls it, and what it is made of.
    pub description: Description,
    /// The names of its ports, numbered from 1.
    pub ports: Vec<String>,
    /// Its flow tables.
    pub n_tables: u8,
    /// Entries that fit into all tables together.
    pub most_entries: usize,
}

/// A connection to a controller, as its owner numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(pub u64);

/// Whether something answers at the other end of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// An OpenFlow 1.3 switch.
///
/// ```
/// use claviger_openflow::{DatapathId, Description, Envelope, Hello, Message};
/// use claviger_switch::{Connection, Switch, SwitchConfig};
/// use claviger_units::Timestamp;
///
/// let mut switch = Switch::new(Timestamp::START, SwitchConfig {
///     datapath: DatapathId(1),
///     description: Description::default(),
///     ports: vec!["uplink".into(), "device".into()],
///     n_tables: 4,
///     most_entries: 1000,
/// });
/// let controller = Connection(0);
/// switch.handle_connected(controller);
/// let greeting = switch.poll_transmit();
/// assert_eq!(greeting, Some((controller, Envelope { xid: 0, message: Message::Hello(Hello::OURS) })));
/// ```
#[derive(Debug)]
pub struct Switch {
    config: SwitchConfig,
    set: Config,
    since: Timestamp,
    pub(crate) ports: BTreeMap<PortNumber, PortState>,
    pub(crate) tables: Vec<Table>,
    pub(crate) meters: BTreeMap<u32, Meter>,
    pub(crate) controllers: Controllers,
    pub(crate) outputs: VecDeque<(PortNumber, Vec<u8>)>,
    // Not later than the first time at which an entry may go.
    next_due: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct PortState {
    pub(crate) port: Port,
    received: [u64; 2],
    pub(crate) sent: [u64; 2],
    pub(crate) dropped: [u64; 2],
}

/// Bytes of a request that an error repeats (§7.4.4: at least 64).
const REPEATED: usize = 64;
/// Bytes of lists in one part of an answer.
const PART: usize = 32_000;
const ALL_TABLES: u8 = 0xFF;

impl Switch {
    /// Makes a switch whose cables are all plugged in and whose tables are empty.
    #[must_use]
    pub fn new(now: Timestamp, config: SwitchConfig) -> Self {
        let ports = (1..).map(PortNumber).zip(&config.ports).map(|(number, name)| {
            let port = port(config.datapath, number, name);
            (number, PortState { port, received: [0; 2], sent: [0; 2], dropped: [0; 2] })
        });
        Self {
            since: now,
            set: Config { flags: 0, miss_send_len: 128 },
            ports: ports.collect(),
            tables: (0..config.n_tables).map(|_| Table::default()).collect(),
            meters: BTreeMap::new(),
            controllers: Controllers::default(),
            outputs: VecDeque::new(),
            next_due: None,
            config,
        }
    }

    /// Returns its name among switches.
    #[must_use]
    pub const fn datapath(&self) -> DatapathId {
        self.config.datapath
    }

    /// Returns how many flow entries it holds.
    #[must_use]
    pub fn n_entries(&self) -> usize {
        self.tables.iter().map(Table::len).sum()
    }

    /// Returns the entries of all tables, as a controller would be told them.
    #[must_use]
    pub fn entries(&self, now: Timestamp) -> Vec<claviger_openflow::FlowStats> {
        let tables = (0..).zip(&self.tables);
        tables.flat_map(|(n, table)| table.entries().map(move |e| e.stats(now, n))).collect()
    }

    /// Returns the cross-connections: ports whose packets all go out by one port, whatever they are.
    #[must_use]
    pub fn cross_connections(&self) -> Vec<(PortNumber, PortNumber)> {
        let entries = self.tables.first().into_iter().flat_map(Table::entries);
        entries
            .filter_map(|entry| {
                let from = entry.matching.get(Field::InPort)?;
                let [Instruction::ApplyActions(actions)] = &entry.instructions[..] else {
                    return None;
                };
                let [Action::Output { port, .. }] = actions[..] else { return None };
                let is_all = entry.matching.iter().count() == 1;
                is_all.then_some((PortNumber(u32::try_from(from).ok()?), port))
            })
            .collect()
    }

    /// Notes a controller that connected; `false` where there are too many of them.
    pub fn handle_connected(&mut self, connection: Connection) -> bool {
        self.controllers.connect(connection)
    }

    /// Notes that a controller is gone. The tables stay as they are.
    pub fn handle_disconnected(&mut self, connection: Connection) {
        self.controllers.disconnect(connection);
    }

    /// Tells whether no controller is connected.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Takes a packet that came in by a port.
    pub fn handle_frame(&mut self, now: Timestamp, port: PortNumber, frame: Vec<u8>) {
        let Some(state) = self.ports.get_mut(&port).filter(|state| state.port.is_up()) else {
            return;
        };
        count(&mut state.received, frame.len() as u64);
        self.run_tables(now, port, frame);
    }

    /// Plugs a cable in or out.
    pub fn handle_link(&mut self, port: PortNumber, link: LinkState) {
        let Some(state) = self.ports.get_mut(&port) else { return };
        let down = match link {
            LinkState::Up => 4,
            LinkState::Down => 1,
        };
        if state.port.state != down {
            state.port.state = down;
            let change = PortChange::Modified;
            let status = PortStatus { change, port: state.port.clone() };
            self.controllers.tell(&Message::PortStatus(status));
        }
    }

    /// Takes a message of a controller.
    pub fn handle_message(&mut self, now: Timestamp, from: Connection, envelope: Envelope) {
        if !self.controllers.knows(from) {
            return;
        }
        let xid = envelope.xid;
        let changes = matches!(
            envelope.message,
            Message::FlowMod(_)
                | Message::PacketOut(_)
                | Message::MeterMod(_)
                | Message::SetConfig(_)
        );
        // What an error repeats is kept only where there may be one.
        let request = changes.then(|| envelope.clone());
        let answered = if changes && self.controllers.is_slave(from) {
            Err(ErrorMessage { kind: 1, code: 10, data: Vec::new() })
        } else {
            self.obey(now, from, envelope)
        };
        if let Err(mut error) = answered {
            error.data = request.map(|request| request.encode()).unwrap_or_default();
            error.data.truncate(REPEATED);
            self.controllers.answer(from, xid, Message::Error(error));
        }
    }

    /// Lets entries go whose time is over.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.next_due.is_none_or(|due| due > now) {
            return;
        }
        for n in 0..self.tables.len() {
            for reason in [Removal::Hard, Removal::Idle] {
                let gone = self.tables[n].take(|entry| entry.is_due(now) == Some(reason));
                self.tell_gone(now, n, gone, reason);
            }
        }
        let entries = self.tables.iter().flat_map(Table::entries);
        self.next_due = entries.filter_map(Entry::due_at).min();
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Timestamp> {
        self.next_due
    }

    /// Returns the next message for a controller.
    pub fn poll_transmit(&mut self) -> Option<(Connection, Envelope)> {
        self.controllers.poll()
    }

    /// Returns the next packet that goes out, and the port.
    pub fn poll_output(&mut self) -> Option<(PortNumber, Vec<u8>)> {
        self.outputs.pop_front()
    }

    fn obey(
        &mut self,
        now: Timestamp,
        from: Connection,
        Envelope { xid, message }: Envelope,
    ) -> Result<(), ErrorMessage> {
        let answer = match message {
            Message::Hello(hello) if hello.is_compatible() => return Ok(()),
            Message::Hello(_) => Message::Error(ErrorMessage::incompatible("OpenFlow 1.3 alone")),
            Message::EchoRequest(bytes) => Message::EchoReply(bytes),
            Message::FeaturesRequest => Message::FeaturesReply(self.features()),
            Message::GetConfigRequest => Message::GetConfigReply(self.set),
            Message::BarrierRequest => Message::BarrierReply,
            Message::RoleRequest(role) => Message::RoleReply(self.controllers.assume(from, role)?),
            Message::SetConfig(config) => {
                self.set = config;
                return Ok(());
            }
            Message::FlowMod(flow) => return self.change_flows(now, flow),
            Message::MeterMod(meter) => return self.change_meter(now, &meter),
            Message::PacketOut(out) => {
                check_actions(&out.actions)?;
                if out.buffer != NO_BUFFER {
                    return Err(refusal(1, 8));
                }
                self.run_actions(now, out.in_port, out.data, &out.actions);
                return Ok(());
            }
            Message::MultipartRequest(question) => {
                return self.tell_parts(now, from, xid, question);
            }
            Message::EchoReply(_) | Message::Error(_) => return Ok(()),
            _ => return Err(refusal(1, 1)),
        };
        self.controllers.answer(from, xid, answer);
        Ok(())
    }

    const fn features(&self) -> Features {
        Features {
            datapath: self.config.datapath,
            buffers: 0,
            tables: self.config.n_tables,
            auxiliary: 0,
            // Counts flows, tables and ports.
            capabilities: 0b111,
        }
    }

    fn change_flows(&mut self, now: Timestamp, asked: FlowMod) -> Result<(), ErrorMessage> {
        self.check(&asked)?;
        match asked.command {
            Command::Add => {
                if self.n_entries() >= self.config.most_entries {
                    return Err(refusal(5, 1));
                }
                let due = self.tables[usize::from(asked.table)].add(now, asked);
                self.next_due = self.next_due.into_iter().chain(due).min();
            }
            Command::Modify | Command::ModifyStrict => {
                let table = &mut self.tables[usize::from(asked.table)];
                if asked.command == Command::ModifyStrict {
                    let entry = table.exact(&asked.matching, asked.priority);
                    entry.into_iter().for_each(|e| e.instructions = asked.instructions.clone());
                } else {
                    let filter = filter(&asked);
                    let entries = table.entries_mut().filter(|entry| entry.passes(&filter));
                    entries.for_each(|e| e.instructions = asked.instructions.clone());
                }
            }
            Command::Delete | Command::DeleteStrict => {
                let filter = filter(&asked);
                let strict = asked.command == Command::DeleteStrict;
                for n in 0..self.tables.len() {
                    if asked.table == ALL_TABLES || usize::from(asked.table) == n {
                        let gone = self.tables[n].take(|entry| {
                            entry.passes(&filter)
                                && (!strict
                                    || (entry.priority, &entry.matching)
                                        == (asked.priority, &asked.matching))
                        });
                        self.tell_gone(now, n, gone, Removal::Deleted);
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses what this switch cannot do.
    fn check(&self, asked: &FlowMod) -> Result<(), ErrorMessage> {
        let deletes = matches!(asked.command, Command::Delete | Command::DeleteStrict);
        let all = deletes && asked.table == ALL_TABLES;
        if !all && usize::from(asked.table) >= self.tables.len() {
            return Err(refusal(5, 2));
        }
        if asked.buffer != NO_BUFFER {
            return Err(refusal(1, 8));
        }
        for instruction in &asked.instructions {
            match instruction {
                Instruction::GotoTable(table)
                    if *table <= asked.table || usize::from(*table) >= self.tables.len() =>
                {
                    return Err(refusal(3, 2));
                }
                Instruction::Meter(meter) if !self.meters.contains_key(meter) => {
                    return Err(refusal(12, 3));
                }
                Instruction::ApplyActions(actions) | Instruction::WriteActions(actions) => {
                    check_actions(actions)?;
                }
                Instruction::Other(..) => return Err(refusal(3, 0)),
                _ => {}
            }
        }
        Ok(())
    }

    fn change_meter(&mut self, now: Timestamp, asked: &MeterMod) -> Result<(), ErrorMessage> {
        let known = self.meters.contains_key(&asked.meter);
        match (asked.command, known) {
            (MeterCommand::Add, true) => return Err(refusal(12, 1)),
            (MeterCommand::Modify, false) => return Err(refusal(12, 3)),
            (MeterCommand::Add | MeterCommand::Modify, _) => {
                let meter = Meter::new(now, asked).ok_or_else(|| refusal(12, 8))?;
                self.meters.insert(asked.meter, meter);
            }
            (MeterCommand::Delete, _) => {
                let all = asked.meter == u32::MAX;
                self.meters.retain(|&number, _| !all && number != asked.meter);
                for n in 0..self.tables.len() {
                    let meters = &self.meters;
                    let gone = self.tables[n].take(|entry| {
                        entry.uses_meter(asked.meter)
                            || all && entry.instructions.iter().any(
                                |i| matches!(i, Instruction::Meter(m) if !meters.contains_key(m)),
                            )
                    });
                    self.tell_gone(now, n, gone, Removal::Deleted);
                }
            }
        }
        Ok(())
    }

    fn tell_gone(&mut self, now: Timestamp, table: usize, gone: Vec<Entry>, reason: Removal) {
        let number = u8::try_from(table).unwrap_or(ALL_TABLES);
        for entry in gone.into_iter().filter(|e| e.flags & FlowMod::TELLS_REMOVAL != 0) {
            self.controllers.tell(&Message::FlowRemoved(entry.removed(now, number, reason)));
        }
    }

    fn tell_parts(
        &mut self,
        now: Timestamp,
        to: Connection,
        xid: u32,
        question: MultipartRequest,
    ) -> Result<(), ErrorMessage> {
        let parts = match question {
            MultipartRequest::Description => {
                vec![MultipartReply::Description(self.config.description.clone())]
            }
            MultipartRequest::Flows(filter) => self.flows(now, &filter),
            MultipartRequest::Tables => {
                let tables = (0..).zip(&self.tables).map(|(n, table)| table.stats(n));
                vec![MultipartReply::Tables(tables.collect())]
            }
            MultipartRequest::PortStats(asked) => {
                let ports = self
                    .ports
                    .iter()
                    .filter(|&(&number, _)| asked == PortNumber::ANY || asked == number);
                let stats = ports.map(|(&number, state)| self.port_stats(now, number, state));
                vec![MultipartReply::PortStats(stats.collect())]
            }
            MultipartRequest::Meters(asked) => self.meter_stats(now, asked),
            MultipartRequest::Ports => {
                let ports = self.ports.values().map(|state| state.port.clone());
                in_parts(ports, |_| 64, MultipartReply::Ports)
            }
            MultipartRequest::Other(..) | _ => return Err(refusal(1, 2)),
        };
        let last = parts.len().saturating_sub(1);
        for (n, reply) in parts.into_iter().enumerate() {
            self.controllers.answer(to, xid, Message::MultipartReply { reply, more: n < last });
        }
        Ok(())
    }

    fn flows(&self, now: Timestamp, filter: &FlowFilter) -> Vec<MultipartReply> {
        let tables = (0..).zip(&self.tables);
        let tables = tables.filter(|&(n, _)| filter.table == ALL_TABLES || filter.table == n);
        let entries = tables.flat_map(|(n, table)| {
            table.entries().filter(|e| e.passes(filter)).map(move |entry| entry.stats(now, n))
        });
        // An entry of ours has some five fields and three actions.
        in_parts(entries, |entry| 400 + 64 * entry.instructions.len(), MultipartReply::Flows)
    }

    fn meter_stats(&self, now: Timestamp, asked: u32) -> Vec<MultipartReply> {
        let meters = self.meters.iter().filter(|&(&n, _)| asked == u32::MAX || asked == n);
        let mut users: BTreeMap<u32, u32> = BTreeMap::new();
        for instruction in self.tables.iter().flat_map(Table::entries).flat_map(|e| &e.instructions)
        {
            if let Instruction::Meter(meter) = instruction {
                *users.entry(*meter).or_default() += 1;
            }
        }
        let stats = meters
            .map(|(n, meter)| meter.stats(now, *n, users.get(n).copied().unwrap_or_default()));
        in_parts(stats, |meter| 40 + 16 * meter.bands.len(), MultipartReply::Meters)
    }

    fn port_stats(&self, now: Timestamp, number: PortNumber, state: &PortState) -> PortStats {
        let transposed = |a: [u64; 2], b: [u64; 2], n: usize| [a[n], b[n]];
        PortStats {
            port: number,
            packets: transposed(state.received, state.sent, 0),
            bytes: transposed(state.received, state.sent, 1),
            dropped: state.dropped,
            errors: [0; 6],
            duration: duration(self.since, now),
        }
    }
}

fn port(datapath: DatapathId, number: PortNumber, name: &str) -> Port {
    let [.., d, e, f] = datapath.0.to_be_bytes();
    let [.., high, low] = number.0.to_be_bytes();
    Port {
        number,
        // Locally administered; unique while datapaths differ in three bytes.
        mac: [0x0E | d & 0xF0, e, f, d, high, low],
        name: name.to_owned(),
        config: 0,
        state: 4,
        features: [0; 4],
        speed_kbps: [1_000_000; 2],
    }
}

fn check_actions(actions: &[Action]) -> Result<(), ErrorMessage> {
    for action in actions {
        match action {
            Action::Output { .. } | Action::SetField(Field::EthDst | Field::EthSrc, _) => {}
            Action::SetField(..) => return Err(refusal(2, 13)),
            _ => return Err(refusal(2, 0)),
        }
    }
    Ok(())
}

/// Cuts a list into parts that fit into a message each; at least one, be it empty.
fn in_parts<T>(
    all: impl Iterator<Item = T>,
    size: impl Fn(&T) -> usize,
    part: impl Fn(Vec<T>) -> MultipartReply,
) -> Vec<MultipartReply> {
    let (mut parts, mut current, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in all {
        bytes += size(&item);
        if bytes > PART {
            parts.push(part(std::mem::take(&mut current)));
            bytes = size(&item);
        }
        current.push(item);
    }
    parts.push(part(current));
    parts
}

fn filter(asked: &FlowMod) -> FlowFilter {
    FlowFilter {
        table: asked.table,
        out_port: asked.out_port,
        out_group: asked.out_group,
        cookie: asked.cookie,
        cookie_mask: asked.cookie_mask,
        matching: asked.matching.clone(),
    }
}

const fn refusal(kind: u16, code: u16) -> ErrorMessage {
    ErrorMessage { kind, code, data: Vec::new() }
}
