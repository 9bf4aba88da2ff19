//! The key service by CoAP with OSCORE (`PROTOCOL.md` P3): one datagram in, one out.

use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Epoch, EpochKeys, GatewaySecret, ReplayWindow};
use claviger_oscore::key_service::{self, Answer, Side, claimed, is_question, response_to};
use claviger_oscore::{Context, OscoreError};
use claviger_units::{Eui64, Timestamp};
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};

use super::Gateway;
use super::doors::{KeyAnswer, Proof};
use super::rows::DeviceRow;
use crate::orders::damaged;

/// Requests that were opened: EUI-64 ‖ be32(epoch) → [`Mark`]. Only what is opened once may be answered under
/// the nonce of its request.
pub(super) const OPENED: Table = Table::plain("gateway_oscore");

/// What is remembered of the requests from an epoch.
#[derive(Debug, Default)]
struct Mark {
    window: ReplayWindow,
    /// Where earlier requests were forgotten: the next sequence number for a nonce of our own, since that of the
    /// request may have been used for an answer before (RFC 8613 appendix B.1.2).
    own: Option<u32>,
}

/// A request that verifies, and all that its answer needs.
struct Question {
    eui: Eui64,
    row: DeviceRow,
    proof: Proof,
    context: Context,
    request: claviger_oscore::Request,
    message: Packet,
    has_own_nonce: bool,
}

/// What a datagram at the CoAP port is, as far as that shows without any key.
#[derive(Clone, Debug, PartialEq)]
pub enum CoapDatagram {
    /// Nothing that deserves an answer.
    Noise,
    /// Something that can be answered at once, with this.
    Answered(Vec<u8>),
    /// A request that claims to be a device's: for [`Gateway::handle_coap`].
    Claim(CoapClaim),
}

/// A request that claims to come from a device.
#[derive(Clone, Debug, PartialEq)]
pub struct CoapClaim {
    packet: Packet,
    eui: Eui64,
    epoch: Epoch,
}

impl CoapDatagram {
    /// Reads a datagram; costs no look at the store.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Self {
        let Ok(packet) = Packet::from_bytes(datagram) else { return Self::Noise };
        let answer = match packet.header.code {
            MessageClass::Request(_) => match claimed(&packet) {
                Ok((eui, epoch)) => return Self::Claim(CoapClaim { packet, eui, epoch }),
                Err(refusal) => response_to(&packet, status_of(refusal)),
            },
            MessageClass::Empty if packet.header.get_type() == MessageType::Confirmable => {
                reset(&packet)
            }
            _ => return Self::Noise,
        };
        answer.to_bytes().map_or(Self::Noise, Self::Answered)
    }
}

/// The answer to a request at the CoAP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoapAnswer {
    /// The datagram to send back.
    pub datagram: Vec<u8>,
    /// The device whose question this answers: kept for it, in case it repeats the question. `None` where
    /// nothing was proven.
    pub asker: Option<Eui64>,
}

impl Gateway {
    /// Answers a request at the CoAP port; `None` where the answer cannot be written.
    ///
    /// Wrong, unknown, stale and repeated all get the same 4.01. Whoever retransmits a request is served
    /// by the shell, from the answer that it kept.
    pub fn handle_coap(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        claim: &CoapClaim,
    ) -> Result<Option<CoapAnswer>, EngineError> {
        let (response, asker) = self.respond(tx, now, claim)?;
        let datagram = response.to_bytes().ok();
        Ok(datagram.map(|datagram| CoapAnswer { datagram, asker }))
    }

    fn respond(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        claim: &CoapClaim,
    ) -> Result<(Packet, Option<Eui64>), EngineError> {
        let refuse = |code| Ok((response_to(&claim.packet, code), None));
        // A store that may be old could open a request again.
        if self.is_barred() {
            return refuse(ResponseType::ServiceUnavailable);
        }
        let CoapClaim { packet, eui, epoch } = claim;
        let holds = |keys: &GatewaySecret| {
            let mut context = key_service::context(Side::Gateway, keys, *eui, *epoch);
            context.open_request(packet).is_ok()
        };
        let mut opened = self.open_question(tx, claim)?;
        if opened.is_err() && self.catch_up(tx, now, *eui, Some(*epoch), holds)? {
            opened = self.open_question(tx, claim)?;
        }
        let question = match opened {
            Ok(question) => question,
            Err(refusal) => return refuse(status_of(refusal)),
        };
        let Question { eui, row, proof, mut context, request, message, has_own_nonce } = question;
        // Whatever it asks for, it proves which epoch the device holds.
        let answer = match self.serve(tx, now, eui, row, proof)? {
            KeyAnswer::Denied => return refuse(ResponseType::Unauthorized),
            _ if !is_question(&message) => Answer::NotFound,
            KeyAnswer::Frame(frame) => Answer::Frame(frame),
            KeyAnswer::NothingDue => Answer::NothingDue,
            KeyAnswer::Later { retry_after } => {
                let secs = retry_after.as_micros().div_ceil(1_000_000);
                Answer::Later(u32::try_from(secs).unwrap_or(u32::MAX))
            }
        };
        let own = has_own_nonce.then_some(&mut context);
        let protected = match own {
            Some(context) => protect_anew(context, &answer, &message, &request),
            None => protect(&context, &answer, &message, request),
        };
        Ok((protected, Some(eui)))
    }

    /// Opens a request, once for ever, whatever becomes of this process.
    fn open_question(
        &self,
        tx: &mut dyn Tx,
        &CoapClaim { ref packet, eui, epoch }: &CoapClaim,
    ) -> Result<Result<Question, OscoreError>, EngineError> {
        let row = DeviceRow::load(tx, eui)?;
        let found = row.as_ref().and_then(|row| row.keys_of(epoch));
        let keys = found.map_or(&self.decoy as &dyn EpochKeys, |(keys, _)| keys);
        let proof = found.map(|(_, proof)| proof);
        let mark = mark_of(eui, epoch);
        let Mark { window, own } = Mark::load(tx, &mark)?;
        let context = key_service::context(Side::Gateway, keys, eui, epoch);
        let mut context = context.resumed(own.unwrap_or(0), window);
        let (message, request) = match context.open_request(packet) {
            Ok(opened) => opened,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (Some(row), Some(proof)) = (row, proof) else {
            return Ok(Err(OscoreError::UnknownContext));
        };
        // A number of its own is spent with each request, answered or not.
        let next = own.map(|own| own.checked_add(1).ok_or(damaged(OPENED))).transpose()?;
        Mark { window: context.window().clone(), own: next }.store(tx, &mark)?;
        let has_own_nonce = own.is_some();
        Ok(Ok(Question { eui, row, proof, context, request, message, has_own_nonce }))
    }

    /// Notes that a device may have asked from these epochs before, and nobody here remembers what.
    pub(super) fn note_unknown_questions(
        &self,
        tx: &mut dyn Tx,
        eui: Eui64,
        epochs: impl IntoIterator<Item = Epoch>,
    ) -> Result<(), EngineError> {
        // In the first generation nothing was ever forgotten; in each later one the numbers begin above those
        // of the one before.
        let generation = self.peer.generation();
        if generation == 0 {
            return Ok(());
        }
        let own = Some(generation.saturating_mul(NUMBERS_OF_GENERATION));
        for epoch in epochs {
            Mark { window: ReplayWindow::new(), own }.store(tx, &mark_of(eui, epoch))?;
        }
        Ok(())
    }

    /// Forgets what a device has asked from an epoch that it has left; what it asked from epoch 0 stays, since
    /// whoever asks from there again raises an alarm.
    pub(super) fn forget_epoch(
        tx: &mut dyn Tx,
        eui: Eui64,
        epoch: Epoch,
    ) -> Result<(), EngineError> {
        match epoch {
            Epoch::BOOTSTRAP => Ok(()),
            _ => tx.erase(OPENED, &mark_of(eui, epoch)),
        }
    }

    /// Forgets what a device has asked in a life that is over.
    pub(super) fn forget_questions(tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        loop {
            let marks = tx.scan(OPENED, eui.as_bytes(), b"", MARKS)?;
            for (mark, _) in &marks {
                tx.erase(OPENED, mark)?;
            }
            if marks.len() < MARKS {
                return Ok(());
            }
        }
    }
}

fn protect(
    context: &Context,
    answer: &Answer,
    message: &Packet,
    request: claviger_oscore::Request,
) -> Packet {
    let response = answer.respond_to(message);
    let protected = context.protect_response(&response, request);
    protected.unwrap_or_else(|_| response_to(message, ResponseType::InternalServerError))
}

fn protect_anew(
    context: &mut Context,
    answer: &Answer,
    message: &Packet,
    request: &claviger_oscore::Request,
) -> Packet {
    let protected = context.protect_further_response(&answer.respond_to(message), request);
    protected.unwrap_or_else(|_| response_to(message, ResponseType::InternalServerError))
}

impl Mark {
    fn load(tx: &dyn Tx, mark: &[u8]) -> Result<Self, EngineError> {
        let Some(row) = tx.read(OPENED, mark)? else { return Ok(Self::default()) };
        let read = || {
            let (flag, row) = row.expose().split_first()?;
            let (own, window) = row.split_first_chunk()?;
            let own = (*flag == 1).then_some(u32::from_be_bytes(*own));
            Some(Self { window: ReplayWindow::from_bytes(window)?, own })
        };
        read().ok_or(damaged(OPENED))
    }

    fn store(&self, tx: &mut dyn Tx, mark: &[u8]) -> Result<(), EngineError> {
        let own = self.own.unwrap_or(0).to_be_bytes();
        let row = [&[u8::from(self.own.is_some())], &own[..], &self.window.to_bytes()].concat();
        tx.write(OPENED, mark, &row)
    }
}

fn mark_of(eui: Eui64, epoch: Epoch) -> Vec<u8> {
    [&eui.as_bytes()[..], &epoch.to_bytes()].concat()
}

/// How many nonces of its own a gateway has for an epoch, each time its memory is lost.
const NUMBERS_OF_GENERATION: u32 = 1 << 16;

/// A device has asked from epoch 0, its epoch and the next at most.
const MARKS: usize = 4;

const fn status_of(refusal: OscoreError) -> ResponseType {
    match refusal {
        OscoreError::Malformed => ResponseType::BadOption,
        _ => ResponseType::Unauthorized,
    }
}

/// The answer to a ping (RFC 7252 §4.3).
fn reset(packet: &Packet) -> Packet {
    let mut reset = Packet::new();
    reset.header.set_type(MessageType::Reset);
    reset.header.code = MessageClass::Empty;
    reset.header.message_id = packet.header.message_id;
    reset
}
