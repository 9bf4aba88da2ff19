//! What one key costs on some hardware.

use claviger_device::energy::{Ledger, State};
use claviger_units::Span;

use crate::Profile;
use crate::way::{Exchange, Symmetric, Way};

/// Whether the radio stays on while the processor does cryptography. A stack that keeps its connection
/// open does not switch it off; one that is written for the purpose can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RadioInCrypto {
    /// It listens.
    On,
    /// It is off.
    Off,
}

/// What one key costs: a model, in seconds, bytes and millicoulombs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Public-key cryptography.
    pub public_key_s: f64,
    /// Symmetric cryptography.
    pub symmetric_s: f64,
    /// The device is awake, all of this included.
    pub awake_s: f64,
    /// Something is on the air, either way.
    pub air_s: f64,
    /// Bytes of IP packets, either way.
    pub ip_bytes: u32,
    /// Charge with the radio off during cryptography.
    pub charge_off_mc: f64,
    /// Charge with the radio on.
    pub charge_on_mc: f64,
}

impl Cost {
    /// Works out what a way costs on some hardware.
    #[must_use]
    pub fn of(way: Way, profile: &Profile) -> Self {
        Self::of_exchange(&way.exchange(), profile)
    }

    /// Works out what an exchange costs on some hardware: one of a way, or one that was counted.
    ///
    /// Time awake is cryptography, waiting for round trips, and what each packet takes; all but cryptography
    /// has the radio on, at `listen_ma`. Sending costs `transmit_ma` for half of the time on the air.
    #[must_use]
    pub fn of_exchange(exchange: &Exchange, profile: &Profile) -> Self {
        let times = |number: u32, ms: f64| f64::from(number) * ms / 1e3;
        let public_key_s = times(exchange.key_generations, profile.key_generation_ms)
            + times(exchange.agreements, profile.agreement_ms)
            + times(exchange.signatures, profile.sign_ms)
            + times(exchange.verifications, profile.verify_ms);
        let symmetric_s = match exchange.symmetric {
            Symmetric::Negligible => 0.0,
            Symmetric::Session => profile.session_ms / 1e3,
            Symmetric::Frame => profile.frame_ms / 1e3,
        };
        let ip_bytes = exchange.ip_bytes();
        let air_s = f64::from(ip_bytes) * 8.0 / profile.air_bit_rate
            + times(exchange.segments, profile.packet_air_ms);
        let radio_s = times(exchange.half_round_trips, profile.round_trip_ms / 2.0)
            + times(exchange.segments, profile.packet_awake_ms);
        let crypto_s = public_key_s + symmetric_s;
        let sending = air_s / 2.0 * (profile.transmit_ma - profile.listen_ma);
        Self {
            public_key_s,
            symmetric_s,
            awake_s: crypto_s + radio_s,
            air_s,
            ip_bytes,
            charge_off_mc: radio_s * profile.listen_ma + crypto_s * profile.cpu_ma + sending,
            charge_on_mc: (radio_s + crypto_s) * profile.listen_ma + sending,
        }
    }

    /// Returns its charge.
    #[must_use]
    pub const fn charge_mc(&self, radio: RadioInCrypto) -> f64 {
        match radio {
            RadioInCrypto::On => self.charge_on_mc,
            RadioInCrypto::Off => self.charge_off_mc,
        }
    }

    /// Returns its energy.
    #[must_use]
    pub const fn energy_mj(&self, radio: RadioInCrypto, profile: &Profile) -> f64 {
        self.charge_mc(radio) * profile.voltage_v
    }

    /// Returns the same times as a device would count them, in whole microseconds.
    #[must_use]
    pub fn ledger(&self, radio: RadioInCrypto) -> Ledger {
        let crypto_s = self.public_key_s + self.symmetric_s;
        let sending_s = (self.air_s / 2.0).min(self.awake_s);
        let on_s = match radio {
            RadioInCrypto::On => self.awake_s,
            RadioInCrypto::Off => self.awake_s - crypto_s,
        };
        let mut ledger = Ledger::EMPTY;
        for (state, seconds) in [
            (State::Cpu, self.awake_s),
            (State::Transmit, sending_s),
            (State::Listen, (on_s - sending_s).max(0.0)),
            (State::CryptoPk, self.public_key_s),
            (State::CryptoSym, self.symmetric_s),
        ] {
            ledger.add(state, Span::from_secs_f64(seconds));
        }
        ledger
    }
}
