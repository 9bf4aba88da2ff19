//! `cargo xtask tidy`: the rules of the house that no compiler knows.

mod edges;
mod rules;
mod source;
mod text;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::command::{cargo, output, program, root};
use source::Source;

/// Something that breaks a rule, where it stands, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    weight: Weight,
    what: String,
    remedy: &'static str,
}

/// Whether a finding fails the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Fault,
    /// Worth a look; nothing fails.
    Remark,
}

/// Prints every finding; fails if one of them is a fault.
pub(crate) fn run() -> Result<ExitCode> {
    Ok(if is_tidy()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints every finding and tells whether all of them are mere remarks.
pub(crate) fn is_tidy() -> Result<bool> {
    let files = committed_files(&root())?;
    let metadata =
        output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let mut findings = edges::check(&edges::parse(&metadata)?);
    for file in &files {
        findings.extend(text::check(&file.path, &file.text));
    }
    let test_modules = source::test_modules(&files);
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        findings.extend(rules::check(&Source::parse(file, &test_modules)));
    }
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    let faults = findings.iter().filter(|finding| finding.weight == Weight::Fault).count();
    let remarks = findings.len() - faults;
    println!("tidy: {} files, {faults} faults, {remarks} remarks", files.len());
    Ok(faults == 0)
}

/// A text file of the repository.
#[derive(Debug)]
struct TextFile {
    /// From the root, with `/` between the folders.
    path: String,
    text: String,
}

/// Reads the text files that are committed or would be by `git add --all`.
fn committed_files(root: &Path) -> Result<Vec<TextFile>> {
    let listed = output(program("git").args(["ls-files", "-z", "-co", "--exclude-standard"]))
        .context("tidy looks at committed files, so it needs git and a clone")?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let Ok(bytes) = std::fs::read(root.join(path)) else {
            continue; // deleted, and not yet so in the index
        };
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(TextFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

impl Finding {
    fn fault(path: &str, line: usize, what: String, remedy: &'static str) -> Self {
        Self { path: path.to_owned(), line, weight: Weight::Fault, what, remedy }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what, remedy, .. } = self;
        let weight = match self.weight {
            Weight::Fault => "fault",
            Weight::Remark => "remark",
        };
        write!(f, "{path}:{line}: {weight}: {what}\n    {remedy}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_where_what_and_how_to_mend_it() {
        let finding = Finding::fault("a.rs", 3, "names `std::net`".to_owned(), "move it");
        assert_eq!(finding.to_string(), "a.rs:3: fault: names `std::net`\n    move it");
    }
}
