//! A device that none of our Rust runs on: `firmware/fipy` in MicroPython, against gateway and platform.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bytes::{contains, hex};
use crate::network::{Network, Role};
use crate::parties::{Operator, OurDevice, PATIENCE};
use crate::place::{Place, utf8};
use crate::process::{Ended, eventually, python, run};

fn firmware() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware/fipy")
}

/// Runs a program of the firmware, with stand-ins for what is the board's.
fn micropython(program: &str, flash: &Path) -> Ended {
    let mut command = Command::new(python().with_file_name("micropython"));
    command.current_dir(firmware()).arg(program);
    command.env("MICROPYPATH", ".frozen:standins:.").env("CLAVIGER_FLASH", flash);
    run(&mut command)
}

#[test]
fn its_own_tests_pass_with_micropython() {
    let place = Place::new();
    for program in ["tests/test_vectors.py", "tests/test_flash.py"] {
        let ended = micropython(program, &place.scratch(&program.replace('/', "-")));
        let passed = ended.out.trim().strip_suffix(" passed").and_then(|n| n.parse().ok());
        assert_eq!(ended.code, Some(0), "{program}: {ended:?}");
        assert!(passed.is_some_and(|passed: u32| passed > 50), "{program}: {ended:?}");
    }
}

#[test]
fn a_sensor_wakes_gets_a_fresh_key_and_is_read_with_micropython() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10", "--renew", "2s"]);
    let roles =
        [&Role::LINK[..], &[Role::Platform, Role::Gateway, Role::Controller, Role::Lan]].concat();
    let mut network = Network::start(&place, &roles);
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));

    let flash = place.scratch("flash");
    let gateway = place.layout().folder("site-a/gateway");
    let converted = run(Command::new("openssl")
        .args(["x509", "-in", utf8(&gateway.join("ca.pem")), "-outform", "der", "-out"])
        .arg(flash.join("ca.der")));
    assert_eq!(converted.code, Some(0), "{converted:?}");
    let port = place.ports().gateway_mqtt.port();
    let config =
        format!(r#"{{"host": "localhost", "port": {port}, "period_s": 2, "patience_s": 20}}"#);
    std::fs::write(flash.join("config.json"), config).unwrap();
    let bootstrap = hex(device.bootstrap.expose());
    let label = format!(r#"{{"eui": "{}", "bootstrap": "{bootstrap}"}}"#, device.eui);
    std::fs::write(flash.join("label.json"), label).unwrap();

    // The gateway may not have adopted it at the first wake, and a key is ready a moment after the last.
    let mut epochs = Vec::new();
    eventually("three epochs", PATIENCE, || {
        let wake = micropython("main.py", &flash);
        assert_eq!(wake.code, Some(0), "{wake:?}");
        assert!(wake.out.contains("sleeps for"), "{wake:?}");
        let read = wake.out.lines().find_map(|line| line.strip_prefix("epoch "));
        epochs.extend(read.and_then(|line| line.strip_suffix(" read")?.parse::<u32>().ok()));
        (epochs.iter().max() >= Some(&3)).then_some(())
    });
    assert!(epochs.is_sorted(), "{epochs:?}");
    let eui = device.eui.to_string();
    let readings = eventually("its readings", PATIENCE, || {
        let own: Vec<_> = operator.readings(0)?.into_iter().filter(|r| r.eui == eui).collect();
        (own.len() == epochs.len()).then_some(own)
    });
    for (reading, epoch) in readings.iter().zip(&epochs) {
        // The next key may have come between the reading and its acknowledgement.
        assert!([reading.epoch, reading.epoch + 1].contains(epoch), "{reading:?} at {epoch}");
        assert!((reading.temperature_c + 3.25).abs() < 1e-9, "{reading:?}");
        assert_eq!((reading.light_lux, reading.key_origin.as_str()), (1200, "simulated"));
    }
    // The label is gone, and with it what would open every later key.
    assert!(!flash.join("label.json").exists());
    for slot in ["claviger.a", "claviger.b"] {
        let bytes = std::fs::read(flash.join(slot)).unwrap();
        assert_eq!(bytes.len(), 92);
        assert!(!contains(&bytes, device.bootstrap.expose()), "{slot} holds the bootstrap key");
    }
    network.assert_all_run();
}
