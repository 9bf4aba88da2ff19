//! Folders, files and values that are not as they should be: the cause and the remedy in one
//! message, and nothing made worse.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind::NotFound;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use crate::network::{Network, Role};
use crate::parties::{App, Operator, PATIENCE, StoredReading};
use crate::place::{Place, utf8};
use crate::process::{Ended, Process, claviger, eventually, run};
use crate::up::summary;

/// Starts a role that will not run, and returns its last words.
fn refused(place: &Place, role: Role) -> Ended {
    let config = place.layout().config(role.names().0);
    let arguments = ["run", role.names().1, "--config", utf8(&config)];
    let name = format!("{role:?}-refused-{}", fs::read_dir(place.logs()).unwrap().count());
    Process::start(&place.logs(), &name, &mut claviger(&arguments)).wait(PATIENCE)
}

fn assert_refused(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.lines().any(|line| line.starts_with("error: ")), "{ended:?}");
    for part in parts {
        assert!(ended.err.contains(part), "`{part}` is missing in {}", ended.err);
    }
}

/// Makes a KME with a store of some pages.
fn with_store() -> Place {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let mut network = Network::with_frozen_keys(&place, &[], 1);
    network.stop(Role::KmeA);
    place
}

#[test]
fn a_damaged_store_is_named_with_its_remedy() {
    let place = with_store();
    let folder = place.layout().folder("site-a/kme");
    let (database, key) = (folder.join("store.db"), folder.join("store.key"));
    let (whole, secret) = (fs::read(&database).unwrap(), fs::read(&key).unwrap());
    let length = u64::try_from(whole.len()).unwrap();
    let file = || File::options().write(true).open(&database).unwrap();
    let named = [utf8(&database), "corrupt", "restore it from a backup"];

    file().write_all_at(b"no database", 0).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &named);
    fs::write(&database, &whole).unwrap();
    file().write_all_at(&[0xA5; 8192], 4096).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &named);
    fs::write(&database, &whole).unwrap();
    file().set_len(length / 2 + 100).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &named);
    fs::write(&database, &whole).unwrap();

    fs::write(&key, [7; 32]).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &[utf8(&key), "does not fit the store"]);
    fs::write(&key, [7; 3]).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &[utf8(&key), "32 bytes"]);
    fs::remove_file(&key).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &[utf8(&key)]);
    fs::write(&key, &secret).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &["can be read by others", "chmod 600"]);
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();

    // Mended, it goes on; and one process at a time has it.
    let _network = Network::start(&place, &[Role::KmeA]);
    eventually("the mended KME", PATIENCE, || App::a(&place).stored());
    assert_refused(&refused(&place, Role::KmeA), &[utf8(&folder), "in use", "stop that one"]);
}

#[test]
fn a_restored_copy_is_refused_until_both_sites_are_reset() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let mut network = Network::with_frozen_keys(&place, &[], 30);
    let database = place.layout().folder("site-a/kme").join("store.db");
    network.stop(Role::KmeA);
    let old = fs::read(&database).unwrap();
    network.begin(Role::KmeA);
    let (a, b) = (App::a(&place), App::b(&place));
    let key = a.get_soon(1).remove(0);
    eventually("the copy", PATIENCE, || b.fetch(key.id).ok());
    network.stop(Role::KmeA);
    fs::write(&database, old).unwrap();
    network.begin(Role::KmeA);

    for (site, app) in [("A", &a), ("B", &b)] {
        let told = eventually("the refusal", PATIENCE, || {
            app.get(1).err().map(|error| error.to_string()).filter(|e| e.contains("rolled back"))
        });
        assert!(told.contains("claviger kme reset"), "{site}: {told}");
    }
    let reset = |kme: &str| {
        let config = place.layout().config(kme);
        run(&mut claviger(&["kme", "reset", "--config", utf8(&config)]))
    };
    assert_refused(&reset("site-a/kme"), &["in use", "stop the key management entity"]);
    for (kme, role) in [("site-a/kme", Role::KmeA), ("site-b/kme", Role::KmeB)] {
        network.stop(role);
        let ended = reset(kme);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("a new generation begun"), "{ended:?}");
    }
    for role in Role::LINK {
        network.begin(role);
    }
    let fresh = a.get_soon(1).remove(0);
    let copy = eventually("the copy", PATIENCE, || b.fetch(fresh.id).ok());
    assert!(copy.key.ct_eq(&fresh.key) && !copy.key.ct_eq(&key.key));
}

/// Runs a whole network, and puts an older copy of the store of `role` in place of its own.
fn with_an_old_copy<'a>(place: &'a Place, role: Role) -> Network<'a> {
    place.init(&["--simulated-speed", "10", "--devices", "2", "--renew", "2s"]);
    let mut network = Network::start(place, &Role::ALL);
    let operator = Operator::of(place);
    let n_readings = |more_than: usize| {
        let what = format!("more than {more_than} readings");
        let all =
            eventually(&what, PATIENCE, || operator.readings(0).filter(|a| a.len() > more_than));
        all.len()
    };
    let first = n_readings(3);
    let database = place.layout().folder(role.names().0).join("store.db");
    network.stop(role);
    let old = fs::read(&database).unwrap();
    network.begin(role);
    n_readings(first + 3);
    network.stop(role);
    fs::write(&database, old).unwrap();
    network.begin(role);
    network
}

fn assert_restoration_is_told(network: &Network<'_>, whose: &str) {
    for role in [Role::Gateway, Role::Platform] {
        let told = format!("the store of the {whose} was lost, or is an old copy");
        eventually(&told, PATIENCE, || network.log(role).contains(&told).then_some(()));
    }
}

/// Every device is read under keys that are newer than all so far, and no reading is stored twice.
fn assert_devices_carry_on(place: &Place, network: &mut Network<'_>) {
    let operator = Operator::of(place);
    let epochs = |all: &[StoredReading]| {
        let mut newest = BTreeMap::<String, u32>::new();
        for reading in all {
            let epoch = newest.entry(reading.eui.clone()).or_default();
            *epoch = (*epoch).max(reading.epoch);
        }
        newest
    };
    // Nothing may be left of the old store when this begins.
    let before = eventually("two devices", PATIENCE, || {
        let newest = epochs(&operator.readings(0)?);
        (newest.len() == 2).then_some(newest)
    });
    let after = eventually("both two keys further", PATIENCE, || {
        let newest = epochs(&operator.readings(0)?);
        let is_further = |(eui, epoch): (&String, &u32)| newest.get(eui) >= Some(&(epoch + 2));
        before.iter().all(is_further).then_some(newest)
    });
    assert_eq!(after.len(), 2);
    let mut seen = BTreeSet::new();
    for reading in operator.readings(0).unwrap() {
        let name = (reading.eui.clone(), reading.epoch, reading.counter);
        assert!(seen.insert(name), "{reading:?} is stored twice");
    }
    network.assert_all_run();
}

#[test]
fn a_platform_on_an_old_copy_is_told_and_its_devices_carry_on() {
    let place = Place::new();
    let mut network = with_an_old_copy(&place, Role::Platform);
    assert_restoration_is_told(&network, "platform");
    assert_devices_carry_on(&place, &mut network);
}

#[test]
fn a_gateway_on_an_old_copy_is_told_and_its_devices_carry_on() {
    let place = Place::new();
    let mut network = with_an_old_copy(&place, Role::Gateway);
    assert_restoration_is_told(&network, "gateway");
    assert_devices_carry_on(&place, &mut network);
}

#[test]
fn devices_carry_on_when_gateway_and_platform_are_lost_one_after_the_other() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--devices", "2", "--renew", "2s"]);
    let mut network = Network::start(&place, &Role::ALL);
    for (role, whose) in [(Role::Gateway, "gateway"), (Role::Platform, "platform")] {
        assert_devices_carry_on(&place, &mut network);
        network.stop(role);
        for file in ["store.db", "store.db-wal", "store.db-shm", "store.key"] {
            let path = place.layout().folder(role.names().0).join(file);
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), NotFound, "{file}: {error}"),
            }
        }
        network.begin(role);
        // The other one has noticed; an empty store has nothing to begin anew.
        let told = format!("the store of the {whose} was lost, or is an old copy");
        eventually(&told, PATIENCE, || {
            let logs = [Role::Gateway, Role::Platform].map(|role| network.log(role));
            logs.iter().any(|log| log.contains(&told)).then_some(())
        });
        assert_devices_carry_on(&place, &mut network);
    }
}

#[test]
fn a_platform_without_its_recovery_key_says_what_to_do() {
    let place = Place::new();
    place.init(&[]);
    let path = place.layout().folder("site-b/platform").join("recovery.key");
    fs::write(&path, [7; 31]).unwrap();
    assert_refused(
        &refused(&place, Role::Platform),
        &[utf8(&path), "32 bytes", "put the right copy"],
    );
    fs::remove_file(&path).unwrap();
    let parts = [utf8(&path), "cannot be read", "put the copy back"];
    assert_refused(&refused(&place, Role::Platform), &parts);
}

/// The roles whose stores can be put back, with what the summary says then.
const RESTORED: [(&str, [&str; 2]); 2] = [
    ("site-a/kme", ["the key store of site A was rolled back", "`claviger kme reset`"]),
    ("site-b/kme", ["the key store of site B was rolled back", "`claviger kme reset`"]),
];

#[test]
fn a_restored_key_store_spoils_the_verdict_of_a_run() {
    let place = Place::new();
    let up = |length: &str| {
        let quick = ["--devices", "2", "--renew", "2s", "--simulated-speed", "10", "--json"];
        place.up(&[&quick[..], &["--for", length]].concat()).wait(3 * PATIENCE)
    };
    let store = |role| place.layout().folder(role).join("store.db");
    assert_eq!(up("6s").code, Some(0));
    let old = RESTORED.map(|(role, _)| fs::read(store(role)).unwrap());
    let others = ["site-a/qkd", "site-b/platform", "site-a/gateway"];
    let old_others = others.map(|role| (role, fs::read(store(role)).unwrap()));
    assert_eq!(up("6s").code, Some(0));
    for ((role, told), old) in RESTORED.into_iter().zip(old) {
        let newest = fs::read(store(role)).unwrap();
        fs::write(store(role), old).unwrap();
        let ended = up("5s");
        assert_eq!(ended.code, Some(1), "{role}: {ended:?}");
        let reasons = summary(&ended)["reasons"].to_string();
        assert!(told.iter().all(|part| reasons.contains(part)), "{role}: {reasons}");
        fs::write(store(role), newest).unwrap();
    }
    // A QKD node learns from the other end which numbers it has forgotten, gateway and platform are given their
    // devices again, and all go on.
    for (role, old) in old_others {
        fs::write(store(role), old).unwrap();
        let ended = up("8s");
        assert_eq!(ended.code, Some(0), "{role}: {ended:?}");
    }
}

#[test]
fn a_restored_node_goes_on() {
    let place = Place::new();
    let mut network = with_an_old_copy(&place, Role::QkdA);
    let blocks = |network: &Network<'_>| {
        [Role::KmeA, Role::KmeB].map(|kme| network.log(kme).matches("BlockCommitted").count())
    };
    let before = blocks(&network);
    // The other end has not forgotten the numbers of the blocks since the copy, so none comes again.
    eventually("two more blocks", 3 * PATIENCE, || {
        let now = blocks(&network);
        (now.iter().zip(before).all(|(now, before)| *now >= before + 2)).then_some(())
    });
    let key = App::a(&place).get_soon(1).remove(0);
    let copy = eventually("the copy", PATIENCE, || App::b(&place).fetch(key.id).ok());
    assert!(copy.key.ct_eq(&key.key));
    network.assert_all_run();
}

#[test]
fn every_wrong_value_is_named_at_once() {
    let place = Place::new();
    place.init(&["--danger-idq3p"]);
    let change = |role: Role, changes: &[(&str, &str)]| {
        let path = place.layout().config(role.names().0);
        let text = fs::read_to_string(&path).unwrap();
        let line = |line: &str| {
            let key = line.split(" = ").next().unwrap_or_default();
            let value = changes.iter().find(|(name, _)| *name == key);
            value.map_or_else(|| line.to_owned(), |(name, value)| format!("{name} = {value}"))
        };
        let changed: Vec<String> = text.lines().map(line).collect();
        fs::write(path, changed.join("\n")).unwrap();
    };
    for (role, changes, parts) in [
        (
            Role::KmeA,
            &[("https_listen", "\"here\""), ("capacity_bits", "12")][..],
            &["https_listen = \"here\"", "such as 127.0.0.1:8443", "capacity_bits = 12"][..],
        ),
        (
            Role::KmeB,
            &[("danger_idq3p_listen", "\"0.0.0.0:5323\"")],
            &["danger_idq3p_listen = 0.0.0.0:5323", "loopback"],
        ),
        (
            Role::Fibre,
            &[("eve_fraction", "1.5"), ("simulated_speed", "0.0")],
            &["eve_fraction = 1.5", "simulated_speed = 0"],
        ),
        (Role::QkdA, &[("preset", "\"lob\"")], &["preset = \"lob\"", "lab, city"]),
        (Role::Gateway, &[("renew_s", "0.0")], &["renew_s = 0", "0.1 s and a year"]),
        (Role::Platform, &[("kme_url", "\"http://x\"")], &["kme_url", "https://HOST:PORT"]),
        (
            Role::Platform,
            &[("controller_url", "\"https://x/\""), ("policy", "\"two words\"")],
            &["enrolment.controller_url", "enrolment.policy", "the name of a policy"],
        ),
        (Role::Lan, &[("edges", "0"), ("listen", "\"0.0.0.0:1\"")], &["edges = 0", "loopback"]),
        (Role::Devices, &[("devices", "0")], &["devices = 0", "between 1 and 100000"]),
    ] {
        change(role, changes);
        let ended = refused(&place, role);
        let path = place.layout().config(role.names().0);
        assert_refused(&ended, &[&[utf8(&path)], parts].concat());
    }
    let kme = place.layout().config("site-a/kme");
    fs::write(&kme, "colour = \"blue\"\n").unwrap();
    assert_refused(&refused(&place, Role::KmeA), &["colour", "unknown field", "https_listen"]);
    fs::remove_file(&kme).unwrap();
    assert_refused(&refused(&place, Role::KmeA), &[utf8(&kme), "cannot be read"]);
}

#[test]
fn a_state_that_can_be_no_folder_is_refused() {
    let place = Place::new();
    let file = place.logs().join("file");
    fs::write(&file, "not a folder").unwrap();
    for state in [utf8(&file), "/proc/claviger"] {
        let ended = run(&mut claviger(&["up", "--for", "1s", "--state", state]));
        assert_refused(&ended, &[state, "choose a folder that you may write to with --state"]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"not a folder");
}

#[test]
fn each_site_opens_only_its_own_folder() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--devices", "2", "--renew", "2s"]);
    let (here, away) = (place.layout().folder("site-a"), place.logs().join("site-a"));
    let carry = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    carry(&here, &away);
    let mut network = Network::start(&place, &[Role::KmeB, Role::QkdB, Role::Platform]);
    let b = App::b(&place);
    eventually("site B without site A", PATIENCE, || b.status().ok());
    let alone = b.get(1).unwrap_err().to_string();
    assert!(alone.contains("the peer KME cannot be reached"), "{alone}");
    carry(&away, &here);
    for role in [Role::Gateway, Role::KmeA, Role::QkdA, Role::Fibre] {
        network.begin(role);
    }
    let key = App::a(&place).get_soon(1).remove(0);
    let copy = eventually("the copy", PATIENCE, || b.fetch(key.id).ok());
    assert!(copy.key.ct_eq(&key.key));
    network.assert_all_run();
}
