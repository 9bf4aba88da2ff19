//! IDQ3P: one datagram asks for one key (`WIRE.md` §1).

use claviger_durable::{EngineError, Tx};
use claviger_keystore::{Container, FetchError, HandOutError, Inquiry, KeyStore};
use claviger_units::{Bits, SecretBytes, Timestamp};
use claviger_wire::idq3p::{DatagramError, MAX_KEY_OCTETS, Request, Response, Status, Wanted};

use crate::Kme;
use crate::config::DevicePair;
use crate::event::{Event, Interface};
use crate::refusal::{Declined, Refusal, RefusalKind};

/// Why a datagram got no key; roll its transaction back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramDeclined {
    /// No request: send nothing.
    #[error(transparent)]
    Dropped(#[from] DatagramError),
    /// Send this answer, which holds no key.
    #[error("the request is refused")]
    Refused(SecretBytes),
    /// Hand the same datagram in again at the next event of the key store, for at most
    /// [`PATIENCE`](crate::PATIENCE); then send the last answer, which holds no key.
    #[error("waiting for the peer KME")]
    Pending {
        /// What to send in the end.
        last: SecretBytes,
        /// What the next try says of this one.
        inquiry: Inquiry,
    },
    /// The store failed: stop, and start again from what is durable.
    #[error(transparent)]
    Store(#[from] EngineError),
}

impl Kme {
    /// Answers a datagram; `source` is the sender's address and port in any fixed form, `inquiry`
    /// is [`Inquiry::NEW`] or what an earlier try gave.
    ///
    /// A retransmission (same source, same 29 bytes, within 2 s) gets the same answer again, three
    /// answers in all; after that the same bytes are a new request.
    pub fn handle_datagram(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        store: &mut KeyStore,
        source: &[u8],
        bytes: &[u8],
        inquiry: Inquiry,
    ) -> Result<SecretBytes, DatagramDeclined> {
        let order = self.config.idq3p_order;
        let request = Request::decode(bytes, order);
        let request = request.inspect_err(|&error| self.counters.count_dropped(error))?;
        if let Some(answer) = self.answers.repeat(now, (source, bytes)) {
            self.counters.repeated += 1;
            return Ok(answer);
        }
        match self.grant(tx, now, store, &request, inquiry) {
            Ok((response, event)) => {
                self.note(tx, now, &event)?;
                let answer = response.encode(order);
                self.answers.keep(now, (source, bytes), &answer);
                self.events.push_back(event);
                Ok(answer)
            }
            Err(verdict) => Err(self.decline(&request, verdict)),
        }
    }

    /// Spends a key on a request, or says why not.
    fn grant(
        &self,
        tx: &mut dyn Tx,
        now: Timestamp,
        store: &mut KeyStore,
        request: &Request,
        inquiry: Inquiry,
    ) -> Result<(Response, Event), Verdict> {
        let pair = self.config.idq3p_devices.get(&request.device);
        let pair = pair.cloned().ok_or(Verdict::Refused(Status::InvalidRequest))?;
        if !(1..=MAX_KEY_OCTETS).contains(&request.length) {
            return Err(Verdict::Refused(Status::WrongLength));
        }
        let size = Bits::new(8 * u64::from(request.length));
        let (keys, event) = match request.wanted {
            Wanted::New => self.new_key(tx, now, store, (pair, size))?,
            Wanted::Id(id) => copy_of(tx, now, store, (pair, size), (id.get(), inquiry))?,
        };
        let response = keys.first().and_then(|key| request.granted(key.id.low64(), &key.key));
        Ok((response.ok_or(Verdict::Refused(Status::WrongLength))?, event))
    }

    fn new_key(
        &self,
        tx: &mut dyn Tx,
        now: Timestamp,
        store: &mut KeyStore,
        (pair, size): (DevicePair, Bits),
    ) -> Result<(Vec<Container>, Event), Verdict> {
        let order = self.order_for(pair.sae, vec![pair.peer], 1, size).map_err(Declined::from)?;
        let keys = store.hand_out(tx, now, &order)?;
        let event = Event::handed_out(Interface::Idq3p, order, &keys);
        Ok((keys, event))
    }

    fn decline(&mut self, request: &Request, verdict: Verdict) -> DatagramDeclined {
        let order = self.config.idq3p_order;
        match verdict {
            Verdict::Store(error) => error.into(),
            Verdict::Pending(inquiry) => {
                let last = request.refused(Status::NoMoreKeys).encode(order);
                DatagramDeclined::Pending { last, inquiry }
            }
            Verdict::Refused(status) => {
                self.events.push_back(Event::DeviceRefused { device: request.device, status });
                DatagramDeclined::Refused(request.refused(status).encode(order))
            }
        }
    }
}

/// Takes the pair's copy of a key that the partner has got by its low 64 bits.
fn copy_of(
    tx: &mut dyn Tx,
    now: Timestamp,
    store: &mut KeyStore,
    (pair, size): (DevicePair, Bits),
    (id, inquiry): (u64, Inquiry),
) -> Result<(Vec<Container>, Event), Verdict> {
    let id = store.resolve(tx, id)?.ok_or(Verdict::Refused(Status::UnknownKey))?;
    // Asked before the copy is taken: a wrong length spends nothing.
    if store.noticed_size(tx, id)?.is_some_and(|noticed| noticed != size) {
        return Err(Verdict::Refused(Status::WrongLength));
    }
    let keys = store.fetch(tx, now, &pair.sae, &pair.peer, &[id], inquiry)?;
    let event = Event::fetched(Interface::Idq3p, pair.sae, pair.peer, &keys);
    Ok((keys, event))
}

/// Why a well-formed request gets no key.
enum Verdict {
    Refused(Status),
    Pending(Inquiry),
    Store(EngineError),
}

impl From<Declined> for Verdict {
    fn from(declined: Declined) -> Self {
        match declined {
            Declined::Refused(refusal) => Self::Refused(status_of(&refusal)),
            Declined::Pending { inquiry, .. } => Self::Pending(inquiry),
            Declined::Store(error) => Self::Store(error),
        }
    }
}

impl From<HandOutError> for Verdict {
    fn from(error: HandOutError) -> Self {
        Declined::from(error).into()
    }
}

impl From<FetchError> for Verdict {
    fn from(error: FetchError) -> Self {
        Declined::from(error).into()
    }
}

impl From<EngineError> for Verdict {
    fn from(error: EngineError) -> Self {
        Self::Store(error)
    }
}

/// "No more keys" is the one status after which asking again makes sense, so it stands for all that
/// is only unavailable now, also where a key was asked for by its id.
const fn status_of(refusal: &Refusal) -> Status {
    match (refusal, refusal.kind()) {
        (Refusal::KeysNotFound | Refusal::NotEntitled, _) => Status::UnknownKey,
        (_, RefusalKind::Unavailable) => Status::NoMoreKeys,
        (_, RefusalKind::BadRequest | RefusalKind::Unauthorized) => Status::InvalidRequest,
    }
}
