//! What a device and its shell say to each other.

use alloc::string::String;
use alloc::vec::Vec;

use claviger_frames::telemetry::Header;
use claviger_units::{Eui64, Span, Timestamp};
use sha2::{Digest, Sha256};

#[cfg(doc)]
use crate::device::Device;
use crate::device::FIRST_PAUSE;
use crate::path::KeyPath;

/// How a device spends its time.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// How often it wakes once it has a QKD key.
    pub wake_period: Span,
    /// Over which span the first requests of a fleet without QKD keys spread.
    pub spread: Span,
    /// The longest pause between requests while it has no QKD key.
    pub longest_pause: Span,
    /// How long it waits for an answer.
    pub patience: Span,
    /// How key frames come to it.
    pub path: KeyPath,
    /// How old its key becomes before it asks for the next; zero: it asks at every wake. A device asks in a
    /// wake that it makes anyway, and where frames are pushed it asks only with a key older than `max_age`.
    pub renew_period: Span,
    /// How old its key may be before readings wait for a new one (fail closed); `None`: it goes on with the
    /// old key (degrade). Counted from the start of the device where that is later than the key.
    pub max_age: Option<Span>,
    /// When a device that has a key wakes first.
    pub at_boot: AtBoot,
}

/// When a device that has a key wakes first after its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtBoot {
    /// In its slot, which spreads a fleet.
    #[default]
    InSlot,
    /// At once, as after a power cut that has hit all alike.
    AtOnce,
}

impl Profile {
    /// Wakes once per `wake_period`; all else as a fleet on a good network wants it.
    #[must_use]
    pub const fn waking_every(wake_period: Span) -> Self {
        Self {
            wake_period,
            spread: Span::from_secs(5),
            longest_pause: Span::from_secs(60),
            patience: Span::from_secs(10),
            path: KeyPath::Https,
            renew_period: Span::ZERO,
            max_age: None,
            at_boot: AtBoot::InSlot,
        }
    }

    /// Tells whether a wake is the one nearest to the end of the life of a key taken up at `keyed`.
    #[must_use]
    pub fn is_due(&self, now: Timestamp, keyed: Timestamp) -> bool {
        let early = Span::from_micros(self.wake_period.as_micros() / 2);
        now + early >= keyed + self.renew_period
    }

    /// Tells whether a key taken up at `keyed` is too old to seal anything under.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp, keyed: Timestamp) -> bool {
        self.max_age.is_some_and(|max_age| now.since(keyed) > max_age)
    }

    /// Returns how long after its start a device asks for its first key.
    #[must_use]
    pub fn first_request(&self, eui: Eui64) -> Span {
        share_of(eui, self.spread, 0)
    }

    /// Returns the pause before the next request of a device without a QKD key, after `n_refusals` before
    /// the last one.
    ///
    /// As long as the gateway has asked for, or, where that is zero, doubled each time; never above the
    /// longest pause, so that nobody sends a device to sleep for good; and up to half as much again, so that
    /// a fleet does not come back all at once.
    #[must_use]
    pub fn pause(&self, eui: Eui64, n_refusals: u32, asked: Span) -> Span {
        let doubled = Span::from_micros(FIRST_PAUSE.as_micros() << n_refusals.min(20));
        let base = if asked > Span::ZERO { asked } else { doubled };
        let base = base.min(self.longest_pause).as_micros();
        let share = share_of(eui, Span::from_micros(base / 2), n_refusals.saturating_add(1));
        Span::from_micros(base + share.as_micros())
    }
}

/// Returns a device's own point within a span, the same each time for the same `round`.
fn share_of(eui: Eui64, span: Span, round: u32) -> Span {
    let hash =
        Sha256::new().chain_update(eui.as_bytes()).chain_update(round.to_be_bytes()).finalize();
    let hash = hash.iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte));
    Span::from_micros(hash % span.as_micros().max(1))
}

/// Why a device does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// Neither slot is valid: bootstrap the device again, with a new bootstrap key.
    #[error("neither flash slot is valid; bootstrap the device again with a new key")]
    NoValidSlot,
}

/// What the shell must do for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the gateway for a key, then [`Device::handle_key_answer`].
    RequestKey(KeyRequest),
    /// Publish this on the device's `up` topic, acknowledged, then [`Device::handle_published`].
    Publish {
        /// Which frame it is.
        header: Header,
        /// The frame.
        frame: Vec<u8>,
    },
}

/// How to ask for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRequest {
    /// GET from the gateway's key service, over TLS with its certificate.
    Https {
        /// The path and query, as they are signed.
        path_and_query: String,
        /// The value of the `Authorization` header.
        authorization: String,
    },
    /// GET over TLS with the pre-shared key of [`Device::pre_shared_key`], which proves both ends.
    Psk {
        /// The path and query.
        path_and_query: String,
        /// Which version, and with or without ephemeral keys.
        path: KeyPath,
    },
    /// Read this key of the pad out of flash, then [`Device::handle_pad_key`].
    Pad {
        /// Its place, from 0.
        place: u32,
    },
    /// Send this datagram to the gateway's CoAP port, again while no answer comes, then
    /// [`Device::handle_coap`].
    Coap {
        /// The datagram, the same each time.
        datagram: Vec<u8>,
    },
    /// Hold a session with the broker, subscribed to the device's `key` topic; what arrives there goes into
    /// [`Device::handle_pushed`].
    Await,
}

/// How the key service answered (`PROTOCOL.md` P3c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAnswer<'a> {
    /// 200: a key frame.
    Frame(&'a [u8]),
    /// 204: the device has the newest key.
    NothingDue,
    /// 503: not yet.
    Later {
        /// How long the gateway asks to wait, zero if it does not say.
        retry_after: Span,
    },
    /// 401: the gateway does not know the device at this epoch.
    Denied,
    /// No answer, or none that can be read.
    Unreachable,
}

/// What became of a published frame (`PROTOCOL.md` P3d).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// PUBACK: the gateway has it durably.
    Acknowledged,
    /// No acknowledgement, or no connection.
    Failed,
}

/// What the device has done since boot; the energy ledger prices it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times it came out of sleep.
    pub wakes: u64,
    /// Requests to the key service.
    pub requests: u64,
    /// Epochs it moved to.
    pub renewals: u64,
    /// Key frames that did not open.
    pub refused_frames: u64,
    /// Readings taken.
    pub readings: u64,
    /// Frames published, repeats included.
    pub publishes: u64,
    /// Frames published again, byte for byte.
    pub retries: u64,
    /// Frames acknowledged.
    pub acknowledged: u64,
    /// Readings given up because too many waited, or for too long.
    pub dropped: u64,
    /// Slots written to flash.
    pub flash_writes: u64,
    /// Runs of HKDF, by output.
    pub derivations: u64,
    /// MACs of requests.
    pub macs: u64,
    /// Encryptions of telemetry.
    pub seals: u64,
    /// Attempts to unwrap a key frame.
    pub unwraps: u64,
}
