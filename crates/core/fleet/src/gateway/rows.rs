//! What the gateway keeps on disk.

use claviger_durable::peer::PeerTables;
use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Door, Epoch, GatewaySecret, ProofKeys};
use claviger_units::{Eui64, Key256, KeyId, SecretBytes, Timestamp};
use claviger_wire::fleet::{EpochName, SEALED_ROOT};
use claviger_wire::{DecodeError, Reader, Writer};

use crate::orders::{Origin, RequestToken, damaged};
use crate::rows::join;

/// The stream to and from the platform.
pub(super) const PEER: PeerTables =
    PeerTables { meta: Table::plain("gateway_peer"), outbox: Table::secret("gateway_outbox") };

/// Devices: EUI-64 → [`DeviceRow`].
pub(super) const DEVICES: Table = Table::secret("gateway_device");

/// Adoptions whose W is being fetched: key id of W → the record.
pub(super) const ADOPTIONS: Table = Table::secret("gateway_adoption");

/// Devices that were retired: EUI-64 → be32(the last life that is over).
pub(super) const RETIRED: Table = Table::plain("gateway_retired");

/// Telemetry waiting for the forwarder: be64(seq) → EUI-64 ‖ frame.
pub(super) const UPLINKS: Table = Table::plain("gateway_uplink");

/// A device and its one or two epochs.
#[derive(Debug)]
pub(super) struct DeviceRow {
    /// How many bootstraps it has had.
    pub(super) life: u32,
    /// The epoch that the device was last known to hold.
    pub(super) cur: Held,
    /// The highest epoch number ever used in this life.
    pub(super) highest: Epoch,
    /// When `cur` became current.
    pub(super) since: Timestamp,
    /// The epoch in preparation, at most one.
    pub(super) next: Option<Next>,
    /// What remains of epoch 0 once it is past: enough to notice who still uses it.
    pub(super) retired: Option<ProofKeys>,
    /// The device root, sealed to the platform's recovery key: unreadable here.
    pub(super) root: [u8; SEALED_ROOT],
    /// Whether it was given again by a platform that may have known an earlier place in its pad than this
    /// gateway did, so that the device may be further. It stays so: somebody may repeat what the device once
    /// said from a place that it has left.
    pub(super) may_be_ahead: bool,
}

/// A secret and the epoch it belongs to.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) epoch: Epoch,
    pub(super) secret: GatewaySecret,
    /// Where its QKD key comes from; `None` for epoch 0.
    pub(super) origin: Option<Origin>,
}

/// An epoch in preparation.
#[derive(Debug)]
pub(super) enum Next {
    /// Its key is being asked for.
    Asking { epoch: Epoch, token: RequestToken },
    /// Its frame is finished; an epoch that the device's pad leads to has an empty one.
    Finished { held: Held, key_id: KeyId, frame: Vec<u8>, stage: Stage },
}

/// How far a finished frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The platform may not hold it yet: it stays here.
    Announced,
    /// The platform holds it: it may leave, and is never withdrawn.
    Ready,
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

    /// Names the epoch in preparation as records do.
    pub(super) fn is_announced_as(&self, eui: Eui64, name: EpochName) -> bool {
        let next = self.next.as_ref().map(|next| next.epoch().number());
        name == EpochName { eui, life: self.life, epoch: next.unwrap_or(0) }
            && matches!(self.next, Some(Next::Finished { .. }))
    }

    fn encode(&self) -> SecretBytes {
        let plain = Writer::new()
            .u32(self.life)
            .u32(self.cur.epoch.number())
            .u8(self.cur.origin.map_or(0, Origin::to_byte))
            .u32(self.highest.number())
            .u64(self.since.as_micros())
            .raw(&self.root)
            .u8(u8::from(self.may_be_ahead))
            .u8(u8::from(self.retired.is_some()));
        let plain = match &self.next {
            None => plain.u8(NO_NEXT),
            Some(Next::Asking { epoch, token }) => {
                plain.u8(ASKING).u32(epoch.number()).raw(token.as_bytes())
            }
            Some(Next::Finished { held, key_id, frame, stage }) => plain
                .u8(if *stage == Stage::Ready { READY } else { ANNOUNCED })
                .u32(held.epoch.number())
                .u8(held.origin.map_or(0, Origin::to_byte))
                .raw(key_id.as_bytes())
                .bytes(frame),
        };
        let next = match &self.next {
            Some(Next::Finished { held, .. }) => &held.secret.as_key().expose()[..],
            Some(Next::Asking { .. }) | None => &[],
        };
        let mut secrets = vec![&self.cur.secret.as_key().expose()[..], next];
        if let Some(retired) = &self.retired {
            secrets.extend(retired.as_keys().iter().map(|key| &key.expose()[..]));
        }
        join(&plain.finish(), &secrets)
    }

    fn read(row: &[u8]) -> Result<Self, DecodeError> {
        let mut secrets = Reader::new(row);
        let mut plain = Reader::new(secrets.bytes()?);
        let life = plain.u32()?;
        let cur = Held::read(&mut plain, &mut secrets)?;
        let highest = Epoch::new(plain.u32()?);
        let since = plain.timestamp()?;
        let root = plain.array()?;
        let may_be_ahead = plain.u8()? != 0;
        let is_retired = plain.u8()? != 0;
        let next = Next::read(&mut plain, &mut secrets)?;
        plain.finish()?;
        let retired = is_retired.then(|| read_proof_keys(&mut secrets)).transpose()?;
        secrets.finish()?;
        Ok(Self { life, cur, highest, since, next, retired, root, may_be_ahead })
    }
}

impl Held {
    fn read(plain: &mut Reader<'_>, secrets: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let epoch = Epoch::new(plain.u32()?);
        let origin = Origin::from_byte(plain.u8()?);
        Ok(Self { epoch, secret: GatewaySecret::from_key(secrets.key256()?), origin })
    }
}

impl Next {
    pub(super) const fn epoch(&self) -> Epoch {
        match self {
            Self::Asking { epoch, .. } => *epoch,
            Self::Finished { held, .. } => held.epoch,
        }
    }

    fn read(plain: &mut Reader<'_>, secrets: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let stage = match plain.u8()? {
            NO_NEXT => return Ok(None),
            ASKING => {
                let epoch = Epoch::new(plain.u32()?);
                let token = RequestToken::from_bytes(plain.array()?);
                return Ok(Some(Self::Asking { epoch, token }));
            }
            ANNOUNCED => Stage::Announced,
            READY => Stage::Ready,
            kind => return Err(DecodeError::Kind(kind)),
        };
        let held = Held::read(plain, secrets)?;
        let key_id = plain.key_id()?;
        let frame = plain.bytes()?.to_vec();
        Ok(Some(Self::Finished { held, key_id, frame, stage }))
    }
}

fn read_proof_keys(secrets: &mut Reader<'_>) -> Result<ProofKeys, DecodeError> {
    let mut keys = Door::ALL.map(|_| Key256::from_bytes([0; 32]));
    for key in &mut keys {
        *key = secrets.key256()?;
    }
    Ok(ProofKeys::from_keys(keys))
}

/// Reads the EUI-64 that is the key of a device's row.
pub(super) fn eui_of(key: &[u8]) -> Result<Eui64, EngineError> {
    key.try_into().map(Eui64::from_bytes).or(Err(damaged(DEVICES)))
}

const NO_NEXT: u8 = 0;
const ASKING: u8 = 1;
const ANNOUNCED: u8 = 2;
const READY: u8 = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(n: u8) -> Held {
        let secret = GatewaySecret::from_key(Key256::from_bytes([n; 32]));
        let origin = [None, Some(Origin::Simulated), Some(Origin::Link)][usize::from(n % 3)];
        Held { epoch: Epoch::new(u32::from(n)), secret, origin }
    }

    #[test]
    fn a_device_survives_its_row() {
        let key_id = KeyId::from_bytes([6; 16]);
        let finished = |stage| Next::Finished { held: held(5), key_id, frame: vec![1, 2], stage };
        for (next, retired) in [
            (None, 0),
            (
                Some(Next::Asking {
                    epoch: Epoch::new(7),
                    token: RequestToken::from_bytes([8; 16]),
                }),
                1,
            ),
            (Some(finished(Stage::Announced)), 0),
            (Some(finished(Stage::Ready)), 1),
        ] {
            let retired = (retired == 1).then(|| ProofKeys::of(&held(9).secret));
            let since = Timestamp::from_micros(11);
            let highest = Epoch::new(9);
            let (root, may_be_ahead) = ([3; SEALED_ROOT], retired.is_some());
            let cur = held(4);
            let row = DeviceRow { life: 2, cur, highest, since, next, retired, root, may_be_ahead };
            let bytes = row.encode();
            let read = DeviceRow::decode(&bytes).unwrap();
            assert_eq!(read.encode().expose(), bytes.expose());
            assert_eq!(format!("{read:?}"), format!("{row:?}"));
        }
    }

    proptest! {
        #[test]
        fn a_damaged_row_is_named_and_nothing_worse(row: Vec<u8>) {
            let damage = DeviceRow::decode(&SecretBytes::new(row)).map(drop);
            prop_assert_eq!(damage, Err(EngineError::Damaged("gateway_device")));
        }
    }
}
