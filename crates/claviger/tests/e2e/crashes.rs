//! Processes die at any instant, on one side and then on the other, and nothing is handed out
//! twice, known to one side only, accepted twice, or lost; everything resumes by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use claviger_roles::sae::{GrantedKey, KeyError};
use claviger_units::KeyId;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng as _, SeedableRng, TryRng as _};

use crate::network::{Network, Role};
use crate::parties::{App, Operator, StoredReading};
use crate::place::Place;
use crate::process::eventually;

const PATIENCE: Duration = Duration::from_secs(60);
const DEVICES: usize = 4;

/// What one application has drawn.
#[derive(Default)]
struct Ledger {
    /// Every key that an answer brought, complete.
    drawn: BTreeMap<KeyId, Drawn>,
    wrong: Vec<String>,
}

struct Drawn {
    key: GrantedKey,
    fate: Fate,
}

impl Drawn {
    fn waits(&self) -> bool {
        matches!(self.fate, Fate::Waiting | Fate::PerhapsLost)
    }
}

/// What became of the copy at the other site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    /// An answer that may have held it was lost on its way.
    PerhapsLost,
    Arrived,
    /// Its answer was lost for certain: the other site has handed it out to nobody else.
    Lost,
}

/// One direction: keys are drawn from `master` and fetched from `slave` until told to stop.
struct Exchange {
    master: App,
    slave: App,
    /// How many keys a request asks for, and the pause after it: not more than the link makes.
    pace: (u32, Duration),
    ledger: Ledger,
}

impl Exchange {
    fn run(mut self, stop: &AtomicBool, trips: &AtomicU64) -> Self {
        while !stop.load(Ordering::Relaxed) {
            self.draw();
            self.fetch_waiting(trips);
            thread::sleep(self.pace.1);
        }
        self
    }

    fn draw(&mut self) {
        match self.master.get(self.pace.0) {
            Ok(keys) => {
                for key in keys {
                    let (id, fate) = (key.id, Fate::Waiting);
                    if self.ledger.drawn.insert(id, Drawn { key, fate }).is_some() {
                        self.ledger.wrong.push(format!("key {id} was handed out twice"));
                    }
                }
            }
            Err(KeyError::Refused { status, message }) => {
                self.ledger.wrong.push(format!("a good request got {status}: {message}"));
            }
            // Spent or not, nobody has these keys.
            Err(_) => {}
        }
    }

    fn fetch_waiting(&mut self, trips: &AtomicU64) {
        for (id, drawn) in self.ledger.drawn.iter_mut().filter(|(_, drawn)| drawn.waits()) {
            match self.slave.fetch(*id) {
                Ok(copy) => {
                    if !copy.key.ct_eq(&drawn.key.key) {
                        self.ledger.wrong.push(format!("key {id} differs at the two sites"));
                    }
                    drawn.fate = Fate::Arrived;
                    trips.fetch_add(1, Ordering::Relaxed);
                    if self.slave.fetch(*id).is_ok() {
                        self.ledger.wrong.push(format!("the copy of {id} was handed out twice"));
                    }
                }
                Err(KeyError::Refused { .. }) if drawn.fate == Fate::PerhapsLost => {
                    drawn.fate = Fate::Lost;
                }
                Err(KeyError::Refused { status, message }) => {
                    self.ledger.wrong.push(format!("the copy of {id} got {status}: {message}"));
                    drawn.fate = Fate::Lost;
                }
                Err(KeyError::Lost(_)) => drawn.fate = Fate::PerhapsLost,
                // Nothing was spent: later.
                Err(_) => {}
            }
        }
    }

    /// Resolves what still waits, and asks for everything once more.
    fn conclude(mut self) -> Ledger {
        eventually("the copy of every key", PATIENCE, || {
            self.fetch_waiting(&AtomicU64::new(0));
            (!self.ledger.drawn.values().any(Drawn::waits)).then_some(())
        });
        for id in self.ledger.drawn.keys() {
            if self.slave.fetch(*id).is_ok() {
                self.ledger.wrong.push(format!("the copy of {id} was handed out again"));
            }
        }
        self.ledger
    }
}

/// Kills some processes of one site at a random instant, and starts them again.
fn strike(network: &mut Network<'_>, site: &[Role], rng: &mut StdRng) -> Vec<Role> {
    // These pauses wait for nothing: they let death come at any point of the work.
    let pause = |rng: &mut StdRng, most: u32| {
        thread::sleep(Duration::from_millis(u64::from(rng.next_u32() % most)));
    };
    let chosen = 1 + rng.next_u32() % ((1 << site.len()) - 1);
    let victims = (0..).zip(site).filter(|(n, _)| chosen >> n & 1 == 1).map(|(_, role)| *role);
    let victims: Vec<Role> = victims.collect();
    pause(rng, 500);
    for role in &victims {
        network.kill(*role);
        pause(rng, 20);
    }
    pause(rng, 300);
    for role in &victims {
        network.begin(*role);
        pause(rng, 100);
    }
    victims
}

/// Returns the newest (number, epoch) of each device.
fn newest(readings: &[StoredReading]) -> BTreeMap<String, (u64, u32)> {
    let mut newest = BTreeMap::new();
    for StoredReading { eui, seq, epoch, .. } in readings {
        newest.insert(eui.clone(), (*seq, *epoch));
    }
    newest
}

fn rounds() -> u32 {
    let given = std::env::var("CLAVIGER_CRASH_ROUNDS").ok();
    given.map_or(10, |text| text.parse().expect("CLAVIGER_CRASH_ROUNDS is a number"))
}

/// A seed picks victims and instants; what the processes do meanwhile is theirs.
fn seed() -> u64 {
    let given = std::env::var("CLAVIGER_CRASH_SEED").ok();
    let given = given.map(|text| text.parse().expect("CLAVIGER_CRASH_SEED is a number"));
    given.unwrap_or_else(|| SysRng.try_next_u64().unwrap())
}

#[test]
fn nothing_is_doubled_or_lost_when_processes_die() {
    const SITE_A: [Role; 5] = [Role::KmeA, Role::QkdA, Role::Gateway, Role::Lan, Role::Devices];
    const SITE_B: [Role; 4] = [Role::KmeB, Role::QkdB, Role::Platform, Role::Controller];
    let (rounds, seed) = (rounds(), seed());
    eprintln!("{rounds} rounds, CLAVIGER_CRASH_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let devices = DEVICES.to_string();
    place.init(&["--simulated-speed", "20", "--devices", &devices, "--renew", "2s"]);
    let mut network = Network::start(&place, &Role::ALL);
    let operator = Operator::of(&place);
    let readings = || operator.readings(0);
    eventually("all devices", PATIENCE, || readings().filter(|all| newest(all).len() == DEVICES));

    let (stop, trips) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let exchange = |master, slave, number, pause| {
        let pace = (number, Duration::from_millis(pause));
        Exchange { master, slave, pace, ledger: Ledger::default() }
    };
    let exchanges = [
        exchange(App::a(&place), App::b(&place), 2, 15),
        exchange(App::b(&place), App::a(&place), 1, 80),
    ];
    let (ledgers, last) = thread::scope(|scope| {
        let working: Vec<_> = exchanges
            .into_iter()
            .zip(&trips)
            .map(|(exchange, trips)| scope.spawn(|| exchange.run(&stop, trips)))
            .collect();
        // Whatever fails below: the threads must end, or the scope never would.
        let end = Stop(&stop);
        let mut last = Vec::new();
        for round in 0..rounds {
            let site: &[Role] = if round % 2 == 0 { &SITE_A } else { &SITE_B };
            let victims = strike(&mut network, site, &mut rng);
            let since = trips.each_ref().map(|trips| trips.load(Ordering::Relaxed));
            last = eventually("the readings of the past", PATIENCE, readings);
            let seen = last.last().map_or(0, |reading| reading.seq);
            let what = format!("service after the death of {victims:?} in round {round}");
            eventually(&what, PATIENCE, || {
                let served =
                    |(trips, since): (&AtomicU64, u64)| trips.load(Ordering::Relaxed) > since + 2;
                let newer = operator.readings(seen).is_some_and(|new| !new.is_empty());
                (trips.iter().zip(since).all(served) && newer).then_some(())
            });
            network.assert_all_run();
        }
        drop(end);
        let ended = working.into_iter().map(|thread| thread.join().unwrap());
        (ended.collect::<Vec<_>>(), last)
    });

    // No device is lost: each gets a new key and is heard under it.
    let before = newest(&last);
    let after = eventually("every device under a new key", PATIENCE, || {
        readings().filter(|all| {
            let now = newest(all);
            before.iter().all(|(eui, (_, epoch))| now[eui].1 > *epoch)
        })
    });
    // The link makes keys again.
    let blocks = |network: &Network<'_>| network.log(Role::KmeA).matches("BlockCommitted").count();
    let so_far = blocks(&network);
    eventually("another block", PATIENCE, || (blocks(&network) > so_far).then_some(()));

    let ledgers: Vec<Ledger> = ledgers.into_iter().map(Exchange::conclude).collect();
    for ledger in &ledgers {
        assert_eq!(ledger.wrong, [] as [String; 0]);
        let arrived = ledger.drawn.values().filter(|drawn| drawn.fate == Fate::Arrived).count();
        eprintln!("{} keys drawn, {arrived} copies arrived", ledger.drawn.len());
        assert!(arrived > 10 * usize::try_from(rounds).unwrap().min(2), "only {arrived}");
    }
    let keys = ledgers.iter().flat_map(|ledger| ledger.drawn.values());
    let bits: BTreeSet<&[u8]> = keys.clone().map(|drawn| drawn.key.key.expose()).collect();
    assert_eq!(bits.len(), keys.count(), "two ids name the same key");

    let place_of = |reading: &StoredReading| (reading.eui.clone(), reading.epoch, reading.counter);
    let places: BTreeSet<_> = after.iter().map(place_of).collect();
    assert_eq!(places.len(), after.len(), "a reading was accepted twice");
    assert_eq!(newest(&after).len(), DEVICES);
    for role in Role::ALL {
        let log = network.log(role);
        for alarm in [
            "invariant violated",
            "panicked",
            "rolled back",
            "an old copy",
            "two processes",
            "alarm",
        ] {
            let line = log.lines().find(|line| line.contains(alarm));
            assert_eq!(line, None, "{role:?} says so");
        }
        network.stop(role);
    }
}

#[test]
fn a_clean_stop_costs_no_key_and_a_sudden_end_no_more_than_a_lease() {
    let place = Place::new();
    place.init(&["--simulated-speed", "20"]);
    let mut network = Network::with_frozen_keys(&place, &[], 200);
    let a = App::a(&place);
    let drawn = a.get(3).unwrap().len() as u64;
    let stored = a.stored().unwrap();
    // A key can be had once the peer is heard again; the one that is drawn to see it is counted.
    let served = |a: &App| {
        a.get_soon(1);
        a.stored().unwrap() + 1
    };
    network.stop(Role::KmeA);
    network.begin(Role::KmeA);
    assert_eq!(served(&a), stored, "after {drawn} keys and a clean stop");
    network.kill(Role::KmeA);
    network.begin(Role::KmeA);
    let left = served(&a);
    let lease = 64; // `PROTOCOL.md` P2, at such a demand
    assert!(left < stored && left + lease + 1 >= stored, "{left} of {stored} are left");
}

/// Tells the exchanges to stop, also while a failure unwinds.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
