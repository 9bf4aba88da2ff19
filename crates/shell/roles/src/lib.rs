//! One thin module a role: fibre, qkd, kme, gateway, platform, controller, lan, devices.
//!
//! A role opens its own folder, carries bytes between sockets and cores, and decides nothing.
//! Roles never name each other: what they say to each other crosses a socket.

mod alarm;
pub mod attack_file;
mod channel;
pub mod config;
pub mod controller;
pub mod devices;
pub mod fibre;
pub mod gateway;
mod hub;
pub mod init;
pub mod kme;
pub mod lan;
pub mod mud;
mod orders;
pub mod platform;
pub mod qkd;
pub mod report;
pub mod role;
pub mod sae;
mod switch_line;

pub use report::{Report, Reporter};
pub use role::{Context, Folder, RoleError};
