//! Words that no committed text may hold: what is true only of one machine.

use super::Finding;

/// Folders of somebody's machine. Written in two pieces, or this file would be a finding itself.
const MACHINE_PATHS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Package registries: which one a user's tools ask is the user's affair.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("registry.npm", "js.org"),
    concat!("deb.debian", ".org"),
];

const PATH_REMEDY: &str = "write a path from the repository's root, or take it from an argument";
const REGISTRY_REMEDY: &str = "name the package alone; the user's tools know their registry";

/// Checks one file.
pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        for word in MACHINE_PATHS.iter().filter(|word| starts_a_path(line, word)) {
            findings.push(Finding::fault(path, number, format!("names `{word}`"), PATH_REMEDY));
        }
        if path.ends_with("Cargo.lock") {
            continue;
        }
        for word in REGISTRIES.iter().filter(|word| line.contains(*word)) {
            findings.push(Finding::fault(path, number, format!("names `{word}`"), REGISTRY_REMEDY));
        }
    }
    findings
}

/// Tells whether `folder` stands in the line as the beginning of a path, not inside one.
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || ['.', '-', '_', '}', '~'].contains(&c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths_and_registries_are_found() {
        let root = MACHINE_PATHS[0];
        let registry = REGISTRIES[0];
        for (path, line, expected) in [
            ("a.md", format!("see `{root}notes`"), 1),
            ("a.md", format!("file://{root}notes"), 1),
            ("a.md", format!("https://example.org{root}notes"), 0),
            ("a.rs", format!("// from {registry}"), 1),
            ("Cargo.lock", format!("source = \"{registry}\""), 0),
            ("Cargo.lock", format!("path = \"{root}x\""), 1),
            ("a.rs", "let work = rest/2;".to_owned(), 0),
        ] {
            let findings = check(path, &format!("first\n{line}\n"));
            assert_eq!(findings.len(), expected, "{line}");
            assert!(findings.iter().all(|finding| finding.line == 2));
        }
    }
}
