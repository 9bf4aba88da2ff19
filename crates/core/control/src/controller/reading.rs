//! What a switch tells of itself, part by part: what is taken, and when it is too much.

use std::collections::BTreeSet;

use claviger_openflow::{
    Description, FlowStats, MeterStats, MultipartReply, Port, PortChange, PortStatus,
};

/// What a switch tells of itself, part by part.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) description: Description,
    pub(super) ports: Vec<Port>,
    pub(super) entries: Vec<FlowStats>,
    pub(super) meters: BTreeSet<u32>,
    // Questions of which parts of an answer are still to come.
    pub(super) asked: BTreeSet<u32>,
    // The question whose answer ends the reading.
    pub(super) last_xid: Option<u32>,
    // Something was changed since it was asked.
    pub(super) outdated: bool,
}

/// What a part of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Unasked,
    Taken,
    /// All was told.
    Last,
}

impl Read {
    /// Takes a part of an answer; what nobody asked for is none.
    pub(super) fn take_part(&mut self, xid: u32, reply: MultipartReply, more: bool) -> Part {
        if let MultipartReply::Flows(entries) = reply {
            if self.last_xid != Some(xid) {
                return Part::Unasked;
            }
            self.entries.extend(entries);
            return if more { Part::Taken } else { Part::Last };
        }
        if !self.asked.contains(&xid) {
            return Part::Unasked;
        }
        match reply {
            MultipartReply::Description(description) => self.description = description,
            MultipartReply::Ports(ports) => self.ports.extend(ports),
            MultipartReply::Meters(meters) => {
                self.meters.extend(meters.iter().map(|&MeterStats { meter, .. }| meter));
            }
            _ => return Part::Unasked,
        }
        if !more {
            self.asked.remove(&xid);
        }
        Part::Taken
    }

    /// Tells whether this is more than a switch can have.
    pub(super) fn is_endless(&self) -> bool {
        let n_small = self.ports.len().max(self.meters.len());
        self.entries.len() > MOST_ENTRIES || n_small > 4 * MOST_PORTS
    }

    /// Notes that a port has changed while all of them are told.
    pub(super) fn note_port(&mut self, PortStatus { change, port }: PortStatus) {
        self.ports.retain(|old| old.number != port.number);
        if change != PortChange::Deleted {
            self.ports.push(port);
        }
    }
}

/// Entries that a switch may tell of; one that tells more does not end.
pub(super) const MOST_ENTRIES: usize = 500_000;
/// Ports of one switch that are looked at.
pub(super) const MOST_PORTS: usize = 4096;
