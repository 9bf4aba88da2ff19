//! SQLite behind [`claviger_durable::Engine`]: sealing, erasing, group commit.
//!
//! One process owns one database file. The values of secret tables reach the disk only sealed,
//! and an erased one stays unreadable even to somebody who later gets the disk *and* the master
//! key: see the module `seal`. [`Writer`] puts a core and its store on one thread and lets many
//! callers share one synced commit.

#[cfg(not(unix))]
compile_error!("the store relies on the file modes and locks of Unix");

mod files;
mod seal;
mod slots;
mod sqlite;
mod writer;

pub use files::OpenError;
pub use sqlite::SqliteStore;
pub use writer::{StoreError, Writer};
