//! `claviger lab fig2a` and its like: makes figures, and leaves no half file that looks whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, ensure};
use claviger_lab::figures::report::html;
use claviger_lab::figures::sheet::Provenance;
use claviger_lab::figures::{Extent, Figure, Laboratory, Made};
use claviger_lab::replay::{LinkLedger, fingerprint};
use claviger_photonics::LinkPreset;
use claviger_units::Fraction;

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
    fs::create_dir_all(&args.out)
        .with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    let shelf = Shelf::find(args)?;
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
    write(&report, &html(&about, &made))?;
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
        write(&args.out.join(format!("{}.csv", sheet.name)), &sheet.to_csv(&provenance))?;
    }
    for (name, svg) in &made.pictures {
        write(&args.out.join(format!("{name}.svg")), svg)?;
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

/// Ledgers of links that were distilled before.
struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    fn find(args: &LabFigureArgs) -> Result<Self> {
        let folder = match &args.ledgers {
            Some(folder) => folder.clone(),
            None => args.out.join("ledgers"),
        };
        fs::create_dir_all(&folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        Ok(Self { folder })
    }

    /// Takes a ledger from the shelf, or has it distilled and puts it there.
    fn ledger(&self, preset: &LinkPreset, seed: u64, n_blocks: usize) -> Result<LinkLedger> {
        let (name, mark) = (preset.name(), fingerprint(preset));
        let path = self.folder.join(format!("{name}-{mark}-seed{seed}-{n_blocks}.csv"));
        if let Ok(text) = fs::read_to_string(&path) {
            return LinkLedger::from_csv(preset, seed, &text)
                .with_context(|| format!("delete {}, which cannot be used", path.display()));
        }
        let ledger = LinkLedger::record(preset, seed, n_blocks, |_| {})?;
        write(&path, &ledger.to_csv())?;
        Ok(ledger)
    }
}

/// Writes a file whole, or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    written
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(|| format!("{} cannot be written", path.display()))
}

impl LabFigureArgs {
    fn threads(&self) -> usize {
        self.threads.or_else(|| available_parallelism().ok()).map_or(1, Into::into)
    }
}
