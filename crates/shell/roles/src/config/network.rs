//! The keys of the network: its controller, its emulation, and how the platform's devices get into it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use claviger_control::{AddressRange, OpticsConfig, PacketRate, Policy, PolicyId, Reach, Service};
use claviger_fleet::enrolment::Approval;
use claviger_openflow::{DatapathId, PortNumber};
use claviger_units::{Decibels, MacAddr, SaeId};
use serde::{Deserialize, Serialize};

use super::{Faults, Raw, check_url};

/// `claviger run controller`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawController {
    /// Where switches connect in clear: on loopback alone, or where the wires are as safe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openflow_listen: Option<String>,
    /// Allows `openflow_listen` elsewhere than on loopback: whoever reaches it is taken for a switch.
    #[serde(default)]
    pub danger_openflow_in_clear: bool,
    /// Where switches connect by TLS, with a certificate of the same authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openflow_tls_listen: Option<String>,
    /// Certificates of these names are switches; others of the authority are not taken for any.
    pub switch_names: Vec<String>,
    /// Where operators ask by HTTPS.
    pub https_listen: String,
    /// Certificates of this name may see and change everything.
    pub operator_name: String,
    /// Certificates of this name may see everything, and admit and dismiss.
    pub provisioning_name: String,
    /// Where hosts are looked for that say nothing, such as `10.0.0.0/24`.
    #[serde(default)]
    pub sweep: Vec<String>,
    /// The server whose DHCP answers reach hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_server: Option<String>,
    /// Packets a second that a port may bring of unknown cards.
    pub unknown_per_s: u32,
    /// Hosts that offer services, by name.
    #[serde(default)]
    pub server: BTreeMap<String, RawServer>,
    /// What hosts may reach, by name.
    #[serde(default)]
    pub policy: BTreeMap<String, RawPolicy>,
    /// The optical switch that the quantum channel goes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crossing: Option<RawCrossing>,
}

/// The optical switch, as its controller knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCrossing {
    /// Its datapath id: 16 hexadecimal digits.
    pub datapath: String,
    /// The port of the quantum channel.
    pub channel_port: u32,
    /// Certificates of these names, the ends of the channel, may ring the alarm.
    pub alarm_names: Vec<String>,
    /// The fibres, the one that is taken first at the head.
    pub fibre: Vec<RawFibrePort>,
}

/// A fibre behind the optical switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFibrePort {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u32,
}

impl RawCrossing {
    fn check(&self, faults: &mut Faults) -> Option<(OpticsConfig, Vec<SaeId>)> {
        let datapath = datapath(faults, "crossing.datapath", &self.datapath);
        let names = self.alarm_names.iter().map(|name| faults.parse("crossing.alarm_names", name));
        let names: Option<Vec<SaeId>> = names.collect();
        let mut ports: BTreeSet<u32> = self.fibre.iter().map(|fibre| fibre.port).collect();
        ports.insert(self.channel_port);
        if self.fibre.is_empty() || ports.len() <= self.fibre.len() {
            let right = "name at least one fibre, each with a port of its own";
            faults.note("crossing.fibre", format_args!("{} fibres", self.fibre.len()), right);
        }
        let fibres = self.fibre.iter().map(|of| (of.name.clone(), PortNumber(of.port))).collect();
        let channel = PortNumber(self.channel_port);
        Some((OpticsConfig { datapath: datapath?, channel, fibres }, names?))
    }
}

fn datapath(faults: &mut Faults, key: &str, text: &str) -> Option<DatapathId> {
    let parsed = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    if parsed.is_none() {
        faults.note(key, format_args!("\"{text}\""), "must be 16 hexadecimal digits");
    }
    parsed.map(DatapathId)
}

/// The port of the quantum channel at the emulated optical switch; the fibres follow.
pub const CHANNEL_PORT: u32 = 1;

/// `[optics]` of `claviger run fibre`: the emulated optical switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOptics {
    /// Where the controller takes switches by TLS.
    pub controller: String,
    /// The name in the controller's certificate.
    pub controller_name: String,
    /// Its datapath id: 16 hexadecimal digits.
    pub datapath: String,
    /// What the light loses at the port of the quantum channel.
    pub channel_insertion_db: f64,
    /// The fibres, at the ports from 2 on. An eavesdropper sits at the first.
    pub fibre: Vec<RawFibrePath>,
}

/// A fibre behind the emulated optical switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFibrePath {
    /// Its name.
    pub name: String,
    /// What the light loses in it.
    pub loss_db: f64,
    /// What the light loses at its port.
    pub insertion_db: f64,
}

/// A checked optical switch.
#[derive(Clone, Debug)]
pub struct OpticsRoleConfig {
    /// Where the controller is.
    pub controller: SocketAddr,
    /// The name in its certificate.
    pub controller_name: SaeId,
    /// Its name among switches.
    pub datapath: DatapathId,
    /// The fibres, at the ports from 2 on.
    pub fibres: Vec<FibrePath>,
}

/// A fibre with the loss of the whole path through it.
#[derive(Clone, Debug)]
pub struct FibrePath {
    /// Its name.
    pub name: String,
    /// Fibre and both ports.
    pub loss: Decibels,
}

impl RawOptics {
    pub(super) fn check(self, faults: &mut Faults) -> Option<OpticsRoleConfig> {
        let controller = faults.address("optics.controller", &self.controller);
        let controller_name = faults.parse("optics.controller_name", &self.controller_name);
        let datapath = datapath(faults, "optics.datapath", &self.datapath);
        let fibres = self.fibre.into_iter().map(|fibre| {
            let parts = [self.channel_insertion_db, fibre.loss_db, fibre.insertion_db];
            let losses = parts.map(Decibels::from_db).into_iter().collect::<Result<Vec<_>, _>>();
            let losses = losses.map_err(|error| faults.note("optics.fibre", &fibre.name, error));
            let sum = losses.ok()?.iter().map(|loss| loss.as_db()).sum();
            Some(FibrePath { name: fibre.name, loss: Decibels::from_db(sum).ok()? })
        });
        let fibres: Option<Vec<FibrePath>> = fibres.collect();
        Some(OpticsRoleConfig {
            controller: controller?,
            controller_name: controller_name?,
            datapath: datapath?,
            fibres: fibres?,
        })
    }
}

/// A host that offers services.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawServer {
    /// Its card.
    pub mac: String,
    /// Its addresses, which nobody else can take.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What it reaches itself, as in a policy; nothing, as a rule: servers are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reaches: Vec<String>,
}

/// What hosts of one kind may do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    /// `SERVER tcp PORT`, `SERVER udp PORT`, `SERVER icmp`, or `peers`.
    pub reaches: Vec<String>,
    /// Packets a second that one host may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_per_s: Option<u32>,
}

/// A checked controller.
#[derive(Clone, Debug)]
pub struct ControllerRoleConfig {
    /// Where switches connect in clear.
    pub openflow: Option<SocketAddr>,
    /// Where switches connect by TLS.
    pub openflow_tls: Option<SocketAddr>,
    /// Whose certificates are switches.
    pub switch_names: Vec<SaeId>,
    /// Where operators ask.
    pub https: SocketAddr,
    /// Who may do everything.
    pub operator: SaeId,
    /// Who may admit.
    pub provisioning: SaeId,
    /// Where silent hosts are looked for.
    pub sweep: Vec<AddressRange>,
    /// The DHCP server.
    pub dhcp_server: Option<MacAddr>,
    /// How fast a port may bring packets of unknown cards.
    pub unknown: PacketRate,
    /// Hosts that offer services.
    pub servers: Vec<Server>,
    /// What hosts may reach; the last ones are those of the servers.
    pub policies: Vec<Policy>,
    /// The optical switch, and who may ring the alarm.
    pub crossing: Option<(OpticsConfig, Vec<SaeId>)>,
}

/// A checked host that offers services.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its card.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it reaches itself.
    pub policy: PolicyId,
}

/// The folder of further policies: each in a file of its own, under its name.
pub const POLICIES: &str = "policies";

fn further_policies(faults: &mut Faults, folder: &Path) -> BTreeMap<String, RawPolicy> {
    let mut policies = BTreeMap::new();
    // Where the folder is not there, there are none.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        let read = text.and_then(|text| {
            toml::from_str::<RawPolicy>(&text).map_err(|error| error.message().to_owned())
        });
        match read {
            Ok(policy) => drop(policies.insert(name.to_owned(), policy)),
            Err(why) => faults.note("policies", path.display(), why),
        }
    }
    policies
}

/// How the policies of servers are called: those that begin nothing by themselves have this one, others
/// one with their own name behind a colon.
pub const SERVERS: &str = "server";

impl Raw for RawController {
    type Config = ControllerRoleConfig;

    fn check(mut self, faults: &mut Faults, folder: &Path) -> Option<ControllerRoleConfig> {
        self.add_policies(faults, &folder.join(POLICIES));
        let listens = [&self.openflow_listen, &self.openflow_tls_listen];
        if listens.into_iter().all(Option::is_none) {
            let right = "name at least one of openflow_listen and openflow_tls_listen";
            faults.note("openflow_listen", "nothing", right);
        }
        let openflow = self.openflow_listen.as_deref().map(|text| self.in_clear(faults, text));
        let openflow_tls = self.openflow_tls_listen.as_deref();
        let openflow_tls = openflow_tls.map(|text| faults.address("openflow_tls_listen", text));
        let https = faults.address("https_listen", &self.https_listen);
        let switches = self.switch_names.iter().map(|name| faults.parse("switch_names", name));
        let switch_names: Option<Vec<SaeId>> = switches.collect();
        let operator = faults.parse("operator_name", &self.operator_name);
        let provisioning = faults.parse("provisioning_name", &self.provisioning_name);
        let sweep = self.sweep.iter().map(|text| faults.parse("sweep", text));
        let sweep: Option<Vec<AddressRange>> = sweep.collect();
        if !(1..=100_000).contains(&self.unknown_per_s) {
            faults.note("unknown_per_s", self.unknown_per_s, "must lie between 1 and 100000");
        }
        let servers = self.servers(faults);
        let by_name = |name: &str| servers.get(name).map(|(mac, _)| *mac);
        let dhcp_server = self.dhcp_server.as_deref().map(|name| {
            let found = by_name(name);
            if found.is_none() {
                let right = "must be the name of a [server]";
                faults.note("dhcp_server", format_args!("\"{name}\""), right);
            }
            found
        });
        let mut policies = Vec::new();
        for (name, policy) in &self.policy {
            policies.extend(policy.check(faults, name, by_name));
        }
        let checked = self.with_policies(faults, &servers, &mut policies);
        let burst = self.unknown_per_s.max(50);
        let crossing = match &self.crossing {
            None => None,
            Some(crossing) => Some(crossing.check(faults)?),
        };
        Some(ControllerRoleConfig {
            crossing,
            openflow: openflow.flatten(),
            openflow_tls: openflow_tls.flatten(),
            switch_names: switch_names?,
            https: https?,
            operator: operator?,
            provisioning: provisioning?,
            sweep: sweep?,
            dhcp_server: dhcp_server.flatten(),
            unknown: PacketRate { per_second: self.unknown_per_s, burst },
            servers: checked,
            policies,
        })
    }
}

impl RawController {
    /// Takes in the policies of a folder, each of which needs a name of its own.
    fn add_policies(&mut self, faults: &mut Faults, folder: &Path) {
        for (name, policy) in further_policies(faults, folder) {
            if self.policy.contains_key(&name) {
                let right = "is a policy of the configuration already; give the file another name";
                faults.note("policies", format_args!("\"{name}\""), right);
            }
            self.policy.entry(name).or_insert(policy);
        }
    }

    /// Gives every server its policy, which is put behind those of hosts.
    fn with_policies(
        &self,
        faults: &mut Faults,
        servers: &BTreeMap<String, (MacAddr, Vec<IpAddr>)>,
        policies: &mut Vec<Policy>,
    ) -> Vec<Server> {
        let by_name = |name: &str| servers.get(name).map(|(mac, _)| *mac);
        let mut checked = Vec::new();
        for (name, (mac, addresses)) in servers {
            let reaches = self.server.get(name).map(|server| &server.reaches[..]);
            let policy = servers_policy(faults, name, reaches.unwrap_or_default(), by_name);
            let known = policies.iter().position(|known| known.name == policy.name);
            let at = known.unwrap_or(policies.len());
            if known.is_none() {
                policies.push(policy);
            }
            let policy = PolicyId(u16::try_from(at + 1).unwrap_or(u16::MAX));
            checked.push(Server { mac: *mac, addresses: addresses.clone(), policy });
        }
        checked
    }

    fn in_clear(&self, faults: &mut Faults, text: &str) -> Option<SocketAddr> {
        let address = faults.address("openflow_listen", text)?;
        if !address.ip().is_loopback() && !self.danger_openflow_in_clear {
            let right = "must be a loopback address; use openflow_tls_listen, or set \
                         danger_openflow_in_clear = true where the wires themselves are safe";
            faults.note("openflow_listen", address, right);
        }
        Some(address)
    }

    fn servers(&self, faults: &mut Faults) -> BTreeMap<String, (MacAddr, Vec<IpAddr>)> {
        let mut servers = BTreeMap::new();
        for (name, server) in &self.server {
            let key = format!("server.{name}");
            let mac = faults.parse(&key, &server.mac);
            let addresses = server.addresses.iter().map(|text| faults.parse(&key, text));
            let addresses: Option<Vec<IpAddr>> = addresses.collect();
            if name.contains(char::is_whitespace) {
                faults.note(&key, format_args!("\"{name}\""), "must be a name without spaces");
            }
            if let (Some(mac), Some(addresses)) = (mac, addresses) {
                servers.insert(name.clone(), (mac, addresses));
            }
        }
        servers
    }
}

impl RawPolicy {
    fn check(
        &self,
        faults: &mut Faults,
        name: &str,
        server: impl Fn(&str) -> Option<MacAddr>,
    ) -> Option<Policy> {
        let key = format!("policy.{name}");
        if name.split(':').next() == Some(SERVERS) {
            let right = "is a name of policies of servers themselves; choose another";
            faults.note(&key, format_args!("\"{name}\""), right);
        }
        let reaches = reaches(faults, &key, &self.reaches, server);
        let limit =
            self.packets_per_s.map(|per_second| PacketRate { per_second, burst: per_second });
        if limit.is_some_and(|limit| limit.per_second == 0) {
            faults.note(&key, 0, "packets_per_s must be above 0");
        }
        Some(Policy { name: name.to_owned(), reaches, limit })
    }
}

/// The policy of a server: most have none of their own.
fn servers_policy(
    faults: &mut Faults,
    name: &str,
    texts: &[String],
    server: impl Fn(&str) -> Option<MacAddr>,
) -> Policy {
    let reaches = reaches(faults, &format!("server.{name}"), texts, server);
    let own = format!("{SERVERS}:{name}");
    let name = if reaches.is_empty() { SERVERS.to_owned() } else { own };
    Policy { name, reaches, limit: None }
}

fn reaches(
    faults: &mut Faults,
    key: &str,
    texts: &[String],
    server: impl Fn(&str) -> Option<MacAddr>,
) -> Vec<Reach> {
    let mut reaches = Vec::new();
    for text in texts {
        match reach(text, &server) {
            Ok(reach) => reaches.push(reach),
            Err(right) => faults.note(key, format_args!("\"{text}\""), right),
        }
    }
    reaches
}

fn reach(text: &str, server: impl Fn(&str) -> Option<MacAddr>) -> Result<Reach, String> {
    let form = "must be `SERVER tcp PORT`, `SERVER udp PORT`, `SERVER icmp` or `peers`";
    let words: Vec<&str> = text.split_whitespace().collect();
    let host = |name: &str| server(name).ok_or_else(|| format!("there is no [server.{name}]"));
    let port = |text: &str| text.parse::<u16>().or(Err(form.to_owned()));
    match words[..] {
        ["peers"] => Ok(Reach::Peers),
        [name, "tcp", number] => {
            Ok(Reach::Service { host: host(name)?, service: Service::Tcp(port(number)?) })
        }
        [name, "udp", number] => {
            Ok(Reach::Service { host: host(name)?, service: Service::Udp(port(number)?) })
        }
        [name, "icmp"] => Ok(Reach::Service { host: host(name)?, service: Service::Icmp }),
        _ => Err(form.to_owned()),
    }
}

/// `claviger run lan`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLan {
    /// Where the controller takes switches by TLS.
    pub controller: String,
    /// The name in the controller's certificate.
    pub controller_name: String,
    /// Where emulated devices plug in.
    pub listen: String,
    /// Edge switches, each with an uplink to either of two spines.
    pub edges: u32,
    /// Ports of an edge switch for devices.
    pub ports: u32,
    /// The server's card.
    pub server_mac: String,
    /// The server's address.
    pub server_address: String,
}

/// A checked emulated network.
#[derive(Clone, Debug)]
pub struct LanRoleConfig {
    /// Where the controller is.
    pub controller: SocketAddr,
    /// The name in its certificate.
    pub controller_name: SaeId,
    /// Where emulated devices plug in.
    pub listen: SocketAddr,
    /// Edge switches.
    pub edges: u32,
    /// Ports of an edge switch for devices.
    pub ports: u32,
    /// The server's card and address.
    pub server: (MacAddr, Ipv4Addr),
}

impl Raw for RawLan {
    type Config = LanRoleConfig;

    fn check(self, faults: &mut Faults, _: &Path) -> Option<LanRoleConfig> {
        let controller = faults.address("controller", &self.controller);
        let controller_name = faults.parse("controller_name", &self.controller_name);
        let listen = faults.loopback("listen", &self.listen);
        for (key, value) in [("edges", self.edges), ("ports", self.ports)] {
            if !(1..=4096).contains(&value) {
                faults.note(key, value, "must lie between 1 and 4096");
            }
        }
        let mac = faults.parse("server_mac", &self.server_mac);
        let ip = faults.parse("server_address", &self.server_address);
        Some(LanRoleConfig {
            controller: controller?,
            controller_name: controller_name?,
            listen: listen?,
            edges: self.edges,
            ports: self.ports,
            server: (mac?, ip?),
        })
    }
}

/// `[enrolment]` of `claviger run platform`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawEnrolment {
    /// The controller of the network.
    pub controller_url: String,
    /// Who approves a device whose label was brought.
    pub approval: RawApproval,
    /// What a device may reach whose label names no policy: one of the controller's.
    pub policy: String,
}

/// Who approves devices, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawApproval {
    /// Whoever brings the label.
    Import,
    /// An operator, one by one.
    Operator,
}

/// How devices get into the network.
#[derive(Clone, Debug)]
pub struct EnrolmentConfig {
    /// The controller of the network.
    pub controller_url: String,
    /// Who approves.
    pub approval: Approval,
    /// What a device may reach whose label names no policy.
    pub policy: String,
}

impl RawEnrolment {
    pub(super) fn check(self, faults: &mut Faults) -> EnrolmentConfig {
        check_url(faults, "enrolment.controller_url", &self.controller_url);
        if self.policy.is_empty() || self.policy.contains(char::is_whitespace) {
            let right = "must be the name of a policy of the controller's";
            faults.note("enrolment.policy", format_args!("\"{}\"", self.policy), right);
        }
        let approval = match self.approval {
            RawApproval::Import => Approval::ByImport,
            RawApproval::Operator => Approval::ByOperator,
        };
        EnrolmentConfig { controller_url: self.controller_url, approval, policy: self.policy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        openflow_listen = "127.0.0.1:6653"
        switch_names = ["switch"]
        https_listen = "127.0.0.1:14017"
        operator_name = "operator"
        provisioning_name = "platform"
        sweep = ["10.0.0.0/24"]
        unknown_per_s = 100
        [server.gateway]
        mac = "02:00:5e:10:ff:01"
        addresses = ["10.0.0.1"]
        [policy.sensor]
        reaches = ["gateway tcp 8883", "gateway tcp 8443", "gateway icmp"]
        packets_per_s = 200
        [policy.open]
        reaches = ["peers"]
    "#;

    fn checked(text: &str) -> Result<ControllerRoleConfig, String> {
        let raw: RawController = toml::from_str(text).unwrap();
        let mut faults = Faults::default();
        let config = raw.check(&mut faults, Path::new("."));
        if faults.0.is_empty() { Ok(config.unwrap()) } else { Err(faults.to_string()) }
    }

    #[test]
    fn a_policy_names_servers_and_what_is_spoken_with_them() {
        let config = checked(GOOD).unwrap();
        let gateway: MacAddr = "02:00:5e:10:ff:01".parse().unwrap();
        let names: Vec<_> = config.policies.iter().map(|policy| &policy.name[..]).collect();
        assert_eq!(names, ["open", "sensor", SERVERS]);
        assert_eq!(config.policies[0].reaches, [Reach::Peers]);
        let service = |service| Reach::Service { host: gateway, service };
        let reaches = [Service::Tcp(8883), Service::Tcp(8443), Service::Icmp].map(service);
        assert_eq!(config.policies[1].reaches, reaches);
    }

    #[test]
    fn a_server_reaches_others_only_where_its_entry_says_so() {
        let broker =
            "\n[server.broker]\nmac = \"02:00:5e:10:ff:02\"\nreaches = [\"gateway tcp 1\"]\n";
        let config = checked(&(GOOD.to_owned() + broker)).unwrap();
        let names: Vec<_> = config.policies.iter().map(|policy| &policy.name[..]).collect();
        assert_eq!(names, ["open", "sensor", "server:broker", SERVERS]);
        let policies: Vec<_> = config.servers.iter().map(|server| server.policy).collect();
        assert_eq!(policies, [PolicyId(3), PolicyId(4)]);
        assert_eq!(config.policies[2].reaches.len(), 1);
        assert!(config.policies[3].reaches.is_empty());
        let wrong = checked(&(GOOD.to_owned() + &broker.replace("gateway", "moon"))).unwrap_err();
        assert!(wrong.contains("server.broker") && wrong.contains("[server.moon]"), "{wrong}");
        let taken = GOOD.replace("policy.open", "policy.\"server:x\"");
        assert!(checked(&taken).unwrap_err().contains("choose another"));
    }

    #[test]
    fn every_fault_is_named_with_what_would_be_right() {
        for (from, to, told) in [
            ("127.0.0.1:6653", "0.0.0.0:6653", "danger_openflow_in_clear"),
            ("10.0.0.0/24", "10.0.0.0/2", "a prefix of 16 to 32"),
            ("gateway tcp 8883", "gateway tcp", "must be `SERVER tcp PORT`"),
            ("gateway tcp 8883", "broker tcp 8883", "there is no [server.broker]"),
            ("02:00:5e:10:ff:01", "02:00", "six pairs of hex digits"),
            ("policy.open", "policy.server", "choose another"),
            ("packets_per_s = 200", "packets_per_s = 0", "above 0"),
            ("unknown_per_s = 100", "unknown_per_s = 0", "between 1 and 100000"),
            ("openflow_listen = \"127.0.0.1:6653\"", "", "name at least one"),
        ] {
            let told_really = checked(&GOOD.replace(from, to)).unwrap_err();
            assert!(told_really.contains(told), "{told}: {told_really}");
        }
    }
}
