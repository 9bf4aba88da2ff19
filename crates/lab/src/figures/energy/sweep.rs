//! One value after the other in place of the configuration's: where delivered keys win, and where they lose.

use anyhow::Result;
use claviger_energy::{Profile, Way};
use claviger_units::Span;
use serde::Deserialize;

use super::{DAY, OFF, ON, Study};
use crate::device_day::{DeviceDay, Radio, Work};
use crate::figures::drawing::{Grid, Grids};
use crate::figures::sheet::{Sheet, number};

/// The values.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sweep {
    against: String,
    ways: Vec<String>,
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

/// The clock for which the profiles of ESP32 hold.
const PROFILE_MHZ: f64 = 240.0;

impl Sweep {
    fn parameters(&self, base: &Case, keys: f64) -> [Parameter; 5] {
        let wakes = self.wake_s.iter().map(|&wake| {
            let work = Work { readings: DAY.as_secs_f64() / wake, keys };
            Case { label: format!("{} min", number(wake / 60.0)), work, ..base.clone() }
        });
        let speeds = self.ecc_speed.iter().map(|&speed| {
            let mut case = Case { label: format!("× {}", number(speed)), ..base.clone() };
            slow_down(&mut case.profile, 1.0 / speed);
            case
        });
        let clocks = self.clock.iter().map(|&Clock { mhz, cpu_ma }| {
            let mut case = Case { label: format!("{} MHz", number(mhz)), ..base.clone() };
            let slower = PROFILE_MHZ / mhz;
            slow_down(&mut case.profile, slower);
            case.profile.session_ms *= slower;
            case.profile.frame_ms *= slower;
            case.profile.cpu_ma = cpu_ma;
            case
        });
        let trips = self.round_trip_ms.iter().map(|&round_trip_ms| {
            let profile = Profile { round_trip_ms, ..base.profile.clone() };
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
    /// Returns the numbers of the sweep and its picture: what battery life gains over the way compared with,
    /// as it is to be expected.
    pub(super) fn sweep(&self, name: &str) -> Result<(Sheet, String)> {
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
                "life_gain_radio_off_pct",
                "life_gain_radio_on_pct",
            ],
        );
        let mut grids = Vec::new();
        for Parameter { name, words, cases } in sweep.parameters(&base, keys) {
            let mut rows: Vec<_> =
                ways.iter().map(|way| (way.name().to_owned(), Vec::new())).collect();
            for case in &cases {
                case.radio.check()?;
                for (way, (_, cells)) in ways.iter().zip(&mut rows) {
                    let gains = case.gains(*way, against);
                    cells.push(gains);
                    let words = [name, &case.label, way.name(), against.name(), "true"];
                    let row = words.map(str::to_owned).into_iter();
                    sheet.push(row.chain(gains.map(number)).collect());
                }
            }
            let columns = cases.into_iter().map(|case| case.label).collect();
            grids.push(Grid { title: words.to_owned(), columns, rows });
        }
        let title = format!("Battery life gained over {against}, per cent (modelled)");
        let note = "radio off / on during cryptography; blue gains, orange loses; all else as in the figure";
        Ok((sheet, Grids { title: &title, note, grids }.to_svg()))
    }
}

impl Case {
    /// Returns what battery life gains by a way, in per cent, the radio off and on during cryptography.
    fn gains(&self, way: Way, against: Way) -> [f64; 2] {
        let Self { profile, radio, work, .. } = self;
        let days =
            [way, against].map(|way| DeviceDay::expected(*work, &way.exchange(), profile, radio));
        [OFF, ON].map(|radio| {
            let [ours, theirs] = [&days[0], &days[1]].map(|day| day.battery_days(radio, profile));
            100.0 * (ours / theirs - 1.0)
        })
    }
}
