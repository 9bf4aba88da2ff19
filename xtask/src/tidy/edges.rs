//! Which crate may name which: the arrows of the design, checked against the manifests.

use anyhow::{Context as _, Result};

use super::Finding;

/// The crates that one crate of ours may depend on.
struct Rule {
    name: &'static str,
    layer: Layer,
    may_use: Use,
    /// What its tests may use on top.
    tests_may_use: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Core,
    Shell,
    Top,
}

enum Use {
    These(&'static [&'static str]),
    Cores,
    CoresAndShells,
    CoresShellsAnd(&'static [&'static str]),
}

/// A core with the cores it builds on.
const fn core(name: &'static str, may_use: &'static [&'static str]) -> Rule {
    Rule { name, layer: Layer::Core, may_use: Use::These(may_use), tests_may_use: &[] }
}

const RULES: &[Rule] = &[
    core("units", &[]),
    core("gf2", &[]),
    core("security", &["units"]),
    core("photonics", &["units", "security"]),
    core("wire", &["units", "security"]),
    core("frames", &["units"]),
    // Usable alone: a codec of somebody else's protocol.
    core("openflow", &[]),
    core("switch", &["units", "openflow"]),
    // Its tests drive emulated switches.
    Rule { tests_may_use: &["switch"], ..core("control", &["units", "openflow"]) },
    core("durable", &["units", "wire"]),
    core("distill", &["units", "security", "photonics", "gf2", "wire", "durable"]),
    core("keystore", &["units", "security", "wire", "durable"]),
    // Its tests name claims; what it shows of them are their texts.
    Rule { tests_may_use: &["security"], ..core("kme", &["units", "wire", "durable", "keystore"]) },
    core("device", &["units", "frames", "oscore"]),
    // Its window is that of telemetry frames, its contexts are those of epochs.
    core("oscore", &["units", "frames"]),
    core("energy", &["units", "device"]),
    Rule {
        tests_may_use: &["device"],
        ..core("fleet", &["units", "frames", "oscore", "wire", "durable"])
    },
    Rule { name: "net", layer: Layer::Shell, may_use: Use::These(&["units"]), tests_may_use: &[] },
    Rule {
        name: "store",
        layer: Layer::Shell,
        may_use: Use::These(&["units", "durable"]),
        tests_may_use: &["keystore", "fleet"],
    },
    // Its tests hold a live run against the virtual one.
    Rule {
        name: "roles",
        layer: Layer::Shell,
        may_use: Use::CoresAndShells,
        tests_may_use: &["lab"],
    },
    Rule { name: "lab", layer: Layer::Top, may_use: Use::Cores, tests_may_use: &[] },
    Rule { name: "netlab", layer: Layer::Top, may_use: Use::These(&["units"]), tests_may_use: &[] },
    // The link in virtual time and networks of namespaces are on the command line too.
    Rule {
        name: "claviger",
        layer: Layer::Top,
        may_use: Use::CoresShellsAnd(&["lab", "netlab"]),
        tests_may_use: &[],
    },
    Rule { name: "xtask", layer: Layer::Top, may_use: Use::These(&[]), tests_may_use: &[] },
];

/// Crates that bring a runtime, a socket, a clock, a disk or ambient randomness.
const NOT_IN_CORES: &[&str] = &[
    "anyhow",
    "async-trait",
    "aws-lc-rs",
    "axum",
    "chrono",
    "crossterm",
    "ctrlc",
    "futures",
    "getrandom",
    "hyper",
    "hyper-util",
    "jiff",
    "mio",
    "mqtt5",
    "openssl",
    "reqwest",
    "rumqttc-v5-next",
    "rusqlite",
    "rustls",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tokio-rustls",
    "tower",
    "ureq",
];

const EDGE_REMEDY: &str = "move what is needed down into a crate that both may name, or, with the \
                           reason in ARCHITECTURE.md, add the edge to xtask/src/tidy/edges.rs";
const OUTSIDE_REMEDY: &str =
    "a core decides and a shell carries: hand the core a value instead (CONTRIBUTING.md, cores)";
const NEW_REMEDY: &str = "add it to the table in xtask/src/tidy/edges.rs and to the code map";
const LINTS_REMEDY: &str = "write `[lints]` and `workspace = true` into the manifest";

/// A package of the workspace, as its manifest tells.
#[derive(Debug)]
pub(super) struct Package {
    name: String,
    /// The manifest's path from the root, and its text.
    manifest: (String, String),
    dependencies: Vec<Dependency>,
}

#[derive(Debug)]
struct Dependency {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Tests,
}

/// Reads the output of `cargo metadata --no-deps`.
pub(super) fn parse(metadata: &str) -> Result<Vec<Package>> {
    let metadata: serde_json::Value =
        serde_json::from_str(metadata).context("cargo metadata printed no JSON")?;
    let root = metadata["workspace_root"].as_str().context("cargo metadata names no root")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    packages
        .iter()
        .map(|package| {
            let path = package["manifest_path"].as_str().context("a package has no manifest")?;
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
            let short = path.strip_prefix(root).unwrap_or(path).trim_start_matches('/');
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            Ok(Package {
                name: name_in(package)?,
                manifest: (short.to_owned(), text),
                dependencies: dependencies
                    .map(|dependency| {
                        let kind = match dependency["kind"].as_str() {
                            Some("dev") => Kind::Tests,
                            _ => Kind::Ordinary,
                        };
                        Ok(Dependency { name: name_in(dependency)?, kind })
                    })
                    .collect::<Result<_>>()?,
            })
        })
        .collect()
}

fn name_in(value: &serde_json::Value) -> Result<String> {
    Ok(value["name"].as_str().context("cargo metadata leaves a name out")?.to_owned())
}

/// Checks every package against the table.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let (path, text) = &package.manifest;
        if !has_lints(text) {
            let what = format!("{} does not inherit the workspace's lints", package.name);
            findings.push(Finding::fault(path, 1, what, LINTS_REMEDY));
        }
        let Some(rule) = rule(&package.name) else {
            let what = format!("{} is not in the table of crates", package.name);
            findings.push(Finding::fault(path, 1, what, NEW_REMEDY));
            continue;
        };
        findings.extend(package.dependencies.iter().filter_map(|dependency| {
            let (what, remedy) = rule.objection(dependency)?;
            Some(Finding::fault(path, line_of(text, &dependency.name), what, remedy))
        }));
    }
    findings
}

fn rule(package: &str) -> Option<&'static Rule> {
    let name = package.strip_prefix("claviger-").unwrap_or(package);
    RULES.iter().find(|rule| rule.name == name)
}

impl Rule {
    fn objection(&self, dependency: &Dependency) -> Option<(String, &'static str)> {
        let Some(name) = dependency.name.strip_prefix("claviger-") else {
            let barred = self.layer == Layer::Core
                && dependency.kind == Kind::Ordinary
                && NOT_IN_CORES.contains(&dependency.name.as_str());
            let what = format!("core {} depends on {}", self.name, dependency.name);
            return barred.then_some((what, OUTSIDE_REMEDY));
        };
        let allowed = self.may_use.allows(name)
            || (dependency.kind == Kind::Tests && self.tests_may_use.contains(&name));
        let what = format!("{} must not depend on {name}", self.name);
        (!allowed).then_some((what, EDGE_REMEDY))
    }
}

impl Use {
    fn allows(&self, name: &str) -> bool {
        let layer = RULES.iter().find(|rule| rule.name == name).map(|rule| rule.layer);
        match self {
            Self::These(names) => names.contains(&name),
            Self::Cores => layer == Some(Layer::Core),
            Self::CoresAndShells => matches!(layer, Some(Layer::Core | Layer::Shell)),
            Self::CoresShellsAnd(names) => {
                Self::CoresAndShells.allows(name) || names.contains(&name)
            }
        }
    }
}

/// Tells whether the manifest takes over the lints, or, as the one unsafe crate must, states its
/// own that still deny unsafe code where it is not expected.
fn has_lints(manifest: &str) -> bool {
    let compact: String = manifest.chars().filter(|c| !c.is_whitespace()).collect();
    compact.contains("[lints]workspace=true") || compact.contains("unsafe_code=\"deny\"")
}

fn line_of(manifest: &str, dependency: &str) -> usize {
    let found = manifest.lines().position(|line| {
        line.strip_prefix(dependency).is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    });
    found.map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objections(package: &str, dependency: &str, kind: Kind) -> usize {
        let manifest = format!("[lints]\nworkspace = true\n\n[dependencies]\n{dependency}.x = 1\n");
        let package = Package {
            name: package.to_owned(),
            manifest: ("Cargo.toml".to_owned(), manifest),
            dependencies: vec![Dependency { name: dependency.to_owned(), kind }],
        };
        let findings = check(&[package]);
        assert!(findings.iter().all(|finding| finding.line == 5), "{findings:?}");
        findings.len()
    }

    #[test]
    fn arrows_point_down_only() {
        for (package, dependency, kind, expected) in [
            ("claviger-keystore", "claviger-durable", Kind::Ordinary, 0),
            ("claviger-keystore", "claviger-distill", Kind::Ordinary, 1),
            ("claviger-keystore", "claviger-store", Kind::Tests, 1),
            ("claviger-fleet", "claviger-device", Kind::Tests, 0),
            ("claviger-fleet", "claviger-device", Kind::Ordinary, 1),
            ("claviger-lab", "claviger-kme", Kind::Ordinary, 0),
            ("claviger-lab", "claviger-net", Kind::Ordinary, 1),
            ("claviger-roles", "claviger-net", Kind::Ordinary, 0),
            ("claviger-roles", "claviger-lab", Kind::Ordinary, 1),
            ("claviger", "claviger-roles", Kind::Ordinary, 0),
            ("claviger", "claviger-lab", Kind::Ordinary, 0),
            ("claviger-wire", "tokio", Kind::Ordinary, 1),
            ("claviger-wire", "tokio", Kind::Tests, 0),
            ("claviger-net", "tokio", Kind::Ordinary, 0),
        ] {
            let found = objections(package, dependency, kind);
            assert_eq!(found, expected, "{package} -> {dependency} ({kind:?})");
        }
    }

    #[test]
    fn a_crate_that_nobody_listed_is_named() {
        let manifest = ("x/Cargo.toml".to_owned(), "[lints]\nworkspace = true\n".to_owned());
        let package =
            Package { name: "claviger-helpers".to_owned(), manifest, dependencies: Vec::new() };
        let findings = check(&[package]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("claviger-helpers"), "{findings:?}");
    }

    #[test]
    fn lints_are_inherited_or_spelled_out() {
        for (manifest, expected) in [
            ("[lints]\nworkspace = true\n", true),
            ("[lints.rust]\nunsafe_code = \"deny\"\n", true),
            ("[dependencies]\nserde.workspace = true\n", false),
        ] {
            assert_eq!(has_lints(manifest), expected, "{manifest}");
        }
    }

    #[test]
    fn every_edge_in_the_table_names_a_crate_of_the_table() {
        for rule in RULES {
            let named = match &rule.may_use {
                Use::These(names) | Use::CoresShellsAnd(names) => *names,
                Use::Cores | Use::CoresAndShells => &[],
            };
            for name in named.iter().chain(rule.tests_may_use) {
                assert!(RULES.iter().any(|rule| rule.name == *name), "{} -> {name}", rule.name);
            }
        }
    }
}
