//! Figure 2c: latency and packet loss of a fleet over a day in virtual time, packet by packet; and live.

mod devices;
mod live;
mod packets;

use anyhow::{Context as _, Result, ensure};
use claviger_energy::{Cost, Profile, Way};
use claviger_units::Span;
use serde::Deserialize;

pub use self::devices::{DeviceSeen, FleetSeen};
pub use self::live::{LiveScenario, Measured, Network};

use self::packets::{Fleet, Hop, Legs, real, spread};
use super::drawing::{Bar, Bars};
use super::sheet::{Sheet, maybe, number};
use super::{Finding, Laboratory, Made, Verdict, read};
use crate::interval::Estimate;
use crate::repeat::repeat;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    title: String,
    devices: u16,
    wake_s: u64,
    renew_s: u64,
    hop: Hop,
    backhaul: Backhaul,
    protocol: Protocol,
    hardware: Hardware,
    repetitions: Repetitions,
    ways: Ways,
    live: Option<LiveScenario>,
}

/// From the gateway to the platform.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backhaul {
    delay_ms: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Protocol {
    retransmission_s: f64,
    reading_half_round_trips: u32,
    reading_packets: u32,
    reading_bytes: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hardware {
    profile: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repetitions {
    seeds: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ways {
    generated: Vec<String>,
    delivered: Vec<String>,
    compared: [String; 2],
}

const DAY: Span = Span::from_secs(86_400);
/// What is told of a day, by the names of its columns.
const MEASURES: [&str; 6] = [
    "packet_latency_ms",
    "packet_loss_pct",
    "reading_latency_mean_ms",
    "reading_latency_median_ms",
    "reading_latency_p99_ms",
    "bytes_per_device",
];

impl Spec {
    fn check(&self) -> Result<()> {
        let Hop { delay_ms, jitter_ms, packet_loss, bit_rate } = self.hop;
        ensure!(self.devices > 0, "a fleet needs a device: devices = 1 or more");
        ensure!(self.repetitions.seeds > 0, "no seed gives no figure: seeds = 1 or more");
        ensure!(
            self.wake_s > 0 && self.renew_s >= self.wake_s,
            "renew_s must be wake_s or more, and that above 0"
        );
        ensure!((0.0..=0.4).contains(&packet_loss), "packet_loss = {packet_loss}: 0 to 0.4");
        let Protocol { retransmission_s, reading_packets, .. } = self.protocol;
        ensure!(
            (0.0..=60.0).contains(&retransmission_s),
            "retransmission_s = {retransmission_s}: 0 to 60"
        );
        ensure!(reading_packets <= 1000, "reading_packets = {reading_packets}: 0 to 1000");
        ensure!(
            jitter_ms >= 0.0 && jitter_ms <= delay_ms,
            "jitter_ms must lie between 0 and delay_ms"
        );
        ensure!(bit_rate > 0.0, "bit_rate must be above 0");
        self.live.iter().try_for_each(|live| live.check(&self.ways.compared))
    }

    /// Returns the fleet with one way to a key.
    fn fleet(&self, way: Way, profile: &Profile) -> Fleet {
        let exchange = way.exchange();
        let cost = Cost::of_exchange(&exchange, profile);
        Fleet {
            devices: self.devices.into(),
            wake: Span::from_secs(self.wake_s),
            renew: Span::from_secs(self.renew_s),
            hop: self.hop,
            retransmission_s: self.protocol.retransmission_s,
            key: Legs::of(&exchange),
            key_ms: 1e3 * (cost.public_key_s + cost.symmetric_s),
            reading: self.reading(),
            beyond_ms: self.backhaul.delay_ms,
        }
    }

    fn reading(&self) -> Legs {
        Legs {
            half_round_trips: self.protocol.reading_half_round_trips,
            packets: self.protocol.reading_packets,
            bytes: f64::from(self.protocol.reading_bytes),
        }
    }

    /// Plays a day; returns what is told of it, in the order of [`MEASURES`].
    fn measures(&self, way: Way, profile: &Profile, seed: u64) -> [f64; 6] {
        let mut seen = self.fleet(way, profile).play(way.name(), DAY, seed);
        let (mean, [median, most]) = spread(&mut seen.readings_ms, [0.5, 0.99]);
        let bytes = seen.bytes / f64::from(self.devices);
        [seen.packet_ms(), seen.loss_pct(), mean, median, most, bytes]
    }

    /// Returns the scenario of the live part, on the same links.
    fn live(&self) -> Option<LiveScenario> {
        let Hop { delay_ms, jitter_ms, packet_loss, bit_rate } = self.hop;
        let (loss_pct, rate_k) = (number(100.0 * packet_loss), bit_rate / 1e3);
        let link =
            format!("delay={delay_ms}ms,jitter={jitter_ms}ms,loss={loss_pct}%,rate={rate_k}k");
        Some(LiveScenario { link, ..self.live.clone()? })
    }
}

/// Makes figure 2c.
pub(super) fn make(configuration: &str, laboratory: &Laboratory<'_>) -> Result<Made> {
    let spec: Spec = read(configuration, laboratory.extent)?;
    spec.check()?;
    let profile = Profile::named(&spec.hardware.profile)?;
    let sides = [("device_generated", &spec.ways.generated), ("delivered", &spec.ways.delivered)];
    let mut ways = Vec::new();
    for (side, names) in sides {
        for name in names {
            ways.push((side, name.parse::<Way>()?));
        }
    }
    let n_seeds = spec.repetitions.seeds;
    let done = |n| (laboratory.progress)("days of packets", real(n) / real(n_seeds));
    let one = |seed| {
        Ok(ways.iter().map(|(_, way)| spec.measures(*way, &profile, seed)).collect::<Vec<_>>())
    };
    let repetitions = repeat(laboratory.seed, n_seeds, laboratory.threads, one, done)?;
    let estimate = |way: usize, measure: usize| {
        let values: Vec<_> = repetitions.iter().map(|ways| ways[way][measure]).collect();
        Estimate::of(&values).context("there is no repetition")
    };
    let mut sheet =
        Sheet::new("fig2c", &["way", "side", "measure", "time", "value", "ci95", "repetitions"]);
    for (place, (side, way)) in ways.iter().enumerate() {
        for (n, measure) in MEASURES.iter().enumerate() {
            let Estimate { mean, margin, n } = estimate(place, n)?;
            sheet.push(vec![
                way.name().to_owned(),
                (*side).to_owned(),
                (*measure).to_owned(),
                "virtual".to_owned(),
                number(mean),
                maybe(margin),
                n.to_string(),
            ]);
        }
    }
    let bars = |measure: usize| -> Result<Vec<Bar>> {
        let bars = ways.iter().enumerate().map(|(place, (side, way))| {
            let group = usize::from(*side == "delivered");
            Ok(Bar { name: way.name().to_owned(), value: estimate(place, measure)?, group })
        });
        bars.collect()
    };
    let picture = Bars {
        title: &format!("{} (virtual time)", spec.title),
        groups: ["keys made by the device", "keys delivered"],
        panels: vec![
            ("packets: one way (ms)", bars(0)?),
            ("packets lost below TCP (%)", bars(1)?),
            ("reading: wake to platform, mean (ms)", bars(2)?),
        ],
        note: &format!(
            "95 % intervals over repetitions; a reading every {} s, a key every {} s",
            spec.wake_s, spec.renew_s
        ),
    }
    .to_svg();
    let mut made = Made {
        title: spec.title.clone(),
        remarks: spec.remarks(),
        pictures: vec![("fig2c".into(), picture)],
        sheets: vec![sheet],
        verdicts: verdicts(&spec, &ways, &estimate)?,
    };
    spec.add_live(&mut made, laboratory)?;
    Ok(made)
}

/// Judges the pair of ways that the configuration compares.
fn verdicts(
    spec: &Spec,
    ways: &[(&str, Way)],
    estimate: &dyn Fn(usize, usize) -> Result<Estimate>,
) -> Result<Vec<Verdict>> {
    let place = |name: &str| -> Result<usize> {
        let found = ways.iter().position(|(_, way)| way.name() == name);
        found.with_context(|| format!("`{name}` is compared, and not among the ways"))
    };
    let [made, fetched] = &spec.ways.compared;
    let (made, fetched) = (place(made)?, place(fetched)?);
    let push = place("push")?;
    let reading = estimate(fetched, 2)?.mean / estimate(made, 2)?.mean;
    Ok(vec![
        Verdict {
            claim: "latency of a reading, from the wake to the platform, is insignificantly higher with QKD".into(),
            theirs: "insignificantly higher (no number)".into(),
            ours: format!(
                "{} {}, {} {}, push {} ms",
                ways[made].1,
                written(estimate(made, 2)?),
                ways[fetched].1,
                written(estimate(fetched, 2)?),
                written(estimate(push, 2)?)
            ),
            finding: if reading < 1.05 { Finding::Confirmed } else { Finding::Contradicted },
            because: "A reading waits for what the device computes in the same wake: over HTTPS with a certificate more than for making a key, pushed hardly anything. The paper does not say what it measured.".into(),
        },
        Verdict {
            claim: "latency of packets is insignificantly higher with QKD, virtual time".into(),
            theirs: "insignificantly higher (no number)".into(),
            ours: format!("{} against {} ms", written(estimate(fetched, 0)?), written(estimate(made, 0)?)),
            finding: Finding::Assumed,
            because: "In virtual time the same hop carries both, so it could not be otherwise, but for longer packets.".into(),
        },
        Verdict {
            claim: "packet loss is insignificantly higher with QKD, virtual time".into(),
            theirs: "insignificantly higher (no number)".into(),
            ours: format!("{} against {} %", written(estimate(fetched, 1)?), written(estimate(made, 1)?)),
            finding: Finding::Assumed,
            because: "Each packet is lost with the same chance, whatever it carries; a hop whose queue runs full would tell the ways apart.".into(),
        },
    ])
}

impl Spec {
    fn remarks(&self) -> Vec<String> {
        let Hop { delay_ms, jitter_ms, packet_loss, .. } = self.hop;
        vec![
            format!(
                "{} devices, a reading every {} s, a key every {} s; a packet takes {delay_ms} ± {jitter_ms} ms and is lost with a chance of {} %.",
                self.devices, self.wake_s, self.renew_s, number(100.0 * packet_loss)
            ),
            "Loss is counted below TCP: every packet that was sent and did not arrive, whether or not it was sent again.".into(),
            "A reading's time begins when the device has joined its network, and ends at the platform; the time of cryptography is modelled.".into(),
        ]
    }

    /// Adds what a live fleet has shown, or that there was none, and why.
    fn add_live(&self, made: &mut Made, laboratory: &Laboratory<'_>) -> Result<()> {
        let Some(scenario) = self.live() else {
            let remark = "Everything here is in virtual time; the configuration has no live part.";
            made.remarks.push(remark.into());
            return Ok(());
        };
        let text = match (laboratory.live)(&scenario)? {
            Measured::Sheet(text) => text,
            Measured::Nothing(why) => {
                let remark = "Everything here is in virtual time; no live fleet was measured:";
                made.remarks.push(format!("{remark} {why}."));
                return Ok(());
            }
        };
        let [a, b] = &self.ways.compared;
        let part = scenario.make(
            &FleetSeen::read(&text, &scenario)?,
            (self.hop, self.reading()),
            [a.parse()?, b.parse()?],
            self.repetitions.seeds,
            laboratory,
        )?;
        made.remarks.extend(part.remarks);
        made.pictures.extend(part.pictures);
        made.sheets.extend(part.sheets);
        made.verdicts.extend(part.verdicts);
        Ok(())
    }
}

fn written(estimate: Estimate) -> String {
    match estimate.margin {
        Some(margin) => format!("{:.3} ± {margin:.3}", estimate.mean),
        None => format!("{:.3}", estimate.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{Extent, Figure};

    fn spec(loss: f64) -> Result<Spec> {
        let mut spec: Spec = read(Figure::Fig2c.configuration(), Extent::Quick)?;
        spec.hop.packet_loss = loss;
        Ok(spec)
    }

    /// 20 devices, 288 readings of 12 packets each and 48 keys; without chance all can be reckoned.
    #[test]
    fn without_losses_and_jitter_a_day_is_what_can_be_reckoned() -> Result<()> {
        let mut spec = spec(0.0)?;
        spec.hop.jitter_ms = 0.0;
        let profile = Profile::named("fipy")?;
        let exchange = Way::Psk12.exchange();
        let day = spec.fleet(Way::Psk12, &profile).play("x", DAY, 1);
        assert_eq!((day.readings_ms.len(), day.renewals, day.lost), (20 * 288, 20.0 * 48.0, 0.0));
        let packets = 20.0 * (288.0 * 12.0 + 48.0 * f64::from(exchange.segments));
        assert!((day.packets - packets).abs() < 1e-6);
        let leg = |bytes: f64| 2.0 + 8e3 * bytes / 20e6;
        let reading = 9.0 * leg(75.0) + 1.123;
        let key = 8.0 * leg(f64::from(exchange.ip_bytes()) / 12.0) + 1.0;
        let mean = day.readings_ms.iter().sum::<f64>() / 5760.0;
        assert!((mean - reading - key / 6.0).abs() < 1e-6, "{mean}");
        Ok(())
    }

    #[test]
    fn losses_are_as_many_as_they_should_be() -> Result<()> {
        let fleet = spec(0.05)?.fleet(Way::Push, &Profile::named("fipy")?);
        let day = fleet.play("x", DAY, 1);
        let share = day.lost / day.packets;
        assert!((share - 0.05).abs() < 0.003, "{share}");
        Ok(())
    }
}
