//! Carrying frames between two cards as a bad link would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use claviger_units::{Span, Timestamp};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use super::{Fate, Impairment, Wire};
use crate::lab::{LabError, system};

/// What all relays of a network have carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Frames that were sent into them.
    pub sent: u64,
    /// Frames of those that were dropped.
    pub lost: u64,
}

/// Relays between pairs of cards, each pair a link of its own; they end with their process.
#[derive(Debug, Default)]
pub struct Relay {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Relay {
    /// Joins pairs of cards of this thread's namespace; pair `n` has the seeds `seed + 2n` and one more.
    pub(crate) fn between(
        pairs: impl IntoIterator<Item = (String, String)>,
        impairment: Impairment,
        seed: u64,
    ) -> Result<Self, LabError> {
        let relay = Self::default();
        let cards = pnet_datalink::interfaces();
        let open = |name: &str| open(&cards, name);
        let mut seed = seed;
        for (a, b) in pairs {
            let ((to_a, from_a), (to_b, from_b)) = (open(&a)?, open(&b)?);
            for (from, to) in [(from_a, to_b), (from_b, to_a)] {
                relay.carry(from, to, Wire::new(impairment, seed))?;
                seed = seed.wrapping_add(1);
            }
        }
        Ok(relay)
    }

    /// Returns what they have carried so far.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Carried { sent: read(&self.counts.sent), lost: read(&self.counts.lost) }
    }

    fn carry(
        &self,
        from: Box<dyn DataLinkReceiver>,
        to: Box<dyn DataLinkSender>,
        wire: Wire,
    ) -> Result<(), LabError> {
        let (counts, (ready, due)) = (Arc::clone(&self.counts), channel());
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK);
            // It goes on until the process ends.
            thread.spawn(work).map(drop).map_err(system("starting a relay"))
        };
        spawn("relay-in", Box::new(move || take_in(from, wire, &counts, &ready)))?;
        spawn("relay-out", Box::new(move || give_out(&due, to)))
    }
}

/// A frame and when it arrives.
type Due = (Instant, Vec<u8>);

fn take_in(
    mut from: Box<dyn DataLinkReceiver>,
    mut wire: Wire,
    counts: &Counts,
    ready: &Sender<Due>,
) {
    let begun = Instant::now();
    // A card that is gone has nothing more to say.
    while let Ok(frame) = from.next() {
        let elapsed = Span::from(begun.elapsed());
        let zero = Timestamp::from_micros(0);
        counts.sent.fetch_add(1, Ordering::Relaxed);
        match wire.send(zero + elapsed, frame.len()) {
            Fate::Lost => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
            }
            Fate::ArrivesAt(arrival) => {
                let arrival = Duration::from_micros(arrival.since(zero).as_micros());
                if ready.send((begun + arrival, frame.to_vec())).is_err() {
                    return;
                }
            }
        }
    }
}

fn give_out(due: &Receiver<Due>, mut to: Box<dyn DataLinkSender>) {
    for (arrival, frame) in due {
        std::thread::sleep(arrival.saturating_duration_since(Instant::now()));
        // A card that is down loses what arrives, as cards do.
        drop(to.send_to(&frame, None));
    }
}

/// How frames are put on a card, and taken from it.
type Opened = (Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>);

fn open(cards: &[NetworkInterface], name: &str) -> Result<Opened, LabError> {
    let what = format!("opening the card {name}");
    let card = cards.iter().find(|card| card.name == name);
    let card = card.ok_or(std::io::ErrorKind::NotFound.into()).map_err(system(&what))?;
    match pnet_datalink::channel(card, Config { read_buffer_size: LONGEST, ..Config::default() }) {
        Ok(Channel::Ethernet(sender, receiver)) => Ok((sender, receiver)),
        Ok(_) => Err(system(&what)(std::io::ErrorKind::Unsupported.into())),
        Err(error) => Err(system(&what)(error)),
    }
}

/// The longest frame, of cards that let others cut up what they send.
const LONGEST: usize = 1 << 16;
const STACK: usize = 64 * 1024;
