//! MQTT: an embedded broker whose acknowledgement means "committed", and a client that waits
//! for it (`PROTOCOL.md` P3d).

mod broker;
mod client;
mod subscription;
#[cfg(test)]
mod tests;

pub use broker::{Broker, BrokerHooks, LogIn, Refused, STANDARD_LIMITS};
pub use client::{Access, Client, ConnectError, Forwarder, Inbox, Message, PublishError};
pub use subscription::Subscription;

/// The longest packet that either side takes, in bytes.
pub const MAX_PACKET: u32 = 65_536;
