//! The live view as a pure function: what was added up in, a dozen lines out.

use claviger_units::{Fraction, Site, Span};

use super::capacity::is_faster;
use super::tally::{AttackOnLight, NetworkSeen, Tally};
use crate::figures::{cells, clock, grouped};

/// All that is shown.
#[derive(Debug)]
pub(crate) struct Picture<'a> {
    /// What the roles have told.
    pub(crate) tally: &'a Tally,
    /// Time since the start.
    pub(crate) elapsed: Span,
    /// How long the run shall be.
    pub(crate) length: Option<Span>,
    /// The eavesdropper's share of the pulses.
    pub(crate) eve: Fraction,
    /// Her share after the next press of her key.
    pub(crate) eve_next: Fraction,
    /// Whether the devices have been told to stop.
    pub(crate) ending: bool,
}

/// What a piece of text wants to be seen as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// The frame around what matters.
    Dim,
    /// What matters.
    Bold,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Something is wrong.
    Bad,
}

/// One line of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line(Vec<(Tone, String)>);

impl Line {
    fn of(label: &str) -> Self {
        Self::default().add(Tone::Dim, format!("{label:<10}"))
    }

    fn add(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.0.push((tone, text.into()));
        self
    }

    fn plain(self, text: impl Into<String>) -> Self {
        self.add(Tone::Plain, text)
    }

    /// Returns the text without colours, at most `width` characters.
    pub(crate) fn text(&self, width: usize) -> String {
        self.0.iter().flat_map(|(_, text)| text.chars()).take(width).collect()
    }

    /// Returns the text with the colours of ECMA-48, at most `width` characters wide.
    pub(crate) fn painted(&self, width: usize) -> String {
        let (mut painted, mut room) = (String::new(), width);
        for (tone, text) in &self.0 {
            let shown: String = text.chars().take(room).collect();
            room -= shown.chars().count();
            let code = match tone {
                Tone::Plain => "0",
                Tone::Dim => "2",
                Tone::Bold => "1",
                Tone::Good => "32",
                Tone::Warn => "33",
                Tone::Bad => "31;1",
            };
            painted.push_str(&format!("\u{1b}[{code}m{shown}\u{1b}[0m"));
        }
        painted
    }
}

/// Draws the picture for a terminal of `width` columns.
pub(crate) fn render(picture: &Picture<'_>, width: usize) -> Vec<Line> {
    let tally = picture.tally;
    let bar = (width.saturating_sub(50)).clamp(8, 30);
    let mut lines = vec![
        head(picture),
        link(tally),
        qber(tally, bar),
        secret(tally),
        block(tally, bar),
        buffer(tally, Site::A, bar),
        buffer(tally, Site::B, bar),
        reserve(tally, bar),
        keys(tally),
        network(tally),
        devices(tally),
        last_reading(tally),
        refused(tally),
    ];
    if let AttackOnLight::Present(words) = &tally.attack {
        lines
            .push(Line::of("attack").add(Tone::Bad, format!("the light is under attack: {words}")));
    }
    lines.push(foot(picture));
    lines
}

fn head(picture: &Picture<'_>) -> Line {
    let facts = &picture.tally.facts;
    let time = match picture.length {
        Some(length) => format!("{} of {}", clock(picture.elapsed), clock(length)),
        None => clock(picture.elapsed),
    };
    let mut line = Line::default().add(Tone::Bold, "claviger");
    line = line.add(Tone::Dim, format!("  {} · ", facts.link)).add(Tone::Warn, "simulated");
    if is_faster(facts.speed) {
        line = line.add(Tone::Warn, format!(" {} times faster", facts.speed));
    }
    if facts.seeded {
        line = line.add(Tone::Warn, " · seeded: reproducible, never to be used");
    }
    line.add(Tone::Dim, format!(" · {time}"))
}

fn link(tally: &Tally) -> Line {
    let tone = match (tally.link.as_str(), &tally.trouble) {
        ("open", None) => Tone::Good,
        ("", _) => Tone::Warn,
        ("open", Some(_)) if tally.is_recovering() => Tone::Warn,
        _ => Tone::Bad,
    };
    Line::of("link").add(tone, format!("● {}", tally.link_in_words()))
}

/// The bar ends at this error rate; an eavesdropper on all pulses causes a third.
const QBER_OF_BAR: f64 = 0.25;

fn qber(tally: &Tally, bar: usize) -> Line {
    let threshold = tally.facts.rules.abort;
    let line = Line::of("QBER");
    let Some(qber) = tally.qber else { return line.add(Tone::Dim, "no light yet") };
    let tone = match qber.as_f64() / threshold.as_f64() {
        share if share > 1.0 => Tone::Bad,
        share if share > 0.5 => Tone::Warn,
        _ => Tone::Good,
    };
    let place = |rate: Fraction| cells(Fraction::clamped(rate.as_f64() / QBER_OF_BAR), bar);
    let (filled, limit) = (place(qber), place(threshold));
    let cell = |n: usize| match n {
        n if n == limit => '│',
        n if n < filled => '█',
        _ => '░',
    };
    line.add(tone, (0..bar).map(cell).collect::<String>())
        .add(tone, format!("  {:.2} %", qber.as_percent()))
        .add(Tone::Dim, format!("  the link stops above {:.0} %", threshold.as_percent()))
}

fn secret(tally: &Tally) -> Line {
    let line = Line::of("secret");
    let theory = format!("  theory {}", tally.facts.theory);
    let line = match (tally.recent_rate(), &tally.trouble) {
        (_, Some(_)) => {
            line.add(Tone::Bad, "0 bit/s until a block is whole: devices live on the buffers")
        }
        (None, None) => line.add(Tone::Dim, "no block yet"),
        (Some(rate), None) => line.add(Tone::Bold, rate.to_string()).plain(" of key"),
    };
    line.add(Tone::Warn, " (simulated)").add(Tone::Dim, theory)
}

fn block(tally: &Tally, bar: usize) -> Line {
    let progress = tally.progress();
    let count = format!("  {} kept, {} dropped", tally.kept.count, tally.blocks_dropped);
    Line::of("block")
        .plain(filled(progress, bar))
        .plain(format!("  {:.0} %", progress.as_percent()))
        .add(Tone::Dim, count)
}

fn buffer(tally: &Tally, site: Site, bar: usize) -> Line {
    let line = Line::of(&format!("buffer {site}"));
    match tally.buffer(site) {
        None => line.add(Tone::Dim, "not heard yet"),
        Some((available, capacity)) => {
            let tone = if available == 0 { Tone::Bad } else { Tone::Plain };
            line.add(tone, filled(Fraction::of(available, capacity), bar)).plain(format!(
                "  {} of {} keys",
                grouped(available),
                grouped(capacity)
            ))
        }
    }
}

fn reserve(tally: &Tally, bar: usize) -> Line {
    let line = Line::of("reserve");
    match tally.reserve(Site::A) {
        None => line.add(Tone::Dim, "not heard yet"),
        Some((pads, target)) => line
            .plain(filled(Fraction::of(pads, target), bar))
            .plain(format!("  {} of {} pads", grouped(pads), grouped(target)))
            .add(Tone::Dim, " to authenticate the link"),
    }
}

fn keys(tally: &Tally) -> Line {
    let at = |site| grouped(tally.delivered(site));
    Line::of("keys").plain(format!("{} delivered at A, {} at B", at(Site::A), at(Site::B)))
}

fn network(tally: &Tally) -> Line {
    let line = Line::of("network");
    let Some(NetworkSeen { switches, links, hosts }) = tally.network else {
        return line.add(Tone::Dim, "not discovered yet");
    };
    let (orders, keys) = tally.orders;
    line.plain(format!("{switches} switches, {links} links, {hosts} hosts"))
        .add(Tone::Dim, format!("  {} first keys ordered, orders: {orders}", grouped(keys)))
}

fn devices(tally: &Tally) -> Line {
    let (keyed, all) = (tally.keyed(), u64::from(tally.facts.devices));
    let tone = if keyed >= all { Tone::Good } else { Tone::Warn };
    Line::of("devices")
        .add(tone, format!("{} of {} keyed", grouped(keyed), grouped(all)))
        .plain(format!("  {} readings sent, ", grouped(tally.sent())))
        .add(Tone::Bold, format!("{} decrypted", grouped(tally.decrypted())))
}

fn last_reading(tally: &Tally) -> Line {
    let line = Line::of("reading");
    match &tally.last_reading {
        None => line.add(Tone::Dim, "none yet"),
        Some((eui, reading)) => line.add(Tone::Dim, format!("{eui}  ")).plain(reading),
    }
}

fn refused(tally: &Tally) -> Line {
    let mut line = Line::of("refused").plain(grouped(tally.refusals));
    if let Some(violation) = tally.violations.first() {
        let count = grouped(tally.n_violations);
        return line.add(Tone::Bad, format!("  INVARIANTS VIOLATED: {count}, first {violation}"));
    }
    if let Some(why) = &tally.last_refusal {
        line = line.add(Tone::Dim, format!("  last {why}"));
    }
    line
}

fn foot(picture: &Picture<'_>) -> Line {
    if picture.ending {
        return Line::default().add(Tone::Warn, "stopping: what is on its way still arrives");
    }
    let percent = |share: Fraction| format!("{:.0} %", share.as_percent());
    let line = Line::default().add(Tone::Bold, "e");
    let line = if picture.eve > Fraction::ZERO {
        line.add(
            Tone::Bad,
            format!(" the eavesdropper listens to {} of the pulses", percent(picture.eve)),
        )
    } else {
        line.add(
            Tone::Dim,
            format!(" let an eavesdropper listen to {} of the pulses", percent(picture.eve_next)),
        )
    };
    line.add(Tone::Bold, "   q").add(Tone::Dim, " quit")
}

fn filled(share: Fraction, bar: usize) -> String {
    let full = cells(share, bar);
    (0..bar).map(|n| if n < full { '█' } else { '░' }).collect()
}

#[cfg(test)]
mod tests {
    use claviger_distill::Outcome;
    use claviger_roles::Report;
    use claviger_units::Timestamp;
    use claviger_wire::classical::DropReason;

    use super::super::tally::tests::{ledger, tally};
    use super::*;

    fn picture(tally: &Tally) -> Picture<'_> {
        Picture {
            tally,
            elapsed: Span::from_secs(12),
            length: Some(Span::from_secs(90)),
            eve: Fraction::ZERO,
            eve_next: Fraction::clamped(0.5),
            ending: false,
        }
    }

    fn shown(picture: &Picture<'_>, width: usize) -> Vec<String> {
        render(picture, width).iter().map(|line| line.text(width)).collect()
    }

    #[test]
    fn a_link_that_works() {
        let tally = tally();
        let expected = [
            "claviger  lab, 4 dB · simulated · 00:12 of 01:30",
            "link      ● open",
            "QBER      ██░░░░░░░░│░░░░░░░░░░░░░░░░░░░  1.52 %  the link stops above 8 %",
            "secret    1886 bit/s of key (simulated)  theory 1893 bit/s",
            "block     ███████████████░░░░░░░░░░░░░░░  50 %  2 kept, 0 dropped",
            "buffer A  █████████░░░░░░░░░░░░░░░░░░░░░  1234 of 3906 keys",
            "buffer B  █████████░░░░░░░░░░░░░░░░░░░░░  1230 of 3906 keys",
            "reserve   ██████████████████████████████  9998 of 10 000 pads to authenticate the link",
            "keys      3 delivered at A, 2 at B",
            "network   4 switches, 4 links, 4 hosts  3 first keys ordered, orders: 1",
            "devices   2 of 3 keyed  2 readings sent, 1 decrypted",
            "reading   02005efffe100001  21.37 °C, 43.1 %, 310 lx, 2950 mV",
            "refused   0",
            "e let an eavesdropper listen to 50 % of the pulses   q quit",
        ];
        assert_eq!(shown(&picture(&tally), 100), expected);
    }

    #[test]
    fn a_link_that_somebody_listens_to() {
        let mut tally = tally();
        let dropped = ledger(3, Outcome::Dropped(DropReason::SampledQber));
        for report in [
            Report::Block(Box::new(dropped)),
            Report::Sampled { qber: Fraction::clamped(0.17), sampled: 40 },
            Report::Violation { role: "platform", what: "a replay was accepted".into() },
        ] {
            tally.handle_report(Timestamp::START, report);
        }
        let eve = Fraction::clamped(0.5);
        let lines = shown(&Picture { eve, length: None, ..picture(&tally) }, 100);
        assert_eq!(lines[0], "claviger  lab, 4 dB · simulated · 00:12");
        assert_eq!(
            lines[1],
            "link      ● stopped: sampled error rate above the threshold: somebody may be listening"
        );
        assert!(lines[2].contains("17.00 %"), "{}", lines[2]);
        assert!(lines[3].starts_with(
            "secret    0 bit/s until a block is whole: devices live on the buffers (simulated)"
        ));
        assert!(lines[12].contains("VIOLATED: 1, first platform: a replay was accepted"));
        assert_eq!(lines[13], "e the eavesdropper listens to 50 % of the pulses   q quit");
    }

    #[test]
    fn an_attack_of_another_process_has_its_line() {
        let mut tally = tally();
        for (words, there) in [(Some("trojan-horse 1".to_owned()), true), (None, false)] {
            tally.handle_report(Timestamp::START, Report::Attack(words));
            let lines = shown(&picture(&tally), 100);
            let line = "attack    the light is under attack: trojan-horse 1";
            assert_eq!(lines[13] == line, there, "{lines:?}");
        }
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let tally = tally();
        for width in [0, 1, 20, 60, 80, 200] {
            for line in render(&picture(&tally), width) {
                assert!(line.text(width).chars().count() <= width);
                let painted = line.painted(width);
                let mut bare = String::new();
                for (n, part) in painted.split('\u{1b}').enumerate() {
                    bare.push_str(if n == 0 { part } else { part.split_once('m').unwrap().1 });
                }
                assert_eq!(bare, line.text(width));
            }
        }
    }
}
