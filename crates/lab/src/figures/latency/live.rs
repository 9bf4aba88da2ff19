//! The live part of figure 2c: what was counted of a fleet on emulated networks, beside what virtual time says
//! of the same fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use claviger_energy::Way;
use claviger_units::Span;
use serde::Deserialize;

use super::devices::{DeviceSeen, FleetSeen};
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
    /// The networks.
    pub networks: Vec<Network>,
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

/// What an emulated network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Network namespaces and Open vSwitch, put together by this program.
    Namespaces,
    /// The same, put together by Mininet.
    Mininet,
}

impl Network {
    /// Returns what it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Mininet => "mininet",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a live part has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measured {
    /// A sheet of a [`FleetSeen`], as CSV.
    Sheet(String),
    /// Nothing, and why.
    Nothing(String),
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
const MEAN: usize = 3;
const MEDIAN: usize = 4;

impl DeviceSeen {
    fn measures(&self) -> [f64; 5] {
        let frames = real(self.frames);
        [
            self.frame_ms,
            100.0 * real(self.n_lost()) / frames,
            frames / real(self.wakes),
            self.reading_mean_ms,
            self.reading_median_ms,
        ]
    }
}

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

/// What the live part adds to the figure.
pub(super) struct Part {
    pub(super) remarks: Vec<String>,
    pub(super) pictures: Vec<(String, String)>,
    pub(super) sheets: Vec<Sheet>,
    pub(super) verdicts: Vec<Verdict>,
}

impl LiveScenario {
    /// How the line of a scenario begins.
    pub(super) const COUNTED: &str = "counted on";

    /// Returns in a line what the numbers depend on.
    pub(super) fn line(&self) -> String {
        let Self { topology, link, wake_s, length_s, .. } = self;
        let networks = self.names();
        format!(
            "{} {networks}: {topology}, {link}, a wake each {wake_s} s, for {length_s} s",
            Self::COUNTED
        )
    }

    fn names(&self) -> String {
        self.networks.iter().map(|network| network.name()).collect::<Vec<_>>().join(" and ")
    }

    /// Looks for what cannot be, before minutes go by; `compared` are the ways of the figure.
    pub(super) fn check(&self, compared: &[String]) -> Result<()> {
        ensure!(!self.networks.is_empty(), "live.networks: name one, or delete the table [live]");
        let distinct: BTreeSet<_> = self.networks.iter().collect();
        ensure!(distinct.len() == self.networks.len(), "live.networks names one of them twice");
        let mut ways = compared.to_vec();
        ways.sort();
        ensure!(
            self.legs_to_key.keys().eq(ways.iter()) && ways == ["dkg", "https"],
            "live.legs_to_key and ways.compared must be of dkg and https, as no other pair is played live: or delete the table [live]"
        );
        ensure!(
            self.legs_to_key.values().all(|legs| (1..=100).contains(legs))
                && (1..=100).contains(&self.legs_to_platform),
            "live.legs_to_key and live.legs_to_platform: 1 to 100"
        );
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
        seen: &FleetSeen,
        (hop, reading): (Hop, Legs),
        [made, fetched]: [Way; 2],
        n_seeds: usize,
        laboratory: &Laboratory<'_>,
    ) -> Result<Part> {
        let devices = &seen.devices;
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
        let none = |network: &Network| (network.to_string(), [const { Vec::new() }; 2]);
        let mut counted = Counted(self.networks.iter().map(none).collect());
        let mut above = Vec::new();
        for (place, way) in [made, fetched].into_iter().enumerate() {
            let n_devices = devices.iter().filter(|one| one.way == way.name()).count();
            let one = |seed| self.play(way, n_devices / self.networks.len(), hop, reading, seed);
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
                    if let Some(told) = told.filter(|_| n == MEDIAN) {
                        let more = 100.0 * (live.mean / told.mean - 1.0);
                        above.push(format!("{network} {way} {more:+.0} %"));
                    }
                    estimates[place].push(live);
                }
            }
        }
        Ok(Part {
            remarks: self.remarks(seen, &above),
            pictures: vec![("fig2c-live".into(), self.picture(&counted, [made, fetched]))],
            sheets: vec![seen.sheet(self), sheet],
            verdicts: verdicts(&counted, devices),
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
                ("reading: wake to platform, median (ms)", bars(MEDIAN)),
            ],
            note: &format!(
                "95 % intervals over devices; a reading and a key every {} s, {} s on each network",
                self.wake_s, self.length_s
            ),
        }
        .to_svg()
    }

    fn remarks(&self, seen: &FleetSeen, above: &[String]) -> Vec<String> {
        let wakes: u64 = seen.devices.iter().map(|one| one.wakes).sum();
        let frames: u64 = seen.devices.iter().map(|one| one.frames).sum();
        vec![
            format!(
                "Live: gateway, platform and devices as hosts of {} on {}, with {} between each host but the gateway and its switch; every other device makes its keys itself, at the same time on the same network. {wakes} wakes in {} s each, {frames} frames on the devices' links. Counted by {}.",
                self.topology,
                self.names(),
                self.link,
                self.length_s,
                seen.by
            ),
            "Live frames are counted at the cards of a device's link, below IP, both ways, with all that TCP adds, and timed from there to where they come out. A device that makes its keys seals its readings under a key from the link, as the others do: only how it comes to a key differs. Cryptography takes as long as it does on the machine that runs it all, which is next to nothing beside a sensor's.".into(),
            format!(
                "The column `virtual` of fig2c-live.csv is of the same devices, links and messages in virtual time, {} h, without time for cryptography; it counts no acknowledgements of TCP, so that it has no packets per wake. Beside it the median of a reading is, live: {}. What this machine needs for cryptography, switching and waking is not in virtual time, and was not measured by itself.",
                VIRTUAL.as_secs_f64() / 3600.0,
                above.join(", ")
            ),
        ]
    }
}

/// What virtual time plays for the comparison.
const VIRTUAL: Span = Span::from_secs(3600);

/// Judges what was counted.
fn verdicts(counted: &Counted, devices: &[DeviceSeen]) -> Vec<Verdict> {
    let told = |claim: &str, measure: usize, unit: &str| {
        let ours: Vec<_> = counted
            .pairs(measure)
            .map(|(network, [made, fetched])| {
                let [made, fetched] = [made, fetched].map(super::written);
                format!("{network} {fetched} against {made} {unit}")
            })
            .collect();
        Verdict {
            claim: claim.to_owned(),
            theirs: "insignificantly higher (no number)".to_owned(),
            ours: format!("{} (measured)", ours.join(", ")),
            finding: judge(counted.pairs(measure).map(|(_, pair)| pair)),
            because: String::new(),
        }
    };
    let n_crowded: u64 = devices.iter().map(|one| one.crowded).sum();
    let per_wake: Vec<_> = counted
        .pairs(PER_WAKE)
        .map(|(network, [made, fetched])| {
            format!("{network} {:.1} against {:.1}", fetched.mean, made.mean)
        })
        .collect();
    let loss = told("packet loss below TCP, live", LOSS, "%");
    let room = match n_crowded {
        0 => "No frame found a queue full, so that all that was lost was lost by the emulated link's chance, which does not ask who sends: the share could not be otherwise.".to_owned(),
        n => format!("{n} frames found a queue full, the others were lost by the emulated link's chance, which does not ask who sends."),
    };
    let reading = "What differs is the messages that wait for each other: a key over HTTPS takes TCP, TLS and a question, DKG a message each way over TCP. What a sensor needs to compute is not in it.";
    vec![
        Verdict {
            because: "One way across the link of a device, below IP: keys and readings cross the same link, and differ in the length of frames and in what waits in its queue.".into(),
            ..told("latency of packets, live", PACKET, "ms")
        },
        Verdict {
            finding: if n_crowded == 0 { Finding::Assumed } else { loss.finding },
            because: format!(
                "{room} But more packets are sent for a key over HTTPS, so that more are lost in a wake: {} packets in each (measured).",
                per_wake.join(", ")
            ),
            ..loss
        },
        Verdict {
            because: reading.into(),
            ..told("latency of a reading from the wake to the platform, live, median", MEDIAN, "ms")
        },
        Verdict {
            because: format!("{reading} The mean hangs on the few readings that wait for a lost packet."),
            ..told("latency of a reading from the wake to the platform, live, mean", MEAN, "ms")
        },
    ]
}

/// Tells whether what is fetched is higher than what is made by a twentieth or more, on any of the networks: the
/// whole interval of the difference must say so, or the whole of it must not.
fn judge(pairs: impl Iterator<Item = [Estimate; 2]>) -> Finding {
    let mut finding = Finding::Confirmed;
    for [made, fetched] in pairs {
        let Some((low, high)) = fetched.above(&made).map(|above| above.ends()) else {
            finding = Finding::Undecided;
            continue;
        };
        let allowed = made.mean / 20.0;
        if low > allowed {
            return Finding::Contradicted;
        }
        if high > allowed {
            finding = Finding::Undecided;
        }
    }
    finding
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64, margin: f64) -> Estimate {
        Estimate { mean, margin: Some(margin), n: 9 }
    }

    #[test]
    fn a_difference_counts_when_its_whole_interval_says_so() {
        let alone = Estimate { margin: None, ..estimate(1.5, 0.0) };
        for (made, fetched, expected) in [
            (estimate(1.0, 0.1), estimate(1.5, 0.1), Finding::Contradicted),
            (estimate(1.0, 0.4), estimate(1.5, 0.4), Finding::Undecided),
            (estimate(1.0, 0.3), estimate(1.0, 0.3), Finding::Undecided),
            (estimate(1.0, 0.0), estimate(1.04, 0.0), Finding::Confirmed),
            (estimate(1.0, 0.01), estimate(1.02, 0.01), Finding::Confirmed),
            (estimate(1.0, 0.0), estimate(0.5, 0.0), Finding::Confirmed),
            (estimate(1.0, 0.1), alone, Finding::Undecided),
        ] {
            assert_eq!(judge([[made, fetched]].into_iter()), expected, "{made:?} {fetched:?}");
        }
        let (same, more) = ([estimate(1.0, 0.0); 2], [estimate(1.0, 0.0), estimate(2.0, 0.0)]);
        assert_eq!(judge([same, more].into_iter()), Finding::Contradicted);
    }

    /// Each verdict is of its own measure: only the median differs here, and then only the mean.
    #[test]
    fn verdicts_follow_from_their_own_numbers() {
        let made = vec![estimate(1.0, 0.0); MEASURES.len()];
        for (measure, place) in [(PACKET, 0), (MEDIAN, 2), (MEAN, 3)] {
            let mut fetched = made.clone();
            fetched[measure] = estimate(2.0, 0.0);
            let told = verdicts(&Counted(vec![("mininet".into(), [made.clone(), fetched])]), &[]);
            for (n, verdict) in told.iter().enumerate() {
                let expected = match n {
                    1 => Finding::Assumed,
                    n if n == place => Finding::Contradicted,
                    _ => Finding::Confirmed,
                };
                assert_eq!(verdict.finding, expected, "{measure} {n}");
            }
        }
    }
}
