//! How a device proves itself to its gateway, by whatever door it comes (`PROTOCOL.md` P3).

use alloc::format;
use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claviger_units::{Eui64, Key256};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{Epoch, GatewaySecret, PskVersion};

/// What a sub-key of an epoch proves its holder with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The MAC of a request by HTTPS.
    Request,
    /// The password at the broker.
    Mqtt,
    /// A handshake of TLS with a pre-shared key.
    Psk(PskVersion),
    /// A request by CoAP under OSCORE.
    Oscore,
}

impl Door {
    /// Every door.
    pub const ALL: [Self; 5] = [
        Self::Request,
        Self::Mqtt,
        Self::Psk(PskVersion::Tls12),
        Self::Psk(PskVersion::Tls13),
        Self::Oscore,
    ];

    const fn label(self) -> &'static [u8] {
        match self {
            Self::Request => b"req",
            Self::Mqtt => b"mqtt",
            Self::Psk(PskVersion::Tls12) => b"psk12",
            Self::Psk(PskVersion::Tls13) => b"psk13",
            Self::Oscore => b"oscore",
        }
    }
}

/// The sub-keys of one epoch by which a device proves itself, one for each door.
pub trait EpochKeys {
    /// Returns the sub-key of a door, which opens no other.
    fn key_of(&self, door: Door) -> Key256;

    /// Computes the MAC of a request, over its method, a space, its path and its query.
    fn request_mac(&self, method_and_path: &str) -> [u8; 32] {
        mac_of(&self.key_of(Door::Request), &[method_and_path.as_bytes()])
    }

    /// Checks the MAC of a request without telling by time where it differs.
    fn verify_request(&self, method_and_path: &str, mac: &[u8; 32]) -> bool {
        self.request_mac(method_and_path).ct_eq(mac).into()
    }

    /// Writes the `Authorization` header of a GET under these keys, which are of epoch `epoch`.
    fn request_authorization(&self, epoch: Epoch, path_and_query: &str) -> String {
        let mac = URL_SAFE_NO_PAD.encode(self.request_mac(&format!("GET {path_and_query}")));
        format!("Claviger epoch={epoch}, mac={mac}")
    }

    /// Computes the password with which the device logs in at the broker; the user is its EUI-64.
    fn mqtt_password(&self, eui: Eui64) -> String {
        let mac = mac_of(&self.key_of(Door::Mqtt), &[b"connect", eui.as_bytes()]);
        URL_SAFE_NO_PAD.encode(mac)
    }

    /// Checks a log-in password without telling by time where it differs.
    fn verify_mqtt_password(&self, eui: Eui64, password: &[u8]) -> bool {
        self.mqtt_password(eui).as_bytes().ct_eq(password).into()
    }

    /// Returns the pre-shared key for a version of TLS.
    fn pre_shared_key(&self, version: PskVersion) -> Key256 {
        self.key_of(Door::Psk(version))
    }

    /// Returns the master secret of OSCORE.
    fn oscore_master_secret(&self) -> Key256 {
        self.key_of(Door::Oscore)
    }
}

impl EpochKeys for GatewaySecret {
    fn key_of(&self, door: Door) -> Key256 {
        self.labelled(door.label())
    }
}

/// The sub-keys of an epoch without the secret that they come from: they notice who still uses that epoch,
/// and neither unwrap its key frame nor lead to the next epoch.
#[derive(Debug, Zeroize, ZeroizeOnDrop)]
pub struct ProofKeys([Key256; Door::ALL.len()]);

impl ProofKeys {
    /// Derives them from the secret.
    #[must_use]
    pub fn of(secret: &GatewaySecret) -> Self {
        Self(Door::ALL.map(|door| secret.key_of(door)))
    }

    /// Takes over keys that were stored, in the order of [`Door::ALL`].
    #[must_use]
    pub const fn from_keys(keys: [Key256; Door::ALL.len()]) -> Self {
        Self(keys)
    }

    /// Gives the keys in the order of [`Door::ALL`], to be stored sealed.
    #[must_use]
    pub const fn as_keys(&self) -> &[Key256; Door::ALL.len()] {
        &self.0
    }
}

impl EpochKeys for ProofKeys {
    fn key_of(&self, door: Door) -> Key256 {
        let [request, mqtt, psk12, psk13, oscore] = &self.0;
        match door {
            Door::Request => request,
            Door::Mqtt => mqtt,
            Door::Psk(PskVersion::Tls12) => psk12,
            Door::Psk(PskVersion::Tls13) => psk13,
            Door::Oscore => oscore,
        }
        .duplicate()
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
fn mac_of(key: &Key256, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn secret(byte: u8) -> GatewaySecret {
        GatewaySecret::from_key(Key256::from_bytes([byte; 32]))
    }

    #[test]
    fn other_headers_are_refused() {
        let good = secret(1).request_authorization(Epoch::new(7), "/x?have=7");
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
        let mac = secret(1).request_mac("GET /x?have=7");
        assert!(secret(1).verify_request("GET /x?have=7", &mac));
        assert!(!secret(1).verify_request("GET /x?have=8", &mac));
        assert!(!secret(2).verify_request("GET /x?have=7", &mac));
    }

    #[test]
    fn only_the_right_password_logs_in() {
        let eui = Eui64::from_bytes([2; 8]);
        let password = secret(1).mqtt_password(eui);
        assert_eq!(password.len(), 43);
        assert!(secret(1).verify_mqtt_password(eui, password.as_bytes()));
        assert!(!secret(2).verify_mqtt_password(eui, password.as_bytes()));
        assert!(!secret(1).verify_mqtt_password(eui, b""));
    }

    #[test]
    fn each_door_has_a_key_of_its_own_and_the_kept_ones_are_the_same() {
        let keys: Vec<Key256> = Door::ALL.iter().map(|door| secret(3).key_of(*door)).collect();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().filter(|other| key.ct_eq(other)).count(), 1, "door {n}");
        }
        let kept = ProofKeys::of(&secret(3));
        for (door, key) in Door::ALL.iter().zip(&keys) {
            assert!(kept.key_of(*door).ct_eq(key), "{door:?}");
        }
        assert_eq!(format!("{kept:?}").matches("Key256(..)").count(), 5);
    }

    proptest! {
        #[test]
        fn authorization_survives_its_text(key: [u8; 32], epoch: u32, path in "/[ -~]{0,40}") {
            let secret = GatewaySecret::from_key(Key256::from_bytes(key));
            let header = secret.request_authorization(Epoch::new(epoch), &path);
            let (claimed, mac) = parse_authorization(&header).unwrap();
            prop_assert_eq!(claimed, Epoch::new(epoch));
            let request = format!("GET {path}");
            prop_assert!(secret.verify_request(&request, &mac));
        }

        #[test]
        fn parsing_never_panics(header in ".{0,100}") {
            let _: Option<_> = parse_authorization(&header);
        }
    }
}
