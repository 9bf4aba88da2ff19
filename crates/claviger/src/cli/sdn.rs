//! `claviger sdn` and what stands below it.

use std::path::PathBuf;

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
  claviger sdn import labels.csv                 enrols devices: mac,bootstrap_key,policy
  claviger sdn pending                           devices that were seen and wait for a word
  claviger sdn approve 02:00:5e:10:00:07         lets a device take part
  claviger sdn quarantine 02:00:5e:10:00:07 --why 'talks at night'
  claviger sdn mud sensor.json --policy sensor2 --server mqtt.example=gateway
  claviger sdn channel --to city                 moves the quantum channel to another fibre
  claviger sdn audit --follow                    who did what to which device
  claviger sdn admit 02:00:5e:00:00:07 --policy sensor   a host that is no device of the platform";

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
    /// Show the fibre of the quantum channel, or move that to another one
    Channel(ChannelArgs),
    /// Import a Manufacturer Usage Description (RFC 8520) as a policy of the controller
    Mud(MudArgs),
    /// Show the devices that were seen and wait for approval
    Pending(ShowArgs),
    /// Show all enrolled devices
    Devices(ShowArgs),
    /// Enrol devices with what stands on their labels
    Import(ImportArgs),
    /// Let devices take part
    Approve(MeasureArgs),
    /// Shut devices out for now
    Suspend(MeasureArgs),
    /// Let suspended devices take part again
    Resume(MeasureArgs),
    /// Shut devices out because of a suspicion
    Quarantine(MeasureArgs),
    /// Let devices out of quarantine
    Release(MeasureArgs),
    /// Shut devices out for good, and wipe their keys
    Retire(MeasureArgs),
    /// Show the orders for first keys
    Orders(ShowArgs),
    /// Show who did what to which device
    Audit(EventsArgs),
    /// Let a host in that is no device of the platform
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

/// `claviger sdn mud`
#[derive(Debug, Args)]
pub(crate) struct MudArgs {
    /// The description: JSON, as its maker publishes it
    pub(crate) file: PathBuf,
    /// The name of the policy
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: String,
    /// Which `[server]` of the controller a host of the description is
    #[arg(long, value_name = "HOST=SERVER", value_parser = pair)]
    pub(crate) server: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (host, server) =
        text.split_once('=').ok_or("say HOST=SERVER, such as mqtt.example=gateway")?;
    Ok((host.to_owned(), server.to_owned()))
}

/// `claviger sdn channel`
#[derive(Debug, Args)]
pub(crate) struct ChannelArgs {
    /// Moves the quantum channel to this fibre
    #[arg(long, value_name = "FIBRE")]
    pub(crate) to: Option<String>,
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

/// `claviger sdn import`
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A list with the columns `mac,bootstrap_key,policy`; it is taken whole or not at all
    pub(crate) labels: PathBuf,
    /// The file has what a scanner read off QR codes, a label a line
    #[arg(long)]
    pub(crate) qr: bool,
    /// What devices may reach whose label is a QR code: a policy of the controller
    #[arg(long, requires = "qr")]
    pub(crate) policy: Option<String>,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `claviger sdn approve` and its like
#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// Cards of devices
    #[arg(required = true, value_name = "MAC")]
    pub(crate) macs: Vec<MacAddr>,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    pub(crate) why: String,
    #[command(flatten)]
    pub(crate) state: StateArgs,
}
