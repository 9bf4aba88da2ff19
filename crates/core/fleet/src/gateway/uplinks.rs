//! The queue of telemetry: what is in it was acknowledged to its device (`PROTOCOL.md` P3d).

use std::collections::BTreeMap;

use claviger_durable::engine::Row;
use claviger_durable::{EngineError, Tx};
use claviger_units::{Eui64, Timestamp};

use super::rows::UPLINKS;
use super::{Gateway, GatewayEvent, Taker};
use crate::Alarm;
use crate::orders::damaged;
use crate::rows::walk;

/// A telemetry frame on its way to the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedUplink {
    /// Its place in the queue.
    pub seq: u64,
    /// The device that sent it.
    pub eui: Eui64,
    /// The frame, unreadable here.
    pub frame: Vec<u8>,
}

/// Why a telemetry frame is not queued, and so not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueRefusal {
    /// The store failed: stop the role, mend the disk, start again.
    #[error(transparent)]
    Store(#[from] EngineError),
    /// Longer than any reading: the device is wrong.
    #[error("a telemetry frame of {length} bytes is longer than {MAX_UPLINK}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The device has its share of the queue, which is everybody's: it sends again later.
    #[error("{MAX_QUEUED_OF_ONE} telemetry frames of this device wait for the platform already")]
    Share,
    /// The platform has been away for too long: the device sends again later.
    #[error("the queue is full: the platform has not taken telemetry for too long")]
    Full,
}

/// Telemetry frames that did not get through since the start, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostUplinks {
    /// Refused as [`QueueRefusal::TooLong`].
    pub too_long: u64,
    /// Refused as [`QueueRefusal::Share`]; the device keeps them.
    pub over_share: u64,
    /// Refused as [`QueueRefusal::Full`]; the device keeps them.
    pub full: u64,
    /// Dropped with an [`Alarm::Undeliverable`].
    pub undeliverable: u64,
}

/// What the queue holds, without reading it.
#[derive(Debug, Default)]
pub(super) struct Levels {
    pub(super) n_frames: u64,
    /// What they take on the disk, about.
    n_bytes: u64,
    // Invariant: no device has none, and the counts add up to `n_frames`.
    of: BTreeMap<Eui64, u64>,
    last: u64,
    pub(super) lost: LostUplinks,
}

impl Levels {
    fn add(&mut self, eui: Eui64, seq: u64, frame: &[u8]) {
        self.last = seq;
        self.n_frames += 1;
        self.n_bytes += bytes_of(frame);
        *self.of.entry(eui).or_default() += 1;
    }

    fn take(&mut self, eui: Eui64, frame: &[u8]) {
        self.n_frames -= 1;
        self.n_bytes -= bytes_of(frame);
        if let Some(n_frames) = self.of.get_mut(&eui) {
            *n_frames -= 1;
            if *n_frames == 0 {
                self.of.remove(&eui);
            }
        }
    }

    /// Refuses and counts what would leave others without room.
    fn admit(&mut self, eui: Eui64, frame: &[u8], most: u64) -> Result<(), QueueRefusal> {
        let lost = &mut self.lost;
        let (refusal, count) = if frame.len() > MAX_UPLINK {
            (QueueRefusal::TooLong { length: frame.len() }, &mut lost.too_long)
        } else if self.of.get(&eui).is_some_and(|n_frames| *n_frames >= MAX_QUEUED_OF_ONE) {
            (QueueRefusal::Share, &mut lost.over_share)
        } else if self.n_bytes + bytes_of(frame) > most {
            (QueueRefusal::Full, &mut lost.full)
        } else {
            return Ok(());
        };
        *count += 1;
        Err(refusal)
    }
}

impl Gateway {
    /// Queues a telemetry frame; once this is durable, the device may be told so.
    pub fn handle_uplink(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        frame: &[u8],
    ) -> Result<(), QueueRefusal> {
        self.uplinks.admit(eui, frame, self.config.queue_bytes)?;
        let (seq, row) = (self.uplinks.last + 1, [eui.as_bytes(), frame].concat());
        tx.write(UPLINKS, &seq.to_be_bytes(), &row)?;
        self.uplinks.add(eui, seq, frame);
        self.seen.insert(eui, now);
        Ok(())
    }

    /// Returns up to `limit` frames behind `after_seq` (0: from the front), in their order.
    pub fn next_uplinks(
        &self,
        tx: &dyn Tx,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<QueuedUplink>, EngineError> {
        // A platform that has forgotten what it had read cannot judge them yet.
        if self.returns.are_open() {
            return Ok(Vec::new());
        }
        let rows = tx.scan(UPLINKS, b"", &after_seq.to_be_bytes(), limit)?;
        let read = |(key, row): &Row| {
            let (eui, frame) = split(row.expose())?;
            Ok(QueuedUplink { seq: seq_of(key)?, eui, frame: frame.to_vec() })
        };
        rows.iter().map(read).collect()
    }

    /// Takes a frame out of the queue: the platform's broker has acknowledged it.
    pub fn handle_forwarded(&mut self, tx: &mut dyn Tx, seq: u64) -> Result<(), EngineError> {
        match self.take_out(tx, seq)? {
            Some((eui, frame)) if self.config.taker == Taker::Platform => {
                Self::note_forwarded(tx, eui, &frame)
            }
            _ => Ok(()),
        }
    }

    /// Drops a frame that the platform's broker refuses for good, with an alarm: waiting on, it
    /// would stop all behind it.
    pub fn handle_undeliverable(&mut self, tx: &mut dyn Tx, seq: u64) -> Result<(), EngineError> {
        if let Some((eui, _)) = self.take_out(tx, seq)? {
            self.uplinks.lost.undeliverable += 1;
            self.events.push_back(GatewayEvent::Alarm(Alarm::Undeliverable { eui, seq }));
        }
        Ok(())
    }

    /// Takes a frame out of the queue; `None` if it was out already.
    fn take_out(
        &mut self,
        tx: &mut dyn Tx,
        seq: u64,
    ) -> Result<Option<(Eui64, Vec<u8>)>, EngineError> {
        let Some(row) = tx.read(UPLINKS, &seq.to_be_bytes())? else { return Ok(None) };
        let (eui, frame) = split(row.expose())?;
        tx.erase(UPLINKS, &seq.to_be_bytes())?;
        self.uplinks.take(eui, frame);
        Ok(Some((eui, frame.to_vec())))
    }

    pub(super) fn recall_uplinks(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, UPLINKS, |key, row| {
            let (eui, frame) = split(row.expose())?;
            self.uplinks.add(eui, seq_of(key)?, frame);
            Ok(())
        })
    }
}

/// Splits a row of the queue into its device and its frame.
fn split(row: &[u8]) -> Result<(Eui64, &[u8]), EngineError> {
    let (eui, frame) = row.split_first_chunk().ok_or(damaged(UPLINKS))?;
    Ok((Eui64::from_bytes(*eui), frame))
}

fn seq_of(key: &[u8]) -> Result<u64, EngineError> {
    key.try_into().map(u64::from_be_bytes).or(Err(damaged(UPLINKS)))
}

/// The longest telemetry frame in bytes.
const MAX_UPLINK: usize = 4096;

/// Returns about what a frame takes on the disk.
const fn bytes_of(frame: &[u8]) -> u64 {
    frame.len() as u64 + 64
}

/// The most frames of one device that wait: three weeks of a reading every half hour.
const MAX_QUEUED_OF_ONE: u64 = 1000;
