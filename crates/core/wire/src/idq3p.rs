//! IDQ3P: one key per UDP datagram, 29 bytes asked and 62 bytes answered (`WIRE.md` §1).
//!
//! The protocol has no authentication. The layout is that of the University of Bristol's CQP
//! toolkit; the byte order of ids on real units is unknown, so it is a parameter ([`ByteOrder`]),
//! and fields that mean nothing here go back as they came.

use std::num::NonZeroU64;

use claviger_units::{Key256, SecretBytes};
use crc::{CRC_32_BZIP2, Crc};
use zeroize::Zeroizing;

use crate::cursor::{DecodeError, Reader, Writer};

/// The UDP port of the key extraction service.
pub const PORT: u16 = 5323;
/// The length of every request.
pub const REQUEST_LEN: usize = 29;
/// The length of every response.
pub const RESPONSE_LEN: usize = 62;
/// The longest key that fits a response.
pub const MAX_KEY_OCTETS: u8 = 32;

/// A datagram that gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// Cut short or too long: the sender speaks another protocol.
    #[error("{0} bytes are no IDQ3P datagram; a request has 29, a response 62")]
    Length(usize),
    /// Not the type that belongs here (request 0, response 1).
    #[error("datagram type {0} does not belong here")]
    Type(u8),
    /// Damaged on the way, or the sender computes another CRC.
    #[error("the CRC-32 does not fit the datagram")]
    Checksum,
    /// A response with a status that the protocol does not know.
    #[error("unknown status {0}")]
    Status(u8),
}

/// How key ids and request ids lie in a datagram; the CRC is always big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// Each 32-bit word least significant byte first, as the Bristol driver sends on a PC.
    #[default]
    LittleEndian,
    /// Each 32-bit word most significant byte first.
    BigEndian,
}

impl ByteOrder {
    const fn u32_from(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::LittleEndian => u32::from_le_bytes(bytes),
            Self::BigEndian => u32::from_be_bytes(bytes),
        }
    }

    const fn u32_to(self, word: u32) -> [u8; 4] {
        match self {
            Self::LittleEndian => word.to_le_bytes(),
            Self::BigEndian => word.to_be_bytes(),
        }
    }

    /// The high word comes first in either order; only the bytes within each word turn.
    fn key_id_from(self, reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
        let high = self.u32_from(reader.array()?);
        let low = self.u32_from(reader.array()?);
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn key_id_to(self, id: u64) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h] = id.to_be_bytes();
        let [a, b, c, d] = self.u32_to(u32::from_be_bytes([a, b, c, d]));
        let [e, f, g, h] = self.u32_to(u32::from_be_bytes([e, f, g, h]));
        [a, b, c, d, e, f, g, h]
    }
}

/// The number by which a client matches answers to requests; echoed, never interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId([u8; 4]);

impl RequestId {
    /// Makes an id from a number.
    #[must_use]
    pub const fn from_number(number: u32, order: ByteOrder) -> Self {
        Self(order.u32_to(number))
    }

    /// Returns the number that the four bytes show in this order.
    #[must_use]
    pub const fn number(self, order: ByteOrder) -> u32 {
        order.u32_from(self.0)
    }
}

/// Which key a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any new key: id 0 on the wire.
    New,
    /// The other copy of a key that the partner has got.
    Id(NonZeroU64),
}

impl Wanted {
    /// Returns the id as it stands on the wire, 0 for a new key.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::New => 0,
            Self::Id(id) => id.get(),
        }
    }
}

/// A request for one key.
///
/// ```
/// use claviger_wire::idq3p::{ByteOrder, Request, RequestId, Wanted};
///
/// let order = ByteOrder::LittleEndian;
/// let request = Request::ask(Wanted::New, 32, RequestId::from_number(2, order), 1);
/// assert_eq!(Request::decode(&request.encode(order), order), Ok(request));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The key that is asked for.
    pub wanted: Wanted,
    /// The length of the key in octets; 1 to 32 can be answered.
    pub length: u8,
    /// The client's own mark on this request.
    pub request_id: RequestId,
    /// The number of the device that asks, 1 to 12 on the real unit.
    pub device: u8,
    /// Zeros, or what the client put there: echoed.
    pub reserved: [u8; 10],
}

impl Request {
    /// Makes a request with the reserved bytes zero.
    #[must_use]
    pub const fn ask(wanted: Wanted, length: u8, request_id: RequestId, device: u8) -> Self {
        Self { wanted, length, request_id, device, reserved: [0; 10] }
    }

    /// Encodes the request; always [`REQUEST_LEN`] bytes.
    #[must_use]
    pub fn encode(&self, order: ByteOrder) -> Vec<u8> {
        let body = Writer::kind(REQUEST_TYPE)
            .raw(&order.key_id_to(self.wanted.number()))
            .u8(self.length)
            .raw(&self.request_id.0)
            .u8(self.device)
            .raw(&self.reserved)
            .finish();
        let checksum = CHECKSUM.checksum(&body);
        Writer::new().raw(&body).u32(checksum).finish()
    }

    /// Decodes a request of exactly [`REQUEST_LEN`] bytes with a good CRC.
    pub fn decode(input: &[u8], order: ByteOrder) -> Result<Self, DatagramError> {
        let mut reader = checked::<REQUEST_LEN>(input, REQUEST_TYPE)?;
        Self::read(&mut reader, order).or(Err(DatagramError::Length(input.len())))
    }

    fn read(reader: &mut Reader<'_>, order: ByteOrder) -> Result<Self, DecodeError> {
        let id = order.key_id_from(reader)?;
        Ok(Self {
            wanted: NonZeroU64::new(id).map_or(Wanted::New, Wanted::Id),
            length: reader.u8()?,
            request_id: RequestId(reader.array()?),
            device: reader.u8()?,
            reserved: reader.array()?,
        })
    }

    /// Answers with a key, whose wire id is `key_id`.
    ///
    /// `None` if the key has not exactly the length that was asked for, or does not fit.
    #[must_use]
    pub fn granted(&self, key_id: u64, key: &SecretBytes) -> Option<Response> {
        if key.len() != usize::from(self.length) || key.is_empty() {
            return None;
        }
        let mut field = Zeroizing::new([0; 32]);
        field.get_mut(..key.len())?.copy_from_slice(key.expose());
        let key = Key256::from_slice(&field[..])?;
        Some(Response { key_id, key, ..self.refused(Status::Success) })
    }

    /// Answers without a key; id and length of the request go back as they came.
    #[must_use]
    pub fn refused(&self, status: Status) -> Response {
        Response {
            key_id: self.wanted.number(),
            length: self.length,
            request_id: self.request_id,
            status,
            key: Key256::from_bytes([0; 32]),
            device: self.device,
            reserved: self.reserved,
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The answer holds the key.
    Success,
    /// No key at hand now: ask again later.
    NoMoreKeys,
    /// No such key for this device, or not any more.
    UnknownKey,
    /// A length that no key has, or not the one the partner asked for.
    WrongLength,
    /// Well-formed, but this device may not ask.
    InvalidRequest,
}

impl Status {
    const ALL: [Self; 5] = [
        Self::Success,
        Self::NoMoreKeys,
        Self::UnknownKey,
        Self::WrongLength,
        Self::InvalidRequest,
    ];

    /// Returns the number on the wire, 0 to 4.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::NoMoreKeys => 1,
            Self::UnknownKey => 2,
            Self::WrongLength => 3,
            Self::InvalidRequest => 4,
        }
    }

    fn from_number(number: u8) -> Result<Self, DatagramError> {
        let known = Self::ALL.into_iter().find(|status| status.number() == number);
        known.ok_or(DatagramError::Status(number))
    }
}

/// The answer to a request.
#[derive(Debug)]
pub struct Response {
    /// The id of the key: the low 64 bits of its UUID; on refusal the id that was asked for.
    pub key_id: u64,
    /// The length of the key in octets; on refusal the length that was asked for.
    pub length: u8,
    /// The client's mark.
    pub request_id: RequestId,
    /// What became of the request.
    pub status: Status,
    /// The key, with zeros behind it where it is shorter than 32 octets; zeros on refusal.
    pub key: Key256,
    /// The number of the device that asked.
    pub device: u8,
    /// As in the request.
    pub reserved: [u8; 10],
}

impl Response {
    /// Returns the key alone, `None` on refusal and where the length is not one of a key.
    #[must_use]
    pub fn key(&self) -> Option<SecretBytes> {
        let octets = self.key.expose().get(..usize::from(self.length));
        let octets = octets.filter(|octets| self.status == Status::Success && !octets.is_empty());
        octets.map(|octets| SecretBytes::new(octets.to_vec()))
    }

    /// Encodes the response; always [`RESPONSE_LEN`] bytes, secret where they hold a key.
    #[must_use]
    pub fn encode(&self, order: ByteOrder) -> SecretBytes {
        // All room at once: a vector that grows leaves copies of the key behind.
        let mut bytes = Vec::with_capacity(RESPONSE_LEN);
        bytes.push(RESPONSE_TYPE);
        bytes.extend_from_slice(&order.key_id_to(self.key_id));
        bytes.push(self.length);
        bytes.extend_from_slice(&self.request_id.0);
        bytes.push(self.status.number());
        bytes.extend_from_slice(self.key.expose());
        bytes.push(self.device);
        bytes.extend_from_slice(&self.reserved);
        bytes.extend_from_slice(&CHECKSUM.checksum(&bytes).to_be_bytes());
        SecretBytes::new(bytes)
    }

    /// Decodes a response of exactly [`RESPONSE_LEN`] bytes with a good CRC.
    pub fn decode(input: &[u8], order: ByteOrder) -> Result<Self, DatagramError> {
        let mut reader = checked::<RESPONSE_LEN>(input, RESPONSE_TYPE)?;
        let status = input.get(STATUS_OFFSET).copied().ok_or(DatagramError::Length(input.len()))?;
        let status = Status::from_number(status)?;
        Self::read(&mut reader, order, status).or(Err(DatagramError::Length(input.len())))
    }

    fn read(
        reader: &mut Reader<'_>,
        order: ByteOrder,
        status: Status,
    ) -> Result<Self, DecodeError> {
        let key_id = order.key_id_from(reader)?;
        let length = reader.u8()?;
        let request_id = RequestId(reader.array()?);
        reader.u8()?;
        let key = reader.key256()?;
        let device = reader.u8()?;
        let reserved = reader.array()?;
        Ok(Self { key_id, length, request_id, status, key, device, reserved })
    }
}

/// Checks length, type and CRC, in this order, and returns what follows the type.
fn checked<const LEN: usize>(input: &[u8], kind: u8) -> Result<Reader<'_>, DatagramError> {
    let wrong_length = DatagramError::Length(input.len());
    if input.len() != LEN {
        return Err(wrong_length);
    }
    let (body, checksum) = input.split_last_chunk::<4>().ok_or(wrong_length)?;
    let (&found, fields) = body.split_first().ok_or(wrong_length)?;
    if found != kind {
        return Err(DatagramError::Type(found));
    }
    if CHECKSUM.checksum(body).to_be_bytes() != *checksum {
        return Err(DatagramError::Checksum);
    }
    Ok(Reader::new(fields))
}

const REQUEST_TYPE: u8 = 0;
const RESPONSE_TYPE: u8 = 1;
const STATUS_OFFSET: usize = 14;
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_BZIP2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LITTLE: ByteOrder = ByteOrder::LittleEndian;

    fn request(wanted: u64, length: u8) -> Request {
        let wanted = NonZeroU64::new(wanted).map_or(Wanted::New, Wanted::Id);
        Request::ask(wanted, length, RequestId::from_number(2, LITTLE), 1)
    }

    fn from_hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
        pairs.map(|pair| u8::from_str_radix(&pair, 16).unwrap()).collect()
    }

    /// `WIRE.md` §1: CRC-32/BZIP2 has the check value 0xFC891918.
    #[test]
    fn the_checksum_is_crc_32_bzip2() {
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0xFC89_1918);
    }

    /// `WIRE.md` §1, test vector from the CRC test of the University of Bristol's CQP toolkit.
    #[test]
    fn the_known_response_is_met_byte_for_byte() {
        let key = "00".repeat(32);
        let reserved = "00".repeat(10);
        let golden =
            from_hex(&format!("01 00000000 00000000 20 02000000 04 {key} 01 {reserved} 0f29d223"));
        let ours = request(0, 32).refused(Status::InvalidRequest).encode(LITTLE);
        assert_eq!(ours.expose(), golden);
        let theirs = Response::decode(&golden, LITTLE).unwrap();
        assert_eq!((theirs.status, theirs.request_id.number(LITTLE)), (Status::InvalidRequest, 2));
        assert!(theirs.key().is_none());
    }

    #[test]
    fn fields_lie_where_the_table_says() {
        let mut asked = request(0x0102_0304_0506_0708, 32);
        asked.device = 12;
        for (order, id) in
            [(LITTLE, [4, 3, 2, 1, 8, 7, 6, 5]), (ByteOrder::BigEndian, [1, 2, 3, 4, 5, 6, 7, 8])]
        {
            let bytes = asked.encode(order);
            assert_eq!(bytes.len(), REQUEST_LEN);
            assert_eq!((bytes[0], &bytes[1..9], bytes[9], bytes[14]), (0, &id[..], 32, 12));
            let key = SecretBytes::new(vec![0xAB; 32]);
            let bytes = asked.granted(0x0102_0304_0506_0708, &key).unwrap().encode(order);
            let bytes = bytes.expose();
            assert_eq!(bytes.len(), RESPONSE_LEN);
            assert_eq!((bytes[0], &bytes[1..9], bytes[9], bytes[14]), (1, &id[..], 32, 0));
            assert_eq!((&bytes[15..47], bytes[47]), (&[0xAB; 32][..], 12));
        }
    }

    #[test]
    fn a_short_key_is_followed_by_zeros() {
        let answer = request(0, 3).granted(9, &SecretBytes::new(vec![1, 2, 3])).unwrap();
        assert_eq!(answer.key.expose()[..4], [1, 2, 3, 0]);
        assert_eq!(answer.key().unwrap().expose(), [1, 2, 3]);
    }

    #[test]
    fn only_a_key_of_the_asked_length_is_granted() {
        for (asked, got) in [(32, 31), (31, 32), (0, 0), (33, 33)] {
            let key = SecretBytes::new(vec![1; got]);
            assert!(request(0, asked).granted(9, &key).is_none(), "{asked} asked, {got} given");
        }
    }

    #[test]
    fn damaged_datagrams_are_told_apart() {
        let good = request(0, 32).encode(LITTLE);
        let check = |bytes: &[u8], error| {
            assert_eq!(Request::decode(bytes, LITTLE), Err(error), "{bytes:?}");
        };
        check(&good[..28], DatagramError::Length(28));
        check(&[&good[..], &[0]].concat(), DatagramError::Length(30));
        check(&[], DatagramError::Length(0));
        check(&[&[1], &good[1..]].concat(), DatagramError::Type(1));
        check(&[&good[..28], &[good[28] ^ 1]].concat(), DatagramError::Checksum);
        let mut status =
            request(0, 32).refused(Status::NoMoreKeys).encode(LITTLE).expose().to_vec();
        status[STATUS_OFFSET] = 5;
        let checksum = CHECKSUM.checksum(&status[..58]).to_be_bytes();
        status[58..].copy_from_slice(&checksum);
        assert_eq!(Response::decode(&status, LITTLE).unwrap_err(), DatagramError::Status(5));
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire(
            id: u64, length: u8, number: u32, device: u8, reserved: [u8; 10], big: bool,
        ) {
            let order = if big { ByteOrder::BigEndian } else { LITTLE };
            let wanted = NonZeroU64::new(id).map_or(Wanted::New, Wanted::Id);
            let request_id = RequestId::from_number(number, order);
            let request = Request { wanted, length, request_id, device, reserved };
            prop_assert_eq!(request_id.number(order), number);
            prop_assert_eq!(Request::decode(&request.encode(order), order), Ok(request));
        }

        #[test]
        fn responses_survive_the_wire(id: u64, key in prop::collection::vec(any::<u8>(), 1..=32)) {
            let asked = request(id, u8::try_from(key.len()).unwrap());
            let bytes = asked.granted(id, &SecretBytes::new(key.clone())).unwrap().encode(LITTLE);
            let back = Response::decode(bytes.expose(), LITTLE).unwrap();
            let got = back.key().unwrap();
            prop_assert_eq!(got.expose(), key);
            prop_assert_eq!((back.key_id, back.status), (id, Status::Success));
            let again = back.encode(LITTLE);
            prop_assert_eq!(again.expose(), bytes.expose());
        }

        #[test]
        fn decoders_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            body in prop::collection::vec(any::<u8>(), 58),
        ) {
            let _ = Request::decode(&bytes, LITTLE).is_ok();
            let _ = Response::decode(&bytes, LITTLE).is_ok();
            let sealed = [&body[..], &CHECKSUM.checksum(&body).to_be_bytes()].concat();
            let _ = Response::decode(&sealed, LITTLE).map(|response| response.key()).is_ok();
        }
    }
}
