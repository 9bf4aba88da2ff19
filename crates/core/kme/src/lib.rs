//! Requests of ETSI GS QKD 014 and IDQ3P turned into decisions.
//!
//! A key management entity (KME) stands between applications, which the standard calls secure
//! application entities (SAEs), and the buffer of keys. This crate decides what each request gets;
//! it knows neither HTTP nor sockets, and `claviger-keystore` alone moves keys. In order:
//!
//! 1. *Who asks?* The shell names the caller, from its certificate ([`Call`]) or, with IDQ3P, from
//!    the device number in the datagram. Only applications bound to this KME are served.
//! 2. *Is the request right?* Everything is checked before the key store is touched, so bad input
//!    never spends a key (`DESIGN.md`, invariant 5). Where the standard is silent, `WIRE.md` §2
//!    decides, and the tests of [`Kme`] walk its list.
//! 3. *Can it be had now?* The key store answers. Where it only waits for its peer, the request is
//!    [`Declined::Pending`]: nothing has happened, and the shell asks again at the next event,
//!    for at most [`PATIENCE`].
//!
//! **Transactions.** Every operation returns `Ok` exactly when its writes must become durable: keys
//! have been spent, and the answer may leave after the commit. An `Err`, a refusal included, means
//! that the transaction is to be rolled back. If the commit itself fails, throw the [`Kme`] away
//! together with the key store and start again from what is durable.
//!
//! **Audit.** Who got which keys when is a row of the same transaction ([`Kme::audit`]); the newest
//! 10 000 are kept.
//!
//! **What is kept in memory.** Counters, events until [`Kme::poll_event`] takes them, and for
//! two seconds the answers to IDQ3P requests, which a client may ask for again when a datagram was
//! lost. Nothing of it survives a restart; a key whose answer was lost then is burnt.
//!
//! **Origin and claim.** Every key says in its `key_extension`, and a status of the key that would
//! leave next in its `status_extension`, what made it (`claviger_origin`, `DESIGN.md` invariant 6)
//! and what security its link claims (`claviger_claim`, absent where it claims none). IDQ3P has no
//! room for either.

mod audit;
mod config;
mod etsi014;
mod event;
mod idq3p;
mod refusal;
mod retransmission;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use claviger_units::{Span, Timestamp};

pub use audit::AuditLine;
pub use config::{ConfigError, DevicePair, KmeConfig, Limits, SaeBinding};
pub use etsi014::Call;
pub use event::{Counters, Event, Interface};
pub use idq3p::DatagramDeclined;
pub use refusal::{Declined, Refusal, RefusalKind};

use retransmission::Retransmissions;

/// How long the shell asks again for a request that waits for the peer (`PROTOCOL.md` P2).
pub const PATIENCE: Span = Span::from_secs(1);

/// The decisions of one KME.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use claviger_kme::{Kme, KmeConfig, Limits, Refusal, SaeBinding};
/// use claviger_units::Site;
/// use claviger_wire::idq3p::ByteOrder;
///
/// let kme = Kme::new(KmeConfig {
///     kme_id: "kme-a".to_owned(),
///     peer_kme_id: "kme-b".to_owned(),
///     site: Site::A,
///     saes: BTreeMap::from([
///         ("gateway".parse()?, SaeBinding { site: Site::A }),
///         ("platform".parse()?, SaeBinding { site: Site::B }),
///     ]),
///     limits: Limits::DESIGN,
///     idq3p_order: ByteOrder::LittleEndian,
///     idq3p_devices: BTreeMap::new(),
/// })?;
/// assert_eq!(kme.admit(&"gateway".parse()?), Ok(()));
/// assert_eq!(kme.admit(&"platform".parse()?), Err(Refusal::Unregistered));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Kme {
    config: KmeConfig,
    answers: Retransmissions,
    counters: Counters,
    events: VecDeque<Event>,
    // Number of the newest audit line; found with the first one written.
    last_line: Option<u64>,
}

impl Kme {
    /// Starts a KME, or says what is wrong with its configuration.
    pub fn new(config: KmeConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            config,
            answers: Retransmissions::default(),
            counters: Counters::default(),
            events: VecDeque::new(),
            last_line: None,
        })
    }

    /// Returns the next line of the audit log; ask after each commit or roll-back.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.answers.next_end()
    }

    /// Wipes answers that no client can ask for again.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.answers.forget_before(now);
    }

    /// Returns how often requests were dropped or repeated since the start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }
}
