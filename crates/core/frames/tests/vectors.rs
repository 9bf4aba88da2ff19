//! The golden file of the device protocol, which other implementations read too.
//!
//! To write it anew after a change of `PROTOCOL.md` P3:
//! `CLAVIGER_WRITE_VECTORS=1 cargo test -p claviger-frames --test vectors`

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use claviger_frames::telemetry::Algorithm;
use claviger_frames::{
    DataKeys, Door, Epoch, EpochKeys, GatewaySecret, PskIdentity, PskVersion, key_frame,
    oscore_id_context, split_bootstrap, telemetry,
};
use claviger_units::{Eui64, Key256};
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../vectors/device_protocol.json");

/// Counters at which the Partial IV grows by a byte, and a plaintext of another length for each.
const COUNTERS: [u32; 5] = [0, 1, 255, 256, 65_536];

#[test]
fn the_vector_file_is_what_the_code_says() {
    let ours = vectors();
    if std::env::var_os("CLAVIGER_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&ours).unwrap();
        std::fs::write(FILE, text + "\n").unwrap();
    }
    let text = std::fs::read_to_string(FILE).expect("vectors/device_protocol.json is there");
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(kept, ours, "{FILE} says otherwise; how to write it anew stands above this test");
}

/// One device through the bootstrap and three epochs, the last of which skips a number.
fn vectors() -> Value {
    let eui: Eui64 = "02005efffe100001".parse().unwrap();
    let bootstrap = Key256::from_bytes(counting(0x00));
    let (root, mut gateway) = split_bootstrap(&bootstrap);
    let mut vectors = json!({
        "source": "PROTOCOL.md P3; all byte strings in hex, whole numbers in decimal",
        "eui": eui.to_string(),
        "bootstrap_key": hex(bootstrap.expose()),
        "device_root": hex(root.as_key().expose()),
        "bootstrap_epoch": secrets_of(&gateway, eui, Epoch::BOOTSTRAP),
        "epochs": [],
    });
    let mut prev = Epoch::BOOTSTRAP;
    for (number, first_byte) in [(1, 0x40), (2, 0x60), (4, 0x80)] {
        let epoch = Epoch::new(number);
        let step = Step { prev, epoch, qkd: Key256::from_bytes(counting(first_byte)) };
        let next = gateway.next(&step.qkd, eui, prev, epoch);
        let data = DataKeys::derive(&root, &next, eui, epoch);
        let mut entry = step_of(&gateway, &step);
        merge(&mut entry, secrets_of(&next, eui, epoch));
        merge(&mut entry, data_of(&data, eui, epoch));
        vectors["epochs"].as_array_mut().unwrap().push(entry);
        (gateway, prev) = (next, epoch);
    }
    vectors
}

struct Step {
    prev: Epoch,
    epoch: Epoch,
    qkd: Key256,
}

/// How a QKD key reaches the device: from epoch `prev`, whose secret is `gateway`.
fn step_of(gateway: &GatewaySecret, step: &Step) -> Value {
    let iv = [u8::try_from(step.epoch.number()).unwrap(); 12];
    let frame = key_frame::seal(gateway, step.epoch, &step.qkd, iv);
    let compact = key_frame::seal_compact(gateway, step.epoch, &step.qkd);
    let iv_of_ccm = [u8::try_from(step.epoch.number()).unwrap(); 13];
    let by_ccm = key_frame::seal_ccm(gateway, step.epoch, &step.qkd, iv_of_ccm);
    for frame in [&frame[..], &by_ccm, &compact] {
        let (epoch, qkd) = key_frame::open(gateway, step.prev, frame).unwrap();
        assert!(epoch == step.epoch && qkd.ct_eq(&step.qkd));
    }
    json!({
        "prev": step.prev.number(),
        "qkd_key": hex(step.qkd.expose()),
        "key_frame_iv": hex(&iv),
        "key_frame": hex(&frame),
        "key_frame_ccm_iv": hex(&iv_of_ccm),
        "key_frame_ccm": hex(&by_ccm),
        "key_frame_compact": hex(&compact),
    })
}

/// What device, gateway and platform derive alike.
fn secrets_of(gateway: &GatewaySecret, eui: Eui64, epoch: Epoch) -> Value {
    let path = format!("/v1/devices/{eui}/key?have={epoch}");
    let request = format!("GET {path}");
    json!({
        "epoch": epoch.number(),
        "gateway_secret": hex(gateway.as_key().expose()),
        "request_key": hex(gateway.key_of(Door::Request).expose()),
        "request_mac": hex(&gateway.request_mac(&request)),
        "authorization": gateway.request_authorization(epoch, &path),
        "request": request,
        "mqtt_password": gateway.mqtt_password(eui),
        "psk12": hex(gateway.pre_shared_key(PskVersion::Tls12).expose()),
        "psk12_identity": PskIdentity { eui, epoch, version: PskVersion::Tls12 }.to_string(),
        "psk13": hex(gateway.pre_shared_key(PskVersion::Tls13).expose()),
        "psk13_identity": PskIdentity { eui, epoch, version: PskVersion::Tls13 }.to_string(),
        "oscore_master_secret": hex(gateway.oscore_master_secret().expose()),
        "oscore_id_context": hex(&oscore_id_context(eui, epoch)),
    })
}

/// What only device and platform can derive.
fn data_of(data: &DataKeys, eui: Eui64, epoch: Epoch) -> Value {
    let telemetry = COUNTERS.iter().enumerate().map(|(n, &counter)| {
        let plaintext: Vec<u8> = b"21.5 degrees of Celsius"[..n * 5].to_vec();
        let frame = telemetry::seal(data, eui, epoch, counter, &plaintext).unwrap();
        let header = telemetry::Header { epoch, counter };
        assert_eq!(telemetry::open(data, eui, &frame), Ok((header, plaintext.clone())));
        let ccm = telemetry::seal_with(Algorithm::Ccm, data, eui, header, &plaintext).unwrap();
        assert_eq!(telemetry::open(data, eui, &ccm), Ok((header, plaintext.clone())));
        json!({
            "counter": counter,
            "plaintext": hex(&plaintext),
            "frame": hex(&frame),
            "frame_ccm": hex(&ccm),
        })
    });
    let telemetry: Vec<Value> = telemetry.collect();
    json!({
        "up": hex(data.up().expose()),
        "down": hex(data.down().expose()),
        "iv_up": hex(&data.to_bytes().expose()[64..]),
        "telemetry": telemetry,
    })
}

fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { unreachable!("every part is an object") };
    into.as_object_mut().unwrap().extend(from);
}

/// 32 bytes that rise by one from `first`.
fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|n| first + u8::try_from(n).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
