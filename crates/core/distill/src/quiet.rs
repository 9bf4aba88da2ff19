//! How long the other end has owed a word.

use claviger_units::{Span, Timestamp};

/// Since when nothing was heard, as far as anybody has looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quiet(Option<Timestamp>);

impl Quiet {
    /// Forgets the silence: something was heard.
    pub(crate) const fn heard(&mut self) {
        self.0 = None;
    }

    /// Looks, and tells whether the silence has lasted longer than `patience`.
    pub(crate) fn outlasts(&mut self, now: Timestamp, patience: Span) -> bool {
        let since = *self.0.get_or_insert(now);
        now.since(since) > patience
    }
}

/// How long a batch may wait for the other end's next word.
pub(crate) const BATCH_PATIENCE: Span = Span::from_secs(30);
/// How long a block may, while it is reconciled.
pub(crate) const BLOCK_PATIENCE: Span = Span::from_secs(60);
/// How long Bob waits for a proposal, which the key buffer of the other site may hold up.
pub(crate) const PROPOSAL_PATIENCE: Span = Span::from_secs(900);
