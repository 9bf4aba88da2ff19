//! Telemetry: opened, judged and stored in one transaction (`PROTOCOL.md` P3b.6, P3d).

use claviger_durable::{EngineError, Tx};
use claviger_frames::{DataKeys, Epoch, ReplayWindow, Seen, TelemetryError, telemetry};
use claviger_units::{Eui64, Timestamp};
use claviger_wire::{DecodeError, Reader, Writer};
use sha2::{Digest, Sha256};

use super::rows::{
    DeviceRow, EpochRow, HEARD, META, READINGS, READINGS_OF, WINDOWS, epoch_key, heard_key,
    load_window,
};
use super::{Platform, PlatformEvent};
use crate::Alarm;
use crate::orders::{Origin, damaged};

/// A telemetry frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The epoch it was sealed under.
    pub epoch: Epoch,
    /// Which message of the epoch it is.
    pub counter: u32,
    /// Where the key of that epoch comes from.
    pub origin: Option<Origin>,
    /// The plaintext.
    pub reading: Vec<u8>,
    /// Whether it had been read before.
    pub duplicate: Duplicate,
}

/// Whether a frame had been read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicate {
    /// No: it is stored now.
    No,
    /// Yes, byte for byte: it was stored then, and somebody missed the acknowledgement.
    SameBytes,
}

/// Why a telemetry frame is not stored. All but [`Barred`](Self::Barred) are final: the frame is
/// acknowledged, so that it does not come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkRefusal {
    /// Not a telemetry frame: the device or a bridge is wrong.
    #[error("not a telemetry frame")]
    Malformed,
    /// Of a device that is not provisioned here.
    #[error("the device is not provisioned")]
    UnknownDevice,
    /// Under an epoch that is not held, or no longer.
    #[error("epoch {0} is not held")]
    UnknownEpoch(Epoch),
    /// Forged, changed, or of another device.
    #[error("the telemetry frame does not verify")]
    Unverified,
    /// So far behind the newest one that a replay cannot be excluded.
    #[error("counter {0} is too far behind")]
    Replayed(u32),
    /// Another message under a counter that was used before: the device has been cloned.
    #[error("counter {0} was used for another message; the device is cloned")]
    Cloned(u32),
    /// Under an epoch of which nobody knows any more what was read: this store was lost, and so was the gateway's,
    /// or a broker stands between them. It passes with the next key that the device does not have yet.
    #[error(
        "what was read under epoch {0} is forgotten; the device is read again under a later one"
    )]
    Unjudged(Epoch),
    /// The device is quarantined: bootstrap it with a new key.
    #[error("the device is quarantined, because it was cloned")]
    Quarantined,
    /// This platform may have been restored from an old copy: not to be acknowledged. It passes once
    /// the gateway is heard, unless the gateway knows of something that this store lacks.
    #[error(
        "the gateway has not been heard since the start, or says that this store is an old copy"
    )]
    Barred,
}

/// A reading as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReading {
    /// Its place among all readings, from 1.
    pub seq: u64,
    /// The device that sent it.
    pub eui: Eui64,
    /// The epoch it was sealed under.
    pub epoch: Epoch,
    /// Where the key of that epoch comes from; `None` where an earlier version stored it.
    pub origin: Option<Origin>,
    /// Which message of the epoch it is.
    pub counter: u32,
    /// When it was read.
    pub received: Timestamp,
    /// The plaintext.
    pub reading: Vec<u8>,
}

impl Platform {
    /// Reads a telemetry frame that came under the topic of `eui`.
    ///
    /// The inner result is the answer; it stands once the transaction is durable, a refusal too,
    /// since a clone is noted with it.
    pub fn handle_uplink(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        frame: &[u8],
    ) -> Result<Result<Accepted, UplinkRefusal>, EngineError> {
        if self.is_barred() {
            return Ok(Err(UplinkRefusal::Barred));
        }
        let Some(mut device) = DeviceRow::load(tx, eui)? else {
            return Ok(Err(UplinkRefusal::UnknownDevice));
        };
        if device.cloned.is_none() {
            Self::follow_pad(tx, eui, &device, frame)?;
        }
        let (message, mut window) = match open_frame(tx, now, eui, &device, frame)? {
            Ok(opened) => opened,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Accepted { epoch, counter, ref reading, .. } = message;
        if device.cloned.is_some() {
            return Ok(Err(UplinkRefusal::Quarantined));
        }
        if window.is_closed() {
            // It proves where its device is, be it said again.
            if epoch > device.active {
                self.activate(tx, now, eui, &mut device, epoch)?;
            }
            return Ok(Err(UplinkRefusal::Unjudged(epoch)));
        }
        let digest: [u8; 32] = Sha256::digest(reading).into();
        match window.check(counter) {
            Seen::TooOld => return Ok(Err(UplinkRefusal::Replayed(counter))),
            Seen::Seen => {
                return match tx.read(HEARD, &heard_key(eui, epoch, counter))? {
                    Some(heard) if heard.expose() == digest => {
                        Ok(Ok(Accepted { duplicate: Duplicate::SameBytes, ..message }))
                    }
                    Some(_) => {
                        self.quarantine(tx, eui, device, epoch, counter)?;
                        Ok(Err(UplinkRefusal::Cloned(counter)))
                    }
                    // Read before this store was lost: what it said then is forgotten.
                    None => Ok(Err(UplinkRefusal::Replayed(counter))),
                };
            }
            Seen::Fresh => {}
        }
        window.mark(counter);
        tx.write(WINDOWS, &epoch_key(eui, epoch), &window.to_bytes())?;
        tx.write(HEARD, &heard_key(eui, epoch, counter), &digest)?;
        forget_passed(tx, eui, epoch, &window)?;
        self.store_reading(tx, now, eui, &message)?;
        if epoch > device.active {
            self.activate(tx, now, eui, &mut device, epoch)?;
        }
        self.heard.insert(eui, now);
        Ok(Ok(message))
    }

    /// Tells whether the keys that this store holds open a frame, without taking it; for audits.
    pub fn can_open(
        &self,
        tx: &dyn Tx,
        now: Timestamp,
        eui: Eui64,
        frame: &[u8],
    ) -> Result<bool, EngineError> {
        let Some(device) = DeviceRow::load(tx, eui)? else { return Ok(false) };
        Ok(open_frame(tx, now, eui, &device, frame)?.is_ok())
    }

    /// Returns up to `limit` readings behind `after_seq` (0: from the first), of one device or of
    /// all, in their order.
    pub fn readings(
        &self,
        tx: &dyn Tx,
        after_seq: u64,
        eui: Option<Eui64>,
        limit: usize,
    ) -> Result<Vec<StoredReading>, EngineError> {
        let Some(eui) = eui else {
            let rows = tx.scan(READINGS, b"", &after_seq.to_be_bytes(), limit)?;
            return rows.iter().map(|(key, row)| StoredReading::read(key, row.expose())).collect();
        };
        let after = [&eui.as_bytes()[..], &after_seq.to_be_bytes()].concat();
        let mut readings = Vec::new();
        for (key, _) in tx.scan(READINGS_OF, eui.as_bytes(), &after, limit)? {
            let (_, seq) = key.split_last_chunk::<8>().ok_or(damaged(READINGS_OF))?;
            let row = tx.read(READINGS, seq)?.ok_or(damaged(READINGS))?;
            readings.push(StoredReading::read(seq, row.expose())?);
        }
        Ok(readings)
    }

    fn store_reading(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        message: &Accepted,
    ) -> Result<(), EngineError> {
        let seq = (self.n_readings + 1).to_be_bytes();
        let row = Writer::new()
            .raw(eui.as_bytes())
            .u32(message.epoch.number())
            .u32(message.counter)
            .u64(now.as_micros())
            .bytes(&message.reading)
            .u8(message.origin.map_or(0, Origin::to_byte))
            .finish();
        tx.write(READINGS, &seq, &row)?;
        tx.write(READINGS_OF, &[&eui.as_bytes()[..], &seq].concat(), b"")?;
        tx.write(META, N_READINGS, &seq)?;
        self.n_readings += 1;
        Ok(())
    }

    fn quarantine(
        &mut self,
        tx: &mut dyn Tx,
        eui: Eui64,
        mut device: DeviceRow,
        epoch: Epoch,
        counter: u32,
    ) -> Result<(), EngineError> {
        device.cloned = Some((epoch, counter));
        device.store(tx, eui)?;
        self.events.push_back(PlatformEvent::Alarm(Alarm::Cloned { eui, epoch, counter }));
        Ok(())
    }
}

impl StoredReading {
    fn read(seq: &[u8], row: &[u8]) -> Result<Self, EngineError> {
        let seq = seq.try_into().map(u64::from_be_bytes).or(Err(damaged(READINGS)))?;
        Self::read_row(seq, row).map_err(|_row| damaged(READINGS))
    }

    fn read_row(seq: u64, row: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        let eui = reader.eui64()?;
        let (epoch, counter) = (Epoch::new(reader.u32()?), reader.u32()?);
        let received = reader.timestamp()?;
        let reading = reader.bytes()?.to_vec();
        // The row of an earlier version ends here.
        let origin = reader.u8().ok().and_then(Origin::from_byte);
        reader.finish()?;
        Ok(Self { seq, eui, epoch, origin, counter, received, reading })
    }
}

/// Reads how many readings have been stored.
pub(super) fn load_count(tx: &dyn Tx) -> Result<u64, EngineError> {
    let Some(row) = tx.read(META, N_READINGS)? else { return Ok(0) };
    row.expose().try_into().map(u64::from_be_bytes).or(Err(damaged(META)))
}

type Opened = (Accepted, ReplayWindow);

/// Opens a frame with the keys of the epoch that it names.
pub(super) fn open_frame(
    tx: &dyn Tx,
    now: Timestamp,
    eui: Eui64,
    device: &DeviceRow,
    frame: &[u8],
) -> Result<Result<Opened, UplinkRefusal>, EngineError> {
    let epoch = match telemetry::peek(frame) {
        Ok(header) => header.epoch,
        Err(TelemetryError::Bootstrap) => {
            return Ok(Err(UplinkRefusal::UnknownEpoch(Epoch::BOOTSTRAP)));
        }
        Err(_) => return Ok(Err(UplinkRefusal::Malformed)),
    };
    let row = EpochRow::load(tx, eui, epoch)?;
    let origin = row.as_ref().and_then(EpochRow::origin);
    let keys = match row {
        Some(EpochRow::Whole { secret, .. }) => DataKeys::derive(&device.root, &secret, eui, epoch),
        Some(EpochRow::Grace { keys, until, .. }) if now < until => keys,
        Some(EpochRow::Grace { .. }) | None => {
            return Ok(Err(UplinkRefusal::UnknownEpoch(epoch)));
        }
    };
    let Ok((header, reading)) = telemetry::open(&keys, eui, frame) else {
        return Ok(Err(UplinkRefusal::Unverified));
    };
    let window = load_window(tx, eui, epoch)?;
    let (counter, duplicate) = (header.counter, Duplicate::No);
    Ok(Ok((Accepted { epoch, counter, origin, reading, duplicate }, window)))
}

/// Erases what the window can no longer ask for: two rows for one that came, so they stay few.
fn forget_passed(
    tx: &mut dyn Tx,
    eui: Eui64,
    epoch: Epoch,
    window: &ReplayWindow,
) -> Result<(), EngineError> {
    for (key, _) in tx.scan(HEARD, &epoch_key(eui, epoch), b"", 2)? {
        let (_, counter) = key.split_last_chunk().ok_or(damaged(HEARD))?;
        if window.check(u32::from_be_bytes(*counter)) == Seen::TooOld {
            tx.erase(HEARD, &key)?;
        }
    }
    Ok(())
}

const N_READINGS: &[u8] = b"readings";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_an_earlier_version_has_no_origin_and_is_read() {
        let old = Writer::new().raw(&[1; 8]).u32(2).u32(3).u64(4).bytes(b"21 C").finish();
        for (ending, origin) in [
            (&[][..], None),
            (&[0], None),
            (&[1], Some(Origin::Simulated)),
            (&[2], Some(Origin::Link)),
        ] {
            let row = [&old[..], ending].concat();
            let stored = StoredReading::read(&7_u64.to_be_bytes(), &row).unwrap();
            assert_eq!((stored.seq, &stored.reading[..], stored.origin), (7, &b"21 C"[..], origin));
        }
        let long = [&old[..], &[1, 1]].concat();
        assert_eq!(StoredReading::read(&[0; 8], &long), Err(damaged(READINGS)));
    }
}
