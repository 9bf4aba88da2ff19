//! Whole networks in virtual time: what is found, who reaches what, and what an attacker cannot do.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod liars;
mod optics;
mod world;

use claviger_control::{
    Admission, ConnectionId, Event, Farewell, Mastery, Movement, PacketRate, Policy, Reach,
    Service, Standing,
};
use claviger_openflow::{DatapathId, Envelope, Features, Field, FlowMod, Hello, Match, Message};
use claviger_switch::{Connection, LinkState};
use claviger_units::{MacAddr, Span};

use self::world::{World, admission, config, ip, mac, place, port_of, syn};

const MQTT: u16 = 8883;
const KEYS: u16 = 8443;

/// Sensors reach the broker and the key service of host 1; servers reach nothing by themselves.
fn policies() -> Vec<Policy> {
    let service = |port| Reach::Service { host: mac(1), service: Service::Tcp(port) };
    let limit = Some(PacketRate { per_second: 1000, burst: 1000 });
    vec![
        Policy { name: "sensor".into(), reaches: vec![service(MQTT), service(KEYS)], limit },
        Policy { name: "server".into(), reaches: Vec::new(), limit: None },
        Policy { name: "open".into(), reaches: vec![Reach::Peers], limit: None },
        Policy { name: "quarantine".into(), reaches: Vec::new(), limit },
    ]
}

const SENSOR: u16 = 1;
const SERVER: u16 = 2;
const OPEN: u16 = 3;
const QUARANTINE: u16 = 4;

fn server() -> Admission {
    Admission { addresses: vec![world::address(1)], ..admission(1, SERVER) }
}

/// Three switches in a row: the server at the first, sensors 2 and 3 at the last, 4 in the middle.
fn row() -> World {
    let mut world = World::new(config(policies()));
    for datapath in 1..=3 {
        world.add_switch(datapath, 5);
    }
    world.join(place(1, 5), place(2, 4));
    world.join(place(2, 5), place(3, 4));
    world.add_host(1, place(1, 1));
    world.add_host(2, place(3, 1));
    world.add_host(3, place(3, 2));
    world.add_host(4, place(2, 1));
    world.connect_all();
    world
}

/// The same with all of them admitted and heard.
fn admitted_row() -> World {
    let mut world = row();
    let sensors = (2..=4).map(|n| admission(n, SENSOR));
    world.admit(sensors.chain([server()]));
    world.run_until_settled();
    for n in 1..=4 {
        world.announce(mac(n));
    }
    world.run_until_settled();
    world.check_tables();
    world
}

#[test]
fn a_row_of_switches_and_their_links_are_found() {
    let mut world = row();
    let took = world.run_until_settled();
    assert!(took < Span::from_secs(1), "{took}");
    assert_eq!(world.controller.links(), [(place(1, 5), place(2, 4)), (place(2, 5), place(3, 4))]);
    world.check_tables();
}

#[test]
fn silent_hosts_are_found_and_no_phantoms() {
    let mut config = config(policies());
    config.sweep = vec!["10.0.0.0/24".parse().unwrap()];
    let mut world = World::new(config);
    let n_hosts = world.tree(2, 8);
    world.connect_all();
    let took = world.run_until_settled();
    assert!(took < Span::from_secs(2), "{took}");
    let (views, links) = (world.controller.hosts(None, usize::MAX), world.controller.links());
    assert_eq!((n_hosts, views.len(), links.len()), (64, 64, 8));
    for (n, view) in (1..).zip(views) {
        assert_eq!((view.mac, view.place), (mac(n), Some(world.hosts[&mac(n)].at)));
        assert_eq!(view.addresses, [world::address(n)]);
        assert_eq!(view.standing, Standing::Unknown);
    }
}

#[test]
fn an_unknown_card_reaches_nothing_and_is_heard_slowly() {
    let mut world = admitted_row();
    let stranger = world.add_host(9, place(3, 3));
    world.run_until_settled();
    let before = world.events.len();
    assert!(!world.reaches(stranger, mac(1), MQTT));
    assert!(!world.delivers(stranger, mac(1), mac(1), MQTT));
    assert!(!world.delivers(stranger, mac(2), mac(2), MQTT));
    let appeared = Event::HostAppeared { mac: stranger, place: place(3, 3) };
    assert_eq!(world.events[before..].iter().filter(|(_, e)| *e == appeared).count(), 1);
    // A flood of it costs its port's meter, and nobody else anything.
    for n in 0..2000_u16 {
        let [high, low] = n.to_be_bytes();
        let made_up = MacAddr::from_bytes([2, 9, 9, 9, high, low]);
        world.send_at(place(3, 3), syn((made_up, ip(9)), (mac(1), ip(1)), (1, MQTT)));
        world.run_for(Span::from_micros(500));
    }
    assert!(world.told(|e| matches!(e, Event::HostAppeared { .. })) <= 64);
    assert_eq!(world.told(|e| matches!(e, Event::Crowded { .. })), 1);
    assert!(world.reaches(mac(2), mac(1), MQTT));
}

#[test]
fn a_sensor_reaches_its_broker_and_its_key_service_and_nothing_else() {
    let mut world = admitted_row();
    for sensor in 2..=4 {
        assert!(world.reaches(mac(sensor), mac(1), MQTT));
        assert!(world.reaches(mac(sensor), mac(1), KEYS));
        assert!(!world.reaches(mac(sensor), mac(1), 22));
        for other in (2..=4).filter(|&other| other != sensor) {
            assert!(!world.reaches(mac(sensor), mac(other), MQTT), "{sensor} to {other}");
            assert!(!world.delivers(mac(sensor), mac(other), mac(other), MQTT));
            // Under the server's address, to another card.
            assert!(!world.delivers(mac(sensor), mac(other), mac(1), MQTT));
        }
        // Answers come back, what the server begins does not.
        let (server, own) = ((mac(1), ip(1)), (mac(sensor), ip(sensor)));
        assert!(world.delivers_frame(mac(1), mac(sensor), syn(server, own, (MQTT, 40_000))));
        assert!(!world.delivers_frame(mac(1), mac(sensor), syn(server, own, (22, 40_000))));
    }
    assert!(world.hosts[&mac(3)].received.iter().all(|frame| port_of(frame) != Some(22)));
}

#[test]
fn a_sensor_costs_two_entries_at_its_switch_and_one_on_the_way() {
    let world = admitted_row();
    let entries = world.controller.entries_for(mac(2));
    assert_eq!(entries, [(DatapathId(1), 1), (DatapathId(2), 1), (DatapathId(3), 2)]);
}

#[test]
fn a_spoofed_card_is_dropped_counted_and_reported_with_both_ports() {
    let mut world = admitted_row();
    let attacker = place(3, 3);
    world.set_link(attacker, LinkState::Up);
    world.run_until_settled();
    for _ in 0..20 {
        world.send_at(attacker, syn((mac(4), ip(4)), (mac(1), ip(1)), (1, MQTT)));
        world.run_for(Span::from_millis(10));
    }
    assert!(world.hosts[&mac(1)].received.iter().all(|frame| port_of(frame) != Some(MQTT)));
    let spoof = Event::Spoofed { mac: mac(4), bound: place(2, 1), seen: attacker };
    assert_eq!(world.told(|event| *event == spoof), 1);
    world.run_for(Span::from_secs(61));
    let dropped = Event::SpoofDropped { mac: mac(4), datapath: DatapathId(3), packets: 19 };
    assert_eq!(world.told(|event| *event == dropped), 1);
    assert!(world.reaches(mac(4), mac(1), MQTT));
    world.check_tables();
}

#[test]
fn a_device_may_be_plugged_in_elsewhere_once_its_port_is_empty() {
    let mut world = admitted_row();
    world.move_host(mac(2), place(1, 2));
    world.run_for(Span::from_secs(1));
    world.announce(mac(2));
    world.run_until_settled();
    let moved = Event::HostMoved { mac: mac(2), from: place(3, 1), to: place(1, 2) };
    assert_eq!(world.told(|event| *event == moved), 1);
    assert!(world.reaches(mac(2), mac(1), MQTT));
    world.check_tables();
    // One that may not move is a spoof wherever it moves.
    let fixed = Admission { movement: Movement::Fixed, ..admission(3, SENSOR) };
    world.admit([Admission { place: Some(place(3, 2)), ..fixed }]);
    world.move_host(mac(3), place(1, 3));
    world.run_for(Span::from_secs(1));
    world.announce(mac(3));
    world.run_for(Span::from_secs(1));
    let spoof = Event::Spoofed { mac: mac(3), bound: place(3, 2), seen: place(1, 3) };
    assert_eq!(world.told(|event| *event == spoof), 1);
    assert!(!world.reaches(mac(3), mac(1), MQTT));
}

#[test]
fn forged_and_repeated_frames_of_discovery_make_no_link() {
    let mut world = admitted_row();
    // What a host at an empty port hears of the network.
    let listener = world.add_host(9, place(3, 3));
    world.run_for(Span::from_secs(6));
    let heard: Vec<_> = world.hosts[&listener].received.clone();
    let lldp = heard.iter().rfind(|frame| frame[12..14] == [0x88, 0xCC]).unwrap().clone();
    let links = world.controller.links();
    let mut forged = lldp.clone();
    let last = forged.len() - 3;
    forged[last] ^= 1;
    world.send_at(place(1, 2), forged.clone());
    world.set_link(place(1, 2), LinkState::Up);
    world.run_for(Span::from_millis(300));
    world.send_at(place(1, 2), forged);
    world.run_for(Span::from_millis(300));
    assert_eq!(world.told(|e| *e == Event::LinkForged { at: place(1, 2) }), 1);
    // Its own words, late, and where a device is bound.
    world.run_for(Span::from_secs(3));
    world.send_at(place(1, 2), lldp.clone());
    world.send_at(place(3, 1), lldp);
    world.run_for(Span::from_millis(300));
    // Told once a minute, however often.
    assert_eq!(world.told(|e| *e == Event::LinkForged { at: place(1, 2) }), 1);
    assert_eq!(world.told(|e| *e == Event::LinkForged { at: place(3, 1) }), 1);
    assert_eq!(world.controller.links(), links);
}

/// Four switches in a ring.
fn ring() -> World {
    let mut world = World::new(config(policies()));
    for datapath in 1..=4 {
        world.add_switch(datapath, 5);
    }
    for (a, b) in [(1, 2), (2, 3), (3, 4), (4, 1)] {
        world.join(place(a, 5), place(b, 4));
    }
    world.add_host(1, place(1, 1));
    world.add_host(2, place(3, 1));
    world.connect_all();
    world.admit([server(), admission(2, SENSOR)]);
    world.run_until_settled();
    world.announce(mac(1));
    world.announce(mac(2));
    world.run_until_settled();
    world
}

#[test]
fn a_cut_cable_costs_milliseconds_and_a_silent_one_seconds() {
    let mut world = ring();
    assert!(world.reaches(mac(2), mac(1), MQTT));
    world.cut(place(1, 5), place(2, 4));
    world.run_for(Span::from_millis(2));
    assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    world.join(place(1, 5), place(2, 4));
    world.run_until_settled();
    // The other way is the only one that is left; nobody says that it is dead.
    world.cut(place(2, 5), place(3, 4));
    world.run_until_settled();
    world.join(place(2, 5), place(3, 4));
    world.run_until_settled();
    world.swallow(place(1, 5), place(2, 4));
    world.run_for(Span::from_secs(5));
    assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    world.check_tables();
}

#[test]
fn a_lost_switch_is_routed_around() {
    let mut world = ring();
    for lost in [2, 4] {
        world.disconnect(lost);
        world.run_for(Span::from_millis(5));
        assert!(world.delivers(mac(2), mac(1), mac(1), MQTT), "{lost}");
        world.connect(lost);
        world.run_until_settled();
        // What was held is told now.
        world.run_for(Span::from_millis(5));
        world.check_tables();
    }
}

/// What a controller has kept of its hosts.
fn kept(world: &World) -> Vec<Admission> {
    world
        .controller
        .hosts(None, usize::MAX)
        .into_iter()
        .filter_map(|host| {
            let Standing::Admitted(policy) = host.standing else { return None };
            let (mac, place, addresses) = (host.mac, host.place, host.addresses);
            Some(Admission { mac, policy, place, addresses, movement: Movement::AfterUnplugging })
        })
        .collect()
}

#[test]
fn a_restarted_controller_disturbs_nobody_and_mends_the_tables() {
    let mut world = admitted_row();
    let kept = kept(&world);
    assert_eq!(kept.len(), 4);
    let mastery = Mastery::Primary { generation: 2 };
    world.restart_controller(config(policies()), mastery, kept);
    // Nobody is there, and everything goes on.
    assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    // In the meantime somebody meddles.
    let (meddled, meddler) = (world.switches.get_mut(&2).unwrap(), Connection(999));
    let foreign = FlowMod::add(2, 7, Match::new().with(Field::EthDst, 7), vec![]);
    meddled.handle_connected(meddler);
    let envelope = Envelope { xid: 1, message: Message::FlowMod(foreign) };
    meddled.handle_message(world.now, meddler, envelope);
    meddled.handle_disconnected(meddler);
    for datapath in [3, 1, 2] {
        world.connect(datapath);
        for _ in 0..20 {
            assert!(world.delivers(mac(2), mac(1), mac(1), MQTT), "while {datapath} comes");
        }
    }
    for _ in 0..200 {
        assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
        assert!(world.delivers(mac(4), mac(1), mac(1), KEYS));
    }
    world.check_tables();
    assert!(world.reaches(mac(3), mac(1), KEYS));
}

#[test]
fn whoever_is_quarantined_or_dismissed_reaches_nothing_at_once() {
    let mut world = admitted_row();
    world.admit([Admission { place: Some(place(3, 1)), ..admission(2, QUARANTINE) }]);
    world.run_for(Span::from_millis(2));
    assert!(!world.delivers(mac(2), mac(1), mac(1), MQTT));
    world.dismiss(mac(3));
    world.run_for(Span::from_millis(2));
    assert!(!world.delivers(mac(3), mac(1), mac(1), MQTT));
    assert!(world.delivers(mac(4), mac(1), mac(1), MQTT));
    world.admit([admission(2, SENSOR), admission(3, SENSOR)]);
    world.announce(mac(3));
    world.run_for(Span::from_millis(5));
    assert!(world.reaches(mac(2), mac(1), MQTT));
    assert!(world.reaches(mac(3), mac(1), MQTT));
    world.check_tables();
}

#[test]
fn peers_reach_each_other_everywhere_and_others_do_not() {
    let mut world = World::new(config(policies()));
    let n_hosts = world.tree(2, 4);
    world.connect_all();
    let open = (1..n_hosts).map(|n| admission(n, OPEN));
    world.admit(open.chain([admission(n_hosts, SENSOR)]));
    world.run_until_settled();
    (1..=n_hosts).for_each(|n| world.announce(mac(n)));
    world.run_until_settled();
    for a in 1..=n_hosts {
        for b in (1..=n_hosts).filter(|&b| b != a) {
            let both = a < n_hosts && b < n_hosts;
            assert_eq!(world.reaches(mac(a), mac(b), 7), both, "{a} to {b}");
        }
    }
    world.check_tables();
}

#[test]
fn an_address_stays_with_its_owner() {
    let mut world = admitted_row();
    world.hosts.get_mut(&mac(3)).unwrap().ip = ip(1);
    world.announce(mac(3));
    world.run_for(Span::from_millis(5));
    let taken = Event::AddressTaken { address: world::address(1), owner: mac(1), claimant: mac(3) };
    assert_eq!(world.told(|event| *event == taken), 1);
    assert!(world.reaches(mac(2), mac(1), MQTT));
}

#[test]
fn a_standby_only_watches_until_it_takes_over() {
    let mut world = admitted_row();
    let kept = kept(&world);
    let entries = |world: &World| -> Vec<usize> {
        world.switches.values().map(claviger_switch::Switch::n_entries).collect()
    };
    let before = entries(&world);
    let mastery = Mastery::Standby { generation: 1 };
    world.restart_controller(config(policies()), mastery, kept);
    world.connect_all();
    world.run_for(Span::from_secs(10));
    assert_eq!(entries(&world), before);
    assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    world.take_over(2);
    for _ in 0..400 {
        assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    }
    world.run_for(Span::from_secs(6));
    world.check_tables();
    assert_eq!(entries(&world), before);
    assert!(world.reaches(mac(4), mac(1), KEYS));
}

/// Its tables go on without the controller, and nobody takes them for gone.
#[test]
fn a_switch_that_cannot_be_asked_still_carries_what_no_other_way_leads() {
    let mut world = admitted_row();
    world.disconnect(2);
    for _ in 0..20 {
        world.run_for(Span::from_secs(1));
        assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    }
    world.connect(2);
    world.run_for(Span::from_secs(10));
    assert!(world.delivers(mac(2), mac(1), mac(1), MQTT));
    world.check_tables();
    // Where its cable is dead as well, there is nothing.
    world.disconnect(2);
    world.cut(place(1, 5), place(2, 4));
    world.run_for(Span::from_secs(1));
    assert!(!world.delivers(mac(2), mac(1), mac(1), MQTT));
}

#[test]
fn a_switch_that_answers_all_but_barriers_is_given_up() {
    let mut world = row();
    world.run_until_settled();
    world.unconfirming.insert(2);
    let sensor = Admission { place: Some(place(2, 1)), ..admission(4, SENSOR) };
    world.admit([sensor]);
    world.run_for(Span::from_secs(21));
    let why = Farewell::NoBarrier(Span::from_secs(20));
    let down = Event::SwitchDown { datapath: DatapathId(2), why };
    assert_eq!(world.told(|event| *event == down), 1);
}

#[test]
fn a_switch_that_answers_nothing_is_given_up() {
    let mut world = row();
    world.run_until_settled();
    world.mute.insert(2);
    world.admit([Admission { place: Some(place(2, 1)), ..admission(4, SENSOR) }]);
    world.run_for(Span::from_secs(21));
    let down = world.events.iter().find_map(|(_, event)| match event {
        Event::SwitchDown { datapath: DatapathId(2), why } => Some(why.clone()),
        _ => None,
    });
    assert_eq!(down, Some(Farewell::Silent(Span::from_secs(15))));
    // A connection that says nothing at all.
    world.mute.insert(3);
    world.disconnect(3);
    world.connect(3);
    world.run_for(Span::from_secs(11));
    let refused = world.told(|event| {
        matches!(event, Event::ConnectionRefused { why: Farewell::Handshake(_), .. })
    });
    assert_eq!(refused, 1);
}

#[test]
fn two_switches_of_one_name_do_not_push_each_other_out() {
    let mut world = row();
    world.run_until_settled();
    let first = world.controller.switches();
    // The impostor is the same switch on a second connection, which the first one outlives.
    let id = ConnectionId(77);
    world.controller.handle_connected(world.now, id);
    let (datapath, buffers, tables) = (DatapathId(2), 0, 4);
    let features = Features { datapath, buffers, tables, auxiliary: 0, capabilities: 0 };
    for message in [Message::Hello(Hello::OURS), Message::FeaturesReply(features)] {
        world.controller.handle_message(world.now, id, Ok(Envelope { xid: 9, message }));
    }
    world.run_for(Span::from_secs(2));
    let why = Farewell::Duplicate(DatapathId(2));
    assert_eq!(
        world.told(|e| *e == Event::ConnectionRefused { connection: id, why: why.clone() }),
        1
    );
    assert_eq!(world.controller.switches(), first);
}

#[test]
fn the_same_network_gives_the_same_events() {
    let run = || {
        let world = admitted_row();
        (world.events, world.controller.switches())
    };
    assert_eq!(run(), run());
}
