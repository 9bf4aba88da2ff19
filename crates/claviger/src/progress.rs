//! How far long work has come, on the standard error: one line that is rewritten on a terminal,
//! elsewhere a line every ten seconds.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use claviger_units::{Fraction, Span};

use crate::console;
use crate::figures::clock;

/// Work that tells how far it has come.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    last: Instant,
    surface: Surface,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    Terminal { is_drawn: bool },
    Lines,
}

impl Progress {
    /// Begins now.
    pub(crate) fn start() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let surface = match io::stderr().is_terminal() && !dumb {
            true => Surface::Terminal { is_drawn: false },
            false => Surface::Lines,
        };
        let now = Instant::now();
        Self { started: now, last: now, surface }
    }

    /// Returns the time since the beginning.
    pub(crate) fn elapsed(&self) -> Span {
        self.started.elapsed().into()
    }

    /// Tells how far it is, when it is time.
    pub(crate) fn tell(&mut self, done: Fraction, of_what: impl FnOnce() -> String) {
        if self.last.elapsed() < self.surface.pace() {
            return;
        }
        self.last = Instant::now();
        let line = line(done, self.elapsed(), &of_what());
        match &mut self.surface {
            Surface::Terminal { is_drawn } => {
                *is_drawn = true;
                rewrite(&line);
            }
            Surface::Lines => console::err(line),
        }
    }

    /// Makes room for other lines.
    pub(crate) fn clear(&mut self) {
        if let Surface::Terminal { is_drawn } = &mut self.surface
            && std::mem::take(is_drawn)
        {
            rewrite("");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Surface {
    const fn pace(self) -> Duration {
        match self {
            Self::Terminal { .. } => Duration::from_millis(200),
            Self::Lines => Duration::from_secs(10),
        }
    }
}

fn rewrite(line: &str) {
    let mut err = io::stderr().lock();
    // A terminal that is gone needs no progress.
    drop(write!(err, "\r{line}\u{1b}[K").and_then(|()| err.flush()));
}

fn line(done: Fraction, elapsed: Span, of_what: &str) -> String {
    let (percent, spent) = (done.as_percent(), elapsed.as_secs_f64());
    // The first moments tell nothing about the rest.
    let left = match done.as_f64() {
        share if share > 0.0 && spent >= 1.0 => {
            let left = Span::from_secs_f64(spent * (1.0 - share) / share);
            format!(", about {} left", clock(left))
        }
        _ => String::new(),
    };
    format!("{percent:3.0} %  {of_what}  {} spent{left}", clock(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_in_ten_seconds_leaves_half_a_minute() {
        assert_eq!(
            line(Fraction::clamped(0.25), Span::from_secs(10), "15:00 of 1:00:00 of link time"),
            " 25 %  15:00 of 1:00:00 of link time  00:10 spent, about 00:30 left"
        );
        assert_eq!(line(Fraction::ZERO, Span::from_secs(10), "x"), "  0 %  x  00:10 spent");
    }
}
