//! From what is wanted to what stands in the tables.

use std::collections::BTreeSet;

use claviger_openflow::{Action, DatapathId, Field, Instruction, Match, PortNumber};
use claviger_units::{MacAddr, Span, Timestamp};

use super::{Controller, Side};
use crate::policy::{PacketRate, PolicyId, Reach, Service};
use crate::tables::{Entry, EntryKey, Owner};
use crate::{Place, lldp};

/// Who may send here at all.
const ADMISSION: u8 = 0;
/// What it may reach.
const PERMISSION: u8 = 1;
/// Where that is.
const FORWARDING: u8 = 2;
/// Where the hosts of the same policy are.
const PEERS: u8 = 3;

/// Priorities in table 0, from the first that counts to the last.
const DISCOVERY: u16 = 1000;
const TRUNK: u16 = 900;
pub(super) const DROPPED: u16 = 600;
const HOST: u16 = 500;
const UNKNOWN: u16 = 10;
/// Priorities in the tables behind.
const QUESTION: u16 = 300;
const ALLOWED: u16 = 200;
const TOWARD: u16 = 100;

const IPV4: u128 = 0x0800;
const ARP: u128 = 0x0806;
const IPV6: u128 = 0x86DD;
const ICMP: u128 = 1;
const TCP: u128 = 6;
const UDP: u128 = 17;
const ICMPV6: u128 = 58;

/// Microseconds for each host between two times that everything is worked out: several times what that
/// takes.
const WHOLE_PER_HOST_US: u64 = 30;

impl Controller {
    /// Works out anew what may have changed.
    pub(super) fn compile(&mut self, now: Timestamp) {
        if self.stale.topology != self.topology.version() {
            self.stale.topology = self.topology.version();
            self.stale.all = true;
        }
        let mut stale = std::mem::take(&mut self.stale);
        self.stale.topology = stale.topology;
        if stale.all && now < self.next_whole {
            // Many links that change one after the other must not cost all hosts each.
            self.stale.all = true;
        } else if stale.all {
            let n_hosts = self.admissions.len() as u64;
            self.next_whole = now + Span::from_micros(WHOLE_PER_HOST_US * n_hosts);
            stale.hosts.extend(self.admissions.keys());
            stale.policies.extend(self.populations.keys());
        }
        for datapath in stale.switches {
            self.compile_switch(datapath);
        }
        for (datapath, policy) in stale.policies {
            let is_there = self.populations.contains_key(&(datapath, policy));
            let entries = if is_there { self.permissions(datapath, policy) } else { Vec::new() };
            self.tables.want(Owner::Policy(datapath, policy), entries);
        }
        for mac in stale.hosts {
            let entries = self.host_entries(mac).unwrap_or_default();
            self.tables.want(Owner::Host(mac), entries);
        }
    }

    pub(super) fn has_peers(&self, policy: PolicyId) -> bool {
        self.policy(policy).is_some_and(|policy| policy.reaches.contains(&Reach::Peers))
    }

    /// What a switch needs whatever hosts there are: what is behind each port, and questions to the
    /// controller.
    fn compile_switch(&mut self, datapath: DatapathId) {
        if self.is_optical(datapath) {
            let entries = self.cross_connections(datapath);
            return self.tables.want(Owner::Switch(datapath), entries);
        }
        let Some(switch) = self.switches.get(&datapath).filter(|s| s.connection.is_some()) else {
            return;
        };
        let (mut entries, mut meters) = (Vec::new(), Vec::new());
        for (&port, state) in &switch.ports {
            let shared = self.shared_rate(Place::new(datapath, port));
            meters.push((admitted_meter(port), shared));
            if state.side == Side::Nothing {
                meters.push((unknown_meter(port), None));
                continue;
            }
            meters.push((unknown_meter(port), Some(self.config.unknown)));
            let from = || Match::new().with(Field::InPort, port.0.into());
            let up =
                || vec![Instruction::Meter(unknown_meter(port)), apply(Action::to_controller())];
            let lldp = from().with(Field::EthType, lldp::ETHER_TYPE.into());
            entries.push(entry(datapath, ADMISSION, DISCOVERY, lldp, up()));
            match state.side {
                Side::Trunk => {
                    let on = vec![Instruction::GotoTable(FORWARDING)];
                    entries.push(entry(datapath, ADMISSION, TRUNK, from(), on));
                }
                // What comes before it is decided what is behind a port waits for that.
                Side::Hosts | Side::Undecided { .. } => {
                    entries.push(entry(datapath, ADMISSION, UNKNOWN, from(), up()));
                }
                Side::Nothing => {}
            }
        }
        meters.push((QUESTIONS, Some(QUESTION_RATE)));
        entries.extend(self.questions().map(|matching| {
            let up = vec![Instruction::Meter(QUESTIONS), apply(Action::to_controller())];
            entry(datapath, PERMISSION, QUESTION, matching, up)
        }));
        for (meter, rate) in meters {
            self.tables.want_meter(datapath, meter, rate);
        }
        self.tables.want(Owner::Switch(datapath), entries);
    }

    /// What admitted hosts ask that the controller answers.
    fn questions(&self) -> impl Iterator<Item = Match> {
        let ip =
            |kind, protocol| Match::new().with(Field::EthType, kind).with(Field::IpProto, protocol);
        let neighbours = [135, 136].map(|kind| ip(IPV6, ICMPV6).with(Field::Icmpv6Type, kind));
        let dhcp = [ip(IPV4, UDP).with(Field::UdpDst, 67), ip(IPV4, UDP).with(Field::UdpSrc, 67)];
        let dhcp = dhcp.into_iter().filter(move |_| self.config.dhcp_server.is_some());
        [Match::new().with(Field::EthType, ARP)].into_iter().chain(neighbours).chain(dhcp)
    }

    /// Returns how fast the hosts at a port may send together.
    fn shared_rate(&self, place: Place) -> Option<PacketRate> {
        let mut sum = PacketRate { per_second: 0, burst: 0 };
        for mac in self.hosts.at(place) {
            let Some(limit) = self.limit(mac) else { continue };
            sum.per_second = sum.per_second.saturating_add(limit.per_second);
            sum.burst = sum.burst.saturating_add(limit.burst);
        }
        (sum.per_second > 0).then_some(sum)
    }

    fn limit(&self, mac: MacAddr) -> Option<PacketRate> {
        self.policy(self.admissions.get(&mac)?.policy)?.limit
    }

    /// What hosts of a policy may reach from a switch.
    fn permissions(&self, datapath: DatapathId, id: PolicyId) -> Vec<Entry> {
        let Some(policy) = self.policy(id) else { return Vec::new() };
        let mine = || Match::new().with(Field::Metadata, id.0.into());
        let reaches = policy.reaches.iter().flat_map(|reach| match *reach {
            Reach::Service { host, service } => {
                let to = mine().with_mac(Field::EthDst, *host.as_bytes());
                let matches = self.by_address(host, to, [Field::Ipv4Dst, Field::Ipv6Dst]);
                let spoken = matches.into_iter().map(move |(ip, matching)| {
                    spoken(matching, ip, service, [Field::TcpDst, Field::UdpDst])
                });
                spoken.map(|matching| (matching, FORWARDING)).collect()
            }
            Reach::Peers => vec![(mine(), PEERS)],
        });
        let unique: BTreeSet<_> = reaches.collect();
        let entries = unique.into_iter().map(|(matching, next)| {
            // What a policy names goes before what is between peers.
            let priority = if next == PEERS { ALLOWED - 1 } else { ALLOWED };
            entry(datapath, PERMISSION, priority, matching, vec![Instruction::GotoTable(next)])
        });
        entries.collect()
    }

    /// What stands anywhere for one host; `None` while it is nowhere.
    fn host_entries(&mut self, mac: MacAddr) -> Option<Vec<Entry>> {
        let admission = self.admissions.get(&mac)?;
        let at = self.hosts.get(mac)?.place?;
        let policy = admission.policy;
        let from = Match::new().with(Field::InPort, at.port.0.into());
        let from = from.with_mac(Field::EthSrc, *mac.as_bytes());
        let meter = self.limit(mac).map(|_| Instruction::Meter(admitted_meter(at.port)));
        let mark = Instruction::WriteMetadata { value: policy.0.into(), mask: 0xFFFF };
        let on = meter.into_iter().chain([mark, Instruction::GotoTable(PERMISSION)]).collect();
        let mut entries = vec![entry(at.datapath, ADMISSION, HOST, from, on)];
        entries.extend(self.answers_of(mac, at.datapath));

        let mut ways: BTreeSet<Place> = BTreeSet::from([at]);
        for from in self.sources(mac, policy) {
            ways.extend(self.topology.path(from, at.datapath).unwrap_or_default());
        }
        let to = || Match::new().with_mac(Field::EthDst, *mac.as_bytes());
        for &Place { datapath, port } in &ways {
            let out = vec![apply(Action::output(port))];
            entries.push(entry(datapath, FORWARDING, TOWARD, to(), out));
        }
        if self.has_peers(policy) {
            for Place { datapath, port } in ways {
                if self.populations.contains_key(&(datapath, policy)) {
                    let matching = to().with(Field::Metadata, policy.0.into());
                    let out = vec![apply(Action::output(port))];
                    entries.push(entry(datapath, PEERS, TOWARD, matching, out));
                }
            }
        }
        Some(entries)
    }

    /// The switches from which packets come to a host.
    fn sources(&self, mac: MacAddr, policy: PolicyId) -> BTreeSet<DatapathId> {
        let mut sources = BTreeSet::new();
        if self.servers.contains(&mac) {
            // Whoever may use one of its services, wherever that is.
            let users = self.populations.keys().filter(|&&(_, policy)| self.serves(mac, policy));
            sources.extend(users.map(|&(datapath, _)| datapath));
        }
        let reaches = self.policy(policy).into_iter().flat_map(|policy| &policy.reaches);
        for reach in reaches {
            match *reach {
                Reach::Service { host, .. } => {
                    let place = self.hosts.get(host).and_then(|host| host.place);
                    sources.extend(place.map(|place| place.datapath));
                }
                Reach::Peers => {
                    let peers = self.populations.keys().filter(|&&(_, of)| of == policy);
                    sources.extend(peers.map(|&(datapath, _)| datapath));
                }
            }
        }
        sources
    }

    /// The answers of a host's services on their way back.
    fn answers_of(&self, mac: MacAddr, datapath: DatapathId) -> Vec<Entry> {
        let reaches = self.config.policies.iter().flat_map(|policy| &policy.reaches);
        let services: BTreeSet<Service> = reaches
            .filter_map(|reach| match *reach {
                Reach::Service { host, service } if host == mac => Some(service),
                _ => None,
            })
            .collect();
        let from = Match::new().with_mac(Field::EthSrc, *mac.as_bytes());
        let matches = self.by_address(mac, from, [Field::Ipv4Src, Field::Ipv6Src]);
        let answers = matches.into_iter().flat_map(|(ip, matching)| {
            services.iter().map(move |&service| {
                let ports = [Field::TcpSrc, Field::UdpSrc];
                let matching = spoken(matching.clone(), ip, service, ports);
                let on = vec![Instruction::GotoTable(FORWARDING)];
                entry(datapath, PERMISSION, ALLOWED, matching, on)
            })
        });
        answers.collect()
    }

    pub(super) fn serves(&self, mac: MacAddr, policy: PolicyId) -> bool {
        let reaches = self.policy(policy).into_iter().flat_map(|policy| &policy.reaches);
        reaches.into_iter().any(|r| matches!(r, Reach::Service { host, .. } if *host == mac))
    }

    /// Narrows a match to the addresses that a server was declared with; without any it stays open.
    fn by_address(
        &self,
        server: MacAddr,
        matching: Match,
        [v4, v6]: [Field; 2],
    ) -> Vec<(u128, Match)> {
        let declared = self.admissions.get(&server).map(|a| &a.addresses[..]).unwrap_or_default();
        if declared.is_empty() {
            return [IPV4, IPV6].map(|ip| (ip, matching.clone())).to_vec();
        }
        let narrowed = declared.iter().map(|address| match address {
            core::net::IpAddr::V4(ip) => (IPV4, matching.clone().with(v4, ip.to_bits().into())),
            core::net::IpAddr::V6(ip) => (IPV6, matching.clone().with(v6, ip.to_bits())),
        });
        narrowed.collect()
    }
}

/// The meter of what admitted hosts of a switch ask the controller, whatever their policies allow.
const QUESTIONS: u32 = 1;
const QUESTION_RATE: PacketRate = PacketRate { per_second: 2_000, burst: 2_000 };

/// The meter of what unknown cards send by a port.
fn unknown_meter(port: PortNumber) -> u32 {
    2 * (port.0 & 0x3FFF_FFFF)
}

/// The meter of what admitted hosts send by a port.
fn admitted_meter(port: PortNumber) -> u32 {
    unknown_meter(port) + 1
}

fn spoken(matching: Match, ip: u128, service: Service, [tcp, udp]: [Field; 2]) -> Match {
    let matching = matching.with(Field::EthType, ip);
    match service {
        Service::Tcp(port) => matching.with(Field::IpProto, TCP).with(tcp, port.into()),
        Service::Udp(port) => matching.with(Field::IpProto, UDP).with(udp, port.into()),
        Service::Icmp if ip == IPV6 => matching.with(Field::IpProto, ICMPV6),
        Service::Icmp => matching.with(Field::IpProto, ICMP),
    }
}

fn apply(action: Action) -> Instruction {
    Instruction::ApplyActions(vec![action])
}

const fn entry(
    datapath: DatapathId,
    table: u8,
    priority: u16,
    matching: Match,
    instructions: Vec<Instruction>,
) -> Entry {
    Entry { datapath, key: EntryKey { table, priority, matching }, instructions }
}
