//! `claviger devices energy`: what a fresh key costs a device, all ways side by side.

mod chart;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use claviger_energy::{Day, Profile, ProfileError, Schedule, Way};

use self::chart::Chart;
use self::table::Table;
use crate::cli::energy::EnergyArgs;
use crate::console;

/// Works out and prints.
pub(crate) fn run(args: &EnergyArgs) -> Result<()> {
    let profile = profile(&args.profile)?;
    let schedule = Schedule::new(args.wake, args.renew)?;
    let mut ways = if args.way.is_empty() { Way::ALL.to_vec() } else { args.way.clone() };
    if !ways.contains(&args.against) {
        ways.insert(0, args.against);
    }
    let days = ways.iter().map(|way| Day::of(*way, &profile, schedule));
    let days = days.collect::<Result<Vec<_>, _>>()?;
    let table = Table { profile: &profile, args, days: &days };
    match args.json {
        true => table.json()?.into_iter().for_each(console::out),
        false => table.lines()?.into_iter().for_each(console::out),
    }
    if let Some(path) = &args.csv {
        fs::write(path, table.csv()?).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        let svg = Chart::of(&profile, &ways, args)?.to_svg()?;
        fs::write(path, svg).with_context(|| format!("writing {}", path.display()))?;
        console::err(format_args!("{} is drawn", path.display()));
    }
    Ok(())
}

/// Finds a profile: one that comes with this program, or a file.
fn profile(name: &str) -> Result<Profile> {
    match Profile::named(name) {
        Err(ProfileError::Unknown(_)) if Path::new(name).exists() => {
            let text = fs::read_to_string(name).with_context(|| format!("reading {name}"))?;
            Profile::from_toml(&text).with_context(|| format!("{name} cannot be used"))
        }
        found => Ok(found?),
    }
}
