//! The people around a network: applications, the operator, and a device of our own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use claviger_frames::{Epoch, EpochKeys, GatewaySecret, key_frame, split_bootstrap};
use claviger_net::http::{Answer, Client};
use claviger_net::pki::{Authority, Identity};
use claviger_net::tls;
use claviger_roles::sae::{GrantedKey, KeyClient, KeyError};
use claviger_units::{Bits, Eui64, Key256, KeyId};
use claviger_wire::etsi014::Status;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::place::Place;
use crate::process::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An application at one site that shares keys with one at the other.
#[derive(Debug)]
pub(crate) struct App {
    runtime: Runtime,
    client: KeyClient,
    other: String,
}

impl App {
    /// The demonstration's application at site A.
    pub(crate) fn a(place: &Place) -> Self {
        Self::of(place, "site-a/app", place.ports().kme_a, "app-b")
    }

    /// The demonstration's application at site B.
    pub(crate) fn b(place: &Place) -> Self {
        Self::of(place, "site-b/app", place.ports().kme_b, "app-a")
    }

    /// Whoever has its certificate in `folder`.
    pub(crate) fn of(place: &Place, folder: &str, kme: SocketAddr, other: &str) -> Self {
        let client = known_client(&place.layout().folder(folder));
        let client = KeyClient::new(&url(kme), client);
        Self { runtime: runtime(), client, other: other.to_owned() }
    }

    /// Asks for new keys.
    pub(crate) fn get(&self, number: u32) -> Result<Vec<GrantedKey>, KeyError> {
        let slave = self.other.parse().unwrap();
        self.runtime.block_on(self.client.enc_keys(&slave, number, Bits::KEY))
    }

    /// Asks for the copy of a key that the other was given.
    pub(crate) fn fetch(&self, id: KeyId) -> Result<GrantedKey, KeyError> {
        let master = self.other.parse().unwrap();
        let keys = self.runtime.block_on(self.client.dec_keys(&master, &[id]));
        keys.map(|mut keys| keys.remove(0))
    }

    pub(crate) fn status(&self) -> Result<Status, KeyError> {
        let slave = self.other.parse().unwrap();
        self.runtime.block_on(self.client.status(&slave))
    }

    /// Returns how many keys there are, `None` while nobody answers.
    pub(crate) fn stored(&self) -> Option<u64> {
        self.status().ok().map(|status| status.stored_key_count)
    }

    /// Asks until there are keys.
    pub(crate) fn get_soon(&self, number: u32) -> Vec<GrantedKey> {
        eventually("keys", PATIENCE, || self.get(number).ok())
    }
}

/// Asks the controller to move the quantum channel, with the certificate in `folder`; returns the status
/// of the answer.
pub(crate) fn put_channel_as(place: &Place, folder: &str, fibre: &str) -> Option<u16> {
    let client = known_client(&place.layout().folder(folder));
    let url = format!("{}/v1/channel", url(place.ports().controller));
    let body = format!(r#"{{"fibre":"{fibre}"}}"#).into_bytes();
    let answer = runtime().block_on(client.put_json(&url, body));
    answer.ok().map(|answer| answer.status.as_u16())
}

/// A reading that the platform has stored.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoredReading {
    pub(crate) seq: u64,
    pub(crate) eui: String,
    pub(crate) epoch: u32,
    pub(crate) key_origin: String,
    pub(crate) counter: u32,
    pub(crate) taken_s: f64,
    pub(crate) temperature_c: f64,
    pub(crate) humidity_pct: f64,
    pub(crate) light_lux: u32,
    pub(crate) battery_mv: u16,
}

#[derive(Deserialize)]
struct Page {
    readings: Vec<StoredReading>,
}

/// Who runs the platform.
#[derive(Debug)]
pub(crate) struct Operator {
    runtime: Runtime,
    client: Client,
    url: String,
}

impl Operator {
    pub(crate) fn of(place: &Place) -> Self {
        let client = known_client(&place.layout().folder("site-b/operator"));
        Self { runtime: runtime(), client, url: url(place.ports().platform) }
    }

    /// Returns all readings above a number, `None` while the platform does not answer.
    pub(crate) fn readings(&self, mut after: u64) -> Option<Vec<StoredReading>> {
        let mut all = Vec::new();
        loop {
            let url = format!("{}/v1/readings?after={after}&limit=1000", self.url);
            let answer = self.runtime.block_on(self.client.get(&url, &[])).ok()?;
            let page: Page = serde_json::from_slice(answer.body.expose()).ok()?;
            let Some(last) = page.readings.last() else { return Some(all) };
            after = last.seq;
            all.extend(page.readings);
        }
    }

    /// Makes a device known that is nowhere in the network, so that the operator has to approve it, and
    /// returns the status of the first answer.
    pub(crate) fn provision(&self, device: &OurDevice) -> Option<u16> {
        let key = STANDARD.encode(device.bootstrap.expose());
        let body = format!(r#"{{"eui":"{}","bootstrap_key":"{key}"}}"#, device.eui);
        let url = format!("{}/v1/devices", self.url);
        let post = |url: &str, body: String| {
            let sent = self.client.post_json(url, &[], body.into_bytes());
            self.runtime.block_on(sent).ok().map(|answer| answer.status.as_u16())
        };
        let status = post(&url, body)?;
        let mac = device.eui.mac().unwrap();
        post(&format!("{}/v1/enrolments/{mac}/approve", self.url), String::new())?;
        Some(status)
    }
}

/// A device whose label is in our hands.
#[derive(Debug)]
pub(crate) struct OurDevice {
    pub(crate) eui: Eui64,
    pub(crate) bootstrap: Key256,
    runtime: Runtime,
    client: Client,
    url: String,
}

/// A key frame that was opened.
#[derive(Debug)]
pub(crate) struct DeviceKey {
    pub(crate) epoch: Epoch,
    pub(crate) qkd: Key256,
    /// The gateway secret of that epoch.
    pub(crate) secret: GatewaySecret,
}

impl OurDevice {
    pub(crate) fn new(place: &Place) -> Self {
        tls::install_provider();
        Self {
            eui: "020000fffe000001".parse().unwrap(),
            bootstrap: Key256::random(&mut StdRng::try_from_rng(&mut SysRng).unwrap()),
            runtime: runtime(),
            client: Client::new(&tls::client_anonymous(&authority(place))),
            url: url(place.ports().gateway_keys),
        }
    }

    /// Returns the gateway secret that is split off the label.
    pub(crate) fn first_secret(&self) -> GatewaySecret {
        split_bootstrap(&self.bootstrap).1
    }

    /// Asks the gateway for a key frame, with whatever proof.
    pub(crate) fn ask(&self, path_and_query: &str, authorization: Option<&str>) -> Option<Answer> {
        let url = format!("{}{path_and_query}", self.url);
        let headers: Vec<_> =
            authorization.map(|text| ("authorization", text)).into_iter().collect();
        self.runtime.block_on(self.client.get(&url, &headers)).ok()
    }

    /// Gets the first key of the link, as a device under epoch 0 does.
    pub(crate) fn first_key(&self) -> DeviceKey {
        let (bootstrap, secret) = (Epoch::new(0), self.first_secret());
        let path = format!("/v1/devices/{}/key?have=0", self.eui);
        let authorization = secret.request_authorization(bootstrap, &path);
        let frame = eventually("a key frame", PATIENCE, || {
            self.ask(&path, Some(&authorization)).filter(|answer| answer.status.as_u16() == 200)
        });
        let (epoch, qkd) = key_frame::open(&secret, bootstrap, frame.body.expose()).unwrap();
        let secret = secret.next(&qkd, self.eui, bootstrap, epoch);
        DeviceKey { epoch, qkd, secret }
    }
}

/// Returns whom everybody at a place trusts.
pub(crate) fn authority(place: &Place) -> Authority {
    Authority::load(&place.layout().folder("devices").join("ca.pem")).unwrap()
}

/// Returns a client with the certificate in a folder.
fn known_client(folder: &Path) -> Client {
    tls::install_provider();
    let file = |name: &str| folder.join(name);
    let identity = Identity::load(&file("identity.pem"), &file("identity.key")).unwrap();
    let authority = Authority::load(&file("ca.pem")).unwrap();
    Client::new(&tls::client_mutual(&identity, &authority))
}

/// Certificates of the demonstration name `localhost`.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("https://localhost:{}", address.port())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
