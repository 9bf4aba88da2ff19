//! Labels of devices as they are brought: lists in CSV, and what a scanner reads off a QR code.
//!
//! A list has the columns `mac,bootstrap_key,policy`, with that line at its head; the key is 32 bytes as 64
//! hexadecimal digits. A QR code says `CLAVIGER:1:MAC:KEY` with the address without colons and the key in
//! hexadecimal digits, so that all of it is in the code's alphanumeric mode; its policy is told beside it.

use claviger_units::{Key256, MacAddr};
use zeroize::Zeroizing;

/// What stands on the label of a device.
#[derive(Debug)]
pub struct Label {
    /// Its card.
    pub mac: MacAddr,
    /// Its bootstrap key.
    pub key: Key256,
    /// What it may reach.
    pub policy: String,
    /// The line it stood in, from 1.
    pub line: usize,
}

/// A line that is no label; no text of the line is repeated, as there may be a key in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: LabelError,
}

/// What is wrong with a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The first line names the columns.
    #[error("the first line must be `mac,bootstrap_key,policy`")]
    Head,
    /// A line has three fields.
    #[error("a line has three fields: mac,bootstrap_key,policy")]
    Fields,
    /// The first field is a MAC address.
    #[error("the first field must be a MAC address, such as 02:00:5e:10:00:01")]
    Mac,
    /// A group address, or none, is no card's.
    #[error("this is no address of a single card")]
    NotOne,
    /// The second field is a key.
    #[error("the key must be 64 hexadecimal digits")]
    Key,
    /// The third field names a policy.
    #[error("the third field must name a policy, without spaces")]
    Policy,
    /// The same card stands in a line above.
    #[error("the same card stands in line {0}")]
    Twice(usize),
    /// A QR code of another kind.
    #[error("this is no label of a device: CLAVIGER:1:MAC:KEY")]
    Qr,
}

/// Reads a list; all faults, or all labels.
pub fn from_csv(text: &str) -> Result<Vec<Label>, Vec<Fault>> {
    let mut lines = (1..).zip(text.lines());
    let head = lines.next().map(|(_, head)| head.trim_start_matches('\u{feff}').trim());
    if head != Some("mac,bootstrap_key,policy") {
        return Err(vec![Fault { line: 1, what: LabelError::Head }]);
    }
    let filled = lines.filter(|(_, line)| !line.trim().is_empty());
    collected(filled.map(|(line, text)| (line, from_line(line, text))))
}

/// Reads what a scanner wrote, a label a line; all faults, or all labels.
pub fn from_qr(text: &str, policy: &str) -> Result<Vec<Label>, Vec<Fault>> {
    let filled = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    collected(filled.map(|(line, text)| (line, from_code(line, text.trim(), policy))))
}

fn collected(
    labels: impl Iterator<Item = (usize, Result<Label, LabelError>)>,
) -> Result<Vec<Label>, Vec<Fault>> {
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    let mut seen = std::collections::BTreeMap::new();
    for (line, label) in labels {
        let once = label.and_then(|label| match seen.insert(label.mac, line) {
            Some(first) => Err(LabelError::Twice(first)),
            None => Ok(label),
        });
        match once {
            Ok(label) => good.push(label),
            Err(what) => faults.push(Fault { line, what }),
        }
    }
    if faults.is_empty() { Ok(good) } else { Err(faults) }
}

fn from_line(line: usize, text: &str) -> Result<Label, LabelError> {
    let mut fields = text.split(',').map(str::trim);
    let (Some(mac), Some(key), Some(policy), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(LabelError::Fields);
    };
    let mac = single(mac.to_lowercase().parse().or(Err(LabelError::Mac))?)?;
    Ok(Label { mac, key: key_of(key)?, policy: named(policy)?, line })
}

fn from_code(line: usize, code: &str, policy: &str) -> Result<Label, LabelError> {
    let mut fields = code.split(':');
    let (Some("CLAVIGER"), Some("1"), Some(mac), Some(key), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(LabelError::Qr);
    };
    let mac = single(MacAddr::from_bytes(digits(mac).ok_or(LabelError::Mac)?))?;
    Ok(Label { mac, key: key_of(key)?, policy: named(policy)?, line })
}

fn single(mac: MacAddr) -> Result<MacAddr, LabelError> {
    let [first, ..] = *mac.as_bytes();
    let is_one = first & 1 == 0 && *mac.as_bytes() != [0; 6];
    if is_one { Ok(mac) } else { Err(LabelError::NotOne) }
}

fn named(policy: &str) -> Result<String, LabelError> {
    let fits = !policy.is_empty() && !policy.contains(char::is_whitespace);
    if fits { Ok(policy.to_owned()) } else { Err(LabelError::Policy) }
}

fn key_of(text: &str) -> Result<Key256, LabelError> {
    let bytes = Zeroizing::new(digits::<32>(text).ok_or(LabelError::Key)?);
    Ok(Key256::from_bytes(*bytes))
}

/// Reads exactly two hexadecimal digits a byte.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16)?;
            *byte = *byte << 4 | u8::try_from(value).ok()?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn list(lines: &[&str]) -> String {
        [&["mac,bootstrap_key,policy"], lines].concat().join("\n")
    }

    fn faults(lines: &[&str]) -> Vec<(usize, LabelError)> {
        let faults = from_csv(&list(lines)).unwrap_err();
        faults.into_iter().map(|Fault { line, what }| (line, what)).collect()
    }

    #[test]
    fn a_list_gives_labels_in_its_order() {
        let lines = [
            format!("02:00:5E:10:00:02,{KEY},sensor"),
            String::new(),
            format!(" 02:00:5e:10:00:01 , {} , meter\r", KEY.to_uppercase()),
        ];
        let labels = from_csv(&list(&lines.each_ref().map(String::as_str))).unwrap();
        let shown: Vec<_> = labels.iter().map(|l| format!("{} {}", l.mac, l.policy)).collect();
        assert_eq!(shown, ["02:00:5e:10:00:02 sensor", "02:00:5e:10:00:01 meter"]);
        assert!(labels.iter().all(|label| label.key.expose()[31] == 31));
    }

    #[test]
    fn all_faults_are_told_with_their_lines_and_nothing_of_the_keys() {
        let good = format!("02:00:5e:10:00:01,{KEY},sensor");
        let short = format!("02:00:5e:10:00:02,{},sensor", &KEY[1..]);
        let group = format!("01:00:5e:10:00:02,{KEY},sensor");
        let unnamed = format!("02:00:5e:10:00:03,{KEY},");
        let lines = [&good, "nonsense", &short, &group, &unnamed, &good];
        assert_eq!(
            faults(&lines),
            [
                (3, LabelError::Fields),
                (4, LabelError::Key),
                (5, LabelError::NotOne),
                (6, LabelError::Policy),
                (7, LabelError::Twice(2)),
            ]
        );
        let told = from_csv(&list(&lines)).unwrap_err();
        assert!(told.iter().all(|fault| !fault.to_string().contains(&KEY[1..9])));
        assert_eq!(from_csv("").unwrap_err()[0].what, LabelError::Head);
        assert_eq!(
            from_csv(&good).unwrap_err()[0].to_string(),
            "line 1: the first line must be `mac,bootstrap_key,policy`"
        );
    }

    #[test]
    fn a_code_is_a_label_of_a_policy_told_beside_it() {
        let code = format!("CLAVIGER:1:02005E100001:{}", KEY.to_uppercase());
        let labels = from_qr(&format!("{code}\n\n"), "sensor").unwrap();
        assert_eq!(
            (labels[0].mac.to_string().as_str(), &*labels[0].policy),
            ("02:00:5e:10:00:01", "sensor")
        );
        let other = code.replace("CLAVIGER:1", "CLAVIGER:2");
        let faults =
            from_qr(&format!("{other}\nhttps://example.org\n{code}0"), "sensor").unwrap_err();
        let whats: Vec<_> = faults.iter().map(|fault| fault.what).collect();
        assert_eq!(whats, [LabelError::Qr, LabelError::Qr, LabelError::Key]);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in ".{0,200}") {
            drop(from_csv(&text));
            drop(from_csv(&list(&[&text])));
            drop(from_qr(&text, "sensor"));
        }
    }
}
