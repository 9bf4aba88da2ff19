//! `claviger lab fig2a` and its like: makes figures, and leaves no half file that looks whole.

use std::fs;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};
use claviger_lab::figures::report::html;
use claviger_lab::figures::sheet::Provenance;
use claviger_lab::figures::{Extent, Figure, Laboratory, Made};
use claviger_units::Fraction;

use super::capture;
use super::shelf::{Shelf, make_folder, write_whole};
use crate::cli::lab::LabFigureArgs;
use crate::console;
use crate::figures::clock;
use crate::lock::FolderLock;
use crate::progress::Progress;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A figure in virtual time.
    Virtual(Figure),
    /// Figure 2e, captured from this machine.
    Captured,
    /// All of them.
    All,
}

/// Makes figures, writes them, and says what came out; exit code 2 if a figure of several could not be made.
pub(super) fn make(wanted: Wanted, args: &LabFigureArgs) -> Result<ExitCode> {
    let figures = match wanted {
        Wanted::Virtual(figure) => vec![figure],
        Wanted::Captured => Vec::new(),
        Wanted::All => Figure::ALL.to_vec(),
    };
    ensure!(
        args.config.is_none() || matches!(wanted, Wanted::Virtual(_)),
        "--config is of one figure in virtual time: name that figure"
    );
    make_folder(&args.out)?;
    let _lock = FolderLock::take(&args.out)?;
    // A page of all figures is not to outlast them.
    let report = match wanted {
        Wanted::All => args.out.join("report.html"),
        Wanted::Captured => args.out.join("fig2e.html"),
        Wanted::Virtual(figure) => args.out.join(format!("{figure}.html")),
    };
    drop(fs::remove_file(&report));
    let shelf = match &args.ledgers {
        Some(folder) => Shelf::open(folder),
        None => Shelf::open(&args.out.join("ledgers")),
    };
    let mut made = Vec::new();
    for figure in figures {
        made.push((figure.name().to_owned(), make_one(figure, args, &shelf)?));
    }
    let mut missing = Vec::new();
    if !matches!(wanted, Wanted::Virtual(_)) {
        match capture::make(&args.out) {
            Ok(figure) => {
                keep("fig2e", CAPTURED, &figure, args)?;
                made.push(("fig2e".to_owned(), figure));
            }
            Err(error) if wanted == Wanted::All => {
                console::err(console::explained(&error.context("fig2e is not made")));
                missing.push("fig2e is not made: run `claviger lab fig2e`, which says why".into());
            }
            Err(error) => return Err(error),
        }
    }
    let about = format!(
        "claviger {}, commit {}, seed {}{}. Links are simulated, energy is modelled; time is virtual, but for captures.",
        env!("CARGO_PKG_VERSION"),
        env!("CLAVIGER_COMMIT"),
        args.seed,
        if args.quick { ", quick: fewer repetitions than the figures need" } else { "" },
    );
    write_whole(&report, &html(&about, &made, &missing))?;
    console::out(format_args!("{} shows everything", report.display()));
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// What stands in the sheets of a capture in place of a configuration.
const CAPTURED: &str = "captured on loopback\n";

fn make_one(figure: Figure, args: &LabFigureArgs, shelf: &Shelf) -> Result<Made> {
    let configuration = match &args.config {
        None => figure.configuration().to_owned(),
        Some(path) => fs::read_to_string(path)
            .with_context(|| format!("the configuration {} cannot be read", path.display()))?,
    };
    let progress = Mutex::new(Progress::start());
    let tell = |what: &str, done: f64| {
        let mut progress = progress.lock().expect("nobody panics while holding it");
        progress.tell(Fraction::clamped(done), || format!("{figure}: {what}"));
    };
    let made = figure.make(
        &configuration,
        &Laboratory {
            seed: args.seed,
            extent: if args.quick { Extent::Quick } else { Extent::Whole },
            threads: args.threads(),
            ledger: &|preset, seed, n_blocks| shelf.ledger(preset, seed, n_blocks),
            progress: &tell,
        },
    )?;
    let took = progress.lock().expect("nobody panics while holding it").elapsed();
    drop(progress);
    let configuration = match args.quick {
        true => format!("{configuration}# run quick\n"),
        false => configuration,
    };
    keep(figure.name(), &configuration, &made, args)?;
    console::err(format_args!("{figure} took {}", clock(took)));
    Ok(made)
}

/// Writes the files of a figure, and says what it found.
fn keep(name: &str, configuration: &str, made: &Made, args: &LabFigureArgs) -> Result<()> {
    let provenance = Provenance {
        figure: name.to_owned(),
        commit: env!("CLAVIGER_COMMIT").to_owned(),
        seed: args.seed,
        configuration: configuration.to_owned(),
    };
    for sheet in &made.sheets {
        write_whole(&args.out.join(format!("{}.csv", sheet.name)), &sheet.to_csv(&provenance))?;
    }
    for (name, svg) in &made.pictures {
        write_whole(&args.out.join(format!("{name}.svg")), svg)?;
    }
    console::out(format_args!("{name}: {}", made.title));
    for verdict in &made.verdicts {
        console::out(format_args!(
            "  {:12} {}: paper {}, here {}",
            verdict.finding.word(),
            verdict.claim,
            verdict.theirs,
            verdict.ours
        ));
    }
    Ok(())
}

impl LabFigureArgs {
    fn threads(&self) -> usize {
        self.threads.or_else(|| available_parallelism().ok()).map_or(1, Into::into)
    }
}
