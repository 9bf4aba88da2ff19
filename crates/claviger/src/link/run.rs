//! `claviger link run`: the whole link in virtual time.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use claviger_distill::BlockLedger;
use claviger_lab::VirtualLink;
use claviger_lab::summary::RunSummary;
use claviger_photonics::preset::SecurityClaim;
use claviger_photonics::{Eve, theory};
use claviger_units::{Fraction, Span, Timestamp};

use super::background::{self, Stop};
use super::block_files::BlockFiles;
use super::lessons::reasons;
use super::table::{self, BlockLine};
use crate::chosen_link::ChosenLink;
use crate::cli::link::LinkRunArgs;
use crate::console;
use crate::figures::{clock, epsilon, grouped};
use crate::progress::Progress;
use crate::up::capacity::Capacity;

/// Plays the link for the time asked for, and sums up.
pub(crate) async fn run(args: &LinkRunArgs) -> Result<()> {
    let folder = std::env::current_dir()?;
    let link = ChosenLink::find(&args.played.link, args.loss_db, &folder)?;
    // What gives no key is refused with the reason.
    Capacity::of(&link.preset, 1.0)?;
    let seed = background::seed_or_fresh(args.played.seed);
    let files = BlockFiles::create(args.csv.as_deref(), args.json.as_deref(), &link, seed)?;
    let eve = Eve::intercepting(args.eve.unwrap_or_default());
    let (asked, pace) = (args.run_for, if args.real_time { Pace::RealTime } else { Pace::Fast });
    console::out(heading(&link, asked, args.eve, seed));
    console::out(table::HEADER);
    let run = Run { link, seed, eve, asked, pace, files, told: 0 };
    let lines = background::run(move |stop| run.play(stop)).await?;
    console::out("");
    lines.iter().for_each(console::out);
    Ok(())
}

/// How fast link time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As fast as the machine can.
    Fast,
    /// As on the wall.
    RealTime,
}

struct Run {
    link: ChosenLink,
    seed: u64,
    eve: Eve,
    asked: Span,
    pace: Pace,
    files: BlockFiles,
    /// How many blocks have been told.
    told: usize,
}

impl Run {
    /// Plays until the time is over or somebody wants an end; returns the summary.
    fn play(mut self, stop: &Stop) -> Result<Vec<String>> {
        let mut link = VirtualLink::start(&self.link.preset, self.eve, self.seed)?;
        let mut progress = Progress::start();
        let mut now = Span::ZERO;
        link.run_watched(self.asked, |ends| {
            // Both ends have compared the keys; nobody else gets them.
            drop(ends.take_blocks());
            now = ends.now().since(Timestamp::START);
            self.tell_blocks(ends.ledger(), &mut progress)?;
            let done = Fraction::of(now.as_micros(), self.asked.as_micros());
            progress.tell(done, || format!("{} of {} of link time", clock(now), clock(self.asked)));
            if self.pace == Pace::RealTime {
                wait_until(now, &progress, stop);
            }
            Ok(if stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        progress.clear();
        let summary = RunSummary::of(&self.link.preset, link.ledger());
        let mut lines = vec![time_line(now, self.asked, progress.elapsed())];
        lines.extend(summary_lines(&self.link, &summary));
        Ok(lines)
    }

    fn tell_blocks(&mut self, ledger: &[BlockLedger], progress: &mut Progress) -> Result<()> {
        for block in ledger.iter().skip(self.told) {
            self.told += 1;
            self.files.add(block)?;
            progress.clear();
            console::out(BlockLine::from(block));
        }
        Ok(())
    }
}

/// Waits until the wall has caught up with the link, in steps short enough to be stopped in.
fn wait_until(now: Span, progress: &Progress, stop: &Stop) {
    const STEP: Span = Span::from_millis(50);
    while progress.elapsed() < now && !stop.is_asked() {
        let left = Span::from_micros(
            now.as_micros() - progress.elapsed().as_micros().min(now.as_micros()),
        );
        std::thread::sleep(Duration::from(left.min(STEP)));
    }
}

fn heading(link: &ChosenLink, asked: Span, eve: Option<Fraction>, seed: u64) -> String {
    let eve = eve.filter(|share| *share > Fraction::ZERO);
    let eve = eve.map(|share| format!("; an eavesdropper measures {share} of the pulses"));
    format!(
        "{} for {} of link time (simulated){}; --seed {seed} plays it again",
        link.in_words(),
        clock(asked),
        eve.unwrap_or_default()
    )
}

fn time_line(now: Span, asked: Span, spent: Span) -> String {
    let asked = (now < asked).then(|| format!(" of the {} asked for", clock(asked)));
    let times = now.as_secs_f64() / spent.as_secs_f64().max(0.001);
    format!(
        "time      {} of link time{} in {:.1} s: {times:.0} times as fast as real light",
        clock(now),
        asked.unwrap_or_default(),
        spent.as_secs_f64()
    )
}

fn summary_lines(link: &ChosenLink, summary: &RunSummary) -> Vec<String> {
    let mut lines = vec![blocks_line(summary)];
    lines.extend(rate_lines(summary));
    if let Some(qber) = summary.qber {
        let expected = theory::expected(&link.preset).qber;
        lines.push(format!("QBER      {qber}; theory without an eavesdropper {expected}"));
    }
    if let Some(f) = summary.efficiency {
        lines.push(format!(
            "f         {:.3}: bits disclosed by error correction over the least possible",
            f.ratio()
        ));
    }
    lines.push(format!("epsilon   {}", epsilon(&summary.epsilon, "")));
    lines.push(format!("claim     {}: {}", summary.claim, in_words(summary.claim)));
    lines.push(format!(
        "keys      {} of 256 bits (simulated): the same at both ends, compared and destroyed",
        grouped(summary.keys)
    ));
    lines
}

fn blocks_line(summary: &RunSummary) -> String {
    let told = match summary.dropped.as_slice() {
        [] => String::new(),
        counts => format!(" ({})", reasons(counts)),
    };
    format!("blocks    {} kept, {} dropped{told}", summary.kept, summary.n_dropped())
}

fn rate_lines(summary: &RunSummary) -> Vec<String> {
    let Some(estimate) = summary.rate else {
        let why =
            "no full block was kept, so there is no rate: run for longer, or see the outcomes";
        return vec![format!("secret    {why}")];
    };
    let off = 100.0 * (estimate.rate.as_bps() / summary.theory.as_bps() - 1.0);
    let verdict = match estimate.holds(summary.theory) {
        Some(true) => ", inside the interval",
        Some(false) => ", outside the interval",
        None => "",
    };
    let (rate, blocks) = (estimate.rate, estimate.blocks);
    let rate = match estimate.margin {
        Some(margin) => format!(
            "{:.0} ± {:.0} bit/s of key (simulated), 95 % interval over {blocks} kept full blocks",
            rate.as_bps(),
            margin.as_bps()
        ),
        None => {
            format!("{rate} of key (simulated), of one full block: two and more tell an interval")
        }
    };
    vec![
        format!("secret    {rate}"),
        format!(
            "theory    {} at the efficiency measured: the rate is {off:+.1} % off{verdict}",
            summary.theory
        ),
    ]
}

const fn in_words(claim: SecurityClaim) -> &'static str {
    match claim {
        SecurityClaim::EraHeuristic => "the era's reckoning against individual attacks, no bound",
        SecurityClaim::Gllp => "a bound against all attacks on the light, for blocks without end",
        SecurityClaim::FiniteSize => {
            "a bound against all attacks on the light, for each block as it is"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use claviger_distill::Outcome;
    use claviger_security::BlockEpsilon;
    use claviger_wire::classical::DropReason;

    use super::*;
    use crate::up::tally::tests::ledger;

    fn lines(name: &str, blocks: &[BlockLedger]) -> Vec<String> {
        let link = ChosenLink::find(name, None, Path::new("/")).unwrap();
        summary_lines(&link, &RunSummary::of(&link.preset, blocks))
    }

    #[test]
    fn a_run_is_summed_up() {
        let full = |n, secret| BlockLedger {
            sifted: 100_000,
            errors: 1_500,
            leaked: 13_000,
            secret,
            ..ledger(n, Outcome::Kept)
        };
        let dropped = ledger(3, Outcome::Dropped(DropReason::Qber));
        let lines = lines("lab", &[full(1, 7_800), full(2, 7_900), dropped]);
        assert_eq!(
            lines,
            [
                "blocks    2 kept, 1 dropped (1 × error rate above the threshold)",
                "secret    1898 ± 159 bit/s of key (simulated), 95 % interval over 2 kept full blocks",
                "theory    1895 bit/s at the efficiency measured: the rate is +0.2 % off, inside the interval",
                "QBER      1.50 %; theory without an eavesdropper 1.50 %",
                "f         1.157: bits disclosed by error correction over the least possible",
                "epsilon   correctness and authentication 3.0e-18 summed over 3 blocks; of secrecy this claim states none",
                "claim     era-heuristic: the era's reckoning against individual attacks, no bound",
                "keys      58 of 256 bits (simulated): the same at both ends, compared and destroyed",
            ]
        );
    }

    #[test]
    fn a_run_without_a_full_block_says_so() {
        let epsilon =
            BlockEpsilon { secrecy: Fraction::clamped(1e-10), others: Fraction::clamped(1e-18) };
        let block = BlockLedger { epsilon, ..ledger(1, Outcome::Kept) };
        let lines = lines("decoy-1ghz", &[block]);
        assert!(lines[1].contains("no full block was kept"), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("secrecy 1.0e-10")), "{lines:?}");
    }

    #[test]
    fn a_run_that_was_stopped_says_how_far_it_came() {
        let line = time_line(Span::from_secs(150), Span::from_secs(600), Span::from_millis(1_500));
        assert_eq!(
            line,
            "time      02:30 of link time of the 10:00 asked for in 1.5 s: 100 times as fast as real light"
        );
    }
}
