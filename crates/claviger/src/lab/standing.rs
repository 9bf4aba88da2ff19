//! `claviger lab net up`, `exec` and `down`: a network that stands until it is taken down.
//!
//! It is a `lab net run` around a command that only waits, in a session of its own. What is known of it
//! lies in a record: the process, and when that began, so that no other is taken for it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cli::lab::{LabNetExecArgs, LabNetNameArgs, LabNetUpArgs};
use crate::console;

/// Where records and logs of standing networks lie.
const FOLDER: &str = "/run/claviger-lab";
/// How long a network may take to build; a thousand hosts take half a minute.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the last line of a network says that is complete.
const COMPLETE: &str = ", admitted in ";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    process: u32,
    began: u64,
}

/// Builds a network and leaves it standing.
pub(crate) fn up(args: &LabNetUpArgs) -> Result<ExitCode> {
    super::net::check_needs()?;
    let name = &args.name.name;
    let (record, log) = (path(name, "json")?, path(name, "log")?);
    if let Some(other) = standing(&record) {
        bail!(
            "the network {name} stands already (process {}): `claviger lab net down {name}` first, or \
             choose another --name",
            other.process
        );
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(FOLDER).context("making a folder")?;
    let told = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let mut command = Command::new("setsid");
    command.arg(program).args(["lab", "net", "run", &args.topology.to_string()]);
    command.args(["--policy", super::policy_name(args.policy)]);
    command.args(args.tls.then_some("--tls")).args(args.link.words());
    let length = args.length.map(|length| length.as_secs_f64().to_string());
    command.args(["--", "sleep", length.as_deref().unwrap_or("infinity")]);
    command.stdin(Stdio::null()).stdout(told.try_clone()?).stderr(told);
    let mut child = command.spawn().context("starting the network")?;
    let begun = Instant::now();
    // Whoever is interrupted here leaves a network that can be taken down.
    let process = child.id();
    let began = began(process).context("the network has ended at once")?;
    fs::write(&record, serde_json::to_string(&Record { process, began })?)
        .with_context(|| format!("writing {}", record.display()))?;
    let said = loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if let Some(line) = said.lines().find(|line| line.contains(COMPLETE)) {
            break line.to_owned();
        }
        if let Some(status) = child.try_wait()? {
            fs::remove_file(&record).context("removing its record")?;
            bail!("the network was not built ({status}):\n{said}");
        }
        if begun.elapsed() > PATIENCE {
            kill(process)?;
            fs::remove_file(&record).context("removing its record")?;
            bail!("the network was not built in {} s:\n{said}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    console::out(said);
    console::out(format_args!(
        "it stands; `claviger lab net exec {name} -- COMMAND` runs inside, `claviger lab net down {name}` ends it"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Runs a command inside a network that stands.
pub(crate) fn exec(args: &LabNetExecArgs) -> Result<ExitCode> {
    let name = &args.name.name;
    let none = || format!("no network {name} stands: `claviger lab net up` builds one");
    let record = standing(&path(name, "json")?).with_context(none)?;
    let inner = sleeper(record.process).with_context(none)?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &inner.to_string(), "--net", "--mount", "--pid", "--"]);
    command.args(&args.command).envs(environment(inner));
    let status = command.status().context("nsenter cannot be started: install util-linux")?;
    Ok(super::exit_code(status))
}

/// Takes a network down.
pub(crate) fn down(args: &LabNetNameArgs) -> Result<ExitCode> {
    let record = path(&args.name, "json")?;
    let Some(Record { process, .. }) = standing(&record) else {
        if record.exists() {
            fs::remove_file(&record).context("removing what is left of it")?;
        }
        bail!("no network {} stands", args.name);
    };
    kill(process)?;
    let begun = Instant::now();
    while sleeper(process).is_some() || began(process).is_some() {
        if begun.elapsed() > Duration::from_secs(30) {
            bail!("process {process} does not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::remove_file(&record).context("removing its record")?;
    fs::remove_file(path(&args.name, "log")?).context("removing its log")?;
    console::out(format_args!("the network {} is gone", args.name));
    Ok(ExitCode::SUCCESS)
}

fn path(name: &str, extension: &str) -> Result<PathBuf> {
    let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !fits {
        bail!("{name} is no name of a network: use letters, digits and -");
    }
    Ok(Path::new(FOLDER).join(name).with_extension(extension))
}

/// Returns the record of a network whose process still is the one that it names.
fn standing(record: &Path) -> Option<Record> {
    let record: Record = serde_json::from_str(&fs::read_to_string(record).ok()?).ok()?;
    (began(record.process) == Some(record.began)).then_some(record)
}

/// Returns when a process began, in ticks since the machine did (proc(5), stat, field 22).
fn began(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    // A zombie has ended.
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

/// Finds the command that only waits, below the process that keeps the network.
fn sleeper(process: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find_map(|child: u32| {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        if name.trim() == "sleep" { Some(child) } else { sleeper(child) }
    })
}

/// Returns what the lab has told its command.
fn environment(process: u32) -> Vec<(OsString, OsString)> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let pairs = bytes.split(|byte| *byte == 0).filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        let ours = name.starts_with(b"CLAVIGER") || name == b"OVS_RUNDIR";
        let text = |bytes| std::ffi::OsStr::from_bytes(bytes).to_owned();
        ours.then(|| (text(name), text(value)))
    });
    pairs.collect()
}

/// Ends a session that this program has begun, with all that is in it.
fn kill(leader: u32) -> Result<()> {
    let status = Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]).status();
    let status = status.context("kill cannot be started")?;
    if status.success() { Ok(()) } else { bail!("process {leader} cannot be ended") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_beginning() {
        let own = std::process::id();
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("lab.json");
        assert!(standing(&record).is_none());
        let began = began(own).unwrap();
        for (began, is_there) in [(began, true), (began + 1, false)] {
            let text = serde_json::to_string(&Record { process: own, began }).unwrap();
            fs::write(&record, text).unwrap();
            assert_eq!(standing(&record).is_some(), is_there);
        }
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        assert_eq!(path("lab", "json").unwrap(), Path::new("/run/claviger-lab/lab.json"));
        for name in ["", "../lab", "a b"] {
            assert!(path(name, "json").is_err(), "{name:?}");
        }
    }
}
