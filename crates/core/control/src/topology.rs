//! The graph of switches and links, and the next hop from each to each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_openflow::{DatapathId, PortNumber};
use claviger_units::Timestamp;

use crate::Place;

/// Links that were heard, and the shortest paths over those that were heard both ways.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    // A frame that left by the first arrived at the second, last at this time.
    heard: BTreeMap<Place, (Place, Timestamp)>,
    // Links of switches that cannot be asked: they may well be there, and are used where nothing else
    // leads on. Both directions of each.
    suspended: BTreeMap<Place, Place>,
    // The next hops toward a switch, made when they are first asked for.
    toward: BTreeMap<DatapathId, BTreeMap<DatapathId, PortNumber>>,
    // Changes with every change of the graph.
    version: u64,
}

/// What a frame of discovery has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// One direction is known now: the other should be tried at once.
    HalfUp,
    /// Both directions are known now.
    Up,
}

impl Topology {
    /// Notes that a frame that left by `from` arrived at `to`.
    pub(crate) fn hear(&mut self, now: Timestamp, from: Place, to: Place) -> Change {
        let old = self.heard.insert(from, (to, now));
        self.suspended.retain(|a, b| ![from, to].contains(a) && ![from, to].contains(b));
        if old.is_some_and(|(before, _)| before == to) {
            return Change::Nothing;
        }
        self.changed();
        if self.is_up(from, to) { Change::Up } else { Change::HalfUp }
    }

    /// Forgets what left by or arrived at a port; returns the links that are down by it.
    pub(crate) fn lose(&mut self, lost: impl Fn(Place) -> bool) -> Vec<(Place, Place)> {
        let before = self.links();
        let heard = self.heard.len();
        self.heard.retain(|&from, &mut (to, _)| !lost(from) && !lost(to));
        let suspended = self.suspended.len();
        self.suspended.retain(|&a, &mut b| !lost(a) && !lost(b));
        if self.suspended.len() != suspended {
            self.changed();
        }
        self.losses(&before, heard)
    }

    /// Notes that a switch cannot be asked any more; returns its links, of which nothing is known now.
    pub(crate) fn suspend(&mut self, datapath: DatapathId) -> Vec<(Place, Place)> {
        let of_it = |place: Place| place.datapath == datapath;
        let links = self.links();
        let links = links.into_iter().filter(|&(a, b)| of_it(a) || of_it(b));
        let links: Vec<_> = links.collect();
        let lost = self.lose(of_it);
        self.suspended.extend(links.iter().flat_map(|&(a, b)| [(a, b), (b, a)]));
        self.changed();
        lost
    }

    /// Forgets links that were not heard since `since`; returns them.
    pub(crate) fn expire(&mut self, since: Timestamp) -> Vec<(Place, Place)> {
        if self.heard.values().all(|&(_, at)| at >= since) {
            return Vec::new();
        }
        let before = self.links();
        let heard = self.heard.len();
        self.heard.retain(|_, &mut (_, at)| at >= since);
        self.losses(&before, heard)
    }

    /// Returns the links, each once, the lower end first.
    pub(crate) fn links(&self) -> BTreeSet<(Place, Place)> {
        let both = self.heard.iter().filter(|&(&a, &(b, _))| a < b && self.is_up(a, b));
        both.map(|(&a, &(b, _))| (a, b)).collect()
    }

    /// Tells whether a frame of discovery arrived at a port or left by it and arrived: another switch
    /// is behind it.
    pub(crate) fn is_trunk(&self, place: Place) -> bool {
        self.heard.contains_key(&place)
            || self.suspended.contains_key(&place)
            || self.heard.values().any(|&(to, _)| to == place)
    }

    /// Tells whether a port is an end of a link that was heard both ways, or was before its switch went.
    pub(crate) fn is_linked(&self, place: Place) -> bool {
        let to = self.heard.get(&place).map(|&(to, _)| to);
        self.suspended.contains_key(&place) || to.is_some_and(|to| self.is_up(place, to))
    }

    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// Returns the port by which the shortest path from one switch to another begins; among equally
    /// short ones the path that is first by numbers.
    pub(crate) fn next_hop(&mut self, from: DatapathId, to: DatapathId) -> Option<PortNumber> {
        if !self.toward.contains_key(&to) {
            let hops = self.hops_toward(to);
            self.toward.insert(to, hops);
        }
        self.toward.get(&to)?.get(&from).copied()
    }

    /// Returns the path between two switches: each with the port that leads on, but the last.
    pub(crate) fn path(&mut self, from: DatapathId, to: DatapathId) -> Option<Vec<Place>> {
        let (mut at, mut path) = (from, Vec::new());
        while at != to {
            let place = Place::new(at, self.next_hop(at, to)?);
            let next = self.heard.get(&place).map(|&(to, _)| to);
            at = next.or_else(|| self.suspended.get(&place).copied())?.datapath;
            path.push(place);
        }
        Some(path)
    }

    fn is_up(&self, a: Place, b: Place) -> bool {
        let heard = |from, to| self.heard.get(&from).is_some_and(|&(at, _)| at == to);
        heard(a, b) && heard(b, a)
    }

    fn changed(&mut self) {
        self.version += 1;
        self.toward.clear();
    }

    fn losses(&mut self, before: &BTreeSet<(Place, Place)>, heard: usize) -> Vec<(Place, Place)> {
        if self.heard.len() != heard {
            self.changed();
        }
        let after = self.links();
        before.difference(&after).copied().collect()
    }

    /// Walks from the goal outwards, one ring of switches after the other; over links of which nothing
    /// is known only to where no others lead.
    fn hops_toward(&self, to: DatapathId) -> BTreeMap<DatapathId, PortNumber> {
        let mut hops = BTreeMap::new();
        let known = self.links().into_iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        walk(&neighbours(known), to, &mut hops);
        if !self.suspended.is_empty() {
            let known = self.links().into_iter().flat_map(|(a, b)| [(a, b), (b, a)]);
            let all = known.chain(self.suspended.iter().map(|(&a, &b)| (a, b)));
            walk(&neighbours(all), to, &mut hops);
        }
        hops
    }
}

type Neighbours = BTreeMap<DatapathId, Vec<(DatapathId, PortNumber)>>;

/// Lists for each switch its neighbours, with the port by which each of them leads back.
fn neighbours(links: impl Iterator<Item = (Place, Place)>) -> Neighbours {
    let mut neighbours = Neighbours::new();
    for (at, other) in links {
        neighbours.entry(at.datapath).or_default().push((other.datapath, other.port));
    }
    neighbours.values_mut().for_each(|n| n.sort_unstable());
    neighbours
}

/// Adds the hops of all switches that are reached from those that have one, and from the goal.
fn walk(neighbours: &Neighbours, to: DatapathId, hops: &mut BTreeMap<DatapathId, PortNumber>) {
    let mut ring: VecDeque<_> = [to].into_iter().chain(hops.keys().copied()).collect();
    while let Some(at) = ring.pop_front() {
        for &(neighbour, port) in neighbours.get(&at).into_iter().flatten() {
            if neighbour != to && !hops.contains_key(&neighbour) {
                hops.insert(neighbour, port);
                ring.push_back(neighbour);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_units::Span;

    fn place(datapath: u64, port: u32) -> Place {
        Place::new(DatapathId(datapath), PortNumber(port))
    }

    fn join(topology: &mut Topology, now: Timestamp, a: Place, b: Place) -> [Change; 2] {
        [topology.hear(now, a, b), topology.hear(now, b, a)]
    }

    /// 1 – 2 – 3, and 1 – 4 – 3.
    fn ring() -> Topology {
        let mut ring = Topology::default();
        for (a, b) in [
            (place(1, 1), place(2, 1)),
            (place(2, 2), place(3, 1)),
            (place(1, 2), place(4, 1)),
            (place(4, 2), place(3, 2)),
        ] {
            let changes = join(&mut ring, Timestamp::START, a, b);
            assert_eq!(changes, [Change::HalfUp, Change::Up]);
            let again = join(&mut ring, Timestamp::START, a, b);
            assert_eq!(again, [Change::Nothing; 2]);
        }
        ring
    }

    #[test]
    fn a_path_goes_the_short_way_and_the_other_after_a_cut() {
        let mut ring = ring();
        assert_eq!(ring.path(DatapathId(1), DatapathId(3)), Some(vec![place(1, 1), place(2, 2)]));
        let lost = ring.lose(|port| port == place(2, 2));
        assert_eq!(lost, [(place(2, 2), place(3, 1))]);
        assert_eq!(ring.path(DatapathId(1), DatapathId(3)), Some(vec![place(1, 2), place(4, 2)]));
        ring.lose(|port| port.datapath == DatapathId(4));
        assert_eq!(ring.path(DatapathId(1), DatapathId(3)), None);
        assert_eq!(ring.path(DatapathId(1), DatapathId(1)), Some(vec![]));
    }

    #[test]
    fn a_switch_that_cannot_be_asked_is_gone_around_and_through_where_nothing_else_leads() {
        let mut ring = ring();
        assert_eq!(ring.suspend(DatapathId(2)).len(), 2);
        let around = Some(vec![place(1, 2), place(4, 2)]);
        assert_eq!(ring.path(DatapathId(1), DatapathId(3)), around);
        // To itself there is only the old way.
        assert_eq!(ring.path(DatapathId(1), DatapathId(2)), Some(vec![place(1, 1)]));
        ring.lose(|port| port == place(4, 2));
        let through = Some(vec![place(1, 1), place(2, 2)]);
        assert_eq!(ring.path(DatapathId(1), DatapathId(3)), through);
        assert!(ring.is_trunk(place(1, 1)) && ring.links().len() == 1);
        // What is heard of a port counts, whatever was there before.
        ring.hear(Timestamp::START, place(1, 1), place(5, 1));
        assert_eq!(ring.path(DatapathId(1), DatapathId(2)), None);
    }

    #[test]
    fn a_link_that_is_heard_one_way_carries_nothing_and_is_no_place_for_hosts() {
        let mut topology = Topology::default();
        topology.hear(Timestamp::START, place(1, 1), place(2, 1));
        assert_eq!(topology.path(DatapathId(1), DatapathId(2)), None);
        assert!(topology.is_trunk(place(1, 1)) && topology.is_trunk(place(2, 1)));
    }

    #[test]
    fn a_link_that_falls_silent_expires() {
        let mut ring = ring();
        let later = Timestamp::START + Span::from_secs(3);
        for (a, b) in ring.links().into_iter().skip(1) {
            join(&mut ring, later, a, b);
        }
        let version = ring.version();
        assert_eq!(ring.expire(later), [(place(1, 1), place(2, 1))]);
        assert_ne!(ring.version(), version);
        assert_eq!(ring.expire(later), []);
    }
}
