//! What keys have taken on their way to devices, added up by path.

use std::sync::LazyLock;

use claviger_device::KeyPath;
use claviger_energy::{Cost, Exchange, Headers, Profile, RadioInCrypto, Symmetric, Way};
use claviger_roles::report::Exchanged;
use serde::Serialize;

use crate::figures::grouped;

/// The exchanges of one path that brought a key.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PathSum {
    keys: u64,
    handshake_bytes: u64,
    bytes: u64,
    operations: u64,
    energy_mj: [f64; 2],
}

impl PathSum {
    /// Adds an exchange; one that brought no key is not a renewal.
    pub(crate) fn add(&mut self, exchanged: &Exchanged) {
        if exchanged.is_renewal {
            self.keys += 1;
            self.handshake_bytes += exchanged.handshake.bytes();
            self.bytes += exchanged.traffic.bytes();
            self.operations += u64::from(exchanged.work.total());
            let cost = Cost::of_exchange(&counted(exchanged), &HARDWARE);
            for (sum, radio) in self.energy_mj.iter_mut().zip(RADIOS) {
                *sum += cost.energy_mj(radio, &HARDWARE);
            }
        }
    }
}

/// What a key took by one path, on average; counted on the devices' own connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct PathFigures {
    path: &'static str,
    /// Keys that came in exchanges of their own; what came with a reading is not counted here.
    keys: u64,
    /// Bytes of a handshake made for the key, above TCP, both ways.
    handshake_bytes: f64,
    /// All bytes, above TCP or UDP, both ways.
    bytes: f64,
    /// Operations with public keys on the device.
    public_key_operations: f64,
    /// What this would take from the battery of the paper's device: a model, fed by what was counted; with
    /// the radio off and on during public-key work.
    modelled_fipy_mj: [f64; 2],
}

/// Puts what was counted into the model's terms: packets and half round trips follow from the turns.
pub(super) fn counted(exchanged: &Exchanged) -> Exchange {
    let Exchanged { path, traffic, work, .. } = exchanged;
    if *path == KeyPath::Pad {
        return Way::Pad.exchange();
    }
    let (opening, headers, symmetric) = match path {
        KeyPath::Oscore => (0, Headers::Udp, Symmetric::Frame),
        // The session stands already.
        KeyPath::Push => (0, Headers::Tcp, Symmetric::Frame),
        _ => (TCP_OPENING, Headers::Tcp, Symmetric::Session),
    };
    let turns = traffic.turns.max(1);
    Exchange {
        key_generations: work.key_generations,
        agreements: work.agreements,
        signatures: work.signatures,
        verifications: work.verifications,
        symmetric,
        half_round_trips: 2 * turns + opening,
        segments: 2 * turns + 3 * opening,
        application_bytes: u32::try_from(traffic.bytes()).unwrap_or(u32::MAX),
        headers,
    }
}

/// Half round trips for a connection of TCP; three packets open it, three close it.
const TCP_OPENING: u32 = 2;
const RADIOS: [RadioInCrypto; 2] = [RadioInCrypto::Off, RadioInCrypto::On];
pub(super) static HARDWARE: LazyLock<Profile> =
    LazyLock::new(|| Profile::named("fipy").expect("a profile of this program is well-formed"));

impl PathFigures {
    pub(crate) fn of(path: KeyPath, sum: PathSum) -> Option<Self> {
        let mean = |total: u64| (as_f64(total) / as_f64(sum.keys) * 10.0).round() / 10.0;
        (sum.keys > 0).then(|| Self {
            path: path.name(),
            keys: sum.keys,
            handshake_bytes: mean(sum.handshake_bytes),
            bytes: mean(sum.bytes),
            public_key_operations: mean(sum.operations),
            modelled_fipy_mj: sum
                .energy_mj
                .map(|sum_mj| (sum_mj / as_f64(sum.keys) * 10.0).round() / 10.0),
        })
    }

    /// Writes them for people.
    pub(crate) fn line(&self) -> String {
        let Self { path, keys, bytes, public_key_operations: operations, .. } = self;
        let work = match operations {
            0.0 => "no public-key work".to_owned(),
            1.0 => "1 operation with public keys".to_owned(),
            some => format!("{some} operations with public keys"),
        };
        let [off, on] = self.modelled_fipy_mj;
        let energy = if on - off < 0.1 { format!("{on} mJ") } else { format!("{off} to {on} mJ") };
        format!(
            "keys by   {path}: {} fetched, {bytes:.0} bytes and {work} each; modelled on a FiPy: {energy}",
            grouped(*keys)
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean that is shown with one digit")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use claviger_net::handshake::PublicKeyWork;
    use claviger_net::meter::Traffic;
    use claviger_units::Eui64;

    use super::*;

    #[test]
    fn only_renewals_count() {
        let traffic = Traffic { sent: 100, received: 61, turns: 2 };
        let exchanged = |is_renewal| Exchanged {
            eui: Eui64::from_bytes([1; 8]),
            path: KeyPath::Https,
            is_renewal,
            handshake: Traffic { sent: 40, ..Traffic::default() },
            traffic,
            work: PublicKeyWork { verifications: 2, ..PublicKeyWork::default() },
        };
        let mut sum = PathSum::default();
        assert_eq!(PathFigures::of(KeyPath::Https, sum), None);
        for is_renewal in [true, false, true] {
            sum.add(&exchanged(is_renewal));
        }
        let figures = PathFigures::of(KeyPath::Https, sum).unwrap();
        assert_eq!((figures.keys, figures.bytes), (2, 161.0));
        let line = "keys by   https: 2 fetched, 161 bytes and 2 operations with public keys each; modelled";
        assert!(figures.line().starts_with(line), "{}", figures.line());
        // Two signatures to verify at 549 ms, 50 mA and 3.3 V at the least.
        let [off, on] = figures.modelled_fipy_mj;
        assert!((181.0..220.0).contains(&off) && on > 1.5 * off, "{off} {on}");
    }
}
