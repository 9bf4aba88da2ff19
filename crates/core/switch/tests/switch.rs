//! What a controller may ask of a switch, and what packets then meet.

use claviger_openflow::{
    Action, Band, DatapathId, Description, Envelope, ErrorMessage, Field, FlowFilter, FlowMod,
    Instruction, Match, Message, MeterCommand, MeterMod, MultipartReply, MultipartRequest,
    PacketOut, PortNumber, Role, RoleKind,
};
use claviger_switch::{Connection, LinkState, Switch, SwitchConfig};
use claviger_units::{Span, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const CONTROLLER: Connection = Connection(1);
const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn switch() -> Switch {
    let mut switch = Switch::new(
        NOW,
        SwitchConfig {
            datapath: DatapathId(7),
            description: Description::default(),
            ports: (1..=4).map(|n| format!("p{n}")).collect(),
            n_tables: 3,
            most_entries: 100,
        },
    );
    switch.handle_connected(CONTROLLER);
    answers(&mut switch);
    switch
}

fn ask(switch: &mut Switch, from: Connection, message: Message) {
    switch.handle_message(NOW, from, Envelope { xid: 9, message });
}

fn answers(switch: &mut Switch) -> Vec<(Connection, Message)> {
    std::iter::from_fn(|| switch.poll_transmit()).map(|(to, told)| (to, told.message)).collect()
}

fn tell(switch: &mut Switch, message: Message) -> Vec<Message> {
    ask(switch, CONTROLLER, message);
    answers(switch).into_iter().map(|(_, message)| message).collect()
}

fn frame(from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &[0x12, 0x34], b"anything"].concat()
}

fn outputs(switch: &mut Switch, now: Timestamp, port: u32, frame: Vec<u8>) -> Vec<(u32, Vec<u8>)> {
    switch.handle_frame(now, PortNumber(port), frame);
    std::iter::from_fn(|| switch.poll_output()).map(|(port, frame)| (port.0, frame)).collect()
}

fn apply(actions: &[Action]) -> Vec<Instruction> {
    vec![Instruction::ApplyActions(actions.to_vec())]
}

fn refused(answers: &[Message], kind: u16, code: u16) -> bool {
    matches!(answers, [Message::Error(ErrorMessage { kind: k, code: c, data })]
        if (*k, *c) == (kind, code) && data.len() >= 8)
}

#[test]
fn an_empty_switch_forwards_nothing() {
    let mut switch = switch();
    assert_eq!(outputs(&mut switch, NOW, 1, frame(A, B)), []);
    assert_eq!(answers(&mut switch), []);
}

#[test]
fn tables_mark_a_packet_and_decide_by_the_mark() {
    let mut switch = switch();
    let admitted = Match::new().with(Field::InPort, 1).with_mac(Field::EthSrc, A);
    let mark = Instruction::WriteMetadata { value: 5, mask: 0xFF };
    let on = vec![mark, Instruction::GotoTable(1)];
    tell(&mut switch, Message::FlowMod(FlowMod::add(0, 9, admitted, on)));
    let allowed = Match::new().with_masked(Field::Metadata, 5, 0x0F).with_mac(Field::EthDst, B);
    let out = apply(&[Action::output(PortNumber(2)), Action::output(PortNumber(3))]);
    tell(&mut switch, Message::FlowMod(FlowMod::add(1, 9, allowed, out)));
    let sent = frame(A, B);
    let expected = [(2, sent.clone()), (3, sent.clone())];
    assert_eq!(outputs(&mut switch, NOW, 1, sent.clone()), expected);
    assert_eq!(outputs(&mut switch, NOW, 2, sent), [], "the card at another port");
    assert_eq!(outputs(&mut switch, NOW, 1, frame(A, A)), [], "to another card");
}

#[test]
fn the_action_set_is_done_at_the_end_and_addresses_are_rewritten() {
    let mut switch = switch();
    let set = Instruction::WriteActions(vec![
        Action::output(PortNumber(2)),
        Action::SetField(Field::EthDst, 0x0200_0000_0009),
    ]);
    let on = vec![set, Instruction::GotoTable(1)];
    tell(&mut switch, Message::FlowMod(FlowMod::add(0, 1, Match::new(), on)));
    tell(&mut switch, Message::FlowMod(FlowMod::add(1, 1, Match::new(), Vec::new())));
    let rewritten = frame(A, [2, 0, 0, 0, 0, 9]);
    assert_eq!(outputs(&mut switch, NOW, 1, frame(A, B)), [(2, rewritten)]);
}

#[test]
fn nothing_goes_back_where_it_came_from_unless_it_shall() {
    let mut switch = switch();
    for (port, expected) in [(PortNumber(1), 0), (PortNumber::IN_PORT, 1), (PortNumber::FLOOD, 3)] {
        let flow = FlowMod::add(0, 1, Match::new(), apply(&[Action::output(port)]));
        tell(&mut switch, Message::FlowMod(flow));
        assert_eq!(outputs(&mut switch, NOW, 1, frame(A, B)).len(), expected, "{port}");
    }
    switch.handle_link(PortNumber(3), LinkState::Down);
    assert_eq!(outputs(&mut switch, NOW, 1, frame(A, B)).len(), 2, "a port without a cable");
}

#[test]
fn a_packet_for_the_controller_says_where_it_came_in() {
    let mut switch = switch();
    let flow = FlowMod::add(0, 0, Match::new(), apply(&[Action::to_controller()]));
    tell(&mut switch, Message::FlowMod(flow));
    switch.handle_frame(NOW, PortNumber(3), frame(A, B));
    let told = answers(&mut switch);
    let [(_, Message::PacketIn(packet))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((packet.in_port(), packet.table, packet.reason), (Some(PortNumber(3)), 0, 0));
    assert_eq!(packet.data, frame(A, B));
    // And a packet of the controller's own goes where it says, or through the tables.
    let out = PacketOut::through(PortNumber(2), frame(B, A));
    assert_eq!(tell(&mut switch, Message::PacketOut(out)), []);
    assert_eq!(switch.poll_output(), Some((PortNumber(2), frame(B, A))));
    let out = PacketOut::through(PortNumber::TABLE, frame(B, A));
    assert!(matches!(tell(&mut switch, Message::PacketOut(out))[..], [Message::PacketIn(_)]));
}

#[test]
fn entries_go_when_their_time_is_over_and_tell_what_they_counted() {
    let mut switch = switch();
    let mut flow = FlowMod::add(0, 5, Match::new().with(Field::InPort, 1), Vec::new());
    (flow.hard_timeout, flow.flags, flow.cookie) = (60, FlowMod::TELLS_REMOVAL, 0xC1);
    tell(&mut switch, Message::FlowMod(flow));
    let mut idle = FlowMod::add(0, 5, Match::new().with(Field::InPort, 2), Vec::new());
    idle.idle_timeout = 10;
    tell(&mut switch, Message::FlowMod(idle));
    for _ in 0..3 {
        outputs(&mut switch, NOW, 1, frame(A, B));
    }
    outputs(&mut switch, NOW + Span::from_secs(5), 2, frame(A, B));
    assert_eq!(switch.poll_timeout(), Some(NOW + Span::from_secs(10)));
    switch.handle_timeout(NOW + Span::from_secs(10));
    assert_eq!(switch.n_entries(), 2, "it was used five seconds ago");
    switch.handle_timeout(NOW + Span::from_secs(15));
    assert_eq!((switch.n_entries(), answers(&mut switch)), (1, vec![]), "it tells nobody");
    switch.handle_timeout(NOW + Span::from_secs(60));
    let told = answers(&mut switch);
    let [(_, Message::FlowRemoved(removed))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((removed.packets, removed.reason, removed.cookie), (3, 1, 0xC1));
    assert_eq!(switch.poll_timeout(), None);
}

#[test]
fn deletes_take_what_their_filter_covers() {
    let mut switch = switch();
    let add = |switch: &mut Switch, port: u32, cookie: u64| {
        let matching = Match::new().with(Field::InPort, port.into());
        let out = apply(&[Action::output(PortNumber(port + 1))]);
        let mut flow = FlowMod::add(0, 5, matching, out);
        flow.cookie = cookie;
        tell(switch, Message::FlowMod(flow));
    };
    for port in 1..=3 {
        add(&mut switch, port, 0xC100 + u64::from(port));
    }
    tell(&mut switch, Message::FlowMod(FlowMod::delete(0xFF, 0xC102, u64::MAX)));
    assert_eq!(switch.n_entries(), 2);
    let mut by_port = FlowMod::delete(0, 0, 0);
    by_port.out_port = PortNumber(4);
    tell(&mut switch, Message::FlowMod(by_port));
    let question = MultipartRequest::Flows(FlowFilter::ALL);
    let told = tell(&mut switch, Message::MultipartRequest(question));
    let [Message::MultipartReply { reply: MultipartReply::Flows(left), more: false }] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(left.iter().map(|entry| entry.cookie).collect::<Vec<_>>(), [0xC101]);
}

#[test]
fn what_it_cannot_do_is_refused_in_the_standard_s_words() {
    let mut switch = switch();
    let add =
        |table, instructions| Message::FlowMod(FlowMod::add(table, 1, Match::new(), instructions));
    for (message, kind, code) in [
        (add(3, Vec::new()), 5, 2),
        (add(1, vec![Instruction::GotoTable(1)]), 3, 2),
        (add(1, vec![Instruction::GotoTable(9)]), 3, 2),
        (add(0, vec![Instruction::Meter(1)]), 12, 3),
        (add(0, apply(&[Action::Group(1)])), 2, 0),
        (add(0, apply(&[Action::SetField(Field::Ipv4Dst, 1)])), 2, 13),
    ] {
        assert!(refused(&tell(&mut switch, message.clone()), kind, code), "{message:?}");
    }
    for n in 0..100_u16 {
        let flow = FlowMod::add(0, n, Match::new(), Vec::new());
        assert_eq!(tell(&mut switch, Message::FlowMod(flow)), []);
    }
    assert!(refused(&tell(&mut switch, add(1, Vec::new())), 5, 1), "the tables are full");
}

#[test]
fn a_meter_goes_with_the_entries_that_use_it() {
    let mut switch = switch();
    let bands = vec![Band::Drop { rate: 1, burst: 2 }];
    let meter = |command| {
        let flags = MeterMod::IN_PACKETS;
        Message::MeterMod(MeterMod { command, flags, meter: 1, bands: bands.clone() })
    };
    assert_eq!(tell(&mut switch, meter(MeterCommand::Add)), []);
    assert!(refused(&tell(&mut switch, meter(MeterCommand::Add)), 12, 1));
    let mut metered = apply(&[Action::output(PortNumber(2))]);
    metered.insert(0, Instruction::Meter(1));
    tell(&mut switch, Message::FlowMod(FlowMod::add(0, 1, Match::new(), metered)));
    let passed: usize = (0..5).map(|_| outputs(&mut switch, NOW, 1, frame(A, B)).len()).sum();
    assert_eq!(passed, 2);
    let told = tell(&mut switch, Message::MultipartRequest(MultipartRequest::Meters(u32::MAX)));
    let [Message::MultipartReply { reply: MultipartReply::Meters(meters), .. }] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((meters[0].flows, meters[0].came[0], meters[0].bands[0][0]), (1, 5, 3));
    tell(&mut switch, meter(MeterCommand::Delete));
    assert_eq!(switch.n_entries(), 0);
}

#[test]
fn a_slave_may_look_and_an_old_election_counts_no_more() {
    let mut switch = switch();
    let standby = Connection(2);
    switch.handle_connected(standby);
    let role = |kind, generation| Message::RoleRequest(Role { kind, generation });
    ask(&mut switch, CONTROLLER, role(RoleKind::Master, 5));
    ask(&mut switch, standby, role(RoleKind::Slave, 5));
    answers(&mut switch);
    let flow = || Message::FlowMod(FlowMod::add(0, 1, Match::new(), Vec::new()));
    ask(&mut switch, standby, flow());
    let told = answers(&mut switch);
    assert!(
        matches!(&told[..], [(Connection(2), Message::Error(e))] if (e.kind, e.code) == (1, 10))
    );
    ask(&mut switch, standby, role(RoleKind::Master, 4));
    let told = answers(&mut switch);
    assert!(
        matches!(&told[..], [(Connection(2), Message::Error(e))] if (e.kind, e.code) == (11, 0))
    );
    ask(&mut switch, standby, role(RoleKind::Master, 6));
    ask(&mut switch, CONTROLLER, flow());
    let told = answers(&mut switch);
    assert!(
        matches!(&told[..], [(_, Message::RoleReply(_)), (Connection(1), Message::Error(e))]
            if (e.kind, e.code) == (1, 10)),
        "{told:?}"
    );
    // Both hear of ports, the master alone of packets.
    switch.handle_link(PortNumber(1), LinkState::Down);
    assert_eq!(answers(&mut switch).len(), 2);
}

#[test]
fn a_cross_connection_is_an_entry_for_all_of_a_port() {
    let mut switch = switch();
    let from = |port: u32| Match::new().with(Field::InPort, port.into());
    let to = |port| apply(&[Action::output(PortNumber(port))]);
    tell(&mut switch, Message::FlowMod(FlowMod::add(0, 1, from(1), to(3))));
    let partly = from(2).with_mac(Field::EthSrc, A);
    tell(&mut switch, Message::FlowMod(FlowMod::add(0, 1, partly, to(4))));
    assert_eq!(switch.cross_connections(), [(PortNumber(1), PortNumber(3))]);
}

proptest! {
    /// Whatever a controller says and whatever comes in, the switch goes on, and answers echoes.
    #[test]
    fn nothing_stops_a_switch(
        steps in prop::collection::vec(
            (0_u8..31, prop::collection::vec(any::<u8>(), 0..120), 0_u32..6, any::<bool>()),
            0..40,
        ),
    ) {
        let mut switch = switch();
        for (kind, body, port, is_frame) in steps {
            if is_frame {
                switch.handle_frame(NOW, PortNumber(port), body);
            } else {
                let length = u16::try_from(body.len() + 8).unwrap().to_be_bytes();
                let message = [&[4, kind, length[0], length[1], 0, 0, 0, 1], &body[..]].concat();
                if let Ok(envelope) = Envelope::decode(&message) {
                    switch.handle_message(NOW, CONTROLLER, envelope);
                }
            }
            switch.handle_timeout(NOW);
        }
        answers(&mut switch);
        let echo = tell(&mut switch, Message::EchoRequest(b"?".to_vec()));
        prop_assert_eq!(echo, [Message::EchoReply(b"?".to_vec())]);
    }
}
