//! The two KMEs, and what applications ask of them.

use std::collections::BTreeMap;

use claviger_durable::{EngineError, Tx};
use claviger_fleet::{Extraction, Fetching, KeyOrder, Origin, PadExtraction, PlatformOrder};
use claviger_keystore::{Inquiry, KeyStore, StoreConfig};
use claviger_kme::{Call, Declined, Kme, KmeConfig, Limits, PATIENCE, RefusalKind, SaeBinding};
use claviger_units::{Key256, KeyId, SaeId, Site, Span, Timestamp};
use claviger_wire::etsi014::{Key, KeyContainer, KeyIds, KeyRequest};
use claviger_wire::idq3p::ByteOrder;
use rand::rngs::StdRng;

use super::agenda::Event;
use super::process::{CoreError, Process};
use super::{ChainConfig, LAN, Party, Stream, VirtualChain, rng};

/// The core of a KME: its half of the key buffer, and the decisions over it.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) store: KeyStore,
    pub(super) kme: Kme,
}

/// A KME and the requests that wait there.
#[derive(Debug)]
pub(super) struct KmeSite {
    pub(super) process: Process<Entity>,
    pub(super) waiting: Vec<Ask>,
}

impl KmeSite {
    pub(super) fn new(site: Site, seed: u64) -> Self {
        Self { process: Process::new(rng(seed, &format!("kme {site}"))), waiting: Vec::new() }
    }
}

/// A request at a KME.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) asker: Asker,
    /// Which start of the asker it belongs to.
    boot: u64,
    /// Until when it waits at the KME; from its arrival on.
    deadline: Option<Timestamp>,
    /// What its last try has asked the other KME.
    inquiry: Inquiry,
}

/// Who asks, and for what.
#[derive(Debug)]
pub(super) enum Asker {
    Gateway(KeyOrder),
    Platform(PlatformOrder),
    /// The check at the end of a run, in the name of the site's application.
    Auditor(Site, Want),
}

#[derive(Clone, Debug)]
pub(super) enum Want {
    New(u32),
    Copies(Vec<KeyId>),
}

impl Asker {
    pub(super) const fn site(&self) -> Site {
        match self {
            Self::Gateway(_) => Site::A,
            Self::Platform(_) => Site::B,
            Self::Auditor(site, _) => *site,
        }
    }

    fn want(&self) -> Want {
        match self {
            Self::Gateway(KeyOrder::Extract { .. } | KeyOrder::Master { .. })
            | Self::Platform(PlatformOrder::Master { .. }) => Want::New(1),
            Self::Gateway(KeyOrder::ExtractPad { most }) => {
                Want::New(u32::try_from(*most).unwrap_or(u32::MAX))
            }
            Self::Gateway(KeyOrder::Fetch { key_id })
            | Self::Platform(PlatformOrder::Fetch { key_id }) => Want::Copies(vec![*key_id]),
            Self::Auditor(_, want) => want.clone(),
        }
    }
}

/// What a KME answers.
#[derive(Debug)]
pub(super) enum Reply {
    Keys(KeyContainer),
    Refused(RefusalKind),
    /// Nobody is there.
    Unreachable,
}

impl VirtualChain {
    pub(super) const fn kme(&mut self, site: Site) -> &mut KmeSite {
        &mut self.kmes[site as usize]
    }

    /// Runs one call of a KME in its transaction, and carries out what it wants.
    pub(super) fn at_kme<R, E: CoreError>(
        &mut self,
        site: Site,
        work: impl FnOnce(&mut Entity, &mut dyn Tx, Timestamp, &mut StdRng) -> Result<R, E>,
    ) -> Option<Result<R, E>> {
        let now = self.now;
        let process = &mut self.kme(site).process;
        let was_up = process.is_up();
        let result = process.run(|entity, tx, rng| work(entity, tx, now, rng));
        if result.is_some() {
            self.drain_kme(site);
        } else if was_up {
            self.bury(Party::Kme(site));
        }
        result
    }

    pub(super) fn start_kme(&mut self, site: Site) {
        let (now, stored) = (self.now, store_config(&self.config, site));
        let kme = Kme::new(kme_config(site)).expect("the configuration is right");
        self.kme(site)
            .process
            .start(|tx, rng| Ok(Entity { store: KeyStore::open(tx, now, stored, rng)?, kme }));
        self.drain_kme(site);
    }

    fn drain_kme(&mut self, site: Site) {
        let Some(Entity { store, kme }) = self.kme(site).process.core.as_mut() else { return };
        let frames: Vec<_> = std::iter::from_fn(|| store.poll_transmit()).collect();
        let events: Vec<_> = std::iter::from_fn(|| store.poll_event()).collect();
        let lines: Vec<_> = std::iter::from_fn(|| kme.poll_event()).collect();
        for bytes in frames {
            self.audit.tap(site, &bytes);
            self.send(Stream::Kmes, site.other(), bytes);
        }
        if !events.is_empty() && !self.kme(site).waiting.is_empty() {
            self.enter_after(Span::ZERO, Event::AskAgain(site));
        }
        for event in events {
            self.audit.note_store(site, event);
        }
        for line in lines {
            self.audit.note_line(site, line);
        }
    }

    /// Sends a request on its way to the KME of its site.
    pub(super) fn ask(&mut self, asker: Asker) {
        let boot = self.boot_of(&asker);
        self.enter_after(
            LAN,
            Event::Ask(Ask { asker, boot, deadline: None, inquiry: Inquiry::NEW }),
        );
    }

    /// Lets the KME decide; what only waits for the other KME is asked again, for a second.
    pub(super) fn handle_ask(&mut self, mut ask: Ask) {
        let (site, inquiry) = (ask.asker.site(), ask.inquiry);
        let answer = match ask.asker.want() {
            Want::New(number) => self.at_kme(site, |entity, tx, now, _| {
                let (caller, other) = saes(site);
                let call = Call { caller: &caller, other: other.as_str(), inquiry };
                let request = KeyRequest { number: Some(number.into()), ..KeyRequest::default() };
                entity.kme.enc_keys(tx, now, &mut entity.store, call, Ok(request))
            }),
            Want::Copies(ids) => self.at_kme(site, |entity, tx, now, _| {
                let (caller, other) = saes(site);
                let call = Call { caller: &caller, other: other.as_str(), inquiry };
                entity.kme.dec_keys(tx, now, &mut entity.store, call, Ok(KeyIds { ids }))
            }),
        };
        let reply = match answer {
            Some(Ok(keys)) => Reply::Keys(keys),
            Some(Err(Declined::Refused(refusal))) => Reply::Refused(refusal.kind()),
            Some(Err(Declined::Pending { last, inquiry })) => {
                ask.inquiry = inquiry;
                let now = self.now;
                let deadline = *ask.deadline.get_or_insert_with(|| {
                    self.agenda.enter(now + PATIENCE, Event::AskAgain(site));
                    now + PATIENCE
                });
                if now < deadline {
                    self.kme(site).waiting.push(ask);
                    return;
                }
                Reply::Refused(last.kind())
            }
            _ => Reply::Unreachable,
        };
        self.reply(ask, reply);
    }

    pub(super) fn ask_again(&mut self, site: Site) {
        for ask in std::mem::take(&mut self.kme(site).waiting) {
            self.handle_ask(ask);
        }
    }

    pub(super) fn reply(&mut self, ask: Ask, reply: Reply) {
        self.enter_after(LAN, Event::Reply { ask, reply });
    }

    /// Hands an answer to who asked, unless that process is no more: then its key is burnt.
    pub(super) fn handle_reply(&mut self, Ask { asker, boot, .. }: Ask, reply: Reply) {
        if boot != self.boot_of(&asker) {
            return;
        }
        if let Reply::Keys(container) = &reply {
            self.audit.note_keys(asker.site(), &container.keys);
        }
        match asker {
            Asker::Gateway(KeyOrder::Extract { eui, epoch, .. }) => {
                let outcome = extraction(reply);
                self.at_gateway(|gateway, tx, now, rng| {
                    gateway.handle_extracted(tx, now, eui, epoch, outcome, rng)
                });
            }
            Asker::Gateway(KeyOrder::Master { .. }) => {
                let outcome = extraction(reply);
                self.at_gateway(|gateway, tx, now, rng| {
                    gateway.handle_mastered(tx, now, outcome, rng)
                });
            }
            Asker::Gateway(KeyOrder::ExtractPad { .. }) => {
                let outcome = match reply {
                    Reply::Keys(KeyContainer { keys }) => {
                        let keys = keys.into_iter().map(granted).collect::<Option<_>>();
                        keys.map_or(PadExtraction::Later, PadExtraction::Keys)
                    }
                    Reply::Refused(_) | Reply::Unreachable => PadExtraction::Later,
                };
                self.at_gateway(|gateway, tx, now, _| {
                    gateway.handle_pad_extracted(tx, now, outcome)
                });
            }
            Asker::Gateway(KeyOrder::Fetch { key_id }) => {
                let outcome = fetching(reply);
                self.at_gateway(|gateway, tx, now, _| {
                    gateway.handle_fetched(tx, now, key_id, outcome)
                });
            }
            Asker::Platform(PlatformOrder::Master { .. }) => {
                let outcome = extraction(reply);
                self.at_platform(|platform, tx, now, rng| {
                    platform.handle_mastered(tx, now, outcome, rng)
                });
            }
            Asker::Platform(PlatformOrder::Fetch { key_id }) => {
                let outcome = fetching(reply);
                self.at_platform(|platform, tx, now, _| {
                    platform.handle_fetched(tx, now, key_id, outcome)
                });
            }
            Asker::Auditor(..) => self.auditor_got = Some(reply),
        }
    }

    const fn boot_of(&self, asker: &Asker) -> u64 {
        match asker {
            Asker::Gateway(_) => self.gateway.boot,
            Asker::Platform(_) => self.platform.boot,
            Asker::Auditor(..) => 0,
        }
    }

    /// Lets a KME do what is due.
    pub(super) fn time_out_kme(&mut self, site: Site) {
        self.at_kme(site, |entity, tx, now, _| {
            entity.kme.handle_timeout(now);
            entity.store.handle_timeout(tx, now)
        });
    }

    pub(super) fn connect_kmes(&mut self) {
        for site in [Site::A, Site::B] {
            self.at_kme(site, |entity, _, _, rng| {
                entity.store.handle_connected(rng);
                Ok::<_, EngineError>(())
            });
        }
    }

    pub(super) fn disconnect_kmes(&mut self) {
        for site in [Site::A, Site::B] {
            self.at_kme(site, |entity, _, _, _| {
                entity.store.handle_disconnected();
                Ok::<_, EngineError>(())
            });
        }
    }
}

fn extraction(reply: Reply) -> Extraction {
    match reply {
        Reply::Keys(container) => single(container).map_or(Extraction::Unreachable, |granted| {
            let (id, key, origin) = granted;
            Extraction::Key(id, key, origin)
        }),
        Reply::Refused(RefusalKind::Unavailable) => Extraction::Shortage,
        Reply::Refused(_) | Reply::Unreachable => Extraction::Unreachable,
    }
}

fn fetching(reply: Reply) -> Fetching {
    match reply {
        Reply::Keys(container) => single(container)
            .map_or(Fetching::Unreachable, |(_, key, origin)| Fetching::Key(key, origin)),
        Reply::Refused(RefusalKind::BadRequest) => Fetching::Refused,
        Reply::Refused(_) | Reply::Unreachable => Fetching::Unreachable,
    }
}

fn single(KeyContainer { mut keys }: KeyContainer) -> Option<(KeyId, Key256, Origin)> {
    granted(keys.pop()?)
}

fn granted(Key { id, key, extension }: Key) -> Option<(KeyId, Key256, Origin)> {
    let origin = extension.and_then(|extension| extension.claviger_origin);
    let is_simulated = origin.is_some_and(|origin| origin.starts_with("simulated"));
    let origin = if is_simulated { Origin::Simulated } else { Origin::Link };
    Key256::from_slice(key.expose()).map(|key| (id, key, origin))
}

/// Returns the application of a site, and the one at the other.
fn saes(site: Site) -> (SaeId, SaeId) {
    let sae = |text: &str| text.parse().expect("the name of an application");
    match site {
        Site::A => (sae(GATEWAY), sae(PLATFORM)),
        Site::B => (sae(PLATFORM), sae(GATEWAY)),
    }
}

fn kme_config(site: Site) -> KmeConfig {
    let [kme_id, peer_kme_id] = [site, site.other()].map(|site| format!("kme-{site}"));
    let binding = |site: Site| (saes(site).0, SaeBinding { site });
    KmeConfig {
        kme_id,
        peer_kme_id,
        site,
        saes: [Site::A, Site::B].into_iter().map(binding).collect(),
        limits: Limits::DESIGN,
        idq3p_order: ByteOrder::LittleEndian,
        idq3p_devices: BTreeMap::new(),
    }
}

const fn store_config(config: &ChainConfig, site: Site) -> StoreConfig {
    StoreConfig {
        site,
        capacity: config.capacity,
        untaken_expiry: Span::from_secs(3600),
        untaken_per_pair: 20_000,
    }
}

const GATEWAY: &str = "gateway";
const PLATFORM: &str = "platform";
