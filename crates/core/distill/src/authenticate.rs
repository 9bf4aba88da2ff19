//! Authentication of the classical channel: universal hashing under one-time pads.
//!
//! `PROTOCOL.md` P4. Each direction has pads of its own. A pad is named by the block whose bits it
//! is made of and its place therein, so that both ends number alike whatever one of them missed.
//! The sender reserves pads durably before using them and never uses one twice; the receiver
//! accepts only rising names; nothing unauthenticated spends a pad.

use std::collections::VecDeque;

use claviger_durable::{EngineError, Table, Tx};
use claviger_gf2::PolyHasher;
use claviger_units::{SecretBytes, Site};
use claviger_wire::classical::{PadName, Prove};
use claviger_wire::{Reader, Writer};
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// Pads of both directions that a fresh reserve holds: 1.28 Mbit.
pub const TARGET: u64 = 10_000;
/// Pads that may be used beyond the last one that the peer confirmed.
pub const AHEAD: u64 = 64;

const PADS: Table = Table::secret("pads");
const SEGMENTS: Table = Table::plain("segments");
const HASH_KEYS: Table = Table::secret("hash_keys");
const SECRETS: Table = Table::secret("link_secrets");
const MARKS: Table = Table::plain("pad_marks");
/// Digests of every initial secret ever taken in; nothing erases them.
const TAKEN: Table = Table::plain("secrets_taken");
const CHUNK: u64 = 16;

/// What `claviger init` gives to both ends: pads, hash keys, and the key of the greeting.
#[derive(Debug)]
pub struct InitialSecret(SecretBytes);

/// An initial secret that is not one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The bytes have another length or beginning: take the file that `claviger init` wrote.
    #[error("this is not a link secret of {} bytes", InitialSecret::LENGTH)]
    Malformed,
}

impl InitialSecret {
    const MAGIC: &'static [u8; 16] = b"claviger link 1\n";
    const PADS: usize = 10_000 * 16;
    /// Bytes of the secret: 16 of name, 32 of greeting key, 32 of hash keys, 160 000 of pads.
    pub const LENGTH: usize = 16 + 32 + 32 + Self::PADS;

    /// Draws a secret.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut bytes = vec![0; Self::LENGTH];
        rng.fill_bytes(&mut bytes);
        bytes[..16].copy_from_slice(Self::MAGIC);
        Self(SecretBytes::new(bytes))
    }

    /// Reads a secret from its file.
    pub fn from_bytes(bytes: SecretBytes) -> Result<Self, SecretError> {
        let fits = bytes.len() == Self::LENGTH && bytes.expose().starts_with(Self::MAGIC);
        if fits { Ok(Self(bytes)) } else { Err(SecretError::Malformed) }
    }

    /// Returns the bytes of the file.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

/// A pad of mine, to be used once.
#[derive(Debug)]
pub struct Pad {
    /// Its name, which goes with the tag.
    pub name: PadName,
    bytes: Zeroizing<[u8; 16]>,
}

/// Why no pad could be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PadError {
    /// The reserve is empty: `claviger link reseed` is the remedy.
    #[error("the authentication reserve is empty")]
    Empty,
    /// 64 pads are out without the peer's confirmation: greet again.
    #[error("too many pads are unconfirmed")]
    Unconfirmed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] EngineError),
}

/// The authentication reserve of one end.
#[derive(Debug)]
pub struct Reserve {
    site: Site,
    // Reserved durably, erased on disk, not yet used.
    ready: VecDeque<Pad>,
    // Durable: no pad up to here is ever used again by this end.
    reserved: Option<PadName>,
    // The pad handed out last; those in `ready` follow it.
    last_used: Option<PadName>,
    // Durable: the highest pad of the peer that was accepted or marked as used.
    accepted: Option<PadName>,
    // Used, and not known to be marked as used by the peer; rising.
    out: VecDeque<PadName>,
    spent: u16,
    // Pads spent for which no fourth part was put back on top yet.
    unrewarded: u16,
    // Whether no peer has been greeted since the start: this store may be an old copy.
    fresh: bool,
}

impl Reserve {
    /// Fills the tables from the initial secret, once.
    pub fn fill(tx: &mut dyn Tx, secret: &InitialSecret) -> Result<(), EngineError> {
        let bytes = secret.expose();
        tx.write(TAKEN, &Sha256::digest(bytes), &[])?;
        tx.write(SECRETS, b"greeting", &bytes[16..48])?;
        tx.write(HASH_KEYS, &0_u64.to_be_bytes(), &bytes[48..80])?;
        write_segment(tx, 0, &bytes[80..])
    }

    /// Tells whether a secret was taken in before: its pads must never meet another transcript.
    pub fn was_taken(tx: &dyn Tx, secret: &InitialSecret) -> Result<bool, EngineError> {
        Ok(tx.read(TAKEN, &Sha256::digest(secret.expose()))?.is_some())
    }

    /// Throws every pad and hash key away and begins anew with a fresh secret; the last resort
    /// (`claviger link reseed`), which both ends must take.
    pub fn refill(tx: &mut dyn Tx, secret: &InitialSecret) -> Result<(), EngineError> {
        for table in [PADS, SEGMENTS, HASH_KEYS, SECRETS, MARKS] {
            for (key, _) in tx.scan(table, b"", b"", usize::MAX)? {
                tx.erase(table, &key)?;
            }
        }
        Self::fill(tx, secret)
    }

    /// Tells whether an initial secret has been taken in.
    pub fn is_filled(tx: &dyn Tx) -> Result<bool, EngineError> {
        Ok(tx.read(SECRETS, b"greeting")?.is_some())
    }

    /// Opens the reserve of the end at `site`.
    pub fn open(tx: &mut dyn Tx, site: Site) -> Result<Self, EngineError> {
        Ok(Self {
            site,
            ready: VecDeque::new(),
            reserved: read_mark(tx, b"reserved")?,
            last_used: None,
            accepted: read_mark(tx, b"accepted")?,
            out: VecDeque::new(),
            spent: 0,
            unrewarded: 0,
            fresh: true,
        })
    }

    /// Returns how many pads of both directions are left.
    pub fn level(&self, tx: &dyn Tx) -> Result<u64, EngineError> {
        Ok(tx.count(PADS, b"")? + self.ready.len() as u64)
    }

    /// Returns what this end tells the other in its proof, without the proof itself.
    pub fn holdings(&self, tx: &dyn Tx) -> Result<Prove, EngineError> {
        let blocks = |table| -> Result<Vec<u64>, EngineError> {
            let rows = tx.scan(table, b"", b"", usize::MAX)?;
            Ok(rows
                .into_iter()
                .filter_map(|(key, _)| key.try_into().ok())
                .map(u64::from_be_bytes)
                .collect())
        };
        Ok(Prove {
            mac: [0; 32],
            accepted: self.accepted,
            reserved: if self.ready.is_empty() { self.reserved } else { self.last_used },
            segments: as_ranges(&blocks(SEGMENTS)?),
            hash_keys: blocks(HASH_KEYS)?,
            first_block: 0,
        })
    }

    /// Returns the proof over both greetings and a body, under the greeting key.
    pub fn prove(
        &self,
        tx: &dyn Tx,
        greetings: [&[u8]; 2],
        speaker: Site,
        body: &[u8],
    ) -> Result<[u8; 32], EngineError> {
        let key = tx.read(SECRETS, b"greeting")?.ok_or(EngineError::Damaged("link_secrets"))?;
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose())
            .or(Err(EngineError::Damaged("link_secrets")))?;
        for part in [&Writer::new().site(speaker).finish()[..], greetings[0], greetings[1], body] {
            mac.update(part);
        }
        Ok(mac.finalize().into_bytes().into())
    }

    /// Begins a session with what the peer proved that it holds.
    ///
    /// Pads that only one end holds are erased, and the peer's pads up to the mark that it proved
    /// count as used. At the first session of a process the sender goes on 65 pads behind the last
    /// one that the peer marked, whatever it remembers itself: its store may be an old copy.
    pub fn begin(&mut self, tx: &mut dyn Tx, peer: &Prove) -> Result<(), EngineError> {
        let held = |block: u64| peer.segments.iter().any(|&(a, b)| (a..=b).contains(&block));
        for (key, _) in tx.scan(SEGMENTS, b"", b"", usize::MAX)? {
            let block = u64::from_be_bytes(key.as_slice().try_into().unwrap_or([0; 8]));
            if !held(block) {
                erase_segment(tx, block)?;
            }
        }
        for (key, _) in tx.scan(HASH_KEYS, b"", b"", usize::MAX)? {
            let block = u64::from_be_bytes(key.as_slice().try_into().unwrap_or([0; 8]));
            if !peer.hash_keys.contains(&block) {
                tx.erase(HASH_KEYS, &key)?;
            }
        }
        if let Some(used) = peer.reserved.filter(|used| self.accepted.is_none_or(|a| *used > a)) {
            self.accept(tx, used)?;
        }
        if self.fresh {
            self.skip_behind(tx, peer.accepted)?;
        }
        // The proof told the peer how far this end has come.
        self.out.clear();
        self.fresh = false;
        Ok(())
    }

    /// Takes a pad of mine for a tag.
    pub fn next_pad(&mut self, tx: &mut dyn Tx) -> Result<Pad, PadError> {
        if self.ready.is_empty() {
            self.reserve(tx)?;
        }
        let pad = self.ready.pop_front().ok_or(PadError::Empty)?;
        self.spent = self.spent.saturating_add(1);
        self.last_used = Some(pad.name);
        self.out.push_back(pad.name);
        Ok(pad)
    }

    /// Returns the peer's pad of this name without spending it; `None` where the name does not
    /// rise, is not held, or lies beyond what the peer can have reached: 64 pads skipped at its
    /// start, and 64 ahead.
    pub fn peer_pad(&self, tx: &dyn Tx, name: PadName) -> Result<Option<Pad>, EngineError> {
        let after = self.accepted.map(|name| pad_key(self.site.other(), name)).unwrap_or_default();
        let reach = usize::try_from(2 * AHEAD).unwrap_or(0);
        let next = tx.scan(PADS, &direction(self.site.other()), &after, reach)?;
        if !next.iter().any(|(key, _)| pad_name(key) == Some(name)) {
            return Ok(None);
        }
        let stored = tx.read(PADS, &pad_key(self.site.other(), name))?;
        Ok(stored.and_then(|bytes| Pad::new(name, &bytes)))
    }

    /// Remembers that the peer's tag under this pad was accepted; the pad and all before it go.
    pub fn accept(&mut self, tx: &mut dyn Tx, name: PadName) -> Result<(), EngineError> {
        // Verdicts may come out of order; the mark only rises.
        let highest = self.accepted.map_or(name, |accepted| accepted.max(name));
        erase_up_to(tx, self.site.other(), highest)?;
        write_mark(tx, b"accepted", highest)?;
        self.accepted = Some(highest);
        Ok(())
    }

    /// Remembers that the peer accepted the tag under this pad of mine, and so marked it and all
    /// before it.
    pub fn confirm(&mut self, name: PadName) {
        while self.out.pop_front_if(|used| *used <= name).is_some() {}
    }

    /// Returns how many pads for each direction a good block should put back: what was spent, and
    /// where the reserve is below its target one more for every four that were spent so far.
    pub fn wanted(&self, tx: &dyn Tx) -> Result<u16, EngineError> {
        let spent = self.spent.max(1);
        let full = self.level(tx)? >= TARGET;
        Ok(if full {
            spent
        } else {
            spent.saturating_add(self.unrewarded.saturating_add(spent) / 4)
        })
    }

    /// Takes in the pads that a good block put back: the first half for A, the other for B.
    pub fn replenish(
        &mut self,
        tx: &mut dyn Tx,
        block: u64,
        pads: &SecretBytes,
        hash_keys: &SecretBytes,
    ) -> Result<(), EngineError> {
        write_segment(tx, block, pads.expose())?;
        if !hash_keys.is_empty() {
            tx.write(HASH_KEYS, &block.to_be_bytes(), hash_keys.expose())?;
        }
        let put_back = u16::try_from(pads.len() / 32).unwrap_or(u16::MAX);
        let more = put_back.saturating_sub(self.spent);
        let due = self.unrewarded.saturating_add(self.spent);
        self.unrewarded = due.saturating_sub(more.saturating_mul(4)).min(3);
        self.spent = 0;
        Ok(())
    }

    /// Tells whether the hash keys made by `block` are held.
    pub fn holds_hash_key(&self, tx: &dyn Tx, block: u64) -> Result<bool, EngineError> {
        Ok(tx.read(HASH_KEYS, &block.to_be_bytes())?.is_some())
    }

    /// Returns the block that made the newest hash keys held.
    pub fn hash_key(&self, tx: &dyn Tx) -> Result<u64, EngineError> {
        let rows = tx.scan(HASH_KEYS, b"", b"", usize::MAX)?;
        let newest = rows.last().ok_or(EngineError::Damaged("hash_keys"))?;
        Ok(u64::from_be_bytes(newest.0.as_slice().try_into().unwrap_or([0; 8])))
    }

    /// Returns the tag of `speaker` over a transcript, `None` if the hash key is not held.
    pub fn tag(
        &self,
        tx: &dyn Tx,
        speaker: Site,
        hash_key: u64,
        pad: &Pad,
        transcript: &Transcript,
    ) -> Result<Option<[u8; 16]>, EngineError> {
        let Some(keys) = tx.read(HASH_KEYS, &hash_key.to_be_bytes())? else {
            return Ok(None);
        };
        let halves: Option<(&[u8; 16], &[u8])> = keys.expose().split_first_chunk();
        let (for_a, for_b) = halves.ok_or(EngineError::Damaged("hash_keys"))?;
        let mut key = match speaker {
            Site::A => *for_a,
            Site::B => for_b.try_into().or(Err(EngineError::Damaged("hash_keys")))?,
        };
        let mut tag = transcript.hash(&key);
        key.zeroize();
        for (byte, pad) in tag.iter_mut().zip(pad.bytes.iter()) {
            *byte ^= pad;
        }
        Ok(Some(tag))
    }

    fn reserve(&mut self, tx: &mut dyn Tx) -> Result<(), PadError> {
        // Nobody has been greeted: what the peer has marked is not known.
        let ahead = (self.out.len() + self.ready.len()) as u64;
        let n = CHUNK.min(AHEAD.saturating_sub(ahead));
        if n == 0 || self.fresh {
            return Err(PadError::Unconfirmed);
        }
        let after = self.reserved.map(|name| pad_key(self.site, name)).unwrap_or_default();
        let limit = usize::try_from(n).unwrap_or(0);
        let rows = tx.scan(PADS, &direction(self.site), &after, limit)?;
        let pads: Vec<Pad> =
            rows.iter().filter_map(|(key, bytes)| Pad::new(pad_name(key)?, bytes)).collect();
        let last = pads.last().ok_or(PadError::Empty)?.name;
        erase_up_to(tx, self.site, last)?;
        write_mark(tx, b"reserved", last)?;
        self.reserved = Some(last);
        self.ready.extend(pads);
        Ok(())
    }

    /// Burns my pads up to the 64th behind the last one that the peer marked.
    fn skip_behind(&mut self, tx: &mut dyn Tx, marked: Option<PadName>) -> Result<(), EngineError> {
        // What this end remembers having reserved behind the mark counts towards the 64.
        let known = match (self.reserved, marked) {
            (Some(mine), Some(marked)) if mine.segment == marked.segment => {
                u64::from(mine.slot.saturating_sub(marked.slot))
            }
            (Some(mine), None) if mine.segment == 0 => u64::from(mine.slot) + 1,
            _ => 0,
        };
        let after = marked.map(|name| pad_key(self.site, name)).unwrap_or_default();
        let limit = usize::try_from(AHEAD.saturating_sub(known)).unwrap_or(0);
        let behind = tx.scan(PADS, &direction(self.site), &after, limit)?;
        let last = behind.last().and_then(|(key, _)| pad_name(key));
        if let Some(burnt) = last.max(self.reserved).max(marked) {
            erase_up_to(tx, self.site, burnt)?;
            write_mark(tx, b"reserved", burnt)?;
            self.reserved = Some(burnt);
        }
        Ok(())
    }
}

impl Pad {
    fn new(name: PadName, bytes: &SecretBytes) -> Option<Self> {
        Some(Self { name, bytes: Zeroizing::new(bytes.expose().try_into().ok()?) })
    }
}

/// Every byte of both directions that belongs to a block, each direction in its own order.
#[derive(Debug, Default)]
pub struct Transcript {
    from_a: Vec<u8>,
    from_b: Vec<u8>,
}

impl Transcript {
    /// Appends a frame of `speaker`.
    pub fn append(&mut self, speaker: Site, frame: &[u8]) {
        let side = match speaker {
            Site::A => &mut self.from_a,
            Site::B => &mut self.from_b,
        };
        // Frames cannot run into each other: each begins with its own length.
        side.extend_from_slice(&(frame.len() as u64).to_be_bytes());
        side.extend_from_slice(frame);
    }

    /// Tells whether a block of `bits` sifted bits has said less than any honest one would: SARG04
    /// keeps a quarter of the clicks, and a click takes some 3.4 bytes.
    #[must_use]
    pub(crate) fn has_room(&self, bits: usize) -> bool {
        self.len() < (1 << 16) + 20 * bits
    }

    /// Returns SHA-256 over both directions: public, and known to nobody before the last word.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let length = (self.from_a.len() as u64).to_be_bytes();
        let hash = Sha256::new().chain_update(length);
        hash.chain_update(&self.from_a).chain_update(&self.from_b).finalize().into()
    }

    /// Returns the bytes of both directions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.from_a.len() + self.from_b.len()
    }

    /// Tells whether nothing has been said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, key: &[u8; 16]) -> [u8; 16] {
        let mut hasher = PolyHasher::new(key);
        hasher.update(&(self.from_a.len() as u64).to_be_bytes());
        hasher.update(&self.from_a);
        hasher.update(&self.from_b);
        hasher.finish()
    }
}

fn direction(site: Site) -> Vec<u8> {
    Writer::new().site(site).finish()
}

fn pad_key(site: Site, name: PadName) -> Vec<u8> {
    Writer::new().site(site).u64(name.segment).u32(name.slot).finish()
}

fn pad_name(key: &[u8]) -> Option<PadName> {
    let mut reader = Reader::new(key.get(1..)?);
    Some(PadName { segment: reader.u64().ok()?, slot: reader.u32().ok()? })
}

fn write_segment(tx: &mut dyn Tx, segment: u64, pads: &[u8]) -> Result<(), EngineError> {
    let half = pads.len() / 2;
    for (site, pads) in [(Site::A, &pads[..half]), (Site::B, &pads[half..])] {
        for (slot, pad) in (0_u32..).zip(pads.chunks_exact(16)) {
            tx.write(PADS, &pad_key(site, PadName { segment, slot }), pad)?;
        }
    }
    tx.write(SEGMENTS, &segment.to_be_bytes(), &[])
}

fn erase_segment(tx: &mut dyn Tx, segment: u64) -> Result<(), EngineError> {
    for site in [Site::A, Site::B] {
        let prefix = Writer::new().site(site).u64(segment).finish();
        for (key, _) in tx.scan(PADS, &prefix, b"", usize::MAX)? {
            tx.erase(PADS, &key)?;
        }
    }
    tx.erase(SEGMENTS, &segment.to_be_bytes())
}

/// Erases the pads of a direction up to `last`, and the names of segments that are used up.
fn erase_up_to(tx: &mut dyn Tx, site: Site, last: PadName) -> Result<(), EngineError> {
    loop {
        let rows = tx.scan(PADS, &direction(site), b"", 256)?;
        let gone: Vec<_> = rows
            .into_iter()
            .filter_map(|(key, _)| pad_name(&key).map(|name| (key, name)))
            .take_while(|(_, name)| *name <= last)
            .collect();
        for (key, name) in &gone {
            tx.erase(PADS, key)?;
            let empty = |site: Site| -> Result<bool, EngineError> {
                let prefix = Writer::new().site(site).u64(name.segment).finish();
                Ok(tx.scan(PADS, &prefix, b"", 1)?.is_empty())
            };
            if empty(Site::A)? && empty(Site::B)? {
                tx.erase(SEGMENTS, &name.segment.to_be_bytes())?;
            }
        }
        if gone.len() < 256 {
            return Ok(());
        }
    }
}

fn read_mark(tx: &dyn Tx, mark: &[u8]) -> Result<Option<PadName>, EngineError> {
    let Some(row) = tx.read(MARKS, mark)? else { return Ok(None) };
    let name = pad_name(&[&[0], row.expose()].concat());
    name.map(Some).ok_or(EngineError::Damaged("pad_marks"))
}

fn write_mark(tx: &mut dyn Tx, mark: &[u8], name: PadName) -> Result<(), EngineError> {
    tx.write(MARKS, mark, &Writer::new().u64(name.segment).u32(name.slot).finish())
}

/// Writes rising numbers as ranges.
fn as_ranges(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_durable::{Engine, MemoryEngine};
    use rand::{SeedableRng, rngs::StdRng};

    fn store() -> MemoryEngine {
        let mut engine = MemoryEngine::new();
        let secret = InitialSecret::random(&mut StdRng::seed_from_u64(1));
        engine.transact::<_, EngineError>(|tx| Reserve::fill(tx, &secret)).unwrap();
        engine
    }

    fn begin(engine: &mut MemoryEngine, site: Site, accepted: Option<PadName>) -> Reserve {
        engine
            .transact::<_, EngineError>(|tx| {
                let mut reserve = Reserve::open(tx, site)?;
                let peer = Prove { accepted, reserved: None, ..reserve.holdings(tx)? };
                reserve.begin(tx, &peer)?;
                Ok(reserve)
            })
            .unwrap()
    }

    fn pad(engine: &mut MemoryEngine, reserve: &mut Reserve) -> Result<PadName, PadError> {
        engine.transact(|tx| reserve.next_pad(tx)).map(|pad| pad.name)
    }

    fn slot(slot: u32) -> PadName {
        PadName { segment: 0, slot }
    }

    /// P4: after any start the sender begins at the peer's highest + 65.
    #[test]
    fn no_pad_is_used_twice_after_a_start_or_a_restored_copy() {
        let mut engine = store();
        let mut copy = engine.snapshot();
        let mut reserve = begin(&mut engine, Site::A, None);
        let used: Vec<_> = (0..64).map(|_| pad(&mut engine, &mut reserve).unwrap()).collect();
        assert_eq!((used.first(), used.last()), (Some(&slot(64)), Some(&slot(127))));
        assert_eq!(pad(&mut engine, &mut reserve), Err(PadError::Unconfirmed));
        // The peer accepted the first of these; both the store and its oldest copy go on behind all.
        for engine in [&mut copy, &mut engine] {
            let mut reserve = begin(engine, Site::A, Some(slot(64)));
            let next = pad(engine, &mut reserve).unwrap();
            assert!(next > slot(127), "{next:?}");
        }
    }

    #[test]
    fn what_is_used_is_never_more_than_64_beyond_the_confirmed() {
        let mut engine = store();
        let mut reserve = begin(&mut engine, Site::A, None);
        for _ in 0..5 {
            pad(&mut engine, &mut reserve).unwrap();
        }
        reserve.confirm(slot(64 + 4));
        let last = (0..).map_while(|_| pad(&mut engine, &mut reserve).ok()).last();
        assert_eq!(last, Some(slot(64 + 4 + 64)));
    }

    #[test]
    fn greeting_again_costs_no_pads() {
        let mut engine = store();
        let mut reserve = begin(&mut engine, Site::A, None);
        for n in 0..200 {
            let accepted = pad(&mut engine, &mut reserve).unwrap();
            assert_eq!(accepted, slot(64 + n));
            engine
                .transact::<_, EngineError>(|tx| {
                    let peer = Prove { accepted: Some(accepted), ..reserve.holdings(tx)? };
                    reserve.begin(tx, &Prove { reserved: None, ..peer })
                })
                .unwrap();
        }
    }

    #[test]
    fn tags_fit_their_transcript_and_names_only_rise() {
        let (mut at_a, mut at_b) = (store(), store());
        let mut a = begin(&mut at_a, Site::A, None);
        let mut b = begin(&mut at_b, Site::B, None);
        let mut transcript = Transcript::default();
        transcript.append(Site::A, b"hello");
        let (name, tag) = at_a
            .transact::<_, PadError>(|tx| {
                let pad = a.next_pad(tx)?;
                Ok((pad.name, a.tag(tx, Site::A, 0, &pad, &transcript)?))
            })
            .unwrap();
        let expect = |at_b: &mut MemoryEngine, b: &Reserve, transcript: &Transcript| {
            at_b.transact::<_, EngineError>(|tx| {
                let Some(pad) = b.peer_pad(tx, name)? else { return Ok(None) };
                b.tag(tx, Site::A, 0, &pad, transcript)
            })
            .unwrap()
        };
        assert!(tag.is_some());
        assert_eq!(expect(&mut at_b, &b, &transcript), tag);
        let mut forged = Transcript::default();
        forged.append(Site::A, b"hellO");
        assert_ne!(expect(&mut at_b, &b, &forged), tag);
        at_b.transact::<_, EngineError>(|tx| b.accept(tx, name)).unwrap();
        assert_eq!(expect(&mut at_b, &b, &transcript), None, "a name is accepted once");
    }

    /// P4: each good block first puts back what it spent, at most a quarter more.
    #[test]
    fn a_good_block_puts_back_at_most_a_quarter_more() {
        let mut engine = store();
        let mut reserve = begin(&mut engine, Site::A, None);
        let (mut spent, mut put_back) = (0, 0);
        for (block, n_tags) in (1..=60).zip([1, 1, 1, 5].into_iter().cycle()) {
            for _ in 0..n_tags {
                let used = pad(&mut engine, &mut reserve).unwrap();
                reserve.confirm(used);
                // The other end spends as many.
                engine.transact::<_, EngineError>(|tx| reserve.accept(tx, used)).unwrap();
            }
            let wanted = engine.transact::<_, EngineError>(|tx| reserve.wanted(tx)).unwrap();
            let pads = SecretBytes::new(vec![1; 32 * usize::from(wanted)]);
            let none = SecretBytes::new(Vec::new());
            engine
                .transact::<_, EngineError>(|tx| reserve.replenish(tx, block, &pads, &none))
                .unwrap();
            spent += n_tags;
            put_back += wanted;
            assert!(wanted >= n_tags, "block {block} puts back what it spent");
            assert_eq!(put_back - spent, spent / 4, "after {block} blocks");
        }
    }

    #[test]
    fn a_segment_that_one_end_lacks_is_given_up_by_the_other() {
        let mut engine = store();
        let mut reserve = begin(&mut engine, Site::A, None);
        engine
            .transact::<_, EngineError>(|tx| {
                let pads = SecretBytes::new(vec![1; 32]);
                reserve.replenish(tx, 7, &pads, &SecretBytes::new(vec![2; 32]))?;
                assert_eq!(reserve.holdings(tx)?.segments, [(0, 0), (7, 7)]);
                assert_eq!(reserve.hash_key(tx)?, 7);
                let mut peer = reserve.holdings(tx)?;
                peer.segments = vec![(0, 3)];
                peer.hash_keys = vec![0];
                reserve.begin(tx, &peer)?;
                assert_eq!(reserve.holdings(tx)?.segments, [(0, 0)]);
                assert_eq!(reserve.hash_key(tx)?, 0);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn a_reseeded_reserve_begins_anew() {
        let mut engine = store();
        let mut reserve = begin(&mut engine, Site::A, None);
        pad(&mut engine, &mut reserve).unwrap();
        let secret = InitialSecret::random(&mut StdRng::seed_from_u64(2));
        let taken = |engine: &mut MemoryEngine| {
            engine.transact::<_, EngineError>(|tx| Reserve::was_taken(tx, &secret)).unwrap()
        };
        assert!(!taken(&mut engine));
        engine.transact::<_, EngineError>(|tx| Reserve::refill(tx, &secret)).unwrap();
        assert!(taken(&mut engine), "a secret serves once");
        let mut reserve = begin(&mut engine, Site::A, None);
        assert_eq!(engine.transact::<_, EngineError>(|tx| reserve.level(tx)), Ok(TARGET - 64));
        assert_eq!(pad(&mut engine, &mut reserve), Ok(slot(64)));
    }

    /// P4: 128-bit tags of both directions together, target 10 000 = 1.28 Mbit.
    #[test]
    fn a_fresh_reserve_holds_its_target() {
        let mut engine = store();
        let reserve = engine.transact::<_, EngineError>(|tx| Reserve::open(tx, Site::A)).unwrap();
        assert_eq!(engine.transact::<_, EngineError>(|tx| reserve.level(tx)), Ok(TARGET));
    }
}
