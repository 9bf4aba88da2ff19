//! What a client had to compute in a handshake of TLS, read from what went over the wire.
//!
//! Hellos travel in clear, and say which key shares the client made, which of them served, and whether a
//! pre-shared key spared the certificate. How many certificates came is sealed in TLS 1.3; there, the
//! client's own library is asked.

use tls_parser::{
    TlsCipherAu, TlsCipherKx, TlsCipherSuite, TlsExtension, TlsMessage, TlsMessageHandshake,
    TlsServerHelloContents, parse_tls_extensions, parse_tls_plaintext,
};

/// Operations with public keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicKeyWork {
    /// Key pairs made.
    pub key_generations: u32,
    /// Shared secrets computed.
    pub agreements: u32,
    /// Signatures made.
    pub signatures: u32,
    /// Signatures verified.
    pub verifications: u32,
}

impl PublicKeyWork {
    /// Returns their number.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.key_generations + self.agreements + self.signatures + self.verifications
    }
}

/// Why a handshake is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unread {
    /// No hello of a client, or none of a server: not TLS, or cut off.
    #[error("the first bytes of the connection hold no two hellos of TLS")]
    NoHellos,
    /// A cipher suite whose key exchange is not known here.
    #[error("cipher suite {0:#06x} is unknown")]
    Suite(u16),
}

/// Counts what a client computed, from the first bytes that it sent and received.
///
/// `certificates` is the number of certificates that the server showed; each has one signature to verify
/// (the last by the authority), and the server one more over the handshake. A key share that the client
/// made in vain counts, as it costs no less. The hybrid of X25519 and ML-KEM-768 counts twice.
pub fn client_work(
    sent: &[u8],
    received: &[u8],
    certificates: u32,
) -> Result<PublicKeyWork, Unread> {
    let offers = hellos(sent, |handshake| match handshake {
        TlsMessageHandshake::ClientHello(hello) => Some(key_shares(hello.ext)),
        _ => None,
    });
    let answers = hellos(received, |handshake| match handshake {
        TlsMessageHandshake::ServerHello(hello) => Some(Answer::of(&hello)),
        _ => None,
    });
    // The last answer counts: a server may first have asked for another share.
    let (false, Some(answer)) = (offers.is_empty(), answers.into_iter().next_back()) else {
        return Err(Unread::NoHellos);
    };
    let mut work = answer?.work(certificates);
    work.key_generations += offers.iter().flatten().map(|group| halves(*group)).sum::<u32>();
    Ok(work)
}

/// What the server chose.
enum Answer {
    Tls13 { group: Option<u16>, has_psk: bool },
    Older { is_ephemeral: bool, has_certificate: bool },
}

impl Answer {
    fn of(hello: &TlsServerHelloContents<'_>) -> Result<Self, Unread> {
        let extensions = extensions(hello.ext);
        if extensions
            .iter()
            .any(|extension| matches!(extension, TlsExtension::SupportedVersions(_)))
        {
            let group = extensions.iter().find_map(|extension| match extension {
                TlsExtension::KeyShare(share) => share.first_chunk().copied(),
                _ => None,
            });
            let has_psk = extensions.iter().any(|it| matches!(it, TlsExtension::PreSharedKey(_)));
            return Ok(Self::Tls13 { group: group.map(u16::from_be_bytes), has_psk });
        }
        let suite = TlsCipherSuite::from_id(hello.cipher.0).ok_or(Unread::Suite(hello.cipher.0))?;
        let is_ephemeral = match suite.kx {
            TlsCipherKx::Psk => false,
            TlsCipherKx::Ecdhe | TlsCipherKx::Dhe => true,
            _ => return Err(Unread::Suite(hello.cipher.0)),
        };
        Ok(Self::Older { is_ephemeral, has_certificate: suite.au != TlsCipherAu::Psk })
    }

    fn work(&self, certificates: u32) -> PublicKeyWork {
        let (agreements, key_generations, has_certificate) = match *self {
            // Its key generations stand in the client's hello.
            Self::Tls13 { group, has_psk } => (group.map_or(0, halves), 0, !has_psk),
            Self::Older { is_ephemeral, has_certificate } => {
                (is_ephemeral.into(), is_ephemeral.into(), has_certificate)
            }
        };
        let verifications = if has_certificate { certificates + 1 } else { 0 };
        PublicKeyWork { key_generations, agreements, signatures: 0, verifications }
    }
}

/// Returns of how many key pairs a share of this group is made.
const fn halves(group: u16) -> u32 {
    if group == X25519_MLKEM768 { 2 } else { 1 }
}

const X25519_MLKEM768: u16 = 0x11EC;

/// Returns the groups of the shares in the extensions of a client's hello.
fn key_shares(extensions_of: Option<&[u8]>) -> Vec<u16> {
    let mut groups = Vec::new();
    for extension in extensions(extensions_of) {
        let TlsExtension::KeyShare(shares) = extension else { continue };
        let mut rest = shares.get(2..).unwrap_or_default();
        while let Some((&[a, b, c, d], behind)) = rest.split_first_chunk() {
            groups.push(u16::from_be_bytes([a, b]));
            let length = usize::from(u16::from_be_bytes([c, d]));
            rest = behind.get(length..).unwrap_or_default();
        }
    }
    groups
}

fn extensions(bytes: Option<&[u8]>) -> Vec<TlsExtension<'_>> {
    let parsed = bytes.and_then(|bytes| parse_tls_extensions(bytes).ok());
    parsed.map(|(_, extensions)| extensions).unwrap_or_default()
}

/// Takes what `pick` wants of the messages in clear at the start of a direction.
fn hellos<T>(bytes: &[u8], pick: impl Fn(TlsMessageHandshake<'_>) -> Option<T>) -> Vec<T> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Ok((behind, record)) = parse_tls_plaintext(rest) {
        for message in record.msg {
            if let TlsMessage::Handshake(handshake) = message {
                found.extend(pick(handshake));
            }
        }
        rest = behind;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hellos that were on a wire, a line each: name, certificates, key generations, agreements,
    /// verifications, the client's first bytes, the server's. To write them anew, see `tests/handshakes.rs`.
    const CAPTURES: &str = include_str!("../tests/captures.txt");

    fn captures() -> impl Iterator<Item = (&'static str, [u32; 4], Vec<u8>, Vec<u8>)> {
        CAPTURES.lines().map(|line| {
            let [name, certificates, made, agreed, verified, sent, received] =
                line.split(' ').collect::<Vec<_>>()[..]
            else {
                panic!("{line}")
            };
            let numbers = [certificates, made, agreed, verified].map(|n| n.parse().unwrap());
            (name, numbers, bytes(sent), bytes(received))
        })
    }

    fn bytes(digits: &str) -> Vec<u8> {
        let pair = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (0..digits.len()).step_by(2).map(pair).collect()
    }

    #[test]
    fn captured_handshakes_are_counted() {
        let mut n_captures = 0;
        for (name, [certificates, made, agreed, verified], sent, received) in captures() {
            let expected = PublicKeyWork {
                key_generations: made,
                agreements: agreed,
                signatures: 0,
                verifications: verified,
            };
            assert_eq!(client_work(&sent, &received, certificates), Ok(expected), "{name}");
            assert_eq!(client_work(&received, &sent, 0), Err(Unread::NoHellos), "{name} swapped");
            n_captures += 1;
        }
        assert_eq!(n_captures, 5);
    }

    proptest! {
        #[test]
        fn reading_never_panics(
            which in 0..5_usize, cut: prop::sample::Index, at: prop::sample::Index, flip: u8,
        ) {
            let (_, _, mut sent, mut received) = captures().nth(which).unwrap();
            for bytes in [&mut sent, &mut received] {
                bytes.truncate(cut.index(bytes.len()) + 1);
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            let _: Result<_, _> = client_work(&sent, &received, 1);
        }
    }
}
