//! `claviger link attack NAME --on DIR`: an attack on the light of a system that runs.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use claviger_net::clock::Clock;
use claviger_photonics::Attack;
use claviger_roles::Folder;
use claviger_roles::attack_file::{self, AttackFile};
use claviger_roles::config::{self, FibreConfig, RawFibre};
use claviger_roles::init::Layout;
use claviger_units::Span;

use super::lessons::{self, Blocks};
use super::table::{self, BlockLine};
use crate::cli::link::LinkCutArgs;
use crate::signals::Signals;
use crate::up::ledger_file;
use crate::{console, lock};

const PACE: Duration = Duration::from_millis(200);

/// Puts the attack onto the light, shows the blocks that end, and takes it away again.
pub(crate) async fn run(state: &Path, attack: Attack, strength: f64, length: Span) -> Result<()> {
    let fibre = running_fibre(state)?;
    let clock = Clock::start();
    let place = Folder::new(fibre.clone());
    refuse_second(&place, &fibre, clock)?;
    let link = super::link_of(state)?;
    let mut signals = Signals::listen()?;
    let mut ledger = LedgerTail::at_end(state);
    let until = clock.now() + length;
    let on = OnTheLight::put(AttackFile::new(attack, strength, until)?, place)?;
    console::out(format_args!(
        "{attack} {strength} on the light of {} ({}, simulated) for {length}; Ctrl-C ends it sooner",
        state.display(),
        link.in_words()
    ));
    console::out(lessons::broken(lessons::what(attack), 0));
    console::out("");
    console::out(table::HEADER);
    let mut met = Vec::new();
    let mut looks = tokio::time::interval(PACE);
    let end = loop {
        tokio::select! {
            () = signals.next() => break "was ended",
            () = clock.sleep_until(Some(until)) => break "is over",
            _ = looks.tick() => {
                met.extend(ledger.shown());
                if !lock::is_held(&fibre) {
                    break "has nothing left to attack: the system has stopped";
                }
            }
        }
    };
    on.take_away()?;
    met.extend(ledger.shown());
    console::out(format_args!("the attack {end}"));
    lessons::tell(&lessons::verdict(attack, &link.preset, &blocks_under_attack(met), &[]));
    Ok(())
}

/// Cuts a fibre behind the optical switch of a system that runs, for a while.
pub(crate) async fn cut(args: &LinkCutArgs) -> Result<()> {
    let LinkCutArgs { fibre, on, run_for, .. } = args;
    let (clock, place) = (Clock::start(), running_fibre(on)?);
    let folder = Folder::new(place.clone());
    refuse_second(&folder, &place, clock)?;
    let config: FibreConfig = config::load::<RawFibre>(&place.join("config.toml"))?;
    let fibres: Vec<_> = config.optics.iter().flat_map(|of| &of.fibres).map(|f| &f.name).collect();
    if !fibres.contains(&fibre) {
        let known = fibres.into_iter().cloned().collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none: start with --spare-fibre".into() } else { known };
        bail!("there is no fibre {fibre} behind an optical switch; there is {known}");
    }
    let until = clock.now() + *run_for;
    let mut signals = Signals::listen()?;
    let on = OnTheLight::put(AttackFile::cutting(fibre, until), folder)?;
    console::out(format_args!("fibre {fibre} is cut for {run_for}; Ctrl-C mends it sooner"));
    tokio::select! {
        () = signals.next() => {}
        () = clock.sleep_until(Some(until)) => {}
    }
    on.take_away()?;
    console::out(format_args!("fibre {fibre} is mended"));
    Ok(())
}

fn running_fibre(state: &Path) -> Result<PathBuf> {
    let (layout, shown) = (Layout::below(state), state.display());
    if !layout.is_complete()? {
        bail!("{shown} is no state folder: name the one that `claviger up` runs on with --on");
    }
    let fibre = layout.folder("fibre");
    if !lock::is_held(&fibre) {
        bail!(
            "nothing runs on {shown}: start `claviger up --state {shown}` first, or leave --on out"
        );
    }
    Ok(fibre)
}

/// Two attacks at once would take each other away.
fn refuse_second(place: &Folder, fibre: &Path, clock: Clock) -> Result<()> {
    match AttackFile::load(place) {
        Ok(Some(other)) if other.is_on(clock.now()) => bail!(
            "the light is under attack already ({}) for another {}: wait, or remove {}",
            other.in_words(),
            other.until.since(clock.now()),
            fibre.join(attack_file::NAME).display()
        ),
        // What is over or not understood is replaced.
        _ => Ok(()),
    }
}

/// The first block that ended may have begun in peace.
fn blocks_under_attack(met: Vec<BlockLine>) -> Blocks {
    let begun_before = usize::from(met.len() > 1);
    let mut blocks = Blocks::default();
    for block in met.into_iter().skip(begun_before) {
        if block.is_kept() {
            blocks.kept += 1;
        } else {
            blocks.dropped.push(block.outcome.trim_start_matches("dropped: ").to_owned());
        }
    }
    blocks
}

/// An attack that lies in the folder of the fibre, until this goes.
struct OnTheLight {
    file: AttackFile,
    place: Folder,
    is_gone: bool,
}

impl OnTheLight {
    fn put(file: AttackFile, place: Folder) -> Result<Self> {
        file.store(&place)?;
        Ok(Self { file, place, is_gone: false })
    }

    fn take_away(mut self) -> Result<()> {
        self.is_gone = true;
        Ok(self.file.remove(&self.place)?)
    }
}

impl Drop for OnTheLight {
    fn drop(&mut self) {
        if !self.is_gone {
            // If it stays, it still ends at its time.
            drop(self.file.remove(&self.place));
        }
    }
}

/// The lines that `claviger up` adds to its ledger from now on.
struct LedgerTail {
    path: PathBuf,
    read: u64,
}

impl LedgerTail {
    fn at_end(state: &Path) -> Self {
        let path = state.join(ledger_file::NAME);
        let read = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self { path, read }
    }

    /// Shows the blocks that have ended since the last time, and returns them.
    fn shown(&mut self) -> Vec<BlockLine> {
        let blocks = self.fresh().unwrap_or_default();
        blocks.iter().for_each(console::out);
        blocks
    }

    /// Where roles run by themselves nobody writes a ledger.
    fn fresh(&mut self) -> std::io::Result<Vec<BlockLine>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line is whole once its end is there.
        let Some(end) = text.rfind('\n') else { return Ok(Vec::new()) };
        let whole = text.get(..=end).unwrap_or_default();
        self.read += whole.len() as u64;
        let header = claviger_distill::BlockLedger::CSV_HEADER;
        Ok(whole.lines().filter_map(|line| BlockLine::from_csv(header, line)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use claviger_distill::Outcome;
    use claviger_units::Timestamp;
    use claviger_wire::classical::DropReason;

    use super::*;
    use crate::up::tally::tests::ledger;

    #[test]
    fn only_whole_lines_that_are_new_are_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let mut tail = LedgerTail::at_end(folder.path());
        assert!(tail.fresh().is_err());
        let mut file = File::create(folder.path().join(ledger_file::NAME)).unwrap();
        let line = ledger(1, Outcome::Kept).to_csv();
        writeln!(file, "{}\n{line}", claviger_distill::BlockLedger::CSV_HEADER).unwrap();
        write!(file, "2,4.0").unwrap();
        assert_eq!(tail.fresh().unwrap().len(), 1);
        assert_eq!(tail.fresh().unwrap().len(), 0);
        let mut later = LedgerTail::at_end(folder.path());
        assert_eq!(later.fresh().unwrap().len(), 0);
    }

    #[test]
    fn the_first_of_several_blocks_is_not_blamed() {
        let line = |outcome| BlockLine::from(&ledger(1, outcome));
        let dropped = line(Outcome::Dropped(DropReason::Qber));
        let blocks = blocks_under_attack(vec![line(Outcome::Kept), dropped]);
        assert_eq!((blocks.kept, blocks.dropped), (0, vec![DropReason::Qber.to_string()]));
        assert_eq!(blocks_under_attack(vec![line(Outcome::Kept)]).kept, 1);
    }

    #[test]
    fn a_second_attack_is_refused_with_the_file_to_remove() {
        let folder = tempfile::tempdir().unwrap();
        let (place, clock) =
            (Folder::new(folder.path().into()), Clock::starting_at(Timestamp::START));
        assert!(refuse_second(&place, folder.path(), clock).is_ok());
        let end = Timestamp::START + Span::from_secs(90);
        let on =
            OnTheLight::put(AttackFile::new(Attack::Blinding, 1.0, end).unwrap(), place.clone());
        let refused = refuse_second(&place, folder.path(), clock).unwrap_err().to_string();
        assert!(refused.contains("blinding 1") && refused.contains("attack.toml"), "{refused}");
        drop(on);
        assert!(refuse_second(&place, folder.path(), clock).is_ok());
    }

    #[test]
    fn nobody_is_attacked_where_nothing_runs() {
        let folder = tempfile::tempdir().unwrap();
        let refused = running_fibre(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("is no state folder"), "{refused}");
    }
}
