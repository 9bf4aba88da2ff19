//! What the cores want of their own KME, and what it answers (ETSI GS QKD 014).

use std::fmt;

use claviger_durable::EngineError;
use claviger_frames::Epoch;
use claviger_units::{Eui64, Key256, KeyId};
use rand_core::Rng;

/// What the gateway wants of the KME of its site; each order is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// One new key by `enc_keys`, slave = platform; answer by
    /// [`handle_extracted`](crate::Gateway::handle_extracted).
    Extract {
        /// The device that it is for.
        eui: Eui64,
        /// The epoch that it is for.
        epoch: Epoch,
        /// The request token: the same for every try until it is answered.
        token: RequestToken,
    },
    /// One new key W by `enc_keys`, slave = platform, to give devices back under; answer by
    /// [`handle_mastered`](crate::Gateway::handle_mastered).
    Master {
        /// The request token: the same for every try until it is answered.
        token: RequestToken,
    },
    /// Keys for a pad by `enc_keys`, slave = platform, but only if the KME has more than enough; answer by
    /// [`handle_pad_extracted`](crate::Gateway::handle_pad_extracted).
    ExtractPad {
        /// How many at most.
        most: usize,
    },
    /// The key W of an adoption by `dec_keys`, master = platform; answer by
    /// [`handle_fetched`](crate::Gateway::handle_fetched).
    Fetch {
        /// The id of W.
        key_id: KeyId,
    },
}

/// What the platform wants of the KME of its site; each order is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformOrder {
    /// One new key W for an adoption by `enc_keys`, slave = gateway; answer by
    /// [`handle_mastered`](crate::Platform::handle_mastered).
    Master {
        /// The request token: the same for every try until it is answered.
        token: RequestToken,
    },
    /// The key of an announced epoch by `dec_keys`, master = gateway; answer by
    /// [`handle_fetched`](crate::Platform::handle_fetched).
    Fetch {
        /// The id of the key.
        key_id: KeyId,
    },
}

/// The answer to an `enc_keys` order.
#[derive(Debug)]
pub enum Extraction {
    /// A key; whoever reports it has no copy left.
    Key(KeyId, Key256, Origin),
    /// 503: no keys at present.
    Shortage,
    /// 503 `token already answered`: the key of an earlier try is burnt (`PROTOCOL.md` P3b.2).
    TokenAnswered,
    /// No usable answer, whatever the reason: the order is repeated with the same token.
    Unreachable,
}

/// The answer to a `dec_keys` order.
#[derive(Debug)]
pub enum Fetching {
    /// The key; whoever reports it has no copy left.
    Key(Key256, Origin),
    /// 400: unknown, used or expired. It will never be had.
    Refused,
    /// No usable answer, 503 or 401: the order is repeated.
    Unreachable,
}

/// Where a KME says that a key comes from (`claviger_origin` in its `key_extension`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the simulated link: never to be relied on.
    Simulated,
    /// The KME says nothing else: a real link.
    Link,
}

impl Origin {
    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::Simulated => 1,
            Self::Link => 2,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Simulated),
            2 => Some(Self::Link),
            _ => None,
        }
    }
}

/// A request token: a random UUID that makes repeated tries one request (`PROTOCOL.md` P2, Retry).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestToken(KeyId);

impl RequestToken {
    pub(crate) fn random(rng: &mut impl Rng) -> Self {
        Self(KeyId::random(rng))
    }

    /// Takes the bytes of a UUID over.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(KeyId::from_bytes(bytes))
    }

    /// Returns the 16 bytes of the UUID.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for RequestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RequestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestToken({self})")
    }
}

/// A row that cannot be read, in the words of the store.
pub(crate) const fn damaged(table: claviger_durable::Table) -> EngineError {
    EngineError::Damaged(table.name)
}
