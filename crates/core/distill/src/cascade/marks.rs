//! A set of indices, one bit each.

/// Indices below a bound.
#[derive(Debug)]
pub(super) struct Marks(Vec<u64>);

impl Marks {
    /// Makes an empty set of indices below `bound`.
    pub(super) fn new(bound: usize) -> Self {
        Self(vec![0; bound.div_ceil(64)])
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.0[index / 64] &= !(1 << (index % 64));
    }

    /// Takes the index in, or out where it was in; tells whether it is in now.
    pub(super) fn toggle(&mut self, index: usize) -> bool {
        self.0[index / 64] ^= 1 << (index % 64);
        self.has(index)
    }

    /// Toggles the index where `so`.
    pub(super) fn toggle_if(&mut self, so: bool, index: usize) {
        self.0[index / 64] ^= u64::from(so) << (index % 64);
    }

    /// Returns the last index of the set up to `index`, 0 if there is none.
    pub(super) fn last_up_to(&self, index: usize) -> usize {
        let mut at = index / 64;
        let mut word = self.0[at] & u64::MAX >> (63 - index % 64);
        while word == 0 && at > 0 {
            at -= 1;
            word = self.0[at];
        }
        at * 64 + word.checked_ilog2().unwrap_or(0) as usize
    }

    /// Returns the first index of the set above `index`.
    pub(super) fn first_above(&self, index: usize) -> Option<usize> {
        let mut at = index / 64;
        // Two shifts, because one by 64 would be none.
        let mut word = self.0[at] & u64::MAX << 1 << (index % 64);
        while word == 0 {
            at += 1;
            word = *self.0.get(at)?;
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
        fn neighbours_are_those_of_a_tree(members: Vec<u8>, at in 0_usize..256) {
            let mut marks = Marks::new(256);
            members.iter().for_each(|&member| marks.insert(member.into()));
            let tree: std::collections::BTreeSet<usize> =
                members.iter().map(|&member| member.into()).collect();
            prop_assert_eq!(marks.last_up_to(at), tree.range(..=at).next_back().copied().unwrap_or(0));
            prop_assert_eq!(marks.first_above(at), tree.range(at + 1..).next().copied());
            prop_assert_eq!(marks.has(at), tree.contains(&at));
            prop_assert_eq!(marks.toggle(at), !tree.contains(&at));
        }
    }
}
