//! The terminal: raw keys in, a picture redrawn in place, and always given back as it was.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal;
use tokio::sync::mpsc::UnboundedSender;

use super::view::Line;

/// What somebody at the keyboard wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The eavesdropper on or off.
    ToggleEve,
    /// An end.
    Quit,
}

/// A terminal in raw mode, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
    drawn: usize,
    gone: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal over, if there is one that can be drawn on; `None` otherwise.
    pub(crate) fn open(wishes: UnboundedSender<Wish>) -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if dumb || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return None;
        }
        terminal::enable_raw_mode().ok()?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let gone = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&gone);
        std::thread::spawn(move || listen(&wishes, &stop));
        // The convention of no-color.org: set and not empty.
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        write(HIDE_CURSOR);
        Some(Self { colours, drawn: 0, gone })
    }

    /// Draws lines over those of the last time; `picture` is told the width.
    pub(crate) fn draw(&mut self, picture: impl FnOnce(usize) -> Vec<Line>) {
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        // The last column stays free: some terminals begin a new line after it.
        let width = usize::from(columns).saturating_sub(1);
        let mut lines = picture(width);
        // Where there is no room for all, the last line stays: it tells the keys.
        while lines.len() >= usize::from(rows).max(2) {
            lines.remove(lines.len() - 2);
        }
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}A", self.drawn));
        }
        for line in &lines {
            let line = if self.colours { line.painted(width) } else { line.text(width) };
            text.push_str(&format!("\r{line}\u{1b}[K\r\n"));
        }
        text.push_str("\u{1b}[J");
        write(&text);
        self.drawn = lines.len();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        restore();
    }
}

const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

fn restore() {
    // A terminal that is gone needs nothing.
    drop(terminal::disable_raw_mode());
    write(SHOW_CURSOR);
}

fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// Reads keys on a thread of its own, since a terminal cannot be waited for otherwise.
fn listen(wishes: &UnboundedSender<Wish>, gone: &AtomicBool) {
    while !gone.load(Ordering::Relaxed) {
        match event::poll(Duration::from_millis(100)) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        let wish = match event::read() {
            Ok(Event::Key(key)) => wish(key),
            Ok(_) => None,
            Err(_) => return,
        };
        if wish.is_some_and(|wish| wishes.send(wish).is_err()) {
            return;
        }
    }
}

/// In raw mode Ctrl-C is a key like any other.
fn wish(key: KeyEvent) -> Option<Wish> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        KeyCode::Char('c' | 'd') if control => Some(Wish::Quit),
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char('e' | 'E') => Some(Wish::ToggleEve),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let key = |code, modifiers| wish(KeyEvent::new(KeyCode::Char(code), modifiers));
        for (code, modifiers, wish) in [
            ('e', KeyModifiers::NONE, Some(Wish::ToggleEve)),
            ('q', KeyModifiers::NONE, Some(Wish::Quit)),
            ('c', KeyModifiers::CONTROL, Some(Wish::Quit)),
            ('c', KeyModifiers::NONE, None),
        ] {
            assert_eq!(key(code, modifiers), wish, "{code}");
        }
    }
}
