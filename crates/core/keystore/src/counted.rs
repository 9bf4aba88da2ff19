//! The key buffer of both sites in numbers alone.

use claviger_units::{Bits, OwnerRatio, Site, Timestamp};

use crate::block;
use crate::meter::Meter;
use crate::store::LATELY;

/// How many keys each site owns, under the rules of [`KeyStore`](crate::KeyStore): the split of blocks, the
/// caps of both shares, the displacement of the oldest.
///
/// It holds no key and no name, and both sites always agree: it is for runs in virtual time whose keys would
/// fit into no memory, a day of a fast link for instance.
///
/// ```
/// use claviger_keystore::CountedStore;
/// use claviger_units::{Bits, Site, Timestamp};
///
/// let now = Timestamp::START;
/// let mut store = CountedStore::new(now, Bits::new(1_000_000));
/// store.commit(now, 128);
/// assert_eq!((store.available(Site::A), store.available(Site::B)), (112, 16));
/// assert!(store.hand_out(now, Site::A) && store.available(Site::A) == 111);
/// ```
#[derive(Clone, Debug)]
pub struct CountedStore {
    capacity: Bits,
    shares: OwnerRatio,
    // By owner: A, B.
    available: [u64; 2],
    lately: [Meter; 2],
    displaced: u64,
}

impl CountedStore {
    /// Begins with no key; `capacity` is that of both owners together.
    #[must_use]
    pub const fn new(now: Timestamp, capacity: Bits) -> Self {
        let lately = [Meter::start(now, LATELY); 2];
        Self { capacity, shares: OwnerRatio::INITIAL, available: [0; 2], lately, displaced: 0 }
    }

    /// Both sites have committed a block of `n_keys` keys.
    pub fn commit(&mut self, now: Timestamp, n_keys: usize) {
        let lately = self.lately.map(|meter| meter.count(now));
        let [_, of_b] = self.available;
        let ratio = block::next_ratio(self.shares, lately, of_b, self.capacity);
        if ratio != OwnerRatio::ALL_TO_A {
            self.shares = ratio;
        }
        for site in [Site::A, Site::B] {
            let available = &mut self.available[site as usize];
            *available += ratio.n_of(site, n_keys) as u64;
            let surplus = available.saturating_sub(block::cap(self.shares, site, self.capacity));
            *available -= surplus;
            self.displaced += surplus;
        }
    }

    /// Hands one key out at the site that owns it; false if it owns none.
    pub fn hand_out(&mut self, now: Timestamp, owner: Site) -> bool {
        let available = &mut self.available[owner as usize];
        let Some(rest) = available.checked_sub(1) else { return false };
        *available = rest;
        self.lately[owner as usize].add(now, 1);
        true
    }

    /// Returns how many keys a site can hand out.
    #[must_use]
    pub const fn available(&self, owner: Site) -> u64 {
        self.available[owner as usize]
    }

    /// Returns how many keys were destroyed to make room for newer ones.
    #[must_use]
    pub const fn displaced(&self) -> u64 {
        self.displaced
    }
}
