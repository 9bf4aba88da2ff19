//! `claviger bench`, which `cargo xtask bench` runs: figures of the whole program, on this machine.

mod devices;
mod figure;
mod fleet;
mod lab;
mod live;
mod load;
mod sdn;
mod sites;
mod virtual_fleet;

use anyhow::Result;

use crate::cli::bench::BenchCommand;
use crate::console;

/// Measures an area and prints its figures.
pub(crate) async fn run(command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Devices(args) => devices::run(&args).await,
        BenchCommand::Lab(args) => lab::run(&args),
        BenchCommand::Sdn(args) => sdn::run(&args).await,
        BenchCommand::Fleet(args) => {
            let seconds = fleet::measure(args.devices).await?;
            console::out(format_args!("{} devices: {seconds:.1} s", args.devices));
            Ok(())
        }
    }
}
