//! A day of a device: readings, fresh keys, and sleep between them.

use claviger_device::energy::{Ledger, State};
use claviger_units::Span;

use crate::{Cost, Profile, RadioInCrypto, Way};

/// How often a device wakes and gets a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    wake: Span,
    renewal: Span,
}

/// A schedule that no device can keep.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DayError {
    /// Choose periods from one second to a day.
    #[error("{0} is no period of a day: choose one from 1s to 1d")]
    Period(Span),
    /// The device would never sleep: choose longer periods, or another way.
    #[error(
        "{way} on {profile} needs {needed:.0} s a day, which has 86400: choose longer periods, or another way"
    )]
    Full {
        /// The way.
        way: Way,
        /// The profile.
        profile: String,
        /// Seconds awake.
        needed: f64,
    },
}

const DAY_S: f64 = 86_400.0;

impl Schedule {
    /// Wakes with a reading once per `wake`, gets a key once per `renewal`.
    pub fn new(wake: Span, renewal: Span) -> Result<Self, DayError> {
        for period in [wake, renewal] {
            if !(Span::from_secs(1)..=Span::from_secs(86_400)).contains(&period) {
                return Err(DayError::Period(period));
            }
        }
        Ok(Self { wake, renewal })
    }

    /// Returns how many readings there are in a day.
    #[must_use]
    pub fn readings(&self) -> f64 {
        DAY_S / self.wake.as_secs_f64()
    }

    /// Returns how many keys there are in a day.
    #[must_use]
    pub fn renewals(&self) -> f64 {
        DAY_S / self.renewal.as_secs_f64()
    }
}

/// A day with one way to a key, on some hardware: a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Day {
    /// The way.
    pub way: Way,
    /// What one key costs.
    pub cost: Cost,
    /// Time awake.
    pub awake_s: f64,
    /// Charge of all readings.
    pub readings_mc: f64,
    /// Charge of sleep, as if the device slept all day: awake it needs a thousand times as much.
    pub sleep_mc: f64,
    schedule: Schedule,
    voltage_v: f64,
    battery_mah: f64,
    reading_s: f64,
}

impl Day {
    /// Works a day out.
    pub fn of(way: Way, profile: &Profile, schedule: Schedule) -> Result<Self, DayError> {
        let cost = Cost::of(way, profile);
        let reading_s = profile.reading_ms / 1e3;
        let awake_s = schedule.readings() * reading_s + schedule.renewals() * cost.awake_s;
        if awake_s > DAY_S {
            let profile = profile.name.clone();
            return Err(DayError::Full { way, profile, needed: awake_s });
        }
        Ok(Self {
            way,
            cost,
            awake_s,
            readings_mc: schedule.readings() * profile.reading_mc,
            sleep_mc: DAY_S * profile.deep_sleep_ua / 1e3,
            schedule,
            voltage_v: profile.voltage_v,
            battery_mah: profile.battery_mah,
            reading_s,
        })
    }

    /// Returns the charge of the whole day.
    #[must_use]
    pub fn charge_mc(&self, radio: RadioInCrypto) -> f64 {
        let keys = self.schedule.renewals() * self.cost.charge_mc(radio);
        self.readings_mc + keys + self.sleep_mc
    }

    /// Returns the energy of the whole day.
    #[must_use]
    pub fn energy_j(&self, radio: RadioInCrypto) -> f64 {
        self.charge_mc(radio) * self.voltage_v / 1e3
    }

    /// Returns for how many days the battery lasts, if nothing else drains it.
    #[must_use]
    pub fn battery_days(&self, radio: RadioInCrypto) -> f64 {
        self.battery_mah * 3.6e3 / self.charge_mc(radio)
    }

    /// Returns how much longer the battery lasts than with `baseline`, as a share of that.
    #[must_use]
    pub fn life_gain(&self, baseline: &Self, radio: RadioInCrypto) -> f64 {
        baseline.charge_mc(radio) / self.charge_mc(radio) - 1.0
    }

    /// Returns how much more time the device is awake than with `baseline`, as a share of that.
    #[must_use]
    pub fn awake_change(&self, baseline: &Self) -> f64 {
        self.awake_s / baseline.awake_s - 1.0
    }

    /// Returns the ledger of the day. Of readings only the time is known, not what the radio does in it:
    /// it counts as listening.
    #[must_use]
    pub fn ledger(&self, radio: RadioInCrypto) -> Ledger {
        let one = self.cost.ledger(radio);
        let readings_s = self.schedule.readings() * self.reading_s;
        let mut ledger = Ledger::EMPTY;
        for state in State::ALL {
            let seconds = one.time(state).as_secs_f64() * self.schedule.renewals();
            ledger.add(state, Span::from_secs_f64(seconds));
        }
        ledger.add(State::Cpu, Span::from_secs_f64(readings_s));
        ledger.add(State::Listen, Span::from_secs_f64(readings_s));
        ledger.add(State::DeepLpm, Span::from_secs_f64(DAY_S - self.awake_s));
        ledger
    }

    /// Returns the wake period from which on the battery lasts longer than with `baseline` by `gain`
    /// (a share), keys being as often as now: the more rarely there are readings, the more a key weighs.
    /// `None` where it never does, and zero where it always does.
    #[must_use]
    pub fn wake_period_for(&self, baseline: &Self, gain: f64, radio: RadioInCrypto) -> Option<f64> {
        let keys = |day: &Self| day.schedule.renewals() * day.cost.charge_mc(radio);
        let most = (keys(baseline) - keys(self) * (1.0 + gain)) / gain - self.sleep_mc;
        let per_reading = self.readings_mc / self.schedule.readings();
        (most > 0.0).then(|| DAY_S * per_reading / most)
    }

    /// Returns the share of this profile's public-key times at which a key of `baseline` costs as much as
    /// one of this way: with a library that is faster than that, `baseline` is cheaper. `None` where no
    /// speed makes them equal.
    #[must_use]
    pub fn equal_ecc_speed(
        &self,
        baseline: &Self,
        profile: &Profile,
        radio: RadioInCrypto,
    ) -> Option<f64> {
        let ma = match radio {
            RadioInCrypto::On => profile.listen_ma,
            RadioInCrypto::Off => profile.cpu_ma,
        };
        let split = |day: &Self| {
            let public_key = day.cost.public_key_s * ma;
            (public_key, day.cost.charge_mc(radio) - public_key)
        };
        let ((own, rest), (theirs, their_rest)) = (split(self), split(baseline));
        let share = (rest - their_rest) / (theirs - own);
        (share.is_finite() && share > 0.0).then_some(share)
    }
}
