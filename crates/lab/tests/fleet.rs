//! The day of a fleet: against the whole chain, against theory, and against itself.

use anyhow::Result;
use claviger_device::Profile;
use claviger_fleet::Sharing;
use claviger_lab::VirtualChain;
use claviger_lab::chain::{ChainConfig, Light};
use claviger_lab::fleet::{FleetConfig, FleetDay, Frames, run};
use claviger_lab::replay::LinkLedger;
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Span};

const HALF_HOUR: Span = Span::from_secs(1800);

fn config(n_devices: u32, wake: Span) -> FleetConfig {
    let profile = Profile { renew_period: HALF_HOUR, ..Profile::waking_every(wake) };
    FleetConfig {
        n_devices,
        profile,
        sharing: Sharing::default(),
        capacity: Bits::new(1_000_000),
        hop: Span::from_millis(20),
        settle: Span::from_secs(3600),
        span: Span::from_secs(6 * 3600),
        frames: Frames::All,
        seed: 1,
        threads: 1,
    }
}

fn ledger(name: &str, n_blocks: usize) -> Result<LinkLedger> {
    LinkLedger::record(&LinkPreset::named(name)?, 1, n_blocks, |_| {})
}

/// Both with the same link, devices, and wakes: the leaner one must find what the whole chain finds.
#[test]
fn a_day_is_that_of_the_whole_chain() -> Result<()> {
    let link = ledger("lab", 40)?;
    for (n_devices, is_fed) in [(200, true), (1500, false)] {
        // A twelfth of the half hour: the same shortage, twelve times as soon.
        let period = if is_fed { HALF_HOUR } else { Span::from_secs(150) };
        let profile = Profile::waking_every(period);
        let [settle, span] = [10, 36].map(|n| Span::from_micros(n * period.as_micros()));
        let lean = run(&link, &FleetConfig { profile, settle, span, ..config(n_devices, period) })?;
        let mut chain = VirtualChain::start(ChainConfig {
            preset: LinkPreset::named("lab")?,
            light: Light::Drawn,
            capacity: Bits::new(1_000_000),
            n_devices: u16::try_from(n_devices)?,
            renew: period,
            seed: 1,
        })?;
        chain.run_for(settle)?;
        let before = chain.tally().renewals;
        chain.run_for(span)?;
        let renewals = chain.tally().renewals - before;
        let wanted = u64::from(n_devices) * span.as_micros() / period.as_micros();
        let (whole, lean) = (share(renewals, wanted), share(lean.renewals, wanted));
        assert!((whole - lean).abs() < 0.01, "{n_devices}: {whole} of the chain, {lean} here");
        assert_eq!(whole > 0.999, is_fed, "{n_devices}: {whole}");
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn one_seed_gives_one_day_on_any_number_of_threads() -> Result<()> {
    let link = ledger("lab", 4)?;
    let day = |seed, threads| -> Result<FleetDay> {
        let span = Span::from_secs(3600);
        run(&link, &FleetConfig { seed, threads, span, ..config(100, Span::from_secs(300)) })
    };
    let first = day(1, 1)?;
    assert_eq!((first.renewals, first.readings), (200, 1200));
    assert!(first.sealed.key_frames > 300, "the first hour is sealed too");
    for threads in [2, 3, 200] {
        assert_eq!(first, day(1, threads)?, "{threads} threads");
    }
    assert_ne!(first.sealed.mark, day(2, 1)?.sealed.mark);
    Ok(())
}

/// 6 h of 100 devices: 12 renewals and 72 readings each; nobody waits.
#[test]
fn a_fleet_that_is_fed_misses_nothing() -> Result<()> {
    let day = run(&ledger("lab", 4)?, &config(100, Span::from_secs(300)))?;
    assert_eq!((day.renewals, day.missed, day.alarms), (1200, 0, 0));
    assert_eq!((day.readings, day.withheld), (7200, 0));
    let oldest = day.oldest_key.as_secs_f64();
    assert!((1799.9..1800.1).contains(&oldest), "{oldest} s");
    assert!(day.keys_displaced > 0 && day.levels.len() == 13, "{day:?}");
    let [_, (_, [mine, _]), ..] = day.levels[..] else { anyhow::bail!("no level") };
    assert!((3500..3906).contains(&mine), "{mine} keys of 3906 are A's");
    Ok(())
}

/// Twice as many devices as the link can feed: half of the wakes for a key find none; who fails closed keeps
/// readings back.
#[test]
fn a_shortage_is_shared_and_told() -> Result<()> {
    let link = ledger("lab", 20)?;
    let n_devices = 26_600;
    let span = Span::from_secs(12 * 3600);
    let degrade = FleetConfig { span, frames: Frames::Keys, ..config(n_devices, HALF_HOUR) };
    let day = run(&link, &degrade)?;
    assert!((day.missed_share() - 0.5).abs() < 0.02, "{}", day.missed_share());
    assert!(day.alarms >= 1 && day.withheld == 0 && day.all_keyed.is_some());
    let profile = Profile { max_age: Some(Span::from_secs(1900)), ..degrade.profile };
    let closed = run(&link, &FleetConfig { profile, ..degrade })?;
    assert_eq!(closed.renewals, day.renewals);
    // What waited is sent with the next key, but for what still waits at the end.
    let waits = day.readings - closed.readings;
    assert!(closed.withheld > waits, "{waits} wait of {}", closed.withheld);
    Ok(())
}

/// A key is fresh for the wake it comes in and the next one; of the readings that wait for its successor the
/// device keeps 31, beside the one of the wake in which that comes.
#[test]
fn what_waits_is_sent_later_and_what_is_too_much_is_dropped() -> Result<()> {
    let (minute, n_devices) = (Span::from_secs(60), 10);
    let profile = Profile {
        renew_period: Span::from_secs(3 * 3600),
        max_age: Some(minute),
        ..Profile::waking_every(minute)
    };
    let base = config(n_devices, minute);
    let span = Span::from_secs(86_400);
    let day = run(&ledger("lab", 4)?, &FleetConfig { profile, span, ..base })?;
    let (taken, at_ends) = (u64::from(n_devices) * 1440, 33 * u64::from(n_devices));
    assert!(day.renewals > 60, "{day:?}");
    assert!(day.readings.abs_diff(33 * day.renewals) <= at_ends, "{day:?}");
    assert!((day.readings + day.dropped).abs_diff(taken) <= at_ends, "{day:?}");
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() -> Result<()> {
    let link = ledger("lab", 1)?;
    let good = config(10, HALF_HOUR);
    let often = Profile { renew_period: Span::from_secs(60), ..good.profile };
    for (bad, told) in [
        (FleetConfig { n_devices: 0, ..good.clone() }, "1 or more"),
        (FleetConfig { n_devices: 20_000_000, ..good.clone() }, "more than"),
        (FleetConfig { profile: Profile::waking_every(Span::ZERO), ..good.clone() }, "1 s or more"),
        (FleetConfig { profile: often, ..good.clone() }, "needs a wake as often"),
        (FleetConfig { span: Span::ZERO, ..good.clone() }, "give a span"),
        (FleetConfig { span: Span::from_secs(40 * 86_400), ..good.clone() }, "longer than"),
    ] {
        let said = run(&link, &bad).err().map(|error| error.to_string());
        assert!(said.as_ref().is_some_and(|said| said.contains(told)), "{said:?}");
    }
    Ok(())
}
