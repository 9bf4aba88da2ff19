//! Looks for keys in clear, in every form in which one might slip out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Keys, as all the byte strings that would give them away.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// By their first eight bytes: what each is, and all of it.
    needles: HashMap<[u8; 8], Vec<(String, Vec<u8>)>>,
}

impl Search {
    /// Looks for either half of a key too, since a page of a database may end within it.
    pub(crate) fn add(&mut self, name: &str, key: &[u8]) {
        assert!(key.len() >= 32, "{name} is too short to be told from chance");
        let (first, last) = key.split_at(key.len() / 2);
        for (half, bytes) in [("first", first), ("last", last)] {
            for (form, text) in forms(bytes) {
                let what = format!("the {half} half of {name} as {form}");
                self.needles.entry(prefix(&text)).or_default().push((what, text));
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.needles.values().map(Vec::len).sum()
    }

    /// Returns what is found in some bytes.
    pub(crate) fn in_bytes(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for (at, window) in bytes.windows(8).enumerate() {
            for (what, text) in self.needles.get(&prefix(window)).into_iter().flatten() {
                if bytes[at..].starts_with(text) {
                    found.push(format!("{what} in {place} at {at}"));
                }
            }
        }
        found
    }

    /// Returns what is found in the files of a folder and of those below, and how many bytes
    /// were looked at.
    pub(crate) fn in_folder(&self, folder: &Path) -> (Vec<String>, usize) {
        let (mut found, mut length) = (Vec::new(), 0);
        for path in files(folder) {
            // A file may go away meanwhile, as a database's log does.
            let Ok(bytes) = fs::read(&path) else { continue };
            length += bytes.len();
            found.extend(self.in_bytes(&path.display().to_string(), &bytes));
        }
        (found, length)
    }
}

fn prefix(bytes: &[u8]) -> [u8; 8] {
    bytes[..8].try_into().unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Bytes in clear, and as text: hexadecimal, `{:?}`, and base64 at each of its three alignments.
fn forms(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let listed = format!("{bytes:?}");
    let mut forms = vec![
        ("bytes", bytes.to_vec()),
        ("upper-case digits", hex.to_uppercase().into_bytes()),
        ("digits", hex.into_bytes()),
        ("a list", listed.trim_matches(['[', ']']).to_owned().into_bytes()),
    ];
    for before in 0..3 {
        let aligned = [&[0; 3][..before], bytes].concat();
        // Digits that hold bits of the neighbours are left out.
        let whole = 8 * aligned.len() / 6;
        let own = (8 * before).div_ceil(6)..whole;
        for text in [STANDARD_NO_PAD.encode(&aligned), URL_SAFE_NO_PAD.encode(&aligned)] {
            forms.push(("base64", text[own.clone()].to_owned().into_bytes()));
        }
    }
    forms
}

#[test]
fn finds_what_is_planted() {
    let folder = tempfile::tempdir().unwrap();
    let key: Vec<u8> = (0..32).map(|n| 7 * n + 3).collect();
    let mut search = Search::default();
    search.add("a key", &key);
    fs::create_dir(folder.path().join("deep")).unwrap();
    let plant = |bytes: &[u8]| {
        let path = folder.path().join("deep/file");
        fs::write(path, [b"before ", bytes, b" after"].concat()).unwrap();
        search.in_folder(folder.path()).0
    };
    assert_eq!(plant(b"nothing"), [] as [String; 0]);
    assert_eq!(plant(&key[1..16]), [] as [String; 0]);
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = |before: usize| {
        let neighbours = [&b"xyz"[..before], &key, b"zyx"].concat();
        [STANDARD_NO_PAD.encode(&neighbours), URL_SAFE_NO_PAD.encode(&neighbours)]
    };
    for whole in [
        key.clone(),
        hex.clone().into_bytes(),
        hex.to_uppercase().into_bytes(),
        format!("{key:?}").into_bytes(),
        base64(0)[0].clone().into_bytes(),
        base64(1)[0].clone().into_bytes(),
        base64(2)[1].clone().into_bytes(),
    ] {
        let found = plant(&whole);
        let has = |half| found.iter().any(|what| what.starts_with(half));
        assert!(has("the first half of a key") && has("the last half of a key"), "{found:?}");
    }
    assert!(plant(&key[16..]).iter().all(|what| what.contains("the last half of a key as bytes")));
}
