//! How a device comes to its next key: by asking, or by what is pushed to it.

use alloc::format;
use alloc::vec::Vec;

use claviger_frames::{Epoch, EpochKeys, KeyFrameError, ReplayWindow, key_frame};
use claviger_oscore::key_service::{self, Answer, Side};
use claviger_oscore::{Context, OscoreError, Request};
use claviger_units::{Span, Timestamp};
use coap_lite::{MessageClass, Packet, ResponseType};

use super::{Device, Phase, RESERVED};
use crate::actions::{Action, KeyAnswer, KeyRequest};
use crate::flash::Held;
use crate::path::KeyPath;

/// A question under OSCORE, and what opens its answer.
#[derive(Debug)]
pub(super) struct Asked {
    context: Context,
    request: Request,
    message_id: u16,
}

impl Device {
    /// Takes the answer to [`Action::RequestKey`].
    ///
    /// Only a frame that verifies changes what the device holds; with a QKD key in hand it goes
    /// on to publish whatever the answer was.
    pub fn handle_key_answer(&mut self, now: Timestamp, answer: KeyAnswer<'_>) {
        if !self.waits_for_answer() {
            return;
        }
        // These come after the gateway has noted durably which epoch the device holds; a gateway that only
        // says when to ask again may not have.
        self.is_followed |= matches!(answer, KeyAnswer::Frame(_) | KeyAnswer::NothingDue);
        if let KeyAnswer::Frame(frame) = answer {
            self.renew(now, frame);
        }
        self.handle_asked(now, answer);
    }

    pub(crate) const fn waits_for_answer(&self) -> bool {
        self.commit.is_none() && matches!(self.phase, Phase::Asking { .. })
    }

    /// Goes on from a question, whatever came of it.
    pub(crate) fn handle_asked(&mut self, now: Timestamp, answer: KeyAnswer<'_>) {
        self.asked = None;
        self.phase = if self.held.epoch > Epoch::BOOTSTRAP || self.commit.is_some() {
            Phase::Measuring { at: now }
        } else {
            Phase::Asleep { until: now + self.pause_after(answer) }
        };
    }

    /// Takes a datagram from the gateway's CoAP port, and tells whether it ends the wait for an answer. What
    /// no question waits for, or nobody could have written who holds the key, changes nothing; but a refusal
    /// in clear ends the wait, which an attacker on the path could also do by dropping the answer.
    pub fn handle_coap(&mut self, now: Timestamp, datagram: &[u8]) -> bool {
        let Some(asked) = &self.asked else { return false };
        let Ok(packet) = Packet::from_bytes(datagram) else { return false };
        let answer = match asked.context.open_response(&packet, &asked.request) {
            Ok(response) => Answer::of(&response),
            Err(OscoreError::NotProtected) if packet.header.message_id == asked.message_id => {
                let refused = MessageClass::Response(ResponseType::Unauthorized);
                let denied = packet.header.code == refused;
                let answer = if denied { KeyAnswer::Denied } else { KeyAnswer::Unreachable };
                self.handle_key_answer(now, answer);
                return true;
            }
            Err(_) => return false,
        };
        let answer = match &answer {
            Some(Answer::Frame(frame)) => KeyAnswer::Frame(frame),
            Some(Answer::NothingDue) => KeyAnswer::NothingDue,
            Some(Answer::Later(secs)) => {
                KeyAnswer::Later { retry_after: Span::from_secs((*secs).into()) }
            }
            Some(Answer::NotFound) | None => KeyAnswer::Unreachable,
        };
        self.handle_key_answer(now, answer);
        true
    }

    /// Takes a message from the device's `key` topic, whatever the device does just now. One that comes
    /// again, or does not verify, changes nothing.
    pub fn handle_pushed(&mut self, now: Timestamp, frame: &[u8]) {
        if self.commit.is_some() || self.is_broken() {
            return;
        }
        self.renew(now, frame);
        if self.commit.is_some() && matches!(self.phase, Phase::Asking { .. }) {
            self.phase = Phase::Measuring { at: now };
        }
    }

    /// Tells whether this wake is one to ask in.
    pub(super) fn wants_key(&self, now: Timestamp) -> bool {
        if self.held.epoch == Epoch::BOOTSTRAP || self.is_stale(now) {
            return true;
        }
        self.profile.path != KeyPath::Push
            && (!self.is_renewed || self.profile.is_due(now, self.keyed))
    }

    /// Makes sure that a question has a number of its own, where it needs one.
    pub(super) fn can_ask(&mut self) -> bool {
        self.profile.path != KeyPath::Oscore || self.reserve_counter()
    }

    pub(super) fn key_request(&mut self) -> Option<Action> {
        self.counters.requests += 1;
        self.counters.derivations += 1;
        let Held { eui, epoch, ref gateway, .. } = self.held;
        let path_and_query = || format!("/v1/devices/{eui}/key?have={epoch}");
        Some(Action::RequestKey(match self.profile.path {
            KeyPath::Https => {
                self.counters.macs += 1;
                let path_and_query = path_and_query();
                let authorization = gateway.request_authorization(epoch, &path_and_query);
                KeyRequest::Https { path_and_query, authorization }
            }
            path @ (KeyPath::Psk12 | KeyPath::Psk13Ke | KeyPath::Psk13Dhe) => {
                KeyRequest::Psk { path_and_query: path_and_query(), path }
            }
            KeyPath::Oscore => KeyRequest::Coap { datagram: self.question()? },
            KeyPath::Pad => match self.pad_next().filter(|_| self.is_followed) {
                Some((place, _)) => KeyRequest::Pad { place },
                None => KeyRequest::Psk { path_and_query: path_and_query(), path: KeyPath::Psk12 },
            },
            KeyPath::Push => KeyRequest::Await,
        }))
    }

    /// Protects a question by CoAP under the next counter, which ends that counter's life.
    fn question(&mut self) -> Option<Vec<u8>> {
        let counter = self.next_counter;
        let Held { eui, epoch, ref gateway, counter_limit, .. } = self.held;
        if counter >= counter_limit {
            return None;
        }
        self.next_counter += 1;
        self.counters.derivations += 3;
        let context = key_service::context(Side::Device, gateway, eui, epoch);
        let mut context = context.resumed(counter, ReplayWindow::new());
        let [.., a, b] = counter.to_be_bytes();
        let message_id = u16::from_be_bytes([a, b]);
        let mut question = key_service::question();
        question.header.message_id = message_id;
        let (packet, request) = context.protect_request(&question).ok()?;
        self.asked = Some(Asked { context, request, message_id });
        packet.to_bytes().ok()
    }

    /// Opens a key frame and begins to commit what it leads to.
    pub(super) fn renew(&mut self, now: Timestamp, frame: &[u8]) {
        if self.pad_next().is_some() {
            // Both sites follow the pad: a frame would lead away from it.
            self.counters.refused_frames += 1;
            return;
        }
        self.counters.unwraps += 1;
        self.counters.derivations += 1;
        let (epoch, qkd) = match key_frame::open(&self.held.gateway, self.held.epoch, frame) {
            Ok(opened) => opened,
            // It came before: frames are pushed until the device shows that it has them.
            Err(KeyFrameError::Stale { .. }) => return,
            Err(_) => {
                self.counters.refused_frames += 1;
                return;
            }
        };
        self.counters.renewals += 1;
        self.counters.derivations += 2;
        self.n_refusals = 0;
        self.begin_commit(self.held.renewed(epoch, &qkd, RESERVED), Some(now));
    }
}
