//! The whole chain in virtual time: a day of 24 devices, and two hours of crashes.

use anyhow::{Result, ensure};
use claviger_lab::VirtualChain;
use claviger_lab::chain::{ChainConfig, Light, Party, Stream};
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Fraction, Site, Span};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MEGABIT: Bits = Bits::new(1_000_000);
const HOUR: Span = Span::from_secs(3600);

/// The slower of the paper's links: a third less to do in a day of blocks.
fn config(n_devices: u16, renew: Span, seed: u64) -> Result<ChainConfig> {
    let (preset, light) = (LinkPreset::named("city")?, Light::Drawn);
    Ok(ChainConfig { preset, light, capacity: MEGABIT, n_devices, renew, seed })
}

/// Both sites' available keys, as each of them counts.
fn levels(chain: &mut VirtualChain) -> [u64; 2] {
    [Site::A, Site::B].map(|site| chain.stored(site).map_or(0, |s| s.mine + s.theirs))
}

/// Every device renews in each period; every reading arrives once; both buffers fill to 1 Mbit
/// and stay there; what is in them is the same at both sites.
#[test]
fn a_day_of_24_devices() -> Result<()> {
    let mut chain = VirtualChain::start(config(24, Span::from_secs(1800), 1)?)?;
    for hour in 1..=24 {
        chain.run_for(HOUR)?;
        let full = MEGABIT / Bits::KEY;
        for level in levels(&mut chain) {
            ensure!(level <= full, "{level} keys after {hour} h, more than the capacity");
            // The shares follow demand, and what one gives up the other fills with new blocks.
            ensure!(level > full * 9 / 10, "{level} keys after {hour} h, far below the capacity");
        }
    }
    chain.rest()?;
    chain.check_agreement()?;
    let tally = chain.tally();
    for epoch in chain.epochs() {
        assert!((47..=49).contains(&epoch.number()), "epoch {epoch} after 48 periods");
    }
    let taken: u64 = chain.readings_taken().sum();
    assert!((24 * 48..=24 * 50).contains(&taken), "{taken} readings");
    assert_eq!((tally.readings, tally.frames, tally.repeats), (taken, taken, 0));
    let epochs: u64 = chain.epochs().map(|epoch| u64::from(epoch.number())).sum();
    assert_eq!(tally.renewals, epochs, "no epoch is left out");
    assert_eq!((tally.refused, tally.aborted, tally.burnt), (0, 0, 0));
    assert_eq!((tally.crashes, tally.cuts), (0, 0));
    assert_eq!(tally.handed_out, tally.fetched);
    let left = levels(&mut chain);
    assert_eq!(tally.keys, tally.displaced + tally.handed_out + left[0], "{tally:?}");
    assert_eq!(chain.compare_all_keys()?, left[0]);
    assert_eq!(levels(&mut chain), [0, 0]);
    Ok(())
}

#[test]
fn one_seed_gives_one_day() -> Result<()> {
    let run = |seed| -> Result<_> {
        let mut chain = VirtualChain::start(config(24, Span::from_secs(1800), seed)?)?;
        chain.run_for(Span::from_secs(3 * 3600))?;
        Ok((chain.digest(), chain.tally()))
    };
    let first = run(1)?;
    assert_eq!(run(1)?, first);
    assert_ne!(run(2)?.0, first.0);
    Ok(())
}

/// Photons at one end, readings at the other.
#[test]
fn a_minute_from_photon_to_reading() -> Result<()> {
    let run = || -> Result<_> {
        let (preset, light) = (LinkPreset::named("lab")?, Light::Real);
        let config = ChainConfig { preset, light, ..config(6, Span::from_secs(10), 3)? };
        let mut chain = VirtualChain::start(config)?;
        chain.run_for(Span::from_secs(60))?;
        let digest = chain.digest();
        chain.rest()?;
        chain.check_agreement()?;
        Ok((chain, digest))
    };
    let (mut chain, digest) = run()?;
    // The first key comes after some 4 s; then one epoch in each period of 10 s.
    assert!(chain.epochs().all(|epoch| (4..=6).contains(&epoch.number())));
    let taken: u64 = chain.readings_taken().sum();
    assert_eq!(chain.tally().readings, taken);
    assert!(taken >= 6 * 5, "{taken} readings");
    let left = levels(&mut chain)[0];
    assert_eq!(chain.compare_all_keys()?, left);
    assert!(left > 200, "{left} keys");
    assert_eq!(run()?.1, digest);
    Ok(())
}

/// One fault: a crash now, a death at a later disk operation or flash write, or a broken
/// connection.
fn break_something(chain: &mut VirtualChain, n_devices: usize, rng: &mut StdRng) {
    let party = match rng.random_range(0..5) {
        0 => Party::Kme(Site::A),
        1 => Party::Kme(Site::B),
        2 => Party::Gateway,
        3 => Party::Platform,
        _ => Party::Device(rng.random_range(0..n_devices)),
    };
    match rng.random_range(0..10) {
        0..=2 => chain.crash(party),
        3..=6 => {
            // A reading is a few operations, a block hundreds.
            let most = if matches!(party, Party::Device(_)) { 2 } else { 10 };
            let most = 1_u64 << rng.random_range(0..=most);
            chain.die_after(party, rng.random_range(0..=most));
        }
        7..=8 => chain.cut(Stream::Kmes),
        _ => chain.cut(Stream::Fleet),
    }
}

/// Two hours in which everybody dies again and again; what must hold is checked at every step,
/// and afterwards everything goes on by itself.
fn storm(seed: u64) -> Result<()> {
    let n_devices = 8;
    let renew = Span::from_secs(60);
    let capacity = Bits::new(400 * 256);
    let mut chain =
        VirtualChain::start(ChainConfig { capacity, ..config(n_devices, renew, seed)? })?;
    let mut rng = StdRng::seed_from_u64(seed);
    chain.lose_acknowledgements(Fraction::clamped(0.1));
    while chain.now().since(claviger_units::Timestamp::START) < Span::from_secs(7200) {
        chain.run_for(Span::from_millis(rng.random_range(0..20_000)))?;
        break_something(&mut chain, n_devices.into(), &mut rng);
    }
    chain.end_faults();
    // The longest pause is 600 s; several may follow one another.
    chain.run_for(Span::from_secs(2400))?;
    let before: Vec<_> = chain.epochs().collect();
    chain.run_for(Span::from_secs(10 * 60))?;
    for (before, after) in before.iter().zip(chain.epochs()) {
        let steps = after.number() - before.number();
        ensure!((9..=11).contains(&steps), "{steps} renewals in ten quiet periods");
    }
    chain.rest()?;
    chain.check_agreement()?;
    let tally = chain.tally();
    ensure!(tally.crashes > 100 && tally.cuts > 50, "too quiet: {tally:?}");
    ensure!(tally.repeats > 10 && tally.burnt > 0 && tally.displaced > 0, "{tally:?}");
    let left = levels(&mut chain)[0];
    ensure!(chain.compare_all_keys()? == left, "keys were lost");
    Ok(())
}

#[test]
fn no_crash_breaks_the_chain() -> Result<()> {
    for seed in 0..6 {
        storm(seed).map_err(|error| error.context(format!("seed {seed}")))?;
    }
    Ok(())
}
