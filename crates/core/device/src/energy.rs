//! How long a device was in which state, as Contiki's Energest counts it.

use claviger_units::{Fraction, Span};

/// What a device, or a part of it, can be doing.
///
/// The processor is in exactly one of [`State::Cpu`], [`State::Lpm`] and [`State::DeepLpm`]; the radio
/// beside it in [`State::Transmit`], [`State::Listen`] or neither. What is cryptography is time of the
/// processor too, and counted once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The processor computes.
    Cpu,
    /// The processor sleeps lightly, its memory kept and its radio ready.
    Lpm,
    /// All but a clock is off.
    DeepLpm,
    /// The radio sends.
    Transmit,
    /// The radio receives, or is ready to.
    Listen,
    /// The processor does public-key cryptography.
    CryptoPk,
    /// The processor does symmetric cryptography.
    CryptoSym,
}

impl State {
    /// Every state, in the order of Energest with ours behind.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Lpm,
        Self::DeepLpm,
        Self::Transmit,
        Self::Listen,
        Self::CryptoPk,
        Self::CryptoSym,
    ];

    /// Returns its name, as Energest writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Lpm => "LPM",
            Self::DeepLpm => "DEEP_LPM",
            Self::Transmit => "TRANSMIT",
            Self::Listen => "LISTEN",
            Self::CryptoPk => "CRYPTO_PK",
            Self::CryptoSym => "CRYPTO_SYM",
        }
    }
}

/// The time that was spent in each state, in whole microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger([u64; State::ALL.len()]);

impl Ledger {
    /// A device that has done nothing yet.
    pub const EMPTY: Self = Self([0; State::ALL.len()]);

    /// Adds time in a state.
    pub fn add(&mut self, state: State, time: Span) {
        if let Some(sum) = self.0.get_mut(state as usize) {
            *sum = sum.saturating_add(time.as_micros());
        }
    }

    /// Adds what another ledger has counted.
    pub fn add_all(&mut self, other: &Self) {
        State::ALL.into_iter().for_each(|state| self.add(state, other.time(state)));
    }

    /// Returns the time in a state.
    #[must_use]
    pub fn time(&self, state: State) -> Span {
        Span::from_micros(self.0.get(state as usize).copied().unwrap_or_default())
    }

    /// Returns all time: that of the processor, whatever it did.
    #[must_use]
    pub fn total(&self) -> Span {
        self.sum(&[State::Cpu, State::Lpm, State::DeepLpm])
    }

    /// Returns the radio duty cycle in Contiki's sense: sending and listening, of all time. Making a key
    /// is not in it.
    #[must_use]
    pub fn rdc_strict(&self) -> Fraction {
        self.share(&[State::Transmit, State::Listen])
    }

    /// Returns the share of all time that is not deep sleep.
    #[must_use]
    pub fn awake_dc(&self) -> Fraction {
        self.share(&[State::Cpu, State::Lpm])
    }

    fn sum(&self, states: &[State]) -> Span {
        let micros = states.iter().map(|state| self.time(*state).as_micros());
        Span::from_micros(micros.fold(0, u64::saturating_add))
    }

    fn share(&self, states: &[State]) -> Fraction {
        Fraction::of(self.sum(states).as_micros(), self.total().as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(times: &[(State, u64)]) -> Ledger {
        let mut ledger = Ledger::EMPTY;
        for &(state, millis) in times {
            ledger.add(state, Span::from_millis(millis));
        }
        ledger
    }

    #[test]
    fn duty_cycles_are_shares_of_the_processors_time() {
        let ledger = ledger(&[
            (State::Cpu, 30),
            (State::Lpm, 20),
            (State::DeepLpm, 950),
            (State::Listen, 15),
            (State::Transmit, 5),
            (State::CryptoPk, 10),
        ]);
        assert_eq!(ledger.total(), Span::from_secs(1));
        assert!((ledger.rdc_strict().as_f64() - 0.02).abs() < 1e-12);
        assert!((ledger.awake_dc().as_f64() - 0.05).abs() < 1e-12);
    }

    #[test]
    fn ledgers_add_up_and_an_empty_one_has_no_share() {
        let mut sum = ledger(&[(State::Cpu, 3), (State::CryptoSym, 1)]);
        sum.add_all(&ledger(&[(State::Cpu, 4), (State::DeepLpm, 5)]));
        assert_eq!(sum, ledger(&[(State::Cpu, 7), (State::DeepLpm, 5), (State::CryptoSym, 1)]));
        assert_eq!(Ledger::EMPTY.rdc_strict(), Fraction::ZERO);
    }
}
