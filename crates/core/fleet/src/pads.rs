//! Pads: keys for many epochs of one device, drawn ahead at both sites and handed over by cable.
//!
//! The gateway draws them in batches and announces each; the platform fetches the copies. Once both hold
//! all, the device is docked: from an epoch that both agree on, each key of the pad leads to the next epoch,
//! one by one, without a word over the air. What a key has led to is kept as any epoch is; the key itself is
//! erased.

use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Epoch, GatewaySecret};
use claviger_units::{Eui64, Key256, KeyId, SecretBytes};
use claviger_wire::fleet::{AdoptedDevice, PadName, SeedPad};
use claviger_wire::{DecodeError, Reader, Writer};

use crate::orders::{Origin, damaged};
use crate::rows::{PAGE, join, walk};

/// The two tables of a site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pads {
    /// EUI-64 ‖ be32(pad) → [`PadRow`].
    pub(crate) rows: Table,
    /// EUI-64 ‖ be32(pad) ‖ be32(place) → the key.
    pub(crate) keys: Table,
}

/// How far a pad is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PadRow {
    pub(crate) life: u32,
    /// How many keys were ordered.
    pub(crate) n_keys: u32,
    /// How many this site has asked for; at the platform those that were announced.
    pub(crate) n_drawn: u32,
    /// How many both sites hold, as far as this one knows.
    pub(crate) n_held: u32,
    /// How many have led to epochs that are held here; the platform counts them.
    pub(crate) n_followed: u32,
    pub(crate) dock: Option<Dock>,
}

/// From where on a pad serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dock {
    pub(crate) prev: Epoch,
    pub(crate) first: Epoch,
    /// Whether the other site has agreed.
    pub(crate) is_agreed: bool,
    /// Whether the pad may have left: from then on only its device decides over it.
    pub(crate) is_given: bool,
}

/// A key of a pad.
#[derive(Debug)]
pub(crate) struct PadKey {
    pub(crate) key_id: KeyId,
    pub(crate) origin: Origin,
    pub(crate) key: Key256,
}

/// An epoch that follows from a pad.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) prev: Epoch,
    pub(crate) epoch: Epoch,
    pub(crate) secret: GatewaySecret,
    pub(crate) key_id: KeyId,
    pub(crate) origin: Origin,
}

impl PadRow {
    /// A pad that was just ordered.
    pub(crate) const fn ordered(life: u32, n_keys: u32) -> Self {
        Self { life, n_keys, n_drawn: 0, n_held: 0, n_followed: 0, dock: None }
    }

    pub(crate) const fn is_complete(&self) -> bool {
        self.n_held == self.n_keys
    }

    /// Returns the last epoch that a docked pad leads to.
    pub(crate) fn last(&self) -> Option<Epoch> {
        let last = self.n_keys.checked_sub(1)?;
        self.dock.and_then(|dock| dock.first.number().checked_add(last)).map(Epoch::new)
    }

    /// Returns the place of the key that leads to an epoch, if one of a docked pad does.
    pub(crate) fn place_of(&self, epoch: Epoch) -> Option<u32> {
        let place = epoch.number().checked_sub(self.dock?.first.number())?;
        (place < self.n_keys).then_some(place)
    }

    /// Returns the epochs that a docked pad leads to next, beyond what is held, as far as a device may be ahead.
    pub(crate) fn next_epochs(&self) -> Vec<Epoch> {
        let Some(dock) = self.dock else { return Vec::new() };
        let places = self.n_followed..self.n_keys.min(self.n_followed.saturating_add(MOST_AHEAD));
        places.map(|place| Epoch::new(dock.first.number() + place)).collect()
    }

    /// Returns the epoch that follows on another one.
    pub(crate) fn next_after(&self, epoch: Epoch) -> Option<Epoch> {
        let dock = self.dock?;
        if epoch == dock.prev {
            return Some(dock.first);
        }
        self.place_of(epoch)?;
        let next = Epoch::new(epoch.number().checked_add(1)?);
        self.place_of(next).map(|_| next)
    }

    fn encode(&self) -> Vec<u8> {
        let row = Writer::new().u32(self.life).u32(self.n_keys).u32(self.n_drawn);
        let row = row.u32(self.n_held).u32(self.n_followed);
        match self.dock {
            None => row.u8(0),
            Some(Dock { prev, first, is_agreed, is_given }) => row
                .u8(1)
                .u32(prev.number())
                .u32(first.number())
                .u8(u8::from(is_agreed))
                .u8(u8::from(is_given)),
        }
        .finish()
    }

    fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        let (life, n_keys) = (reader.u32()?, reader.u32()?);
        let (n_drawn, n_held, n_followed) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let dock = match reader.u8()? {
            0 => None,
            _ => Some(Dock {
                prev: Epoch::new(reader.u32()?),
                first: Epoch::new(reader.u32()?),
                is_agreed: reader.u8()? != 0,
                is_given: reader.u8()? != 0,
            }),
        };
        reader.finish()?;
        Ok(Self { life, n_keys, n_drawn, n_held, n_followed, dock })
    }
}

impl PadKey {
    fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        let mut secrets = Reader::new(row);
        let mut plain = Reader::new(secrets.bytes()?);
        let key_id = plain.key_id()?;
        let origin = Origin::from_byte(plain.u8()?).ok_or(DecodeError::Field("origin"))?;
        plain.finish()?;
        let key = secrets.key256()?;
        secrets.finish()?;
        Ok(Self { key_id, origin, key })
    }
}

impl Pads {
    pub(crate) fn load(
        self,
        tx: &dyn Tx,
        eui: Eui64,
        pad: u32,
    ) -> Result<Option<PadRow>, EngineError> {
        let row = tx.read(self.rows, &row_key(eui, pad))?;
        row.map(|row| PadRow::decode(row.expose()).or(Err(damaged(self.rows)))).transpose()
    }

    /// Loads the pad that a record names, if it is of the present life of the device.
    pub(crate) fn load_named(
        self,
        tx: &dyn Tx,
        PadName { device: AdoptedDevice { eui, life }, pad }: PadName,
    ) -> Result<Option<PadRow>, EngineError> {
        Ok(self.load(tx, eui, pad)?.filter(|row| row.life == life))
    }

    pub(crate) fn store(
        self,
        tx: &mut dyn Tx,
        eui: Eui64,
        pad: u32,
        row: &PadRow,
    ) -> Result<(), EngineError> {
        tx.write(self.rows, &row_key(eui, pad), &row.encode())
    }

    /// Returns all pads of a device, oldest first.
    pub(crate) fn of(self, tx: &dyn Tx, eui: Eui64) -> Result<Vec<(u32, PadRow)>, EngineError> {
        let rows = tx.scan(self.rows, eui.as_bytes(), b"", PAGE)?;
        let read = |(key, row): &(Vec<u8>, SecretBytes)| {
            let (_, pad) = split_row_key(key).ok_or(damaged(self.rows))?;
            Ok((pad, PadRow::decode(row.expose()).or(Err(damaged(self.rows)))?))
        };
        rows.iter().map(read).collect()
    }

    /// Returns the pad that a device was docked with last.
    pub(crate) fn docked(
        self,
        tx: &dyn Tx,
        eui: Eui64,
    ) -> Result<Option<(u32, PadRow)>, EngineError> {
        Ok(self.of(tx, eui)?.into_iter().rfind(|(_, row)| row.dock.is_some()))
    }

    pub(crate) fn key(
        self,
        tx: &dyn Tx,
        eui: Eui64,
        pad: u32,
        place: u32,
    ) -> Result<Option<PadKey>, EngineError> {
        let row = tx.read(self.keys, &key_key(eui, pad, place))?;
        row.map(|row| PadKey::decode(row.expose()).or(Err(damaged(self.keys)))).transpose()
    }

    pub(crate) fn put_key(
        self,
        tx: &mut dyn Tx,
        (eui, pad, place): (Eui64, u32, u32),
        PadKey { key_id, origin, key }: &PadKey,
    ) -> Result<(), EngineError> {
        let plain = Writer::new().raw(key_id.as_bytes()).u8(origin.to_byte()).finish();
        let row = join(&plain, &[key.expose()]);
        tx.write(self.keys, &key_key(eui, pad, place), row.expose())
    }

    /// Computes the epoch that follows on `prev` by a pad.
    pub(crate) fn step(
        self,
        tx: &dyn Tx,
        eui: Eui64,
        (pad, row): (u32, &PadRow),
        (prev, secret): (Epoch, &GatewaySecret),
    ) -> Result<Option<Step>, EngineError> {
        let Some(epoch) = row.next_after(prev) else { return Ok(None) };
        let Some(place) = row.place_of(epoch) else { return Ok(None) };
        let Some(PadKey { key_id, origin, key }) = self.key(tx, eui, pad, place)? else {
            return Ok(None);
        };
        let secret = secret.next(&key, eui, prev, epoch);
        Ok(Some(Step { prev, epoch, secret, key_id, origin }))
    }

    /// Returns what is left of a docked pad from a place on, for the other site; nothing once it is used up.
    pub(crate) fn rest(
        self,
        tx: &dyn Tx,
        eui: Eui64,
        (pad, row): (u32, &PadRow),
        from: u32,
    ) -> Result<Option<(SeedPad, Vec<Key256>)>, EngineError> {
        let Some(dock) = row.dock else { return Ok(None) };
        let (mut names, mut keys) = (Vec::new(), Vec::new());
        for place in from..row.n_keys {
            let Some(PadKey { key_id, origin, key }) = self.key(tx, eui, pad, place)? else {
                return Ok(None);
            };
            names.push((key_id, origin.to_byte()));
            keys.push(key);
        }
        let (prev, first) = (dock.prev.number(), dock.first.number());
        let rest = SeedPad { pad, n_keys: row.n_keys, prev, first, keys: names };
        Ok(Some((rest, keys)))
    }

    /// Lays down what the other site has said is left of a docked pad. Its device may have it.
    pub(crate) fn lay(
        self,
        tx: &mut dyn Tx,
        (eui, life): (Eui64, u32),
        rest: &SeedPad,
        keys: &[Key256],
    ) -> Result<(), EngineError> {
        let SeedPad { pad, n_keys, prev, first, keys: names } = rest;
        let (prev, first) = (Epoch::new(*prev), Epoch::new(*first));
        let n_left = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let n_followed = n_keys.saturating_sub(n_left);
        let dock = Some(Dock { prev, first, is_agreed: true, is_given: true });
        let (n_drawn, n_held, n_keys) = (*n_keys, *n_keys, *n_keys);
        let row = PadRow { life, n_keys, n_drawn, n_held, n_followed, dock };
        self.store(tx, eui, *pad, &row)?;
        for ((place, (key_id, origin)), key) in (n_followed..).zip(names).zip(keys) {
            let origin = Origin::from_byte(*origin).ok_or(damaged(self.keys))?;
            let key = PadKey { key_id: *key_id, origin, key: key.duplicate() };
            self.put_key(tx, (eui, *pad, place), &key)?;
        }
        Ok(())
    }

    /// Notes that an epoch is held: if a docked pad leads there, its keys up to there are used up.
    pub(crate) fn note_followed(
        self,
        tx: &mut dyn Tx,
        eui: Eui64,
        epoch: Epoch,
    ) -> Result<(), EngineError> {
        let Some((pad, mut row)) = self.docked(tx, eui)? else { return Ok(()) };
        let Some(place) = row.place_of(epoch) else { return Ok(()) };
        row.n_followed = place + 1;
        self.store(tx, eui, pad, &row)?;
        self.use_up(tx, eui, (pad, &row), epoch)
    }

    /// Erases all pads that no device was docked with.
    pub(crate) fn forget_waiting(self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        let mut waiting = Vec::new();
        walk(tx, self.rows, |key, row| {
            let name = split_row_key(key).ok_or(damaged(self.rows))?;
            let row = PadRow::decode(row.expose()).or(Err(damaged(self.rows)))?;
            if row.dock.is_none_or(|dock| !dock.is_agreed) {
                waiting.push(name);
            }
            Ok(())
        })?;
        waiting.into_iter().try_for_each(|(eui, pad)| self.erase(tx, eui, pad))
    }

    /// Erases the keys of a pad from a place on.
    pub(crate) fn erase_keys_from(
        self,
        tx: &mut dyn Tx,
        eui: Eui64,
        pad: u32,
        place: u32,
    ) -> Result<(), EngineError> {
        let prefix = row_key(eui, pad);
        let after = match place.checked_sub(1) {
            Some(before) => key_key(eui, pad, before),
            None => Vec::new(),
        };
        loop {
            let rows = tx.scan(self.keys, &prefix, &after, PAGE)?;
            if rows.is_empty() {
                return Ok(());
            }
            for (key, _) in rows {
                tx.erase(self.keys, &key)?;
            }
        }
    }

    /// Erases the keys that have led to an epoch and those before it; the whole pad after its last.
    pub(crate) fn use_up(
        self,
        tx: &mut dyn Tx,
        eui: Eui64,
        (pad, row): (u32, &PadRow),
        epoch: Epoch,
    ) -> Result<(), EngineError> {
        let Some(place) = row.place_of(epoch) else { return Ok(()) };
        if row.last() == Some(epoch) {
            return self.erase(tx, eui, pad);
        }
        // They are used in their order: what is before the first that is gone is gone too.
        for place in (0..=place).rev() {
            let key = key_key(eui, pad, place);
            if tx.count(self.keys, &key)? == 0 {
                break;
            }
            tx.erase(self.keys, &key)?;
        }
        Ok(())
    }

    /// Erases a pad.
    pub(crate) fn erase(self, tx: &mut dyn Tx, eui: Eui64, pad: u32) -> Result<(), EngineError> {
        self.erase_keys_from(tx, eui, pad, 0)?;
        tx.erase(self.rows, &row_key(eui, pad))
    }

    /// Erases all pads of a device.
    pub(crate) fn forget(self, tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        for (pad, _) in self.of(tx, eui)? {
            self.erase(tx, eui, pad)?;
        }
        Ok(())
    }
}

/// How far a device may have gone by its pad while nobody followed it.
pub(crate) const MOST_AHEAD: u32 = 64;

fn row_key(eui: Eui64, pad: u32) -> Vec<u8> {
    [&eui.as_bytes()[..], &pad.to_be_bytes()].concat()
}

fn key_key(eui: Eui64, pad: u32, place: u32) -> Vec<u8> {
    [&row_key(eui, pad)[..], &place.to_be_bytes()].concat()
}

/// Reads the key of a pad's row.
pub(crate) fn split_row_key(key: &[u8]) -> Option<(Eui64, u32)> {
    let (eui, pad) = key.split_first_chunk::<8>()?;
    Some((Eui64::from_bytes(*eui), u32::from_be_bytes(pad.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use claviger_durable::{Engine, MemoryEngine};

    use super::*;

    const PADS: Pads = Pads { rows: Table::plain("pad"), keys: Table::secret("pad_key") };

    fn key(n: u8) -> PadKey {
        let (key_id, key) = (KeyId::from_bytes([n; 16]), Key256::from_bytes([n; 32]));
        PadKey { key_id, origin: Origin::Link, key }
    }

    #[test]
    fn a_pad_leads_from_where_it_was_docked_to_its_last_key() {
        let dock =
            Dock { prev: Epoch::new(4), first: Epoch::new(9), is_agreed: true, is_given: true };
        let row =
            PadRow { life: 1, n_keys: 3, n_drawn: 3, n_held: 3, n_followed: 0, dock: Some(dock) };
        let next = |epoch| row.next_after(Epoch::new(epoch)).map(Epoch::number);
        assert_eq!(
            [3, 4, 5, 8, 9, 10, 11, 12].map(next),
            [None, Some(9), None, None, Some(10), Some(11), None, None]
        );
        assert_eq!(row.last(), Some(Epoch::new(11)));
        assert_eq!(PadRow::decode(&row.encode()), Ok(row));
        let undocked = PadRow { dock: None, ..row };
        assert_eq!(PadRow::decode(&undocked.encode()), Ok(undocked));
        assert_eq!(undocked.next_after(Epoch::new(4)), None);
    }

    #[test]
    fn keys_are_erased_as_they_are_used_and_the_pad_with_the_last() {
        let (eui, other) = (Eui64::from_bytes([1; 8]), Eui64::from_bytes([2; 8]));
        let dock =
            Dock { prev: Epoch::new(0), first: Epoch::new(1), is_agreed: true, is_given: true };
        let row =
            PadRow { life: 1, n_keys: 4, n_drawn: 4, n_held: 4, n_followed: 0, dock: Some(dock) };
        let mut engine = MemoryEngine::new();
        let left = |engine: &mut MemoryEngine, eui| {
            engine.transact::<_, EngineError>(|tx| tx.count(PADS.keys, &row_key(eui, 1))).unwrap()
        };
        engine
            .transact::<_, EngineError>(|tx| {
                for of in [eui, other] {
                    PADS.store(tx, of, 1, &row)?;
                    (0..4).zip(0..).try_for_each(|(n, k)| PADS.put_key(tx, (of, 1, n), &key(k)))?;
                }
                PADS.use_up(tx, eui, (1, &row), Epoch::new(2))
            })
            .unwrap();
        assert_eq!((left(&mut engine, eui), left(&mut engine, other)), (2, 4));
        let secret = GatewaySecret::from_key(Key256::from_bytes([7; 32]));
        engine
            .transact::<_, EngineError>(|tx| {
                let gone = PADS.step(tx, eui, (1, &row), (Epoch::new(1), &secret))?;
                assert!(gone.is_none(), "its key is erased");
                let step = PADS.step(tx, eui, (1, &row), (Epoch::new(2), &secret))?.unwrap();
                assert_eq!((step.epoch, step.key_id), (Epoch::new(3), KeyId::from_bytes([2; 16])));
                PADS.use_up(tx, eui, (1, &row), Epoch::new(4))?;
                assert_eq!(PADS.of(tx, eui)?, []);
                PADS.erase_keys_from(tx, other, 1, 3)
            })
            .unwrap();
        assert_eq!((left(&mut engine, eui), left(&mut engine, other)), (0, 3));
    }
}
