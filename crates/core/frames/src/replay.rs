//! Which counters of an epoch have been seen (`PROTOCOL.md` P3d).

use alloc::vec::Vec;

/// What a window knows of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never marked.
    Fresh,
    /// Marked before.
    Seen,
    /// So far behind that it can no longer be told; treat it as seen.
    TooOld,
}

/// Remembers the newest counter and which of the 1023 below it have been seen.
///
/// Check, act, then [`mark`](Self::mark) in the same transaction as the action.
///
/// ```
/// use claviger_frames::{ReplayWindow, Seen};
///
/// let mut window = ReplayWindow::new();
/// window.mark(2000);
/// assert_eq!(window.check(2000), Seen::Seen);
/// assert_eq!(window.check(1999), Seen::Fresh);
/// assert_eq!(window.check(2000 - 1024), Seen::TooOld);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ReplayWindow {
    highest: Option<u32>,
    // Invariant: bit `counter % 1024` tells of the one counter of that residue inside the window;
    // bits of residues that the window does not yet reach are zero.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Makes a window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { highest: None, seen: [0; WORDS] }
    }

    /// Makes a window that has seen everything up to `counter`.
    #[must_use]
    pub fn passed(counter: u32) -> Self {
        let mut window = Self { highest: Some(counter), seen: [0; WORDS] };
        for seen in counter.saturating_sub(WIDTH - 1)..=counter {
            window.set(seen);
        }
        window
    }

    /// Makes a window that takes nothing: of an epoch whose messages nobody can tell from replays any more.
    #[must_use]
    pub fn closed() -> Self {
        Self::passed(u32::MAX)
    }

    /// Tells whether it takes nothing, whatever the counter.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.highest, Some(u32::MAX))
    }

    /// Returns the highest counter marked so far.
    #[must_use]
    pub const fn highest(&self) -> Option<u32> {
        self.highest
    }

    /// Tells whether `counter` has been marked.
    #[must_use]
    pub fn check(&self, counter: u32) -> Seen {
        match self.highest {
            Some(highest) if counter <= highest && highest - counter >= WIDTH => Seen::TooOld,
            Some(highest) if counter <= highest && self.is_set(counter) => Seen::Seen,
            _ => Seen::Fresh,
        }
    }

    /// Remembers `counter`; what is too old leaves no trace.
    pub fn mark(&mut self, counter: u32) {
        match self.highest {
            Some(highest) if counter <= highest => {
                if highest - counter >= WIDTH {
                    return;
                }
            }
            Some(highest) if counter - highest < WIDTH => {
                for passed in highest + 1..counter {
                    self.clear(passed);
                }
                self.highest = Some(counter);
            }
            _ => *self = Self { highest: Some(counter), seen: [0; WORDS] },
        }
        self.set(counter);
    }

    /// Writes the window as a flag, the highest counter and the bits: 133 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 4 + WORDS * 8);
        bytes.push(u8::from(self.highest.is_some()));
        bytes.extend(self.highest.unwrap_or(0).to_be_bytes());
        for word in self.seen {
            bytes.extend(word.to_be_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[flag, a, b, c, d], bits) = bytes.split_first_chunk()?;
        let highest = match (flag, u32::from_be_bytes([a, b, c, d])) {
            (0, 0) => None,
            (1, highest) => Some(highest),
            _ => return None,
        };
        let (words, []) = bits.as_chunks::<8>() else { return None };
        let words: &[[u8; 8]; WORDS] = words.try_into().ok()?;
        let window = Self { highest, seen: words.map(u64::from_be_bytes) };
        window.is_sound().then_some(window)
    }

    /// Tells whether the bits can have come from marking.
    fn is_sound(&self) -> bool {
        match self.highest {
            None => self.seen == [0; WORDS],
            Some(highest) => {
                self.is_set(highest) && (highest.saturating_add(1)..WIDTH).all(|n| !self.is_set(n))
            }
        }
    }

    fn is_set(&self, counter: u32) -> bool {
        let (word, bit) = place(counter);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }

    fn set(&mut self, counter: u32) {
        let (word, bit) = place(counter);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }

    fn clear(&mut self, counter: u32) {
        let (word, bit) = place(counter);
        if let Some(word) = self.seen.get_mut(word) {
            *word &= !bit;
        }
    }
}

/// Returns the word and the bit in it of a counter; the word is always one of the window.
const fn place(counter: u32) -> (usize, u64) {
    let at = counter % WIDTH;
    ((at / u64::BITS) as usize, 1 << (at % u64::BITS))
}

/// How many counters the window spans; `PROTOCOL.md` P3d asks for 1024 at least.
const WIDTH: u32 = 1024;
const WORDS: usize = (WIDTH / u64::BITS) as usize;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    /// The window by definition: a set of all that was marked.
    #[derive(Default)]
    struct Model(BTreeSet<u32>);

    impl Model {
        fn check(&self, counter: u32) -> Seen {
            let highest = self.0.last().copied().unwrap_or(0);
            match (u64::from(counter) + 1024 <= u64::from(highest), self.0.contains(&counter)) {
                (true, _) => Seen::TooOld,
                (false, true) => Seen::Seen,
                (false, false) => Seen::Fresh,
            }
        }

        fn mark(&mut self, counter: u32) {
            if self.check(counter) != Seen::TooOld {
                self.0.insert(counter);
            }
        }
    }

    #[test]
    fn damaged_windows_are_refused() {
        let mut window = ReplayWindow::new();
        window.mark(5);
        let good = window.to_bytes();
        assert_eq!(ReplayWindow::from_bytes(&good), Some(window));
        assert_eq!(ReplayWindow::from_bytes(&good[1..]), None);
        assert_eq!(ReplayWindow::from_bytes(&[&good[..], &[0]].concat()), None);
        for (at, byte) in [(0, 2), (0, 0), (4, 6), (12, 0), (132, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(ReplayWindow::from_bytes(&bad), None, "byte {at} = {byte}");
        }
    }

    #[test]
    fn a_window_that_has_passed_a_counter_takes_what_is_above_it() {
        for counter in [0, 5, 1022, 1023, 1024, 70_000] {
            let window = ReplayWindow::passed(counter);
            assert!((0..=counter).rev().take(3000).all(|n| window.check(n) != Seen::Fresh));
            assert_eq!(window.check(counter + 1), Seen::Fresh);
            assert_eq!(ReplayWindow::from_bytes(&window.to_bytes()), Some(window.clone()));
            assert!(!window.is_closed());
        }
        let closed = ReplayWindow::closed();
        assert!(closed.is_closed() && closed.check(u32::MAX) == Seen::Seen);
        assert_eq!(ReplayWindow::from_bytes(&closed.to_bytes()), Some(closed));
    }

    proptest! {
        #[test]
        fn it_does_what_a_set_does(
            start in prop_oneof![Just(0), Just(u32::MAX - 6000), any::<u32>()],
            steps in prop::collection::vec((0..3000_u32, any::<bool>()), 1..200),
        ) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());
            let mut near = start;
            for (step, ahead) in steps {
                let counter = if ahead {
                    near.saturating_add(step)
                } else {
                    near.saturating_sub(step % 1100)
                };
                prop_assert_eq!(window.check(counter), model.check(counter));
                window.mark(counter);
                model.mark(counter);
                prop_assert_eq!(window.check(counter), model.check(counter));
                prop_assert_eq!(ReplayWindow::from_bytes(&window.to_bytes()), Some(window.clone()));
                near = near.max(counter);
            }
        }

        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..140)) {
            let _: Option<_> = ReplayWindow::from_bytes(&bytes);
        }
    }
}
