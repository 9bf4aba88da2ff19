//! The end of a run: what it has shown, and whether that is good.

use claviger_distill::BlockLedger;
use claviger_security::EpsilonLedger;
use claviger_units::{Fraction, Site, Span};
use serde::Serialize;

use super::ledgers::LedgerFigures;
use super::paths::PathFigures;
use super::tally::Tally;
use crate::figures::{clock, epsilon, grouped};

/// The figures of a run, as `--json` prints them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    devices: u32,
    /// Devices that have a key from the link.
    keyed: u64,
    /// What keys took on their way to devices, by path.
    paths: Vec<PathFigures>,
    /// What the devices of each path did: counted, and priced by the model.
    modelled_ledgers: Vec<LedgerFigures>,
    readings_sent: u64,
    readings_decrypted: u64,
    /// Keys that have left the key management entity of site A, where the devices are.
    keys_delivered: u64,
    /// The same at site B.
    keys_delivered_b: u64,
    /// Switches, links and hosts that the controller of the network had found when that last settled.
    switches: usize,
    links_found: usize,
    hosts: usize,
    /// The fibre that the quantum channel was moved to last, and how often it was.
    fibre: Option<String>,
    channel_moves: u64,
    /// Orders for first keys, and keys ordered with them.
    orders: u64,
    keys_ordered: u64,
    violations: u64,
    refusals: u64,
    /// Seconds from the start of the process to the first decrypted reading.
    first_reading_s: Option<f64>,
    /// Bits of key a second of link time, over all kept blocks.
    secret_bit_s: f64,
    /// What theory expects of the same link.
    theory_bit_s: f64,
    /// Error rate over all kept blocks.
    qber: Option<f64>,
    /// Error rate of the newest dropped block, where none was kept.
    #[serde(skip)]
    dropped_qber: Option<Fraction>,
    blocks_kept: u64,
    blocks_dropped: u64,
    /// What is claimed of the keys.
    claim: String,
    /// Blocks of the link's life, earlier runs included, and the sums of their ε.
    epsilon_blocks: u64,
    epsilon_secrecy: f64,
    epsilon_others: f64,
    #[serde(skip)]
    epsilon: EpsilonLedger,
    link: String,
    simulated: bool,
    simulated_speed: f64,
    /// A seeded run is reproducible: its keys are never to be used.
    seeded: bool,
    elapsed_s: f64,
    ok: bool,
    reasons: Vec<String>,
}

impl Summary {
    /// Sums a run up; `faults` are what went wrong besides what the roles have reported.
    pub(crate) fn of(tally: &Tally, elapsed: Span, faults: Vec<String>) -> Self {
        let mut reasons = faults;
        reasons.extend(reasons_against(tally));
        Self {
            devices: tally.facts.devices,
            keyed: tally.keyed(),
            paths: tally
                .paths
                .iter()
                .filter_map(|(path, sum)| PathFigures::of(*path, *sum))
                .collect(),
            modelled_ledgers: tally.ledgers.figures(elapsed),
            readings_sent: tally.sent(),
            readings_decrypted: tally.decrypted(),
            keys_delivered: tally.delivered(Site::A),
            keys_delivered_b: tally.delivered(Site::B),
            switches: tally.network.map_or(0, |network| network.switches),
            links_found: tally.network.map_or(0, |network| network.links),
            hosts: tally.network.map_or(0, |network| network.hosts),
            fibre: tally.channel.as_ref().map(|(fibre, _)| fibre.clone()),
            channel_moves: tally.channel.as_ref().map_or(0, |(_, moves)| *moves),
            orders: tally.orders.0,
            keys_ordered: tally.orders.1,
            violations: tally.n_violations,
            refusals: tally.refusals,
            first_reading_s: tally.first_reading.map(|span| rounded(span.as_secs_f64(), 100.0)),
            secret_bit_s: rounded(tally.kept.rate().as_bps(), 10.0),
            theory_bit_s: rounded(tally.facts.theory.as_bps(), 10.0),
            qber: tally.mean_qber().map(|qber| rounded(qber.as_f64(), 1e6)),
            dropped_qber: tally
                .newest
                .as_ref()
                .filter(|_| tally.kept.count == 0)
                .map(BlockLedger::qber),
            blocks_kept: tally.kept.count,
            blocks_dropped: tally.blocks_dropped,
            claim: tally.facts.rules.claim().to_string(),
            epsilon_blocks: tally.epsilon.blocks(),
            epsilon_secrecy: tally.epsilon.sums().secrecy.as_f64(),
            epsilon_others: tally.epsilon.sums().others.as_f64(),
            epsilon: tally.epsilon,
            link: tally.facts.link.clone(),
            simulated: true,
            simulated_speed: tally.facts.speed,
            seeded: tally.facts.seeded,
            elapsed_s: rounded(elapsed.as_secs_f64(), 100.0),
            ok: reasons.is_empty(),
            reasons,
        }
    }

    /// Tells whether the run was good.
    pub(crate) const fn is_ok(&self) -> bool {
        self.ok
    }

    /// Returns why it was not.
    pub(crate) fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// Writes the figures for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let seeded = if self.seeded { ", seeded: reproducible, never to be used" } else { "" };
        let qber = match (self.qber, self.dropped_qber) {
            (Some(qber), _) => format!(", QBER {:.2} %", 100.0 * qber),
            (None, Some(qber)) => format!(", the newest with QBER {qber}"),
            (None, None) => String::new(),
        };
        let first = self.first_reading_s.map(|secs| format!(", the first after {secs:.1} s"));
        let ran = clock(Span::from_secs_f64(self.elapsed_s));
        let mut lines = vec![
            format!("link      {} for {ran} (simulated{seeded})", self.link),
            format!("blocks    {} kept, {} dropped{qber}", self.blocks_kept, self.blocks_dropped),
            format!(
                "secret    {:.0} bit/s of key (simulated), theory {:.0} bit/s",
                self.secret_bit_s, self.theory_bit_s
            ),
            format!("claim     {}", self.claim),
            format!("epsilon   {}", epsilon(&self.epsilon, " of the link's life")),
            format!(
                "keys      {} delivered at A, {} at B",
                grouped(self.keys_delivered),
                grouped(self.keys_delivered_b)
            ),
            format!(
                "network   {} switches, {} links, {} hosts; {} first keys ordered, orders: {}",
                self.switches,
                self.links_found,
                self.hosts,
                grouped(self.keys_ordered),
                self.orders
            ),
            format!(
                "devices   {} of {} have a key from the link",
                grouped(self.keyed),
                grouped(self.devices.into())
            ),
            format!(
                "readings  {} sent, {} decrypted{}",
                grouped(self.readings_sent),
                grouped(self.readings_decrypted),
                first.unwrap_or_default()
            ),
            format!("refused   {}, invariants violated {}", self.refusals, self.violations),
        ];
        if let Some(fibre) = &self.fibre {
            let moved = format!("channel   in fibre {fibre}, moved: {}", self.channel_moves);
            lines.insert(1, moved);
        }
        let last = lines.len() - 1;
        let ledgers = self.modelled_ledgers.iter().map(LedgerFigures::line);
        let paths = self.paths.iter().map(PathFigures::line);
        lines.splice(last..last, paths.chain(ledgers));
        if self.ok {
            lines.push("ok: every device got its key, every reading was decrypted, no invariant was violated".into());
        }
        lines
    }
}

/// Returns what keeps a run from being good; empty for a good one.
fn reasons_against(tally: &Tally) -> Vec<String> {
    let mut reasons = Vec::new();
    let without = u64::from(tally.facts.devices).saturating_sub(tally.keyed());
    if without > 0 {
        let why = match (tally.kept.count, &tally.trouble) {
            (0, None) => ": the link gave no block in this time; run longer",
            (0, Some(_)) => ": the link gave no key; see why its blocks were dropped",
            _ => ": a device has its turn once in each --renew; run for longer than that",
        };
        reasons.push(format!("{} devices got no key from the link{why}", grouped(without)));
    }
    match (tally.missing(), tally.sent()) {
        (0, 0) => reasons.push("no reading was sent".to_owned()),
        (0, _) => {}
        (missing, sent) => reasons.push(format!(
            "{} of {} readings were not decrypted",
            grouped(missing),
            grouped(sent)
        )),
    }
    reasons.extend(tally.halts.iter().cloned());
    if tally.n_violations > 0 {
        let told = tally.violations.join("; ");
        reasons.push(format!("{} invariants violated: {told}", grouped(tally.n_violations)));
    }
    reasons
}

pub(super) fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use claviger_distill::Outcome;
    use claviger_roles::Report;
    use claviger_units::Timestamp;
    use claviger_wire::classical::DropReason;

    use super::super::tally::tests::{eui, ledger, tally};
    use super::*;

    fn read(n: u8) -> Report {
        Report::Decrypted { eui: eui(n), epoch: 1, counter: 0, reading: "21 °C".into() }
    }

    fn verdict(reports: Vec<Report>) -> Vec<String> {
        let mut tally = tally();
        for report in reports {
            tally.handle_report(Timestamp::START, report);
        }
        Summary::of(&tally, Span::from_secs(90), Vec::new()).reasons().to_vec()
    }

    #[test]
    fn only_a_whole_run_is_good() {
        let keyed = || Report::Keyed { eui: eui(3), epoch: 1 };
        let violation =
            || Report::Violation { role: "kme", what: "a key was handed out twice".into() };
        for (reports, reasons) in [
            (vec![keyed(), read(2)], &[][..]),
            (vec![read(3), read(2)], &[]),
            (
                vec![read(2)],
                &[
                    "1 devices got no key from the link: a device has its turn once in each --renew; run for longer than that",
                ],
            ),
            (vec![keyed()], &["1 of 2 readings were not decrypted"]),
            (
                vec![keyed(), read(2), violation()],
                &["1 invariants violated: kme: a key was handed out twice"],
            ),
        ] {
            assert_eq!(verdict(reports), reasons);
        }
        let nothing = Tally::new(tally().facts);
        let summary = Summary::of(&nothing, Span::ZERO, vec!["the role kme A panicked".into()]);
        assert_eq!(
            summary.reasons(),
            [
                "the role kme A panicked",
                "3 devices got no key from the link: the link gave no block in this time; run longer",
                "no reading was sent",
            ]
        );
        assert!(!summary.is_ok());
    }

    #[test]
    fn what_an_operator_must_mend_is_named_once_and_spoils_a_run() {
        let halted = |why: &str| Report::Halted { role: "gateway", why: why.into() };
        let mut reports = vec![Report::Keyed { eui: eui(3), epoch: 1 }, read(2)];
        reports.extend(["rolled back: reset it", "rolled back: reset it", "other"].map(halted));
        assert_eq!(verdict(reports), ["gateway: other", "gateway: rolled back: reset it"]);
    }

    #[test]
    fn an_error_rate_is_that_of_kept_blocks_or_said_to_be_another() {
        let mut tally = Tally::new(tally().facts);
        let sampled = Report::Sampled { qber: Fraction::clamped(0.5), sampled: 4 };
        tally.handle_report(Timestamp::START, sampled);
        let summed = |tally: &Tally| {
            let summary = Summary::of(tally, Span::from_secs(9), Vec::new());
            (serde_json::to_value(&summary).unwrap()["qber"].clone(), summary.lines()[1].clone())
        };
        let none = serde_json::Value::Null;
        assert_eq!(summed(&tally), (none.clone(), "blocks    0 kept, 0 dropped".into()));
        let dropped = BlockLedger {
            leaked: 0,
            sample_errors: 20,
            sampled: 80,
            ..ledger(1, Outcome::Dropped(DropReason::SampledQber))
        };
        tally.handle_report(Timestamp::START, Report::Block(Box::new(dropped)));
        let line = "blocks    0 kept, 1 dropped, the newest with QBER 25.00 %";
        assert_eq!(summed(&tally), (none, line.into()));
        let kept = Report::Block(Box::new(ledger(2, Outcome::Kept)));
        tally.handle_report(Timestamp::START, kept);
        let line = "blocks    1 kept, 1 dropped, QBER 1.50 %";
        assert_eq!(summed(&tally), (0.015.into(), line.into()));
    }

    #[test]
    fn the_json_has_what_scripts_rely_on() {
        let summary = Summary::of(&tally(), Span::from_millis(90_123), Vec::new());
        let json = serde_json::to_value(&summary).unwrap();
        for (member, value) in [
            ("devices", serde_json::json!(3)),
            ("keyed", serde_json::json!(2)),
            ("readings_sent", serde_json::json!(2)),
            ("readings_decrypted", serde_json::json!(1)),
            ("keys_delivered", serde_json::json!(3)),
            ("violations", serde_json::json!(0)),
            ("refusals", serde_json::json!(0)),
            ("first_reading_s", serde_json::json!(6.2)),
            ("secret_bit_s", serde_json::json!(1886.0)),
            ("qber", serde_json::json!(0.015)),
            ("simulated", serde_json::json!(true)),
            ("seeded", serde_json::json!(false)),
            ("claim", serde_json::json!("era-heuristic")),
            ("epsilon_blocks", serde_json::json!(3)),
            ("epsilon_secrecy", serde_json::json!(0.0)),
            ("blocks_kept", serde_json::json!(2)),
            ("blocks_dropped", serde_json::json!(0)),
            ("elapsed_s", serde_json::json!(90.12)),
            ("ok", serde_json::json!(false)),
        ] {
            assert_eq!(json[member], value, "{member}");
        }
    }

    #[test]
    fn the_lines_say_the_same_for_people() {
        let mut tally = tally();
        for report in [read(2), read(3)] {
            tally.handle_report(Timestamp::START, report);
        }
        let lines = Summary::of(&tally, Span::from_secs(90), Vec::new()).lines();
        let expected = [
            "link      lab, 4 dB for 01:30 (simulated)",
            "blocks    2 kept, 0 dropped, QBER 1.50 %",
            "secret    1886 bit/s of key (simulated), theory 1893 bit/s",
            "claim     era-heuristic",
            "epsilon   correctness and authentication 1.0e-18 summed over 3 blocks of the link's life; of secrecy this claim states none",
            "keys      3 delivered at A, 2 at B",
            "network   4 switches, 4 links, 4 hosts; 3 first keys ordered, orders: 1",
            "devices   3 of 3 have a key from the link",
            "readings  2 sent, 3 decrypted, the first after 6.2 s",
            "refused   0, invariants violated 0",
            "ok: every device got its key, every reading was decrypted, no invariant was violated",
        ];
        assert_eq!(lines, expected);
    }
}
