//! What the controller of the network says and takes as JSON: `GET /v1/switches`, `/v1/links`,
//! `/v1/hosts`, `/v1/policies`, `/v1/trace`, `/v1/events`, `/v1/channel`; `PUT` and `DELETE
//! /v1/admissions`; `PUT /v1/channel`; `POST /v1/channel/alarms`.
//!
//! Addresses of cards are six pairs of hexadecimal digits with colons, datapaths 16 digits, places
//! `DATAPATH:PORT`.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/switches`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switches {
    /// In the order of their names.
    pub switches: Vec<Switch>,
}

/// A switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Its datapath id.
    pub datapath: String,
    /// What its operator calls it.
    pub description: String,
    /// Whether it is connected.
    pub up: bool,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Flow entries that it should have.
    pub entries: usize,
    /// Entries that it lacks, has otherwise, or should not have.
    pub differing: usize,
    /// Whether it has still to confirm what it was told.
    pub confirming: bool,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// `down`, `undecided`, `trunk` or `hosts`.
    pub role: String,
}

/// The answer to `GET /v1/links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// Both ends of each, the lower first.
    pub links: Vec<[String; 2]>,
}

/// The answer to `GET /v1/hosts?after=MAC`: up to 1000.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hosts {
    /// In the order of their cards.
    pub hosts: Vec<Host>,
    /// Whether discovery has nothing new to tell at present.
    #[serde(default)]
    pub settled: bool,
}

/// The answer to `GET /v1/policies`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// The names under which hosts can be admitted.
    pub policies: Vec<String>,
}

/// A host that is known or was heard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its card.
    pub mac: String,
    /// Where it is, or was last.
    pub place: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The policy under which it is admitted; none for an unknown one.
    pub policy: Option<String>,
    /// Whether it is there.
    pub present: bool,
    /// When it was heard last, in seconds of Unix time.
    pub seen_s: Option<f64>,
    /// Flow entries that stand for it, on all switches.
    pub entries: usize,
}

/// The answer to `GET /v1/trace?from=MAC&to=MAC`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Where the first host is.
    pub from: Option<String>,
    /// Where the second host is.
    pub to: Option<String>,
    /// Whether a policy lets one reach the other.
    pub allowed: bool,
    /// By which port a packet leaves each switch; none where no links lead there.
    pub path: Option<Vec<String>>,
    /// Switches of the path whose tables are not as they should be.
    pub differing: Vec<String>,
}

/// The answer to `GET /v1/events?after=SEQ&wait_s=SECONDS`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// The number of the newest event that there is.
    pub newest: u64,
    /// Changes with every start of the controller, and numbers begin anew.
    pub run: u64,
}

/// Something that has happened in the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1.
    pub seq: u64,
    /// When, in seconds of Unix time.
    pub at_s: f64,
    /// What kind of event, in kebab case.
    pub kind: String,
    /// In words.
    pub text: String,
    /// The card that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The port that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// An address that was learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// The answer to `GET /v1/channel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// The fibre that the quantum channel takes.
    pub fibre: String,
    /// All fibres.
    pub fibres: Vec<Fibre>,
    /// Whether the optical switch has confirmed it.
    pub confirmed: bool,
}

/// A fibre behind the optical switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fibre {
    /// Its name.
    pub name: String,
    /// Whether the switch sees light in it.
    pub light: bool,
}

/// What `PUT /v1/channel` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveChannel {
    /// The fibre that it shall take.
    pub fibre: String,
}

/// What `POST /v1/channel/alarms` takes, of the ends of the quantum channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelAlarm {
    /// What is wrong.
    pub alarm: Alarm,
}

/// What an end of the quantum channel has noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// A block was dropped because of its error rate.
    Qber,
    /// Hardly any light comes.
    LossOfLight,
}

/// What `PUT /v1/admissions` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admissions {
    /// Hosts that are let in, or whose admission changes.
    pub admit: Vec<Admission>,
    /// Whether hosts that are not in the list are let in no longer; servers of the configuration stay.
    #[serde(default)]
    pub replace: bool,
}

/// A host that may take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Its card.
    pub mac: String,
    /// The name of its policy.
    pub policy: String,
    /// Where it belongs; without it, where it is seen first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Addresses that nobody else can take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Whether it stays at its port even when that is unplugged.
    #[serde(default)]
    pub fixed: bool,
}
