//! `claviger init`: the folders of all roles, each with only what that role may know.
//!
//! ```text
//! STATE/site-a/{qkd,kme,gateway,switch,app}   STATE/site-b/{qkd,kme,platform,app,operator}
//! STATE/fibre   STATE/devices   STATE/claviger.toml (written last: the folder is complete)
//! ```
//! In the field `site-a/` and `site-b/` are carried to their sites; the demo authority's key is
//! forgotten at once.

mod ports;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use claviger_device::KeyPath;
use claviger_distill::{InitialSecret, seed};
use claviger_net::pki::{DemoAuthority, PkiError};
use claviger_units::Decibels;
use rand::rand_core::UnwrapErr;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::{
    CHANNEL_PORT, Party, RawApproval, RawAtBoot, RawController, RawCrossing, RawDevices,
    RawEnrolment, RawFibre, RawFibrePath, RawFibrePort, RawFrameForm, RawGateway, RawKme, RawLan,
    RawLink, RawOptics, RawPlatform, RawPolicy, RawQkd, RawServer, RawSite,
};

pub use self::ports::Ports;

/// What a demonstration network is asked to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The link.
    pub link: RawLink,
    /// How much faster than the wall clock the link's clock runs.
    pub simulated_speed: f64,
    /// Share of the pulses that Eve intercepts.
    pub eve_fraction: f64,
    /// Emulated devices.
    pub devices: u32,
    /// The fibres behind an optical switch, with their losses but for [`INSERTION_DB`]; without any there
    /// is no switch and one fibre.
    pub fibres: Vec<(String, Decibels)>,
    /// Seconds between two renewals, and between two wakes.
    pub renew_s: f64,
    /// How key frames come to the devices, who take these paths in turn.
    pub paths: Vec<KeyPath>,
    /// How many keys a pad has, for devices of the path `pad`; `None` for a week of one every half hour.
    pub pad_keys: Option<u32>,
    /// Whether local applications may extract keys by IDQ3P, which is unauthenticated.
    pub danger_idq3p: bool,
    /// The first of [`Ports::COUNT`] ports.
    pub port_base: u16,
    /// Further names and addresses of parties, by the party's name such as `gateway`, which their
    /// certificates have beside `localhost`.
    pub names: BTreeMap<String, Vec<String>>,
}

/// The folder of every role below a state folder.
#[derive(Clone, Debug)]
pub struct Layout(PathBuf);

impl Layout {
    /// The layout below `state`.
    #[must_use]
    pub fn below(state: &Path) -> Self {
        Self(state.to_owned())
    }

    /// Returns the folder of a role, such as `site-a/kme`.
    #[must_use]
    pub fn folder(&self, role: &str) -> PathBuf {
        self.0.join(role)
    }

    /// Returns the configuration file of a role, such as `site-a/kme`.
    #[must_use]
    pub fn config(&self, role: &str) -> PathBuf {
        self.folder(role).join("config.toml")
    }

    /// Tells whether the folder has been completed by [`create`]; a layout that this version does
    /// not know is an error.
    pub fn is_complete(&self) -> Result<bool, InitError> {
        let path = self.marker();
        let text = match fs::read_to_string(&path) {
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(false),
            Err(source) => return Err(InitError::Read { path, source }),
            Ok(text) => text,
        };
        match toml::from_str(&text) {
            Ok(Marker { layout: LAYOUT }) => Ok(true),
            Ok(Marker { layout }) => Err(InitError::OtherLayout { path, found: layout }),
            Err(_) => Err(InitError::NoLayout { path }),
        }
    }

    fn marker(&self) -> PathBuf {
        self.0.join("claviger.toml")
    }
}

/// What the file says that is written last.
#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    layout: u32,
}

/// The layout of folders and files that this version makes and knows.
const LAYOUT: u32 = 5;

/// The folders that belong to a role each; the others hold certificates for people and programs.
pub const ROLES: [&str; 10] = [
    "fibre",
    "site-a/qkd",
    "site-b/qkd",
    "site-a/kme",
    "site-b/kme",
    "site-a/gateway",
    "site-a/switch",
    "site-b/platform",
    "site-b/controller",
    "devices",
];

/// Why a state folder cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// A file or folder cannot be written.
    #[error("{path} cannot be written: {source}; choose another folder with --state")]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The mark of a complete folder cannot be read: mend its owner or mode.
    #[error("{path} cannot be read: {source}; choose another folder with --state")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another version made the folder: run that version.
    #[error(
        "{path} says layout {found}, and this version of claviger knows layout {}: run the version that made it, or choose another folder with --state",
        LAYOUT
    )]
    OtherLayout {
        /// The mark of a complete folder.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// The mark of a complete folder was damaged: restore it.
    #[error(
        "{path} does not say `layout = {}`: restore it, or choose another folder with --state",
        LAYOUT
    )]
    NoLayout {
        /// The mark.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error(
        "{path} holds files that are not Claviger's, or an unfinished start: choose another folder with --state, or remove it"
    )]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The ports would pass 65535.
    #[error("--port-base {base} leaves no room for {} ports: choose at most {}", Ports::COUNT, u16::MAX - Ports::COUNT + 1)]
    PortBase {
        /// The base.
        base: u16,
    },
    /// A configuration cannot be written as TOML.
    #[error("a configuration cannot be written as TOML: {0}")]
    Toml(#[from] toml::ser::Error),
}

/// Parties with a certificate: folder and name.
pub const PARTIES: [(&str, &str); 12] = [
    ("fibre", "optics"),
    ("site-a/qkd", "qkd-a"),
    ("site-a/kme", "kme-a"),
    ("site-a/gateway", "gateway"),
    ("site-a/switch", "switch"),
    ("site-a/app", "app-a"),
    ("site-b/qkd", "qkd-b"),
    ("site-b/kme", "kme-b"),
    ("site-b/platform", "platform"),
    ("site-b/controller", "controller"),
    ("site-b/app", "app-b"),
    ("site-b/operator", "operator"),
];

/// Makes the folders with certificates, the initial secret of the link, and configurations.
///
/// Files that may lie in `state` beforehand are `lock` and `run.json`; anything else is refused.
pub fn create(state: &Path, plan: &Plan) -> Result<(), InitError> {
    let layout = Layout::below(state);
    let ours = ["lock", "run.json"];
    let entries =
        fs::read_dir(state).map_err(|source| InitError::Write { path: state.into(), source })?;
    let foreign = entries.flatten().any(|e| !ours.iter().any(|name| e.file_name() == *name));
    if foreign {
        return Err(InitError::Foreign { path: state.into() });
    }
    let authority = DemoAuthority::generate("Claviger demo authority")?;
    for (folder, name) in PARTIES {
        let others = plan.names.get(name).map(|names| &names[..]).unwrap_or_default();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        authority.issue(name, &others)?.write(&layout.folder(folder), "identity")?;
        authority.write_certificate(&layout.folder(folder).join("ca.pem"))?;
    }
    make_folder(&layout.folder("devices"))?;
    // The emulated devices provision themselves; their certificate can do nothing else.
    authority.issue("installer", &[])?.write(&layout.folder("devices"), "identity")?;
    authority.write_certificate(&layout.folder("devices").join("ca.pem"))?;
    let mut rng = randomness(plan.link.seed);
    let secret = match plan.link.seed {
        Some(_) => InitialSecret::random(&mut rng),
        // One-time pads are drawn from the system itself, not stretched from a seed.
        None => InitialSecret::random(&mut UnwrapErr(SysRng)),
    };
    for folder in ["site-a/qkd", "site-b/qkd"] {
        write_secret(&layout.folder(folder).join("link.secret"), secret.expose())?;
    }
    let forwarder = password(&mut rng);
    for folder in ["site-a/gateway", "site-b/platform"] {
        write_secret(&layout.folder(folder).join("forwarder.password"), forwarder.as_bytes())?;
    }
    let viewer = password(&mut rng);
    write_secret(&layout.folder("site-a/gateway").join("viewer.password"), viewer.as_bytes())?;
    // It opens what gateways keep for years: drawn from the system itself, whatever the seed.
    let mut recovery = Zeroizing::new([0; 32]);
    UnwrapErr(SysRng).fill_bytes(&mut *recovery);
    write_secret(&layout.folder("site-b/platform").join("recovery.key"), &*recovery)?;
    let mut lldp_key = [0; 32];
    rng.fill_bytes(&mut lldp_key);
    write_secret(&layout.folder("site-b/controller").join("lldp.key"), &lldp_key)?;
    configure(state, plan)?;
    let marker = toml::to_string(&Marker { layout: LAYOUT })?;
    // Whoever waits for the mark sees it whole or not at all.
    let unfinished = layout.marker().with_added_extension("new");
    write_file(&unfinished, &format!("# This folder is complete.\n{marker}"))?;
    fs::rename(&unfinished, layout.marker())
        .map_err(|source| InitError::Write { path: layout.marker(), source })
}

/// Writes the configuration of every role anew.
pub fn configure(state: &Path, plan: &Plan) -> Result<Ports, InitError> {
    let ports =
        Ports::from_base(plan.port_base).ok_or(InitError::PortBase { base: plan.port_base })?;
    let layout = Layout::below(state);
    write_config(&layout, "fibre", &fibre(plan, &ports))?;
    write_config(&layout, "site-a/qkd", &qkd(plan, &ports, Party::Alice))?;
    write_config(&layout, "site-b/qkd", &qkd(plan, &ports, Party::Bob))?;
    write_config(&layout, "site-a/kme", &kme(plan, &ports, RawSite::A))?;
    write_config(&layout, "site-b/kme", &kme(plan, &ports, RawSite::B))?;
    write_config(&layout, "site-a/gateway", &gateway(plan, &ports))?;
    write_config(&layout, "site-b/platform", &platform(&ports))?;
    write_config(&layout, "site-b/controller", &controller(plan, &ports))?;
    write_config(&layout, "site-a/switch", &lan(plan, &ports))?;
    write_config(&layout, "devices", &devices(plan, &ports))?;
    Ok(ports)
}

fn fibre(plan: &Plan, ports: &Ports) -> RawFibre {
    RawFibre {
        link: plan.link.clone(),
        alice_listen: ports.light_a.to_string(),
        bob_listen: ports.light_b.to_string(),
        eve_fraction: plan.eve_fraction,
        simulated_speed: plan.simulated_speed,
        optics: optics(plan, ports),
    }
}

/// The emulated optical switch, half of whose loss is at either port.
fn optics(plan: &Plan, ports: &Ports) -> Option<RawOptics> {
    let fibre = plan.fibres.iter().map(|(name, loss)| RawFibrePath {
        name: name.clone(),
        loss_db: loss.as_db(),
        insertion_db: INSERTION_DB / 2.0,
    });
    (!plan.fibres.is_empty()).then(|| RawOptics {
        controller: ports.openflow_tls.to_string(),
        controller_name: "controller".into(),
        datapath: OPTICS_DATAPATH.into(),
        channel_insertion_db: INSERTION_DB / 2.0,
        fibre: fibre.collect(),
    })
}

/// What the light loses in the optical switch: a usual value of micro-mirror cross-connects.
pub const INSERTION_DB: f64 = 1.0;
const OPTICS_DATAPATH: &str = "0000000000000a01";

fn qkd(plan: &Plan, ports: &Ports, party: Party) -> RawQkd {
    let (light, kme, name) = match party {
        Party::Alice => (ports.light_a, ports.node_a, "kme-a"),
        Party::Bob => (ports.light_b, ports.node_b, "kme-b"),
    };
    RawQkd {
        party,
        link: plan.link.clone(),
        classical: ports.classical.to_string(),
        light: light.to_string(),
        kme: kme.to_string(),
        kme_name: name.into(),
        controller_url: (!plan.fibres.is_empty()).then(|| url(ports.controller)),
    }
}

fn kme(plan: &Plan, ports: &Ports, site: RawSite) -> RawKme {
    let (https, idq3p, node, own, other) = match site {
        RawSite::A => (ports.kme_a, ports.idq3p_a, ports.node_a, "a", "b"),
        RawSite::B => (ports.kme_b, ports.idq3p_b, ports.node_b, "b", "a"),
    };
    let saes = [
        ("gateway", RawSite::A),
        ("app-a", RawSite::A),
        ("platform", RawSite::B),
        ("app-b", RawSite::B),
    ];
    let pair = (format!("app-{own}"), format!("app-{other}"));
    RawKme {
        site,
        kme_id: format!("kme-{own}"),
        peer_kme_id: format!("kme-{other}"),
        https_listen: https.to_string(),
        danger_idq3p_listen: plan.danger_idq3p.then(|| idq3p.to_string()),
        node_listen: node.to_string(),
        node_name: format!("qkd-{own}"),
        peer: ports.kme_records.to_string(),
        peer_name: format!("kme-{other}"),
        capacity_bits: 1_000_000,
        saes: saes.into_iter().map(|(name, site)| (name.to_owned(), site)).collect(),
        idq3p: BTreeMap::from([("1".to_owned(), pair)]),
    }
}

fn gateway(plan: &Plan, ports: &Ports) -> RawGateway {
    RawGateway {
        keys_listen: ports.gateway_keys.to_string(),
        psk_listen: Some(ports.gateway_psk.to_string()),
        coap_listen: Some(ports.gateway_coap.to_string()),
        mqtt_listen: ports.gateway_mqtt.to_string(),
        mqtt_psk_listen: Some(ports.gateway_mqtt_psk.to_string()),
        dock: Some("dock.sock".into()),
        key_frames: RawFrameForm::default(),
        kme_url: url(ports.kme_a),
        platform_sae: "platform".into(),
        platform: ports.platform_records.to_string(),
        platform_name: "platform".into(),
        platform_mqtt: ports.platform_mqtt.to_string(),
        device_broker: None,
        platform_broker: None,
        renew_s: plan.renew_s,
        queue_mb: claviger_fleet::GatewayConfig::QUEUE_BYTES >> 20,
        sharing: Vec::new(),
    }
}

fn platform(ports: &Ports) -> RawPlatform {
    RawPlatform {
        https_listen: ports.platform.to_string(),
        gateway_listen: ports.platform_records.to_string(),
        gateway_name: "gateway".into(),
        mqtt_listen: ports.platform_mqtt.to_string(),
        kme_url: url(ports.kme_b),
        operator_name: "operator".into(),
        installer_name: "installer".into(),
        enrolment: Some(RawEnrolment {
            controller_url: url(ports.controller),
            approval: RawApproval::Import,
            policy: "sensor".into(),
        }),
        broker: None,
    }
}

/// The network of the demonstration: the gateway is its only server.
fn controller(plan: &Plan, ports: &Ports) -> RawController {
    let server = RawServer {
        mac: GATEWAY_MAC.into(),
        addresses: vec![GATEWAY_ADDRESS.into()],
        reaches: Vec::new(),
    };
    let services = [
        "gateway tcp 8443",
        "gateway tcp 8444",
        "gateway tcp 8883",
        "gateway tcp 8884",
        "gateway udp 5683",
        "gateway icmp",
    ];
    let reaches = services.map(str::to_owned).to_vec();
    let quarantine = RawPolicy { reaches: Vec::new(), packets_per_s: Some(10) };
    RawController {
        openflow_listen: Some(ports.openflow.to_string()),
        danger_openflow_in_clear: false,
        openflow_tls_listen: Some(ports.openflow_tls.to_string()),
        switch_names: vec!["switch".into(), "optics".into()],
        https_listen: ports.controller.to_string(),
        operator_name: "operator".into(),
        provisioning_name: "platform".into(),
        sweep: Vec::new(),
        dhcp_server: None,
        unknown_per_s: 100,
        server: BTreeMap::from([("gateway".to_owned(), server)]),
        policy: BTreeMap::from([
            ("sensor".to_owned(), RawPolicy { reaches, packets_per_s: Some(200) }),
            ("quarantine".to_owned(), quarantine),
        ]),
        crossing: crossing(plan),
    }
}

/// The optical switch, as its controller knows it.
fn crossing(plan: &Plan) -> Option<RawCrossing> {
    let ports = CHANNEL_PORT + 1..;
    let fibre =
        ports.zip(&plan.fibres).map(|(port, (name, _))| RawFibrePort { name: name.clone(), port });
    (!plan.fibres.is_empty()).then(|| RawCrossing {
        datapath: OPTICS_DATAPATH.into(),
        channel_port: CHANNEL_PORT,
        alarm_names: vec!["qkd-a".into(), "qkd-b".into()],
        fibre: fibre.collect(),
    })
}

/// The emulated network: as many edge switches as the devices need, and two at least.
fn lan(plan: &Plan, ports: &Ports) -> RawLan {
    RawLan {
        controller: ports.openflow_tls.to_string(),
        controller_name: "controller".into(),
        listen: ports.lan.to_string(),
        edges: plan.devices.div_ceil(EDGE_PORTS).max(2),
        ports: EDGE_PORTS,
        server_mac: GATEWAY_MAC.into(),
        server_address: GATEWAY_ADDRESS.into(),
    }
}

/// Ports of an edge switch for devices.
const EDGE_PORTS: u32 = 48;

/// The gateway's card in the emulated network: locally administered.
pub const GATEWAY_MAC: &str = "02:00:5e:00:ff:01";
/// The gateway's address in the emulated network.
pub const GATEWAY_ADDRESS: &str = "10.67.0.1";

fn devices(plan: &Plan, ports: &Ports) -> RawDevices {
    RawDevices {
        devices: plan.devices,
        first: 1,
        wake_s: plan.renew_s,
        renew_s: None,
        max_age_s: None,
        at_boot: RawAtBoot::default(),
        paths: plan.paths.iter().map(|path| path.name().to_owned()).collect(),
        gateway_url: url(ports.gateway_keys),
        gateway_psk: Some(ports.gateway_psk.to_string()),
        gateway_coap: Some(ports.gateway_coap.to_string()),
        gateway_mqtt: ports.gateway_mqtt.to_string(),
        gateway_mqtt_psk: Some(ports.gateway_mqtt_psk.to_string()),
        dock: Some("../site-a/gateway/dock.sock".into()),
        pad_keys: plan.pad_keys,
        platform_url: Some(url(ports.platform)),
        lan: Some(ports.lan.to_string()),
        dkg_peer: None,
    }
}

/// Certificates of the demonstration name `localhost`.
fn url(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

fn randomness(seed: Option<u64>) -> StdRng {
    match seed {
        Some(number) => StdRng::from_seed(seed::derive(number, "secret")),
        None => StdRng::try_from_rng(&mut SysRng).expect("the system's generator never fails"),
    }
}

fn password(rng: &mut StdRng) -> String {
    (0..4).map(|_| format!("{:08x}", rng.next_u32())).collect()
}

fn write_config(layout: &Layout, role: &str, raw: &impl Serialize) -> Result<(), InitError> {
    let head = "# Written by `claviger init` and, at every start, by `claviger up`.\n";
    make_folder(&layout.folder(role))?;
    write_file(&layout.config(role), &format!("{head}{}", toml::to_string(raw)?))
}

fn make_folder(path: &Path) -> Result<(), InitError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| InitError::Write { path: path.into(), source })
}

fn write_file(path: &Path, text: &str) -> Result<(), InitError> {
    fs::write(path, text).map_err(|source| InitError::Write { path: path.into(), source })
}

fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    let open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = open.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| InitError::Write { path: path.into(), source })
}
