//! Who may be where and reach what: what an operator decides, and the core only carries out.

use core::net::IpAddr;

use claviger_units::MacAddr;

use crate::Place;

/// The number of a policy: its place in [`ControllerConfig::policies`](crate::ControllerConfig),
/// counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyId(pub u16);

/// What the hosts of one kind may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What people call it.
    pub name: String,
    /// What its hosts may reach; nothing else.
    pub reaches: Vec<Reach>,
    /// How fast one of them may send; `None` for as fast as it can.
    pub limit: Option<PacketRate>,
}

/// One thing that hosts may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// A service of a host, and its answers back.
    Service {
        /// The host.
        host: MacAddr,
        /// What is spoken with it.
        service: Service,
    },
    /// Whatever hosts of the same policy understand.
    Peers,
}

/// What is spoken with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// Echo and its like, over IPv4 and IPv6.
    Icmp,
}

/// So many packets a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRate {
    /// Packets a second.
    pub per_second: u32,
    /// Packets at once.
    pub burst: u32,
}

/// A host that may take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its name on the network. A name is no proof: what it proves with lies in its messages.
    pub mac: MacAddr,
    /// What it may reach.
    pub policy: PolicyId,
    /// Where it is plugged in; `None` until it is seen for the first time.
    pub place: Option<Place>,
    /// Its addresses, as far as they are known beforehand.
    pub addresses: Vec<IpAddr>,
    /// What is made of it at another port.
    pub movement: Movement,
}

/// What is made of a host that shows up at another port than its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Movement {
    /// A spoof, always.
    Fixed,
    /// A move if its own port is unplugged, a spoof otherwise.
    #[default]
    AfterUnplugging,
}
