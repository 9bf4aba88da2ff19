//! A load generator: many switches that hand up packets of admitted hosts as fast as these are set up.
//!
//! A switch counts a set-up when the controller has told it the entry that admits the host, in the
//! flow table where admission stands. Frames of discovery are carried to the switch at the other end
//! of their cable, so that the controller computes paths as it does in the field.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use claviger_openflow::{
    DatapathId, Envelope, Features, Field, Hello, Match, Message, MultipartReply, MultipartRequest,
    NO_BUFFER, PacketIn, PacketOut, Port, PortNumber, Role, Splitter,
};
use claviger_units::MacAddr;
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) switches: u32,
    /// Packets of each switch that wait for their set-up.
    pub(super) outstanding: usize,
    pub(super) hosts_per_switch: u32,
    pub(super) length: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) setups: u64,
    pub(super) elapsed: Duration,
    /// How long each took, sorted; only with one outstanding.
    pub(super) latencies: Vec<Duration>,
}

/// The card of a host of the load.
pub(super) fn mac_of(switch: u32, host: u32) -> MacAddr {
    let ([_, _, a, b], [_, _, c, d]) = (switch.to_be_bytes(), host.to_be_bytes());
    MacAddr::from_bytes([0x02, 0xBE, a, b, c, d])
}

/// The gateway, at the first switch.
pub(super) const GATEWAY: &str = "02:be:00:00:ff:ff";
/// Ports of a switch that lead to hosts; the first ports lead to other switches.
const HOST_PORTS: u32 = 16;

/// Connects all switches, waits until `ready`, and plays the load.
pub(super) async fn play(
    controller: SocketAddr,
    load: Load,
    ready: impl AsyncFnOnce() -> Result<()>,
) -> Result<Outcome> {
    let shared = Arc::new(Shared::default());
    let (mut wires, mut ends) = (BTreeMap::new(), Vec::new());
    for switch in 1..=load.switches {
        let (wire, end) = mpsc::unbounded_channel();
        wires.insert(switch, wire);
        ends.push((switch, end));
    }
    let wires = Arc::new(wires);
    let mut tasks = JoinSet::new();
    for (number, arriving) in ends {
        let stream = TcpStream::connect(controller).await.context("connecting a switch")?;
        stream.set_nodelay(true)?;
        let switch = Switch::new(number, load, Arc::clone(&wires), Arc::clone(&shared));
        tasks.spawn(switch.run(stream, arriving));
    }
    ready().await?;
    // Hosts are bound by their first packets, which is not what is measured.
    shared.plays.store(true, Relaxed);
    tokio::time::sleep(load.length / 4).await;
    let (began, before) = (Instant::now(), shared.setups.load(Relaxed));
    shared.measures.store(true, Relaxed);
    tokio::time::sleep(load.length).await;
    let setups = shared.setups.load(Relaxed) - before;
    let elapsed = began.elapsed();
    shared.stops.store(true, Relaxed);
    tasks.shutdown().await;
    let mut latencies = std::mem::take(&mut *shared.lock());
    latencies.sort_unstable();
    Ok(Outcome { setups, elapsed, latencies })
}

#[derive(Debug, Default)]
struct Shared {
    plays: AtomicBool,
    measures: AtomicBool,
    stops: AtomicBool,
    setups: AtomicU64,
    latencies: std::sync::Mutex<Vec<Duration>>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Duration>> {
        self.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Frames that arrive at a switch: the port, and the frame.
type Wires = BTreeMap<u32, mpsc::UnboundedSender<(PortNumber, Vec<u8>)>>;

struct Switch {
    number: u32,
    load: Load,
    wires: Arc<Wires>,
    shared: Arc<Shared>,
    /// The encoded packets of all hosts, each handed up again and again.
    packets: Vec<Vec<u8>>,
    next: usize,
    waiting: usize,
    sent: Option<Instant>,
}

impl Switch {
    fn new(number: u32, load: Load, wires: Arc<Wires>, shared: Arc<Shared>) -> Self {
        let hosts = 0..load.hosts_per_switch;
        let packets = hosts.map(|host| packet_in(port_of_host(load, host), mac_of(number, host)));
        Self {
            packets: packets.collect(),
            number,
            load,
            wires,
            shared,
            next: 0,
            waiting: 0,
            sent: None,
        }
    }

    async fn run(
        mut self,
        mut stream: TcpStream,
        mut arriving: mpsc::UnboundedReceiver<(PortNumber, Vec<u8>)>,
    ) {
        let (mut splitter, mut buffer, mut out) = (Splitter::new(), vec![0; 65_536], Vec::new());
        Envelope { xid: 0, message: Message::Hello(Hello::OURS) }.encode_into(&mut out);
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            if !out.is_empty() && stream.write_all(&out).await.is_err() {
                return;
            }
            out.clear();
            tokio::select! {
                read = stream.read(&mut buffer) => {
                    let Ok(n @ 1..) = read else { return };
                    splitter.push(&buffer[..n]);
                    while let Ok(Some(frame)) = splitter.next_frame() {
                        self.hear(&frame, &mut out);
                    }
                }
                Some((port, frame)) = arriving.recv() => {
                    out.extend(handed_up(port, frame));
                }
                _ = tick.tick() => {}
            }
            self.offer(&mut out);
        }
    }

    /// Hands up packets until as many wait as may.
    fn offer(&mut self, out: &mut Vec<u8>) {
        if !self.shared.plays.load(Relaxed) || self.packets.is_empty() {
            return;
        }
        if self.number == 1 && self.sent.is_none() {
            // Where the gateway is decides the paths of all others.
            let gateway = GATEWAY.parse().expect("the gateway's card is an address");
            out.extend(packet_in(gateway_port(self.load), gateway));
        }
        while self.waiting < self.load.outstanding {
            out.extend_from_slice(&self.packets[self.next]);
            self.next = (self.next + 1) % self.packets.len();
            self.waiting += 1;
            self.sent = Some(Instant::now());
        }
    }

    fn hear(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        // Most of what comes is not worth decoding.
        if let [_, FLOW_MOD, ..] = frame {
            if is_setup(frame) {
                self.note_setup();
            }
            return;
        }
        let Ok(Envelope { xid, message }) = Envelope::decode(frame) else { return };
        let answer = match message {
            Message::FeaturesRequest => Message::FeaturesReply(Features {
                datapath: DatapathId(self.number.into()),
                buffers: 0,
                tables: 8,
                auxiliary: 0,
                capabilities: 7,
            }),
            Message::EchoRequest(bytes) => Message::EchoReply(bytes),
            Message::BarrierRequest => Message::BarrierReply,
            Message::RoleRequest(Role { kind, generation }) => {
                Message::RoleReply(Role { kind, generation })
            }
            Message::MultipartRequest(question) => {
                let reply = match question {
                    MultipartRequest::Ports => MultipartReply::Ports(self.ports()),
                    MultipartRequest::Flows(_) => MultipartReply::Flows(Vec::new()),
                    MultipartRequest::Meters(_) => MultipartReply::Meters(Vec::new()),
                    _ => MultipartReply::Description(claviger_openflow::Description::default()),
                };
                Message::MultipartReply { reply, more: false }
            }
            Message::PacketOut(sent) => return self.carry(&sent),
            _ => return,
        };
        Envelope { xid, message: answer }.encode_into(out);
    }

    fn note_setup(&mut self) {
        if self.waiting == 0 {
            return;
        }
        self.waiting -= 1;
        self.shared.setups.fetch_add(1, Relaxed);
        if self.load.outstanding == 1
            && self.shared.measures.load(Relaxed)
            && let Some(sent) = self.sent
        {
            self.shared.lock().push(sent.elapsed());
        }
    }

    /// Carries a frame to the other end of its cable: all switches are joined to the first.
    fn carry(&self, sent: &PacketOut) {
        for action in &sent.actions {
            let claviger_openflow::Action::Output { port, .. } = action else { continue };
            let end = if self.number == 1 { (port.0 + 1, 1) } else { (1, self.number - 1) };
            let is_trunk = port.0 <= trunks(self.load, self.number);
            if let Some(wire) = self.wires.get(&end.0).filter(|_| is_trunk) {
                // The other switch may be gone at the end.
                drop(wire.send((PortNumber(end.1), sent.data.clone())));
            }
        }
    }

    fn ports(&self) -> Vec<Port> {
        let n_ports = trunks(self.load, self.number).max(self.load.switches) + HOST_PORTS + 1;
        let ports = 1..=n_ports;
        let port = |number: u32| {
            let [_, _, a, b] = self.number.to_be_bytes();
            let [_, _, c, d] = number.to_be_bytes();
            Port {
                number: PortNumber(number),
                mac: [0x06, 0xBE, a, b, c, d],
                name: format!("p{number}"),
                config: 0,
                state: 4,
                features: [0; 4],
                speed_kbps: [0; 2],
            }
        };
        ports.map(port).collect()
    }
}

/// How many ports of a switch lead to others.
fn trunks(load: Load, number: u32) -> u32 {
    if number == 1 { load.switches - 1 } else { 1 }
}

fn port_of_host(load: Load, host: u32) -> PortNumber {
    PortNumber(load.switches + 1 + host % HOST_PORTS)
}

/// The port of the gateway at the first switch.
fn gateway_port(load: Load) -> PortNumber {
    PortNumber(load.switches + HOST_PORTS + 1)
}

const FLOW_MOD: u8 = 14;

/// Tells whether a message adds the entry that admits a host: table 0, with the cookie of a host.
fn is_setup(frame: &[u8]) -> bool {
    frame.get(8..10) == Some(&[0xC1, 0x03]) && frame.get(24..26) == Some(&[0, 0])
}

/// A host asks for the gateway, and no entry admits it.
fn packet_in(port: PortNumber, mac: MacAddr) -> Vec<u8> {
    let [_, _, _, switch, high, low] = *mac.as_bytes();
    let own = [10, 100 + switch % 90, high, low];
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        mac.as_bytes(),
        &own,
        &[0; 6],
        &[10, 190, 255, 255],
    );
    let mut frame = Vec::new();
    if let Ok(arp) = arp {
        let builder = PacketBuilder::ethernet2(*mac.as_bytes(), [0xFF; 6]).arp(arp);
        // A vector takes everything.
        drop(builder.write_to_vec(&mut frame));
    }
    handed_up(port, frame)
}

fn handed_up(port: PortNumber, data: Vec<u8>) -> Vec<u8> {
    let total_len = u16::try_from(data.len()).unwrap_or(u16::MAX);
    let matching = Match::new().with(Field::InPort, port.0.into());
    let packet =
        PacketIn { buffer: NO_BUFFER, total_len, reason: 1, table: 0, cookie: 0, matching, data };
    Envelope { xid: 0, message: Message::PacketIn(packet) }.encode()
}
