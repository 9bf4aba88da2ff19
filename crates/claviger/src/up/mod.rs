//! `claviger up`: the whole chain on this machine.

mod beginning;
pub(crate) mod capacity;
mod commands;
pub(crate) mod ledger_file;
mod ledgers;
mod lines;
mod network;
mod paths;
pub(crate) mod run_file;
mod screen;
mod session;
mod summary;
pub(crate) mod tally;
mod view;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use claviger_distill::Rules;
use claviger_net::clock::Clock;
use claviger_net::listen;
use claviger_roles::Reporter;
use claviger_roles::init::{InitError, Plan, Ports};
use tokio::sync::mpsc;

use self::beginning::Beginning;
use self::ledger_file::LedgerFile;
use self::network::Network;
use self::run_file::RunFile;
use self::session::{Eavesdropper, Outcome, Output, Session, Surface};
use self::summary::Summary;
use self::tally::{Facts, Tally};
use crate::chosen_link::ChosenLink;
use crate::cli::UpArgs;
use crate::signals::Signals;
use crate::state::StateFolder;
use crate::{console, init, log};

/// Runs the chain and judges it.
pub(crate) async fn run(args: UpArgs, verbosity: u8) -> Result<ExitCode> {
    let clock = Clock::start();
    let started = clock.now();
    let (link, capacity) = init::checked(&args.network)?;
    let mut state = StateFolder::claim(&args.network.state.state)?;
    check_ports(args.network.port_base).await?;
    let mut signals = Signals::listen()?;
    let ports = state.prepare(&Plan { danger_idq3p: true, ..init::plan(&args.network, &link) })?;
    log::to_file(&state.file("claviger.log"), verbosity)?;
    let facts = Facts {
        link: link.in_words(),
        rules: Rules::of(&link.preset),
        theory: capacity.rate(),
        speed: args.network.simulated_speed,
        seeded: args.network.seed.is_some(),
        devices: args.network.devices,
        started,
    };
    let (say, output): (fn(String), _) = match args.json {
        true => (console::err, Output::Json),
        false => (console::out, Output::Everything),
    };
    say(capacity.sentence(args.network.devices, args.network.renew));
    if facts.seeded {
        say("seeded: reproducible, never to be used".to_owned());
    }

    let eavesdropper = Eavesdropper::from_the_start(args.network.eve.unwrap_or_default());
    let (reporter, mut reports) = Reporter::channel();
    let mut network = Network::start(state.layout(), clock, &reporter, eavesdropper.share())?;
    // From here on only the roles can tell anything.
    drop(reporter);
    let beginning = Beginning::wait(&mut network, &mut reports, &mut signals).await;
    let run_file = match beginning.ended {
        Some(_) => None,
        None => Some(published(&args, &link, &state, &ports)?),
    };
    if run_file.is_some() {
        for (what, line) in commands::to_copy(&args.network.state.state, &ports, &program()) {
            say(format!("{what}\n  {line}"));
        }
    }
    let (keys, wishes) = mpsc::unbounded_channel();
    let session = Session {
        clock,
        network,
        reports,
        ledger: LedgerFile::open(&state.file(ledger_file::NAME))?,
        tally: Tally::new(facts),
        surface: Surface::open(output, keys),
        wishes,
        signals,
        eavesdropper,
        length: args.run_for,
    };
    let outcome = session.run(beginning).await?;
    drop(run_file);
    Ok(judged(&args, &state, clock, outcome))
}

/// Returns what this program was called as.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "claviger".to_owned())
}

/// Finds out whether every port can be had, before a file is changed, a role disturbs whoever has
/// it, or anybody is told to use it.
async fn check_ports(base: u16) -> Result<()> {
    let ports = Ports::from_base(base).ok_or(InitError::PortBase { base })?;
    for address in ports.tcp() {
        drop(listen::tcp(address).await?);
    }
    for address in ports.udp() {
        drop(listen::udp(address).await?);
    }
    Ok(())
}

fn published(
    args: &UpArgs,
    link: &ChosenLink,
    state: &StateFolder,
    ports: &Ports,
) -> Result<run_file::Published> {
    let run = RunFile {
        pid: std::process::id(),
        link: link.in_words(),
        simulated: true,
        simulated_speed: args.network.simulated_speed,
        seeded: args.network.seed.is_some(),
        devices: args.network.devices,
        addresses: RunFile::addresses(ports).context("the ports cannot be listed")?,
    };
    run.publish(state.file(run_file::NAME))
}

/// Says how the run was, and turns that into an exit code.
fn judged(args: &UpArgs, state: &StateFolder, clock: Clock, outcome: Outcome) -> ExitCode {
    let Outcome { tally, mut faults, failures } = outcome;
    faults.extend(failures.iter().map(|(role, error)| format!("the role {role} failed: {error}")));
    let is_broken = !failures.is_empty();
    for (n, (role, error)) in failures.into_iter().enumerate() {
        // What one failure drags along needs no causes.
        let told = error.context(format!("the role {role} has failed"));
        let first = console::explained(&told);
        console::err(if n == 0 { first } else { format!("error: {told:#}") });
    }
    let elapsed = clock.now().since(tally.facts.started);
    let summary = Summary::of(&tally, elapsed, faults);
    if args.json {
        summary.reasons().iter().for_each(|why| console::err(format_args!("failed: {why}")));
        // The figures are plain numbers and texts, which JSON can hold.
        let json = serde_json::to_string(&summary);
        console::out(json.unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}")));
    } else if !is_broken {
        console::out("");
        summary.lines().iter().for_each(console::out);
        summary.reasons().iter().for_each(|why| console::out(format_args!("failed: {why}")));
    }
    if !summary.is_ok() {
        console::err(format_args!("the log: {}", state.file("claviger.log").display()));
    }
    if summary.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
