//! What a fresh key costs a device, as a model: no number here was measured on a device of ours.
//!
//! [`Way`] says what goes over the air and through the processor for one key, [`Profile`] what that costs
//! on some hardware, [`Cost`] is the one in the other, and [`Day`] puts many of them between readings and
//! sleep.

mod cost;
mod day;
mod profile;
mod way;

pub use cost::{Cost, RadioInCrypto};
pub use day::{Day, DayError, Schedule};
pub use profile::{Profile, ProfileError};
pub use way::{Exchange, Headers, Symmetric, UnknownWay, Way};
