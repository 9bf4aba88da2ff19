//! The ledgers of blocks as files: CSV and JSON lines, each with what makes the run again.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use claviger_distill::BlockLedger;

use crate::chosen_link::ChosenLink;

/// The files that were asked for.
#[derive(Debug)]
pub(crate) struct BlockFiles {
    csv: Option<Lines>,
    json: Option<Lines>,
    link: String,
    loss_db: f64,
    seed: u64,
}

impl BlockFiles {
    /// Makes the files anew.
    pub(crate) fn create(
        csv: Option<&Path>,
        json: Option<&Path>,
        link: &ChosenLink,
        seed: u64,
    ) -> Result<Self> {
        let mut csv = csv.map(Lines::create).transpose()?;
        if let Some(csv) = &mut csv {
            csv.add(&format!("{},link,loss_db,seed,simulated", BlockLedger::CSV_HEADER))?;
        }
        Ok(Self {
            csv,
            json: json.map(Lines::create).transpose()?,
            link: link.preset.name().to_owned(),
            loss_db: link.preset.loss().as_db(),
            seed,
        })
    }

    /// Adds a block.
    pub(crate) fn add(&mut self, block: &BlockLedger) -> Result<()> {
        let Self { csv, json, link, loss_db, seed } = self;
        if let Some(csv) = csv {
            csv.add(&format!("{},{},{loss_db},{seed},true", block.to_csv(), in_csv(link)))?;
        }
        if let Some(json) = json {
            let link = serde_json::to_string(link)?;
            let ledger = block.to_json();
            let ledger = ledger.trim_start_matches('{');
            json.add(&format!(
                "{{\"simulated\":true,\"link\":{link},\"loss_db\":{loss_db},\"seed\":{seed},{ledger}"
            ))?;
        }
        Ok(())
    }
}

/// Keeps the name of a preset from falling apart into columns.
fn in_csv(name: &str) -> String {
    name.replace([',', '\n', '"'], " ")
}

/// A file that lines are added to.
#[derive(Debug)]
pub(crate) struct Lines {
    file: File,
    path: PathBuf,
}

impl Lines {
    /// Makes the file anew.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| {
            format!("{} cannot be written: choose another file", path.display())
        })?;
        Ok(Self { file, path: path.into() })
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, line: &str) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes());
        written.with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use claviger_distill::Outcome;
    use serde_json::{Value, json};

    use super::*;
    use crate::up::tally::tests::ledger;

    #[test]
    fn a_block_is_one_line_of_each_with_the_run_that_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let [csv, json] = ["b.csv", "b.jsonl"].map(|name| folder.path().join(name));
        let link = ChosenLink::find("lab", None, Path::new("/")).unwrap();
        let mut files = BlockFiles::create(Some(&csv), Some(&json), &link, 7).unwrap();
        let mut block = ledger(1, Outcome::Kept);
        block.counts.tests = [5, 6, 7];
        files.add(&block).unwrap();
        let text = std::fs::read_to_string(csv).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!((rows.len(), rows[0].len()), (2, rows[1].len()));
        assert!(text.ends_with("kept,lab,4,7,true\n"), "{text}");
        let text = std::fs::read_to_string(json).unwrap();
        let row: Value = serde_json::from_str(text.trim_end()).unwrap();
        for (name, value) in [
            ("simulated", json!(true)),
            ("seed", json!(7)),
            ("block", json!(1)),
            ("tests", json!([5, 6, 7])),
            ("key_errors", json!([0, 0, 0])),
            ("qber", json!(0.015)),
            ("f", json!(1.157)),
            ("epsilon", json!(1e-18)),
            ("claim", json!("era-heuristic")),
            ("outcome", json!("kept")),
        ] {
            assert_eq!(row[name], value, "{name} of {row}");
        }
        // Every column of the CSV but the sums over intensities, which it has one by one.
        let names = BlockLedger::CSV_HEADER.split(',');
        assert!(names.clone().all(|name| row.get(name).is_some()), "{row}");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let refused = Lines::create(Path::new("/nowhere/x.csv")).unwrap_err().to_string();
        assert!(refused.contains("/nowhere/x.csv cannot be written"), "{refused}");
    }
}
