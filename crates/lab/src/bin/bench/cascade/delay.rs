//! Two parties, each on a core of its own, and a line with a delay between them, in virtual time.
//!
//! One thread plays both. A step takes the processor time that it took, a party does one step
//! at a time in the order in which words arrive, and a word takes half the round trip. So the
//! figure does not depend on how many cores are free here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::{Result, ensure};
use claviger_distill::cascade::{Answerer, Corrector};
use claviger_gf2::BitString;

use super::{BITS, Pair, differing};
use crate::figure::processor_time;

/// How many blocks go over the line, how many at once, and how long a word and its answer take.
pub(crate) struct Line {
    pub(crate) blocks: usize,
    pub(crate) in_flight: usize,
    pub(crate) round_trip_s: f64,
}

pub(crate) struct Speed {
    /// Key bits a second of virtual time, of the middle half of the blocks.
    pub(crate) mbit_s: f64,
    /// Time of the parties for the median block.
    pub(crate) alice_ms: f64,
    pub(crate) bob_ms: f64,
}

impl Speed {
    /// Key bits over the time of the party that works longer.
    pub(crate) fn core_mbit_s(&self) -> f64 {
        BITS as f64 / 1e3 / self.alice_ms.max(self.bob_ms)
    }
}

/// A word on its way: when it arrives (in nanoseconds), its turn among equals, its block.
type Word = Reverse<(u64, usize, usize)>;

struct Block<'a> {
    pair: &'a Pair,
    answerer: Answerer,
    corrector: Corrector,
    word: BitString,
    // Nanoseconds spent by Alice and Bob.
    spent: [u64; 2],
}

#[derive(Default)]
struct Clock {
    words: BinaryHeap<Word>,
    sent: usize,
    // When Alice and Bob have done what they were given.
    free: [u64; 2],
    delay: u64,
}

/// Runs the blocks; the pairs are used again and again.
pub(crate) fn run(pairs: &[Pair], line: &Line) -> Result<Speed> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "delays are short")]
    let delay = (line.round_trip_s * 0.5e9) as u64;
    let mut clock = Clock { delay, ..Clock::default() };
    let mut open: Vec<Option<Block<'_>>> = (0..line.blocks).map(|_| None).collect();
    let mut begun = 0;
    let mut ended = Vec::new();
    let mut spent = Vec::new();
    while begun < line.in_flight.min(line.blocks) {
        open[begun] = Some(clock.begin(&pairs[begun % pairs.len()], begun, 0));
        begun += 1;
    }
    while let Some(Reverse((at, _, number))) = clock.words.pop() {
        let Some(block) = &mut open[number] else { continue };
        // A block whose word Alice has not read lies with Bob.
        if block.corrector.search().rounds() == block.answerer.search().rounds() {
            let differences = clock.step(1, at, number, &mut block.spent, || {
                Ok(block.corrector.handle_parities(&block.word)?)
            })?;
            block.word = differences;
            continue;
        }
        let parities = clock.step(0, at, number, &mut block.spent, || {
            block.answerer.handle_differences(&block.word)?;
            Ok(block.answerer.parities())
        })?;
        block.word = parities;
        if block.answerer.search().asked() > 0 {
            continue;
        }
        clock.words.retain(|Reverse((_, _, other))| *other != number);
        ended.push(clock.free[0]);
        spent.push(block.spent);
        if let Some(block) = open[number].take() {
            ensure!(differing(&block.pair.alice, &block.corrector.into_key()) <= 8, "errors left");
        }
        if begun < line.blocks {
            open[begun] = Some(clock.begin(&pairs[begun % pairs.len()], begun, clock.free[0]));
            begun += 1;
        }
    }
    Ok(speed(&ended, &spent))
}

impl Clock {
    fn begin<'a>(&mut self, pair: &'a Pair, number: usize, at: u64) -> Block<'a> {
        let begun = processor_time();
        let mut answerer = pair.answerer();
        let word = answerer.parities();
        let alice = processor_time() - begun;
        let begun = processor_time();
        let corrector = pair.corrector();
        let bob = processor_time() - begun;
        self.free[0] = self.free[0].max(at) + alice;
        self.free[1] += bob;
        self.send(self.free[0], number);
        Block { pair, answerer, corrector, word, spent: [alice, bob] }
    }

    /// Does one step of a party, from when it is free and the word has come.
    fn step(
        &mut self,
        party: usize,
        at: u64,
        number: usize,
        spent: &mut [u64; 2],
        step: impl FnOnce() -> Result<BitString>,
    ) -> Result<BitString> {
        let begun = processor_time();
        let word = step()?;
        let took = processor_time() - begun;
        spent[party] += took;
        self.free[party] = self.free[party].max(at) + took;
        self.send(self.free[party], number);
        Ok(word)
    }

    fn send(&mut self, at: u64, number: usize) {
        self.sent += 1;
        self.words.push(Reverse((at + self.delay, self.sent, number)));
    }
}

fn speed(ended: &[u64], spent: &[[u64; 2]]) -> Speed {
    let median = |party: usize| {
        let mut times: Vec<_> = spent.iter().map(|spent| spent[party]).collect();
        times.sort_unstable();
        times[times.len() / 2] as f64 / 1e6
    };
    let (first, last) = (ended.len() / 4, ended.len() * 3 / 4);
    let bits = ((last - first) * BITS) as f64;
    let mbit_s = bits * 1e3 / (ended[last] - ended[first]) as f64;
    Speed { mbit_s, alice_ms: median(0), bob_ms: median(1) }
}
