//! `claviger lab`: networks to try things on.

mod net;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::lab::{LabCommand, LabNetCommand};

/// Does one of the commands; its exit code is that of what was run inside.
pub(crate) async fn run(command: LabCommand, verbosity: u8) -> Result<ExitCode> {
    match command {
        LabCommand::Net(LabNetCommand::Run(args)) => net::enclose(&args, verbosity),
        LabCommand::Net(LabNetCommand::Inside(args)) => net::inside(args, verbosity).await,
    }
}
