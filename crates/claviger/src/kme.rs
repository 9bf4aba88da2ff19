//! `claviger kme reset`: the remedy after a site's key store was restored from an old copy.

use anyhow::{Context as _, Result, bail};
use claviger_durable::{Engine as _, EngineError};
use claviger_keystore::{KeyStore, StoreConfig, Stored};
use claviger_net::clock::Clock;
use claviger_roles::Folder;
use claviger_roles::config::{self, RawKme};
use claviger_store::{OpenError, SqliteStore};
use claviger_units::Span;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};

use crate::cli::ResetArgs;
use crate::console;

/// Erases every key of a site whose entity does not run.
pub(crate) fn reset(args: &ResetArgs) -> Result<()> {
    let config = config::load::<RawKme>(&args.config)?;
    let folder = Folder::of_config(&args.config);
    let opened = SqliteStore::open(&folder.file("store.db"), &folder.file("store.key"));
    let mut store = match opened {
        Err(OpenError::InUse { path }) => bail!(
            "{} is in use: stop the key management entity of site {} (or `claviger up`) first",
            path.display(),
            config.site
        ),
        Err(OpenError::Missing { path }) => bail!(
            "site {site} has no key store, so there is nothing to reset: {} is missing. Its entity makes \
             an empty store when it starts; if a store was removed, reset site {} as well before that; \
             if one should be there, check --config",
            path.display(),
            config.site.other(),
            site = config.site,
        ),
        opened => opened.context("the key store cannot be opened")?,
    };
    let mut rng = StdRng::try_from_rng(&mut SysRng).context("the system gives no randomness")?;
    let (site, now) = (config.site, Clock::start().now());
    // How long keys wait for slaves does not matter to a store that is about to be empty.
    let config = StoreConfig {
        site,
        capacity: config.capacity,
        untaken_expiry: Span::ZERO,
        untaken_per_pair: 0,
    };
    let erased = store
        .transact::<Stored, EngineError>(|tx| {
            let mut keys = KeyStore::open(tx, now, config, &mut rng)?;
            let stored = keys.stored(tx)?;
            keys.reset(tx)?;
            Ok(stored)
        })
        .context("the key store cannot be reset; nothing was changed")?;
    store.scrub().context("erased keys may still lie in the store's log; start the entity once")?;
    let keys = erased.mine + erased.theirs + erased.pending + erased.untaken;
    console::out(format_args!("site {site}: {keys} keys erased, a new generation begun"));
    console::out(format_args!(
        "both sites must be reset, each with its entity stopped: unless it has been done, do the same at site {}",
        site.other()
    ));
    Ok(())
}
