//! A message of a switch or a controller.

use claviger_openflow::Envelope;

/// What is read is written so that it is read again, and the header says how long it is.
pub(crate) fn check(input: &[u8]) {
    if let Ok(envelope) = Envelope::decode(input) {
        let written = envelope.encode();
        assert_eq!(usize::from(u16::from_be_bytes([written[2], written[3]])), written.len());
        assert_eq!(Envelope::decode(&written), Ok(envelope));
    }
}
