//! `claviger sdn`: the network as its controller sees it.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use claviger_net::http::{Answer, Client, ClientError};
use claviger_wire::etsi014::ErrorBody;
use claviger_wire::sdn::{
    Admission, Admissions, Channel, Event, Events, Host, Hosts, Links, MoveChannel, Switch,
    Switches, Trace,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::StateArgs;
use crate::cli::sdn::{AdmitArgs, ChannelArgs, EventsArgs, SdnCommand, ShowArgs, TraceArgs};
use crate::demo::{self, Demo};
use crate::{console, enrolment, mud};

/// Does one of the commands.
pub(crate) async fn run(command: SdnCommand) -> Result<()> {
    match command {
        SdnCommand::Switches(args) => {
            let switches = Controller::open(&args.state)?.switches().await?;
            show(&args, switches, line_of_switch, "no switch has connected yet");
        }
        SdnCommand::Links(args) => {
            let links = Controller::open(&args.state)?.links().await?;
            let line = |[a, b]: &[String; 2]| format!("{a}  {b}");
            show(&args, links, line, "no link has been found yet");
        }
        SdnCommand::Hosts(args) => {
            let hosts = Controller::open(&args.state)?.hosts().await?;
            show(&args, hosts, line_of_host, "no host has been heard yet");
        }
        SdnCommand::Trace(args) => trace(&args).await?,
        SdnCommand::Events(args) => events(&args).await?,
        SdnCommand::Admit(args) => admit(&args).await?,
        SdnCommand::Mud(args) => mud::import(&args)?,
        SdnCommand::Channel(args) => channel(&args).await?,
        SdnCommand::Pending(args) => enrolment::pending(&args).await?,
        SdnCommand::Devices(args) => enrolment::devices(&args).await?,
        SdnCommand::Import(args) => enrolment::import(&args).await?,
        SdnCommand::Approve(args) => enrolment::measure("approve", &args).await?,
        SdnCommand::Suspend(args) => enrolment::measure("suspend", &args).await?,
        SdnCommand::Resume(args) => enrolment::measure("resume", &args).await?,
        SdnCommand::Quarantine(args) => enrolment::measure("quarantine", &args).await?,
        SdnCommand::Release(args) => enrolment::measure("release", &args).await?,
        SdnCommand::Retire(args) => enrolment::measure("retire", &args).await?,
        SdnCommand::Orders(args) => enrolment::orders(&args).await?,
        SdnCommand::Audit(args) => enrolment::audit(&args).await?,
        SdnCommand::Dismiss(args) => {
            let controller = Controller::open(&args.state)?;
            let url = controller.at(&format!("/v1/admissions/{}", args.mac));
            accepted(controller.client.delete(&url).await)?;
            console::out(format_args!("{} is let in no longer", args.mac));
        }
    }
    Ok(())
}

async fn trace(args: &TraceArgs) -> Result<()> {
    let controller = Controller::open(&args.show.state)?;
    let hosts = controller.hosts().await?;
    let (from, to) = (find(&hosts, &args.from)?, find(&hosts, &args.to)?);
    let path = format!("/v1/trace?from={}&to={}", from.mac, to.mac);
    let trace: Trace = controller.get(&path).await?;
    if args.show.json {
        console::out(serde_json::to_string(&trace)?);
        return Ok(());
    }
    for line in lines_of_trace(from, to, &trace) {
        console::out(line);
    }
    Ok(())
}

fn find<'a>(hosts: &'a [Host], name: &str) -> Result<&'a Host> {
    let is_it =
        |host: &&Host| host.mac == name.to_lowercase() || host.addresses.iter().any(|a| a == name);
    let unknown = || {
        format!(
            "the controller knows no host {name}: name a card or an address of `claviger sdn hosts`"
        )
    };
    hosts.iter().find(is_it).with_context(unknown)
}

fn lines_of_trace(from: &Host, to: &Host, trace: &Trace) -> Vec<String> {
    let name = |host: &Host| match host.addresses.first() {
        Some(address) => format!("{} ({address})", host.mac),
        None => host.mac.clone(),
    };
    let mut lines = vec![name(from)];
    match &trace.path {
        Some(path) => lines.extend(path.iter().map(|hop| format!("  out by {hop}"))),
        None => lines.push("  no links lead from one to the other".to_owned()),
    }
    lines.push(name(to));
    lines.push(if trace.allowed {
        "allowed: a policy lets one reach a service of the other, and answers back".to_owned()
    } else {
        "not allowed: no policy lets one reach the other".to_owned()
    });
    if !trace.differing.is_empty() {
        lines.push(format!("tables are being mended at {}", trace.differing.join(", ")));
    }
    lines
}

async fn events(args: &EventsArgs) -> Result<()> {
    let controller = Controller::open(&args.show.state)?;
    let (mut after, mut run) = (0, None);
    loop {
        let wait = if args.follow { 5 } else { 0 };
        let page: Events =
            controller.get(&format!("/v1/events?after={after}&wait_s={wait}")).await?;
        if run.is_some_and(|run| run != page.run) {
            console::err("the controller has been restarted; its events begin anew");
            (after, run) = (0, Some(page.run));
            continue;
        }
        run = Some(page.run);
        let is_end = page.events.is_empty();
        for event in page.events {
            after = event.seq;
            if args.show.json {
                console::out(serde_json::to_string(&event)?);
            } else {
                console::out(line_of_event(&event));
            }
        }
        if is_end && !args.follow {
            return Ok(());
        }
    }
}

async fn channel(args: &ChannelArgs) -> Result<()> {
    let controller = Controller::open(&args.show.state)?;
    if let Some(fibre) = &args.to {
        let body = serde_json::to_vec(&MoveChannel { fibre: fibre.clone() })?;
        accepted(controller.client.put_json(&controller.at("/v1/channel"), body).await)?;
    }
    let channel: Channel = controller.get("/v1/channel").await?;
    if args.show.json {
        console::out(serde_json::to_string(&channel)?);
        return Ok(());
    }
    for fibre in &channel.fibres {
        let here = if fibre.name == channel.fibre { "quantum channel" } else { "" };
        let light = if fibre.light { "light" } else { "dark" };
        console::out(format_args!("{:12}  {light:5}  {here}", fibre.name));
    }
    if !channel.confirmed {
        console::err("the optical switch has still to confirm it");
    }
    Ok(())
}

async fn admit(args: &AdmitArgs) -> Result<()> {
    let admission = Admission {
        mac: args.mac.to_string(),
        policy: args.policy.clone(),
        place: args.place.map(|place| place.to_string()),
        addresses: Vec::new(),
        fixed: args.fixed,
    };
    let admissions = Admissions { admit: vec![admission], replace: false };
    Controller::open(&args.state)?.admit(&admissions).await?;
    console::out(format_args!("{} is let in as {}", args.mac, args.policy));
    Ok(())
}

/// Prints all, a line each, or says that there is none.
pub(crate) fn show<T: Serialize>(
    args: &ShowArgs,
    all: Vec<T>,
    line: impl Fn(&T) -> String,
    none: &str,
) {
    if all.is_empty() {
        console::err(none);
    }
    for one in all {
        if args.json {
            // Texts and numbers, which JSON can hold.
            console::out(serde_json::to_string(&one).unwrap_or_default());
        } else {
            console::out(line(&one));
        }
    }
}

fn line_of_switch(switch: &Switch) -> String {
    let state = if switch.up { "up  " } else { "away" };
    let count = |role: &str| switch.ports.iter().filter(|port| port.role == role).count();
    let tables = match switch.differing {
        0 if switch.confirming => "being confirmed".to_owned(),
        0 => "as they should be".to_owned(),
        n => format!("{n} differ"),
    };
    format!(
        "{}  {state}  {:16}  {} trunks, {} ports with hosts  {} entries, {tables}",
        switch.datapath,
        switch.description,
        count("trunk"),
        count("hosts"),
        switch.entries
    )
}

fn line_of_host(host: &Host) -> String {
    let place = host.place.as_deref().unwrap_or("nowhere");
    let standing = host.policy.as_deref().unwrap_or("unknown");
    let presence = if host.present { "there" } else { "away" };
    format!("{}  {place:20}  {standing:12}  {presence}  {}", host.mac, host.addresses.join(" "))
}

fn line_of_event(event: &Event) -> String {
    format!("{:6}  {:14.3}  {:18}  {}", event.seq, event.at_s, event.kind, event.text)
}

/// The controller as its operator reaches it.
pub(crate) struct Controller {
    url: String,
    client: Client,
}

impl Controller {
    fn open(state: &StateArgs) -> Result<Self> {
        Self::of(&state.state)
    }

    /// Finds the controller of a state folder.
    pub(crate) fn of(state: &Path) -> Result<Self> {
        let demo = Demo::open(state)?;
        let client = demo::client(&demo.folder("site-b/operator"))?;
        Ok(Self { url: demo.controller_url()?, client })
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A> {
        let answer = accepted(self.client.get(&self.at(path), &[]).await)?;
        let other = "the controller's answer is not understood: run the same version at both ends";
        serde_json::from_slice(answer.body.expose()).context(other)
    }

    /// Returns all switches.
    pub(crate) async fn switches(&self) -> Result<Vec<Switch>> {
        Ok(self.get::<Switches>("/v1/switches").await?.switches)
    }

    /// Returns both ends of all links.
    pub(crate) async fn links(&self) -> Result<Vec<[String; 2]>> {
        Ok(self.get::<Links>("/v1/links").await?.links)
    }

    /// Lets hosts in.
    pub(crate) async fn admit(&self, admissions: &Admissions) -> Result<()> {
        let body = serde_json::to_vec(admissions)?;
        accepted(self.client.put_json(&self.at("/v1/admissions"), body).await)?;
        Ok(())
    }

    /// Returns all hosts, page after page.
    pub(crate) async fn hosts(&self) -> Result<Vec<Host>> {
        let mut all: Vec<Host> = Vec::new();
        loop {
            let after = all.last().map(|host| format!("?after={}", host.mac)).unwrap_or_default();
            let page: Hosts = self.get(&format!("/v1/hosts{after}")).await?;
            if page.hosts.is_empty() {
                return Ok(all);
            }
            all.extend(page.hosts);
        }
    }
}

fn accepted(answer: Result<Answer, ClientError>) -> Result<Answer> {
    let away = "the controller does not answer: start `claviger up` or `claviger run controller`, or \
                give its folder with --state";
    let answer = answer.context(away)?;
    if !answer.status.is_success() {
        let body = ErrorBody::from_json(answer.body.expose()).unwrap_or_default();
        bail!("the controller refuses ({}): {}", answer.status.as_u16(), body.message);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(mac: &str, address: &str) -> Host {
        Host {
            mac: mac.into(),
            place: Some("0000000000000001:3".into()),
            addresses: vec![address.into()],
            policy: None,
            present: true,
            seen_s: None,
            entries: 0,
        }
    }

    #[test]
    fn a_host_is_one_line_and_is_found_by_either_name() {
        let hosts =
            [host("02:00:5e:00:00:07", "10.67.0.7"), host("02:00:5e:00:00:08", "10.67.0.8")];
        assert_eq!(
            line_of_host(&hosts[0]),
            "02:00:5e:00:00:07  0000000000000001:3    unknown       there  10.67.0.7"
        );
        assert_eq!(find(&hosts, "10.67.0.8").unwrap().mac, hosts[1].mac);
        assert_eq!(find(&hosts, "02:00:5E:00:00:07").unwrap().mac, hosts[0].mac);
        assert!(find(&hosts, "10.67.0.9").unwrap_err().to_string().contains("sdn hosts"));
    }

    #[test]
    fn a_trace_says_whether_the_way_is_open() {
        let (a, b) =
            (host("02:00:5e:00:00:07", "10.67.0.7"), host("02:00:5e:00:00:08", "10.67.0.8"));
        let trace = Trace {
            from: a.place.clone(),
            to: b.place.clone(),
            allowed: false,
            path: Some(vec!["0000000000000001:4".into()]),
            differing: Vec::new(),
        };
        assert_eq!(
            lines_of_trace(&a, &b, &trace),
            [
                "02:00:5e:00:00:07 (10.67.0.7)",
                "  out by 0000000000000001:4",
                "02:00:5e:00:00:08 (10.67.0.8)",
                "not allowed: no policy lets one reach the other",
            ]
        );
    }
}
