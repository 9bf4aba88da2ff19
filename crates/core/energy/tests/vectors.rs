//! The model against numbers that were computed elsewhere from the same assumptions.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, also in its helpers")]

use claviger_energy::{Cost, Day, Profile, RadioInCrypto, Schedule, Way};
use claviger_units::Span;

const CELLS: &str = include_str!("../../../../vectors/vectors_energy_cells.csv");
const DAYS: &str = include_str!("../../../../vectors/vectors_energy_day.csv");

fn profile(ecc: &str) -> Profile {
    let name = match ecc {
        "wolfssl2019" => "reference",
        "fast(x5)" => "reference-fast-ecc",
        other => panic!("{other}"),
    };
    Profile::named(name).unwrap()
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().skip(1).map(|line| line.split(',').collect())
}

fn assert_close(found: f64, expected: &str, what: &[&str]) {
    let expected: f64 = expected.parse().unwrap();
    let error = (found - expected).abs();
    assert!(error <= 1e-9 * expected.abs().max(1e-3), "{what:?}: {found}, expected {expected}");
}

#[test]
fn one_key_costs_what_the_reference_says() {
    let mut n_rows = 0;
    for row in rows(CELLS) {
        let [way, ecc, crypto, awake, air, bytes, on_mc, off_mc, on_mj, off_mj] = row[..] else {
            panic!("{row:?}")
        };
        let profile = profile(ecc);
        let cost = Cost::of(way.parse::<Way>().unwrap(), &profile);
        assert_eq!(cost.ip_bytes.to_string(), bytes, "{row:?}");
        for (found, expected) in [
            (cost.public_key_s + cost.symmetric_s, crypto),
            (cost.awake_s, awake),
            (cost.air_s, air),
            (cost.charge_on_mc, on_mc),
            (cost.charge_off_mc, off_mc),
            (cost.energy_mj(RadioInCrypto::On, &profile), on_mj),
            (cost.energy_mj(RadioInCrypto::Off, &profile), off_mj),
        ] {
            assert_close(found, expected, &row);
        }
        n_rows += 1;
    }
    assert_eq!(n_rows, 22);
}

#[test]
fn a_day_costs_what_the_reference_says() {
    let mut n_rows = 0;
    for row in rows(DAYS) {
        let [way, baseline, ecc, period, renewals, awake_pct, off_pct, on_pct] = row[..] else {
            panic!("{row:?}")
        };
        let renewals: u64 = renewals.parse().unwrap();
        let wake = Span::from_secs(period.parse().unwrap());
        let schedule = Schedule::new(wake, Span::from_secs(86_400 / renewals)).unwrap();
        let profile = profile(ecc);
        let day = |way: &str| Day::of(way.parse().unwrap(), &profile, schedule).unwrap();
        let (day, baseline) = (day(way), day(baseline));
        for (found, expected) in [
            (100.0 * day.awake_change(&baseline), awake_pct),
            (100.0 * day.life_gain(&baseline, RadioInCrypto::Off), off_pct),
            (100.0 * day.life_gain(&baseline, RadioInCrypto::On), on_pct),
        ] {
            assert_close(found, expected, &row);
        }
        n_rows += 1;
    }
    assert_eq!(n_rows, 160);
}

/// The model says where it breaks even, and there it does.
#[test]
fn where_ways_break_even_they_cost_the_same() {
    let profile = Profile::named("reference").unwrap();
    let renewal = Span::from_secs(1_800);
    let day = |way, profile: &Profile, wake_s: f64| {
        let schedule = Schedule::new(Span::from_secs_f64(wake_s), renewal).unwrap();
        Day::of(way, profile, schedule).unwrap()
    };
    for radio in [RadioInCrypto::On, RadioInCrypto::Off] {
        let (push, dkg) = (day(Way::Push, &profile, 600.0), day(Way::Dkg, &profile, 600.0));
        let wake_s = push.wake_period_for(&dkg, 0.05, radio).unwrap();
        let (push, dkg) = (day(Way::Push, &profile, wake_s), day(Way::Dkg, &profile, wake_s));
        assert!((push.life_gain(&dkg, radio) - 0.05).abs() < 1e-6, "{wake_s}");

        // DKG is awake for longer than a push even with no cryptography at all.
        assert_eq!(push.equal_ecc_speed(&dkg, &profile, radio), None);
        let https = day(Way::Https, &profile, 600.0);
        assert_eq!(https.wake_period_for(&dkg, 0.01, radio), None);
        let psk = day(Way::Psk12, &profile, 600.0);
        let share = psk.equal_ecc_speed(&dkg, &profile, radio).unwrap();
        let faster = Profile {
            key_generation_ms: profile.key_generation_ms * share,
            agreement_ms: profile.agreement_ms * share,
            ..profile.clone()
        };
        let (a, b) = (Cost::of(Way::Psk12, &faster), Cost::of(Way::Dkg, &faster));
        assert!((a.charge_mc(radio) / b.charge_mc(radio) - 1.0).abs() < 1e-9);
    }
}

#[test]
fn a_day_has_24_hours_in_the_ledger_too() {
    let profile = Profile::named("fipy").unwrap();
    let schedule = Schedule::new(Span::from_secs(300), Span::from_secs(1_800)).unwrap();
    for way in Way::ALL {
        let day = Day::of(way, &profile, schedule).unwrap();
        for radio in [RadioInCrypto::On, RadioInCrypto::Off] {
            let ledger = day.ledger(radio);
            let error = (ledger.total().as_secs_f64() - 86_400.0).abs();
            assert!(error < 1e-3, "{way}: {error}");
            assert!(ledger.rdc_strict() <= ledger.awake_dc(), "{way}");
            let awake = ledger.awake_dc().as_f64() * 86_400.0;
            assert!((awake - day.awake_s).abs() < 1e-3, "{way}");
        }
    }
    let restless = Schedule::new(Span::from_secs(1), Span::from_secs(1)).unwrap();
    let told = Day::of(Way::Https, &profile, restless).unwrap_err().to_string();
    assert!(told.contains("https on fipy"), "{told}");
    assert!(Schedule::new(Span::from_millis(10), Span::from_secs(1)).is_err());
}
