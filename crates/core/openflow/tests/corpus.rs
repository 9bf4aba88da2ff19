//! Every seed of `fuzz/corpus/openflow`, and mutations of it, through the body of the fuzz target.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

// What must hold for any input, shared with the fuzzer.
#[path = "../../../../fuzz/bodies/openflow.rs"]
mod body;

/// Reads the seeds in the order of their names.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus/openflow");
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
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
fn seeds_keep_the_rule_and_hostile_ones_are_refused() {
    for (name, bytes) in seeds() {
        body::check(&bytes);
        let is_refused = claviger_openflow::Envelope::decode(&bytes).is_err();
        assert_eq!(is_refused, name.starts_with("hostile-"), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A fuzzer in small: seeds with bytes changed, cut off, and put behind, under a true length.
    #[test]
    fn mutated_seeds_keep_the_rule(
        seed: Index,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        length: Index,
        tail in prop::collection::vec(any::<u8>(), 0..6),
        is_honest: bool,
    ) {
        let mut bytes = seed.get(&seeds()).1.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Half of the time nothing is cut off.
        bytes.truncate(length.index(2 * bytes.len() + 1));
        bytes.extend(tail);
        let length = u16::try_from(bytes.len()).unwrap();
        if let (true, Some(field)) = (is_honest, bytes.get_mut(2..4)) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        body::check(&bytes);
    }
}
