//! How long a key may be, and under which claim.
//!
//! Every formula here takes figures and gives figures: what a link is expected to show
//! ([`channel`]), what a block has shown ([`Observed`]), and what of it is secret under one of
//! three claims ([`SecurityClaim`]): [`gllp`] and [`decoy`] for blocks without end, [`lim2014`] and
//! [`rusca2018`] for blocks of finite length. [`acceptance`] turns the last two into what they are
//! proofs of: a length promised beforehand, and blocks that keep the promise or are dropped.
//!
//! Each formula names its source, with the equation where the printed text was read. Where only
//! transcriptions of it were at hand no number stands, and the vectors under `vectors/` are the
//! authority: they were computed from the formulas outside this project, at 50 digits.
//!
//! Pure and deterministic. Knows neither what made the bits nor who will use the key.
//! `PHYSICS.md` in comments means the project's design page.
#![expect(
    clippy::cast_precision_loss,
    reason = "counts of detections and pulses stay far below 2^53"
)]

pub mod acceptance;
pub mod account;
pub mod channel;
mod claim;
mod counts;
pub mod decoy;
pub mod entropy;
mod epsilon;
pub mod gllp;
mod intensity;
pub mod lim2014;
pub mod optimise;
pub mod rusca2018;
pub mod sampling;

pub use acceptance::Acceptance;
pub use account::{Account, Proof};
pub use claim::{SecurityClaim, UnknownClaim};
pub use counts::{Counts, CountsError, Observed};
pub use epsilon::{BlockEpsilon, Epsilon, EpsilonError, EpsilonLedger, SecurityParameters};
pub use intensity::{Intensities, IntensityError, MeanPhotons};
pub use lim2014::Lim2014;
pub use rusca2018::Rusca2018;
