//! The paper's fleet in virtual time: whether its link can feed it, through the real cores.

use anyhow::Result;
use claviger_lab::VirtualChain;
use claviger_lab::chain::{ChainConfig, Light};
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Span};

use crate::console;
use crate::up::capacity::key_rate;

/// What a fleet of the paper's link has shown.
pub(super) struct Shown {
    /// Wakes that found no fresh key.
    pub(super) missed: f64,
    /// Their share of all, in percent.
    pub(super) missed_pct: f64,
    /// The share that theory expects at the link's rate, in percent.
    pub(super) expected_pct: f64,
}

/// Runs `n_devices` on the link `lab` with buffers of 1 Mbit, a renewal every half hour; what happens until
/// everybody has had a first key, and the buffers are what they will be, is not looked at.
pub(super) fn measure(n_devices: u16, periods: u64) -> Result<Shown> {
    let preset = LinkPreset::named("lab")?;
    let rate = key_rate(&preset).as_bps();
    let mut chain = VirtualChain::start(ChainConfig {
        preset,
        light: Light::Drawn,
        capacity: Bits::new(1_000_000),
        n_devices,
        renew: Span::from_secs(RENEW_S),
        seed: 1,
    })?;
    chain.run_for(Span::from_secs(WARM_UP * RENEW_S))?;
    let before = chain.tally().renewals;
    chain.run_for(Span::from_secs(periods * RENEW_S))?;
    let renewals = chain.tally().renewals - before;
    let wakes = f64::from(n_devices) * as_f64(periods);
    let missed = wakes - as_f64(renewals);
    let served = rate * as_f64(RENEW_S) / 256.0;
    let shown = Shown {
        missed,
        missed_pct: 100.0 * missed / wakes,
        expected_pct: 100.0 * (1.0 - served / f64::from(n_devices)).max(0.0),
    };
    console::err(format_args!(
        "{n_devices} devices in virtual time: {missed:.0} of {wakes:.0} wakes found no key ({:.2} %), theory at \
         {rate:.0} bit/s {:.2} %",
        shown.missed_pct, shown.expected_pct,
    ));
    Ok(shown)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of keys and seconds lie far below 2^53")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

const RENEW_S: u64 = 1800;
/// After how many renewals a fleet is taken to have settled.
const WARM_UP: u64 = 10;
/// How many renewals of each device of a fleet that is fed are looked at.
pub(super) const FED: u64 = 40;
/// And of one that is not. Keys go by age, so that the queue grows by what is missing until each device misses
/// one wake, all within half an hour, and then begins again: the mean needs many such rounds.
pub(super) const SHORT: u64 = 90;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_fleet_misses_nothing() {
        let shown = measure(100, 3).unwrap();
        assert_eq!((shown.missed, shown.missed_pct, shown.expected_pct), (0.0, 0.0, 0.0));
    }
}
