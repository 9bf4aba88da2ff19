//! `claviger lab`: figures in virtual time, and networks to try things on.

mod capacity;
mod capture;
mod figure;
mod fleet;
mod found;
mod links;
pub(crate) mod live;
mod mininet;
pub(crate) mod net;
mod observer;
pub(crate) mod own_controller;
mod shelf;
mod standing;
mod sweep;
mod two_networks;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result};
use claviger_lab::figures::Figure;
use tokio::process::Command;

use figure::Wanted;
use own_controller::OwnController;

use crate::cli::lab::{LabCommand, LabNetCommand, LabPolicy};

/// Does one of the commands; its exit code is that of what was run inside.
pub(crate) async fn run(command: LabCommand, verbosity: u8) -> Result<ExitCode> {
    match command {
        LabCommand::Fig2a(args) => figure::make(Wanted::Virtual(Figure::Fig2a), &args),
        LabCommand::Fig2b(args) => figure::make(Wanted::Virtual(Figure::Fig2b), &args),
        LabCommand::Fig2c(args) => figure::make(Wanted::Virtual(Figure::Fig2c), &args),
        LabCommand::Fig2d(args) => figure::make(Wanted::Virtual(Figure::Fig2d), &args),
        LabCommand::Fig2e(args) => figure::make(Wanted::Captured, &args.into_figure()),
        LabCommand::All(args) => figure::make(Wanted::All, &args),
        LabCommand::Capacity(args) => capacity::run(&args),
        LabCommand::Sweep(args) => sweep::run(&args).map(done),
        LabCommand::Live(args) => live::run(&args),
        LabCommand::Observe(args) => observer::observe(&args).await.map(done),
        LabCommand::Net(LabNetCommand::Run(args)) => net::enclose(&args, verbosity),
        LabCommand::Net(LabNetCommand::Up(args)) => standing::up(&args),
        LabCommand::Net(LabNetCommand::Exec(args)) => standing::exec(&args),
        LabCommand::Net(LabNetCommand::Down(args)) => standing::down(&args),
        LabCommand::Net(LabNetCommand::Inside(args)) => net::inside(args, verbosity).await,
        LabCommand::Mininet(args) => mininet::enclose(&args, verbosity),
        LabCommand::MininetInside(args) => mininet::inside(&args, verbosity).await,
        LabCommand::DkgPeer(args) => match fleet::make_keys_at(args.address).await? {},
    }
}

/// Runs this program again inside private namespaces, with these words and behind them a command.
fn enclosed(verbosity: u8, words: &[&str], command: &[OsString]) -> Result<ExitCode> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut again = claviger_netlab::enclosed(program);
    again.args((0..verbosity).map(|_| "--verbose")).args(words);
    if !command.is_empty() {
        again.arg("--").args(command);
    }
    let status = again.status().context("the private namespaces cannot be made")?;
    Ok(exit_code(status))
}

/// Returns a command that is ended when this thread is, be it killed with its program.
fn bound(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program);
    command
}

/// Tells a command inside a network where everything is.
fn say_where(command: &mut Command, ovs_rundir: &Path, own: &OwnController) -> Result<()> {
    command.env("OVS_RUNDIR", ovs_rundir).env("CLAVIGER_STATE", own.state());
    command.env("CLAVIGER", std::env::current_exe().context("where this program lies")?);
    command.env("CLAVIGER_CONTROLLER", own.process().to_string());
    Ok(())
}

/// Returns how many threads run at once.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

const fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

const fn policy_name(policy: LabPolicy) -> &'static str {
    match policy {
        LabPolicy::Open => "open",
        LabPolicy::Sensor => "sensor",
        LabPolicy::None => "none",
    }
}
