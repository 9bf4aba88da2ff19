//! A directory with one store in it, and what an outsider sees of it.

use std::fs;
use std::path::{Path, PathBuf};

use claviger_store::SqliteStore;
use tempfile::TempDir;

pub(crate) struct Home(pub(crate) TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("a.db")
    }

    pub(crate) fn key_path(&self) -> PathBuf {
        self.0.path().join("a.key")
    }

    pub(crate) fn create(&self) -> SqliteStore {
        SqliteStore::create(&self.path(), &self.key_path()).unwrap()
    }

    pub(crate) fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path(), &self.key_path()).unwrap()
    }

    /// What the disk would hold if the power failed now.
    pub(crate) fn crashed_copy(&self) -> Self {
        let copy = Self::new();
        for file in self.files() {
            fs::copy(&file, copy.0.path().join(file.file_name().unwrap())).unwrap();
        }
        copy
    }

    /// Tells which files of the store hold `bytes` somewhere.
    pub(crate) fn files_with(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|file| holds(file, bytes));
        files
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn holds(file: &Path, bytes: &[u8]) -> bool {
    fs::read(file).unwrap().windows(bytes.len()).any(|window| window == bytes)
}
