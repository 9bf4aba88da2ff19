//! The emulated network: switches that obey the controller by OpenFlow over TLS, and the cables of
//! emulated devices.

use std::collections::BTreeMap;
use std::time::Duration;

use claviger_net::link::{self, LinkEvent};
use claviger_net::shutdown::TaskGroup;
use claviger_net::{listen, tls};
use claviger_openflow::{DatapathId, Envelope};
use claviger_switch::Connection;
use claviger_switch::lan::{Door, Lan, LanConfig};
use claviger_units::Timestamp;
use claviger_wire::lan::Message;
use tokio::sync::mpsc;

use crate::channel::Channel;
use crate::config::LanRoleConfig;
use crate::report::Report;
use crate::role::{Context, Folder, RoleError};
use crate::switch_line::{Heard, Line};

/// Runs an emulated network until the signal to stop.
pub async fn run(config: LanRoleConfig, folder: Folder, context: Context) -> Result<(), RoleError> {
    let (identity, authority) = folder.identity()?;
    let cables = link::serve_plain(listen::tcp(config.listen).await?, "cables of devices");
    let lan = LanConfig { n_edges: config.edges, ports: config.ports, server: config.server };
    let lan = Lan::new(context.clock.now(), &lan);
    let mut tasks = TaskGroup::new(context.shutdown.clone());
    let (heard, inputs) = mpsc::channel(QUEUE);
    let tls = tls::client_mutual(&identity, &authority);
    let mut lines = BTreeMap::new();
    for switch in lan.fabric().switches() {
        let (queue, queued) = mpsc::unbounded_channel();
        let line = Line {
            of: switch.datapath(),
            controller: config.controller,
            name: config.controller_name.clone(),
            tls: tls.clone(),
            heard: heard.clone(),
            shutdown: context.shutdown.clone(),
        };
        lines.insert(switch.datapath(), queue);
        tasks.spawn("line of a switch", line.keep(queued));
    }
    context.reports.tell(Report::Ready("lan"));
    let cables = Channel::new(cables);
    let actor = Actor { lan, lines, cables, inputs, connections: BTreeMap::new(), context };
    let shutdown = actor.context.shutdown.clone();
    let ended = tokio::select! {
        () = actor.run() => Ok(()),
        name = tasks.lost() => Err(RoleError::Lost(name)),
    };
    shutdown.trigger();
    tasks.finish(Duration::from_secs(2)).await;
    ended
}

/// Messages of controllers that wait for the network.
const QUEUE: usize = 4096;
/// Messages that are taken at once.
const BATCH: usize = 256;

type Queue = mpsc::UnboundedSender<(u64, Envelope)>;

struct Actor {
    lan: Lan,
    lines: BTreeMap<DatapathId, Queue>,
    cables: Channel,
    inputs: mpsc::Receiver<Heard>,
    /// The connection of each switch that stands.
    connections: BTreeMap<DatapathId, Connection>,
    context: Context,
}

impl Actor {
    async fn run(mut self) {
        let clock = self.context.clock;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.lan.poll_timeout();
            tokio::select! {
                () = self.context.shutdown.cancelled() => return,
                _ = self.inputs.recv_many(&mut batch, BATCH) => {
                    let now = clock.now();
                    batch.drain(..).for_each(|heard| self.handle(now, heard));
                }
                event = self.cables.next() => self.handle_cables(clock.now(), event),
                () = clock.sleep_until(due) => self.lan.handle_timeout(clock.now()),
            }
            self.drain();
        }
    }

    fn handle(&mut self, now: Timestamp, heard: Heard) {
        match heard {
            Heard::Connected(of, connection) => {
                self.connections.insert(of, connection);
                self.lan.handle_connected(now, of, connection);
            }
            Heard::Said(of, connection, envelope) => {
                self.lan.handle_message(now, of, connection, envelope);
            }
            Heard::Closed(of, connection) => {
                self.connections.remove(&of);
                self.lan.handle_disconnected(of, connection);
            }
        }
    }

    fn handle_cables(&mut self, now: Timestamp, event: LinkEvent) {
        let LinkEvent::Frame(frame) = event else { return };
        match Message::decode(&frame) {
            Ok(Message::Attach { mac }) => {
                if let Err(full) = self.lan.attach(now, mac) {
                    self.context.reports.refused("lan", format_args!("{mac}: {full}"));
                }
            }
            Ok(Message::Knock { id, mac, port, is_udp }) => {
                let door = if is_udp { Door::Udp(port) } else { Door::Tcp(port) };
                self.lan.knock(now, id, mac, door);
            }
            _ => tracing::warn!("a device spoke out of turn at its cable"),
        }
    }

    fn drain(&mut self) {
        while let Some((of, connection, envelope)) = self.lan.poll_transmit() {
            if let Some(queue) = self.lines.get(&of) {
                // A line ends only with the role.
                drop(queue.send((connection.0, envelope)));
            }
        }
        while let Some((id, is_open)) = self.lan.poll_answer() {
            self.cables.send(Message::Answer { id, is_open }.encode());
        }
    }
}
