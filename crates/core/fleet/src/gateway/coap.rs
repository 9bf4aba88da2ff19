//! The key service by CoAP with OSCORE (`PROTOCOL.md` P3): one datagram in, one out.

use claviger_durable::{EngineError, Table, Tx};
use claviger_frames::{Epoch, ReplayWindow};
use claviger_oscore::key_service::{self, Answer, Side, claimed, is_question, response_to};
use claviger_oscore::{Context, OscoreError};
use claviger_units::{Eui64, Timestamp};
use coap_lite::{MessageClass, MessageType, Packet, ResponseType};

use super::Gateway;
use super::doors::{KeyAnswer, Proof};
use super::rows::DeviceRow;
use crate::orders::damaged;

/// Requests that were opened: EUI-64 → be32(life) ‖ be32(epoch) ‖ [`ReplayWindow`]. Only what is opened
/// once may be answered: a response uses the nonce of its request.
const OPENED: Table = Table::plain("gateway_oscore");

/// A request that verifies, and all that its answer needs.
struct Question {
    eui: Eui64,
    row: DeviceRow,
    proof: Proof,
    context: Context,
    request: claviger_oscore::Request,
    message: Packet,
}

impl Gateway {
    /// Answers a datagram at the CoAP port; `None` for what deserves no answer.
    ///
    /// Wrong, unknown, stale and repeated all get the same 4.01. Whoever retransmits a request is served
    /// by the shell, from the answer that it kept.
    pub fn handle_coap(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        datagram: &[u8],
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let Ok(packet) = Packet::from_bytes(datagram) else { return Ok(None) };
        let response = match packet.header.code {
            MessageClass::Request(_) => self.respond(tx, now, &packet)?,
            MessageClass::Empty if packet.header.get_type() == MessageType::Confirmable => {
                reset(&packet)
            }
            _ => return Ok(None),
        };
        Ok(response.to_bytes().ok())
    }

    fn respond(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        packet: &Packet,
    ) -> Result<Packet, EngineError> {
        // A store that may be old could open a request again.
        if self.is_barred() {
            return Ok(response_to(packet, ResponseType::ServiceUnavailable));
        }
        let question = match self.open_question(tx, packet)? {
            Ok(question) => question,
            Err(refusal) => return Ok(response_to(packet, status_of(refusal))),
        };
        let Question { eui, row, proof, context, request, message } = question;
        let answer = if is_question(&message) {
            self.serve(tx, now, eui, row, proof)?
        } else {
            return Ok(protect(&context, &Answer::NotFound, &message, request));
        };
        let answer = match answer {
            KeyAnswer::Frame(frame) => Answer::Frame(frame),
            KeyAnswer::NothingDue => Answer::NothingDue,
            KeyAnswer::Later { retry_after } => {
                let secs = retry_after.as_micros().div_ceil(1_000_000);
                Answer::Later(u32::try_from(secs).unwrap_or(u32::MAX))
            }
            KeyAnswer::Denied => return Ok(response_to(packet, ResponseType::Unauthorized)),
        };
        Ok(protect(&context, &answer, &message, request))
    }

    /// Opens a request, once for ever, whatever becomes of this process.
    fn open_question(
        &self,
        tx: &mut dyn Tx,
        packet: &Packet,
    ) -> Result<Result<Question, OscoreError>, EngineError> {
        let (eui, epoch) = match claimed(packet) {
            Ok(claimed) => claimed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let row = DeviceRow::load(tx, eui)?;
        let found = row.as_ref().and_then(|row| row.secret_of(epoch));
        let secret = found.map_or(&self.decoy, |(secret, _)| secret);
        let proof = found.map(|(_, proof)| proof);
        let life = row.as_ref().map_or(0, |row| row.life);
        let window = opened(tx, eui, (life, epoch))?;
        let context = key_service::context(Side::Gateway, secret, eui, epoch);
        let mut context = context.resumed(0, window);
        let (message, request) = match context.open_request(packet) {
            Ok(opened) => opened,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (Some(row), Some(proof)) = (row, proof) else {
            return Ok(Err(OscoreError::UnknownContext));
        };
        let mark = [&life.to_be_bytes(), &epoch.to_bytes()[..], &context.window().to_bytes()];
        tx.write(OPENED, eui.as_bytes(), &mark.concat())?;
        Ok(Ok(Question { eui, row, proof, context, request, message }))
    }

    /// Forgets what a device that is served no longer has asked.
    pub(super) fn forget_questions(tx: &mut dyn Tx, eui: Eui64) -> Result<(), EngineError> {
        tx.erase(OPENED, eui.as_bytes())
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

/// Returns which requests of a device in an epoch of a life were opened.
fn opened(tx: &dyn Tx, eui: Eui64, at: (u32, Epoch)) -> Result<ReplayWindow, EngineError> {
    let Some(row) = tx.read(OPENED, eui.as_bytes())? else { return Ok(ReplayWindow::new()) };
    let (life, rest) = row.expose().split_first_chunk().ok_or(damaged(OPENED))?;
    let (epoch, window) = rest.split_first_chunk().ok_or(damaged(OPENED))?;
    if (u32::from_be_bytes(*life), Epoch::from_bytes(*epoch)) != at {
        return Ok(ReplayWindow::new());
    }
    ReplayWindow::from_bytes(window).ok_or(damaged(OPENED))
}

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
