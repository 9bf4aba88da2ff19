//! What a run has shown so far, added up from the reports of the roles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use claviger_device::KeyPath;
use claviger_distill::authenticate::TARGET;
use claviger_distill::{BlockLedger, Outcome, Rules};
use claviger_roles::Report;
use claviger_security::EpsilonLedger;
use claviger_units::{BitRate, Bits, Eui64, Fraction, Site, Span, Timestamp};
use claviger_wire::classical::DropReason;

use super::ledgers::Ledgers;
use super::paths::PathSum;

/// What does not change during a run.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The link in words.
    pub(crate) link: String,
    /// Its rules: thresholds and sizes of blocks.
    pub(crate) rules: Rules,
    /// The rate of key that theory expects of it.
    pub(crate) theory: BitRate,
    /// How much faster than the wall clock it runs.
    pub(crate) speed: f64,
    /// Whether it is reproducible.
    pub(crate) seeded: bool,
    /// How many devices there are.
    pub(crate) devices: u32,
    /// When the process started.
    pub(crate) started: Timestamp,
}

/// The sum of all reports.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) facts: Facts,
    /// The state of the link in the words of Alice, empty before she spoke.
    pub(crate) link: String,
    /// What is done to the light by `claviger link attack`.
    pub(crate) attack: AttackOnLight,
    /// Why the newest block was dropped, if it was.
    pub(crate) trouble: Option<String>,
    /// The error rate of the block that is being filled.
    pub(crate) qber: Option<Fraction>,
    sampled: u64,
    closed: u32,
    /// The newest block that ended.
    pub(crate) newest: Option<BlockLedger>,
    pub(crate) kept: Blocks,
    recent: VecDeque<Blocks>,
    pub(crate) blocks_dropped: u64,
    pads: BTreeMap<Site, u64>,
    /// What the promises of all blocks of the link's life may fail by.
    pub(crate) epsilon: EpsilonLedger,
    /// The network of switches when it was last settled.
    pub(crate) network: Option<NetworkSeen>,
    /// The fibre that the quantum channel was moved to last, and how often it was moved.
    pub(crate) channel: Option<(String, u64)>,
    /// Orders for first keys, and keys ordered with them.
    pub(crate) orders: (u64, u64),
    buffers: BTreeMap<Site, (u64, u64)>,
    delivered: BTreeMap<Site, u64>,
    keyed: BTreeSet<Eui64>,
    /// What keys have taken on their way to devices.
    pub(crate) paths: BTreeMap<KeyPath, PathSum>,
    /// What the devices have done.
    pub(crate) ledgers: Ledgers,
    readings: BTreeMap<Eui64, Readings>,
    /// How long after the start the first reading was decrypted.
    pub(crate) first_reading: Option<Span>,
    /// The newest reading in words.
    pub(crate) last_reading: Option<(Eui64, String)>,
    pub(crate) refusals: u64,
    pub(crate) last_refusal: Option<String>,
    /// What an operator must mend, each once.
    pub(crate) halts: BTreeSet<String>,
    /// The first violations in words, and how many there were.
    pub(crate) violations: Vec<String>,
    pub(crate) n_violations: u64,
}

/// What the controller of the network has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetworkSeen {
    pub(crate) switches: usize,
    pub(crate) links: usize,
    pub(crate) hosts: usize,
}

/// An attack besides that of the `e` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttackOnLight {
    /// There was none.
    None,
    /// This one is on.
    Present(String),
    /// There was one.
    Over,
}

/// Kept blocks added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// How many.
    pub(crate) count: u64,
    sifted: u64,
    errors: u64,
    secret: u64,
    micros: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Readings {
    sent: u64,
    decrypted: u64,
}

/// Over how many blocks the secret rate is shown.
const RECENT: usize = 5;
/// How many things to mend are kept in words.
const HALTS_TOLD: usize = 8;
/// How many violations are kept in words.
const VIOLATIONS_TOLD: usize = 5;

impl Tally {
    /// Begins with nothing.
    pub(crate) fn new(facts: Facts) -> Self {
        Self {
            facts,
            link: String::new(),
            attack: AttackOnLight::None,
            trouble: None,
            qber: None,
            sampled: 0,
            closed: 0,
            newest: None,
            kept: Blocks::default(),
            recent: VecDeque::new(),
            blocks_dropped: 0,
            pads: BTreeMap::new(),
            epsilon: EpsilonLedger::default(),
            network: None,
            channel: None,
            orders: (0, 0),
            buffers: BTreeMap::new(),
            delivered: BTreeMap::new(),
            keyed: BTreeSet::new(),
            paths: BTreeMap::new(),
            ledgers: Ledgers::default(),
            readings: BTreeMap::new(),
            first_reading: None,
            last_reading: None,
            refusals: 0,
            last_refusal: None,
            halts: BTreeSet::new(),
            violations: Vec::new(),
            n_violations: 0,
        }
    }

    /// Adds a report.
    pub(crate) fn handle_report(&mut self, now: Timestamp, report: Report) {
        match report {
            Report::Sampled { qber, sampled } => self.handle_sample(qber, sampled),
            Report::Block(ledger) => self.handle_block(*ledger),
            Report::Link(state) => self.link = state,
            Report::Attack(Some(words)) => self.attack = AttackOnLight::Present(words),
            Report::Attack(None) => self.attack = AttackOnLight::Over,
            Report::Reserve { site, pads } => drop(self.pads.insert(site, pads)),
            Report::Epsilon(life) => self.epsilon = life,
            Report::Buffer { site, available, capacity } => {
                self.buffers.insert(site, (available, capacity));
            }
            Report::Delivered { site, keys, .. } => {
                *self.delivered.entry(site).or_default() += keys;
            }
            Report::Keyed { eui, .. } => drop(self.keyed.insert(eui)),
            Report::Exchanged(exchanged) => {
                self.paths.entry(exchanged.path).or_default().add(&exchanged);
                self.ledgers.note_exchange(&exchanged);
            }
            Report::Acknowledged { eui } => self.ledgers.note_reading(eui),
            Report::Sent { eui } => self.readings.entry(eui).or_default().sent += 1,
            Report::Decrypted { eui, epoch, reading, .. } => {
                self.readings.entry(eui).or_default().decrypted += 1;
                // Telemetry exists only under keys from the link.
                if epoch > 0 {
                    self.keyed.insert(eui);
                }
                self.first_reading.get_or_insert(now.since(self.facts.started));
                self.last_reading = Some((eui, reading));
            }
            Report::Refused { role, why } => {
                self.refuse(format!("{role}: {why}"));
            }
            Report::Halted { role, why } => {
                let told = format!("{role}: {why}");
                if self.halts.len() < HALTS_TOLD {
                    self.halts.insert(told.clone());
                }
                self.refuse(told);
            }
            Report::Violation { role, what } => {
                self.n_violations += 1;
                if self.violations.len() < VIOLATIONS_TOLD {
                    self.violations.push(format!("{role}: {what}"));
                }
            }
            other => self.handle_report_of_network(other),
        }
    }

    fn handle_report_of_network(&mut self, report: Report) {
        match report {
            Report::Settled { switches, links, hosts } => {
                self.network = Some(NetworkSeen { switches, links, hosts });
            }
            Report::Channel { fibre, .. } => {
                let moves = self.channel.as_ref().map_or(0, |(_, moves)| *moves);
                self.channel = Some((fibre, moves + 1));
            }
            Report::Ordered { keys, .. } => {
                self.orders.0 += 1;
                self.orders.1 += keys as u64;
            }
            _ => {}
        }
    }

    fn refuse(&mut self, why: String) {
        self.refusals += 1;
        self.last_refusal = Some(why);
    }

    fn handle_sample(&mut self, qber: Fraction, sampled: u64) {
        // Fewer than before: a block was closed, or dropped, and the next one begun.
        if sampled < self.sampled {
            self.closed = self.closed.saturating_add(1);
        }
        self.sampled = sampled;
        self.qber = (sampled > 0).then_some(qber);
    }

    fn handle_block(&mut self, ledger: BlockLedger) {
        match ledger.outcome {
            Outcome::Kept => {
                let block = Blocks::of(&ledger);
                self.kept.add(block);
                self.recent.push_back(block);
                if self.recent.len() > RECENT {
                    self.recent.pop_front();
                }
                self.trouble = None;
            }
            Outcome::Dropped(reason) => {
                self.blocks_dropped += 1;
                // It was never closed, so it does not count towards the first small ones.
                if ledger.leaked == 0 {
                    self.sampled = 0;
                }
                let listens = matches!(reason, DropReason::SampledQber | DropReason::Qber);
                let guess = if listens { ": somebody may be listening" } else { "" };
                self.trouble = Some(format!("{reason}{guess}"));
            }
            Outcome::Open => {}
        }
        self.newest = Some(ledger);
    }

    /// Returns how far the block that is being filled has come.
    pub(crate) fn progress(&self) -> Fraction {
        let target = u64::try_from(self.facts.rules.target(self.closed)).unwrap_or(u64::MAX);
        let sifted = Fraction::of(self.sampled, target).as_f64();
        Fraction::clamped(sifted / self.facts.rules.sample.as_f64())
    }

    /// Tells whether a new block fills well after one was dropped.
    pub(crate) fn is_recovering(&self) -> bool {
        // Fewer bits say little about the error rate.
        let enough = self.progress() > Fraction::clamped(0.15);
        let clean = self.qber.is_some_and(|qber| qber <= self.facts.rules.abort);
        self.trouble.is_some() && enough && clean
    }

    /// Returns the state of the link in words, with the reason where it gives no key.
    pub(crate) fn link_in_words(&self) -> String {
        let words = self.state_in_words();
        match &self.channel {
            Some((fibre, _)) => format!("{words} (quantum channel in fibre {fibre})"),
            None => words,
        }
    }

    fn state_in_words(&self) -> String {
        match (self.link.as_str(), &self.trouble) {
            ("", _) => "starting".to_owned(),
            ("open", Some(_)) if self.is_recovering() => "recovering: a new block fills".to_owned(),
            ("open", Some(why)) => format!("stopped: {why}"),
            (state, _) => state.to_owned(),
        }
    }

    /// Returns the rate of key over the newest kept blocks, in link time.
    pub(crate) fn recent_rate(&self) -> Option<BitRate> {
        let mut recent = Blocks::default();
        self.recent.iter().for_each(|block| recent.add(*block));
        (recent.count > 0).then(|| recent.rate())
    }

    /// Returns the error rate of all kept blocks, `None` where there is none.
    pub(crate) fn mean_qber(&self) -> Option<Fraction> {
        (self.kept.count > 0).then(|| self.kept.qber())
    }

    /// Returns the pads of a site's authentication reserve, and how many it should have.
    pub(crate) fn reserve(&self, site: Site) -> Option<(u64, u64)> {
        self.pads.get(&site).map(|pads| (*pads, TARGET))
    }

    /// Returns the keys in a site's buffer, and how many fit.
    pub(crate) fn buffer(&self, site: Site) -> Option<(u64, u64)> {
        self.buffers.get(&site).copied()
    }

    /// Returns how many keys have left a site's key management entity.
    pub(crate) fn delivered(&self, site: Site) -> u64 {
        self.delivered.get(&site).copied().unwrap_or_default()
    }

    /// Returns how many devices have a key from the link.
    pub(crate) fn keyed(&self) -> u64 {
        self.keyed.len() as u64
    }

    /// Returns how many readings were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.readings.values().map(|readings| readings.sent).sum()
    }

    /// Returns how many readings were decrypted, those of an earlier run that came late included.
    pub(crate) fn decrypted(&self) -> u64 {
        self.readings.values().map(|readings| readings.decrypted).sum()
    }

    /// Returns how many readings of this run were not decrypted yet.
    pub(crate) fn missing(&self) -> u64 {
        let missing = |readings: &Readings| readings.sent.saturating_sub(readings.decrypted);
        self.readings.values().map(missing).sum()
    }
}

impl Blocks {
    fn of(ledger: &BlockLedger) -> Self {
        Self {
            count: 1,
            sifted: ledger.sifted.into(),
            errors: ledger.errors.into(),
            // Pads for the next tags are no key for anybody.
            secret: ledger.secret.saturating_sub(ledger.reserve).into(),
            micros: ledger.end.as_micros().saturating_sub(ledger.begin.as_micros()),
        }
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sifted += other.sifted;
        self.errors += other.errors;
        self.secret += other.secret;
        self.micros += other.micros;
    }

    /// Returns the rate of key in link time.
    pub(crate) fn rate(&self) -> BitRate {
        Bits::new(self.secret) / Span::from_micros(self.micros)
    }

    /// Returns the error rate.
    pub(crate) fn qber(&self) -> Fraction {
        Fraction::of(self.errors, self.sifted)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use claviger_photonics::LinkPreset;
    use claviger_photonics::preset::SecurityClaim;
    use claviger_photonics::promise::BlockCounts;
    use claviger_security::BlockEpsilon;

    use super::*;

    pub(crate) fn eui(n: u8) -> Eui64 {
        Eui64::from_bytes([2, 0, 0x5e, 0xff, 0xfe, 0x10, 0, n])
    }

    pub(crate) fn ledger(block: u64, outcome: Outcome) -> BlockLedger {
        BlockLedger {
            block,
            begin: Span::from_secs(4 * block),
            end: Span::from_secs(4 * block + 4),
            clicks: 90_000,
            counts: BlockCounts::default(),
            claim: SecurityClaim::EraHeuristic,
            sifted: 20_000,
            sampled: 156,
            sample_errors: 2,
            errors: 300,
            leaked: 2_600,
            verification: 64,
            secret: 7_800,
            reserve: 256,
            remainder: 120,
            keys: 29,
            epsilon: each_epsilon(),
            outcome,
        }
    }

    fn each_epsilon() -> BlockEpsilon {
        BlockEpsilon { secrecy: Fraction::ZERO, others: Fraction::clamped(1e-18) }
    }

    /// A run of three devices, of which two have sent.
    pub(crate) fn tally() -> Tally {
        let preset = LinkPreset::named("lab").unwrap();
        let mut tally = Tally::new(Facts {
            link: "lab, 4 dB".into(),
            rules: Rules::of(&preset),
            theory: BitRate::from_bps(1893.0),
            speed: 1.0,
            seeded: false,
            devices: 3,
            started: Timestamp::from_micros(1_000_000),
        });
        let reading = || "21.37 °C, 43.1 %, 310 lx, 2950 mV".to_owned();
        let reports = [
            Report::Link("open".into()),
            Report::Block(Box::new(ledger(1, Outcome::Kept))),
            Report::Block(Box::new(ledger(2, Outcome::Kept))),
            Report::Sampled { qber: Fraction::clamped(0.0152), sampled: 78 },
            Report::Settled { switches: 4, links: 4, hosts: 4 },
            Report::Ordered { number: 1, keys: 3 },
            Report::Reserve { site: Site::A, pads: 9_998 },
            Report::Epsilon(EpsilonLedger::resume(3, each_epsilon())),
            Report::Buffer { site: Site::A, available: 1_234, capacity: 3_906 },
            Report::Buffer { site: Site::B, available: 1_230, capacity: 3_906 },
            Report::Delivered { site: Site::A, keys: 3, to: "gateway".into() },
            Report::Delivered { site: Site::B, keys: 2, to: "platform".into() },
            Report::Keyed { eui: eui(1), epoch: 1 },
            Report::Keyed { eui: eui(2), epoch: 1 },
            Report::Sent { eui: eui(1) },
            Report::Sent { eui: eui(2) },
            Report::Decrypted { eui: eui(1), epoch: 1, counter: 0, reading: reading() },
        ];
        for report in reports {
            tally.handle_report(Timestamp::from_micros(7_200_000), report);
        }
        tally
    }

    #[test]
    fn reports_add_up() {
        let tally = tally();
        assert_eq!((tally.keyed(), tally.sent(), tally.decrypted(), tally.missing()), (2, 2, 1, 1));
        assert_eq!((tally.delivered(Site::A), tally.delivered(Site::B)), (3, 2));
        assert_eq!(tally.first_reading, Some(Span::from_millis(6_200)));
        assert_eq!(tally.recent_rate().unwrap().to_string(), "1886 bit/s");
        assert_eq!(tally.kept.qber(), Fraction::clamped(0.015));
        // 78 of the 156 bits that a block of 20 000 is sampled by.
        assert!((tally.progress().as_f64() - 0.5).abs() < 0.01);
    }

    #[test]
    fn a_late_reading_of_an_earlier_run_hides_no_loss() {
        let mut tally = tally();
        let late =
            |n| Report::Decrypted { eui: eui(n), epoch: 1, counter: 7, reading: String::new() };
        tally.handle_report(Timestamp::START, late(1));
        assert_eq!((tally.sent(), tally.decrypted(), tally.missing()), (2, 2, 1));
        tally.handle_report(Timestamp::START, late(2));
        assert_eq!(tally.missing(), 0);
    }

    #[test]
    fn a_dropped_block_is_trouble_until_one_is_kept() {
        let mut tally = tally();
        let told =
            |outcome| Report::Block(Box::new(BlockLedger { leaked: 0, ..ledger(3, outcome) }));
        tally.handle_report(Timestamp::START, told(Outcome::Dropped(DropReason::SampledQber)));
        let stopped = "stopped: sampled error rate above the threshold: somebody may be listening";
        assert_eq!((tally.link_in_words().as_str(), tally.blocks_dropped), (stopped, 1));
        let sample = |sampled| Report::Sampled { qber: Fraction::ZERO, sampled };
        tally.handle_report(Timestamp::START, sample(8));
        assert_eq!(tally.link_in_words(), stopped);
        tally.handle_report(Timestamp::START, sample(80));
        assert_eq!(tally.link_in_words(), "recovering: a new block fills");
        tally.handle_report(Timestamp::START, told(Outcome::Kept));
        assert_eq!((tally.trouble, tally.kept.count), (None, 3));
    }

    #[test]
    fn after_the_first_small_blocks_progress_is_that_of_large_ones() {
        let mut tally = tally();
        let sample = |sampled| Report::Sampled { qber: Fraction::ZERO, sampled };
        for sampled in [156, 10, 156, 10, 156, 78] {
            tally.handle_report(Timestamp::START, sample(sampled));
        }
        assert!((tally.progress().as_f64() - 0.1).abs() < 0.01);
    }
}
