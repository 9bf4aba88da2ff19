//! How a device proves itself in a request and at the broker (`PROTOCOL.md` P3, `tls-cert`).

use alloc::format;
use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claviger_units::Key256;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Epoch;

/// The sub-key of an epoch that signs requests and can do nothing else.
#[derive(Debug, Zeroize, ZeroizeOnDrop)]
pub struct RequestKey(Key256);

impl RequestKey {
    /// Takes over the bytes of a key that was stored.
    #[must_use]
    pub const fn from_key(key: Key256) -> Self {
        Self(key)
    }

    /// Gives the bytes, to be stored sealed.
    #[must_use]
    pub const fn as_key(&self) -> &Key256 {
        &self.0
    }

    /// Computes the MAC of a request, over its method, a space, its path and its query.
    #[must_use]
    pub fn mac(&self, method_and_path: &str) -> [u8; 32] {
        mac_of(&self.0, &[method_and_path.as_bytes()])
    }

    /// Checks the MAC of a request without telling by time where it differs.
    #[must_use]
    pub fn verify(&self, method_and_path: &str, mac: &[u8; 32]) -> bool {
        self.mac(method_and_path).ct_eq(mac).into()
    }

    /// Writes the `Authorization` header of a GET under this key, which is of epoch `epoch`.
    #[must_use]
    pub fn authorization(&self, epoch: Epoch, path_and_query: &str) -> String {
        let mac = URL_SAFE_NO_PAD.encode(self.mac(&format!("GET {path_and_query}")));
        format!("Claviger epoch={epoch}, mac={mac}")
    }
}

/// Reads an `Authorization` header: the epoch and the MAC that it claims, or `None` for any other.
#[must_use]
pub fn parse_authorization(header: &str) -> Option<(Epoch, [u8; 32])> {
    let (epoch, mac) = header.strip_prefix("Claviger epoch=")?.split_once(", mac=")?;
    let number = epoch.bytes().all(|c| c.is_ascii_digit()).then(|| epoch.parse().ok())??;
    let mac = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
    Some((Epoch::new(number), mac))
}

/// HMAC-SHA256 over the parts, one behind the other.
pub(crate) fn mac_of(key: &Key256, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(crate) fn password_of(mac: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_headers_are_refused() {
        let good =
            RequestKey(Key256::from_bytes([1; 32])).authorization(Epoch::new(7), "/x?have=7");
        assert!(parse_authorization(&good).is_some());
        let mac = good.rsplit('=').next().unwrap();
        for bad in [
            String::new(),
            format!("{good}="),
            format!("{good}A"),
            format!(" {good}"),
            format!("claviger epoch=7, mac={mac}"),
            format!("Claviger epoch=, mac={mac}"),
            format!("Claviger epoch=+7, mac={mac}"),
            format!("Claviger epoch=4294967296, mac={mac}"),
            "Claviger epoch=7, mac=AAAA".into(),
        ] {
            assert_eq!(parse_authorization(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_mac_is_bound_to_its_request() {
        let key = RequestKey(Key256::from_bytes([1; 32]));
        let mac = key.mac("GET /x?have=7");
        assert!(key.verify("GET /x?have=7", &mac));
        assert!(!key.verify("GET /x?have=8", &mac));
    }

    proptest! {
        #[test]
        fn authorization_survives_its_text(key: [u8; 32], epoch: u32, path in "/[ -~]{0,40}") {
            let key = RequestKey(Key256::from_bytes(key));
            let header = key.authorization(Epoch::new(epoch), &path);
            let (claimed, mac) = parse_authorization(&header).unwrap();
            prop_assert_eq!(claimed, Epoch::new(epoch));
            let request = format!("GET {path}");
            prop_assert!(key.verify(&request, &mac));
        }

        #[test]
        fn parsing_never_panics(header in ".{0,100}") {
            let _: Option<_> = parse_authorization(&header);
        }
    }
}
