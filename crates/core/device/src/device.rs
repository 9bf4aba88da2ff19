//! The state machine: wake, renew, measure, seal, publish, sleep.

mod asking;

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use claviger_frames::telemetry::{self, Header};
use claviger_frames::{DataKeys, Epoch, EpochKeys, PskIdentity, PskVersion, Reading, next_wake};
use claviger_units::{Eui64, Key256, Span, Timestamp};
use rand_core::Rng;

use self::asking::Asked;
use crate::actions::{Action, AtBoot, BootError, Counters, Delivery, KeyAnswer, Profile};
use crate::flash::{FlashImage, FlashWrite, Held, Slot};
use crate::pad::PadMark;
use crate::path::KeyPath;
use crate::sensor::Sensor;

/// One device.
///
/// ```
/// use claviger_device::{Action, Device, FlashImage, KeyRequest, Profile};
/// use claviger_units::{Key256, Span, Timestamp};
/// # use rand_core::{Infallible, TryRng};
/// # struct Zeros;
/// # impl TryRng for Zeros {
/// #     type Error = Infallible;
/// #     fn try_next_u32(&mut self) -> Result<u32, Infallible> { Ok(0) }
/// #     fn try_next_u64(&mut self) -> Result<u64, Infallible> { Ok(0) }
/// #     fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> { Ok(bytes.fill(0)) }
/// # }
/// # let mut rng = Zeros;
/// let eui = "02005efffe100001".parse()?;
/// let flash = FlashImage::provision(Key256::from_bytes([7; 32]), eui);
/// let profile = Profile::waking_every(Span::from_secs(60));
/// let mut device = Device::boot(Timestamp::START, &flash, profile)?;
///
/// let first = device.poll_timeout().expect("it wants its first key");
/// device.handle_timeout(first, &mut rng);
/// let Some(Action::RequestKey(KeyRequest::Https { path_and_query, .. })) = device.poll_action()
/// else {
///     panic!()
/// };
/// assert_eq!(path_and_query, "/v1/devices/02005efffe100001/key?have=0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Device {
    profile: Profile,
    pub(crate) held: Held,
    // None under epoch 0, which carries no telemetry.
    data: Option<DataKeys>,
    // Invariant: never above `held.counter_limit`, and at or above it only until the next commit.
    next_counter: u32,
    commit: Option<Commit>,
    phase: Phase,
    waiting: VecDeque<Waiting>,
    sensor: Sensor,
    n_refusals: u32,
    n_attempts: u32,
    // When the key was taken up, or the device started.
    keyed: Timestamp,
    // Whether it was taken up since the start.
    is_renewed: bool,
    // The question by CoAP that waits for its answer.
    asked: Option<Asked>,
    pub(crate) pad: Option<PadMark>,
    // Whether the gateway has shown that it has noted the epoch that the device holds: only then a pad leads
    // on, so that the device is never more than one epoch ahead of it.
    pub(crate) is_followed: bool,
    pub(crate) counters: Counters,
}

/// What the device does now.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Asleep {
        until: Timestamp,
    },
    Asking {
        sent: Sent,
        until: Timestamp,
    },
    Measuring {
        at: Timestamp,
    },
    Publishing {
        sent: Sent,
        until: Timestamp,
    },
    Pausing {
        until: Timestamp,
    },
    /// The flash does not keep what is written: nothing may be sent any more.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    NotYet,
    Once,
}

/// A reading that nobody has acknowledged.
#[derive(Debug)]
struct Waiting {
    reading: Reading,
    // Sealed once and for all: the platform knows a repeat by its epoch and counter, so the same
    // reading under a later epoch would be stored twice.
    sealed: Option<(Header, Vec<u8>)>,
}

/// A change on its way into both slots.
#[derive(Debug)]
struct Commit {
    held: Held,
    slot: Slot,
    stage: Stage,
    n_faults: u32,
    // When the frame came that a new key was in.
    keyed: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The inactive slot.
    First,
    /// The other one, after which nothing of the old content is left.
    Second,
}

impl Device {
    /// Starts a device from its flash; the first thing due is a copy of the newest valid slot over
    /// the other, unless they are alike.
    pub fn boot(now: Timestamp, flash: &FlashImage, profile: Profile) -> Result<Self, BootError> {
        let (slot, held) = flash.newest().ok_or(BootError::NoValidSlot)?;
        let alike = flash.slot(slot).ct_eq(flash.slot(slot.other()));
        let commit = (!alike).then(|| Commit {
            held: held.duplicate(),
            slot: slot.other(),
            stage: Stage::Second,
            n_faults: 0,
            keyed: None,
        });
        let mut device = Self {
            profile,
            data: None,
            next_counter: held.counter_limit,
            commit,
            phase: Phase::Broken,
            waiting: VecDeque::new(),
            sensor: Sensor::of(held.eui),
            n_refusals: 0,
            n_attempts: 0,
            keyed: now,
            is_renewed: false,
            asked: None,
            pad: None,
            is_followed: false,
            counters: Counters::default(),
            held,
        };
        device.derive_data_keys();
        device.phase = match device.held.epoch {
            Epoch::BOOTSTRAP => {
                Phase::Asleep { until: now + device.profile.first_request(device.held.eui) }
            }
            _ if device.profile.at_boot == AtBoot::AtOnce => Phase::Asleep { until: now },
            _ => device.asleep(now),
        };
        Ok(device)
    }

    /// Returns the device's name, also its user name at the broker.
    #[must_use]
    pub const fn eui(&self) -> Eui64 {
        self.held.eui
    }

    /// Returns the epoch that the device holds.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.held.epoch
    }

    /// Computes the password for the broker under the current epoch.
    #[must_use]
    pub fn mqtt_password(&self) -> String {
        self.held.gateway.mqtt_password(self.held.eui)
    }

    /// Returns the identity of the device's pre-shared key under the current epoch.
    #[must_use]
    pub const fn psk_identity(&self, version: PskVersion) -> PskIdentity {
        PskIdentity { eui: self.held.eui, epoch: self.held.epoch, version }
    }

    /// Derives the pre-shared key of that identity.
    #[must_use]
    pub fn pre_shared_key(&self, version: PskVersion) -> Key256 {
        self.held.gateway.pre_shared_key(version)
    }

    /// Returns how key frames come to it.
    #[must_use]
    pub const fn path(&self) -> KeyPath {
        self.profile.path
    }

    /// Returns what has been done since boot.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns how many readings wait for an acknowledgement.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Tells whether the device sleeps, with nothing under way.
    #[must_use]
    pub const fn is_asleep(&self) -> bool {
        self.commit.is_none() && matches!(self.phase, Phase::Asleep { .. })
    }

    /// Tells whether the flash has failed, after which the device is silent for ever.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        matches!(self.phase, Phase::Broken)
    }

    /// Returns the slot to be written next: write it, flush, read it back,
    /// [`handle_flash`](Self::handle_flash).
    #[must_use]
    pub fn poll_flash(&self) -> Option<FlashWrite> {
        let commit = self.commit.as_ref()?;
        Some(FlashWrite { slot: commit.slot, bytes: commit.held.encode() })
    }

    /// Takes what was read back from the slot that [`poll_flash`](Self::poll_flash) named.
    pub fn handle_flash(&mut self, read_back: &[u8]) {
        let Some(mut commit) = self.commit.take() else { return };
        self.counters.flash_writes += 1;
        if commit.held.encode().expose() != read_back {
            commit.n_faults += 1;
            match commit.n_faults {
                MAX_FAULTS => self.phase = Phase::Broken,
                _ => self.commit = Some(commit),
            }
            return;
        }
        match commit.stage {
            Stage::First => {
                let (slot, stage) = (commit.slot.other(), Stage::Second);
                self.commit = Some(Commit { slot, stage, ..commit });
            }
            Stage::Second => self.take_up(commit),
        }
    }

    /// Returns what to send next; nothing while a flash write is due.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.commit.is_some() {
            return None;
        }
        match &mut self.phase {
            Phase::Asking { sent: sent @ Sent::NotYet, .. } => {
                *sent = Sent::Once;
                self.key_request()
            }
            Phase::Publishing { sent: sent @ Sent::NotYet, .. } => {
                *sent = Sent::Once;
                self.oldest_frame()
            }
            _ => None,
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due; `None` while the flash is.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Timestamp> {
        if self.commit.is_some() {
            return None;
        }
        match self.phase {
            Phase::Asleep { until }
            | Phase::Asking { until, .. }
            | Phase::Measuring { at: until }
            | Phase::Publishing { until, .. }
            | Phase::Pausing { until } => Some(until),
            Phase::Broken => None,
        }
    }

    /// Does what is due at `now`; `rng` makes the noise of the sensor.
    pub fn handle_timeout(&mut self, now: Timestamp, rng: &mut impl Rng) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        match self.phase {
            Phase::Asleep { .. } => {
                self.counters.wakes += 1;
                self.n_attempts = 0;
                self.phase = if self.wants_key(now) && self.can_ask() {
                    Phase::Asking { sent: Sent::NotYet, until: now + self.profile.patience }
                } else {
                    Phase::Measuring { at: now }
                };
            }
            Phase::Asking { .. } => self.handle_key_answer(now, KeyAnswer::Unreachable),
            Phase::Measuring { .. } => self.measure(now, rng),
            Phase::Publishing { .. } => self.retry_or_sleep(now),
            Phase::Pausing { .. } => self.publish_oldest(now),
            Phase::Broken => {}
        }
    }

    /// Takes what became of [`Action::Publish`]; news of an earlier frame is passed over.
    pub fn handle_published(&mut self, now: Timestamp, header: Header, delivery: Delivery) {
        let oldest = self.waiting.front().and_then(|waiting| waiting.sealed.as_ref());
        let current = oldest.is_some_and(|(sealed, _)| *sealed == header);
        if !current || !matches!(self.phase, Phase::Publishing { sent: Sent::Once, .. }) {
            return;
        }
        match delivery {
            Delivery::Acknowledged => {
                self.counters.acknowledged += 1;
                self.is_followed |= header.epoch == self.held.epoch;
                self.waiting.pop_front();
                self.n_attempts = 0;
                self.publish_oldest(now);
            }
            Delivery::Failed => self.retry_or_sleep(now),
        }
    }

    fn measure(&mut self, now: Timestamp, rng: &mut impl Rng) {
        if self.waiting.len() == MAX_WAITING {
            self.give_up_oldest();
        }
        let reading = self.sensor.measure(now, rng);
        self.counters.readings += 1;
        self.waiting.push_back(Waiting { reading, sealed: None });
        self.publish_oldest(now);
    }

    /// Goes on with the oldest reading, or to sleep if none waits or no counter is left.
    fn publish_oldest(&mut self, now: Timestamp) {
        while self.waiting.front().is_some_and(|oldest| now.since(oldest.reading.taken) > GRACE) {
            self.give_up_oldest();
        }
        let ready = match self.waiting.front() {
            None => false,
            Some(waiting) if waiting.sealed.is_some() => true,
            Some(_) => !self.is_stale(now) && self.reserve_counter(),
        };
        self.phase = if ready {
            let until = now + self.profile.patience;
            Phase::Publishing { sent: Sent::NotYet, until }
        } else {
            self.asleep(now)
        };
    }

    /// Tells whether the key is too old to seal anything under.
    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        self.profile.is_stale(now, self.keyed)
    }

    fn give_up_oldest(&mut self) {
        self.counters.dropped += u64::from(self.waiting.pop_front().is_some());
    }

    /// Makes sure that the next counter is reserved in flash; false if the epoch has no more. What is on its
    /// way into flash reserves counters too, and is never given up for that.
    fn reserve_counter(&mut self) -> bool {
        if self.commit.is_some() || self.next_counter < self.held.counter_limit {
            return true;
        }
        let Some(limit) = self.held.counter_limit.checked_add(RESERVED) else { return false };
        self.begin_commit(self.held.reserving(limit), None);
        true
    }

    /// Returns the oldest reading to be published: the same bytes as before, if it ever was.
    fn oldest_frame(&mut self) -> Option<Action> {
        let waiting = self.waiting.front()?;
        self.counters.retries += u64::from(waiting.sealed.is_some());
        let (header, frame) = match &waiting.sealed {
            Some(sealed) => sealed.clone(),
            None => self.seal(waiting.reading)?,
        };
        self.counters.publishes += 1;
        self.waiting.front_mut()?.sealed = Some((header, frame.clone()));
        Some(Action::Publish { header, frame })
    }

    /// Seals a reading under the next counter, which ends that counter's life.
    fn seal(&mut self, reading: Reading) -> Option<(Header, Vec<u8>)> {
        let counter = self.next_counter;
        let Held { eui, epoch, counter_limit, .. } = self.held;
        let keys = self.data.as_ref().filter(|_| counter < counter_limit)?;
        self.next_counter += 1;
        self.counters.seals += 1;
        let frame = telemetry::seal(keys, eui, epoch, counter, &reading.encode()).ok()?;
        Some((Header { epoch, counter }, frame))
    }

    fn retry_or_sleep(&mut self, now: Timestamp) {
        self.n_attempts += 1;
        self.phase = if self.n_attempts < MAX_ATTEMPTS {
            Phase::Pausing { until: now + FIRST_PAUSE }
        } else {
            self.asleep(now)
        };
    }

    pub(crate) fn begin_commit(&mut self, held: Held, keyed: Option<Timestamp>) {
        let slot = if held.sequence.is_multiple_of(2) { Slot::A } else { Slot::B };
        self.commit = Some(Commit { held, slot, stage: Stage::First, n_faults: 0, keyed });
    }

    /// Makes what both slots hold now the device's own.
    fn take_up(&mut self, Commit { held, keyed, .. }: Commit) {
        self.held = held;
        if let Some(keyed) = keyed {
            (self.keyed, self.is_renewed) = (keyed, true);
            self.is_followed = false;
            self.next_counter = 0;
            self.derive_data_keys();
        }
    }

    fn derive_data_keys(&mut self) {
        let Held { eui, epoch, ref root, ref gateway, .. } = self.held;
        self.data = (epoch != Epoch::BOOTSTRAP).then(|| {
            self.counters.derivations += 4;
            DataKeys::derive(root, gateway, eui, epoch)
        });
    }

    fn asleep(&self, now: Timestamp) -> Phase {
        Phase::Asleep { until: next_wake(now, self.held.eui, self.profile.wake_period) }
    }

    fn pause_after(&mut self, answer: KeyAnswer<'_>) -> Span {
        let asked = match answer {
            KeyAnswer::Later { retry_after } => retry_after,
            _ => Span::ZERO,
        };
        let pause = self.profile.pause(self.held.eui, self.n_refusals, asked);
        self.n_refusals = self.n_refusals.saturating_add(1);
        pause
    }
}

/// How many counters one flash commit reserves.
pub(crate) const RESERVED: u32 = 64;
/// How often a slot is written in vain before the flash counts as broken.
const MAX_FAULTS: u32 = 3;
/// How often a frame is published within one wake.
const MAX_ATTEMPTS: u32 = 3;
/// How many readings wait in a device before the oldest is given up.
pub const MAX_WAITING: usize = 32;
/// How long a reading waits: as long as the platform keeps an epoch that it has left, since it may
/// be sealed under one (`PROTOCOL.md` P3b.6).
const GRACE: Span = Span::from_secs(36 * 3600);
/// The first pause after a request or publication in vain.
pub(crate) const FIRST_PAUSE: Span = Span::from_secs(1);
