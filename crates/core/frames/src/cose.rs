//! The one shape of `COSE_Encrypt0` that is spoken here (RFC 9052 §5.2).
//!
//! Tagged, AES-256-GCM or AES-256-CCM, everything in the protected header, the unprotected one empty, and every
//! length in its shortest form, so that a message has exactly one encoding: whoever changes a byte
//! on the way breaks the tag, and can never make a second message that verifies as well.
//! The decoder is written out by hand because a general one would follow nested headers, which
//! an attacker may nest as deep as he likes; the encoder because it is in every device, where a general one
//! takes as much room as the cipher. The tests have a general library judge both.

use alloc::vec::Vec;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead, AeadCore, KeyInit, Nonce, Payload};
use claviger_units::Key256;

use crate::Epoch;

/// AES-CCM-16-128-256: a nonce of 13 bytes, a tag of 16.
type Aes256Ccm = ccm::Ccm<aes::Aes256, ccm::consts::U16, ccm::consts::U13>;

/// How a message is encrypted (RFC 9053 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// A256GCM.
    #[default]
    Gcm,
    /// AES-CCM-16-128-256: for devices whose hardware has AES and nothing else.
    Ccm,
}

/// The initialization vector as the header carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Iv {
    /// The whole nonce of GCM.
    Gcm([u8; 12]),
    /// The whole nonce of CCM.
    Ccm([u8; 13]),
    /// A counter, from which both sides build the nonce.
    Partial(u32),
}

/// The protected header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protected {
    /// The algorithm.
    pub(crate) algorithm: Algorithm,
    /// The `kid`.
    pub(crate) epoch: Epoch,
    /// The IV or Partial IV.
    pub(crate) iv: Iv,
}

/// Encrypts into the tagged message; the nonce is as long as the algorithm has it.
pub(crate) fn seal(
    key: &Key256,
    nonce: &[u8],
    header: Protected,
    external_aad: &[u8],
    plaintext: &[u8],
) -> Vec<u8> {
    let protected = encode_protected(header);
    let aad = enc_structure(&protected, external_aad);
    let payload = Payload { msg: plaintext, aad: &aad };
    let encrypted = match header.algorithm {
        Algorithm::Gcm => encrypt::<Aes256Gcm>(key, nonce, payload),
        Algorithm::Ccm => encrypt::<Aes256Ccm>(key, nonce, payload),
    };
    let ciphertext =
        encrypted.expect("a reading is far shorter than the 64 KiB of CCM, and its nonce fits");
    let mut message = Vec::with_capacity(protected.len() + ciphertext.len() + HEADS);
    message.extend_from_slice(&[TAG, ARRAY_OF_3]);
    put_byte_string(&mut message, &protected);
    message.push(EMPTY_MAP);
    put_byte_string(&mut message, &ciphertext);
    message
}

/// A message taken apart, not yet decrypted.
#[derive(Debug)]
pub(crate) struct Sealed<'a> {
    pub(crate) header: Protected,
    protected: &'a [u8],
    ciphertext: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Takes a message apart; `None` for any other shape.
    pub(crate) fn parse(frame: &'a [u8]) -> Option<Self> {
        let rest = frame.strip_prefix(&[TAG, ARRAY_OF_3])?;
        let (protected, rest) = byte_string(rest)?;
        let (ciphertext, rest) = byte_string(rest.strip_prefix(&[EMPTY_MAP])?)?;
        let header = parse_protected(protected)?;
        rest.is_empty().then_some(Self { header, protected, ciphertext })
    }

    /// Decrypts; `None` if anything is not as it was sealed.
    pub(crate) fn open(&self, key: &Key256, nonce: &[u8], external_aad: &[u8]) -> Option<Vec<u8>> {
        let aad = enc_structure(self.protected, external_aad);
        let payload = Payload { msg: self.ciphertext, aad: &aad };
        match self.header.algorithm {
            Algorithm::Gcm => decrypt::<Aes256Gcm>(key, nonce, payload),
            Algorithm::Ccm => decrypt::<Aes256Ccm>(key, nonce, payload),
        }
    }
}

fn encrypt<C: Aead + AeadCore + KeyInit>(
    key: &Key256,
    nonce: &[u8],
    payload: Payload<'_, '_>,
) -> Option<Vec<u8>> {
    let nonce: &Nonce<C> = nonce.try_into().ok()?;
    C::new_from_slice(key.expose()).ok()?.encrypt(nonce, payload).ok()
}

fn decrypt<C: Aead + AeadCore + KeyInit>(
    key: &Key256,
    nonce: &[u8],
    payload: Payload<'_, '_>,
) -> Option<Vec<u8>> {
    let nonce: &Nonce<C> = nonce.try_into().ok()?;
    C::new_from_slice(key.expose()).ok()?.decrypt(nonce, payload).ok()
}

/// Writes `{1: algorithm, 4: kid, 5: IV}` or `{1: algorithm, 4: kid, 6: Partial IV}`.
fn encode_protected(header: Protected) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADS + 24);
    match header.algorithm {
        Algorithm::Gcm => bytes.extend_from_slice(&[MAP_OF_3, 1, A256GCM]),
        Algorithm::Ccm => bytes.extend_from_slice(&[MAP_OF_3, 1, ONE_BYTE, AES_CCM_16_128_256]),
    }
    bytes.push(4);
    put_byte_string(&mut bytes, &header.epoch.to_bytes());
    let counter;
    let (label, iv) = match &header.iv {
        Iv::Gcm(iv) => (5, &iv[..]),
        Iv::Ccm(iv) => (5, &iv[..]),
        Iv::Partial(number) => {
            counter = number.to_be_bytes();
            (6, shortest(&counter))
        }
    };
    bytes.push(label);
    put_byte_string(&mut bytes, iv);
    bytes
}

/// Returns what is authenticated beside the ciphertext: `["Encrypt0", protected, external]` (RFC 9052 §5.3).
fn enc_structure(protected: &[u8], external_aad: &[u8]) -> Vec<u8> {
    let length = CONTEXT.len() + protected.len() + external_aad.len();
    let mut bytes = Vec::with_capacity(length + HEADS);
    bytes.extend_from_slice(CONTEXT);
    put_byte_string(&mut bytes, protected);
    put_byte_string(&mut bytes, external_aad);
    bytes
}

/// Reads `{1: algorithm, 4: kid, 5: IV}` or `{1: algorithm, 4: kid, 6: Partial IV}`.
fn parse_protected(bytes: &[u8]) -> Option<Protected> {
    let (algorithm, rest) = match bytes {
        [MAP_OF_3, 1, A256GCM, rest @ ..] => (Algorithm::Gcm, rest),
        [MAP_OF_3, 1, ONE_BYTE, AES_CCM_16_128_256, rest @ ..] => (Algorithm::Ccm, rest),
        _ => return None,
    };
    let &[4, 0x44, a, b, c, d, label, ref iv @ ..] = rest else { return None };
    let (iv, end) = byte_string(iv)?;
    let iv = match label {
        5 if algorithm == Algorithm::Gcm => Iv::Gcm(iv.try_into().ok()?),
        5 => Iv::Ccm(iv.try_into().ok()?),
        6 => Iv::Partial(counter(iv)?),
        _ => return None,
    };
    let epoch = Epoch::from_bytes([a, b, c, d]);
    end.is_empty().then_some(Protected { algorithm, epoch, iv })
}

/// Reads a counter of 1 to 4 bytes, refusing leading zeros.
fn counter(bytes: &[u8]) -> Option<u32> {
    let (&[.., _], false) = (bytes, bytes.len() > 4) else { return None };
    let value = bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte));
    (shortest(&value.to_be_bytes()) == bytes).then_some(value)
}

/// Cuts leading zeros, but never the last byte.
fn shortest(bytes: &[u8; 4]) -> &[u8] {
    let zeros = bytes.iter().take(3).take_while(|&&byte| byte == 0).count();
    bytes.split_at(zeros).1
}

/// Splits a CBOR byte string with the shortest possible head from the front (RFC 8949 §4.2.1).
fn byte_string(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, shorter_holds, rest) = match input {
        [head @ 0x40..=0x57, rest @ ..] => (usize::from(head - 0x40), 0, rest),
        [0x58, a, rest @ ..] => (usize::from(*a), 24, rest),
        [0x59, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), 1 << 8, rest),
        [0x5A, a, b, c, d, rest @ ..] => {
            (usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?, 1 << 16, rest)
        }
        _ => return None,
    };
    if length < shorter_holds { None } else { rest.split_at_checked(length) }
}

/// Writes a CBOR byte string with the shortest possible head.
fn put_byte_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("no message has 4 GiB");
    match length.to_be_bytes() {
        [0, 0, 0, a @ ..=0x17] => out.push(0x40 + a),
        [0, 0, 0, a] => out.extend_from_slice(&[0x58, a]),
        [0, 0, a, b] => out.extend_from_slice(&[0x59, a, b]),
        [a, b, c, d] => out.extend_from_slice(&[0x5A, a, b, c, d]),
    }
    out.extend_from_slice(bytes);
}

/// An array of three, and its first member, the text "Encrypt0".
const CONTEXT: &[u8] = b"\x83\x68Encrypt0";
/// What heads of CBOR take at most in a message or structure.
const HEADS: usize = 16;
/// CBOR tag 16, `COSE_Encrypt0`.
const TAG: u8 = 0xD0;
const ARRAY_OF_3: u8 = 0x83;
const MAP_OF_3: u8 = 0xA3;
const EMPTY_MAP: u8 = 0xA0;
/// RFC 9053 §4.1.
const A256GCM: u8 = 3;
/// RFC 9053 §4.2, behind the head of a number of one byte.
const AES_CCM_16_128_256: u8 = 31;
const ONE_BYTE: u8 = 0x18;

#[cfg(test)]
mod tests {
    use super::*;
    use coset::{
        CoseEncrypt0, CoseEncrypt0Builder, EncryptionContext, HeaderBuilder, ProtectedHeader,
        TaggedCborSerializable, enc_structure_data, iana,
    };
    use proptest::prelude::*;

    fn key() -> Key256 {
        Key256::from_bytes([5; 32])
    }

    fn sealed(iv: Iv, plaintext: &[u8]) -> Vec<u8> {
        seal(&key(), &[1; 12], header(Algorithm::Gcm, iv), b"aad", plaintext)
    }

    fn header(algorithm: Algorithm, iv: Iv) -> Protected {
        Protected { algorithm, epoch: Epoch::new(7), iv }
    }

    #[test]
    fn either_algorithm_opens_what_it_has_sealed_and_nothing_else() {
        let ccm = header(Algorithm::Ccm, Iv::Partial(300));
        let frame = seal(&key(), &[1; 13], ccm, b"aad", b"21.5");
        let shape = [0xD0, 0x83, 0x4E, 0xA3, 1, 0x18, 31, 4, 0x44, 0, 0, 0, 7, 6, 0x42, 1, 44];
        assert_eq!(frame[..17], shape);
        let parsed = Sealed::parse(&frame).unwrap();
        assert_eq!(parsed.header, ccm);
        let opened = parsed.open(&key(), &[1; 13], b"aad");
        assert_eq!(opened.as_deref(), Some(&b"21.5"[..]));
        assert_eq!(parsed.open(&key(), &[1; 12], b"aad"), None, "a nonce of the other");
        let renamed = Sealed { header: header(Algorithm::Gcm, Iv::Partial(300)), ..parsed };
        assert_eq!(renamed.open(&key(), &[1; 12], b"aad"), None);
    }

    /// The header of a key frame and of a telemetry frame, byte for byte.
    #[test]
    fn the_shape_is_fixed() {
        let full = sealed(Iv::Gcm([9; 12]), b"");
        let mut expected = alloc::vec![0xD0, 0x83, 0x57, 0xA3, 1, 3, 4, 0x44, 0, 0, 0, 7, 5, 0x4C];
        expected.extend([9; 12]);
        // 3 of map and algorithm, 6 of kid, 14 of IV: one byte below where the head grows.
        assert_eq!(expected.len(), 3 + 23);
        expected.extend([0xA0, 0x50]);
        assert_eq!(full[..28], expected);
        let partial = sealed(Iv::Partial(256), b"");
        assert_eq!(
            partial[..17],
            [0xD0, 0x83, 0x4D, 0xA3, 1, 3, 4, 0x44, 0, 0, 0, 7, 6, 0x42, 1, 0, 0xA0]
        );
    }

    #[test]
    fn lengths_must_be_shortest() {
        for bad in [&[0x58, 1, 0][..], &[0x59, 0, 24], &[0x5A, 0, 0, 1, 0], &[0x5F], &[0x60], &[]] {
            assert_eq!(byte_string(bad), None, "{bad:02x?}");
        }
        for bad in [&[][..], &[0, 1], &[0, 0], &[1, 2, 3, 4, 5]] {
            assert_eq!(counter(bad), None, "{bad:02x?}");
        }
        for (good, value) in [(&[0][..], 0), (&[255], 255), (&[1, 0], 256), (&[255; 4], u32::MAX)] {
            assert_eq!(counter(good), Some(value), "{good:02x?}");
        }
    }

    proptest! {
        /// Somebody else's encoder writes the same bytes, and authenticates the same.
        #[test]
        fn a_general_encoder_agrees(
            number: u32,
            algorithm in prop::sample::select(&[Algorithm::Gcm, Algorithm::Ccm][..]),
            is_partial: bool,
            external in prop::collection::vec(any::<u8>(), 0..300),
            length in prop::sample::select(&[0_usize, 7, 8, 239, 240, 70_000][..]),
        ) {
            let iv = match algorithm {
                _ if is_partial => Iv::Partial(number),
                Algorithm::Gcm => Iv::Gcm([9; 12]),
                Algorithm::Ccm => Iv::Ccm([9; 13]),
            };
            let ours = header(algorithm, iv);
            let theirs = HeaderBuilder::new().key_id(alloc::vec![0, 0, 0, 7]).algorithm(match algorithm {
                Algorithm::Gcm => iana::Algorithm::A256GCM,
                Algorithm::Ccm => iana::Algorithm::AES_CCM_16_128_256,
            });
            let theirs = match iv {
                Iv::Gcm(iv) => theirs.iv(iv.to_vec()),
                Iv::Ccm(iv) => theirs.iv(iv.to_vec()),
                Iv::Partial(n) => theirs.partial_iv(shortest(&n.to_be_bytes()).to_vec()),
            };
            let theirs = theirs.build();
            let named = ProtectedHeader { original_data: None, header: theirs.clone() };
            let structure = enc_structure_data(EncryptionContext::CoseEncrypt0, named, &external);
            prop_assert_eq!(enc_structure(&encode_protected(ours), &external), structure);
            // CCM carries no more than 64 KiB.
            let length = if algorithm == Algorithm::Ccm { length.min(240) } else { length };
            let nonce = [1; 13].split_at(if algorithm == Algorithm::Ccm { 13 } else { 12 }).0.to_vec();
            let frame = seal(&key(), &nonce, ours, &external, &alloc::vec![7; length]);
            let ciphertext = Sealed::parse(&frame).unwrap().ciphertext.to_vec();
            let whole = CoseEncrypt0Builder::new().protected(theirs).ciphertext(ciphertext).build();
            prop_assert_eq!(frame, whole.to_tagged_vec().unwrap());
        }

        /// Somebody else's decoder reads what is sealed here, and ours reads it alike.
        #[test]
        fn a_general_decoder_agrees(
            counter: u32, plaintext in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let frame = sealed(Iv::Partial(counter), &plaintext);
            let ours = Sealed::parse(&frame).unwrap();
            let theirs = CoseEncrypt0::from_tagged_slice(&frame).unwrap();
            prop_assert_eq!(ours.header, header(Algorithm::Gcm, Iv::Partial(counter)));
            prop_assert_eq!(theirs.ciphertext.as_deref(), Some(ours.ciphertext));
            prop_assert_eq!(&theirs.protected.header.key_id, &[0, 0, 0, 7]);
            prop_assert!(theirs.unprotected.is_empty());
            let opened = ours.open(&key(), &[1; 12], b"aad");
            prop_assert_eq!(opened.as_deref(), Some(&plaintext[..]));
            prop_assert_eq!(ours.open(&key(), &[1; 12], b"other"), None);
        }

        /// A frame has one encoding: a changed byte is refused or no longer verifies.
        #[test]
        fn no_second_encoding(at: prop::sample::Index, flip in 1..=255_u8, long: bool) {
            let mut frame = sealed(Iv::Partial(300), &alloc::vec![1; if long { 300 } else { 9 }]);
            let at = at.index(frame.len());
            frame[at] ^= flip;
            let opened = Sealed::parse(&frame).and_then(|s| s.open(&key(), &[1; 12], b"aad"));
            prop_assert_eq!(opened, None);
        }

        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), good: bool) {
            let frame = if good { [&[0xD0, 0x83, 0x4C, 0xA3, 1, 3, 4, 0x44], &bytes[..]].concat() } else { bytes };
            drop(Sealed::parse(&frame).map(|s| s.open(&key(), &[0; 12], b"")));
        }
    }
}
