//! Answers of a key management entity in the words of the fleet.

use claviger_fleet::{Extraction, Fetching, Origin};
use claviger_units::Key256;

use axum::http::StatusCode;

use crate::role::RoleError;
use crate::sae::{GrantedKey, KeyError};

/// Keys in one request: what a KME grants by default (`PROTOCOL.md` P2).
pub(crate) const MOST_KEYS: usize = 128;

/// Notes how an order ended that was given to the core; an error ends with the store.
pub(crate) fn tell_ended(filled: Result<(), RoleError>) {
    if let Err(error) = filled {
        tracing::debug!(%error, "an order ended with the store");
    }
}

/// Returns what became of an order for one new key.
pub(crate) fn extraction(answer: Result<Vec<GrantedKey>, KeyError>) -> Extraction {
    let mut outcomes = extractions(1, answer);
    outcomes.pop().unwrap_or(Extraction::Unreachable)
}

/// Returns what became of orders for `n` new keys that were asked for together.
pub(crate) fn extractions(n: usize, answer: Result<Vec<GrantedKey>, KeyError>) -> Vec<Extraction> {
    let all = |outcome: fn() -> Extraction| (0..n).map(|_| outcome()).collect();
    match answer {
        Ok(granted) if granted.len() == n => granted.into_iter().map(granted_one).collect(),
        Ok(_) => all(|| Extraction::Unreachable),
        Err(KeyError::Unavailable { message }) => {
            tracing::debug!(message, "no key at present");
            all(|| Extraction::Shortage)
        }
        Err(error) => {
            tracing::warn!(%error, "no key");
            all(|| Extraction::Unreachable)
        }
    }
}

fn granted_one(granted: GrantedKey) -> Extraction {
    match Key256::from_slice(granted.key.expose()) {
        Some(key) => Extraction::Key(granted.id, key, origin(&granted)),
        None => Extraction::Unreachable,
    }
}

/// Returns what became of an order for the copy of one key.
pub(crate) fn fetching(answer: Result<Vec<GrantedKey>, KeyError>) -> Fetching {
    fetchings(1, answer).pop().unwrap_or(Fetching::Unreachable)
}

/// Returns what became of orders for the copies of `n` keys that were asked for together.
pub(crate) fn fetchings(n: usize, answer: Result<Vec<GrantedKey>, KeyError>) -> Vec<Fetching> {
    let all = |outcome: fn() -> Fetching| (0..n).map(|_| outcome()).collect();
    match answer {
        Ok(granted) if granted.len() == n => granted.into_iter().map(copied_one).collect(),
        Ok(_) => all(|| Fetching::Unreachable),
        Err(KeyError::Refused { status: StatusCode::BAD_REQUEST, .. }) => all(|| Fetching::Refused),
        Err(error) => {
            tracing::warn!(%error, "no copy of a key");
            all(|| Fetching::Unreachable)
        }
    }
}

fn copied_one(granted: GrantedKey) -> Fetching {
    match Key256::from_slice(granted.key.expose()) {
        Some(key) => Fetching::Key(key, origin(&granted)),
        None => Fetching::Unreachable,
    }
}

fn origin(granted: &GrantedKey) -> Origin {
    let simulated = granted.origin.as_deref().is_some_and(|origin| origin.starts_with("simulated"));
    if simulated { Origin::Simulated } else { Origin::Link }
}
