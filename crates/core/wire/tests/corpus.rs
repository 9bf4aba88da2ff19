//! Every seed of `fuzz/corpus`, and mutations of it, through the bodies of the fuzz targets.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use claviger_wire::etsi014::{KeyIds, KeyRequest};
use claviger_wire::idq3p::{ByteOrder, Request, Response};
use claviger_wire::site::{SiteHint, SiteRecord};
use proptest::prelude::*;
use proptest::sample::Index;

// What must hold for any input, shared with the fuzzer.
#[path = "../../../../fuzz/bodies/classical.rs"]
mod classical;
#[path = "../../../../fuzz/bodies/etsi014.rs"]
mod etsi014;
#[path = "../../../../fuzz/bodies/fleet.rs"]
mod fleet;
#[path = "../../../../fuzz/bodies/idq3p.rs"]
mod idq3p;
#[path = "../../../../fuzz/bodies/light.rs"]
mod light;
#[path = "../../../../fuzz/bodies/node.rs"]
mod node;
#[path = "../../../../fuzz/bodies/peer.rs"]
mod peer;
#[path = "../../../../fuzz/bodies/site.rs"]
mod site;

/// A fuzz target: its body, and whether its decoders take an input.
#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    body: fn(&[u8]),
    takes: fn(&[u8]) -> bool,
}

const TARGETS: [Target; 8] = [
    Target {
        name: "classical",
        body: classical::check,
        takes: |bytes| claviger_wire::classical::Message::decode(bytes).is_ok(),
    },
    Target {
        name: "light",
        body: light::check,
        takes: |bytes| claviger_wire::light::Message::decode(bytes).is_ok(),
    },
    Target {
        name: "node",
        body: node::check,
        takes: |bytes| claviger_wire::node::Message::decode(bytes).is_ok(),
    },
    Target {
        name: "peer",
        body: peer::check,
        takes: |bytes| claviger_wire::peer::PeerMessage::decode(bytes).is_ok(),
    },
    Target {
        name: "site",
        body: site::check,
        takes: |bytes| SiteRecord::decode(bytes).is_ok() || SiteHint::decode(bytes).is_ok(),
    },
    Target {
        name: "fleet",
        body: fleet::check,
        takes: |bytes| claviger_wire::fleet::FleetRecord::decode(bytes).is_ok(),
    },
    Target {
        name: "idq3p",
        body: idq3p::check,
        takes: |bytes| {
            Request::decode(bytes, ORDER).is_ok() || Response::decode(bytes, ORDER).is_ok()
        },
    },
    Target {
        name: "etsi014",
        body: etsi014::check,
        takes: |bytes| KeyRequest::from_body(bytes).is_ok() || KeyIds::from_body(bytes).is_ok(),
    },
];

const ORDER: ByteOrder = ByteOrder::LittleEndian;

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

/// A corpus of refusals alone would prove little, and so would one without.
#[test]
fn every_target_has_seeds_that_are_taken_and_seeds_that_are_not() {
    for target in TARGETS {
        let (good, bad): (Vec<_>, Vec<_>) =
            seeds(target.name).into_iter().partition(|(_, bytes)| (target.takes)(bytes));
        assert!(!good.is_empty() && !bad.is_empty(), "{}: {} taken", target.name, good.len());
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
