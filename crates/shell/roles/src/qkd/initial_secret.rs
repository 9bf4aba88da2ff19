//! The file with the link's initial secret, which is gone once the store has it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use claviger_distill::InitialSecret;
use claviger_units::SecretBytes;

use crate::role::RoleError;

/// Reads the initial secret, if it still lies there.
pub(super) fn take(path: &Path) -> Result<Option<InitialSecret>, RoleError> {
    let secret = |why: String| RoleError::Secret { path: path.into(), why };
    match std::fs::read(path) {
        Ok(bytes) => {
            let read = InitialSecret::from_bytes(SecretBytes::new(bytes));
            read.map(Some).map_err(|error| secret(error.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(secret(error.to_string())),
    }
}

/// Overwrites and removes a file that held a secret in clear.
pub(super) fn forget(path: &Path) -> Result<(), RoleError> {
    let overwrite = || {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(&vec![0; InitialSecret::LENGTH])?;
        file.sync_all()?;
        std::fs::remove_file(path)
    };
    overwrite().map_err(|error| RoleError::Secret { path: path.into(), why: error.to_string() })
}
