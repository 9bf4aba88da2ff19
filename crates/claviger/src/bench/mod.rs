//! `claviger bench`, which `cargo xtask bench` runs: figures of the whole program, on this machine.

mod fleet;
mod load;
mod sdn;

use anyhow::Result;

use crate::cli::bench::BenchCommand;

/// Measures an area and prints its figures.
pub(crate) async fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Sdn(args) => sdn::run(&args).await,
    }
}
