//! A table of numbers, which tells where it comes from.

use std::fmt::Write as _;

/// Where a figure comes from: without it nobody can make it again.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The figure.
    pub figure: String,
    /// The commit of the program, `unknown` where it was built outside of a repository.
    pub commit: String,
    /// The first seed; nothing where chance had no part in it.
    pub seed: Option<u64>,
    /// The configuration, as it was used.
    pub configuration: String,
}

/// Columns with names, and rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// What its file is called, without the ending.
    pub name: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Sheet {
    /// Makes a sheet without rows.
    #[must_use]
    pub fn new(name: &str, columns: &[&'static str]) -> Self {
        let (rows, notes) = (Vec::new(), Vec::new());
        Self { name: name.to_owned(), columns: columns.to_vec(), rows, notes }
    }

    /// Adds a line of comment.
    pub fn note(&mut self, line: String) {
        debug_assert!(!line.contains('\n'), "{line:?}");
        self.notes.push(line);
    }

    /// Adds a row with a cell for each column.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len(), "{row:?}");
        self.rows.push(row);
    }

    /// Returns how many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tells whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the names of the columns.
    #[must_use]
    pub fn columns(&self) -> &[&'static str] {
        &self.columns
    }

    /// Returns the rows.
    #[must_use]
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Writes lines of comment that say where it comes from, the names of the columns, and the rows; the
    /// last line tells that it is whole.
    #[must_use]
    pub fn to_csv(&self, provenance: &Provenance) -> String {
        let Provenance { figure, commit, seed, configuration } = provenance;
        let seed = seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
        let mut text = format!("# claviger lab {figure}, commit {commit}{seed}\n");
        for line in configuration.lines().chain(self.notes.iter().map(String::as_str)) {
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        for row in std::iter::once(&self.columns.iter().map(|&name| name.to_owned()).collect())
            .chain(&self.rows)
        {
            let cells: Vec<_> = row.iter().map(|cell| quoted(cell)).collect();
            let _ = writeln!(text, "{}", cells.join(","));
        }
        let _ = writeln!(text, "# end, {} rows", self.rows.len());
        text
    }
}

/// Writes a number with six digits that count.
#[must_use]
pub fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = 5.0 - value.abs().log10().floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    let digits = digits.clamp(0.0, 17.0) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Writes a number that may be missing.
#[must_use]
pub fn maybe(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
}

fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_says_where_it_comes_from_and_that_it_is_whole() {
        let mut sheet = Sheet::new("x", &["a", "b"]);
        sheet.push(vec!["1".into(), "two, \"three\"".into()]);
        let provenance = Provenance {
            figure: "fig2a".into(),
            commit: "abc".into(),
            seed: Some(7),
            configuration: "wake_s = 1\n\n[quick]\n".into(),
        };
        assert_eq!(
            sheet.to_csv(&provenance),
            "# claviger lab fig2a, commit abc, seed 7\n# wake_s = 1\n#\n# [quick]\na,b\n1,\"two, \"\"three\"\"\"\n# end, 1 rows\n"
        );
    }

    #[test]
    fn numbers_have_six_digits() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-12.345_678_9, "-12.3457"),
            (0.000_123_456_78, "0.000123457"),
            (1_234_567.8, "1234568"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
