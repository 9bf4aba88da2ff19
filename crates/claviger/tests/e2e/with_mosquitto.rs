//! MQTT with mosquitto's clients, which nobody here wrote: frames are seen, readings are not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use claviger_frames::{Epoch, EpochKeys, PskIdentity, PskVersion, Reading, key_frame, telemetry};
use claviger_units::Timestamp;

use crate::bytes::{contains, from_hex, hex};
use crate::network::{Network, Role};
use crate::parties::{Operator, OurDevice, PATIENCE, StoredReading};
use crate::place::{Place, utf8};
use crate::process::{Ended, Process, claviger, eventually, run};

fn command(place: &Place, program: &str, arguments: &[&str]) -> Command {
    let ca = place.layout().folder("site-a/gateway").join("ca.pem");
    let port = place.ports().gateway_mqtt.port().to_string();
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-p", &port, "--cafile", utf8(&ca)]).args(arguments);
    command
}

fn mosquitto(place: &Place, program: &str, arguments: &[&str]) -> Ended {
    run(&mut command(place, program, arguments))
}

fn viewer_password(place: &Place) -> String {
    let path = place.layout().folder("site-a/gateway").join("viewer.password");
    fs::read_to_string(path).unwrap()
}

/// Returns the bytes that a device sealed.
fn plaintext(reading: &StoredReading) -> Vec<u8> {
    let rounded = |value: f64| format!("{value:.0}").parse::<i64>().unwrap();
    let reading = Reading {
        temperature_centi_c: rounded(100.0 * reading.temperature_c).try_into().unwrap(),
        humidity_permille: rounded(10.0 * reading.humidity_pct).try_into().unwrap(),
        light_lux: reading.light_lux,
        battery_mv: reading.battery_mv,
        taken: Timestamp::from_micros(rounded(1e6 * reading.taken_s).try_into().unwrap()),
    };
    reading.encode()
}

#[test]
fn a_viewer_sees_frames_and_no_reading() {
    let place = Place::new();
    let _up = place.up(&["--devices", "4", "--renew", "2s", "--simulated-speed", "10"]);
    let operator = eventually("the operator", PATIENCE, || {
        place.layout().is_complete().is_ok_and(|whole| whole).then(|| Operator::of(&place))
    });
    eventually("a reading", PATIENCE, || operator.readings(0).filter(|all| !all.is_empty()));
    let password = viewer_password(&place);
    let log_in = ["-u", "viewer", "-P", &password];
    let watch = ["-t", "claviger/v1/+/up", "-F", "%t %x", "-C", "12", "-W", "30", "-q", "1"];
    let seen = mosquitto(&place, "mosquitto_sub", &[&log_in[..], &watch].concat());
    assert_eq!(seen.out.lines().count(), 12, "{seen:?}");

    // Each frame that was seen belongs to a reading, and does not show it.
    let mut frames = BTreeMap::new();
    for line in seen.out.lines() {
        let (topic, payload) = line.split_once(' ').unwrap();
        let eui = topic.split('/').nth(2).unwrap().to_owned();
        let frame = from_hex(payload);
        let header = telemetry::peek(&frame).unwrap();
        frames.insert((eui, header.epoch.number(), header.counter), frame);
    }
    let mut in_clear = Vec::new();
    for (place, frame) in &frames {
        let reading = eventually("the reading of a frame", PATIENCE, || {
            let readings = operator.readings(0)?;
            let name = |r: &StoredReading| (r.eui.clone(), r.epoch, r.counter);
            readings.into_iter().find(|reading| name(reading) == *place)
        });
        let plain = plaintext(&reading);
        assert!(plain.len() > 20 && frame.len() > plain.len(), "{reading:?}");
        in_clear.push(plain);
    }
    for (frame, plain) in frames.values().flat_map(|f| in_clear.iter().map(move |p| (f, p))) {
        // The time alone has eight bytes, and would already tell one reading from another.
        let parts = plain.windows(8).filter(|part| contains(frame, part));
        assert_eq!(parts.count(), 0, "{plain:x?} shows in {frame:x?}");
    }
}

#[test]
fn nobody_may_do_more_than_his_part() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let roles =
        [&Role::LINK[..], &[Role::Platform, Role::Gateway, Role::Controller, Role::Lan]].concat();
    let _network = Network::start(&place, &roles);
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    device.first_key(); // from now on the gateway knows the device
    let (eui, password) = (device.eui.to_string(), viewer_password(&place));
    let proof = device.first_secret().mqtt_password(device.eui);
    let viewer = ["-u", "viewer", "-P", &password];
    let own = ["-u", &eui, "-i", &eui, "-P", &proof];
    let topic = |eui: &str, leaf: &str| format!("claviger/v1/{eui}/{leaf}");
    let (up, key) = (topic(&eui, "up"), topic(&eui, "key"));
    let (foreign_up, foreign_key) =
        (topic("02005efffe100001", "up"), topic("02005efffe100001", "key"));
    let publish = |who: &[&str], topic: &str| {
        let what = ["-V", "5", "-q", "1", "-m", "x", "-t", topic];
        mosquitto(&place, "mosquitto_pub", &[who, &what].concat())
    };
    let subscribe = |who: &[&str], filter: &str| {
        let what = ["-V", "5", "-W", "1", "-t", filter];
        mosquitto(&place, "mosquitto_sub", &[who, &what].concat())
    };

    // With the pre-shared key of the epoch; the frame that waits is pushed as soon as it is asked for.
    let psk = |user: &str, device: &OurDevice| {
        // Its clients speak TLS 1.3 where they can.
        let (version, secret) = (PskVersion::Tls13, device.first_secret());
        let identity = PskIdentity { eui: device.eui, epoch: Epoch::new(0), version };
        let key = hex(secret.pre_shared_key(version).expose());
        let (port, topic) = (place.ports().gateway_mqtt_psk.port().to_string(), topic(user, "key"));
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port, "--psk", &key]);
        command.args(["--psk-identity", &identity.to_string(), "-u", user, "-i", user]);
        command.args(["-P", &proof, "-t", &topic, "-q", "1", "-C", "1", "-W", "10", "-F", "%x"]);
        run(&mut command)
    };
    let pushed = psk(&eui, &device);
    let frame = from_hex(pushed.out.trim());
    let opened = key_frame::open(&device.first_secret(), Epoch::new(0), &frame);
    assert!(opened.is_ok(), "{pushed:?}");
    let foreign = psk("02005efffe100001", &device);
    assert!(foreign.code != Some(0) && foreign.out.is_empty(), "{foreign:?}");

    // `-W 1`: whoever may listen hears nothing for a second and goes, with code 27.
    let heard = subscribe(&viewer, "claviger/v1/+/up");
    assert_eq!(heard.code, Some(27), "{heard:?}");
    assert_eq!(subscribe(&own, &key).code, Some(27));
    for (who, filter) in [
        (&viewer[..], "#"),
        (&viewer, "$SYS/#"),
        (&own, &foreign_key),
        (&own, &up),
        (&own, "claviger/v1/+/key"),
        (&own, "#"),
    ] {
        let refused = subscribe(who, filter);
        assert!(refused.err.contains("denied"), "{filter}: {refused:?}");
        assert!(refused.out.is_empty(), "{filter}: {refused:?}");
    }
    for (who, topic) in [(&viewer[..], &up), (&viewer, &key), (&own, &foreign_up), (&own, &key)] {
        let refused = publish(who, topic);
        assert!(refused.err.contains("Not authorized"), "{topic}: {refused:?}");
    }
    let wrong = viewer_password(&place).replace(|_: char| true, "0");
    for who in [
        &["-u", "viewer", "-P", &wrong][..],
        &["-u", "viewer"],
        &[],
        &["-u", &eui, "-i", &eui, "-P", &wrong],
        &["-u", &eui, "-i", "another", "-P", &proof],
        &["-u", "02005efffe100001", "-i", "02005efffe100001", "-P", &proof],
        &["-u", "gateway", "-P", &password],
    ] {
        let refused = subscribe(who, "claviger/v1/+/up");
        assert!(refused.code != Some(0) && refused.out.is_empty(), "{who:?}: {refused:?}");
        assert!(refused.err.contains("uthori"), "{who:?}: {refused:?}");
    }
}

/// What a device of the demonstration publishes reaches the viewer while a stranger tries to talk
/// in between.
#[test]
fn what_is_refused_reaches_nobody() {
    let place = Place::new();
    place.init(&["--simulated-speed", "10"]);
    let roles =
        [&Role::LINK[..], &[Role::Platform, Role::Gateway, Role::Controller, Role::Lan]].concat();
    let _network = Network::start(&place, &roles);
    let (operator, device) = (Operator::of(&place), OurDevice::new(&place));
    eventually("the platform", PATIENCE, || operator.provision(&device).filter(|s| *s == 201));
    device.first_key();
    let (eui, password) = (device.eui.to_string(), viewer_password(&place));
    let proof = device.first_secret().mqtt_password(device.eui);
    let watch = ["-u", "viewer", "-P", &password, "-t", "claviger/v1/#", "-F", "%t %p"];
    let sub = &mut command(&place, "mosquitto_sub", &watch);
    let viewer = Process::start(&place.logs(), "viewer", sub);
    let up = format!("claviger/v1/{eui}/up");
    let say = |who: &[&str], text: &str| {
        let what = ["-V", "5", "-q", "1", "-t", &up, "-m", text];
        mosquitto(&place, "mosquitto_pub", &[who, &what].concat())
    };
    let own = ["-u", &eui, "-i", &eui, "-P", &proof];
    let heard = |text: &str| Some(viewer.out()).filter(|out| out.contains(text));
    eventually("the subscription", PATIENCE, || {
        say(&own, "first");
        heard("first")
    });
    say(&["-u", "viewer", "-P", &password], "forged by the viewer");
    say(&["-u", &eui, "-i", &eui, "-P", "guessed"], "forged by a stranger");
    say(&own, "last");
    let all = eventually("the device", PATIENCE, || heard("last"));
    assert!(!all.contains("forged"), "{all}");
    // Neither is a frame: the platform stores nothing of them.
    assert_eq!(operator.readings(0).unwrap().len(), 0);
}

/// A broker of mosquitto that listens at a port of this place that nothing else uses, with the certificate of a
/// role.
fn begin_broker(place: &Place, name: &str, folder: &str, port: u16) -> Process {
    let files = place.logs().join(name);
    fs::create_dir_all(&files).unwrap();
    let identity = place.layout().folder(folder);
    let [ca, certificate, key] =
        ["ca.pem", "identity.pem", "identity.key"].map(|file| identity.join(file));
    let (rules, config) = (files.join("acl"), files.join("mosquitto.conf"));
    let everything = |user: &str| format!("user {user}\ntopic readwrite claviger/v1/#\n");
    let own = "pattern write claviger/v1/%u/up\npattern read claviger/v1/%u/key\n";
    fs::write(&rules, [&everything("gateway"), &everything("platform"), own].concat()).unwrap();
    // Whoever a device is shows in what it seals; with another broker its log-in is that broker's matter.
    let text = format!(
        "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nallow_anonymous true\nacl_file {}\n\
         persistence true\npersistence_location {}/\nmax_queued_messages 10000\nuser root\n",
        utf8(&ca),
        utf8(&certificate),
        utf8(&key),
        utf8(&rules),
        utf8(&files)
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&rules, Permissions::from_mode(0o600)).unwrap();
    let command = &mut Command::new("mosquitto");
    let mut broker = Process::start(&place.logs(), name, command.args(["-v", "-c", utf8(&config)]));
    eventually(&format!("the broker {name}"), PATIENCE, || {
        assert_eq!(broker.ended(), None, "the broker {name} has ended by itself");
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    broker
}

/// Adds a broker to a configuration.
fn use_broker(place: &Place, folder: &str, section: &str, port: u16, user: &str) {
    let path = place.layout().config(folder);
    let text = fs::read_to_string(&path).unwrap();
    let broker = format!("\n[{section}]\naddress = \"localhost:{port}\"\nuser = \"{user}\"\n");
    fs::write(&path, text + &broker).unwrap();
    fs::write(place.layout().folder(folder).join("broker.password"), "of that broker\n").unwrap();
}

/// Readings by device and epoch: which counters have come.
fn counters(operator: &Operator) -> Option<BTreeMap<(String, u32), BTreeSet<u32>>> {
    let mut all = BTreeMap::<_, BTreeSet<u32>>::new();
    for reading in operator.readings(0)? {
        all.entry((reading.eui, reading.epoch)).or_default().insert(reading.counter);
    }
    Some(all)
}

/// Waits until every device is read under an epoch above `epoch`.
fn await_epoch(operator: &Operator, n_devices: usize, epoch: u32) -> u32 {
    eventually(&format!("all devices beyond epoch {epoch}"), 3 * PATIENCE, || {
        let all = counters(operator)?;
        let newer: BTreeSet<&String> =
            all.keys().filter(|(_, of)| *of > epoch).map(|(eui, _)| eui).collect();
        (newer.len() == n_devices).then(|| all.keys().map(|(_, of)| *of).max().unwrap_or_default())
    })
}

/// Waits until a broker has logged `what` six times more than now: two readings of each of three devices.
fn await_six(broker: &Process, what: &str) {
    let n_times = || broker.err().matches(what).count();
    let before = n_times();
    eventually(what, PATIENCE, || (n_times() >= before + 6).then_some(()));
}

#[test]
fn brokers_of_another_maker_serve_on_both_sides_and_lose_nothing() {
    let place = Place::new();
    // By this path the devices' sessions are secured by certificates: a broker of another maker knows none of the
    // pre-shared keys, so that on the other paths the devices stay at the gateway's own.
    let keys_by = ["--keys-by", "https"];
    let quick = ["--simulated-speed", "10", "--devices", "3", "--renew", "2s"];
    place.init(&[&quick[..], &keys_by].concat());
    // Ports of the row that only `--danger-idq3p` would use.
    let (near, far) = (place.ports().idq3p_a.port(), place.ports().idq3p_b.port());
    use_broker(&place, "site-a/gateway", "device_broker", near, "gateway");
    use_broker(&place, "site-a/gateway", "platform_broker", far, "gateway");
    use_broker(&place, "site-b/platform", "broker", far, "platform");
    let devices = place.layout().config("devices");
    let text = fs::read_to_string(&devices).unwrap();
    let line = |line: &str| match line.split(" = ").next() {
        Some("gateway_mqtt") => format!("gateway_mqtt = \"127.0.0.1:{near}\""),
        _ => line.to_owned(),
    };
    fs::write(&devices, text.lines().map(line).collect::<Vec<_>>().join("\n")).unwrap();

    let near_broker = begin_broker(&place, "near", "site-a/gateway", near);
    let mut far_broker = begin_broker(&place, "far", "site-b/platform", far);
    let mut network = Network::start(&place, &Role::ALL);
    let operator = Operator::of(&place);
    let epoch = await_epoch(&operator, 3, 2);

    // Each outage lasts until something waits. The end asks for every reading.
    // The platform away: what is sent meanwhile waits at its broker.
    network.stop(Role::Platform);
    await_six(&far_broker, "Received PUBLISH from gateway");
    network.begin(Role::Platform);
    let epoch = await_epoch(&operator, 3, epoch + 1);
    // The gateway away: what is sent meanwhile waits at the devices' broker.
    network.kill(Role::Gateway);
    await_six(&near_broker, "Received PUBLISH from 02");
    network.begin(Role::Gateway);
    let epoch = await_epoch(&operator, 3, epoch + 1);
    // Its broker away: what is sent meanwhile waits at the gateway.
    assert_eq!(far_broker.terminate().code, Some(0));
    await_six(&near_broker, "Received PUBACK from gateway-up");
    let _far = begin_broker(&place, "far", "site-b/platform", far);
    await_epoch(&operator, 3, epoch + 1);

    network.stop(Role::Devices);
    let all = eventually("every reading", 2 * PATIENCE, || {
        let all = counters(&operator)?;
        let has_gap = |of: &BTreeSet<u32>| !of.iter().copied().eq(0..=*of.last().unwrap());
        (!all.values().any(has_gap)).then_some(all)
    });
    assert!(all.len() > 15, "{all:?}");
    network.assert_all_run();
}

#[test]
fn a_broker_without_a_password_file_or_in_clear_elsewhere_is_named() {
    let place = Place::new();
    place.init(&[]);
    use_broker(&place, "site-b/platform", "broker", 1883, "platform");
    let config = place.layout().config("site-b/platform");
    let start = || run(&mut claviger(&["run", "platform", "--config", utf8(&config)]));
    let password = place.layout().folder("site-b/platform").join("broker.password");
    fs::remove_file(&password).unwrap();
    let ended = start();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("broker.password") && ended.err.contains("mode 600"), "{ended:?}");
    let text = fs::read_to_string(&config).unwrap().replace("localhost:1883", "b.example:1883");
    fs::write(&config, text + "danger_in_clear = true\n").unwrap();
    let ended = start();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("broker.danger_in_clear") && ended.err.contains("TLS"), "{ended:?}");
    // One broker on both sides would give every reading back.
    for section in ["device_broker", "platform_broker"] {
        use_broker(&place, "site-a/gateway", section, 1883, "gateway");
    }
    let config = place.layout().config("site-a/gateway");
    let ended = run(&mut claviger(&["run", "gateway", "--config", utf8(&config)]));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("platform_broker.address"), "{ended:?}");
    assert!(ended.err.contains("round for ever"), "{ended:?}");
}
