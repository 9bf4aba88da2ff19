//! Every seed of `fuzz/corpus`, and mutations of it, through the bodies of the fuzz targets.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use claviger_frames::{Reading, key_frame, telemetry};
use proptest::prelude::*;
use proptest::sample::Index;

/// What must hold for any input, shared with the fuzzer.
mod bodies {
    #[path = "../../../../../../fuzz/bodies/key_frame.rs"]
    pub(super) mod key_frame;
    #[path = "../../../../../../fuzz/bodies/reading.rs"]
    pub(super) mod reading;
    #[path = "../../../../../../fuzz/bodies/telemetry.rs"]
    pub(super) mod telemetry;
}

/// A fuzz target: its body, and whether its decoder takes an input.
struct Target {
    name: &'static str,
    body: fn(&[u8]),
    takes: fn(&[u8]) -> bool,
}

const TARGETS: [Target; 3] = [
    Target {
        name: "key_frame",
        body: bodies::key_frame::check,
        takes: |bytes| {
            let mut secrets = bodies::key_frame::secrets().into_iter();
            secrets.any(|(secret, current)| key_frame::open(&secret, current, bytes).is_ok())
        },
    },
    Target {
        name: "telemetry",
        body: bodies::telemetry::check,
        takes: |bytes| {
            let keys = bodies::telemetry::keys();
            telemetry::open(&keys, bodies::telemetry::EUI, bytes).is_ok()
        },
    },
    Target {
        name: "reading",
        body: bodies::reading::check,
        takes: |bytes| Reading::decode(bytes).is_ok(),
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

/// The frames of the vectors open, all others do not.
#[test]
fn the_frames_of_the_vectors_are_taken_and_no_others() {
    for (target, taken) in TARGETS.iter().zip([6, 3, 4]) {
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
        seed: Index,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        length: Index,
        tail in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        for target in TARGETS {
            let seeds = seeds(target.name);
            let mut bytes = seed.get(&seeds).1.clone();
            for (at, byte) in &changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
            }
            bytes.truncate(1 + length.index(2 * bytes.len() + 1));
            bytes.extend(&tail);
            (target.body)(&bytes);
        }
    }
}
