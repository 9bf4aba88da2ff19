//! The run itself: reports in, the picture out, until the deadline, a wish or a failure.

use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use claviger_net::clock::Clock;
use claviger_net::shutdown::Ending;
use claviger_roles::Report;
use claviger_units::{Fraction, Span, Timestamp};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::beginning::Beginning;
use super::ledger_file::LedgerFile;
use super::lines::PlainLines;
use super::network::{self, DEVICES, Ended, Network};
use super::screen::{Screen, Wish};
use super::tally::Tally;
use super::view::{self, Picture};
use crate::console;
use crate::signals::Signals;

/// Everything that a run needs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) clock: Clock,
    pub(crate) network: Network,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) ledger: LedgerFile,
    pub(crate) tally: Tally,
    pub(crate) surface: Surface,
    pub(crate) wishes: mpsc::UnboundedReceiver<Wish>,
    pub(crate) signals: Signals,
    pub(crate) eavesdropper: Eavesdropper,
    pub(crate) length: Option<Span>,
}

/// Where a run shows itself.
#[derive(Debug)]
pub(crate) enum Surface {
    /// Drawn on a terminal.
    Live(Screen),
    /// Lines on the standard output.
    Out(PlainLines),
    /// Lines on the standard error.
    Err(PlainLines),
}

/// What the standard output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// All that is shown.
    Everything,
    /// One JSON object at the end, and nothing else.
    Json,
}

impl Surface {
    /// Takes the terminal where there is one to draw on, and lines elsewhere.
    pub(crate) fn open(output: Output, keys: mpsc::UnboundedSender<Wish>) -> Self {
        match output {
            Output::Json => Self::Err(PlainLines::default()),
            Output::Everything => {
                Screen::open(keys).map_or_else(|| Self::Out(PlainLines::default()), Self::Live)
            }
        }
    }
}

/// The eavesdropper, who is there or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Eavesdropper {
    share: Fraction,
    when_there: Fraction,
}

impl Eavesdropper {
    /// She listens to this share from the start; to half of the pulses if she comes later.
    pub(crate) fn from_the_start(share: Fraction) -> Self {
        let when_there = if share > Fraction::ZERO { share } else { Fraction::clamped(0.5) };
        Self { share, when_there }
    }

    /// Returns her share of the pulses now.
    pub(crate) const fn share(self) -> Fraction {
        self.share
    }

    fn toggle(&mut self) {
        let there = self.share > Fraction::ZERO;
        self.share = if there { Fraction::ZERO } else { self.when_there };
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// What went wrong besides what the roles have reported.
    pub(crate) faults: Vec<String>,
    /// The errors that roles ended with, the first one first.
    pub(crate) failures: Vec<(&'static str, Error)>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running {
        until: Option<Timestamp>,
    },
    /// The devices have been told to stop; what is in flight arrives.
    Draining {
        until: Timestamp,
        devices_gone: bool,
    },
    Over,
}

const DRAIN: Span = Span::from_secs(5);
const FRAME: Duration = Duration::from_millis(250);

impl Session {
    /// Runs to the end.
    pub(crate) async fn run(mut self, beginning: Beginning) -> Result<Outcome> {
        let until = self.length.map(|length| self.tally.facts.started + length);
        let mut phase = Phase::Running { until };
        let mut failures = Vec::new();
        for report in beginning.reports {
            self.note(report)?;
        }
        if let Some(ended) = beginning.ended {
            phase = self.handle_ended(phase, ended, &mut failures);
        }
        if beginning.is_interrupted {
            phase = self.handle_wish(phase, Wish::Quit);
        }
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while phase != Phase::Over {
            let deadline = phase.deadline();
            tokio::select! {
                Some(report) = self.reports.recv() => self.note(report)?,
                Some(ended) = self.network.ended.recv() => {
                    phase = self.handle_ended(phase, ended, &mut failures);
                }
                ending = &mut self.network.tasks => {
                    // Somebody gave the signal to stop, and everybody has.
                    return self.conclude(Some(network::ending(ending)), failures).await;
                }
                Some(wish) = self.wishes.recv() => phase = self.handle_wish(phase, wish),
                () = self.signals.next() => phase = self.handle_wish(phase, Wish::Quit),
                () = self.clock.sleep_until(deadline) => phase = self.handle_deadline(phase),
                _ = frames.tick() => {
                    self.show(phase);
                    phase = self.settled(phase);
                }
            }
        }
        self.show(phase);
        self.conclude(None, failures).await
    }

    fn note(&mut self, report: Report) -> Result<()> {
        if let Report::Block(block) = &report {
            self.ledger.add(block)?;
        }
        self.tally.handle_report(self.clock.now(), report);
        Ok(())
    }

    fn handle_ended(
        &self,
        phase: Phase,
        ended: Ended,
        failures: &mut Vec<(&'static str, Error)>,
    ) -> Phase {
        match (ended.result, phase) {
            (Ok(()), Phase::Draining { until, .. }) if ended.role == DEVICES => {
                Phase::Draining { until, devices_gone: true }
            }
            // A role that fails may stop the others: wait for the one with the reason.
            (Ok(()), _) if self.network.is_stopping() => phase,
            (Ok(()), _) => {
                failures.push((ended.role, anyhow!("it has ended by itself; see the log")));
                Phase::Over
            }
            (Err(error), _) => {
                failures.push((ended.role, error.into()));
                Phase::Over
            }
        }
    }

    fn handle_wish(&mut self, phase: Phase, wish: Wish) -> Phase {
        match (wish, phase) {
            (Wish::ToggleEve, Phase::Running { .. }) => {
                self.eavesdropper.toggle();
                self.network.set_eve(self.eavesdropper.share());
                phase
            }
            (Wish::ToggleEve, _) => phase,
            (Wish::Quit, Phase::Running { .. }) => self.drain(),
            // Whoever asks twice does not want to wait.
            (Wish::Quit, _) => Phase::Over,
        }
    }

    fn handle_deadline(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Running { .. } => self.drain(),
            Phase::Draining { .. } | Phase::Over => Phase::Over,
        }
    }

    fn drain(&self) -> Phase {
        self.network.stop_devices();
        Phase::Draining { until: self.clock.now() + DRAIN, devices_gone: false }
    }

    /// Ends the draining when nothing is in flight any more.
    fn settled(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Draining { devices_gone: true, .. } if self.tally.missing() == 0 => Phase::Over,
            _ => phase,
        }
    }

    fn show(&mut self, phase: Phase) {
        let now = self.clock.now();
        let eve = self.eavesdropper;
        match &mut self.surface {
            Surface::Live(screen) => {
                let picture = Picture {
                    tally: &self.tally,
                    elapsed: now.since(self.tally.facts.started),
                    length: self.length,
                    eve: eve.share,
                    eve_next: eve.when_there,
                    ending: !matches!(phase, Phase::Running { .. }),
                };
                screen.draw(|width| view::render(&picture, width));
            }
            Surface::Out(lines) => {
                lines.next(now, &self.tally, eve.share).into_iter().for_each(console::out);
            }
            Surface::Err(lines) => {
                lines.next(now, &self.tally, eve.share).into_iter().for_each(console::err);
            }
        }
    }

    /// Stops the roles, unless they have stopped, and gathers what they still had to say.
    async fn conclude(
        mut self,
        stopped: Option<Ending>,
        mut failures: Vec<(&'static str, Error)>,
    ) -> Result<Outcome> {
        let by_themselves = stopped.is_some();
        let ending = match stopped {
            Some(ending) => ending,
            None => self.network.finish().await,
        };
        while let Ok(Ended { role, result }) = self.network.ended.try_recv() {
            failures.extend(result.err().map(|error| (role, error.into())));
        }
        while let Ok(report) = self.reports.try_recv() {
            self.note(report)?;
        }
        let panicked = ending.panicked.iter();
        let mut faults: Vec<String> =
            panicked.map(|role| format!("the role {role} panicked; see the log")).collect();
        for role in ending.cut_off {
            tracing::warn!(role, "did not stop in time and was cut off");
        }
        if by_themselves && faults.is_empty() && failures.is_empty() {
            faults.push("the roles have stopped by themselves; see the log".to_owned());
        }
        // The terminal is given back before anything else is said.
        drop(self.surface);
        Ok(Outcome { tally: self.tally, faults, failures })
    }
}

impl Phase {
    const fn deadline(self) -> Option<Timestamp> {
        match self {
            Self::Running { until } => until,
            Self::Draining { until, .. } => Some(until),
            Self::Over => None,
        }
    }
}
