//! `claviger lab mininet`: a tree of Mininet under this controller.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use claviger_netlab::{Joint, OpenVswitch, Relay, Topology, card};
use claviger_roles::config::{RawController, RawPolicy, RawServer};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::fleet::{self, Cast, Fleet, Player};
use super::found::{self, Wanted};
use super::links;
use crate::cli::lab::{LabFleetArgs, LabMininetArgs, LabPolicy};
use crate::console;
use crate::sdn::Controller;

/// Says what is missing for a network of Mininet, and what works without.
pub(super) fn check_needs() -> Result<()> {
    let mut missing: Vec<String> =
        claviger_netlab::missing().iter().map(ToString::to_string).collect();
    if python().is_none() {
        missing.push("there is no Mininet: install mininet".to_owned());
    }
    if !missing.is_empty() {
        bail!(
            "Mininet cannot be run here:\n  {}\n`claviger lab net` needs no Mininet, `claviger up` nothing \
             at all",
            missing.join("\n  ")
        );
    }
    Ok(())
}

/// Runs this program again inside private namespaces.
pub(crate) fn enclose(args: &LabMininetArgs, verbosity: u8) -> Result<ExitCode> {
    check_needs()?;
    let topology = args.topology.to_string();
    let mut words = vec!["lab", "mininet-inside", &topology];
    if !args.fleet.is_wanted {
        words.extend(["--policy", super::policy_name(args.policy)]);
    }
    let (link, fleet) = (args.link.words(), args.fleet.words());
    words.extend(link.iter().chain(&fleet).map(String::as_str));
    words.extend(args.cli.then_some("--cli"));
    // The exit code is the command's own.
    let note = tempfile::NamedTempFile::new().context("a file for a note cannot be made")?;
    let hung =
        note.path().to_str().context("the folder for temporary files has no text for a name")?;
    words.extend(["--hung", hung]);
    let code = super::enclosed(verbosity, &words, &args.command)?;
    let has_hung = || note.as_file().metadata().is_ok_and(|file| file.len() > 0);
    if !has_hung() {
        return Ok(code);
    }
    console::err(
        "Mininet hung while it built its network (above: what it waited for); everything is gone, and is built once more",
    );
    note.as_file().set_len(0).context("the note cannot be taken back")?;
    let code = super::enclosed(verbosity, &words, &args.command)?;
    anyhow::ensure!(
        !has_hung(),
        "Mininet does not build its network; `mn --test pingall` shows whether it can"
    );
    Ok(code)
}

/// Finds a Python that knows Mininet: the first in the path may be another one than Debian's.
fn python() -> Option<&'static str> {
    let knows_mininet = |python: &&str| {
        let mut tried = std::process::Command::new(python);
        tried.args(["-c", "import mininet"]).stdout(Stdio::null()).stderr(Stdio::null());
        tried.status().is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(knows_mininet)
}

/// Builds the network, admits every host, and pings.
pub(crate) async fn inside(args: &LabMininetArgs, verbosity: u8) -> Result<ExitCode> {
    let Topology::Tree { depth, fanout } = args.topology else {
        bail!("Mininet builds trees here: write tree,DEPTH,FANOUT");
    };
    let (n_switches, n_hosts) = args.topology.size();
    let n_hosts = u32::try_from(n_hosts)?;
    claviger_netlab::settle_in()?;
    let folder = Path::new(claviger_netlab::PRIVATE);
    let cast = args.fleet.is_wanted.then(|| cast(n_hosts, &args.fleet)).transpose()?;
    let own = fleet::controller(folder, PORT_BASE, verbosity, cast.as_ref(), |raw| {
        fit(raw, n_hosts, args);
    });
    let own = own.await?;
    let switches = OpenVswitch::start()?;
    let rundir = switches.rundir();
    let began = Instant::now();
    let address = own.ports().openflow;
    let mut python = Command::new(python().context("there is no Mininet: install mininet")?);
    python.args(["-X", "faulthandler", "-c", include_str!("mininet.py")]);
    python.args([depth.to_string(), fanout.to_string()]);
    python.args([address.ip().to_string(), address.port().to_string()]);
    let then = match args.policy {
        _ if args.cli => "cli",
        _ if args.fleet.is_wanted || !args.command.is_empty() => "wait",
        LabPolicy::Sensor => "first",
        LabPolicy::Open | LabPolicy::None => "all",
    };
    let links = args.link.of_hosts();
    python.arg(then).arg(if links.is_some() { "relayed" } else { "cables" });
    python.env("OVS_RUNDIR", switches.rundir());
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = python.spawn().context("python3 cannot be started")?;
    let mut input = child.stdin.take().context("python3 has no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("python3 has no output")?).lines();
    let standing = async {
        let joints = until_wired(&mut lines).await?;
        let relay = links.map(|links| Relay::between(joints, links)).transpose()?;
        input.write_all(b"go\n").await?;
        until_built(&mut lines).await.map(|()| relay)
    };
    let Ok(standing) = tokio::time::timeout(building(n_hosts), standing).await else {
        say_where_it_hangs(&mut child).await;
        if let Some(note) = &args.hung {
            std::fs::write(note, "hung").context("noting that Mininet hangs")?;
        }
        return Ok(ExitCode::FAILURE);
    };
    let relay = standing?;
    let built = began.elapsed();
    let operator = Controller::of(own.state())?;
    let (switches, hosts) = (usize::try_from(n_switches)?, usize::try_from(n_hosts)?);
    found::wait_for_all(&operator, &Wanted { switches, links: switches - 1, hosts }).await?;
    // Of sensors, the first host is the gateway: a server of the configuration.
    let first = if args.policy == LabPolicy::Sensor { 2 } else { 1 };
    let macs: Vec<_> = (first..=n_hosts).map(card).collect();
    if cast.is_none() && args.policy != LabPolicy::None {
        found::admit(&operator, &macs, super::policy_name(args.policy)).await?;
    }
    console::err(format_args!(
        "{}: {n_switches} switches, {n_hosts} hosts; built in {:.2} s, found and admitted in {:.2} s",
        args.topology,
        built.as_secs_f64(),
        (began.elapsed() - built).as_secs_f64()
    ));
    let fleet = Fleet::play(&own, cast, verbosity).await?;
    let playing = async {
        if let [program, rest @ ..] = &args.command[..] {
            let mut command = Command::new(program);
            super::say_where(&mut command, &rundir, &own)?;
            let status = command.args(rest).kill_on_drop(true).status().await;
            return status.with_context(|| format!("{program:?} cannot be started"));
        }
        input.write_all(b"go\n").await?;
        while let Some(line) = lines.next_line().await? {
            console::out(line);
        }
        Ok(child.wait().await?)
    };
    let status = links::beside(relay.as_ref(), own.state(), playing).await?;
    drop(fleet);
    Ok(super::exit_code(status))
}

/// Waits until all cables are laid, and returns what is to be joined by links before switches run.
async fn until_wired(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<Vec<Joint>> {
    let mut joints = Vec::new();
    loop {
        let line = lines.next_line().await?;
        let line = line.context("Mininet has ended before its cables were laid")?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["wired"] => return Ok(joints),
            ["joint", host, near, far] => {
                let [host, near, far] = [host, near, far].map(str::to_owned);
                joints.push(Joint { host, near, far });
            }
            _ => {}
        }
    }
}

/// Waits until the network stands, and gives its hosts names.
async fn until_built(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<()> {
    loop {
        let line = lines.next_line().await?;
        let line = line.context("Mininet has ended before its network stood")?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["built"] => return Ok(()),
            ["host", name, process] => {
                claviger_netlab::adopt(name, process.parse().context("a process of Mininet")?)?;
            }
            _ => {}
        }
    }
}

/// The first host is the gateway, the last one the platform, and all between them are devices.
fn cast(n_hosts: u32, args: &LabFleetArgs) -> Result<Cast> {
    anyhow::ensure!(n_hosts >= 3, "a fleet needs three hosts: choose a larger tree");
    let player = |n| Player { name: format!("h{n}"), mac: card(n), address: address(n) };
    let devices = (2..n_hosts).map(|n| (format!("h{n}"), n)).collect();
    Ok(Cast {
        gateway: player(1),
        platform: player(n_hosts),
        devices,
        wake: args.wake,
        with_dkg: args.dkg,
    })
}

/// Every host is looked for where Mininet puts it.
fn fit(raw: &mut RawController, n_hosts: u32, args: &LabMininetArgs) {
    // The hosts, the network's own address and that of all.
    let bits = u32::BITS - (n_hosts + 1).leading_zeros();
    raw.sweep = vec![format!("10.0.0.0/{}", 32 - bits.clamp(2, 16))];
    if args.fleet.is_wanted {
        return;
    }
    raw.server = BTreeMap::new();
    let open = RawPolicy { reaches: vec!["peers".to_owned()], packets_per_s: None };
    raw.policy = BTreeMap::from([("open".to_owned(), open)]);
    if args.policy == LabPolicy::Sensor {
        let addresses = vec![address(1).to_string()];
        let gateway = RawServer { mac: card(1).to_string(), addresses, reaches: Vec::new() };
        raw.server.insert("gateway".to_owned(), gateway);
        let services = [
            "gateway tcp 8443",
            "gateway tcp 8444",
            "gateway tcp 8883",
            "gateway tcp 8884",
            "gateway udp 5683",
            "gateway icmp",
        ];
        let reaches = services.map(str::to_owned).to_vec();
        let sensor = RawPolicy { reaches, packets_per_s: None };
        raw.policy.insert("sensor".to_owned(), sensor);
    }
}

/// The address that Mininet gives its `n`th host.
const fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0A00_0000 + n)
}

const PORT_BASE: u16 = 16_000;

/// Returns how long Mininet may take for a network: for a thousand hosts it takes about a minute.
fn building(n_hosts: u32) -> Duration {
    Duration::from_secs(40 + u64::from(n_hosts) / 5)
}

/// Lets Python print what it waits for, and ends it.
async fn say_where_it_hangs(python: &mut Child) {
    if let Some(process) = python.id() {
        let abort = Command::new("kill").args(["-ABRT", &process.to_string()]).status().await;
        drop(abort);
    }
    drop(tokio::time::timeout(Duration::from_secs(5), python.wait()).await);
}

#[cfg(test)]
mod tests {
    use claviger_units::Span;

    use super::*;
    use crate::cli::lab::LabLinkArgs;

    fn fleet(is_wanted: bool) -> LabFleetArgs {
        LabFleetArgs { is_wanted, wake: Span::from_secs(30), dkg: false }
    }

    #[test]
    fn a_fleet_is_a_gateway_a_platform_and_devices_between_them() {
        let cast = cast(64, &fleet(true)).unwrap();
        assert_eq!((cast.gateway.name, cast.gateway.address), ("h1".into(), [10, 0, 0, 1].into()));
        assert_eq!(
            (cast.platform.name, cast.platform.address),
            ("h64".into(), [10, 0, 0, 64].into())
        );
        assert_eq!(cast.devices.len(), 62);
        assert_eq!(cast.devices[0], ("h2".to_owned(), 2));
        assert!(super::cast(2, &fleet(true)).is_err());
    }

    #[test]
    fn hosts_are_looked_for_where_they_are() {
        let mut raw: RawController = toml::from_str(
            "switch_names = []\nhttps_listen = \"\"\noperator_name = \"\"\nprovisioning_name = \"\"\nunknown_per_s = 1",
        )
        .unwrap();
        for (n_hosts, range) in
            [(64, "10.0.0.0/25"), (1000, "10.0.0.0/22"), (254, "10.0.0.0/24"), (2, "10.0.0.0/30")]
        {
            let topology = "tree,2,8".parse().unwrap();
            let args = LabMininetArgs {
                topology,
                policy: LabPolicy::Open,
                link: LabLinkArgs { impairment: None, link_seed: 1 },
                fleet: fleet(false),
                cli: false,
                hung: None,
                command: Vec::new(),
            };
            fit(&mut raw, n_hosts, &args);
            assert_eq!(raw.sweep, [range], "{n_hosts}");
        }
    }
}
