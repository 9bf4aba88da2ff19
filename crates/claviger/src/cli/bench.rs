//! `claviger bench` and what stands below it.

use clap::{Args, Subcommand};

/// `claviger bench`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The controller: set-ups a second, latency, discovery, re-routing, entries
    Sdn(BenchArgs),
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
