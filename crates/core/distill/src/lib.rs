//! Alice and Bob as state machines: from clicks to secret keys, with a ledger for every block.
//!
//! [`Alice`] and [`Bob`] talk over the classical channel, which anybody may read and alter. They
//! sift, estimate the error rate from a sample, reconcile ([`cascade`]), verify, amplify, and
//! authenticate the whole transcript of the block with one tag in each direction
//! ([`authenticate`]). Either both end with the same block or both drop it; the key buffers decide
//! last (`PROTOCOL.md` P1). Nothing here knows who will use the keys.
#![expect(clippy::cast_precision_loss, reason = "counts of bits and pulses stay far below 2^53")]

pub mod alice;
pub mod authenticate;
pub mod bob;
pub mod cascade;
pub mod ledger;
pub mod rules;
pub mod seed;

mod block;
mod filling;
mod quiet;
mod session;
mod sifted;

pub use alice::Alice;
pub use authenticate::{InitialSecret, Reserve};
pub use block::FinishedBlock;
pub use bob::{Bob, Window};
pub use ledger::{BlockLedger, Outcome};
pub use rules::Rules;
pub use session::{Committed, DistillError, Event, Refusal};
