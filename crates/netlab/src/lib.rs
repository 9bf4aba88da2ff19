//! Networks of Linux network namespaces and Open vSwitch, on one machine and gone without a trace.
//!
//! Everything lives in private network, mount and process namespaces ([`enclosed`]): when the command
//! that runs inside ends, or is killed, the kernel takes down switches, cables and hosts with it. Nothing
//! outside is touched. Open vSwitch runs its userspace datapath, which needs no kernel module.

mod cards;
mod enclosure;
mod lab;
mod link;
mod namespace;
mod needs;
mod plan;
mod reach;

pub use enclosure::enclosed;
pub use lab::{Control, Lab, LabError, OpenVswitch, PRIVATE, TlsFiles, settle_in};
pub use link::{Carried, Fate, HostLinks, Impairment, ImpairmentError, Joint, Relay, Wire};
pub use needs::{Missing, missing};
pub use plan::{Host, Plan, PlanError, Topology, card};
pub use reach::{Uplink, adopt, inside};
