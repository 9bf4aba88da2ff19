//! What may stand in which Rust file.

use super::source::Source;
use super::{Finding, Weight};

/// Words that tie a core to the machine it runs on, and what a core has instead.
const NOT_IN_CORES: &[(&str, &str)] = &[
    ("std::net", "a core handles bytes: take them in `handle_*`, give them out in `poll_*`"),
    ("std::fs", "a core keeps state in tables of `claviger_durable::Tx`"),
    ("std::env", "hand the core the part of the configuration that it needs"),
    ("std::process", "a core decides; a shell or `claviger` starts and ends processes"),
    ("std::thread", "a core never waits: give the next deadline in `poll_timeout`"),
    ("Instant::now", "time is the first argument: `now: Timestamp`"),
    ("SystemTime", "time is the first argument: `now: Timestamp`"),
    ("HashMap", "its order depends on the process: use `BTreeMap`"),
    ("HashSet", "its order depends on the process: use `BTreeSet`"),
    ("async", "inputs are `handle_*`, outputs `poll_*`; the shell awaits"),
    (".await", "inputs are `handle_*`, outputs `poll_*`; the shell awaits"),
    ("println!", "return what happened; the shell prints and logs"),
    ("eprintln!", "return what happened; the shell prints and logs"),
    ("SysRng", "randomness is the last argument: `rng: &mut impl Rng`"),
    ("OsRng", "randomness is the last argument: `rng: &mut impl Rng`"),
    ("rand::rng", "randomness is the last argument: `rng: &mut impl Rng`"),
    ("rand::random", "randomness is the last argument: `rng: &mut impl Rng`"),
];

/// The modules of `claviger-roles` that are roles; the others are shared by them.
const ROLES: &[&str] = &["fibre", "qkd", "kme", "gateway", "platform", "controller", "devices"];

const ROLES_FOLDER: &str = "crates/shell/roles/src/";
const LONGEST_FILE: usize = 600;
const LONGEST_FUNCTION: usize = 60;

/// Checks one Rust file.
pub(super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = purity(source);
    findings.extend(safety(source));
    findings.extend(separation(source));
    findings.extend(size(source));
    findings.extend(skipped_tests(source));
    findings
}

/// No core knows a clock, a socket, a disk or a runtime.
fn purity(source: &Source<'_>) -> Vec<Finding> {
    if !source.path.starts_with("crates/core/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (word, remedy) in NOT_IN_CORES {
        let mut lines = source.lines_with(word);
        if let Some(module) = word.strip_prefix("std::") {
            let grouped = source.grouped("std").into_iter();
            lines.extend(grouped.filter(|(_, first)| *first == module).map(|(line, _)| line));
        }
        findings.extend(lines.into_iter().map(|line| {
            Finding::fault(source.path, line, format!("a core names `{word}`"), remedy)
        }));
    }
    findings
}

/// `unsafe` lives in one crate.
fn safety(source: &Source<'_>) -> Vec<Finding> {
    if source.path.starts_with("crates/core/gf2/") {
        return Vec::new();
    }
    let remedy = "only crates/core/gf2 may, behind safe functions with a portable twin";
    let lines = source.lines_with("unsafe").into_iter();
    lines.map(|line| Finding::fault(source.path, line, "`unsafe`".to_owned(), remedy)).collect()
}

/// No role names another, and what they share names none of them.
fn separation(source: &Source<'_>) -> Vec<Finding> {
    let Some(module) = source.path.strip_prefix(ROLES_FOLDER) else { return Vec::new() };
    let own = module.split(['/', '.']).next().unwrap_or_default();
    if own == "lib" {
        return Vec::new();
    }
    let remedy = "roles talk through sockets; what two of them need goes into a shared module";
    let others = ROLES.iter().filter(|role| **role != own);
    others
        .flat_map(|role| {
            let mut lines = source.lines_with(&format!("crate::{role}"));
            let grouped = source.grouped("crate").into_iter();
            lines.extend(grouped.filter(|(_, first)| first == role).map(|(line, _)| line));
            lines.into_iter().map(move |line| (line, role))
        })
        .map(|(line, role)| {
            Finding::fault(source.path, line, format!("`{own}` names the role `{role}`"), remedy)
        })
        .collect()
}

/// Long files say why; long functions are only remarked upon.
fn size(source: &Source<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let n_lines = source.n_lines();
    let justified = source.text.lines().take_while(|line| line.starts_with("//!"));
    if n_lines > LONGEST_FILE && !justified.into_iter().any(|line| line.starts_with("//! Size: ")) {
        findings.push(Finding::fault(
            source.path,
            1,
            format!("{n_lines} lines without tests, more than {LONGEST_FILE}"),
            "split it by a concept that a reader would look up, or add `//! Size: <why>` on top",
        ));
    }
    for (name, line, n_lines) in source.functions() {
        if n_lines > LONGEST_FUNCTION {
            findings.push(Finding {
                weight: Weight::Remark,
                ..Finding::fault(
                    source.path,
                    line,
                    format!("`{name}` has {n_lines} lines, more than {LONGEST_FUNCTION}"),
                    "name its steps, if they have names",
                )
            });
        }
    }
    findings
}

/// A test that does not run is worse than none.
fn skipped_tests(source: &Source<'_>) -> Vec<Finding> {
    let remedy = "assert what happens now, with a FIXME, or make the test fast enough to run";
    let found = ["#[ignore]", "#[ignore "].into_iter();
    found
        .flat_map(|attribute| source.code.match_indices(attribute))
        .map(|(at, _)| {
            let line = source.line(at);
            Finding::fault(source.path, line, "a test is ignored".to_owned(), remedy)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tidy::TextFile;

    /// Checks a file and returns the line and the beginning of the text of each finding.
    fn check(path: &str, text: &str, expected: &[(usize, &str)]) {
        let file = TextFile { path: path.to_owned(), text: text.to_owned() };
        let mut findings = super::check(&Source::parse(&file, &BTreeSet::new()));
        findings.sort();
        let found: Vec<(usize, &str)> =
            findings.iter().map(|finding| (finding.line, finding.what.as_str())).collect();
        assert_eq!(found, expected, "{path}:\n{text}");
    }

    #[test]
    fn cores_know_no_machine() {
        let core = "crates/core/kme/src/lib.rs";
        check(core, "use std::net::IpAddr;\n", &[(1, "a core names `std::net`")]);
        check(core, "use std::{fmt,\n net::IpAddr};\n", &[(2, "a core names `std::net`")]);
        check(core, "\nlet t = Instant::now();\n", &[(2, "a core names `Instant::now`")]);
        check(core, "// Instant::now is not ours\nlet t = \"HashMap\";\n", &[]);
        check(core, "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n", &[]);
        check("crates/core/kme/tests/golden.rs", "use std::fs;\n", &[]);
        check("crates/shell/net/src/clock.rs", "let t = Instant::now();\n", &[]);
    }

    #[test]
    fn unsafe_has_one_home() {
        let code = "unsafe { f() }\n";
        check("crates/core/gf2/src/clmul.rs", code, &[]);
        check("crates/core/wire/src/cursor.rs", code, &[(1, "`unsafe`")]);
        check("crates/core/wire/src/cursor.rs", "#![forbid(unsafe_code)]\n", &[]);
    }

    #[test]
    fn roles_do_not_know_each_other() {
        let found = &[(1, "`gateway` names the role `kme`")];
        check("crates/shell/roles/src/gateway.rs", "use crate::kme::serve;\n", found);
        check("crates/shell/roles/src/gateway/sae.rs", "use crate::{http, kme};\n", found);
        check("crates/shell/roles/src/gateway.rs", "use crate::gateway::sae;\n", &[]);
        check("crates/shell/roles/src/gateway.rs", "use claviger_kme::Kme;\n", &[]);
        check("crates/shell/roles/src/lib.rs", "pub use crate::kme::run;\n", &[]);
        let shared = &[(1, "`http` names the role `kme`")];
        check("crates/shell/roles/src/http.rs", "use crate::kme::serve;\n", shared);
    }

    #[test]
    fn long_files_say_why() {
        let lines = "x();\n".repeat(601);
        let found = &[(1, "601 lines without tests, more than 600")];
        check("crates/lab/src/lib.rs", &lines, found);
        check("crates/lab/src/lib.rs", &format!("//! Lab.\n//! Size: one table.\n{lines}"), &[]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        check("crates/lab/src/lib.rs", &tests, &[]);
    }

    #[test]
    fn long_functions_are_remarked() {
        let function = format!("fn f() {{\n{}}}\n", "x();\n".repeat(60));
        let file = TextFile { path: "a.rs".to_owned(), text: function };
        let findings = super::check(&Source::parse(&file, &BTreeSet::new()));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].weight, Weight::Remark);
    }

    #[test]
    fn ignored_tests_are_found() {
        let path = "crates/lab/tests/day.rs";
        check(path, "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n", &[(2, "a test is ignored")]);
    }
}
