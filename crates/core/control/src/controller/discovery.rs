//! Finding links by frames of discovery, and silent hosts by asking for every address.

use core::net::Ipv4Addr;
use std::collections::{BTreeSet, VecDeque};

use claviger_openflow::{Action, DatapathId, Message, NO_BUFFER, PacketOut, PortNumber};
use claviger_units::{MacAddr, Span, Timestamp};

use super::{Controller, Side, Warning};
use crate::event::Event;
use crate::lldp::Heard;
use crate::topology::Change;
use crate::{Place, packet};

/// A switch whose silent ports are asked for address after address.
#[derive(Debug)]
pub(super) struct Sweep {
    datapath: DatapathId,
    ports: BTreeSet<PortNumber>,
    // The range, and the address in it, that is next.
    next: (usize, u32),
    // Addresses beside those that were found here.
    near: VecDeque<Ipv4Addr>,
    passes_left: u32,
    not_before: Timestamp,
}

impl Controller {
    /// Sends frames of discovery out of every port, and forgets links that carry none.
    pub(super) fn discover(&mut self, now: Timestamp) {
        if self.next_trial <= now {
            // Switches that come up one after the other hear each other's frames only now.
            self.next_trial = now + TRIALS;
            let undecided: Vec<_> = self.decisions().map(|(place, _)| place).collect();
            undecided.into_iter().for_each(|place| self.send_lldp(now, place));
        }
        if self.next_lldp > now {
            return;
        }
        self.next_lldp = now + self.config.times.lldp;
        self.n_rounds += 1;
        let lost = self.topology.expire(now - self.config.times.link);
        self.report_lost(now, &lost);
        let seldom = self.n_rounds.is_multiple_of(HOSTS_ROUND);
        let places: Vec<_> = self.places(|side| match side {
            Side::Nothing | Side::Undecided { .. } => false,
            Side::Trunk => true,
            Side::Hosts => seldom,
        });
        places.into_iter().for_each(|place| self.send_lldp(now, place));
    }

    /// Returns every port with a cable.
    pub(super) fn up_ports(&self) -> Vec<Place> {
        let switches = self.switches.iter().filter(|(_, switch)| switch.connection.is_some());
        let ports = switches.flat_map(|(&datapath, switch)| {
            let up = switch.ports.values().filter(|state| state.port.is_up());
            up.map(move |state| Place::new(datapath, state.port.number))
        });
        ports.collect()
    }

    /// A cable was plugged in.
    pub(super) fn port_up(&mut self, now: Timestamp, place: Place) {
        if self.is_optical(place.datapath) {
            return;
        }
        self.stir(now);
        self.undecide(now, place);
        self.send_lldp(now, place);
    }

    /// A cable was pulled.
    pub(super) fn port_down(&mut self, now: Timestamp, place: Place) {
        if self.is_optical(place.datapath) {
            return self.lose_light(now, place.port);
        }
        self.stir(now);
        self.set_side(place, Side::Nothing);
        self.lose_links(now, |lost| lost == place);
        let there: Vec<_> = self.hosts.at(place).collect();
        there.into_iter().for_each(|mac| self.absent(mac, place));
    }

    /// A switch cannot be asked any more: its links may be there, and may not.
    pub(super) fn suspend_links(&mut self, now: Timestamp, datapath: DatapathId) {
        let lost = self.topology.suspend(datapath);
        self.report_lost(now, &lost);
    }

    /// Forgets links by their ends.
    pub(super) fn lose_links(&mut self, now: Timestamp, lost: impl Fn(Place) -> bool) {
        let lost = self.topology.lose(lost);
        self.report_lost(now, &lost);
    }

    /// Takes a frame of discovery.
    pub(super) fn handle_lldp(&mut self, now: Timestamp, at: Place, frame: &[u8]) {
        let from = match self.config.lldp_key.read(now, frame) {
            Heard::Foreign => return,
            Heard::Forged => return self.warn(Warning::Forged(at), Event::LinkForged { at }),
            Heard::Ours(from) => from,
        };
        // Nobody plugs a switch in where a device is bound; somebody hands on what he has heard.
        let is_taken = |place| self.hosts.at(place).any(|mac| self.admissions.contains_key(&mac));
        // And nobody plugs a switch into itself.
        if from.datapath == at.datapath || is_taken(at) || is_taken(from) {
            return self.warn(Warning::Forged(at), Event::LinkForged { at });
        }
        let change = self.topology.hear(now, from, at);
        if change == Change::Nothing {
            return;
        }
        self.stir(now);
        match change {
            Change::Nothing => {}
            // The other way may be tried before its turn. Until it was, nothing is opened: a frame that
            // somebody hands on in one direction makes no link.
            Change::HalfUp => self.send_lldp(now, at),
            Change::Up => {
                for place in [from, at] {
                    self.become_trunk(place);
                }
                let (a, b) = if from < at { (from, at) } else { (at, from) };
                self.tell(Event::LinkUp(a, b));
            }
        }
    }

    /// Decides what is behind ports that had their time to answer.
    pub(super) fn decide_ports(&mut self, now: Timestamp) {
        let due = self.decisions().filter(|(_, until)| *until <= now).map(|(place, _)| place);
        let due: Vec<_> = due.collect();
        let mut silent: Vec<Place> = Vec::new();
        for place in due {
            let is_linked = self.topology.is_linked(place);
            let side = if is_linked { Side::Trunk } else { Side::Hosts };
            let waiting = match self.set_side(place, side) {
                Some(Side::Undecided { waiting, .. }) if !is_linked => waiting,
                _ => continue,
            };
            for frame in waiting {
                self.handle_frame(now, place, &frame, super::packets::Met::Nothing);
            }
            // Where a link may be about to be heard, nobody asks for hosts.
            if self.hosts.at(place).next().is_none() && !self.topology.is_trunk(place) {
                silent.push(place);
            }
        }
        // What answers is heard only by entries that stand before it is asked.
        self.flush(now);
        self.begin_sweeps(now, &silent);
    }

    /// Asks for the next addresses.
    pub(super) fn continue_sweeps(&mut self, now: Timestamp) {
        if self.sweeps.is_empty() || self.next_sweep > now {
            return;
        }
        self.next_sweep = now + SWEEP_STEP;
        let (mut frames, mut later) = (0, Vec::new());
        while frames < SWEEP_FRAMES
            && let Some(mut sweep) = self.sweeps.pop_front()
        {
            // A switch is asked for more when it has confirmed what it was asked: none is overrun.
            if sweep.not_before > now || self.is_confirming(sweep.datapath) {
                later.push(sweep);
                continue;
            }
            let hosts = &self.hosts;
            // Where somebody has answered, nobody is silent.
            sweep.ports.retain(|&port| hosts.at(Place::new(sweep.datapath, port)).next().is_none());
            for _ in 0..SWEEP_BATCH {
                let Some(address) = self.next_address(&mut sweep) else { break };
                let owner = self.hosts.owner_of(address.into());
                let is_found = owner.and_then(|mac| self.hosts.get(mac)?.place).is_some();
                if is_found || sweep.ports.is_empty() {
                    continue;
                }
                let actions = sweep.ports.iter().map(|&port| Action::output(port)).collect();
                let data = packet::arp_probe(self.config.mac, address);
                let in_port = PortNumber::CONTROLLER;
                let out = PacketOut { buffer: NO_BUFFER, in_port, actions, data };
                self.send(sweep.datapath, Message::PacketOut(out));
                frames += sweep.ports.len();
            }
            self.confirm(now, sweep.datapath);
            if sweep.next.0 >= self.config.sweep.len() && sweep.near.is_empty() {
                // An answer may be lost, or the host was still coming up.
                sweep.next = (0, 0);
                sweep.passes_left -= 1;
                sweep.not_before = now + SWEEP_PAUSE;
            }
            if sweep.passes_left > 0 && !sweep.ports.is_empty() {
                self.sweeps.push_back(sweep);
            }
        }
        self.sweeps.extend(later);
        // Answers to the last questions are still to come.
        self.stir(now);
    }

    /// Forgets unknown hosts that were not heard for long, and counters that were not read.
    pub(super) fn expire(&mut self, now: Timestamp) {
        if self.next_audit > now {
            return;
        }
        self.next_audit = now + self.config.times.audit;
        self.spoofs.retain(|_, until| *until > now);
        self.warned.clear();
        for switch in self.switches.values_mut() {
            switch.n_refusals = 0;
        }
        let since = now - self.config.times.forget;
        let old = self
            .hosts
            .iter()
            .filter(|(_, host)| host.is_present && host.seen.is_some_and(|seen| seen < since));
        let old: Vec<_> = old.filter_map(|(mac, host)| Some((mac, host.place?))).collect();
        old.into_iter().for_each(|(mac, place)| self.absent(mac, place));
        self.read_all_again();
    }

    /// Notes that a host is not there any more: a known one keeps its place, others are forgotten.
    fn absent(&mut self, mac: MacAddr, place: Place) {
        if self.admissions.contains_key(&mac) {
            let Some(host) = self.hosts.get_mut(mac) else { return };
            if std::mem::take(&mut host.is_present) {
                self.tell(Event::HostExpired { mac, place });
            }
        } else {
            self.hosts.remove(mac);
            self.tell(Event::HostExpired { mac, place });
        }
    }

    fn report_lost(&mut self, now: Timestamp, lost: &[(Place, Place)]) {
        for &(a, b) in lost {
            self.stir(now);
            self.tell(Event::LinkDown(a, b));
        }
        // A port that leads nowhere any more may get another neighbour, or hosts.
        for &place in lost.iter().flat_map(|(a, b)| [a, b]) {
            let is_up = self.switches.get(&place.datapath).is_some_and(|switch| {
                switch.connection.is_some()
                    && switch.ports.get(&place.port).is_some_and(|state| state.port.is_up())
            });
            if is_up && !self.topology.is_trunk(place) {
                self.undecide(now, place);
            }
        }
    }

    fn undecide(&mut self, now: Timestamp, place: Place) {
        let until = now + self.config.times.decide;
        self.set_side(place, Side::Undecided { until, waiting: Vec::new() });
    }

    fn become_trunk(&mut self, place: Place) {
        if self.set_side(place, Side::Trunk) == Some(Side::Hosts) {
            // They were heard through the other switch.
            let phantoms: Vec<_> = self.hosts.at(place).collect();
            phantoms.into_iter().for_each(|mac| self.absent(mac, place));
        }
    }

    /// Changes what is behind a port; returns what was, where there is such a port.
    fn set_side(&mut self, place: Place, side: Side) -> Option<Side> {
        let switch = self.switches.get_mut(&place.datapath)?;
        switch.connection?;
        let state = switch.ports.get_mut(&place.port)?;
        self.stale.switches.insert(place.datapath);
        if matches!(side, Side::Undecided { .. }) {
            self.undecided.insert(place);
        } else {
            self.undecided.remove(&place);
        }
        Some(std::mem::replace(&mut state.side, side))
    }

    fn send_lldp(&mut self, now: Timestamp, place: Place) {
        let frame = self.config.lldp_key.frame(now, self.config.mac, place);
        self.send_packet(place, frame);
    }

    /// Returns the ports that are undecided, and until when.
    pub(super) fn decisions(&self) -> impl Iterator<Item = (Place, Timestamp)> + '_ {
        self.undecided.iter().filter_map(|&place| {
            let state = self.switches.get(&place.datapath)?.ports.get(&place.port)?;
            match state.side {
                Side::Undecided { until, .. } => Some((place, until)),
                _ => None,
            }
        })
    }

    fn places(&self, wanted: impl Fn(&Side) -> bool) -> Vec<Place> {
        let switches = self.switches.iter();
        let ports = switches.flat_map(|(&datapath, switch)| {
            switch.ports.iter().map(move |(&port, state)| (Place::new(datapath, port), state))
        });
        ports.filter(|(_, state)| wanted(&state.side)).map(|(place, _)| place).collect()
    }

    fn begin_sweeps(&mut self, now: Timestamp, silent: &[Place]) {
        if self.config.sweep.is_empty() || !self.is_primary() {
            return;
        }
        for place in silent {
            // Ports that were decided together are asked together.
            match self.sweeps.back_mut() {
                Some(sweep)
                    if sweep.datapath == place.datapath
                        && sweep.next == (0, 0)
                        && sweep.passes_left == SWEEP_PASSES =>
                {
                    sweep.ports.insert(place.port);
                }
                _ => self.sweeps.push_back(Sweep {
                    datapath: place.datapath,
                    ports: BTreeSet::from([place.port]),
                    next: (0, 0),
                    near: VecDeque::new(),
                    passes_left: SWEEP_PASSES,
                    not_before: now,
                }),
            }
        }
        if !silent.is_empty() {
            self.next_sweep = now;
            self.continue_sweeps(now);
        }
    }

    /// Asks next for what is beside an address that was found at a switch.
    pub(super) fn look_near(&mut self, datapath: DatapathId, found: Ipv4Addr) {
        let ranges = &self.config.sweep;
        let bits = found.to_bits();
        let beside = (1..=NEAR).flat_map(|n| [bits.wrapping_add(n), bits.wrapping_sub(n)]);
        let beside = beside.map(Ipv4Addr::from_bits);
        let beside: Vec<_> = beside.filter(|&a| ranges.iter().any(|r| r.contains(a))).collect();
        for sweep in self.sweeps.iter_mut().filter(|sweep| sweep.datapath == datapath) {
            if sweep.near.len() < SWEEP_BATCH {
                sweep.near.extend(&beside);
            }
        }
    }

    fn next_address(&self, sweep: &mut Sweep) -> Option<Ipv4Addr> {
        if let Some(near) = sweep.near.pop_front() {
            return Some(near);
        }
        loop {
            let (number, n) = sweep.next;
            let range = self.config.sweep.get(number)?;
            sweep.next = if n < range.size() { (number, n + 1) } else { (number + 1, 0) };
            if let Some(address) = range.nth(n).filter(|_| n < range.size()) {
                return Some(address);
            }
        }
    }
}

/// The pause between two trials of a port of which it is not known what is behind it.
const TRIALS: Span = Span::from_millis(60);
/// Every how many rounds ports with hosts are tried as well.
const HOSTS_ROUND: u64 = 5;
/// The pause between two steps of asking, the copies of questions in a step, and the addresses that one
/// switch is asked for at a time: 100 000 copies a second at most.
const SWEEP_STEP: Span = Span::from_millis(5);
const SWEEP_FRAMES: usize = 500;
const SWEEP_BATCH: usize = 32;
/// How far beside an address that was found others are asked for first.
const NEAR: u32 = 10;
/// How often every address is asked for where nobody answers, and the pause between.
const SWEEP_PASSES: u32 = 3;
const SWEEP_PAUSE: Span = Span::from_millis(150);
