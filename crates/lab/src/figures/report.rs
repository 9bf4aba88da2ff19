//! All figures of a run on one page that needs nothing else.

use std::fmt::Write as _;

use super::drawing::escaped;
use super::sheet::Sheet;
use super::{Finding, Made};

/// Writes the page.
///
/// `about` says how it was made: the commit, the seed, the extent. Figures have their names before them;
/// `missing` says of others why they are not there.
#[must_use]
pub fn html(about: &str, figures: &[(String, Made)], missing: &[String]) -> String {
    let mut page = String::from(HEAD);
    let _ = write!(page, "<p class=\"about\">{}</p>\n<h2>In one look</h2>\n", escaped(about));
    page += "<table><tr><th>figure</th><th>claim of the paper</th><th>paper</th><th>here</th><th></th></tr>\n";
    for (figure, made) in figures {
        for verdict in &made.verdicts {
            let _ = writeln!(
                page,
                "<tr><td><a href=\"#{figure}\">{figure}</a></td><td>{}</td><td>{}</td><td>{}</td>{}</tr>",
                escaped(&verdict.claim),
                escaped(&verdict.theirs),
                escaped(&verdict.ours),
                cell(verdict.finding),
            );
        }
    }
    page += "</table>\n";
    for reason in missing {
        let _ = writeln!(page, "<p class=\"contradicted\">{}</p>", escaped(reason));
    }
    for (figure, made) in figures {
        let _ = write!(page, "<h2 id=\"{figure}\">{figure}: {}</h2>\n<ul>\n", escaped(&made.title));
        for remark in &made.remarks {
            let _ = writeln!(page, "<li>{}</li>", escaped(remark));
        }
        page += "</ul>\n";
        for (name, svg) in &made.pictures {
            let _ = writeln!(page, "<figure id=\"{name}\">{svg}</figure>");
        }
        page += "<h3>Verdicts</h3>\n<table><tr><th>claim</th><th>paper</th><th>here</th><th></th><th>why</th></tr>\n";
        for verdict in &made.verdicts {
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td>{}<td>{}</td></tr>",
                escaped(&verdict.claim),
                escaped(&verdict.theirs),
                escaped(&verdict.ours),
                cell(verdict.finding),
                escaped(&verdict.because),
            );
        }
        page += "</table>\n";
        for sheet in &made.sheets {
            write_sheet(&mut page, sheet);
        }
    }
    page + "</body></html>\n"
}

fn cell(finding: Finding) -> String {
    let word = finding.word();
    format!("<td class=\"{word}\">{word}</td>")
}

fn write_sheet(page: &mut String, sheet: &Sheet) {
    let _ = writeln!(
        page,
        "<details><summary>{}.csv: {} rows</summary><table><tr>",
        escaped(&sheet.name),
        sheet.len()
    );
    for column in sheet.columns() {
        let _ = write!(page, "<th>{}</th>", escaped(column));
    }
    *page += "</tr>\n";
    for row in sheet.rows() {
        *page += "<tr>";
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escaped(cell));
        }
        *page += "</tr>\n";
    }
    *page += "</table></details>\n";
}

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Claviger: the laboratory's report</title>
<style>
body { font-family: sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; line-height: 1.45; color: #222; }
table { border-collapse: collapse; margin: 0.8em 0; font-size: 0.9em; }
th, td { border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; vertical-align: top; }
th { background: #f2f2f2; }
figure { margin: 1em 0; overflow-x: auto; }
details { margin: 0.5em 0; }
summary { cursor: pointer; color: #0072b2; }
.about { color: #555; }
td.confirmed { background: #cfe8f7; }
td.conditional, td.near { background: #fdf0c8; }
td.assumed, td.undecided { background: #eeeeee; }
.contradicted { background: #f8d5c0; }
</style></head><body>
<h1>Claviger: the laboratory's report</h1>
";
