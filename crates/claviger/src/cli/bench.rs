//! `claviger bench` and what stands below it.

use clap::{Args, Subcommand};

/// `claviger bench`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The devices: bytes and public-key work of every path of keys, a live fleet, a storm
    Devices(BenchArgs),
    /// The controller: set-ups a second, latency, discovery, re-routing, entries
    Sdn(BenchArgs),
    /// The laboratory: days of fleets in virtual time, all figures, and whether they repeat
    Lab(BenchArgs),
    /// The fleet alone: devices on emulated switches, from nothing to everybody's first key
    Fleet(FleetArgs),
}

/// How large a fleet.
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 13_000,
          value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) devices: u32,
}

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Measures less long, and leaves out what takes minutes
    #[arg(long)]
    pub(crate) quick: bool,
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}
