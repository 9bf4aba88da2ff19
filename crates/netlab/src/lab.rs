//! Building a network inside its enclosure.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::needs::program;
use crate::{Host, Plan};

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
    pub fn build(plan: &Plan, control: &Control) -> Result<Self, LabError> {
        let switches = OpenVswitch::start()?;
        make_hosts(plan)?;
        make_cables(plan)?;
        // One daemon makes all bridges, one after the other; hosts are dressed meanwhile.
        std::thread::scope(|scope| {
            let dressing = scope.spawn(|| at_once(plan, dress));
            switches.make_bridges(plan, control)?;
            dressing.join().unwrap_or_else(|_| Err(panicked()))
        })?;
        Ok(Self { switches })
    }

    /// Lets every host announce its address, as a device does when it comes up (RFC 5227 §2.3).
    pub fn announce(&self, plan: &Plan) -> Result<(), LabError> {
        at_once(plan, |host| {
            // The kernel announces an address whose card gets a name, be it the same.
            let words = ["ip", "link", "set", &host.name, "address", &host.mac.to_string()];
            run(inside(host).args(words))
        })
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
    run(program("ip").args(["link", "set", "lo", "up"]))?;
    // Namespaces by name lie there, and programs of the machine must not see ours.
    run(program("mount").args(["-t", "tmpfs", "tmpfs", PRIVATE]))?;
    for folder in ["openvswitch", "netns", "lock"] {
        let path = PathBuf::from(PRIVATE).join(folder);
        fs::create_dir_all(path).map_err(system("making a private folder"))?;
    }
    Ok(())
}

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// The ports of all bridges: first those of hosts, in their order, then those of cables.
fn ports(plan: &Plan) -> Vec<(String, String)> {
    let hosts = plan.hosts.iter().map(|host| (host.switch, format!("{}-s", host.name)));
    let cables = (1..)
        .zip(&plan.cables)
        .flat_map(|(n, &(a, b))| [(a, format!("c{n}-a")), (b, format!("c{n}-b"))]);
    hosts.chain(cables).map(|(switch, port)| (format!("s{switch}"), port)).collect()
}

/// Makes every host: a namespace with one card, whose other end stays for its switch.
fn make_hosts(plan: &Plan) -> Result<(), LabError> {
    let mut outside = String::new();
    for host in &plan.hosts {
        let name = &host.name;
        outside += &format!("netns add {name}\n");
        outside += &format!(
            "link add {name}-s type veth peer name {name} address {} netns {name}\n",
            host.mac
        );
        outside += &format!("link set {name}-s up\n");
    }
    batch(&outside)
}

/// Does something to every host.
fn at_once(plan: &Plan, work: fn(&Host) -> Result<(), LabError>) -> Result<(), LabError> {
    // Most of the time goes into starting small programs, which several processors share.
    let workers = std::thread::available_parallelism().map_or(2, |n| 2 * n.get());
    let share = plan.hosts.len().div_ceil(workers);
    std::thread::scope(|scope| {
        let workers: Vec<_> = plan
            .hosts
            .chunks(share)
            .map(|hosts| scope.spawn(move || hosts.iter().try_for_each(work)))
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(panicked())))
    })
}

fn panicked() -> LabError {
    LabError::Failed { command: "a thread of this program".into(), said: "it panicked".into() }
}

/// Gives a host its address. Without IPv6 there is no multicast of hundreds of hosts; checksums are
/// made by the host, as a userspace datapath does not make up for them.
fn dress(host: &Host) -> Result<(), LabError> {
    let (name, address) = (&host.name, host.address);
    let script = format!(
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6\n\
         echo 1 > /proc/sys/net/ipv4/conf/{name}/arp_notify\nethtool -K {name} tx off > /dev/null\n\
         exec ip -batch - <<END\nlink set lo up\nlink set {name} up\naddr add {address}/16 dev {name}\nEND\n"
    );
    run(inside(host).args(["sh", "-ec", &script]))
}

/// A command in the namespace of a host. `ip netns exec` would give it a file system of its own as
/// well, which takes longer than all the rest.
fn inside(host: &Host) -> Command {
    let mut command = program("nsenter");
    command.arg(format!("--net={PRIVATE}/netns/{}", host.name));
    command
}

fn make_cables(plan: &Plan) -> Result<(), LabError> {
    let lines = (1..=plan.cables.len()).fold(String::new(), |all, n| {
        all + &format!(
            "link add c{n}-a type veth peer name c{n}-b\nlink set c{n}-a up\nlink set c{n}-b up\n"
        )
    });
    batch(&lines)
}

/// Runs many commands of `ip` in one process.
fn batch(lines: &str) -> Result<(), LabError> {
    let mut ip = program("ip");
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.spawn().map_err(system("starting ip"))?;
    let mut input = child.stdin.take().expect("the input is a pipe");
    let written = input.write_all(lines.as_bytes());
    drop(input);
    let ended = child.wait_with_output().map_err(system("waiting for ip"))?;
    if !ended.status.success() {
        return Err(failed("ip -batch -", &ended.stderr));
    }
    written.map_err(system("writing to ip"))
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

fn system(what: &str) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.to_owned();
    move |source| LabError::System { what, source }
}
