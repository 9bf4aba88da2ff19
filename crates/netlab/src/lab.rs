//! Building a network inside its enclosure.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Plan;
use crate::needs::program;

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
    // The files of Open vSwitch, which nobody else reads.
    folder: TempDir,
}

impl Lab {
    /// Builds a network; the caller runs inside [`enclosed`](crate::enclosed) and nowhere else.
    ///
    /// The hosts are network namespaces with the names of the plan: `ip netns exec h1 ping 10.67.0.1`.
    pub fn build(plan: &Plan, control: &Control) -> Result<Self, LabError> {
        let lab = Self::start_switches()?;
        make_hosts(plan)?;
        make_cables(plan)?;
        lab.make_bridges(plan, control)?;
        Ok(lab)
    }

    /// Returns the folder that `OVS_RUNDIR` must name for the tools of Open vSwitch.
    #[must_use]
    pub fn ovs_rundir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn start_switches() -> Result<Self, LabError> {
        // Namespaces by name lie there, and programs of the machine must not see ours.
        run(program("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
        for folder in ["/run/openvswitch", "/run/netns", "/run/lock"] {
            fs::create_dir_all(folder).map_err(system("making a folder"))?;
        }
        let folder = tempfile::tempdir().map_err(system("making a folder for Open vSwitch"))?;
        let lab = Self { folder };
        let (run_folder, base) = (lab.ovs_rundir(), lab.folder.path());
        fs::create_dir_all(&run_folder).map_err(system("making a folder for Open vSwitch"))?;
        let (database, socket) = (base.join("conf.db"), run_folder.join("db.sock"));
        run(lab.ovs("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;
        let daemon = |name: &str| {
            let mut command = lab.ovs(name);
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
        run(lab.ovs("ovs-vsctl").args(["--no-wait", "init"]))?;
        run(daemon("ovs-vswitchd").arg(format!("unix:{}", socket.display())))?;
        Ok(lab)
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
        command.env("OVS_RUNDIR", self.ovs_rundir());
        command
    }
}

/// Brings up the loopback of the namespace, on which nobody has listened yet.
pub fn raise_loopback() -> Result<(), LabError> {
    run(program("ip").args(["link", "set", "lo", "up"]))
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
    batch(&outside)?;
    for host in &plan.hosts {
        let name = &host.name;
        // Without IPv6 no multicast of hundreds of hosts, and with checksums, which a userspace
        // datapath does not make up for.
        let inside = format!(
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up; ip link set {name} up; \
             ip addr add {}/16 dev {name}; ethtool -K {name} tx off > /dev/null",
            host.address
        );
        run(program("ip").args(["netns", "exec", name, "sh", "-ec", &inside]))?;
    }
    Ok(())
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
