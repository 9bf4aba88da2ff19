//! Where emulated devices lie: their flash, and their labels until the platform has read them.

use std::ops::RangeInclusive;

use claviger_device::{FlashImage, FlashWrite, PadMark, Slot};
use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::Epoch;
use claviger_store::{StoreError, Writer};
use claviger_units::{Eui64, Key256, SecretBytes};
use rand::Rng;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

use super::eui_of;
use crate::role::{Folder, RoleError};

/// EUI-64 ‖ slot → content of the slot.
const FLASH: Table = Table::secret("flash");
/// EUI-64 → bootstrap key, as it is printed on a device.
const LABELS: Table = Table::secret("labels");
/// EUI-64 → [`PadMark`]: be32(prev) ‖ be32(first) ‖ be32(keys) ‖ mark of the life.
const PADS: Table = Table::plain("pad");
/// EUI-64 ‖ be32(place) → the key.
const PAD_KEYS: Table = Table::secret("pad_key");
/// How many devices are made in one transaction.
const BATCH: u32 = 256;

/// The store of all emulated devices.
#[derive(Clone, Debug)]
pub(super) struct Shelf(Writer<()>);

impl Shelf {
    pub(super) fn open(folder: &Folder) -> Result<Self, RoleError> {
        folder.writer(|_| Ok::<_, EngineError>(()), |()| {}).map(Self)
    }

    /// Makes those that do not exist yet: flash and label together.
    pub(super) async fn make_missing(
        &self,
        numbers: RangeInclusive<u32>,
    ) -> Result<(), StoreError> {
        let (mut first, end) = numbers.into_inner();
        while first <= end {
            let last = end.min(first + BATCH - 1);
            self.run(move |tx| {
                let mut system = UnwrapErr(SysRng);
                (first..=last).try_for_each(|number| make(tx, eui_of(number), &mut system))
            })
            .await?;
            first = last + 1;
        }
        Ok(())
    }

    /// Returns the label of a device, `None` once the platform has it.
    pub(super) async fn label(&self, eui: Eui64) -> Result<Option<Key256>, StoreError> {
        self.run(move |tx| label(tx, eui)).await
    }

    /// Destroys the label of a device.
    pub(super) async fn destroy_label(&self, eui: Eui64) -> Result<(), StoreError> {
        self.run(move |tx| tx.erase(LABELS, eui.as_bytes())).await
    }

    /// Reads the flash of a device.
    pub(super) async fn flash(&self, eui: Eui64) -> Result<FlashImage, StoreError> {
        self.run(move |tx| {
            let slot = |slot| Ok::<_, EngineError>(read_slot(tx, eui, slot)?.expose().to_vec());
            Ok(FlashImage::from_slots(slot(Slot::A)?, slot(Slot::B)?))
        })
        .await
    }

    /// Writes a slot, waits until it is on the disk, and returns what can be read back from there.
    pub(super) async fn write_slot(
        &self,
        eui: Eui64,
        FlashWrite { slot, bytes }: FlashWrite,
    ) -> Result<SecretBytes, StoreError> {
        self.run(move |tx| tx.write(FLASH, &slot_key(eui, slot), bytes.expose())).await?;
        self.run(move |tx| read_slot(tx, eui, slot)).await
    }

    /// Keeps a pad, in place of any other, as a whole.
    pub(super) async fn keep_pad(
        &self,
        eui: Eui64,
        mark: PadMark,
        keys: SecretBytes,
    ) -> Result<(), StoreError> {
        self.run(move |tx| {
            forget_pad(tx, eui)?;
            let row = [mark.prev.to_bytes(), mark.first.to_bytes(), mark.n_keys.to_be_bytes()];
            tx.write(PADS, eui.as_bytes(), &[&row.concat()[..], &mark.life].concat())?;
            for (place, key) in (0..).zip(keys.expose().chunks(32)) {
                tx.write(PAD_KEYS, &pad_key(eui, place), key)?;
            }
            Ok(())
        })
        .await
    }

    /// Returns the pad of a device.
    pub(super) async fn pad(&self, eui: Eui64) -> Result<Option<PadMark>, StoreError> {
        self.run(move |tx| read_pad(tx, eui)).await
    }

    /// Reads a key of the pad.
    pub(super) async fn pad_key(
        &self,
        eui: Eui64,
        place: u32,
    ) -> Result<Option<Key256>, StoreError> {
        self.run(move |tx| {
            let key = tx.read(PAD_KEYS, &pad_key(eui, place))?;
            Ok(key.and_then(|key| Key256::from_slice(key.expose())))
        })
        .await
    }

    /// Erases a pad that leads nowhere.
    pub(super) async fn forget_pad(&self, eui: Eui64) -> Result<(), StoreError> {
        self.run(move |tx| forget_pad(tx, eui)).await
    }

    /// Erases the first keys of the pad, which are used; with the last of them the pad.
    pub(super) async fn use_pad(&self, eui: Eui64, n_used: u32) -> Result<(), StoreError> {
        self.run(move |tx| {
            if read_pad(tx, eui)?.is_none_or(|mark| n_used >= mark.n_keys) {
                return forget_pad(tx, eui);
            }
            let end = pad_key(eui, n_used);
            for (key, _) in tx.scan(PAD_KEYS, eui.as_bytes(), b"", MOST_USED)? {
                if key < end {
                    tx.erase(PAD_KEYS, &key)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until the store has failed or was stopped.
    pub(super) async fn ended(&self) {
        self.0.ended().await;
    }

    pub(super) async fn stop(&self) {
        self.0.stop().await;
    }

    async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut dyn Tx) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, StoreError> {
        Ok(self.0.run(|(), tx| job(tx)).await??)
    }
}

fn make(tx: &mut dyn Tx, eui: Eui64, rng: &mut impl Rng) -> Result<(), EngineError> {
    if tx.count(FLASH, eui.as_bytes())? > 0 {
        return Ok(());
    }
    let bootstrap = Key256::random(rng);
    tx.write(LABELS, eui.as_bytes(), bootstrap.expose())?;
    let flash = FlashImage::provision(bootstrap, eui);
    for slot in [Slot::A, Slot::B] {
        tx.write(FLASH, &slot_key(eui, slot), flash.slot(slot).expose())?;
    }
    Ok(())
}

fn read_pad(tx: &dyn Tx, eui: Eui64) -> Result<Option<PadMark>, EngineError> {
    let Some(row) = tx.read(PADS, eui.as_bytes())? else { return Ok(None) };
    let mark = row.expose().split_first_chunk::<12>().and_then(|(head, life)| {
        let (numbers, _) = head.as_chunks::<4>();
        let &[prev, first, n_keys] = numbers else { return None };
        let (prev, first) = (Epoch::from_bytes(prev), Epoch::from_bytes(first));
        let life = life.try_into().ok()?;
        Some(PadMark { prev, first, n_keys: u32::from_be_bytes(n_keys), life })
    });
    mark.map(Some).ok_or(EngineError::Damaged(PADS.name))
}

fn forget_pad(tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
    tx.erase(PADS, eui.as_bytes())?;
    loop {
        let keys = tx.scan(PAD_KEYS, eui.as_bytes(), b"", MOST_USED)?;
        if keys.is_empty() {
            return Ok(());
        }
        for (key, _) in keys {
            tx.erase(PAD_KEYS, &key)?;
        }
    }
}

fn pad_key(eui: Eui64, place: u32) -> Vec<u8> {
    [&eui.as_bytes()[..], &place.to_be_bytes()].concat()
}

/// How many keys of a pad are looked at together.
const MOST_USED: usize = 256;

fn label(tx: &dyn Tx, eui: Eui64) -> Result<Option<Key256>, EngineError> {
    let Some(label) = tx.read(LABELS, eui.as_bytes())? else { return Ok(None) };
    Key256::from_slice(label.expose()).map(Some).ok_or(EngineError::Damaged(LABELS.name))
}

/// Reads a slot; one that is missing is empty.
fn read_slot(tx: &dyn Tx, eui: Eui64, slot: Slot) -> Result<SecretBytes, EngineError> {
    let bytes = tx.read(FLASH, &slot_key(eui, slot))?;
    Ok(bytes.unwrap_or_else(|| SecretBytes::new(Vec::new())))
}

fn slot_key(eui: Eui64, slot: Slot) -> [u8; 9] {
    let [a, b, c, d, e, f, g, h] = *eui.as_bytes();
    let slot = match slot {
        Slot::A => b'a',
        Slot::B => b'b',
    };
    [a, b, c, d, e, f, g, h, slot]
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_durable::{Engine, MemoryEngine};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_device_is_made_once_with_the_key_on_its_label() {
        let (mut engine, mut rng) = (MemoryEngine::new(), StdRng::seed_from_u64(1));
        let eui = eui_of(1);
        let mut make_and_look = |engine: &mut MemoryEngine| {
            engine.transact::<_, EngineError>(|tx| {
                make(tx, eui, &mut rng)?;
                Ok((label(tx, eui)?, read_slot(tx, eui, Slot::A)?, read_slot(tx, eui, Slot::B)?))
            })
        };
        let (printed, a, b) = make_and_look(&mut engine).unwrap();
        let (again, ..) = make_and_look(&mut engine).unwrap();
        let printed = printed.unwrap();
        assert!(again.unwrap().ct_eq(&printed));
        let flash = FlashImage::provision(printed, eui);
        assert!(flash.slot(Slot::A).ct_eq(&a) && flash.slot(Slot::B).ct_eq(&b));
        // A label that is destroyed does not come back.
        let erased = engine.transact::<_, EngineError>(|tx| tx.erase(LABELS, eui.as_bytes()));
        assert!(erased.is_ok() && make_and_look(&mut engine).unwrap().0.is_none());
    }

    #[test]
    fn a_death_while_making_leaves_no_half_of_a_device() {
        for operations in 0..6 {
            let (mut engine, mut rng) = (MemoryEngine::new(), StdRng::seed_from_u64(1));
            engine.die_after(operations);
            let _ = engine.transact(|tx| make(tx, eui_of(1), &mut rng)).is_ok();
            engine.revive();
            let counts = engine.transact::<_, EngineError>(|tx| {
                Ok((tx.count(FLASH, b"")?, tx.count(LABELS, b"")?))
            });
            assert!(matches!(counts, Ok((0, 0) | (2, 1))), "{counts:?} after {operations}");
        }
    }
}
