//! `claviger lab mininet`: a tree of Mininet under this controller.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use claviger_netlab::{OpenVswitch, Topology};
use claviger_roles::config::{RawController, RawPolicy, RawServer};
use claviger_units::MacAddr;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::found::{self, Wanted};
use super::own_controller::OwnController;
use crate::cli::lab::{LabMininetArgs, LabPolicy};
use crate::console;
use crate::sdn::Controller;

/// Runs this program again inside private namespaces.
pub(crate) fn enclose(args: &LabMininetArgs, verbosity: u8) -> Result<ExitCode> {
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
    let topology = args.topology.to_string();
    let mut words = vec!["lab", "mininet-inside", &topology];
    words.extend(["--policy", super::policy_name(args.policy)]);
    words.extend(args.cli.then_some("--cli"));
    super::enclosed(verbosity, &words, &[])
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
    claviger_netlab::settle_in()?;
    let folder = Path::new(claviger_netlab::PRIVATE);
    let own =
        OwnController::start(folder, PORT_BASE, verbosity, |raw| fit(raw, n_hosts, args.policy))
            .await?;
    let switches = OpenVswitch::start()?;
    let began = Instant::now();
    let address = own.ports().openflow;
    let mut python = Command::new(python().context("there is no Mininet: install mininet")?);
    python.args(["-c", include_str!("mininet.py"), &depth.to_string(), &fanout.to_string()]);
    python.args([address.ip().to_string(), address.port().to_string()]);
    let pings = if args.policy == LabPolicy::Sensor { "first" } else { "all" };
    python.arg(if args.cli { "cli" } else { pings }).env("OVS_RUNDIR", switches.rundir());
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = python.spawn().context("python3 cannot be started")?;
    let mut input = child.stdin.take().context("python3 has no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("python3 has no output")?).lines();
    loop {
        match lines.next_line().await? {
            Some(line) if line == "built" => break,
            Some(_) => {}
            None => bail!("Mininet has ended before its network stood"),
        }
    }
    let built = began.elapsed();
    let operator = Controller::of(own.state())?;
    let (switches, hosts) = (usize::try_from(n_switches)?, usize::try_from(n_hosts)?);
    found::wait_for_all(&operator, &Wanted { switches, links: switches - 1, hosts }).await?;
    // Of sensors, the first host is the gateway: a server of the configuration.
    let first = if args.policy == LabPolicy::Sensor { 2 } else { 1 };
    let macs: Vec<_> = (first..=n_hosts).map(mac_of).collect();
    if args.policy != LabPolicy::None {
        found::admit(&operator, &macs, super::policy_name(args.policy)).await?;
    }
    console::err(format_args!(
        "{}: {n_switches} switches, {n_hosts} hosts; built in {:.2} s, found and admitted in {:.2} s",
        args.topology,
        built.as_secs_f64(),
        (began.elapsed() - built).as_secs_f64()
    ));
    input.write_all(b"go\n").await?;
    while let Some(line) = lines.next_line().await? {
        console::out(line);
    }
    Ok(super::exit_code(child.wait().await?))
}

/// Every host is looked for where Mininet puts it.
fn fit(raw: &mut RawController, n_hosts: u64, policy: LabPolicy) {
    raw.server = BTreeMap::new();
    let open = RawPolicy { reaches: vec!["peers".to_owned()], packets_per_s: None };
    raw.policy = BTreeMap::from([("open".to_owned(), open)]);
    if policy == LabPolicy::Sensor {
        let addresses = vec!["10.0.0.1".to_owned()];
        let gateway = RawServer { mac: mac_of(1).to_string(), addresses };
        raw.server.insert("gateway".to_owned(), gateway);
        let services = ["gateway tcp 8443", "gateway tcp 8883", "gateway icmp"];
        let reaches = services.map(str::to_owned).to_vec();
        let sensor = RawPolicy { reaches, packets_per_s: None };
        raw.policy.insert("sensor".to_owned(), sensor);
    }
    // The hosts, the network's own address and that of all.
    let bits = u64::BITS - (n_hosts + 1).leading_zeros();
    raw.sweep = vec![format!("10.0.0.0/{}", 32 - bits.clamp(2, 16))];
}

/// The card that Mininet gives its `n`th host.
fn mac_of(n: u64) -> MacAddr {
    let [_, _, a, b, c, d, e, f] = n.to_be_bytes();
    MacAddr::from_bytes([a, b, c, d, e, f])
}

const PORT_BASE: u16 = 16_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_called_as_mininet_calls_them() {
        assert_eq!(mac_of(1).to_string(), "00:00:00:00:00:01");
        assert_eq!(mac_of(1000).to_string(), "00:00:00:00:03:e8");
    }

    #[test]
    fn hosts_are_looked_for_where_they_are() {
        let mut raw: RawController = toml::from_str(
            "https_listen = \"\"\noperator_name = \"\"\nprovisioning_name = \"\"\nunknown_per_s = 1",
        )
        .unwrap();
        for (n_hosts, range) in
            [(64, "10.0.0.0/25"), (1000, "10.0.0.0/22"), (254, "10.0.0.0/24"), (2, "10.0.0.0/30")]
        {
            fit(&mut raw, n_hosts, LabPolicy::Open);
            assert_eq!(raw.sweep, [range], "{n_hosts}");
        }
    }
}
