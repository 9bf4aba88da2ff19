//! The search for errors, the same at both ends: it knows where the ends differ in parity, and
//! nothing of the key.

use claviger_gf2::BitString;

use super::Refusal;
use super::checks::Checks;
use super::partition::{Order, Partition};
use super::schedule::{Schedule, Stage};

/// The parity that Alice is to tell: of the bits from `start` to before `middle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) place: Place,
    pub(super) start: u32,
    pub(super) middle: u32,
    /// Where the part ends of which this is the first half; `middle` where it is the whole.
    pub(super) end: u32,
}

/// What an index counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The order of a pass.
    Pass(u8),
    /// The key, of which a check sees one half.
    Check(u16),
}

/// Where the ends differ in parity, and what is to be asked next.
///
/// Both ends keep one. It is told nothing but the differences, so that both keep the same, and no
/// word about where to search has to cross the channel.
#[derive(Debug)]
pub struct Search {
    schedule: Schedule,
    stage: usize,
    passes: Vec<Partition>,
    checks: Checks,
    asks: Vec<Ask>,
    // The last block of a pass over bits whose sum is known to be even: its parity follows.
    inferred: Option<Ask>,
    found: Vec<(Place, u32)>,
    // The pass under search where passes are searched one at a time.
    wave: usize,
    disclosed: u32,
    corrected: u32,
    rounds: u32,
}

impl Search {
    /// Begins with the first pass.
    pub(super) fn new(schedule: Schedule) -> Self {
        let mut search = Self {
            schedule,
            stage: 0,
            passes: Vec::new(),
            checks: Checks::default(),
            asks: Vec::new(),
            inferred: None,
            found: Vec::new(),
            wave: 0,
            disclosed: 0,
            corrected: 0,
            rounds: 0,
        };
        while search.asks.is_empty() && search.open_stage() {}
        search
    }

    /// Returns how many parities are asked for in this round; none once all is even.
    #[must_use]
    pub const fn asked(&self) -> usize {
        self.asks.len()
    }

    /// Returns how many parities have been disclosed.
    #[must_use]
    pub const fn disclosed(&self) -> u32 {
        self.disclosed
    }

    /// Returns how many bits were corrected.
    #[must_use]
    pub const fn corrected(&self) -> u32 {
        self.corrected
    }

    /// Returns how many rounds are over.
    #[must_use]
    pub const fn rounds(&self) -> u32 {
        self.rounds
    }

    pub(super) fn asks(&self) -> &[Ask] {
        &self.asks
    }

    /// Returns the order of each pass opened so far.
    pub(super) fn orders(&self) -> impl Iterator<Item = &Order> {
        self.passes.iter().map(Partition::order)
    }

    /// Returns the mask of a check.
    pub(super) fn half(&self, check: u16) -> &[u64] {
        self.schedule.orders().half(self.checks.half(check))
    }

    /// Takes the differences of this round, and names every bit to flip, as pass and index.
    pub(super) fn handle(
        &mut self,
        differences: &BitString,
        mut flip: impl FnMut(usize, usize),
    ) -> Result<(), Refusal> {
        let (expected, got) = (self.asks.len(), differences.len());
        if expected == 0 {
            return Err(Refusal::OutOfTurn);
        }
        if expected != got {
            return Err(Refusal::Length { expected, got });
        }
        self.disclosed += u32::try_from(expected).unwrap_or(u32::MAX);
        self.rounds += 1;
        let mut asks = core::mem::take(&mut self.asks);
        for (chunk, word) in asks.chunks(64).zip(differences.words()) {
            for (i, &ask) in chunk.iter().enumerate() {
                self.note(ask, word >> i & 1 == 1);
            }
        }
        asks.clear();
        if let Some(ask) = self.inferred.take() {
            self.note(ask, differences.count_ones() % 2 == 1);
        }
        self.asks = asks;
        self.next_round(&mut flip)
    }

    fn note(&mut self, ask: Ask, differs: bool) {
        let is_whole = ask.middle == ask.end;
        let single = match ask.place {
            Place::Pass(pass) => {
                let pass = &mut self.passes[usize::from(pass)];
                if is_whole {
                    pass.note_block(ask.start, ask.end, differs)
                } else {
                    pass.note_half(ask, differs)
                }
            }
            Place::Check(number) if is_whole => {
                self.checks.note_region(number, differs);
                None
            }
            Place::Check(number) => {
                self.checks.note_half(number, ask, differs, self.schedule.orders())
            }
        };
        self.found.extend(single.map(|index| (ask.place, index)));
    }

    /// Corrects what was found and collects what to ask next.
    fn next_round(&mut self, flip: &mut impl FnMut(usize, usize)) -> Result<(), Refusal> {
        loop {
            self.correct(flip)?;
            self.ask_halves();
            let goes_on = !self.asks.is_empty();
            if goes_on || !(self.start_checks() || self.open_stage()) {
                break;
            }
            if !self.asks.is_empty() {
                break;
            }
        }
        // Whoever asks for more is after the key, or contradicts himself.
        let limit = 2 * self.schedule.bits() + 64;
        let disclosed = self.disclosed as usize + self.asks.len();
        if disclosed > limit || self.rounds >= MAX_ROUNDS {
            return Err(Refusal::Endless);
        }
        Ok(())
    }

    fn correct(&mut self, flip: &mut impl FnMut(usize, usize)) -> Result<(), Refusal> {
        while let Some((place, index)) = self.found.pop() {
            let position = match place {
                Place::Pass(pass) => {
                    let pass = &self.passes[usize::from(pass)];
                    // Another pass may have found the same error in this round.
                    if !pass.is_wrong(index as usize) {
                        continue;
                    }
                    pass.position(index as usize)
                }
                Place::Check(number) if self.checks.is_wrong(number, index) => index as usize,
                Place::Check(_) => continue,
            };
            self.corrected += 1;
            // More corrections than bits: the differences are not those of two keys.
            if self.corrected as usize > self.schedule.bits() {
                return Err(Refusal::Endless);
            }
            self.flip(position, flip);
            if let Place::Pass(pass) = place {
                self.passes[usize::from(pass)].forget_parts(index as usize);
            }
        }
        Ok(())
    }

    fn flip(&mut self, position: usize, flip: &mut impl FnMut(usize, usize)) {
        for (number, pass) in self.passes.iter_mut().enumerate() {
            let Some(index) = pass.index(position) else { continue };
            flip(number, index);
            let single = pass.handle_corrected(index);
            let place = Place::Pass(u8::try_from(number).unwrap_or(u8::MAX));
            self.found.extend(single.map(|index| (place, index)));
        }
        let position = u32::try_from(position).unwrap_or(u32::MAX);
        self.checks.handle_corrected(position, self.schedule.orders());
    }

    /// Asks for the first half of every odd part: of all passes, or of the earliest with any,
    /// once no other is under search. Two searches that meet the same error do no harm: the first
    /// that ends makes the other's part even.
    fn ask_halves(&mut self) {
        if self.schedule.is_eager() {
            self.passes.iter_mut().for_each(|pass| pass.ask(&mut self.asks));
            self.checks.ask(&mut self.asks);
            return;
        }
        let under_way = self.passes.get(self.wave).is_some_and(Partition::has_odd);
        if !under_way {
            self.wave = self.passes.iter().position(Partition::has_odd).unwrap_or(0);
        }
        if let Some(pass) = self.passes.get_mut(self.wave) {
            pass.ask(&mut self.asks);
        }
    }

    fn start_checks(&mut self) -> bool {
        self.checks.start(self.schedule.orders(), &mut self.found)
    }

    /// Asks for the parities of the next step of the schedule; tells whether there was one.
    fn open_stage(&mut self) -> bool {
        let Some(stage) = self.schedule.stage(self.stage) else { return false };
        self.stage += 1;
        let number = u8::try_from(self.passes.len()).unwrap_or(u8::MAX);
        let pass = match stage {
            Stage::Halves { halves, regions } => {
                let bits = u32::try_from(self.schedule.bits()).unwrap_or(u32::MAX);
                let key = (self.schedule.orders(), bits);
                self.checks.open(key, halves, regions, &mut self.asks);
                return true;
            }
            Stage::Blocks { shuffle, length } => self.schedule.partition(number, shuffle, length),
            Stage::Graded => self.schedule.graded(number, &self.passes[0]),
        };
        let ask = |(start, end): (usize, usize)| {
            let (start, end) = (u32::try_from(start).ok()?, u32::try_from(end).ok()?);
            Some(Ask { place: Place::Pass(number), start, middle: end, end })
        };
        self.asks.extend(pass.parts().filter_map(ask));
        if number > 0 && self.schedule.is_eager() {
            // All blocks of the first pass are even, so is the sum of any other's.
            self.inferred = self.asks.pop();
        }
        self.passes.push(pass);
        true
    }
}

/// Rounds of a block: some ten times what an honest one takes.
const MAX_ROUNDS: u32 = 4096;
