//! The devices as both sites see them: registry, preparation, confirmation, replay, alarms.
//!
//! Two cores that share nothing but the records between them (PROTOCOL.md P3): the [`Gateway`]
//! prepares keys ahead of each device's slot and hands out finished frames; the [`Platform`]
//! provisions devices, holds every epoch before a device can reach it, and reads telemetry.
//!
//! Both are driven alike. Every `handle_*` that takes a transaction runs in one of its own; after
//! the commit the caller drains `poll_transmit`, `poll_order` and `poll_event`, and calls
//! `handle_timeout` at `poll_timeout`. Every order is answered, by an `Unreachable` if need be.
//! When the engine fails, the core is thrown away and opened again: orders under way are then
//! given again, and a key whose answer was lost is burnt.

mod adoption;
mod allocation;
pub mod enrolment;
mod gateway;
mod half;
pub mod labels;
mod lane;
mod orders;
mod pads;
mod platform;
pub mod provisioning;
mod recovery;
mod rows;
pub mod topics;
mod turns;

pub use allocation::{Allocation, KeyWanted, prepare_after};
pub use gateway::{
    CoapAnswer, CoapClaim, CoapDatagram, DeviceStanding, DockAnswer, FrameForm, Gateway,
    GatewayConfig, GatewayDevice, GatewayEvent, GatewayStatus, KeyAnswer, LostUplinks, NextEpoch,
    PadExtraction, QueueRefusal, QueuedUplink, Taker,
};
pub use half::Half;
pub use orders::{Extraction, Fetching, KeyOrder, Origin, PlatformOrder, RequestToken};
pub use platform::{
    Accepted, Adoption, Duplicate, PadError, PadState, Platform, PlatformConfig, PlatformDevice,
    PlatformEvent, PlatformStatus, ProvisionError, StoredReading, UplinkRefusal, WhyRefused,
};
pub use recovery::RecoveryKey;
pub use turns::{Rank, Sharing};

use claviger_durable::EngineError;
use claviger_durable::peer::PeerError;
use claviger_frames::Epoch;
use claviger_units::{Eui64, Span};
use claviger_wire::DecodeError;

/// Something that should never happen to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alarm {
    /// Two different messages under one counter, both valid: bootstrap the device with a new key
    /// (`PROTOCOL.md` P3d).
    Cloned {
        /// The device, quarantined from now on.
        eui: Eui64,
        /// The epoch of the two messages.
        epoch: Epoch,
        /// Their counter.
        counter: u32,
    },
    /// The platform has refused every epoch that the device could still step to: mend the KMEs,
    /// then bootstrap the device with a new key.
    OutOfReach {
        /// The device.
        eui: Eui64,
    },
    /// A valid request under epoch 0 after the device had left it: somebody else has its printed
    /// label (`PROTOCOL.md` P3a.6).
    LabelUsed {
        /// The device whose label it is.
        eui: Eui64,
    },
    /// The key management entity has too few keys: some devices go on with their present one. Renew less
    /// often, or give the fleet a larger share of the link (`PROTOCOL.md` P3b.2).
    KeysShort {
        /// Devices that wait for a key.
        waiting: u64,
        /// How long until the last of them has one, at the pace of the last ten minutes; `None` while no
        /// key comes at all.
        expected: Option<Span>,
    },
    /// A device that the gateway has given back cannot be read: its root is sealed to another recovery key. Put
    /// the right `recovery.key` back and let the platform begin with an empty store, or bootstrap the device
    /// with a new key (`PROTOCOL.md` P3a.2).
    Unrecovered {
        /// The device.
        eui: Eui64,
    },
    /// A device that this platform had retired before it lost its store is retired again.
    Over {
        /// The device.
        eui: Eui64,
    },
    /// Both sites have lost their stores, or run on old copies: what the devices send under their present keys
    /// is refused, because it may have been read before. A device that has renewed its key since the older of
    /// the two copies needs a new bootstrap key.
    BothForgot,
    /// The platform's broker refuses a telemetry frame for good, which is dropped: see what the
    /// broker says, and what the device sends (`PROTOCOL.md` P3d).
    Undeliverable {
        /// The device that was told that its frame is kept.
        eui: Eui64,
        /// The frame's place in the queue.
        seq: u64,
    },
}

/// Why a message of the other site could not be taken: drop the connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// The store failed: stop the role, mend the disk, start again.
    #[error(transparent)]
    Store(#[from] EngineError),
    /// The other site breaks the rules of the stream: close the connection.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A record that this version cannot read: run the same version at both sites.
    #[error("a record of the other site cannot be read")]
    Record(#[from] DecodeError),
    /// A record that only the other side may send: gateway and platform are mixed up.
    #[error("a record came from the wrong side; connect a gateway to a platform")]
    Misdirected,
}
