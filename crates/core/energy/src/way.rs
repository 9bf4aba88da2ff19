//! The ways in which a device gets a fresh key, and what each takes.

use core::fmt;
use core::str::FromStr;

/// A way to a fresh key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Device-generated: ephemeral ECDH, unsigned, open to whoever is in the middle.
    Dkg,
    /// The same with both halves signed.
    DkgAuth,
    /// HTTPS with a certificate: the paper's text read literally.
    Https,
    /// HTTPS over TLS 1.3, a pre-shared key and ephemeral ECDH.
    Psk13Dhe,
    /// HTTPS over TLS 1.3 and a pre-shared key alone.
    Psk13Ke,
    /// HTTPS over a resumed TLS 1.3 session.
    Resumption,
    /// HTTPS over TLS 1.2 and a pre-shared key.
    Psk12,
    /// A request over DTLS 1.2 and a pre-shared key.
    DtlsPsk,
    /// CoAP with OSCORE.
    Oscore,
    /// A key frame pushed over the MQTT session that is open.
    Push,
    /// A key frame in a wake that happens anyway.
    PushPiggyback,
    /// A key of the pad that was handed over by cable.
    Pad,
}

/// What one key takes, whatever the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Key pairs that the device makes.
    pub key_generations: u32,
    /// Shared secrets that it computes.
    pub agreements: u32,
    /// Signatures that it makes.
    pub signatures: u32,
    /// Signatures that it verifies.
    pub verifications: u32,
    /// Its symmetric work.
    pub symmetric: Symmetric,
    /// Half round trips for which it waits.
    pub half_round_trips: u32,
    /// Packets both ways.
    pub segments: u32,
    /// Bytes above TCP or UDP, both ways.
    pub application_bytes: u32,
    /// What each packet has in front.
    pub headers: Headers,
}

/// How much symmetric cryptography one key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symmetric {
    /// So little beside the rest that it is not counted.
    Negligible,
    /// A handshake and records.
    Session,
    /// One frame.
    Frame,
}

/// What is in front of the payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// IPv4 and TCP: 40 bytes.
    Tcp,
    /// IPv4 and UDP: 28 bytes.
    Udp,
}

impl Headers {
    /// Returns their length.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Tcp => 40,
            Self::Udp => 28,
        }
    }
}

impl Exchange {
    /// Returns all bytes of IP packets, both ways.
    #[must_use]
    pub const fn ip_bytes(&self) -> u32 {
        self.application_bytes + self.segments * self.headers.bytes()
    }

    /// Returns how many operations with public keys the device does.
    #[must_use]
    pub const fn public_key_operations(&self) -> u32 {
        self.key_generations + self.agreements + self.signatures + self.verifications
    }
}

/// A handshake of TLS 1.3 with one request, but for what differs from way to way.
const TLS: Exchange = Exchange {
    key_generations: 0,
    agreements: 0,
    signatures: 0,
    verifications: 0,
    symmetric: Symmetric::Negligible,
    half_round_trips: 6,
    segments: 11,
    application_bytes: 0,
    headers: Headers::Tcp,
};
const EPHEMERAL: Exchange = Exchange { key_generations: 1, agreements: 1, ..TLS };
const SHARED: Exchange = Exchange { symmetric: Symmetric::Session, ..TLS };
const FRAME: Exchange = Exchange { symmetric: Symmetric::Frame, ..TLS };

impl Way {
    /// Every way.
    pub const ALL: [Self; 12] = [
        Self::Dkg,
        Self::DkgAuth,
        Self::Https,
        Self::Psk13Dhe,
        Self::Psk13Ke,
        Self::Resumption,
        Self::Psk12,
        Self::DtlsPsk,
        Self::Oscore,
        Self::Push,
        Self::PushPiggyback,
        Self::Pad,
    ];

    /// Returns what people type for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dkg => "dkg",
            Self::DkgAuth => "dkg_auth",
            Self::Https => "https",
            Self::Psk13Dhe => "psk13_dhe",
            Self::Psk13Ke => "psk13_ke",
            Self::Resumption => "tls13_resumption",
            Self::Psk12 => "psk12",
            Self::DtlsPsk => "dtls12_psk",
            Self::Oscore => "oscore",
            Self::Push => "push",
            Self::PushPiggyback => "push_piggyback",
            Self::Pad => "pad",
        }
    }

    /// Tells whether the device makes the key itself.
    #[must_use]
    pub const fn is_device_generated(self) -> bool {
        matches!(self, Self::Dkg | Self::DkgAuth)
    }

    /// Returns what one key takes.
    ///
    /// Bytes of TLS and DTLS were measured with OpenSSL 3 (one P-256 certificate); those of DKG are two
    /// points of 65 bytes with 30 of framing each, and two signatures of 64 where it is authenticated; a
    /// pushed frame has 57 bytes, and 24 of MQTT around it with a topic of 14.
    #[must_use]
    pub const fn exchange(self) -> Exchange {
        match self {
            Self::Dkg => Exchange {
                half_round_trips: 2,
                segments: 4,
                application_bytes: 2 * (65 + 30),
                ..EPHEMERAL
            },
            Self::DkgAuth => Exchange {
                signatures: 1,
                verifications: 1,
                half_round_trips: 2,
                segments: 4,
                application_bytes: 2 * (65 + 64 + 30),
                ..EPHEMERAL
            },
            Self::Https => Exchange { verifications: 1, application_bytes: 1224, ..EPHEMERAL },
            Self::Psk13Dhe => Exchange { segments: 10, application_bytes: 874, ..EPHEMERAL },
            Self::Resumption => Exchange { application_bytes: 1290, ..EPHEMERAL },
            // 769 as measured, less a key share of 33 bytes that is not needed.
            Self::Psk13Ke => Exchange { segments: 10, application_bytes: 736, ..SHARED },
            Self::Psk12 => {
                Exchange { half_round_trips: 8, segments: 12, application_bytes: 786, ..SHARED }
            }
            Self::DtlsPsk => Exchange {
                half_round_trips: 8,
                segments: 9,
                application_bytes: 828 + 59 + 75,
                headers: Headers::Udp,
                ..SHARED
            },
            Self::Oscore => Exchange {
                half_round_trips: 2,
                segments: 2,
                application_bytes: 22 + 56,
                headers: Headers::Udp,
                ..FRAME
            },
            Self::Push => {
                Exchange { half_round_trips: 1, segments: 3, application_bytes: 57 + 24, ..FRAME }
            }
            Self::PushPiggyback => {
                Exchange { half_round_trips: 0, segments: 0, application_bytes: 57, ..FRAME }
            }
            Self::Pad => Exchange {
                half_round_trips: 0,
                segments: 0,
                symmetric: Symmetric::Negligible,
                ..TLS
            },
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no way to a key: choose one of {names}", names = Way::ALL.map(Way::name).join(", "))]
pub struct UnknownWay(String);

impl FromStr for Way {
    type Err = UnknownWay;

    fn from_str(text: &str) -> Result<Self, UnknownWay> {
        let found = Self::ALL.into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| UnknownWay(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_written_as_they_are_read() {
        for way in Way::ALL {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert!("carrier pigeon".parse::<Way>().unwrap_err().to_string().contains("psk12, "));
    }

    #[test]
    fn only_ways_without_ephemeral_keys_need_no_public_key_work() {
        let free = [
            Way::Psk13Ke,
            Way::Psk12,
            Way::DtlsPsk,
            Way::Oscore,
            Way::Push,
            Way::PushPiggyback,
            Way::Pad,
        ];
        for way in Way::ALL {
            let operations = way.exchange().public_key_operations();
            assert_eq!(operations == 0, free.contains(&way), "{way}");
        }
    }
}
