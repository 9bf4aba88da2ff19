//! `claviger init`: the folders of both sites, without running anything.

use std::collections::BTreeMap;

use anyhow::Result;
use claviger_roles::init::Plan;

use crate::chosen_link::ChosenLink;
use crate::cli::{InitArgs, NetworkArgs};
use crate::console;
use crate::state::StateFolder;
use crate::up::capacity::Capacity;

/// Makes the folders and says what to do with them.
pub(crate) fn run(args: &InitArgs) -> Result<()> {
    let InitArgs { network, danger_idq3p, names: given } = args;
    let mut names = BTreeMap::<_, Vec<String>>::new();
    for (party, host) in given {
        names.entry(party.clone()).or_default().push(host.clone());
    }
    let (link, capacity) = checked(network)?;
    let mut state = StateFolder::claim(&network.state.state)?;
    state.prepare(&Plan { danger_idq3p: *danger_idq3p, names, ..plan(network, &link) })?;
    let path = network.state.state.display();
    console::out(capacity.sentence(network.devices, network.renew));
    console::out(format_args!(
        "{path}/site-a and {path}/site-b belong to their sites, {path}/fibre to the simulated light"
    ));
    console::out(
        "start each role with `claviger run ROLE --config FILE`, or all of them with `claviger up`; \
         see `claviger init --help`",
    );
    Ok(())
}

/// Finds the link, and refuses what it cannot hold before anything is written.
pub(crate) fn checked(args: &NetworkArgs) -> Result<(ChosenLink, Capacity)> {
    let folder = std::env::current_dir()?;
    let link = ChosenLink::find(&args.link, args.loss_db, &folder)?;
    let link = match &args.spare_fibre {
        None => link,
        Some(name) => link.beside(&ChosenLink::find(name, None, &folder)?)?,
    };
    let capacity = Capacity::of(&link.preset, args.simulated_speed)?;
    capacity.check(args.devices, args.renew)?;
    Ok((link, capacity))
}

/// Puts the flags into the plan of a network, with nothing dangerous switched on.
pub(crate) fn plan(args: &NetworkArgs, link: &ChosenLink) -> Plan {
    Plan {
        link: link.raw(args.seed),
        simulated_speed: args.simulated_speed,
        eve_fraction: args.eve.unwrap_or_default().as_f64(),
        devices: args.devices,
        fibres: link.fibres.clone(),
        renew_s: args.renew.as_secs_f64(),
        paths: args.keys_by.clone(),
        pad_keys: args.pad_keys,
        danger_idq3p: false,
        port_base: args.port_base,
        names: BTreeMap::new(),
    }
}
