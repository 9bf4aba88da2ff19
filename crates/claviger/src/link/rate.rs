//! `claviger link rate`: the rate of key over loss, as a table and a chart.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context as _, Result};
use claviger_lab::rate::{RatePoint, RateRun};
use claviger_lab::summary::RunSummary;
use claviger_photonics::LinkPreset;
use claviger_units::Fraction;

use super::background::{self, Stop};
use super::block_files::Lines;
use super::chart::Chart;
use super::rate_table::{self, RateRow};
use crate::chosen_link::ChosenLink;
use crate::cli::link::LinkRateArgs;
use crate::console;
use crate::progress::Progress;

/// Works through the losses, and writes table and files.
pub(crate) async fn run(args: &LinkRateArgs) -> Result<()> {
    let link = ChosenLink::find(&args.played.link, None, &std::env::current_dir()?)?;
    let losses = args.loss_db.points(args.step)?;
    let seed = background::seed_or_fresh(args.played.seed);
    // Before hours of work it is known whether they can be written.
    let csv = args.csv.as_deref().map(Lines::create).transpose()?;
    let svg = args.svg.as_deref().map(Lines::create).transpose()?;
    console::out(rate_table::heading(link.preset.name(), &link.preset, args.blocks, seed));
    let (preset, blocks) = (link.preset.clone(), usize::from(args.blocks));
    let rows = background::run(move |stop| {
        let points: Vec<_> = losses.iter().map(|loss| RatePoint::of(&preset, *loss)).collect();
        Sweep { preset, points, blocks, seed }.run(stop)
    })
    .await?;
    rate_table::lines(&rows).iter().for_each(console::out);
    if let Some(mut csv) = csv {
        csv.add(rate_table::CSV_HEADER)?;
        rows.iter().try_for_each(|row| csv.add(&row.to_csv(&link.preset, seed)))?;
    }
    if let Some(mut svg) = svg {
        svg.add(&Chart::of(&link.preset, &rows).to_svg()?)?;
    }
    Ok(())
}

/// Points that are worked through on all cores.
struct Sweep {
    preset: LinkPreset,
    points: Vec<RatePoint>,
    blocks: usize,
    seed: u64,
}

/// What a worker tells of the point with that number.
enum News {
    Progress(usize, Fraction),
    Done(usize, Result<RunSummary>),
}

impl Sweep {
    fn run(self, stop: &Stop) -> Result<Vec<RateRow>> {
        // What gives no key is not played.
        let playable: Vec<usize> = match self.blocks {
            0 => Vec::new(),
            _ => (0..self.points.len()).filter(|n| self.points[*n].key.is_ok()).collect(),
        };
        let next = AtomicUsize::new(0);
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let done = thread::scope(|scope| {
            let (told, heard) = mpsc::channel();
            for _ in 0..cores.min(playable.len()) {
                let (told, next, playable, sweep) = (told.clone(), &next, &playable, &self);
                scope.spawn(move || {
                    while let Some(n) = playable.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let done = sweep.play(*n, stop, &told);
                        drop(told.send(News::Done(*n, done)));
                    }
                });
            }
            drop(told);
            self.gather(&heard, playable.len())
        })?;
        Ok(self.points.into_iter().zip(done).map(|(point, run)| RateRow { point, run }).collect())
    }

    /// Plays a point until it has its blocks, or somebody wants an end.
    fn play(&self, n: usize, stop: &Stop, told: &Sender<News>) -> Result<RunSummary> {
        let loss = self.points[n].loss;
        let mut run = RateRun::start(&self.preset, loss, self.blocks, self.seed)?;
        while !run.is_over() && !stop.is_asked() {
            run.run_window().with_context(|| format!("the link with {loss} failed"))?;
            drop(told.send(News::Progress(n, run.progress())));
        }
        Ok(run.summary())
    }

    /// Listens until all workers have gone.
    fn gather(&self, heard: &Receiver<News>, playable: usize) -> Result<Vec<Option<RunSummary>>> {
        let mut progress = Progress::start();
        let mut parts = vec![Fraction::ZERO; self.points.len()];
        let mut done: Vec<Option<RunSummary>> = vec![None; self.points.len()];
        for news in heard {
            match news {
                News::Progress(n, part) => parts[n] = part,
                News::Done(n, summary) => {
                    (parts[n], done[n]) = (Fraction::ONE, Some(summary?));
                }
            }
            let sum: f64 = parts.iter().map(|part| part.as_f64()).sum();
            let ended = done.iter().flatten().count();
            let whole = f64::from(u32::try_from(playable).unwrap_or(u32::MAX));
            progress
                .tell(Fraction::clamped(sum / whole), || format!("{ended} of {playable} losses"));
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use claviger_units::Decibels;

    use super::*;

    #[test]
    fn points_are_the_same_on_any_number_of_cores_and_in_any_company() {
        let preset = LinkPreset::named("lab").unwrap();
        let rows = |losses: &[f64]| {
            let losses = losses.iter().map(|db| Decibels::from_db(*db).unwrap());
            let points = losses.map(|loss| RatePoint::of(&preset, loss)).collect();
            let sweep = Sweep { preset: preset.clone(), points, blocks: 2, seed: 7 };
            sweep.run(&Stop::default()).unwrap()
        };
        let (alone, together) = (rows(&[6.0]), rows(&[4.0, 6.0, 30.0]));
        assert_eq!(alone[0], together[1]);
        let blocks = |row: &RateRow| row.run.as_ref().and_then(|run| run.rate).map(|r| r.blocks);
        assert_eq!(together.iter().map(blocks).collect::<Vec<_>>(), [Some(2), Some(2), None]);
        assert!(together[2].point.key.is_err() && together[2].run.is_none());
    }
}
