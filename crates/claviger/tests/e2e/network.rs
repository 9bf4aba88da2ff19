//! A network of which each role is a process of its own, as in the field.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::parties::App;
use crate::place::{Place, utf8};
use crate::process::{Process, claviger, eventually};

/// A process of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Fibre,
    QkdA,
    QkdB,
    KmeA,
    KmeB,
    Platform,
    Gateway,
    Controller,
    Lan,
    Devices,
}

impl Role {
    pub(crate) const ALL: [Self; 10] = [
        Self::Fibre,
        Self::QkdA,
        Self::QkdB,
        Self::KmeA,
        Self::KmeB,
        Self::Platform,
        Self::Gateway,
        Self::Controller,
        Self::Lan,
        Self::Devices,
    ];
    /// What makes and keeps keys.
    pub(crate) const LINK: [Self; 5] =
        [Self::Fibre, Self::QkdA, Self::QkdB, Self::KmeA, Self::KmeB];

    /// Returns the folder, and the name that `claviger run` knows.
    pub(crate) const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Fibre => ("fibre", "fibre"),
            Self::QkdA => ("site-a/qkd", "qkd"),
            Self::QkdB => ("site-b/qkd", "qkd"),
            Self::KmeA => ("site-a/kme", "kme"),
            Self::KmeB => ("site-b/kme", "kme"),
            Self::Platform => ("site-b/platform", "platform"),
            Self::Gateway => ("site-a/gateway", "gateway"),
            Self::Controller => ("site-b/controller", "controller"),
            Self::Lan => ("site-a/switch", "lan"),
            Self::Devices => ("devices", "devices"),
        }
    }
}

/// The roles that run at a place.
#[derive(Debug)]
pub(crate) struct Network<'a> {
    place: &'a Place,
    running: BTreeMap<Role, Process>,
}

impl<'a> Network<'a> {
    /// Starts roles of a place that was initialised.
    pub(crate) fn start(place: &'a Place, roles: &[Role]) -> Self {
        let mut network = Self { place, running: BTreeMap::new() };
        roles.iter().for_each(|role| network.begin(*role));
        network
    }

    /// Starts a role that does not run.
    pub(crate) fn begin(&mut self, role: Role) {
        let config = self.place.layout().config(role.names().0);
        let arguments = ["run", role.names().1, "--config", utf8(&config), "-vv"];
        let process =
            Process::start(&self.place.logs(), &format!("{role:?}"), &mut claviger(&arguments));
        assert!(self.running.insert(role, process).is_none(), "{role:?} runs already");
    }

    /// Ends a role at once, whatever it does.
    pub(crate) fn kill(&mut self, role: Role) {
        self.running.remove(&role).unwrap().kill();
    }

    /// Ends a role as an operator would.
    pub(crate) fn stop(&mut self, role: Role) {
        // It lives until the end, to tell what it said if it does not end well.
        let mut process = self.running.remove(&role).unwrap();
        let ended = process.terminate();
        assert_eq!(ended.code, Some(0), "{role:?} did not end well");
    }

    /// Fails if a role has ended by itself.
    pub(crate) fn assert_all_run(&mut self) {
        for (role, process) in &mut self.running {
            assert_eq!(process.ended(), None, "{role:?} has ended by itself");
        }
    }

    /// Returns all that a role has logged since the first start.
    pub(crate) fn log(&self, role: Role) -> String {
        let path = self.place.logs().join(format!("{role:?}.err"));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Makes at least `keys` keys, then stops the link: from now on their number only falls.
    pub(crate) fn with_frozen_keys(place: &'a Place, more: &[Role], keys: u64) -> Self {
        let mut network = Self::start(place, &[&Role::LINK, more].concat());
        let (a, b) = (App::a(place), App::b(place));
        eventually("keys at A", PATIENCE, || a.stored().filter(|stored| *stored >= keys));
        [Role::Fibre, Role::QkdA, Role::QkdB].into_iter().for_each(|role| network.stop(role));
        let mut seen = Vec::new();
        eventually("the last block", PATIENCE, || {
            seen.push((a.stored(), b.stored()));
            let last = seen.iter().rev().take(10).collect::<Vec<_>>();
            (last.len() == 10 && last.iter().all(|stored| *stored == last[0])).then_some(())
        });
        network
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
