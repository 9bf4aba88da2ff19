//! The whole of Claviger on the hosts of a network: gateway, platform and devices, each in its host.
//!
//! What is not on the network the devices are on (the light, the QKD nodes, the key management entities,
//! the controller) is in the laboratory beside it, and reaches gateway and platform by a cable of their own.
//! Between gateway and platform goes the network itself.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use claviger_net::dkg;
use claviger_netlab::Uplink;
use claviger_roles::config::{
    RawController, RawDevices, RawGateway, RawKme, RawPlatform, RawServer,
};
use claviger_roles::init::{Layout, Ports};
use claviger_units::{Eui64, MacAddr, Span};
use claviger_wire::enrolment::Imported;
use claviger_wire::platform::Readings;
use tokio::net::TcpListener;
use tokio::process::Child;

use super::own_controller::{OwnController, Settings, fit, ready, spawn, spawn_words};
use crate::cli::StateArgs;
use crate::console;
use crate::platform::Platform;

/// Who is who among the hosts.
#[derive(Clone, Debug)]
pub(super) struct Cast {
    pub(super) gateway: Player,
    pub(super) platform: Player,
    /// Names of hosts, and the numbers of the devices that they are; one at least.
    pub(super) devices: Vec<(String, u32)>,
    /// How often a device wakes.
    pub(super) wake: Span,
    /// Whether every other device makes its keys itself.
    pub(super) with_dkg: bool,
}

/// A host with a part in it.
#[derive(Clone, Debug)]
pub(super) struct Player {
    pub(super) name: String,
    pub(super) mac: MacAddr,
    pub(super) address: Ipv4Addr,
}

/// The processes of a fleet; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Fleet {
    state: PathBuf,
    devices: BTreeSet<Eui64>,
    began: Instant,
    _processes: Vec<Child>,
}

/// Starts a controller for a network on which a fleet may play.
pub(super) async fn controller(
    folder: &Path,
    port_base: u16,
    verbosity: u8,
    cast: Option<&Cast>,
    fit: impl FnOnce(&mut RawController),
) -> Result<OwnController> {
    let settings = cast.map_or(Settings::NONE, Cast::settings);
    let fit_all = |raw: &mut RawController, ports: &Ports| {
        fit(raw);
        if let Some(cast) = cast {
            cast.fit_controller(raw, ports);
        }
    };
    OwnController::start(folder, port_base, verbosity, settings, fit_all).await
}

impl Cast {
    /// Returns what the folders must hold for it.
    fn settings(&self) -> Settings {
        let uplinks = [(&self.gateway, GATEWAY), (&self.platform, PLATFORM)];
        let [(gateway, a), (platform, b)] =
            uplinks.map(|(host, n)| (host.address, Uplink::numbered(n)));
        let names = [
            ("gateway", vec![IpAddr::V4(gateway)]),
            ("platform", vec![platform.into(), b.there.into()]),
            ("kme-a", vec![a.here.into()]),
            ("kme-b", vec![b.here.into()]),
            ("controller", vec![b.here.into()]),
        ];
        let texts = |all: Vec<IpAddr>| all.iter().map(ToString::to_string).collect();
        Settings {
            devices: u32::try_from(self.devices.len()).unwrap_or(u32::MAX),
            renew_s: self.wake.as_secs_f64(),
            names: names.map(|(party, all)| (party.to_owned(), texts(all))).into(),
        }
    }

    /// Makes the controller know gateway and platform, and what they have to do with each other.
    fn fit_controller(&self, raw: &mut RawController, ports: &Ports) {
        let server = |host: &Player, reaches| RawServer {
            mac: host.mac.to_string(),
            addresses: vec![host.address.to_string()],
            reaches,
        };
        let services = [ports.platform_records, ports.platform_mqtt];
        let services = services.map(|at| format!("platform tcp {}", at.port())).to_vec();
        raw.server = BTreeMap::from([
            ("gateway".to_owned(), server(&self.gateway, services)),
            ("platform".to_owned(), server(&self.platform, Vec::new())),
        ]);
        let port = ports.controller.port();
        raw.https_listen = format!("0.0.0.0:{port}");
        if let Some(sensor) = raw.policy.get_mut("sensor").filter(|_| self.with_dkg) {
            sensor.reaches.push(format!("gateway tcp {DKG}"));
        }
    }

    /// Returns with whom a device makes its keys itself, if it is one that does.
    fn dkg_peer(&self, number: u32) -> Option<SocketAddr> {
        let is_one = self.with_dkg && number.is_multiple_of(2);
        is_one.then(|| (self.gateway.address, DKG).into())
    }
}

impl Fleet {
    /// Starts everybody, if there is anybody, and waits until the platform has read every device.
    pub(super) async fn play(
        own: &OwnController,
        cast: Option<Cast>,
        verbosity: u8,
    ) -> Result<Option<Self>> {
        let Some(cast) = cast else { return Ok(None) };
        let fleet = Self::start(own, cast, verbosity).await?;
        fleet.wait_for_readings().await?;
        Ok(Some(fleet))
    }

    /// Starts everybody on a network whose controller runs, and brings the devices' labels to the
    /// platform.
    async fn start(own: &OwnController, cast: Cast, verbosity: u8) -> Result<Self> {
        let began = Instant::now();
        let (layout, ports) = (Layout::below(own.state()), own.ports());
        let hosts = [(GATEWAY, cast.gateway.name.clone()), (PLATFORM, cast.platform.name.clone())];
        let laying = move || hosts.iter().try_for_each(|(n, host)| Uplink::lay(*n, host).map(drop));
        tokio::task::spawn_blocking(laying).await.context("the uplinks were not laid")??;
        configure(&layout, ports, &cast)?;
        let sites = [
            (None, "fibre", "fibre"),
            (None, "kme", "site-a/kme"),
            (None, "kme", "site-b/kme"),
            (None, "qkd", "site-a/qkd"),
            (None, "qkd", "site-b/qkd"),
            (Some(&*cast.platform.name), "platform", "site-b/platform"),
            (Some(&*cast.gateway.name), "gateway", "site-a/gateway"),
        ];
        let mut processes = Vec::new();
        for (host, role, folder) in sites {
            let mut child = spawn(host, role, &layout.config(folder), verbosity)?;
            ready(&mut child, role).await?;
            processes.push(child);
        }
        if cast.with_dkg {
            let address = SocketAddr::from((cast.gateway.address, DKG)).to_string();
            let words = ["lab", "dkg-peer", &address].map(OsStr::new);
            let mut child = spawn_words(Some(&*cast.gateway.name), &words, verbosity)?;
            ready(&mut child, "dkg").await?;
            processes.push(child);
        }
        processes.extend(start_devices(&layout, &cast, verbosity).await?);
        let fleet = Self {
            state: own.state().to_owned(),
            devices: cast.devices.iter().map(|(_, n)| claviger_netlab::card(*n).into()).collect(),
            began,
            _processes: processes,
        };
        fleet.import(&layout, &cast).await?;
        Ok(fleet)
    }

    /// Waits until the platform has read every device, sealed under a key from the link.
    async fn wait_for_readings(&self) -> Result<()> {
        let platform = Platform::open(&StateArgs { state: self.state.clone() })?;
        let (mut read, mut after, mut n_readings) = (BTreeSet::new(), 0, 0_usize);
        while read.len() < self.devices.len() {
            let page: Readings = platform.ask(&format!("/v1/readings?after={after}")).await?;
            after = page.readings.last().map_or(after, |reading| reading.seq);
            n_readings += page.readings.len();
            let sealed = page.readings.iter().filter(|reading| reading.epoch > 0);
            read.extend(sealed.filter_map(|reading| reading.eui.parse::<Eui64>().ok()));
            if self.began.elapsed() > PATIENCE {
                let missing = self.devices.difference(&read).map(ToString::to_string);
                bail!(
                    "the platform has read {} of {} devices; nothing came from {}; `-v` shows why",
                    read.len(),
                    self.devices.len(),
                    missing.take(5).collect::<Vec<_>>().join(", ")
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
        console::err(format_args!(
            "{} devices on hosts of their own: {n_readings} readings at the platform, of every device one at \
             least, under keys from the link (simulated), {:.1} s after the start of the light",
            self.devices.len(),
            self.began.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    async fn import(&self, layout: &Layout, cast: &Cast) -> Result<()> {
        let platform = Platform::open(&StateArgs { state: self.state.clone() })?;
        let mut text = String::new();
        for (name, _) in &cast.devices {
            let path = layout.folder(&folder(name)).join("labels.csv");
            let labels = fs::read_to_string(&path).context("reading the labels of a device")?;
            text =
                if text.is_empty() { labels } else { text + labels.lines().nth(1).unwrap_or("") };
            text.push('\n');
            fs::remove_file(&path).context("removing the labels of a device")?;
        }
        let imported: Imported = platform.post_text("/v1/enrolments", text.into_bytes()).await?;
        anyhow::ensure!(imported.devices == self.devices.len(), "not all labels were imported");
        Ok(())
    }
}

/// Writes who is where into the configurations.
fn configure(layout: &Layout, ports: &Ports, cast: &Cast) -> Result<()> {
    let (a, b) = (Uplink::numbered(GATEWAY), Uplink::numbered(PLATFORM));
    let (gateway, platform) = (cast.gateway.address, cast.platform.address);
    let (kme_a, kme_b) = (ports.kme_a.port(), ports.kme_b.port());
    fit(&layout.config("site-a/kme"), |raw: &mut RawKme| {
        raw.https_listen = format!("{}:{kme_a}", a.here);
    })?;
    fit(&layout.config("site-b/kme"), |raw: &mut RawKme| {
        raw.https_listen = format!("{}:{kme_b}", b.here);
    })?;
    let (records, mqtt) = (ports.platform_records.port(), ports.platform_mqtt.port());
    fit(&layout.config("site-a/gateway"), |raw: &mut RawGateway| {
        raw.keys_listen = format!("{gateway}:{KEYS}");
        raw.psk_listen = Some(format!("{gateway}:{KEYS_PSK}"));
        raw.coap_listen = Some(format!("{gateway}:{KEYS_COAP}"));
        raw.mqtt_listen = format!("{gateway}:{MQTT}");
        raw.mqtt_psk_listen = Some(format!("{gateway}:{MQTT_PSK}"));
        raw.kme_url = format!("https://{}:{kme_a}", a.here);
        raw.platform = format!("{platform}:{records}");
        raw.platform_mqtt = format!("{platform}:{mqtt}");
    })?;
    fit(&layout.config("site-b/platform"), |raw: &mut RawPlatform| {
        raw.https_listen = format!("{}:{}", b.there, ports.platform.port());
        raw.gateway_listen = format!("{platform}:{records}");
        raw.mqtt_listen = format!("{platform}:{mqtt}");
        raw.kme_url = format!("https://{}:{kme_b}", b.here);
        if let Some(enrolment) = &mut raw.enrolment {
            enrolment.controller_url = format!("https://{}:{}", b.here, ports.controller.port());
        }
    })?;
    for (name, number) in &cast.devices {
        let (from, to) = (layout.folder("devices"), layout.folder(&folder(name)));
        fs::create_dir_all(&to).context("making the folder of a device")?;
        for file in ["ca.pem", "identity.pem", "identity.key", "config.toml"] {
            fs::copy(from.join(file), to.join(file)).context("filling the folder of a device")?;
        }
        fit(&layout.config(&folder(name)), |raw: &mut RawDevices| {
            raw.devices = 1;
            raw.first = *number;
            raw.gateway_url = format!("https://{gateway}:{KEYS}");
            raw.gateway_psk = Some(format!("{gateway}:{KEYS_PSK}"));
            raw.gateway_coap = Some(format!("{gateway}:{KEYS_COAP}"));
            raw.gateway_mqtt = format!("{gateway}:{MQTT}");
            raw.gateway_mqtt_psk = Some(format!("{gateway}:{MQTT_PSK}"));
            raw.platform_url = None;
            raw.lan = None;
            raw.dkg_peer = cast.dkg_peer(*number).map(|peer| peer.to_string());
            // Readings are sealed under the first key that came from the link, and no other is asked for.
            raw.renew_s = raw.dkg_peer.is_some().then_some(FOR_GOOD_S);
        })?;
    }
    Ok(())
}

/// Starts all devices, each in its host, and waits until each has its label.
async fn start_devices(layout: &Layout, cast: &Cast, verbosity: u8) -> Result<Vec<Child>> {
    let mut processes = Vec::new();
    for (name, _) in &cast.devices {
        let config: &Path = &layout.config(&folder(name));
        processes.push(spawn(Some(name), "devices", config, verbosity)?);
    }
    for child in &mut processes {
        ready(child, "devices").await?;
    }
    Ok(processes)
}

/// Makes keys with the devices that make them themselves, until it is ended.
pub(super) async fn make_keys_at(address: SocketAddr) -> Result<Infallible> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("{address} cannot be listened at"))?;
    console::out("dkg: ready");
    Ok(dkg::answer(listener).await)
}

/// The folder of a device below the state folder.
pub(super) fn folder(host: &str) -> String {
    format!("devices-{host}")
}

/// Numbers of uplinks.
const GATEWAY: u8 = 1;
const PLATFORM: u8 = 2;

/// The gateway's services, as the policy `sensor` has them.
const KEYS: u16 = 8443;
const KEYS_PSK: u16 = 8444;
const KEYS_COAP: u16 = 5683;
const MQTT: u16 = 8883;
const MQTT_PSK: u16 = 8884;
/// Where keys are made with devices that make them themselves; no service of the product.
const DKG: u16 = 8445;

/// Longer than any laboratory stands.
const FOR_GOOD_S: f64 = 30.0 * 86_400.0;
/// How long the first readings may take: the first blocks of the link, and what a crowd adds.
const PATIENCE: Duration = Duration::from_secs(150);
const PAUSE: Duration = Duration::from_millis(200);
