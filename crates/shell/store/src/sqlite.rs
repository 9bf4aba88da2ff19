//! The engine: ordered tables in one SQLite file.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use claviger_durable::engine::{Row, Secrecy};
use claviger_durable::{Engine, EngineError, Table, Tx};
use claviger_units::SecretBytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Params, ToSql};

use crate::files::{self, OpenError};
use crate::seal::{MasterKey, Seed};
use crate::slots::Slots;

/// The SQLite file of one role, open and locked against every other process.
///
/// An engine error poisons the store: it answers nothing more until it is opened again.
///
/// ```
/// use claviger_durable::{Engine, EngineError, Table};
/// use claviger_store::SqliteStore;
///
/// const KEYS: Table = Table::secret("keys");
/// let dir = tempfile::tempdir()?;
/// let mut store = SqliteStore::create(&dir.path().join("kme.db"), &dir.path().join("kme.key"))?;
/// store.transact::<_, EngineError>(|tx| tx.write(KEYS, b"first", b"0123456789abcdef"))?;
/// let key = store.transact::<_, EngineError>(|tx| tx.read(KEYS, b"first"))?;
/// assert_eq!(key.expect("just written").expose(), b"0123456789abcdef");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    master: MasterKey,
    slots: Slots,
    // The SQL names of the tables that exist, as this transaction sees them.
    tables: BTreeSet<String>,
    // What to take back from `slots` and `tables` when writes are rolled back.
    undo: Vec<Undo>,
    wrote: bool,
    erased: bool,
    // Whether an erased secret may still lie in the write-ahead log.
    unscrubbed: bool,
    // Invariant: once set, nothing is committed any more.
    fault: OnceCell<EngineError>,
    // Last, so that it is let go only when the database is closed.
    _lock: File,
}

enum Undo {
    Took(i64),
    GaveBack(i64),
    Created(String),
}

impl SqliteStore {
    /// Creates a store at `path` and its master key at `key_path`, or finishes a creation that
    /// was interrupted; missing directories are made.
    pub fn create(path: &Path, key_path: &Path) -> Result<Self, OpenError> {
        files::make_directory(path)?;
        let lock = files::lock(path)?;
        files::touch(path)?;
        let connection = connect(path)?;
        if layout(&connection, path)?.is_some() {
            return Err(OpenError::Exists { path: path.to_owned() });
        }
        let master = MasterKey::new(&files::create_key(key_path)?);
        log_ahead(&connection).map_err(database(path))?;
        found(&connection, &master).map_err(database(path))?;
        files::sync_directory(path)?;
        Self::start(connection, path, master, lock)
    }

    /// Opens the store at `path` with the master key at `key_path`, after checking both.
    pub fn open(path: &Path, key_path: &Path) -> Result<Self, OpenError> {
        let missing = || OpenError::Missing { path: path.to_owned() };
        if !path.exists() {
            return Err(missing());
        }
        let lock = files::lock(path)?;
        files::touch(path)?;
        let connection = connect(path)?;
        let version = layout(&connection, path)?.ok_or_else(missing)?;
        if version > LAYOUT {
            return Err(OpenError::Newer { path: path.to_owned(), found: version, known: LAYOUT });
        }
        check_pages(&connection, path)?;
        let master = MasterKey::new(&files::read_key(key_path)?);
        check_key(&connection, path, &master, key_path)?;
        log_ahead(&connection).map_err(database(path))?;
        Self::start(connection, path, master, lock)
    }

    /// Opens the store at `path`, or creates it where there is none yet.
    pub fn open_or_create(path: &Path, key_path: &Path) -> Result<Self, OpenError> {
        match Self::open(path, key_path) {
            Err(OpenError::Missing { .. }) => Self::create(path, key_path),
            opened => opened,
        }
    }

    fn start(
        connection: Connection,
        path: &Path,
        master: MasterKey,
        lock: File,
    ) -> Result<Self, OpenError> {
        let slots = read_slots(&connection).map_err(database(path))?;
        let tables = read_tables(&connection).map_err(database(path))?;
        let mut store = Self {
            connection,
            path: path.to_owned(),
            master,
            slots,
            tables,
            undo: Vec::new(),
            wrote: false,
            erased: false,
            unscrubbed: true,
            fault: OnceCell::new(),
            _lock: lock,
        };
        // A killed predecessor may have left erased secrets in the log.
        store.scrub().or(Err(OpenError::Corrupt { path: path.to_owned() }))?;
        Ok(store)
    }

    /// Tells whether secrets erased by a finished transaction may still lie in the log.
    #[must_use]
    pub const fn needs_scrub(&self) -> bool {
        self.unscrubbed
    }

    /// Moves the log into the database and empties it, so that no erased secret is left on disk.
    pub fn scrub(&mut self) -> Result<(), EngineError> {
        let busy: i64 = self.get("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0))?;
        if busy != 0 {
            return Err(self.poison(EngineError::Failed("the log cannot be emptied")));
        }
        self.unscrubbed = false;
        Ok(())
    }

    /// Opens a transaction.
    pub(crate) fn begin(&mut self) -> Result<(), EngineError> {
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        self.execute("BEGIN IMMEDIATE", ()).map(drop)
    }

    /// Runs one job of several in the open transaction; its `Err` takes back its own writes only.
    ///
    /// The outer error is the engine's: the transaction is lost.
    pub(crate) fn savepoint<R, E>(
        &mut self,
        work: impl FnOnce(&mut dyn Tx) -> Result<R, E>,
    ) -> Result<Result<R, E>, EngineError> {
        self.execute("SAVEPOINT job", ())?;
        let mark = self.undo.len();
        let result = work(&mut OpenTx { store: self });
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        if result.is_err() {
            self.execute("ROLLBACK TO job", ())?;
            self.undo_to(mark);
        }
        self.execute("RELEASE job", ())?;
        Ok(result)
    }

    /// Makes the open transaction durable; tells whether there was anything to sync.
    pub(crate) fn commit(&mut self) -> Result<bool, EngineError> {
        self.execute("COMMIT", ())?;
        self.undo.clear();
        let wrote = std::mem::take(&mut self.wrote);
        self.unscrubbed |= std::mem::take(&mut self.erased);
        Ok(wrote)
    }

    /// Forgets the open transaction.
    pub(crate) fn roll_back(&mut self) {
        if let Err(error) = self.connection.execute_batch("ROLLBACK") {
            tracing::warn!(store = %self.path.display(), %error, "rolling back failed");
            self.poison(EngineError::Failed("a transaction cannot be rolled back"));
        }
        self.undo_to(0);
        self.wrote = false;
        self.erased = false;
    }

    fn undo_to(&mut self, mark: usize) {
        for undo in self.undo.drain(mark..).rev() {
            match undo {
                Undo::Took(slot) => self.slots.give_back(slot),
                Undo::GaveBack(slot) => self.slots.keep(slot),
                Undo::Created(name) => drop(self.tables.remove(&name)),
            }
        }
    }

    fn poison(&self, error: EngineError) -> EngineError {
        self.fault.get_or_init(|| error).clone()
    }

    /// Turns a failure of SQLite into the engine's, with the details in the log.
    fn failed(&self, error: &rusqlite::Error) -> EngineError {
        tracing::error!(store = %self.path.display(), %error, "the store failed");
        self.poison(EngineError::Failed(match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "the disk is full",
            Some(ErrorCode::SystemIoFailure) => "the disk reports an error",
            Some(ErrorCode::ReadOnly) => "the file has become read-only",
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "the file is corrupt",
            _ => "the database refuses, see the log",
        }))
    }

    fn execute(&self, sql: &str, params: impl Params) -> Result<usize, EngineError> {
        let run = || self.connection.prepare_cached(sql)?.execute(params);
        run().map_err(|error| self.failed(&error))
    }

    fn get<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, EngineError> {
        let run = || self.connection.prepare_cached(sql)?.query_row(params, read);
        run().map_err(|error| self.failed(&error))
    }

    fn get_optional<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, EngineError> {
        let run = || self.connection.prepare_cached(sql)?.query_row(params, read).optional();
        run().map_err(|error| self.failed(&error))
    }

    /// Returns the SQL name of `table` where it exists already.
    fn existing(&self, table: Table) -> Result<Option<String>, EngineError> {
        let name = sql_name(table).map_err(|error| self.poison(error))?;
        Ok(self.tables.contains(&name).then_some(name))
    }

    /// Returns the SQL name of `table`, which is made where it does not exist.
    fn ensure(&mut self, table: Table) -> Result<String, EngineError> {
        let name = sql_name(table).map_err(|error| self.poison(error))?;
        if !self.tables.contains(&name) {
            let slot = if is_secret(table) { "slot INTEGER NOT NULL, " } else { "" };
            let columns = format!("key BLOB PRIMARY KEY NOT NULL, {slot}value BLOB NOT NULL");
            self.execute(&format!("CREATE TABLE {name} ({columns}) WITHOUT ROWID"), ())?;
            self.tables.insert(name.clone());
            self.undo.push(Undo::Created(name.clone()));
        }
        Ok(name)
    }

    /// Seals `value` under a fresh seed; the seed of an overwritten row is overwritten.
    fn write_secret(
        &mut self,
        name: &str,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), EngineError> {
        let sql = format!("SELECT slot FROM {name} WHERE key = ?1");
        let overwritten = self.get_optional(&sql, [key], |row| row.get(0))?;
        self.erased |= overwritten.is_some();
        let slot = overwritten.unwrap_or_else(|| {
            let slot = self.slots.take();
            self.undo.push(Undo::Took(slot));
            slot
        });
        let seed = Seed::random().map_err(|error| self.poison(error))?;
        let sql = "INSERT INTO slots (id, seed) VALUES (?1, ?2)
                   ON CONFLICT (id) DO UPDATE SET seed = excluded.seed";
        self.execute(sql, (slot, seed.as_slot()))?;
        let sealed = self.master.seal(&seed, table.name, key, value);
        let sealed = sealed.map_err(|error| self.poison(error))?;
        let sql = format!(
            "INSERT INTO {name} (key, slot, value) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET slot = excluded.slot, value = excluded.value"
        );
        self.execute(&sql, (key, slot, sealed)).map(drop)
    }

    fn write_plain(&self, name: &str, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let sql = format!(
            "INSERT INTO {name} (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        );
        self.execute(&sql, (key, value)).map(drop)
    }

    fn erase_secret(&mut self, name: &str, key: &[u8]) -> Result<(), EngineError> {
        let sql = format!("DELETE FROM {name} WHERE key = ?1 RETURNING slot");
        if let Some(slot) = self.get_optional(&sql, [key], |row| row.get(0))? {
            self.execute("UPDATE slots SET seed = zeroblob(32) WHERE id = ?1", [slot])?;
            self.slots.give_back(slot);
            self.undo.push(Undo::GaveBack(slot));
            self.erased = true;
        }
        Ok(())
    }

    /// Reads the row `key, value, seed` that a query of [`select`] found.
    fn unpack(&self, table: Table, row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Row>> {
        let key = row.get_ref(0)?.as_blob()?;
        let value = row.get_ref(1)?.as_blob()?;
        let value = match table.secrecy {
            Secrecy::Plain => Some(SecretBytes::new(value.to_vec())),
            Secrecy::Secret => row
                .get_ref(2)?
                .as_blob_or_null()?
                .and_then(Seed::from_slot)
                .and_then(|seed| self.master.open(&seed, table.name, key, value)),
        };
        Ok(value.map(|value| (key.to_vec(), value)))
    }

    fn damaged(&self, table: Table) -> EngineError {
        self.poison(EngineError::Damaged(table.name))
    }
}

impl Engine for SqliteStore {
    fn transact<R, E: From<EngineError>>(
        &mut self,
        work: impl FnOnce(&mut dyn Tx) -> Result<R, E>,
    ) -> Result<R, E> {
        self.begin()?;
        let result = work(&mut OpenTx { store: self });
        if let Some(fault) = self.fault.get().cloned() {
            self.roll_back();
            return Err(fault.into());
        }
        match result {
            Ok(result) => self.commit().map(|_| result).map_err(E::from),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

struct OpenTx<'a> {
    store: &'a mut SqliteStore,
}

impl Tx for OpenTx<'_> {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<SecretBytes>, EngineError> {
        let Some(name) = self.store.existing(table)? else {
            return Ok(None);
        };
        let sql = format!("{} WHERE t.key = ?1", select(table, &name));
        let row = self.store.get_optional(&sql, [key], |row| self.store.unpack(table, row))?;
        row.map(|row| row.map(|row| row.1).ok_or_else(|| self.store.damaged(table))).transpose()
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, EngineError> {
        let Some(name) = self.store.existing(table)? else {
            return Ok(Vec::new());
        };
        let range = Range::new(prefix, after);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut params = range.params();
        params.push(&limit);
        let sql = format!("{} WHERE {} ORDER BY t.key LIMIT ?", select(table, &name), range.sql());
        let run = || {
            let mut statement = self.store.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(&params[..], |row| self.store.unpack(table, row))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = run().map_err(|error| self.store.failed(&error))?;
        rows.into_iter().map(|row| row.ok_or_else(|| self.store.damaged(table))).collect()
    }

    fn count(&self, table: Table, prefix: &[u8]) -> Result<u64, EngineError> {
        let Some(name) = self.store.existing(table)? else {
            return Ok(0);
        };
        let range = Range::new(prefix, b"");
        let sql = format!("SELECT count(*) FROM {name} AS t WHERE {}", range.sql());
        let count: i64 = self.store.get(&sql, &range.params()[..], |row| row.get(0))?;
        u64::try_from(count).ok().ok_or_else(|| self.store.damaged(table))
    }

    fn write(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let name = self.store.ensure(table)?;
        self.store.wrote = true;
        match table.secrecy {
            Secrecy::Plain => self.store.write_plain(&name, key, value),
            Secrecy::Secret => self.store.write_secret(&name, table, key, value),
        }
    }

    fn erase(&mut self, table: Table, key: &[u8]) -> Result<(), EngineError> {
        let Some(name) = self.store.existing(table)? else {
            return Ok(());
        };
        self.store.wrote = true;
        match table.secrecy {
            Secrecy::Plain => {
                self.store.execute(&format!("DELETE FROM {name} WHERE key = ?1"), [key]).map(drop)
            }
            Secrecy::Secret => self.store.erase_secret(&name, key),
        }
    }
}

/// The keys that start with a prefix and lie above another key.
struct Range<'a> {
    lower: &'a [u8],
    relation: &'static str,
    upper: Option<Vec<u8>>,
}

impl<'a> Range<'a> {
    fn new(prefix: &'a [u8], after: &'a [u8]) -> Self {
        let (lower, relation) =
            if after >= prefix && !after.is_empty() { (after, ">") } else { (prefix, ">=") };
        Self { lower, relation, upper: successor(prefix) }
    }

    fn sql(&self) -> String {
        let upper = if self.upper.is_some() { " AND t.key < ?" } else { "" };
        format!("t.key {} ?{upper}", self.relation)
    }

    fn params(&self) -> Vec<&dyn ToSql> {
        let lower: &dyn ToSql = &self.lower;
        std::iter::once(lower).chain(self.upper.iter().map(|upper| upper as &dyn ToSql)).collect()
    }
}

/// Returns the least byte string above all that start with `prefix`, if there is one.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut successor = prefix.get(..=last)?.to_vec();
    *successor.last_mut()? += 1;
    Some(successor)
}

fn select(table: Table, name: &str) -> String {
    if is_secret(table) {
        // A left join: a row whose slot is gone must be seen as damage, not overlooked.
        format!(
            "SELECT t.key, t.value, s.seed FROM {name} AS t LEFT JOIN slots AS s ON s.id = t.slot"
        )
    } else {
        format!("SELECT t.key, t.value FROM {name} AS t")
    }
}

fn is_secret(table: Table) -> bool {
    table.secrecy == Secrecy::Secret
}

fn sql_name(table: Table) -> Result<String, EngineError> {
    let fits = !table.name.is_empty()
        && table.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if !fits {
        return Err(EngineError::Failed("a table name may hold only a-z and _"));
    }
    Ok(format!("{}_{}", if is_secret(table) { "secret" } else { "plain" }, table.name))
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(database(path))?;
    connection.set_prepared_statement_cache_capacity(256);
    // Exclusive: other programs are kept out, and no shared-memory file is needed.
    let pragmas = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA secure_delete = ON;
                   PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;";
    connection.execute_batch(pragmas).map_err(database(path))?;
    Ok(connection)
}

/// Sets how commits reach the disk; changes the file, so only after it is known to be ours.
fn log_ahead(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
}

/// Returns the layout of a store, `None` of a database that holds nothing yet.
fn layout(connection: &Connection, path: &Path) -> Result<Option<i32>, OpenError> {
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i32>(0));
    match number("PRAGMA application_id").map_err(database(path))? {
        APPLICATION_ID => number("PRAGMA user_version").map(Some).map_err(database(path)),
        0 if number("SELECT count(*) FROM sqlite_master").map_err(database(path))? == 0 => Ok(None),
        _ => Err(OpenError::Foreign { path: path.to_owned() }),
    }
}

/// Makes the tables of an empty store, in one transaction.
fn found(connection: &Connection, master: &MasterKey) -> rusqlite::Result<()> {
    let fingerprint =
        master.fingerprint().map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LAYOUT};
         CREATE TABLE master (fingerprint BLOB NOT NULL);
         CREATE TABLE slots (id INTEGER PRIMARY KEY, seed BLOB NOT NULL);"
    ))?;
    transaction.execute("INSERT INTO master (fingerprint) VALUES (?1)", [&fingerprint[..]])?;
    transaction.commit()
}

fn check_pages(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let report: String = connection
        .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
        .map_err(database(path))?;
    if report == "ok" {
        return Ok(());
    }
    tracing::error!(store = %path.display(), report, "the check of the database failed");
    Err(OpenError::Corrupt { path: path.to_owned() })
}

fn check_key(
    connection: &Connection,
    path: &Path,
    master: &MasterKey,
    key_path: &Path,
) -> Result<(), OpenError> {
    let stored: Vec<u8> = connection
        .query_row("SELECT fingerprint FROM master", (), |row| row.get(0))
        .map_err(database(path))?;
    if master.fingerprint().is_ok_and(|fingerprint| fingerprint[..] == stored[..]) {
        return Ok(());
    }
    Err(OpenError::WrongKey { path: path.to_owned(), key_path: key_path.to_owned() })
}

fn read_slots(connection: &Connection) -> rusqlite::Result<Slots> {
    let sql = "SELECT id FROM slots WHERE seed = zeroblob(32) ORDER BY id DESC";
    let mut statement = connection.prepare(sql)?;
    let free = statement.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let sql = "SELECT coalesce(max(id), 0) FROM slots";
    Ok(Slots::new(free, connection.query_row(sql, (), |row| row.get(0))?))
}

fn read_tables(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    statement.query_map((), |row| row.get(0))?.collect()
}

fn database(path: &Path) -> impl Fn(rusqlite::Error) -> OpenError {
    move |source| {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                OpenError::Corrupt { path }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path },
            _ => OpenError::Database { path, source },
        }
    }
}

/// "Clav", at byte 68 of the file: `file` and this program know it by that.
const APPLICATION_ID: i32 = 0x436c_6176;

/// The layout of the tables. Raise it with every change that older versions cannot read.
const LAYOUT: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_ends_a_prefix() {
        for (prefix, end) in [
            (&b""[..], None),
            (b"\xff\xff", None),
            (b"a", Some(&b"b"[..])),
            (b"a\xff", Some(b"b")),
            (b"\x00", Some(b"\x01")),
        ] {
            assert_eq!(successor(prefix).as_deref(), end, "{prefix:?}");
        }
    }
}
