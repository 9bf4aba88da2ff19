//! What of a message is inside and what outside (RFC 8613 §4.1 and §5.3).

use alloc::vec::Vec;

use coap_lite::{CoapOption, MessageClass, Packet};

use crate::OscoreError;

/// Options that proxies need: Uri-Host, Uri-Port, OSCORE itself, Proxy-Uri, Proxy-Scheme.
const OUTSIDE: [u16; 5] = [3, 7, 9, 35, 39];
const PROTECTED: u16 = 9;
/// Options that this crate does not carry: Observe, Block2, Block1.
const NOT_CARRIED: [u16; 3] = [6, 23, 27];
/// Version 1, no token: a header of which only the code counts.
const VERSION: u8 = 0x40;
const HEADER: usize = 4;

/// Returns what is encrypted of a message: code, options and payload.
pub(crate) fn inside(message: &Packet) -> Result<Vec<u8>, OscoreError> {
    let mut inner = Packet::new();
    inner.header.code = message.header.code;
    inner.payload.clone_from(&message.payload);
    for (number, values) in message.options() {
        if NOT_CARRIED.contains(number) {
            return Err(OscoreError::Malformed);
        }
        if !OUTSIDE.contains(number) {
            inner.set_option(CoapOption::from(*number), values.clone());
        }
    }
    let bytes = inner.to_bytes_unlimited().or(Err(OscoreError::Malformed))?;
    let mut plain = Vec::from([u8::from(message.header.code)]);
    plain.extend(bytes.iter().skip(HEADER));
    Ok(plain)
}

/// Wraps a ciphertext: what is outside of `message` goes on, with another code and the option.
pub(crate) fn outside(
    message: &Packet,
    code: MessageClass,
    option: Vec<u8>,
    ciphertext: Vec<u8>,
) -> Packet {
    let mut outer = like(message, code);
    outer.add_option(CoapOption::from(PROTECTED), option);
    outer.payload = ciphertext;
    outer
}

/// Returns the value of the OSCORE option, of which a message has one.
pub(crate) fn protection(message: &Packet) -> Result<&[u8], OscoreError> {
    let values =
        message.get_option(CoapOption::from(PROTECTED)).ok_or(OscoreError::NotProtected)?;
    match (values.front(), values.len()) {
        (Some(value), 1) => Ok(value),
        _ => Err(OscoreError::NotProtected),
    }
}

/// Puts together what was outside and what was inside.
pub(crate) fn opened(outer: &Packet, plain: &[u8]) -> Result<Packet, OscoreError> {
    let (code, rest) = plain.split_first().ok_or(OscoreError::Malformed)?;
    let bytes = [&[VERSION, *code, 0, 0], rest].concat();
    let inner = Packet::from_bytes(&bytes).or(Err(OscoreError::Malformed))?;
    let mut message = like(outer, inner.header.code);
    for (number, values) in inner.options() {
        // What belongs outside does not come from inside.
        if OUTSIDE.contains(number) || NOT_CARRIED.contains(number) {
            return Err(OscoreError::Malformed);
        }
        message.set_option(CoapOption::from(*number), values.clone());
    }
    message.payload = inner.payload;
    Ok(message)
}

/// A message with the same type, id, token and options for proxies, and nothing else.
fn like(message: &Packet, code: MessageClass) -> Packet {
    let mut alike = Packet::new();
    alike.header.set_version(message.header.get_version());
    alike.header.set_type(message.header.get_type());
    alike.header.message_id = message.header.message_id;
    alike.header.code = code;
    alike.set_token(message.get_token().to_vec());
    let kept =
        message.options().filter(|(number, _)| OUTSIDE.contains(number) && **number != PROTECTED);
    for (number, values) in kept {
        alike.set_option(CoapOption::from(*number), values.clone());
    }
    alike
}
