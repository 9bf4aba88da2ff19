//! A flow table: entries grouped by what they look at, so that a lookup costs one step per group.

use std::collections::BTreeMap;

use claviger_openflow::{
    Action, Field, FlowFilter, FlowMod, FlowRemoved, FlowStats, Instruction, Match, PortNumber,
    TableStats,
};
use claviger_units::{Span, Timestamp};

use crate::fields::Fields;
use crate::meter::{count, duration};

#[derive(Debug, Default)]
pub(crate) struct Table {
    // Invariant: by falling priority; no group is empty.
    groups: Vec<Group>,
    n_entries: usize,
    looked_up: u64,
    matched: u64,
}

/// Entries of one priority that look at the same bits of the same fields.
#[derive(Debug)]
struct Group {
    priority: u16,
    looks_at: Vec<(Field, u128)>,
    entries: BTreeMap<Vec<u128>, Entry>,
}

/// A flow entry with its counters.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) matching: Match,
    pub(crate) priority: u16,
    pub(crate) cookie: u64,
    pub(crate) flags: u16,
    pub(crate) idle_timeout: u16,
    pub(crate) hard_timeout: u16,
    pub(crate) instructions: Vec<Instruction>,
    since: Timestamp,
    used: Timestamp,
    counters: [u64; 2],
}

/// Why an entry went (`OFPRR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Idle = 0,
    Hard = 1,
    Deleted = 2,
}

impl Table {
    pub(crate) const fn len(&self) -> usize {
        self.n_entries
    }

    /// Finds the entry that a packet meets, and counts.
    pub(crate) fn look_up(
        &mut self,
        now: Timestamp,
        fields: &Fields,
        bytes: u64,
    ) -> Option<&Entry> {
        self.looked_up += 1;
        let (at, key) = self.groups.iter().enumerate().find_map(|(at, group)| {
            let key = group.key_of(fields)?;
            group.entries.contains_key(&key).then_some((at, key))
        })?;
        self.matched += 1;
        let entry = self.groups[at].entries.get_mut(&key)?;
        entry.used = now;
        count(&mut entry.counters, bytes);
        Some(entry)
    }

    /// Puts an entry in, in the place of one with the same match and priority; returns when it may be
    /// due.
    pub(crate) fn add(&mut self, now: Timestamp, asked: FlowMod) -> Option<Timestamp> {
        let entry = Entry {
            matching: asked.matching,
            priority: asked.priority,
            cookie: asked.cookie,
            flags: asked.flags,
            idle_timeout: asked.idle_timeout,
            hard_timeout: asked.hard_timeout,
            instructions: asked.instructions,
            since: now,
            used: now,
            counters: [0; 2],
        };
        let due = entry.due_at();
        let (looks_at, key) = split(&entry.matching);
        let at = self
            .groups
            .iter()
            .position(|group| group.priority == entry.priority && group.looks_at == looks_at);
        let at = at.unwrap_or_else(|| {
            let at = self.groups.partition_point(|group| group.priority >= entry.priority);
            let group = Group { priority: entry.priority, looks_at, entries: BTreeMap::new() };
            self.groups.insert(at, group);
            at
        });
        if self.groups[at].entries.insert(key, entry).is_none() {
            self.n_entries += 1;
        }
        due
    }

    /// Returns the entry of exactly this match and priority.
    pub(crate) fn exact(&mut self, matching: &Match, priority: u16) -> Option<&mut Entry> {
        let (looks_at, key) = split(matching);
        let mut groups = self.groups.iter_mut();
        let group = groups.find(|g| g.priority == priority && g.looks_at == looks_at)?;
        group.entries.get_mut(&key)
    }

    /// Takes out the entries that `goes` names, in the order of the table.
    pub(crate) fn take(&mut self, goes: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut gone = Vec::new();
        for group in &mut self.groups {
            gone.extend(group.entries.extract_if(.., |_, entry| goes(entry)).map(|(_, e)| e));
        }
        self.groups.retain(|group| !group.entries.is_empty());
        self.n_entries -= gone.len();
        gone
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| group.entries.values())
    }

    pub(crate) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.groups.iter_mut().flat_map(|group| group.entries.values_mut())
    }

    pub(crate) fn stats(&self, table: u8) -> TableStats {
        let active = u32::try_from(self.n_entries).unwrap_or(u32::MAX);
        TableStats { table, active, looked_up: self.looked_up, matched: self.matched }
    }
}

impl Group {
    fn key_of(&self, fields: &Fields) -> Option<Vec<u128>> {
        self.looks_at.iter().map(|&(field, mask)| Some(fields.get(field)? & mask)).collect()
    }
}

impl Entry {
    /// Tells whether a filter lets the entry through (§6.4: the non-strict commands).
    pub(crate) fn passes(&self, filter: &FlowFilter) -> bool {
        (self.cookie ^ filter.cookie) & filter.cookie_mask == 0
            && covers(&filter.matching, &self.matching)
            && (filter.out_port == PortNumber::ANY || self.sends_to(filter.out_port))
    }

    /// Tells whether the entry is too old, or idle for too long.
    pub(crate) fn is_due(&self, now: Timestamp) -> Option<Removal> {
        let over = |since: Timestamp, seconds: u16| {
            seconds > 0 && now.since(since) >= Span::from_secs(seconds.into())
        };
        if over(self.since, self.hard_timeout) {
            Some(Removal::Hard)
        } else {
            over(self.used, self.idle_timeout).then_some(Removal::Idle)
        }
    }

    /// Returns the first time at which it may be due.
    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        let at = |since: Timestamp, seconds: u16| {
            (seconds > 0).then(|| since + Span::from_secs(seconds.into()))
        };
        at(self.since, self.hard_timeout).into_iter().chain(at(self.used, self.idle_timeout)).min()
    }

    pub(crate) fn uses_meter(&self, meter: u32) -> bool {
        self.instructions.contains(&Instruction::Meter(meter))
    }

    pub(crate) fn stats(&self, now: Timestamp, table: u8) -> FlowStats {
        FlowStats {
            table,
            duration: duration(self.since, now),
            priority: self.priority,
            timeouts: [self.idle_timeout, self.hard_timeout],
            flags: self.flags,
            cookie: self.cookie,
            packets: self.counters[0],
            bytes: self.counters[1],
            matching: self.matching.clone(),
            instructions: self.instructions.clone(),
        }
    }

    pub(crate) fn removed(self, now: Timestamp, table: u8, reason: Removal) -> FlowRemoved {
        FlowRemoved {
            cookie: self.cookie,
            priority: self.priority,
            reason: reason as u8,
            table,
            duration: duration(self.since, now),
            timeouts: [self.idle_timeout, self.hard_timeout],
            packets: self.counters[0],
            bytes: self.counters[1],
            matching: self.matching,
        }
    }

    fn sends_to(&self, port: PortNumber) -> bool {
        self.instructions.iter().any(|instruction| match instruction {
            Instruction::ApplyActions(actions) | Instruction::WriteActions(actions) => actions
                .iter()
                .any(|action| matches!(action, Action::Output { port: to, .. } if *to == port)),
            _ => false,
        })
    }
}

/// Tells whether every packet of `narrow` is one of `wide`.
fn covers(wide: &Match, narrow: &Match) -> bool {
    wide.iter().all(|(field, value, mask)| {
        narrow.get_masked(field).is_some_and(|(v, m)| m & mask == mask && v & mask == value)
    })
}

fn split(matching: &Match) -> (Vec<(Field, u128)>, Vec<u128>) {
    matching.iter().map(|(field, value, mask)| ((field, mask), value)).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u16, Match)]) -> Table {
        let mut table = Table::default();
        for (n, (priority, matching)) in (1..).zip(entries) {
            let mut asked = FlowMod::add(0, *priority, matching.clone(), Vec::new());
            asked.cookie = n;
            table.add(Timestamp::START, asked);
        }
        table
    }

    #[test]
    fn the_highest_priority_wins_whatever_the_order() {
        let on_port = Match::new().with(Field::InPort, 1);
        let from = Match::new().with(Field::EthSrc, 7);
        let mut fields = Fields::of(1, &[]);
        fields.set(Field::EthSrc, 7);
        for (entries, winner) in [
            ([(1, Match::new()), (5, on_port.clone()), (3, from.clone())], 2),
            ([(9, Match::new()), (5, on_port.clone()), (3, from.clone())], 1),
            ([(1, Match::new()), (2, on_port), (3, from)], 3),
        ] {
            let mut table = table(&entries);
            let found = table.look_up(Timestamp::START, &fields, 60).map(|entry| entry.cookie);
            assert_eq!(found, Some(winner));
        }
    }

    #[test]
    fn an_entry_with_the_same_match_takes_the_place() {
        let mut table = table(&[(5, Match::new()), (5, Match::new()), (6, Match::new())]);
        assert_eq!(table.len(), 2);
        assert_eq!(table.take(|entry| entry.priority == 5).len(), 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_network_covers_its_addresses_and_not_the_other_way_round() {
        let network = Match::new().with_masked(Field::Ipv4Dst, 0x0A00_0000, 0xFF00_0000);
        let address = Match::new().with(Field::Ipv4Dst, 0x0A00_0001).with(Field::IpProto, 6);
        assert!(covers(&network, &address) && !covers(&address, &network));
        assert!(covers(&Match::new(), &network));
    }
}
