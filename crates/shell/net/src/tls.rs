//! TLS 1.3 and 1.2 between servers, with the hybrid key exchange X25519MLKEM768 first.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use claviger_units::SaeId;
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConfigBuilder, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::accept::{Counts, Guard, Limits};
use crate::meter::{Meter, Metered};
use crate::pki::{Authority, Identity, sae_id_of};
use crate::shutdown::Shutdown;

/// Returns the one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the default of the process, for libraries that ask for one.
///
/// `main` calls it first; calling it again does nothing.
pub fn install_provider() {
    drop(aws_lc_rs::default_provider().install_default());
}

/// A server that asks for a client certificate and refuses whoever has none of `authority`.
#[must_use]
pub fn server_mutual(identity: &Identity, authority: &Authority) -> Arc<ServerConfig> {
    server(identity, client_verifier(authority))
}

/// A server that proves only itself.
#[must_use]
pub fn server_auth_only(identity: &Identity) -> Arc<ServerConfig> {
    server(identity, Arc::new(NoClientAuth))
}

/// A client that trusts only `authority` and shows its own certificate.
#[must_use]
pub fn client_mutual(identity: &Identity, authority: &Authority) -> Arc<ClientConfig> {
    let resolver = Arc::new(SingleCertAndKey::from(identity.pair()));
    Arc::new(client_builder(authority).with_client_cert_resolver(resolver))
}

/// A client that trusts only `authority` and stays anonymous.
#[must_use]
pub fn client_anonymous(authority: &Authority) -> Arc<ClientConfig> {
    Arc::new(client_builder(authority).with_no_client_auth())
}

/// The stream of an accepted connection.
pub type ServerStream = TlsStream<TcpStream>;

/// Who is at the other end of an accepted connection.
#[derive(Clone)]
pub struct PeerInfo {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Its verified certificate, where the server asks for one.
    pub certificate: Option<CertificateDer<'static>>,
    /// The name in that certificate, where it has exactly one that fits.
    pub name: Option<SaeId>,
}

impl fmt::Debug for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerInfo")
            .field("address", &self.address)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A TLS configuration behind the accept loop of [`Guard`].
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    guard: Guard,
}

impl TlsServer {
    /// Joins a configuration with limits; clones share the counters.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, limits: Limits) -> Self {
        Self { config, guard: Guard::new(limits) }
    }

    /// Returns what was seen so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.guard.counts()
    }

    /// Serves TLS connections until `shutdown`, then waits for the open ones.
    ///
    /// `handle` watches `shutdown` itself. Dropping the future closes everything.
    pub async fn serve<H, F>(&self, listener: TcpListener, shutdown: &Shutdown, handle: H)
    where
        H: Fn(ServerStream, PeerInfo) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let open = |stream, address| handshake(Arc::clone(&self.config), stream, address);
        let handle = move |(stream, peer)| handle(stream, peer);
        self.guard.serve(listener, shutdown, open, handle).await;
    }
}

/// A connection as its client sees it.
pub type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Connects to the party `peer` at `address` (`host:port`). Its certificate has to carry the name
/// twice: as the common name and as a DNS name.
pub async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
    peer: &SaeId,
) -> io::Result<ClientStream> {
    let server = ServerName::try_from(peer.to_string()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(server, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    expect_name(shown.and_then(|shown| sae_id_of(shown).ok()).as_ref(), peer)?;
    Ok(stream)
}

/// A connection of a constrained client.
pub type MeteredStream = tokio_rustls::client::TlsStream<Metered<TcpStream>>;

/// Connects to `host:port`, whose certificate has to name `host`; all that goes over the wire is counted
/// by `meter`. Returns how many certificates the server showed.
pub async fn connect_metered(
    host: &str,
    port: u16,
    config: Arc<ClientConfig>,
    meter: Meter,
) -> io::Result<(MeteredStream, u32)> {
    let server = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(config).connect(server, Metered::new(stream, meter)).await?;
    let shown = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
    Ok((stream, u32::try_from(shown).unwrap_or(u32::MAX)))
}

/// A client as devices are: it trusts only `authority`, stays anonymous, and offers one group (P-256) and
/// one suite of TLS 1.3, to spare bytes and work.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "the suite is one of TLS 1.3")]
pub fn client_constrained(authority: &Authority) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has a suite of TLS 1.3");
    let mut config = builder.with_root_certificates(authority.roots()).with_no_client_auth();
    // Nothing outlasts a connection.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Refuses whoever has another name.
pub(crate) fn expect_name(shown: Option<&SaeId>, expected: &SaeId) -> io::Result<()> {
    if shown == Some(expected) {
        return Ok(());
    }
    let shown = shown.map_or("nobody", SaeId::as_str);
    tracing::warn!(shown, %expected, "a stranger at the link was refused");
    Err(io::Error::other(format!("the certificate names {shown}, expected was {expected}")))
}

/// Opens the server's end of a connection.
pub(crate) async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    address: SocketAddr,
) -> io::Result<(ServerStream, PeerInfo)> {
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.map(|certificate| certificate.clone().into_owned());
    let name = certificate.as_ref().and_then(|certificate| sae_id_of(certificate).ok());
    Ok((stream, PeerInfo { address, certificate, name }))
}

fn server(identity: &Identity, clients: Arc<dyn ClientCertVerifier>) -> Arc<ServerConfig> {
    let resolver = Arc::new(SingleCertAndKey::from(identity.pair()));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites for both versions");
    let mut config = builder.with_client_cert_verifier(clients).with_cert_resolver(resolver);
    // Nobody resumes: tickets would be bytes on the air, and a key that outlasts its connection.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn client_verifier(authority: &Authority) -> Arc<dyn ClientCertVerifier> {
    WebPkiClientVerifier::builder_with_provider(authority.roots(), provider())
        .build()
        .expect("an authority has at least one root")
}

fn client_builder(authority: &Authority) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites for both versions")
        .with_root_certificates(authority.roots())
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
