//! The fibre in one direction: from Alice's choices to Bob's clicks, without work for empty pulses.
//!
//! A pulse clicks with a chance that depends on what was chosen for it and on what Eve does, and
//! that never exceeds a known ceiling. So the gap to the next *candidate* is drawn as if every
//! pulse had the ceiling, and choices, eavesdropper and detectors are worked out for the candidate
//! alone: it clicks with its own chance over the ceiling. Afterpulses are drawn when their trap is
//! filled. Nothing is approximated: the statistics are those of playing pulse by pulse, which a
//! test does as a reference.

use claviger_units::Decibels;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::choice::{BasisGenerator, ChoiceGenerator, PIPELINE};
use crate::coding::Coding;
use crate::eve::{Eve, Knowledge};
use crate::gaps::{Chance, Gaps, coin, uniform};
use crate::gate::{Action, Edge, Gate, Light, Silence};
use crate::preset::LinkPreset;
use crate::states::{Basis, Choice, Detector, State};

/// One click at Bob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Click {
    /// The index of the pulse; [`LinkPreset::time_of`] says when that was.
    pub pulse: u64,
    /// The detector that fired. Where both did, a coin decided which counts.
    pub detector: Detector,
    /// What Eve has of this pulse; Bob never learns it.
    pub eve: Knowledge,
}

/// The light between Alice and Bob: an endless row of clicks, in rising order of their pulses.
///
/// ```
/// use claviger_photonics::{Eve, Fibre, LinkPreset};
/// use rand_core::SeedableRng;
/// use rand_xoshiro::Xoshiro256PlusPlus;
///
/// let lab = LinkPreset::named("lab")?;
/// let rng = Xoshiro256PlusPlus::seed_from_u64(1);
/// let mut fibre = Fibre::new(&lab, &[1; 32], &[2; 32], Eve::ABSENT, rng);
/// let clicks = std::iter::from_fn(|| fibre.click_before(1_000_000)).count();
/// assert!((5_000..7_000).contains(&clicks), "{clicks}");
/// # Ok::<(), claviger_photonics::preset::PresetError>(())
/// ```
#[derive(Debug)]
pub struct Fibre {
    preset: LinkPreset,
    coding: Coding,
    alice: ChoiceGenerator,
    bob: BasisGenerator,
    rng: Xoshiro256PlusPlus,
    eve: Eve,
    gate: Gate,
    // Everything that may happen to a pulse, by intensity and state.
    scripts: Vec<Vec<Action>>,
    ceiling: f64,
    gaps: Gaps,
    traps: Traps,
    dead_gates: u64,
    // Invariant: the next pulse that may click by its light; beyond every earlier dead time.
    candidate: Candidate,
    ahead: Ahead,
    // The first pulse that was not played.
    at: u64,
}

/// A pulse that may click by its light, with what was chosen for it.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    pulse: u64,
    choice: Choice,
    basis: Basis,
    // The first pulse that was not played when it was drawn.
    after: u64,
}

/// Candidates that were drawn together, because their choices are read faster so. They follow each
/// other as they do if every one clicks, as most do; after one that does not, the dead time that was
/// reckoned with is missing, and new ones are drawn.
#[derive(Debug)]
struct Ahead {
    candidates: [Candidate; PIPELINE],
    taken: usize,
}

impl Ahead {
    /// Takes the next one, if it was drawn for a run that has come as far as `at`.
    fn next_from(&mut self, at: u64) -> Option<Candidate> {
        let next = *self.candidates.get(self.taken).filter(|next| next.after == at)?;
        self.taken += 1;
        Some(next)
    }
}

impl Fibre {
    /// Lights up the fibre with the seeds of Alice's choices and of Bob's bases; `rng` draws what
    /// nature decides.
    #[must_use]
    pub fn new(
        preset: &LinkPreset,
        alice_seed: &[u8; 32],
        bob_seed: &[u8; 32],
        eve: Eve,
        rng: Xoshiro256PlusPlus,
    ) -> Self {
        let coding = preset.coding();
        let gate = Gate::new(&preset.optics, &coding, &eve);
        let ceiling = gate.ceiling();
        let (mut alice, mut bob) =
            (ChoiceGenerator::new(alice_seed, &coding), BasisGenerator::new(bob_seed, &coding));
        let first = Candidate { pulse: 0, choice: alice.choice(0), basis: bob.basis(0), after: 0 };
        let mut fibre = Self {
            alice,
            bob,
            rng,
            eve,
            scripts: scripts(&gate),
            gate,
            ceiling,
            gaps: Gaps::new(ceiling),
            traps: Traps::of(preset),
            dead_gates: preset.dead_gates(),
            candidate: first,
            ahead: Ahead { candidates: [first; PIPELINE], taken: PIPELINE },
            at: 0,
            coding,
            preset: preset.clone(),
        };
        fibre.candidate = fibre.next_candidate();
        fibre
    }

    /// Plays on to the next click of a pulse before `end`; `None` where there is none, and then
    /// everything before `end` has been played.
    pub fn click_before(&mut self, end: u64) -> Option<Click> {
        loop {
            let trap = self.traps.next_from(self.at);
            let pulse =
                trap.map_or(self.candidate.pulse, |trap| trap.release.min(self.candidate.pulse));
            if pulse >= end {
                self.at = self.at.max(end);
                return None;
            }
            let released = trap.filter(|trap| trap.release == pulse).map(|trap| trap.detector);
            self.at = pulse + 1;
            let (fired, knowledge) = if pulse == self.candidate.pulse {
                self.play(self.candidate)
            } else {
                (Fired::NONE, Knowledge::Nothing)
            };
            let fired = fired.or(released);
            let counted = fired.counted(&mut self.rng);
            if counted.is_some() {
                // Both detectors are blind for the dead time.
                self.at = self.at.saturating_add(self.dead_gates);
                self.traps.fill(fired, self.at, &mut self.rng);
            }
            if self.candidate.pulse < self.at {
                self.candidate = self.next_candidate();
            }
            if let Some(detector) = counted {
                return Some(Click { pulse, detector, eve: knowledge });
            }
        }
    }

    /// Changes what is done to the light, from the first pulse on that was not played.
    pub fn set_eve(&mut self, eve: Eve) {
        if eve == self.eve {
            return;
        }
        self.eve = eve;
        self.relight();
    }

    /// Changes the loss of the path, from the first pulse on that was not played. Alice goes on to emit
    /// what she did: she is not told.
    pub fn set_loss(&mut self, loss: Decibels) {
        if loss != self.preset.loss() {
            self.preset = self.preset.clone().with_loss(loss);
            self.relight();
        }
    }

    fn relight(&mut self) {
        self.gate = Gate::new(&self.preset.optics, &self.coding, &self.eve);
        self.scripts = scripts(&self.gate);
        self.ceiling = self.gate.ceiling();
        self.gaps = Gaps::new(self.ceiling);
        // Gaps have no memory, so these may be drawn anew.
        self.candidate = self.look_ahead();
    }

    fn next_candidate(&mut self) -> Candidate {
        match self.ahead.next_from(self.at) {
            Some(next) => next,
            None => self.look_ahead(),
        }
    }

    /// Draws the candidates that follow if each of them clicks; returns the first.
    fn look_ahead(&mut self) -> Candidate {
        let mut after = self.at;
        let drawn = [(); PIPELINE].map(|()| {
            let pulse = after.saturating_add(self.gaps.draw(&mut self.rng));
            let drawn = (after, pulse);
            after = pulse.saturating_add(1 + self.dead_gates);
            drawn
        });
        let pulses = drawn.map(|(_, pulse)| pulse);
        let (choices, bases) = (self.alice.choices_of(&pulses), self.bob.bases_of(&pulses));
        let candidates = core::array::from_fn(|i| {
            let (after, pulse) = drawn[i];
            Candidate { pulse, choice: choices[i], basis: bases[i], after }
        });
        self.ahead = Ahead { candidates, taken: 1 };
        candidates[0]
    }

    /// Decides which detectors a candidate fires by its light, and what Eve has of it.
    fn play(&mut self, candidate: Candidate) -> (Fired, Knowledge) {
        let Candidate { pulse, choice, basis, .. } = candidate;
        let action = self.act(choice);
        let mut silence = self.gate.silence(&action, choice.intensity, basis);
        if self.gate.spills() && action.light != Light::Faked {
            for neighbour in [pulse.checked_sub(1), pulse.checked_add(1)].into_iter().flatten() {
                silence = silence.and(self.spilt(neighbour, basis, action.edge));
            }
        }
        let chances = silence.outcomes();
        // One even number decides everything: whether the candidate clicks, and what fires.
        let drawn = uniform(&mut self.rng) * self.ceiling;
        let single = chances.only_zero + chances.only_one;
        let fired = Fired {
            zero: drawn < chances.only_zero || (single..single + chances.both).contains(&drawn),
            one: (chances.only_zero..single + chances.both).contains(&drawn),
        };
        (fired, action.knowledge)
    }

    fn spilt(&mut self, neighbour: u64, basis: Basis, edge: Edge) -> Silence {
        let Choice { state, intensity, .. } = self.alice.choice(neighbour);
        self.gate.spilt(state, intensity, basis, edge)
    }

    /// Chooses what Eve does to a pulse.
    fn act(&mut self, choice: Choice) -> Action {
        let script = &self.scripts[script_index(choice.state, choice.intensity)];
        let (last, others) = script.split_last().expect("something is done to every pulse");
        if others.is_empty() {
            return *last;
        }
        let mut drawn = uniform(&mut self.rng);
        for action in others {
            drawn -= action.weight;
            if drawn < 0.0 {
                return *action;
            }
        }
        *last
    }
}

fn scripts(gate: &Gate) -> Vec<Vec<Action>> {
    let mut scripts = vec![Vec::new(); 12];
    for intensity in 0..3 {
        for n in 0..4 {
            let state = State { basis: Basis::of_key_bit(n & 1 != 0), value: n & 2 != 0 };
            scripts[script_index(state, intensity)] = gate.actions(state, intensity);
        }
    }
    scripts
}

fn script_index(state: State, intensity: u8) -> usize {
    usize::from(intensity) * 4 + usize::from(state.basis.key_bit()) + 2 * usize::from(state.value)
}

/// The detectors that fired in a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fired {
    zero: bool,
    one: bool,
}

impl Fired {
    const NONE: Self = Self { zero: false, one: false };

    fn or(self, released: Option<Detector>) -> Self {
        Self {
            zero: self.zero || released == Some(Detector::Zero),
            one: self.one || released == Some(Detector::One),
        }
    }

    /// The detector that counts; of two a coin decides.
    fn counted(self, rng: &mut Xoshiro256PlusPlus) -> Option<Detector> {
        match self {
            Self { zero: false, one: false } => None,
            Self { zero: true, one: true } => Some(Detector::for_value(coin(rng))),
            Self { one, .. } => Some(Detector::for_value(one)),
        }
    }
}

/// Charges that an avalanche left in a detector: each fires it once more when it is released,
/// unless that falls into a dead time.
#[derive(Debug)]
struct Traps {
    filled: Chance,
    waits: Option<Gaps>,
    // In order of release.
    pending: Vec<Trap>,
}

#[derive(Clone, Copy, Debug)]
struct Trap {
    release: u64,
    detector: Detector,
}

impl Traps {
    fn of(preset: &LinkPreset) -> Self {
        let afterpulses = &preset.optics.afterpulses;
        let filled = Chance::of(afterpulses.probability);
        let waits = filled.is_possible().then(|| Gaps::new(1.0 / (1.0 + afterpulses.mean_gates)));
        Self { filled, waits, pending: Vec::new() }
    }

    /// Returns the next trap that is released at `at` or later; earlier ones met a dead time.
    fn next_from(&mut self, at: u64) -> Option<Trap> {
        self.waits.as_ref()?;
        let missed = self.pending.iter().take_while(|trap| trap.release < at).count();
        self.pending.drain(..missed);
        self.pending.first().copied()
    }

    /// Fills traps of the detectors that fired; the earliest release is at `alive`.
    fn fill(&mut self, fired: Fired, alive: u64, rng: &mut Xoshiro256PlusPlus) {
        let Some(waits) = &self.waits else { return };
        for (detector, fired) in [(Detector::Zero, fired.zero), (Detector::One, fired.one)] {
            if fired && self.filled.comes_true(rng) {
                let release = alive.saturating_add(waits.draw(rng));
                let place = self.pending.partition_point(|trap| trap.release <= release);
                self.pending.insert(place, Trap { release, detector });
            }
        }
    }
}
