//! The classical channel between Alice and Bob.

use claviger_wire::classical::Message;

/// What can be read is read alike once written again. (A padding bit or an over-long gap may be
/// written shorter.)
pub(crate) fn check(input: &[u8]) {
    if let Ok(message) = Message::decode(input) {
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}
