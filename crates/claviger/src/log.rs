//! Where log lines go, and how many.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

/// Sends log lines to the end of a file, so that none disturbs the screen.
pub(crate) fn to_file(path: &Path, verbosity: u8) -> Result<()> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = opened.with_context(|| format!("the log {} cannot be written", path.display()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter(verbosity))
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .init();
    Ok(())
}

/// Sends log lines to the standard error, at least the ordinary ones.
pub(crate) fn to_stderr(verbosity: u8) {
    tracing_subscriber::fmt()
        .with_env_filter(filter(verbosity.saturating_add(1)))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

/// The broker's library warns of every client that goes away; its errors are enough.
fn filter(verbosity: u8) -> EnvFilter {
    EnvFilter::new(match verbosity {
        0 => "warn,claviger=info,claviger_roles=info,mqtt5=error",
        1 => "info,mqtt5=error",
        _ => "info,claviger=debug,mqtt5=warn",
    })
}
