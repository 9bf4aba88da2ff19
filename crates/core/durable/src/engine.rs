//! Ordered tables under transactions: the trait, an engine in memory, and one that dies on cue.

use std::collections::BTreeMap;

use claviger_units::SecretBytes;

/// A table of the store: byte keys in order, each with a byte value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// The name, in the words of the core that owns the table: lower-case letters and `_`.
    pub name: &'static str,
    /// Whether the values are secrets, which reach a disk only sealed.
    pub secrecy: Secrecy,
}

/// Whether an engine must seal the values of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Secrecy {
    /// Names, counters and states.
    Plain,
    /// Keys: sealed on disk, unreadable there once deleted.
    Secret,
}

impl Table {
    /// A table whose values may be read on the disk.
    #[must_use]
    pub const fn plain(name: &'static str) -> Self {
        Self { name, secrecy: Secrecy::Plain }
    }

    /// A table whose values are sealed on the disk.
    #[must_use]
    pub const fn secret(name: &'static str) -> Self {
        Self { name, secrecy: Secrecy::Secret }
    }
}

/// Why the store could not do what was asked; nothing of the transaction is durable unless said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The disk or database failed: stop the role, mend the disk, start again.
    #[error("the store failed: {0}")]
    Failed(&'static str),
    /// A row does not read as what was written: restore the store, or reset this site.
    #[error("the store is damaged: table {0} holds a row that cannot be read")]
    Damaged(&'static str),
    /// The process died here; only tests meet this.
    #[error("the engine died on cue")]
    Died,
}

/// One open transaction. Reads see the writes before them.
pub trait Tx {
    /// Returns the value under `key`.
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<SecretBytes>, EngineError>;

    /// Returns up to `limit` rows whose keys start with `prefix` and are above `after` (all of
    /// them where `after` is empty), in rising order of their keys.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, EngineError>;

    /// Returns how many rows have keys that start with `prefix`.
    fn count(&self, table: Table, prefix: &[u8]) -> Result<u64, EngineError>;

    /// Writes `value` under `key`, over what was there.
    fn write(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), EngineError>;

    /// Erases the row under `key`; no row is no error.
    fn erase(&mut self, table: Table, key: &[u8]) -> Result<(), EngineError>;
}

/// A key and its value.
pub type Row = (Vec<u8>, SecretBytes);

/// A store that runs transactions one after the other.
pub trait Engine {
    /// Runs `work` in one transaction: durable as a whole when this returns `Ok`, without any
    /// trace when `work` returns `Err`.
    fn transact<R, E: From<EngineError>>(
        &mut self,
        work: impl FnOnce(&mut dyn Tx) -> Result<R, E>,
    ) -> Result<R, E>;
}

type Tables = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

/// An engine in memory, for virtual time and tests; it can be told to die at an operation.
///
/// ```
/// use claviger_durable::{Engine, EngineError, MemoryEngine, Table};
///
/// const LEASES: Table = Table::plain("leases");
/// let mut engine = MemoryEngine::new();
/// engine.transact::<_, EngineError>(|tx| tx.write(LEASES, b"mine", b"7"))?;
/// let kept = engine.transact::<_, EngineError>(|tx| tx.read(LEASES, b"mine"))?;
/// assert_eq!(kept.expect("just written").expose(), b"7");
/// # Ok::<(), EngineError>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryEngine {
    durable: Tables,
    // How many more writes, erasures and commits succeed; `None` is for ever.
    lives: Option<u64>,
    operations: u64,
}

impl MemoryEngine {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `n` writes, erasures, and commits succeed and die at the one after them.
    ///
    /// A commit counts twice: dying at the first forgets the transaction, dying at the second
    /// keeps it and loses only the answer.
    pub const fn die_after(&mut self, n: u64) {
        self.lives = Some(n);
    }

    /// Starts the dead engine again with what was durable.
    pub const fn revive(&mut self) {
        self.lives = None;
    }

    /// Returns how many operations have been counted so far.
    #[must_use]
    pub const fn operations(&self) -> u64 {
        self.operations
    }

    /// Copies what is durable, as a backup does.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self { durable: self.durable.clone(), lives: None, operations: 0 }
    }

    fn live_through(&mut self) -> Result<(), EngineError> {
        match &mut self.lives {
            Some(0) => return Err(EngineError::Died),
            Some(n) => *n -= 1,
            None => {}
        }
        self.operations += 1;
        Ok(())
    }
}

impl Engine for MemoryEngine {
    fn transact<R, E: From<EngineError>>(
        &mut self,
        work: impl FnOnce(&mut dyn Tx) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut open = OpenTx { engine: self, changes: BTreeMap::new() };
        let result = work(&mut open)?;
        let changes = open.changes;
        if changes.is_empty() {
            return Ok(result);
        }
        self.live_through()?;
        for ((table, key), value) in changes {
            let rows = self.durable.entry(table).or_default();
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        self.live_through()?;
        Ok(result)
    }
}

struct OpenTx<'a> {
    engine: &'a mut MemoryEngine,
    changes: BTreeMap<(&'static str, Vec<u8>), Option<Vec<u8>>>,
}

impl OpenTx<'_> {
    /// Walks the rows that this transaction sees, durable and changed ones merged, in order.
    fn visible<'t>(
        &'t self,
        table: Table,
        prefix: &'t [u8],
        after: &'t [u8],
    ) -> impl Iterator<Item = (&'t [u8], &'t [u8])> + 't {
        let from = if after.is_empty() { prefix } else { after }.max(prefix).to_vec();
        let name = table.name;
        let durable = self.engine.durable.get(name).into_iter();
        let mut durable = durable.flat_map({
            let from = from.clone();
            move |rows| rows.range(from.clone()..)
        });
        let mut changed = self.changes.range((name, from)..).peekable();
        let mut next_durable = durable.next();
        core::iter::from_fn(move || {
            loop {
                let change = changed.peek().filter(|((table, _), _)| *table == name);
                let change_key = change.map(|((_, key), _)| key.as_slice());
                let durable_key = next_durable.map(|(key, _)| key.as_slice());
                let (Some(key), is_change) = (match (change_key, durable_key) {
                    (Some(c), Some(d)) if c <= d => {
                        if c == d {
                            next_durable = durable.next();
                        }
                        (Some(c), true)
                    }
                    (Some(c), None) => (Some(c), true),
                    (_, d) => (d, false),
                }) else {
                    return None;
                };
                let value = if is_change {
                    changed.next().and_then(|(_, value)| value.as_deref())
                } else {
                    let value = next_durable.map(|(_, value)| value.as_slice());
                    next_durable = durable.next();
                    value
                };
                if let Some(value) = value {
                    return Some((key, value));
                }
            }
        })
        .skip_while(move |(key, _)| !after.is_empty() && *key <= after)
        .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

impl Tx for OpenTx<'_> {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<SecretBytes>, EngineError> {
        let value = match self.changes.get(&(table.name, key.to_vec())) {
            Some(changed) => changed.as_ref(),
            None => self.engine.durable.get(table.name).and_then(|rows| rows.get(key)),
        };
        Ok(value.map(|value| SecretBytes::new(value.clone())))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, EngineError> {
        let rows = self.visible(table, prefix, after).take(limit);
        Ok(rows.map(|(k, v)| (k.to_vec(), SecretBytes::new(v.to_vec()))).collect())
    }

    fn count(&self, table: Table, prefix: &[u8]) -> Result<u64, EngineError> {
        Ok(self.visible(table, prefix, b"").count() as u64)
    }

    fn write(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.engine.live_through()?;
        self.changes.insert((table.name, key.to_vec()), Some(value.to_vec()));
        Ok(())
    }

    fn erase(&mut self, table: Table, key: &[u8]) -> Result<(), EngineError> {
        self.engine.live_through()?;
        self.changes.insert((table.name, key.to_vec()), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Table = Table::plain("t");

    #[test]
    fn a_failed_transaction_leaves_no_trace() {
        let mut engine = MemoryEngine::new();
        let failed: Result<(), EngineError> = engine.transact(|tx| {
            tx.write(T, b"a", b"1")?;
            Err(EngineError::Failed("on purpose"))
        });
        assert!(failed.is_err());
        assert_eq!(engine.transact::<_, EngineError>(|tx| tx.count(T, b"")), Ok(0));
    }

    #[test]
    fn a_scan_sees_its_own_transaction_in_order() {
        let mut engine = MemoryEngine::new();
        engine
            .transact::<_, EngineError>(|tx| {
                for key in [b"a1", b"a2", b"b1"] {
                    tx.write(T, key, b"")?;
                }
                Ok(())
            })
            .unwrap();
        let keys = engine
            .transact::<_, EngineError>(|tx| {
                tx.write(T, b"a0", b"")?;
                tx.erase(T, b"a2")?;
                Ok(tx.scan(T, b"a", b"a0", 9)?.into_iter().map(|row| row.0).collect::<Vec<_>>())
            })
            .unwrap();
        assert_eq!(keys, [b"a1".to_vec()]);
    }

    #[test]
    fn a_commit_dies_before_or_after_the_disk() {
        for (lives, kept) in [(0, 0), (1, 0), (2, 1)] {
            let mut engine = MemoryEngine::new();
            engine.die_after(lives);
            let died = engine.transact::<_, EngineError>(|tx| tx.write(T, b"a", b"1"));
            assert_eq!(died, Err(EngineError::Died), "after {lives}");
            engine.revive();
            assert_eq!(engine.transact::<_, EngineError>(|tx| tx.count(T, b"")), Ok(kept));
        }
    }
}
