//! The live part of figure 2c: what was counted of a fleet on emulated networks, beside what virtual time says
//! of the same fleet.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use claviger_energy::Way;
use claviger_units::Span;
use serde::Deserialize;

use super::packets::{Fleet, Hop, Legs, spread};
use super::{Laboratory, Verdict};
use crate::figures::Finding;
use crate::figures::drawing::{Bar, Bars};
use crate::figures::sheet::{Sheet, maybe, number};
use crate::interval::Estimate;
use crate::repeat::repeat;

/// A fleet on emulated networks, of which every other device makes its keys itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveScenario {
    /// The networks: `namespaces`, `mininet`.
    pub networks: Vec<String>,
    /// The shape of each, such as `tree,2,6`.
    pub topology: String,
    /// How often each device wakes, with a reading and a key.
    pub wake_s: u64,
    /// For how long the fleet is counted.
    pub length_s: u64,
    /// Messages that wait for each other until a key is there, for each way that is compared.
    pub(super) legs_to_key: BTreeMap<String, u32>,
    /// Those from there until the reading is at the platform.
    pub(super) legs_to_platform: u32,
    /// How long a lost one is waited for, at first.
    pub(super) retransmission_s: f64,
    /// The link of each host but the gateway; the figure's.
    #[serde(skip)]
    pub link: String,
}

/// What a live part has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    /// A sheet of [`DeviceSeen`], as CSV.
    Sheet(String),
    /// Nothing, and why.
    Nothing(String),
}

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
    /// Its readings at the platform.
    pub readings: u64,
    /// From the beginning of a wake until its reading is at the platform: the mean, in milliseconds.
    pub reading_mean_ms: f64,
    /// The median.
    pub reading_median_ms: f64,
    /// Frames that were sent into its link, either way.
    pub frames: u64,
    /// Those that were lost there.
    pub lost: u64,
    /// How long those took that arrived: the mean, in milliseconds.
    pub frame_ms: f64,
}

/// The columns of a sheet of devices.
const COLUMNS: [&str; 10] = [
    "network",
    "way",
    "host",
    "wakes",
    "readings",
    "reading_latency_mean_ms",
    "reading_latency_median_ms",
    "frames_sent",
    "frames_lost",
    "frame_latency_ms",
];

impl DeviceSeen {
    /// Makes a sheet of devices that were counted in a scenario.
    #[must_use]
    pub fn sheet(devices: &[Self], scenario: &LiveScenario) -> Sheet {
        let mut sheet = Sheet::new("fig2c-devices", &COLUMNS);
        sheet.note(scenario.line());
        for one in devices {
            sheet.push(vec![
                one.network.clone(),
                one.way.clone(),
                one.host.clone(),
                one.wakes.to_string(),
                one.readings.to_string(),
                number(one.reading_mean_ms),
                number(one.reading_median_ms),
                one.frames.to_string(),
                one.lost.to_string(),
                number(one.frame_ms),
            ]);
        }
        sheet
    }

    /// Reads a sheet of devices, whole.
    ///
    /// # Errors
    ///
    /// Where it is another sheet, is of another scenario, or was cut off.
    pub fn read(text: &str, scenario: &LiveScenario) -> Result<Vec<Self>> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        ensure!(
            lines.next() == Some(&*COLUMNS.join(",")),
            "this is no sheet of devices that `claviger lab fig2c` has written"
        );
        let counted = text
            .lines()
            .find_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with(COUNTED)));
        ensure!(
            counted == Some(&*scenario.line()),
            "the devices were counted in another scenario: {}, in place of {}",
            counted.unwrap_or("an unknown one"),
            scenario.line()
        );
        let devices = lines.map(Self::read_row).collect::<Result<Vec<_>>>()?;
        let end = format!("# end, {} rows", devices.len());
        ensure!(text.lines().last() == Some(&*end), "the sheet of devices is not whole");
        Ok(devices)
    }

    fn read_row(row: &str) -> Result<Self> {
        let cells: Vec<&str> = row.split(',').collect();
        let [network, way, host, wakes, readings, mean, median, frames, lost, frame] = cells[..]
        else {
            anyhow::bail!("a row of a device has {} cells: `{row}`", COLUMNS.len())
        };
        let wrong = || format!("a row of a device holds no number: `{row}`");
        let count = |cell: &str| cell.parse().with_context(wrong);
        let real = |cell: &str| cell.parse().with_context(wrong);
        Ok(Self {
            network: network.to_owned(),
            way: way.to_owned(),
            host: host.to_owned(),
            wakes: count(wakes)?,
            readings: count(readings)?,
            reading_mean_ms: real(mean)?,
            reading_median_ms: real(median)?,
            frames: count(frames)?,
            lost: count(lost)?,
            frame_ms: real(frame)?,
        })
    }

    fn measures(&self) -> [f64; 5] {
        let (frames, wakes) = (real(self.frames), real(self.wakes.max(1)));
        [
            self.frame_ms,
            100.0 * real(self.lost) / frames.max(1.0),
            frames / wakes,
            self.reading_mean_ms,
            self.reading_median_ms,
        ]
    }
}

/// What is told of a network and a way, by the names of its columns.
const MEASURES: [&str; 5] = [
    "packet_latency_ms",
    "packet_loss_pct",
    "packets_per_wake",
    "reading_latency_mean_ms",
    "reading_latency_median_ms",
];
const PACKET: usize = 0;
const LOSS: usize = 1;
const PER_WAKE: usize = 2;
/// The median: the mean of so few hangs on who has to wait for a lost packet.
const READING: usize = 4;

/// What each network has shown of both ways, in the order of [`MEASURES`].
struct Counted(Vec<(String, [Vec<Estimate>; 2])>);

impl Counted {
    /// Returns one measure of each network.
    fn pairs(&self, measure: usize) -> impl Iterator<Item = (&str, [Estimate; 2])> {
        self.0.iter().map(move |(network, [made, fetched])| {
            (network.as_str(), [made[measure], fetched[measure]])
        })
    }
}

/// How the line of a scenario begins.
const COUNTED: &str = "counted on";

/// What the live part adds to the figure.
pub(super) struct Part {
    pub(super) remarks: Vec<String>,
    pub(super) pictures: Vec<(String, String)>,
    pub(super) sheets: Vec<Sheet>,
    pub(super) verdicts: Vec<Verdict>,
}

impl LiveScenario {
    /// Returns in a line what the numbers depend on.
    fn line(&self) -> String {
        let Self { networks, topology, link, wake_s, length_s, .. } = self;
        let networks = networks.join(" and ");
        format!(
            "{COUNTED} {networks}: {topology}, {link}, a wake each {wake_s} s, for {length_s} s"
        )
    }

    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.networks.is_empty(), "live.networks: name one, or leave the live part out");
        for network in &self.networks {
            ensure!(
                ["namespaces", "mininet"].contains(&&**network),
                "live.networks: `{network}` is neither namespaces nor mininet"
            );
        }
        ensure!(self.wake_s > 0, "live.wake_s must be above 0");
        ensure!(
            self.length_s >= 2 * self.wake_s,
            "live.length_s = {}: two wakes of {} s at least",
            self.length_s,
            self.wake_s
        );
        ensure!((0.0..=60.0).contains(&self.retransmission_s), "live.retransmission_s: 0 to 60");
        Ok(())
    }

    /// Plays the devices of one way in virtual time; cryptography takes none here, as it hardly does on the
    /// machine on which the live part runs.
    fn play(
        &self,
        way: Way,
        devices: usize,
        hop: Hop,
        reading: Legs,
        seed: u64,
    ) -> Result<[f64; 5]> {
        let to_key = self.legs_to_key.get(way.name());
        let to_key = to_key.with_context(|| format!("live.legs_to_key says nothing of {way}"))?;
        let wake = Span::from_secs(self.wake_s);
        let fleet = Fleet {
            devices: u32::try_from(devices)?,
            wake,
            renew: wake,
            hop,
            retransmission_s: self.retransmission_s,
            key: Legs::of(&way.exchange()).in_turns(*to_key),
            key_ms: 0.0,
            reading: reading.in_turns(self.legs_to_platform),
            beyond_ms: 0.0,
        };
        let mut seen = fleet.play(way.name(), VIRTUAL, seed);
        let (mean, [median]) = spread(&mut seen.readings_ms, [0.5]);
        Ok([seen.packet_ms(), seen.loss_pct(), f64::NAN, mean, median])
    }

    /// Sets what was counted beside virtual time.
    pub(super) fn make(
        &self,
        devices: &[DeviceSeen],
        (hop, reading): (Hop, Legs),
        [made, fetched]: [Way; 2],
        n_seeds: usize,
        laboratory: &Laboratory<'_>,
    ) -> Result<Part> {
        let networks: BTreeSet<&str> = devices.iter().map(|one| &*one.network).collect();
        let mut sheet = Sheet::new(
            "fig2c-live",
            &[
                "network",
                "way",
                "measure",
                "live",
                "live_ci95",
                "devices",
                "virtual",
                "virtual_ci95",
            ],
        );
        let mut counted = Counted(
            networks.iter().map(|name| ((*name).to_owned(), [const { Vec::new() }; 2])).collect(),
        );
        for (place, way) in [made, fetched].into_iter().enumerate() {
            let n_devices = devices.iter().filter(|one| one.way == way.name()).count();
            let one = |seed| self.play(way, n_devices / networks.len().max(1), hop, reading, seed);
            let foretold = repeat(laboratory.seed, n_seeds, laboratory.threads, one, |_| {})?;
            for (network, estimates) in &mut counted.0 {
                let these: Vec<_> = devices
                    .iter()
                    .filter(|one| one.network == *network && one.way == way.name())
                    .map(DeviceSeen::measures)
                    .collect();
                for (n, measure) in MEASURES.iter().enumerate() {
                    let column =
                        |rows: &[[f64; 5]]| rows.iter().map(|row| row[n]).collect::<Vec<_>>();
                    let live = Estimate::of(&column(&these));
                    let live =
                        live.with_context(|| format!("no device on {network} is by {way}"))?;
                    let told =
                        Estimate::of(&column(&foretold)).filter(|told| told.mean.is_finite());
                    sheet.push(vec![
                        network.clone(),
                        way.name().to_owned(),
                        (*measure).to_owned(),
                        number(live.mean),
                        maybe(live.margin),
                        live.n.to_string(),
                        maybe(told.map(|told| told.mean)),
                        maybe(told.and_then(|told| told.margin)),
                    ]);
                    estimates[place].push(live);
                }
            }
        }
        Ok(Part {
            remarks: self.remarks(devices),
            pictures: vec![("fig2c-live".into(), self.picture(&counted, [made, fetched]))],
            sheets: vec![DeviceSeen::sheet(devices, self), sheet],
            verdicts: verdicts(&counted),
        })
    }

    fn picture(&self, counted: &Counted, ways: [Way; 2]) -> String {
        let bars = |measure: usize| -> Vec<Bar> {
            let of_network = |(network, values): (&str, [Estimate; 2])| {
                [0, 1].map(|group| Bar {
                    name: format!("{} {network}", ways[group]),
                    value: values[group],
                    group,
                })
            };
            counted.pairs(measure).flat_map(of_network).collect()
        };
        Bars {
            title: "Latency and packet loss, measured on emulated networks",
            groups: ["keys made by the device", "keys delivered"],
            panels: vec![
                ("packets: one way (ms)", bars(PACKET)),
                ("packets lost below TCP (%)", bars(LOSS)),
                ("reading: wake to platform, median (ms)", bars(READING)),
            ],
            note: &format!(
                "95 % intervals over devices; a reading and a key every {} s, {} s on each network",
                self.wake_s, self.length_s
            ),
        }
        .to_svg()
    }

    fn remarks(&self, devices: &[DeviceSeen]) -> Vec<String> {
        let wakes: u64 = devices.iter().map(|one| one.wakes).sum();
        let frames: u64 = devices.iter().map(|one| one.frames).sum();
        vec![
            format!(
                "Live: gateway, platform and devices as hosts of {} on {}, with {} between each host but the gateway and its switch; every other device makes its keys itself, at the same time on the same network. {wakes} wakes in {} s each, {frames} frames on the devices' links.",
                self.topology,
                self.networks.join(" and "),
                self.link,
                self.length_s
            ),
            "Live frames are counted and timed where they cross the link of a device, below IP, both ways, with all that TCP adds. A device that makes its keys seals its readings under a key from the link, as the others do: only how it comes to a key differs. Cryptography takes as long as it does on the machine that runs it all, which is next to nothing beside a sensor's.".into(),
            format!(
                "The column `virtual` of fig2c-live.csv is of the same fleet in virtual time, {} h, without time for cryptography.",
                VIRTUAL.as_secs_f64() / 3600.0
            ),
        ]
    }
}

/// What virtual time plays for the comparison.
const VIRTUAL: Span = Span::from_secs(3600);

/// Judges what was counted: a difference that intervals swallow, or that is below a twentieth, is none.
fn verdicts(counted: &Counted) -> Vec<Verdict> {
    let judged = |claim: &str, measure: usize, unit: &str, because: String| {
        let all: Vec<_> = counted.pairs(measure).collect();
        let is_more = |[made, fetched]: &[Estimate; 2]| {
            fetched.ends().0 > made.ends().1 && fetched.mean > 1.05 * made.mean
        };
        let ours: Vec<_> = all
            .iter()
            .map(|(network, [made, fetched])| {
                format!(
                    "{network} {} against {} {unit}",
                    super::written(*fetched),
                    super::written(*made)
                )
            })
            .collect();
        let is_more = all.iter().any(|(_, pair)| is_more(pair));
        Verdict {
            claim: claim.to_owned(),
            theirs: "insignificantly higher (no number)".to_owned(),
            ours: format!("{} (measured)", ours.join(", ")),
            finding: if is_more { Finding::Contradicted } else { Finding::Confirmed },
            because,
        }
    };
    let per_wake: Vec<_> = counted
        .pairs(PER_WAKE)
        .map(|(network, [made, fetched])| {
            format!("{network} {:.1} against {:.1}", fetched.mean, made.mean)
        })
        .collect();
    vec![
        judged(
            "latency of packets, live",
            PACKET,
            "ms",
            "One way across the link of a device, below IP: frames of keys and of readings cross the same link.".into(),
        ),
        judged(
            "packet loss below TCP, live",
            LOSS,
            "%",
            format!(
                "The share is the link's own, whoever sends: no queue overflows at these rates. But more packets are sent for a key over HTTPS, so that more are lost in a wake: {} packets in each (measured).",
                per_wake.join(", ")
            ),
        ),
        judged(
            "latency of a reading from the wake to the platform, live (median)",
            READING,
            "ms",
            "What differs is the messages that wait for each other: a key over HTTPS takes TCP, TLS and a question, DKG a message each way over TCP. What a sensor needs to compute is not in it.".into(),
        ),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str, way: &str, lost: u64) -> DeviceSeen {
        DeviceSeen {
            network: "namespaces".into(),
            way: way.into(),
            host: host.into(),
            wakes: 10,
            readings: 10,
            reading_mean_ms: 41.25,
            reading_median_ms: 40.0,
            frames: 400,
            lost,
            frame_ms: 2.5,
        }
    }

    fn scenario() -> LiveScenario {
        let toml = "networks = [\"namespaces\"]\ntopology = \"tree,2,6\"\nwake_s = 10\nlength_s = 60\n\
            legs_to_key = { dkg = 4 }\nlegs_to_platform = 8\nretransmission_s = 0.2";
        LiveScenario { link: "delay=2ms".into(), ..toml::from_str(toml).unwrap() }
    }

    fn csv(devices: &[DeviceSeen]) -> String {
        let provenance = crate::figures::sheet::Provenance {
            figure: "fig2c".into(),
            commit: "abc".into(),
            seed: None,
            configuration: "x = 1\n".into(),
        };
        DeviceSeen::sheet(devices, &scenario()).to_csv(&provenance)
    }

    #[test]
    fn a_sheet_of_devices_is_read_as_it_was_written() {
        let devices = [device("h1", "https", 3), device("h2", "dkg", 1)];
        assert_eq!(DeviceSeen::read(&csv(&devices), &scenario()).unwrap(), devices);
    }

    #[test]
    fn a_sheet_that_is_cut_off_or_another_is_refused() {
        let whole = csv(&[device("h1", "https", 3), device("h2", "dkg", 1)]);
        let cut = &whole[..whole.find("namespaces,dkg").unwrap()];
        for (text, told) in [
            (cut, "not whole"),
            ("way,side\n", "no sheet of devices"),
            (&whole.replace(",400,", ",many,"), "no number"),
            (&whole.replace(",400,", ","), "10 cells"),
            (&whole.replace("delay=2ms", "delay=3ms"), "another scenario"),
        ] {
            let said = format!("{:#}", DeviceSeen::read(text, &scenario()).unwrap_err());
            assert!(said.contains(told), "{said}");
        }
    }

    #[test]
    fn a_difference_counts_when_intervals_do_not_swallow_it() {
        let estimate = |mean: f64, margin: f64| Estimate { mean, margin: Some(margin), n: 9 };
        for (made, fetched, expected) in [
            (estimate(1.0, 0.1), estimate(1.5, 0.1), Finding::Contradicted),
            (estimate(1.0, 0.3), estimate(1.5, 0.3), Finding::Confirmed),
            (estimate(1.0, 0.0), estimate(1.04, 0.0), Finding::Confirmed),
            (estimate(1.0, 0.0), estimate(0.5, 0.0), Finding::Confirmed),
        ] {
            let pair = [vec![made; MEASURES.len()], vec![fetched; MEASURES.len()]];
            let told = verdicts(&Counted(vec![("mininet".into(), pair)]));
            assert!(told.iter().all(|verdict| verdict.finding == expected), "{told:?}");
        }
    }
}
