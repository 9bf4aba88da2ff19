//! Lines for whoever sits in front of it; a closed pipe is no reason to fall over.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line to the standard output.
pub(crate) fn out(line: impl Display) {
    drop(writeln!(io::stdout().lock(), "{line}"));
}

/// Writes a line to the standard error.
pub(crate) fn err(line: impl Display) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}

/// Writes an error with its causes, each on a line, without what was said already.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !last.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
        last = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    #[test]
    fn an_error_is_told_with_its_causes_and_nothing_twice() {
        let disk = || Err::<(), _>(std::io::Error::other("the disk is on fire"));
        let error = disk().context("cannot write x").context("role kme").unwrap_err();
        let told = super::explained(&error);
        assert_eq!(
            told,
            "error: role kme\n  caused by: cannot write x\n  caused by: the disk is on fire"
        );
        let error = disk().context("cannot write x: the disk is on fire").unwrap_err();
        assert_eq!(super::explained(&error), "error: cannot write x: the disk is on fire");
    }
}
