//! Quantities, ids and secrets that every other crate speaks in.
//!
//! One newtype per quantity; the unit stands in the constructor and in the getter. A value that
//! exists is valid: ranges are checked where it is made, never again.

#![no_std]

extern crate alloc;

mod id;
mod quantity;
mod ratio;
mod secret;
mod time;

pub use id::{Eui64, IdError, KeyId, MacAddr, SaeId, Site};
pub use quantity::{BitRate, Bits, Decibels, Fraction, QuantityError};
pub use ratio::OwnerRatio;
pub use secret::{Key256, SecretBytes};
pub use time::{Span, Timestamp};
