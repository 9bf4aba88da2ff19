//! Who may come in: requests for keys and log-ins at the broker (`PROTOCOL.md` P3, P3c).

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_frames::{
    Epoch, EpochKeys, GatewaySecret, PskIdentity, PskVersion, parse_authorization,
};
use claviger_units::{Eui64, Key256, Span, Timestamp};

use super::rows::{DeviceRow, Next, Stage};
use super::{Gateway, GatewayEvent};
use crate::Alarm;

/// The answer to a device that asks for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// The stored frame (200).
    Frame(Vec<u8>),
    /// The device has the newest key (204).
    NothingDue,
    /// The next key is not ready (503).
    Later {
        /// When to ask again, whole seconds.
        retry_after: Span,
    },
    /// Wrong, unknown or stale, one answer for all (401).
    Denied,
}

/// Under which of its secrets a device has proven itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Current,
    Next,
    /// Under epoch 0, which the device has left.
    Retired,
}

impl Gateway {
    /// Answers `GET /v1/devices/{eui}/key?have=e`. It never spends a key, and refusing takes as
    /// much work as granting.
    pub fn handle_key_request(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: &str,
        have: Option<&str>,
        path_and_query: &str,
        authorization: Option<&str>,
    ) -> Result<KeyAnswer, EngineError> {
        match self.prove_signed(tx, now, eui, have, (path_and_query, authorization))? {
            Some((eui, row, proof)) => self.serve(tx, now, eui, row, proof),
            None => Ok(KeyAnswer::Denied),
        }
    }

    /// Finds the device that has signed a request, and what it has proven by that.
    pub(super) fn prove_signed(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: &str,
        have: Option<&str>,
        (path_and_query, authorization): (&str, Option<&str>),
    ) -> Result<Option<(Eui64, DeviceRow, Proof)>, EngineError> {
        let eui: Option<Eui64> = eui.parse().ok();
        let row = eui.map(|eui| DeviceRow::load(tx, eui)).transpose()?.flatten();
        let claim = authorization.and_then(parse_authorization);
        // A device that names two epochs has named none.
        let claim = claim.filter(|(epoch, _)| have == Some(epoch.to_string().as_str()));
        let mut proof = self.prove_request(row.as_ref(), path_and_query, claim);
        let mut row = row;
        if proof.is_none()
            && let (Some(eui), Some((epoch, mac))) = (eui, claim)
        {
            let request = format!("GET {path_and_query}");
            let holds = |keys: &GatewaySecret| keys.verify_request(&request, &mac);
            if self.catch_up(tx, now, eui, Some(epoch), holds)? {
                row = DeviceRow::load(tx, eui)?;
                proof = Some(Proof::Next);
            }
        }
        Ok(eui.zip(row).zip(proof).map(|((eui, row), proof)| (eui, row, proof)))
    }

    /// Finds the pre-shared key that `identity` names, for the version of TLS that is negotiated
    /// (`PROTOCOL.md` P3). Nothing changes: who asks has proven nothing yet.
    pub fn pre_shared_key(
        &self,
        tx: &dyn Tx,
        identity: &str,
        version: PskVersion,
    ) -> Result<Option<Key256>, EngineError> {
        let identity: Option<PskIdentity> = identity.parse().ok();
        let Some(identity) = identity.filter(|identity| identity.version == version) else {
            return Ok(None);
        };
        let row = DeviceRow::load(tx, identity.eui)?;
        let keys = row.as_ref().and_then(|row| row.keys_of(identity.epoch)).map(|(keys, _)| keys);
        let mut ahead = Vec::new();
        if let (None, Some(row)) = (keys, &row) {
            ahead = Self::steps_ahead(tx, identity.eui, row)?;
        }
        let ahead = ahead.iter().find(|step| step.epoch == identity.epoch);
        let keys = keys.or(ahead.map(|step| &step.secret as &dyn EpochKeys));
        // As much work for strangers.
        let key = keys.unwrap_or(&self.decoy).pre_shared_key(version);
        Ok(keys.map(|_| key))
    }

    /// Answers `GET /v1/devices/{eui}/key?have=e` on a connection whose handshake has proven to hold
    /// `key` as `identity`; to ask for another device, or from another epoch, is denied.
    pub fn handle_proven_request(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: &str,
        have: Option<&str>,
        (identity, key): (&str, &Key256),
    ) -> Result<KeyAnswer, EngineError> {
        let identity: Option<PskIdentity> = identity.parse().ok();
        let own = |identity: &PskIdentity| {
            identity.eui.to_string() == eui && have == Some(identity.epoch.to_string().as_str())
        };
        let Some(identity) = identity.filter(own) else { return Ok(KeyAnswer::Denied) };
        let mut row = DeviceRow::load(tx, identity.eui)?;
        if row.as_ref().is_some_and(|row| row.may_be_ahead) {
            let holds = |keys: &GatewaySecret| keys.pre_shared_key(identity.version).ct_eq(key);
            self.catch_up(tx, now, identity.eui, Some(identity.epoch), holds)?;
            row = DeviceRow::load(tx, identity.eui)?;
        }
        // The epoch may be over since the handshake, and its number may have come again in a new life.
        let keys = row.as_ref().and_then(|row| row.keys_of(identity.epoch));
        let proof = keys
            .filter(|(keys, _)| keys.pre_shared_key(identity.version).ct_eq(key))
            .map(|(_, proof)| proof);
        match row.zip(proof) {
            Some((row, proof)) => self.serve(tx, now, identity.eui, row, proof),
            None => Ok(KeyAnswer::Denied),
        }
    }

    /// Returns the frame that waits for a device and may leave.
    pub fn ready_frame(&self, tx: &dyn Tx, eui: Eui64) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.ready(tx, eui)?.map(|(_, frame)| frame))
    }

    /// Returns the frame that waits for a device, to be pushed to it now; the key's time begins here if the
    /// device then shows that it has it.
    pub fn push_frame(
        &mut self,
        tx: &dyn Tx,
        now: Timestamp,
        eui: Eui64,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let Some((epoch, frame)) = self.ready(tx, eui)? else { return Ok(None) };
        self.pushed.insert(eui, (epoch, now));
        Ok(Some(frame))
    }

    fn ready(&self, tx: &dyn Tx, eui: Eui64) -> Result<Option<(Epoch, Vec<u8>)>, EngineError> {
        if self.is_barred() {
            return Ok(None);
        }
        Ok(match DeviceRow::load(tx, eui)?.and_then(|row| row.next) {
            Some(Next::Finished { held, frame, stage: Stage::Ready, .. }) => {
                Some((held.epoch, frame)).filter(|(_, frame)| !frame.is_empty())
            }
            _ => None,
        })
    }

    /// Answers a device that has proven itself.
    pub(super) fn serve(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        row: DeviceRow,
        proof: Proof,
    ) -> Result<KeyAnswer, EngineError> {
        if proof == Proof::Retired {
            self.events.push_back(GatewayEvent::Alarm(Alarm::LabelUsed { eui }));
            return Ok(KeyAnswer::Denied);
        }
        self.seen.insert(eui, now);
        if self.is_barred() {
            return Ok(KeyAnswer::Later { retry_after: WITHOUT_PLATFORM });
        }
        if proof == Proof::Next {
            self.promote(tx, now, eui, row)?;
            return Ok(KeyAnswer::NothingDue);
        }
        let mut row = row;
        if row.is_next_by_pad() {
            self.undock(tx, now, eui, &mut row)?;
        }
        Ok(self.answer(now, eui, row))
    }

    /// Checks the log-in of a device at the broker: returns the device, or nothing for a wrong,
    /// unknown or stale one.
    pub fn handle_login(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        user: &str,
        password: &[u8],
    ) -> Result<Option<Eui64>, EngineError> {
        let eui: Option<Eui64> = user.parse().ok();
        let mut row = eui.map(|eui| DeviceRow::load(tx, eui)).transpose()?.flatten();
        let named = eui.unwrap_or(Eui64::from_bytes([0; 8]));
        let mut proof = self.prove(row.as_ref(), |keys| keys.verify_mqtt_password(named, password));
        if proof.is_none() && row.as_ref().is_some_and(|row| row.may_be_ahead) {
            let holds = |keys: &GatewaySecret| keys.verify_mqtt_password(named, password);
            if self.catch_up(tx, now, named, None, holds)? {
                row = DeviceRow::load(tx, named)?;
                proof = Some(Proof::Next);
            }
        }
        let (Some(eui), Some(row), Some(proof)) = (eui, row, proof) else { return Ok(None) };
        match proof {
            Proof::Current => {}
            // Its readings would be taken for a sign that its epoch is noted, and by its pad it would go on.
            Proof::Next if self.is_barred() && row.is_next_by_pad() => return Ok(None),
            Proof::Next if self.is_barred() => {}
            Proof::Next => self.promote(tx, now, eui, row)?,
            Proof::Retired => {
                self.events.push_back(GatewayEvent::Alarm(Alarm::LabelUsed { eui }));
                return Ok(None);
            }
        }
        self.seen.insert(eui, now);
        Ok(Some(eui))
    }

    fn answer(&self, now: Timestamp, eui: Eui64, row: DeviceRow) -> KeyAnswer {
        match row.next {
            // By its pad.
            Some(Next::Finished { frame, .. }) if frame.is_empty() => KeyAnswer::NothingDue,
            Some(Next::Finished { frame, stage: Stage::Ready, .. }) => KeyAnswer::Frame(frame),
            None if !self.allocation.is_due(now, eui) => KeyAnswer::NothingDue,
            _ => KeyAnswer::Later { retry_after: self.retry_after(now) },
        }
    }

    /// Tells whether this store may be an old copy, so that nothing of it is to be given out.
    pub(super) fn is_barred(&self) -> bool {
        matches!(self.peer.session(), Session::RolledBack { mine: true } | Session::Superseded)
    }

    fn retry_after(&self, now: Timestamp) -> Span {
        if self.may_extract() {
            let pause = self.allocation.delay(now).as_micros().div_ceil(1_000_000);
            Span::from_secs(pause.max(1))
        } else {
            WITHOUT_PLATFORM
        }
    }

    fn prove_request(
        &self,
        row: Option<&DeviceRow>,
        path_and_query: &str,
        claim: Option<(Epoch, [u8; 32])>,
    ) -> Option<Proof> {
        let request = format!("GET {path_and_query}");
        let (claimed, mac) = claim.unwrap_or((Epoch::BOOTSTRAP, [0; 32]));
        let proof = self.prove(row, |keys| keys.verify_request(&request, &mac))?;
        let row = row?;
        let epoch = match proof {
            Proof::Current => Some(row.cur.epoch),
            Proof::Next => row.next.as_ref().map(Next::epoch),
            Proof::Retired => Some(Epoch::BOOTSTRAP),
        };
        (claim.is_some() && epoch == Some(claimed)).then_some(proof)
    }

    /// Tries the keys of `cur`, `next` and the retired epoch 0, or decoys in their place: always three
    /// checks.
    fn prove(
        &self,
        row: Option<&DeviceRow>,
        holds: impl Fn(&dyn EpochKeys) -> bool,
    ) -> Option<Proof> {
        let check = |keys: Option<&dyn EpochKeys>| {
            let is_proven = holds(keys.unwrap_or(&self.decoy));
            is_proven & keys.is_some()
        };
        let next = match row.and_then(|row| row.next.as_ref()) {
            Some(Next::Finished { held, .. }) => Some(&held.secret as &dyn EpochKeys),
            Some(Next::Asking { .. }) | None => None,
        };
        let retired = row.and_then(|row| row.retired.as_ref());
        let by = [
            (check(row.map(|row| &row.cur.secret as &dyn EpochKeys)), Proof::Current),
            (check(next), Proof::Next),
            (check(retired.map(|keys| keys as &dyn EpochKeys)), Proof::Retired),
        ];
        by.into_iter().find_map(|(is_proven, proof)| is_proven.then_some(proof))
    }
}

impl DeviceRow {
    /// Tells whether a pad leads to the next epoch.
    pub(super) fn is_next_by_pad(&self) -> bool {
        matches!(&self.next, Some(Next::Finished { frame, .. }) if frame.is_empty())
    }

    /// Returns the keys of an epoch that the device may hold, or has held as its first, and what it proves
    /// to hold those.
    pub(super) fn keys_of(&self, epoch: Epoch) -> Option<(&dyn EpochKeys, Proof)> {
        if self.cur.epoch == epoch {
            return Some((&self.cur.secret, Proof::Current));
        }
        if let Some(retired) = self.retired.as_ref().filter(|_| epoch == Epoch::BOOTSTRAP) {
            return Some((retired, Proof::Retired));
        }
        match &self.next {
            Some(Next::Finished { held, .. }) if held.epoch == epoch => {
                Some((&held.secret, Proof::Next))
            }
            _ => None,
        }
    }
}

/// When to ask again while nothing can be prepared.
const WITHOUT_PLATFORM: Span = Span::from_secs(10);
