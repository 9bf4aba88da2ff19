//! The quantum channel through an optical switch: it leaves a fibre that gives an alarm or no light.

use claviger_control::{
    ChannelAlarm, ChannelError, ControllerConfig, Event, Mastery, OpticsConfig, Place,
};
use claviger_openflow::{DatapathId, PortNumber};
use claviger_switch::LinkState;
use claviger_units::Span;

use crate::world::{World, config, place};

const OPTICAL: u64 = 9;
const CHANNEL: PortNumber = PortNumber(1);
const LAB: PortNumber = PortNumber(2);
const CITY: PortNumber = PortNumber(3);

fn with_optics() -> ControllerConfig {
    let fibres = vec![("lab".to_owned(), LAB), ("city".to_owned(), CITY)];
    let optics = OpticsConfig { datapath: DatapathId(OPTICAL), channel: CHANNEL, fibres };
    ControllerConfig { optics: Some(optics), ..config(Vec::new()) }
}

fn port(number: PortNumber) -> Place {
    place(OPTICAL, number.0)
}

fn world() -> World {
    let mut world = World::new(with_optics());
    world.add_switch(OPTICAL, 3);
    for number in [CHANNEL, LAB, CITY] {
        world.set_link(port(number), LinkState::Up);
    }
    world.connect_all();
    world.run_until_settled();
    world
}

fn crossed(world: &World) -> Vec<(PortNumber, PortNumber)> {
    world.switches[&OPTICAL].cross_connections()
}

fn moves(world: &World) -> Vec<(String, String, ChannelAlarm)> {
    let moved = world.events.iter().filter_map(|(_, event)| match event {
        Event::ChannelMoved { from, to, alarm } => Some((from.clone(), to.clone(), *alarm)),
        _ => None,
    });
    moved.collect()
}

fn alarm(world: &mut World, alarm: ChannelAlarm) {
    world.controller.handle_channel_alarm(world.now, alarm);
    world.run_for(Span::from_millis(1500));
}

#[test]
fn an_alarm_moves_the_channel_and_one_about_the_fibre_that_was_left_does_not() {
    let mut world = world();
    assert_eq!(crossed(&world), [(CHANNEL, LAB), (LAB, CHANNEL)]);
    assert_eq!(world.switches[&OPTICAL].n_entries(), 2, "nothing else is in an optical switch");
    alarm(&mut world, ChannelAlarm::Qber);
    assert_eq!(crossed(&world), [(CHANNEL, CITY), (CITY, CHANNEL)]);
    alarm(&mut world, ChannelAlarm::Qber);
    assert_eq!(moves(&world), [("lab".into(), "city".into(), ChannelAlarm::Qber)]);
    world.run_for(Span::from_secs(20));
    alarm(&mut world, ChannelAlarm::LossOfLight);
    assert_eq!(crossed(&world), [(CHANNEL, LAB), (LAB, CHANNEL)]);
    let channel = world.controller.channel().unwrap();
    assert_eq!((channel.fibre.as_str(), channel.is_confirmed), ("lab", true));
    world.check_tables();
}

#[test]
fn a_dark_fibre_is_left_at_once_and_none_is_taken_that_is_dark() {
    let mut world = world();
    world.set_link(port(LAB), LinkState::Down);
    world.run_for(Span::from_millis(1500));
    assert_eq!(moves(&world), [("lab".into(), "city".into(), ChannelAlarm::FibreDark)]);
    world.run_for(Span::from_secs(20));
    alarm(&mut world, ChannelAlarm::Qber);
    assert_eq!(moves(&world).len(), 1, "the other fibre is dark");
    let stays = |event: &Event| matches!(event, Event::ChannelStays { .. });
    assert_eq!(world.told(stays), 1);
    world.set_link(port(LAB), LinkState::Up);
    world.run_for(Span::from_secs(20));
    alarm(&mut world, ChannelAlarm::Qber);
    assert_eq!(crossed(&world), [(CHANNEL, LAB), (LAB, CHANNEL)]);
}

#[test]
fn an_operator_moves_the_channel_and_a_restarted_controller_leaves_it_there() {
    let mut world = world();
    let now = world.now;
    let refused = world.controller.move_channel(now, "moon");
    assert_eq!(refused, Err(ChannelError::NoFibre("moon".to_owned())));
    world.controller.move_channel(now, "city").unwrap();
    world.run_for(Span::from_millis(1500));
    let before = crossed(&world);
    world.restart_controller(with_optics(), Mastery::Primary { generation: 2 }, Vec::new());
    world.connect_all();
    world.run_until_settled();
    assert_eq!(crossed(&world), before);
    assert_eq!(world.controller.channel().unwrap().fibre, "city");
    world.check_tables();
}

#[test]
fn an_optical_switch_makes_no_host_and_no_link() {
    let mut world = world();
    assert!(world.controller.links().is_empty());
    assert!(world.controller.hosts(None, 10).is_empty());
    assert_eq!(
        World::new(config(Vec::new())).controller.channel(),
        None,
        "without an optical switch there is no channel to move"
    );
    alarm(&mut world, ChannelAlarm::Qber);
    assert_eq!(moves(&world).len(), 1);
}
