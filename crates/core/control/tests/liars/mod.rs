//! Switches and hosts that lie: what they cost, and whom.

use claviger_control::{ConnectionId, Event, Farewell, Mastery, PortRole};
use claviger_openflow::{
    DatapathId, Envelope, Message, MultipartReply, Port, PortNumber, Role, RoleKind,
};
use claviger_switch::LinkState;
use claviger_units::Span;

use crate::world::{World, mac, place};
use crate::{MQTT, SENSOR, admission, admitted_row};

/// Three switches in a row; the second is connected anew, and lies from now on.
fn with_liar() -> (World, ConnectionId) {
    let mut world = admitted_row();
    world.disconnect(2);
    let id = world.connect(2);
    world.run_until_settled();
    (world, id)
}

fn say(world: &mut World, id: ConnectionId, xid: u32, message: Message) {
    world.controller.handle_message(world.now, id, Ok(Envelope { xid, message }));
}

fn ends_of(world: &World, datapath: u64) -> Vec<Farewell> {
    let datapath = DatapathId(datapath);
    let down = world.events.iter().filter_map(|(_, event)| match event {
        Event::SwitchDown { datapath: of, why } if *of == datapath => Some(why.clone()),
        _ => None,
    });
    down.collect()
}

#[test]
fn a_switch_that_names_another_master_is_given_up_alone() {
    let (mut world, id) = with_liar();
    let role = Role { kind: RoleKind::Slave, generation: u64::MAX };
    say(&mut world, id, 7, Message::RoleReply(role));
    world.run_for(Span::from_secs(1));
    assert_eq!(ends_of(&world, 2).last(), Some(&Farewell::Overruled));
    let told = |event: &Event| *event == Event::Superseded { datapath: DatapathId(2) };
    assert_eq!(world.told(told), 1);
    assert!(matches!(world.controller.mastery(), Mastery::Primary { .. }));
    // The others are still this controller's, to let in and to shut out.
    let newcomer = world.add_host(8, place(1, 3));
    world.admit([admission(8, SENSOR)]);
    world.announce(newcomer);
    world.run_for(Span::from_secs(2));
    assert!(world.reaches(newcomer, mac(1), MQTT));
    world.dismiss(newcomer);
    world.run_for(Span::from_secs(1));
    assert!(!world.reaches(newcomer, mac(1), MQTT));
}

#[test]
fn what_nobody_asked_for_is_not_kept() {
    let (mut world, id) = with_liar();
    world.run_for(Span::from_secs(1));
    let before = world.controller.switches();
    let ports: Vec<Port> = (1..=1_000).map(|n| port(n, [2, 9, 9, 9, 9, 9])).collect();
    for xid in 1_000_000..1_000_100 {
        let reply = MultipartReply::Ports(ports.clone());
        say(&mut world, id, xid, Message::MultipartReply { reply, more: true });
    }
    world.run_for(Span::from_secs(1));
    assert_eq!(world.controller.switches(), before);
    assert_eq!(ends_of(&world, 2).len(), 1);
}

#[test]
fn a_port_with_the_card_of_a_device_does_not_silence_it() {
    let (mut world, id) = with_liar();
    let card = *mac(2).as_bytes();
    let status = claviger_openflow::PortStatus {
        change: claviger_openflow::PortChange::Modified,
        port: port(3, card),
    };
    say(&mut world, id, 7, Message::PortStatus(status));
    world.run_for(Span::from_secs(1));
    world.announce(mac(2));
    assert!(world.reaches(mac(2), mac(1), MQTT));
}

/// Two empty ports, and somebody who hands on what he hears at one to the other.
#[test]
fn a_frame_that_is_handed_on_in_one_direction_opens_no_port() {
    let mut world = admitted_row();
    let listener = world.add_host(9, place(3, 3));
    world.set_link(place(1, 2), LinkState::Up);
    for _ in 0..40 {
        world.hosts.get_mut(&listener).unwrap().received.clear();
        world.run_for(Span::from_millis(250));
        let heard = world.hosts[&listener].received.clone();
        for frame in heard.into_iter().filter(|frame| frame[12..14] == [0x88, 0xCC]) {
            world.send_at(place(1, 2), frame);
        }
    }
    world.run_for(Span::from_millis(300));
    for view in world.controller.switches() {
        for port in view.ports {
            let is_empty = [place(1, 2), place(3, 3)]
                .iter()
                .any(|place| place.datapath == view.datapath && place.port == port.number);
            assert!(!is_empty || port.role != PortRole::Trunk, "{:?}", port.number);
        }
    }
    assert!(!world.delivers(listener, mac(1), mac(1), MQTT));
    assert!(!world.delivers(listener, mac(2), mac(2), MQTT));
}

fn port(number: u32, mac: [u8; 6]) -> Port {
    let name = format!("p{number}");
    let (features, speed_kbps) = ([0; 4], [0; 2]);
    Port { number: PortNumber(number), mac, name, config: 0, state: 4, features, speed_kbps }
}
