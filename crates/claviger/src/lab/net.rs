//! `claviger lab net`: a network of namespaces with this controller, around one command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use claviger_net::clock::Clock;
use claviger_netlab::{Control, Host, Lab, Plan, TlsFiles};
use claviger_roles::config::{RawController, RawPolicy, RawServer};
use claviger_roles::init::Layout;
use claviger_units::Timestamp;
use tokio::process::Command;

use super::fleet::{self, Cast, Fleet, Player};
use super::found::{self, Wanted};
use super::links;
use super::own_controller::OwnController;
use crate::cli::lab::{LabFleetArgs, LabNetArgs, LabPolicy};
use crate::console;
use crate::sdn::Controller;

/// Runs this program again inside private namespaces.
pub(crate) fn enclose(args: &LabNetArgs, verbosity: u8) -> Result<ExitCode> {
    check_needs()?;
    let topology = args.topology.to_string();
    let policy = super::policy_name(args.policy);
    let mut words = vec!["lab", "net", "inside", &topology];
    if !args.fleet.is_wanted {
        words.extend(["--policy", policy]);
    }
    words.extend(args.tls.then_some("--tls"));
    words.extend(args.silent.then_some("--silent"));
    let (link, fleet) = (args.link.words(), args.fleet.words());
    words.extend(link.iter().chain(&fleet).map(String::as_str));
    super::enclosed(verbosity, &words, &args.command)
}

/// Says what is missing for a network of namespaces, and what works without.
pub(crate) fn check_needs() -> Result<()> {
    let missing = claviger_netlab::missing();
    if !missing.is_empty() {
        let lines: Vec<_> = missing.iter().map(|one| format!("  {one}")).collect();
        bail!(
            "a network of namespaces cannot be built here:\n{}\n`claviger up` needs none of it: its \
             switches are emulated in the process",
            lines.join("\n")
        );
    }
    Ok(())
}

/// Builds the network, runs the command, and lets the kernel take the rest down.
pub(crate) async fn inside(args: LabNetArgs, verbosity: u8) -> Result<ExitCode> {
    let clock = Clock::start();
    let plan = Plan::of(args.topology);
    claviger_netlab::settle_in()?;
    let folder = Path::new(claviger_netlab::PRIVATE);
    let cast = args.fleet.is_wanted.then(|| cast(&plan, &args.fleet)).transpose()?;
    let own = fleet::controller(folder, PORT_BASE, verbosity, cast.as_ref(), |raw| {
        fit(raw, &plan, &args);
    });
    let own = own.await?;
    let control = control(&args, &own);
    let (laid_out, began) = (plan.clone(), clock.now());
    let links = args.link.of_hosts();
    let lab = tokio::task::spawn_blocking(move || Lab::build(&laid_out, &control, links));
    let lab = lab.await.context("the network was not built")??;
    let operator = Controller::of(own.state())?;
    let (switches, links) = (plan.n_switches as usize, plan.cables.len());
    let wanted = Wanted { switches, links, hosts: plan.hosts.len() };
    found::wait_for_switches(&operator, &wanted).await?;
    let up = clock.now();
    let lab = match args.silent {
        true => lab,
        false => {
            let announced = plan.clone();
            let announcing =
                tokio::task::spawn_blocking(move || lab.announce(&announced).map(|()| lab));
            announcing.await.context("the hosts were not announced")??
        }
    };
    found::wait_for_all(&operator, &wanted).await?;
    let found = clock.now();
    if cast.is_none() && args.policy != LabPolicy::None {
        // The gateway is a server of the configuration already.
        let macs: Vec<_> = plan.hosts.iter().skip(1).map(|host| host.mac).collect();
        found::admit(&operator, &macs, super::policy_name(args.policy)).await?;
    }
    let admitted = clock.now();
    let seconds = |from: Timestamp, to: Timestamp| to.since(from).as_secs_f64();
    console::err(format_args!(
        "{}: {} switches, {} links, {} hosts; up in {:.2} s, hosts found in {:.2} s, admitted in {:.2} s",
        args.topology,
        plan.n_switches,
        plan.cables.len(),
        plan.hosts.len(),
        seconds(began, up),
        seconds(up, found),
        seconds(found, admitted),
    ));
    let fleet = Fleet::play(&own, cast, verbosity).await?;
    let mut command = command(&args, &own, &lab)?;
    let status = links::beside(lab.relay(), own.state(), command.status()).await;
    let status = status.with_context(|| format!("{:?} cannot be started", words(&args)[0]))?;
    drop(fleet);
    Ok(super::exit_code(status))
}

/// The gateway is itself, the last host the platform, and all between them are devices.
fn cast(plan: &Plan, args: &LabFleetArgs) -> Result<Cast> {
    let [gateway, devices @ .., platform] = &plan.hosts[..] else { bail!("{TOO_SMALL}") };
    anyhow::ensure!(!devices.is_empty(), "{TOO_SMALL}");
    let player =
        |host: &Host| Player { name: host.name.clone(), mac: host.mac, address: host.address };
    let devices = (1..).zip(devices).map(|(n, host)| (host.name.clone(), n)).collect();
    Ok(Cast {
        gateway: player(gateway),
        platform: player(platform),
        devices,
        wake: args.wake,
        with_dkg: args.dkg,
    })
}

const TOO_SMALL: &str = "a fleet needs a platform and a device: choose a larger topology";

/// Makes a controller know the gateway and where to look for hosts.
fn fit(raw: &mut RawController, plan: &Plan, args: &LabNetArgs) {
    let gateway = &plan.hosts[0];
    let addresses = vec![gateway.address.to_string()];
    let server = RawServer { mac: gateway.mac.to_string(), addresses, reaches: Vec::new() };
    raw.server = BTreeMap::from([("gateway".to_owned(), server)]);
    let reaches = vec!["peers".into(), "gateway icmp".into()];
    raw.policy.insert("open".into(), RawPolicy { reaches, packets_per_s: None });
    raw.sweep = args.silent.then(|| range(plan)).into_iter().collect();
}

/// The smallest network around all addresses of the plan.
fn range(plan: &Plan) -> String {
    let addresses = || plan.hosts.iter().map(|host| host.address.to_bits());
    let (first, last) = (addresses().min().unwrap_or(0), addresses().max().unwrap_or(0));
    let mut prefix = 32_u32;
    while prefix > 16 && first >> (32 - prefix) != last >> (32 - prefix) {
        prefix -= 1;
    }
    format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(first))
}

fn control(args: &LabNetArgs, own: &OwnController) -> Control {
    if !args.tls {
        return Control::Tcp(own.ports().openflow);
    }
    let folder = Layout::below(own.state()).folder("site-a/switch");
    let files = TlsFiles {
        key: folder.join("identity.key"),
        certificate: folder.join("identity.pem"),
        authority: folder.join("ca.pem"),
    };
    Control::Tls(own.ports().openflow_tls, files)
}

fn command(args: &LabNetArgs, own: &OwnController, lab: &Lab) -> Result<Command> {
    let [program, rest @ ..] = &words(args)[..] else { bail!("there is no command") };
    let mut command = Command::new(program);
    command.args(rest).kill_on_drop(true);
    super::say_where(&mut command, &lab.ovs_rundir(), own)?;
    Ok(command)
}

fn words(args: &LabNetArgs) -> Vec<OsString> {
    if args.command.is_empty() {
        return vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    }
    args.command.clone()
}

/// A lab has a loopback of its own, on which nobody else listens.
const PORT_BASE: u16 = 16_000;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_looked_for_where_they_are() {
        for (topology, expected) in [("tree,2,8", "10.67.0.1/23"), ("tree,3,10", "10.67.0.1/21")] {
            assert_eq!(range(&Plan::of(topology.parse().unwrap())), expected);
        }
    }
}
