//! Datagrams of IDQ3P, in either byte order.

use claviger_wire::idq3p::{ByteOrder, Request, Response};

/// A datagram has one encoding, and a key is never longer than its field.
pub(crate) fn check(input: &[u8]) {
    for order in [ByteOrder::LittleEndian, ByteOrder::BigEndian] {
        if let Ok(request) = Request::decode(input, order) {
            assert_eq!(request.encode(order), input, "{request:?}");
        }
        if let Ok(response) = Response::decode(input, order) {
            assert!(response.encode(order).expose() == input, "{response:?}");
            assert!(response.key().is_none_or(|key| (1..=32).contains(&key.len())));
        }
    }
}
