//! The path of the quantum channel through an optical switch: which fibre it takes, and when it leaves one.

use claviger_openflow::{Action, DatapathId, Field, FlowStats, Instruction, Match, PortNumber};
use claviger_units::{Span, Timestamp};

use super::Controller;
use crate::event::{ChannelAlarm, Event};
use crate::tables::{Entry, EntryKey, Owner};

/// An optical switch and the fibres behind it. It forwards light from port to port and reads no packet,
/// so that no host is looked for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpticsConfig {
    /// The switch.
    pub datapath: DatapathId,
    /// The port of the quantum channel.
    pub channel: PortNumber,
    /// The fibres, by name and port; the first is taken while nothing speaks against it.
    pub fibres: Vec<(String, PortNumber)>,
}

/// Where the quantum channel goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelView {
    /// The fibre that it should take.
    pub fibre: String,
    /// All fibres, and whether there is light at each.
    pub fibres: Vec<(String, bool)>,
    /// Whether the switch has confirmed it.
    pub is_confirmed: bool,
}

/// Why the channel is not moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// Name an optical switch in the configuration.
    #[error("this controller has no optical switch")]
    NoOptics,
    /// Name one of the fibres.
    #[error("there is no fibre {0}; `claviger sdn channel` lists them")]
    NoFibre(String),
}

/// Where the channel goes.
#[derive(Debug)]
pub(super) struct Optics {
    // An index into the fibres of the configuration.
    fibre: usize,
    // Alarms before then are about the fibre that was left.
    deaf_until: Timestamp,
}

/// After a move the link fills a new block; until then what it complains about is the old one.
const DEAF: Span = Span::from_secs(15);
/// The priority of a cross-connection.
const CROSS: u16 = 100;

impl Optics {
    pub(super) const NEW: Self = Self { fibre: 0, deaf_until: Timestamp::START };
}

impl Controller {
    /// Takes an alarm of an end of the quantum channel, and moves that to the next fibre with light.
    pub fn handle_channel_alarm(&mut self, now: Timestamp, alarm: ChannelAlarm) {
        if self.config.optics.is_none() || self.optics.deaf_until > now {
            return;
        }
        self.leave_fibre(now, alarm);
        self.flush(now);
    }

    /// Moves the quantum channel to the fibre of this name.
    pub fn move_channel(&mut self, now: Timestamp, name: &str) -> Result<(), ChannelError> {
        let config = self.config.optics.as_ref().ok_or(ChannelError::NoOptics)?;
        let place = config.fibres.iter().position(|(fibre, _)| fibre == name);
        let place = place.ok_or_else(|| ChannelError::NoFibre(name.to_owned()))?;
        self.take_fibre(now, place, ChannelAlarm::Operator);
        self.flush(now);
        Ok(())
    }

    /// Returns where the quantum channel goes; `None` without an optical switch.
    #[must_use]
    pub fn channel(&self) -> Option<ChannelView> {
        let config = self.config.optics.as_ref()?;
        let fibres = config.fibres.iter().map(|(name, port)| (name.clone(), self.has_light(*port)));
        let view = self.switches().into_iter().find(|view| view.datapath == config.datapath);
        Some(ChannelView {
            fibre: config.fibres.get(self.optics.fibre)?.0.clone(),
            fibres: fibres.collect(),
            is_confirmed: view
                .is_some_and(|view| view.is_up && view.n_differing == 0 && !view.is_confirming),
        })
    }

    pub(super) fn is_optical(&self, datapath: DatapathId) -> bool {
        self.config.optics.as_ref().is_some_and(|config| config.datapath == datapath)
    }

    /// Goes on with the fibre that an optical switch has when it connects: a controller that was
    /// restarted moves nothing.
    pub(super) fn adopt_cross_connection(&mut self, datapath: DatapathId, entries: &[FlowStats]) {
        let Some(config) = self.config.optics.as_ref().filter(|of| of.datapath == datapath) else {
            return;
        };
        let from_channel = Match::new().with(Field::InPort, config.channel.0.into());
        let present = entries.iter().find(|entry| entry.matching == from_channel);
        let out = present.and_then(|entry| match &entry.instructions[..] {
            [Instruction::ApplyActions(actions)] => {
                actions.iter().find_map(|action| match action {
                    Action::Output { port, .. } => Some(*port),
                    _ => None,
                })
            }
            _ => None,
        });
        let place = out.and_then(|out| config.fibres.iter().position(|(_, port)| *port == out));
        if let Some(place) = place {
            self.optics.fibre = place;
        }
    }

    /// Leaves a fibre whose light is gone.
    pub(super) fn lose_light(&mut self, now: Timestamp, port: PortNumber) {
        let present = self.config.optics.as_ref().and_then(|of| of.fibres.get(self.optics.fibre));
        if present.is_some_and(|(_, of)| *of == port) {
            self.leave_fibre(now, ChannelAlarm::FibreDark);
        }
    }

    /// The cross-connections of an optical switch.
    pub(super) fn cross_connections(&self, datapath: DatapathId) -> Vec<Entry> {
        let config = self.config.optics.as_ref().filter(|config| config.datapath == datapath);
        let ends = config.and_then(|config| {
            let (_, fibre) = config.fibres.get(self.optics.fibre)?;
            Some([(config.channel, *fibre), (*fibre, config.channel)])
        });
        let entries = ends.into_iter().flatten().map(|(from, to)| {
            let matching = Match::new().with(Field::InPort, from.0.into());
            let key = EntryKey { table: 0, priority: CROSS, matching };
            let instructions = vec![Instruction::ApplyActions(vec![Action::output(to)])];
            Entry { datapath, key, instructions }
        });
        entries.collect()
    }

    fn has_light(&self, port: PortNumber) -> bool {
        let switch = self.config.optics.as_ref().and_then(|of| self.switches.get(&of.datapath));
        switch.is_some_and(|switch| {
            switch.connection.is_some()
                && switch.ports.get(&port).is_some_and(|state| state.port.is_up())
        })
    }

    fn leave_fibre(&mut self, now: Timestamp, alarm: ChannelAlarm) {
        let Some(config) = &self.config.optics else { return };
        let n_fibres = config.fibres.len();
        let others = (1..n_fibres).map(|step| (self.optics.fibre + step) % n_fibres);
        let next = others
            .into_iter()
            .find(|&place| config.fibres.get(place).is_some_and(|&(_, port)| self.has_light(port)));
        match next {
            Some(place) => self.take_fibre(now, place, alarm),
            None => {
                let fibre = config.fibres.get(self.optics.fibre).map(|(name, _)| name.clone());
                self.optics.deaf_until = now + DEAF;
                self.tell(Event::ChannelStays { fibre: fibre.unwrap_or_default(), alarm });
            }
        }
    }

    fn take_fibre(&mut self, now: Timestamp, place: usize, alarm: ChannelAlarm) {
        let Some(config) = &self.config.optics else { return };
        let name = |place: usize| config.fibres.get(place).map(|(name, _)| name.clone());
        let (Some(from), Some(to)) = (name(self.optics.fibre), name(place)) else { return };
        let datapath = config.datapath;
        self.optics = Optics { fibre: place, deaf_until: now + DEAF };
        self.tables.want(Owner::Switch(datapath), self.cross_connections(datapath));
        if from != to {
            self.tell(Event::ChannelMoved { from, to, alarm });
        }
    }
}
