//! What is claimed of a key.

use std::fmt;
use std::str::FromStr;

/// The security that a key is claimed to have; later variants claim more.
///
/// The claim is about the accounting only. Whether the light was real is told elsewhere.
///
/// ```
/// use claviger_security::SecurityClaim;
///
/// assert_eq!(SecurityClaim::FiniteSize.to_string(), "finite-size");
/// assert_eq!("gllp".parse(), Ok(SecurityClaim::Gllp));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecurityClaim {
    /// The secret fraction of the era of the paper's hardware: trusted detectors, individual
    /// attacks. A heuristic, not a bound even in its class; it states no ε (PHYSICS.md §1).
    EraHeuristic,
    /// Gottesman, Lo, Lütkenhaus and Preskill (2004): coherent attacks on weak pulses without
    /// decoys, for blocks without end; statistical fluctuations are not charged, so it states no ε.
    Gllp,
    /// A composable bound for the block as it is, with its ε: Lim et al. (2014) or Rusca et al.
    /// (2018), accepted by a test decided beforehand.
    FiniteSize,
}

impl SecurityClaim {
    /// Every claim, the weakest first.
    pub const ALL: [Self; 3] = [Self::EraHeuristic, Self::Gllp, Self::FiniteSize];

    /// Returns the claim's text, as it stands in records and on screens.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EraHeuristic => "era-heuristic",
            Self::Gllp => "gllp",
            Self::FiniteSize => "finite-size",
        }
    }
}

impl fmt::Display for SecurityClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that names no claim: use one of the three.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no security claim; use era-heuristic, gllp or finite-size")]
pub struct UnknownClaim {
    text: String,
}

impl FromStr for SecurityClaim {
    type Err = UnknownClaim;

    fn from_str(text: &str) -> Result<Self, UnknownClaim> {
        let found = Self::ALL.into_iter().find(|claim| claim.as_str() == text);
        found.ok_or_else(|| UnknownClaim { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_back_and_nothing_else_is() {
        for claim in SecurityClaim::ALL {
            assert_eq!(claim.to_string().parse(), Ok(claim));
        }
        for text in ["", "GLLP", "finite size", "gllp "] {
            assert!(text.parse::<SecurityClaim>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn claims_are_ordered_by_what_they_promise() {
        assert!(SecurityClaim::ALL.is_sorted());
    }
}
