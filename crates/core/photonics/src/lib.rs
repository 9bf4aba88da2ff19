//! Source, fibre, eavesdropper and detectors: from Alice's choices to Bob's clicks.
//!
//! Pure and deterministic: a run is a function of the preset and of the seeds. Knows nothing of
//! what happens to the bits.
#![expect(clippy::cast_precision_loss, reason = "counts of pulses stay far below 2^53")]

pub mod choice;
pub mod coding;
pub mod eve;
pub mod light;
pub mod preset;
pub mod promise;
pub mod sarg04;
pub mod sift;
pub mod states;
pub mod statistics;
pub mod theory;

mod gaps;
mod gate;

pub use choice::{BasisGenerator, ChoiceGenerator};
pub use coding::{Coding, Protocol};
pub use eve::{Attack, Eve};
pub use light::{Click, Fibre};
pub use preset::{Cascade, LinkPreset};
pub use states::{Basis, Choice, Detector, State};
pub use statistics::PulseStatistics;
