//! `cargo xtask bench`: hands an area to the program that measures it.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::command::cargo;

/// What can be measured, and by which binary of which package.
struct Area {
    name: &'static str,
    shows: &'static str,
    package: &'static str,
    binary: &'static str,
    /// The command under which that binary measures.
    before: Option<&'static str>,
}

const AREAS: &[Area] = &[
    Area {
        name: "link",
        shows: "secret bit rates, Cascade's efficiency and speed, amplification, attacks, a day of light",
        package: "claviger-lab",
        binary: "bench",
        before: None,
    },
    Area {
        name: "devices",
        shows: "bytes and public-key work of every path of keys, a live fleet, a storm, the gateway's memory",
        package: "claviger",
        binary: "claviger",
        before: Some("bench"),
    },
    Area {
        name: "lab",
        shows: "days of fleets in virtual time, all figures of the paper, and whether they repeat",
        package: "claviger",
        binary: "claviger",
        before: Some("bench"),
    },
    Area {
        name: "sdn",
        shows: "the controller: set-ups a second, latency, discovery, re-routing, entries",
        package: "claviger",
        binary: "claviger",
        before: Some("bench"),
    },
];

/// Lists the areas, one a line.
pub(crate) fn areas() -> String {
    AREAS.iter().map(|area| format!("  {:<8} {}\n", area.name, area.shows)).collect()
}

/// Measures the area called `name`; `flags` are handed on once they are known to be valid.
pub(crate) fn run(name: &str, flags: &[&str]) -> Result<ExitCode> {
    let Some(area) = AREAS.iter().find(|area| area.name == name) else {
        bail!("no area `{name}` to measure, choose one of:\n{}", areas());
    };
    if let Some(odd) = flags.iter().find(|flag| !["--quick", "--json"].contains(flag)) {
        bail!("bench knows --quick and --json, not `{odd}`");
    }
    let status = cargo()
        .args(["run", "--release", "--locked", "-p", area.package, "--bin", area.binary, "--"])
        .args(area.before)
        .arg(area.name)
        .args(flags)
        .status()
        .context("cargo could not be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_area_or_flag_is_refused_with_the_choices() {
        for (area, flag, hint) in [("lnk", "--quick", "link"), ("link", "--fast", "--quick")] {
            let refusal = run(area, &[flag]).unwrap_err().to_string();
            assert!(refusal.contains(hint), "{refusal}");
        }
    }
}
