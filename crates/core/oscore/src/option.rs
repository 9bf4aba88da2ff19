//! The OSCORE option (RFC 8613 §6.1).

use alloc::vec::Vec;

use crate::OscoreError;
use crate::derivation::LONGEST_ID;

/// What the option says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OscoreOption {
    pub(crate) partial_iv: Option<u32>,
    pub(crate) kid: Option<Vec<u8>>,
    pub(crate) kid_context: Option<Vec<u8>>,
}

const KID: u8 = 0x08;
const KID_CONTEXT: u8 = 0x10;
const RESERVED: u8 = 0xE0;
const LENGTH: u8 = 0x07;

impl OscoreOption {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let iv = self.partial_iv.map(partial_iv).unwrap_or_default();
        let mut flags = u8::try_from(iv.len()).unwrap_or(LENGTH);
        flags |= if self.kid.is_some() { KID } else { 0 };
        flags |= if self.kid_context.is_some() { KID_CONTEXT } else { 0 };
        if flags == 0 {
            return Vec::new();
        }
        let mut value = Vec::from([flags]);
        value.extend(iv);
        if let Some(context) = &self.kid_context {
            value.push(u8::try_from(context.len()).unwrap_or(u8::MAX));
            value.extend_from_slice(context);
        }
        value.extend(self.kid.iter().flatten());
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, OscoreError> {
        let Some((flags, mut rest)) = value.split_first() else { return Ok(Self::default()) };
        // A flag without anything is written as nothing.
        if flags & RESERVED != 0 || *flags == 0 {
            return Err(OscoreError::Malformed);
        }
        let partial_iv = match usize::from(flags & LENGTH) {
            0 => None,
            length => Some(number(take(&mut rest, length)?)?),
        };
        let mut kid_context = None;
        if flags & KID_CONTEXT != 0 {
            let length = take(&mut rest, 1)?.first().copied().unwrap_or_default();
            kid_context = Some(take(&mut rest, length.into())?.to_vec());
        }
        let kid = (flags & KID != 0).then(|| rest.to_vec());
        if kid.is_none() && !rest.is_empty() || rest.len() > LONGEST_ID {
            return Err(OscoreError::Malformed);
        }
        Ok(Self { partial_iv, kid, kid_context })
    }
}

/// Writes a sequence number in as few bytes as it takes, one at least.
pub(crate) fn partial_iv(number: u32) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
    bytes.iter().copied().skip(zeros).collect()
}

fn number(bytes: &[u8]) -> Result<u32, OscoreError> {
    let is_shortest = bytes.len() == 1 || bytes.first() != Some(&0);
    if !is_shortest || bytes.len() > 4 {
        return Err(OscoreError::Malformed);
    }
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], OscoreError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(OscoreError::Malformed)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequence_numbers_are_as_short_as_they_can_be() {
        for (number, bytes) in [
            (0, &[0][..]),
            (20, &[20]),
            (255, &[255]),
            (256, &[1, 0]),
            (u32::MAX, &[255, 255, 255, 255]),
        ] {
            assert_eq!(partial_iv(number), bytes);
        }
    }

    #[test]
    fn what_no_sender_writes_is_refused() {
        for wrong in [
            &[0x00][..],
            &[0x20, 1],
            &[0x01],
            &[0x02, 0, 1],
            &[0x05, 1, 2, 3, 4, 5],
            &[0x11, 1, 9, 1],
            &[0x01, 1, 2],
            &[0x09, 1, 1, 2, 3, 4, 5, 6, 7, 8],
        ] {
            assert_eq!(OscoreOption::decode(wrong), Err(OscoreError::Malformed), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn options_are_read_as_they_are_written(
            partial_iv in proptest::option::of(any::<u32>()),
            kid in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=7)),
            kid_context in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=23)),
        ) {
            let option = OscoreOption { partial_iv, kid, kid_context };
            prop_assert_eq!(OscoreOption::decode(&option.encode()), Ok(option));
        }

        #[test]
        fn noise_never_panics_and_what_is_read_is_written_back(
            noise in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(option) = OscoreOption::decode(&noise) {
                prop_assert_eq!(option.encode(), noise);
            }
        }
    }
}
