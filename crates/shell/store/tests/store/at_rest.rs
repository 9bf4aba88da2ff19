//! What lies on the disk: no secret in clear, and nothing of an erased one.

use crate::home::Home;
use claviger_durable::{Engine, EngineError, Table, Tx};
use claviger_store::SqliteStore;
use proptest::prelude::*;

const KEYS: Table = Table::secret("keys");
const NAMES: Table = Table::plain("names");

fn change<R>(
    store: &mut SqliteStore,
    work: impl FnOnce(&mut dyn Tx) -> Result<R, EngineError>,
) -> R {
    store.transact(work).unwrap()
}

fn secret(n: u32) -> [u8; 32] {
    core::array::from_fn(|i| n.to_be_bytes()[i % 4] ^ u8::try_from(i * 7).unwrap())
}

/// The seeds and sealed rows that the store holds, as the owner of the files reads them.
fn sealed(home: &Home) -> Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let copy = home.crashed_copy();
    let db = rusqlite::Connection::open(copy.path()).unwrap();
    let sql = "SELECT t.key, t.value, s.seed FROM secret_keys t JOIN slots s ON s.id = t.slot";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn no_secret_reaches_the_disk_in_clear() {
    let home = Home::new();
    let mut store = home.create();
    change(&mut store, |tx| {
        tx.write(NAMES, b"greeting", b"this one may be read")?;
        (0..500).try_for_each(|n: u32| tx.write(KEYS, &n.to_be_bytes(), &secret(n)))
    });
    assert!(!home.files_with(b"this one may be read").is_empty(), "the search works");
    for n in 0..500 {
        assert_eq!(home.files_with(&secret(n)), [] as [&std::path::Path; 0], "secret {n}");
    }
}

#[test]
fn an_erased_secret_leaves_no_seed() {
    let home = Home::new();
    let mut store = home.create();
    let n_keys = 2000;
    for start in (0..n_keys).step_by(100) {
        change(&mut store, |tx| {
            // Scattered keys split pages everywhere.
            let key = |n: u32| n.wrapping_mul(0x9E37_79B9).to_be_bytes();
            (start..start + 100).try_for_each(|n| tx.write(KEYS, &key(n), &secret(n)))
        });
    }
    let before = sealed(&home);
    assert_eq!(before.len(), 2000);
    let (gone, kept): (Vec<_>, Vec<_>) =
        before.iter().enumerate().partition(|(at, _)| at % 10 != 0);
    for some in gone.chunks(300) {
        change(&mut store, |tx| some.iter().try_for_each(|(_, row)| tx.erase(KEYS, &row.0)));
    }
    change(&mut store, |tx| tx.write(KEYS, &kept[0].1.0, b"overwritten"));
    assert!(store.needs_scrub());
    store.scrub().unwrap();
    assert!(!store.needs_scrub());

    let disk: Vec<u8> = ["a.db", "a.db-wal"]
        .iter()
        .filter_map(|name| std::fs::read(home.0.path().join(name)).ok())
        .flatten()
        .collect();
    let windows: std::collections::HashSet<&[u8]> = disk.windows(32).collect();
    let left = gone.iter().filter(|(_, row)| windows.contains(&row.2[..])).count();
    assert_eq!(left, 0, "seeds of erased rows");
    assert!(!windows.contains(&kept[0].1.2[..]), "the seed of an overwritten row");
    assert!(kept[1..].iter().all(|(_, row)| windows.contains(&row.2[..])), "the search works");
}

#[test]
fn a_crash_keeps_what_was_committed_and_the_next_start_scrubs() {
    let home = Home::new();
    let mut store = home.create();
    change(&mut store, |tx| {
        tx.write(KEYS, b"kept", b"1")?;
        tx.write(KEYS, b"gone", b"2")
    });
    let before = sealed(&home);
    let seed = |name: &[u8]| before.iter().find(|row| row.0 == name).unwrap().2.clone();
    store.scrub().unwrap();
    change(&mut store, |tx| tx.erase(KEYS, b"gone"));
    let died: Result<(), EngineError> = store.transact(|tx| {
        tx.erase(KEYS, b"kept")?;
        tx.write(KEYS, b"never", b"3")?;
        let crashed = home.crashed_copy();
        assert!(!crashed.files_with(&seed(b"gone")).is_empty(), "not yet moved out of the log");
        let mut revived = crashed.open();
        assert!(crashed.files_with(&seed(b"gone")).is_empty(), "opening scrubs");
        change(&mut revived, |tx| {
            assert_eq!(tx.read(KEYS, b"kept")?.unwrap().expose(), b"1");
            assert_eq!(tx.count(KEYS, b"")?, 1);
            Ok(())
        });
        Err(EngineError::Died)
    });
    assert_eq!(died, Err(EngineError::Died));
    assert_eq!(change(&mut store, |tx| tx.count(KEYS, b"")), 1);
}

#[test]
fn a_tampered_row_is_damage_and_ends_the_store() {
    for harm in [
        "UPDATE secret_keys SET value = zeroblob(40)",
        "UPDATE slots SET seed = zeroblob(32)",
        "DELETE FROM slots",
        "UPDATE secret_keys SET key = x'99'",
    ] {
        let home = Home::new();
        let mut store = home.create();
        change(&mut store, |tx| tx.write(KEYS, b"k", b"1"));
        drop(store);
        rusqlite::Connection::open(home.path()).unwrap().execute_batch(harm).unwrap();
        let mut store = home.open();
        let read = store.transact::<_, EngineError>(|tx| tx.scan(KEYS, b"", b"", 9));
        assert_eq!(read.unwrap_err(), EngineError::Damaged("keys"), "{harm}");
        let after = store.transact::<_, EngineError>(|tx| tx.write(NAMES, b"a", b""));
        assert_eq!(after, Err(EngineError::Damaged("keys")), "{harm}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Slots never collide: whatever is written, rolled back, erased and reopened, every row opens.
    #[test]
    fn every_row_keeps_its_own_slot(ops: Vec<(u8, bool, bool)>) {
        let home = Home::new();
        let mut store = home.create();
        let mut model = std::collections::BTreeMap::new();
        for (step, (key, writes, commits)) in ops.into_iter().enumerate() {
            let value = step.to_be_bytes();
            let done: Result<(), EngineError> = store.transact(|tx| {
                if writes { tx.write(KEYS, &[key % 16], &value)? } else { tx.erase(KEYS, &[key % 16])? }
                if commits { Ok(()) } else { Err(EngineError::Died) }
            });
            prop_assert_eq!(done.is_ok(), commits);
            match (commits, writes) {
                (true, true) => drop(model.insert(key % 16, value)),
                (true, false) => drop(model.remove(&(key % 16))),
                (false, _) => {}
            }
            if step % 16 == 15 {
                drop(store);
                store = home.open();
            }
        }
        let rows = change(&mut store, |tx| tx.scan(KEYS, b"", b"", usize::MAX));
        prop_assert_eq!(rows.len(), model.len());
        for ((key, value), row) in model.iter().zip(&rows) {
            prop_assert_eq!((&[*key][..], &value[..]), (&row.0[..], row.1.expose()));
        }
    }
}
