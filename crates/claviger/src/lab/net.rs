//! `claviger lab net`: a network of namespaces with this controller, around one command.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use claviger_net::clock::Clock;
use claviger_netlab::{Control, Lab, Plan, TlsFiles};
use claviger_roles::config::{RawController, RawLink, RawPolicy, RawServer};
use claviger_roles::init::{self, Layout, Ports};
use claviger_units::Timestamp;
use claviger_wire::sdn::{Admission, Admissions};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cli::lab::{LabNetArgs, LabPolicy};
use crate::console;
use crate::sdn::Controller;

/// Runs this program again inside private namespaces.
pub(crate) fn enclose(args: &LabNetArgs, verbosity: u8) -> Result<ExitCode> {
    let missing = claviger_netlab::missing();
    if !missing.is_empty() {
        let lines: Vec<_> = missing.iter().map(|one| format!("  {one}")).collect();
        bail!(
            "a network of namespaces cannot be built here:\n{}\n`claviger up` needs none of it: its \
             switches are emulated in the process",
            lines.join("\n")
        );
    }
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = claviger_netlab::enclosed(program);
    command.args((0..verbosity).map(|_| "--verbose"));
    command.args(["lab", "net", "inside", &args.topology.to_string()]);
    command.args(["--policy", policy_name(args.policy)]);
    command.args(args.tls.then_some("--tls")).arg("--").args(&args.command);
    let status = command.status().context("the private namespaces cannot be made")?;
    Ok(exit_code(status))
}

/// Builds the network, runs the command, and lets the kernel take the rest down.
pub(crate) async fn inside(args: LabNetArgs, verbosity: u8) -> Result<ExitCode> {
    let clock = Clock::start();
    let plan = Plan::of(args.topology);
    let state = tempfile::tempdir().context("making a folder for the controller")?;
    let ports = configure(state.path(), &plan)?;
    // The loopback of a fresh network namespace is down, and the controller listens there.
    claviger_netlab::raise_loopback()?;
    let controller = start_controller(state.path(), verbosity).await?;

    let control = control(&args, state.path(), &ports);
    let (laid_out, began) = (plan.clone(), clock.now());
    let lab = tokio::task::spawn_blocking(move || Lab::build(&laid_out, &control));
    let lab = lab.await.context("the network was not built")??;
    let built = clock.now();
    let operator = Controller::of(state.path())?;
    discovered(&operator, &plan).await?;
    let found = clock.now();
    admit(&operator, &plan, args.policy).await?;
    let admitted = clock.now();
    let seconds = |from: Timestamp, to: Timestamp| to.since(from).as_secs_f64();
    console::err(format_args!(
        "{}: {} switches, {} links, {} hosts; built in {:.2} s, discovered in {:.2} s, admitted in {:.2} s",
        args.topology,
        plan.n_switches,
        plan.cables.len(),
        plan.hosts.len(),
        seconds(began, built),
        seconds(built, found),
        seconds(found, admitted),
    ));
    let mut command = command(&args, state.path(), &lab)?;
    command.env("CLAVIGER_CONTROLLER", controller.id().unwrap_or_default().to_string());
    let status = command.status().await;
    let status = status.with_context(|| format!("{:?} cannot be started", words(&args)[0]))?;
    Ok(exit_code(status))
}

/// Makes the folders of a controller and of switches, as `claviger init` does, for this network.
fn configure(state: &Path, plan: &Plan) -> Result<Ports> {
    let demo = init::Plan {
        link: RawLink { preset: "lab".into(), loss_db: None, seed: None },
        simulated_speed: 1.0,
        eve_fraction: 0.0,
        devices: 1,
        renew_s: 60.0,
        danger_idq3p: false,
        port_base: PORT_BASE,
    };
    init::create(state, &demo)?;
    let ports = Ports::from_base(PORT_BASE).context("the ports of a lab fit")?;
    let path = config(state);
    let text = std::fs::read_to_string(&path).context("reading the controller's configuration")?;
    let mut raw: RawController = toml::from_str(&text)?;
    let gateway = &plan.hosts[0];
    raw.server = BTreeMap::from([(
        "gateway".to_owned(),
        RawServer { mac: gateway.mac.to_string(), addresses: vec![gateway.address.to_string()] },
    )]);
    let open =
        RawPolicy { reaches: vec!["peers".into(), "gateway icmp".into()], packets_per_s: None };
    raw.policy.insert("open".into(), open);
    raw.sweep = vec![range(plan)];
    std::fs::write(&path, toml::to_string(&raw)?)
        .context("writing the controller's configuration")?;
    Ok(ports)
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

/// Starts a controller as the process that it is in the field, and waits until it is ready.
async fn start_controller(state: &Path, verbosity: u8) -> Result<Child> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new(program);
    command.args((0..verbosity).map(|_| "--verbose"));
    command.args(["run", "controller", "--config"]).arg(config(state));
    let errors = if verbosity > 0 { Stdio::inherit() } else { Stdio::null() };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
    let mut child = command.spawn().context("the controller cannot be started")?;
    let said = child.stdout.take().context("the controller has no output")?;
    let mut lines = BufReader::new(said).lines();
    while let Some(line) = lines.next_line().await? {
        if line.ends_with("ready") {
            return Ok(child);
        }
    }
    bail!("the controller has ended; `-v` shows why")
}

fn config(state: &Path) -> PathBuf {
    Layout::below(state).config("site-b/controller")
}

fn control(args: &LabNetArgs, state: &Path, ports: &Ports) -> Control {
    if !args.tls {
        return Control::Tcp(ports.openflow);
    }
    let folder = Layout::below(state).folder("site-a/switch");
    let files = TlsFiles {
        key: folder.join("identity.key"),
        certificate: folder.join("identity.pem"),
        authority: folder.join("ca.pem"),
    };
    Control::Tls(ports.openflow_tls, files)
}

/// Waits until everything of the plan has been found, and nothing else.
async fn discovered(operator: &Controller, plan: &Plan) -> Result<()> {
    let wanted = (plan.n_switches as usize, plan.cables.len(), plan.hosts.len());
    let mut seen = (0, 0, 0);
    for _ in 0..PATIENCE {
        let switches = operator.switches().await?.iter().filter(|switch| switch.up).count();
        let links = operator.links().await?.len();
        let hosts = operator.hosts().await?.iter().filter(|host| host.place.is_some()).count();
        seen = (switches, links, hosts);
        if seen == wanted {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!(
        "found only {} of {} switches, {} of {} links and {} of {} hosts; `-v` shows what happened",
        seen.0,
        wanted.0,
        seen.1,
        wanted.1,
        seen.2,
        wanted.2
    )
}

async fn admit(operator: &Controller, plan: &Plan, policy: LabPolicy) -> Result<()> {
    if policy == LabPolicy::None {
        return Ok(());
    }
    // The gateway is a server of the configuration already.
    let sensors = plan.hosts.iter().skip(1).map(|host| Admission {
        mac: host.mac.to_string(),
        policy: policy_name(policy).to_owned(),
        place: None,
        addresses: Vec::new(),
        fixed: false,
    });
    let sensors: Vec<_> = sensors.collect();
    for page in sensors.chunks(PAGE) {
        operator.admit(&Admissions { admit: page.to_vec(), replace: false }).await?;
    }
    for _ in 0..PATIENCE {
        if operator.switches().await?.iter().all(|switch| switch.differing == 0) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("the switches do not take their tables; `-v` shows why")
}

fn command(args: &LabNetArgs, state: &Path, lab: &Lab) -> Result<Command> {
    let [program, rest @ ..] = &words(args)[..] else { bail!("there is no command") };
    let mut command = Command::new(program);
    command.args(rest).kill_on_drop(true);
    command.env("OVS_RUNDIR", lab.ovs_rundir()).env("CLAVIGER_STATE", state);
    command.env("CLAVIGER", std::env::current_exe().context("where this program lies")?);
    Ok(command)
}

fn words(args: &LabNetArgs) -> Vec<OsString> {
    if args.command.is_empty() {
        return vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
    }
    args.command.clone()
}

const fn policy_name(policy: LabPolicy) -> &'static str {
    match policy {
        LabPolicy::Open => "open",
        LabPolicy::Sensor => "sensor",
        LabPolicy::None => "none",
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A lab has a loopback of its own, on which nobody else listens.
const PORT_BASE: u16 = 16_000;
/// Looks at the network, and the pause between two.
const PATIENCE: u32 = 2400;
const PAUSE: Duration = Duration::from_millis(50);
/// Hosts that are admitted by one request.
const PAGE: usize = 250;

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
