//! `claviger lab sweep FILE`: a grid, point by point; an interrupted one goes on where it was.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use claviger_lab::figures::sheet::{Provenance, Sheet};
use claviger_lab::repeat::repeat;
use claviger_lab::replay::mark;
use claviger_lab::sweep::{COLUMNS, Grid, Memory, NAMED, Point};
use claviger_units::Fraction;

use super::shelf::{Shelf, make_folder, write_whole};
use crate::cli::lab::LabSweepArgs;
use crate::console;
use crate::lock::FolderLock;
use crate::progress::Progress;

/// Runs what is still to be run, and writes the sheet once all is there.
pub(super) fn run(args: &LabSweepArgs) -> Result<()> {
    let text = fs::read_to_string(&args.grid)
        .with_context(|| format!("the grid {} cannot be read", args.grid.display()))?;
    let points = Grid::points(&text).with_context(|| format!("{}", args.grid.display()))?;
    make_folder(&args.out)?;
    let _lock = FolderLock::take(&args.out)?;
    let shelf = Shelf::open(&args.out.join("ledgers"));
    let name = args.grid.file_stem().context("the grid has no name")?.to_string_lossy();
    let path = args.out.join(format!("{name}.csv"));
    if let Ok(kept) = fs::read_to_string(&path) {
        ensure!(
            kept.starts_with(&format!("# claviger lab sweep {name},")),
            "{} is there and no sweep of this name: rename the grid, or choose another --out",
            path.display()
        );
    }
    let journal =
        Journal::open(args.out.join(format!("{name}.unfinished")), &heading(&text, args))?;
    let open = points.iter().filter(|point| !journal.rows.contains_key(&point.name()));
    let open = spread(open.collect());
    let n_before = points.len() - open.len();
    if n_before > 0 {
        console::err(format_args!("{n_before} of {} points were run before", points.len()));
    }
    let memory = Memory::default();
    let (progress, journal) = (Mutex::new(Progress::start()), Mutex::new(journal));
    let one = |place: u64| {
        let point = open[usize::try_from(place)?];
        let row = point.run(args.seed, &memory, |preset, seed, n| shelf.ledger(preset, seed, n))?;
        let mut journal = journal.lock().expect("nobody panics while holding it");
        journal.add(point.name(), row)
    };
    let done = |n: usize| {
        let mut progress = progress.lock().expect("nobody panics while holding it");
        let share = Fraction::of(n as u64, open.len() as u64);
        progress.tell(share, || format!("{} of {} points", n_before + n, points.len()));
    };
    repeat(0, open.len(), super::processors(), one, done)?;
    drop(progress);
    let journal = journal.into_inner().expect("nobody panicked while holding it");
    let mut sheet = Sheet::new(&name, &COLUMNS);
    for point in &points {
        let name = point.name();
        let row = journal.rows.get(&name).context("a point is missing")?;
        sheet.push([name, row.clone()].concat());
    }
    let provenance = Provenance {
        figure: format!("sweep {name}"),
        commit: env!("CLAVIGER_COMMIT").to_owned(),
        seed: Some(args.seed),
        configuration: text,
    };
    write_whole(&path, &sheet.to_csv(&provenance))?;
    fs::remove_file(&journal.path)
        .with_context(|| format!("{} cannot be deleted", journal.path.display()))?;
    console::out(format_args!("{} holds {} points", path.display(), sheet.len()));
    Ok(())
}

/// Brings points of different fleets before others of the same ones, so that nobody waits for a fleet that
/// somebody else runs.
fn spread(points: Vec<&Point>) -> Vec<&Point> {
    let mut met: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let mut ranked: Vec<_> = points
        .into_iter()
        .map(|point| {
            let n_before = met.entry(point.fleet()).or_default();
            *n_before += 1;
            (*n_before, point)
        })
        .collect();
    ranked.sort_by_key(|(n_before, _)| *n_before);
    ranked.into_iter().map(|(_, point)| point).collect()
}

/// What a journal begins with: one of another grid, seed or program is not gone on with.
fn heading(grid: &str, args: &LabSweepArgs) -> String {
    let (commit, seed) = (env!("CLAVIGER_COMMIT"), args.seed);
    format!("# unfinished: commit {commit}, seed {seed}, grid {}", mark(grid))
}

/// The points that were run so far, one a line.
struct Journal {
    path: PathBuf,
    rows: BTreeMap<Vec<String>, Vec<String>>,
}

impl Journal {
    fn open(path: PathBuf, heading: &str) -> Result<Self> {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_whole(&path, &format!("{heading}\n"))?;
                format!("{heading}\n")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
        };
        let mut lines = text.lines();
        ensure!(
            lines.next() == Some(heading),
            "{} is of another grid, seed or version of this program: delete it, or choose another --out",
            path.display()
        );
        // The last line may have been cut off.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut rows = BTreeMap::new();
        for line in whole.lines().skip(1) {
            let cells: Vec<_> = line.split('\t').map(str::to_owned).collect();
            ensure!(cells.len() == COLUMNS.len(), "{} is damaged: delete it", path.display());
            let (name, rest) = cells.split_at(NAMED);
            rows.insert(name.to_vec(), rest.to_vec());
        }
        if whole.len() + 1 < text.len() {
            write_whole(&path, &format!("{whole}\n"))?;
        }
        Ok(Self { path, rows })
    }

    fn add(&mut self, name: Vec<String>, row: Vec<String>) -> Result<()> {
        let line = [&name[..], &row[..]].concat().join("\t").replace('\n', " ");
        append(&self.path, &line)?;
        self.rows.insert(name, row);
        Ok(())
    }
}

fn append(path: &Path, line: &str) -> Result<()> {
    let opened = OpenOptions::new().append(true).open(path);
    opened
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_goes_on_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.unfinished");
        let row = |text: &str, n: usize| vec![text.to_owned(); n];
        let mut journal = Journal::open(path.clone(), "# a").unwrap();
        journal.add(row("p", NAMED), row("1", COLUMNS.len() - NAMED)).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "q\tq\tq").unwrap();
        let again = Journal::open(path.clone(), "# a").unwrap();
        assert_eq!(again.rows, journal.rows);
        assert!(!fs::read_to_string(&path).unwrap().contains('q'));
        let other = Journal::open(path, "# b").err().unwrap().to_string();
        assert!(other.contains("another grid, seed or version"), "{other}");
    }
}
