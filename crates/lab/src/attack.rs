//! What an eavesdropper does to a link: the figures that theory predicts, those measured, and
//! whether the link notices.

use anyhow::{Result, ensure};
use claviger_distill::{BlockLedger, Outcome};
use claviger_photonics::eve::Guess;
use claviger_photonics::sift::{self, Announcement, Purpose};
use claviger_photonics::theory::{Shown, shown_under};
use claviger_photonics::{BasisGenerator, Choice, ChoiceGenerator, Click, Eve, Fibre, LinkPreset};
use claviger_units::Span;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::VirtualLink;

/// One figure of a link under attack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttackFigure {
    /// What it is.
    pub name: &'static str,
    /// What the sum over all cases predicts, in this unit.
    pub predicted: f64,
    /// What was counted.
    pub measured: f64,
    /// The unit of both.
    pub unit: &'static str,
    /// How far apart they are, in standard deviations.
    pub sigma: f64,
}

/// Plays so many clicks and compares what was counted with what is predicted.
pub fn measure(
    preset: &LinkPreset,
    eve: &Eve,
    clicks: u32,
    seed: u64,
) -> Result<Vec<AttackFigure>> {
    let counted = Counted::play(preset, eve, clicks, seed);
    ensure!(counted.sifted > 0.0, "none of {clicks} clicks was sifted: play more");
    let Shown { raw, sifted, qber, guessed, by_intensity, unevenness } = shown_under(preset, eve);
    let n = f64::from(clicks);
    let raw_seen = n / counted.seconds;
    let mut figures = vec![
        AttackFigure {
            name: "clicks",
            predicted: raw.as_bps(),
            measured: raw_seen,
            unit: "1/s",
            sigma: (raw_seen / raw.as_bps() - 1.0).abs() / (unevenness / n.sqrt()),
        },
        share("sifted of the clicks", counted.sifted, n, sifted.as_bps() / raw.as_bps()),
        share("QBER", counted.wrong, counted.sifted, qber.as_f64()),
        share("guessed right by Eve", counted.guessed, counted.sifted, guessed.as_f64()),
    ];
    if preset.coding().intensities().len() > 1 {
        let dimmest = preset.coding().intensities().len() - 1;
        figures.push(share(
            "key bits of the dimmest pulses",
            counted.by_intensity[dimmest],
            counted.sifted,
            by_intensity[dimmest].as_f64(),
        ));
    }
    Ok(figures)
}

fn share(name: &'static str, part: f64, whole: f64, predicted: f64) -> AttackFigure {
    // Where theory says never or always, one event among so many is as good as none.
    let deviation = (whole * predicted * (1.0 - predicted)).sqrt().max(1.0);
    AttackFigure {
        name,
        predicted: 100.0 * predicted,
        measured: 100.0 * part / whole,
        unit: "%",
        sigma: (part - whole * predicted).abs() / deviation,
    }
}

/// Counts over the clicks of a run.
struct Counted {
    seconds: f64,
    sifted: f64,
    wrong: f64,
    guessed: f64,
    by_intensity: [f64; 3],
}

impl Counted {
    fn play(preset: &LinkPreset, eve: &Eve, clicks: u32, seed: u64) -> Self {
        let coding = preset.coding();
        let mut rng = StdRng::seed_from_u64(seed);
        let (for_alice, for_bob): ([u8; 32], [u8; 32]) = (rng.random(), rng.random());
        let light = Xoshiro256PlusPlus::from_rng(&mut rng);
        let mut fibre = Fibre::new(preset, &for_alice, &for_bob, *eve, light);
        let mut alice = ChoiceGenerator::new(&for_alice, &coding);
        let mut bob = BasisGenerator::new(&for_bob, &coding);
        let mut counted =
            Self { seconds: 0.0, sifted: 0.0, wrong: 0.0, guessed: 0.0, by_intensity: [0.0; 3] };
        let mut end = 0;
        for _ in 0..clicks {
            let Some(click) = fibre.click_before(u64::MAX) else { break };
            let choice = alice.choice(click.pulse);
            counted.sift(preset, choice, &mut bob, click, &mut rng);
            end = click.pulse + 1 + preset.dead_gates();
        }
        counted.seconds = preset.time_of(end).as_secs_f64();
        counted
    }

    fn sift(
        &mut self,
        preset: &LinkPreset,
        choice: Choice,
        bob: &mut BasisGenerator,
        click: Click,
        rng: &mut StdRng,
    ) {
        let protocol = preset.protocol();
        let said = Announcement::of(protocol, choice);
        let basis = bob.basis(click.pulse);
        let Some(theirs) = sift::at_bob(protocol, basis, click.detector, said) else { return };
        if theirs.purpose != Purpose::Key {
            return;
        }
        let mine = sift::at_alice(protocol, choice);
        let right = match click.eve.guess(protocol, choice) {
            Guess::Bit(bit) => bit == mine.bit,
            Guess::RightWith(chance) => rng.random_bool(chance),
        };
        self.sifted += 1.0;
        self.wrong += f64::from(u8::from(mine.bit != theirs.bit));
        self.guessed += f64::from(u8::from(right));
        self.by_intensity[usize::from(mine.intensity)] += 1.0;
    }
}

/// What the real link did under attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Blocks that were kept while Eve was there.
    pub kept: usize,
    /// Blocks that were dropped, with their reasons.
    pub dropped: Vec<String>,
    /// Blocks that were kept after she had gone.
    pub after: usize,
}

impl Verdict {
    /// Tells whether the link noticed: it gave no key.
    #[must_use]
    pub fn noticed(&self) -> bool {
        self.kept == 0 && !self.dropped.is_empty()
    }
}

/// Runs the whole link, real distillation and all: some blocks in peace, then for `attacked` under
/// attack, then in peace again until blocks are kept.
pub fn judge(preset: &LinkPreset, eve: &Eve, attacked: Span, seed: u64) -> Result<Verdict> {
    let mut link = VirtualLink::start(preset, Eve::ABSENT, seed)?;
    while link.ledger().is_empty() {
        link.run_window()?;
    }
    let (begun, before) = (link.now(), link.ledger().len());
    link.set_eve(*eve);
    while link.now() < begun + attacked {
        link.run_window()?;
    }
    // The first block that ended may have begun in peace.
    let during: Vec<BlockLedger> = link.ledger().iter().skip(before + 1).cloned().collect();
    let gone = link.ledger().len();
    link.set_eve(Eve::ABSENT);
    let is_kept = |block: &&BlockLedger| block.outcome == Outcome::Kept;
    while link.ledger().iter().skip(gone + 1).filter(is_kept).count() < 1
        && link.ledger().len() < gone + 8
    {
        link.run_window()?;
    }
    let reason = |block: &BlockLedger| match block.outcome {
        Outcome::Dropped(reason) => Some(reason.to_string()),
        Outcome::Open | Outcome::Kept => None,
    };
    Ok(Verdict {
        kept: during.iter().filter(is_kept).count(),
        dropped: during.iter().filter_map(reason).collect(),
        after: link.ledger().iter().skip(gone + 1).filter(is_kept).count(),
    })
}
