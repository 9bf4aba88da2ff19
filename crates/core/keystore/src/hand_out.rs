//! Handing keys to a master, once (`PROTOCOL.md` P2, hand-out).

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_units::{Bits, KeyId, SaeId, SecretBytes, Timestamp};
use claviger_wire::site::{Notice, SiteRecord};

use crate::block::{Provenance, Site};
use crate::store::KeyStore;
use crate::table::{self, Held, KEY_BYTES, KEYS, Stock};

/// A slave and the site whose KME serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slave {
    /// The application.
    pub sae: SaeId,
    /// Its site.
    pub site: Site,
}

/// What a master asks for: `number` keys of `size` bits, each for all `slaves`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The application that gets the keys now.
    pub master: SaeId,
    /// The applications that may fetch them afterwards.
    pub slaves: Vec<Slave>,
    /// How many keys.
    pub number: u32,
    /// The size of each, a multiple of 8 bits.
    pub size: Bits,
}

/// A key on its way to an application.
#[derive(Debug)]
pub struct Container {
    /// The name under which the other applications fetch it.
    pub id: KeyId,
    /// The bits.
    pub key: SecretBytes,
    /// What made it and what is claimed of it; of joined keys, the least of each.
    pub provenance: Provenance,
}

/// Why no key was handed out; nothing is spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandOutError {
    /// Too few keys: wait for the link.
    #[error("{needed} keys were asked for, {available} are available")]
    Shortage {
        /// How many keys of this size could be handed out.
        available: u64,
        /// How many were asked for.
        needed: u64,
    },
    /// The peer has been asked for a higher limit: try again at [`Event::LeaseGrown`], for up to
    /// a second.
    ///
    /// [`Event::LeaseGrown`]: crate::Event::LeaseGrown
    #[error("the peer must raise the lease first")]
    Lease,
    /// The peer has not been heard since this start, or must be heard first: wait for it.
    #[error("no session with the other KME")]
    Apart,
    /// One side was rolled back, or runs twice: reset both.
    #[error("the two KMEs disagree about the past; run `claviger kme reset` at both sites")]
    RolledBack,
    /// This KME is stopping.
    #[error("the KME is stopping")]
    Stopping,
    /// A slave does not fetch its keys: let it, or wait until they expire.
    #[error("too many keys wait for the slave {slave}")]
    Backlog {
        /// The slave.
        slave: SaeId,
    },
    /// The order is not one: the caller should have refused it.
    #[error("the order names {0}")]
    Order(&'static str),
    /// The store failed: throw this core away and open it again.
    #[error(transparent)]
    Store(#[from] EngineError),
}

impl KeyStore {
    /// Hands out keys to their master: all that were ordered, or none.
    ///
    /// Once the transaction is committed the keys belong to the caller, who answers with them;
    /// an answer that is lost is a burnt key.
    pub fn hand_out(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        order: &Order,
    ) -> Result<Vec<Container>, HandOutError> {
        self.check_serving()?;
        let per_key = order.members_per_key()?;
        self.check_backlog(tx, order)?;
        let n_members = per_key.saturating_mul(u64::from(order.number));
        if n_members > self.lease.usable {
            let available = self.lease.usable / per_key;
            return Err(HandOutError::Shortage { available, needed: order.number.into() });
        }
        if n_members > self.lease.headroom {
            self.seek_lease(tx, now, n_members)?;
            let open = self.peer.session() == Session::Open;
            return Err(if open { HandOutError::Lease } else { HandOutError::Apart });
        }
        let members = self.lowest_usable(tx, n_members)?;
        let containers = self.spend(tx, now, order, &members, per_key)?;
        self.seek_lease(tx, now, 0)?;
        Ok(containers)
    }

    /// Returns how many keys of 256 bits could be handed to this pair now
    /// (ETSI GS QKD 014 §6.2, `stored_key_count`).
    pub fn deliverable(
        &self,
        tx: &dyn Tx,
        master: &SaeId,
        slave: &SaeId,
    ) -> Result<u64, EngineError> {
        if !self.is_serving() {
            return Ok(0);
        }
        let untaken = table::untaken(tx, master, slave)?;
        Ok(self.lease.usable.min(self.config.untaken_per_pair.saturating_sub(untaken)))
    }

    /// Notes that a slave has taken its copies, or will never come for them.
    pub(crate) fn count_taken(
        &self,
        tx: &mut dyn Tx,
        master: &SaeId,
        slave: &SaeId,
        n_keys: u64,
    ) -> Result<(), EngineError> {
        // Only the site that handed the keys out has a count; elsewhere there is nothing to note.
        match table::untaken(tx, master, slave)? {
            0 => Ok(()),
            n => table::write_untaken(tx, master, slave, n.saturating_sub(n_keys)),
        }
    }

    fn check_serving(&self) -> Result<(), HandOutError> {
        match self.peer.session() {
            Session::RolledBack { .. } | Session::Superseded => Err(HandOutError::RolledBack),
            _ if self.lease.stopping => Err(HandOutError::Stopping),
            _ if !self.is_serving() => Err(HandOutError::Apart),
            _ => Ok(()),
        }
    }

    fn check_backlog(&self, tx: &dyn Tx, order: &Order) -> Result<(), HandOutError> {
        for Slave { sae, .. } in &order.slaves {
            let after = table::untaken(tx, &order.master, sae)? + u64::from(order.number);
            if after > self.config.untaken_per_pair {
                return Err(HandOutError::Backlog { slave: sae.clone() });
            }
        }
        Ok(())
    }

    /// Returns the own usable keys of the lowest positions.
    fn lowest_usable(&self, tx: &dyn Tx, n: u64) -> Result<Vec<Stock>, EngineError> {
        let mut lowest = Vec::new();
        self.visit_own(tx, n, |stock| {
            lowest.extend(self.is_confirmed(&stock).then_some(stock));
            (lowest.len() as u64) < n
        })?;
        let complete = lowest.len() as u64 == n
            && lowest.iter().all(|stock| Some(stock.slot.position) <= self.lease.limit);
        if complete { Ok(lowest) } else { Err(EngineError::Damaged(KEYS.name)) }
    }

    /// Erases the members, notes what the peer and own slaves must know, and returns the keys.
    fn spend(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        order: &Order,
        members: &[Stock],
        per_key: u64,
    ) -> Result<Vec<Container>, EngineError> {
        let per_key = usize::try_from(per_key).unwrap_or(usize::MAX);
        let keys: Vec<&[Stock]> = members.chunks(per_key).collect();
        let here = order.slaves_at(self.config.site);
        let mut containers = Vec::new();
        for key in &keys {
            let container = take_out(tx, key, order.size)?;
            if !here.is_empty() {
                let held = self.held_from_now(now, &order.master, &here, container.provenance);
                self.hold(tx, container.id, &container.key, &held)?;
            }
            containers.push(container);
        }
        for Slave { sae, .. } in &order.slaves {
            let untaken = table::untaken(tx, &order.master, sae)? + u64::from(order.number);
            table::write_untaken(tx, &order.master, sae, untaken)?;
        }
        let last = members.last().map(|stock| stock.slot.position);
        let highest = self.lease.highest.max(last);
        table::write_position(tx, table::HIGHEST_USED, highest)?;
        let notice = Notice {
            master: order.master.clone(),
            slaves: order.slaves_at(self.config.site.other()),
            size: order.size,
            keys: keys.iter().map(|key| key.iter().map(|stock| stock.id).collect()).collect(),
        };
        self.append(tx, &SiteRecord::Notice(notice))?;
        let n_members = members.len() as u64;
        self.levels.mine -= n_members;
        self.lease.usable -= n_members;
        self.lease.headroom -= n_members;
        self.lease.highest = highest;
        self.per_seconds.add(now, n_members);
        self.lately.add(now, n_members);
        Ok(containers)
    }

    pub(crate) fn held_from_now(
        &self,
        now: Timestamp,
        master: &SaeId,
        slaves: &[SaeId],
        provenance: Provenance,
    ) -> Held {
        Held {
            master: master.clone(),
            waiting: slaves.to_vec(),
            served: Vec::new(),
            provenance,
            expires: now + self.config.untaken_expiry,
        }
    }
}

impl Order {
    fn slaves_at(&self, site: Site) -> Vec<SaeId> {
        self.slaves.iter().filter(|slave| slave.site == site).map(|s| s.sae.clone()).collect()
    }

    /// Returns how many keys of 256 bits make one of the ordered size.
    fn members_per_key(&self) -> Result<u64, HandOutError> {
        let twice = |(n, slave): (usize, &Slave)| {
            slave.sae == self.master || self.slaves.iter().take(n).any(|s| s.sae == slave.sae)
        };
        if self.number == 0 {
            Err(HandOutError::Order("no keys"))
        } else if self.slaves.is_empty() {
            Err(HandOutError::Order("no slave"))
        } else if self.slaves.iter().enumerate().any(twice) {
            Err(HandOutError::Order("an application twice"))
        } else if self.size == Bits::ZERO || !self.size.count().is_multiple_of(8) {
            Err(HandOutError::Order("a size that is no multiple of 8 bits"))
        } else {
            Ok(self.size.count().div_ceil(Bits::KEY.count()))
        }
    }
}

/// Erases the members of a key and returns it, joined and cut to `size`.
pub(crate) fn take_out(
    tx: &mut dyn Tx,
    members: &[Stock],
    size: Bits,
) -> Result<Container, EngineError> {
    let damaged = EngineError::Damaged(KEY_BYTES.name);
    let mut joined = Vec::with_capacity(members.len().saturating_mul(32));
    for stock in members {
        let bytes = tx.read(KEY_BYTES, &stock.slot.bytes())?.ok_or(damaged.clone())?;
        joined.extend_from_slice(bytes.expose());
        stock.erase(tx, KEYS)?;
    }
    let length = usize::try_from(size.count() / 8).unwrap_or(usize::MAX);
    if joined.len() < length {
        return Err(damaged);
    }
    // Wiping a vector wipes its spare capacity too, so nothing of the cut bits remains.
    joined.truncate(length);
    let first = members.first().ok_or(damaged)?;
    let all = members.iter().map(|stock| stock.provenance);
    let provenance = all.fold(first.provenance, Provenance::joined);
    Ok(Container { id: first.id, key: SecretBytes::new(joined), provenance })
}
