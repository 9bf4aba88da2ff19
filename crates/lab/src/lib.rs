//! Virtual-time runs over the cores alone: no socket, no clock, no thread.
//!
//! A run is a function of its configuration and seed.

pub mod attack;
pub mod capacity;
pub mod chain;
pub mod device_day;
pub mod figures;
pub mod fleet;
pub mod interval;
pub mod link;
pub mod live;
pub mod rate;
pub mod repeat;
pub mod replay;
pub mod summary;
pub mod sweep;

pub use chain::VirtualChain;
pub use link::VirtualLink;
