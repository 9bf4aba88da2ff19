//! The link in virtual time: light, both ends, and a classical channel that loses nothing.

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
    rules: Rules,
    fibre: Fibre,
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

impl VirtualLink {
    /// Starts a link with a fresh initial secret; everything follows from `seed`.
    pub fn start(preset: &LinkPreset, eve: Eve, seed: u64) -> Result<Self> {
        let rules = Rules::of(preset);
        let (choices, bases) = (seed::derive(seed, "choices"), seed::derive(seed, "bases"));
        let light = Xoshiro256PlusPlus::from_seed(seed::derive(seed, "light"));
        let fibre = Fibre::new(preset, &choices, &bases, eve, light);
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
        let mut link = Self {
            rules,
            fibre,
            end: 0,
            alice: End { machine: alice, store: store_a },
            bob: End { machine: bob, store: store_b },
            proposed: Vec::new(),
            blocks: Vec::new(),
            ledger: Vec::new(),
        };
        link.settle()?;
        Ok(link)
    }

    /// Turns the eavesdropper on or off from the next pulse.
    pub fn set_eve(&mut self, eve: Eve) {
        self.fibre.set_eve(eve);
    }

    /// Runs one window of link time to the end of all it causes.
    pub fn run_window(&mut self) -> Result<()> {
        self.end += self.rules.window;
        let clicks = std::iter::from_fn(|| self.fibre.click_before(self.end));
        let clicks = clicks.map(|click| (click.pulse, click.detector)).collect();
        let now = self.now();
        self.bob.machine.handle_window(now, Window { light: LIGHT, end: self.end, clicks });
        self.settle()
    }

    /// Runs until the link time reaches `span`.
    pub fn run_for(&mut self, span: Span) -> Result<()> {
        while self.rules.time_of(self.end) < span {
            self.run_window()?;
        }
        Ok(())
    }

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

    /// Returns the rate of secret bits, pads for the next tags not counted, over kept full blocks.
    #[must_use]
    pub fn secret_rate(&self) -> BitRate {
        let kept = self.ledger.iter().filter(|b| b.outcome == Outcome::Kept);
        let full: Vec<_> =
            kept.filter(|b| self.rules.target(u32::MAX) <= b.sifted as usize).collect();
        let secret: u64 = full.iter().map(|b| u64::from(b.secret) - u64::from(b.reserve)).sum();
        let span: u64 = full.iter().map(|b| b.end.as_micros() - b.begin.as_micros()).sum();
        Bits::new(secret) / Span::from_micros(span)
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
