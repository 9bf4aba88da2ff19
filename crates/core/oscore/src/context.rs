//! One end of a pair that shares a secret: protecting and opening (RFC 8613 §8).

use alloc::vec::Vec;
use core::fmt;

use aes::Aes128;
use ccm::Ccm;
use ccm::aead::{Aead as _, KeyInit as _, Payload};
use ccm::consts::{U8, U13};
use claviger_frames::{ReplayWindow, Seen};
use coap_lite::{MessageClass, Packet, RequestType, ResponseType};

use crate::OscoreError;
use crate::derivation::{ALGORITHM, EndKey, Keying, NONCE, put_bytes};
use crate::message::{inside, opened, outside, protection};
use crate::option::{OscoreOption, partial_iv};

/// AES-CCM-16-64-128: a tag of 8 bytes, a nonce of 13.
type Cipher = Ccm<Aes128, U8, U13>;

/// One end of a pair.
///
/// *Invariant:* no nonce is used twice: sequence numbers only rise, also over a restart, if the end begins
/// anew at [`Context::next_sequence`] as it was saved ahead; and a request answers for one response only.
pub struct Context {
    common_iv: [u8; NONCE],
    own: End,
    peer: End,
    id_context: Option<Vec<u8>>,
    // `None` once all are used.
    next: Option<u32>,
    window: ReplayWindow,
}

struct End {
    id: Vec<u8>,
    key: EndKey,
}

/// A request that was sent, or opened: what its response is bound to.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    kid: Vec<u8>,
    sequence: u32,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Context {
    /// Derives the context of one end, which has sent and opened nothing yet.
    pub fn derive(keying: &Keying<'_>) -> Result<Self, OscoreError> {
        keying.check()?;
        let end = |id: &[u8]| End { id: id.to_vec(), key: keying.key_of(id) };
        Ok(Self {
            common_iv: keying.common_iv(),
            own: end(keying.own_id),
            peer: end(keying.peer_id),
            id_context: keying.id_context.map(<[u8]>::to_vec),
            next: Some(0),
            window: ReplayWindow::new(),
        })
    }

    /// Goes on at a sequence number that was never used, and with the requests that were opened.
    #[must_use]
    pub fn resumed(self, next: u32, window: ReplayWindow) -> Self {
        Self { next: Some(next), window, ..self }
    }

    /// Returns the next sequence number, `None` once all are used.
    #[must_use]
    pub const fn next_sequence(&self) -> Option<u32> {
        self.next
    }

    /// Returns which requests were opened.
    #[must_use]
    pub const fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// Protects a request; its response is opened with what comes beside it.
    pub fn protect_request(&mut self, message: &Packet) -> Result<(Packet, Request), OscoreError> {
        let plain = inside(message)?;
        let sequence = self.take_sequence()?;
        let request = Request { kid: self.own.id.clone(), sequence };
        let option = OscoreOption {
            partial_iv: Some(sequence),
            kid: Some(self.own.id.clone()),
            kid_context: self.id_context.clone(),
        };
        let ciphertext = self.seal(&plain, self.nonce(&self.own.id, sequence), &request);
        let code = MessageClass::Request(RequestType::Post);
        Ok((outside(message, code, option.encode(), ciphertext), request))
    }

    /// Opens a request, once.
    pub fn open_request(&mut self, message: &Packet) -> Result<(Packet, Request), OscoreError> {
        let option = OscoreOption::decode(protection(message)?)?;
        let (Some(sequence), Some(kid)) = (option.partial_iv, option.kid) else {
            return Err(OscoreError::Malformed);
        };
        let is_other = option.kid_context.is_some() && option.kid_context != self.id_context;
        if kid != self.peer.id || is_other {
            return Err(OscoreError::UnknownContext);
        }
        // Whether it was seen before says nothing to whoever cannot make it.
        let request = Request { kid, sequence };
        let nonce = self.nonce(&self.peer.id, sequence);
        let plain = self.open(&message.payload, nonce, &request)?;
        if self.window.check(sequence) != Seen::Fresh {
            return Err(OscoreError::Replayed);
        }
        let opened = opened(message, &plain)?;
        self.window.mark(sequence);
        Ok((opened, request))
    }

    /// Protects the response to a request under the request's nonce, which is possible once.
    #[expect(clippy::needless_pass_by_value, reason = "a request answers for one response only")]
    pub fn protect_response(
        &self,
        message: &Packet,
        request: Request,
    ) -> Result<Packet, OscoreError> {
        let nonce = self.nonce(&request.kid, request.sequence);
        let ciphertext = self.seal(&inside(message)?, nonce, &request);
        Ok(outside(message, RESPONSE, Vec::new(), ciphertext))
    }

    /// Protects a response, the first or a further one, under a nonce of its own.
    pub fn protect_further_response(
        &mut self,
        message: &Packet,
        request: &Request,
    ) -> Result<Packet, OscoreError> {
        let plain = inside(message)?;
        let sequence = self.take_sequence()?;
        let option = OscoreOption { partial_iv: Some(sequence), ..OscoreOption::default() };
        let ciphertext = self.seal(&plain, self.nonce(&self.own.id, sequence), request);
        Ok(outside(message, RESPONSE, option.encode(), ciphertext))
    }

    /// Opens the response to a request.
    pub fn open_response(
        &self,
        message: &Packet,
        request: &Request,
    ) -> Result<Packet, OscoreError> {
        let option = OscoreOption::decode(protection(message)?)?;
        if option.kid.is_some_and(|kid| kid != self.peer.id) {
            return Err(OscoreError::UnknownContext);
        }
        let nonce = match option.partial_iv {
            Some(sequence) => self.nonce(&self.peer.id, sequence),
            None => self.nonce(&request.kid, request.sequence),
        };
        opened(message, &self.open(&message.payload, nonce, request)?)
    }

    fn take_sequence(&mut self) -> Result<u32, OscoreError> {
        let sequence = self.next.ok_or(OscoreError::Exhausted)?;
        self.next = sequence.checked_add(1);
        Ok(sequence)
    }

    fn seal(&self, plain: &[u8], nonce: [u8; NONCE], request: &Request) -> Vec<u8> {
        let payload = Payload { msg: plain, aad: &additional(request) };
        cipher(&self.own.key)
            .encrypt(&nonce.into(), payload)
            .expect("a message is shorter than 64 KiB")
    }

    fn open(
        &self,
        ciphertext: &[u8],
        nonce: [u8; NONCE],
        request: &Request,
    ) -> Result<Vec<u8>, OscoreError> {
        let payload = Payload { msg: ciphertext, aad: &additional(request) };
        cipher(&self.peer.key).decrypt(&nonce.into(), payload).or(Err(OscoreError::Forged))
    }

    /// RFC 8613 §5.2: length of the id, the id, the sequence number, over the common IV.
    fn nonce(&self, id: &[u8], sequence: u32) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        let (front, number) = nonce.split_at_mut(NONCE - size_of::<u32>());
        number.copy_from_slice(&sequence.to_be_bytes());
        if let Some((length, ids)) = front.split_first_mut() {
            *length = u8::try_from(id.len()).unwrap_or(u8::MAX);
            // Seven bytes for the id, and one more of the 40 bits of a sequence number.
            let places = ids.iter_mut().rev().skip(1);
            places.zip(id.iter().rev()).for_each(|(place, byte)| *place = *byte);
        }
        nonce.iter_mut().zip(self.common_iv).for_each(|(byte, iv)| *byte ^= iv);
        nonce
    }
}

const RESPONSE: MessageClass = MessageClass::Response(ResponseType::Changed);

fn cipher(key: &EndKey) -> Cipher {
    Cipher::new((&**key).into())
}

/// RFC 8613 §5.4: the request that a message is, or answers.
fn additional(request: &Request) -> Vec<u8> {
    let mut external = Vec::from([0x85, 0x01, 0x81, ALGORITHM]);
    put_bytes(&mut external, &request.kid);
    put_bytes(&mut external, &partial_iv(request.sequence));
    put_bytes(&mut external, &[]);
    let mut structure = Vec::from([0x83, 0x68]);
    structure.extend_from_slice(b"Encrypt0");
    put_bytes(&mut structure, &[]);
    put_bytes(&mut structure, &external);
    structure
}
