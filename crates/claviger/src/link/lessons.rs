//! The attacks in words that a student understands: what is done, what Eve has of it, why a link
//! does or does not see it, and what would.

use claviger_lab::attack::AttackFigure;
use claviger_photonics::{Attack, LinkPreset, Protocol};
use claviger_units::Fraction;

use crate::console;

/// What an attack did to the blocks of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// How many gave keys.
    pub(crate) kept: usize,
    /// Why each of the others did not.
    pub(crate) dropped: Vec<String>,
}

impl Blocks {
    fn is_noticed(&self) -> bool {
        self.kept == 0 && !self.dropped.is_empty()
    }

    /// Says how many gave keys, and why the others did not.
    pub(crate) fn in_words(&self) -> String {
        let all = self.kept + self.dropped.len();
        if self.dropped.is_empty() {
            return format!("all {all} blocks that ended were kept");
        }
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for reason in &self.dropped {
            match counts.iter_mut().find(|(met, _)| met == reason) {
                Some((_, n)) => *n += 1,
                None => counts.push((reason, 1)),
            }
        }
        format!("{} of {all} blocks were dropped ({})", self.dropped.len(), reasons(&counts))
    }
}

/// Lists reasons with how often each was met.
pub(crate) fn reasons<R: std::fmt::Display>(counts: &[(R, usize)]) -> String {
    let each: Vec<_> = counts.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
    each.join(", ")
}

/// Breaks a text into lines of at most 100 characters, those after the first indented by `indent`.
pub(crate) fn broken(text: &str, indent: usize) -> String {
    let (mut lines, mut width) = (String::new(), 0);
    for word in text.split(' ') {
        let next = word.chars().count() + 1;
        if width > indent && width + next > WIDTH {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            width = indent;
        } else if !lines.is_empty() {
            lines.push(' ');
        }
        lines.push_str(word);
        width += next;
    }
    lines
}

const WIDTH: usize = 100;

/// Prints lines that begin with a word in a column of its own.
pub(crate) fn tell(lines: &[String]) {
    lines.iter().for_each(|line| console::out(broken(line, "verdict   ".len())));
}

/// Says in one sentence what the attack is.
pub(crate) const fn what(attack: Attack) -> &'static str {
    match attack {
        Attack::InterceptResend => {
            "Eve measures pulses in a basis of her own chance and sends on what she found."
        }
        Attack::Splitting => {
            "Eve counts the photons of each pulse; of two and more she keeps one until the bases are \
             announced, and single ones she lets pass only so often that the click rate stays."
        }
        Attack::Blinding => {
            "Eve measures pulses without loss, has blinded Bob's detectors by bright light, and makes \
             them fire only where he measures in her basis."
        }
        Attack::TimeShift => {
            "At the edges of the gate Bob's two detectors do not see alike; Eve moves each pulse to \
             one edge, and knows which of them more likely fired."
        }
        Attack::TrojanHorse => {
            "Eve shines light of her own into Alice's device and reads her settings from what comes \
             back."
        }
        Attack::AddedLoss => "Eve, or a bent fibre, takes light away.",
    }
}

/// Says what would notice or mend it.
pub(crate) const fn remedy(attack: Attack) -> &'static str {
    match attack {
        Attack::InterceptResend => {
            "Every QKD protocol notices it by its errors; a lower abort_qber drops blocks earlier."
        }
        Attack::Splitting => {
            "Decoy states: pulses of several brightnesses, as the preset decoy-1ghz sends them."
        }
        Attack::Blinding => {
            "Watching the detectors' photocurrent, which is large in blinded ones; or a set-up that \
             trusts no detector (measurement-device-independent QKD)."
        }
        Attack::TimeShift => {
            "Detectors whose roles, and so efficiencies, are exchanged at random for each gate; or a \
             watch on when in the gate clicks come."
        }
        Attack::TrojanHorse => {
            "Isolators and filters at Alice's exit, and a watchdog detector for light that comes in."
        }
        Attack::AddedLoss => {
            "A watch on the click rate, and a light that probes the fibre (OTDR); a key that is made \
             all the same is no less secret."
        }
    }
}

/// Returns what is to be learnt of an attack that met these blocks; `figures` where it was measured.
pub(crate) fn verdict(
    attack: Attack,
    preset: &LinkPreset,
    blocks: &Blocks,
    figures: &[AttackFigure],
) -> Vec<String> {
    let told = blocks.in_words();
    if blocks.kept + blocks.dropped.len() == 0 {
        return vec![
            "verdict   none: no block ended meanwhile; attack for longer with --for".into(),
        ];
    }
    let noticed = blocks.is_noticed();
    let head = if noticed { "noticed" } else { "not noticed" };
    let mut lines = vec![format!("verdict   {head}: {told}")];
    lines.extend(figures.iter().find(|figure| figure.name.contains("Eve")).map(|guessed| {
        format!(
            "Eve       guesses {:.1} % of the sifted bits right, where a coin gets 50 %: {}",
            guessed.measured,
            after(attack, preset, noticed)
        )
    }));
    let why = if noticed { seen(attack, preset) } else { unseen(attack, preset) };
    lines.push(format!("why       {why}"));
    lines.push(format!("remedy    {}", remedy(attack)));
    lines
}

/// Says what her knowledge is worth.
fn after(attack: Attack, preset: &LinkPreset, noticed: bool) -> String {
    match attack {
        _ if noticed => "no key was made of them.".to_owned(),
        Attack::AddedLoss => "she learns nothing by it.".to_owned(),
        Attack::InterceptResend | Attack::Splitting => format!(
            "amplification cuts off what that tells her, as far as the claim {} goes.",
            preset.security().claim()
        ),
        Attack::Blinding | Attack::TimeShift | Attack::TrojanHorse => {
            "amplification does not know of it, so keys of this time are not secret. No claim holds \
             for devices that she has tampered with."
                .to_owned()
        }
    }
}

fn seen(attack: Attack, preset: &LinkPreset) -> String {
    let abort = whole_percent(preset.abort_qber());
    match attack {
        Attack::InterceptResend => format!(
            "where her basis was the wrong one Bob gets wrong bits, up to {} of the sifted ones; this \
             link drops a block above {abort}, or where nothing secret is left.",
            errors_in_words(preset.protocol())
        ),
        Attack::Splitting if has_decoys(preset) => {
            "bright and dim pulses no longer click in the ratio that loss alone leaves, so the blocks \
             fall short of what was promised beforehand."
                .to_owned()
        }
        Attack::AddedLoss => {
            "of fewer clicks a larger share may come from pulses of several photons or from dark \
             counts, and nothing secret is left of the block."
                .to_owned()
        }
        Attack::Splitting | Attack::Blinding | Attack::TimeShift | Attack::TrojanHorse => {
            "it changes the counts of this link so much that its blocks fail their own test."
                .to_owned()
        }
    }
}

fn unseen(attack: Attack, preset: &LinkPreset) -> String {
    let abort = whole_percent(preset.abort_qber());
    match attack {
        Attack::InterceptResend => format!(
            "so few errors stay below the {abort} at which this link stops; but every key is shortened \
             by what its error rate may have told her."
        ),
        Attack::Splitting if has_decoys(preset) => {
            "so few pulses are not told from chance in blocks of this size; the bound on single \
             photons charges what they could tell her."
                .to_owned()
        }
        Attack::Splitting => format!(
            "all pulses of this link are alike, and neither rate nor errors change. Its keys are \
             always shortened as if she did this ({}), which costs rate in peace too.",
            preset.security().claim()
        ),
        Attack::Blinding => {
            "no errors arise and the click rate stays what it was: nothing that this link looks at \
             changes."
                .to_owned()
        }
        Attack::TimeShift => {
            "the bits stay right, so the error rate tells nothing; the link does not look at when in \
             its gate a click came."
                .to_owned()
        }
        Attack::TrojanHorse => {
            "Alice's pulses are not touched: no rate and no error changes.".to_owned()
        }
        Attack::AddedLoss => {
            "loss is what every fibre has: the rate of key falls, and nothing else changes.".to_owned()
        }
    }
}

const fn errors_in_words(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Sarg04 => "a third",
        Protocol::Bb84 | Protocol::DecoyBb84 => "a quarter",
    }
}

fn has_decoys(preset: &LinkPreset) -> bool {
    preset.coding().intensities().len() > 1
}

fn whole_percent(fraction: Fraction) -> String {
    format!("{:.0} %", fraction.as_percent())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(attack: Attack, name: &str, blocks: &Blocks) -> Vec<String> {
        let guessed = AttackFigure {
            name: "guessed right by Eve",
            predicted: 75.0,
            measured: 75.01,
            unit: "%",
            sigma: 0.1,
        };
        verdict(attack, &LinkPreset::named(name).unwrap(), blocks, &[guessed])
    }

    #[test]
    fn a_verdict_says_what_happened_why_and_what_would_help() {
        let dropped = vec!["error rate above the threshold".to_owned(); 2];
        let lines = told(Attack::InterceptResend, "lab", &Blocks { kept: 0, dropped });
        assert_eq!(
            lines[0],
            "verdict   noticed: 2 of 2 blocks were dropped (2 × error rate above the threshold)"
        );
        assert!(lines[1].contains("75.0 %") && lines[1].contains("no key was made"), "{lines:?}");
        assert!(lines[2].contains("a third") && lines[2].contains("8 %"), "{lines:?}");
        let kept = Blocks { kept: 3, dropped: vec![] };
        for (attack, name, parts) in [
            (Attack::Splitting, "lab", ["era-heuristic", "Decoy states"]),
            (Attack::Splitting, "decoy-1ghz", ["chance", "Decoy states"]),
            (Attack::Blinding, "lab", ["not secret", "photocurrent"]),
            (Attack::TimeShift, "lab", ["not secret", "at random"]),
            (Attack::TrojanHorse, "decoy-1ghz", ["not touched", "watchdog"]),
            (Attack::AddedLoss, "lab", ["learns nothing", "OTDR"]),
            (Attack::InterceptResend, "lab", ["shortened", "abort_qber"]),
        ] {
            let lines = told(attack, name, &kept);
            assert!(lines[0].starts_with("verdict   not noticed: all 3 blocks"), "{lines:?}");
            let text = lines.join("\n");
            assert!(parts.iter().all(|part| text.contains(part)), "{attack}: {text}");
        }
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = format!("why       {}", ["word"; 30].join(" "));
        let broken = broken(&text, 10);
        assert!(broken.lines().count() == 2 && broken.lines().all(|line| line.len() <= 100));
        assert!(broken.contains("\n          word"), "{broken}");
        assert_eq!(broken.split_whitespace().count(), 31);
        assert_eq!(super::broken("a  b", 4), "a  b");
    }

    #[test]
    fn without_a_block_there_is_no_verdict() {
        let lines = told(Attack::Blinding, "lab", &Blocks::default());
        assert!(lines[0].contains("--for"), "{lines:?}");
    }
}
