//! The way of a packet through the tables (OpenFlow 1.3.5 §5.1).

use claviger_openflow::{
    Action, Field, Instruction, Match, Message, NO_BUFFER, PacketIn, PortNumber,
};
use claviger_units::Timestamp;

use crate::Switch;
use crate::fields::Fields;
use crate::meter::{Verdict, count};

/// A packet under way.
#[derive(Debug)]
struct Packet {
    frame: Vec<u8>,
    fields: Fields,
    in_port: PortNumber,
    action_set: Vec<Action>,
}

/// Where a packet is in the pipeline, for what is told of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    table: u8,
    cookie: u64,
    is_miss: bool,
}

impl Switch {
    /// Lets a packet go through the tables.
    pub(crate) fn run_tables(&mut self, now: Timestamp, in_port: PortNumber, frame: Vec<u8>) {
        let fields = Fields::of(in_port.0, &frame);
        let mut packet = Packet { frame, fields, in_port, action_set: Vec::new() };
        let mut next = Some(0);
        let mut place = Place { table: 0, cookie: u64::MAX, is_miss: false };
        while let Some(at) = next.take() {
            let bytes = packet.frame.len() as u64;
            let table = self.tables.get_mut(usize::from(at));
            // A packet that no entry wants is dropped.
            let Some(entry) = table.and_then(|t| t.look_up(now, &packet.fields, bytes)) else {
                return;
            };
            let is_miss = entry.priority == 0 && entry.matching.is_any();
            place = Place { table: at, cookie: entry.cookie, is_miss };
            for instruction in entry.instructions.clone() {
                match instruction {
                    Instruction::Meter(meter) => {
                        let meter = self.meters.get_mut(&meter);
                        if meter.is_some_and(|m| m.pass(now, bytes) == Verdict::Drops) {
                            return;
                        }
                    }
                    Instruction::ApplyActions(actions) => {
                        self.act(now, &mut packet, &actions, place);
                    }
                    Instruction::ClearActions => packet.action_set.clear(),
                    Instruction::WriteActions(actions) => packet.write_actions(actions),
                    Instruction::WriteMetadata { value, mask } => {
                        let old = packet.fields.get(Field::Metadata).unwrap_or(0);
                        let (value, mask) = (u128::from(value), u128::from(mask));
                        packet.fields.set(Field::Metadata, old & !mask | value & mask);
                    }
                    Instruction::GotoTable(table) => next = Some(table),
                    _ => {}
                }
            }
        }
        let actions = std::mem::take(&mut packet.action_set);
        self.act(now, &mut packet, &actions, place);
    }

    /// Does what a controller wants done with a packet that it sends.
    pub(crate) fn run_actions(
        &mut self,
        now: Timestamp,
        in_port: PortNumber,
        frame: Vec<u8>,
        actions: &[Action],
    ) {
        let fields = Fields::of(in_port.0, &frame);
        let mut packet = Packet { frame, fields, in_port, action_set: Vec::new() };
        let place = Place { table: 0xFF, cookie: u64::MAX, is_miss: false };
        self.act(now, &mut packet, actions, place);
    }

    fn act(&mut self, now: Timestamp, packet: &mut Packet, actions: &[Action], place: Place) {
        for action in actions {
            match *action {
                Action::SetField(field, value) => packet.rewrite(field, value),
                Action::Output { port, .. } => self.output(now, packet, port, place),
                // Nothing else was let into a table.
                _ => {}
            }
        }
    }

    fn output(&mut self, now: Timestamp, packet: &Packet, port: PortNumber, place: Place) {
        match port {
            PortNumber::CONTROLLER => self.hand_up(packet, place),
            PortNumber::IN_PORT => self.send(packet.in_port, &packet.frame),
            PortNumber::FLOOD | PortNumber::ALL => {
                let others: Vec<_> =
                    self.ports.keys().copied().filter(|&other| other != packet.in_port).collect();
                others.into_iter().for_each(|other| self.send(other, &packet.frame));
            }
            PortNumber::TABLE if place.table == 0xFF => {
                self.run_tables(now, packet.in_port, packet.frame.clone());
            }
            // Back to where it came from goes only what says so (§7.2.5).
            port if port == packet.in_port => {}
            port => self.send(port, &packet.frame),
        }
    }

    fn send(&mut self, port: PortNumber, frame: &[u8]) {
        let Some(state) = self.ports.get_mut(&port) else { return };
        if state.port.is_up() {
            count(&mut state.sent, frame.len() as u64);
            self.outputs.push_back((port, frame.to_vec()));
        } else {
            state.dropped[1] += 1;
        }
    }

    fn hand_up(&mut self, packet: &Packet, place: Place) {
        let mut matching = Match::new().with(Field::InPort, packet.in_port.0.into());
        if let Some(metadata) = packet.fields.get(Field::Metadata).filter(|&bits| bits != 0) {
            matching = matching.with(Field::Metadata, metadata);
        }
        self.controllers.tell(&Message::PacketIn(PacketIn {
            buffer: NO_BUFFER,
            total_len: u16::try_from(packet.frame.len()).unwrap_or(u16::MAX),
            reason: u8::from(!place.is_miss),
            table: place.table,
            cookie: place.cookie,
            matching,
            data: packet.frame.clone(),
        }));
    }
}

impl Packet {
    /// Writes into the set, which holds one action of a kind.
    fn write_actions(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.action_set.retain(|old| match (old, &action) {
                (Action::SetField(a, _), Action::SetField(b, _)) => a != b,
                (old, new) => std::mem::discriminant(old) != std::mem::discriminant(new),
            });
            self.action_set.push(action);
        }
        // The output is what is done last (§5.10).
        self.action_set.sort_by_key(|action| matches!(action, Action::Output { .. }));
    }

    fn rewrite(&mut self, field: Field, value: u128) {
        self.fields.set(field, value);
        let [.., a, b, c, d, e, f] = value.to_be_bytes();
        let at = match field {
            Field::EthDst => 0..6,
            Field::EthSrc => 6..12,
            // Nothing else was let into a table.
            _ => return,
        };
        if let Some(address) = self.frame.get_mut(at) {
            address.copy_from_slice(&[a, b, c, d, e, f]);
        }
    }
}
