//! A day of one device with a radio that loses packets: a model, priced by [`claviger_energy`].

use claviger_energy::{Cost, Exchange, Profile, RadioInCrypto};
use rand::{Rng, RngExt};

/// How bad the last hop is, and what a lost packet costs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Radio {
    /// The share of packets that never arrive, each by itself, 0 to 1.
    pub packet_loss: f64,
    /// How long the sender listens in vain before it sends again, in seconds; twice as long each time after
    /// (RFC 6298 begins with 1).
    pub retransmission_s: f64,
    /// By how much half a round trip may be longer or shorter, evenly, as a share of it, 0 to 1.
    pub jitter: f64,
    /// Packets of a wake with a reading and no key.
    pub reading_packets: u32,
    /// Their bytes.
    pub reading_bytes: u32,
    /// Half round trips that a wake with a reading waits for; the profile's time holds for its own round trip.
    pub reading_half_round_trips: u32,
}

impl Radio {
    /// Checks that such a radio can be.
    ///
    /// # Errors
    ///
    /// Where it cannot, with what can.
    pub fn check(&self) -> anyhow::Result<()> {
        let Self { packet_loss, jitter, retransmission_s, reading_packets, .. } = *self;
        anyhow::ensure!(
            (0.0..=0.4).contains(&packet_loss),
            "packet_loss = {packet_loss}: 0 to 0.4"
        );
        anyhow::ensure!((0.0..=1.0).contains(&jitter), "jitter = {jitter}: 0 to 1");
        anyhow::ensure!(
            (0.0..=60.0).contains(&retransmission_s),
            "retransmission_s = {retransmission_s}: 0 to 60"
        );
        anyhow::ensure!(reading_packets <= 1000, "reading_packets = {reading_packets}: 0 to 1000");
        Ok(())
    }
}

/// What a device does in a day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Wakes with a reading.
    pub readings: f64,
    /// Exchanges for a key, those in vain included.
    pub keys: f64,
}

/// A day in seconds and millicoulombs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceDay {
    /// Not in deep sleep.
    pub awake_s: f64,
    /// Of that, cryptography.
    pub crypto_s: f64,
    /// Charge with the radio off during cryptography, deep sleep included.
    pub charge_off_mc: f64,
    /// Charge with the radio on, deep sleep included.
    pub charge_on_mc: f64,
    /// Packets sent, either way, repeats included.
    pub packets: f64,
    /// Packets that were lost.
    pub lost: f64,
}

const DAY_S: f64 = 86_400.0;

impl DeviceDay {
    /// Returns what is to be expected of a day.
    #[must_use]
    pub fn expected(work: Work, exchange: &Exchange, profile: &Profile, radio: &Radio) -> Self {
        let mut day = Self::asleep(profile);
        day.add_readings(work.readings, profile);
        day.add_keys(work.keys, exchange, profile);
        let share = radio.packet_loss;
        for (times, packets) in kinds(work, exchange, radio) {
            let n = times * packets.n;
            let lost = Lost {
                n: n * share / (1.0 - share),
                // Once, then twice as long, and so on.
                waits: n * share / (1.0 - 2.0 * share),
            };
            day.add_losses(&lost, n, &packets, profile, radio);
        }
        day
    }

    /// Draws a day: which packets are lost, how long each way takes; a part of a key or reading is one with
    /// that chance.
    pub fn drawn(
        work: Work,
        exchange: &Exchange,
        profile: &Profile,
        radio: &Radio,
        rng: &mut impl Rng,
    ) -> Self {
        let [readings, keys] = [work.readings, work.keys].map(|n| whole(n, rng));
        let mut day = Self::asleep(profile);
        day.add_readings(readings, profile);
        day.add_keys(keys, exchange, profile);
        for (times, packets) in kinds(Work { readings, keys }, exchange, radio) {
            let n = times * packets.n;
            let lost = drawn_losses(n, radio.packet_loss, rng);
            day.add_losses(&lost, n, &packets, profile, radio);
        }
        let half_trips = keys * f64::from(exchange.half_round_trips);
        day.listen(jitter(half_trips, profile.round_trip_ms / 2e3, radio.jitter, rng), profile);
        day
    }

    /// Returns the time in which the radio sends or listens, over the whole (Energest).
    #[must_use]
    pub fn rdc_strict(&self, radio: RadioInCrypto) -> f64 {
        match radio {
            RadioInCrypto::On => self.awake_s / DAY_S,
            RadioInCrypto::Off => (self.awake_s - self.crypto_s) / DAY_S,
        }
    }

    /// Returns the time not in deep sleep over the whole.
    #[must_use]
    pub fn awake_dc(&self) -> f64 {
        self.awake_s / DAY_S
    }

    /// Returns the energy in joules.
    #[must_use]
    pub fn energy_j(&self, radio: RadioInCrypto, profile: &Profile) -> f64 {
        self.charge_mc(radio) * profile.voltage_v / 1e3
    }

    /// Returns for how many days the battery lasts.
    #[must_use]
    pub fn battery_days(&self, radio: RadioInCrypto, profile: &Profile) -> f64 {
        profile.battery_mah * 3.6e3 / self.charge_mc(radio)
    }

    const fn charge_mc(&self, radio: RadioInCrypto) -> f64 {
        match radio {
            RadioInCrypto::On => self.charge_on_mc,
            RadioInCrypto::Off => self.charge_off_mc,
        }
    }

    fn asleep(profile: &Profile) -> Self {
        let charge = DAY_S * profile.deep_sleep_ua / 1e3;
        Self { charge_off_mc: charge, charge_on_mc: charge, ..Self::default() }
    }

    fn add_readings(&mut self, times: f64, profile: &Profile) {
        self.awake_s += times * profile.reading_ms / 1e3;
        self.charge_off_mc += times * profile.reading_mc;
        self.charge_on_mc += times * profile.reading_mc;
    }

    fn add_keys(&mut self, times: f64, exchange: &Exchange, profile: &Profile) {
        let cost = Cost::of_exchange(exchange, profile);
        self.awake_s += times * cost.awake_s;
        self.crypto_s += times * (cost.public_key_s + cost.symmetric_s);
        self.charge_off_mc += times * cost.charge_off_mc;
        self.charge_on_mc += times * cost.charge_on_mc;
    }

    /// Each lost packet is waited for, and sent again.
    fn add_losses(
        &mut self,
        lost: &Lost,
        n_packets: f64,
        packets: &Packets,
        profile: &Profile,
        radio: &Radio,
    ) {
        self.packets += n_packets + lost.n;
        self.lost += lost.n;
        let bytes = packets.bytes / packets.n.max(1.0);
        let air_s = bytes * 8.0 / profile.air_bit_rate + profile.packet_air_ms / 1e3;
        self.listen(lost.waits * radio.retransmission_s, profile);
        self.listen(lost.n * profile.packet_awake_ms / 1e3, profile);
        // Half of them are the device's own.
        let sending = lost.n * air_s / 2.0 * (profile.transmit_ma - profile.listen_ma);
        self.charge_off_mc += sending;
        self.charge_on_mc += sending;
    }

    fn listen(&mut self, seconds: f64, profile: &Profile) {
        self.awake_s += seconds;
        self.charge_off_mc += seconds * profile.listen_ma;
        self.charge_on_mc += seconds * profile.listen_ma;
    }
}

/// Packets of one exchange.
struct Packets {
    n: f64,
    bytes: f64,
}

/// Packets that were lost, and for how many first time-outs they were waited for.
#[derive(Default)]
struct Lost {
    n: f64,
    waits: f64,
}

/// Returns how often there is an exchange of each kind, and its packets.
fn kinds(work: Work, exchange: &Exchange, radio: &Radio) -> [(f64, Packets); 2] {
    let packets = |n: u32, bytes: u32| Packets { n: f64::from(n), bytes: f64::from(bytes) };
    [
        (work.keys, packets(exchange.segments, exchange.ip_bytes())),
        (work.readings, packets(radio.reading_packets, radio.reading_bytes)),
    ]
}

fn whole(number: f64, rng: &mut impl Rng) -> f64 {
    number.floor() + f64::from(u8::from(rng.random_bool(number.fract())))
}

/// Draws how many are lost until all have arrived, by the gaps between losses.
fn drawn_losses(packets: f64, loss: f64, rng: &mut impl Rng) -> Lost {
    let mut lost = Lost::default();
    if loss <= 0.0 {
        return lost;
    }
    let mut arrived = 0.0;
    loop {
        // How many arrive before the next loss.
        let uniform: f64 = rng.random_range(f64::MIN_POSITIVE..1.0);
        arrived += (uniform.ln() / (1.0 - loss).ln()).floor();
        if arrived >= packets {
            return lost;
        }
        // The same packet may be lost again, and again.
        let mut waits = 1.0;
        loop {
            lost.n += 1.0;
            lost.waits += waits;
            if !rng.random_bool(loss) {
                break;
            }
            waits *= 2.0;
        }
        arrived += 1.0;
    }
}

/// Draws how much longer so many half round trips take together.
fn jitter(half_trips: f64, each_s: f64, share: f64, rng: &mut impl Rng) -> f64 {
    let mut sum = 0.0;
    let mut left = half_trips;
    while left >= 1.0 {
        sum += rng.random_range(-1.0..=1.0);
        left -= 1.0;
    }
    sum * each_s * share
}

#[cfg(test)]
mod tests {
    use claviger_energy::{Day, Schedule, Way};
    use claviger_units::Span;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const QUIET: Radio = Radio {
        packet_loss: 0.0,
        retransmission_s: 1.0,
        jitter: 0.0,
        reading_packets: 12,
        reading_bytes: 900,
        reading_half_round_trips: 9,
    };
    const WORK: Work = Work { readings: 48.0, keys: 48.0 };

    #[test]
    fn without_losses_it_is_the_day_of_the_energy_model() -> Result<(), Box<dyn std::error::Error>>
    {
        let profile = Profile::named("fipy")?;
        let half_hour = Span::from_secs(1800);
        let mut rng = StdRng::seed_from_u64(1);
        for way in Way::ALL {
            let day = Day::of(way, &profile, Schedule::new(half_hour, half_hour)?)?;
            let ours = DeviceDay::expected(WORK, &way.exchange(), &profile, &QUIET);
            let drawn = DeviceDay::drawn(WORK, &way.exchange(), &profile, &QUIET, &mut rng);
            for radio in [RadioInCrypto::Off, RadioInCrypto::On] {
                for (ours, theirs) in [
                    (ours.charge_mc(radio), day.charge_mc(radio)),
                    (drawn.charge_mc(radio), day.charge_mc(radio)),
                    (ours.awake_s, day.awake_s),
                    (ours.rdc_strict(radio), day.ledger(radio).rdc_strict().as_f64()),
                ] {
                    // Ledgers are kept in whole microseconds.
                    assert!((ours / theirs - 1.0).abs() < 1e-4, "{way}: {ours}, {theirs}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn drawn_days_are_on_average_what_is_expected() -> Result<(), Box<dyn std::error::Error>> {
        let profile = Profile::named("fipy")?;
        let radio = Radio { packet_loss: 0.02, jitter: 0.5, ..QUIET };
        let exchange = Way::Psk12.exchange();
        let expected = DeviceDay::expected(WORK, &exchange, &profile, &radio);
        let mut rng = StdRng::seed_from_u64(1);
        let days: Vec<_> = (0..2000)
            .map(|_| DeviceDay::drawn(WORK, &exchange, &profile, &radio, &mut rng))
            .collect();
        let mean = |of: fn(&DeviceDay) -> f64| days.iter().map(of).sum::<f64>() / 2000.0;
        for (of, theirs) in [
            (mean(|day| day.lost), expected.lost),
            (mean(|day| day.packets), expected.packets),
            (mean(|day| day.charge_off_mc), expected.charge_off_mc),
            (mean(|day| day.awake_s), expected.awake_s),
        ] {
            assert!((of / theirs - 1.0).abs() < 0.01, "{of} drawn, {theirs} expected");
        }
        Ok(())
    }
}
