//! What is under way, and when it arrives.

use std::collections::{BTreeMap, BTreeSet};

use claviger_device::Delivery;
use claviger_fleet::KeyAnswer;
use claviger_frames::telemetry::Header;
use claviger_units::{Eui64, Site, Timestamp};

use super::keys::{Ask, Reply};
use super::source::Offer;
use super::{Party, Stream};

/// Something that happens at a time of its own.
#[derive(Debug)]
pub(super) enum Event {
    /// The light of the next window or block has passed.
    Light,
    /// A block reaches the KME of a site.
    Offer { site: Site, offer: Offer },
    /// A message of a record stream arrives, if its connection still stands.
    Frame { stream: Stream, to: Site, connection: u64, bytes: Vec<u8> },
    /// The two ends of a stream try to connect.
    Connect(Stream),
    /// A dead process starts again.
    Restart(Party),
    /// An application asks its KME.
    Ask(Ask),
    /// What waited at a KME is asked again.
    AskAgain(Site),
    /// The KME's answer arrives.
    Reply { ask: Ask, reply: Reply },
    /// A device's request arrives at the gateway's key service.
    KeyRequest { device: usize, boot: u64, path_and_query: String, authorization: String },
    /// The answer arrives at the device.
    KeyAnswer { device: usize, boot: u64, answer: Option<KeyAnswer> },
    /// A device's telemetry arrives at the gateway's broker.
    Publish { device: usize, boot: u64, header: Header, frame: Vec<u8>, password: String },
    /// What became of it arrives at the device.
    Published { device: usize, boot: u64, header: Header, delivery: Delivery },
    /// Telemetry arrives at the platform's broker.
    Uplink { attempt: u64, seq: u64, eui: Eui64, frame: Vec<u8> },
    /// Its acknowledgement arrives at the gateway.
    UplinkAck { attempt: u64, seq: u64 },
    /// The acknowledgement has not come in time.
    UplinkLost { attempt: u64 },
}

/// When each device wants to be called, in order.
#[derive(Debug, Default)]
pub(super) struct Timeouts {
    // Invariant: holds what `of` says, where it says anything.
    order: BTreeSet<(Timestamp, usize)>,
    of: Vec<Option<Timestamp>>,
}

impl Timeouts {
    pub(super) fn set(&mut self, device: usize, at: Option<Timestamp>) {
        if self.of.len() <= device {
            self.of.resize(device + 1, None);
        }
        if let Some(before) = std::mem::replace(&mut self.of[device], at) {
            self.order.remove(&(before, device));
        }
        self.order.extend(at.map(|at| (at, device)));
    }

    pub(super) fn first(&self) -> Option<(Timestamp, usize)> {
        self.order.first().copied()
    }
}

/// Events in order of time; of one time, in the order in which they were entered.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    events: BTreeMap<(Timestamp, u64), Event>,
    entered: u64,
}

impl Agenda {
    pub(super) fn enter(&mut self, at: Timestamp, event: Event) {
        self.entered += 1;
        self.events.insert((at, self.entered), event);
    }

    pub(super) fn first(&self) -> Option<Timestamp> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn take_first(&mut self) -> Option<Event> {
        self.events.pop_first().map(|(_, event)| event)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
