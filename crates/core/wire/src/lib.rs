//! Bytes to values and back: IDQ3P, ETSI GS QKD 014, the classical channel, records between sites.
//!
//! Every decoder takes all of its input or refuses it; none panics, none guesses.

#![warn(clippy::indexing_slicing)]

pub mod classical;
pub mod cursor;
pub mod enrolment;
pub mod etsi014;
pub mod fleet;
pub mod idq3p;
pub mod lan;
pub mod light;
pub mod node;
pub mod peer;
pub mod platform;
pub mod sdn;
pub mod site;

pub use cursor::{DecodeError, Reader, Writer};
