//! Starting other programs and reading along.

use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// Returns the root of the repository that this task was started in.
pub(crate) fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or(own.clone(), Path::to_path_buf)
}

/// Makes a command that runs in the root of the repository and reads no input.
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Makes a call of the cargo that started this task.
pub(crate) fn cargo() -> Command {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Returns where cargo puts what it builds.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata =
        output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let folder = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(PathBuf::from(folder))
}

/// Tells whether the command ends well; what it prints goes to the terminal.
pub(crate) fn passes(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("{command:?} could not be started"))?;
    Ok(status.success())
}

/// Tells whether the command exists and ends well; what it prints is dropped.
pub(crate) fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Returns what the command prints on its standard output if it ends well.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{command:?} could not be started"))?;
    anyhow::ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no text"))
}

/// Runs the command and shows all it prints; `read` gets every line without its colours.
/// Tells whether the command ended well.
pub(crate) fn watch(command: &mut Command, mut read: impl FnMut(&str)) -> Result<bool> {
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let (reader, writer) = std::io::pipe().context("no pipe could be made")?;
    let second = writer.try_clone().context("no pipe could be made")?;
    let mut child = command
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("{command:?} could not be started"))?;
    // The command holds the writing ends: the loop below ends only once they are all closed.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("the program's output broke off")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        read(&without_colours(&line));
    }
    Ok(child.wait().context("the program was lost")?.success())
}

fn without_colours(line: &str) -> String {
    let mut pieces = line.split('\x1b');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once('m').map_or(piece, |(_, text)| text));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(without_colours("\x1b[32;1m Summary\x1b[0m 3 passed"), " Summary 3 passed");
    }

    #[test]
    fn a_watched_program_is_read_on_both_its_outputs() {
        let mut command = program("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let mut lines = Vec::new();
        let passed = watch(&mut command, |line| lines.push(line.to_owned())).unwrap();
        assert!(!passed);
        assert_eq!(lines, ["one", "two"]);
    }
}
