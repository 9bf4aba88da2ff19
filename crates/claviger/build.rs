//! Tells the program of which commit it was built, where there is a repository.

use std::process::Command;

fn main() {
    // The head moves with each commit; where there is none, there is nothing to watch either.
    for path in ["../../.git/HEAD", "../../.git/logs/HEAD"] {
        if std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // What is not committed is no commit.
    for path in ["build.rs", "..", "../../Cargo.toml", "../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let words = ["describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"];
    let commit = git(&words).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=CLAVIGER_COMMIT={commit}");
}

fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
