//! Whether a link feeds a fleet, and what is short where it does not.

use anyhow::{Result, ensure};
use claviger_device::Profile;
use claviger_fleet::{Sharing, prepare_after};
use claviger_photonics::LinkPreset;
use claviger_units::{Bits, Span};

use crate::fleet::{FleetConfig, FleetDay, Frames, run_telling};
use crate::rate::RatePoint;
use crate::replay::LinkLedger;

/// A link and a fleet.
#[derive(Clone, Debug)]
pub struct Question {
    /// The link, with its loss.
    pub preset: LinkPreset,
    /// How many devices.
    pub devices: u32,
    /// How often each wakes with a reading.
    pub wake: Span,
    /// How often it wants a fresh key.
    pub renew: Span,
    /// How old a key may be before readings wait; `None` goes on with the old key.
    pub max_age: Option<Span>,
    /// The key buffer.
    pub buffer: Bits,
    /// For how long the fleet is looked at, once all have had time for their first keys.
    pub span: Span,
}

/// What theory expects and a day in virtual time has shown.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Keys a second that theory expects of the link.
    pub theory: f64,
    /// Keys a second that its blocks have brought.
    pub made: f64,
    /// Keys a second that the fleet wants.
    pub wanted: f64,
    /// Whether devices ask before the gateway prepares.
    pub is_early: bool,
    /// The day.
    pub day: FleetDay,
}

/// Whether a link feeds a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Every wake for a key found one.
    Yes,
    /// Some found none: the link makes too few.
    TooFewKeys,
    /// Some found none, though the link makes enough on average: the buffer is too small for the blocks of
    /// this link, or all come at once.
    TooSmallBuffer,
    /// Some device never got a first key.
    NotYet,
    /// The wakes nearest to the end of a key's life come before the gateway prepares the next one: let a key
    /// live for a whole number of wakes.
    AskedTooEarly,
    /// Every key came in time, but keys may grow too old before the next is due: readings wait.
    KeysTooOld,
    /// Nobody asked for a key in this time: look for longer.
    NothingSeen,
}

impl Question {
    /// Runs a day, and tells how much of it is over, 0 to 1.
    ///
    /// # Errors
    ///
    /// Where the link gives no key, or the fleet cannot be.
    pub fn ask(
        &self,
        link: &LinkLedger,
        seed: u64,
        threads: usize,
        tell: &mut dyn FnMut(f64),
    ) -> Result<Answer> {
        let theory = RatePoint::of(&self.preset, self.preset.loss()).key?.as_bps() / 256.0;
        ensure!(
            self.renew >= Span::from_secs(1),
            "a key every {} is too often: 1s or more",
            self.renew
        );
        let wanted = f64::from(self.devices) / self.period().as_secs_f64();
        // Twice the time that first keys take at this rate, and a few periods.
        let first = 2.0 * f64::from(self.devices) / link.keys_per_second();
        let settle = first + 4.0 * self.renew.as_secs_f64();
        let settle = Span::from_secs_f64(settle.clamp(3600.0, MOST_SETTLE.as_secs_f64()));
        let profile = Profile {
            renew_period: self.renew,
            max_age: self.max_age,
            ..Profile::waking_every(self.wake)
        };
        let day = run_telling(
            link,
            &FleetConfig {
                n_devices: self.devices,
                profile,
                sharing: Sharing::default(),
                capacity: self.buffer,
                hop: Span::from_millis(5),
                settle,
                span: self.span,
                frames: Frames::Keys,
                seed,
                threads,
            },
            tell,
        )?;
        let is_early = self.period() < prepare_after(self.renew.max(self.wake));
        Ok(Answer { theory, made: link.keys_per_second(), wanted, is_early, day })
    }

    /// Returns how often a device really asks: in the wake nearest to the end of its key's life.
    #[must_use]
    pub fn period(&self) -> Span {
        let (wake, renew) = (self.wake.as_micros().max(1), self.renew.as_micros());
        let n_wakes = renew.saturating_sub(wake / 2).div_ceil(wake).max(1);
        Span::from_micros(n_wakes.saturating_mul(wake))
    }
}

impl Answer {
    /// Tells whether the link feeds the fleet.
    #[must_use]
    pub fn holds(&self) -> Holds {
        match self.day {
            FleetDay { all_keyed: None, .. } => Holds::NotYet,
            FleetDay { missed: 0, renewals: 0, .. } => Holds::NothingSeen,
            FleetDay { missed: 0, withheld: 0, .. } => Holds::Yes,
            FleetDay { missed: 0, .. } => Holds::KeysTooOld,
            _ if self.made < self.wanted => Holds::TooFewKeys,
            _ if self.is_early => Holds::AskedTooEarly,
            _ => Holds::TooSmallBuffer,
        }
    }
}

impl Holds {
    /// Returns it in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Yes => "holds",
            Self::TooFewKeys => "too few keys",
            Self::TooSmallBuffer => "too small a buffer",
            Self::NotYet => "some device got no first key",
            Self::AskedTooEarly => "devices ask before the next key is prepared",
            Self::KeysTooOld => "keys grow too old",
            Self::NothingSeen => "nobody asked for a key",
        }
    }
}

/// How long first keys are waited for at most.
const MOST_SETTLE: Span = Span::from_secs(5 * 86_400);
