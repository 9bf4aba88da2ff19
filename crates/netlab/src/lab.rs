//! Building a network inside its enclosure.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::cards::Cards;
use crate::link::{HostLinks, Joint, Relay};
use crate::needs::program;
use crate::{Host, Plan, namespace};

/// How switches reach their controller.
#[derive(Clone, Debug)]
pub enum Control {
    /// In clear.
    Tcp(SocketAddr),
    /// By TLS, both ends with certificates.
    Tls(SocketAddr, TlsFiles),
}

/// The files of a switch that speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its private key.
    pub key: PathBuf,
    /// Its certificate.
    pub certificate: PathBuf,
    /// The authority that it trusts.
    pub authority: PathBuf,
}

/// Why a network could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program failed: what it said stands there.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// The program and its first words.
        command: String,
        /// What it said.
        said: String,
    },
    /// The kernel refused to make or change a card.
    #[error("{what}: {source}")]
    Kernel {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// A program could not be started, or a file not be written.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A network that stands; it goes with the namespaces in which it was built.
#[derive(Debug)]
pub struct Lab {
    switches: OpenVswitch,
    // Between hosts and switches, where links are worse than cables.
    relay: Option<Relay>,
}

/// Open vSwitch without a switch yet; it goes with the namespaces in which it was started.
#[derive(Debug)]
pub struct OpenVswitch {
    // Its files, which nobody else reads.
    folder: TempDir,
}

impl Lab {
    /// Builds a network; the caller runs inside [`enclosed`](crate::enclosed), after [`settle_in`],
    /// and nowhere else.
    ///
    /// The hosts are network namespaces with the names of the plan: `ip netns exec h1 ping 10.67.0.1`.
    pub fn build(
        plan: &Plan,
        control: &Control,
        links: Option<HostLinks>,
    ) -> Result<Self, LabError> {
        let switches = OpenVswitch::start()?;
        let (outside, cards) = (namespace::own()?, Cards::open()?);
        let end = |host: &Host| {
            let is_relayed = links.is_some() && relayed(plan).contains(host);
            format!("{}{}", host.name, if is_relayed { RELAYED } else { AT_SWITCH })
        };
        at_once(plan, |host| make_host(host, &outside, &end(host)))?;
        for host in &plan.hosts {
            cards.bring_up(&end(host))?;
        }
        for (n, _) in (1..).zip(&plan.cables) {
            lay(&cards, &format!("c{n}-a"), &format!("c{n}-b"))?;
        }
        let relay = links.map(|links| relay(plan, &cards, links)).transpose()?;
        switches.make_bridges(plan, control)?;
        Ok(Self { switches, relay })
    }

    /// Lets every host announce its address, as a device does when it comes up (RFC 5227 §2.3).
    pub fn announce(&self, plan: &Plan) -> Result<(), LabError> {
        at_once(plan, |host| {
            namespace::enter(&host.name)?;
            // The kernel announces an address whose card gets a name, be it the same.
            Cards::open()?.set_mac(&host.name, host.mac)
        })
    }

    /// Returns the links between hosts and switches; nothing where they are cables.
    #[must_use]
    pub const fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// Returns the folder that `OVS_RUNDIR` must name for the tools of Open vSwitch.
    #[must_use]
    pub fn ovs_rundir(&self) -> PathBuf {
        self.switches.rundir()
    }
}

impl OpenVswitch {
    /// Starts its daemons; the caller runs inside [`enclosed`](crate::enclosed), after [`settle_in`].
    pub fn start() -> Result<Self, LabError> {
        let folder = tempfile::tempdir_in(PRIVATE);
        let folder = folder.map_err(system("making a folder for Open vSwitch"))?;
        let started = Self { folder };
        let (run_folder, base) = (started.rundir(), started.folder.path());
        fs::create_dir_all(&run_folder).map_err(system("making a folder for Open vSwitch"))?;
        let (database, socket) = (base.join("conf.db"), run_folder.join("db.sock"));
        run(started.ovs("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;
        let daemon = |name: &str| {
            let mut command = started.ovs(name);
            command.arg(format!(
                "--pidfile={}",
                run_folder.join(name).with_extension("pid").display()
            ));
            command.arg(format!("--log-file={}", base.join(name).with_extension("log").display()));
            command.args(["--detach", "--no-chdir", "-vconsole:off"]);
            command
        };
        run(daemon("ovsdb-server")
            .arg(&database)
            .arg(format!("--remote=punix:{}", socket.display())))?;
        run(started.ovs("ovs-vsctl").args(["--no-wait", "init"]))?;
        run(daemon("ovs-vswitchd").arg(format!("unix:{}", socket.display())))?;
        Ok(started)
    }

    /// Returns the folder that `OVS_RUNDIR` must name for its tools.
    #[must_use]
    pub fn rundir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Makes all bridges with their ports in one transaction: one for each would take minutes.
    fn make_bridges(&self, plan: &Plan, control: &Control) -> Result<(), LabError> {
        let mut vsctl = self.ovs("ovs-vsctl");
        if let Control::Tls(_, files) = control {
            vsctl.arg("set-ssl").args([&files.key, &files.certificate, &files.authority]);
            vsctl.arg("--");
        }
        let target = match control {
            Control::Tcp(address) => format!("tcp:{}:{}", address.ip(), address.port()),
            Control::Tls(address, _) => format!("ssl:{}:{}", address.ip(), address.port()),
        };
        for switch in 1..=plan.n_switches {
            let bridge = format!("s{switch}");
            vsctl.args(["add-br", &bridge, "--", "set", "bridge", &bridge]);
            vsctl.args(["datapath_type=netdev", "protocols=OpenFlow13", "fail_mode=secure"]);
            vsctl.arg(format!("other-config:datapath-id={switch:016x}")).arg("--");
            vsctl.args(["set-controller", &bridge, &target, "--"]);
            // A controller that was away is tried again every second.
            vsctl.args(["set", "controller", &bridge, "max_backoff=1000", "--"]);
        }
        for (bridge, port) in ports(plan) {
            vsctl.args(["add-port", &bridge, &port, "--"]);
        }
        vsctl.arg("init");
        run(&mut vsctl)
    }

    fn ovs(&self, name: &str) -> Command {
        let mut command = program(name);
        command.env("OVS_RUNDIR", self.rundir());
        command
    }
}

/// The folder that goes with the namespaces; nobody else sees what lies there.
pub const PRIVATE: &str = "/run";

/// Makes fresh namespaces fit to live in: a loopback, and a private folder [`PRIVATE`].
pub fn settle_in() -> Result<(), LabError> {
    // The caller's thread may drive tasks, among which nobody waits.
    joined(std::thread::spawn(|| Cards::open()?.bring_up("lo")))?;
    // Nobody but hosts speaks on the cards of switches.
    namespace::set_value("ipv6/conf/default/disable_ipv6", "1")?;
    // Namespaces by name lie there, and programs of the machine must not see ours.
    namespace::cover(PRIVATE)?;
    for folder in ["openvswitch", "netns", "lock"] {
        let path = PathBuf::from(PRIVATE).join(folder);
        fs::create_dir_all(path).map_err(system("making a private folder"))?;
    }
    Ok(())
}

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// The ports of all bridges: first those of hosts, in their order, then those of cables.
fn ports(plan: &Plan) -> Vec<(String, String)> {
    let hosts = plan.hosts.iter().map(|host| (host.switch, format!("{}{AT_SWITCH}", host.name)));
    let cables = (1..)
        .zip(&plan.cables)
        .flat_map(|(n, &(a, b))| [(a, format!("c{n}-a")), (b, format!("c{n}-b"))]);
    hosts.chain(cables).map(|(switch, port)| (format!("s{switch}"), port)).collect()
}

/// What the card at the other end of a host's cable is called after the host's name: the port of its
/// switch, or the near card of a relay, whose far card has a cable to the port.
const AT_SWITCH: &str = "-s";
const RELAYED: &str = "-r";

/// The hosts whose links may be worse than cables: the gateway has a cable.
fn relayed(plan: &Plan) -> &[Host] {
    plan.hosts.get(1..).unwrap_or_default()
}

/// Makes a host: a namespace with one card, up and with its address, whose other end is `outside`.
///
/// Without IPv6 there is no multicast of hundreds of hosts; checksums are made by the host, as a
/// userspace datapath does not make up for them.
fn make_host(host: &Host, outside: &File, end: &str) -> Result<(), LabError> {
    let name = &host.name;
    namespace::make(name)?;
    let cards = Cards::open()?;
    namespace::set_value("ipv6/conf/all/disable_ipv6", "1")?;
    cards.add_cable((name, Some(host.mac)), (end, Some(outside)))?;
    namespace::set_value(&format!("ipv4/conf/{name}/arp_notify"), "1")?;
    run(program("ethtool").args(["-K", name, "tx", "off"]))?;
    cards.bring_up("lo")?;
    cards.add_address(name, host.address, 16)
}

/// Lays a cable in this namespace, both of whose cards are up.
fn lay(cards: &Cards, near: &str, far: &str) -> Result<(), LabError> {
    cards.add_cable((near, None), (far, None))?;
    cards.bring_up(far)
}

/// Puts a relay between every host but the gateway and its switch.
fn relay(plan: &Plan, cards: &Cards, links: HostLinks) -> Result<Relay, LabError> {
    let mut joints = Vec::new();
    for Host { name, .. } in relayed(plan) {
        let far = format!("{name}-f");
        lay(cards, &far, &format!("{name}{AT_SWITCH}"))?;
        joints.push(Joint { host: name.clone(), near: format!("{name}{RELAYED}"), far });
    }
    Relay::between(joints, links)
}

/// Does something to every host, in threads of their own, which may move into namespaces.
fn at_once(
    plan: &Plan,
    work: impl Fn(&Host) -> Result<(), LabError> + Sync,
) -> Result<(), LabError> {
    let workers = std::thread::available_parallelism().map_or(2, |n| 2 * n.get());
    let share = plan.hosts.len().div_ceil(workers);
    let work = &work;
    std::thread::scope(|scope| {
        let workers: Vec<_> = plan
            .hosts
            .chunks(share)
            .map(|hosts| scope.spawn(move || hosts.iter().try_for_each(work)))
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(panicked())))
    })
}

/// Waits for a thread.
pub(crate) fn joined(
    thread: std::thread::JoinHandle<Result<(), LabError>>,
) -> Result<(), LabError> {
    thread.join().unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> LabError {
    LabError::Failed { command: "a thread of this program".into(), said: "it panicked".into() }
}

fn run(command: &mut Command) -> Result<(), LabError> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.take(6).map(|word| word.to_string_lossy().into_owned()).collect();
    let words = words.join(" ");
    let ended =
        command.stdin(Stdio::null()).output().map_err(system(&format!("starting {words}")))?;
    if ended.status.success() { Ok(()) } else { Err(failed(&words, &ended.stderr)) }
}

fn failed(command: &str, said: &[u8]) -> LabError {
    let said = String::from_utf8_lossy(said).trim().to_owned();
    LabError::Failed { command: command.to_owned(), said }
}

pub(crate) fn system(what: &str) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.to_owned();
    move |source| LabError::System { what, source }
}
