//! Source, fibre, eavesdropper and detectors: from Alice's choices to Bob's clicks.
//!
//! Pure and deterministic: a run is a function of the preset and of the seeds. Knows nothing of
//! what happens to the bits.
#![expect(clippy::cast_precision_loss, reason = "counts of pulses stay far below 2^53")]

pub mod choice;
pub mod light;
pub mod preset;
pub mod sarg04;
pub mod theory;

pub use choice::{BasisGenerator, ChoiceGenerator};
pub use light::{Click, Eve, Fibre};
pub use preset::{Cascade, LinkPreset};
pub use sarg04::{Announcement, Basis, Choice, Detector, State};
