//! What stands in the switches' tables, and what should.

use std::collections::{BTreeMap, BTreeSet};

use claviger_openflow::{
    Band, Command, DatapathId, FlowMod, FlowStats, Instruction, Match, Message, MeterCommand,
    MeterMod,
};
use claviger_units::MacAddr;

use crate::policy::{PacketRate, PolicyId};

/// What makes an entry the one it is: a new one with the same takes its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryKey {
    pub(crate) table: u8,
    pub(crate) priority: u16,
    pub(crate) matching: Match,
}

/// An entry that a switch should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) datapath: DatapathId,
    pub(crate) key: EntryKey,
    pub(crate) instructions: Vec<Instruction>,
}

/// For whom an entry stands in a table; its cookie says so in the switch as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The switch itself, whatever hosts there are.
    Switch(DatapathId),
    /// All hosts of a policy at a switch.
    Policy(DatapathId, PolicyId),
    /// One host, on all switches.
    Host(MacAddr),
}

/// The mark of our cookies.
const OURS: u64 = 0xC1 << 56;
/// The kind of entries that go by themselves, and that nobody reconciles.
pub(crate) const PASSING: u64 = OURS | 0xFF << 48;
pub(crate) const KIND: u64 = 0xFFFF << 48;

impl Owner {
    pub(crate) fn cookie(self) -> u64 {
        let (kind, number) = match self {
            Self::Switch(_) => (1, 0),
            Self::Policy(_, PolicyId(number)) => (2, number.into()),
            Self::Host(mac) => (3, mac_number(mac)),
        };
        OURS | kind << 48 | number
    }
}

/// The cookie of an entry that goes by itself and is about a host.
pub(crate) fn passing_cookie(mac: MacAddr) -> u64 {
    PASSING | mac_number(mac)
}

/// Returns the host that a cookie is about.
pub(crate) fn host_of(cookie: u64) -> Option<MacAddr> {
    let [_, kind, mac @ ..] = cookie.to_be_bytes();
    let is_ours = cookie >> 56 == OURS >> 56;
    (is_ours && matches!(kind, 3 | 0xFF)).then(|| MacAddr::from_bytes(mac))
}

fn mac_number(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = *mac.as_bytes();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Which differences may be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    /// Only what is missing: what is there may still be right, as not all is known yet.
    Missing,
    /// All.
    All,
}

/// All tables of all switches, and for whom each entry stands there.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    switches: BTreeMap<DatapathId, SwitchTables>,
    owned: BTreeMap<Owner, BTreeSet<(DatapathId, EntryKey)>>,
    // Switches that may have to be told something.
    touched: BTreeSet<DatapathId>,
}

#[derive(Debug, Default)]
struct SwitchTables {
    slots: BTreeMap<EntryKey, Slot>,
    // Slots whose two sides may differ.
    differing: BTreeSet<EntryKey>,
    meters: BTreeMap<u32, MeterSlot>,
}

/// What should stand at one place of a table, and what does.
#[derive(Debug, Default)]
struct Slot {
    wanted: Option<Content>,
    present: Option<Content>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    cookie: u64,
    instructions: Vec<Instruction>,
}

#[derive(Clone, Copy, Debug, Default)]
struct MeterSlot {
    wanted: Option<PacketRate>,
    // A switch tells which meters it has; what they do it is told anew.
    present: bool,
    told: Option<PacketRate>,
}

impl Tables {
    /// Sets all that should stand anywhere for an owner.
    pub(crate) fn want(&mut self, owner: Owner, entries: Vec<Entry>) {
        let cookie = owner.cookie();
        let mut keys = BTreeSet::new();
        for Entry { datapath, key, instructions } in entries {
            let tables = self.switches.entry(datapath).or_default();
            if tables.set_wanted(&key, Some(Content { cookie, instructions })) {
                self.touched.insert(datapath);
            }
            keys.insert((datapath, key));
        }
        let old = self.owned.insert(owner, keys).unwrap_or_default();
        let kept = &self.owned[&owner];
        for (datapath, key) in old.difference(kept) {
            if let Some(tables) = self.switches.get_mut(datapath)
                && tables.set_wanted(key, None)
            {
                self.touched.insert(*datapath);
            }
        }
        if kept.is_empty() {
            self.owned.remove(&owner);
        }
    }

    /// Sets how fast packets may pass a meter; `None` for no such meter.
    pub(crate) fn want_meter(
        &mut self,
        datapath: DatapathId,
        meter: u32,
        rate: Option<PacketRate>,
    ) {
        let tables = self.switches.entry(datapath).or_default();
        let slot = tables.meters.entry(meter).or_default();
        if slot.wanted != rate {
            slot.wanted = rate;
            self.touched.insert(datapath);
        }
    }

    /// Notes that a switch may have to be told something.
    pub(crate) fn touch(&mut self, datapath: DatapathId) {
        self.touched.insert(datapath);
    }

    /// Returns the switches that may have to be told something.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<DatapathId> {
        std::mem::take(&mut self.touched)
    }

    /// Notes which entries a switch really has.
    pub(crate) fn learn(&mut self, datapath: DatapathId, entries: Vec<FlowStats>) {
        self.touched.insert(datapath);
        let tables = self.switches.entry(datapath).or_default();
        tables.slots.values_mut().for_each(|slot| slot.present = None);
        for entry in entries.into_iter().filter(|entry| entry.cookie & KIND != PASSING) {
            let FlowStats { table, priority, matching, cookie, instructions, .. } = entry;
            let key = EntryKey { table, priority, matching };
            tables.slots.entry(key).or_default().present = Some(Content { cookie, instructions });
        }
        let differing = tables.slots.iter().filter(|(_, slot)| slot.differs());
        tables.differing = differing.map(|(key, _)| key.clone()).collect();
    }

    /// Notes which meters a switch really has.
    pub(crate) fn learn_meters(&mut self, datapath: DatapathId, meters: &BTreeSet<u32>) {
        self.touched.insert(datapath);
        let slots = &mut self.switches.entry(datapath).or_default().meters;
        for (meter, slot) in slots.iter_mut() {
            *slot = MeterSlot { present: meters.contains(meter), told: None, ..*slot };
        }
        for &meter in meters {
            slots.entry(meter).or_default().present = true;
        }
    }

    /// Notes that a switch lacks an entry that it was thought to have.
    pub(crate) fn miss(&mut self, owner: Owner, datapath: DatapathId) {
        let Some(tables) = self.switches.get_mut(&datapath) else { return };
        self.touched.insert(datapath);
        let keys = self.owned.get(&owner).into_iter().flatten();
        for (_, key) in keys.filter(|(of, _)| *of == datapath) {
            if let Some(slot) = tables.slots.get_mut(key) {
                slot.present = None;
                tables.differing.insert(key.clone());
            }
        }
    }

    /// Returns what a switch must be told so that its tables are as they should, and takes it for
    /// done. What admits a packet comes after what then becomes of it.
    pub(crate) fn changes(&mut self, datapath: DatapathId, mend: Mend) -> Vec<Message> {
        let Some(tables) = self.switches.get_mut(&datapath) else { return Vec::new() };
        let mut messages = tables.meter_changes(mend);
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let differing = std::mem::take(&mut tables.differing);
        for key in differing {
            let Some(slot) = tables.slots.get_mut(&key) else { continue };
            if mend == Mend::Missing && slot.present.is_some() {
                tables.differing.insert(key);
                continue;
            }
            match &slot.wanted {
                Some(content) if slot.differs() => {
                    slot.present = Some(content.clone());
                    added.push(key.add(content));
                }
                None if slot.present.is_some() => {
                    removed.push(key.remove());
                    tables.slots.remove(&key);
                }
                None => drop(tables.slots.remove(&key)),
                Some(_) => {}
            }
        }
        added.sort_by_key(|flow| std::cmp::Reverse(flow.table));
        messages.extend(added.into_iter().chain(removed).map(Message::FlowMod));
        messages.extend(tables.meters_to_remove(mend));
        messages
    }

    /// Returns the number of entries that a switch should have, and of those that differ.
    pub(crate) fn counts(&self, datapath: DatapathId) -> (usize, usize) {
        let Some(tables) = self.switches.get(&datapath) else { return (0, 0) };
        let wanted = tables.slots.values().filter(|slot| slot.wanted.is_some()).count();
        (wanted, tables.slots.values().filter(|slot| slot.differs()).count())
    }

    /// Returns how many entries stand for an owner, by switch.
    pub(crate) fn owned_by(&self, owner: Owner) -> BTreeMap<DatapathId, usize> {
        let mut counts = BTreeMap::new();
        for (datapath, _) in self.owned.get(&owner).into_iter().flatten() {
            *counts.entry(*datapath).or_default() += 1;
        }
        counts
    }
}

impl SwitchTables {
    /// Returns whether that makes a difference to the switch.
    fn set_wanted(&mut self, key: &EntryKey, content: Option<Content>) -> bool {
        let slot = self.slots.entry(key.clone()).or_default();
        slot.wanted = content;
        let differs = slot.differs();
        if differs {
            self.differing.insert(key.clone());
        }
        differs
    }

    fn meter_changes(&mut self, mend: Mend) -> Vec<Message> {
        let mut messages = Vec::new();
        for (&meter, slot) in &mut self.meters {
            let Some(rate) = slot.wanted.filter(|&rate| slot.told != Some(rate)) else { continue };
            if mend == Mend::Missing && slot.present {
                continue;
            }
            let command = if slot.present { MeterCommand::Modify } else { MeterCommand::Add };
            let bands = vec![Band::Drop { rate: rate.per_second, burst: rate.burst }];
            let flags = MeterMod::IN_PACKETS;
            messages.push(Message::MeterMod(MeterMod { command, flags, meter, bands }));
            *slot = MeterSlot { present: true, told: Some(rate), ..*slot };
        }
        messages
    }

    fn meters_to_remove(&mut self, mend: Mend) -> Vec<Message> {
        if mend == Mend::Missing {
            return Vec::new();
        }
        let gone = self.meters.extract_if(.., |_, slot| slot.wanted.is_none());
        let present = gone.filter(|(_, slot)| slot.present);
        let remove = present.map(|(meter, _)| MeterMod {
            command: MeterCommand::Delete,
            flags: MeterMod::IN_PACKETS,
            meter,
            bands: Vec::new(),
        });
        remove.map(Message::MeterMod).collect()
    }
}

impl Slot {
    fn differs(&self) -> bool {
        self.wanted != self.present
    }
}

impl EntryKey {
    fn add(&self, content: &Content) -> FlowMod {
        let instructions = content.instructions.clone();
        let mut flow = FlowMod::add(self.table, self.priority, self.matching.clone(), instructions);
        flow.cookie = content.cookie;
        flow
    }

    fn remove(&self) -> FlowMod {
        let mut flow = FlowMod::add(self.table, self.priority, self.matching.clone(), Vec::new());
        flow.command = Command::DeleteStrict;
        flow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_openflow::Field;

    const S: DatapathId = DatapathId(1);
    const OWNER: Owner = Owner::Host(MacAddr::from_bytes([2, 0, 0, 0, 0, 1]));

    fn entry(table: u8, port: u128, goto: u8) -> Entry {
        let matching = Match::new().with(Field::InPort, port);
        let key = EntryKey { table, priority: 5, matching };
        Entry { datapath: S, key, instructions: vec![Instruction::GotoTable(goto)] }
    }

    fn told(tables: &mut Tables, mend: Mend) -> Vec<(Command, u8)> {
        let changes = tables.changes(S, mend).into_iter();
        changes
            .map(|message| match message {
                Message::FlowMod(flow) => (flow.command, flow.table),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn stats(entry: &Entry, cookie: u64) -> FlowStats {
        FlowStats {
            table: entry.key.table,
            duration: (0, 0),
            priority: entry.key.priority,
            timeouts: [0; 2],
            flags: 0,
            cookie,
            packets: 0,
            bytes: 0,
            matching: entry.key.matching.clone(),
            instructions: entry.instructions.clone(),
        }
    }

    #[test]
    fn what_admits_comes_last_and_nothing_is_told_twice() {
        let mut tables = Tables::default();
        tables.want(OWNER, vec![entry(0, 1, 1), entry(2, 1, 3)]);
        assert_eq!(told(&mut tables, Mend::All), [(Command::Add, 2), (Command::Add, 0)]);
        assert_eq!(told(&mut tables, Mend::All), []);
        assert_eq!(tables.counts(S), (2, 0));
        tables.want(OWNER, vec![entry(0, 1, 1)]);
        assert_eq!(told(&mut tables, Mend::All), [(Command::DeleteStrict, 2)]);
        tables.want(OWNER, Vec::new());
        assert_eq!(told(&mut tables, Mend::All), [(Command::DeleteStrict, 0)]);
        assert_eq!(tables.counts(S), (0, 0));
    }

    #[test]
    fn while_not_all_is_known_only_what_is_missing_is_mended() {
        let mut tables = Tables::default();
        let (right, other, foreign) = (entry(0, 1, 1), entry(0, 2, 1), entry(1, 9, 2));
        tables.want(OWNER, vec![right.clone(), entry(0, 2, 3), entry(2, 5, 3)]);
        let present = [(&right, OWNER.cookie()), (&other, OWNER.cookie()), (&foreign, 7)];
        let present = present.map(|(entry, cookie)| stats(entry, cookie));
        tables.learn(S, present.to_vec());
        assert_eq!(told(&mut tables, Mend::Missing), [(Command::Add, 2)]);
        let rest = [(Command::Add, 0), (Command::DeleteStrict, 1)];
        assert_eq!(told(&mut tables, Mend::All), rest);
        assert_eq!(told(&mut tables, Mend::All), []);
    }

    #[test]
    fn entries_that_go_by_themselves_are_left_alone() {
        let mut tables = Tables::default();
        let passing = entry(0, 1, 1);
        let mac = MacAddr::from_bytes([2, 0, 0, 0, 0, 1]);
        let cookie = passing_cookie(mac);
        assert_eq!(host_of(cookie), Some(mac));
        tables.learn(S, vec![stats(&passing, cookie)]);
        assert_eq!(told(&mut tables, Mend::All), []);
    }

    #[test]
    fn a_missed_entry_is_told_again() {
        let mut tables = Tables::default();
        tables.want(OWNER, vec![entry(0, 1, 1)]);
        tables.changes(S, Mend::All);
        tables.miss(OWNER, S);
        assert_eq!(told(&mut tables, Mend::All), [(Command::Add, 0)]);
    }

    #[test]
    fn meters_come_before_entries_and_are_changed_where_they_are() {
        let mut tables = Tables::default();
        let rate = PacketRate { per_second: 100, burst: 10 };
        tables.learn_meters(S, &BTreeSet::from([3, 4]));
        tables.want_meter(S, 3, Some(rate));
        tables.want_meter(S, 5, Some(rate));
        tables.want(OWNER, vec![entry(0, 1, 1)]);
        let kinds = |messages: Vec<Message>| -> Vec<_> {
            let named = messages.into_iter().map(|message| match message {
                Message::MeterMod(meter) => format!("{:?} {}", meter.command, meter.meter),
                Message::FlowMod(flow) => format!("{:?}", flow.command),
                other => panic!("{other:?}"),
            });
            named.collect()
        };
        assert_eq!(kinds(tables.changes(S, Mend::Missing)), ["Add 5", "Add"]);
        assert_eq!(kinds(tables.changes(S, Mend::All)), ["Modify 3", "Delete 4"]);
        assert_eq!(kinds(tables.changes(S, Mend::All)), Vec::<String>::new());
    }
}
