//! The controller of the network: it finds switches, links and hosts, admits hosts by the names of
//! their cards, and lets each reach what it may, no more.
//!
//! It takes an allow-list ([`Admission`]) and knows nothing of devices. What an operator wants is
//! compiled into three flow tables (WIRE.md §5):
//!
//! - table 0: a card at its own port goes on; a port to another switch goes on to forwarding; all else
//!   is told to the controller, slowly, or dropped;
//! - table 1: what a policy lets its hosts reach goes on, all else ends here;
//! - table 2: forwarding, by the card it is for.
//!
//! An optical switch ([`OpticsConfig`]) has none of these but the two cross-connections of the quantum
//! channel, which leaves a fibre that gives an alarm or no light.
//!
//! No broadcast is ever flooded: the controller answers ARP and neighbour solicitations itself and
//! hands DHCP to the one server. Deterministic, no sockets, no clock.

mod controller;
mod event;
mod hosts;
mod lldp;
mod packet;
mod place;
mod policy;
mod range;
mod tables;
mod topology;

pub use controller::{
    AdmissionError, ChannelError, ChannelView, Controller, ControllerConfig, HostView, Mastery,
    OpticsConfig, PortRole, PortView, Standing, SwitchView, Times, Trace,
};
pub use event::{ChannelAlarm, ConnectionId, Event, Farewell};
pub use lldp::LldpKey;
pub use place::{Place, PlaceError};
pub use policy::{Admission, Movement, PacketRate, Policy, PolicyId, Reach, Service};
pub use range::{AddressRange, RangeError};
