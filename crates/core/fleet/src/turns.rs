//! Whose turn it is when there is not enough for all.

use std::collections::{BTreeMap, BTreeSet};

use claviger_units::Eui64;

/// Which place the orders of a device have among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The class: whoever is in a lower one is served first.
    pub priority: u8,
    /// Whose device it is; the tenants of a class share what comes to it.
    pub tenant: u16,
    /// How many parts this tenant has of that, from 1.
    pub share: u16,
}

impl Default for Rank {
    fn default() -> Self {
        Self { priority: u8::MAX, tenant: 0, share: 1 }
    }
}

/// Who gets a key when there are too few (`PROTOCOL.md` P3b.2): by class, then by shares of tenants, then
/// who waits longest.
#[derive(Clone, Debug, Default)]
pub struct Sharing {
    rules: Vec<(String, Rank)>,
}

impl Sharing {
    /// Adds a rule: devices whose names begin with these digits have this rank, unless an earlier rule says
    /// otherwise. Who falls under none is in a class behind all others.
    #[must_use]
    pub fn with(mut self, digits: &str, rank: Rank) -> Self {
        self.rules.push((digits.to_ascii_lowercase(), rank));
        self
    }

    pub(crate) fn rank(&self, eui: Eui64) -> Rank {
        if self.rules.is_empty() {
            return Rank::default();
        }
        let name = eui.to_string();
        let rule = self.rules.iter().find(|(digits, _)| name.starts_with(digits.as_str()));
        rule.map(|(_, rank)| *rank).unwrap_or_default()
    }
}

/// A queue: by class, then by shares of tenants, then by age.
///
/// A tenant that is served pays for it, the less the larger its share, and who has paid least is next;
/// whoever had nothing to ask for meanwhile has saved nothing by it.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    classes: BTreeMap<u8, Class<K>>,
    // Invariant: holds what the tenants hold.
    of: BTreeMap<K, Turn>,
    newest: u64,
}

#[derive(Debug)]
struct Class<K> {
    tenants: BTreeMap<u16, Tenant<K>>,
    // What the tenant that was served last had paid before.
    paid: u64,
}

#[derive(Debug)]
struct Tenant<K> {
    // Oldest first.
    waiting: BTreeSet<(u64, K)>,
    paid: u64,
}

/// The place of a key in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    rank: Rank,
    age: u64,
}

impl<K: Ord + Copy> Turns<K> {
    pub(crate) const fn new() -> Self {
        Self { classes: BTreeMap::new(), of: BTreeMap::new(), newest: 0 }
    }

    /// Puts a key behind all of its tenant.
    pub(crate) fn push(&mut self, key: K, rank: Rank) {
        self.newest += 1;
        let age = self.newest;
        self.tenant(key, Turn { rank, age });
    }

    /// Takes the key whose turn it is, with its place.
    pub(crate) fn pop(&mut self) -> Option<(K, Turn)> {
        self.classes.values_mut().find_map(|class| {
            let waiting = class.tenants.values_mut().filter(|tenant| !tenant.waiting.is_empty());
            let tenant = waiting.min_by_key(|tenant| tenant.paid)?;
            let (_, key) = tenant.waiting.pop_first()?;
            let turn = self.of.remove(&key)?;
            class.paid = tenant.paid;
            tenant.paid += price(turn.rank);
            Some((key, turn))
        })
    }

    /// Puts a key back that was not served, in its old place; nobody has paid.
    pub(crate) fn give_back(&mut self, key: K, turn: Turn) {
        let tenant = self.tenant(key, turn);
        tenant.paid = tenant.paid.saturating_sub(price(turn.rank));
    }

    /// Does the same, but puts the key behind all of its tenant.
    pub(crate) fn send_back(&mut self, key: K, Turn { rank, .. }: Turn) {
        self.newest += 1;
        self.give_back(key, Turn { rank, age: self.newest });
    }

    pub(crate) fn retain(&mut self, wanted: impl Fn(&K) -> bool) {
        for class in self.classes.values_mut() {
            for tenant in class.tenants.values_mut() {
                tenant.waiting.retain(|(_, key)| wanted(key));
            }
        }
        self.of.retain(|key, _| wanted(key));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Lets a key wait, and returns its tenant.
    fn tenant(&mut self, key: K, turn: Turn) -> &mut Tenant<K> {
        self.of.insert(key, turn);
        let class = self.classes.entry(turn.rank.priority);
        let class = class.or_insert_with(|| Class { tenants: BTreeMap::new(), paid: 0 });
        let tenant = class.tenants.entry(turn.rank.tenant);
        let tenant = tenant.or_insert_with(|| Tenant { waiting: BTreeSet::new(), paid: 0 });
        if tenant.waiting.is_empty() {
            tenant.paid = tenant.paid.max(class.paid);
        }
        tenant.waiting.insert((turn.age, key));
        tenant
    }
}

fn price(rank: Rank) -> u64 {
    PRICE / u64::from(rank.share.max(1))
}

/// Divisible by all numbers up to 16.
const PRICE: u64 = 720_720;

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(priority: u8, tenant: u16, share: u16) -> Rank {
        Rank { priority, tenant, share }
    }

    fn served(turns: &mut Turns<u32>, n: usize) -> Vec<u32> {
        (0..n).filter_map(|_| turns.pop()).map(|(key, _)| key).collect()
    }

    #[test]
    fn classes_go_first_and_age_decides_among_equals() {
        let mut turns = Turns::new();
        for (key, priority) in [(1, 5), (2, 5), (3, 0), (4, 255), (5, 0)] {
            turns.push(key, rank(priority, 0, 1));
        }
        assert_eq!(served(&mut turns, 9), [3, 5, 1, 2, 4]);
        assert!(turns.is_empty());
    }

    #[test]
    fn tenants_get_their_shares_and_save_nothing_by_waiting() {
        let mut turns = Turns::new();
        for key in 0..100 {
            turns.push(key, rank(1, 0, 3));
            turns.push(1000 + key, rank(1, 1, 1));
        }
        let of_first = |keys: &[u32]| keys.iter().filter(|key| **key < 1000).count();
        assert_eq!(of_first(&served(&mut turns, 40)), 30);
        // A third one comes late, and gets no more than its part from then on.
        for key in 2000..2100 {
            turns.push(key, rank(1, 2, 4));
        }
        let keys = served(&mut turns, 80);
        let of_third = keys.iter().filter(|key| **key >= 2000).count();
        assert_eq!((of_first(&keys), of_third), (30, 40));
    }

    #[test]
    fn what_was_not_served_costs_nothing_and_keeps_its_place() {
        let mut turns = Turns::new();
        for key in 0..10 {
            turns.push(key, rank(1, 0, 1));
            turns.push(1000 + key, rank(1, 1, 1));
        }
        for _ in 0..50 {
            let taken: Vec<_> = (0..7).filter_map(|_| turns.pop()).collect();
            for (key, turn) in taken {
                turns.give_back(key, turn);
            }
        }
        assert_eq!(served(&mut turns, 6), [0, 1000, 1, 1001, 2, 1002]);
        let (key, turn) = turns.pop().unwrap();
        turns.send_back(key, turn);
        let rest = served(&mut turns, 20);
        let mut of_first = rest.iter().filter(|other| **other < 1000);
        assert_eq!((key, rest.len(), of_first.next_back()), (3, 14, Some(&key)));
    }

    #[test]
    fn rules_are_taken_in_their_order() {
        let (high, low) = (rank(0, 1, 2), rank(3, 0, 1));
        let sharing = Sharing::default().with("02005EFFFE10", high).with("02", low);
        let of = |eui: &str| sharing.rank(eui.parse().unwrap());
        assert_eq!(of("02005efffe100001"), high);
        assert_eq!(of("02005efffe200001"), low);
        assert_eq!(of("f2005efffe200001"), Rank::default());
    }
}
