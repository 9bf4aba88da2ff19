//! Alice and Bob over a channel that somebody tampers with: they hold the same block or none.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use claviger_distill::{
    Alice, Bob, Committed, DistillError, Event, FinishedBlock, InitialSecret, Outcome, Refusal,
    Reserve, Rules, Window,
};
use claviger_durable::{Engine, EngineError, MemoryEngine};
use claviger_photonics::{Cascade, Detector, Eve, Fibre, LinkPreset};
use claviger_units::{Site, Span, Timestamp};
use claviger_wire::classical::{DropReason, Message};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// Short blocks, so that a test closes one within a second of link time.
fn preset() -> LinkPreset {
    let text = include_str!("../../../../presets/lab.toml");
    let line = |key: &str| text.lines().find(|l| l.starts_with(key)).unwrap().to_owned();
    let old = line("block_sifted_bits");
    let short = text.replace(&old, "block_sifted_bits = 6000");
    let old = line("first_blocks");
    LinkPreset::from_toml(&short.replace(&old, "first_blocks = { count = 1, sifted_bits = 4000 }"))
        .unwrap()
}

/// The same with another schedule of error correction.
fn preset_with(cascade: Cascade) -> LinkPreset {
    let text = include_str!("../../../../presets/lab.toml");
    let line = |key: &str| text.lines().find(|l| l.starts_with(key)).unwrap().to_owned();
    let named = format!("cascade = \"{}\"", cascade.name());
    let text = text.replace(&line("cascade"), &named);
    LinkPreset::from_toml(&text.replace(&line("block_sifted_bits"), "block_sifted_bits = 6000"))
        .unwrap()
}

type Change = fn(&mut Vec<u8>);

struct Pair {
    rules: Rules,
    fibre: Fibre,
    alice: (Alice, MemoryEngine, StdRng),
    bob: (Bob, MemoryEngine, StdRng),
    end: u64,
    now: Timestamp,
    /// Seconds that passed without light.
    waited: u64,
    frames: u64,
    /// Which frame of the whole conversation is changed, and how.
    tamper: Option<(u64, Change)>,
    /// Bob's words on differences, kept back while there is something to keep them in.
    kept_back: Option<Vec<Vec<u8>>>,
    finished_a: Vec<FinishedBlock>,
    finished_b: Vec<FinishedBlock>,
    dropped: Vec<DropReason>,
    refusals: Vec<Refusal>,
    broken: bool,
}

fn store(secret: u64) -> MemoryEngine {
    let mut engine = MemoryEngine::new();
    let secret = InitialSecret::random(&mut StdRng::seed_from_u64(secret));
    engine.transact::<_, EngineError>(|tx| Reserve::fill(tx, &secret)).unwrap();
    engine
}

impl Pair {
    fn new(presets: [&LinkPreset; 2], secrets: [u64; 2]) -> Self {
        let [rules_a, rules_b] = presets.map(Rules::of);
        let (mut store_a, mut store_b) = (store(secrets[0]), store(secrets[1]));
        let mut alice =
            store_a.transact::<_, EngineError>(|tx| Alice::open(tx, rules_a.clone())).unwrap();
        let mut bob = store_b.transact::<_, EngineError>(|tx| Bob::open(tx, rules_b)).unwrap();
        alice.handle_light(1, &[1; 32]);
        bob.handle_light(&[2; 32]);
        let light = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut pair = Self {
            fibre: Fibre::new(presets[0], &[1; 32], &[2; 32], Eve::ABSENT, light),
            rules: rules_a,
            alice: (alice, store_a, StdRng::seed_from_u64(3)),
            bob: (bob, store_b, StdRng::seed_from_u64(4)),
            end: 0,
            now: Timestamp::START,
            waited: 0,
            frames: 0,
            tamper: None,
            kept_back: None,
            finished_a: Vec::new(),
            finished_b: Vec::new(),
            dropped: Vec::new(),
            refusals: Vec::new(),
            broken: false,
        };
        pair.connect();
        pair
    }

    /// Starts both processes anew on the stores as they are.
    fn restart(&mut self) {
        let rules = &self.rules;
        let (alice, store) = (&mut self.alice.0, &mut self.alice.1);
        *alice = store.transact::<_, EngineError>(|tx| Alice::open(tx, rules.clone())).unwrap();
        let (bob, store) = (&mut self.bob.0, &mut self.bob.1);
        *bob = store.transact::<_, EngineError>(|tx| Bob::open(tx, rules.clone())).unwrap();
        alice.handle_light(1, &[1; 32]);
        bob.handle_light(&[2; 32]);
        self.connect();
    }

    /// Lets time pass without light, as the roles do: a session that was given up is begun anew.
    fn wait(&mut self, seconds: u64) {
        self.waited += seconds;
        self.now = self.now + Span::from_secs(seconds);
        self.alice.0.handle_timeout(self.now);
        self.bob.0.handle_timeout(self.now);
        self.settle();
        if self.broken {
            self.connect();
        }
    }

    fn connect(&mut self) {
        self.alice.0.handle_connected(&mut self.alice.2);
        self.bob.0.handle_connected(&mut self.bob.2);
        self.broken = false;
        self.settle();
    }

    /// Light that nobody takes in: the link pauses.
    fn waste_window(&mut self) -> Vec<(u64, Detector)> {
        self.end += self.rules.window;
        self.now = Timestamp::START + self.rules.time_of(self.end) + Span::from_secs(self.waited);
        let clicks = std::iter::from_fn(|| self.fibre.click_before(self.end));
        clicks.map(|click| (click.pulse, click.detector)).collect()
    }

    fn run_window(&mut self) {
        let clicks = self.waste_window();
        self.bob.0.handle_window(self.now, Window { light: 1, end: self.end, clicks });
        self.settle();
    }

    fn altered(&mut self, mut frame: Vec<u8>) -> Vec<u8> {
        if let Some((_, how)) = self.tamper.filter(|(at, _)| *at == self.frames) {
            how(&mut frame);
        }
        self.frames += 1;
        frame
    }

    /// Carries everything until nothing moves; a refusal or an unreadable frame hangs up.
    fn settle(&mut self) {
        while !self.broken {
            let mut moved = false;
            if let Some(frame) = self.alice.0.poll_transmit() {
                moved = true;
                let frame = self.altered(frame);
                let (bob, store) = (&mut self.bob.0, &mut self.bob.1);
                let now = self.now;
                let handled: Result<(), DistillError> =
                    store.transact(|tx| bob.handle_message(tx, now, &frame));
                self.broken |= handled.is_err();
            }
            if let Some(frame) = self.bob.0.poll_transmit() {
                moved = true;
                let frame = self.altered(frame);
                let is_difference =
                    matches!(Message::decode(&frame), Ok(Message::Differences { .. }));
                match self.kept_back.as_mut().filter(|_| is_difference) {
                    Some(kept_back) => kept_back.push(frame),
                    None => self.tell_alice(&frame),
                }
            }
            moved |= self.take_events();
            if !moved {
                break;
            }
        }
        if self.broken {
            self.alice.0.handle_disconnected();
            self.bob.0.handle_disconnected();
            self.take_events();
        }
    }

    fn tell_alice(&mut self, frame: &[u8]) {
        let (alice, store) = (&mut self.alice.0, &mut self.alice.1);
        let now = self.now;
        let handled: Result<(), DistillError> =
            store.transact(|tx| alice.handle_message(tx, now, frame));
        self.broken |= handled.is_err();
    }

    fn take_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.alice.0.poll_event() {
            any = true;
            match event {
                Event::Finished(block) => {
                    self.alice.0.handle_held(block.number);
                    self.finished_a.push(block);
                }
                Event::Ended(ledger) => self.note(&ledger),
                Event::Refused(refusal) => self.refuse(refusal),
                _ => {}
            }
        }
        while let Some(event) = self.bob.0.poll_event() {
            any = true;
            match event {
                Event::Finished(block) => self.finished_b.push(block),
                Event::Refused(refusal) => self.refuse(refusal),
                _ => {}
            }
        }
        any
    }

    fn note(&mut self, ledger: &claviger_distill::BlockLedger) {
        if let Outcome::Dropped(reason) = ledger.outcome {
            self.dropped.push(reason);
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusals.push(refusal);
        self.broken = true;
    }

    /// Plays both key buffers: takes blocks of which both ends have foretold the same acceptance.
    fn commit(&mut self) -> usize {
        let mut kept = 0;
        for accepted in std::mem::take(&mut self.finished_b) {
            let at = self.finished_a.iter().position(|block| block.number == accepted.number);
            let proposed = self.finished_a.swap_remove(at.expect("Bob accepts what was proposed"));
            assert_eq!(proposed.acceptance, accepted.acceptance);
            assert!(
                proposed
                    .keys
                    .iter()
                    .zip(&accepted.keys)
                    .all(|(a, b)| { a.0 == b.0 && a.1 == b.1 && a.2.ct_eq(&b.2) })
            );
            assert_eq!(proposed.keys.len(), accepted.keys.len());
            let number = accepted.number;
            let (alice, store) = (&mut self.alice.0, &mut self.alice.1);
            let done = store
                .transact::<_, EngineError>(|tx| alice.handle_outcome(tx, number, Committed::Yes));
            done.unwrap();
            let (bob, store) = (&mut self.bob.0, &mut self.bob.1);
            let done = store
                .transact::<_, EngineError>(|tx| bob.handle_outcome(tx, number, Committed::Yes));
            done.unwrap();
            kept += 1;
        }
        kept
    }
}

#[test]
fn blocks_come_and_the_reserve_is_put_back() {
    let preset = preset();
    let mut pair = Pair::new([&preset; 2], [1, 1]);
    let mut kept = 0;
    for _ in 0..40 {
        pair.run_window();
        kept += pair.commit();
    }
    assert!(kept >= 6 && pair.refusals.is_empty(), "{kept} kept, {:?}", pair.refusals);
    let (alice, engine) = (&pair.alice.0, &mut pair.alice.1);
    let level = engine.transact::<_, EngineError>(|tx| alice.reserve_level(tx)).unwrap();
    // Each end skips 64 pads at its start; good blocks put back more than they spend.
    assert!(level > 10_000 - 2 * 64, "{level} pads are left");
}

#[test]
fn every_schedule_gives_keys() {
    for cascade in Cascade::ALL {
        let preset = preset_with(cascade);
        let mut pair = Pair::new([&preset; 2], [1, 1]);
        let mut kept = 0;
        for _ in 0..60 {
            pair.run_window();
            kept += pair.commit();
        }
        let (dropped, refusals) = (&pair.dropped, &pair.refusals);
        assert!(kept >= 3 && refusals.is_empty(), "{cascade:?}: {kept}, {dropped:?}, {refusals:?}");
        assert!(dropped.len() <= 1, "{cascade:?}: {dropped:?}");
    }
}

/// Round trips hide behind each other: Bob's answers about ten blocks are late, and none is lost.
#[test]
fn many_blocks_are_corrected_at_once() {
    let preset = preset_with(Cascade::Graded);
    let mut pair = Pair::new([&preset; 2], [1, 1]);
    pair.kept_back = Some(Vec::new());
    while pair.kept_back.as_ref().unwrap().len() < 10 {
        assert!(pair.bob.0.wants_light(), "there is room for more blocks");
        pair.run_window();
    }
    for frame in pair.kept_back.take().unwrap() {
        pair.tell_alice(&frame);
    }
    pair.settle();
    assert_eq!((pair.commit(), &pair.dropped[..], &pair.refusals[..]), (10, &[][..], &[][..]));
}

#[test]
fn ends_that_do_not_belong_together_say_why() {
    let other = preset().with_loss(claviger_units::Decibels::from_db(5.0).unwrap());
    for (presets, secrets, refusal) in [
        ([&preset(), &other], [1, 1], Refusal::Preset),
        ([&preset(), &preset()], [1, 2], Refusal::Proof),
    ] {
        let pair = Pair::new(presets, secrets);
        assert!(pair.refusals.contains(&refusal), "{:?}", pair.refusals);
    }
}

/// Whoever plays Bob after the greeting cannot have pulses announced again of which keys were made.
#[test]
fn a_pulse_is_announced_once() {
    let replay: Change = |frame| {
        let Ok(Message::Detections(mut detections)) = Message::decode(frame) else {
            panic!("a window begins with its clicks");
        };
        detections.pulses = vec![10, 1000];
        *frame = Message::Detections(detections).encode();
    };
    let leave: Change = |_| {};
    for (change, refused) in [(leave, false), (replay, true)] {
        let preset = preset();
        let mut pair = Pair::new([&preset; 2], [1, 1]);
        let mut kept = 0;
        for _ in 0..8 {
            pair.run_window();
            kept += pair.commit();
        }
        assert!(kept > 0 && pair.refusals.is_empty());
        pair.tamper = Some((pair.frames, change));
        pair.run_window();
        assert_eq!(pair.refusals.contains(&Refusal::Protocol), refused);
    }
}

/// An end that comes back after a lost connection goes on with fresh pads and fresh blocks.
#[test]
fn a_lost_connection_costs_its_open_blocks_only() {
    let preset = preset();
    let mut pair = Pair::new([&preset; 2], [1, 1]);
    for _ in 0..8 {
        pair.run_window();
    }
    let before = pair.commit();
    pair.connect();
    for _ in 0..12 {
        pair.run_window();
    }
    assert!(before >= 1 && pair.commit() >= 1);
    assert!(pair.dropped.iter().all(|reason| *reason == DropReason::SessionLost));
}

/// The click rate of a block is that of its own windows, whatever passed in between.
#[test]
fn a_pause_costs_no_block() {
    let preset = preset();
    let mut pair = Pair::new([&preset; 2], [1, 1]);
    pair.run_window();
    for _ in 0..200 {
        drop(pair.waste_window());
    }
    let mut kept = 0;
    for _ in 0..8 {
        pair.run_window();
        kept += pair.commit();
    }
    assert!(kept >= 1 && pair.dropped.is_empty(), "{kept} kept, {:?}", pair.dropped);
}

/// The store of either end may be an old copy: the number of a block never comes again.
#[test]
fn block_numbers_rise_whichever_end_was_restored() {
    let preset = preset();
    let mut pair = Pair::new([&preset; 2], [1, 1]);
    let (old_a, old_b) = (pair.alice.1.snapshot(), pair.bob.1.snapshot());
    let mut numbers = Vec::new();
    for restored in [None, Some(Site::A), None, Some(Site::B)] {
        match restored {
            Some(Site::A) => pair.alice.1 = old_a.snapshot(),
            Some(Site::B) => pair.bob.1 = old_b.snapshot(),
            None => {}
        }
        if restored.is_some() {
            pair.restart();
        }
        for _ in 0..40 {
            pair.run_window();
            numbers.extend(pair.finished_a.iter().map(|block| block.number));
            pair.commit();
        }
    }
    assert!(numbers.len() >= 20 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever single frame is changed, both ends hold the same block or none, and the link goes
    /// on after a fresh greeting at the latest.
    #[test]
    fn a_changed_frame_never_gives_two_keys(at in 0_u64..140, how in 0_usize..4) {
        let ways: [Change; 4] = [
            |frame| if let Some(last) = frame.last_mut() { *last ^= 1 },
            |frame| { let middle = frame.len() / 2; if let Some(byte) = frame.get_mut(middle) { *byte ^= 0x10 } },
            |frame| frame.truncate(frame.len().saturating_sub(1)),
            |frame| frame.clear(),
        ];
        let preset = preset();
        let mut pair = Pair::new([&preset; 2], [1, 1]);
        pair.tamper = Some((at, ways[how]));
        for _ in 0..10 {
            pair.run_window();
            pair.commit();
        }
        // After the tampering both ends look at each other for two minutes, and greet anew only
        // where one of them has given the session up.
        pair.tamper = None;
        for _ in 0..24 {
            pair.wait(5);
        }
        let mut kept = 0;
        for _ in 0..40 {
            pair.run_window();
            kept += pair.commit();
        }
        prop_assert!(kept > 0, "{:?} {:?}", pair.dropped, pair.refusals);
    }
}
