//! How far the owner may hand out its keys: the limit that the peer keeps (`PROTOCOL.md` P2).

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_units::{Span, Timestamp};
use claviger_wire::site::{Position, SiteHint};

use crate::block;
use crate::store::{Event, KeyStore};
use crate::table;

/// What is known of the own limit, and of the own keys below it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lease {
    /// Whether the peer has told this process its limit.
    pub(crate) confirmed: bool,
    /// The limit as the peer keeps it; below every position where there is none.
    pub(crate) limit: Option<Position>,
    /// The highest limit asked for on this connection.
    pub(crate) asked: Option<Position>,
    /// Own available keys that a limit could cover.
    pub(crate) usable: u64,
    /// Own available keys that the limit covers.
    pub(crate) headroom: u64,
    /// The highest own position ever handed out or burnt.
    pub(crate) highest: Option<Position>,
    /// Whether hand-out has ended for good.
    pub(crate) stopping: bool,
}

impl KeyStore {
    /// Ends hand-out and gives the unused part of the lease back, so that the next start burns
    /// nothing; [`Event::LeaseReturned`] tells that the peer has it.
    pub fn stop(&mut self) {
        self.lease.stopping = true;
        if self.lease.confirmed {
            self.hint(SiteHint::Limit(self.lease.highest));
        }
    }

    /// Learns the own limit from the peer; after each start burns what an earlier process, of
    /// which this store may know nothing, could have handed out below it.
    pub(crate) fn handle_kept(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        kept: Option<Position>,
    ) -> Result<(), EngineError> {
        if self.lease.stopping {
            self.give_back(kept);
            return Ok(());
        }
        if !self.lease.confirmed {
            self.burn_up_to(tx, kept)?;
        }
        let before = if self.lease.confirmed { self.lease.headroom } else { 0 };
        self.lease.confirmed = true;
        self.lease.limit = kept;
        self.count_headroom(tx)?;
        if self.lease.headroom > before {
            self.events.push_back(Event::LeaseGrown);
        }
        self.seek_lease(tx, now, 0)
    }

    /// Asks for a higher limit when `n_needed` keys are not covered, or half of the window is used.
    pub(crate) fn seek_lease(
        &mut self,
        tx: &dyn Tx,
        now: Timestamp,
        n_needed: u64,
    ) -> Result<(), EngineError> {
        let Lease { confirmed, stopping, usable, headroom, .. } = self.lease;
        if !confirmed || stopping || self.peer.session() != Session::Open {
            return Ok(());
        }
        let window = self.window(now);
        let half_used = headroom.saturating_mul(2) <= window;
        let wanted = n_needed.max(if half_used { window } else { 0 }).min(usable);
        if wanted <= headroom {
            return Ok(());
        }
        let target = self.usable_position(tx, wanted)?;
        if target > self.lease.limit.max(self.lease.asked) {
            self.lease.asked = target;
            self.hint(SiteHint::Limit(target));
        }
        Ok(())
    }

    /// Counts anew how many usable keys the limit covers.
    pub(crate) fn count_headroom(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        let mut headroom = 0;
        let limit = self.lease.limit;
        if self.lease.confirmed && limit.is_some() {
            self.visit_own(tx, u64::MAX, |stock| {
                let covered = Some(stock.slot.position) <= limit;
                headroom += u64::from(covered && self.is_confirmed(&stock));
                covered
            })?;
        }
        self.lease.headroom = headroom;
        Ok(())
    }

    /// The window of the lease: max(64, one second of demand) keys, at most a quarter of the own
    /// share's cap, never less than one.
    fn window(&self, now: Timestamp) -> u64 {
        let spans = DEMAND_SPAN.as_micros() / 1_000_000;
        let per_second = self.per_seconds.count(now).div_ceil(spans);
        let cap = block::cap(self.shares, self.config.site, self.config.capacity);
        per_second.max(LEAST_WINDOW).min(cap / 4).max(1)
    }

    /// Returns the position of the `n`-th usable key.
    fn usable_position(&self, tx: &dyn Tx, n: u64) -> Result<Option<Position>, EngineError> {
        let (mut counted, mut position) = (0, None);
        self.visit_own(tx, n, |stock| {
            if self.is_confirmed(&stock) {
                counted += 1;
                position = Some(stock.slot.position);
            }
            counted < n
        })?;
        Ok(position)
    }

    fn burn_up_to(&mut self, tx: &mut dyn Tx, kept: Option<Position>) -> Result<(), EngineError> {
        let mut doubtful = Vec::new();
        self.visit_own(tx, u64::MAX, |stock| {
            let covered = Some(stock.slot.position) <= kept;
            doubtful.extend(covered.then_some(stock));
            covered
        })?;
        if !doubtful.is_empty() {
            self.destroy_own(tx, &doubtful)?;
            self.events.push_back(Event::Burnt { n_keys: doubtful.len() as u64 });
        }
        if kept > self.lease.highest {
            table::write_position(tx, table::HIGHEST_USED, kept)?;
            self.lease.highest = kept;
        }
        Ok(())
    }

    fn give_back(&mut self, kept: Option<Position>) {
        if kept == self.lease.highest {
            self.events.push_back(Event::LeaseReturned);
        } else if self.lease.confirmed {
            self.hint(SiteHint::Limit(self.lease.highest));
        }
    }
}

/// The span over which demand is measured.
pub(crate) const DEMAND_SPAN: Span = Span::from_secs(10);
/// `PROTOCOL.md` P2: the window is at least 64 keys, if the share allows it.
const LEAST_WINDOW: u64 = 64;
