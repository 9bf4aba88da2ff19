//! Alice: she knows what she sent, answers Bob's questions, and proposes the keys.

use std::collections::BTreeMap;

use claviger_durable::{EngineError, Tx};
use claviger_gf2::BitString;
use claviger_photonics::promise::ByIntensity;
use claviger_photonics::sift::{self, Announcement};
use claviger_photonics::{Choice, ChoiceGenerator};
use claviger_security::EpsilonLedger;
use claviger_units::{Fraction, KeyId, OwnerRatio, Site, Timestamp};
use claviger_wire::classical::{Batch, Close, Detections, DropReason, Message, PadName, Propose};
use rand::{Rng, RngExt};

use crate::authenticate::{Pad, PadError};
use crate::block::{Awaiting, FinishedBlock, Reconciled, amplify, reserve_bits, verification_hash};
use crate::cascade::{Answerer, Schedule};
use crate::filling::Filled;
use crate::quiet::BLOCK_PATIENCE;
use crate::rules::{Rules, VERIFICATION_BITS};
use crate::session::{Committed, Common, DistillError, Event, Refusal, Session};
use crate::sifted::SiftedBatch;

/// Alice's end of the link.
#[derive(Debug)]
pub struct Alice {
    common: Common,
    choices: Option<(u64, ChoiceGenerator)>,
    // The first pulse of the light session of which nothing has been announced. A pulse is
    // announced once: who could ask again would learn the key that was made of it.
    announced: u64,
    batch: Option<OpenBatch>,
    blocks: BTreeMap<u64, Block>,
    held: BTreeMap<u64, Vec<u8>>,
    ratio: OwnerRatio,
    // What recent blocks said of the error rate; sets the first pass of Cascade.
    qber: Fraction,
}

/// A batch whose sifting is under way.
#[derive(Debug)]
struct OpenBatch {
    batch: Batch,
    choices: Vec<Choice>,
    sifted: Option<SiftedBatch>,
    sampled: Vec<u32>,
}

/// A closed block under reconciliation.
#[derive(Debug)]
struct Block {
    reconciled: Reconciled,
    answerer: Answerer,
    verifying: bool,
}

impl Alice {
    /// Opens Alice's end.
    pub fn open(tx: &mut dyn Tx, rules: Rules) -> Result<Self, EngineError> {
        let qber = rules.expected_qber;
        Ok(Self {
            common: Common::open(tx, Site::A, rules)?,
            choices: None,
            announced: 0,
            batch: None,
            blocks: BTreeMap::new(),
            held: BTreeMap::new(),
            ratio: OwnerRatio::INITIAL,
            qber,
        })
    }

    /// Starts emitting: `light` names the session of the light, `seed` makes its choices.
    pub fn handle_light(&mut self, light: u64, seed: &[u8; 32]) {
        self.choices = Some((light, ChoiceGenerator::new(seed, self.common.rules.coding())));
        self.announced = 0;
    }

    /// Greets the other end on a fresh connection.
    pub fn handle_connected(&mut self, rng: &mut impl Rng) {
        self.handle_disconnected();
        self.common.greet(rng);
    }

    /// Drops every block that the other end cannot finish any more.
    pub fn handle_disconnected(&mut self) {
        self.batch = None;
        // What was never sent cannot be accepted; what was sent may be, and waits for its verdict.
        for number in core::mem::take(&mut self.held).into_keys() {
            if let Some(awaiting) = self.common.awaiting.remove(&number) {
                let dropped = crate::Outcome::Dropped(DropReason::SessionLost);
                self.common.end(awaiting.ledger, dropped);
            }
        }
        for block in core::mem::take(&mut self.blocks).into_values() {
            let dropped = crate::Outcome::Dropped(DropReason::SessionLost);
            self.common.end(block.reconciled.ledger, dropped);
        }
        if self.common.is_open() && self.common.filling.tally.clicks > 0 {
            self.common.drop_filling(DropReason::SessionLost);
        }
        self.common.session = Session::Apart;
        self.common.transmits.clear();
    }

    /// Takes in one frame of the other end.
    pub fn handle_message(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        frame: &[u8],
    ) -> Result<(), DistillError> {
        let message = Message::decode(frame)?;
        match (&message, self.common.is_open()) {
            (Message::Greet(theirs), _) => self.common.handle_greet(tx, *theirs)?,
            (Message::Prove(proof), _) => self.common.handle_proof(tx, proof)?,
            (_, false) => self.common.refuse(Refusal::Protocol),
            (_, true) => self.handle_open(tx, now, frame, message)?,
        }
        Ok(())
    }

    fn handle_open(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        frame: &[u8],
        message: Message,
    ) -> Result<(), DistillError> {
        match message {
            Message::Detections(detections) => self.handle_detections(frame, detections),
            Message::Conclusive { batch, mask } => self.handle_conclusive(frame, batch, &mask),
            Message::SampleErrors { batch, errors, tests } => {
                self.handle_sample_errors(frame, batch, (errors, tests));
            }
            Message::Differences { block, bits } => self.handle_differences(frame, block, &bits),
            Message::Corrected { block, errors, leaked } => {
                self.handle_corrected(frame, block, errors, leaked);
            }
            Message::Verified { block, pad } => {
                self.handle_verified(tx, now, frame, block, pad)?;
            }
            Message::Drop { block, reason } => self.handle_drop(block, reason),
            _ => self.common.refuse(Refusal::Protocol),
        }
        Ok(())
    }

    /// Looks whether the other end owes a word for too long; to be called every few seconds.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.common.check_batch(now, self.batch.is_some());
        let silent = self.blocks.iter_mut().filter_map(|(&number, block)| {
            block.reconciled.quiet.outlasts(now, BLOCK_PATIENCE).then_some(number)
        });
        for number in silent.collect::<Vec<_>>() {
            self.drop_block(number, DropReason::Protocol);
        }
    }

    /// Sends the proposal of a block that this site's key buffer holds ready.
    pub fn handle_held(&mut self, block: u64) {
        if let Some(frame) = self.held.remove(&block) {
            self.common.transmits.push_back(frame);
        }
    }

    /// Takes the key buffers' verdict on a proposed block.
    pub fn handle_outcome(
        &mut self,
        tx: &mut dyn Tx,
        block: u64,
        committed: Committed,
    ) -> Result<(), EngineError> {
        if self.held.remove(&block).is_some() {
            // The other end was never asked, and need not wait any longer.
            let drop = Message::Drop { block, reason: DropReason::NotCommitted };
            self.common.transmits.push_back(drop.encode());
        }
        self.common.handle_outcome(tx, block, committed)
    }

    /// Takes the ratio in which further blocks are owned.
    pub const fn handle_ratio(&mut self, ratio: OwnerRatio) {
        self.ratio = ratio;
    }

    /// Returns the next frame for the other end.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.common.transmits.pop_front()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.common.events.pop_front()
    }

    /// Returns how many authentication pads are left.
    pub fn reserve_level(&self, tx: &dyn Tx) -> Result<u64, EngineError> {
        self.common.reserve.level(tx)
    }

    /// Returns what the promises of all blocks of this link's life may fail by.
    pub fn epsilon(&self, tx: &dyn Tx) -> Result<EpsilonLedger, EngineError> {
        Common::epsilon(tx)
    }

    fn handle_detections(&mut self, frame: &[u8], detections: Detections) {
        let filling = &mut self.common.filling;
        let in_turn = detections.batch == filling.next
            && self.batch.is_none()
            && filling.transcript.has_room(self.common.rules.largest_target())
            && detections.fits_window(
                filling.tally.end,
                self.common.rules.window,
                self.common.rules.dead_gates(),
            );
        let Some((light, choices)) = self.choices.as_ref().filter(|_| in_turn) else {
            self.common.refuse(Refusal::Protocol);
            return;
        };
        // Clicks of an earlier light session say nothing of the present choices.
        let stale = *light != detections.light;
        if !stale {
            if detections.pulses.first().is_some_and(|&first| first < self.announced) {
                self.common.refuse(Refusal::Protocol);
                return;
            }
            self.announced = self.announced.max(detections.end);
        }
        filling.transcript.append(Site::B, frame);
        filling.see(detections.pulses.len(), detections.end, &self.common.rules);
        let batch = detections.batch;
        let clicked = if stale { Vec::new() } else { detections.pulses };
        let chosen = choices.choices(&clicked);
        let protocol = self.common.rules.coding().protocol();
        let said = packed(Announcement::bits_under(protocol), &chosen, |&choice| {
            Announcement::of(protocol, choice).bits()
        });
        self.batch = Some(OpenBatch { batch, choices: chosen, sifted: None, sampled: Vec::new() });
        self.common.send_filling(&Message::Announcements { batch, said });
    }

    fn handle_conclusive(&mut self, frame: &[u8], batch: Batch, mask: &[u8]) {
        let open = self.batch.as_mut().filter(|open| open.batch == batch && open.sifted.is_none());
        let Some(open) = open else {
            self.common.refuse(Refusal::Protocol);
            return;
        };
        let Some(mask) = BitString::from_bytes(mask, open.choices.len()) else {
            self.common.refuse(Refusal::Protocol);
            return;
        };
        let protocol = self.common.rules.coding().protocol();
        let mut sifted = SiftedBatch::default();
        for (choice, _) in open.choices.iter().zip(mask.iter()).filter(|(_, kept)| *kept) {
            sifted.push(sift::at_alice(protocol, *choice));
        }
        let n = self.common.filling.n_samples(sifted.key.len(), &self.common.rules);
        let mut positions: Vec<u32> =
            rand::seq::index::sample(&mut self.common.filling.rng, sifted.key.len(), n)
                .into_iter()
                .map(|i| u32::try_from(i).unwrap_or(u32::MAX))
                .collect();
        positions.sort_unstable();
        open.sampled.clone_from(&positions);
        let bits = sifted.key.gather(&positions).to_bytes().to_vec();
        let tests = sifted.tests.to_bytes().to_vec();
        open.sifted = Some(sifted);
        self.common.filling.transcript.append(Site::B, frame);
        self.common.send_filling(&Message::Sample { batch, positions, bits, tests });
    }

    fn handle_sample_errors(
        &mut self,
        frame: &[u8],
        batch: Batch,
        errors: (u32, ByIntensity<u32>),
    ) {
        let open = self.batch.take().filter(|open| open.batch == batch);
        let open = open.and_then(|open| Some((open.sifted?, open.sampled)));
        let fits = |(sifted, sampled): &(SiftedBatch, Vec<u32>)| {
            let tests = crate::sifted::count(&sifted.test_intensities);
            errors.0 as usize <= sampled.len()
                && errors.1.iter().zip(tests).all(|(&wrong, all)| u64::from(wrong) <= all)
        };
        let Some((sifted, sampled)) = open.filter(fits) else {
            self.common.refuse(Refusal::Protocol);
            return;
        };
        let common = &mut self.common;
        common.filling.transcript.append(Site::B, frame);
        let target = common.rules.target(common.closed);
        let filled = common.filling.add(&sifted, &sampled, errors, &common.rules, target);
        common.report_sample();
        match filled {
            Filled::Continue => {}
            Filled::Suspicious => common.drop_filling(DropReason::SampledQber),
            Filled::Closed => self.close(),
        }
    }

    fn close(&mut self) {
        let mut reconciled = self.common.close_filling();
        if self.blocks.len() >= self.common.rules.open_blocks() {
            return self.common.drop_block(reconciled.ledger, DropReason::Protocol);
        }
        let ledger = &reconciled.ledger;
        // The sample is small: recent blocks weigh as much as 512 sampled bits.
        let errors = ledger.sample_errors as f64 + 512.0 * self.qber.as_f64();
        let estimate = Fraction::clamped(errors / (ledger.sampled as f64 + 512.0));
        let permutation = self.common.orders.seed(self.common.rules.cascade, &mut reconciled.rng);
        let (block, bits) = (ledger.block, reconciled.key.len());
        let close = Close { block, sifted: ledger.sifted, estimate, permutation };
        self.common.send(&mut reconciled, &Message::Close(close));
        let orders = self.common.orders.of(self.common.rules.cascade, bits, permutation);
        let schedule = Schedule::new(bits, estimate, orders);
        let mut answerer = Answerer::new(schedule, reconciled.key.duplicate());
        let bits = answerer.parities().to_bytes().to_vec();
        self.common.send(&mut reconciled, &Message::Parities { block, bits });
        self.blocks.insert(block, Block { reconciled, answerer, verifying: false });
    }

    /// Tells the next parities of a block; once all is even, what Bob has corrected is due.
    fn handle_differences(&mut self, frame: &[u8], number: u64, bits: &[u8]) {
        let Some(block) = self.blocks.get_mut(&number) else { return };
        block.reconciled.transcript.append(Site::B, frame);
        let room = self.common.rules.largest_target();
        let bounded = block.reconciled.transcript.has_room(room) && !block.verifying;
        let answerer = &mut block.answerer;
        let differences = BitString::from_bytes(bits, answerer.search().asked());
        let taken = differences.filter(|_| bounded).map(|bits| answerer.handle_differences(&bits));
        if !matches!(taken, Some(Ok(()))) {
            return self.drop_block(number, DropReason::Protocol);
        }
        if answerer.search().asked() > 0 {
            let bits = answerer.parities().to_bytes().to_vec();
            self.common.send(&mut block.reconciled, &Message::Parities { block: number, bits });
        }
    }

    fn handle_corrected(
        &mut self,
        frame: &[u8],
        number: u64,
        errors: ByIntensity<u32>,
        leaked: u32,
    ) {
        let Some(block) = self.blocks.get_mut(&number) else { return };
        let reconciled = &mut block.reconciled;
        reconciled.transcript.append(Site::B, frame);
        let ledger = &mut reconciled.ledger;
        let fits = ledger.note_errors(errors);
        ledger.leaked = leaked;
        let search = block.answerer.search();
        let told = (search.asked(), search.corrected(), search.disclosed());
        if block.verifying || !fits || told != (0, ledger.errors, leaked) {
            return self.drop_block(number, DropReason::Accounting);
        }
        if ledger.qber() > self.common.rules.abort {
            return self.drop_block(number, DropReason::Qber);
        }
        if let Err(reason) = self.common.rules.secret_bits(reconciled) {
            return self.drop_block(number, reason);
        }
        let ledger = &mut reconciled.ledger;
        ledger.verification = VERIFICATION_BITS;
        block.verifying = true;
        let key: [u8; 16] = reconciled.rng.random();
        let hash = verification_hash(&key, &reconciled.key);
        self.common.send(reconciled, &Message::Verify { block: number, key, hash });
    }

    fn handle_verified(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        frame: &[u8],
        number: u64,
        peer_pad: PadName,
    ) -> Result<(), EngineError> {
        let Some(mut block) = self.blocks.remove(&number) else { return Ok(()) };
        if !block.verifying {
            self.common.drop_block(block.reconciled.ledger, DropReason::Protocol);
            return Ok(());
        }
        block.reconciled.transcript.append(Site::B, frame);
        block.reconciled.charge_verification();
        self.qber = block.reconciled.ledger.qber();
        self.propose(tx, now, block.reconciled, peer_pad)
    }

    fn propose(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        mut block: Reconciled,
        peer_pad: PadName,
    ) -> Result<(), EngineError> {
        let secret = match self.common.rules.secret_bits(&block) {
            Ok(secret) => secret,
            Err(reason) => {
                self.common.drop_block(block.ledger, reason);
                return Ok(());
            }
        };
        let unusable = self.common.reserve.peer_pad(tx, peer_pad)?.is_none();
        if unusable || self.common.is_paused(now) {
            let reason = if unusable { DropReason::Authentication } else { DropReason::Paused };
            self.common.drop_block(block.ledger, reason);
            return Ok(());
        }
        self.common.count_spent_pad(now, 0);
        let pad = match self.common.reserve.next_pad(tx) {
            Ok(pad) => pad,
            Err(PadError::Store(error)) => return Err(error),
            Err(PadError::Unconfirmed) => {
                self.common.drop_block(block.ledger, DropReason::Authentication);
                self.common.refuse(Refusal::Unconfirmed);
                return Ok(());
            }
            Err(PadError::Empty) => {
                self.common.drop_block(block.ledger, DropReason::ReserveEmpty);
                self.common.refuse(Refusal::ReserveEmpty);
                return Ok(());
            }
        };
        let Some(mut propose) = self.draw_proposal(tx, &mut block, secret, &pad)? else {
            self.common.drop_block(block.ledger, DropReason::NothingLeft);
            return Ok(());
        };
        block.transcript.append(Site::A, &propose.signed_part());
        match self.sign(tx, &mut propose, &pad, peer_pad, &mut block)? {
            Some((finished, mut awaiting)) => {
                awaiting.since = now;
                self.common.forget_unjudged(now);
                Common::note_proposal(tx, &awaiting.ledger)?;
                self.common.awaiting.insert(propose.block, awaiting);
                self.held.insert(propose.block, Message::Propose(propose).encode());
                self.common.events.push_back(Event::Finished(finished));
            }
            None => self.common.drop_block(block.ledger, DropReason::Authentication),
        }
        Ok(())
    }

    /// Draws names of keys, their owners and the seed; `None` where there is no key for each site.
    fn draw_proposal(
        &self,
        tx: &dyn Tx,
        block: &mut Reconciled,
        secret: u32,
        pad: &Pad,
    ) -> Result<Option<Propose>, EngineError> {
        let mut propose = Propose {
            block: block.ledger.block,
            secret,
            pads: self.common.reserve.wanted(tx)?.min(affordable_pads(secret)),
            renews_hash_keys: block.ledger.block.is_multiple_of(HASH_KEY_PERIOD)
                && secret >= 8 * 256,
            seed: Vec::new(),
            keys: Vec::new(),
            hash_key: self.common.reserve.hash_key(tx)?,
            pad: pad.name,
            tag: [0; 16],
        };
        let n_keys = (secret.saturating_sub(reserve_bits(&propose)) / 256) as usize;
        if n_keys < 2 {
            return Ok(None);
        }
        let owners = self.ratio.owners(n_keys).into_iter();
        propose.keys = owners.map(|owner| (KeyId::random(&mut block.rng), owner)).collect();
        propose.seed = random_bits(block.key.len() + secret as usize - 1, &mut block.rng);
        Ok(Some(propose))
    }

    /// Tags the transcript, foretells Bob's tag, and amplifies; `None` where Bob's pad is unusable.
    fn sign(
        &self,
        tx: &mut dyn Tx,
        propose: &mut Propose,
        pad: &Pad,
        peer_pad: PadName,
        block: &mut Reconciled,
    ) -> Result<Option<(FinishedBlock, Awaiting)>, EngineError> {
        let reserve = &self.common.reserve;
        let (key, transcript) = (propose.hash_key, &block.transcript);
        let Some(bob_pad) = reserve.peer_pad(tx, peer_pad)? else { return Ok(None) };
        let Some(tag) = reserve.tag(tx, Site::A, key, pad, transcript)? else { return Ok(None) };
        let Some(theirs) = reserve.tag(tx, Site::B, key, &bob_pad, transcript)? else {
            return Ok(None);
        };
        propose.tag = tag;
        let Some(cut) = amplify(&block.key, propose) else { return Ok(None) };
        block.charge_verification();
        let mut ledger = block.ledger.clone();
        note_amplification(&mut ledger, propose);
        let (finished, pads, hash_keys) = cut.finish(propose, theirs);
        let (since, own_pad) = (Timestamp::START, pad.name);
        Ok(Some((finished, Awaiting { pads, hash_keys, own_pad, peer_pad, ledger, since })))
    }

    /// Drops a block that Bob dropped. Of one that was proposed nobody but the key buffers decides:
    /// this word is not authenticated yet.
    fn handle_drop(&mut self, number: u64, reason: DropReason) {
        if let Some(block) = self.blocks.remove(&number) {
            self.common.end(block.reconciled.ledger, crate::Outcome::Dropped(reason));
        }
    }

    fn drop_block(&mut self, number: u64, reason: DropReason) {
        if let Some(block) = self.blocks.remove(&number) {
            self.common.drop_block(block.reconciled.ledger, reason);
        }
    }
}

/// Packs a few bits of each entry, first entry lowest.
fn packed<T>(width: usize, entries: &[T], bits: impl Fn(&T) -> u8) -> Vec<u8> {
    let per_byte = 8 / width;
    entries
        .chunks(per_byte)
        .map(|chunk| chunk.iter().rev().fold(0, |byte, entry| byte << width | bits(entry)))
        .collect()
}

/// Blocks between two renewals of the hash keys.
const HASH_KEY_PERIOD: u64 = 256;

/// Completes a ledger with what a proposal says.
pub(crate) fn note_amplification(ledger: &mut crate::BlockLedger, propose: &Propose) {
    ledger.secret = propose.secret;
    ledger.reserve = reserve_bits(propose);
    ledger.keys = u32::try_from(propose.keys.len()).unwrap_or(u32::MAX);
    ledger.remainder = propose.secret.saturating_sub(ledger.reserve + ledger.keys * 256);
}

/// How many pads a direction a block can put back and still give a key to each site, and the hash
/// keys their 256 bits.
fn affordable_pads(secret: u32) -> u16 {
    let rest = (secret / 256).saturating_sub(if secret >= 8 * 256 { 3 } else { 2 });
    u16::try_from(rest).unwrap_or(u16::MAX)
}

fn random_bits(bits: usize, rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = vec![0; bits.div_ceil(8)];
    rng.fill_bytes(&mut bytes);
    if let Some(last) = bytes.last_mut().filter(|_| !bits.is_multiple_of(8)) {
        *last &= (1 << (bits % 8)) - 1;
    }
    bytes
}
