//! The reader and writer under every binary format of our own: big-endian, length before bytes.

use claviger_security::SecurityClaim;
use claviger_units::{Eui64, Fraction, Key256, KeyId, SaeId, Site, Timestamp};
use zeroize::Zeroize;

/// Input that is not what its sender should have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends early: the sender cut it, or it is another message.
    #[error("the input ends {missing} bytes early")]
    Incomplete {
        /// How many bytes are missing at least.
        missing: usize,
    },
    /// Bytes follow the end: the sender speaks another version.
    #[error("{extra} bytes follow the end")]
    Trailing {
        /// How many bytes follow.
        extra: usize,
    },
    /// An unknown message kind: the sender speaks another version.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// A field outside its range.
    #[error("the field {0} is out of range")]
    Field(&'static str),
}

/// Reads values from the front of a byte string.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the front of `input`.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Reads exactly `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let missing = N.saturating_sub(self.0.len());
        let (head, rest) =
            self.0.split_first_chunk::<N>().ok_or(DecodeError::Incomplete { missing })?;
        self.0 = rest;
        Ok(*head)
    }

    /// Reads the next `length` bytes without copying them.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let missing = length.saturating_sub(self.0.len());
        let (head, rest) =
            self.0.split_at_checked(length).ok_or(DecodeError::Incomplete { missing })?;
        self.0 = rest;
        Ok(head)
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Reads 16 bits.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Reads 32 bits.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads 64 bits.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Reads an IEEE 754 double as a fraction between 0 and 1.
    pub fn fraction(&mut self, field: &'static str) -> Result<Fraction, DecodeError> {
        let value = f64::from_bits(self.u64()?);
        Fraction::try_new(value).or(Err(DecodeError::Field(field)))
    }

    /// Reads a byte string behind its 32-bit length; at most what the input still holds.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()?;
        self.take(usize::try_from(length).or(Err(DecodeError::Field("length")))?)
    }

    /// Reads how many entries of at least `entry_bytes` follow, refusing more than can follow.
    pub fn count(&mut self, entry_bytes: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u32()?).or(Err(DecodeError::Field("count")))?;
        let needed = count.saturating_mul(entry_bytes);
        if needed > self.0.len() {
            return Err(DecodeError::Incomplete { missing: needed - self.0.len() });
        }
        Ok(count)
    }

    /// Reads a key id.
    pub fn key_id(&mut self) -> Result<KeyId, DecodeError> {
        self.array().map(KeyId::from_bytes)
    }

    /// Reads a yes or no: 1 or 0.
    pub fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Field("flag")),
        }
    }

    /// Reads a site: 0 is A, 1 is B.
    pub fn site(&mut self) -> Result<Site, DecodeError> {
        match self.u8()? {
            0 => Ok(Site::A),
            1 => Ok(Site::B),
            _ => Err(DecodeError::Field("site")),
        }
    }

    /// Reads the claim of a key: 0 is none, the others rise with what they claim.
    pub fn claim(&mut self) -> Result<Option<SecurityClaim>, DecodeError> {
        match self.u8()? {
            0 => Ok(None),
            1 => Ok(Some(SecurityClaim::EraHeuristic)),
            2 => Ok(Some(SecurityClaim::Gllp)),
            3 => Ok(Some(SecurityClaim::FiniteSize)),
            _ => Err(DecodeError::Field("claim")),
        }
    }

    /// Reads a device's EUI-64.
    pub fn eui64(&mut self) -> Result<Eui64, DecodeError> {
        self.array().map(Eui64::from_bytes)
    }

    /// Reads a point in time.
    pub fn timestamp(&mut self) -> Result<Timestamp, DecodeError> {
        self.u64().map(Timestamp::from_micros)
    }

    /// Reads a SAE id.
    pub fn sae_id(&mut self) -> Result<SaeId, DecodeError> {
        let text = core::str::from_utf8(self.bytes()?).or(Err(DecodeError::Field("SAE id")))?;
        text.parse().or(Err(DecodeError::Field("SAE id")))
    }

    /// Reads a 256-bit key.
    pub fn key256(&mut self) -> Result<Key256, DecodeError> {
        let mut bytes = self.array()?;
        let key = Key256::from_bytes(bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// Ends reading; refuses bytes that nobody asked for.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { extra: self.0.len() }) }
    }
}

/// Writes values one behind the other.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Starts with a message kind.
    #[must_use]
    pub fn kind(kind: u8) -> Self {
        Self(vec![kind])
    }

    /// Starts empty with room for `bytes`, so that growing leaves no copies of secrets behind.
    #[must_use]
    pub fn with_room(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Starts empty.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    #[must_use]
    pub fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }

    /// Appends 16 bits.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends 32 bits.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends 64 bits.
    #[must_use]
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Appends a fraction as an IEEE 754 double.
    #[must_use]
    pub fn fraction(self, value: Fraction) -> Self {
        self.u64(value.as_f64().to_bits())
    }

    /// Appends a yes or no.
    #[must_use]
    pub fn flag(self, value: bool) -> Self {
        self.u8(u8::from(value))
    }

    /// Appends a site.
    #[must_use]
    pub fn site(self, site: Site) -> Self {
        self.u8(match site {
            Site::A => 0,
            Site::B => 1,
        })
    }

    /// Appends the claim of a key, or that none is stated.
    #[must_use]
    pub fn claim(self, claim: Option<SecurityClaim>) -> Self {
        self.u8(match claim {
            None => 0,
            Some(SecurityClaim::EraHeuristic) => 1,
            Some(SecurityClaim::Gllp) => 2,
            Some(SecurityClaim::FiniteSize) => 3,
        })
    }

    /// Appends how many entries follow.
    ///
    /// # Panics
    /// Above 2³² entries, which no message can hold.
    #[must_use]
    pub fn count(self, n: usize) -> Self {
        self.u32(u32::try_from(n).expect("no message holds 2^32 entries"))
    }

    /// Appends a byte string behind its length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// Returns what was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes =
            Writer::kind(7).u16(1).u32(2).u64(3).bytes(b"abc").fraction(Fraction::ONE).finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!((reader.u16(), reader.u32(), reader.u64()), (Ok(1), Ok(2), Ok(3)));
        assert_eq!(reader.bytes(), Ok(&b"abc"[..]));
        assert_eq!(reader.fraction("qber"), Ok(Fraction::ONE));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn every_claim_is_read_back_and_nothing_else_is() {
        let all = SecurityClaim::ALL.into_iter().map(Some);
        for claim in all.chain([None]) {
            assert_eq!(Reader::new(&Writer::new().claim(claim).finish()).claim(), Ok(claim));
        }
        assert_eq!(Reader::new(&[4]).claim(), Err(DecodeError::Field("claim")));
    }

    #[test]
    fn a_lying_length_is_refused_before_anything_is_reserved() {
        let bytes = Writer::new().u32(u32::MAX).finish();
        assert_eq!(
            Reader::new(&bytes).bytes(),
            Err(DecodeError::Incomplete { missing: u32::MAX as usize })
        );
        assert!(Reader::new(&bytes).count(16).is_err());
    }
}
