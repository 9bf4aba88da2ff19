//! Every seed of `fuzz/corpus`, and mutations of it, through the bodies of the fuzz targets.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

// What must hold for any input, shared with the fuzzer.
#[path = "../../../../fuzz/bodies/key_frame.rs"]
mod key_frame;
#[path = "../../../../fuzz/bodies/reading.rs"]
mod reading;
#[path = "../../../../fuzz/bodies/telemetry.rs"]
mod telemetry;

/// A fuzz target: its body, and whether its decoders take an input.
#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    body: fn(&[u8]),
    takes: fn(&[u8]) -> bool,
}

const TARGETS: [Target; 3] = [
    Target {
        name: "key_frame",
        body: key_frame::check,
        takes: |bytes| {
            let mut secrets = key_frame::secrets().into_iter();
            secrets.any(|(secret, at)| claviger_frames::key_frame::open(&secret, at, bytes).is_ok())
        },
    },
    Target {
        name: "telemetry",
        body: telemetry::check,
        takes: |bytes| {
            let keys = telemetry::keys();
            claviger_frames::telemetry::open(&keys, telemetry::EUI, bytes).is_ok()
        },
    },
    Target {
        name: "reading",
        body: reading::check,
        takes: |bytes| claviger_frames::Reading::decode(bytes).is_ok(),
    },
];

/// Reads the seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap().map(Result::unwrap);
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let bytes = std::fs::read(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), bytes)
        })
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn every_seed_keeps_the_rules_of_its_target() {
    for target in TARGETS {
        for (_, bytes) in seeds(target.name) {
            (target.body)(&bytes);
        }
    }
}

/// The frames of the vectors open and no others; of the readings, all that are whole.
#[test]
fn the_right_seeds_are_taken() {
    for (target, taken) in TARGETS.iter().zip([9, 3, 5]) {
        let seeds = seeds(target.name);
        let good = seeds.iter().filter(|(_, bytes)| (target.takes)(bytes)).count();
        assert_eq!(good, taken, "{} of {}", target.name, seeds.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A fuzzer in small: seeds with bytes changed, cut off, and put behind.
    #[test]
    fn mutated_seeds_keep_the_rules(
        target in 0..TARGETS.len(),
        seed: Index,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        length: Index,
        tail in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let Target { name, body, .. } = TARGETS[target];
        let mut bytes = seed.get(&seeds(name)).1.clone();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        // Half of the time nothing is cut off.
        bytes.truncate(length.index(2 * bytes.len() + 1));
        bytes.extend(tail);
        body(&bytes);
    }
}
