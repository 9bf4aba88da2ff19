//! The audit trail: who got which keys when, written in the transaction that gave them
//! (`PROTOCOL.md` P2). Names and numbers, never a key.

use claviger_durable::engine::Row;
use claviger_durable::{EngineError, Table, Tx};
use claviger_units::{Bits, KeyId, SaeId, Timestamp};
use claviger_wire::DecodeError;
use claviger_wire::cursor::{Reader, Writer};

use crate::Kme;
use crate::event::{Event, Interface};

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Its place in the trail, from 1.
    pub seq: u64,
    /// When the keys were given.
    pub at: Timestamp,
    /// [`Event::HandedOut`] or [`Event::Fetched`].
    pub event: Event,
}

impl Kme {
    /// Returns up to `limit` lines behind `after_seq` (0: from the oldest kept), in their order.
    pub fn audit(
        &self,
        tx: &dyn Tx,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditLine>, EngineError> {
        let rows = tx.scan(AUDIT, b"", &after_seq.to_be_bytes(), limit)?;
        rows.iter().map(read_line).collect()
    }

    /// Writes a line for keys that leave with this transaction; the oldest of too many goes.
    pub(crate) fn note(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        event: &Event,
    ) -> Result<(), EngineError> {
        let Some(row) = row_of(now, event) else { return Ok(()) };
        let last = match self.last_line {
            Some(last) => last,
            None => last_of(tx)?,
        };
        let seq = last + 1;
        tx.write(AUDIT, &seq.to_be_bytes(), &row)?;
        if let Some(old) = seq.checked_sub(KEPT_LINES) {
            tx.erase(AUDIT, &old.to_be_bytes())?;
        }
        self.last_line = Some(seq);
        Ok(())
    }
}

/// Returns the row of a line; what gave no key has none.
fn row_of(now: Timestamp, event: &Event) -> Option<Vec<u8>> {
    let begin = |kind, interface: Interface| {
        Writer::kind(kind).u64(now.as_micros()).u8(interface_code(interface))
    };
    let put = |writer: Writer, sae: &SaeId| writer.bytes(sae.as_str().as_bytes());
    let put_ids = |writer: Writer, ids: &[KeyId]| {
        ids.iter().fold(writer.count(ids.len()), |writer, id| writer.raw(id.as_bytes()))
    };
    let writer = match event {
        Event::HandedOut { interface, master, slaves, ids, size } => {
            let writer = put(begin(HANDED_OUT, *interface).u64(size.count()), master);
            put_ids(slaves.iter().fold(writer.count(slaves.len()), put), ids)
        }
        Event::Fetched { interface, slave, master, ids } => {
            put_ids(put(put(begin(FETCHED, *interface), slave), master), ids)
        }
        Event::Refused { .. } | Event::DeviceRefused { .. } => return None,
    };
    Some(writer.finish())
}

fn read_line((key, row): &Row) -> Result<AuditLine, EngineError> {
    let damaged = EngineError::Damaged(AUDIT.name);
    let seq = key.as_slice().try_into().map(u64::from_be_bytes).or(Err(damaged.clone()))?;
    let (at, event) = read_row(row.expose()).or(Err(damaged))?;
    Ok(AuditLine { seq, at, event })
}

fn read_row(row: &[u8]) -> Result<(Timestamp, Event), DecodeError> {
    let mut reader = Reader::new(row);
    let (kind, at, interface) = (reader.u8()?, reader.timestamp()?, read_interface(&mut reader)?);
    let event = match kind {
        HANDED_OUT => {
            let (size, master) = (Bits::new(reader.u64()?), reader.sae_id()?);
            let slaves =
                (0..reader.count(4)?).map(|_| reader.sae_id()).collect::<Result<_, _>>()?;
            Event::HandedOut { interface, master, slaves, ids: read_ids(&mut reader)?, size }
        }
        FETCHED => {
            let (slave, master) = (reader.sae_id()?, reader.sae_id()?);
            Event::Fetched { interface, slave, master, ids: read_ids(&mut reader)? }
        }
        kind => return Err(DecodeError::Kind(kind)),
    };
    reader.finish().map(|()| (at, event))
}

fn read_ids(reader: &mut Reader<'_>) -> Result<Vec<KeyId>, DecodeError> {
    (0..reader.count(16)?).map(|_| reader.key_id()).collect()
}

const fn interface_code(interface: Interface) -> u8 {
    match interface {
        Interface::Etsi014 => 0,
        Interface::Idq3p => 1,
    }
}

fn read_interface(reader: &mut Reader<'_>) -> Result<Interface, DecodeError> {
    match reader.u8()? {
        0 => Ok(Interface::Etsi014),
        1 => Ok(Interface::Idq3p),
        _ => Err(DecodeError::Field("interface")),
    }
}

/// Finds the number of the newest line; 0 where there is none.
fn last_of(tx: &dyn Tx) -> Result<u64, EngineError> {
    let mut last = Vec::new();
    loop {
        let rows = tx.scan(AUDIT, b"", &last, PAGE)?;
        let Some((key, _)) = rows.last() else { break };
        last.clone_from(key);
    }
    if last.is_empty() {
        return Ok(0);
    }
    last.as_slice().try_into().map(u64::from_be_bytes).or(Err(EngineError::Damaged(AUDIT.name)))
}

/// Lines by number.
const AUDIT: Table = Table::plain("kme_audit");
/// How many lines are kept.
const KEPT_LINES: u64 = 10_000;
/// How many rows are read at a time.
const PAGE: usize = 256;

const HANDED_OUT: u8 = 1;
const FETCHED: u8 = 2;
