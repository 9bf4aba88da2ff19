//! `claviger lab fig2a` and its like: makes figures, and leaves no half file that looks whole.

use std::fs;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow, ensure};
use claviger_lab::figures::latency::{FleetSeen, LiveScenario, Measured};
use claviger_lab::figures::report::html;
use claviger_lab::figures::sheet::Provenance;
use claviger_lab::figures::{Extent, Figure, Laboratory, Made};
use claviger_units::Fraction;

use super::capture;
use super::shelf::{Shelf, make_folder, write_whole};
use super::two_networks;
use crate::cli::lab::{LabFigureArgs, LabLive};
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

/// Makes figures, writes them, and says what came out; exit code 2 if a figure of several, or the live part of
/// one, could not be made.
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
    ensure!(
        args.live == LabLive::Auto
            || matches!(wanted, Wanted::Virtual(Figure::Fig2c) | Wanted::All | Wanted::Captured),
        "--live is of fig2c: no other figure has a live part"
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
    let (mut made, mut missing) = (Vec::new(), Vec::new());
    for figure in figures {
        let (one, lacks) = make_one(figure, args, &shelf)?;
        made.push((figure.name().to_owned(), one));
        missing.extend(lacks);
    }
    if !matches!(wanted, Wanted::Virtual(_)) {
        match capture::make(&args.out) {
            Ok(figure) => {
                keep("fig2e", (CAPTURED, None), &figure, args)?;
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
        "claviger {}, commit {}{}{}. Links are simulated, energy is modelled; time is virtual, but for captures and live parts.",
        env!("CARGO_PKG_VERSION"),
        env!("CLAVIGER_COMMIT"),
        if wanted == Wanted::Captured { String::new() } else { format!(", seed {}", args.seed) },
        if args.quick { ", quick: fewer repetitions than the figures need" } else { "" },
    );
    write_whole(&report, &html(&about, &made, &missing))?;
    console::out(format_args!("{} shows everything", report.display()));
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Files that a figure has only with its live part.
const OPTIONAL: [&str; 3] = ["fig2c-devices.csv", "fig2c-live.csv", "fig2c-live.svg"];

/// What stands in the sheets of a capture in place of a configuration.
const CAPTURED: &str = "captured on loopback\n";

/// Makes one, and says what it lacks.
fn make_one(figure: Figure, args: &LabFigureArgs, shelf: &Shelf) -> Result<(Made, Option<String>)> {
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
    let lacks = Mutex::new(None);
    let made = figure.make(
        &configuration,
        &Laboratory {
            seed: args.seed,
            extent: if args.quick { Extent::Quick } else { Extent::Whole },
            threads: args.threads(),
            ledger: &|preset, seed, n_blocks| shelf.ledger(preset, seed, n_blocks),
            live: &|scenario| live(scenario, args, &lacks),
            progress: &tell,
        },
    )?;
    let took = progress.lock().expect("nobody panics while holding it").elapsed();
    drop(progress);
    let configuration = match args.quick {
        true => format!("{configuration}# run quick\n"),
        false => configuration,
    };
    keep(figure.name(), (&configuration, Some(args.seed)), &made, args)?;
    console::err(format_args!("{figure} took {}", clock(took)));
    Ok((made, lacks.into_inner().expect("nobody panics while holding it")))
}

/// Counts a live fleet, where that is wanted and can be.
fn live(
    scenario: &LiveScenario,
    args: &LabFigureArgs,
    lacks: &Mutex<Option<String>>,
) -> Result<Measured> {
    let counted = match &args.live {
        LabLive::Never => return Ok(Measured::Nothing("it was not asked for".into())),
        LabLive::Auto if args.quick => {
            let why = "quick figures leave it out, but for `--live always`";
            return Ok(Measured::Nothing(why.into()));
        }
        LabLive::Earlier(path) => {
            let text = fs::read_to_string(path).with_context(|| {
                format!("{} cannot be read (--live auto, always, never, or a file)", path.display())
            });
            return Ok(Measured::Sheet(text?));
        }
        LabLive::Auto | LabLive::Always => match two_networks::obstacle(scenario) {
            Some(why) => Err(anyhow!("{why}")),
            None => two_networks::count(scenario, args.seed),
        },
    };
    match counted {
        Ok(seen) => Ok(Measured::Sheet(sheet_of(&seen, scenario))),
        Err(error) if args.live == LabLive::Auto => {
            let why = format!("{error:#}");
            let told =
                format!("the live part of fig2c is left out: {why} (`--live never` wants none)");
            console::err(&told);
            *lacks.lock().expect("nobody panics while holding it") = Some(told);
            Ok(Measured::Nothing(why))
        }
        Err(error) => Err(error.context("the live part cannot be run")),
    }
}

/// Writes down what was counted, as it is handed to the figure.
fn sheet_of(seen: &FleetSeen, scenario: &LiveScenario) -> String {
    seen.sheet(scenario).to_csv(&Provenance {
        figure: "fig2c".into(),
        commit: env!("CLAVIGER_COMMIT").to_owned(),
        seed: None,
        configuration: String::new(),
    })
}

/// Writes the files of a figure, and says what it found.
fn keep(
    name: &str,
    (configuration, seed): (&str, Option<u64>),
    made: &Made,
    args: &LabFigureArgs,
) -> Result<()> {
    let provenance = Provenance {
        figure: name.to_owned(),
        commit: env!("CLAVIGER_COMMIT").to_owned(),
        seed,
        configuration: configuration.to_owned(),
    };
    // What an earlier run has left is not to look as if it were of this one.
    for name in OPTIONAL.iter().filter(|file| file.starts_with(name)) {
        drop(fs::remove_file(args.out.join(name)));
    }
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
        self.threads.map_or_else(super::processors, Into::into)
    }
}
