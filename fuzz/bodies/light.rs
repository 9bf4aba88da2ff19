//! The socket that stands for the light.

use claviger_wire::light::Message;

/// What can be read is read alike once written again.
pub(crate) fn check(input: &[u8]) {
    if let Ok(message) = Message::decode(input) {
        let written = message.encode();
        let again = Message::decode(&written).map(|message| message.encode());
        assert_eq!(again, Ok(written), "{message:?}");
    }
}
