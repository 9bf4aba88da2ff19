//! What is on disk before the next step: transactions, and record streams between two sites.
//!
//! `PROTOCOL.md` writes **tx{…}** for one durable transaction. [`engine`] says what a transaction
//! is, without naming a database; [`peer`] carries records between two sites so that each is
//! applied exactly once and in order, and notices when one side has been rolled back.

pub mod engine;
pub mod peer;

pub use engine::{Engine, EngineError, MemoryEngine, Table, Tx};
pub use peer::Peer;
