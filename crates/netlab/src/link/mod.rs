//! Cables that are worse than cables: delay, jitter, loss and a rate, between a host and its switch.
//!
//! [`Impairment`] says how bad, [`Wire`] decides about every frame, and `relay` carries them.

mod impairment;
mod relay;
mod wire;

pub use impairment::{Impairment, ImpairmentError};
pub use relay::{Carried, HostLinks, Joint, Relay};
pub use wire::{Fate, Wire};
