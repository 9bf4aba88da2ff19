//! The rate of a link over loss: what theory expects, what the real link makes, and the limit of all
//! links without repeaters.

use anyhow::Result;
use claviger_distill::{Outcome, rules, seed};
use claviger_photonics::preset::NoKey;
use claviger_photonics::{Eve, LinkPreset, theory};
use claviger_security::entropy::repeaterless_bound;
use claviger_units::{BitRate, Bits, Decibels, Fraction, Span, Timestamp};

use crate::VirtualLink;
use crate::summary::{RunSummary, is_full, theory_at};

/// What theory says of a link at one loss.
#[derive(Clone, Debug, PartialEq)]
pub struct RatePoint {
    /// The loss.
    pub loss: Decibels,
    /// The rate of key under the link's own claim, with its block length and all that a block pays;
    /// or why there is none.
    pub key: Result<BitRate, NoKey>,
    /// The rate of sifted bits that become key.
    pub sifted: BitRate,
    /// Their error rate.
    pub qber: Fraction,
    /// What no link without repeaters exceeds at this pulse rate; infinite without loss.
    pub bound: BitRate,
}

impl RatePoint {
    /// Asks theory about a link with another loss.
    #[must_use]
    pub fn of(preset: &LinkPreset, loss: Decibels) -> Self {
        let preset = preset.clone().with_loss(loss);
        let expected = theory::expected(&preset);
        Self {
            loss,
            key: preset.viability(rules::OVERHEAD).map(|()| theory_at(&preset, None)),
            sifted: expected.sifted,
            qber: expected.qber,
            bound: bound(&preset),
        }
    }
}

/// Returns what no link without repeaters exceeds at this loss and pulse rate; infinite without loss.
///
/// The pauses between trains of pulses send nothing, and count as time.
#[must_use]
pub fn bound(preset: &LinkPreset) -> BitRate {
    let transmittance = Fraction::clamped(10_f64.powf(-preset.loss().as_db() / 10.0));
    let second = Span::from_secs(1);
    let pulses = Bits::new(preset.pulses_in(second)) / second;
    BitRate::from_bps(repeaterless_bound(transmittance) * pulses.as_bps())
}

/// The real link at one loss, until so many full blocks were kept.
#[derive(Debug)]
pub struct RateRun {
    preset: LinkPreset,
    link: VirtualLink,
    blocks: usize,
    /// How long a full block takes to fill, as theory has it.
    fills: Span,
}

/// Of how many full blocks one at least must be kept, or the run gives up.
const PATIENCE: usize = 3;

impl RateRun {
    /// Starts a link; its light follows from `seed` and the loss, whatever other points there are.
    pub fn start(preset: &LinkPreset, loss: Decibels, blocks: usize, seed: u64) -> Result<Self> {
        let preset = preset.clone().with_loss(loss);
        let link = VirtualLink::start(&preset, Eve::ABSENT, seed_at(seed, loss))?;
        let fills = filling_time(&preset);
        Ok(Self { preset, link, blocks, fills })
    }

    /// Runs one window.
    pub fn run_window(&mut self) -> Result<()> {
        self.link.run_window()?;
        // Keys that nobody wants would only fill the memory.
        drop(self.link.take_blocks());
        Ok(())
    }

    /// Tells whether all blocks are there, or too many were dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.kept() >= self.blocks || self.ended() >= self.blocks.saturating_mul(PATIENCE)
    }

    /// Returns how far it has come; it falls back where a block came to nothing.
    #[must_use]
    pub fn progress(&self) -> Fraction {
        if self.is_over() {
            return Fraction::ONE;
        }
        let now = self.link.now().since(Timestamp::START);
        let filled_from = self.link.ledger().last().map_or(Span::ZERO, |block| block.end);
        let open = now.as_secs_f64() - filled_from.as_secs_f64();
        let missing = f64::from(u32::try_from(self.blocks - self.kept()).unwrap_or(u32::MAX));
        let fills = self.fills.as_secs_f64();
        // A block that fills more slowly than theory has it is not done yet.
        let left = missing * fills - open.min(0.99 * fills);
        Fraction::clamped(now.as_secs_f64() / (now.as_secs_f64() + left))
    }

    /// Sums up what has ended so far.
    #[must_use]
    pub fn summary(&self) -> RunSummary {
        RunSummary::of(&self.preset, self.link.ledger())
    }

    fn kept(&self) -> usize {
        let full = self.link.ledger().iter().filter(|block| is_full(&self.preset, block));
        full.filter(|block| block.outcome == Outcome::Kept).count()
    }

    /// Blocks that were dropped early never had the bits of a full one.
    fn ended(&self) -> usize {
        let first = (0..).take_while(|n| self.preset.is_first(*n)).count();
        self.link.ledger().len().saturating_sub(first)
    }
}

/// Returns how long a full block takes to fill, as theory has it.
#[must_use]
pub fn filling_time(preset: &LinkPreset) -> Span {
    let bits = preset.block_bits(u64::MAX) / Span::from_secs(1);
    Span::from_secs_f64(bits.as_bps() / theory::expected(preset).sifted.as_bps())
}

fn seed_at(number: u64, loss: Decibels) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = seed::derive(number, &format!("loss {loss}"));
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
