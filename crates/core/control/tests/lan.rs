//! The emulated network under the controller: a card reaches the server exactly where it is admitted.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use claviger_control::{
    Admission, ConnectionId, Controller, ControllerConfig, Event, LldpKey, Mastery, Movement,
    PacketRate, Policy, PolicyId, Reach, Service, Times,
};
use claviger_openflow::{DatapathId, Envelope, Splitter};
use claviger_switch::lan::{Door, Lan, LanConfig, NoPort};
use claviger_switch::{Connection, Switch};
use claviger_units::{MacAddr, Span, Timestamp};

const SERVER: MacAddr = MacAddr::from_bytes([0x02, 0, 0x5E, 0, 0xFF, 1]);
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 67, 0, 1);

/// A network and its controller, with nothing between them but bytes.
struct World {
    now: Timestamp,
    lan: Lan,
    controller: Controller,
    datapaths: BTreeMap<ConnectionId, DatapathId>,
    answers: BTreeMap<u64, bool>,
    events: Vec<Event>,
}

fn admission(mac: MacAddr, policy: u16) -> Admission {
    let (policy, addresses) = (PolicyId(policy), Vec::new());
    Admission { mac, policy, place: None, addresses, movement: Movement::AfterUnplugging }
}

fn mac(n: u8) -> MacAddr {
    MacAddr::from_bytes([0x02, 0, 0x5E, 0x10, 0, n])
}

impl World {
    fn new(n_edges: u32, ports: u32) -> Self {
        let now = Timestamp::from_micros(1_000_000_000);
        let reaches = vec![Reach::Service { host: SERVER, service: Service::Tcp(8883) }];
        let policy = |name: &str, reaches| Policy { name: name.to_owned(), reaches, limit: None };
        let config = ControllerConfig {
            mac: MacAddr::from_bytes([0x02, 0xC1, 0xA7, 0, 0, 1]),
            lldp_key: LldpKey::from_bytes([9; 32]),
            policies: vec![policy("sensor", reaches), policy("server", Vec::new())],
            sweep: Vec::new(),
            optics: None,
            dhcp_server: None,
            unknown: PacketRate { per_second: 100, burst: 50 },
            times: Times::STANDARD,
        };
        let mut controller = Controller::new(now, config, Mastery::Primary { generation: 1 });
        let server = Admission { addresses: vec![SERVER_IP.into()], ..admission(SERVER, 2) };
        controller.admit(now, [server]).unwrap();
        let lan = Lan::new(now, &LanConfig { n_edges, ports, server: (SERVER, SERVER_IP) });
        let datapaths: Vec<_> = lan.fabric().switches().map(Switch::datapath).collect();
        let datapaths = (1..).map(ConnectionId).zip(datapaths).collect();
        let (answers, events) = (BTreeMap::new(), Vec::new());
        let mut world = Self { now, lan, controller, datapaths, answers, events };
        for (id, datapath) in world.datapaths.clone() {
            world.controller.handle_connected(now, id);
            world.lan.handle_connected(now, datapath, Connection(id.0));
        }
        world.drain();
        world
    }

    fn drain(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some((_, Connection(id), envelope)) = self.lan.poll_transmit() {
                let envelope = Envelope::decode(&envelope.encode()).unwrap();
                self.controller.handle_message(self.now, ConnectionId(id), Ok(envelope));
                is_quiet = false;
            }
            while let Some((id, bytes)) = self.controller.poll_transmit() {
                let mut splitter = Splitter::new();
                splitter.push(&bytes);
                while let Some(frame) = splitter.next_frame().unwrap() {
                    let envelope = Envelope::decode(&frame).unwrap();
                    let datapath = self.datapaths[&id];
                    self.lan.handle_message(self.now, datapath, Connection(id.0), envelope);
                }
                is_quiet = false;
            }
            if is_quiet {
                break;
            }
        }
        self.answers.extend(std::iter::from_fn(|| self.lan.poll_answer()));
        self.events.extend(std::iter::from_fn(|| self.controller.poll_event()));
    }

    fn run_for(&mut self, span: Span) {
        let end = self.now + span;
        loop {
            let due = [self.lan.poll_timeout(), self.controller.poll_timeout()];
            let Some(at) = due.into_iter().flatten().min().filter(|&at| at <= end) else { break };
            self.now = at.max(self.now);
            self.lan.handle_timeout(self.now);
            self.controller.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn knock(&mut self, id: u64, mac: MacAddr, port: u16) -> bool {
        self.lan.knock(self.now, id, mac, Door::Tcp(port));
        self.drain();
        self.run_for(Span::from_secs(3));
        self.answers[&id]
    }

    fn attach(&mut self, n: u8) -> Result<(), NoPort> {
        let attached = self.lan.attach(self.now, mac(n));
        self.drain();
        attached
    }
}

#[test]
fn a_card_reaches_the_server_exactly_where_it_is_admitted() {
    let mut world = World::new(3, 2);
    for n in 1..=5 {
        world.attach(n).unwrap();
    }
    world.run_for(Span::from_secs(5));
    let appeared = |event: &&Event| matches!(event, Event::HostAppeared { .. });
    assert_eq!(world.events.iter().filter(appeared).count(), 5, "not the server: it is admitted");
    assert_eq!(world.controller.links().len(), 6);
    assert!(!world.knock(1, mac(1), 8883), "nobody has admitted it");
    world.controller.admit(world.now, (1..=5).map(|n| admission(mac(n), 1))).unwrap();
    world.drain();
    for n in 1..=5 {
        assert!(world.knock(u64::from(n) + 10, mac(n), 8883));
        assert!(!world.knock(u64::from(n) + 20, mac(n), 22), "its policy does not name that");
    }
    world.controller.dismiss(world.now, [mac(2)]);
    world.drain();
    assert!(!world.knock(30, mac(2), 8883));
    assert!(world.knock(31, mac(3), 8883));
    assert!(!world.knock(32, mac(77), 8883), "no such card");
}

#[test]
fn a_cut_uplink_costs_nobody_its_server() {
    let mut world = World::new(2, 2);
    for n in 1..=4 {
        world.attach(n).unwrap();
    }
    assert_eq!(world.attach(5), Err(NoPort(4)));
    assert_eq!(world.attach(4), Ok(()), "it has its port");
    world.run_for(Span::from_secs(5));
    world.controller.admit(world.now, (1..=4).map(|n| admission(mac(n), 1))).unwrap();
    world.drain();
    let (edge, spine) = (DatapathId(0x101), DatapathId(1));
    let socket = |datapath, n| (datapath, claviger_openflow::PortNumber(n));
    world.lan.fabric_mut().cut(socket(edge, 3), socket(spine, 1));
    world.run_for(Span::from_secs(1));
    for n in 1..=4 {
        assert!(world.knock(u64::from(n), mac(n), 8883), "{n}");
    }
}
