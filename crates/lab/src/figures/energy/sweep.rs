//! One value after the other in place of the configuration's: where delivered keys win, and where they lose.

use anyhow::{Result, ensure};
use claviger_energy::{Profile, Way};
use claviger_units::Span;
use serde::Deserialize;

use super::{DAY, Measure, OFF, ON, Study};
use crate::device_day::{DeviceDay, Radio, Work};
use crate::figures::drawing::{Better, Grid, Grids};
use crate::figures::sheet::{Sheet, number};

/// The values.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sweep {
    against: String,
    ways: Vec<String>,
    profile_mhz: f64,
    wake_s: Vec<f64>,
    ecc_speed: Vec<f64>,
    clock: Vec<Clock>,
    round_trip_ms: Vec<f64>,
    packet_loss: Vec<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clock {
    mhz: f64,
    cpu_ma: f64,
}

/// What one value makes of hardware, radio and work.
#[derive(Clone, Debug)]
struct Case {
    label: String,
    profile: Profile,
    radio: Radio,
    work: Work,
}

/// A parameter of the sweep, in words and as its column is called.
struct Parameter {
    name: &'static str,
    words: &'static str,
    cases: Vec<Case>,
}

impl Sweep {
    /// Checks that there can be such hardware.
    pub(super) fn check(&self) -> Result<()> {
        let clocks = self.clock.iter().flat_map(|clock| [clock.mhz, clock.cpu_ma]);
        let above_zero = [
            ("wake_s", self.wake_s.clone()),
            ("ecc_speed", self.ecc_speed.clone()),
            ("clock", clocks.chain([self.profile_mhz]).collect()),
        ];
        for (name, values) in above_zero {
            for value in values {
                ensure!(value > 0.0 && value.is_finite(), "sweep.{name}: {value} must be above 0");
            }
        }
        for trip in &self.round_trip_ms {
            ensure!((0.0..=60_000.0).contains(trip), "sweep.round_trip_ms: {trip}: 0 to 60000");
        }
        Ok(())
    }

    fn parameters(&self, base: &Case, keys: f64) -> [Parameter; 5] {
        let wakes = self.wake_s.iter().map(|&wake| {
            let readings = DAY.as_secs_f64() / wake;
            let work = Work { readings, keys: keys.min(readings) };
            Case { label: format!("{} min", number(wake / 60.0)), work, ..base.clone() }
        });
        let speeds = self.ecc_speed.iter().map(|&speed| {
            let mut case = Case { label: format!("× {}", number(speed)), ..base.clone() };
            slow_down(&mut case.profile, 1.0 / speed);
            case
        });
        let clocks = self.clock.iter().map(|&Clock { mhz, cpu_ma }| {
            let mut case = Case { label: format!("{} MHz", number(mhz)), ..base.clone() };
            let slower = self.profile_mhz / mhz;
            slow_down(&mut case.profile, slower);
            case.profile.session_ms *= slower;
            case.profile.frame_ms *= slower;
            case.profile.cpu_ma = cpu_ma;
            case
        });
        let trips = self.round_trip_ms.iter().map(|&round_trip_ms| {
            let mut profile = Profile { round_trip_ms, ..base.profile.clone() };
            // A reading waits for it too.
            let half_trips = f64::from(base.radio.reading_half_round_trips);
            let longer_ms = half_trips / 2.0 * (round_trip_ms - base.profile.round_trip_ms);
            let longer_ms = longer_ms.max(-profile.reading_ms / 2.0);
            profile.reading_ms += longer_ms;
            profile.reading_mc += longer_ms / 1e3 * profile.listen_ma;
            Case { label: format!("{} ms", number(round_trip_ms)), profile, ..base.clone() }
        });
        let losses = self.packet_loss.iter().map(|&packet_loss| {
            let radio = Radio { packet_loss, ..base.radio };
            Case { label: format!("{} %", number(100.0 * packet_loss)), radio, ..base.clone() }
        });
        let parameter = |name, words, cases| Parameter { name, words, cases };
        [
            parameter("wake_s", "a reading every …", wakes.collect()),
            parameter("ecc_speed", "elliptic curves so many times as fast", speeds.collect()),
            parameter("clock_mhz", "clock of the processor", clocks.collect()),
            parameter("round_trip_ms", "round trip to the gateway", trips.collect()),
            parameter("packet_loss", "packets lost on the last hop", losses.collect()),
        ]
    }
}

fn slow_down(profile: &mut Profile, times: f64) {
    profile.key_generation_ms *= times;
    profile.agreement_ms *= times;
    profile.sign_ms *= times;
    profile.verify_ms *= times;
}

impl Study {
    /// Returns the numbers of the sweep and its picture: by how much a measure changes against the way
    /// compared with, as it is to be expected.
    pub(super) fn sweep(&self, name: &str, measure: Measure) -> Result<(Sheet, String)> {
        let sweep = &self.spec.sweep;
        let per_day = |period_s: u64| DAY.as_secs_f64() / Span::from_secs(period_s).as_secs_f64();
        let [readings, keys] = [self.spec.wake_s, self.spec.renew_s].map(per_day);
        let base = Case {
            label: String::new(),
            profile: self.profile.clone(),
            radio: self.spec.radio,
            work: Work { readings, keys },
        };
        let against: Way = sweep.against.parse()?;
        let ways = sweep.ways.iter().map(|way| way.parse()).collect::<Result<Vec<Way>, _>>()?;
        let mut sheet = Sheet::new(
            name,
            &[
                "parameter",
                "value",
                "way",
                "against",
                "modelled",
                "measure",
                "change_radio_off_pct",
                "change_radio_on_pct",
            ],
        );
        let mut grids = Vec::new();
        for Parameter { name, words, cases } in sweep.parameters(&base, keys) {
            let mut rows: Vec<_> =
                ways.iter().map(|way| (way.name().to_owned(), Vec::new())).collect();
            for case in &cases {
                case.radio.check()?;
                for (way, (_, cells)) in ways.iter().zip(&mut rows) {
                    let gains = case.changes(*way, against, measure);
                    cells.push(gains);
                    let measure = measure.name();
                    let words = [name, &case.label, way.name(), against.name(), "true", measure];
                    let row = words.map(str::to_owned).into_iter();
                    sheet.push(row.chain(gains.map(number)).collect());
                }
            }
            let columns = cases.into_iter().map(|case| case.label).collect();
            grids.push(Grid { title: words.to_owned(), columns, rows });
        }
        let title = format!("{}: change against {against}, per cent (modelled)", measure.words());
        let note = "radio off / on during cryptography; blue is better, orange worse; all else as in the figure";
        let better = if measure == Measure::BatteryDays { Better::More } else { Better::Less };
        Ok((sheet, Grids { title: &title, note, better, grids }.to_svg()))
    }
}

impl Case {
    /// Returns by how much a measure changes by a way, in per cent, the radio off and on during cryptography.
    fn changes(&self, way: Way, against: Way, measure: Measure) -> [f64; 2] {
        let Self { profile, radio, work, .. } = self;
        let days =
            [way, against].map(|way| DeviceDay::expected(*work, &way.exchange(), profile, radio));
        [OFF, ON].map(|radio| {
            let [ours, theirs] = [&days[0], &days[1]].map(|day| measure.of(day, radio, profile));
            100.0 * (ours / theirs - 1.0)
        })
    }
}
