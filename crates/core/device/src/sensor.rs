//! A sensor that gives believable values: a daily wave, slow weather and noise.

use claviger_frames::Reading;
use claviger_units::{Eui64, Span, Timestamp};
use rand_core::Rng;
use sha2::{Digest, Sha256};

/// A sensor at a place of its own, which follows from the device's EUI-64.
#[derive(Debug)]
pub struct Sensor {
    mean_c: f64,
    swing_c: f64,
    brightness_lux: f64,
    // Slow weather, -1 (cold and dull) to 1 (warm and bright).
    weather: f64,
    n_samples: u32,
}

impl Sensor {
    /// Places the sensor of `eui`: half of them in rooms, half in the open.
    #[must_use]
    pub fn of(eui: Eui64) -> Self {
        let [place, offset, ..]: [u8; 32] = Sha256::digest(eui.as_bytes()).into();
        let offset = f64::from(offset) / 255.0;
        let (mean_c, swing_c, brightness_lux) = if place.is_multiple_of(2) {
            (20.0 + 3.0 * offset, 1.5, 600.0)
        } else {
            (11.0 + 4.0 * offset, 6.0, 40_000.0)
        };
        Self { mean_c, swing_c, brightness_lux, weather: 0.0, n_samples: 0 }
    }

    /// Takes a reading.
    pub fn measure(&mut self, now: Timestamp, rng: &mut impl Rng) -> Reading {
        self.weather = (0.98 * self.weather + 0.1 * noise(rng)).clamp(-1.0, 1.0);
        self.n_samples = self.n_samples.saturating_add(1);
        // It is warmest two hours after the sun is highest.
        let warmth = daily_wave(now - Span::from_secs(2 * 3600));
        let sun = daily_wave(now).max(0.0) * (1.0 + 0.5 * self.weather) / 1.5;
        let temperature_c =
            self.mean_c + self.swing_c * (warmth + self.weather) + 0.05 * noise(rng);
        let humidity_pct = 55.0 - 2.0 * (temperature_c - self.mean_c) + 0.4 * noise(rng);
        let light_lux = self.brightness_lux * sun * (1.0 + 0.02 * noise(rng));
        let battery_mv = 3000.0 - 0.005 * f64::from(self.n_samples) + 1.5 * noise(rng);
        Reading {
            temperature_centi_c: nearest(temperature_c * 100.0, -5000, 8500),
            humidity_permille: nearest(humidity_pct * 10.0, 50, 1000),
            light_lux: nearest(light_lux, 0, 120_000),
            battery_mv: nearest(battery_mv, 1800, 3600),
            taken: now,
        }
    }
}

/// A wave of one day between -1 and 1, highest at noon (of UTC), within 0.2 % of a cosine.
fn daily_wave(now: Timestamp) -> f64 {
    const DAY: u64 = 86_400_000_000;
    let six = Span::from_secs(6 * 3600);
    let into_day = Span::from_micros(((now + six + six + six).as_micros()) % DAY);
    // A sine over x in [-1, 1], as two parabolas, then bent once more towards the sine.
    let x = into_day.as_secs_f64() / 43_200.0 - 1.0;
    let bow = 4.0 * x * (1.0 - x.abs());
    -(0.225 * (bow * bow.abs() - bow) + bow)
}

/// Noise of mean 0 and deviation 1: the sum of twelve uniform numbers, moved to the middle.
fn noise(rng: &mut impl Rng) -> f64 {
    (0..12).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX)).sum::<f64>() - 6.0
}

/// Rounds to a whole number within limits.
#[expect(clippy::cast_possible_truncation, reason = "the limits are far inside 32 bits")]
fn nearest<T: TryFrom<i32>>(value: f64, lowest: i32, highest: i32) -> T
where
    T::Error: core::fmt::Debug,
{
    let half = if value < 0.0 { -0.5 } else { 0.5 };
    let whole = ((value + half) as i32).clamp(lowest, highest);
    T::try_from(whole).expect("the limits are those of the field")
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use rand::{SeedableRng, rngs::StdRng};

    const HOUR: u64 = 3_600_000_000;

    #[test]
    fn the_wave_is_a_cosine_of_a_day() {
        for hour in 0..24_u32 {
            let wave = daily_wave(Timestamp::from_micros(u64::from(hour) * HOUR));
            let cosine = -(f64::from(hour) * core::f64::consts::TAU / 24.0).cos();
            assert!((wave - cosine).abs() < 2e-3, "{wave} at {hour} h");
        }
    }

    #[test]
    fn a_day_looks_like_a_day() {
        let mut rng = StdRng::seed_from_u64(1);
        for n in 0..20_u64 {
            let mut sensor = Sensor::of(Eui64::from_bytes(n.to_be_bytes()));
            let day: Vec<Reading> = (0..24)
                .map(|hour| sensor.measure(Timestamp::from_micros(hour * HOUR), &mut rng))
                .collect();
            assert_eq!(day[1].light_lux, 0, "dark at night");
            assert!(day[12].light_lux > 100, "bright at noon");
            for reading in &day {
                assert!((-15.0..40.0).contains(&reading.temperature_c()), "{reading:?}");
                assert!((10.0..=100.0).contains(&reading.humidity_pct()), "{reading:?}");
                assert!((2980..3020).contains(&reading.battery_mv), "{reading:?}");
            }
            for pair in day.windows(2) {
                let step = pair[0].temperature_c() - pair[1].temperature_c();
                assert!(step.abs() < 5.0, "no jumps: {pair:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_readings() {
        let run = || {
            let mut rng = StdRng::seed_from_u64(5);
            let mut sensor = Sensor::of(Eui64::from_bytes([1; 8]));
            (0..10)
                .map(|n| sensor.measure(Timestamp::from_micros(n * HOUR), &mut rng))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }
}
