//! Two key stores against each other: rule by rule, and through seeded histories of crashes.

#![expect(clippy::unwrap_used, reason = "a test that fails here fails as it should")]

mod counted;
mod histories;
mod provenance;
mod rules;
mod world;
