//! `claviger lab fig2a` and its like: makes figures, and leaves no half file that looks whole.

use std::fs;
use std::sync::Mutex;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};
use claviger_lab::figures::report::html;
use claviger_lab::figures::sheet::Provenance;
use claviger_lab::figures::{Extent, Figure, Laboratory, Made};
use claviger_units::Fraction;

use super::shelf::{Shelf, make_folder, write_whole};
use crate::cli::lab::LabFigureArgs;
use crate::console;
use crate::figures::clock;
use crate::progress::Progress;

/// Makes figures, writes them, and says what came out.
pub(super) fn make(figures: &[Figure], args: &LabFigureArgs) -> Result<()> {
    ensure!(
        args.config.is_none() || figures.len() == 1,
        "--config is of one figure: name that figure in place of `all`"
    );
    make_folder(&args.out)?;
    let shelf = match &args.ledgers {
        Some(folder) => Shelf::open(folder)?,
        None => Shelf::open(&args.out.join("ledgers"))?,
    };
    let made = figures.iter().map(|figure| Ok((*figure, make_one(*figure, args, &shelf)?)));
    let made = made.collect::<Result<Vec<_>>>()?;
    let about = format!(
        "claviger {}, commit {}, seed {}{}. Links are simulated, energy is modelled, time is virtual.",
        env!("CARGO_PKG_VERSION"),
        env!("CLAVIGER_COMMIT"),
        args.seed,
        if args.quick { ", quick: fewer repetitions than the figures need" } else { "" },
    );
    let report = args.out.join("report.html");
    write_whole(&report, &html(&about, &made))?;
    console::out(format_args!("{} shows everything", report.display()));
    Ok(())
}

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
    let provenance = Provenance {
        figure: figure.name().to_owned(),
        commit: env!("CLAVIGER_COMMIT").to_owned(),
        seed: args.seed,
        configuration: match args.quick {
            true => format!("{configuration}# run quick\n"),
            false => configuration,
        },
    };
    for sheet in &made.sheets {
        write_whole(&args.out.join(format!("{}.csv", sheet.name)), &sheet.to_csv(&provenance))?;
    }
    for (name, svg) in &made.pictures {
        write_whole(&args.out.join(format!("{name}.svg")), svg)?;
    }
    console::out(format_args!("{figure}: {} ({})", made.title, clock(took)));
    for verdict in &made.verdicts {
        console::out(format_args!(
            "  {:12} {}: paper {}, here {}",
            verdict.finding.word(),
            verdict.claim,
            verdict.theirs,
            verdict.ours
        ));
    }
    Ok(made)
}

impl LabFigureArgs {
    fn threads(&self) -> usize {
        self.threads.or_else(|| available_parallelism().ok()).map_or(1, Into::into)
    }
}
