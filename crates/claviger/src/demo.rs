//! Where the network of a state folder can be reached, read from its configurations.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use claviger_net::http::Client;
use claviger_net::tls;
use claviger_roles::Folder;
use claviger_roles::config::{self, RawController, RawKme, RawPlatform};
use claviger_roles::init::Layout;
use claviger_units::Site;

/// A network that `claviger init` or `claviger up` has made.
#[derive(Debug)]
pub(crate) struct Demo(Layout);

impl Demo {
    /// Opens a state folder.
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let layout = Layout::below(state);
        anyhow::ensure!(
            layout.is_complete()?,
            "{} is no state folder of Claviger: start `claviger up`, or give its folder with --state",
            state.display()
        );
        Ok(Self(layout))
    }

    /// Returns the folder of a party, such as `site-a/app`.
    pub(crate) fn folder(&self, party: &str) -> Folder {
        Folder::new(self.0.folder(party))
    }

    /// Returns where a site's key management entity speaks ETSI GS QKD 014.
    pub(crate) fn kme_url(&self, site: Site) -> Result<String> {
        let config = config::load::<RawKme>(&self.0.config(&at(site, "kme")))?;
        Ok(url(config.https))
    }

    /// Returns where a site's key management entity speaks IDQ3P.
    pub(crate) fn idq3p(&self, site: Site) -> Result<SocketAddr> {
        let path = self.0.config(&at(site, "kme"));
        let config = config::load::<RawKme>(&path)?;
        let off = || {
            format!("IDQ3P is off at site {site}: {} has no danger_idq3p_listen", path.display())
        };
        config.idq3p_listen.with_context(off)
    }

    /// Returns where operators ask the controller of the network.
    pub(crate) fn controller_url(&self) -> Result<String> {
        let path = self.0.config("site-b/controller");
        Ok(url(config::load::<RawController>(&path)?.https))
    }

    /// Returns where operators ask the platform.
    pub(crate) fn platform_url(&self) -> Result<String> {
        Ok(url(config::load::<RawPlatform>(&self.0.config("site-b/platform"))?.https))
    }
}

/// Returns the path of a party below the state folder.
pub(crate) fn at(site: Site, party: &str) -> String {
    format!("site-{}/{party}", letter(site))
}

/// Returns the letter of a site as names have it.
pub(crate) const fn letter(site: Site) -> char {
    match site {
        Site::A => 'a',
        Site::B => 'b',
    }
}

/// Makes a client with the certificate in a folder.
pub(crate) fn client(folder: &Folder) -> Result<Client> {
    let (identity, authority) = folder.identity()?;
    Ok(Client::new(&tls::client_mutual(&identity, &authority)))
}

/// Certificates of all parties name `localhost`; other addresses only where `claviger init` was told.
fn url(address: SocketAddr) -> String {
    let ip = address.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        format!("https://localhost:{}", address.port())
    } else {
        format!("https://{address}")
    }
}
