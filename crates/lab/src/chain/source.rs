//! Where blocks come from: the real link, or keys drawn at the rate that its theory expects.

use anyhow::Result;
use claviger_distill::rules::OVERHEAD;
use claviger_distill::{FinishedBlock, Rules};
use claviger_keystore::{Block, BlockKey, BlockStanding, Origin, ProposeError, Provenance};
use claviger_photonics::theory::{BlockCosts, LinkTheory, expected};
use claviger_photonics::{Eve, LinkPreset};
use claviger_units::{Bits, Key256, KeyId, Site, Span};
use rand::RngExt;
use rand::rngs::StdRng;

use super::agenda::Event;
use super::{ChainConfig, LATENCY, Light, RETRY, VirtualChain, rng};
use crate::VirtualLink;

/// A block on its way to the KME of a site.
#[derive(Debug)]
pub(super) struct Offer {
    number: u64,
    acceptance: [u8; 32],
    keys: Vec<(KeyId, Site, Key256)>,
}

impl Offer {
    fn to_block(&self) -> Block {
        let keys = self.keys.iter();
        let keys =
            keys.map(|(id, owner, key)| BlockKey { id: *id, owner: *owner, key: key.duplicate() });
        let (number, acceptance) = (self.number, self.acceptance);
        // Nobody uses what a virtual run makes, so nothing is claimed of it.
        let provenance = Provenance { origin: Origin::SimulatedSeeded, claim: None };
        Block { number, provenance, acceptance, keys: keys.collect() }
    }
}

/// The light and both QKD nodes.
#[derive(Debug)]
pub(super) enum Source {
    Drawn(Box<Drawn>),
    Real { link: Box<VirtualLink>, window: Span },
}

impl Source {
    pub(super) fn start(config: &ChainConfig) -> Result<Self> {
        let ChainConfig { ref preset, seed, .. } = *config;
        Ok(match config.light {
            Light::Drawn => Self::Drawn(Box::new(Drawn {
                preset: preset.clone(),
                theory: expected(preset),
                rng: rng(seed, "drawn light"),
                closed: 0,
            })),
            Light::Real => {
                let rules = Rules::of(preset);
                let link = Box::new(VirtualLink::start(preset, Eve::ABSENT, seed)?);
                Self::Real { link, window: rules.time_of(rules.window) }
            }
        })
    }

    /// Returns how long the light shines until something can come of it.
    pub(super) fn next_span(&self) -> Span {
        match self {
            Self::Drawn(drawn) => drawn.next_span(),
            Self::Real { window, .. } => *window,
        }
    }
}

/// A link that is not simulated: each block comes after the time, and with the number of keys,
/// that theory expects.
#[derive(Debug)]
pub(super) struct Drawn {
    preset: LinkPreset,
    theory: LinkTheory,
    rng: StdRng,
    closed: u64,
}

impl Drawn {
    fn next_span(&self) -> Span {
        let sifted = self.preset.block_bits(self.closed).count();
        Span::from_secs_f64(sifted as f64 / self.theory.sifted.as_bps())
    }

    /// Closes a block whose keys belong to whom `owners` says.
    fn close(&mut self, owners: impl FnOnce(usize) -> Vec<Site>) -> Offer {
        let sifted = self.preset.block_bits(self.closed);
        let costs = BlockCosts { sifted, ..self.preset.block_costs(OVERHEAD) };
        let secret = self.theory.secret_rate_with(costs) * self.next_span();
        let n_keys = usize::try_from(secret / Bits::KEY).unwrap_or(usize::MAX);
        let rng = &mut self.rng;
        let keys = owners(n_keys).into_iter();
        let keys = keys.map(|owner| (KeyId::random(rng), owner, Key256::random(rng))).collect();
        let offer = Offer { number: self.closed, acceptance: self.rng.random(), keys };
        self.closed += 1;
        offer
    }
}

impl VirtualChain {
    /// Lets the light shine on, unless too many blocks wait for the KMEs.
    pub(super) fn shine(&mut self) {
        if !self.is_lit {
            return;
        }
        if self.offers_open >= MOST_OFFERS {
            self.enter_after(RETRY, Event::Light);
            return;
        }
        let offers = match &mut self.source {
            Source::Drawn(drawn) => {
                let alice = self.kmes[0].process.core.as_ref();
                let ratio = alice.map(|entity| entity.store.ratio(self.now));
                // A QKD node keeps the ratio that its KME told last.
                self.ratio = ratio.or(self.ratio);
                let Some(ratio) = self.ratio else {
                    self.enter_after(RETRY, Event::Light);
                    return;
                };
                vec![drawn.close(|n_keys| ratio.owners(n_keys))]
            }
            Source::Real { link, .. } => {
                if let Err(error) = link.run_window() {
                    self.audit.violate(format!("the link: {error:#}"));
                }
                let blocks = link.take_blocks().into_iter();
                blocks
                    .map(|FinishedBlock { number, keys, acceptance }| Offer {
                        number,
                        acceptance,
                        keys,
                    })
                    .collect()
            }
        };
        for offer in offers {
            self.audit.note_drawn(offer.keys.iter().map(|(id, ..)| *id));
            self.offers_open += 1;
            self.offer(Site::A, offer);
        }
        let span = self.source.next_span();
        self.enter_after(span, Event::Light);
    }

    /// Offers a block to the KME of a site: to Alice's first, then to Bob's; one that cannot take
    /// it now is asked again (`PROTOCOL.md` P1).
    pub(super) fn offer(&mut self, site: Site, offer: Offer) {
        let block = offer.to_block();
        let taken = self.at_kme(site, |entity, tx, now, _| match site {
            Site::A => entity.store.propose(tx, now, block),
            Site::B => entity.store.accept(tx, now, block),
        });
        match (taken, site) {
            (Some(Ok(BlockStanding::Held)), Site::A) => {
                self.enter_after(LATENCY, Event::Offer { site: Site::B, offer });
            }
            (None | Some(Err(ProposeError::Busy | ProposeError::Apart)), _) => {
                self.enter_after(RETRY, Event::Offer { site, offer });
            }
            (Some(Err(ProposeError::RolledBack)), _) => {
                self.audit.violate(format!("site {site} is rolled back"));
            }
            // Bob has it; or it is known already, because an answer was lost in a crash.
            (Some(_), _) => self.offers_open -= 1,
        }
    }
}

/// How many blocks wait for the KMEs before the light pauses.
const MOST_OFFERS: usize = 4;
