//! What was counted of each device of a live fleet: a sheet that is handed to the figure, and can be handed to it again.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};

use super::live::LiveScenario;
use crate::figures::sheet::{Sheet, number};

/// What was counted of one device on a network.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSeen {
    /// The network.
    pub network: String,
    /// How it comes to its keys.
    pub way: String,
    /// Its host.
    pub host: String,
    /// Its wakes.
    pub wakes: u64,
    /// The keys that it was given, or made.
    pub keys: u64,
    /// Its readings at the platform.
    pub readings: u64,
    /// From the beginning of a wake until its reading is at the platform: the mean, in milliseconds.
    pub reading_mean_ms: f64,
    /// The median.
    pub reading_median_ms: f64,
    /// Frames that were sent into its link, either way.
    pub frames: u64,
    /// Those that were lost there by chance.
    pub lost: u64,
    /// Those for which there was no room.
    pub crowded: u64,
    /// How long those took that arrived: the mean, in milliseconds.
    pub frame_ms: f64,
}

/// What was counted in a scenario, and by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSeen {
    /// The program and the seed, in a line.
    pub by: String,
    /// Each device on each network.
    pub devices: Vec<DeviceSeen>,
}

const COLUMNS: [&str; 12] = [
    "network",
    "way",
    "host",
    "wakes",
    "keys",
    "readings",
    "reading_latency_mean_ms",
    "reading_latency_median_ms",
    "frames_sent",
    "frames_lost_by_chance",
    "frames_without_room",
    "frame_latency_ms",
];
/// How the line begins that says who has counted.
const BY: &str = "counted by";

impl FleetSeen {
    /// Makes a sheet of the devices, which says in which scenario they were counted, and by whom.
    #[must_use]
    pub fn sheet(&self, scenario: &LiveScenario) -> Sheet {
        let mut sheet = Sheet::new("fig2c-devices", &COLUMNS);
        sheet.note(scenario.line());
        sheet.note(format!("{BY} {}", self.by));
        for one in &self.devices {
            sheet.push(vec![
                one.network.clone(),
                one.way.clone(),
                one.host.clone(),
                one.wakes.to_string(),
                one.keys.to_string(),
                one.readings.to_string(),
                number(one.reading_mean_ms),
                number(one.reading_median_ms),
                one.frames.to_string(),
                one.lost.to_string(),
                one.crowded.to_string(),
                number(one.frame_ms),
            ]);
        }
        sheet
    }

    /// Reads a sheet of devices.
    ///
    /// # Errors
    ///
    /// Where it is another sheet, is of another scenario, was cut off, or holds what cannot be.
    pub fn read(text: &str, scenario: &LiveScenario) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        ensure!(
            lines.next() == Some(&*COLUMNS.join(",")),
            "this is no sheet of devices that this `claviger lab fig2c` has written"
        );
        let note = |begin: &str| {
            let notes = text.lines().filter_map(|line| line.strip_prefix("# "));
            notes.into_iter().find(|note| note.starts_with(begin))
        };
        let counted = note(LiveScenario::COUNTED).unwrap_or("an unknown one");
        ensure!(
            counted == scenario.line(),
            "the devices were counted in another scenario: {counted}, in place of {}",
            scenario.line()
        );
        let by = note(BY).and_then(|note| note.strip_prefix(BY)).context("who has counted?")?;
        let devices = lines.map(DeviceSeen::read).collect::<Result<Vec<_>>>()?;
        let end = format!("# end, {} rows", devices.len());
        ensure!(text.lines().last() == Some(&*end), "the sheet of devices is not whole");
        let seen = Self { by: by.trim().to_owned(), devices };
        seen.check(scenario)?;
        Ok(seen)
    }

    /// Tells whether all was counted that the scenario has, and nothing else.
    fn check(&self, scenario: &LiveScenario) -> Result<()> {
        self.devices.iter().try_for_each(DeviceSeen::check)?;
        let seen = |network: &str, way: &str| {
            self.devices.iter().filter(|one| one.network == network && one.way == way).count()
        };
        let mut n_seen = 0;
        for network in &scenario.networks {
            for way in scenario.legs_to_key.keys() {
                let n = seen(network.name(), way);
                ensure!(
                    n > 0,
                    "no device on {network} that comes to its keys by {way} was counted"
                );
                n_seen += n;
            }
        }
        ensure!(
            n_seen == self.devices.len(),
            "devices were counted on other networks, or with other ways, than the scenario has"
        );
        let names: BTreeSet<_> = self.devices.iter().map(|one| (&one.network, &one.host)).collect();
        ensure!(names.len() == self.devices.len(), "a device was counted twice");
        Ok(())
    }
}

impl DeviceSeen {
    fn read(row: &str) -> Result<Self> {
        let cells: Vec<&str> = row.split(',').collect();
        let [network, way, host, ref counts @ .., frame] = cells[..] else {
            bail!("a row of a device has {} cells: `{row}`", COLUMNS.len())
        };
        let [wakes, keys, readings, mean, median, frames, lost, crowded] = *counts else {
            bail!("a row of a device has {} cells: `{row}`", COLUMNS.len())
        };
        let wrong = || format!("a row of a device holds no number: `{row}`");
        let count = |cell: &str| cell.parse().with_context(wrong);
        let real = |cell: &str| cell.parse().with_context(wrong);
        Ok(Self {
            network: network.to_owned(),
            way: way.to_owned(),
            host: host.to_owned(),
            wakes: count(wakes)?,
            keys: count(keys)?,
            readings: count(readings)?,
            reading_mean_ms: real(mean)?,
            reading_median_ms: real(median)?,
            frames: count(frames)?,
            lost: count(lost)?,
            crowded: count(crowded)?,
            frame_ms: real(frame)?,
        })
    }

    /// A device that had no key in many of its wakes, or whose readings did not come, shows something else than
    /// what it stands for.
    fn check(&self) -> Result<()> {
        let Self { network, host, way, wakes, keys, readings, .. } = self;
        let is_most = |n: u64| 10 * (n + 2) >= 9 * wakes && n > 0;
        ensure!(
            *wakes > 0 && is_most(*keys) && is_most(*readings),
            "{host} on {network} had {keys} keys by {way} and {readings} readings in {wakes} wakes: count again with fewer devices, longer wakes or a better link"
        );
        let times = [self.reading_mean_ms, self.reading_median_ms, self.frame_ms];
        let is_time = |time: &f64| time.is_finite() && *time >= 0.0;
        ensure!(
            times.iter().all(is_time) && self.frames > 0 && self.n_lost() <= self.frames,
            "{host} on {network}: these numbers cannot be"
        );
        Ok(())
    }

    /// Returns how many of its frames did not arrive.
    pub(super) const fn n_lost(&self) -> u64 {
        self.lost.saturating_add(self.crowded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::sheet::Provenance;

    fn device(host: &str, way: &str, lost: u64) -> DeviceSeen {
        DeviceSeen {
            network: "namespaces".into(),
            way: way.into(),
            host: host.into(),
            wakes: 10,
            keys: 9,
            readings: 10,
            reading_mean_ms: 41.25,
            reading_median_ms: 40.0,
            frames: 400,
            lost,
            crowded: 2,
            frame_ms: 2.5,
        }
    }

    fn scenario() -> LiveScenario {
        let toml = "networks = [\"namespaces\"]\ntopology = \"tree,2,6\"\nwake_s = 10\nlength_s = 60\n\
            legs_to_key = { dkg = 4, https = 6 }\nlegs_to_platform = 8\nretransmission_s = 0.2";
        LiveScenario { link: "delay=2ms".into(), ..toml::from_str(toml).unwrap() }
    }

    fn csv(devices: &[DeviceSeen]) -> String {
        let seen = FleetSeen { by: "commit abc, seed 1".into(), devices: devices.to_vec() };
        let provenance = Provenance {
            figure: "fig2c".into(),
            commit: "def".into(),
            seed: None,
            configuration: "x = 1\n".into(),
        };
        seen.sheet(&scenario()).to_csv(&provenance)
    }

    fn pair() -> [DeviceSeen; 2] {
        [device("h1", "https", 3), device("h2", "dkg", 1)]
    }

    /// Also who has counted, whoever writes it again.
    #[test]
    fn a_sheet_of_devices_is_read_as_it_was_written() {
        let read = FleetSeen::read(&csv(&pair()), &scenario()).unwrap();
        assert_eq!(read, FleetSeen { by: "commit abc, seed 1".into(), devices: pair().to_vec() });
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", FleetSeen::read(text, &scenario()).unwrap_err())
    }

    #[test]
    fn a_sheet_that_is_cut_off_or_another_is_refused() {
        let whole = csv(&pair());
        let cut = &whole[..whole.find("namespaces,dkg").unwrap()];
        for (text, told) in [
            (cut, "not whole"),
            ("way,side\n", "no sheet of devices"),
            (&whole.replace(",400,", ",many,"), "no number"),
            (&whole.replace(",400,", ","), "12 cells"),
            (&whole.replace("delay=2ms", "delay=3ms"), "another scenario"),
        ] {
            let said = refusal(text);
            assert!(said.contains(told), "{said}");
        }
    }

    #[test]
    fn what_was_not_counted_or_cannot_be_is_refused() {
        let [first, second] = pair();
        let with = |change: fn(&mut DeviceSeen)| {
            let mut changed = second.clone();
            change(&mut changed);
            csv(&[first.clone(), changed])
        };
        for (text, told) in [
            (with(|one| one.readings = 0), "0 readings in 10 wakes"),
            (with(|one| one.keys = 6), "6 keys by dkg"),
            (with(|one| one.wakes = 0), "0 wakes"),
            (with(|one| one.reading_mean_ms = f64::NAN), "cannot be"),
            (with(|one| one.frame_ms = -1.0), "cannot be"),
            (with(|one| one.lost = 399), "cannot be"),
            (with(|one| one.way = "bogus".into()), "by dkg was counted"),
            (with(|one| one.network = "mininet".into()), "by dkg was counted"),
            (with(|one| one.host = "h1".into()), "twice"),
            (csv(std::slice::from_ref(&first)), "by dkg was counted"),
            (csv(&[first.clone(), second.clone(), device("h3", "push", 0)]), "other ways"),
        ] {
            let said = refusal(&text);
            assert!(said.contains(told), "{said}");
        }
    }
}
