//! The run in plain lines, where there is no terminal to draw on: one a second at most, and only
//! when something has changed.

use claviger_distill::Outcome;
use claviger_units::{Fraction, Span, Timestamp};

use super::tally::{AttackOnLight, Tally};
use crate::figures::grouped;

/// What has been said so far.
#[derive(Debug, Default)]
pub(crate) struct PlainLines {
    said: Phrases,
    last: Option<Timestamp>,
    readings_said: Option<Timestamp>,
}

/// One phrase for each kind of change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Phrases {
    link: Option<String>,
    eve: Option<String>,
    attack: Option<String>,
    block: Option<String>,
    devices: Option<String>,
    readings: Option<String>,
    refused: Option<String>,
    violations: Option<String>,
}

const PACE: Span = Span::from_secs(1);
const PACE_OF_READINGS: Span = Span::from_secs(10);

impl PlainLines {
    /// Returns the next line, if there is something new and it is time.
    pub(crate) fn next(&mut self, now: Timestamp, tally: &Tally, eve: Fraction) -> Option<String> {
        if self.last.is_some_and(|last| now.since(last) < PACE) {
            return None;
        }
        let mut phrases = Phrases::of(tally, eve);
        if self.readings_said.is_some_and(|last| now.since(last) < PACE_OF_READINGS) {
            phrases.readings.clone_from(&self.said.readings);
        }
        if phrases.readings != self.said.readings {
            self.readings_said = Some(now);
        }
        let news = phrases.news_since(&self.said);
        self.said = phrases;
        if news.is_empty() {
            return None;
        }
        self.last = Some(now);
        let secs = now.since(tally.facts.started).as_secs_f64();
        Some(format!("{secs:7.1} s  {}", news.join("; ")))
    }
}

impl Phrases {
    fn of(tally: &Tally, eve: Fraction) -> Self {
        let (keyed, sent, decrypted) = (tally.keyed(), tally.sent(), tally.decrypted());
        let link = (!tally.link.is_empty()).then(|| format!("link {}", tally.link_in_words()));
        Self {
            link,
            eve: (eve > Fraction::ZERO).then(|| {
                format!("an eavesdropper listens to {:.0} % of the pulses", eve.as_percent())
            }),
            attack: match &tally.attack {
                AttackOnLight::None => None,
                AttackOnLight::Present(words) => {
                    Some(format!("the light is under attack: {words}"))
                }
                AttackOnLight::Over => Some("the attack on the light is over".to_owned()),
            },
            block: block(tally),
            devices: (keyed > 0).then(|| {
                let all = grouped(tally.facts.devices.into());
                format!("{} of {all} devices have a key from the link", grouped(keyed))
            }),
            readings: (decrypted > 0)
                .then(|| format!("{} of {} readings decrypted", grouped(decrypted), grouped(sent))),
            refused: tally
                .last_refusal
                .as_ref()
                .map(|why| format!("{} refused, last {why}", grouped(tally.refusals))),
            violations: tally.violations.last().map(|what| {
                format!("INVARIANTS VIOLATED: {}, last {what}", grouped(tally.n_violations))
            }),
        }
    }

    fn news_since(&self, said: &Self) -> Vec<String> {
        let pairs = [
            (&self.link, &said.link),
            (&self.eve, &said.eve),
            (&self.attack, &said.attack),
            (&self.block, &said.block),
            (&self.devices, &said.devices),
            (&self.readings, &said.readings),
            (&self.refused, &said.refused),
            (&self.violations, &said.violations),
        ];
        pairs
            .into_iter()
            .filter(|(new, old)| new != old)
            .filter_map(|(new, _)| new.clone())
            .collect()
    }
}

fn block(tally: &Tally) -> Option<String> {
    let ledger = tally.newest.as_ref()?;
    let (number, qber) = (ledger.block, ledger.qber());
    match ledger.outcome {
        Outcome::Kept => {
            let rate = tally.recent_rate().unwrap_or_default();
            Some(format!(
                "block {number} kept: {} keys, QBER {qber}, {rate} (simulated)",
                ledger.keys
            ))
        }
        Outcome::Dropped(why) => Some(format!("block {number} dropped: {why}, QBER {qber}")),
        Outcome::Open => None,
    }
}

#[cfg(test)]
mod tests {
    use claviger_roles::Report;

    use super::super::tally::tests::{eui, tally};
    use super::*;

    const NONE: Fraction = Fraction::ZERO;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_micros(1_000_000) + Span::from_millis(millis)
    }

    #[test]
    fn news_are_told_once_and_at_most_once_a_second() {
        let (mut lines, mut tally) = (PlainLines::default(), tally());
        assert_eq!(
            lines.next(at(6_200), &tally, NONE).unwrap(),
            "    6.2 s  link open; block 2 kept: 29 keys, QBER 1.50 %, 1886 bit/s (simulated); \
             2 of 3 devices have a key from the link; 1 of 2 readings decrypted"
        );
        assert_eq!(lines.next(at(9_000), &tally, NONE), None);
        tally.handle_report(at(9_100), Report::Keyed { eui: eui(3), epoch: 1 });
        assert!(
            lines
                .next(at(9_200), &tally, NONE)
                .unwrap()
                .ends_with("3 of 3 devices have a key from the link")
        );
        tally.handle_report(at(9_300), Report::Link("stopped: there is no light".into()));
        assert_eq!(lines.next(at(9_900), &tally, NONE), None);
        assert_eq!(
            lines.next(at(10_300), &tally, NONE).unwrap(),
            "   10.3 s  link stopped: there is no light"
        );
    }

    #[test]
    fn an_attack_is_told_when_it_comes_and_when_it_goes() {
        let (mut lines, mut tally) = (PlainLines::default(), tally());
        assert!(lines.next(at(0), &tally, NONE).is_some());
        tally.handle_report(at(1_000), Report::Attack(Some("blinding 0.5".into())));
        let line = lines.next(at(1_000), &tally, NONE).unwrap();
        assert!(line.ends_with("the light is under attack: blinding 0.5"), "{line}");
        tally.handle_report(at(3_000), Report::Attack(None));
        let line = lines.next(at(3_000), &tally, NONE).unwrap();
        assert!(line.ends_with("the attack on the light is over"), "{line}");
    }

    #[test]
    fn readings_alone_are_told_every_ten_seconds() {
        let (mut lines, mut tally) = (PlainLines::default(), tally());
        assert!(lines.next(at(0), &tally, NONE).is_some());
        let reading = String::new();
        let read = Report::Decrypted { eui: eui(2), epoch: 1, counter: 0, reading };
        tally.handle_report(at(1_000), read);
        assert_eq!(lines.next(at(2_000), &tally, NONE), None);
        assert_eq!(
            lines.next(at(10_000), &tally, NONE).unwrap(),
            "   10.0 s  2 of 2 readings decrypted"
        );
    }
}
