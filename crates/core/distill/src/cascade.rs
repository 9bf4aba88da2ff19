//! Cascade, the interactive reconciliation: Bob corrects his bits to Alice's.
//!
//! The key is cut into blocks, pass by pass, each in another random order, and Alice tells the
//! parity of each block. Where Bob's differs, the block is halved until the error is found; each
//! correction makes blocks of other passes odd again, and they are searched in turn.
//!
//! Only bits cross the channel. In each round [`Answerer`] (Alice) tells parities and
//! [`Corrector`] (Bob) answers which of them differ from his. Both feed the differences to one
//! and the same [`Search`], which says what is asked next: no word about ranges is needed. Bob's
//! answers disclose nothing of the key beyond Alice's parities but where errors were, and errors
//! he has corrected. Every parity that Alice tells is counted at both ends; one that follows from
//! others is not asked.
//!
//! Schedules ([`Cascade`](claviger_photonics::Cascade)): that of Brassard and Salvail (1993),
//! that of Yan et al. (2008), variant 8 of Martinez-Mateo et al. ("Demystifying the information
//! reconciliation protocol Cascade", 2015), and `graded`, which sorts the bits of the second pass
//! by what the first has told of them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use claviger_distill::cascade::{Answerer, Corrector, Orders, Schedule};
//! use claviger_gf2::BitString;
//! use claviger_photonics::Cascade;
//! use claviger_units::Fraction;
//!
//! let alice: BitString = (0..5000).map(|i| i % 7 == 3).collect();
//! let mut bob = alice.duplicate();
//! [2, 900, 901, 4444].into_iter().for_each(|wrong| bob.flip(wrong));
//!
//! let orders = Arc::new(Orders::draw(Cascade::Graded, 5000, [1; 32]));
//! let schedule = Schedule::new(5000, Fraction::clamped(0.001), orders);
//! let mut answerer = Answerer::new(schedule.clone(), alice.duplicate());
//! let mut corrector = Corrector::new(schedule, bob);
//! while answerer.search().asked() > 0 {
//!     let differences = corrector.handle_parities(&answerer.parities())?;
//!     answerer.handle_differences(&differences)?;
//! }
//! assert_eq!(answerer.search().disclosed(), corrector.search().disclosed());
//! assert!(corrector.into_key().ct_eq(&alice));
//! # Ok::<(), claviger_distill::cascade::Refusal>(())
//! ```

mod checks;
mod grades;
mod marks;
mod orders;
mod partition;
mod schedule;
mod search;

use claviger_gf2::BitString;

pub use orders::Orders;
pub(crate) use orders::SessionOrders;
pub use schedule::{Schedule, blocks_in_flight};
pub use search::Search;

use orders::{parity, parity_within};
use search::Place;

/// Why the other end's bits are not taken: it lies, or the channel does. The block is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another number of bits than was asked for.
    #[error("{got} bits came where {expected} were due")]
    Length {
        /// Bits due in this round.
        expected: usize,
        /// Bits that came.
        got: usize,
    },
    /// Nothing was asked: the search is over.
    #[error("bits came after the end of the search")]
    OutOfTurn,
    /// The search would disclose more than the key, or correct more than it has bits.
    #[error("the differences are not those of two keys")]
    Endless,
}

/// Alice's half: she tells parities of her key.
#[derive(Debug)]
pub struct Answerer {
    search: Search,
    key: Key,
}

impl Answerer {
    /// Prepares to tell the parities of `key`.
    ///
    /// # Panics
    /// Where the schedule is for another length.
    #[must_use]
    pub fn new(schedule: Schedule, key: BitString) -> Self {
        let key = Key::new(&schedule, key);
        Self { search: Search::new(schedule), key }
    }

    /// Returns the parities of this round.
    #[must_use]
    pub fn parities(&mut self) -> BitString {
        self.key.parities(&self.search)
    }

    /// Takes Bob's word on which of the last parities differ from his.
    pub fn handle_differences(&mut self, differences: &BitString) -> Result<(), Refusal> {
        self.search.handle(differences, |_, _| {})
    }

    /// Returns what is known of the differences.
    #[must_use]
    pub const fn search(&self) -> &Search {
        &self.search
    }

    /// Ends with the key as it came.
    #[must_use]
    pub fn into_key(self) -> BitString {
        self.key.into_bits()
    }
}

/// Bob's half: he searches and corrects.
#[derive(Debug)]
pub struct Corrector {
    search: Search,
    key: Key,
}

impl Corrector {
    /// Prepares to correct `key`.
    ///
    /// # Panics
    /// Where the schedule is for another length.
    #[must_use]
    pub fn new(schedule: Schedule, key: BitString) -> Self {
        let key = Key::new(&schedule, key);
        Self { search: Search::new(schedule), key }
    }

    /// Takes the parities of this round and returns which of them differ.
    pub fn handle_parities(&mut self, parities: &BitString) -> Result<BitString, Refusal> {
        let (expected, got) = (self.search.asked(), parities.len());
        if expected != got {
            return Err(Refusal::Length { expected, got });
        }
        let mut differences = self.key.parities(&self.search);
        differences.xor(parities);
        let Self { search, key } = self;
        search.handle(&differences, |pass, index| key.flip(pass, index))?;
        Ok(differences)
    }

    /// Returns what is known of the differences.
    #[must_use]
    pub const fn search(&self) -> &Search {
        &self.search
    }

    /// Ends with the corrected key.
    #[must_use]
    pub fn into_key(self) -> BitString {
        self.key.into_bits()
    }
}

/// The key in the order of every pass, so that each range is a few words.
#[derive(Debug)]
struct Key {
    // Invariant: the first is the key itself; the others follow it.
    orders: Vec<BitString>,
}

impl Key {
    fn new(schedule: &Schedule, key: BitString) -> Self {
        assert_eq!(schedule.bits(), key.len(), "a schedule of the length of the key");
        Self { orders: vec![key] }
    }

    fn parities(&mut self, search: &Search) -> BitString {
        for order in search.orders().skip(self.orders.len()) {
            self.orders.push(order.gather(&self.orders[0]));
        }
        let told = |place, start: u32, end: u32| {
            let (start, end) = (start as usize, end as usize);
            match place {
                Place::Pass(pass) => parity(self.orders[usize::from(pass)].words(), start, end),
                Place::Check(check) => {
                    parity_within(self.orders[0].words(), search.half(check), start, end)
                }
            }
        };
        search.asks().iter().map(|ask| told(ask.place, ask.start, ask.middle)).collect()
    }

    fn flip(&mut self, pass: usize, index: usize) {
        self.orders[pass].flip(index);
    }

    fn into_bits(self) -> BitString {
        self.orders.into_iter().next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
