//! Key schedule, key frames, telemetry frames and replay window of the device protocol.
//!
//! What device, gateway and platform must compute alike, byte for byte (`PROTOCOL.md` P3). No
//! state lives here except the replay window; who holds which secret decides what he can do:
//!
//! | holder | has | can |
//! | --- | --- | --- |
//! | device, platform | [`DeviceRoot`] and [`GatewaySecret`] | all |
//! | gateway | [`GatewaySecret`] alone | deliver keys, check requests and log-ins; never read or forge telemetry |
//!
//! ```
//! use claviger_frames::{DataKeys, Epoch, key_frame, split_bootstrap, telemetry};
//! use claviger_units::{Eui64, Key256};
//!
//! let eui: Eui64 = "02005efffe100001".parse()?;
//! let (root, gateway) = split_bootstrap(&Key256::from_bytes([7; 32]));
//!
//! // The gateway wraps a QKD key, the device unwraps it, and both step to epoch 1.
//! let qkd = Key256::from_bytes([9; 32]);
//! let frame = key_frame::seal(&gateway, Epoch::new(1), &qkd, [0; 12]);
//! let (epoch, qkd) = key_frame::open(&gateway, Epoch::BOOTSTRAP, &frame)?;
//! let gateway = gateway.next(&qkd, eui, Epoch::BOOTSTRAP, epoch);
//!
//! // Device and platform also have the root, and so the data keys.
//! let keys = DataKeys::derive(&root, &gateway, eui, epoch);
//! let sent = telemetry::seal(&keys, eui, epoch, 0, b"21.5")?;
//! let (header, reading) = telemetry::open(&keys, eui, &sent)?;
//! assert_eq!((header.counter, reading.as_slice()), (0, &b"21.5"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![no_std]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

extern crate alloc;

mod cose;
pub mod key_frame;
pub mod pad;
mod proof;
mod psk;
mod reading;
mod replay;
mod schedule;
mod slot;
pub mod telemetry;

pub use key_frame::KeyFrameError;
pub use proof::{Door, EpochKeys, ProofKeys, parse_authorization};
pub use psk::{NoPskIdentity, PskIdentity, PskVersion, oscore_id_context, parse_oscore_id_context};
pub use reading::{Reading, ReadingError};
pub use replay::{ReplayWindow, Seen};
pub use schedule::{DataKeys, DeviceRoot, Epoch, GatewaySecret, split_bootstrap};
pub use slot::next_wake;
pub use telemetry::TelemetryError;
