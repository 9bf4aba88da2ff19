//! The slow play: every photon of every pulse, as plain as it can be written.

use std::collections::VecDeque;

use claviger_photonics::{
    Basis, BasisGenerator, ChoiceGenerator, Coding, Detector, Eve, LinkPreset, State,
};
use rand::rngs::StdRng;
use rand_core::{Rng, SeedableRng};

pub(crate) const ALICE: [u8; 32] = [0xA1; 32];
pub(crate) const BOB: [u8; 32] = [0xB0; 32];

/// A click: its pulse and the detector that counts.
pub(crate) type Played = (u64, Detector);

/// The numbers of a link.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) protocol: &'static str,
    pub(crate) mean: f64,
    /// Mean and share of each intensity.
    pub(crate) decoys: &'static [(f64, f64)],
    pub(crate) key_basis: f64,
    pub(crate) transmittance: f64,
    pub(crate) efficiency: f64,
    pub(crate) dark: f64,
    pub(crate) dead_gates: u64,
    pub(crate) visibility: f64,
    /// Chance, and mean gates after the dead time.
    pub(crate) afterpulses: Option<(f64, f64)>,
    /// Width of the gate and deviation of the arrival, in periods.
    pub(crate) jitter: Option<(f64, f64)>,
}

/// A bright and bad link: double clicks and dark counts are common.
pub(crate) fn bad() -> Link {
    Link {
        mean: 3.0,
        transmittance: 0.5,
        efficiency: 0.4,
        dark: 0.02,
        dead_gates: 7,
        visibility: 0.8,
        ..CLEAN
    }
}

/// As the lab, and dim enough that single photons dominate.
pub(crate) const CLEAN: Link = Link {
    protocol: "sarg04",
    mean: 0.5,
    decoys: &[],
    key_basis: 0.5,
    transmittance: 0.1,
    efficiency: 0.2,
    dark: 0.0,
    dead_gates: 0,
    visibility: 1.0,
    afterpulses: None,
    jitter: None,
};

pub(crate) fn choices(coding: &Coding) -> (ChoiceGenerator, BasisGenerator) {
    (ChoiceGenerator::new(&ALICE, coding), BasisGenerator::new(&BOB, coding))
}

/// The rate that makes periods of 200 ns.
const PERIOD_PS: f64 = 200_000.0;

impl Link {
    pub(crate) fn preset(&self) -> LinkPreset {
        let lab = include_str!("../../../../../presets/lab.toml");
        let mut lines: Vec<String> = lab.lines().map(|line| self.line(line)).collect();
        if let Some((probability, gates)) = self.afterpulses {
            let mean_us = gates / 5.0;
            lines.push(format!(
                "afterpulses = {{ probability = {probability:?}, mean_us = {mean_us:?} }}"
            ));
        }
        if let Some((width, jitter)) = self.jitter {
            let (width, jitter) = (width * PERIOD_PS, jitter * PERIOD_PS);
            lines.push(format!("gate = {{ width_ps = {width:?}, jitter_ps = {jitter:?} }}"));
        }
        if self.protocol == "decoy-bb84" {
            let decoys: Vec<String> = (self.decoys.iter())
                .map(|(mean, share)| format!("{{ mean = {mean:?}, probability = {share:?} }}"))
                .collect();
            lines.push(format!("intensities = [{}]", decoys.join(", ")));
            lines.push(format!("key_basis_probability = {:?}", self.key_basis));
            lines.push("epsilon_secrecy = 1e-10\nepsilon_correctness = 1e-15".to_owned());
        }
        LinkPreset::from_toml(&lines.join("\n")).unwrap()
    }

    fn line(&self, line: &str) -> String {
        let key = line.split(" = ").next().unwrap();
        let decoys = self.protocol == "decoy-bb84";
        let value = match key {
            "protocol" => return format!("protocol = {:?}", self.protocol),
            "security" if decoys => return "security = \"finite-size\"".to_owned(),
            "mean_photon_number" if decoys => return String::new(),
            "mean_photon_number" => self.mean,
            "loss_db" => -10.0 * self.transmittance.log10(),
            "bob_efficiency" => self.efficiency,
            "dark_count_probability" => self.dark,
            "dead_time_us" => self.dead_gates as f64 / 5.0,
            "visibility" => self.visibility,
            _ => return line.to_owned(),
        };
        format!("{key} = {value:?}")
    }

    /// Plays every photon of every pulse: the reference, as slow as it is plain.
    pub(crate) fn pulse_by_pulse(&self, eve: &Eve, pulses: u64, seed: u64) -> Vec<Played> {
        let preset = self.preset();
        let coding = preset.coding();
        let (mut alice, mut bob) = choices(&coding);
        let mut rng = StdRng::seed_from_u64(seed);
        let tactics = Tactics::of(self, &coding, eve);
        let (mut clicks, mut blind_until) = (Vec::new(), 0);
        let mut traps: Vec<(u64, usize)> = Vec::new();
        // Photons under way to the gates of the pulse before, of this one and of the next.
        let mut gates: VecDeque<Gate> = VecDeque::from(vec![Gate::default(); 3]);
        for pulse in 0..=pulses {
            gates.rotate_left(1);
            gates[2] = Gate::default();
            let choice = alice.choice(pulse);
            let mean = coding.intensities()[usize::from(choice.intensity)].mean;
            self.send(&tactics, eve, choice.state, mean, &mut gates, &mut rng);
            // The gate of the pulse before is complete now.
            let Some(gate_pulse) = pulse.checked_sub(1) else { continue };
            let released: Vec<usize> =
                traps.iter().filter(|(at, _)| *at == gate_pulse).map(|(_, d)| *d).collect();
            traps.retain(|(at, _)| *at > gate_pulse);
            if gate_pulse < blind_until {
                continue;
            }
            let mut fired = self.fires(&gates[0], eve, bob.basis(gate_pulse), &mut rng);
            for detector in released {
                fired[detector] = true;
            }
            let value = match fired {
                [false, false] => continue,
                [true, true] => uniform(&mut rng) < 0.5,
                [_, one] => one,
            };
            clicks.push((gate_pulse, Detector::for_value(value)));
            blind_until = gate_pulse + 1 + self.dead_gates;
            if let Some((probability, mean)) = self.afterpulses {
                for (detector, _) in fired.iter().enumerate().filter(|(_, fired)| **fired) {
                    if uniform(&mut rng) < probability {
                        let mut wait = 0;
                        while uniform(&mut rng) >= 1.0 / (1.0 + mean) {
                            wait += 1;
                        }
                        traps.push((blind_until + wait, detector));
                    }
                }
            }
        }
        clicks
    }

    /// Puts the photons of a pulse, after Eve, into the gates in which they are registered.
    fn send(
        &self,
        tactics: &Tactics,
        eve: &Eve,
        sent: State,
        mean: f64,
        gates: &mut VecDeque<Gate>,
        rng: &mut StdRng,
    ) {
        let edge = (eve.time_shift.as_f64() > 0.0).then(|| usize::from(uniform(rng) < 0.5));
        let mut photons = poisson(mean, rng);
        let (mut way, mut light) = (self.transmittance, sent);
        let drawn = uniform(rng);
        let [resent, counted, blinded] = tactics.shares;
        if drawn < resent {
            light = measured(sent, rng);
        } else if drawn < resent + counted {
            way = 1.0;
            if photons >= 2 {
                photons -= 1;
                way = tactics.thinned;
            } else if uniform(rng) >= tactics.singles {
                photons = 0;
            }
        } else if drawn < resent + counted + blinded {
            let found = measured(sent, rng);
            let fake = photons > 0 && uniform(rng) < tactics.triggers;
            gates[1].edge = edge;
            gates[1].faked = Some(fake.then_some(found));
            return;
        }
        gates[1].edge = edge;
        for _ in 0..photons {
            if uniform(rng) < way {
                let place = self.place(rng);
                // What is spilt is taken as undisturbed, but for loss and shift.
                if let Some(place) = place {
                    gates[place].photons.push(if place == 1 { light } else { sent });
                }
            }
        }
    }

    /// The gate that registers a photon: that of the pulse before, its own, the next, or none.
    fn place(&self, rng: &mut StdRng) -> Option<usize> {
        let Some((width, jitter)) = self.jitter else { return Some(1) };
        let late = jitter * normal(rng);
        (0..3_u8)
            .map(usize::from)
            .zip([-1.0, 0.0, 1.0])
            .find_map(|(place, centre)| (late - centre).abs().lt(&(width / 2.0)).then_some(place))
    }

    fn fires(&self, gate: &Gate, eve: &Eve, bob: Basis, rng: &mut StdRng) -> [bool; 2] {
        if let Some(faked) = gate.faked {
            let mut fired = [false, false];
            if let Some(state) = faked.filter(|state| state.basis == bob) {
                fired[usize::from(state.value)] = true;
            }
            return fired;
        }
        let mut fired = [uniform(rng) < self.dark, uniform(rng) < self.dark];
        for state in &gate.photons {
            let towards_one = match (bob == state.basis, state.value) {
                (false, _) => 0.5,
                (true, true) => f64::midpoint(1.0, self.visibility),
                (true, false) => (1.0 - self.visibility) / 2.0,
            };
            let detector = usize::from(uniform(rng) < towards_one);
            let sees = match gate.edge {
                Some(favoured) if favoured != detector => 1.0 - eve.time_shift.as_f64(),
                _ => 1.0,
            };
            if uniform(rng) < self.efficiency * sees {
                fired[detector] = true;
            }
        }
        fired
    }
}

/// What falls into a gate.
#[derive(Clone, Default)]
struct Gate {
    photons: Vec<State>,
    faked: Option<Option<State>>,
    edge: Option<usize>,
}

/// How Eve keeps the click rate, found by summing over photon numbers.
struct Tactics {
    shares: [f64; 3],
    thinned: f64,
    singles: f64,
    triggers: f64,
}

impl Tactics {
    fn of(link: &Link, coding: &Coding, eve: &Eve) -> Self {
        let captured = link.jitter.map_or(1.0, |(width, jitter)| {
            // The same normal distribution, by a sum of its own.
            let step = width / jitter / 1e5;
            let x = |i: u32| -width / jitter / 2.0 + (f64::from(i) + 0.5) * step;
            (0..100_000).map(|i| (-x(i) * x(i) / 2.0).exp() * step).sum::<f64>()
                / std::f64::consts::TAU.sqrt()
        });
        let counted = link.efficiency * captured;
        let over = |of: &dyn Fn(f64) -> f64| -> f64 {
            coding.intensities().iter().map(|i| i.probability.as_f64() * of(i.mean)).sum()
        };
        let wanted = over(&|mean| 1.0 - (-mean * link.transmittance * counted).exp());
        let behind = |thinned: f64| {
            let miss = 1.0 - thinned * counted;
            over(&|mean| (2..40).map(|n| chance(n, mean) * (1.0 - miss.powi(n - 1))).sum())
        };
        let singles = over(&|mean| chance(1, mean) * counted);
        let (mut thinned, mut single) = (1.0, 0.0);
        if behind(1.0) > wanted {
            let mut step = 0.5;
            thinned = 0.5;
            for _ in 0..50 {
                step /= 2.0;
                thinned += if behind(thinned) > wanted { -step } else { step };
            }
        } else {
            single = ((wanted - behind(1.0)) / singles).min(1.0);
        }
        let found = over(&|mean| 1.0 - (-mean).exp());
        let resent = eve.intercept_resend.as_f64();
        let split = eve.splitting.as_f64().min(1.0 - resent);
        let blinded = eve.blinding.as_f64().min(1.0 - resent - split);
        Self {
            shares: [resent, split, blinded],
            thinned,
            singles: single,
            triggers: (2.0 * wanted / found).min(1.0),
        }
    }
}

fn chance(n: i32, mean: f64) -> f64 {
    (1..=n).fold((-mean).exp(), |term, i| term * mean / f64::from(i))
}

/// Measures in a random basis.
fn measured(sent: State, rng: &mut StdRng) -> State {
    let basis = Basis::of_key_bit(uniform(rng) < 0.5);
    let value = if basis == sent.basis { sent.value } else { uniform(rng) < 0.5 };
    State { basis, value }
}

fn uniform(rng: &mut StdRng) -> f64 {
    (rng.next_u64() >> 11) as f64 / 2_f64.powi(53)
}

fn normal(rng: &mut StdRng) -> f64 {
    let (a, b) = (uniform(rng), uniform(rng));
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

fn poisson(mean: f64, rng: &mut StdRng) -> u32 {
    let mut left = uniform(rng) * mean.exp();
    let mut term = 1.0;
    let mut n = 0;
    while left >= term && n < 100 {
        left -= term;
        n += 1;
        term *= mean / f64::from(n);
    }
    n
}
