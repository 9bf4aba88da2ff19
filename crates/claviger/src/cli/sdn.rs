//! `claviger sdn` and what stands below it.

use clap::{Args, Subcommand};
use claviger_control::Place;
use claviger_units::MacAddr;

use super::StateArgs;

pub(super) const EXAMPLES: &str = "\
Examples:
  claviger sdn switches                          switches, and whether their tables are as they should be
  claviger sdn hosts                             cards that are admitted or were heard, and where
  claviger sdn trace 10.67.0.1 02:00:5e:00:00:07 the way between two hosts, and whether it is open
  claviger sdn events --follow                   what happens, as it happens
  claviger sdn admit 02:00:5e:00:00:07 --policy sensor
  claviger sdn dismiss 02:00:5e:00:00:07         from now on it reaches nothing";

/// `claviger sdn`
#[derive(Debug, Subcommand)]
pub(crate) enum SdnCommand {
    /// Show the switches
    Switches(ShowArgs),
    /// Show the links between switches
    Links(ShowArgs),
    /// Show the hosts that are admitted or were heard
    Hosts(ShowArgs),
    /// Follow the way between two hosts
    Trace(TraceArgs),
    /// Show what has happened in the network
    Events(EventsArgs),
    /// Let a host in, by the name of its card
    Admit(AdmitArgs),
    /// Let a host in no longer
    Dismiss(DismissArgs),
}

/// Showing something.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) state: StateArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `claviger sdn trace`
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// A host: its card or one of its addresses
    #[arg(value_name = "HOST")]
    pub(crate) from: String,
    /// Another one
    #[arg(value_name = "HOST")]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `claviger sdn events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Goes on with what happens, until interrupted
    #[arg(long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// `claviger sdn admit`
#[derive(Debug, Args)]
pub(crate) struct AdmitArgs {
    /// The card
    pub(crate) mac: MacAddr,
    /// What the host may reach: a policy of the controller's configuration
    #[arg(long)]
    pub(crate) policy: String,
    /// Where it belongs, as `claviger sdn hosts` shows it; without it, where it is seen first
    #[arg(long, value_name = "DATAPATH:PORT")]
    pub(crate) place: Option<Place>,
    /// Keeps it at its port even when that is unplugged
    #[arg(long)]
    pub(crate) fixed: bool,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `claviger sdn dismiss`
#[derive(Debug, Args)]
pub(crate) struct DismissArgs {
    /// The card
    pub(crate) mac: MacAddr,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}
