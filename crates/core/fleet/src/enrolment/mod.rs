//! Enrolment: which devices may take part in the network, from the factory to the scrap heap.
//!
//! ```text
//!               seen            approved           first reading under a key of the link
//! manufactured ─────► pending ──────────► approved ──────────► active
//!       └──────────────────────────────────▲                      │
//!                    suspended ⇄ approved, active ⇄ quarantined   ▼
//!                                                              retired, from any state
//! ```
//!
//! The name of a device is its card (MAC address); what proves it is its bootstrap key, which is none of
//! this module's business. Orders for first keys are placed when discovery has settled, one for all
//! devices that were approved since the last (paper: "requests as many keys as there are devices").

mod rows;

use std::collections::{BTreeSet, VecDeque};

use claviger_durable::{EngineError, Tx};
use claviger_units::{MacAddr, Timestamp};

use self::rows::{AUDIT, ENROLMENTS, META, ORDERS, Row, next_number};
use crate::rows::walk;

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its label was imported, and its card was not seen yet.
    Manufactured,
    /// It was seen, and waits for somebody's word.
    Pending,
    /// It may take part, and has not shown yet that it can.
    Approved,
    /// It takes part.
    Active,
    /// An operator has shut it out for now.
    Suspended,
    /// A rule or an alarm has shut it out: it reaches nothing but quarantine.
    Quarantined,
    /// It is gone for good.
    Retired,
}

/// Who approves devices that were imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// The import was the approval: they take part as soon as they are seen.
    ByImport,
    /// An operator, one by one.
    ByOperator,
}

/// What an operator can do to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Lets it take part.
    Approve,
    /// Shuts it out for now.
    Suspend,
    /// Ends that.
    Resume,
    /// Shuts it out because of a suspicion.
    Quarantine,
    /// Ends that.
    Release,
    /// Shuts it out for good.
    Retire,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolmentError {
    /// The store failed: stop the role, mend the disk, start again.
    #[error(transparent)]
    Store(#[from] EngineError),
    /// No label of the device was imported: import it first.
    #[error("no label of {0} was imported; import it first")]
    Unknown(MacAddr),
    /// The device takes part already, or did: retire it, and import it again with a new key.
    #[error("{0} was imported already; retire it before it begins anew")]
    Known(MacAddr),
    /// What was asked for makes no sense in this state.
    #[error("{mac} is {from:?} and cannot be changed so; {remedy}")]
    NotFrom {
        /// The device.
        mac: MacAddr,
        /// Where it stands.
        from: Standing,
        /// What could be done.
        remedy: &'static str,
    },
}

/// A device as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Its card.
    pub mac: MacAddr,
    /// Where it stands.
    pub standing: Standing,
    /// What it may reach: a policy of the network's controller.
    pub policy: String,
    /// Where it was seen, in the controller's words.
    pub place: Option<String>,
    /// Since when it stands there.
    pub since: Timestamp,
    /// The order with which its first key was asked for; 0 for none yet.
    pub order: u64,
}

/// How a device takes part in the network now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It reaches what its policy names.
    Admitted {
        /// The policy.
        policy: String,
    },
    /// It is kept in quarantine.
    Quarantined,
    /// It reaches nothing.
    Barred,
}

/// An order for first keys: as many as devices were approved since the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstKeys {
    /// Its number, from 1.
    pub number: u64,
    /// When it was placed.
    pub placed: Timestamp,
    /// For whom.
    pub devices: Vec<MacAddr>,
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number, from 1.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who did it: the name in a certificate, or of a rule.
    pub who: String,
    /// To which device.
    pub mac: MacAddr,
    /// What.
    pub what: String,
}

/// All enrolments. What must last stands in tables.
#[derive(Debug)]
pub struct Enrolments {
    approval: Approval,
    // Discovery has nothing new to tell.
    is_settled: bool,
    // Approved devices without an order.
    unordered: BTreeSet<MacAddr>,
    changed: VecDeque<MacAddr>,
    orders: VecDeque<FirstKeys>,
}

impl Enrolments {
    /// Opens the tables; every admission is to be told to the controller again.
    pub fn open(tx: &dyn Tx, approval: Approval) -> Result<Self, EngineError> {
        let (changed, orders) = (VecDeque::new(), VecDeque::new());
        let mut enrolments =
            Self { approval, is_settled: false, unordered: BTreeSet::new(), changed, orders };
        walk(tx, ENROLMENTS, |key, row| {
            let mac = rows::mac_of(key)?;
            let row = Row::decode(row)?;
            if takes_part(row.standing) && row.order == 0 {
                enrolments.unordered.insert(mac);
            }
            enrolments.changed.push_back(mac);
            Ok(())
        })?;
        Ok(enrolments)
    }

    /// Takes in devices whose labels were brought; all of them or none.
    pub fn import(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        who: &str,
        devices: &[(MacAddr, String)],
    ) -> Result<(), EnrolmentError> {
        for (mac, _) in devices {
            let known = Row::load(tx, *mac)?;
            if known.is_some_and(|row| row.standing != Standing::Retired) {
                return Err(EnrolmentError::Known(*mac));
            }
        }
        for (mac, policy) in devices {
            let row = Row {
                standing: Standing::Manufactured,
                home: Standing::Manufactured,
                policy: policy.clone(),
                place: None,
                since: now,
                order: 0,
            };
            row.store(tx, *mac)?;
            note(tx, now, who, *mac, &format!("imported as {policy}"))?;
        }
        Ok(())
    }

    /// Takes in a device that is known already, with a new bootstrap key: what shut it out still does,
    /// and its first key is ordered anew.
    pub fn renew(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        who: &str,
        mac: MacAddr,
    ) -> Result<(), EnrolmentError> {
        let mut row = Row::load(tx, mac)?.ok_or(EnrolmentError::Unknown(mac))?;
        row.order = 0;
        if takes_part(row.standing) {
            row.move_to(now, Standing::Approved);
            self.note_approved(mac);
        }
        if row.home == Standing::Active {
            row.home = Standing::Approved;
        }
        row.store(tx, mac)?;
        note(tx, now, who, mac, "brought again with a new bootstrap key")?;
        if self.is_settled { Ok(self.order_keys(tx, now)?) } else { Ok(()) }
    }

    /// Notes that somebody else uses the card of a device: the device itself has done nothing wrong.
    pub fn handle_spoofed(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        mac: MacAddr,
        place: &str,
    ) -> Result<(), EngineError> {
        let Some(row) = Row::load(tx, mac)? else { return Ok(()) };
        let home = row.place.as_deref().unwrap_or("another port");
        note(tx, now, "network", mac, &format!("spoofed at {place}; it belongs to {home}"))
    }

    /// Lets every admission be told to the controller again.
    pub fn recall(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        self.changed.clear();
        walk(tx, ENROLMENTS, |key, _| {
            self.changed.push_back(rows::mac_of(key)?);
            Ok(())
        })
    }

    /// Notes that a card was seen; unknown cards are the controller's business alone.
    pub fn handle_seen(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        mac: MacAddr,
        place: &str,
    ) -> Result<(), EngineError> {
        let Some(mut row) = Row::load(tx, mac)? else { return Ok(()) };
        if row.place.as_deref() != Some(place) {
            row.place = Some(place.to_owned());
            note(tx, now, "network", mac, &format!("seen at {place}"))?;
        }
        if row.standing == Standing::Manufactured {
            self.is_settled = false;
            row.move_to(now, Standing::Pending);
            if self.approval == Approval::ByImport {
                row.move_to(now, Standing::Approved);
                note(tx, now, "rule", mac, "approved, as its label was imported")?;
                self.note_approved(mac);
            }
        }
        row.store(tx, mac)
    }

    /// Notes that discovery has nothing new to tell, and orders first keys for all who lack one.
    pub fn handle_settled(&mut self, tx: &mut dyn Tx, now: Timestamp) -> Result<(), EngineError> {
        self.is_settled = true;
        self.order_keys(tx, now)
    }

    /// Notes that a device has shown that it holds a key of the link.
    pub fn handle_confirmed(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        mac: MacAddr,
    ) -> Result<(), EngineError> {
        let Some(mut row) = Row::load(tx, mac)? else { return Ok(()) };
        match row.standing {
            Standing::Approved => row.move_to(now, Standing::Active),
            Standing::Suspended | Standing::Quarantined if row.home == Standing::Approved => {
                row.home = Standing::Active;
            }
            _ => return Ok(()),
        }
        row.store(tx, mac)?;
        note(tx, now, "platform", mac, "its first reading under a key of the link has come")
    }

    /// Does what an operator, a rule or an alarm wants.
    pub fn take_measure(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        (who, why): (&str, &str),
        mac: MacAddr,
        measure: Measure,
    ) -> Result<Standing, EnrolmentError> {
        let mut row = Row::load(tx, mac)?.ok_or(EnrolmentError::Unknown(mac))?;
        let next = row.after(measure).map_err(|remedy| EnrolmentError::NotFrom {
            mac,
            from: row.standing,
            remedy,
        })?;
        row.move_to(now, next);
        row.store(tx, mac)?;
        let what =
            if why.is_empty() { format!("{measure:?}") } else { format!("{measure:?}: {why}") };
        note(tx, now, who, mac, &what.to_lowercase())?;
        if takes_part(next) && row.order == 0 {
            self.note_approved(mac);
            if self.is_settled {
                self.order_keys(tx, now)?;
            }
        } else {
            self.unordered.remove(&mac);
            self.changed.push_back(mac);
        }
        Ok(next)
    }

    /// Returns how a device takes part in the network.
    pub fn admission(&self, tx: &dyn Tx, mac: MacAddr) -> Result<Admission, EngineError> {
        Ok(match Row::load(tx, mac)? {
            Some(row) if takes_part(row.standing) => Admission::Admitted { policy: row.policy },
            Some(row) if row.standing == Standing::Quarantined => Admission::Quarantined,
            _ => Admission::Barred,
        })
    }

    /// Returns a device.
    pub fn get(&self, tx: &dyn Tx, mac: MacAddr) -> Result<Option<Enrolment>, EngineError> {
        Ok(Row::load(tx, mac)?.map(|row| row.shown(mac)))
    }

    /// Lists up to `limit` devices after a card, in rising order.
    pub fn list(
        &self,
        tx: &dyn Tx,
        after: Option<MacAddr>,
        limit: usize,
    ) -> Result<Vec<Enrolment>, EngineError> {
        let after = after.as_ref().map_or(&[][..], |mac| mac.as_bytes());
        let rows = tx.scan(ENROLMENTS, b"", after, limit)?;
        rows.iter().map(|(key, row)| Ok(Row::decode(row)?.shown(rows::mac_of(key)?))).collect()
    }

    /// Lists up to `limit` entries of the audit log after number `seq`.
    pub fn audit(
        &self,
        tx: &dyn Tx,
        seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, EngineError> {
        let rows = tx.scan(AUDIT, b"", &seq.to_be_bytes(), limit)?;
        rows.iter().map(|(key, row)| rows::read_audit(key, row)).collect()
    }

    /// Lists up to `limit` orders after number `after`.
    pub fn orders(
        &self,
        tx: &dyn Tx,
        after: u64,
        limit: usize,
    ) -> Result<Vec<FirstKeys>, EngineError> {
        let rows = tx.scan(ORDERS, b"", &after.to_be_bytes(), limit)?;
        rows.iter().map(|(key, row)| rows::read_order(key, row)).collect()
    }

    /// Tells whether there is an admission that the controller must be told.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Returns a device whose admission the controller must be told.
    pub fn poll_change(&mut self) -> Option<MacAddr> {
        self.changed.pop_front()
    }

    /// Returns an order that was placed.
    pub fn poll_order(&mut self) -> Option<FirstKeys> {
        self.orders.pop_front()
    }

    fn note_approved(&mut self, mac: MacAddr) {
        self.unordered.insert(mac);
        self.changed.push_back(mac);
    }

    fn order_keys(&mut self, tx: &mut dyn Tx, now: Timestamp) -> Result<(), EngineError> {
        if self.unordered.is_empty() {
            return Ok(());
        }
        let number = next_number(tx, META, b"order")?;
        let devices: Vec<_> = std::mem::take(&mut self.unordered).into_iter().collect();
        for &mac in &devices {
            let Some(mut row) = Row::load(tx, mac)? else { continue };
            row.order = number;
            row.store(tx, mac)?;
        }
        let order = FirstKeys { number, placed: now, devices };
        rows::store_order(tx, &order)?;
        self.orders.push_back(order);
        Ok(())
    }
}

const fn takes_part(standing: Standing) -> bool {
    matches!(standing, Standing::Approved | Standing::Active)
}

impl Row {
    /// Returns where a measure leads, or what could be done instead.
    fn after(&self, measure: Measure) -> Result<Standing, &'static str> {
        use Standing as S;
        match (measure, self.standing) {
            (Measure::Approve, S::Manufactured | S::Pending) => Ok(S::Approved),
            (Measure::Approve, S::Approved | S::Active) => Err("it is approved already"),
            (Measure::Approve, S::Suspended) => Err("resume it"),
            (Measure::Approve, S::Quarantined) => Err("release it"),
            (Measure::Suspend, S::Approved | S::Active | S::Quarantined) => Ok(S::Suspended),
            (Measure::Quarantine, S::Approved | S::Active | S::Suspended) => Ok(S::Quarantined),
            (Measure::Resume, S::Suspended) | (Measure::Release, S::Quarantined) => Ok(self.home),
            (Measure::Retire, S::Retired) => Err("it is retired already"),
            (Measure::Retire, _) => Ok(S::Retired),
            (_, S::Retired) => Err("import it again with a new bootstrap key"),
            (Measure::Resume, _) => Err("only a suspended device is resumed"),
            (Measure::Release, _) => Err("only a quarantined device is released"),
            (Measure::Suspend | Measure::Quarantine, _) => Err("it takes no part yet"),
        }
    }

    fn move_to(&mut self, now: Timestamp, next: Standing) {
        // What leads out of suspension and quarantine is where the device was before both.
        if takes_part(self.standing) {
            self.home = self.standing;
        }
        (self.standing, self.since) = (next, now);
    }

    fn shown(self, mac: MacAddr) -> Enrolment {
        let Self { standing, policy, place, since, order, .. } = self;
        Enrolment { mac, standing, policy, place, since, order }
    }
}

fn note(
    tx: &mut dyn Tx,
    now: Timestamp,
    who: &str,
    mac: MacAddr,
    what: &str,
) -> Result<(), EngineError> {
    let seq = next_number(tx, META, b"audit")?;
    let (who, what) = (who.to_owned(), what.to_owned());
    rows::store_audit(tx, &AuditEntry { seq, at: now, who, mac, what })
}
