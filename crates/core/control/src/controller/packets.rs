//! Packets that switches hand up: hosts are found by them, and asked and answered for.

use core::net::{IpAddr, Ipv4Addr};

use claviger_openflow::{DatapathId, FlowRemoved, PacketIn};
use claviger_units::{MacAddr, Span, Timestamp};

use super::{Controller, Side, Warning};
use crate::Place;
use crate::event::Event;
use crate::hosts::Claim;
use crate::packet::{self, Arp, Packet, Says};
use crate::policy::{Movement, Reach};
use crate::tables::{Owner, host_of};

/// What a packet had met in its switch before it was handed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// Nothing that admits it.
    Nothing,
    /// Its admission.
    Admission,
}

impl Controller {
    pub(super) fn handle_packet(&mut self, now: Timestamp, datapath: DatapathId, packet: PacketIn) {
        let Some(port) = packet.in_port().filter(|port| port.is_physical()) else { return };
        let met = if packet.table == 0 { Met::Nothing } else { Met::Admission };
        self.handle_frame(now, Place::new(datapath, port), &packet.data, met);
    }

    pub(super) fn handle_frame(&mut self, now: Timestamp, at: Place, frame: &[u8], met: Met) {
        let Some(packet) = packet::read(frame) else { return };
        if packet.says == Says::Lldp {
            return self.handle_lldp(now, at, frame);
        }
        let Some(switch) = self.switches.get_mut(&at.datapath) else { return };
        match switch.ports.get_mut(&at.port).map(|state| &mut state.side) {
            Some(Side::Hosts) => {}
            Some(Side::Undecided { waiting, .. }) => {
                if waiting.len() < WAITING {
                    waiting.push(frame.to_vec());
                }
                return;
            }
            // What comes through another switch was judged there.
            Some(Side::Trunk | Side::Nothing) | None => return,
        }
        if packet.source == self.config.mac || self.is_switch(packet.source) {
            return;
        }
        if self.admissions.contains_key(&packet.source) {
            self.handle_admitted(now, at, packet, frame, met);
        } else {
            self.handle_unknown(now, at, packet);
        }
    }

    /// Notes that entries of a switch are gone by themselves.
    pub(super) fn note_removed(
        &mut self,
        _: Timestamp,
        datapath: DatapathId,
        removed: &FlowRemoved,
    ) {
        let Some(mac) = host_of(removed.cookie) else { return };
        self.spoofs.retain(|&(of, at), _| of != mac || at.datapath != datapath);
        if removed.packets > 0 {
            self.tell(Event::SpoofDropped { mac, datapath, packets: removed.packets });
        }
    }

    /// Notes how many packets of an admitted host its switch has counted.
    pub(super) fn note_counted(&mut self, now: Timestamp, mac: MacAddr, packets: u64) {
        let Some(host) = self.hosts.get_mut(mac) else { return };
        if packets > host.counted {
            host.seen = Some(now);
            host.is_present = true;
        }
        host.counted = packets;
    }

    fn handle_unknown(&mut self, now: Timestamp, at: Place, packet: Packet) {
        let mac = packet.source;
        let known = self.hosts.get(mac).and_then(|host| host.place);
        if known.is_none() {
            if self.hosts.at(at).count() >= CROWD {
                return self.warn(Warning::Crowded(at), Event::Crowded { place: at });
            }
            self.stir(now);
            self.hosts.put(mac, Some(at));
            self.tell(Event::HostAppeared { mac, place: at });
        } else if let Some(from) = known.filter(|&from| from != at) {
            // One card at two ports does not move with every packet.
            let last = self.hosts.get(mac).and_then(|host| host.moved);
            if last.is_some_and(|last| now.since(last) < MOVES) {
                return;
            }
            self.hosts.put(mac, Some(at));
            self.tell(Event::HostMoved { mac, from, to: at });
            if let Some(host) = self.hosts.get_mut(mac) {
                host.moved = Some(now);
            }
        }
        self.see(now, mac);
        self.learn(mac, packet.says);
    }

    fn handle_admitted(
        &mut self,
        now: Timestamp,
        at: Place,
        packet: Packet,
        frame: &[u8],
        met: Met,
    ) {
        let mac = packet.source;
        match self.hosts.get(mac).and_then(|host| host.place) {
            None => self.bind(now, mac, at),
            Some(bound) if bound == at => {
                if met == Met::Nothing {
                    // The switch does not have what it was told, or is about to.
                    self.tables.miss(Owner::Host(mac), at.datapath);
                }
            }
            Some(bound) if self.may_move(mac, bound) => {
                self.tell(Event::HostMoved { mac, from: bound, to: at });
                self.bind(now, mac, at);
            }
            Some(bound) => return self.handle_spoof(now, mac, bound, at),
        }
        self.see(now, mac);
        self.learn(mac, packet.says);
        self.answer(at, mac, packet.says, frame);
    }

    fn handle_spoof(&mut self, now: Timestamp, mac: MacAddr, bound: Place, seen: Place) {
        let is_known = self.spoofs.get(&(mac, seen)).is_some_and(|&until| until > now);
        if !is_known {
            self.spoofs.insert((mac, seen), now + self.config.times.spoof);
            self.drop_for_a_while(mac, seen);
            self.tell(Event::Spoofed { mac, bound, seen });
        }
    }

    /// Tells whether a host may leave its port for another one.
    fn may_move(&self, mac: MacAddr, bound: Place) -> bool {
        let is_free =
            self.admissions.get(&mac).is_some_and(|a| a.movement == Movement::AfterUnplugging);
        // A port of a switch that is out of reach may well be plugged in.
        let unplugged = self.switches.get(&bound.datapath).is_some_and(|switch| {
            switch.connection.is_some()
                && switch.ports.get(&bound.port).is_none_or(|state| !state.port.is_up())
        });
        is_free && unplugged
    }

    fn see(&mut self, now: Timestamp, mac: MacAddr) {
        if let Some(host) = self.hosts.get_mut(mac) {
            host.seen = Some(now);
            host.is_present = true;
        }
    }

    fn learn(&mut self, mac: MacAddr, says: Says) {
        let address = match says {
            Says::Arp { sender, .. } => IpAddr::from(sender),
            Says::Solicits { sender, .. } => sender.into(),
            Says::Advertises { target } => target.into(),
            Says::From(address) => address,
            Says::DhcpServer { .. } | Says::DhcpClient | Says::Lldp | Says::Nothing => return,
        };
        self.claim(mac, address);
    }

    pub(super) fn claim(&mut self, mac: MacAddr, address: IpAddr) {
        let is_of_one = match address {
            IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_multicast(),
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
        };
        if !is_of_one {
            return;
        }
        match self.hosts.claim(mac, address) {
            Claim::Known => {}
            Claim::New => {
                self.tell(Event::AddressLearned { mac, address });
                let place = self.hosts.get(mac).and_then(|host| host.place);
                if let (Some(place), IpAddr::V4(found)) = (place, address) {
                    self.look_near(place.datapath, found);
                }
            }
            Claim::Taken(owner) => {
                // A card that nobody knows gives way, and whoever is gone.
                let gives_way = !self.admissions.contains_key(&owner)
                    && (self.admissions.contains_key(&mac)
                        || self.hosts.get(owner).is_none_or(|host| !host.is_present));
                if gives_way {
                    self.hosts.remove(owner);
                    self.hosts.claim(mac, address);
                    self.tell(Event::AddressLearned { mac, address });
                } else {
                    let event = Event::AddressTaken { address, owner, claimant: mac };
                    self.warn(Warning::Taken(address, mac), event);
                }
            }
        }
    }

    /// Answers for others, so that no question is flooded.
    fn answer(&mut self, at: Place, mac: MacAddr, says: Says, frame: &[u8]) {
        match says {
            Says::Arp { operation: Arp::Request, sender, target } if sender != target => {
                if let Some(owner) = self.may_ask(mac, target.into()) {
                    self.send_packet(at, packet::arp_reply((owner, target), (mac, sender)));
                }
            }
            Says::Solicits { sender, target } if !sender.is_unspecified() => {
                if let Some(owner) = self.may_ask(mac, target.into()) {
                    self.send_packet(at, packet::advertisement((owner, target), (mac, sender)));
                }
            }
            Says::DhcpClient => {
                let server = self.config.dhcp_server.filter(|&server| server != mac);
                let place = server.and_then(|server| self.hosts.get(server)?.place);
                if let Some(place) = place {
                    self.send_packet(place, frame.to_vec());
                }
            }
            Says::DhcpServer { client, leased } if self.config.dhcp_server == Some(mac) => {
                let place = self.hosts.get(client).and_then(|host| host.place);
                if let Some(place) = place.filter(|_| self.admissions.contains_key(&client)) {
                    self.send_packet(place, frame.to_vec());
                    leased.into_iter().for_each(|address: Ipv4Addr| {
                        self.claim(client, address.into());
                    });
                }
            }
            Says::DhcpServer { .. } => {
                self.warn(Warning::Dhcp(mac), Event::RogueDhcp { mac, place: at });
            }
            _ => {}
        }
    }

    /// Returns whose address it is, if the asker may know.
    fn may_ask(&self, mac: MacAddr, address: IpAddr) -> Option<MacAddr> {
        let owner = self.hosts.owner_of(address).filter(|&owner| owner != mac)?;
        (self.reaches(mac, owner) || self.reaches(owner, mac)).then_some(owner)
    }

    /// Tells whether a host may reach another one, by whatever service.
    pub(super) fn reaches(&self, from: MacAddr, to: MacAddr) -> bool {
        let policy = |mac| self.admissions.get(&mac).map(|admission| admission.policy);
        let (Some(mine), Some(theirs)) = (policy(from), policy(to)) else { return false };
        let reaches = self.policy(mine).into_iter().flat_map(|policy| &policy.reaches);
        reaches.into_iter().any(|reach| match *reach {
            Reach::Service { host, .. } => host == to,
            Reach::Peers => mine == theirs,
        })
    }

    /// Tells whether an address is that of a port of ours. A host that is let in is none, whatever a
    /// switch says of its ports.
    fn is_switch(&self, mac: MacAddr) -> bool {
        self.port_macs.contains(mac.as_bytes()) && !self.admissions.contains_key(&mac)
    }
}

/// Packets that wait at a port until it is decided what is behind it.
const WAITING: usize = 16;
/// The least time between two moves of an unknown card.
const MOVES: Span = Span::from_secs(5);
/// Unknown cards at one port that are kept apart.
const CROWD: usize = 64;
