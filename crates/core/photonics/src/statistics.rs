//! What a pulse shows on average: every case with its chance, summed instead of drawn.

use crate::coding::{Coding, MOST_INTENSITIES, Protocol};
use crate::eve::{Eve, Guess};
use crate::gate::{Action, Gate, Light, Silence, all_choices, basis_share};
use crate::preset::LinkPreset;
use crate::sift::{self, Announcement, Purpose};
use crate::states::{Basis, Choice, Detector};

/// Chances per pulse that meets no dead time and no afterpulse.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PulseStatistics {
    /// At least one detector fires.
    pub click: f64,
    /// Of pulses of each intensity, those that become key, given the intensity.
    pub key: [Sifting; MOST_INTENSITIES],
    /// Of pulses of each intensity, those that become tests, given the intensity.
    pub test: [Sifting; MOST_INTENSITIES],
    /// Bits of the key that Eve's best guess gets right.
    pub guessed: f64,
}

/// Chances that a pulse is sifted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sifting {
    /// Both ends keep it.
    pub kept: f64,
    /// They keep it and differ.
    pub wrong: f64,
}

impl PulseStatistics {
    /// Works out the statistics of a link and an eavesdropper.
    #[must_use]
    pub fn of(preset: &LinkPreset, eve: &Eve) -> Self {
        let coding = preset.coding();
        let gate = Gate::new(&preset.optics, &coding, eve);
        let mut sum = Self::default();
        // The companion is announced in SARG04 only, where both values are as likely.
        let companions: &[bool] =
            if coding.protocol() == Protocol::Sarg04 { &[false, true] } else { &[false] };
        for (weight, state, intensity) in all_choices(&coding) {
            let share = coding.intensities()[usize::from(intensity)].probability.as_f64();
            for action in gate.actions(state, intensity) {
                for bob in [Basis::Z, Basis::X] {
                    let silence = in_gate(&gate, &action, intensity, bob);
                    let chance = weight * action.weight * basis_share(&coding, bob);
                    sum.click += chance * silence.click();
                    for &companion in companions {
                        let choice = Choice { state, companion, intensity };
                        let case =
                            Case { chance: chance / companions.len() as f64, share, choice, bob };
                        sum.sift(coding.protocol(), &case, &action, silence);
                    }
                }
            }
        }
        sum
    }

    /// Returns the chance that a pulse becomes key, whatever its intensity.
    #[must_use]
    pub fn key_of_all(&self, coding: &Coding) -> Sifting {
        let mut sum = Sifting::default();
        for (sifting, intensity) in self.key.iter().zip(coding.intensities()) {
            sum.kept += intensity.probability.as_f64() * sifting.kept;
            sum.wrong += intensity.probability.as_f64() * sifting.wrong;
        }
        sum
    }

    fn sift(&mut self, protocol: Protocol, case: &Case, action: &Action, silence: Silence) {
        let chances = silence.outcomes();
        let half = chances.both / 2.0;
        let said = Announcement::of(protocol, case.choice);
        let mine = sift::at_alice(protocol, case.choice);
        for (detector, fires) in
            [(Detector::Zero, chances.only_zero + half), (Detector::One, chances.only_one + half)]
        {
            let Some(theirs) = sift::at_bob(protocol, case.bob, detector, said) else { continue };
            let chance = case.chance * fires;
            let by_intensity = match theirs.purpose {
                Purpose::Key => &mut self.key,
                Purpose::Test => &mut self.test,
            };
            let sifting = &mut by_intensity[usize::from(theirs.intensity)];
            sifting.kept += chance / case.share;
            if theirs.bit != mine.bit {
                sifting.wrong += chance / case.share;
            }
            if theirs.purpose == Purpose::Key {
                self.guessed += chance
                    * match action.knowledge.guess(protocol, case.choice) {
                        Guess::Bit(bit) => f64::from(u8::from(bit == mine.bit)),
                        Guess::RightWith(chance) => chance,
                    };
            }
        }
    }
}

/// One combination of what all three choose.
struct Case {
    chance: f64,
    share: f64,
    choice: Choice,
    bob: Basis,
}

fn in_gate(gate: &Gate, action: &Action, intensity: u8, bob: Basis) -> Silence {
    let own = gate.silence(action, intensity, bob);
    if !gate.spills() || action.light == Light::Faked {
        return own;
    }
    let spilt = gate.mean_spill(bob, action.edge);
    own.and(spilt).and(spilt)
}
