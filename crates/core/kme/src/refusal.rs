//! Everything a KME says no with: the class for the status line, the words for the body.

use std::collections::BTreeMap;

use claviger_durable::EngineError;
use claviger_keystore::Inquiry;
use claviger_units::Bits;
use claviger_wire::etsi014::{ErrorBody, RequestError};

/// Who must act after a refusal; the three classes of ETSI GS QKD 014.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalKind {
    /// The application: the request can never succeed as it stands (400).
    BadRequest,
    /// The operator: this application may not ask this here (401).
    Unauthorized,
    /// Nobody: the same request may succeed later (503).
    Unavailable,
}

/// Why an application gets no key; nothing was spent.
///
/// The text is the `message` that the application sees. Some texts are fixed by ETSI GS QKD 014.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request cannot be read.
    #[error(transparent)]
    Malformed(#[from] RequestError),
    /// Fewer than one key, or more than one request may ask for.
    #[error("number shall be 1 to {max}")]
    Number {
        /// The most.
        max: u32,
    },
    /// A key that does not end at an octet (ETSI GS QKD 014, fixed text).
    #[error("size shall be a multiple of 8")]
    SizeNotOctets,
    /// A key smaller or larger than this KME makes them.
    #[error("size shall be {} to {} bits", .min.count(), .max.count())]
    Size {
        /// The smallest.
        min: Bits,
        /// The largest.
        max: Bits,
    },
    /// An extension that this KME does not know (ETSI GS QKD 014, fixed text).
    #[error("not all extension_mandatory parameters are supported")]
    ExtensionUnsupported,
    /// The path, or a list of slaves, names nobody that this KME knows.
    #[error("{0} names no SAE that is registered here")]
    UnknownSae(&'static str),
    /// An application asks for keys with itself.
    #[error("master and slave shall be two different SAEs")]
    SameSae,
    /// A slave would get the same key twice.
    #[error("a slave is named twice")]
    SlaveTwice,
    /// The key store cannot make keys to this order.
    #[error("the order cannot be met: {0}")]
    Order(&'static str),
    /// No ids, or more than one request may ask for.
    #[error("key_IDs shall hold 1 to {max} ids")]
    IdCount {
        /// The most.
        max: u32,
    },
    /// The same key would leave twice.
    #[error("key_IDs names a key twice")]
    IdTwice,
    /// An id that is unknown or used up (ETSI GS QKD 014, fixed text).
    #[error("one or more keys specified are not found on KME")]
    KeysNotFound,
    /// A valid certificate, but no application of this KME: register it here, or ask its own KME.
    #[error("this SAE is not registered at this KME")]
    Unregistered,
    /// At least one of the keys was handed out for others.
    #[error("this SAE was not named when one or more of the keys were handed out")]
    NotEntitled,
    /// The buffer holds fewer keys than asked: wait for the link, or ask for fewer.
    #[error("fewer keys are at hand than asked for; ask again later")]
    Shortage,
    /// The peer KME did not confirm the hand-out of that many keys in time.
    #[error("the peer KME has not yet confirmed that many keys; ask again")]
    LeaseLate,
    /// The peer KME did not tell in time what it has handed out.
    #[error("the peer KME has not yet told about these keys; ask again")]
    NoticeLate,
    /// The connection to the peer KME is down: mend it.
    #[error("the peer KME cannot be reached; ask again when it can")]
    Apart,
    /// One site was restored from an older copy: the operator must reset both.
    #[error("one KME was rolled back; reset both with `claviger kme reset`")]
    RolledBack,
    /// This KME is about to stop, and has given its lease back.
    #[error("this KME is stopping; ask again when it is back")]
    Stopping,
    /// The key store has a reason of its own: see the log of the KME.
    #[error("this KME serves no keys now; ask again later")]
    NotServing,
    /// The slaves leave too many keys untaken: they must fetch, or let them expire.
    #[error("too many keys wait to be fetched by this slave; fetch them first")]
    Backlog,
}

impl Refusal {
    /// Returns who must act.
    #[must_use]
    pub const fn kind(&self) -> RefusalKind {
        match self {
            Self::Malformed(_)
            | Self::Number { .. }
            | Self::SizeNotOctets
            | Self::Size { .. }
            | Self::ExtensionUnsupported
            | Self::UnknownSae(_)
            | Self::SameSae
            | Self::SlaveTwice
            | Self::Order(_)
            | Self::IdCount { .. }
            | Self::IdTwice
            | Self::KeysNotFound => RefusalKind::BadRequest,
            Self::Unregistered | Self::NotEntitled => RefusalKind::Unauthorized,
            Self::Shortage
            | Self::LeaseLate
            | Self::NoticeLate
            | Self::Apart
            | Self::RolledBack
            | Self::Stopping
            | Self::NotServing
            | Self::Backlog => RefusalKind::Unavailable,
        }
    }

    /// Returns names and values that tell more than the text.
    #[must_use]
    pub fn details(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Number { max } | Self::IdCount { max } => {
                vec![("max_key_per_request", max.to_string())]
            }
            Self::Size { min, max } => vec![
                ("min_key_size", min.count().to_string()),
                ("max_key_size", max.count().to_string()),
            ],
            _ => Vec::new(),
        }
    }

    /// Returns the body of the answer.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        let detail = |(name, value): (&str, String)| BTreeMap::from([(name.to_owned(), value)]);
        let details = self.details().into_iter().map(detail).collect();
        ErrorBody { details, ..ErrorBody::of_message(self.to_string()) }
    }
}

/// Why a request of ETSI GS QKD 014 got no answer of its own; roll its transaction back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Declined {
    /// Tell the application.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Ask again at the next event of the key store, for at most [`PATIENCE`](crate::PATIENCE);
    /// then tell the application the last refusal.
    #[error("waiting for the peer KME")]
    Pending {
        /// What to say in the end.
        #[source]
        last: Refusal,
        /// What the next try says of this one ([`Call`](crate::Call)).
        inquiry: Inquiry,
    },
    /// The store failed: stop, and start again from what is durable.
    #[error(transparent)]
    Store(#[from] EngineError),
}
