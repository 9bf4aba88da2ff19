//! The ways as lines, as JSON and as CSV.

use anyhow::{Context as _, Result};
use claviger_energy::{Day, Profile, RadioInCrypto};
use serde::Serialize;

use crate::cli::energy::EnergyArgs;
use crate::duration;

/// All that is shown.
pub(super) struct Table<'a> {
    pub(super) profile: &'a Profile,
    pub(super) args: &'a EnergyArgs,
    pub(super) days: &'a [Day],
}

/// One way, for programs.
#[derive(Debug, Serialize)]
struct Row {
    way: &'static str,
    modelled: bool,
    profile: String,
    wake_s: f64,
    renewal_s: f64,
    public_key_operations: u32,
    public_key_ms: f64,
    awake_ms: f64,
    ip_bytes: u32,
    energy_mj_radio_off: f64,
    energy_mj_radio_on: f64,
    day_energy_j_radio_off: f64,
    day_energy_j_radio_on: f64,
    awake_dc: f64,
    rdc_strict_radio_off: f64,
    rdc_strict_radio_on: f64,
    battery_days_radio_off: f64,
    battery_days_radio_on: f64,
    against: &'static str,
    life_gain_radio_off: f64,
    life_gain_radio_on: f64,
}

const OFF: RadioInCrypto = RadioInCrypto::Off;
const ON: RadioInCrypto = RadioInCrypto::On;

/// How much longer a battery has to last before it is worth a line.
const GAINS: [f64; 3] = [0.01, 0.05, 0.18];

impl Table<'_> {
    /// Returns lines for people.
    pub(super) fn lines(&self) -> Result<Vec<String>> {
        let (profile, args) = (self.profile, self.args);
        let mut lines = vec![
            format!(
                "modelled, not measured: {} ({}); a reading every {}, a key every {}, a battery of {} mAh at {} V",
                profile.name,
                profile.title,
                duration::in_words(args.wake),
                duration::in_words(args.renew),
                profile.battery_mah,
                profile.voltage_v
            ),
            "where two numbers stand, the radio is off and on during cryptography".to_owned(),
            String::new(),
            format!(
                "{:16}  one key: {:>6} {:>7} {:>8} {:>6} {:>13}   24 h: {:>8} {:>15} {:>13}  {:>15}",
                "way",
                "pk ops",
                "pk ms",
                "awake ms",
                "bytes",
                "mJ",
                "awake",
                "radio duty",
                "battery days",
                format!("than {}", args.against)
            ),
        ];
        let baseline = self.baseline()?;
        lines.extend(self.days.iter().map(|day| line(day, baseline, profile)));
        lines.push(String::new());
        lines.extend(
            self.days
                .iter()
                .filter(|day| day.way != args.against)
                .map(|day| format!("{:16}  {}", day.way.name(), self.breaks_even(day, baseline))),
        );
        Ok(lines)
    }

    /// Returns an object for each way.
    pub(super) fn json(&self) -> Result<Vec<String>> {
        let rows = self.rows()?;
        rows.iter().map(|row| Ok(serde_json::to_string(row)?)).collect()
    }

    /// Returns a table whose first line names its columns.
    pub(super) fn csv(&self) -> Result<String> {
        let mut text = String::new();
        for row in self.rows()? {
            let value = serde_json::to_value(&row)?;
            let columns = value.as_object().context("a row has columns")?;
            if text.is_empty() {
                text += &columns.keys().map(String::as_str).collect::<Vec<_>>().join(",");
                text.push('\n');
            }
            // No text in it has a comma or a quotation mark.
            let cell = |value: &serde_json::Value| match value {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            text += &columns.values().map(cell).collect::<Vec<_>>().join(",");
            text.push('\n');
        }
        Ok(text)
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let baseline = self.baseline()?;
        Ok(self.days.iter().map(|day| self.row(day, baseline)).collect())
    }

    fn row(&self, day: &Day, baseline: &Day) -> Row {
        let cost = &day.cost;
        let (off, on) = (day.ledger(OFF), day.ledger(ON));
        Row {
            way: day.way.name(),
            modelled: true,
            profile: self.profile.name.clone(),
            wake_s: self.args.wake.as_secs_f64(),
            renewal_s: self.args.renew.as_secs_f64(),
            public_key_operations: day.way.exchange().public_key_operations(),
            public_key_ms: cost.public_key_s * 1e3,
            awake_ms: cost.awake_s * 1e3,
            ip_bytes: cost.ip_bytes,
            energy_mj_radio_off: cost.energy_mj(OFF, self.profile),
            energy_mj_radio_on: cost.energy_mj(ON, self.profile),
            day_energy_j_radio_off: day.energy_j(OFF),
            day_energy_j_radio_on: day.energy_j(ON),
            awake_dc: off.awake_dc().as_f64(),
            rdc_strict_radio_off: off.rdc_strict().as_f64(),
            rdc_strict_radio_on: on.rdc_strict().as_f64(),
            battery_days_radio_off: day.battery_days(OFF),
            battery_days_radio_on: day.battery_days(ON),
            against: baseline.way.name(),
            life_gain_radio_off: day.life_gain(baseline, OFF),
            life_gain_radio_on: day.life_gain(baseline, ON),
        }
    }

    fn baseline(&self) -> Result<&Day> {
        let found = self.days.iter().find(|day| day.way == self.args.against);
        found.context("the way to compare with is among the ways")
    }

    /// Says from which wake period on, and with which elliptic curves, a way is cheaper than the baseline.
    fn breaks_even(&self, day: &Day, baseline: &Day) -> String {
        let than = baseline.way.name();
        if day.charge_mc(OFF) >= baseline.charge_mc(OFF)
            && day.charge_mc(ON) >= baseline.charge_mc(ON)
        {
            return format!("costs no less than {than} at any wake period");
        }
        let gains = GAINS.iter().filter_map(|gain| {
            let period = |radio| day.wake_period_for(baseline, *gain, radio);
            let words = |period: Option<f64>| match period {
                None => "never".to_owned(),
                Some(seconds) => in_words(seconds),
            };
            let (off, on) = (period(OFF), period(ON));
            (off.is_some() || on.is_some())
                .then(|| format!("{:.0} % from {} / {}", 100.0 * gain, words(off), words(on)))
        });
        let gains: Vec<_> = gains.collect();
        let faster = |radio| day.equal_ecc_speed(baseline, self.profile, radio);
        let ecc = match (faster(OFF), faster(ON)) {
            (Some(off), Some(on)) => {
                format!("dearer once ECC is {:.1} / {:.1} times as fast", 1.0 / off, 1.0 / on)
            }
            _ => "cheaper however fast ECC is".to_owned(),
        };
        let from = if gains.is_empty() { "less than 1 %".to_owned() } else { gains.join(", ") };
        format!("battery life over {than}, by the wake period: {from}; {ecc}")
    }
}

fn line(day: &Day, baseline: &Day, profile: &Profile) -> String {
    let cost = &day.cost;
    let (off, on) = (day.ledger(OFF), day.ledger(ON));
    let pair = |off: f64, on: f64| format!("{off:.1} / {on:.1}");
    let gain = |radio| 100.0 * day.life_gain(baseline, radio);
    format!(
        "{:16}  {:>15} {:>7.1} {:>8.1} {:>6} {:>13}         {:>6.3} % {:>15} {:>13}  {:>15}",
        day.way.name(),
        day.way.exchange().public_key_operations(),
        cost.public_key_s * 1e3,
        cost.awake_s * 1e3,
        cost.ip_bytes,
        pair(cost.energy_mj(OFF, profile), cost.energy_mj(ON, profile)),
        off.awake_dc().as_percent(),
        format!("{:.3} / {:.3} %", off.rdc_strict().as_percent(), on.rdc_strict().as_percent()),
        format!("{:.0} / {:.0}", day.battery_days(OFF), day.battery_days(ON)),
        format!("{:+.1} / {:+.1} %", gain(OFF), gain(ON)),
    )
}

/// A time in the unit in which it is easily read.
fn in_words(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "1 s".to_owned(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use claviger_energy::{Schedule, Way};
    use claviger_units::Span;

    use super::*;

    fn args() -> EnergyArgs {
        EnergyArgs {
            profile: "reference".into(),
            way: Vec::new(),
            wake: Span::from_secs(1_800),
            renew: Span::from_secs(1_800),
            against: Way::Dkg,
            json: false,
            csv: None,
            svg: None,
        }
    }

    fn with_table(use_it: impl FnOnce(&Table<'_>)) {
        let (profile, args) = (Profile::named("reference").unwrap(), args());
        let schedule = Schedule::new(args.wake, args.renew).unwrap();
        let days: Vec<_> =
            Way::ALL.iter().map(|way| Day::of(*way, &profile, schedule).unwrap()).collect();
        use_it(&Table { profile: &profile, args: &args, days: &days });
    }

    #[test]
    fn the_table_has_the_published_cells_and_says_that_they_are_modelled() {
        with_table(|table| {
            let lines = table.lines().unwrap();
            assert!(lines[0].starts_with("modelled, not measured: reference"), "{}", lines[0]);
            let line = |way: &str| lines.iter().find(|line| line.starts_with(way)).unwrap();
            let push = line("push ");
            assert!(push.contains("2.7 / 2.8") && push.ends_with("+19.1 / +37.7 %"), "{push}");
            let https = line("https ");
            assert!(
                https.contains("194.8 / 376.0") && https.ends_with("-14.7 / -22.1 %"),
                "{https}"
            );
            let losing = lines.iter().rfind(|line| line.starts_with("https")).unwrap();
            assert!(losing.ends_with("costs no less than dkg at any wake period"), "{losing}");
            let winning = lines.iter().rfind(|line| line.starts_with("psk12")).unwrap();
            assert!(winning.contains("1 % from") && winning.contains("times as fast"), "{winning}");
        });
    }

    #[test]
    fn programs_get_the_same_as_json_and_csv() {
        with_table(|table| {
            let rows = table.json().unwrap();
            assert_eq!(rows.len(), Way::ALL.len());
            let row: serde_json::Value = serde_json::from_str(&rows[0]).unwrap();
            assert_eq!((&row["way"], &row["modelled"]), (&"dkg".into(), &true.into()));
            let csv = table.csv().unwrap();
            let columns = csv.lines().next().unwrap().split(',').count();
            assert!(csv.lines().all(|line| line.split(',').count() == columns));
            assert_eq!(csv.lines().count(), 1 + Way::ALL.len());
        });
    }
}
