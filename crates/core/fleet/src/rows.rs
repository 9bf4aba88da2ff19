//! How rows with secrets are laid out, and how tables are walked.

use claviger_durable::{EngineError, Table, Tx};
use claviger_units::SecretBytes;

/// Joins the plain part, behind its length, and the secrets in one piece of memory that is wiped.
pub(crate) fn join(plain: &[u8], secrets: &[&[u8]]) -> SecretBytes {
    let n_secret: usize = secrets.iter().map(|secret| secret.len()).sum();
    let length = u32::try_from(plain.len()).expect("rows are short");
    let mut row = Vec::with_capacity(4 + plain.len() + n_secret);
    row.extend_from_slice(&length.to_be_bytes());
    row.extend_from_slice(plain);
    for secret in secrets {
        row.extend_from_slice(secret);
    }
    SecretBytes::new(row)
}

/// Shows every row of a table to `visit`, in rising order of the keys.
pub(crate) fn walk(
    tx: &dyn Tx,
    table: Table,
    mut visit: impl FnMut(&[u8], &SecretBytes) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut after = Vec::new();
    loop {
        let rows = tx.scan(table, b"", &after, PAGE)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after.clone_from(last);
        for (key, row) in &rows {
            visit(key, row)?;
        }
    }
}

/// Erases the rows of a table whose keys begin with `prefix`.
pub(crate) fn erase_all(tx: &mut dyn Tx, table: Table, prefix: &[u8]) -> Result<(), EngineError> {
    loop {
        let rows = tx.scan(table, prefix, b"", PAGE)?;
        if rows.is_empty() {
            return Ok(());
        }
        for (key, _) in rows {
            tx.erase(table, &key)?;
        }
    }
}

/// How many rows are read at a time.
pub(crate) const PAGE: usize = 256;
