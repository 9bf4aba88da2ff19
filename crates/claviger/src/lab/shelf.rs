//! Ledgers of links that were distilled before, and files that are whole or not there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use claviger_lab::replay::{LinkLedger, fingerprint};
use claviger_photonics::LinkPreset;

/// A folder of ledgers.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// Names a folder, which is made where something is to be put there.
    pub(crate) fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Takes a ledger from the shelf, or has it distilled and puts it there.
    pub(crate) fn ledger(
        &self,
        preset: &LinkPreset,
        seed: u64,
        n_blocks: usize,
    ) -> Result<LinkLedger> {
        let (name, mark) = (preset.name(), fingerprint(preset));
        // Another version of the engine may distil otherwise.
        let commit = env!("CLAVIGER_COMMIT");
        let path = format!("{name}-{mark}-seed{seed}-{n_blocks}-{commit}.csv");
        let path = self.folder.join(path);
        if let Ok(text) = fs::read_to_string(&path) {
            return LinkLedger::from_csv(preset, seed, &text)
                .with_context(|| format!("delete {}, which cannot be used", path.display()));
        }
        let ledger = LinkLedger::record(preset, seed, n_blocks, |_| {})?;
        make_folder(&self.folder)?;
        write_whole(&path, &ledger.to_csv())?;
        Ok(ledger)
    }
}

/// Makes a folder, and those above it.
pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))
}

/// Writes a file whole, or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    written
        .inspect_err(|_cause| drop(fs::remove_file(&partial)))
        .with_context(|| format!("{} cannot be written", path.display()))
}
