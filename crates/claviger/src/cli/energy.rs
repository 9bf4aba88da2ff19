//! `claviger devices energy`

use std::path::PathBuf;

use clap::Args;
use claviger_energy::Way;
use claviger_units::Span;

use crate::duration;

/// How to use it.
pub(crate) const EXAMPLES: &str = "\
Examples:
  claviger devices energy                                  every way, on the paper's device
  claviger devices energy --profile esp32-fast-ecc --wake 5m --svg energy.svg
  claviger devices energy --way push,psk12 --against dkg_auth --json

Everything here is a model: profiles/ has the hardware, each value with its source. Copy one and change it.";

/// `claviger devices energy`
#[derive(Debug, Args)]
pub(crate) struct EnergyArgs {
    /// The hardware: fipy, esp32-fast-ecc, reference, reference-fast-ecc, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "fipy")]
    pub(crate) profile: String,
    /// The ways to a key, all of them by default: `dkg`, `dkg_auth`, `https`, `psk13_dhe`, `psk13_ke`,
    /// `tls13_resumption`, `psk12`, `dtls12_psk`, `oscore`, `push`, `push_piggyback`, `pad`
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    pub(crate) way: Vec<Way>,
    /// How often the device wakes for a reading
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration::parse)]
    pub(crate) wake: Span,
    /// How often it gets a fresh key
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = duration::parse)]
    pub(crate) renew: Span,
    /// The way to compare with
    #[arg(long, value_name = "WAY", default_value = "dkg")]
    pub(crate) against: Way,
    /// Prints one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes the table here too
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Draws battery life over the wake period
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}
