//! Between a QKD node and the key management entity of its site.

use claviger_wire::node::Message;

/// What can be read is read alike once written again.
pub(crate) fn check(input: &[u8]) {
    if let Ok(message) = Message::decode(input) {
        let written = message.encode();
        let again = Message::decode(&written).map(|message| message.encode());
        assert_eq!(again, Ok(written), "{message:?}");
    }
}
