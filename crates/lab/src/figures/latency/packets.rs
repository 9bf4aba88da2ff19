//! A fleet's day, packet by packet: what each takes, and which are lost.

use claviger_device::Profile as Habits;
use claviger_distill::seed;
use claviger_energy::Exchange;
use claviger_frames::next_wake;
use claviger_units::{Span, Timestamp};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::Deserialize;

use crate::fleet::eui_of;

/// One way between a host and its switch, as `claviger lab net --link` has it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hop {
    pub(super) delay_ms: f64,
    pub(super) jitter_ms: f64,
    pub(super) packet_loss: f64,
    pub(super) bit_rate: f64,
}

/// A packet exchange: how many follow one another, how many there are, how large.
#[derive(Clone, Copy, Debug)]
pub(super) struct Legs {
    pub(super) half_round_trips: u32,
    pub(super) packets: u32,
    pub(super) bytes: f64,
}

/// Devices with one way to a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fleet {
    pub(super) devices: u32,
    pub(super) wake: Span,
    pub(super) renew: Span,
    pub(super) hop: Hop,
    /// How long a lost packet is waited for, at first.
    pub(super) retransmission_s: f64,
    /// What a key takes, and how long the device computes for it.
    pub(super) key: Legs,
    pub(super) key_ms: f64,
    /// What a reading takes as far as it crosses hops, and what there is beyond.
    pub(super) reading: Legs,
    pub(super) beyond_ms: f64,
}

/// What some time of a fleet has shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) packets: f64,
    pub(super) lost: f64,
    pub(super) bytes: f64,
    arrived_ms: f64,
    n_arrived: f64,
    pub(super) readings_ms: Vec<f64>,
    pub(super) renewals: f64,
}

impl Fleet {
    /// Plays it: each device wakes in its slot, gets a key when that is due, then reports.
    pub(super) fn play(&self, name: &str, span: Span, seed: u64) -> Seen {
        let habits = Habits { renew_period: self.renew, ..Habits::waking_every(self.wake) };
        let mut rng = Xoshiro256PlusPlus::from_seed(seed::derive(seed, &format!("packets {name}")));
        let mut seen = Seen::default();
        for device in 0..self.devices {
            let mut now = next_wake(Timestamp::START, eui_of(device), self.wake);
            let mut keyed = None;
            while now.since(Timestamp::START) < span {
                let mut waited_ms = 0.0;
                if keyed.is_none_or(|keyed| habits.is_due(now, keyed)) {
                    waited_ms += self.key_ms + self.carry(&self.key, &mut seen, &mut rng);
                    keyed = Some(now);
                    seen.renewals += 1.0;
                }
                waited_ms += self.carry(&self.reading, &mut seen, &mut rng);
                seen.readings_ms.push(waited_ms + self.beyond_ms);
                now = now + self.wake;
            }
        }
        seen
    }

    /// Carries an exchange and returns how long it took: what follows a packet waits until that has arrived.
    fn carry(&self, legs: &Legs, seen: &mut Seen, rng: &mut Xoshiro256PlusPlus) -> f64 {
        let size = legs.bytes / f64::from(legs.packets.max(1));
        let mut waited_ms = 0.0;
        for packet in 0..legs.packets {
            let mut took_ms = 0.0;
            let mut patience_ms = 1e3 * self.retransmission_s;
            loop {
                seen.packets += 1.0;
                seen.bytes += size;
                let Hop { delay_ms, jitter_ms, packet_loss, bit_rate } = self.hop;
                if packet_loss > 0.0 && rng.random_bool(packet_loss) {
                    seen.lost += 1.0;
                    took_ms += patience_ms;
                    // RFC 6298: twice as long each time.
                    patience_ms *= 2.0;
                    continue;
                }
                let passed_ms =
                    delay_ms + rng.random_range(-1.0..=1.0) * jitter_ms + 8e3 * size / bit_rate;
                seen.arrived_ms += passed_ms;
                seen.n_arrived += 1.0;
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
    pub(super) fn of(exchange: &Exchange) -> Self {
        Self {
            half_round_trips: exchange.half_round_trips,
            packets: exchange.segments,
            bytes: f64::from(exchange.ip_bytes()),
        }
    }

    /// The same, where so many follow one another.
    pub(super) fn in_turns(self, half_round_trips: u32) -> Self {
        Self { half_round_trips, packets: self.packets.max(half_round_trips), ..self }
    }
}

impl Seen {
    /// Returns how long a packet takes, in milliseconds.
    pub(super) fn packet_ms(&self) -> f64 {
        self.arrived_ms / self.n_arrived
    }

    /// Returns how many packets are lost, in per cent.
    pub(super) fn loss_pct(&self) -> f64 {
        100.0 * self.lost / self.packets
    }
}

/// Returns the mean and the quantiles of numbers that are not in order.
pub(super) fn spread<const N: usize>(numbers: &mut [f64], shares: [f64; N]) -> (f64, [f64; N]) {
    numbers.sort_by(f64::total_cmp);
    let mean = numbers.iter().sum::<f64>() / real(numbers.len());
    (mean, shares.map(|share| quantile(numbers, share)))
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
pub(super) const fn real(n: usize) -> f64 {
    n as f64
}
