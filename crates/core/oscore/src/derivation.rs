//! From a master secret to keys (RFC 8613 §3.2).

use alloc::vec::Vec;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::OscoreError;

/// What both ends agree on beforehand, seen from one of them.
#[derive(Clone, Copy)]
pub struct Keying<'a> {
    /// The secret.
    pub master_secret: &'a [u8],
    /// The salt; may be empty.
    pub master_salt: &'a [u8],
    /// What tells this context from others of the same ends, 23 bytes at most.
    pub id_context: Option<&'a [u8]>,
    /// The id of this end, 7 bytes at most.
    pub own_id: &'a [u8],
    /// The id of the other end, another one.
    pub peer_id: &'a [u8],
}

impl core::fmt::Debug for Keying<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Keying").field("id_context", &self.id_context).finish_non_exhaustive()
    }
}

/// AES-CCM-16-64-128 in the registry of COSE.
pub(crate) const ALGORITHM: u8 = 10;
pub(crate) const KEY: usize = 16;
pub(crate) const NONCE: usize = 13;
/// The longest id of an end.
pub(crate) const LONGEST_ID: usize = NONCE - 6;
/// Longer texts have a longer head in CBOR.
const LONGEST_CONTEXT: usize = 23;

/// The key of one end.
pub(crate) type EndKey = Zeroizing<[u8; KEY]>;

impl Keying<'_> {
    pub(crate) fn check(&self) -> Result<(), OscoreError> {
        let ids = [self.own_id, self.peer_id];
        let context = self.id_context.map_or(0, <[u8]>::len);
        let fit = ids.iter().all(|id| id.len() <= LONGEST_ID) && context <= LONGEST_CONTEXT;
        if fit && self.own_id != self.peer_id { Ok(()) } else { Err(OscoreError::Ids) }
    }

    pub(crate) fn key_of(&self, id: &[u8]) -> EndKey {
        let mut key = Zeroizing::new([0; KEY]);
        self.expand(id, b"Key", key.as_mut_slice());
        key
    }

    pub(crate) fn common_iv(&self) -> [u8; NONCE] {
        let mut iv = [0; NONCE];
        self.expand(&[], b"IV", &mut iv);
        iv
    }

    fn expand(&self, id: &[u8], kind: &[u8], out: &mut [u8]) {
        let length = u8::try_from(out.len()).unwrap_or(u8::MAX);
        let info = self.info(id, kind, length);
        Hkdf::<Sha256>::new(Some(self.master_salt), self.master_secret)
            .expand(&info, out)
            .expect("16 bytes are less than HKDF can give");
    }

    /// Five items of CBOR: id, id context, algorithm, kind, length.
    fn info(&self, id: &[u8], kind: &[u8], length: u8) -> Vec<u8> {
        let mut info = Vec::from([0x85]);
        put_bytes(&mut info, id);
        match self.id_context {
            Some(context) => put_bytes(&mut info, context),
            None => info.push(0xF6),
        }
        info.push(ALGORITHM);
        info.push(0x60 | u8::try_from(kind.len()).unwrap_or(u8::MAX));
        info.extend_from_slice(kind);
        // Both lengths are below 24, as everything here.
        info.push(length);
        info
    }
}

/// Puts a byte string of less than 24 bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(0x40 | u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8613 appendix C.1 to C.3: salt, id context, ids, infos, keys, common IV.
    #[test]
    fn keys_are_those_of_the_standard() {
        let secret: Vec<u8> = (1..=16).collect();
        let salt = hex("9e7ca92223786340");
        let context = hex("37cbf3210017a2d3");
        for (salt, id_context, own_id, peer_id, info, own_key, peer_key, iv) in [
            (
                &salt[..],
                None,
                "",
                "01",
                "8540f60a634b657910",
                "f0910ed7295e6ad4b54fc793154302ff",
                "ffb14e093c94c9cac9471648b4f98710",
                "4622d4dd6d944168eefb54987c",
            ),
            (
                &[],
                None,
                "00",
                "01",
                "854100f60a634b657910",
                "321b26943253c7ffb6003b0b64d74041",
                "e57b5635815177cd679ab4bcec9d7dda",
                "be35ae297d2dace910c52e99f9",
            ),
            (
                &salt,
                Some(&context[..]),
                "",
                "01",
                "85404837cbf3210017a2d30a634b657910",
                "af2a1300a5e95788b356336eeecd2b92",
                "e39a0c7c77b43f03b4b39ab9a268699f",
                "2ca58fb85ff1b81c0b7181b85e",
            ),
        ] {
            let (own_id, peer_id) = (hex(own_id), hex(peer_id));
            let keying = Keying {
                master_secret: &secret,
                master_salt: salt,
                id_context,
                own_id: &own_id,
                peer_id: &peer_id,
            };
            assert_eq!(keying.info(&own_id, b"Key", 16), hex(info));
            assert_eq!(keying.key_of(&own_id).to_vec(), hex(own_key));
            assert_eq!(keying.key_of(&peer_id).to_vec(), hex(peer_key));
            assert_eq!(keying.common_iv().to_vec(), hex(iv));
        }
    }

    #[test]
    fn ids_that_do_not_fit_are_refused() {
        let keying = |own_id, peer_id, id_context| Keying {
            master_secret: &[1],
            master_salt: &[],
            id_context,
            own_id,
            peer_id,
        };
        assert_eq!(keying(&[1][..], &[0][..], None).check(), Ok(()));
        for wrong in [
            keying(&[0; 8], &[0], None),
            keying(&[0], &[0], None),
            keying(&[1], &[0], Some(&[0; 24])),
        ] {
            assert_eq!(wrong.check(), Err(OscoreError::Ids));
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |c: u8| u8::try_from(char::from(c).to_digit(16).unwrap()).unwrap();
        text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }
}
