//! A day of a fleet in virtual time: the decisions, the frames and the key counts of the live system, with
//! neither records nor wires.
//!
//! What is the same code as live, and what is not:
//!
//! - the link's blocks come from the real engine ([`LinkLedger`]), and are split between the sites, kept and
//!   displaced as the key stores do ([`claviger_keystore::CountedStore`]);
//! - who gets a key, and when, is the gateway's own decision ([`claviger_fleet::Allocation`]);
//! - when a device wakes, asks, and waits is the device's own ([`claviger_frames::next_wake`],
//!   [`claviger_device::Profile`]);
//! - every key frame, and on demand every reading, is sealed and opened with the device's own keys
//!   ([`claviger_frames`]);
//! - stores, records between the sites, log-ins and their failures are left out: [`VirtualChain`] has them,
//!   a hundred times as slowly, and a test compares the two.
//!
//! [`VirtualChain`]: crate::VirtualChain

mod calendar;
mod kernel;
mod workshop;

pub use workshop::Sealed;

use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context as _, Result, anyhow, ensure};
use claviger_device::Profile;
use claviger_fleet::Sharing;
use claviger_units::{Bits, Eui64, MacAddr, Span};

use crate::replay::LinkLedger;
use kernel::Kernel;
use workshop::{Job, Workshop};

/// What a fleet's day is made of; it is a function of this and of the link's ledger.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// How many devices, all of them provisioned before the light goes on.
    pub n_devices: u32,
    /// How they spend their time.
    pub profile: Profile,
    /// Who gets a key when there are too few.
    pub sharing: Sharing,
    /// The key buffer of both sites' shares together (paper, buffer: 1 Mbit).
    pub capacity: Bits,
    /// From a device to the gateway.
    pub hop: Span,
    /// What happens before is not looked at: first keys, and buffers on their way to what they will be.
    pub settle: Span,
    /// For how long the fleet is looked at.
    pub span: Span,
    /// Which frames are sealed and opened.
    pub frames: Frames,
    /// From what everything random is made.
    pub seed: u64,
    /// How many threads seal and open frames; the outcome is the same.
    pub threads: usize,
}

/// Which frames of a run are sealed and opened; all are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Key frames and readings.
    All,
    /// Key frames alone.
    Keys,
}

/// What a fleet's day has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetDay {
    /// Keys that the link has made.
    pub keys_made: u64,
    /// Keys that were destroyed to make room for newer ones.
    pub keys_displaced: u64,
    /// Keys that were handed out.
    pub keys_handed_out: u64,
    /// How often a device got the key that it wanted.
    pub renewals: u64,
    /// How often a device with a key asked for the next, and there was none yet.
    pub missed: u64,
    /// Readings that were taken in this time and sent, some of them later.
    pub readings: u64,
    /// Readings that waited because the key was too old to seal under; only where a device fails closed.
    pub withheld: u64,
    /// Of those, readings given up because too many waited.
    pub dropped: u64,
    /// The greatest age at which a key was replaced.
    pub oldest_key: Span,
    /// When the last device of the fleet got its first key; `None` if one never did.
    pub all_keyed: Option<Span>,
    /// How often the gateway told that keys are short, all of the run.
    pub alarms: u64,
    /// What each site may hand out, A's keys and B's, once per half hour.
    pub levels: Vec<(Span, [u64; 2])>,
    /// What was sealed and opened, all of the run.
    pub sealed: Sealed,
}

impl FleetDay {
    /// Returns the share of wakes for a key that found none, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn missed_share(&self) -> f64 {
        match self.renewals + self.missed {
            0 => 0.0,
            wanted => self.missed as f64 / wanted as f64,
        }
    }
}

/// Runs a fleet for as long as its configuration says.
///
/// ```
/// use claviger_device::Profile;
/// use claviger_fleet::Sharing;
/// use claviger_lab::fleet::{FleetConfig, Frames, run};
/// use claviger_lab::replay::LinkLedger;
/// use claviger_photonics::LinkPreset;
/// use claviger_units::{Bits, Span};
///
/// let preset = LinkPreset::named("lab")?;
/// let ledger = LinkLedger::record(&preset, 1, 2, |_| {})?;
/// let day = run(&ledger, &FleetConfig {
///     n_devices: 10,
///     profile: Profile::waking_every(Span::from_secs(300)),
///     sharing: Sharing::default(),
///     capacity: Bits::new(1_000_000),
///     hop: Span::from_millis(5),
///     settle: Span::from_secs(3600),
///     span: Span::from_secs(3600),
///     frames: Frames::All,
///     seed: 1,
///     threads: 1,
/// })?;
/// assert_eq!((day.renewals, day.missed, day.readings), (120, 0, 120));
/// # Ok::<(), anyhow::Error>(())
/// ```
///
/// # Errors
///
/// Where the configuration cannot be, and where a frame does not open as it was sealed.
pub fn run(ledger: &LinkLedger, config: &FleetConfig) -> Result<FleetDay> {
    run_telling(ledger, config, &mut |_| {})
}

/// Runs a fleet as [`run`] does, and tells at each block of the link how much of the time is over, 0 to 1.
///
/// # Errors
///
/// As those of [`run`].
pub fn run_telling(
    ledger: &LinkLedger,
    config: &FleetConfig,
    tell: &mut dyn FnMut(f64),
) -> Result<FleetDay> {
    check(config)?;
    let wake = config.profile.wake_period;
    let shops = u32::try_from(config.threads).unwrap_or(u32::MAX).clamp(1, config.n_devices);
    let workshop = |remainder| {
        Workshop::new(config.frames, wake, config.seed, config.n_devices, (remainder, shops))
    };
    if shops == 1 {
        let mut workshop = workshop(0);
        let mut day = Kernel::start(ledger, config).run(tell, &mut |job| workshop.work(job))?;
        day.sealed = workshop.finish();
        return Ok(day);
    }
    std::thread::scope(|scope| {
        let (senders, benches): (Vec<_>, Vec<_>) = (0..shops)
            .map(|remainder| {
                let (sender, jobs) = sync_channel::<Vec<Job>>(BATCHES);
                let work = move || {
                    let mut workshop = workshop(remainder);
                    for batch in jobs {
                        batch.into_iter().try_for_each(|job| workshop.work(job))?;
                    }
                    Ok(workshop.finish())
                };
                (Batches::new(sender), scope.spawn(work))
            })
            .unzip();
        let mut senders = senders;
        let day = Kernel::start(ledger, config).run(tell, &mut |job: Job| {
            let shop = &mut senders[(job.device() % shops) as usize];
            shop.send(job)
        });
        let flushed = senders.into_iter().try_for_each(Batches::finish);
        let mut sealed = Sealed::default();
        for bench in benches {
            let done: Result<Sealed> =
                bench.join().map_err(|_panic| anyhow!("a workshop has panicked"))?;
            sealed.add(done?);
        }
        flushed?;
        Ok(FleetDay { sealed, ..day? })
    })
}

fn check(config: &FleetConfig) -> Result<()> {
    let FleetConfig { n_devices, ref profile, span, settle, .. } = *config;
    ensure!(n_devices > 0, "a fleet needs a device: give 1 or more");
    ensure!(n_devices <= MOST_DEVICES, "{n_devices} devices are more than {MOST_DEVICES}");
    let wake = profile.wake_period;
    ensure!(
        wake >= Span::from_secs(1),
        "a device that wakes every {wake} never sleeps: 1 s or more"
    );
    ensure!(
        profile.renew_period == Span::ZERO || profile.renew_period >= wake,
        "a key every {} needs a wake as often, not every {wake}",
        profile.renew_period
    );
    ensure!(span > Span::ZERO, "nothing can be seen in no time: give a span");
    let whole = Span::from_micros(settle.as_micros().saturating_add(span.as_micros()));
    ensure!(whole <= MOST_TIME, "{whole} is longer than a run may be, {MOST_TIME}");
    Ok(())
}

/// Jobs on their way to a workshop, many at a time.
struct Batches {
    sender: SyncSender<Vec<Job>>,
    waiting: Vec<Job>,
}

impl Batches {
    fn new(sender: SyncSender<Vec<Job>>) -> Self {
        Self { sender, waiting: Vec::with_capacity(BATCH) }
    }

    fn send(&mut self, job: Job) -> Result<()> {
        self.waiting.push(job);
        if self.waiting.len() < BATCH {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.waiting, Vec::with_capacity(BATCH));
        self.sender.send(batch).ok().context("a workshop has stopped")
    }

    fn finish(self) -> Result<()> {
        self.sender.send(self.waiting).ok().context("a workshop has stopped")
    }
}

/// Returns the name of a device of any virtual fleet.
pub(crate) fn eui_of(device: u32) -> Eui64 {
    let [_, high, middle, low] = (device + 1).to_be_bytes();
    Eui64::from(MacAddr::from_bytes([2, 0, 0x5E, 0x10 + high, middle, low]))
}

/// Returns the device of a name that [`eui_of`] gave.
fn device_of(eui: Eui64) -> u32 {
    let [.., high, middle, low] = *eui.as_bytes();
    u32::from_be_bytes([0, high - 0x10, middle, low]) - 1
}

/// Names of the fleet end with three bytes, the first of which begins at 0x10.
const MOST_DEVICES: u32 = (0xF0 << 16) - 1;
/// A month.
const MOST_TIME: Span = Span::from_secs(31 * 86_400);
/// Jobs that go to a workshop at once, and how many such batches may wait there.
const BATCH: usize = 4096;
const BATCHES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_one_device() {
        for device in [0, 1, 254, 255, 65_534, 65_535, 70_000, 1_000_000, MOST_DEVICES - 1] {
            assert_eq!(device_of(eui_of(device)), device);
        }
        assert_eq!(eui_of(0).to_string(), "02005efffe100001");
    }
}
