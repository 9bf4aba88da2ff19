//! `cargo xtask test`: all that a change must pass, each part timed, nothing skipped in silence.

use std::fmt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::command::{answers, cargo, output, passes, watch};
use crate::firmware;
use crate::tidy;
use crate::tools::{self, Lacking, Missing, PYTHON, WITHOUT};

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Everything,
    /// The edit loop: no tests of `tests/` folders, no documentation, no installing.
    Quick,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// Tests ran; `whole` is false when their runner ended badly.
    Tests {
        count: Count,
        whole: bool,
    },
}

/// The parts that have run so far.
#[derive(Debug, Default)]
struct Board {
    rows: Vec<(&'static str, Duration, Verdict)>,
}

/// Who runs the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Nextest,
    /// Slower, and a crash of one test takes those of its binary along.
    Cargo,
}

/// Runs every part, prints the table, what could not run, and the count.
pub(crate) fn run(scope: Scope) -> Result<ExitCode> {
    let mut board = Board::default();
    let mut lacking = Vec::new();
    board.part("tools", || {
        lacking = tools::prepare(match scope {
            Scope::Everything => Missing::Install,
            Scope::Quick => Missing::Note,
        })?;
        for lacking in &lacking {
            println!("without tests {}: {}", lacking.tool.mark(), lacking.because);
        }
        Ok(Verdict::Passed)
    });
    let runner = Runner::find();
    board.part("fmt", || verdict(cargo().args(["fmt", "--all", "--check"])));
    board.part("tidy", || Ok(Verdict::of(tidy::is_tidy()?)));
    board.part("clippy", || verdict(with_profile("clippy").args(CLIPPY)));
    board.part("tests", || runner.run(scope, &lacking));
    if scope == Scope::Everything {
        board.part("doctests", || count(with_profile("test").arg("--doc"), Count::of_cargo));
        board.part("rustdoc", || {
            verdict(with_profile("doc").arg("--no-deps").env("RUSTDOCFLAGS", "-D warnings"))
        });
        if firmware::can_build() {
            board.part("firmware", || firmware::build().map(Verdict::of));
        }
    }
    let mut not_run = not_run(runner, scope, &lacking);
    if scope == Scope::Everything && !firmware::can_build() {
        let remedy = tools::CORTEX_M.install;
        not_run.push(format!("not run: the build of the firmware; install {remedy}"));
    }
    println!("\n{board}");
    if runner == Runner::Cargo {
        println!("ran with cargo test: cargo-nextest is not installed");
    }
    if scope == Scope::Quick {
        println!("left out by --quick: the tests in tests/ folders, doctests, rustdoc");
    }
    for line in &not_run {
        println!("{line}");
    }
    let sum = board.sum();
    println!("{} passed, {} failed", sum.passed, sum.failed);
    Ok(match (sum.failed, not_run.is_empty()) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(NOT_ALL_RAN),
        _ => ExitCode::FAILURE,
    })
}

const NOT_ALL_RAN: u8 = 2;
const CLIPPY: &[&str] = &["--all-targets", "--", "-D", "warnings"];

/// A cargo command on the whole workspace, built with the one profile of all tests.
fn with_profile(subcommand: &str) -> Command {
    let mut command = cargo();
    command.args([subcommand, "--profile", "ci", "--workspace", "--locked"]);
    command
}

fn verdict(command: &mut Command) -> Result<Verdict> {
    passes(command).map(Verdict::of)
}

/// Runs tests and adds up what `read` finds in the lines of the runner.
fn count(command: &mut Command, read: fn(&str) -> Option<Count>) -> Result<Verdict> {
    let mut sum = Count::default();
    let whole = watch(command, |line| sum = sum + read(line).unwrap_or_default())?;
    Ok(Verdict::Tests { count: sum, whole })
}

/// Names the tests that were left out, a line for each program that was lacking.
fn not_run(runner: Runner, scope: Scope, lacking: &[Lacking]) -> Vec<String> {
    let line = |lacking: &Lacking| {
        let tests = match runner.list(scope, &lacking.tool.mark()) {
            Ok(tests) if tests.is_empty() => return None,
            Ok(tests) => tests.join(", "),
            Err(error) => format!("tests {} ({error:#})", lacking.tool.mark()),
        };
        Some(format!("not run: {tests} because {}", lacking.because))
    };
    lacking.iter().filter_map(line).collect()
}

impl Runner {
    fn find() -> Self {
        match answers(cargo().args(["nextest", "--version"])) {
            true => Self::Nextest,
            false => Self::Cargo,
        }
    }

    fn run(self, scope: Scope, lacking: &[Lacking]) -> Result<Verdict> {
        let marks: Vec<String> = lacking.iter().map(|lacking| lacking.tool.mark()).collect();
        let mut command = self.command("run", scope);
        match self {
            Self::Nextest if marks.is_empty() => {}
            Self::Nextest => {
                let any = marks.iter().map(|mark| format!("test({mark})")).collect::<Vec<_>>();
                command.args(["-E", &format!("not ({})", any.join(" | "))]);
            }
            Self::Cargo => {
                command.args(["--no-fail-fast", "--"]);
                command.args(marks.iter().flat_map(|mark| ["--skip", mark]));
            }
        }
        let names: Vec<&str> = lacking.iter().map(|lacking| lacking.tool.name).collect();
        command.env(WITHOUT, names.join(",")).env(PYTHON, tools::python()?);
        count(&mut command, self.reader())
    }

    /// Lists the tests that have `mark` in their names.
    fn list(self, scope: Scope, mark: &str) -> Result<Vec<String>> {
        let mut command = self.command("list", scope);
        match self {
            Self::Nextest => {
                command.args(["--cargo-quiet", "--message-format", "json"]);
                command.args(["-E", &format!("test({mark})")]);
                names_in_json(&output(&mut command)?)
            }
            Self::Cargo => {
                let listed = output(command.args(["--quiet", "--", "--list", mark]))?;
                let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
                Ok(names.map(str::to_owned).collect())
            }
        }
    }

    fn command(self, act: &str, scope: Scope) -> Command {
        let mut command = match self {
            Self::Nextest => {
                let mut nextest = cargo();
                nextest.args(["nextest", act, "--cargo-profile", "ci", "--workspace", "--locked"]);
                nextest
            }
            Self::Cargo => with_profile("test"),
        };
        match (self, scope) {
            (_, Scope::Quick) => command.args(["--lib", "--bins"]),
            // Else cargo would run the doctests here, unlike nextest.
            (Self::Cargo, Scope::Everything) => command.args(["--lib", "--bins", "--tests"]),
            (Self::Nextest, Scope::Everything) => &mut command,
        };
        command
    }

    fn reader(self) -> fn(&str) -> Option<Count> {
        match self {
            Self::Nextest => Count::of_nextest,
            Self::Cargo => Count::of_cargo,
        }
    }
}

fn names_in_json(listing: &str) -> Result<Vec<String>> {
    let listing: serde_json::Value =
        serde_json::from_str(listing).context("nextest listed the tests in no JSON")?;
    let suites = listing["rust-suites"].as_object().context("nextest listed no suites")?;
    let mut names = Vec::new();
    for (suite, found) in suites {
        let cases = found["testcases"].as_object().into_iter().flatten();
        let matching = cases.filter(|(_, case)| case["filter-match"]["status"] == "matches");
        names.extend(matching.map(|(name, _)| format!("{suite} {name}")));
    }
    Ok(names)
}

impl Verdict {
    fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }

    /// Counts tests; a part that failed without a failed test counts as one.
    fn count(self) -> Count {
        match self {
            Self::Passed => Count::default(),
            Self::Failed => Count { passed: 0, failed: 1 },
            Self::Tests { count, whole } => {
                Count { failed: count.failed.max(u64::from(!whole)), ..count }
            }
        }
    }
}

impl Board {
    fn part(&mut self, name: &'static str, work: impl FnOnce() -> Result<Verdict>) {
        println!("\n── {name}");
        let start = Instant::now();
        let verdict = work().unwrap_or_else(|error| {
            println!("{error:#}");
            Verdict::Failed
        });
        self.rows.push((name, start.elapsed(), verdict));
    }

    fn sum(&self) -> Count {
        self.rows.iter().map(|(.., verdict)| verdict.count()).fold(Count::default(), |a, b| a + b)
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, took, verdict) in &self.rows {
            writeln!(f, "{name:<10}{:>8.1} s   {verdict}", took.as_secs_f64())?;
        }
        let total: Duration = self.rows.iter().map(|(_, took, _)| took).sum();
        write!(f, "{:<10}{:>8.1} s", "together", total.as_secs_f64())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Failed => f.write_str("FAILED"),
            Self::Tests { count, whole: true } => write!(f, "ok, {count}"),
            Self::Tests { count, whole: false } => write!(f, "FAILED, {count}"),
        }
    }
}

impl Count {
    /// Reads `Summary [   1.2s] 10 tests run: 7 passed (1 slow), 2 failed, 1 timed out, 4 skipped`.
    fn of_nextest(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("Summary [")?.split_once("run: ")?;
        let mut count = Self::default();
        let mut depth = 0_u32;
        let outside: String = counts
            .chars()
            .filter(|c| {
                depth += u32::from(*c == '(');
                let outside = depth == 0;
                depth = depth.saturating_sub(u32::from(*c == ')'));
                outside
            })
            .collect();
        for item in outside.split(',') {
            let (number, what) = item.trim().split_once(' ')?;
            let number: u64 = number.parse().ok()?;
            match what.trim() {
                "passed" => count.passed += number,
                "skipped" => {}
                _ => count.failed += number,
            }
        }
        Some(count)
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; …`.
    fn of_cargo(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |what: &str| {
            let item = counts.split(';').find_map(|item| item.trim().strip_suffix(what))?;
            item.trim().parse::<u64>().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")? })
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(passed: u64, failed: u64) -> Option<Count> {
        Some(Count { passed, failed })
    }

    #[test]
    fn summaries_of_nextest_are_read() {
        for (line, count) in [
            ("     Summary [   0.005s] 1 test run: 1 passed, 0 skipped", counted(1, 0)),
            (
                "     Summary [  61.2s] 9/10 tests run: 5 passed (1 slow, 1 leaky), 2 failed, \
                 1 timed out, 1 exec failed, 3 skipped",
                counted(5, 4),
            ),
            ("        PASS [   0.003s] claviger-units id::tests::round_trip", None),
        ] {
            assert_eq!(Count::of_nextest(line), count, "{line}");
        }
    }

    #[test]
    fn results_of_cargo_test_are_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(Count::of_cargo(line), counted(3, 2));
        assert_eq!(Count::of_cargo("test id::tests::round_trip ... ok"), None);
    }

    #[test]
    fn a_part_that_breaks_counts_as_a_failure() {
        let none = Count::default();
        for (verdict, count) in [
            (Verdict::Passed, counted(0, 0)),
            (Verdict::Failed, counted(0, 1)),
            (Verdict::Tests { count: none, whole: false }, counted(0, 1)),
            (Verdict::Tests { count: Count { passed: 7, failed: 2 }, whole: false }, counted(7, 2)),
        ] {
            assert_eq!(Some(verdict.count()), count, "{verdict:?}");
        }
    }

    #[test]
    fn matching_tests_are_named_with_their_suite() {
        let listing = r#"{"rust-suites": {"claviger::clients": {"testcases": {
            "same_key_with_curl": {"filter-match": {"status": "matches"}},
            "readings": {"filter-match": {"status": "mismatch", "reason": "expression"}}}}}}"#;
        assert_eq!(names_in_json(listing).unwrap(), ["claviger::clients same_key_with_curl"]);
    }

    #[test]
    fn the_table_shows_every_part_and_the_sum() {
        let mut board = Board::default();
        board.rows.push(("fmt", Duration::from_millis(400), Verdict::Passed));
        board.rows.push(("clippy", Duration::from_millis(61_000), Verdict::Failed));
        assert_eq!(
            board.to_string(),
            "fmt            0.4 s   ok\nclippy        61.0 s   FAILED\ntogether      61.4 s"
        );
    }
}
