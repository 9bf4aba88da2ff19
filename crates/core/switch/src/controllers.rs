//! The controllers of a switch, and what each may do (OpenFlow 1.3.5 §6.3.4, §6.3.5).

use std::collections::{BTreeMap, VecDeque};

use claviger_openflow::{Envelope, ErrorMessage, Message, Role, RoleKind};

use crate::Connection;

/// How many may be connected at once.
const MOST: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Controllers {
    roles: BTreeMap<Connection, RoleKind>,
    // The highest number of an election that was seen.
    generation: Option<u64>,
    outbox: VecDeque<(Connection, Envelope)>,
}

impl Controllers {
    /// Greets a controller; `false` where there are too many.
    pub(crate) fn connect(&mut self, connection: Connection) -> bool {
        if self.roles.len() >= MOST {
            return false;
        }
        self.roles.insert(connection, RoleKind::Equal);
        self.answer(connection, 0, Message::Hello(claviger_openflow::Hello::OURS));
        true
    }

    pub(crate) fn disconnect(&mut self, connection: Connection) {
        self.roles.remove(&connection);
        self.outbox.retain(|&(to, _)| to != connection);
    }

    pub(crate) fn knows(&self, connection: Connection) -> bool {
        self.roles.contains_key(&connection)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.roles.is_empty()
    }

    pub(crate) fn is_slave(&self, connection: Connection) -> bool {
        self.roles.get(&connection) == Some(&RoleKind::Slave)
    }

    /// Gives a role, unless the election is an old one.
    pub(crate) fn assume(
        &mut self,
        connection: Connection,
        asked: Role,
    ) -> Result<Role, ErrorMessage> {
        let current = self.roles.get(&connection).copied().unwrap_or(RoleKind::Equal);
        let kind = match asked.kind {
            RoleKind::NoChange => current,
            RoleKind::Equal => RoleKind::Equal,
            RoleKind::Master | RoleKind::Slave => {
                // Numbers of elections go round: what is behind by less than half is old.
                let is_old = |seen: u64| asked.generation.wrapping_sub(seen) >> 63 == 1;
                if self.generation.is_some_and(is_old) {
                    return Err(ErrorMessage { kind: 11, code: 0, data: Vec::new() });
                }
                self.generation = Some(asked.generation);
                asked.kind
            }
        };
        if kind == RoleKind::Master {
            for (other, role) in &mut self.roles {
                if *other != connection && *role == RoleKind::Master {
                    *role = RoleKind::Slave;
                }
            }
        }
        self.roles.insert(connection, kind);
        Ok(Role { kind, generation: self.generation.unwrap_or(u64::MAX) })
    }

    /// Sends to one.
    pub(crate) fn answer(&mut self, to: Connection, xid: u32, message: Message) {
        self.outbox.push_back((to, Envelope { xid, message }));
    }

    /// Sends to all that want to know; a slave hears only of ports.
    pub(crate) fn tell(&mut self, message: &Message) {
        let is_for_all = matches!(message, Message::PortStatus(_));
        for (&to, &role) in &self.roles {
            if is_for_all || role != RoleKind::Slave {
                self.outbox.push_back((to, Envelope { xid: 0, message: message.clone() }));
            }
        }
    }

    pub(crate) fn poll(&mut self) -> Option<(Connection, Envelope)> {
        self.outbox.pop_front()
    }
}
