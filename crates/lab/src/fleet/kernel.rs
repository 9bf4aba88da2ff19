//! What happens when: blocks, hand-out, wakes.

use anyhow::Result;
use claviger_device::{MAX_WAITING, Profile};
use claviger_fleet::{Allocation, GatewayEvent, RequestToken, prepare_after};
use claviger_frames::{Epoch, next_wake};
use claviger_keystore::CountedStore;
use claviger_units::{Site, Span, Timestamp};

use super::calendar::Calendar;
use super::workshop::Job;
use super::{FleetConfig, FleetDay, Frames, device_of, eui_of};
use crate::chain::{LAN, LATENCY};
use crate::replay::{LinkLedger, Replayed};

/// The run of a fleet.
pub(super) struct Kernel<'a> {
    config: &'a FleetConfig,
    blocks: Box<dyn Iterator<Item = Replayed> + 'a>,
    next_block: (Timestamp, u32),
    store: CountedStore,
    allocation: Allocation,
    calendar: Calendar,
    devices: Vec<Device>,
    n_adopted: u32,
    n_keyed: u32,
    n_handed_out: u64,
    next_level: Timestamp,
    day: FleetDay,
}

/// What is known of a device.
#[derive(Clone, Copy, Debug)]
struct Device {
    epoch: u32,
    n_refusals: u32,
    /// When its key was taken up.
    keyed: Timestamp,
    /// The wake whose reading has not been accounted for.
    unread: Timestamp,
    /// From when on its next key can leave the gateway, and which one that is.
    ready: Option<(Timestamp, u64)>,
    /// Where in its period it wakes.
    slot: Span,
}

impl<'a> Kernel<'a> {
    /// Prepares a run.
    pub(super) fn start(ledger: &'a LinkLedger, config: &'a FleetConfig) -> Self {
        let now = Timestamp::START;
        let mut blocks = ledger.replay(config.seed);
        let first = blocks.next().expect("a replay never ends");
        let mut calendar = Calendar::new();
        let Profile { wake_period, .. } = config.profile;
        let devices = (0..config.n_devices).map(|device| {
            let eui = eui_of(device);
            calendar.enter(now + config.profile.first_request(eui), device);
            let slot = next_wake(now, eui, wake_period).since(now);
            Device { epoch: 0, n_refusals: 0, keyed: now, unread: now, ready: None, slot }
        });
        Self {
            devices: devices.collect(),
            calendar,
            blocks: Box::new(blocks),
            next_block: (now + first.fills, first.n_keys),
            store: CountedStore::new(now, config.capacity),
            allocation: Allocation::new(
                config.sharing.clone(),
                prepare_after(period_of(&config.profile)),
            ),
            n_adopted: 0,
            n_keyed: 0,
            n_handed_out: 0,
            next_level: now + config.settle,
            day: FleetDay::default(),
            config,
        }
    }

    /// Runs to the end, and gives away what is to be sealed and opened.
    pub(super) fn run(
        mut self,
        tell: &mut dyn FnMut(f64),
        work: &mut impl FnMut(Job) -> Result<()>,
    ) -> Result<FleetDay> {
        let end = Timestamp::START + self.config.settle + self.config.span;
        loop {
            let gateway = [self.allocation.first_due(), self.allocation.wake_at()];
            let gateway = gateway.into_iter().flatten().min();
            let wake = self.calendar.first();
            let block = self.next_block.0;
            let next = gateway.into_iter().chain(wake).min().map_or(block, |at| at.min(block));
            if next > end {
                break;
            }
            self.note_levels(next);
            if next == block {
                tell(
                    next.since(Timestamp::START).as_secs_f64()
                        / end.since(Timestamp::START).as_secs_f64(),
                );
                self.commit(next);
            } else if gateway == Some(next) {
                self.allocate(next);
            } else if let Some((at, device)) = self.calendar.take_first() {
                self.wake(at, device, work)?;
            }
        }
        self.note_levels(end);
        for device in 0..self.config.n_devices {
            let withheld = self.report(device, end + Span::from_micros(1), work)?;
            let n = withheld.n.saturating_sub(MAX_WAITING as u64);
            self.day.dropped += self.counted(Readings { n, ..withheld });
        }
        Ok(self.day)
    }

    /// A block has come to both stores.
    fn commit(&mut self, now: Timestamp) {
        let n_keys = self.next_block.1;
        let displaced = self.store.displaced();
        self.store.commit(now, n_keys as usize);
        if self.counts(now) {
            self.day.keys_made += u64::from(n_keys);
            self.day.keys_displaced += self.store.displaced() - displaced;
        }
        let next = self.blocks.next().expect("a replay never ends");
        self.next_block = (now + next.fills, next.n_keys);
        self.adopt(now);
    }

    /// The platform gives devices over to the gateway, a thousand under one key of its own.
    fn adopt(&mut self, now: Timestamp) {
        while self.n_adopted < self.config.n_devices && self.store.hand_out(now, Site::B) {
            self.n_handed_out += 1;
            let upto = self.n_adopted.saturating_add(ADOPTED_AT_ONCE).min(self.config.n_devices);
            for device in self.n_adopted..upto {
                let due = self.allocation.next_time(now, Epoch::BOOTSTRAP, now);
                self.allocation.plan(eui_of(device), due + PREPARATION);
            }
            self.n_adopted = upto;
        }
    }

    /// The gateway asks for keys for whoever is due.
    fn allocate(&mut self, now: Timestamp) {
        while let Some(eui) = self.allocation.take_due(now) {
            let epoch = Epoch::new(self.devices[device_of(eui) as usize].epoch + 1);
            self.allocation.ask((eui, epoch), TOKEN);
        }
        while let Some((wanted, _)) = self.allocation.start(now) {
            if self.store.hand_out(now, Site::A) {
                self.allocation.granted(now, wanted);
                let device = &mut self.devices[device_of(wanted.0) as usize];
                device.ready = Some((now + PREPARATION, self.n_handed_out));
                self.n_handed_out += 1;
                self.day.keys_handed_out += u64::from(self.counts(now));
            } else {
                self.allocation.too_few(now, wanted);
            }
        }
        if let Some(GatewayEvent::Alarm(_)) = self.allocation.judge(now) {
            self.day.alarms += 1;
        }
    }

    /// A device wakes that wants a key.
    fn wake(
        &mut self,
        now: Timestamp,
        number: u32,
        work: &mut impl FnMut(Job) -> Result<()>,
    ) -> Result<()> {
        let FleetConfig { ref profile, hop, .. } = *self.config;
        let counts = self.counts(now);
        let device = &mut self.devices[number as usize];
        let asked = now + hop;
        let answered = asked + hop;
        if let Some((_, serial)) = device.ready.filter(|(at, _)| *at <= asked) {
            let withheld = self.report(number, now, work)?;
            let device = &mut self.devices[number as usize];
            device.ready = None;
            device.epoch += 1;
            if device.epoch > 1 {
                let age = now.since(device.keyed);
                if counts {
                    self.day.renewals += 1;
                    self.day.oldest_key = self.day.oldest_key.max(age);
                }
            } else {
                self.n_keyed += 1;
                if self.n_keyed == self.config.n_devices {
                    self.day.all_keyed = Some(answered.since(Timestamp::START));
                }
            }
            device.n_refusals = 0;
            device.keyed = answered;
            device.unread = now;
            let epoch = device.epoch;
            work(Job::Renew { device: number, epoch, serial })?;
            self.release(number, withheld, work)?;
            let shown = answered + hop;
            let due = self.allocation.next_time(shown, Epoch::new(epoch), shown);
            self.allocation.plan(eui_of(number), due);
            let next = self.next_wake_for_key(number, now);
            self.calendar.enter(next, number);
            return Ok(());
        }
        let next = if device.epoch == 0 {
            // Until it is adopted the gateway does not know it; then it is told when to ask again.
            let asked_for = match number < self.n_adopted {
                true => whole_seconds(self.allocation.delay(asked)),
                false => Span::ZERO,
            };
            let pause = profile.pause(eui_of(number), device.n_refusals, asked_for);
            device.n_refusals = device.n_refusals.saturating_add(1);
            answered + pause
        } else {
            self.day.missed += u64::from(counts);
            now + profile.wake_period
        };
        self.calendar.enter(next, number);
        Ok(())
    }

    /// Returns the first wake after `now` in which a device asks for its next key.
    fn next_wake_for_key(&self, number: u32, now: Timestamp) -> Timestamp {
        let Device { keyed, slot, .. } = self.devices[number as usize];
        let profile = &self.config.profile;
        let period = profile.wake_period.as_micros();
        let next = first_at_or_after(now + Span::from_micros(1), slot, period);
        // The first wake that can be due; the device itself says whether it is.
        let early = Span::from_micros(period);
        let from = (keyed + profile.renew_period) - early;
        let mut wake = first_at_or_after(from, slot, period).max(next);
        while !profile.is_due(wake, keyed) {
            wake = wake + profile.wake_period;
        }
        // With a key that is too old it asks in any wake.
        profile.max_age.map_or(wake, |max_age| {
            let stale = keyed + max_age + Span::from_micros(1);
            first_at_or_after(stale, slot, period).max(next).min(wake)
        })
    }

    /// Accounts for the readings that a device has taken before `until`, under the key that it holds; returns
    /// those that wait for a fresher one.
    fn report(
        &mut self,
        number: u32,
        until: Timestamp,
        work: &mut impl FnMut(Job) -> Result<()>,
    ) -> Result<Readings> {
        let Device { epoch, keyed, unread, slot, .. } = self.devices[number as usize];
        if epoch == 0 || unread >= until {
            return Ok(Readings { first: until, n: 0 });
        }
        let profile = &self.config.profile;
        let period = profile.wake_period;
        // The first reading under a key comes with it, perhaps outside of the slot.
        let first = Readings { first: unread, n: 1 };
        let rest = first_at_or_after(unread + Span::from_micros(1), slot, period.as_micros());
        let n_taken = until.since(rest).as_micros().div_ceil(period.as_micros());
        let n_fresh = profile.max_age.map_or(n_taken, |max_age| {
            let stale = keyed + max_age + Span::from_micros(1);
            stale.since(rest).as_micros().div_ceil(period.as_micros()).min(n_taken)
        });
        self.send(number, first, work)?;
        self.send(number, Readings { first: rest, n: n_fresh }, work)?;
        let begins = rest + Span::from_micros(n_fresh * period.as_micros());
        let withheld = Readings { first: begins, n: n_taken - n_fresh };
        self.day.withheld += self.counted(withheld);
        Ok(withheld)
    }

    /// Lets a device send what has waited for its new key; of more than it can keep the oldest were given up,
    /// the last of them for the reading of this wake.
    fn release(
        &mut self,
        number: u32,
        Readings { first, n }: Readings,
        work: &mut impl FnMut(Job) -> Result<()>,
    ) -> Result<()> {
        let n_kept = n.min(MAX_WAITING as u64 - 1);
        let dropped = Readings { first, n: n - n_kept };
        self.day.dropped += self.counted(dropped);
        let period = self.config.profile.wake_period.as_micros();
        let first = first + Span::from_micros(dropped.n * period);
        self.send(number, Readings { first, n: n_kept }, work)
    }

    /// Seals and counts readings.
    fn send(
        &mut self,
        device: u32,
        readings: Readings,
        work: &mut impl FnMut(Job) -> Result<()>,
    ) -> Result<()> {
        self.day.readings += self.counted(readings);
        let Readings { first, n } = readings;
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        match self.config.frames {
            Frames::All if n > 0 => work(Job::Readings { device, first, n }),
            Frames::All | Frames::Keys => Ok(()),
        }
    }

    /// Returns how many of these were taken since the time from which on a run is looked at.
    fn counted(&self, Readings { first, n }: Readings) -> u64 {
        let begun = Timestamp::START + self.config.settle;
        let period = self.config.profile.wake_period.as_micros();
        n.saturating_sub(begun.since(first).as_micros().div_ceil(period))
    }

    fn note_levels(&mut self, now: Timestamp) {
        while self.next_level <= now {
            let levels = [Site::A, Site::B].map(|site| self.store.available(site));
            self.day.levels.push((self.next_level.since(Timestamp::START), levels));
            self.next_level = self.next_level + HALF_HOUR;
        }
    }

    fn counts(&self, now: Timestamp) -> bool {
        now >= Timestamp::START + self.config.settle
    }
}

/// Readings of wakes that follow one another.
#[derive(Clone, Copy, Debug)]
struct Readings {
    first: Timestamp,
    n: u64,
}

/// Returns the first of the instants `slot`, `slot + period`, … that is not before `at`.
fn first_at_or_after(at: Timestamp, slot: Span, period: u64) -> Timestamp {
    let slot = Timestamp::START + slot;
    let behind = at.since(slot).as_micros().div_ceil(period);
    slot + Span::from_micros(behind * period)
}

/// Who asks at each wake wants a key as often as that.
fn period_of(profile: &Profile) -> Span {
    profile.renew_period.max(profile.wake_period)
}

fn whole_seconds(span: Span) -> Span {
    Span::from_secs(span.as_micros().div_ceil(1_000_000).max(1))
}

/// From the KME's answer to the platform's word that it holds the epoch: two ways between the sites, and two
/// requests at the KMEs.
const PREPARATION: Span = Span::from_micros(2 * LATENCY.as_micros() + 4 * LAN.as_micros());
/// `PROTOCOL.md` P3a.3.
const ADOPTED_AT_ONCE: u32 = 1000;
const HALF_HOUR: Span = Span::from_secs(1800);
/// Nobody repeats a request here.
const TOKEN: RequestToken = RequestToken::from_bytes([0; 16]);
