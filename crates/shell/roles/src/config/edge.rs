//! The IoT side: the gateway and its devices.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use claviger_device::{AtBoot, KeyPath};
use claviger_fleet::{FrameForm, GatewayConfig, Rank, Sharing};
use claviger_units::{SaeId, Span};
use claviger_wire::fleet::MAX_PAD;
use serde::{Deserialize, Serialize};

use super::{BrokerConfig, Faults, Raw, RawBroker, check_url};

/// `claviger run gateway`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGateway {
    /// Where devices fetch key frames by HTTPS.
    pub keys_listen: String,
    /// Where devices fetch key frames by HTTPS over TLS with pre-shared keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psk_listen: Option<String>,
    /// Where devices fetch key frames by CoAP with OSCORE, UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coap_listen: Option<String>,
    /// Where devices publish by MQTT.
    pub mqtt_listen: String,
    /// Where devices publish by MQTT over TLS with pre-shared keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt_psk_listen: Option<String>,
    /// The socket at which devices are docked, seen from this file's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dock: Option<PathBuf>,
    /// How key frames are written.
    #[serde(default)]
    pub key_frames: RawFrameForm,
    /// The key management entity of this site.
    pub kme_url: String,
    /// The name of the platform's application at its own entity.
    pub platform_sae: String,
    /// Where the platform takes records.
    pub platform: String,
    /// The name in the platform's certificate.
    pub platform_name: String,
    /// Where the platform takes telemetry by MQTT.
    pub platform_mqtt: String,
    /// A broker of another maker that devices use beside the gateway's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_broker: Option<RawBroker>,
    /// A broker of another maker that takes telemetry for the platform, in place of `platform_mqtt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_broker: Option<RawBroker>,
    /// How often a device shall get a fresh key.
    pub renew_s: f64,
    /// How much telemetry waits on the disk while the platform is away, in megabytes.
    #[serde(default = "queue_mb", skip_serializing_if = "is_queue_mb")]
    pub queue_mb: u64,
    /// Who gets a key first when there are too few; the first rule that fits a device counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sharing: Vec<RawShare>,
}

/// A rule of `sharing`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawShare {
    /// How the names of the devices begin that it is for, up to 16 hexadecimal digits; empty for all.
    pub devices: String,
    /// Their class, from 0: a lower one is served before all higher ones.
    pub priority: u8,
    /// Whose devices they are; the tenants of a class share what comes to it.
    #[serde(default)]
    pub tenant: String,
    /// How many parts this tenant has, from 1.
    #[serde(default = "one_part")]
    pub share: u16,
}

/// How key frames are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RawFrameForm {
    /// In 44 bytes, with nothing but AES.
    #[default]
    Compact,
    /// As `COSE_Encrypt0` with A256GCM.
    Cose,
    /// As `COSE_Encrypt0` with AES-CCM-16-128-256.
    CoseCcm,
}

impl From<RawFrameForm> for FrameForm {
    fn from(form: RawFrameForm) -> Self {
        match form {
            RawFrameForm::Compact => Self::Compact,
            RawFrameForm::Cose => Self::Cose,
            RawFrameForm::CoseCcm => Self::CoseCcm,
        }
    }
}

/// A checked gateway.
#[derive(Clone, Debug)]
pub struct GatewayRoleConfig {
    /// Where devices fetch key frames.
    pub keys: SocketAddr,
    /// Where devices fetch key frames with pre-shared keys.
    pub psk: Option<SocketAddr>,
    /// Where devices fetch key frames by CoAP.
    pub coap: Option<SocketAddr>,
    /// Where devices publish.
    pub mqtt: SocketAddr,
    /// Where devices publish with pre-shared keys.
    pub mqtt_psk: Option<SocketAddr>,
    /// Where devices are docked.
    pub dock: Option<PathBuf>,
    /// How key frames are written.
    pub form: FrameForm,
    /// The key management entity of this site.
    pub kme_url: String,
    /// The platform's application.
    pub platform_sae: SaeId,
    /// Where the platform takes records.
    pub platform: SocketAddr,
    /// The name in its certificate.
    pub platform_name: SaeId,
    /// Where the platform takes telemetry.
    pub platform_mqtt: SocketAddr,
    /// A broker of another maker that devices use.
    pub device_broker: Option<BrokerConfig>,
    /// A broker of another maker that takes telemetry for the platform.
    pub platform_broker: Option<BrokerConfig>,
    /// How often a device shall get a fresh key.
    pub renew: Span,
    /// Who gets a key when there are too few.
    pub sharing: Sharing,
    /// How much telemetry waits while the platform is away.
    pub queue_bytes: u64,
}

impl Raw for RawGateway {
    type Config = GatewayRoleConfig;

    fn check(self, faults: &mut Faults, folder: &Path) -> Option<GatewayRoleConfig> {
        let keys = faults.address("keys_listen", &self.keys_listen);
        let psk = faults.address_if("psk_listen", self.psk_listen.as_deref());
        let coap = faults.address_if("coap_listen", self.coap_listen.as_deref());
        let mqtt = faults.address("mqtt_listen", &self.mqtt_listen);
        let mqtt_psk = faults.address_if("mqtt_psk_listen", self.mqtt_psk_listen.as_deref());
        check_url(faults, "kme_url", &self.kme_url);
        let platform_sae = faults.parse("platform_sae", &self.platform_sae);
        let platform = faults.address("platform", &self.platform);
        let platform_name = faults.parse("platform_name", &self.platform_name);
        let platform_mqtt = faults.address("platform_mqtt", &self.platform_mqtt);
        let mut broker = |name: &str, raw: Option<RawBroker>| match raw {
            None => Some(None),
            Some(raw) => raw.check(faults, name, folder).map(Some),
        };
        let device_broker = broker("device_broker", self.device_broker);
        let platform_broker = broker("platform_broker", self.platform_broker);
        if let (Some(Some(near)), Some(Some(far))) = (&device_broker, &platform_broker)
            && (&near.host, near.port) == (&far.host, far.port)
        {
            let right = "must be another broker than that of `device_broker`: a reading would go round for ever";
            faults.note(
                "platform_broker.address",
                format_args!("\"{}:{}\"", far.host, far.port),
                right,
            );
            return None;
        }
        let renew = faults.seconds("renew_s", self.renew_s);
        let sharing = check_sharing(faults, &self.sharing);
        if !(1..=1_000_000).contains(&self.queue_mb) {
            faults.note("queue_mb", self.queue_mb, "must lie between 1 and 1000000");
        }
        Some(GatewayRoleConfig {
            keys: keys?,
            psk: psk?,
            coap: coap?,
            mqtt: mqtt?,
            mqtt_psk: mqtt_psk?,
            dock: self.dock.map(|path| folder.join(path)),
            form: self.key_frames.into(),
            kme_url: self.kme_url,
            platform_sae: platform_sae?,
            platform: platform?,
            platform_name: platform_name?,
            platform_mqtt: platform_mqtt?,
            device_broker: device_broker?,
            platform_broker: platform_broker?,
            renew: renew?,
            sharing: sharing?,
            queue_bytes: self.queue_mb << 20,
        })
    }
}

/// Reads the rules; a tenant has one share, whatever devices it has.
fn check_sharing(faults: &mut Faults, rules: &[RawShare]) -> Option<Sharing> {
    let mut tenants: Vec<(&str, u16)> = Vec::new();
    let mut sharing = Sharing::default();
    let mut is_right = true;
    for RawShare { devices, priority, tenant, share } in rules {
        if devices.len() > 16 || !devices.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            faults.note("sharing.devices", devices, "must be up to 16 hexadecimal digits");
            is_right = false;
        }
        if !(1..=1000).contains(share) {
            faults.note("sharing.share", share, "must lie between 1 and 1000");
            is_right = false;
        }
        let known = tenants.iter().position(|(name, _)| name == tenant);
        let number = known.unwrap_or(tenants.len());
        match tenants.get(number) {
            Some((_, other)) if other != share => {
                let remedy = format_args!("tenant {tenant:?} has {other} parts in another rule");
                faults.note("sharing.share", share, remedy);
                is_right = false;
            }
            Some(_) => {}
            None => tenants.push((tenant, *share)),
        }
        let tenant = u16::try_from(number).unwrap_or(u16::MAX);
        sharing = sharing.with(devices, Rank { priority: *priority, tenant, share: *share });
    }
    is_right.then_some(sharing)
}

const fn queue_mb() -> u64 {
    GatewayConfig::QUEUE_BYTES >> 20
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_queue_mb(number: &u64) -> bool {
    *number == queue_mb()
}

const fn one_part() -> u16 {
    1
}

/// `claviger run devices`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDevices {
    /// How many devices are emulated.
    pub devices: u32,
    /// The number of the first, where several processes emulate a fleet.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub first: u32,
    /// Seconds between two wakes of a device.
    pub wake_s: f64,
    /// How old a key becomes before a device asks for the next, in seconds; without it, it asks at every
    /// wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_s: Option<f64>,
    /// How old a key may be before readings wait for a new one, in seconds; without it, devices go on with
    /// the old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<f64>,
    /// When devices that have a key wake first.
    #[serde(default)]
    pub at_boot: RawAtBoot,
    /// How key frames come to the devices, who take these paths in turn: `https`, `psk12`, `psk13_ke`,
    /// `psk13_dhe`, `oscore`, `push`, `pad`.
    #[serde(default = "https")]
    pub paths: Vec<String>,
    /// The gateway's key service.
    pub gateway_url: String,
    /// The gateway's key service for pre-shared keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_psk: Option<String>,
    /// The gateway's key service by CoAP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_coap: Option<String>,
    /// The gateway's broker.
    pub gateway_mqtt: String,
    /// The gateway's broker for pre-shared keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_mqtt_psk: Option<String>,
    /// The socket at which the gateway docks devices, seen from this file's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dock: Option<PathBuf>,
    /// How many keys a pad has that the operator orders for a device of the path `pad`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_keys: Option<u32>,
    /// The platform, where the operator provisions; without it, the labels of new devices are written
    /// to `labels.csv` beside this file, for `claviger sdn import`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_url: Option<String>,
    /// The emulated network in which the devices are; without it, they reach everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan: Option<String>,
    /// With whom each device makes a key itself in every wake before it reports, to be destroyed: the
    /// baseline of comparisons. Nothing is sealed with such a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dkg_peer: Option<String>,
}

/// When devices that have a key wake first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawAtBoot {
    /// Each in its slot.
    #[default]
    Slot,
    /// All at once.
    Once,
}

/// Checked devices.
#[derive(Clone, Debug)]
pub struct DevicesConfig {
    /// Their numbers.
    pub numbers: RangeInclusive<u32>,
    /// Time between two wakes.
    pub wake: Span,
    /// How old a key becomes before a device asks for the next.
    pub renew: Option<Span>,
    /// How old a key may be before readings wait for a new one.
    pub max_age: Option<Span>,
    /// When devices that have a key wake first.
    pub at_boot: AtBoot,
    /// The paths of keys, one at least, which devices take in turn.
    pub paths: Vec<KeyPath>,
    /// The gateway's key service.
    pub gateway_url: String,
    /// The gateway's key service for pre-shared keys.
    pub gateway_psk: Option<SocketAddr>,
    /// The gateway's key service by CoAP.
    pub gateway_coap: Option<SocketAddr>,
    /// The gateway's broker.
    pub gateway_mqtt: SocketAddr,
    /// The gateway's broker for pre-shared keys.
    pub gateway_mqtt_psk: Option<SocketAddr>,
    /// Where the gateway docks devices.
    pub dock: Option<PathBuf>,
    /// How many keys a pad has.
    pub pad_keys: u32,
    /// The platform.
    pub platform_url: Option<String>,
    /// The emulated network.
    pub lan: Option<SocketAddr>,
    /// With whom devices make keys that are destroyed.
    pub dkg_peer: Option<SocketAddr>,
}

impl Raw for RawDevices {
    type Config = DevicesConfig;

    fn check(self, faults: &mut Faults, folder: &Path) -> Option<DevicesConfig> {
        for (key, value) in [("devices", self.devices), ("first", self.first)] {
            if !(1..=100_000).contains(&value) {
                faults.note(key, value, "must lie between 1 and 100000");
            }
        }
        let wake = faults.seconds("wake_s", self.wake_s);
        check_url(faults, "gateway_url", &self.gateway_url);
        if let Some(url) = &self.platform_url {
            check_url(faults, "platform_url", url);
        }
        let renew = self.renew_s.map(|seconds| faults.seconds("renew_s", seconds));
        let max_age = self.max_age_s.map(|seconds| faults.seconds("max_age_s", seconds));
        let gateway_psk = faults.address_if("gateway_psk", self.gateway_psk.as_deref());
        let gateway_coap = faults.address_if("gateway_coap", self.gateway_coap.as_deref());
        let gateway_mqtt = faults.address("gateway_mqtt", &self.gateway_mqtt);
        let gateway_mqtt_psk =
            faults.address_if("gateway_mqtt_psk", self.gateway_mqtt_psk.as_deref());
        let paths = self.check_paths(faults);
        let pad_keys = self.pad_keys.unwrap_or(PAD_KEYS);
        if !(1..=MAX_PAD).contains(&pad_keys) {
            faults.note("pad_keys", pad_keys, format_args!("must lie between 1 and {MAX_PAD}"));
        }
        let lan = self.lan.as_deref().map(|text| faults.loopback("lan", text));
        let dkg_peer = faults.address_if("dkg_peer", self.dkg_peer.as_deref());
        Some(DevicesConfig {
            numbers: self.first..=self.first.saturating_add(self.devices).saturating_sub(1),
            wake: wake?,
            renew: renew.flatten(),
            max_age: max_age.flatten(),
            at_boot: match self.at_boot {
                RawAtBoot::Slot => AtBoot::InSlot,
                RawAtBoot::Once => AtBoot::AtOnce,
            },
            paths: paths?,
            gateway_url: self.gateway_url,
            gateway_psk: gateway_psk?,
            gateway_coap: gateway_coap?,
            gateway_mqtt: gateway_mqtt?,
            gateway_mqtt_psk: gateway_mqtt_psk?,
            dock: self.dock.map(|path| folder.join(path)),
            pad_keys,
            platform_url: self.platform_url,
            lan: lan.flatten(),
            dkg_peer: dkg_peer?,
        })
    }
}

impl RawDevices {
    /// Reads the paths, and notes the address of a service that one of them needs and is not there.
    fn check_paths(&self, faults: &mut Faults) -> Option<Vec<KeyPath>> {
        let paths: Option<Vec<KeyPath>> =
            self.paths.iter().map(|text| faults.parse("paths", text)).collect();
        let paths = paths?;
        if paths.is_empty() {
            faults.note("paths", "[]", "must name one path at least, such as \"push\"");
            return None;
        }
        let needs = |needed: fn(KeyPath) -> bool| paths.iter().copied().find(|path| needed(*path));
        for (key, given, path) in [
            ("gateway_psk", &self.gateway_psk, needs(|path| path.psk_version().is_some())),
            ("gateway_coap", &self.gateway_coap, needs(|path| path == KeyPath::Oscore)),
            (
                "gateway_mqtt_psk",
                &self.gateway_mqtt_psk,
                needs(|path| path.session_version().is_some()),
            ),
            (
                "dock",
                &self.dock.as_ref().map(|path| path.display().to_string()),
                needs(|path| path == KeyPath::Pad),
            ),
        ] {
            if let Some(path) = path.filter(|_| given.is_none()) {
                faults.note(key, "nothing", format_args!("the path {path} needs this address"));
            }
        }
        Some(paths)
    }
}

/// A week of a key every half hour.
const PAD_KEYS: u32 = 7 * 48;

fn https() -> Vec<String> {
    vec![KeyPath::Https.name().to_owned()]
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_one(number: &u32) -> bool {
    *number == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(devices: &str, priority: u8, tenant: &str, share: u16) -> RawShare {
        RawShare { devices: devices.into(), priority, tenant: tenant.into(), share }
    }

    #[test]
    fn rules_of_sharing_are_taken_or_told_what_is_wrong() {
        let mut faults = Faults::default();
        let rules =
            [rule("02005E", 0, "water", 3), rule("", 1, "gas", 1), rule("03", 0, "water", 3)];
        assert!(check_sharing(&mut faults, &rules).is_some() && faults.0.is_empty());
        for (wrong, right) in [
            (rule("02005efffe1000011", 0, "", 1), "up to 16 hexadecimal digits"),
            (rule("0200:5e", 0, "", 1), "up to 16 hexadecimal digits"),
            (rule("", 0, "", 0), "between 1 and 1000"),
            (rule("", 0, "water", 2), "tenant \"water\" has 3 parts in another rule"),
        ] {
            let mut faults = Faults::default();
            let rules = [rule("02", 0, "water", 3), wrong];
            assert!(check_sharing(&mut faults, &rules).is_none());
            assert!(faults.0.iter().any(|fault| fault.contains(right)), "{right}: {:?}", faults.0);
        }
    }
}
