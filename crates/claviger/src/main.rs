//! `claviger`: fresh quantum keys for every device of an IoT fleet, on the command line.

mod bench;
mod chosen_link;
mod cli;
mod console;
mod demo;
mod duration;
mod energy;
mod enrolment;
mod figures;
mod init;
mod key;
mod kme;
mod lab;
mod link;
mod lock;
mod log;
mod mud;
mod pad;
mod platform;
mod progress;
mod readings;
mod reseed;
mod run;
mod sdn;
mod signals;
mod state;
mod up;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::cli::link::LinkCommand;
use crate::cli::{Cli, Command, DevicesCommand, KeyCommand, KmeCommand};

fn main() -> ExitCode {
    let cli = Cli::parse();
    claviger_net::tls::install_provider();
    claviger_net::accept::raise_file_limit();
    start(cli).unwrap_or_else(|error| {
        console::err(console::explained(&error));
        ExitCode::FAILURE
    })
}

fn start(cli: Cli) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the system gives no threads")?;
    let ended = runtime.block_on(dispatch(cli));
    // A task that does not end must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    let verbosity = cli.verbose;
    match cli.command {
        Command::Up(args) => return up::run(args, verbosity).await,
        Command::Init(args) => init::run(&args)?,
        Command::Run(args) => run::run(&args, verbosity).await?,
        Command::Key(KeyCommand::Extract(args)) => key::extract(&args).await?,
        Command::Key(KeyCommand::Get(args)) => key::get(&args).await?,
        Command::Key(KeyCommand::GetById(args)) => key::get_by_id(&args).await?,
        Command::Key(KeyCommand::Status(args)) => key::status(&args).await?,
        Command::Readings(args) => readings::readings(&args).await?,
        Command::Devices { command: None, show } => readings::devices(&show).await?,
        Command::Devices { command: Some(DevicesCommand::Energy(args)), .. } => energy::run(&args)?,
        Command::Devices { command: Some(DevicesCommand::Pad(args)), .. } => {
            pad::run(&args).await?;
        }
        Command::Link { command: None, status } => link::show(&status)?,
        Command::Link { command: Some(command), .. } => in_link(command).await?,
        Command::Bench(command) => bench::run(command).await?,
        Command::Lab(command) => return lab::run(command, verbosity).await,
        Command::Sdn(command) => sdn::run(command).await?,
        Command::Kme(KmeCommand::Reset(args)) => kme::reset(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn in_link(command: LinkCommand) -> Result<()> {
    match command {
        LinkCommand::Run(args) => link::run::run(&args).await,
        LinkCommand::Rate(args) => link::rate::run(&args).await,
        LinkCommand::Attack(args) => link::attack::run(&args).await,
        LinkCommand::Cut(args) => link::live_attack::cut(&args).await,
        LinkCommand::Reseed(args) => reseed::run(&args),
    }
}
