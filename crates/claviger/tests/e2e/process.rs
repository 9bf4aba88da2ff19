//! Processes that never outlive their test, and tell what they said when it fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Returns the binary under test with its arguments.
pub(crate) fn claviger(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_claviger"));
    command.args(arguments);
    command
}

/// What a process that ended by itself has left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// A process in the background. It stays in the group of its test, so that whoever ends that
/// group, for time or by a key, ends it too.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts a command; what it says goes to the ends of `NAME.out` and `NAME.err` in `folder`.
    pub(crate) fn start(folder: &Path, name: &str, command: &mut Command) -> Self {
        let path = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (out, err) = (path("out"), path("err"));
        let open = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err));
        Self { name: name.to_owned(), child: command.spawn().unwrap(), out, err }
    }

    /// Returns all that it said on the standard output.
    pub(crate) fn out(&self) -> String {
        read(&self.out)
    }

    /// Returns all that it said on the standard error.
    pub(crate) fn err(&self) -> String {
        read(&self.err)
    }

    /// Tells whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self, patience: Duration) -> Ended {
        let what = format!("the end of {}", self.name);
        let status = eventually(&what, patience, || self.ended());
        Ended { code: status.code(), out: self.out(), err: self.err() }
    }

    /// Sends SIGTERM and waits until it has ended.
    pub(crate) fn terminate(&mut self) -> Ended {
        // The standard library sends no signal but SIGKILL.
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self.wait(Duration::from_secs(30))
    }

    /// Sends SIGKILL: no byte more is written.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            for (stream, text) in [("out", self.out()), ("err", self.err())] {
                eprintln!("--- {} {stream} ---\n{}", self.name, tail(&text));
            }
        }
    }
}

/// Asks again and again until there is an answer; fails after `patience`.
pub(crate) fn eventually<T>(
    what: &str,
    patience: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Returns the last lines: what led to the failure.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The Python that `cargo xtask test` names, or the one that it would make.
pub(crate) fn python() -> PathBuf {
    let made = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../venv/bin/python");
    std::env::var_os("CLAVIGER_TEST_PYTHON").map_or(made, PathBuf::from)
}
