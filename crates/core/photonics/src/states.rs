//! States, bases and detectors: the words that all protocols share.

/// A basis: in SARG04 also the key bit that sending in it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The basis that stands for key bit 0.
    Z,
    /// The basis that stands for key bit 1.
    X,
}

impl Basis {
    /// Returns the basis that stands for `key_bit`.
    #[must_use]
    pub const fn of_key_bit(key_bit: bool) -> Self {
        if key_bit { Self::X } else { Self::Z }
    }

    /// Returns the key bit that a state of this basis stands for.
    #[must_use]
    pub const fn key_bit(self) -> bool {
        matches!(self, Self::X)
    }
}

/// One of the four states: a value in a basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The basis.
    pub basis: Basis,
    /// The value within the basis.
    pub value: bool,
}

/// What Alice chooses for one pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The state that she sends.
    pub state: State,
    /// The value of the state of the other basis that she will announce along with it in SARG04.
    pub companion: bool,
    /// Which of the source's intensities the pulse has; 0 is the brightest.
    pub intensity: u8,
}

/// Bob's two detectors: which one fires is the value that he measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// The detector for value 0.
    Zero,
    /// The detector for value 1.
    One,
}

impl Detector {
    /// Returns the detector for `value`.
    #[must_use]
    pub const fn for_value(value: bool) -> Self {
        if value { Self::One } else { Self::Zero }
    }

    /// Returns the value that a click of this detector stands for.
    #[must_use]
    pub const fn value(self) -> bool {
        matches!(self, Self::One)
    }
}
