//! `STATE/ledger.csv`: one line for every block that ended.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use claviger_distill::BlockLedger;

/// The name of the file in the state folder.
pub(crate) const NAME: &str = "ledger.csv";

/// The open file.
#[derive(Debug)]
pub(crate) struct LedgerFile {
    file: File,
    path: PathBuf,
}

impl LedgerFile {
    /// Opens the file to go on with it, and begins it with its header where it is new.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let file = opened.with_context(|| format!("{} cannot be written", path.display()))?;
        let mut ledger = Self { file, path: path.into() };
        let is_new = ledger.file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if is_new {
            ledger.append(BlockLedger::CSV_HEADER)?;
        }
        Ok(ledger)
    }

    /// Adds a block.
    pub(crate) fn add(&mut self, block: &BlockLedger) -> Result<()> {
        self.append(&block.to_csv())
    }

    fn append(&mut self, line: &str) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use claviger_distill::Outcome;

    use super::super::tally::tests::ledger;
    use super::*;

    #[test]
    fn the_header_stands_once_however_often_the_file_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        for block in [1, 2] {
            LedgerFile::open(&path).unwrap().add(&ledger(block, Outcome::Kept)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, BlockLedger::CSV_HEADER));
        assert!(lines[1].starts_with("1,") && lines[2].starts_with("2,"));
    }
}
