//! Any grid of links, fleets, hardware and ways to a key, point by point.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context as _, Result, bail, ensure};
use claviger_energy::{Profile, RadioInCrypto, Way};
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Decibels, Span};
use serde::Deserialize;

use crate::capacity::{Answer, Question};
use crate::device_day::{DeviceDay, Radio, Work};
use crate::figures::sheet::{maybe, number};
use crate::interval::Estimate;
use crate::replay::LinkLedger;

/// A grid: each list is a parameter, each combination a point.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    link: Vec<String>,
    /// The link's own where there is none.
    #[serde(default)]
    loss_db: Vec<f64>,
    devices: Vec<u32>,
    renew_s: Vec<u64>,
    wake_s: Vec<u64>,
    buffer_bits: Vec<u64>,
    /// Zero goes on with the old key.
    #[serde(default)]
    max_age_s: Vec<u64>,
    way: Vec<NamedWay>,
    against: NamedWay,
    profile: Vec<String>,
    packet_loss: Vec<f64>,
    radio: Rest,
    hours: f64,
    seeds: usize,
    link_blocks: usize,
}

/// What a radio has beside its losses.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rest {
    retransmission_s: f64,
    reading_packets: u32,
    reading_bytes: u32,
    reading_half_round_trips: u32,
}

/// A way, by its name.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
struct NamedWay(String);

/// A point of a grid.
#[derive(Clone, Debug)]
pub struct Point {
    question: Question,
    way: Way,
    against: Way,
    profile: Profile,
    radio: Radio,
    seeds: usize,
    link_blocks: usize,
}

/// What fleets have shown, so that points that differ by hardware or way alone run theirs once.
#[derive(Debug, Default)]
pub struct Memory {
    shown: Mutex<BTreeMap<Vec<String>, Arc<OnceLock<Shown>>>>,
}

/// The answers of all repetitions, or why there are none.
type Shown = Result<Vec<Answer>, Trouble>;

/// Why there are no answers.
#[derive(Clone, Debug)]
enum Trouble {
    /// There can be none: the link gives no key, or the fleet cannot be.
    Impossible(String),
    /// There may be some once this is mended.
    Failed(String),
}

impl Memory {
    /// Returns what a question was answered, and has it answered where it is new; who asks meanwhile waits.
    fn recall(&self, name: Vec<String>, answer: impl FnOnce() -> Shown) -> Arc<OnceLock<Shown>> {
        let mut shown = self.shown.lock().expect("nobody panics while holding it");
        let place = Arc::clone(shown.entry(name).or_default());
        drop(shown);
        place.get_or_init(answer);
        place
    }
}

/// The names of the columns of a point's name and of what came of it.
pub const COLUMNS: [&str; 27] = [
    "link",
    "loss_db",
    "devices",
    "renew_s",
    "wake_s",
    "buffer_bits",
    "max_age_s",
    "way",
    "against",
    "profile",
    "packet_loss",
    "hours",
    "repetitions",
    "outcome",
    "keys_wanted_per_s",
    "keys_made_per_s",
    "missed_share",
    "missed_share_ci95",
    "oldest_key_s",
    "readings_withheld",
    "all_keyed_s",
    "alarms",
    "awake_dc_modelled",
    "battery_days_radio_off_modelled",
    "battery_days_radio_on_modelled",
    "life_gain_radio_off_pct_modelled",
    "life_gain_radio_on_pct_modelled",
];
/// How many of [`COLUMNS`] name a point.
pub const NAMED: usize = 13;
/// How many of these name the fleet and its link.
const OF_FLEET: usize = 7;

const MOST_POINTS: usize = 100_000;

impl Grid {
    /// Reads a grid and names its points, the last parameter changing fastest.
    ///
    /// # Errors
    ///
    /// Where something is unknown or empty, or there are too many points.
    pub fn points(text: &str) -> Result<Vec<Point>> {
        let grid: Self = toml::from_str(text).context("the grid is not understood")?;
        grid.check()?;
        let mut points = Vec::new();
        for link in &grid.link {
            let preset = LinkPreset::named(link)?;
            let losses = match grid.loss_db.is_empty() {
                true => vec![preset.loss()],
                false => grid
                    .loss_db
                    .iter()
                    .map(|db| Decibels::from_db(*db))
                    .collect::<Result<_, _>>()?,
            };
            for loss in losses {
                let preset = preset.clone().with_loss(loss);
                points.extend(grid.fleets(&preset)?);
            }
        }
        Ok(points)
    }

    fn check(&self) -> Result<()> {
        let lists = [
            ("link", self.link.len()),
            ("devices", self.devices.len()),
            ("renew_s", self.renew_s.len()),
            ("wake_s", self.wake_s.len()),
            ("buffer_bits", self.buffer_bits.len()),
            ("way", self.way.len()),
            ("profile", self.profile.len()),
            ("packet_loss", self.packet_loss.len()),
        ];
        for (name, length) in lists {
            ensure!(length > 0, "{name} = [] leaves nothing to run: give one value or more");
        }
        let n_points: usize = lists.iter().map(|(_, length)| length).product::<usize>()
            * self.loss_db.len().max(1)
            * self.max_age_s.len().max(1);
        ensure!(
            n_points <= MOST_POINTS,
            "these are {n_points} points, and {MOST_POINTS} at most are run"
        );
        ensure!(self.seeds > 0, "no seed gives no number: seeds = 1 or more");
        ensure!(
            self.link_blocks > 0,
            "a link without a block tells nothing: link_blocks = 1 or more"
        );
        ensure!((0.01..=720.0).contains(&self.hours), "hours = {}: 0.01 to 720", self.hours);
        ensure!(self.seeds <= 10_000, "seeds = {}: 10000 at most", self.seeds);
        self.packet_loss.iter().try_for_each(|loss| self.radio(*loss).check())
    }

    const fn radio(&self, packet_loss: f64) -> Radio {
        let Rest { retransmission_s, reading_packets, reading_bytes, reading_half_round_trips } =
            self.radio;
        Radio {
            packet_loss,
            retransmission_s,
            jitter: 0.0,
            reading_packets,
            reading_bytes,
            reading_half_round_trips,
        }
    }

    fn fleets(&self, preset: &LinkPreset) -> Result<Vec<Point>> {
        let against = self.against.0.parse()?;
        let ages = if self.max_age_s.is_empty() { &[0][..] } else { &self.max_age_s };
        let mut points = Vec::new();
        for &devices in &self.devices {
            for (&renew, &wake) in pairs(&self.renew_s, &self.wake_s) {
                for (&buffer, &age) in pairs(&self.buffer_bits, ages) {
                    let question = Question {
                        preset: preset.clone(),
                        devices,
                        wake: Span::from_secs(wake),
                        renew: Span::from_secs(renew),
                        max_age: (age > 0).then(|| Span::from_secs(age)),
                        buffer: Bits::new(buffer),
                        span: Span::from_secs_f64(3600.0 * self.hours),
                    };
                    for (way, profile) in pairs(&self.way, &self.profile) {
                        for &packet_loss in &self.packet_loss {
                            points.push(Point {
                                question: question.clone(),
                                way: way.0.parse()?,
                                against,
                                profile: Profile::named(profile)?,
                                radio: self.radio(packet_loss),
                                seeds: self.seeds,
                                link_blocks: self.link_blocks,
                            });
                        }
                    }
                }
            }
        }
        Ok(points)
    }
}

fn pairs<'a, A, B>(first: &'a [A], second: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    first.iter().flat_map(move |a| second.iter().map(move |b| (a, b)))
}

impl Point {
    /// Names the point: the first [`NAMED`] cells of its row.
    #[must_use]
    pub fn name(&self) -> Vec<String> {
        let Self { question, way, against, profile, radio, seeds, .. } = self;
        vec![
            question.preset.name().to_owned(),
            number(question.preset.loss().as_db()),
            question.devices.to_string(),
            number(question.renew.as_secs_f64()),
            number(question.wake.as_secs_f64()),
            question.buffer.count().to_string(),
            question.max_age.map_or_else(|| "0".to_owned(), |age| number(age.as_secs_f64())),
            way.name().to_owned(),
            against.name().to_owned(),
            profile.name.clone(),
            number(radio.packet_loss),
            number(question.span.as_secs_f64() / 3600.0),
            seeds.to_string(),
        ]
    }

    /// Names its fleet and link alone.
    #[must_use]
    pub fn fleet(&self) -> Vec<String> {
        self.name().into_iter().take(OF_FLEET).collect()
    }

    /// Runs it with each of its seeds and returns the rest of its row; what cannot be is told there.
    ///
    /// # Errors
    ///
    /// Where a ledger cannot be had, which says nothing of the point: nothing is known of it yet.
    pub fn run(
        &self,
        seed: u64,
        memory: &Memory,
        ledger: impl Fn(&LinkPreset, u64, usize) -> Result<LinkLedger>,
    ) -> Result<Vec<String>> {
        let shown = memory.recall(self.fleet(), || self.ask(seed, ledger));
        match shown.get() {
            Some(Ok(answers)) => self.priced(answers),
            Some(Err(Trouble::Impossible(why))) => {
                let rest = std::iter::repeat_n(String::new(), COLUMNS.len() - NAMED - 1);
                Ok(std::iter::once(format!("impossible: {why}")).chain(rest).collect())
            }
            Some(Err(Trouble::Failed(why))) => bail!("{why}"),
            None => bail!("nothing was run"),
        }
    }

    fn ask(
        &self,
        seed: u64,
        ledger: impl Fn(&LinkPreset, u64, usize) -> Result<LinkLedger>,
    ) -> Shown {
        let impossible = |error: String| Trouble::Impossible(error);
        let viable = self.question.preset.viability(claviger_distill::rules::OVERHEAD);
        viable.map_err(|why| impossible(why.to_string()))?;
        let mut answers = Vec::new();
        for n in 0..self.seeds as u64 {
            let seed = seed.saturating_add(n);
            let link = ledger(&self.question.preset, seed, self.link_blocks)
                .map_err(|error| Trouble::Failed(format!("{error:#}")))?;
            let answer = self.question.ask(&link, seed, 1, &mut |_| {});
            answers.push(answer.map_err(|error| impossible(format!("{error:#}")))?);
        }
        Ok(answers)
    }

    fn priced(&self, answers: &[Answer]) -> Result<Vec<String>> {
        let Self { question, way, against, profile, radio, .. } = self;
        let mean = |of: &dyn Fn(&Answer) -> f64| {
            let values: Vec<_> = answers.iter().map(of).collect();
            Estimate::of(&values).context("there is no repetition")
        };
        let missed = mean(&|answer| answer.day.missed_share())?;
        let per_day = |period: Span| 86_400.0 / period.as_secs_f64();
        let readings = per_day(question.wake);
        let keys = per_day(question.period());
        let day = |way: Way| {
            DeviceDay::expected(Work { readings, keys }, &way.exchange(), profile, radio)
        };
        let (ours, theirs) = (day(*way), day(*against));
        let life = |day: &DeviceDay, radio| day.battery_days(radio, profile);
        let gain = |radio| 100.0 * (life(&ours, radio) / life(&theirs, radio) - 1.0);
        let worst = answers.iter().max_by_key(|answer| answer.day.missed);
        let outcome = worst.map_or("no repetition", |answer| answer.holds().words());
        let keyed = answers.iter().map(|answer| answer.day.all_keyed.map(Span::as_secs_f64));
        let keyed = keyed.collect::<Option<Vec<f64>>>();
        Ok(vec![
            outcome.to_owned(),
            number(mean(&|answer| answer.wanted)?.mean),
            number(mean(&|answer| answer.made)?.mean),
            number(missed.mean),
            maybe(missed.margin),
            number(mean(&|answer| answer.day.oldest_key.as_secs_f64())?.mean),
            number(mean(&|answer| real(answer.day.withheld))?.mean),
            maybe(keyed.and_then(|keyed| Estimate::of(&keyed)).map(|keyed| keyed.mean)),
            number(mean(&|answer| real(answer.day.alarms))?.mean),
            number(ours.awake_dc()),
            number(life(&ours, RadioInCrypto::Off)),
            number(life(&ours, RadioInCrypto::On)),
            number(gain(RadioInCrypto::Off)),
            number(gain(RadioInCrypto::On)),
        ])
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: &str = r#"
        link = ["lab"]
        loss_db = [4.0, 40.0]
        devices = [10, 20]
        renew_s = [1800]
        wake_s = [300, 1800]
        buffer_bits = [1_000_000]
        way = ["push", "https"]
        against = "dkg"
        profile = ["fipy"]
        packet_loss = [0.0]
        hours = 1.0
        seeds = 2
        link_blocks = 1
        [radio]
        retransmission_s = 1.0
        reading_packets = 12
        reading_bytes = 900
        reading_half_round_trips = 9
    "#;

    #[test]
    fn a_grid_has_every_combination_once_and_tells_what_cannot_be() -> Result<()> {
        let points = Grid::points(GRID)?;
        let names: std::collections::BTreeSet<_> = points.iter().map(Point::name).collect();
        assert_eq!((points.len(), names.len()), (16, 16));
        let n_recorded = std::cell::Cell::new(0);
        let record = |preset: &LinkPreset, seed, n| {
            n_recorded.set(n_recorded.get() + 1);
            LinkLedger::record(preset, seed, n, |_| {})
        };
        let memory = Memory::default();
        for (point, outcome) in [(&points[0], "holds"), (&points[15], "impossible: ")] {
            let row = [point.name(), point.run(1, &memory, record)?].concat();
            assert_eq!(row.len(), COLUMNS.len());
            assert!(row[NAMED].starts_with(outcome), "{row:?}");
        }
        let (before, row) = (n_recorded.get(), points[1].run(1, &memory, record)?);
        assert_eq!((n_recorded.get(), row[0].as_str()), (before, "holds"), "the fleet ran once");
        Ok(())
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_a_remedy() {
        for (from, to, told) in [
            ("devices = [10, 20]", "devices = []", "one value or more"),
            ("seeds = 2", "seeds = 0", "1 or more"),
            ("hours = 1.0", "hours = 0.0", "0.01 to 720"),
            ("packet_loss = [0.0]", "packet_loss = [0.9]", "0 to 0.4"),
            ("\"fipy\"", "\"toaster\"", "there is no profile"),
            ("\"push\"", "\"pigeon\"", "is no way"),
            ("\"lab\"", "\"pub\"", "pub"),
            ("hours", "ours", "understood"),
        ] {
            assert!(GRID.contains(from));
            let said = Grid::points(&GRID.replace(from, to)).err();
            let said = said.map(|error| format!("{error:#}"));
            assert!(said.as_ref().is_some_and(|said| said.contains(told)), "{to}: {said:?}");
        }
    }
}
