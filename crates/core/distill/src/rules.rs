//! What both ends must agree on before the first pulse.

use claviger_photonics::preset::Security;
use claviger_photonics::promise::Promise;
use claviger_photonics::theory::{self, PhotonTags};
use claviger_photonics::{Cascade, Coding, LinkPreset};
use claviger_security::{MeanPhotons, SecurityClaim, gllp};
use claviger_units::{Bits, Fraction, Span};
use claviger_wire::classical::DropReason;
use sha2::{Digest, Sha256};

use crate::block::Reconciled;
use crate::cascade;
use crate::ledger::BlockLedger;

/// Hash bits that verification discloses, all counted.
pub const VERIFICATION_BITS: u32 = 64;

/// Bits that a block pays beside error correction: verification, and the pads of its two tags.
pub const OVERHEAD: Bits = Bits::new(64 + 256);

/// The parameters of distillation, derived from the preset of the link.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Share of the sifted bits that is given away to estimate the error rate.
    pub sample: Fraction,
    /// Error rate above which a block is dropped.
    pub abort: Fraction,
    /// Error rate that theory expects, which sets the first block of Cascade.
    pub expected_qber: Fraction,
    /// The schedule of error correction.
    pub cascade: Cascade,
    /// Pulses of one window of link time.
    pub window: u64,
    /// SHA-256 over every parameter, compared in the greeting.
    pub digest: [u8; 32],
    preset: LinkPreset,
    coding: Coding,
    /// What is promised of blocks of either size, where the claim is for blocks of fixed length.
    promises: Option<Box<Promises>>,
}

/// What is promised; nothing where a block of that size leaves no key.
#[derive(Clone, Debug)]
struct Promises {
    first: Option<Promise>,
    full: Option<Promise>,
}

impl Promises {
    fn lengths(&self) -> [Option<(Bits, Bits)>; 2] {
        [&self.first, &self.full]
            .map(|promise| promise.as_ref().map(|p| (p.length(), p.most_disclosed())))
    }
}

/// Link time that one batch covers at most.
const WINDOW: Span = Span::from_millis(250);
/// Clicks that one batch holds at most, in expectation.
const BATCH_CLICKS: f64 = 16_384.0;

impl Rules {
    /// Derives the rules of a link.
    #[must_use]
    pub fn of(preset: &LinkPreset) -> Self {
        let expected = theory::expected(preset);
        let clicks = Span::from_secs_f64(BATCH_CLICKS / expected.raw.as_bps().max(1.0));
        let promises = match preset.security() {
            Security::EraHeuristic | Security::Gllp => None,
            Security::FiniteSize(_) => {
                let [first, full] = [preset.block_bits(0), preset.block_bits(u64::MAX)]
                    .map(|bits| expected.promise(bits));
                Some(Box::new(Promises { first, full }))
            }
        };
        let window = preset.pulses_in(WINDOW.min(clicks));
        // What is calculated goes in as well: ends whose machines calculate otherwise must not meet.
        let lengths = promises.as_deref().map(Promises::lengths);
        Self {
            sample: preset.sample_fraction(),
            abort: preset.abort_qber(),
            expected_qber: expected.qber,
            cascade: preset.cascade(),
            window,
            digest: Sha256::digest(format!("{preset:?} {window} {lengths:?}")).into(),
            coding: preset.coding(),
            preset: preset.clone(),
            promises,
        }
    }

    /// Returns what both ends choose from.
    #[must_use]
    pub const fn coding(&self) -> &Coding {
        &self.coding
    }

    /// Returns how many pulses after a click none can click.
    pub(crate) const fn dead_gates(&self) -> u64 {
        self.preset.dead_gates()
    }

    /// Returns what is claimed of the keys.
    #[must_use]
    pub const fn claim(&self) -> SecurityClaim {
        self.preset.security().claim()
    }

    /// Tells whether a block has just the bits for which its length was promised.
    pub(crate) const fn fixes_length(&self) -> bool {
        self.promises.is_some()
    }

    /// Returns how many sifted bits close the block that follows `closed` closed ones.
    #[must_use]
    pub fn target(&self, closed: u32) -> usize {
        let bits = self.preset.block_bits(closed.into());
        usize::try_from(bits.count()).unwrap_or(usize::MAX)
    }

    /// Returns how many sifted bits close the largest block.
    pub(crate) fn largest_target(&self) -> usize {
        self.target(0).max(self.target(u32::MAX))
    }

    /// Returns how many blocks may be closed and not ended at once.
    #[must_use]
    pub fn open_blocks(&self) -> usize {
        cascade::blocks_in_flight(self.cascade, self.target(u32::MAX))
    }

    /// Returns the link time of a pulse.
    #[must_use]
    pub fn time_of(&self, pulse: u64) -> Span {
        self.preset.time_of(pulse)
    }

    /// Returns the secret bits of a reconciled block, or why it has none: what its claim leaves of
    /// its sifted bits, less every disclosed bit.
    pub(crate) fn secret_bits(&self, block: &Reconciled) -> Result<u32, DropReason> {
        let secret = match &self.promises {
            Some(promises) => {
                let is_first = self.preset.is_first(block.closed_as.into());
                let promise = if is_first { &promises.first } else { &promises.full };
                promised(promise.as_ref(), &block.ledger)?
            }
            None => self.content_left(block),
        };
        // A block has to leave a key for each site after its own tags.
        let least = OVERHEAD.count() + 2 * Bits::KEY.count();
        if u64::from(secret) < least { Err(DropReason::NothingLeft) } else { Ok(secret) }
    }

    /// The photons of the pulses are charged at the click probability that the block itself has
    /// shown (PHYSICS.md §1).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a bit is dropped and negative lengths saturate to zero"
    )]
    fn content_left(&self, block: &Reconciled) -> u32 {
        let (tally, ledger) = (&block.tally, &block.ledger);
        let pulses = tally.windows.saturating_mul(self.window);
        let Some(click) = self.preset.observed_click_probability(tally.clicks, pulses) else {
            return 0;
        };
        let content = if self.preset.security() == Security::Gllp {
            let mean = self.coding.intensities()[0].mean;
            let mean = MeanPhotons::try_new(mean).unwrap_or_default();
            gllp::secret_content(mean, click, ledger.qber())
        } else {
            PhotonTags::of(&self.preset, click).secret_content(ledger.qber())
        };
        let disclosed = ledger.leaked + VERIFICATION_BITS;
        let left = content.as_f64() * f64::from(ledger.sifted) - f64::from(disclosed);
        left.max(0.0) as u32
    }

    /// Returns the chance that a key of a block is not secret, where the claim states one.
    pub(crate) fn secrecy(&self) -> Fraction {
        match self.preset.security() {
            Security::FiniteSize(parameters) => Fraction::clamped(parameters.secrecy.as_f64()),
            Security::EraHeuristic | Security::Gllp => Fraction::ZERO,
        }
    }
}

/// Returns the length promised to a block that keeps the promise, less what verification disclosed.
fn promised(promise: Option<&Promise>, ledger: &BlockLedger) -> Result<u32, DropReason> {
    let promise = promise.ok_or(DropReason::NothingLeft)?;
    if !promise.is_kept_by(&ledger.counts, Bits::new(ledger.leaked.into())) {
        return Err(DropReason::Acceptance);
    }
    let left = promise.length().saturating_sub(Bits::new(VERIFICATION_BITS.into()));
    Ok(u32::try_from(left.count()).unwrap_or(u32::MAX))
}
