//! The queue of telemetry: what is in it was acknowledged to its device (`PROTOCOL.md` P3d).

use claviger_durable::{EngineError, Tx};
use claviger_units::{Eui64, Timestamp};

use super::Gateway;
use super::rows::UPLINKS;
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
    /// The platform has been away for too long: the device sends again later.
    #[error("{MAX_QUEUED} telemetry frames wait for the platform already")]
    Full,
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
        if frame.len() > MAX_UPLINK {
            return Err(QueueRefusal::TooLong { length: frame.len() });
        }
        if self.n_uplinks >= MAX_QUEUED {
            return Err(QueueRefusal::Full);
        }
        let row = [eui.as_bytes(), frame].concat();
        tx.write(UPLINKS, &self.next_uplink.to_be_bytes(), &row)?;
        self.next_uplink += 1;
        self.n_uplinks += 1;
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
        let rows = tx.scan(UPLINKS, b"", &after_seq.to_be_bytes(), limit)?;
        rows.iter()
            .map(|(key, row)| {
                let seq = seq_of(key)?;
                let (eui, frame) = row.expose().split_first_chunk().ok_or(damaged(UPLINKS))?;
                Ok(QueuedUplink { seq, eui: Eui64::from_bytes(*eui), frame: frame.to_vec() })
            })
            .collect()
    }

    /// Takes a frame out of the queue: the platform's broker has acknowledged it.
    pub fn handle_forwarded(&mut self, tx: &mut dyn Tx, seq: u64) -> Result<(), EngineError> {
        if tx.read(UPLINKS, &seq.to_be_bytes())?.is_some() {
            tx.erase(UPLINKS, &seq.to_be_bytes())?;
            self.n_uplinks -= 1;
        }
        Ok(())
    }

    pub(super) fn recall_uplinks(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        walk(tx, UPLINKS, |key, _row| {
            self.next_uplink = seq_of(key)? + 1;
            self.n_uplinks += 1;
            Ok(())
        })
    }
}

fn seq_of(key: &[u8]) -> Result<u64, EngineError> {
    key.try_into().map(u64::from_be_bytes).or(Err(damaged(UPLINKS)))
}

/// The longest telemetry frame in bytes.
const MAX_UPLINK: usize = 4096;

/// The most frames that wait.
const MAX_QUEUED: u64 = 100_000;
