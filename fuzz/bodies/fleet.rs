//! Records between gateway and platform.

use claviger_wire::fleet::FleetRecord;

/// A record has one encoding.
pub(crate) fn check(input: &[u8]) {
    if let Ok(record) = FleetRecord::decode(input) {
        assert_eq!(record.encode(), input, "{record:?}");
    }
}
