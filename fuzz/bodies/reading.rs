//! Readings, the plaintext of telemetry.

use claviger_frames::Reading;

/// What can be read is read alike once written again.
pub(crate) fn check(input: &[u8]) {
    if let Ok(reading) = Reading::decode(input) {
        assert_eq!(Reading::decode(&reading.encode()), Ok(reading));
    }
}
