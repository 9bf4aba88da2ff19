//! The energy ledger of each live device: what it did, in the states of Contiki's Energest, at the price of
//! the paper's device. What was done is counted; what it costs is a model.

use std::collections::BTreeMap;

use claviger_device::KeyPath;
use claviger_device::energy::{Ledger, State};
use claviger_energy::{Cost, RadioInCrypto};
use claviger_roles::report::Exchanged;
use claviger_units::{Eui64, Span};
use serde::Serialize;

use super::paths::{HARDWARE, counted};
use super::summary::rounded;
use crate::figures::grouped;

/// The ledgers of all devices that have asked for a key.
#[derive(Debug, Default)]
pub(crate) struct Ledgers(BTreeMap<Eui64, Live>);

#[derive(Debug)]
struct Live {
    // By which its newest key came.
    path: KeyPath,
    // All but sleep, which is the rest.
    ledger: Ledger,
    charge_mc: f64,
}

impl Ledgers {
    /// Adds an exchange about a key, whatever came of it.
    pub(crate) fn note_exchange(&mut self, exchanged: &Exchanged) {
        let cost = Cost::of_exchange(&counted(exchanged), &HARDWARE);
        let live = self.0.entry(exchanged.eui).or_insert_with(|| Live {
            path: exchanged.path,
            ledger: Ledger::EMPTY,
            charge_mc: 0.0,
        });
        if exchanged.is_renewal {
            live.path = exchanged.path;
        }
        live.ledger.add_all(&cost.ledger(RadioInCrypto::Off));
        live.charge_mc += cost.charge_mc(RadioInCrypto::Off);
    }

    /// Adds a reading that was taken, sealed and acknowledged. What the radio does meanwhile is not known: it
    /// counts as listening.
    pub(crate) fn note_reading(&mut self, eui: Eui64) {
        if let Some(live) = self.0.get_mut(&eui) {
            let time = Span::from_secs_f64(HARDWARE.reading_ms / 1e3);
            live.ledger.add(State::Cpu, time);
            live.ledger.add(State::Listen, time);
            live.charge_mc += HARDWARE.reading_mc;
        }
    }

    /// Returns the mean ledger of the devices of each path after a run.
    pub(crate) fn figures(&self, elapsed: Span) -> Vec<LedgerFigures> {
        let mut paths: BTreeMap<KeyPath, Vec<&Live>> = BTreeMap::new();
        for live in self.0.values() {
            paths.entry(live.path).or_default().push(live);
        }
        paths.into_iter().map(|(path, devices)| mean(path, &devices, elapsed)).collect()
    }
}

/// What a device of a path did, on average, and what that would take from a battery: modelled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LedgerFigures {
    path: &'static str,
    devices: usize,
    /// Microseconds in each state of Energest, and in cryptography.
    states_us: BTreeMap<&'static str, u64>,
    /// Sending and listening, of all time.
    rdc_strict: f64,
    /// Not in deep sleep, of all time.
    awake_dc: f64,
    /// Of a day like this run.
    energy_j_per_day: f64,
    battery_days: f64,
}

fn mean(path: KeyPath, devices: &[&Live], elapsed: Span) -> LedgerFigures {
    let number = devices.len() as u64;
    let mut sum = Ledger::EMPTY;
    devices.iter().for_each(|live| sum.add_all(&live.ledger));
    let mut ledger = Ledger::EMPTY;
    for state in State::ALL {
        ledger.add(state, Span::from_micros(sum.time(state).as_micros() / number.max(1)));
    }
    let awake = ledger.time(State::Cpu);
    let asleep = elapsed.as_micros().saturating_sub(awake.as_micros());
    ledger.add(State::DeepLpm, Span::from_micros(asleep));
    let charge_mc = devices.iter().map(|live| live.charge_mc).sum::<f64>() / as_f64(number);
    let asleep_mc = elapsed.as_secs_f64() * HARDWARE.deep_sleep_ua / 1e3;
    let days = elapsed.as_secs_f64() / DAY_S;
    let mc_per_day = (charge_mc + asleep_mc) / days;
    LedgerFigures {
        path: path.name(),
        devices: devices.len(),
        states_us: State::ALL.map(|state| (state.name(), ledger.time(state).as_micros())).into(),
        rdc_strict: rounded(ledger.rdc_strict().as_f64(), 1e6),
        awake_dc: rounded(ledger.awake_dc().as_f64(), 1e6),
        energy_j_per_day: rounded(mc_per_day * HARDWARE.voltage_v / 1e3, 10.0),
        battery_days: rounded(HARDWARE.battery_mah * 3.6e3 / mc_per_day, 10.0),
    }
}

impl LedgerFigures {
    /// Writes them for people.
    pub(crate) fn line(&self) -> String {
        let plural = if self.devices == 1 { "" } else { "s" };
        format!(
            "ledger    {}: {} device{plural}, awake {:.1} %, radio {:.1} % of the time, {:.0} J a day of this; modelled on a FiPy",
            self.path,
            grouped(self.devices as u64),
            100.0 * self.awake_dc,
            100.0 * self.rdc_strict,
            self.energy_j_per_day,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of devices lie far below 2^53")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

const DAY_S: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use claviger_net::handshake::PublicKeyWork;
    use claviger_net::meter::Traffic;

    use super::*;

    #[test]
    fn what_devices_did_is_added_up_and_the_rest_is_sleep() {
        let mut ledgers = Ledgers::default();
        let exchanged = |n, path, verifications| Exchanged {
            eui: Eui64::from_bytes([n; 8]),
            path,
            is_renewal: true,
            handshake: Traffic::default(),
            traffic: Traffic { sent: 100, received: 100, turns: 1 },
            work: PublicKeyWork { verifications, ..PublicKeyWork::default() },
        };
        ledgers.note_exchange(&exchanged(1, KeyPath::Https, 2));
        ledgers.note_exchange(&exchanged(2, KeyPath::Push, 0));
        ledgers.note_exchange(&exchanged(3, KeyPath::Pad, 0));
        ledgers.note_reading(Eui64::from_bytes([2; 8]));
        ledgers.note_reading(Eui64::from_bytes([9; 8]));
        let figures = ledgers.figures(Span::from_secs(600));
        let of = |path: &str| figures.iter().find(|found| found.path == path).unwrap();
        let [https, push, pad] = ["https", "push", "pad"].map(of);
        // Two verifications of 549 ms.
        assert_eq!(https.states_us["CRYPTO_PK"], 1_098_000);
        assert_eq!((push.states_us["CRYPTO_PK"], pad.states_us["CPU"]), (0, 0));
        for figures in [https, push, pad] {
            let states = &figures.states_us;
            assert_eq!(states["CPU"] + states["DEEP_LPM"], 600_000_000, "{figures:?}");
        }
        assert!(https.energy_j_per_day > pad.energy_j_per_day);
        assert!(pad.battery_days > push.battery_days);
        let line = pad.line();
        assert!(line.starts_with("ledger    pad: 1 device, awake 0.0 %, radio 0.0 %"), "{line}");
    }
}
