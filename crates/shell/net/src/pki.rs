//! Certificates: the demo authority of `claviger init`, and what every role loads at start.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use claviger_units::{IdError, SaeId};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use crate::tls;

/// Why certificates could not be made, written or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The file cannot be read: correct the path or its permissions, or make it.
    #[error(
        "cannot read {path}: restore it, correct the path or its permissions, or make a new folder with `claviger init --state NEW`"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written: correct the directory or its permissions.
    #[error("cannot write {path}: choose a directory that this user may write to")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file exists, and certificates are never overwritten: remove it or go elsewhere.
    #[error("{path} exists and is not overwritten: remove it or choose another directory")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no PEM certificate: give one that begins with BEGIN CERTIFICATE.
    #[error("{path} holds no certificate: give a PEM file that begins with BEGIN CERTIFICATE")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no PEM private key: give one that is not encrypted.
    #[error(
        "{path} holds no private key: give an unencrypted PEM file (PKCS #8, SEC 1 or PKCS #1)"
    )]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate is damaged: make it again.
    #[error("{path} holds a damaged certificate: issue it again")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The certificate has expired or is not yet valid: make a new one, or set the clock right.
    #[error("{path} is valid only from {from} to {until}: issue it again, or set the clock right")]
    OutOfTime {
        /// The file.
        path: PathBuf,
        /// Start of validity.
        from: String,
        /// End of validity.
        until: String,
    },
    /// Key and certificate belong to different pairs, or the kind of key is unknown.
    #[error("{key} is not the key of {certificate}: give the pair that was issued together")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// A name cannot stand in a certificate: use letters, digits, hyphens and dots.
    #[error("`{name}` cannot stand in a certificate: use letters, digits, hyphens and dots")]
    Name {
        /// The name.
        name: String,
    },
    /// The certificate library failed.
    #[error("cannot make a certificate")]
    Generate(#[source] rcgen::Error),
    /// The TLS library refuses a certificate that was just made.
    #[error("the certificate that was just made cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// A certificate whose subject is not the name of a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not an X.509 certificate.
    #[error("not an X.509 certificate")]
    Damaged,
    /// No common name, or more than one: issue it with exactly one.
    #[error("the subject of the certificate has not exactly one common name")]
    NotOne,
    /// The common name is not a SAE id.
    #[error("the common name of the certificate is not a name of a party")]
    Unfit(#[source] IdError),
}

/// Reads whom a certificate names: the common name of its subject (`WIRE.md` §2).
pub fn sae_id_of(certificate: &CertificateDer<'_>) -> Result<SaeId, NameError> {
    let (_, parsed) = X509Certificate::from_der(certificate).or(Err(NameError::Damaged))?;
    let mut names = parsed.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(NameError::NotOne);
    };
    name.as_str().or(Err(NameError::Damaged))?.parse().map_err(NameError::Unfit)
}

/// A certificate authority for a demonstration: it lives in memory and is forgotten.
///
/// ```
/// use claviger_net::pki::{DemoAuthority, sae_id_of};
///
/// let authority = DemoAuthority::generate("Claviger demo")?;
/// let issued = authority.issue("gateway", &[])?;
/// assert_eq!(issued.identity().name()?.as_str(), "gateway");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DemoAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    trust: Authority,
}

impl DemoAuthority {
    /// Makes an authority with a fresh key, valid for ten years from yesterday.
    pub fn generate(name: &str) -> Result<Self, PkiError> {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(PkiError::Generate)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(PkiError::Generate)?;
        let trust = Authority::of([issuer.der().clone()]).map_err(PkiError::Unusable)?;
        Ok(Self { issuer, trust })
    }

    /// Issues a certificate for the party `name`, which any of its ends of a connection may use.
    ///
    /// The common name is `name`; the alternative names are `name` itself (where it can be one),
    /// `localhost`, 127.0.0.1 and `others` (DNS names or addresses).
    pub fn issue(&self, name: &str, others: &[&str]) -> Result<Issued, PkiError> {
        let mut params = params(name);
        // As short as strict verifiers allow: a device receives it for each key by `https`. Without extended
        // usages it serves both ends of a connection.
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial_number()?);
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names =
            vec![alternative("localhost")?, SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.subject_alt_names.extend(alternative(name));
        for other in others {
            params.subject_alt_names.push(alternative(other)?);
        }
        let key = KeyPair::generate().map_err(PkiError::Generate)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Generate)?;
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let chain = vec![certificate.der().clone()];
        let pair = CertifiedKey::from_der(chain, private, &tls::provider());
        let identity = Identity(Arc::new(pair.map_err(PkiError::Unusable)?));
        Ok(Issued { pem: certificate.pem(), key, identity })
    }

    /// Returns the certificate, which all parties trust.
    #[must_use]
    pub fn trust(&self) -> Authority {
        self.trust.clone()
    }

    /// Writes the certificate as `PATH` for all to read; refuses to overwrite.
    pub fn write_certificate(&self, path: &Path) -> Result<(), PkiError> {
        write_new(path, self.issuer.pem().as_bytes(), 0o644)
    }

    /// Writes the private key, for those who want to issue more certificates later.
    pub fn write_key(&self, path: &Path) -> Result<(), PkiError> {
        write_new(path, Zeroizing::new(self.issuer.key().serialize_pem()).as_bytes(), 0o600)
    }
}

/// A fresh certificate with its key.
#[derive(Debug)]
pub struct Issued {
    pem: String,
    key: KeyPair,
    identity: Identity,
}

impl Issued {
    /// Writes `STEM.pem` for all to read and `STEM.key` for the owner alone into `directory`,
    /// which is made if it is missing; refuses to overwrite.
    pub fn write(&self, directory: &Path, stem: &str) -> Result<(), PkiError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| PkiError::Write { path: directory.into(), source })?;
        let key = Zeroizing::new(self.key.serialize_pem());
        write_new(&directory.join(format!("{stem}.key")), key.as_bytes(), 0o600)?;
        write_new(&directory.join(format!("{stem}.pem")), self.pem.as_bytes(), 0o644)
    }

    /// Returns the pair for use at once.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }
}

/// Whom a role trusts: one or more authorities, and nobody else.
#[derive(Clone, Debug)]
pub struct Authority(Arc<RootCertStore>);

impl Authority {
    /// Loads the certificates of a PEM file.
    pub fn load(path: &Path) -> Result<Self, PkiError> {
        Self::of(load_certificates(path)?).or(Err(PkiError::Damaged { path: path.into() }))
    }

    /// Returns the trusted roots.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.0)
    }

    fn of(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        certificates.into_iter().try_for_each(|certificate| roots.add(certificate))?;
        Ok(Self(Arc::new(roots)))
    }
}

/// A party's own certificate chain and private key; clones share them.
#[derive(Clone, Debug)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Loads a certificate chain and its key from two PEM files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let chain = load_certificates(certificate)?;
        let pem = Zeroizing::new(read(key)?);
        let private =
            PrivateKeyDer::from_pem_slice(&pem).or(Err(PkiError::NoKey { path: key.into() }))?;
        let pair = CertifiedKey::from_der(chain, private, &tls::provider());
        pair.map(|pair| Self(Arc::new(pair))).map_err(|source| PkiError::Mismatch {
            certificate: certificate.into(),
            key: key.into(),
            source,
        })
    }

    /// Returns the party's own name.
    pub fn name(&self) -> Result<SaeId, NameError> {
        self.0.end_entity_cert().or(Err(NameError::Damaged)).and_then(sae_id_of)
    }

    pub(crate) fn pair(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0)
    }
}

/// Ten years from yesterday: nothing can renew a demo certificate, since its authority is gone.
fn params(name: &str) -> CertificateParams {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut params = CertificateParams::default();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch.saturating_sub(DAY);
    params.not_after = params.not_before + DAY * 3652;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Draws a number of 63 bits: a device receives each byte of it.
fn serial_number() -> Result<SerialNumber, PkiError> {
    let mut number = [0; 8];
    let filled = tls::provider().secure_random.fill(&mut number);
    filled.or(Err(PkiError::Generate(rcgen::Error::RingUnspecified)))?;
    Ok((u64::from_be_bytes(number) >> 1).into())
}

fn alternative(name: &str) -> Result<SanType, PkiError> {
    let unfit = PkiError::Name { name: name.into() };
    match (ServerName::try_from(name), name.try_into()) {
        (Ok(ServerName::IpAddress(address)), _) => Ok(SanType::IpAddress(address.into())),
        (Ok(_), Ok(dns)) => Ok(SanType::DnsName(dns)),
        _ => Err(unfit),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    fs::read(path).map_err(|source| PkiError::Read { path: path.into(), source })
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.or(Err(PkiError::Damaged { path: path.into() }))?;
    if chain.is_empty() {
        return Err(PkiError::NoCertificate { path: path.into() });
    }
    chain.iter().try_for_each(|certificate| check_validity(path, certificate))?;
    Ok(chain)
}

fn check_validity(path: &Path, certificate: &CertificateDer<'_>) -> Result<(), PkiError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).or(Err(PkiError::Damaged { path: path.into() }))?;
    let validity = parsed.validity();
    if validity.is_valid_at(ASN1Time::now()) {
        return Ok(());
    }
    Err(PkiError::OutOfTime {
        path: path.into(),
        from: validity.not_before.to_string(),
        until: validity.not_after.to_string(),
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.into() },
        _ => PkiError::Write { path: path.into(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_init_writes_loads_again_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let authority = DemoAuthority::generate("demo").unwrap();
        let (ca, site) = (dir.path().join("ca.pem"), dir.path().join("site-a"));
        authority.write_certificate(&ca).unwrap();
        let issued = authority.issue("gateway", &["gw.example", "10.0.0.7"]).unwrap();
        issued.write(&site, "gateway").unwrap();

        Authority::load(&ca).unwrap();
        let (certificate, key) = (site.join("gateway.pem"), site.join("gateway.key"));
        let identity = Identity::load(&certificate, &key).unwrap();
        assert_eq!(identity.name().unwrap().as_str(), "gateway");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&site).unwrap().permissions().mode() & 0o777, 0o700);

        let before = fs::read(&key).unwrap();
        let again = authority.issue("gateway", &[]).unwrap().write(&site, "gateway");
        assert!(matches!(again, Err(PkiError::Exists { .. })), "{again:?}");
        assert_eq!(fs::read(&key).unwrap(), before);
    }

    #[test]
    fn bad_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let authority = DemoAuthority::generate("demo").unwrap();
        for name in ["a", "b"] {
            authority.issue(name, &[]).unwrap().write(dir.path(), name).unwrap();
        }
        let path = |name: &str| dir.path().join(name);
        let load = |certificate, key| Identity::load(&path(certificate), &path(key)).unwrap_err();
        let pem = fs::read_to_string(path("a.pem")).unwrap();
        fs::write(path("cut.pem"), &pem[..pem.len() / 2]).unwrap();

        assert!(matches!(load("no.pem", "a.key"), PkiError::Read { .. }));
        assert!(matches!(load("a.key", "a.key"), PkiError::NoCertificate { .. }));
        assert!(matches!(load("cut.pem", "a.key"), PkiError::Damaged { .. }));
        assert!(matches!(load("a.pem", "a.pem"), PkiError::NoKey { .. }));
        assert!(matches!(load("a.pem", "b.key"), PkiError::Mismatch { .. }));
        assert!(load("no.pem", "a.key").to_string().contains("no.pem: restore it"));
    }

    #[test]
    fn a_certificate_out_of_time_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.pem");
        let mut old = params("old");
        old.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let certificate = old.self_signed(&KeyPair::generate().unwrap()).unwrap();
        fs::write(&path, certificate.pem()).unwrap();
        assert!(matches!(Authority::load(&path), Err(PkiError::OutOfTime { .. })));
    }

    #[test]
    fn the_common_name_is_the_party() {
        let authority = DemoAuthority::generate("demo").unwrap();
        // A SAE id is a free string: it need not be a DNS name.
        for name in ["gateway", "A SAE with spaces / and Ünicode"] {
            let issued = authority.issue(name, &[]).unwrap();
            assert_eq!(issued.identity().name().unwrap().as_str(), name);
        }
        let mut nameless = params("one");
        nameless.distinguished_name = DistinguishedName::new();
        let nameless = nameless.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(sae_id_of(nameless.der()), Err(NameError::NotOne));
        assert_eq!(sae_id_of(&CertificateDer::from(&b"junk"[..])), Err(NameError::Damaged));
        assert!(matches!(authority.issue("a", &["not a name"]), Err(PkiError::Name { .. })));
    }
}
