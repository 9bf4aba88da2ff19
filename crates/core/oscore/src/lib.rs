//! OSCORE (RFC 8613): CoAP messages that proxies can carry and only their two ends can read.
//!
//! AES-CCM-16-64-128 and HKDF-SHA-256, the mandatory pair. [`Context`] protects and opens whole messages of
//! `coap-lite`; it does no input and no output. What a message shows is its outer code, its token, and
//! Uri-Host, Uri-Port and Proxy options (class U); all else is inside.
//!
//! Left out: Observe, block-wise transfer of protected messages, group communication. Sequence numbers
//! have 32 of the 40 bits that the standard allows: a context of an epoch never comes near.
//!
//! ```
//! use claviger_oscore::{Context, Keying};
//! use coap_lite::{CoapOption, MessageClass, Packet, RequestType};
//!
//! let keying = |own, peer| Keying {
//!     master_secret: &[7; 32],
//!     master_salt: &[],
//!     id_context: Some(b"device, epoch"),
//!     own_id: own,
//!     peer_id: peer,
//! };
//! let mut device = Context::derive(&keying(&[1], &[0]))?;
//! let mut gateway = Context::derive(&keying(&[0], &[1]))?;
//!
//! let mut question = Packet::new();
//! question.header.code = MessageClass::Request(RequestType::Get);
//! question.add_option(CoapOption::UriPath, b"key".to_vec());
//! let (sent, asked) = device.protect_request(&question)?;
//! let (heard, request) = gateway.open_request(&sent)?;
//! assert_eq!(heard.get_option(CoapOption::UriPath), question.get_option(CoapOption::UriPath));
//!
//! let mut answer = Packet::new();
//! answer.payload = b"a key frame".to_vec();
//! let sent = gateway.protect_response(&answer, request)?;
//! assert_eq!(device.open_response(&sent, &asked)?.payload, b"a key frame");
//! # Ok::<(), claviger_oscore::OscoreError>(())
//! ```

#![no_std]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

extern crate alloc;

mod context;
mod derivation;
pub mod key_service;
mod message;
mod option;

pub use context::{Context, Request};
pub use derivation::Keying;

/// Why a message is not protected, or not opened; nothing of the context has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OscoreError {
    /// Ids are too long: 7 bytes at most for an end, 23 for the id context.
    #[error("ids of OSCORE are too long: at most 7 bytes for an end, 23 for the id context")]
    Ids,
    /// The message has no OSCORE option, or several: it is none of OSCORE.
    #[error("the message is not protected by OSCORE")]
    NotProtected,
    /// The option or the inside is not understood; answer 4.02.
    #[error("the message is malformed")]
    Malformed,
    /// The message belongs to another context; answer 4.01.
    #[error("the message belongs to no context that is known here")]
    UnknownContext,
    /// The message was opened before, or is too old to tell; answer 4.01.
    #[error("the message was seen before")]
    Replayed,
    /// The message was not made with the key of this context; answer 4.00.
    #[error("the message was not made by the other end, or was altered")]
    Forged,
    /// No sequence number is left: derive a new context.
    #[error("no sequence number is left; a new epoch gives a new context")]
    Exhausted,
}
