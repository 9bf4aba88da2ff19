//! Which slots hold a seed and which are free.

/// The slots of a store: numbered from 1 without gaps, each holding a seed or zeros.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    // The lowest at the end, so that the file fills from the front.
    free: Vec<i64>,
    highest: i64,
}

impl Slots {
    /// Takes over what the database says: the free slots in falling order, and the highest.
    pub(crate) const fn new(free: Vec<i64>, highest: i64) -> Self {
        Self { free, highest }
    }

    /// Takes a free slot, or the one behind the highest.
    pub(crate) fn take(&mut self) -> i64 {
        self.free.pop().unwrap_or_else(|| {
            self.highest += 1;
            self.highest
        })
    }

    pub(crate) fn give_back(&mut self, slot: i64) {
        self.free.push(slot);
    }

    /// Undoes a `give_back`.
    pub(crate) fn keep(&mut self, slot: i64) {
        if let Some(at) = self.free.iter().rposition(|&free| free == slot) {
            self.free.remove(at);
        }
    }
}
