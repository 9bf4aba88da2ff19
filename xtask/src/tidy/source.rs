//! A Rust source as the rules see it: comments and literals blanked, tests known.

use std::collections::BTreeSet;
use std::path::Path;

use super::TextFile;

/// One Rust file.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    /// The text with every character of comments and literals replaced by a space.
    pub(super) code: String,
    // Invariant: as many as `text` has lines.
    in_test: Vec<bool>,
}

impl<'a> Source<'a> {
    /// Reads a file; `test_modules` are the paths of modules that are compiled for tests only.
    pub(super) fn parse(file: &'a TextFile, test_modules: &BTreeSet<String>) -> Self {
        let code = blank(&file.text);
        let all = is_test_path(&file.path)
            || test_modules.iter().any(|module| file.path.starts_with(module.as_str()));
        let mut in_test = vec![all; file.text.lines().count()];
        for (from, to) in test_items(&code) {
            let (first, last) = (line_at(&code, from), line_at(&code, to));
            for line in in_test.iter_mut().take(last).skip(first - 1) {
                *line = true;
            }
        }
        Self { path: &file.path, text: &file.text, code, in_test }
    }

    /// Returns the line, from 1, that the byte at `offset` stands in.
    pub(super) fn line(&self, offset: usize) -> usize {
        line_at(&self.code, offset)
    }

    /// Tells whether a line, counted from 1, is compiled for tests only.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.in_test.get(line - 1).copied().unwrap_or(false)
    }

    /// Returns how many lines are not for tests only.
    pub(super) fn n_lines(&self) -> usize {
        self.in_test.iter().filter(|in_test| !**in_test).count()
    }

    /// Returns the lines outside tests in which `word` stands as words of their own.
    pub(super) fn lines_with(&self, word: &str) -> Vec<usize> {
        let offsets = find_word(&self.code, word).into_iter();
        let mut lines: Vec<usize> =
            offsets.map(|at| self.line(at)).filter(|line| !self.is_test(*line)).collect();
        lines.dedup();
        lines
    }

    /// Returns the first segments that `use ROOT::{…}` groups name, each with its line.
    pub(super) fn grouped(&self, root: &str) -> Vec<(usize, &str)> {
        let opening = format!("{root}::{{");
        let mut named = Vec::new();
        for at in find_word(&self.code, &opening) {
            let from = at + opening.len();
            let to = closing(&self.code, from - 1).unwrap_or(self.code.len());
            let mut depth = 0_i32;
            let mut start = from;
            for (at, c) in self.code[from..=to.min(self.code.len() - 1)].char_indices() {
                let at = from + at;
                let ends = at == to || (c == ',' && depth == 0);
                if ends {
                    let item = self.code[start..at].trim_start();
                    let first = item.split(|c: char| !is_word(c)).next().unwrap_or_default();
                    named.push((self.line(at - item.len()), first));
                    start = at + 1;
                }
                depth += i32::from(c == '{') - i32::from(c == '}');
            }
        }
        named.retain(|(line, first)| !first.is_empty() && !self.is_test(*line));
        named
    }

    /// Returns the functions outside tests that have a body: name, first line, number of lines.
    pub(super) fn functions(&self) -> Vec<(&str, usize, usize)> {
        let mut functions = Vec::new();
        for at in find_word(&self.code, "fn") {
            let rest = self.code[at + 2..].trim_start();
            let name = rest.split(|c: char| !is_word(c)).next().unwrap_or_default();
            let Some(open) = body(&self.code, at) else { continue };
            let Some(close) = closing(&self.code, open) else { continue };
            let (first, last) = (self.line(at), self.line(close));
            if !name.is_empty() && !self.is_test(first) {
                functions.push((name, first, last - first + 1));
            }
        }
        functions
    }
}

/// Returns the paths, without `.rs`, of the modules that some file declares for tests only.
pub(super) fn test_modules(files: &[TextFile]) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let code = blank(&file.text);
        let path = Path::new(&file.path);
        let folder = path.parent().unwrap_or(Path::new(""));
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let home = match stem {
            "lib" | "main" | "mod" => folder.to_path_buf(),
            _ => folder.join(stem),
        };
        for (from, to) in test_items(&code) {
            let item = code[from..=to].strip_suffix(';').and_then(|item| item.rsplit_once("mod "));
            if let Some((_, name)) = item {
                modules.insert(home.join(name.trim()).to_string_lossy().into_owned());
            }
        }
    }
    // The folder or the file, not a neighbour whose name begins alike.
    modules.iter().flat_map(|module| [format!("{module}.rs"), format!("{module}/")]).collect()
}

fn is_test_path(path: &str) -> bool {
    path.split('/').any(|folder| ["tests", "benches", "examples", "fuzz"].contains(&folder))
}

/// Returns the first and last byte of every item behind `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let attributes = ["#[cfg(test)]", "#[cfg(all(test"].into_iter();
    let starts = attributes.flat_map(|attribute| code.match_indices(attribute));
    starts
        .map(|(from, attribute)| {
            let after = from + attribute.len();
            let brace = code[after..].find(['{', ';']).map(|at| after + at);
            let end = brace.and_then(|at| match code.as_bytes().get(at) {
                Some(b'{') => closing(code, at),
                _ => Some(at),
            });
            (from, end.unwrap_or(code.len().saturating_sub(1)))
        })
        .collect()
}

/// Returns where the body of the function declared at `from` opens, if it has one.
fn body(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(from + at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Returns where the brace that opens at `open` is closed.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, c) in code[open..].char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some(open + at);
        }
    }
    None
}

/// Returns where `word` stands in the code with no letter, digit or `_` on either side.
pub(super) fn find_word(code: &str, word: &str) -> Vec<usize> {
    let edge = |inner: Option<char>, outer: Option<char>| {
        !(inner.is_some_and(is_word) && outer.is_some_and(is_word))
    };
    code.match_indices(word)
        .filter(|(at, _)| {
            let (before, after) = (&code[..*at], &code[at + word.len()..]);
            edge(word.chars().next(), before.chars().next_back())
                && edge(word.chars().next_back(), after.chars().next())
        })
        .map(|(at, _)| at)
        .collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_at(code: &str, offset: usize) -> usize {
    code.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Replaces comments and literals by spaces; line ends and offsets stay as they are.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let hidden = match c {
            '/' | '"' | '\'' => literal_or_comment(rest),
            'r' if !code.ends_with(|c: char| is_word(c) && c != 'b' && c != 'c') => {
                raw_string(rest)
            }
            _ => 0,
        };
        let (piece, after) = rest.split_at(hidden.max(c.len_utf8()));
        if hidden == 0 {
            code.push(c);
        } else {
            code.extend(piece.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    code
}

/// Returns the length of the comment, string or character that `rest` begins with, or 0.
fn literal_or_comment(rest: &str) -> usize {
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else if rest.starts_with('"') {
        quoted(rest, '"')
    } else if rest.starts_with("'\\") {
        quoted(rest, '\'')
    } else if rest.starts_with('\'') {
        // A character is closed right after; a lifetime is not.
        let mut chars = rest.char_indices().skip(2);
        chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
    } else {
        0
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        let here = rest.get(at..at + 2);
        match here {
            Some("/*") => depth += 1,
            Some("*/") => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let from = hashes + 2;
    rest[from..].find(&end).map_or(rest.len(), |at| from + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn comments_and_literals_are_blanked_and_nothing_else() {
        for (text, code) in [
            ("a // unsafe\nb", "a          \nb"),
            ("a /* x /* y */ \n z */ b", "a              \n      b"),
            (r#"f("a\"b", 'c', '\'', '"') + g"#, r"f(      ,    ,     ,    ) + g"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("r#\"un\"safe\"# + br\"x\" + var", "             + b     + var"),
            ("let bar = for_r; \"ü\" x", "let bar = for_r;      x"),
        ] {
            assert_eq!(blank(text), code, "{text}");
        }
    }

    #[test]
    fn words_are_found_whole() {
        for (code, word, n) in [
            ("std::net::X std::network my_std::net", "std::net", 1),
            ("x.await y.awaiting", ".await", 1),
            ("unsafe_code unsafe {", "unsafe", 1),
        ] {
            assert_eq!(find_word(code, word).len(), n, "{word} in {code}");
        }
    }

    #[test]
    fn lines_of_tests_are_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let file = file("src/lib.rs", text);
        let source = Source::parse(&file, &BTreeSet::new());
        let tests: Vec<usize> = (1..=6).filter(|line| source.is_test(*line)).collect();
        assert_eq!(tests, [2, 3, 4, 5]);
        assert_eq!(source.n_lines(), 2);
    }

    #[test]
    fn modules_for_tests_are_known_by_their_declaration() {
        let files = [
            file("src/lib.rs", "#[cfg(test)]\nmod model;\nmod models;\n"),
            file("src/peer.rs", "#[cfg(test)] mod histories;"),
        ];
        let modules = test_modules(&files);
        for (path, expected) in [
            ("src/model.rs", true),
            ("src/model/a.rs", true),
            ("src/models.rs", false),
            ("src/peer/histories.rs", true),
            ("src/histories.rs", false),
            ("tests/e2e.rs", true),
        ] {
            let file = file(path, "fn a() {}\n");
            let source = Source::parse(&file, &modules);
            assert_eq!(source.is_test(1), expected, "{path}");
        }
    }

    #[test]
    fn functions_are_measured_from_name_to_brace() {
        let text = "fn a(x: [u8; 3]) -> u8 {\n    x[0]\n}\ntrait T {\n    fn b();\n}\n";
        let file = file("src/lib.rs", text);
        let source = Source::parse(&file, &BTreeSet::new());
        assert_eq!(source.functions(), [("a", 1, 3)]);
    }

    #[test]
    fn groups_are_opened() {
        let text = "use std::{\n    collections::{BTreeMap, BTreeSet},\n    net::IpAddr,\n};\n";
        let file = file("src/lib.rs", text);
        let source = Source::parse(&file, &BTreeSet::new());
        assert_eq!(source.grouped("std"), [(2, "collections"), (3, "net")]);
    }
}
