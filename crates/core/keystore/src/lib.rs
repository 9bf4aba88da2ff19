//! The life of a key: ownership, leases, hand-out, fetch, displacement, expiry.
//!
//! A [`KeyStore`] is one KME's half of `PROTOCOL.md` P1 and P2. It holds the key buffer that both
//! sites fill block by block, hands each key to its master once and to each slave once, and tells
//! the other site by records what it did. It does not know what made a key, but for the label that
//! goes with it ([`Provenance`]), nor any database, nor any socket.
//!
//! Left to the KME issue: gifts, automatic re-synchronisation, retry tokens, replicas. A
//! rolled-back side is detected and refused; [`KeyStore::reset`] at both sites is the remedy.

mod block;
mod commit;
mod counted;
mod fetch;
mod hand_out;
mod lease;
mod meter;
mod store;
mod table;

pub use block::{Block, BlockKey, Origin, Provenance, Site};
pub use claviger_durable::peer::Session;
pub use commit::{BlockStanding, ProposeError};
pub use counted::CountedStore;
pub use fetch::{FetchError, Inquiry};
pub use hand_out::{Container, HandOutError, Order, Slave};
pub use store::{Event, KeyStore, KeyStoreError, Standing, StoreConfig, Stored};
