//! The end of a block, the same at both ends: verification, amplification, and the cut into
//! authentication pads and keys.

use claviger_gf2::{BitString, poly_hash, toeplitz};
use claviger_units::{Fraction, Key256, KeyId, SecretBytes, Site, Timestamp};
use claviger_wire::classical::{PadName, Propose};
use rand::rngs::StdRng;

use crate::authenticate::Transcript;
use crate::filling::Tally;
use crate::ledger::BlockLedger;
use crate::quiet::Quiet;

/// A block that is ready for the key buffers.
#[derive(Debug)]
pub struct FinishedBlock {
    /// Number of the block.
    pub number: u64,
    /// Its keys in order of position, each with its name and owner.
    pub keys: Vec<(KeyId, Site, Key256)>,
    /// Bob's tag over the transcript: what Alice's side must see before it commits.
    pub acceptance: [u8; 32],
}

/// A block after its bits were closed, at either end.
#[derive(Debug)]
pub(crate) struct Reconciled {
    pub(crate) key: BitString,
    /// The intensity of each bit.
    pub(crate) intensities: Vec<u8>,
    /// How many blocks of the session were closed before it; the first ones are short.
    pub(crate) closed_as: u32,
    pub(crate) transcript: Transcript,
    pub(crate) quiet: Quiet,
    pub(crate) tally: Tally,
    pub(crate) ledger: BlockLedger,
    pub(crate) rng: StdRng,
}

/// A block that was proposed and waits for the key buffers.
#[derive(Debug)]
pub(crate) struct Awaiting {
    pub(crate) pads: SecretBytes,
    pub(crate) hash_keys: SecretBytes,
    pub(crate) own_pad: PadName,
    pub(crate) peer_pad: PadName,
    pub(crate) ledger: BlockLedger,
    pub(crate) since: Timestamp,
}

/// The secret bits of a block, cut.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) pads: SecretBytes,
    pub(crate) hash_keys: SecretBytes,
    pub(crate) keys: Vec<Key256>,
}

/// Returns the 64-bit hash that verification compares.
///
/// A polynomial hash over GF(2¹²⁸) cut to 64 bits: two different keys of n bits agree with a
/// chance of at most (n/128 + 2)/2⁶⁴.
pub(crate) fn verification_hash(hash_key: &[u8; 16], key: &BitString) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = poly_hash(hash_key, &[&key.to_bytes()[..]]);
    [a, b, c, d, e, f, g, h]
}

impl Reconciled {
    /// Charges the chance that verification passed a wrong key or a tag a forged transcript.
    pub(crate) fn charge_verification(&mut self) {
        let verification = (self.key.len() as f64 / 128.0 + 2.0) * (-64.0_f64).exp2();
        let tags = 2.0 * (self.transcript.len() as f64 / 16.0 + 3.0) * (-128.0_f64).exp2();
        self.ledger.epsilon.others = Fraction::clamped(verification + tags);
    }
}

/// Returns how many bits a proposal cuts off for authentication.
pub(crate) fn reserve_bits(propose: &Propose) -> u32 {
    u32::from(propose.pads) * 256 + u32::from(propose.renews_hash_keys) * 256
}

/// Amplifies a verified key as proposed and cuts it; `None` where the numbers do not fit.
pub(crate) fn amplify(key: &BitString, propose: &Propose) -> Option<Cut> {
    let secret = usize::try_from(propose.secret).ok()?;
    let needed = reserve_bits(propose) as usize + propose.keys.len() * 256;
    if propose.keys.len() < 2 || needed > secret {
        return None;
    }
    let seed = BitString::from_bytes(&propose.seed, key.len() + secret - 1)?;
    let bytes = toeplitz(key, &seed, secret).to_bytes();
    let (pads, rest) = bytes.split_at_checked(usize::from(propose.pads) * 32)?;
    let hash_key_bytes = if propose.renews_hash_keys { 32 } else { 0 };
    let (hash_keys, rest) = rest.split_at_checked(hash_key_bytes)?;
    let keys: Vec<Key256> =
        rest.chunks_exact(32).take(propose.keys.len()).filter_map(Key256::from_slice).collect();
    (keys.len() == propose.keys.len()).then(|| Cut {
        pads: SecretBytes::new(pads.to_vec()),
        hash_keys: SecretBytes::new(hash_keys.to_vec()),
        keys,
    })
}

impl Cut {
    /// Joins keys with the names and owners that were proposed for them.
    pub(crate) fn finish(
        self,
        propose: &Propose,
        acceptance: [u8; 16],
    ) -> (FinishedBlock, SecretBytes, SecretBytes) {
        let names = propose.keys.iter();
        let keys = names.zip(self.keys).map(|(&(id, owner), key)| (id, owner, key)).collect();
        let mut wide = [0; 32];
        wide[..16].copy_from_slice(&acceptance);
        let block = FinishedBlock { number: propose.block, keys, acceptance: wide };
        (block, self.pads, self.hash_keys)
    }
}
