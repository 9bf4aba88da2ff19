//! The session between two sites.

use claviger_wire::peer::PeerMessage;

/// A message has one encoding.
pub(crate) fn check(input: &[u8]) {
    if let Ok(message) = PeerMessage::decode(input) {
        assert_eq!(message.encode(), input, "{message:?}");
    }
}
