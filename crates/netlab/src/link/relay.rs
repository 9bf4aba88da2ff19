//! Carrying frames between two cards as a bad link would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use claviger_units::{Span, Timestamp};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};

use super::{Fate, Impairment, Wire};
use crate::lab::{LabError, system};

/// What the link of a host has carried, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Frames that were sent into it.
    pub sent: u64,
    /// Frames of those that were dropped.
    pub lost: u64,
    /// Frames of those that have come out.
    pub arrived: u64,
    /// How long these were under way, all together, as measured.
    pub under_way: Span,
}

/// A link to be: the cards that it joins, by name, in this thread's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joint {
    /// Whose link it is.
    pub host: String,
    /// The card that has a cable to the host's.
    pub near: String,
    /// The card that has a cable to the switch's.
    pub far: String,
}

/// What the links between hosts and switches are, where they are worse than cables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostLinks {
    /// How bad each direction is.
    pub impairment: Impairment,
    /// With the same seed the same frames are lost.
    pub seed: u64,
}

/// Relays between pairs of cards, each pair a link of its own; they end with their process. A copy shows the
/// same counts.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    counts: BTreeMap<String, Arc<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    lost: AtomicU64,
    arrived: AtomicU64,
    under_way_us: AtomicU64,
}

impl Relay {
    /// Joins pairs of cards of this thread's namespace; pair `n` has the seeds `seed + 2n` and one more.
    pub fn between(
        joints: impl IntoIterator<Item = Joint>,
        links: HostLinks,
    ) -> Result<Self, LabError> {
        let mut relay = Self::default();
        let cards = pnet_datalink::interfaces();
        let open = |name: &str| open(&cards, name);
        let mut seed = links.seed;
        for Joint { host, near, far } in joints {
            let ((to_near, from_near), (to_far, from_far)) = (open(&near)?, open(&far)?);
            let counts = Arc::<Counts>::default();
            for (from, to) in [(from_near, to_far), (from_far, to_near)] {
                carry(from, to, Wire::new(links.impairment, seed), &counts)?;
                seed = seed.wrapping_add(1);
            }
            relay.counts.insert(host, counts);
        }
        Ok(relay)
    }

    /// Returns what each host's link has carried so far.
    #[must_use]
    pub fn carried(&self) -> BTreeMap<String, Carried> {
        self.counts.iter().map(|(host, counts)| (host.clone(), counts.read())).collect()
    }
}

impl Counts {
    fn read(&self) -> Carried {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Carried {
            sent: read(&self.sent),
            lost: read(&self.lost),
            arrived: read(&self.arrived),
            under_way: Span::from_micros(read(&self.under_way_us)),
        }
    }
}

impl Carried {
    /// Returns what came since an earlier state.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            lost: self.lost - earlier.lost,
            arrived: self.arrived - earlier.arrived,
            under_way: Span::from_micros(
                self.under_way.as_micros() - earlier.under_way.as_micros(),
            ),
        }
    }
}

/// Starts one direction of a link, which goes on until the process ends.
fn carry(
    from: Box<dyn DataLinkReceiver>,
    to: Box<dyn DataLinkSender>,
    wire: Wire,
    counts: &Arc<Counts>,
) -> Result<(), LabError> {
    let ((at_in, at_out), (ready, due)) = ((Arc::clone(counts), Arc::clone(counts)), channel());
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK);
        thread.spawn(work).map(drop).map_err(system("starting a relay"))
    };
    spawn("relay-in", Box::new(move || take_in(from, wire, &at_in, &ready)))?;
    spawn("relay-out", Box::new(move || give_out(&due, to, &at_out)))
}

/// A frame on its way.
struct Due {
    came: Instant,
    arrives: Instant,
    frame: Vec<u8>,
}

fn take_in(
    mut from: Box<dyn DataLinkReceiver>,
    mut wire: Wire,
    counts: &Counts,
    ready: &Sender<Due>,
) {
    let begun = Instant::now();
    // A card that is gone has nothing more to say.
    while let Ok(frame) = from.next() {
        let came = Instant::now();
        let elapsed = Span::from(came - begun);
        let zero = Timestamp::from_micros(0);
        counts.sent.fetch_add(1, Ordering::Relaxed);
        match wire.send(zero + elapsed, frame.len()) {
            Fate::Lost => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
            }
            Fate::ArrivesAt(arrival) => {
                let arrival = Duration::from_micros(arrival.since(zero).as_micros());
                let due = Due { came, arrives: begun + arrival, frame: frame.to_vec() };
                if ready.send(due).is_err() {
                    return;
                }
            }
        }
    }
}

fn give_out(due: &Receiver<Due>, mut to: Box<dyn DataLinkSender>, counts: &Counts) {
    for Due { came, arrives, frame } in due {
        std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
        // A card that is down loses what arrives, as cards do.
        drop(to.send_to(&frame, None));
        let under_way = Span::from(came.elapsed()).as_micros();
        counts.under_way_us.fetch_add(under_way, Ordering::Relaxed);
        counts.arrived.fetch_add(1, Ordering::Relaxed);
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
