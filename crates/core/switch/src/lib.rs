//! An OpenFlow 1.3 switch as a state machine: what a packet meets is decided by the flow tables, and
//! by nothing else.
//!
//! It stands in for a switch where none can be had: in `claviger up`, in tests and under load. What
//! it lacks of a real one it refuses with the standard's error, so that a controller notices: groups,
//! VLAN tags, queues, buffered packets. Up to eight controllers may be connected, one of them master.
//!
//! No sockets, no clock. Drain [`Switch::poll_transmit`] and [`Switch::poll_output`] after every
//! `handle_*`, and call [`Switch::handle_timeout`] at [`Switch::poll_timeout`].

mod controllers;
pub mod fabric;
mod fields;
pub mod lan;
mod meter;
mod pipeline;
mod switch;
mod table;

pub use switch::{Connection, LinkState, Switch, SwitchConfig};
