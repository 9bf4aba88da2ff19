//! What enrolment keeps on disk; no secret is in it.

use claviger_durable::{EngineError, Table, Tx};
use claviger_units::{MacAddr, SecretBytes, Timestamp};
use claviger_wire::{DecodeError, Reader, Writer};

use super::{AuditEntry, FirstKeys, Standing};
use crate::orders::damaged;

/// Devices: MAC address → [`Row`].
pub(super) const ENROLMENTS: Table = Table::plain("enrolment");
/// The audit log: be64(seq) → who, what, when.
pub(super) const AUDIT: Table = Table::plain("enrolment_audit");
/// Orders for first keys: be64(number) → when, for whom.
pub(super) const ORDERS: Table = Table::plain("enrolment_order");
/// The highest numbers of orders and of the audit log.
pub(super) const META: Table = Table::plain("enrolment_meta");

#[derive(Debug)]
pub(super) struct Row {
    pub(super) standing: Standing,
    /// Where suspension and quarantine lead back to.
    pub(super) home: Standing,
    pub(super) policy: String,
    pub(super) place: Option<String>,
    pub(super) since: Timestamp,
    pub(super) order: u64,
}

const STANDINGS: [Standing; 7] = [
    Standing::Manufactured,
    Standing::Pending,
    Standing::Approved,
    Standing::Active,
    Standing::Suspended,
    Standing::Quarantined,
    Standing::Retired,
];

impl Row {
    pub(super) fn load(tx: &dyn Tx, mac: MacAddr) -> Result<Option<Self>, EngineError> {
        let row = tx.read(ENROLMENTS, mac.as_bytes())?;
        row.map(|row| Self::decode(&row)).transpose()
    }

    pub(super) fn store(&self, tx: &mut dyn Tx, mac: MacAddr) -> Result<(), EngineError> {
        let place = self.place.as_deref().unwrap_or_default();
        let row = Writer::new()
            .u8(number_of(self.standing))
            .u8(number_of(self.home))
            .u64(self.since.as_micros())
            .u64(self.order)
            .bytes(self.policy.as_bytes())
            .bytes(place.as_bytes());
        tx.write(ENROLMENTS, mac.as_bytes(), &row.finish())
    }

    pub(super) fn decode(row: &SecretBytes) -> Result<Self, EngineError> {
        Self::read(row.expose()).map_err(|_row| damaged(ENROLMENTS))
    }

    fn read(row: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(row);
        let (standing, home) = (standing(r.u8()?)?, standing(r.u8()?)?);
        let (since, order) = (r.timestamp()?, r.u64()?);
        let (policy, place) = (text(r.bytes()?)?, text(r.bytes()?)?);
        r.finish()?;
        let place = (!place.is_empty()).then_some(place);
        Ok(Self { standing, home, policy, place, since, order })
    }
}

pub(super) fn mac_of(key: &[u8]) -> Result<MacAddr, EngineError> {
    key.try_into().map(MacAddr::from_bytes).or(Err(damaged(ENROLMENTS)))
}

/// Counts one further.
pub(super) fn next_number(tx: &mut dyn Tx, table: Table, name: &[u8]) -> Result<u64, EngineError> {
    let last = match tx.read(table, name)? {
        None => 0,
        Some(row) => u64::from_be_bytes(row.expose().try_into().or(Err(damaged(table)))?),
    };
    tx.write(table, name, &(last + 1).to_be_bytes())?;
    Ok(last + 1)
}

pub(super) fn store_audit(tx: &mut dyn Tx, entry: &AuditEntry) -> Result<(), EngineError> {
    let row = Writer::new()
        .u64(entry.at.as_micros())
        .raw(entry.mac.as_bytes())
        .bytes(entry.who.as_bytes())
        .bytes(entry.what.as_bytes());
    tx.write(AUDIT, &entry.seq.to_be_bytes(), &row.finish())
}

pub(super) fn read_audit(key: &[u8], row: &SecretBytes) -> Result<AuditEntry, EngineError> {
    let seq = u64::from_be_bytes(key.try_into().or(Err(damaged(AUDIT)))?);
    let read = || {
        let mut r = Reader::new(row.expose());
        let (at, mac) = (r.timestamp()?, MacAddr::from_bytes(r.array()?));
        let (who, what) = (text(r.bytes()?)?, text(r.bytes()?)?);
        r.finish()?;
        Ok::<_, DecodeError>(AuditEntry { seq, at, who, mac, what })
    };
    read().map_err(|_row| damaged(AUDIT))
}

pub(super) fn store_order(tx: &mut dyn Tx, order: &FirstKeys) -> Result<(), EngineError> {
    let mut row = Writer::new().u64(order.placed.as_micros()).count(order.devices.len());
    for mac in &order.devices {
        row = row.raw(mac.as_bytes());
    }
    tx.write(ORDERS, &order.number.to_be_bytes(), &row.finish())
}

pub(super) fn read_order(key: &[u8], row: &SecretBytes) -> Result<FirstKeys, EngineError> {
    let number = u64::from_be_bytes(key.try_into().or(Err(damaged(ORDERS)))?);
    let read = || {
        let mut r = Reader::new(row.expose());
        let placed = r.timestamp()?;
        let n_devices = r.count(6)?;
        let devices = (0..n_devices).map(|_| r.array().map(MacAddr::from_bytes));
        let devices = devices.collect::<Result<_, _>>()?;
        r.finish()?;
        Ok::<_, DecodeError>(FirstKeys { number, placed, devices })
    };
    read().map_err(|_row| damaged(ORDERS))
}

fn number_of(standing: Standing) -> u8 {
    let at = STANDINGS.iter().position(|&other| other == standing);
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

fn standing(number: u8) -> Result<Standing, DecodeError> {
    STANDINGS.get(usize::from(number)).copied().ok_or(DecodeError::Field("standing"))
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).or(Err(DecodeError::Field("text")))
}
