//! The device: flash slots, wakes, renewals, readings and counters (`PROTOCOL.md` P3, P3c).
//!
//! [`Device`] decides, its shell carries. The shell does, in this order, whenever something has
//! happened:
//!
//! 1. drain [`Device::poll_flash`]: write, flush, read back, [`Device::handle_flash`];
//! 2. drain [`Device::poll_action`]: send the request or publish the frame;
//! 3. wait for an answer or for [`Device::poll_timeout`], and hand it in.
//!
//! Nothing leaves the device before the flash holds what makes it safe to send: the order above
//! is kept by the device itself, which gives no action while a write is due.
//!
//! *Invariant:* the device holds exactly one epoch, and only an authenticated key frame changes it.
//! *Invariant:* no two plaintexts leave under the same key and counter, whenever the power fails.
//! *Invariant:* a reading is sealed once; repeats are the same bytes, also under a later epoch, so
//! that the platform never stores it twice.

#![no_std]

extern crate alloc;

mod actions;
mod device;
pub mod energy;
mod flash;
mod pad;
mod path;
mod sensor;

pub use actions::{Action, AtBoot, BootError, Counters, Delivery, KeyAnswer, KeyRequest, Profile};
pub use device::{Device, MAX_WAITING};
pub use flash::{FlashImage, FlashWrite, Slot};
pub use pad::PadMark;
pub use path::{KeyPath, UnknownPath};
pub use sensor::Sensor;
