//! What both ends must agree on before the first pulse.

use claviger_photonics::theory::{self, PhotonTags};
use claviger_photonics::{Cascade, LinkPreset};
use claviger_units::{Bits, Fraction, Span};
use sha2::{Digest, Sha256};

use crate::block::Reconciled;
use crate::cascade;

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
}

/// Link time that one batch covers.
const WINDOW: Span = Span::from_millis(250);

impl Rules {
    /// Derives the rules of a link.
    #[must_use]
    pub fn of(preset: &LinkPreset) -> Self {
        Self {
            sample: preset.sample_fraction(),
            abort: preset.abort_qber(),
            expected_qber: theory::expected(preset).qber,
            cascade: preset.cascade(),
            window: preset.pulses_in(WINDOW),
            digest: Sha256::digest(format!("{preset:?}")).into(),
            preset: preset.clone(),
        }
    }

    /// Returns how many sifted bits close the block that follows `closed` closed ones.
    #[must_use]
    pub fn target(&self, closed: u32) -> usize {
        let bits = self.preset.block_bits(closed.into());
        usize::try_from(bits.count()).unwrap_or(usize::MAX)
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

    /// Returns the secret bits of a reconciled block: what the era's security model leaves of its
    /// sifted bits, less every disclosed bit (`PHYSICS.md` §1). The photons of the pulses are
    /// charged at the click probability that the block itself has shown.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a bit is dropped and negative lengths saturate to zero"
    )]
    pub(crate) fn secret_bits(&self, block: &Reconciled) -> u32 {
        let (tally, ledger) = (&block.tally, &block.ledger);
        let pulses = tally.end.saturating_sub(tally.begin);
        let Some(click) = self.preset.observed_click_probability(tally.clicks, pulses) else {
            return 0;
        };
        let content = PhotonTags::of(&self.preset, click).secret_content(ledger.qber());
        let disclosed = ledger.leaked + VERIFICATION_BITS;
        let left = content.as_f64() * f64::from(ledger.sifted) - f64::from(disclosed);
        left.max(0.0) as u32
    }

    /// Tells whether a block leaves a key for each site after its own tags; asked before any pad
    /// is spent on it.
    pub(crate) fn gives_keys(&self, block: &Reconciled) -> bool {
        u64::from(self.secret_bits(block)) >= OVERHEAD.count() + 2 * Bits::KEY.count()
    }
}
