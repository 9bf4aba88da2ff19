//! The blocks of a link, distilled once by the real engine and replayed as often as a run needs them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use claviger_distill::{BlockLedger, Outcome, seed};
use claviger_photonics::{Eve, LinkPreset};
use claviger_units::Span;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use sha2::{Digest, Sha256};

use crate::VirtualLink;
use crate::summary::is_full;

/// What the blocks of a link have brought, and when.
///
/// Light, sifting, reconciliation, amplification and authentication were those of the live system; only
/// the keys themselves are not kept.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkLedger {
    // Names the link and all its parameters, and the seed.
    title: String,
    blocks: Vec<Replayed>,
}

/// A block of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// How long after the block before it was there.
    pub fills: Span,
    /// How many keys it brought, none if it was dropped.
    pub n_keys: u32,
    /// Whether it is none of the smaller first ones.
    pub is_full: bool,
}

impl LinkLedger {
    /// Runs a link until `n_blocks` full blocks have ended; `watch` hears how many have so far.
    ///
    /// # Errors
    ///
    /// Where theory expects no key of the link, and where the link fails.
    pub fn record(
        preset: &LinkPreset,
        seed: u64,
        n_blocks: usize,
        mut watch: impl FnMut(usize),
    ) -> Result<Self> {
        preset.viability(claviger_distill::rules::OVERHEAD)?;
        ensure!(n_blocks > 0, "a ledger of no block tells nothing: record 1 or more");
        let mut link = VirtualLink::start(preset, Eve::ABSENT, seed)?;
        loop {
            link.run_window()?;
            // The keys are drawn anew where they are needed.
            drop(link.take_blocks());
            let full = link.ledger().iter().filter(|block| is_full(preset, block)).count();
            watch(full);
            if full >= n_blocks {
                return Ok(Self::of(preset, seed, link.ledger()));
            }
            // Blocks that are dropped before they are full would never end this.
            ensure!(
                link.ledger().len() < 100 + 10 * n_blocks,
                "link {} drops nearly all blocks: lower its loss",
                preset.name()
            );
        }
    }

    fn of(preset: &LinkPreset, seed: u64, ledger: &[BlockLedger]) -> Self {
        let mut before = Span::ZERO;
        let blocks = ledger.iter().map(|block| {
            let fills = Span::from_micros(block.end.as_micros().saturating_sub(before.as_micros()));
            before = block.end;
            let n_keys = if block.outcome == Outcome::Kept { block.keys } else { 0 };
            Replayed { fills, n_keys, is_full: is_full(preset, block) }
        });
        Self { title: title(preset, seed), blocks: blocks.collect() }
    }

    /// Returns the blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Replayed] {
        &self.blocks
    }

    /// Returns the mean time between keys over full blocks.
    #[must_use]
    pub fn keys_per_second(&self) -> f64 {
        let full = self.blocks.iter().filter(|block| block.is_full);
        let (keys, seconds) = full.fold((0.0, 0.0), |(keys, seconds), block| {
            (keys + f64::from(block.n_keys), seconds + block.fills.as_secs_f64())
        });
        keys / seconds
    }

    /// Returns the blocks in their order, and after the last one full ones drawn at random, for ever.
    pub fn replay(&self, seed: u64) -> impl Iterator<Item = Replayed> + '_ {
        let mut rng = Xoshiro256PlusPlus::from_seed(seed::derive(seed, "replay"));
        let full: Vec<_> = self.blocks.iter().filter(|block| block.is_full).copied().collect();
        let drawn = std::iter::from_fn(move || Some(full[rng.random_range(0..full.len())]));
        self.blocks.iter().copied().chain(drawn)
    }

    /// Writes the ledger, so that [`from_csv`](Self::from_csv) reads it.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text = format!("{}\n{HEADER}\n", self.title);
        for Replayed { fills, n_keys, is_full } in &self.blocks {
            let _ = writeln!(text, "{},{n_keys},{is_full}", fills.as_micros());
        }
        let _ = writeln!(text, "{END} {} blocks", self.blocks.len());
        text
    }

    /// Reads what [`to_csv`](Self::to_csv) wrote.
    ///
    /// # Errors
    ///
    /// Where it is another link's, or another seed's, or not whole.
    pub fn from_csv(preset: &LinkPreset, seed: u64, text: &str) -> Result<Self> {
        let (body, end) = text.rsplit_once(END).context("it is not whole")?;
        let n_blocks = end.strip_suffix(" blocks\n").and_then(|n| n.trim().parse::<usize>().ok());
        let mut lines = body.lines();
        let title = title(preset, seed);
        ensure!(lines.next() == Some(&title), "it is another link's, or another seed's");
        ensure!(lines.next() == Some(HEADER), "it is of another version");
        let blocks = lines.map(|line| {
            let [fills, n_keys, is_full] = line.split(',').collect::<Vec<_>>()[..] else {
                bail!("{line} is no block")
            };
            let fills = Span::from_micros(fills.parse()?);
            Ok(Replayed { fills, n_keys: n_keys.parse()?, is_full: is_full.parse()? })
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        ensure!(n_blocks == Some(blocks.len()), "it is not whole");
        ensure!(blocks.iter().any(|block| block.is_full), "it has no full block");
        Ok(Self { title, blocks })
    }
}

/// Returns a short mark of all parameters of a link.
#[must_use]
pub fn fingerprint(preset: &LinkPreset) -> String {
    mark(&format!("{preset:?}"))
}

/// Returns a short mark of a text, by which it is known again.
#[must_use]
pub fn mark(text: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn title(preset: &LinkPreset, seed: u64) -> String {
    format!("# link {} {}, seed {seed}", preset.name(), fingerprint(preset))
}

const HEADER: &str = "fills_us,keys,is_full";
const END: &str = "# end,";

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(seed: u64) -> Result<(LinkPreset, LinkLedger)> {
        let preset = LinkPreset::named("lab")?;
        let ledger = LinkLedger::record(&preset, seed, 3, |_| {})?;
        Ok((preset, ledger))
    }

    #[test]
    fn a_ledger_is_read_as_it_was_written_and_no_other_is() -> Result<()> {
        let (preset, ledger) = recorded(1)?;
        let text = ledger.to_csv();
        assert_eq!(LinkLedger::from_csv(&preset, 1, &text)?, ledger);
        assert!((7.0..7.8).contains(&ledger.keys_per_second()), "{}", ledger.keys_per_second());
        let torn = &text[..text.len() - 9];
        let other = LinkPreset::named("city")?;
        let brighter = preset.clone().with_loss(claviger_units::Decibels::from_db(3.9)?);
        for (preset, seed, text, told) in [
            (&preset, 2, text.as_str(), "another seed"),
            (&other, 1, &text, "another link"),
            (&brighter, 1, &text, "another link"),
            (&preset, 1, torn, "not whole"),
            (&preset, 1, "", "not whole"),
        ] {
            let error = LinkLedger::from_csv(preset, seed, text).err().map(|e| e.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(told)), "{error:?}");
        }
        Ok(())
    }

    #[test]
    fn a_replay_begins_with_the_ledger_and_goes_on_with_full_blocks() -> Result<()> {
        let (_, ledger) = recorded(1)?;
        let n = ledger.blocks().len();
        let played: Vec<_> = ledger.replay(1).take(n + 50).collect();
        assert_eq!(&played[..n], ledger.blocks());
        assert!(played[n..].iter().all(|block| block.is_full));
        assert_eq!(played, ledger.replay(1).take(n + 50).collect::<Vec<_>>());
        assert_ne!(played, ledger.replay(2).take(n + 50).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn a_link_without_key_is_refused_with_its_reason() -> Result<()> {
        let far = LinkPreset::named("lab")?.with_loss(claviger_units::Decibels::from_db(40.0)?);
        let error = LinkLedger::record(&far, 1, 3, |_| {}).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("lower the loss")));
        Ok(())
    }
}
