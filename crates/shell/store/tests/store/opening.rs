//! What a store refuses to open, and whether it says why and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::home::Home;
use claviger_durable::{Engine, EngineError, Table};
use claviger_store::{OpenError, SqliteStore};

const T: Table = Table::plain("t");

#[test]
fn a_second_owner_is_told_who_has_the_store() {
    let home = Home::new();
    let store = home.create();
    let second = SqliteStore::open(&home.path(), &home.key_path()).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    assert!(second.to_string().contains("a.db is in use by another process"), "{second}");
    drop(store);
    home.open();
}

#[test]
fn a_store_is_created_once() {
    let home = Home::new();
    let missing = SqliteStore::open(&home.path(), &home.key_path()).unwrap_err();
    assert!(matches!(missing, OpenError::Missing { .. }), "{missing}");
    drop(home.create());
    let again = SqliteStore::create(&home.path(), &home.key_path()).unwrap_err();
    assert!(matches!(again, OpenError::Exists { .. }), "{again}");
    SqliteStore::open_or_create(&home.path(), &home.key_path()).unwrap();
}

#[test]
fn an_interrupted_creation_is_finished() {
    let home = Home::new();
    fs::write(home.path(), "").unwrap();
    fs::write(home.key_path(), [7; 32]).unwrap();
    fs::set_permissions(home.key_path(), fs::Permissions::from_mode(0o600)).unwrap();
    drop(SqliteStore::open_or_create(&home.path(), &home.key_path()).unwrap());
    home.open();
}

#[test]
fn files_are_for_the_owner_alone() {
    let home = Home::new();
    let deep = home.0.path().join("x/y/a.db");
    let store = SqliteStore::create(&deep, &home.key_path()).unwrap();
    for file in [&deep, &deep.with_added_extension("wal"), &home.key_path()] {
        if let Ok(found) = fs::metadata(file) {
            assert_eq!(found.permissions().mode() & 0o777, 0o600, "{file:?}");
        }
    }
    drop(store);
    fs::set_permissions(home.key_path(), fs::Permissions::from_mode(0o640)).unwrap();
    let open_key = SqliteStore::open(&deep, &home.key_path()).unwrap_err();
    assert!(open_key.to_string().contains("chmod 600"), "{open_key}");
}

#[test]
fn another_key_is_refused() {
    let (home, other) = (Home::new(), Home::new());
    drop((home.create(), other.create()));
    let wrong = SqliteStore::open(&home.path(), &other.key_path()).unwrap_err();
    assert!(matches!(wrong, OpenError::WrongKey { .. }), "{wrong}");
    fs::write(other.key_path(), "short").unwrap();
    let bad = SqliteStore::open(&home.path(), &other.key_path()).unwrap_err();
    assert!(matches!(bad, OpenError::BadKey { .. }), "{bad}");
}

#[test]
fn foreign_newer_and_corrupt_files_are_refused_and_left_as_they_are() {
    type Harm = fn(&rusqlite::Connection) -> rusqlite::Result<()>;
    type Kind = fn(&OpenError) -> bool;
    let cases: [(Harm, Kind); 2] = [
        (
            |db| db.execute_batch("PRAGMA application_id = 7"),
            |e| matches!(e, OpenError::Foreign { .. }),
        ),
        (
            |db| db.execute_batch("PRAGMA user_version = 99"),
            |e| matches!(e, OpenError::Newer { found: 99, .. }),
        ),
    ];
    for (harm, expected) in cases {
        let home = Home::new();
        drop(home.create());
        harm(&rusqlite::Connection::open(home.path()).unwrap()).unwrap();
        let before = fs::read(home.path()).unwrap();
        let refused = SqliteStore::open_or_create(&home.path(), &home.key_path()).unwrap_err();
        assert!(expected(&refused), "{refused}");
        assert_eq!(fs::read(home.path()).unwrap(), before);
    }
}

#[test]
fn a_corrupt_file_is_named() {
    let home = Home::new();
    let mut store = home.create();
    store
        .transact::<_, EngineError>(|tx| (0..99).try_for_each(|n: u8| tx.write(T, &[n], &[n; 500])))
        .unwrap();
    drop(store);
    let whole = fs::read(home.path()).unwrap();
    let harms: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes[..100].fill(b'x'),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[4096 * 4..4096 * 6].fill(0xA5),
    ];
    for harm in harms {
        let mut bytes = whole.clone();
        harm(&mut bytes);
        fs::write(home.path(), bytes).unwrap();
        let refused = SqliteStore::open(&home.path(), &home.key_path()).unwrap_err();
        assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
        assert!(refused.to_string().contains("restore"), "{refused}");
    }
}

#[test]
fn an_unusable_place_is_named() {
    let home = Home::new();
    let file = home.0.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = SqliteStore::create(&file.join("a.db"), &home.key_path()).unwrap_err();
    assert!(refused.to_string().starts_with("cannot create the directory"), "{refused}");
    let refused = SqliteStore::create(home.0.path(), &home.key_path()).unwrap_err();
    assert!(refused.to_string().starts_with("cannot write"), "{refused}");
}
