//! Configurations that are refused at start, with the culprit named.

use claviger_units::{Bits, Site};

use super::world::{config, sae_id};
use crate::{ConfigError, Kme, KmeConfig};

fn check(spoil: impl FnOnce(&mut KmeConfig), message: &str) -> ConfigError {
    let mut config = config(Site::A);
    spoil(&mut config);
    let error = Kme::new(config).unwrap_err();
    assert_eq!(error.to_string(), message);
    error
}

#[test]
fn impossible_configurations_are_refused() {
    check(
        |c| c.peer_kme_id = c.kme_id.clone(),
        "kme_id \"kme-a\" and peer_kme_id \"kme-a\" must be two different, non-empty names",
    );
    check(
        |c| c.kme_id = String::new(),
        "kme_id \"\" and peer_kme_id \"kme-b\" must be two different, non-empty names",
    );
    check(|c| c.limits.max_keys_per_request = 0, "max_key_per_request is 0; it must be 1 or more");
    check(
        |c| c.limits.min_key_size = Bits::new(264),
        "the key sizes 264 bit, 256 bit and 1024 bit must rise in this order and be multiples of 8 \
         bits",
    );
    check(
        |c| c.limits.max_key_size = Bits::new(1020),
        "the key sizes 64 bit, 256 bit and 1020 bit must rise in this order and be multiples of 8 \
         bits",
    );
}

#[test]
fn impossible_devices_are_refused() {
    check(
        |c| c.idq3p_devices.get_mut(&1).unwrap().peer = sae_id("nobody"),
        "idq3p device 1 names the SAE nobody, which is not among the SAEs",
    );
    check(
        |c| c.idq3p_devices.get_mut(&1).unwrap().sae = sae_id("archive"),
        "idq3p device 1 speaks for archive, which belongs to the other site",
    );
    check(
        |c| c.idq3p_devices.get_mut(&1).unwrap().peer = sae_id("gateway"),
        "idq3p device 1 pairs gateway with itself",
    );
}
