//! The emulated optical switch between the ends of the quantum channel and its fibres. It obeys the
//! controller by OpenFlow: where the channel goes is a pair of cross-connections, and nothing else.

use std::collections::BTreeSet;

use claviger_net::shutdown::Shutdown;
use claviger_net::tls;
use claviger_openflow::{Description, Envelope, PortNumber};
use claviger_switch::{Connection, LinkState, Switch, SwitchConfig};
use claviger_units::{Decibels, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{CHANNEL_PORT, OpticsRoleConfig};
use crate::role::{Folder, RoleError};
use crate::switch_line::{Heard, Line};

/// Where the light goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Path {
    /// Nowhere: no cross-connection, or into a fibre that is cut.
    Dark,
    /// Through this fibre, with the loss of all of it.
    Through { fibre: usize, loss: Decibels },
}

const CHANNEL: PortNumber = PortNumber(CHANNEL_PORT);

/// The switch and its line to the controller.
pub(super) struct Optics {
    switch: Switch,
    config: OpticsRoleConfig,
    inputs: mpsc::Receiver<Heard>,
    queue: mpsc::UnboundedSender<(u64, Envelope)>,
    connection: Option<Connection>,
    cuts: BTreeSet<String>,
    _line: JoinHandle<()>,
}

impl Optics {
    pub(super) fn start(
        config: OpticsRoleConfig,
        folder: &Folder,
        now: Timestamp,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let (identity, authority) = folder.identity()?;
        let description = Description {
            manufacturer: "Claviger".into(),
            hardware: "emulated optical cross-connect".into(),
            datapath: "optical switch".into(),
            ..Description::default()
        };
        let names = config.fibres.iter().map(|fibre| fibre.name.clone());
        let ports = std::iter::once("channel".to_owned()).chain(names).collect();
        let datapath = config.datapath;
        let of = SwitchConfig { datapath, description, ports, n_tables: 1, most_entries: 64 };
        let (heard, inputs) = mpsc::channel(64);
        let (queue, queued) = mpsc::unbounded_channel();
        let line = Line {
            of: datapath,
            controller: config.controller,
            name: config.controller_name.clone(),
            tls: tls::client_mutual(&identity, &authority),
            heard,
            shutdown: shutdown.clone(),
        };
        Ok(Self {
            switch: Switch::new(now, of),
            config,
            inputs,
            queue,
            connection: None,
            cuts: BTreeSet::new(),
            _line: tokio::spawn(line.keep(queued)),
        })
    }

    /// Waits for a word of the controller.
    pub(super) async fn next(&mut self) -> Heard {
        match self.inputs.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
    }

    /// Obeys the controller.
    pub(super) fn handle(&mut self, now: Timestamp, heard: Heard) {
        match heard {
            Heard::Connected(_, connection) => {
                self.connection = Some(connection);
                self.switch.handle_connected(connection);
            }
            Heard::Said(_, connection, envelope) => {
                self.switch.handle_message(now, connection, envelope);
            }
            Heard::Closed(_, connection) => {
                self.connection = None;
                self.switch.handle_disconnected(connection);
            }
        }
        self.drain();
    }

    /// Notes which fibres are cut: the switch sees no light in them.
    pub(super) fn set_cuts(&mut self, cuts: &BTreeSet<String>) {
        if self.cuts == *cuts {
            return;
        }
        self.cuts.clone_from(cuts);
        for (port, fibre) in (CHANNEL.0 + 1..).map(PortNumber).zip(&self.config.fibres) {
            let is_cut = cuts.contains(&fibre.name);
            let state = if is_cut { LinkState::Down } else { LinkState::Up };
            self.switch.handle_link(port, state);
        }
        self.drain();
    }

    /// Returns where the light goes now.
    pub(super) fn path(&self) -> Path {
        let crossed = self.switch.cross_connections();
        let out = crossed.iter().find(|(from, _)| *from == CHANNEL).map(|(_, to)| to.0);
        let fibre = out.and_then(|port| port.checked_sub(CHANNEL.0 + 1)).map(|n| n as usize);
        let found = fibre.and_then(|n| Some((n, self.config.fibres.get(n)?)));
        match found.filter(|(_, fibre)| !self.cuts.contains(&fibre.name)) {
            Some((fibre, of)) => Path::Through { fibre, loss: of.loss },
            None => Path::Dark,
        }
    }

    fn drain(&mut self) {
        while let Some((connection, envelope)) = self.switch.poll_transmit() {
            // The line ends only with the role.
            drop(self.queue.send((connection.0, envelope)));
        }
    }
}
