//! Records and hints between two key management entities.

use claviger_wire::site::{SiteHint, SiteRecord};

/// A record has one encoding, and so has a hint.
pub(crate) fn check(input: &[u8]) {
    if let Ok(record) = SiteRecord::decode(input) {
        assert_eq!(record.encode(), input, "{record:?}");
    }
    if let Ok(hint) = SiteHint::decode(input) {
        assert_eq!(hint.encode(), input, "{hint:?}");
    }
}
