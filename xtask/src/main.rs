//! The tasks of this repository: `cargo xtask`.

#![expect(clippy::print_stdout, reason = "a task reports to the terminal that started it")]

mod bench;
mod command;
mod firmware;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
The tasks of this repository. Every one can be run from any folder in it.

  cargo xtask test            Everything a change must pass, on this machine, now.
  cargo xtask test --quick    The edit loop: formatting, tidy, clippy and the unit tests.
  cargo xtask tidy            Only the rules that no compiler knows (well under a second).
  cargo xtask firmware        The device core for a Cortex-M4F, and how large it is.
  cargo xtask bench AREA      The figures of an area, against their bars.

test
  Runs, in this order, and times: tools, fmt, tidy, clippy, tests, doctests, rustdoc, firmware. A failed
  part does not stop the later ones. Some tests talk to programs that nobody here wrote (curl,
  mosquitto, tshark, the Python client of ETSI GS QKD 014). As root on Debian the missing ones
  are installed first; otherwise their tests are named under `not run` with what to install.
  Exit code: 0 all ran and passed, 1 something failed, 2 nothing failed but not all could run.
  CLAVIGER_TEST_WITHOUT=tshark,curl leaves the tests of these programs out (also exit code 2).

tidy
  Crates that name what they must not, clocks and sockets in cores, roles that know each other,
  `unsafe` outside gf2, files too long, machine paths in the text: each with line and remedy.

bench AREA [--quick] [--json]
  Builds with the release profile. --quick prints every figure within 10 minutes on two cores;
  --json prints one object a line: {\"figure\": NAME, \"value\": NUMBER, \"unit\": TEXT}.
  A figure below its bar is reported and is no error.
";

fn main() -> ExitCode {
    if let Some(code) = firmware::wrapped() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<ExitCode> {
    match args {
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}\nAreas of bench:\n{}", bench::areas());
            Ok(ExitCode::SUCCESS)
        }
        ["test"] => test::run(test::Scope::Everything),
        ["test", "--quick"] => test::run(test::Scope::Quick),
        ["firmware"] => firmware::run(),
        ["tidy"] => tidy::run(),
        ["bench", area, flags @ ..] => bench::run(area, flags),
        ["bench"] => bail!("bench needs an area, one of:\n{}", bench::areas()),
        other => bail!("no task `{}`; `cargo xtask` lists them", other.join(" ")),
    }
}
