use alloc::vec::Vec;

use crate::Site;

/// How the keys of a block are split between the sites that own them (`PROTOCOL.md` P1).
///
/// ```
/// use claviger_units::{OwnerRatio, Site};
///
/// let owners = OwnerRatio::INITIAL.owners(16);
/// assert_eq!(owners.iter().filter(|owner| **owner == Site::B).count(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerRatio {
    // Invariant: 1 to 63, so that neither site is ever left without a key.
    of_b_in_64: u8,
}

impl OwnerRatio {
    /// What holds before either site has asked for anything: 7/8 to A, 1/8 to B.
    pub const INITIAL: Self = Self { of_b_in_64: 8 };

    /// What holds while site B has all the keys that it may own, and asks for none.
    pub const ALL_TO_A: Self = Self { of_b_in_64: 0 };

    /// Gives site B so many of 64 keys, at least 1 and at most 63.
    #[must_use]
    pub fn from_64ths_of_b(parts: u64) -> Self {
        Self { of_b_in_64: u8::try_from(parts.clamp(1, 63)).unwrap_or(63) }
    }

    /// Returns how many of 64 keys go to a site.
    #[must_use]
    pub const fn in_64(self, site: Site) -> u8 {
        match site {
            Site::A => 64 - self.of_b_in_64,
            Site::B => self.of_b_in_64,
        }
    }

    /// Returns an owner for each of `n_keys` keys, spread evenly; of two or more, each site gets
    /// at least one, unless [all go to A](Self::ALL_TO_A).
    #[must_use]
    pub fn owners(self, n_keys: usize) -> Vec<Site> {
        let of_b = self.n_of_b(n_keys);
        let before = |index: usize| index * of_b / n_keys.max(1);
        let owner = |index| if before(index + 1) > before(index) { Site::B } else { Site::A };
        (0..n_keys).map(owner).collect()
    }

    /// Returns how many of `n_keys` keys [`owners`](Self::owners) gives to a site.
    #[must_use]
    pub fn n_of(self, site: Site, n_keys: usize) -> usize {
        match site {
            Site::A => n_keys - self.n_of_b(n_keys),
            Site::B => self.n_of_b(n_keys),
        }
    }

    fn n_of_b(self, n_keys: usize) -> usize {
        let parts = usize::from(self.of_b_in_64);
        let least = usize::from(n_keys > 1 && parts > 0);
        (n_keys * parts / 64).clamp(least, n_keys.saturating_sub(1).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts_of_b: u64, n_keys: usize, bobs: usize) {
        let owners = OwnerRatio::from_64ths_of_b(parts_of_b).owners(n_keys);
        assert_eq!(owners.len(), n_keys);
        let got = owners.into_iter().filter(|owner| *owner == Site::B).count();
        assert_eq!(got, bobs, "{parts_of_b}/64 of {n_keys} keys");
        let ratio = OwnerRatio::from_64ths_of_b(parts_of_b);
        assert_eq!(
            (ratio.n_of(Site::A, n_keys), ratio.n_of(Site::B, n_keys)),
            (n_keys - bobs, bobs)
        );
    }

    #[test]
    fn all_may_go_to_a() {
        assert_eq!(OwnerRatio::ALL_TO_A.owners(9), [Site::A; 9]);
        assert_eq!(OwnerRatio::ALL_TO_A.in_64(Site::B), 0);
    }

    /// `PROTOCOL.md` P1: at first 7/8 A, 1/8 B, each at least one key.
    #[test]
    fn the_first_blocks_are_split_seven_to_one() {
        assert_eq!(OwnerRatio::INITIAL, OwnerRatio::from_64ths_of_b(8));
        for (n_keys, bobs) in
            [(0, 0), (1, 0), (2, 1), (3, 1), (8, 1), (64, 8), (144, 18), (200, 25)]
        {
            check(8, n_keys, bobs);
        }
    }

    #[test]
    fn neither_site_is_left_without() {
        for (parts_of_b, bobs) in [(0, 1), (1, 1), (63, 8), (64, 8), (u64::MAX, 8)] {
            check(parts_of_b, 9, bobs);
            check(parts_of_b, 2, 1);
        }
        for parts_of_b in [0, 8, 64] {
            let ratio = OwnerRatio::from_64ths_of_b(parts_of_b);
            assert_eq!(ratio.in_64(Site::A) + ratio.in_64(Site::B), 64);
        }
    }
}
