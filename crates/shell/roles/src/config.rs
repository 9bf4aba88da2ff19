//! The configuration files of the roles: TOML in, checked values out, all faults in one error.
//!
//! Size: every key of every role but those of the network (`network`) stands here.

mod broker;
mod edge;
mod network;

pub use broker::{BrokerConfig, RawBroker};
pub use edge::{
    DevicesConfig, GatewayRoleConfig, RawAtBoot, RawDevices, RawFrameForm, RawGateway, RawShare,
};
pub use network::{
    CHANNEL_PORT, ControllerRoleConfig, EnrolmentConfig, FibrePath, LanRoleConfig,
    OpticsRoleConfig, POLICIES, RawApproval, RawController, RawCrossing, RawEnrolment,
    RawFibrePath, RawFibrePort, RawLan, RawOptics, RawPolicy, RawServer, SERVERS, Server,
};

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Decibels, Fraction, SaeId, Site, Span};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not the TOML that the role expects.
    #[error("the configuration {path} is not understood:\n{source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// Values are out of range.
    #[error("the configuration {path} has wrong values:\n{faults}")]
    Values {
        /// The file.
        path: PathBuf,
        /// Every wrong key, with its value and what would be right.
        faults: Faults,
    },
}

/// Every wrong key of a configuration.
#[derive(Debug, Default)]
pub struct Faults(Vec<String>);

impl Faults {
    fn note(&mut self, key: &str, value: impl fmt::Display, right: impl fmt::Display) {
        self.0.push(format!("  {key} = {value}: {right}"));
    }

    /// Does the same where there is a text; `None` only where it is wrong.
    #[expect(clippy::option_option, reason = "the outer one tells of a fault, as everywhere here")]
    fn address_if(&mut self, key: &str, text: Option<&str>) -> Option<Option<SocketAddr>> {
        match text {
            None => Some(None),
            Some(text) => self.address(key, text).map(Some),
        }
    }

    /// Parses a text; notes what is wrong.
    fn parse<T: std::str::FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        text: &str,
    ) -> Option<T> {
        text.parse().map_err(|error| self.note(key, format_args!("\"{text}\""), error)).ok()
    }

    fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let right = "must be an address and a port, such as 127.0.0.1:8443";
            self.note(key, format_args!("\"{text}\""), right);
        }
        parsed
    }

    /// The light and the cables of devices exist only in a simulation on one machine.
    fn loopback(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        let address = self.address(key, text)?;
        if !address.ip().is_loopback() {
            self.note(
                key,
                address,
                "must be a loopback address: it exists only on one machine, in clear",
            );
        }
        Some(address)
    }

    fn seconds(&mut self, key: &str, value: f64) -> Option<Span> {
        let fits = (0.1..=31_536_000.0).contains(&value);
        if !fits {
            self.note(key, value, "must lie between 0.1 s and a year");
        }
        fits.then(|| Span::from_secs_f64(value))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A configuration as written, which can be checked.
pub trait Raw: DeserializeOwned {
    /// The checked configuration.
    type Config;

    /// Checks all values; `None` only where a fault was noted.
    fn check(self, faults: &mut Faults, folder: &Path) -> Option<Self::Config>;
}

/// Reads and checks the configuration of a role.
pub fn load<R: Raw>(path: &Path) -> Result<R::Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    let raw: R = toml::from_str(&text)
        .map_err(|source| ConfigError::Syntax { path: path.into(), source: Box::new(source) })?;
    let mut faults = Faults::default();
    let folder = path.parent().unwrap_or(Path::new("."));
    match raw.check(&mut faults, folder) {
        Some(config) if faults.0.is_empty() => Ok(config),
        _ => Err(ConfigError::Values { path: path.into(), faults }),
    }
}

/// The link that both ends and the fibre must be told alike.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLink {
    /// `lab`, `city`, or the path of a preset.
    pub preset: String,
    /// Replaces the loss of the preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_db: Option<f64>,
    /// Makes everything reproducible, so that no key may ever be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// A checked link.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The parameters.
    pub preset: LinkPreset,
    /// The seed of a reproducible run.
    pub seed: Option<u64>,
}

impl RawLink {
    /// Loads the preset and replaces its loss.
    pub fn check(&self, faults: &mut Faults, folder: &Path) -> Option<LinkConfig> {
        let mut preset = self.preset(faults, folder)?;
        if let Some(db) = self.loss_db {
            let loss = Decibels::from_db(db).map_err(|error| faults.note("loss_db", db, error));
            preset = preset.with_loss(loss.ok()?);
        }
        if let Err(no_key) = preset.viability(claviger_distill::rules::OVERHEAD) {
            faults.note("preset", format_args!("\"{}\"", self.preset), no_key);
        }
        Some(LinkConfig { preset, seed: self.seed })
    }

    fn preset(&self, faults: &mut Faults, folder: &Path) -> Option<LinkPreset> {
        let loaded = if LinkPreset::NAMES.contains(&self.preset.as_str()) {
            LinkPreset::named(&self.preset)
        } else {
            let path = folder.join(&self.preset);
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let names = LinkPreset::NAMES.join(", ");
                let right = format!("not one of {names}, and not a file to read: {error}");
                faults.note("preset", format_args!("\"{}\"", self.preset), right);
            });
            LinkPreset::from_toml(&text.ok()?)
        };
        loaded
            .map_err(|error| faults.note("preset", format_args!("\"{}\"", self.preset), error))
            .ok()
    }
}

/// `claviger run fibre`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFibre {
    /// The link.
    pub link: RawLink,
    /// Where Alice brings her light.
    pub alice_listen: String,
    /// Where Bob takes his clicks.
    pub bob_listen: String,
    /// Share of the pulses that Eve intercepts and resends.
    pub eve_fraction: f64,
    /// How much faster than the wall clock the link's clock runs.
    pub simulated_speed: f64,
    /// The optical switch and the fibres behind it; without it there is one fibre, the link's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optics: Option<RawOptics>,
}

/// A checked fibre.
#[derive(Clone, Debug)]
pub struct FibreConfig {
    /// The link.
    pub link: LinkConfig,
    /// Where Alice brings her light.
    pub alice: SocketAddr,
    /// Where Bob takes his clicks.
    pub bob: SocketAddr,
    /// Share of the pulses that Eve intercepts and resends.
    pub eve: Fraction,
    /// How much faster than the wall clock the link's clock runs.
    pub speed: f64,
    /// The optical switch.
    pub optics: Option<OpticsRoleConfig>,
}

impl Raw for RawFibre {
    type Config = FibreConfig;

    fn check(self, faults: &mut Faults, folder: &Path) -> Option<FibreConfig> {
        let link = self.link.check(faults, folder);
        let alice = faults.loopback("alice_listen", &self.alice_listen);
        let bob = faults.loopback("bob_listen", &self.bob_listen);
        let eve = Fraction::try_new(self.eve_fraction);
        let eve = eve.map_err(|error| faults.note("eve_fraction", self.eve_fraction, error)).ok();
        let speed = (0.01..=10_000.0).contains(&self.simulated_speed);
        if !speed {
            faults.note("simulated_speed", self.simulated_speed, "must lie between 0.01 and 10000");
        }
        let optics = match self.optics {
            None => None,
            Some(optics) => Some(optics.check(faults)?),
        };
        Some(FibreConfig {
            optics,
            link: link?,
            alice: alice?,
            bob: bob?,
            eve: eve?,
            speed: self.simulated_speed,
        })
    }
}

/// `claviger run qkd`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawQkd {
    /// `alice` or `bob`.
    pub party: Party,
    /// The link.
    pub link: RawLink,
    /// Alice: where she listens for Bob. Bob: where he finds Alice.
    pub classical: String,
    /// Where the light is.
    pub light: String,
    /// Where this site's key management entity takes blocks.
    pub kme: String,
    /// The name in that entity's certificate.
    pub kme_name: String,
    /// The controller of the optical switch, which is told of alarms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller_url: Option<String>,
}

/// Who one is on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// She emits.
    Alice,
    /// He measures.
    Bob,
}

/// A checked QKD node.
#[derive(Clone, Debug)]
pub struct QkdConfig {
    /// Who one is.
    pub party: Party,
    /// The link.
    pub link: LinkConfig,
    /// Alice's address on the classical channel.
    pub classical: SocketAddr,
    /// Where the light is.
    pub light: SocketAddr,
    /// Where the key management entity takes blocks.
    pub kme: SocketAddr,
    /// The name in its certificate.
    pub kme_name: SaeId,
    /// The controller of the optical switch.
    pub controller_url: Option<String>,
}

impl Raw for RawQkd {
    type Config = QkdConfig;

    fn check(self, faults: &mut Faults, folder: &Path) -> Option<QkdConfig> {
        let link = self.link.check(faults, folder);
        let classical = faults.address("classical", &self.classical);
        let light = faults.loopback("light", &self.light);
        let kme = faults.address("kme", &self.kme);
        let kme_name = faults.parse("kme_name", &self.kme_name);
        if let Some(url) = &self.controller_url {
            check_url(faults, "controller_url", url);
        }
        Some(QkdConfig {
            controller_url: self.controller_url,
            party: self.party,
            link: link?,
            classical: classical?,
            light: light?,
            kme: kme?,
            kme_name: kme_name?,
        })
    }
}

/// `claviger run kme`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKme {
    /// `A` or `B`.
    pub site: RawSite,
    /// The id of this entity in ETSI GS QKD 014.
    pub kme_id: String,
    /// The id of the other entity.
    pub peer_kme_id: String,
    /// Where applications ask by HTTPS.
    pub https_listen: String,
    /// Where local applications ask by IDQ3P: unauthenticated, so loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub danger_idq3p_listen: Option<String>,
    /// Where the QKD node of this site brings blocks.
    pub node_listen: String,
    /// The name in that node's certificate.
    pub node_name: String,
    /// A: where the peer finds this entity. B: where this entity finds the peer.
    pub peer: String,
    /// The name in the peer's certificate.
    pub peer_name: String,
    /// Bits of available keys, both owners together.
    pub capacity_bits: u64,
    /// Every application, and the site whose entity serves it.
    pub saes: BTreeMap<String, RawSite>,
    /// IDQ3P device id → application and its peer.
    #[serde(default)]
    pub idq3p: BTreeMap<String, (String, String)>,
}

/// A site as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RawSite {
    /// The IoT network.
    A,
    /// The data centre.
    B,
}

impl From<RawSite> for Site {
    fn from(site: RawSite) -> Self {
        match site {
            RawSite::A => Self::A,
            RawSite::B => Self::B,
        }
    }
}

/// A checked key management entity.
#[derive(Clone, Debug)]
pub struct KmeRoleConfig {
    /// Where it is.
    pub site: Site,
    /// Its id.
    pub kme_id: String,
    /// The other's id.
    pub peer_kme_id: String,
    /// Where applications ask by HTTPS.
    pub https: SocketAddr,
    /// Where local applications ask by IDQ3P.
    pub idq3p_listen: Option<SocketAddr>,
    /// Where blocks come in.
    pub node: SocketAddr,
    /// From whom.
    pub node_name: SaeId,
    /// The address between the entities.
    pub peer: SocketAddr,
    /// The name of the other.
    pub peer_name: SaeId,
    /// Bits of available keys.
    pub capacity: Bits,
    /// Applications and their sites.
    pub saes: BTreeMap<SaeId, Site>,
    /// IDQ3P device ids.
    pub idq3p: BTreeMap<u8, (SaeId, SaeId)>,
}

impl Raw for RawKme {
    type Config = KmeRoleConfig;

    fn check(self, faults: &mut Faults, _: &Path) -> Option<KmeRoleConfig> {
        let https = faults.address("https_listen", &self.https_listen);
        let idq3p_listen = self.danger_idq3p_listen.as_deref();
        let idq3p_listen = idq3p_listen.map(|text| faults.loopback("danger_idq3p_listen", text));
        let node = faults.address("node_listen", &self.node_listen);
        let node_name = faults.parse("node_name", &self.node_name);
        let peer = faults.address("peer", &self.peer);
        let peer_name = faults.parse("peer_name", &self.peer_name);
        if !(65_536..=100_000_000).contains(&self.capacity_bits) {
            faults.note("capacity_bits", self.capacity_bits, "must lie between 65536 and 10^8");
        }
        let mut saes = BTreeMap::new();
        for (name, site) in &self.saes {
            if let Some(sae) = faults.parse("saes", name) {
                saes.insert(sae, Site::from(*site));
            }
        }
        let mut idq3p = BTreeMap::new();
        for (number, (sae, other)) in &self.idq3p {
            let parsed = number.parse::<u8>().ok().filter(|n| (1..=12).contains(n));
            let Some(n) = parsed else {
                faults.note("idq3p", number, "a requesting device id is a number from 1 to 12");
                continue;
            };
            let pair = (faults.parse::<SaeId>("idq3p", sae), faults.parse::<SaeId>("idq3p", other));
            if let (Some(sae), Some(other)) = pair {
                for name in [&sae, &other].into_iter().filter(|name| !saes.contains_key(*name)) {
                    faults.note("idq3p", name, "is not among the saes");
                }
                idq3p.insert(n, (sae, other));
            }
        }
        Some(KmeRoleConfig {
            site: self.site.into(),
            kme_id: self.kme_id,
            peer_kme_id: self.peer_kme_id,
            https: https?,
            idq3p_listen: idq3p_listen.flatten(),
            node: node?,
            node_name: node_name?,
            peer: peer?,
            peer_name: peer_name?,
            capacity: Bits::new(self.capacity_bits),
            saes,
            idq3p,
        })
    }
}

/// `claviger run platform`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPlatform {
    /// Where operators read by HTTPS.
    pub https_listen: String,
    /// Where the gateway's records come in.
    pub gateway_listen: String,
    /// The name in the gateway's certificate, and of its application at its entity.
    pub gateway_name: String,
    /// Where telemetry comes in by MQTT.
    pub mqtt_listen: String,
    /// The key management entity of this site.
    pub kme_url: String,
    /// Certificates of this name may provision devices and read.
    pub operator_name: String,
    /// Certificates of this name may provision devices, and nothing else.
    pub installer_name: String,
    /// How devices get into the network; without it every device that is brought is adopted at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<RawEnrolment>,
    /// A broker of another maker, from which telemetry is received beside the platform's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<RawBroker>,
}

/// A checked platform.
#[derive(Clone, Debug)]
pub struct PlatformRoleConfig {
    /// Where operators read.
    pub https: SocketAddr,
    /// Where the gateway's records come in.
    pub gateway: SocketAddr,
    /// The gateway's name.
    pub gateway_name: SaeId,
    /// Where telemetry comes in.
    pub mqtt: SocketAddr,
    /// The key management entity of this site.
    pub kme_url: String,
    /// Who may provision and read.
    pub operator: SaeId,
    /// Who may only provision.
    pub installer: SaeId,
    /// How devices get into the network, where a controller admits them.
    pub enrolment: Option<EnrolmentConfig>,
    /// A broker of another maker, from which telemetry is received.
    pub broker: Option<BrokerConfig>,
}

impl Raw for RawPlatform {
    type Config = PlatformRoleConfig;

    fn check(self, faults: &mut Faults, folder: &Path) -> Option<PlatformRoleConfig> {
        let https = faults.address("https_listen", &self.https_listen);
        let gateway = faults.address("gateway_listen", &self.gateway_listen);
        let gateway_name = faults.parse("gateway_name", &self.gateway_name);
        let mqtt = faults.address("mqtt_listen", &self.mqtt_listen);
        check_url(faults, "kme_url", &self.kme_url);
        let operator = faults.parse("operator_name", &self.operator_name);
        let installer = faults.parse("installer_name", &self.installer_name);
        let enrolment = self.enrolment.map(|enrolment| enrolment.check(faults));
        let broker = self.broker.map(|broker| broker.check(faults, "broker", folder));
        Some(PlatformRoleConfig {
            https: https?,
            gateway: gateway?,
            gateway_name: gateway_name?,
            mqtt: mqtt?,
            kme_url: self.kme_url,
            operator: operator?,
            installer: installer?,
            enrolment,
            broker: match broker {
                None => None,
                Some(broker) => Some(broker?),
            },
        })
    }
}

fn check_url(faults: &mut Faults, key: &str, url: &str) {
    let host = url.strip_prefix("https://").filter(|rest| !rest.is_empty() && !rest.ends_with('/'));
    if host.is_none() {
        faults.note(key, format_args!("\"{url}\""), "must be https://HOST:PORT without a path");
    }
}
