//! When a device wakes, as device and gateway both reckon it (`WIRE.md` §3).

use claviger_units::{Eui64, Span, Timestamp};
use sha2::{Digest, Sha256};

/// Returns the first wake of a device after `now`.
///
/// Wakes come once per `period` at the device's slot, which is its hash (the first 8 bytes of
/// SHA-256 over the EUI-64) modulo the period, so that a fleet spreads evenly and keeps its order.
#[must_use]
pub fn next_wake(now: Timestamp, eui: Eui64, period: Span) -> Timestamp {
    let period = period.as_micros().max(1);
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(eui.as_bytes()).into();
    let slot = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % period;
    let begun = now.as_micros() - now.as_micros() % period;
    let here = Timestamp::from_micros(begun) + Span::from_micros(slot);
    if here > now { here } else { here + Span::from_micros(period) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn a_fleet_spreads_evenly() {
        let period = Span::from_secs(100);
        let euis = (0..1000_u64).map(|n| Eui64::from_bytes(n.to_be_bytes()));
        let mut slots: Vec<u64> =
            euis.map(|eui| next_wake(Timestamp::START, eui, period).as_micros()).collect();
        slots.sort_unstable();
        for (tenth, slot) in slots.iter().step_by(100).enumerate() {
            let ideal = tenth as u64 * 10_000_000;
            assert!(slot.abs_diff(ideal) < 5_000_000, "tenth {tenth} starts at {slot} µs");
        }
    }

    proptest! {
        #[test]
        fn wakes_follow_each_other_by_one_period(
            now in 0..u64::MAX / 2, eui: [u8; 8], period in 1..1_000_000_000_000_u64,
        ) {
            let (now, eui) = (Timestamp::from_micros(now), Eui64::from_bytes(eui));
            let period = Span::from_micros(period);
            let first = next_wake(now, eui, period);
            prop_assert!(first > now && first.since(now) <= period);
            prop_assert_eq!(next_wake(first, eui, period), first + period);
        }
    }
}
