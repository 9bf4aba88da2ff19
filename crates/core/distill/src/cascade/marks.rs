//! Where the parts of a pass begin, and which of them are odd.

/// Two sets of indices, one bit each, side by side: one look at memory serves both.
#[derive(Debug)]
pub(super) struct Marks(Vec<Word>);

#[derive(Clone, Copy, Debug, Default)]
struct Word {
    cuts: u64,
    odd: u64,
}

impl Marks {
    /// Makes empty sets of indices below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        Self(vec![Word::default(); bound.div_ceil(64)])
    }

    pub(super) fn is_cut(&self, index: usize) -> bool {
        self.0[index / 64].cuts >> (index % 64) & 1 == 1
    }

    pub(super) fn cut(&mut self, index: usize) {
        self.0[index / 64].cuts |= 1 << (index % 64);
    }

    pub(super) fn join(&mut self, index: usize) {
        self.0[index / 64].cuts &= !(1 << (index % 64));
    }

    pub(super) fn is_odd(&self, index: usize) -> bool {
        self.0[index / 64].odd >> (index % 64) & 1 == 1
    }

    pub(super) fn set_odd(&mut self, index: usize) {
        self.0[index / 64].odd |= 1 << (index % 64);
    }

    pub(super) fn set_even(&mut self, index: usize) {
        self.0[index / 64].odd &= !(1 << (index % 64));
    }

    /// Returns the last cut up to `index`, 0 if there is none.
    pub(super) fn last_cut(&self, index: usize) -> usize {
        let mut at = index / 64;
        let mut word = self.0[at].cuts & u64::MAX >> (63 - index % 64);
        while word == 0 && at > 0 {
            at -= 1;
            word = self.0[at].cuts;
        }
        at * 64 + word.checked_ilog2().unwrap_or(0) as usize
    }

    /// Returns the first cut above `index`.
    pub(super) fn next_cut(&self, index: usize) -> Option<usize> {
        let mut at = index / 64;
        // Two shifts, because one by 64 would be none.
        let mut word = self.0[at].cuts & u64::MAX << 1 << (index % 64);
        while word == 0 {
            at += 1;
            word = self.0.get(at)?.cuts;
        }
        Some(at * 64 + word.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn neighbours_are_those_of_a_tree(cuts: Vec<u8>, at in 0_usize..256) {
            let mut marks = Marks::new(256);
            cuts.iter().for_each(|&cut| marks.cut(cut.into()));
            let tree: std::collections::BTreeSet<usize> =
                cuts.iter().map(|&cut| cut.into()).collect();
            let before = tree.range(..=at).next_back().copied();
            prop_assert_eq!(marks.last_cut(at), before.unwrap_or(0));
            prop_assert_eq!(marks.next_cut(at), tree.range(at + 1..).next().copied());
            prop_assert_eq!(marks.is_cut(at), tree.contains(&at));
        }
    }
}
