//! What every role is given, opens, and may fail with.

use std::path::{Path, PathBuf};

use claviger_durable::{EngineError, Tx};
use claviger_net::clock::Clock;
use claviger_net::link::PeerNameError;
use claviger_net::listen::ListenError;
use claviger_net::mqtt::Access;
use claviger_net::pki::{Authority, Identity, PkiError};
use claviger_net::shutdown::Shutdown;
use claviger_net::tls;
use claviger_store::{OpenError, SqliteStore, StoreError, Writer};
use claviger_units::SecretBytes;

use crate::config::{BrokerConfig, ConfigError};
use crate::report::Reporter;

/// What a role is given by whoever runs it.
#[derive(Clone, Debug)]
pub struct Context {
    /// The one clock.
    pub clock: Clock,
    /// The signal to stop.
    pub shutdown: Shutdown,
    /// Where to tell what happens.
    pub reports: Reporter,
}

/// Why a role ended; each names its cause and remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// A socket cannot be made: see that nobody else uses the folder, and that it may be written to.
    #[error("cannot listen at {}", .path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is wrong: mend the keys that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A certificate or key is missing or wrong.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The name of a peer cannot be proved by a certificate.
    #[error(transparent)]
    PeerName(#[from] PeerNameError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed: mend the disk and start again.
    #[error("the store failed and the role has stopped")]
    Store(#[from] StoreError),
    /// The store failed at the start.
    #[error("the store failed at the start")]
    Engine(#[from] EngineError),
    /// The initial secret is missing or malformed.
    #[error(
        "the link secret {path} cannot be used: {why}; give both sites the bundles of one `claviger init`"
    )]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key management entity cannot run with its configuration.
    #[error("the key management entity cannot run: {0}")]
    Kme(String),
    /// OpenSSL cannot serve pre-shared keys.
    #[error("TLS with pre-shared keys cannot be served: {0}")]
    OpenSsl(#[source] std::io::Error),
    /// A password file is missing.
    #[error(
        "the password file {path} cannot be read: {source}; run `claviger init` into a fresh folder"
    )]
    Password {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The password of a broker is missing.
    #[error(
        "the password of the broker cannot be read from {path}: {source}; write it there, with mode 600"
    )]
    BrokerPassword {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The recovery key is missing.
    #[error(
        "the recovery key {path} cannot be read: {source}; put the copy back that was kept elsewhere, or, if there \
         is none, 32 new random bytes with mode 600: devices that this platform must be given back can \
         then not be read"
    )]
    RecoveryKey {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The recovery key is none.
    #[error("{path} does not hold the 32 bytes of a recovery key: put the right copy back")]
    RecoveryKeyLength {
        /// The file.
        path: PathBuf,
    },
    /// Labels cannot be handed out.
    #[error(
        "the labels of new devices cannot be written to {path}: {source}; if it is there already, give it to \
         `claviger sdn import` and remove it"
    )]
    Labels {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What the controller keeps over a restart cannot be read or written.
    #[error(
        "{path} cannot be used: {why}; mend the disk, or move the file away: hosts are then learnt and admitted anew"
    )]
    Keep {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A part of the role has died: its log says why; start the role again.
    #[error("the {0} of the role has died; its log says why")]
    Lost(String),
}

/// The folder of a role: everything that it may open.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder in which the configuration file lies.
    #[must_use]
    pub fn of_config(config: &Path) -> Self {
        Self(config.parent().unwrap_or(Path::new(".")).to_owned())
    }

    /// Names a folder.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the path of a file in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Loads the role's own certificate and key, and the authority that it trusts.
    pub fn identity(&self) -> Result<(Identity, Authority), PkiError> {
        let identity = Identity::load(&self.file("identity.pem"), &self.file("identity.key"))?;
        Ok((identity, self.authority()?))
    }

    /// Loads the authority that the role trusts.
    pub fn authority(&self) -> Result<Authority, PkiError> {
        Authority::load(&self.file("ca.pem"))
    }

    /// Makes the access to a broker of another maker; the role's own certificate is shown to one that asks for it.
    pub(crate) fn broker_access(&self, broker: &BrokerConfig) -> Result<Access, RoleError> {
        let path = &broker.password_file;
        let password = std::fs::read(path).map(SecretBytes::new);
        let password =
            password.map_err(|source| RoleError::BrokerPassword { path: path.clone(), source })?;
        let password = String::from_utf8_lossy(password.expose());
        let access = Access::plain(
            &broker.host,
            broker.port,
            &broker.user,
            &broker.user,
            password.trim_end_matches('\n'),
        );
        let Some(ca) = &broker.ca else { return Ok(access) };
        let (identity, _) = self.identity()?;
        Ok(access.over_tls(tls::client_mutual(&identity, &Authority::load(ca)?)))
    }

    /// Opens the role's store and makes its core.
    pub fn writer<C: Send + 'static, E: From<EngineError>>(
        &self,
        open: impl FnOnce(&mut dyn Tx) -> Result<C, E>,
        after: impl FnMut(&mut C) + Send + 'static,
    ) -> Result<Writer<C>, RoleError>
    where
        RoleError: From<E>,
    {
        let store = SqliteStore::open_or_create(&self.file("store.db"), &self.file("store.key"))?;
        Ok(Writer::spawn(store, open, after)?)
    }
}
