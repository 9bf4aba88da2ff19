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
    /// Frames that the cards at its ends have got from host and switch.
    pub sent: u64,
    /// Frames of those that were lost by chance.
    pub lost: u64,
    /// Frames of those for which there was no room: in the link's queue, at the card where they would have come
    /// out, or before anybody took them in.
    pub crowded: u64,
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
    links: BTreeMap<String, Link>,
}

/// The link of a host: its cards, what these had got when it began, and what became of that since.
#[derive(Clone, Debug)]
struct Link {
    cards: [String; 2],
    before: u64,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    lost: AtomicU64,
    crowded: AtomicU64,
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
        let (cards, got) = (pnet_datalink::interfaces(), frames_of_cards()?);
        let open = |name: &str| open(&cards, name);
        let mut seed = links.seed;
        for Joint { host, near, far } in joints {
            let ((to_near, from_near), (to_far, from_far)) = (open(&near)?, open(&far)?);
            let counts = Arc::<Counts>::default();
            for (from, to) in [(from_near, to_far), (from_far, to_near)] {
                carry(from, to, Wire::new(links.impairment, seed), &counts)?;
                seed = seed.wrapping_add(1);
            }
            let cards = [near, far];
            let before = got_by(&got, &cards);
            relay.links.insert(host, Link { cards, before, counts });
        }
        Ok(relay)
    }

    /// Returns what each host's link has carried so far, counted at the cards and by the relay.
    pub fn carried(&self) -> Result<BTreeMap<String, Carried>, LabError> {
        let got = frames_of_cards()?;
        // What a card has got is not yet what was taken in: without a moment between, frames under way would be
        // counted as those that found no room.
        std::thread::sleep(TAKING_IN);
        Ok(self.links.iter().map(|(host, link)| (host.clone(), link.carried(&got))).collect())
    }
}

impl Link {
    fn carried(&self, got: &BTreeMap<String, u64>) -> Carried {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        let taken = read(&counts.taken);
        // Whatever came since the cards were read was taken, and is counted.
        let sent = got_by(got, &self.cards).saturating_sub(self.before).max(taken);
        Carried {
            sent,
            lost: read(&counts.lost),
            crowded: read(&counts.crowded) + (sent - taken),
            arrived: read(&counts.arrived),
            under_way: Span::from_micros(read(&counts.under_way_us)),
        }
    }
}

/// Returns how many frames each card of this process' namespace has got (`proc_net(5)`, `dev`).
fn frames_of_cards() -> Result<BTreeMap<String, u64>, LabError> {
    let text = std::fs::read_to_string("/proc/net/dev").map_err(system("counting frames"))?;
    let frames = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        Some((name.trim().to_owned(), counts.split_whitespace().nth(1)?.parse().ok()?))
    };
    Ok(text.lines().filter_map(frames).collect())
}

fn got_by(got: &BTreeMap<String, u64>, cards: &[String; 2]) -> u64 {
    cards.iter().filter_map(|card| got.get(card)).sum()
}

impl Carried {
    /// Returns what came since an earlier state.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            lost: self.lost - earlier.lost,
            crowded: self.crowded.saturating_sub(earlier.crowded),
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
        counts.taken.fetch_add(1, Ordering::Relaxed);
        match wire.send(zero + elapsed, frame.len()) {
            Fate::Lost => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
            }
            Fate::Crowded => {
                counts.crowded.fetch_add(1, Ordering::Relaxed);
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
        // A card that is down, or full, loses what arrives, as cards do.
        if to.send_to(&frame, None).is_none_or(|sent| sent.is_err()) {
            counts.crowded.fetch_add(1, Ordering::Relaxed);
            continue;
        }
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

/// How long a frame may lie at a card before it is taken in.
const TAKING_IN: Duration = Duration::from_millis(5);

/// The longest frame, of cards that let others cut up what they send.
const LONGEST: usize = 1 << 16;
const STACK: usize = 64 * 1024;
