//! Figures 2a and 2b: radio duty, awake time, energy and battery life of a device over a day.

mod sweep;

use anyhow::{Context as _, Result, ensure};
use claviger_device::Profile as Habits;
use claviger_distill::seed;
use claviger_energy::{Exchange, Profile, RadioInCrypto, Symmetric, Way};
use claviger_fleet::Sharing;
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Span};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Deserialize;

use super::drawing::Changes;
use super::sheet::{Sheet, maybe, number};
use super::{Figure, Finding, Laboratory, Made, Verdict, read};
use crate::device_day::{DeviceDay, Radio, Work};
use crate::fleet::{FleetConfig, FleetDay, Frames, run};
use crate::interval::Estimate;
use crate::repeat::repeat;

use sweep::Sweep;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    title: String,
    link: String,
    buffer_bits: u64,
    devices: u32,
    renew_s: u64,
    wake_s: u64,
    settle_s: u64,
    profile: String,
    sample: u32,
    seeds: usize,
    link_blocks: usize,
    radio: Radio,
    scenario: Vec<Scenario>,
    sweep: Sweep,
}

/// A key that is delivered against one that the device makes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    title: String,
    delivered: Side,
    generated: Side,
}

/// A way, and what it does beside it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Side {
    way: String,
    #[serde(default)]
    key_generations: u32,
    #[serde(default)]
    agreements: u32,
    /// Whether the device decrypts the key as well.
    #[serde(default)]
    decrypts: bool,
}

/// What a day is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    RdcStrict,
    AwakeDc,
    EnergyJ,
    BatteryDays,
}

const OFF: RadioInCrypto = RadioInCrypto::Off;
const ON: RadioInCrypto = RadioInCrypto::On;
/// What the paper reports for both figures.
const PAPER_PCT: f64 = 18.0;
const DAY: Span = Span::from_secs(86_400);

impl Measure {
    const fn words(self) -> &'static str {
        match self {
            Self::RdcStrict => "Radio duty",
            Self::AwakeDc => "Time awake",
            Self::EnergyJ => "Energy",
            Self::BatteryDays => "Battery life",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::RdcStrict => "rdc_strict",
            Self::AwakeDc => "awake_dc",
            Self::EnergyJ => "energy_j",
            Self::BatteryDays => "battery_days",
        }
    }

    fn of(self, day: &DeviceDay, radio: RadioInCrypto, profile: &Profile) -> f64 {
        match self {
            Self::RdcStrict => day.rdc_strict(radio),
            Self::AwakeDc => day.awake_dc(),
            Self::EnergyJ => day.energy_j(radio, profile),
            Self::BatteryDays => day.battery_days(radio, profile),
        }
    }
}

/// Days of one repetition: of each scenario those with delivered keys, and those with keys made.
struct Repetition {
    fleet: FleetDay,
    days: Vec<[Vec<DeviceDay>; 2]>,
}

/// A configuration with what it names.
struct Study {
    spec: Spec,
    /// Whether it is the one that comes with this program: what explains its outcome is written for that.
    is_shipped: bool,
    profile: Profile,
    exchanges: Vec<[Exchange; 2]>,
    repetitions: Vec<Repetition>,
}

impl Study {
    fn make(configuration: &str, laboratory: &Laboratory<'_>) -> Result<Self> {
        let spec: Spec = read(configuration, laboratory.extent)?;
        ensure!(spec.seeds > 0, "no seed gives no figure: seeds = 1 or more");
        ensure!(spec.sample > 0, "a sample of no device gives no figure: sample = 1 or more");
        ensure!(
            spec.wake_s > 0 && spec.renew_s >= spec.wake_s,
            "renew_s = {} must be wake_s or more, and that above 0",
            spec.renew_s
        );
        spec.radio.check()?;
        spec.sweep.check()?;
        let profile = Profile::named(&spec.profile)?;
        let exchanges = spec.scenario.iter().map(|scenario| {
            let sides = [&scenario.delivered, &scenario.generated];
            let [delivered, generated] = sides.map(Side::exchange);
            Ok([delivered?, generated?])
        });
        let exchanges = exchanges.collect::<Result<Vec<_>>>()?;
        let shipped = [Figure::Fig2a, Figure::Fig2b].map(Figure::configuration);
        let is_shipped = shipped.contains(&configuration);
        let mut study = Self { spec, is_shipped, profile, exchanges, repetitions: Vec::new() };
        let n_seeds = study.spec.seeds;
        let done = |n| (laboratory.progress)("days of devices", share(n, n_seeds));
        let repetition = |seed| study.repetition(seed, laboratory);
        study.repetitions = repeat(laboratory.seed, n_seeds, laboratory.threads, repetition, done)?;
        Ok(study)
    }

    /// Runs the fleet on its link, and draws the days of a sample of it.
    fn repetition(&self, seed: u64, laboratory: &Laboratory<'_>) -> Result<Repetition> {
        let spec = &self.spec;
        let preset = LinkPreset::named(&spec.link)?;
        let link = (laboratory.ledger)(&preset, seed, spec.link_blocks)?;
        let [wake_period, renew_period] = [spec.wake_s, spec.renew_s].map(Span::from_secs);
        let fleet = run(
            &link,
            &FleetConfig {
                n_devices: spec.devices,
                profile: Habits { renew_period, ..Habits::waking_every(wake_period) },
                sharing: Sharing::default(),
                capacity: Bits::new(spec.buffer_bits),
                hop: Span::from_secs_f64(self.profile.round_trip_ms / 2e3),
                settle: Span::from_secs(spec.settle_s),
                span: DAY,
                frames: Frames::Keys,
                seed,
                threads: 1,
            },
        )?;
        let each = |n: u64| real(n) / f64::from(spec.devices);
        let readings = DAY.as_secs_f64() / wake_period.as_secs_f64();
        // A question without an answer costs what one with an answer does, but for the key.
        let delivered = Work { readings, keys: each(fleet.renewals + fleet.missed) };
        let generated = Work { readings, keys: DAY.as_secs_f64() / renew_period.as_secs_f64() };
        let mut rng = Xoshiro256PlusPlus::from_seed(seed::derive(seed, "days of devices"));
        let days = self.exchanges.iter().map(|exchanges| {
            let works = [delivered, generated];
            [0, 1].map(|side| {
                let day = |_| {
                    let (work, exchange) = (works[side], &exchanges[side]);
                    DeviceDay::drawn(work, exchange, &self.profile, &spec.radio, &mut rng)
                };
                (0..spec.sample).map(day).collect()
            })
        });
        let days = days.collect();
        Ok(Repetition { fleet, days })
    }

    /// Returns a measure of both sides of a scenario in one repetition, and the change in per cent.
    fn of_repetition(
        &self,
        Repetition { days, .. }: &Repetition,
        scenario: usize,
        measure: Measure,
        radio: RadioInCrypto,
    ) -> [f64; 3] {
        let [delivered, generated] = [0, 1].map(|side| {
            let days = &days[scenario][side];
            let sum: f64 = days.iter().map(|day| measure.of(day, radio, &self.profile)).sum();
            sum / real(days.len() as u64)
        });
        [generated, delivered, 100.0 * (delivered / generated - 1.0)]
    }

    /// Estimates a measure of both sides of a scenario, and the change from made to delivered in per cent.
    fn estimates(&self, scenario: usize, measure: Measure, radio: RadioInCrypto) -> [Estimate; 3] {
        let mut values: [Vec<f64>; 3] = Default::default();
        for repetition in &self.repetitions {
            let of_it = self.of_repetition(repetition, scenario, measure, radio);
            for (values, value) in values.iter_mut().zip(of_it) {
                values.push(value);
            }
        }
        values.map(|values| Estimate::of(&values).expect("there is a seed, and so a value"))
    }

    /// Returns what explains an outcome, where it is that of the configuration it was written for.
    fn because(&self, words: &str) -> String {
        match self.is_shipped {
            true => words.to_owned(),
            false => "The configuration is not the one that comes with this program.".to_owned(),
        }
    }

    /// Estimates by how much the changes of two scenarios differ, seed by seed.
    fn difference(
        &self,
        one: &str,
        other: &str,
        measure: Measure,
        radio: RadioInCrypto,
    ) -> Result<Estimate> {
        let places = [self.place(one)?, self.place(other)?];
        let values = self.repetitions.iter().map(|repetition| {
            let [one, other] = places.map(|place| {
                let [_, _, change] = self.of_repetition(repetition, place, measure, radio);
                change
            });
            one - other
        });
        let values: Vec<_> = values.collect();
        Estimate::of(&values).context("there is no repetition")
    }

    fn change(&self, scenario: usize, measure: Measure, radio: RadioInCrypto) -> Estimate {
        let [_, _, change] = self.estimates(scenario, measure, radio);
        change
    }

    fn sheet(&self, name: &str, measures: &[Measure]) -> Sheet {
        let mut sheet = Sheet::new(
            name,
            &[
                "scenario",
                "measure",
                "radio_in_crypto",
                "modelled",
                "device_generated",
                "device_generated_ci95",
                "delivered",
                "delivered_ci95",
                "change_pct",
                "change_ci95",
                "repetitions",
            ],
        );
        for (n, scenario) in self.spec.scenario.iter().enumerate() {
            for &measure in measures {
                for (radio, word) in [(OFF, "off"), (ON, "on")] {
                    let estimates = self.estimates(n, measure, radio);
                    let [generated, delivered, change] = estimates;
                    sheet.push(vec![
                        scenario.name.clone(),
                        measure.name().to_owned(),
                        word.to_owned(),
                        "true".to_owned(),
                        number(generated.mean),
                        maybe(generated.margin),
                        number(delivered.mean),
                        maybe(delivered.margin),
                        number(change.mean),
                        maybe(change.margin),
                        change.n.to_string(),
                    ]);
                }
            }
        }
        sheet
    }

    /// What the fleet showed in each repetition.
    fn fleet_sheet(&self, name: &str, seed: u64) -> Sheet {
        let mut sheet = Sheet::new(
            name,
            &[
                "seed",
                "keys_made",
                "keys_handed_out",
                "keys_displaced",
                "renewals",
                "missed",
                "all_keyed_s",
                "key_frames",
                "mark",
            ],
        );
        for (n, Repetition { fleet, .. }) in self.repetitions.iter().enumerate() {
            sheet.push(vec![
                (seed.saturating_add(n as u64)).to_string(),
                fleet.keys_made.to_string(),
                fleet.keys_handed_out.to_string(),
                fleet.keys_displaced.to_string(),
                fleet.renewals.to_string(),
                fleet.missed.to_string(),
                maybe(fleet.all_keyed.map(Span::as_secs_f64)),
                fleet.sealed.key_frames.to_string(),
                format!("{:016x}", fleet.sealed.mark),
            ]);
        }
        sheet
    }

    fn remarks(&self) -> Vec<String> {
        let Spec { devices, link, renew_s, wake_s, radio, sample, .. } = &self.spec;
        let missed: u64 = self.repetitions.iter().map(|one| one.fleet.missed).sum();
        let wanted: u64 =
            self.repetitions.iter().map(|one| one.fleet.renewals + one.fleet.missed).sum();
        let mut remarks = vec![
            format!(
                "Energy and times are modelled for {} ({}), not measured on a device.",
                self.profile.name, self.profile.title
            ),
            format!(
                "{devices} devices on the simulated link {link} wake every {wake_s} s and want a key every {renew_s} s, for 24 h in virtual time; {missed} of {wanted} wakes for a key found none."
            ),
            format!(
                "A packet is lost with a chance of {} % and sent again after {} s; days of {sample} devices are drawn in each of {} repetitions, and intervals are those of Student over the repetitions.",
                number(100.0 * radio.packet_loss),
                number(radio.retransmission_s),
                self.repetitions.len(),
            ),
            "Every way is given a key in each wake that wants one. Live, the path push needs two wakes for a key, one to push it and one in which the device shows it: where every wake wants one, every other gets it.".into(),
        ];
        let scenarios = self.spec.scenario.iter();
        remarks.extend(scenarios.map(|Scenario { name, title, .. }| format!("{name}: {title}.")));
        remarks
    }

    fn place(&self, name: &str) -> Result<usize> {
        let found = self.spec.scenario.iter().position(|scenario| scenario.name == name);
        found.with_context(|| format!("the configuration has no scenario `{name}`"))
    }

    fn changes(&self, measures: &[(Measure, RadioInCrypto)]) -> Vec<(String, Vec<Estimate>)> {
        let rows = self.spec.scenario.iter().enumerate().map(|(n, scenario)| {
            let dots = measures.iter().map(|(measure, radio)| self.change(n, *measure, *radio));
            (scenario.name.clone(), dots.collect())
        });
        rows.collect()
    }
}

impl Side {
    fn exchange(&self) -> Result<Exchange> {
        let way: Way = self.way.parse()?;
        let mut exchange = way.exchange();
        exchange.key_generations += self.key_generations;
        exchange.agreements += self.agreements;
        if self.decrypts && exchange.symmetric == Symmetric::Negligible {
            exchange.symmetric = Symmetric::Frame;
        }
        Ok(exchange)
    }
}

/// Makes figure 2a.
pub(super) fn duty(configuration: &str, laboratory: &Laboratory<'_>) -> Result<Made> {
    let study = Study::make(configuration, laboratory)?;
    let measures = [
        (Measure::AwakeDc, OFF),
        (Measure::RdcStrict, OFF),
        (Measure::RdcStrict, ON),
        (Measure::EnergyJ, OFF),
        (Measure::EnergyJ, ON),
    ];
    let picture = Changes {
        title: &format!("{}: delivered keys against keys made by the device (modelled)", study.spec.title),
        axis: "change from keys made by the device to keys delivered; left is better",
        names: &["time awake", "radio duty, off¹", "radio duty, on¹", "energy, radio off¹", "energy, on¹"],
        rows: study.changes(&measures),
        printed: (-PAPER_PCT, "paper: −18 %"),
        note: "¹ during cryptography; radio duty: (transmit + listen) / total; points with 95 % intervals over repetitions",
    }
    .to_svg();
    let both = |name: &str| -> Result<[Estimate; 2]> {
        let place = study.place(name)?;
        Ok([OFF, ON].map(|radio| study.change(place, Measure::RdcStrict, radio)))
    };
    let words = |[off, on]: [Estimate; 2]| {
        format!("{} (radio on during cryptography), {} (off)", percent(on), percent(off))
    };
    let less = |[_, on]: [Estimate; 2]| on.ends().1 < -PAPER_PCT;
    let (keygen, both_ways) = (both("paper-like-keygen")?, both("paper-like")?);
    let (literal, push) = (both("paper-literal")?, both("push")?);
    let verdicts = vec![
        Verdict {
            claim: "radio duty is 18 % lower, if both ways make the same exchange over HTTPS and DKG makes a key pair as well".into(),
            theirs: "−18 %".into(),
            ours: words(keygen),
            finding: if less(keygen) { Finding::Conditional } else { Finding::Contradicted },
            because: study.because("Less than the paper's number; with a shared secret as well, the next line, it is more. The paper lies between, and does not say what its device computed."),
        },
        Verdict {
            claim: "radio duty is 18 % lower, if DKG makes a key pair and a shared secret as well".into(),
            theirs: "−18 %".into(),
            ours: words(both_ways),
            finding: if less(both_ways) { Finding::Conditional } else { Finding::Contradicted },
            because: study.because("Only with the radio on while the device computes. With the radio off, key generation is no radio time at all, and Contiki's radio duty does not contain it."),
        },
        Verdict {
            claim: "radio duty is 18 % lower, the paper's text read literally: HTTPS with a certificate against ECDH".into(),
            theirs: "−18 %".into(),
            ours: words(literal),
            finding: if less(literal) { Finding::Confirmed } else { Finding::Contradicted },
            because: study.because("An HTTPS exchange with a certificate costs the device a key pair, a shared secret and a check of a signature: more than making the key does."),
        },
        Verdict {
            claim: "radio duty is 18 % lower, a key frame pushed over the open session".into(),
            theirs: "−18 %".into(),
            ours: words(push),
            finding: if less(push) { Finding::Conditional } else { Finding::Contradicted },
            because: study.because("All public-key work is gone. It shows in the radio duty only where the radio stays on while the device would have computed; the time awake and the energy show it either way."),
        },
    ];
    let (sweep, grids) = study.sweep("fig2a-sweep", Measure::AwakeDc)?;
    let measures = [Measure::RdcStrict, Measure::AwakeDc, Measure::EnergyJ];
    Ok(Made {
        title: study.spec.title.clone(),
        remarks: study.remarks(),
        pictures: vec![("fig2a".into(), picture), ("fig2a-sweep".into(), grids)],
        sheets: vec![
            study.sheet("fig2a", &measures),
            sweep,
            study.fleet_sheet("fig2a-fleet", laboratory.seed),
        ],
        verdicts,
    })
}

/// Makes figure 2b.
pub(super) fn battery(configuration: &str, laboratory: &Laboratory<'_>) -> Result<Made> {
    let study = Study::make(configuration, laboratory)?;
    let measures = [(Measure::BatteryDays, OFF), (Measure::BatteryDays, ON)];
    let picture = Changes {
        title: &format!(
            "{}: delivered keys against keys made by the device (modelled)",
            study.spec.title
        ),
        axis: "change from keys made by the device to keys delivered; right is better",
        names: &["radio off in cryptography", "radio on"],
        rows: study.changes(&measures),
        printed: (PAPER_PCT, "paper: more than +18 %"),
        note: "points with 95 % intervals over repetitions; nothing else drains the battery",
    }
    .to_svg();
    let gain = |name: &str, radio| -> Result<Estimate> {
        Ok(study.change(study.place(name)?, Measure::BatteryDays, radio))
    };
    let pair = |name: &str| -> Result<[Estimate; 2]> { Ok([gain(name, OFF)?, gain(name, ON)?]) };
    let words =
        |[off, on]: [Estimate; 2]| format!("{} (radio off), {} (on)", percent(off), percent(on));
    let (like, literal, push) = (pair("paper-like")?, pair("paper-literal")?, pair("push")?);
    // Of the same seeds, so that what chance does to both does not count.
    let beyond = study.difference("e2e-qkd", "push", Measure::BatteryDays, OFF)?;
    let more = |gain: Estimate| gain.ends().0 > PAPER_PCT;
    let verdicts = vec![
        Verdict {
            claim: "battery life is more than 18 % longer, if both ways make the same exchange over HTTPS and DKG makes a key as well".into(),
            theirs: "more than +18 %".into(),
            ours: words(like),
            finding: if more(like[1]) { Finding::Conditional } else { Finding::Contradicted },
            because: study.because("It takes the elliptic curves of that firmware's time, a key with each reading, a shared secret beside the key pair, and a radio that stays on while the device computes."),
        },
        Verdict {
            claim: "battery life is more than 18 % longer, the paper's text read literally".into(),
            theirs: "more than +18 %".into(),
            ours: words(literal),
            finding: if more(literal[1]) { Finding::Confirmed } else { Finding::Contradicted },
            because: study.because("The exchange itself costs more public-key work than the key that it saves: battery life is shorter."),
        },
        Verdict {
            claim: "battery life is more than 18 % longer, a key frame pushed over the open session".into(),
            theirs: "more than +18 %".into(),
            ours: words(push),
            finding: match (more(push[0]), more(push[1])) {
                (true, true) => Finding::Confirmed,
                (false, false) => Finding::Contradicted,
                _ => Finding::Conditional,
            },
            because: study.because("Our way of delivery does what the paper promises, on hardware with slow elliptic curves and with a key with each reading; the sweep shows where that ends."),
        },
        Verdict {
            claim: "with QKD from end to end a device would need less power still, as nothing is decrypted".into(),
            theirs: "less still (no number)".into(),
            ours: format!("battery life {} beside push (radio off)", points(beyond)),
            finding: if beyond.ends().0 > 0.0 { Finding::Confirmed } else { Finding::Contradicted },
            because: study.because("Nothing over the air is all that is left to save beside a pushed frame; a receiver for QKD in the device is not counted, and would cost far more."),
        },
    ];
    let (sweep, grids) = study.sweep("fig2b-sweep", Measure::BatteryDays)?;
    Ok(Made {
        title: study.spec.title.clone(),
        remarks: study.remarks(),
        pictures: vec![("fig2b".into(), picture), ("fig2b-sweep".into(), grids)],
        sheets: vec![
            study.sheet("fig2b", &[Measure::BatteryDays, Measure::EnergyJ]),
            sweep,
            study.fleet_sheet("fig2b-fleet", laboratory.seed),
        ],
        verdicts,
    })
}

fn percent(estimate: Estimate) -> String {
    match estimate.margin {
        Some(margin) => format!("{:+.1} ± {:.1} %", estimate.mean, margin),
        None => format!("{:+.1} %", estimate.mean),
    }
}

fn points(estimate: Estimate) -> String {
    match estimate.margin {
        Some(margin) => format!("{:+.1} ± {:.1} points", estimate.mean, margin),
        None => format!("{:+.1} points", estimate.mean),
    }
}

fn share(part: usize, whole: usize) -> f64 {
    real(part as u64) / real(whole.max(1) as u64)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}
