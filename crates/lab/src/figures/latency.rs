//! Figure 2c: latency and packet loss of a fleet over a day, packet by packet.

use anyhow::{Context as _, Result, ensure};
use claviger_device::Profile as Habits;
use claviger_distill::seed;
use claviger_energy::{Cost, Exchange, Profile, Way};
use claviger_frames::next_wake;
use claviger_units::{Span, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Deserialize;

use super::drawing::{Bar, Bars};
use super::sheet::{Sheet, maybe, number};
use super::{Finding, Laboratory, Made, Verdict, read};
use crate::fleet::eui_of;
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
}

/// One way between device and gateway, as `claviger lab net --link` has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hop {
    delay_ms: f64,
    jitter_ms: f64,
    packet_loss: f64,
    bit_rate: f64,
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

/// What a day of a fleet with one way has shown.
#[derive(Debug, Default)]
struct Day {
    packets: f64,
    lost: f64,
    bytes: f64,
    arrived_ms: f64,
    n_arrived: f64,
    readings_ms: Vec<f64>,
    renewals: f64,
}

/// A packet exchange: how many follow one another, how many there are, how large.
struct Legs {
    half_round_trips: u32,
    packets: u32,
    bytes: f64,
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
        Ok(())
    }

    /// Plays a day with one way: each device wakes in its slot, gets a key when that is due, then reports.
    fn play(&self, way: Way, profile: &Profile, seed: u64) -> Day {
        let exchange = way.exchange();
        let cost = Cost::of_exchange(&exchange, profile);
        let crypto_ms = 1e3 * (cost.public_key_s + cost.symmetric_s);
        let wake = Span::from_secs(self.wake_s);
        let renew_period = Span::from_secs(self.renew_s);
        let habits = Habits { renew_period, ..Habits::waking_every(wake) };
        let mut rng = Xoshiro256PlusPlus::from_seed(seed::derive(seed, &format!("packets {way}")));
        let mut day = Day::default();
        for device in 0..u32::from(self.devices) {
            let mut now = next_wake(Timestamp::START, eui_of(device), wake);
            let mut keyed = None;
            while now.since(Timestamp::START) < DAY {
                let mut waited_ms = 0.0;
                if keyed.is_none_or(|keyed| habits.is_due(now, keyed)) {
                    waited_ms += crypto_ms + self.carry(&Legs::of(&exchange), &mut day, &mut rng);
                    keyed = Some(now);
                    day.renewals += 1.0;
                }
                waited_ms += self.carry(&Legs::of_reading(&self.protocol), &mut day, &mut rng);
                day.readings_ms.push(waited_ms + self.backhaul.delay_ms);
                now = now + wake;
            }
        }
        day
    }

    /// Carries an exchange and returns how long it took: what follows a packet waits until that has arrived.
    fn carry(&self, legs: &Legs, day: &mut Day, rng: &mut Xoshiro256PlusPlus) -> f64 {
        let size = legs.bytes / f64::from(legs.packets.max(1));
        let mut waited_ms = 0.0;
        for packet in 0..legs.packets {
            let mut took_ms = 0.0;
            let mut patience_ms = 1e3 * self.protocol.retransmission_s;
            loop {
                day.packets += 1.0;
                day.bytes += size;
                let Hop { delay_ms, jitter_ms, packet_loss, bit_rate } = self.hop;
                if packet_loss > 0.0 && rng.random_bool(packet_loss) {
                    day.lost += 1.0;
                    took_ms += patience_ms;
                    // RFC 6298: twice as long each time.
                    patience_ms *= 2.0;
                    continue;
                }
                let passed_ms =
                    delay_ms + rng.random_range(-1.0..=1.0) * jitter_ms + 8e3 * size / bit_rate;
                day.arrived_ms += passed_ms;
                day.n_arrived += 1.0;
                took_ms += passed_ms;
                break;
            }
            // Of several packets the later ones run beside what follows.
            if packet < legs.half_round_trips {
                waited_ms += took_ms;
            }
        }
        waited_ms
    }
}

impl Legs {
    fn of(exchange: &Exchange) -> Self {
        Self {
            half_round_trips: exchange.half_round_trips,
            packets: exchange.segments,
            bytes: f64::from(exchange.ip_bytes()),
        }
    }

    fn of_reading(protocol: &Protocol) -> Self {
        Self {
            half_round_trips: protocol.reading_half_round_trips,
            packets: protocol.reading_packets,
            bytes: f64::from(protocol.reading_bytes),
        }
    }
}

impl Day {
    /// Returns what is told of it, in the order of [`MEASURES`].
    fn measures(mut self, n_devices: f64) -> [f64; 6] {
        self.readings_ms.sort_by(f64::total_cmp);
        let sum: f64 = self.readings_ms.iter().sum();
        let n_readings = real(self.readings_ms.len());
        [
            self.arrived_ms / self.n_arrived,
            100.0 * self.lost / self.packets,
            sum / n_readings,
            quantile(&self.readings_ms, 0.5),
            quantile(&self.readings_ms, 0.99),
            self.bytes / n_devices,
        ]
    }
}

/// Makes figure 2c, as far as virtual time goes.
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
        let days = ways.iter().map(|(_, way)| spec.play(*way, &profile, seed));
        Ok(days.map(|day| day.measures(f64::from(spec.devices))).collect::<Vec<_>>())
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
    let verdicts = verdicts(&spec, &ways, &estimate)?;
    let remarks = spec.remarks();
    Ok(Made {
        title: spec.title.clone(),
        remarks,
        pictures: vec![("fig2c".into(), picture)],
        sheets: vec![sheet],
        verdicts,
    })
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
            claim: "latency of packets is insignificantly higher with QKD".into(),
            theirs: "insignificantly higher (no number)".into(),
            ours: format!("{} against {} ms", written(estimate(fetched, 0)?), written(estimate(made, 0)?)),
            finding: Finding::Assumed,
            because: "In virtual time the same hop carries both, so it could not be otherwise, but for longer packets. Live it is not measured yet.".into(),
        },
        Verdict {
            claim: "packet loss is insignificantly higher with QKD".into(),
            theirs: "insignificantly higher (no number)".into(),
            ours: format!("{} against {} %", written(estimate(fetched, 1)?), written(estimate(made, 1)?)),
            finding: Finding::Assumed,
            because: "Each packet is lost with the same chance, whatever it carries; a hop whose queue runs full would tell the ways apart. Live it is not measured yet.".into(),
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
            "Everything here is in virtual time. The emulated network (`claviger lab net`, Mininet) is not part of this figure yet.".into(),
        ]
    }
}

fn written(estimate: Estimate) -> String {
    match estimate.margin {
        Some(margin) => format!("{:.3} ± {margin:.3}", estimate.mean),
        None => format!("{:.3}", estimate.mean),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a length lies within it"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (share * real(sorted.len().saturating_sub(1))).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
const fn real(n: usize) -> f64 {
    n as f64
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
        let day = spec.play(Way::Psk12, &profile, 1);
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
        let day = spec(0.05)?.play(Way::Push, &Profile::named("fipy")?, 1);
        let share = day.lost / day.packets;
        assert!((share - 0.05).abs() < 0.003, "{share}");
        Ok(())
    }
}
