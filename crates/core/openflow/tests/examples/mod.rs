//! One message of every kind, with the hard cases of each.

use claviger_openflow::{
    Action, Band, Command, Config, DatapathId, Description, Envelope, ErrorMessage, Features,
    Field, FlowFilter, FlowMod, FlowRemoved, FlowStats, Hello, Instruction, Match, Message,
    MeterCommand, MeterMod, MeterStats, MultipartReply, MultipartRequest, NO_BUFFER, PacketIn,
    PacketOut, Port, PortChange, PortNumber, PortStats, PortStatus, Role, RoleKind, TableStats,
};

pub(crate) const MAC: [u8; 6] = [0x02, 0, 0x5e, 0x10, 0, 0x2a];

pub(crate) fn port() -> Port {
    Port {
        number: PortNumber(3),
        mac: MAC,
        name: "edge3-eth3".into(),
        config: 0,
        state: 4,
        features: [0x840, 0, 0x840, 0],
        speed_kbps: [10_000_000, 10_000_000],
    }
}

/// A provisioned device on its port goes on to table 1; its packets are metered.
pub(crate) fn admission() -> FlowMod {
    let matching = Match::new().with(Field::InPort, 3).with_mac(Field::EthSrc, MAC);
    let instructions = vec![Instruction::Meter(7), Instruction::GotoTable(1)];
    let mut flow = FlowMod::add(0, 300, matching, instructions);
    flow.cookie = 0xC1A0_0000_0000_002A;
    flow.flags = FlowMod::TELLS_REMOVAL;
    flow
}

/// What a device may reach: its broker, by name of address and port.
pub(crate) fn permission() -> FlowMod {
    let matching = Match::new()
        .with(Field::EthType, 0x0800)
        .with(Field::IpProto, 6)
        .with_masked(Field::Ipv4Dst, 0x0A00_0001, 0xFFFF_FF00)
        .with(Field::TcpDst, 8883);
    let actions = vec![
        Action::SetField(Field::EthDst, 0x0200_5E10_0001),
        Action::DecrementTtl,
        Action::output(PortNumber(1)),
    ];
    FlowMod::add(1, 200, matching, vec![Instruction::ApplyActions(actions)])
}

pub(crate) fn entry() -> FlowStats {
    FlowStats {
        table: 1,
        duration: (12, 500_000_000),
        priority: 200,
        timeouts: [30, 0],
        flags: 1,
        cookie: 0xC1A0,
        packets: 9,
        bytes: 900,
        matching: permission().matching,
        instructions: permission().instructions,
    }
}

fn flows() -> Vec<Message> {
    let mut changed = permission();
    changed.command = Command::ModifyStrict;
    changed.idle_timeout = 30;
    let ipv6 = Match::new()
        .with(Field::EthType, 0x86DD)
        .with_masked(Field::Ipv6Dst, 0xFE80 << 112, 0xFFC0 << 112)
        .with(Field::Metadata, 9);
    let others = vec![
        Instruction::WriteMetadata { value: 5, mask: 0xFF },
        Instruction::WriteActions(vec![Action::PushVlan(0x8100), Action::SetQueue(2)]),
        Instruction::ClearActions,
    ];
    vec![
        Message::FlowMod(admission()),
        Message::FlowMod(permission()),
        Message::FlowMod(changed),
        Message::FlowMod(FlowMod::delete(255, 0xC1A0 << 48, 0xFFFF << 48)),
        Message::FlowMod(FlowMod::add(2, 1, ipv6, others)),
        Message::FlowRemoved(FlowRemoved {
            cookie: 1,
            priority: 300,
            reason: 2,
            table: 0,
            duration: (60, 1),
            timeouts: [0, 0],
            packets: 4,
            bytes: 400,
            matching: admission().matching,
        }),
        Message::MeterMod(MeterMod {
            command: MeterCommand::Add,
            flags: MeterMod::IN_PACKETS,
            meter: 7,
            bands: vec![Band::Drop { rate: 100, burst: 20 }],
        }),
    ]
}

fn multiparts() -> Vec<Message> {
    let counters = PortStats {
        port: PortNumber(3),
        packets: [10, 11],
        bytes: [1000, 1100],
        dropped: [0, 1],
        errors: [0, 0, 0, 0, 2, 0],
        duration: (90, 7),
    };
    let meter =
        MeterStats { meter: 7, flows: 1, came: [5, 500], duration: (9, 9), bands: vec![[1, 100]] };
    let table = TableStats { table: 1, active: 2, looked_up: 30, matched: 28 };
    let description = Description {
        manufacturer: "Claviger".into(),
        hardware: "emulated".into(),
        software: "0.1".into(),
        serial: "7".into(),
        datapath: "edge 3".into(),
    };
    let questions = [
        MultipartRequest::Description,
        MultipartRequest::Flows(FlowFilter::ALL),
        MultipartRequest::Tables,
        MultipartRequest::PortStats(PortNumber::ANY),
        MultipartRequest::Meters(u32::MAX),
        MultipartRequest::Ports,
        MultipartRequest::Other(8, Vec::new()),
    ];
    let answers = [
        MultipartReply::Description(description),
        MultipartReply::Flows(vec![entry(), entry()]),
        MultipartReply::Tables(vec![table]),
        MultipartReply::PortStats(vec![counters]),
        MultipartReply::Meters(vec![meter]),
        MultipartReply::Ports(vec![port(), port()]),
        MultipartReply::Other(8, vec![0; 40]),
    ];
    let more = |reply| Message::MultipartReply { reply, more: true };
    let questions = questions.into_iter().map(Message::MultipartRequest);
    questions.chain(answers.into_iter().map(more)).collect()
}

/// Every message, each in an envelope of its own number.
pub(crate) fn all() -> Vec<Envelope> {
    let frame = [&[0xFF; 6][..], &MAC, &[8, 6], &[0; 28]].concat();
    let mut messages = vec![
        Message::Hello(Hello::OURS),
        Message::Hello(Hello { version: 6, versions: None }),
        Message::Error(ErrorMessage { kind: 1, code: 6, data: vec![4, 20, 0, 8, 0, 0, 0, 9] }),
        Message::EchoRequest(b"still there?".to_vec()),
        Message::EchoReply(Vec::new()),
        Message::FeaturesRequest,
        Message::FeaturesReply(Features {
            datapath: DatapathId(0x0000_0200_5E10_0001),
            buffers: 0,
            tables: 254,
            auxiliary: 0,
            capabilities: 0x4F,
        }),
        Message::GetConfigRequest,
        Message::GetConfigReply(Config { flags: 0, miss_send_len: 128 }),
        Message::SetConfig(Config { flags: 0, miss_send_len: 0xFFFF }),
        Message::PacketIn(PacketIn {
            buffer: NO_BUFFER,
            total_len: 42,
            reason: 1,
            table: 0,
            cookie: 5,
            matching: Match::new().with(Field::InPort, 3),
            data: frame.clone(),
        }),
        Message::PortStatus(PortStatus { change: PortChange::Modified, port: port() }),
        Message::PacketOut(PacketOut {
            buffer: NO_BUFFER,
            in_port: PortNumber::CONTROLLER,
            actions: vec![Action::output(PortNumber::FLOOD), Action::to_controller()],
            data: frame,
        }),
        Message::BarrierRequest,
        Message::BarrierReply,
        Message::RoleRequest(Role { kind: RoleKind::Master, generation: 3 }),
        Message::RoleReply(Role { kind: RoleKind::Slave, generation: 4 }),
        Message::Other(26, Vec::new()),
    ];
    messages.extend(flows());
    messages.extend(multiparts());
    (1..).zip(messages).map(|(xid, message)| Envelope { xid, message }).collect()
}
