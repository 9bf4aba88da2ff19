//! The link in virtual time: light, both ends, and a classical channel that loses nothing.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use anyhow::{Result, bail, ensure};
use claviger_distill::{
    Alice, BlockLedger, Bob, Committed, Event, FinishedBlock, InitialSecret, Outcome, Reserve,
    Rules, Window, seed,
};
use claviger_durable::{Engine, EngineError, MemoryEngine};
use claviger_photonics::{Eve, Fibre, LinkPreset};
use claviger_units::{BitRate, Bits, Span, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// Both ends of a link and the light between them.
#[derive(Debug)]
pub struct VirtualLink {
    light: Light,
    /// Windows that have been played and not yet measured.
    ahead: VecDeque<Window>,
    ends: Ends,
}

#[derive(Debug)]
struct Light {
    fibre: Fibre,
    rules: Rules,
    end: u64,
}

impl Light {
    fn next_window(&mut self) -> Window {
        self.end += self.rules.window;
        let clicks = std::iter::from_fn(|| self.fibre.click_before(self.end));
        let clicks = clicks.map(|click| (click.pulse, click.detector)).collect();
        Window { light: LIGHT, end: self.end, clicks }
    }
}

/// Alice and Bob, and what has come of their blocks.
#[derive(Debug)]
pub struct Ends {
    rules: Rules,
    end: u64,
    alice: End<Alice>,
    bob: End<Bob>,
    proposed: Vec<FinishedBlock>,
    blocks: Vec<FinishedBlock>,
    ledger: Vec<BlockLedger>,
}

#[derive(Debug)]
struct End<M> {
    machine: M,
    store: MemoryEngine,
}

const LIGHT: u64 = 1;
/// Windows that the light is ahead of the ends where it has a processor of its own.
const WINDOWS_AHEAD: usize = 8;

impl VirtualLink {
    /// Starts a link with a fresh initial secret; everything follows from `seed`.
    pub fn start(preset: &LinkPreset, eve: Eve, seed: u64) -> Result<Self> {
        let rules = Rules::of(preset);
        let (choices, bases) = (seed::derive(seed, "choices"), seed::derive(seed, "bases"));
        let nature = Xoshiro256PlusPlus::from_seed(seed::derive(seed, "light"));
        let fibre = Fibre::new(preset, &choices, &bases, eve, nature);
        let secret = InitialSecret::random(&mut rng(seed, "secret"));
        let mut store_a = filled(&secret)?;
        let mut store_b = filled(&secret)?;
        let mut alice = store_a.transact(|tx| Alice::open(tx, rules.clone()))?;
        let mut bob = store_b.transact(|tx| Bob::open(tx, rules.clone()))?;
        let (mut rng_a, mut rng_b) = (rng(seed, "alice"), rng(seed, "bob"));
        alice.handle_light(LIGHT, &choices);
        bob.handle_light(&bases);
        alice.handle_connected(&mut rng_a);
        bob.handle_connected(&mut rng_b);
        let mut ends = Ends {
            rules: rules.clone(),
            end: 0,
            alice: End { machine: alice, store: store_a },
            bob: End { machine: bob, store: store_b },
            proposed: Vec::new(),
            blocks: Vec::new(),
            ledger: Vec::new(),
        };
        ends.settle()?;
        Ok(Self { light: Light { fibre, rules, end: 0 }, ahead: VecDeque::new(), ends })
    }

    /// Turns the eavesdropper on or off from the next pulse that has not been played.
    pub fn set_eve(&mut self, eve: Eve) {
        self.light.fibre.set_eve(eve);
    }

    /// Runs one window of link time to the end of all it causes.
    pub fn run_window(&mut self) -> Result<()> {
        let window = self.ahead.pop_front().unwrap_or_else(|| self.light.next_window());
        self.ends.handle_window(window)
    }

    /// Runs until the link time reaches `span`.
    pub fn run_for(&mut self, span: Span) -> Result<()> {
        self.run_watched(span, |_| Ok(ControlFlow::Continue(())))
    }

    /// Runs until the link time reaches `span` or `watch`, asked after every window, wants an end.
    /// The light has a thread of its own; what happens is the same as window by window.
    pub fn run_watched(
        &mut self,
        span: Span,
        mut watch: impl FnMut(&mut Ends) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let Self { light, ahead, ends } = self;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, played) = mpsc::sync_channel(WINDOWS_AHEAD);
            scope.spawn(|| {
                let sender = sender;
                while light.rules.time_of(light.end) < span && !is_over.load(Ordering::Relaxed) {
                    if sender.send(light.next_window()).is_err() {
                        break;
                    }
                }
            });
            let mut windows = core::mem::take(ahead).into_iter().chain(played);
            let mut outcome = Ok(ControlFlow::Continue(()));
            while let Ok(ControlFlow::Continue(())) = outcome
                && ends.rules.time_of(ends.end) < span
                && let Some(window) = windows.next()
            {
                outcome = ends.handle_window(window).and_then(|()| watch(ends));
            }
            is_over.store(true, Ordering::Relaxed);
            ahead.extend(windows);
            outcome.map(drop)
        })
    }

    /// Returns the link time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.ends.now()
    }

    /// Returns the ledgers of Alice's ended blocks.
    #[must_use]
    pub fn ledger(&self) -> &[BlockLedger] {
        self.ends.ledger()
    }

    /// Takes the blocks that both ends hold.
    pub fn take_blocks(&mut self) -> Vec<FinishedBlock> {
        self.ends.take_blocks()
    }

    /// Returns the rate of secret bits, pads for the next tags not counted, over kept full blocks.
    #[must_use]
    pub fn secret_rate(&self) -> BitRate {
        let Ends { rules, ledger, .. } = &self.ends;
        let kept = ledger.iter().filter(|b| b.outcome == Outcome::Kept);
        let full: Vec<_> = kept.filter(|b| rules.target(u32::MAX) <= b.sifted as usize).collect();
        let secret: u64 = full.iter().map(|b| u64::from(b.secret) - u64::from(b.reserve)).sum();
        let span: u64 = full.iter().map(|b| b.end.as_micros() - b.begin.as_micros()).sum();
        Bits::new(secret) / Span::from_micros(span)
    }
}

impl Ends {
    /// Returns the link time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::START + self.rules.time_of(self.end)
    }

    /// Returns the ledgers of Alice's ended blocks.
    #[must_use]
    pub fn ledger(&self) -> &[BlockLedger] {
        &self.ledger
    }

    /// Takes the blocks that both ends hold.
    pub fn take_blocks(&mut self) -> Vec<FinishedBlock> {
        core::mem::take(&mut self.blocks)
    }

    fn handle_window(&mut self, window: Window) -> Result<()> {
        self.end = window.end;
        self.bob.machine.handle_window(self.now(), window);
        self.settle()
    }

    /// Carries frames and events until nothing moves.
    fn settle(&mut self) -> Result<()> {
        loop {
            let now = self.now();
            let mut moved = false;
            while let Some(frame) = self.alice.machine.poll_transmit() {
                moved = true;
                let End { machine, store } = &mut self.bob;
                store.transact(|tx| machine.handle_message(tx, now, &frame))?;
            }
            while let Some(frame) = self.bob.machine.poll_transmit() {
                moved = true;
                let End { machine, store } = &mut self.alice;
                store.transact(|tx| machine.handle_message(tx, now, &frame))?;
            }
            while let Some(event) = self.alice.machine.poll_event() {
                moved = true;
                match event {
                    Event::Finished(block) => {
                        self.alice.machine.handle_held(block.number);
                        self.proposed.push(block);
                    }
                    Event::Ended(ledger) => self.ledger.push(ledger),
                    Event::Refused(refusal) => bail!("Alice refused Bob: {refusal}"),
                    _ => {}
                }
            }
            while let Some(event) = self.bob.machine.poll_event() {
                moved = true;
                match event {
                    Event::Finished(block) => self.commit(block)?,
                    Event::Refused(refusal) => bail!("Bob refused Alice: {refusal}"),
                    _ => {}
                }
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// Plays both key buffers: the acceptance must be the one foretold, the keys the same.
    fn commit(&mut self, accepted: FinishedBlock) -> Result<()> {
        let number = accepted.number;
        let at = self.proposed.iter().position(|block| block.number == number);
        let Some(at) = at else {
            bail!("Bob accepted block {number}, which Alice did not propose")
        };
        let proposed = self.proposed.swap_remove(at);
        ensure!(proposed.acceptance == accepted.acceptance, "block {number}: another acceptance");
        ensure!(
            proposed.keys.len() == accepted.keys.len(),
            "block {number}: another number of keys"
        );
        for ((id_a, owner_a, key_a), (id_b, owner_b, key_b)) in
            proposed.keys.iter().zip(&accepted.keys)
        {
            ensure!(
                id_a == id_b && owner_a == owner_b && key_a.ct_eq(key_b),
                "block {number}: keys differ"
            );
        }
        let End { machine, store } = &mut self.alice;
        store.transact(|tx| machine.handle_outcome(tx, number, Committed::Yes))?;
        let End { machine, store } = &mut self.bob;
        store.transact(|tx| machine.handle_outcome(tx, number, Committed::Yes))?;
        self.blocks.push(accepted);
        Ok(())
    }
}

fn rng(seed: u64, label: &str) -> StdRng {
    StdRng::from_seed(seed::derive(seed, label))
}

fn filled(secret: &InitialSecret) -> Result<MemoryEngine, EngineError> {
    let mut store = MemoryEngine::new();
    store.transact(|tx| Reserve::fill(tx, secret))?;
    Ok(store)
}
