//! Waiting until the controller has found what there is, and letting it in.

use std::time::Duration;

use anyhow::{Result, bail};
use claviger_units::MacAddr;
use claviger_wire::sdn::{Admission, Admissions, Switch};

use crate::sdn::Controller;

/// What there is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) switches: usize,
    pub(super) links: usize,
    pub(super) hosts: usize,
}

/// Waits until all switches and links have been found.
pub(super) async fn wait_for_switches(operator: &Controller, wanted: &Wanted) -> Result<()> {
    let is_it = |seen: &Wanted| (seen.switches, seen.links) == (wanted.switches, wanted.links);
    wait(operator, wanted, is_it).await?;
    // A port is asked a moment longer whether there is a switch behind it.
    for _ in 0..PATIENCE {
        let switches = operator.switches().await?;
        if switches.iter().flat_map(|switch| &switch.ports).all(|port| port.role != "undecided") {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("it is not decided what is behind some ports; `-v` shows what happened")
}

/// Waits until everything has been found, and nothing else.
pub(super) async fn wait_for_all(operator: &Controller, wanted: &Wanted) -> Result<()> {
    wait(operator, wanted, |seen| seen == wanted).await
}

async fn wait(
    operator: &Controller,
    wanted: &Wanted,
    is_it: impl Fn(&Wanted) -> bool,
) -> Result<()> {
    let mut seen = Wanted { switches: 0, links: 0, hosts: 0 };
    for _ in 0..PATIENCE {
        seen.switches = operator.switches().await?.iter().filter(|switch| switch.up).count();
        seen.links = operator.links().await?.len();
        seen.hosts = operator.hosts().await?.iter().filter(|host| host.place.is_some()).count();
        if is_it(&seen) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!(
        "found {} of {} switches, {} of {} links and {} of {} hosts; `-v` shows what happened",
        seen.switches,
        wanted.switches,
        seen.links,
        wanted.links,
        seen.hosts,
        wanted.hosts
    )
}

/// Lets hosts in, and waits until every switch has confirmed that its tables are as they should be.
pub(super) async fn admit(operator: &Controller, macs: &[MacAddr], policy: &str) -> Result<()> {
    let admission = |mac: &MacAddr| Admission {
        mac: mac.to_string(),
        policy: policy.to_owned(),
        place: None,
        addresses: Vec::new(),
        fixed: false,
    };
    for page in macs.chunks(PAGE) {
        let admit = page.iter().map(admission).collect();
        operator.admit(&Admissions { admit, replace: false }).await?;
    }
    for _ in 0..PATIENCE {
        let is_done = |switch: &Switch| switch.differing == 0 && !switch.confirming;
        if operator.switches().await?.iter().all(is_done) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("the switches do not take their tables; `-v` shows why")
}

/// Looks at the network, and the pause between two.
const PATIENCE: u32 = 2400;
const PAUSE: Duration = Duration::from_millis(50);
/// Hosts that are admitted by one request.
const PAGE: usize = 250;
