//! Bob: he knows what clicked, corrects his bits to Alice's, and accepts the keys.

use std::collections::{BTreeMap, VecDeque};

use claviger_durable::{EngineError, Tx};
use claviger_gf2::BitString;
use claviger_photonics::promise::ByIntensity;
use claviger_photonics::sift::{self, Announcement};
use claviger_photonics::{Basis, BasisGenerator, Detector};
use claviger_security::EpsilonLedger;
use claviger_units::{SecretBytes, Site, Timestamp};
use claviger_wire::classical::{Batch, Close, Detections, DropReason, Message, Propose};
use rand::Rng;

use crate::alice::note_amplification;
use crate::authenticate::PadError;
use crate::block::{Awaiting, Reconciled, amplify, verification_hash};
use crate::cascade::{Corrector, Schedule};
use crate::filling::Filled;
use crate::quiet::{BLOCK_PATIENCE, PROPOSAL_PATIENCE};
use crate::rules::{Rules, VERIFICATION_BITS};
use crate::session::{Committed, Common, DistillError, Event, Refusal, Session};
use crate::sifted::SiftedBatch;

/// Bob's clicks of one window of link time, from the light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Alice's light session.
    pub light: u64,
    /// The pulse at which the window ends.
    pub end: u64,
    /// The pulses that clicked, rising, each with its detector.
    pub clicks: Vec<(u64, Detector)>,
}

/// Bob's end of the link.
#[derive(Debug)]
pub struct Bob {
    common: Common,
    bases: Option<BasisGenerator>,
    windows: VecDeque<Window>,
    batch: Option<OpenBatch>,
    blocks: BTreeMap<u64, Block>,
}

/// A batch whose sifting is under way.
#[derive(Debug)]
struct OpenBatch {
    batch: Batch,
    clicks: Vec<(Basis, Detector)>,
    sifted: Option<SiftedBatch>,
}

/// A closed block.
#[derive(Debug)]
struct Block {
    reconciled: Reconciled,
    /// The key as it was sifted, while it is corrected: shows which intensities erred.
    sifted_key: BitString,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Alice has not said how it will be reconciled.
    Closed,
    /// Under correction.
    Correcting(Box<Corrector>),
    /// Corrected; Alice's hash is due.
    Corrected,
    /// Verified; Alice's proposal is due, and this pad will make the acceptance.
    Verified(crate::authenticate::Pad),
}

impl Bob {
    /// Windows that wait while the other end is busy; beyond, [`Self::wants_light`] says no.
    const WINDOWS: usize = 16;

    /// Opens Bob's end.
    pub fn open(tx: &mut dyn Tx, rules: Rules) -> Result<Self, EngineError> {
        Ok(Self {
            common: Common::open(tx, Site::B, rules)?,
            bases: None,
            windows: VecDeque::new(),
            batch: None,
            blocks: BTreeMap::new(),
        })
    }

    /// Starts measuring in bases made from `seed`.
    pub fn handle_light(&mut self, seed: &[u8; 32]) {
        self.windows.clear();
        self.bases = Some(BasisGenerator::new(seed, self.common.rules.coding()));
    }

    /// Takes in a window of clicks; without an open session it is lost, like light in the dark.
    pub fn handle_window(&mut self, now: Timestamp, window: Window) {
        if self.common.is_open() && !self.common.is_paused(now) {
            self.windows.push_back(window);
            self.start_batch();
        }
    }

    /// Tells whether further windows have room; if not the light waits.
    #[must_use]
    pub fn wants_light(&self) -> bool {
        let open = self.blocks.len() + self.common.awaiting.len();
        self.windows.len() < Self::WINDOWS && open < self.common.rules.open_blocks()
    }

    /// Greets the other end on a fresh connection.
    pub fn handle_connected(&mut self, rng: &mut impl Rng) {
        self.handle_disconnected();
        self.common.greet(rng);
    }

    /// Drops every block that the other end cannot finish any more.
    pub fn handle_disconnected(&mut self) {
        self.batch = None;
        self.windows.clear();
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
        // A block that ended may have made room.
        self.start_batch();
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
            Message::Announcements { batch, said } => self.handle_said(frame, batch, &said),
            Message::Sample { batch, positions, bits, tests } => {
                self.handle_sample(frame, batch, &positions, (&bits, &tests));
            }
            Message::Close(close) => self.handle_close(frame, close),
            Message::Parities { block, bits } => self.handle_parities(frame, block, &bits),
            Message::Verify { block, key, hash } => {
                self.handle_verify(tx, now, frame, block, (key, hash))?;
            }
            Message::Propose(propose) => self.handle_propose(tx, now, &propose)?,
            Message::Drop { block, reason } => {
                if let Some(block) = self.blocks.remove(&block) {
                    let dropped = crate::Outcome::Dropped(reason);
                    self.common.end(block.reconciled.ledger, dropped);
                }
            }
            _ => self.common.refuse(Refusal::Protocol),
        }
        Ok(())
    }

    /// Looks whether the other end owes a word for too long; to be called every few seconds.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.common.check_batch(now, self.batch.is_some());
        let silent = self.blocks.iter_mut().filter_map(|(&number, block)| {
            let patience = match block.stage {
                Stage::Verified(_) => PROPOSAL_PATIENCE,
                Stage::Closed | Stage::Correcting(_) | Stage::Corrected => BLOCK_PATIENCE,
            };
            block.reconciled.quiet.outlasts(now, patience).then_some(number)
        });
        for number in silent.collect::<Vec<_>>() {
            self.drop_block(number, DropReason::Protocol);
        }
        self.start_batch();
    }

    /// Takes the key buffers' verdict on an accepted block.
    pub fn handle_outcome(
        &mut self,
        tx: &mut dyn Tx,
        block: u64,
        committed: Committed,
    ) -> Result<(), EngineError> {
        self.common.handle_outcome(tx, block, committed)
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

    /// Announces the clicks of the next window, one batch at a time, while no more blocks are under
    /// way than Alice takes.
    fn start_batch(&mut self) {
        let is_full = self.blocks.len() >= self.common.rules.open_blocks();
        if self.batch.is_some() || is_full || !self.common.is_open() {
            return;
        }
        let Some(bases) = &self.bases else { return };
        let Some(Window { light, end, clicks }) = self.windows.pop_front() else { return };
        let filling = &mut self.common.filling;
        let batch = filling.next;
        filling.see(clicks.len(), end, &self.common.rules);
        let (pulses, detectors): (Vec<u64>, Vec<Detector>) = clicks.into_iter().unzip();
        let clicks = bases.bases(&pulses).into_iter().zip(detectors).collect();
        let detections = Detections { batch, light, end, pulses };
        self.common.send_filling(&Message::Detections(detections));
        self.batch = Some(OpenBatch { batch, clicks, sifted: None });
    }

    fn handle_said(&mut self, frame: &[u8], batch: Batch, said: &[u8]) {
        let open = self.batch.as_mut().filter(|open| open.batch == batch && open.sifted.is_none());
        let Some(open) = open else {
            return self.common.refuse(Refusal::Protocol);
        };
        // Alice announces nothing where the clicks are of an earlier light session.
        let n = if said.is_empty() { 0 } else { open.clicks.len() };
        let protocol = self.common.rules.coding().protocol();
        let width = Announcement::bits_under(protocol);
        let per_byte = 8 / width;
        if said.len() != n.div_ceil(per_byte) {
            return self.common.refuse(Refusal::Protocol);
        }
        let mut mask = BitString::with_capacity(n);
        let mut sifted = SiftedBatch::default();
        for (i, &(basis, detector)) in open.clicks.iter().take(n).enumerate() {
            let bits = said[i / per_byte] >> (i % per_byte * width) & ((1 << width) - 1);
            let Some(announced) = Announcement::from_bits(protocol, bits) else {
                return self.common.refuse(Refusal::Protocol);
            };
            let click = sift::at_bob(protocol, basis, detector, announced);
            mask.push(click.is_some());
            if let Some(click) = click {
                sifted.push(click);
            }
        }
        open.sifted = Some(sifted);
        let mask = mask.to_bytes().to_vec();
        self.common.filling.transcript.append(Site::A, frame);
        self.common.send_filling(&Message::Conclusive { batch, mask });
    }

    fn handle_sample(
        &mut self,
        frame: &[u8],
        batch: Batch,
        positions: &[u32],
        (bits, tests): (&[u8], &[u8]),
    ) {
        let open = self.batch.take().filter(|open| open.batch == batch);
        let Some(sifted) = open.and_then(|open| open.sifted) else {
            return self.common.refuse(Refusal::Protocol);
        };
        let common = &mut self.common;
        let n = sifted.key.len();
        let rising = positions.is_sorted_by(|a, b| a < b)
            && positions.last().is_none_or(|&last| (last as usize) < n);
        let fits = rising && positions.len() == common.filling.n_samples(n, &common.rules);
        let theirs = BitString::from_bytes(bits, positions.len()).filter(|_| fits);
        let tests = BitString::from_bytes(tests, sifted.tests.len());
        let (Some(mut differing), Some(tests)) = (theirs, tests) else {
            return common.refuse(Refusal::Protocol);
        };
        differing.xor(&sifted.key.gather(positions));
        let errors = u32::try_from(differing.count_ones()).unwrap_or(u32::MAX);
        let tests = sifted.test_errors(&tests);
        common.filling.transcript.append(Site::A, frame);
        common.send_filling(&Message::SampleErrors { batch, errors, tests });
        let target = common.rules.target(common.closed);
        let errors = (errors, tests);
        let filled = common.filling.add(&sifted, positions, errors, &common.rules, target);
        common.report_sample();
        match filled {
            Filled::Continue => {}
            Filled::Suspicious => common.drop_filling(DropReason::SampledQber),
            Filled::Closed => {
                let reconciled = common.close_filling();
                let number = reconciled.ledger.block;
                let sifted_key = reconciled.key.duplicate();
                self.blocks.insert(number, Block { reconciled, sifted_key, stage: Stage::Closed });
            }
        }
    }

    fn handle_close(&mut self, frame: &[u8], close: Close) {
        let Some(block) = self.blocks.get_mut(&close.block) else { return };
        block.reconciled.transcript.append(Site::A, frame);
        let fits = matches!(block.stage, Stage::Closed)
            && block.reconciled.ledger.sifted == close.sifted
            && self.common.orders.takes(self.common.rules.cascade, close.permutation);
        if !fits {
            return self.drop_block(close.block, DropReason::Protocol);
        }
        let key = core::mem::take(&mut block.reconciled.key);
        let orders = self.common.orders.of(self.common.rules.cascade, key.len(), close.permutation);
        let schedule = Schedule::new(key.len(), close.estimate, orders);
        block.stage = Stage::Correcting(Box::new(Corrector::new(schedule, key)));
    }

    /// Says which parities differ and, once all is even, what was corrected.
    fn handle_parities(&mut self, frame: &[u8], number: u64, bits: &[u8]) {
        let Some(block) = self.blocks.get_mut(&number) else { return };
        block.reconciled.transcript.append(Site::A, frame);
        let Stage::Correcting(corrector) = &mut block.stage else {
            return self.drop_block(number, DropReason::Protocol);
        };
        let parities = BitString::from_bytes(bits, corrector.search().asked());
        let Some(Ok(differences)) = parities.map(|bits| corrector.handle_parities(&bits)) else {
            return self.drop_block(number, DropReason::Protocol);
        };
        let bits = differences.to_bytes().to_vec();
        self.common.send(&mut block.reconciled, &Message::Differences { block: number, bits });
        if corrector.search().asked() > 0 {
            return;
        }
        let leaked = corrector.search().disclosed();
        let sifted = core::mem::take(&mut block.sifted_key);
        if let Stage::Correcting(corrector) = core::mem::replace(&mut block.stage, Stage::Corrected)
        {
            block.reconciled.key = corrector.into_key();
        }
        let errors = corrected(&sifted, &block.reconciled);
        block.reconciled.ledger.leaked = leaked;
        if !block.reconciled.ledger.note_errors(errors) {
            return self.drop_block(number, DropReason::Accounting);
        }
        let corrected = Message::Corrected { block: number, errors, leaked };
        self.common.send(&mut block.reconciled, &corrected);
    }

    fn handle_verify(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        frame: &[u8],
        number: u64,
        (key, hash): ([u8; 16], [u8; 8]),
    ) -> Result<(), EngineError> {
        let is_verified = |block: &&Block| matches!(block.stage, Stage::Verified(_));
        let verified = self.blocks.values().filter(is_verified).count();
        let Some(block) = self.blocks.get_mut(&number) else { return Ok(()) };
        block.reconciled.transcript.append(Site::A, frame);
        let reason = if !matches!(block.stage, Stage::Corrected) {
            DropReason::Protocol
        } else if verification_hash(&key, &block.reconciled.key) != hash {
            DropReason::Verification
        } else if block.reconciled.ledger.qber() > self.common.rules.abort {
            DropReason::Qber
        } else if let Err(reason) = self.common.rules.secret_bits(&block.reconciled) {
            reason
        } else {
            block.reconciled.ledger.verification = VERIFICATION_BITS;
            block.reconciled.charge_verification();
            self.common.count_spent_pad(now, verified);
            match self.common.reserve.next_pad(tx) {
                Ok(pad) => {
                    let verified = Message::Verified { block: number, pad: pad.name };
                    block.stage = Stage::Verified(pad);
                    self.common.send(&mut block.reconciled, &verified);
                    return Ok(());
                }
                Err(PadError::Store(error)) => return Err(error),
                Err(PadError::Unconfirmed) => {
                    self.common.refuse(Refusal::Unconfirmed);
                    return Ok(());
                }
                Err(PadError::Empty) => {
                    self.drop_block(number, DropReason::ReserveEmpty);
                    self.common.refuse(Refusal::ReserveEmpty);
                    return Ok(());
                }
            }
        };
        self.drop_block(number, reason);
        Ok(())
    }

    fn handle_propose(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        propose: &Propose,
    ) -> Result<(), EngineError> {
        let Some(Block { mut reconciled, stage, .. }) = self.blocks.remove(&propose.block) else {
            return Ok(());
        };
        let Stage::Verified(pad) = stage else {
            self.common.drop_block(reconciled.ledger, DropReason::Protocol);
            return Ok(());
        };
        reconciled.transcript.append(Site::A, &propose.signed_part());
        if !self.common.reserve.holds_hash_key(tx, propose.hash_key)? {
            // One end missed a verdict; a new greeting tells each what the other holds.
            self.common.drop_block(reconciled.ledger, DropReason::Authentication);
            self.common.refuse(Refusal::Unconfirmed);
            return Ok(());
        }
        let genuine = self.is_genuine(tx, propose, &reconciled)?;
        let secret = self.common.rules.secret_bits(&reconciled);
        let reason = if !genuine {
            DropReason::Authentication
        } else if secret != Ok(propose.secret) {
            DropReason::Accounting
        } else {
            // The tag holds: every word of the transcript is Alice's.
            self.common.reserve.accept(tx, propose.pad)?;
            return self.accept(tx, now, propose, &pad, reconciled);
        };
        self.common.drop_block(reconciled.ledger, reason);
        Ok(())
    }

    fn is_genuine(
        &self,
        tx: &dyn Tx,
        propose: &Propose,
        block: &Reconciled,
    ) -> Result<bool, EngineError> {
        let reserve = &self.common.reserve;
        let Some(pad) = reserve.peer_pad(tx, propose.pad)? else { return Ok(false) };
        let expected = reserve.tag(tx, Site::A, propose.hash_key, &pad, &block.transcript)?;
        let theirs = SecretBytes::new(propose.tag.to_vec());
        Ok(expected.is_some_and(|tag| SecretBytes::new(tag.to_vec()).ct_eq(&theirs)))
    }

    fn accept(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        propose: &Propose,
        pad: &crate::authenticate::Pad,
        mut block: Reconciled,
    ) -> Result<(), EngineError> {
        let tag = self.common.reserve.tag(tx, Site::B, propose.hash_key, pad, &block.transcript)?;
        let cut = amplify(&block.key, propose);
        let (Some(tag), Some(cut)) = (tag, cut) else {
            self.common.drop_block(block.ledger, DropReason::Accounting);
            return Ok(());
        };
        block.charge_verification();
        note_amplification(&mut block.ledger, propose);
        let (finished, pads, hash_keys) = cut.finish(propose, tag);
        self.common.forget_unjudged(now);
        Common::note_proposal(tx, &block.ledger)?;
        let (own_pad, peer_pad, ledger) = (pad.name, propose.pad, block.ledger);
        let awaiting = Awaiting { pads, hash_keys, own_pad, peer_pad, ledger, since: now };
        self.common.awaiting.insert(propose.block, awaiting);
        self.common.events.push_back(Event::Finished(finished));
        Ok(())
    }

    fn drop_block(&mut self, number: u64, reason: DropReason) {
        if let Some(block) = self.blocks.remove(&number) {
            self.common.drop_block(block.reconciled.ledger, reason);
        }
    }
}

/// Counts the bits that reconciliation flipped, by intensity.
fn corrected(sifted: &BitString, block: &Reconciled) -> ByIntensity<u32> {
    let mut flipped = sifted.duplicate();
    flipped.xor(&block.key);
    let mut errors = [0; 3];
    for (_, &k) in flipped.iter().zip(&block.intensities).filter(|(flipped, _)| *flipped) {
        errors[usize::from(k)] += 1;
    }
    errors
}
