//! Keys held for slaves of this site: notices, fetches, expiry (`PROTOCOL.md` P2).

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_units::{KeyId, SaeId, SecretBytes, Timestamp};
use claviger_wire::site::{Notice, SiteHint, SiteRecord};

use crate::hand_out::{Container, take_out};
use crate::store::{Event, KeyStore};
use crate::table::{self, EXPIRY, HELD, HELD_BYTES, Held, IDS, Place};

/// Why no key was given to a slave; nothing is spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The peer has been asked what it handed out: try again at [`Event::KnowledgeComplete`], for
    /// up to a second, and say what was asked.
    #[error("the peer must tell first what it handed out")]
    Incomplete {
        /// To be given back at the next try.
        inquiry: Inquiry,
    },
    /// The peer, who may know the key, cannot be heard: wait for it.
    #[error("no session with the other KME")]
    Apart,
    /// One side was rolled back, or runs twice: reset both.
    #[error("the two KMEs disagree about the past; run `claviger kme reset` at both sites")]
    RolledBack,
    /// Never handed out, or gone since: ask the master for another key.
    #[error("the key {id} is not found")]
    Unknown {
        /// The key.
        id: KeyId,
    },
    /// Handed out, but not for this slave by this master.
    #[error("the key {id} is not for this application")]
    NotEntitled {
        /// The key.
        id: KeyId,
    },
    /// This slave has had its copy: ask the master for another key.
    #[error("the key {id} is already taken")]
    Taken {
        /// The key.
        id: KeyId,
    },
    /// The store failed: throw this core away and open it again.
    #[error(transparent)]
    Store(#[from] EngineError),
}

/// What one fetch has asked the peer so far.
///
/// It belongs to one request: what the peer said before that request came tells nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inquiry(Option<u64>);

impl Inquiry {
    /// That of a request at its first try.
    pub const NEW: Self = Self(None);
}

/// Questions to the peer, numbered as they were asked; each answer completes what was known when
/// its question was put, and when any before it was.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: u64,
    answered: u64,
    // Questions up to this one went down with their connection.
    lost: u64,
}

impl Questions {
    /// Gives up what is not answered yet: its connection is gone.
    pub(crate) const fn forget(&mut self) {
        self.lost = self.asked;
    }

    const fn is_answered(&self, Inquiry(token): Inquiry) -> bool {
        matches!(token, Some(token) if token <= self.answered)
    }

    const fn is_under_way(&self, Inquiry(token): Inquiry) -> bool {
        matches!(token, Some(token) if token > self.lost)
    }
}

impl KeyStore {
    /// Gives a slave its copies: all of `ids`, each once, or none.
    ///
    /// The checks come in the order of `WIRE.md` §2: known? named? not yet taken? Begin with
    /// [`Inquiry::NEW`]; after [`FetchError::Incomplete`] try again with what it holds.
    pub fn fetch(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        slave: &SaeId,
        master: &SaeId,
        ids: &[KeyId],
        inquiry: Inquiry,
    ) -> Result<Vec<Container>, FetchError> {
        self.check_greeted()?;
        let held = self.all_held(tx, now, ids, inquiry)?;
        for (id, held) in &held {
            let named = held.waiting.contains(slave) || held.served.contains(slave);
            if !named || held.master != *master {
                return Err(FetchError::NotEntitled { id: *id });
            }
        }
        for (n, (id, held)) in held.iter().enumerate() {
            if !held.waiting.contains(slave) || ids.iter().take(n).any(|other| other == id) {
                return Err(FetchError::Taken { id: *id });
            }
        }
        let containers = held
            .into_iter()
            .map(|(id, held)| give(tx, id, held, slave))
            .collect::<Result<Vec<_>, _>>()?;
        self.count_taken(tx, master, slave, ids.len() as u64)?;
        let (master, slave, ids) = (master.clone(), slave.clone(), ids.to_vec());
        self.append(tx, &SiteRecord::Taken { master, slave, ids })?;
        Ok(containers)
    }

    /// Returns the id of the key that IDQ3P calls `low64`, whether or not it was handed out.
    pub fn resolve(&self, tx: &dyn Tx, low64: u64) -> Result<Option<KeyId>, EngineError> {
        Ok(table::find_low64(tx, low64)?.map(|(id, _)| id))
    }

    /// Destroys held keys that nobody fetched in time, with a record each.
    pub fn handle_timeout(&mut self, tx: &mut dyn Tx, now: Timestamp) -> Result<(), EngineError> {
        if self.next_expiry.is_none_or(|at| at > now) {
            return Ok(());
        }
        let mut n_keys = 0;
        for (row, _) in tx.scan(EXPIRY, &[], &[], table::PAGE)? {
            let (at, id) = table::read_expiry(&row)?;
            if at > now {
                break;
            }
            n_keys += u64::from(self.expire(tx, id)?);
        }
        self.next_expiry = first_expiry(tx)?;
        if n_keys > 0 {
            self.events.push_back(Event::Expired { n_keys });
        }
        Ok(())
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Timestamp> {
        self.next_expiry
    }

    /// Holds the peer's handed-out keys for the slaves of this site, or erases them if there are
    /// none.
    pub(crate) fn apply_notice(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        notice: &Notice,
    ) -> Result<(), EngineError> {
        for ids in &notice.keys {
            let mut members = Vec::new();
            for (n, id) in ids.iter().enumerate() {
                match self.find_theirs(tx, *id)? {
                    Some(stock) if !ids.iter().take(n).any(|other| other == id) => {
                        members.push(stock);
                    }
                    _ => self.events.push_back(Event::Unmatched { id: *id }),
                }
            }
            self.levels.theirs -= members.len() as u64;
            let size = notice.size.count();
            if members.is_empty() || members.len() < ids.len() || size > 256 * ids.len() as u64 {
                for stock in &members {
                    stock.erase(tx, table::KEYS)?;
                }
                continue;
            }
            let Container { id, key, provenance } = take_out(tx, &members, notice.size)?;
            if !notice.slaves.is_empty() {
                let held = self.held_from_now(now, &notice.master, &notice.slaves, provenance);
                self.hold(tx, id, &key, &held)?;
            }
        }
        Ok(())
    }

    pub(crate) fn hold(
        &mut self,
        tx: &mut dyn Tx,
        id: KeyId,
        key: &SecretBytes,
        held: &Held,
    ) -> Result<(), EngineError> {
        held.write(tx, id)?;
        tx.write(HELD_BYTES, id.as_bytes(), key.expose())?;
        tx.write(EXPIRY, &held.expiry_row(id), &[])?;
        table::write_place(tx, id, Place::Held)?;
        let next = self.next_expiry.map_or(held.expires, |at| at.min(held.expires));
        self.next_expiry = Some(next);
        Ok(())
    }

    pub(crate) fn handle_flushed(&mut self, token: u64) {
        let questions = &mut self.questions;
        questions.answered = questions.answered.max(token.min(questions.asked));
        self.events.push_back(Event::KnowledgeComplete);
    }

    fn check_greeted(&self) -> Result<(), FetchError> {
        match self.peer.session() {
            Session::RolledBack { .. } | Session::Superseded => Err(FetchError::RolledBack),
            _ if !self.greeted => Err(FetchError::Apart),
            _ => Ok(()),
        }
    }

    /// Returns all the keys, or asks the peer about those that are not known here.
    fn all_held(
        &mut self,
        tx: &dyn Tx,
        now: Timestamp,
        ids: &[KeyId],
        inquiry: Inquiry,
    ) -> Result<Vec<(KeyId, Held)>, FetchError> {
        let (mut known, mut missing) = (Vec::new(), None);
        for &id in ids {
            match Held::read(tx, id)? {
                Some(held) if held.expires <= now => return Err(FetchError::Unknown { id }),
                Some(held) => known.push((id, held)),
                None => missing = missing.or(Some(id)),
            }
        }
        match missing {
            None => Ok(known),
            Some(id) => Err(self.ask_about(id, inquiry)),
        }
    }

    /// Sends one FLUSH for each request, and gives the verdict once that is answered: 400 is never
    /// said on incomplete knowledge (`PROTOCOL.md` P2).
    fn ask_about(&mut self, id: KeyId, inquiry: Inquiry) -> FetchError {
        if self.questions.is_answered(inquiry) {
            return FetchError::Unknown { id };
        }
        if self.peer.session() != Session::Open {
            return FetchError::Apart;
        }
        if self.questions.is_under_way(inquiry) {
            return FetchError::Incomplete { inquiry };
        }
        self.questions.asked += 1;
        let token = self.questions.asked;
        self.hint(SiteHint::Flush { token });
        FetchError::Incomplete { inquiry: Inquiry(Some(token)) }
    }

    /// Erases a held key at its expiry; tells whether a slave was still expected.
    fn expire(&mut self, tx: &mut dyn Tx, id: KeyId) -> Result<bool, EngineError> {
        let held = Held::read(tx, id)?.ok_or(EngineError::Damaged(HELD.name))?;
        tx.erase(HELD, id.as_bytes())?;
        tx.erase(HELD_BYTES, id.as_bytes())?;
        tx.erase(EXPIRY, &held.expiry_row(id))?;
        tx.erase(IDS, &id.low64().to_be_bytes())?;
        let Held { master, waiting: slaves, .. } = held;
        if slaves.is_empty() {
            return Ok(false);
        }
        for slave in &slaves {
            self.count_taken(tx, &master, slave, 1)?;
        }
        self.append(tx, &SiteRecord::Expired { master, slaves, id })?;
        Ok(true)
    }
}

/// Gives one slave its copy; the bits go with the last one.
fn give(
    tx: &mut dyn Tx,
    id: KeyId,
    mut held: Held,
    slave: &SaeId,
) -> Result<Container, EngineError> {
    let key = tx.read(HELD_BYTES, id.as_bytes())?.ok_or(EngineError::Damaged(HELD_BYTES.name))?;
    let taken = held.waiting.extract_if(.., |waiting| waiting == slave);
    held.served.extend(taken);
    held.write(tx, id)?;
    if held.waiting.is_empty() {
        tx.erase(HELD_BYTES, id.as_bytes())?;
    }
    Ok(Container { id, key, provenance: held.provenance })
}

/// Returns when the first held key expires.
pub(crate) fn first_expiry(tx: &dyn Tx) -> Result<Option<Timestamp>, EngineError> {
    let first = tx.scan(EXPIRY, &[], &[], 1)?;
    first.first().map(|(row, _)| table::read_expiry(row).map(|(at, _)| at)).transpose()
}
