//! The paper's figures, made again: one configuration each, sheets of numbers, pictures, and a verdict.
//!
//! A figure is a function of its configuration, the first seed and the program; it writes no file and reads
//! no clock.

pub mod chart;
mod drawing;
mod energy;
pub mod exchange;
pub mod latency;
mod rates;
pub mod report;
pub mod sheet;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use claviger_photonics::LinkPreset;
use serde::de::DeserializeOwned;

use crate::replay::LinkLedger;
use latency::{LiveScenario, Measured};
use sheet::Sheet;

/// A figure of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Radio duty cycle.
    Fig2a,
    /// Battery life.
    Fig2b,
    /// Latency and packet loss.
    Fig2c,
    /// Keys over loss.
    Fig2d,
}

impl Figure {
    /// All that can be made, in the paper's order.
    pub const ALL: [Self; 4] = [Self::Fig2a, Self::Fig2b, Self::Fig2c, Self::Fig2d];

    /// Returns its name, which is also that of its files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fig2a => "fig2a",
            Self::Fig2b => "fig2b",
            Self::Fig2c => "fig2c",
            Self::Fig2d => "fig2d",
        }
    }

    /// Returns the configuration that comes with this program.
    #[must_use]
    pub const fn configuration(self) -> &'static str {
        match self {
            Self::Fig2a => include_str!("../../figures/fig2a.toml"),
            Self::Fig2b => include_str!("../../figures/fig2b.toml"),
            Self::Fig2c => include_str!("../../figures/fig2c.toml"),
            Self::Fig2d => include_str!("../../figures/fig2d.toml"),
        }
    }

    /// Makes it from a configuration.
    ///
    /// # Errors
    ///
    /// Where the configuration is none, or asks for what cannot be, with what to do about it.
    pub fn make(self, configuration: &str, laboratory: &Laboratory<'_>) -> Result<Made> {
        let made = match self {
            Self::Fig2a => energy::duty(configuration, laboratory),
            Self::Fig2b => energy::battery(configuration, laboratory),
            Self::Fig2c => latency::make(configuration, laboratory),
            Self::Fig2d => rates::make(configuration, laboratory),
        };
        made.with_context(|| format!("{self} cannot be made"))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Figure {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|figure| figure.name() == text);
        found.with_context(|| format!("there is no figure `{text}`: choose one of {names}"))
    }
}

/// Where figures are made.
pub struct Laboratory<'a> {
    /// The first seed; others follow.
    pub seed: u64,
    /// How much is done.
    pub extent: Extent,
    /// How many threads may run; what they make is the same.
    pub threads: usize,
    /// Finds the ledger of a link of so many full blocks from a seed: one that is kept, or a new one.
    pub ledger: &'a (dyn Fn(&LinkPreset, u64, usize) -> Result<LinkLedger> + Sync),
    /// Counts a live fleet on emulated networks, or says why not.
    pub live: &'a (dyn Fn(&LiveScenario) -> Result<Measured> + Sync),
    /// Hears how much of what is done, 0 to 1.
    pub progress: &'a (dyn Fn(&str, f64) + Sync),
}

impl fmt::Debug for Laboratory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, extent, threads, .. } = self;
        write!(f, "Laboratory(seed {seed}, {extent:?}, {threads} threads)")
    }
}

/// How much of a configuration is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What its table `quick` says.
    Quick,
}

/// A figure that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// What it is called.
    pub title: String,
    /// What was assumed, and what the numbers are: a sentence each.
    pub remarks: Vec<String>,
    /// Pictures by the names of their files.
    pub pictures: Vec<(String, String)>,
    /// The numbers.
    pub sheets: Vec<Sheet>,
    /// What the paper reports, beside what came out.
    pub verdicts: Vec<Verdict>,
}

/// What the paper reports, beside what came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub claim: String,
    /// The paper's number.
    pub theirs: String,
    /// Ours.
    pub ours: String,
    /// Whether they agree.
    pub finding: Finding,
    /// Why, or what is not explained.
    pub because: String,
}

/// Whether a claim of the paper was found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As the paper has it.
    Confirmed,
    /// Only under assumptions that the paper does not make.
    Conditional,
    /// Nearly: more than rounding explains, and less than 15 % off.
    Near,
    /// It could not have come out otherwise: the model assumes it.
    Assumed,
    /// Not as the paper has it.
    Contradicted,
    /// What was measured is too uncertain to tell.
    Undecided,
}

impl Finding {
    /// Returns it in a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Conditional => "conditional",
            Self::Near => "near",
            Self::Assumed => "assumed",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }
}

/// Reads a configuration; with [`Extent::Quick`] what its table `quick` says stands in place of the rest.
fn read<T: DeserializeOwned>(text: &str, extent: Extent) -> Result<T> {
    let mut table: toml::Table = text.parse().context("the configuration is not understood")?;
    let quick = table.remove("quick");
    if extent == Extent::Quick {
        let quick = quick.and_then(|quick| quick.try_into::<toml::Table>().ok());
        let quick = quick.context("the configuration has no table `quick`: run it whole")?;
        for (key, value) in quick {
            ensure!(table.contains_key(&key), "quick.{key} stands in place of nothing");
            table.insert(key, value);
        }
    }
    T::deserialize(table).context("the configuration is not understood")
}
