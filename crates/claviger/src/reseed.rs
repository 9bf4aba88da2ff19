//! `claviger link reseed`: a fresh initial secret for both ends, when the reserve is used up.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use claviger_distill::{InitialSecret, Reserve};
use claviger_durable::{Engine as _, EngineError};
use claviger_roles::Folder;
use claviger_roles::config::{self, RawQkd};
use claviger_store::{OpenError, SqliteStore};
use claviger_units::SecretBytes;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;

use crate::cli::link::ReseedArgs;
use crate::console;

/// Draws a secret into a new file, or gives one to a QKD node that does not run.
pub(crate) fn run(args: &ReseedArgs) -> Result<()> {
    match &args.config {
        None => draw(&args.file),
        Some(config) => give(&args.file, config),
    }
}

fn draw(path: &Path) -> Result<()> {
    let secret = InitialSecret::random(&mut UnwrapErr(SysRng));
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = open.with_context(|| {
        format!("{} cannot be made; an existing file is never overwritten", path.display())
    })?;
    file.write_all(secret.expose())?;
    file.sync_all()?;
    console::out(format_args!(
        "a fresh secret lies in {0}: carry it to both sites by a way you trust, and run\n  \
         claviger link reseed {0} --config site-a/qkd/config.toml\n  \
         claviger link reseed {0} --config site-b/qkd/config.toml\n\
         each with its QKD node stopped; then destroy the file",
        path.display()
    ));
    Ok(())
}

fn give(path: &Path, config: &Path) -> Result<()> {
    let party = config::load::<RawQkd>(config)?.party;
    let bytes = std::fs::read(path).map(SecretBytes::new);
    let bytes = bytes.with_context(|| {
        format!("{} cannot be read; draw a secret with `claviger link reseed FILE`", path.display())
    })?;
    let secret = InitialSecret::from_bytes(bytes)?;
    let folder = Folder::of_config(config);
    let opened = SqliteStore::open(&folder.file("store.db"), &folder.file("store.key"));
    let mut store = match opened {
        Err(OpenError::InUse { path }) => {
            bail!("{} is in use: stop this QKD node (or `claviger up`) first", path.display())
        }
        Err(OpenError::Missing { path }) => bail!(
            "this QKD node has no store, so there is no reserve to fill: {} is missing. The node makes \
             it when it first starts, from the secret of `claviger init`; if one should be there, check \
             --config",
            path.display()
        ),
        opened => opened.context("the store of the QKD node cannot be opened")?,
    };
    let known = store
        .transact::<_, EngineError>(|tx| {
            let known = Reserve::was_taken(tx, &secret)?;
            if !known {
                Reserve::refill(tx, &secret)?;
            }
            Ok(known)
        })
        .context("the reserve cannot be filled; nothing was changed")?;
    if known {
        bail!(
            "this node has taken {} before, and a pad must never serve twice: draw a fresh secret",
            path.display()
        );
    }
    store.scrub().context("old pads may still lie in the store's log; start the node once")?;
    console::out(format_args!(
        "{} has a full reserve again; give the same file to the other end, then destroy it",
        format!("{party:?}").to_lowercase()
    ));
    Ok(())
}
