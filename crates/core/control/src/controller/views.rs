//! What people may see of the network.

use core::net::IpAddr;

use claviger_openflow::{DatapathId, PortNumber};
use claviger_units::{MacAddr, Timestamp};

use super::{Controller, Side};
use crate::Place;
use crate::policy::{Movement, PolicyId};
use crate::tables::Owner;

/// A switch in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchView {
    /// Its name.
    pub datapath: DatapathId,
    /// What its operator calls it.
    pub description: String,
    /// Whether it is connected.
    pub is_up: bool,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// Flow entries that it should have.
    pub n_entries: usize,
    /// How many of these it lacks or has otherwise, and how many it has and should not.
    pub n_differing: usize,
    /// Whether it has still to confirm what it was told.
    pub is_confirming: bool,
}

/// A port in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Its number.
    pub number: PortNumber,
    /// Its name.
    pub name: String,
    /// What is behind it.
    pub role: PortRole,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRole {
    /// No cable, or no switch to ask.
    Down,
    /// Not known yet.
    Undecided,
    /// Another switch.
    Trunk,
    /// Hosts.
    Hosts,
}

/// A host in one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Its card.
    pub mac: MacAddr,
    /// Where it is, or was last.
    pub place: Option<Place>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it may take part.
    pub standing: Standing,
    /// When it was heard last.
    pub seen: Option<Timestamp>,
    /// Whether it is there.
    pub is_present: bool,
    /// Flow entries that stand for it, on all switches.
    pub n_entries: usize,
}

/// Whether a host may take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has admitted it: it reaches nothing.
    Unknown,
    /// It reaches what its policy names.
    Admitted(PolicyId),
}

/// The way from one host to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Where the first is.
    pub from: Option<Place>,
    /// Where the second is.
    pub to: Option<Place>,
    /// Whether the first may reach the second, by at least one service.
    pub is_allowed: bool,
    /// The ports by which a packet leaves each switch, the last one toward the second host; `None`
    /// where no links lead there.
    pub path: Option<Vec<Place>>,
    /// Switches of the path whose tables are not as they should be.
    pub differing: Vec<DatapathId>,
}

impl Controller {
    /// Tells whether discovery has nothing new to tell: a switch is up, and nothing was found lately.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_up = self.switches.values().any(|switch| switch.connection.is_some());
        is_up && self.restless.is_none()
    }

    /// Returns every switch that was ever up.
    #[must_use]
    pub fn switches(&self) -> Vec<SwitchView> {
        let views = self.switches.iter().map(|(&datapath, switch)| {
            let ports = switch.ports.values().map(|state| PortView {
                number: state.port.number,
                name: state.port.name.clone(),
                role: match state.side {
                    Side::Nothing => PortRole::Down,
                    Side::Undecided { .. } => PortRole::Undecided,
                    Side::Trunk => PortRole::Trunk,
                    Side::Hosts => PortRole::Hosts,
                },
            });
            let (n_entries, n_differing) = self.tables.counts(datapath);
            SwitchView {
                datapath,
                description: switch.description.clone(),
                is_up: switch.connection.is_some(),
                ports: ports.collect(),
                n_entries,
                n_differing,
                is_confirming: self.is_confirming(datapath),
            }
        });
        views.collect()
    }

    /// Returns every link, the lower end first.
    #[must_use]
    pub fn links(&self) -> Vec<(Place, Place)> {
        self.topology.links().into_iter().collect()
    }

    /// Returns up to `limit` hosts after a card, in rising order: known ones and those that were heard.
    #[must_use]
    pub fn hosts(&self, after: Option<MacAddr>, limit: usize) -> Vec<HostView> {
        let views = self.hosts.after(after).take(limit).map(|(mac, host)| HostView {
            mac,
            place: host.place,
            addresses: host.addresses.clone(),
            standing: match self.admissions.get(&mac) {
                Some(admission) => Standing::Admitted(admission.policy),
                None => Standing::Unknown,
            },
            seen: host.seen,
            is_present: host.is_present,
            n_entries: self.tables.owned_by(Owner::Host(mac)).values().sum(),
        });
        views.collect()
    }

    /// Returns what is made of an admitted host at another port.
    #[must_use]
    pub fn movement_of(&self, mac: MacAddr) -> Option<Movement> {
        self.admissions.get(&mac).map(|admission| admission.movement)
    }

    /// Returns how many flow entries stand for a host at each switch.
    #[must_use]
    pub fn entries_for(&self, mac: MacAddr) -> Vec<(DatapathId, usize)> {
        self.tables.owned_by(Owner::Host(mac)).into_iter().collect()
    }

    /// Follows the way from one host to another.
    pub fn trace(&mut self, from: MacAddr, to: MacAddr) -> Trace {
        let place = |mac| self.hosts.get(mac).and_then(|host| host.place);
        let (start, goal) = (place(from), place(to));
        let path = start.zip(goal).and_then(|(start, goal)| {
            let mut path = self.topology.path(start.datapath, goal.datapath)?;
            path.push(goal);
            Some(path)
        });
        let hops = path.iter().flatten().map(|hop| hop.datapath);
        let differing = hops.filter(|&datapath| self.tables.counts(datapath).1 > 0).collect();
        let is_allowed = self.reaches(from, to) || self.reaches(to, from);
        Trace { from: start, to: goal, is_allowed, path, differing }
    }
}
