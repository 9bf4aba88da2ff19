//! One gate of Bob's detectors: which light can fall into it, and with what chance either fires.
//!
//! Light is coherent, so photons at different detectors and of different pulses are independent, and
//! all a gate needs is the chance that each detector stays silent. Photons that Eve has counted are
//! not independent of each other; for them the chance that both stay silent is kept as well.

use crate::coding::{Coding, MOST_INTENSITIES};
use crate::eve::{Eve, Knowledge};
use crate::gaps::pinned;
use crate::preset::Optics;
use crate::states::{Basis, Detector, State};

/// Chances that detectors stay silent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Silence {
    zero: f64,
    one: f64,
    both: f64,
}

/// Chances of what a gate shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcomes {
    pub(crate) only_zero: f64,
    pub(crate) only_one: f64,
    pub(crate) both: f64,
}

impl Silence {
    const CERTAIN: Self = Self { zero: 1.0, one: 1.0, both: 1.0 };

    /// Of coherent light with these means at the two detectors.
    fn of_light([zero, one]: [f64; 2]) -> Self {
        let (zero, one) = (pinned((-zero).exp()), pinned((-one).exp()));
        Self { zero, one, both: zero * one }
    }

    /// Of `n` photons, each of which fires either detector with these chances.
    fn of_photons(n: u32, [zero, one]: [f64; 2]) -> Self {
        let all_miss = |chance: f64| pinned((1.0 - chance).powi(n.cast_signed()));
        Self { zero: all_miss(zero), one: all_miss(one), both: all_miss(zero + one) }
    }

    /// Of two causes that know nothing of each other.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            zero: self.zero * other.zero,
            one: self.one * other.one,
            both: self.both * other.both,
        }
    }

    fn plus(self, weight: f64, other: Self) -> Self {
        Self {
            zero: self.zero + weight * other.zero,
            one: self.one + weight * other.one,
            both: self.both + weight * other.both,
        }
    }

    pub(crate) fn outcomes(self) -> Outcomes {
        Outcomes {
            only_zero: self.one - self.both,
            only_one: self.zero - self.both,
            both: 1.0 - self.zero - self.one + self.both,
        }
    }

    pub(crate) const fn click(self) -> f64 {
        1.0 - self.both
    }
}

/// How a pulse splits between the detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The bases match, and the value is 0 or 1.
    Towards(Detector),
    /// The bases differ.
    Evenly,
}

impl Way {
    const ALL: [Self; 3] =
        [Self::Towards(Detector::Zero), Self::Towards(Detector::One), Self::Evenly];

    fn of(light: State, bob: Basis) -> Self {
        if light.basis == bob {
            Self::Towards(Detector::for_value(light.value))
        } else {
            Self::Evenly
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Towards(Detector::Zero) => 0,
            Self::Towards(Detector::One) => 1,
            Self::Evenly => 2,
        }
    }

    /// The shares of the light at the two detectors.
    fn shares(self, visibility: f64) -> [f64; 2] {
        let (right, wrong) = (f64::midpoint(1.0, visibility), (1.0 - visibility) / 2.0);
        match self {
            Self::Towards(Detector::Zero) => [right, wrong],
            Self::Towards(Detector::One) => [wrong, right],
            Self::Evenly => [0.5, 0.5],
        }
    }
}

/// The edge of the gate to which Eve moved a pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// It was not moved.
    Middle,
    /// Where this detector sees more than the other.
    Favouring(Detector),
}

impl Edge {
    const ALL: [Self; 3] =
        [Self::Middle, Self::Favouring(Detector::Zero), Self::Favouring(Detector::One)];

    const fn index(self) -> usize {
        match self {
            Self::Middle => 0,
            Self::Favouring(Detector::Zero) => 1,
            Self::Favouring(Detector::One) => 2,
        }
    }

    /// What is left of the efficiencies of the two detectors.
    const fn efficiencies(self, mismatch: f64) -> [f64; 2] {
        match self {
            Self::Middle => [1.0, 1.0],
            Self::Favouring(Detector::Zero) => [1.0, 1.0 - mismatch],
            Self::Favouring(Detector::One) => [1.0 - mismatch, 1.0],
        }
    }
}

/// What falls onto Bob's detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Light {
    /// The pulse as coherent light.
    Coherent,
    /// What is left of two photons and more after Eve kept one.
    AfterCopy,
    /// The single photon that Eve let pass, or none.
    AfterCount,
    /// Her bright light on blinded detectors.
    Faked,
}

/// One thing that Eve may do to a pulse, and how often she does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Action {
    pub(crate) weight: f64,
    pub(crate) light: Light,
    pub(crate) state: State,
    pub(crate) edge: Edge,
    pub(crate) knowledge: Knowledge,
}

type Table = [[[Silence; 3]; 3]; MOST_INTENSITIES];

/// The chances of every gate, for a link and an eavesdropper.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    coherent: Table,
    after_copy: Table,
    after_count: Table,
    /// Chance that a blinded detector fires where the bases match.
    faked: [f64; MOST_INTENSITIES],
    /// What a neighbouring pulse spills into the gate, if pulses spill at all.
    spilt: Option<Table>,
    coding: Coding,
    eve: Eve,
    /// Chance that a pulse has two photons and more.
    several: [f64; MOST_INTENSITIES],
}

impl Gate {
    pub(crate) fn new(optics: &Optics, coding: &Coding, eve: &Eve) -> Self {
        let means = Means::of(optics, coding, eve);
        let dark = 1.0 - optics.dark_count_probability;
        let dark = Silence { zero: dark, one: dark, both: dark * dark };
        let mismatch = eve.time_shift.as_f64();
        let split = |way: Way, edge: Edge| {
            let (shares, seen) = (way.shares(optics.visibility), edge.efficiencies(mismatch));
            [shares[0] * seen[0], shares[1] * seen[1]]
        };
        let table = |of: &dyn Fn(usize, [f64; 2]) -> Silence| {
            core::array::from_fn(|k| {
                Way::ALL.map(|way| Edge::ALL.map(|edge| of(k, split(way, edge))))
            })
        };
        let forwarding = Forwarding::matching(optics, coding, &means);
        let coherent =
            table(&|k, split| Silence::of_light(split.map(|s| s * means.own[k])).and(dark));
        let after_copy = table(&|k, split| forwarding.after_copy(means.alice[k], split).and(dark));
        let after_count =
            table(&|k, split| forwarding.after_count(means.alice[k], split).and(dark));
        let spilt = (means.spill > 0.0).then(|| {
            table(&|k, split| Silence::of_light(split.map(|s| s * means.own[k] * means.spill)))
        });
        Self {
            coherent,
            after_copy,
            after_count,
            faked: faked(coding, &means),
            spilt,
            coding: *coding,
            eve: *eve,
            several: means.alice.map(several),
        }
    }

    /// Returns everything that Eve may do to a pulse of this state and intensity; weights add to 1.
    pub(crate) fn actions(&self, state: State, intensity: u8) -> Vec<Action> {
        let plain = |weight, light, state, knowledge| Action {
            weight,
            light,
            state,
            edge: Edge::Middle,
            knowledge,
        };
        let mut left = 1.0_f64;
        let mut take = |share: claviger_units::Fraction| {
            let taken = share.as_f64().min(left);
            left -= taken;
            taken
        };
        let eve = &self.eve;
        let (resent, counted, blinded) =
            (take(eve.intercept_resend), take(eve.splitting), take(eve.blinding));
        let several = self.several[usize::from(intensity)];
        let mut actions = vec![
            plain(left, Light::Coherent, state, Knowledge::Nothing),
            plain(counted * several, Light::AfterCopy, state, Knowledge::Photon(state)),
            plain(counted * (1.0 - several), Light::AfterCount, state, Knowledge::Nothing),
        ];
        for (weight, found) in measurements(state) {
            let known = Knowledge::Measured(found);
            actions.push(plain(resent * weight, Light::Coherent, found, known));
            actions.push(plain(blinded * weight, Light::Faked, found, known));
        }
        let moved = self.moved(actions);
        let read = eve.trojan_horse.as_f64();
        let both = moved.into_iter().flat_map(|action| {
            let setting = Action {
                weight: action.weight * read,
                knowledge: Knowledge::Setting(state),
                ..action
            };
            [Action { weight: action.weight * (1.0 - read), ..action }, setting]
        });
        both.filter(|action| action.weight > 0.0).collect()
    }

    /// Moves every pulse to either edge of the gate, if she plays that game at all.
    fn moved(&self, actions: Vec<Action>) -> Vec<Action> {
        if self.eve.time_shift.as_f64() <= 0.0 {
            return actions;
        }
        let edges = [Detector::Zero, Detector::One];
        let moved = actions.into_iter().flat_map(|action| {
            edges.map(|favoured| Action {
                weight: action.weight / 2.0,
                edge: Edge::Favouring(favoured),
                knowledge: match action.knowledge {
                    Knowledge::Nothing => Knowledge::Favoured(favoured),
                    more => more,
                },
                ..action
            })
        });
        moved.collect()
    }

    /// Returns the silence of a gate into which this pulse falls.
    pub(crate) fn silence(&self, action: &Action, intensity: u8, bob: Basis) -> Silence {
        let (k, way) = (usize::from(intensity), Way::of(action.state, bob));
        let cell = |table: &Table| table[k][way.index()][action.edge.index()];
        match action.light {
            Light::Coherent => cell(&self.coherent),
            Light::AfterCopy => cell(&self.after_copy),
            Light::AfterCount => cell(&self.after_count),
            Light::Faked => {
                let miss = 1.0 - self.faked[k];
                match way {
                    Way::Evenly => Silence::CERTAIN,
                    Way::Towards(Detector::Zero) => Silence { zero: miss, one: 1.0, both: miss },
                    Way::Towards(Detector::One) => Silence { zero: 1.0, one: miss, both: miss },
                }
            }
        }
    }

    /// Tells whether neighbouring pulses spill into a gate.
    pub(crate) const fn spills(&self) -> bool {
        self.spilt.is_some()
    }

    /// Returns the silence of what a neighbouring pulse spills into the gate. Whatever Eve did to
    /// that pulse otherwise, its spill is taken as undisturbed, but for loss and shift.
    pub(crate) fn spilt(&self, neighbour: State, intensity: u8, bob: Basis, edge: Edge) -> Silence {
        self.spilt.as_ref().map_or(Silence::CERTAIN, |table| {
            table[usize::from(intensity)][Way::of(neighbour, bob).index()][edge.index()]
        })
    }

    /// Returns the mean silence of a neighbour's spill, over all that Alice may have chosen for it.
    pub(crate) fn mean_spill(&self, bob: Basis, edge: Edge) -> Silence {
        let none = Silence { zero: 0.0, one: 0.0, both: 0.0 };
        all_choices(&self.coding)
            .fold(none, |sum, (weight, state, k)| sum.plus(weight, self.spilt(state, k, bob, edge)))
    }

    /// Returns a chance that no gate's click exceeds.
    pub(crate) fn ceiling(&self) -> f64 {
        let quietest = self.spilt.iter().flatten().flatten().flatten();
        let spill = quietest.map(|silence| silence.both).fold(1.0, f64::min);
        let mut most = 0.0_f64;
        for (_, state, k) in all_choices(&self.coding) {
            for action in self.actions(state, k) {
                for bob in [Basis::Z, Basis::X] {
                    let silence = self.silence(&action, k, bob);
                    most = most.max(1.0 - silence.both * spill * spill);
                }
            }
        }
        pinned(most * (1.0 + 1e-9)).min(1.0)
    }
}

/// Every state and intensity that Alice chooses, with its share of the pulses.
pub(crate) fn all_choices(coding: &Coding) -> impl Iterator<Item = (f64, State, u8)> + use<> {
    let coding = *coding;
    (0_u8..).take(coding.intensities().len()).flat_map(move |k| {
        let share = coding.intensities()[usize::from(k)].probability.as_f64();
        [Basis::Z, Basis::X].into_iter().flat_map(move |basis| {
            let weight = share * basis_share(&coding, basis) / 2.0;
            [false, true].map(|value| (weight, State { basis, value }, k))
        })
    })
}

/// How often either end chooses a basis.
pub(crate) fn basis_share(coding: &Coding, basis: Basis) -> f64 {
    let key = coding.key_basis().as_f64();
    if basis == Basis::Z { key } else { 1.0 - key }
}

/// What a measurement in an evenly chosen basis may find.
fn measurements(sent: State) -> [(f64, State); 3] {
    let other = Basis::of_key_bit(!sent.basis.key_bit());
    let crossed = |value| (0.25, State { basis: other, value });
    [(0.5, sent), crossed(false), crossed(true)]
}

/// Chance that a pulse of this mean has two photons and more.
fn several(mean: f64) -> f64 {
    1.0 - (-mean).exp() * (1.0 + mean)
}

/// Mean photon numbers on the way.
struct Means {
    /// Of pulses that leave Alice.
    alice: [f64; MOST_INTENSITIES],
    /// Of what is counted in the pulse's own gate by detectors without dead time.
    own: [f64; MOST_INTENSITIES],
    /// Share of that which falls into each neighbouring gate as well.
    spill: f64,
    /// Chance to count a photon that reaches Bob.
    counted: f64,
}

impl Means {
    fn of(optics: &Optics, coding: &Coding, eve: &Eve) -> Self {
        let mut alice = [0.0; MOST_INTENSITIES];
        for (mean, intensity) in alice.iter_mut().zip(coding.intensities()) {
            *mean = intensity.mean;
        }
        let (captured, beside) = optics.gate_shares();
        let counted = optics.bob_efficiency * captured;
        let added = 10_f64.powf(-eve.added_loss.as_db() / 10.0);
        let way = optics.transmittance() * added * counted;
        let spill = if captured > 0.0 { beside / captured } else { 0.0 };
        Self { alice, own: alice.map(|mean| mean * way), spill, counted }
    }
}

/// How Eve passes on what she has counted, so that Bob's click rate stays what it was.
struct Forwarding {
    /// Share of the photons, of those behind a kept one, that she lets pass.
    thinned: f64,
    /// Share of the single photons that she lets pass.
    singles: f64,
    counted: f64,
}

/// Photons beyond this number are as good as never there: 10⁻¹⁶ at a mean of 3.
const MOST_PHOTONS: u32 = 32;

impl Forwarding {
    fn matching(optics: &Optics, coding: &Coding, means: &Means) -> Self {
        let undisturbed = 10_f64.powf(-optics.loss.as_db() / 10.0) * means.counted;
        let shares: Vec<f64> =
            coding.intensities().iter().map(|i| i.probability.as_f64()).collect();
        let mean_over = |of: &dyn Fn(f64) -> f64| -> f64 {
            shares.iter().zip(means.alice).map(|(share, mean)| share * of(mean)).sum()
        };
        let wanted = mean_over(&|mean| 1.0 - (-mean * undisturbed).exp());
        let behind_copies = |thinned: f64| {
            let clicks = |n: u32| 1.0 - (1.0 - thinned * means.counted).powi(n.cast_signed() - 1);
            mean_over(&|mean| (2..MOST_PHOTONS).map(|n| poisson(n, mean) * clicks(n)).sum())
        };
        let from_singles = mean_over(&|mean| poisson(1, mean) * means.counted);
        let (thinned, singles) = if behind_copies(1.0) > wanted {
            let (mut low, mut high) = (0.0, 1.0);
            for _ in 0..60 {
                let middle = f64::midpoint(low, high);
                if behind_copies(middle) > wanted { high = middle } else { low = middle }
            }
            (pinned(low), 0.0)
        } else {
            (1.0, pinned(((wanted - behind_copies(1.0)) / from_singles).min(1.0)))
        };
        Self { thinned, singles, counted: means.counted }
    }

    /// Given two photons and more: all but one go on.
    fn after_copy(&self, mean: f64, split: [f64; 2]) -> Silence {
        let chance = split.map(|s| s * self.thinned * self.counted);
        let total = several(mean);
        if total <= 0.0 {
            return Silence::CERTAIN;
        }
        let none = Silence { zero: 0.0, one: 0.0, both: 0.0 };
        let sum = (2..MOST_PHOTONS).fold(none, |sum, n| {
            sum.plus(poisson(n, mean) / total, Silence::of_photons(n - 1, chance))
        });
        sum.pinned()
    }

    /// Given one photon at most.
    fn after_count(&self, mean: f64, split: [f64; 2]) -> Silence {
        let one = mean / (1.0 + mean) * self.singles * self.counted;
        Silence::of_photons(1, split.map(|s| s * one)).pinned()
    }
}

impl Silence {
    fn pinned(self) -> Self {
        Self { zero: pinned(self.zero), one: pinned(self.one), both: pinned(self.both) }
    }
}

/// How often a blinded detector must fire, where the bases match, for an unsuspicious click rate:
/// in proportion to the pulses in which she finds a photon herself.
fn faked(coding: &Coding, means: &Means) -> [f64; MOST_INTENSITIES] {
    let share = |k: usize| coding.intensities().get(k).map_or(0.0, |i| i.probability.as_f64());
    let found = means.alice.map(|mean| 1.0 - (-mean).exp());
    let wanted: f64 = (0..MOST_INTENSITIES).map(|k| share(k) * (1.0 - (-means.own[k]).exp())).sum();
    // Her basis is even, so Bob's matches half of the time.
    let had: f64 = (0..MOST_INTENSITIES).map(|k| share(k) * found[k] / 2.0).sum();
    found.map(|found| pinned((found * (wanted / had.max(f64::MIN_POSITIVE)).min(1.0)).min(1.0)))
}

fn poisson(n: u32, mean: f64) -> f64 {
    (1..=n).fold((-mean).exp(), |term, i| term * mean / f64::from(i))
}
