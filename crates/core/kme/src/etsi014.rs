//! The three methods of ETSI GS QKD 014.

use std::collections::BTreeSet;

use claviger_durable::Tx;
use claviger_keystore::{
    Container, FetchError, HandOutError, Inquiry, KeyStore, Order, Origin, Provenance, Session,
    Slave,
};
use claviger_units::{Bits, KeyId, SaeId, Timestamp};
use claviger_wire::etsi014::{
    Extension, Key, KeyContainer, KeyIds, KeyRequest, RequestError, Status,
};

use crate::Kme;
use crate::event::{Event, Interface};
use crate::refusal::{Declined, Refusal};

/// Who asks, and whom the path of the request names.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The application, as its certificate says.
    pub caller: &'a SaeId,
    /// The decoded SAE id in the path: the slave for status and `enc_keys`, the master for
    /// `dec_keys`.
    pub other: &'a str,
    /// [`Inquiry::NEW`] at the first try, later what [`Declined::Pending`] gave.
    pub inquiry: Inquiry,
}

impl Kme {
    /// Refuses who is not an application of this KME; ask before reading anything it has sent.
    pub fn admit(&self, caller: &SaeId) -> Result<(), Refusal> {
        if self.config.is_local(caller) { Ok(()) } else { Err(Refusal::Unregistered) }
    }

    /// Answers "Get status" of ETSI GS QKD 014.
    pub fn status(
        &mut self,
        tx: &dyn Tx,
        store: &KeyStore,
        call: Call<'_>,
    ) -> Result<Status, Declined> {
        let slave = self.admit(call.caller).and_then(|()| self.other(call, SLAVE));
        let slave = slave.map_err(|refusal| self.refused(call, refusal))?;
        let (stored, provenance) = (store.stored(tx)?, store.provenance(tx)?);
        let config = &self.config;
        let target = if config.is_local(&slave) { &config.kme_id } else { &config.peer_kme_id };
        let limits = config.limits;
        Ok(Status {
            source_kme_id: config.kme_id.clone(),
            target_kme_id: target.clone(),
            master_sae_id: call.caller.to_string(),
            slave_sae_id: slave.to_string(),
            key_size: limits.key_size.count(),
            stored_key_count: store.deliverable(tx, call.caller, &slave)?,
            max_key_count: stored.share_cap,
            max_key_per_request: limits.max_keys_per_request.into(),
            max_key_size: limits.max_key_size.count(),
            min_key_size: limits.min_key_size.count(),
            // Every application beside the two can be added to a request.
            max_sae_id_count: (config.saes.len() as u64).saturating_sub(2),
            status_extension: Some(Extension {
                claviger_lacks: lacking(store),
                ..provenance.map(told_of).unwrap_or_default()
            }),
        })
    }

    /// Answers "Get key" of ETSI GS QKD 014 with new keys.
    ///
    /// What could not be read is handed in too: who may not ask learns that first.
    pub fn enc_keys(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        store: &mut KeyStore,
        call: Call<'_>,
        request: Result<KeyRequest, RequestError>,
    ) -> Result<KeyContainer, Declined> {
        let order = self.order(call, request).map_err(|refusal| self.refused(call, refusal))?;
        let keys = store.hand_out(tx, now, &order);
        let keys = keys.map_err(|error| self.declined(call, error.into()))?;
        let event = Event::handed_out(Interface::Etsi014, order, &keys);
        self.note(tx, now, &event)?;
        self.events.push_back(event);
        Ok(container(keys))
    }

    /// Answers "Get key with key IDs" of ETSI GS QKD 014 with the caller's copies.
    pub fn dec_keys(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        store: &mut KeyStore,
        call: Call<'_>,
        request: Result<KeyIds, RequestError>,
    ) -> Result<KeyContainer, Declined> {
        let checked = self.wanted(call, request);
        let (master, ids) = checked.map_err(|refusal| self.refused(call, refusal))?;
        let keys = store.fetch(tx, now, call.caller, &master, &ids, call.inquiry);
        let keys = keys.map_err(|error| self.declined(call, error.into()))?;
        let slave = call.caller.clone();
        let event = Event::fetched(Interface::Etsi014, slave, master, &keys);
        self.note(tx, now, &event)?;
        self.events.push_back(event);
        Ok(container(keys))
    }

    /// Checks a request for new keys, all of it.
    fn order(
        &self,
        call: Call<'_>,
        request: Result<KeyRequest, RequestError>,
    ) -> Result<Order, Refusal> {
        self.admit(call.caller)?;
        let request = request?;
        let mut slaves = vec![self.other(call, SLAVE)?];
        slaves.extend(request.additional_slaves);
        if slaves.contains(call.caller) {
            return Err(Refusal::SameSae);
        }
        if slaves.iter().collect::<BTreeSet<_>>().len() < slaves.len() {
            return Err(Refusal::SlaveTwice);
        }
        let number = self.number(request.number)?;
        let size = self.size(request.size)?;
        if !request.mandatory.is_empty() {
            return Err(Refusal::ExtensionUnsupported);
        }
        self.order_for(call.caller.clone(), slaves, number, size)
    }

    fn number(&self, asked: Option<i128>) -> Result<u32, Refusal> {
        let max = self.config.limits.max_keys_per_request;
        let number = u32::try_from(asked.unwrap_or(1)).ok();
        number.filter(|number| (1..=max).contains(number)).ok_or(Refusal::Number { max })
    }

    fn size(&self, asked: Option<i128>) -> Result<Bits, Refusal> {
        let limits = self.config.limits;
        let Some(asked) = asked else { return Ok(limits.key_size) };
        if asked.rem_euclid(8) != 0 {
            return Err(Refusal::SizeNotOctets);
        }
        let (min, max) = (limits.min_key_size, limits.max_key_size);
        let size = u64::try_from(asked).ok().map(Bits::new);
        size.filter(|size| (min..=max).contains(size)).ok_or(Refusal::Size { min, max })
    }

    /// Reads the SAE id in the path: a registered application, and not the caller.
    fn other(&self, call: Call<'_>, role: &'static str) -> Result<SaeId, Refusal> {
        let other: SaeId = call.other.parse().or(Err(Refusal::UnknownSae(role)))?;
        if other == *call.caller {
            return Err(Refusal::SameSae);
        }
        if self.config.saes.contains_key(&other) {
            Ok(other)
        } else {
            Err(Refusal::UnknownSae(role))
        }
    }

    /// Makes an order for slaves whose sites the configuration knows.
    pub(crate) fn order_for(
        &self,
        master: SaeId,
        slaves: Vec<SaeId>,
        number: u32,
        size: Bits,
    ) -> Result<Order, Refusal> {
        let slaves = slaves.into_iter().map(|sae| {
            let binding = self.config.saes.get(&sae).ok_or(Refusal::UnknownSae(SLAVE))?;
            Ok(Slave { site: binding.site, sae })
        });
        Ok(Order { master, slaves: slaves.collect::<Result<_, Refusal>>()?, number, size })
    }

    /// Checks a request for copies, as far as that goes without the key store.
    fn wanted(
        &self,
        call: Call<'_>,
        request: Result<KeyIds, RequestError>,
    ) -> Result<(SaeId, Vec<KeyId>), Refusal> {
        self.admit(call.caller)?;
        let ids = request?.ids;
        let master = self.other(call, MASTER)?;
        let max = self.config.limits.max_keys_per_request;
        if ids.is_empty() || ids.len() > max as usize {
            return Err(Refusal::IdCount { max });
        }
        let distinct = ids.iter().collect::<BTreeSet<_>>().len();
        if distinct < ids.len() { Err(Refusal::IdTwice) } else { Ok((master, ids)) }
    }

    fn refused(&mut self, call: Call<'_>, refusal: Refusal) -> Refusal {
        self.events
            .push_back(Event::Refused { caller: call.caller.clone(), refusal: refusal.clone() });
        refusal
    }

    fn declined(&mut self, call: Call<'_>, declined: Declined) -> Declined {
        if let Declined::Refused(refusal) = &declined {
            self.refused(call, refusal.clone());
        }
        declined
    }
}

fn container(keys: Vec<Container>) -> KeyContainer {
    let keys = keys.into_iter().map(|Container { id, key, provenance }| Key {
        id,
        key,
        extension: Some(told_of(provenance)),
    });
    KeyContainer { keys: keys.collect() }
}

/// Says what made a key, and what is claimed of it if anything is.
fn told_of(Provenance { origin, claim }: Provenance) -> Extension {
    Extension {
        claviger_claim: claim.map(|claim| claim.to_string()),
        ..Extension::of_origin(origin_text(origin))
    }
}

/// The words of `DESIGN.md`, invariant 6.
const fn origin_text(origin: Origin) -> &'static str {
    match origin {
        Origin::Simulated => "simulated",
        Origin::SimulatedSeeded => "simulated, seeded: reproducible, never to be used",
        Origin::Hardware => "hardware",
    }
}

/// Says what this KME lacks to hand out keys, if anything (`DESIGN.md`, invariant 14).
fn lacking(store: &KeyStore) -> Option<String> {
    let lacks = match store.session() {
        Session::Open => return None,
        Session::RolledBack { .. } | Session::Superseded => Refusal::RolledBack.to_string(),
        _ if store.is_serving() => "the peer KME: new keys leave only within the lease".to_owned(),
        _ => "the peer KME: nothing leaves before it was heard".to_owned(),
    };
    Some(lacks)
}

impl From<HandOutError> for Declined {
    fn from(error: HandOutError) -> Self {
        match error {
            HandOutError::Shortage { .. } => Refusal::Shortage.into(),
            HandOutError::Lease => {
                Self::Pending { last: Refusal::LeaseLate, inquiry: Inquiry::NEW }
            }
            HandOutError::Apart => Refusal::Apart.into(),
            HandOutError::RolledBack => Refusal::RolledBack.into(),
            HandOutError::Stopping => Refusal::Stopping.into(),
            HandOutError::Backlog { .. } => Refusal::Backlog.into(),
            HandOutError::Store(error) => error.into(),
            HandOutError::Order(why) => Refusal::Order(why).into(),
            // A store may learn new ways to fail; none of them spends a key.
            _ => Refusal::NotServing.into(),
        }
    }
}

impl From<FetchError> for Declined {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Incomplete { inquiry } => {
                Self::Pending { last: Refusal::NoticeLate, inquiry }
            }
            FetchError::Apart => Refusal::Apart.into(),
            FetchError::Unknown { .. } | FetchError::Taken { .. } => Refusal::KeysNotFound.into(),
            FetchError::NotEntitled { .. } => Refusal::NotEntitled.into(),
            FetchError::Store(error) => error.into(),
            FetchError::RolledBack => Refusal::RolledBack.into(),
            _ => Refusal::NotServing.into(),
        }
    }
}

const SLAVE: &str = "slave_SAE_ID";
const MASTER: &str = "master_SAE_ID";
