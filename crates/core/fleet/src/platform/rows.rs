//! What the platform keeps on disk.

use claviger_durable::peer::PeerTables;
use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{DataKeys, DeviceRoot, Epoch, GatewaySecret, ReplayWindow};
use claviger_units::{Eui64, KeyId, SecretBytes, Timestamp};
use claviger_wire::{DecodeError, Reader, Writer};

use crate::orders::{Origin, damaged};
use crate::rows::join;

/// The stream to and from the gateway.
pub(super) const PEER: PeerTables =
    PeerTables { meta: Table::plain("platform_peer"), outbox: Table::secret("platform_outbox") };

/// Devices: EUI-64 → [`DeviceRow`].
pub(super) const DEVICES: Table = Table::secret("platform_device");

/// Epochs: EUI-64 ‖ be32(epoch) → [`EpochRow`].
pub(super) const EPOCHS: Table = Table::secret("platform_epoch");

/// Devices in an ADOPT under way: key id of W ‖ EUI-64 → nothing.
pub(super) const OFFERS: Table = Table::plain("platform_offer");

/// Announcements whose key is being fetched: EUI-64 ‖ be32(epoch) → the record.
pub(super) const ANNOUNCEMENTS: Table = Table::plain("platform_announcement");

/// Ends of grace in order: be64(time) ‖ EUI-64 ‖ be32(epoch) → nothing.
pub(super) const GRACES: Table = Table::plain("platform_grace");

/// Replay windows: EUI-64 ‖ be32(epoch) → [`ReplayWindow`].
pub(super) const WINDOWS: Table = Table::plain("platform_window");

/// What was said under each counter of a window: EUI-64 ‖ be32(epoch) ‖ be32(counter) → SHA-256.
pub(super) const HEARD: Table = Table::plain("platform_heard");

/// Readings: be64(seq) → the reading.
pub(super) const READINGS: Table = Table::plain("platform_reading");

/// Readings of each device: EUI-64 ‖ be64(seq) → nothing.
pub(super) const READINGS_OF: Table = Table::plain("platform_reading_of");

/// Counters of the platform's own: the highest seq of a reading.
pub(super) const META: Table = Table::plain("platform_meta");

/// A device as it was provisioned, and where it stands.
#[derive(Debug)]
pub(super) struct DeviceRow {
    /// How many bootstraps it has had.
    pub(super) life: u32,
    pub(super) root: DeviceRoot,
    pub(super) adoption: Offer,
    /// The highest epoch that telemetry has come under.
    pub(super) active: Epoch,
    /// The highest epoch announced.
    pub(super) highest: Epoch,
    /// The epoch and counter under which two devices have spoken.
    pub(super) cloned: Option<(Epoch, u32)>,
}

/// Whether the gateway serves the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is not to be adopted yet, or no longer.
    Held,
    /// It waits for a W.
    Waiting,
    /// It stands in the ADOPT under this W.
    Offered(KeyId),
    /// The gateway has announced an epoch of it.
    Adopted,
}

/// What is kept of an epoch.
#[derive(Debug)]
pub(super) enum EpochRow {
    /// Active or prepared: everything can follow from it.
    Whole { secret: GatewaySecret, origin: Option<Origin>, source: Option<Source> },
    /// Past: late telemetry can still be read.
    Grace { keys: DataKeys, until: Timestamp, origin: Option<Origin> },
}

/// How a device comes to an epoch; epoch 0 has none, and neither has one that the gateway gave back.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) prev: Epoch,
    pub(super) key_id: KeyId,
    /// The finished frame, for a gateway that has lost it.
    pub(super) frame: Vec<u8>,
}

impl DeviceRow {
    pub(super) fn load(tx: &dyn Tx, eui: Eui64) -> Result<Option<Self>, EngineError> {
        let row = tx.read(DEVICES, eui.as_bytes())?;
        row.map(|row| Self::decode(&row)).transpose()
    }

    pub(super) fn store(&self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        tx.write(DEVICES, eui.as_bytes(), self.encode().expose())
    }

    pub(super) fn decode(row: &SecretBytes) -> Result<Self, EngineError> {
        Self::read(row.expose()).map_err(|_row| damaged(DEVICES))
    }

    fn encode(&self) -> SecretBytes {
        let plain =
            Writer::new().u32(self.life).u32(self.active.number()).u32(self.highest.number());
        let plain = match self.adoption {
            Offer::Held => plain.u8(HELD),
            Offer::Waiting => plain.u8(WAITING),
            Offer::Offered(key_id) => plain.u8(OFFERED).raw(key_id.as_bytes()),
            Offer::Adopted => plain.u8(ADOPTED),
        };
        let plain = match self.cloned {
            None => plain.u8(0),
            Some((epoch, counter)) => plain.u8(1).u32(epoch.number()).u32(counter),
        };
        join(&plain.finish(), &[self.root.as_key().expose()])
    }

    fn read(row: &[u8]) -> Result<Self, DecodeError> {
        let mut secrets = Reader::new(row);
        let mut plain = Reader::new(secrets.bytes()?);
        let life = plain.u32()?;
        let (active, highest) = (Epoch::new(plain.u32()?), Epoch::new(plain.u32()?));
        let adoption = match plain.u8()? {
            HELD => Offer::Held,
            WAITING => Offer::Waiting,
            OFFERED => Offer::Offered(plain.key_id()?),
            ADOPTED => Offer::Adopted,
            kind => return Err(DecodeError::Kind(kind)),
        };
        let cloned = match plain.u8()? {
            0 => None,
            _ => Some((Epoch::new(plain.u32()?), plain.u32()?)),
        };
        plain.finish()?;
        let root = DeviceRoot::from_key(secrets.key256()?);
        secrets.finish()?;
        Ok(Self { life, root, adoption, active, highest, cloned })
    }
}

impl EpochRow {
    pub(super) fn load(tx: &dyn Tx, eui: Eui64, epoch: Epoch) -> Result<Option<Self>, EngineError> {
        let row = tx.read(EPOCHS, &epoch_key(eui, epoch))?;
        row.map(|row| Self::decode(&row)).transpose()
    }

    pub(super) fn store(
        &self,
        tx: &mut dyn Tx,
        eui: Eui64,
        epoch: Epoch,
    ) -> Result<(), EngineError> {
        tx.write(EPOCHS, &epoch_key(eui, epoch), self.encode().expose())
    }

    pub(super) fn decode(row: &SecretBytes) -> Result<Self, EngineError> {
        Self::read(row.expose()).map_err(|_row| damaged(EPOCHS))
    }

    pub(super) const fn origin(&self) -> Option<Origin> {
        match self {
            Self::Whole { origin, .. } | Self::Grace { origin, .. } => *origin,
        }
    }

    fn encode(&self) -> SecretBytes {
        match self {
            Self::Whole { secret, origin, source } => {
                let origin = origin.map_or(0, Origin::to_byte);
                let plain = match source {
                    None => Writer::kind(GIVEN).u8(origin),
                    Some(source) => Writer::kind(PREPARED)
                        .u8(origin)
                        .u32(source.prev.number())
                        .raw(source.key_id.as_bytes())
                        .bytes(&source.frame),
                };
                join(&plain.finish(), &[secret.as_key().expose()])
            }
            Self::Grace { keys, until, origin } => {
                let plain = Writer::kind(GRACE)
                    .u64(until.as_micros())
                    .u8(origin.map_or(0, Origin::to_byte));
                join(&plain.finish(), &[keys.to_bytes().expose()])
            }
        }
    }

    fn read(row: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        let mut plain = Reader::new(reader.bytes()?);
        let row = match plain.u8()? {
            GIVEN => {
                let origin = Origin::from_byte(plain.u8()?);
                Self::Whole { secret: read_secret(reader)?, origin, source: None }
            }
            PREPARED => {
                let origin = Origin::from_byte(plain.u8()?);
                let prev = Epoch::new(plain.u32()?);
                let key_id = plain.key_id()?;
                let source = Some(Source { prev, key_id, frame: plain.bytes()?.to_vec() });
                Self::Whole { secret: read_secret(reader)?, origin, source }
            }
            GRACE => {
                let until = plain.timestamp()?;
                let origin = Origin::from_byte(plain.u8()?);
                let keys = reader.take(DATA_KEYS)?;
                reader.finish()?;
                let keys = DataKeys::from_bytes(keys).ok_or(DecodeError::Field("data keys"))?;
                Self::Grace { keys, until, origin }
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        plain.finish()?;
        Ok(row)
    }
}

fn read_secret(mut reader: Reader<'_>) -> Result<GatewaySecret, DecodeError> {
    let secret = GatewaySecret::from_key(reader.key256()?);
    reader.finish()?;
    Ok(secret)
}

/// Reads the window of an epoch, an empty one if nothing was heard under it.
pub(super) fn load_window(
    tx: &dyn Tx,
    eui: Eui64,
    epoch: Epoch,
) -> Result<ReplayWindow, EngineError> {
    match tx.read(WINDOWS, &epoch_key(eui, epoch))? {
        Some(row) => ReplayWindow::from_bytes(row.expose()).ok_or(damaged(WINDOWS)),
        None => Ok(ReplayWindow::new()),
    }
}

pub(super) fn epoch_key(eui: Eui64, epoch: Epoch) -> Vec<u8> {
    [&eui.as_bytes()[..], &epoch.to_bytes()].concat()
}

pub(super) fn heard_key(eui: Eui64, epoch: Epoch, counter: u32) -> Vec<u8> {
    [&epoch_key(eui, epoch)[..], &counter.to_be_bytes()].concat()
}

pub(super) fn grace_key(until: Timestamp, eui: Eui64, epoch: Epoch) -> Vec<u8> {
    [&until.as_micros().to_be_bytes()[..], &epoch_key(eui, epoch)].concat()
}

pub(super) fn split_epoch_key(key: &[u8]) -> Result<(Eui64, Epoch), EngineError> {
    let mut reader = Reader::new(key);
    let parts = reader.eui64().and_then(|eui| Ok((eui, Epoch::from_bytes(reader.array()?))));
    parts.map_err(|_key| damaged(EPOCHS))
}

pub(super) fn split_grace_key(key: &[u8]) -> Result<(Timestamp, Eui64, Epoch), EngineError> {
    let (until, epoch) = key.split_first_chunk().ok_or(damaged(GRACES))?;
    let (eui, epoch) = split_epoch_key(epoch)?;
    Ok((Timestamp::from_micros(u64::from_be_bytes(*until)), eui, epoch))
}

pub(super) fn eui_of(key: &[u8]) -> Result<Eui64, EngineError> {
    key.try_into().map(Eui64::from_bytes).or(Err(damaged(DEVICES)))
}

const WAITING: u8 = 1;
const OFFERED: u8 = 2;
const ADOPTED: u8 = 3;
const HELD: u8 = 4;

const GIVEN: u8 = 1;
const PREPARED: u8 = 2;
const GRACE: u8 = 3;

/// The length of stored data keys: up, down and iv-up.
const DATA_KEYS: usize = 72;

#[cfg(test)]
mod tests {
    use claviger_units::Key256;
    use proptest::prelude::*;

    use super::*;

    fn secret(n: u8) -> GatewaySecret {
        GatewaySecret::from_key(Key256::from_bytes([n; 32]))
    }

    #[test]
    fn a_device_survives_its_row() {
        for (adoption, cloned) in [
            (Offer::Held, None),
            (Offer::Waiting, None),
            (Offer::Offered(KeyId::from_bytes([3; 16])), Some((Epoch::new(1), 2))),
            (Offer::Adopted, None),
        ] {
            let root = DeviceRoot::from_key(Key256::from_bytes([7; 32]));
            let (active, highest) = (Epoch::new(4), Epoch::new(6));
            let row = DeviceRow { life: 2, root, adoption, active, highest, cloned };
            let bytes = row.encode();
            let read = DeviceRow::decode(&bytes).unwrap();
            assert_eq!(read.encode().expose(), bytes.expose());
            assert_eq!(format!("{read:?}"), format!("{row:?}"));
        }
    }

    #[test]
    fn an_epoch_survives_its_row() {
        let eui = Eui64::from_bytes([1; 8]);
        let root = DeviceRoot::from_key(Key256::from_bytes([7; 32]));
        let keys = DataKeys::derive(&root, &secret(1), eui, Epoch::new(1));
        let source =
            Source { prev: Epoch::new(3), key_id: KeyId::from_bytes([4; 16]), frame: vec![5, 6] };
        for row in [
            EpochRow::Whole { secret: secret(1), origin: None, source: None },
            EpochRow::Whole { secret: secret(3), origin: Some(Origin::Link), source: None },
            EpochRow::Whole {
                secret: secret(2),
                origin: Some(Origin::Simulated),
                source: Some(source),
            },
            EpochRow::Grace { keys, until: Timestamp::from_micros(8), origin: Some(Origin::Link) },
        ] {
            let bytes = row.encode();
            let read = EpochRow::decode(&bytes).unwrap();
            assert_eq!(read.encode().expose(), bytes.expose());
            assert_eq!(format!("{read:?}"), format!("{row:?}"));
        }
    }

    #[test]
    fn keys_of_rows_come_apart_again() {
        let (eui, epoch) = (Eui64::from_bytes([1; 8]), Epoch::new(2));
        let until = Timestamp::from_micros(3);
        assert_eq!(split_grace_key(&grace_key(until, eui, epoch)), Ok((until, eui, epoch)));
        assert!(split_grace_key(b"short").is_err());
    }

    proptest! {
        #[test]
        fn a_damaged_row_is_named_and_nothing_worse(row: Vec<u8>) {
            let device = DeviceRow::decode(&SecretBytes::new(row.clone())).map(drop);
            prop_assert_eq!(device, Err(EngineError::Damaged("platform_device")));
            let epoch = EpochRow::decode(&SecretBytes::new(row)).map(drop);
            prop_assert_eq!(epoch, Err(EngineError::Damaged("platform_epoch")));
        }
    }
}
