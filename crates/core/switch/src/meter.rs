//! Meters: a bucket of tokens for each band (OpenFlow 1.3.5 §5.7).

use claviger_openflow::{Band, MeterMod, MeterStats};
use claviger_units::Timestamp;

#[derive(Debug)]
pub(crate) struct Meter {
    flags: u16,
    bands: Vec<Bucket>,
    since: Timestamp,
    came: [u64; 2],
}

#[derive(Debug)]
struct Bucket {
    rate: u32,
    // Invariant: `tokens <= capacity`, both in millionths of a packet or of a kilobit.
    capacity: u64,
    tokens: u64,
    filled: Timestamp,
    dropped: [u64; 2],
}

/// What a meter says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passes,
    Drops,
}

impl Meter {
    /// Makes a meter of drop bands; `None` for bands of other kinds.
    pub(crate) fn new(now: Timestamp, asked: &MeterMod) -> Option<Self> {
        let bands = asked.bands.iter().map(|band| match *band {
            Band::Drop { rate, burst } => {
                // Without a burst of its own a band takes a second's worth.
                let burst = if burst > 0 { burst } else { rate.max(1) };
                let capacity = u64::from(burst) * 1_000_000;
                Some(Bucket { rate, capacity, tokens: capacity, filled: now, dropped: [0; 2] })
            }
            _ => None,
        });
        Some(Self {
            flags: asked.flags,
            bands: bands.collect::<Option<_>>()?,
            since: now,
            came: [0; 2],
        })
    }

    /// Counts a packet, and tells whether a band drops it.
    pub(crate) fn pass(&mut self, now: Timestamp, bytes: u64) -> Verdict {
        count(&mut self.came, bytes);
        let counts_packets = self.flags & 0b10 != 0;
        let cost = if counts_packets { 1_000_000 } else { bytes * 8_000 };
        for bucket in &mut self.bands {
            let elapsed = now.since(bucket.filled).as_micros();
            let earned = elapsed.saturating_mul(bucket.rate.into());
            bucket.tokens = bucket.tokens.saturating_add(earned).min(bucket.capacity);
            bucket.filled = now;
            match bucket.tokens.checked_sub(cost) {
                Some(left) => bucket.tokens = left,
                None => {
                    count(&mut bucket.dropped, bytes);
                    return Verdict::Drops;
                }
            }
        }
        Verdict::Passes
    }

    pub(crate) fn stats(&self, now: Timestamp, meter: u32, flows: u32) -> MeterStats {
        MeterStats {
            meter,
            flows,
            came: self.came,
            duration: duration(self.since, now),
            bands: self.bands.iter().map(|bucket| bucket.dropped).collect(),
        }
    }
}

/// Adds a packet to counters of packets and bytes.
pub(crate) fn count(counters: &mut [u64; 2], bytes: u64) {
    counters[0] += 1;
    counters[1] += bytes;
}

/// Returns a length of time in seconds and nanoseconds.
pub(crate) fn duration(since: Timestamp, now: Timestamp) -> (u32, u32) {
    let micros = now.since(since).as_micros();
    let fraction = u32::try_from(micros % 1_000_000).unwrap_or(0) * 1000;
    (u32::try_from(micros / 1_000_000).unwrap_or(u32::MAX), fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_openflow::MeterCommand;
    use claviger_units::Span;

    fn packets(rate: u32, burst: u32) -> Meter {
        let bands = vec![Band::Drop { rate, burst }];
        let flags = MeterMod::IN_PACKETS;
        let asked = MeterMod { command: MeterCommand::Add, flags, meter: 1, bands };
        Meter::new(Timestamp::START, &asked).unwrap()
    }

    #[test]
    fn a_flood_is_cut_to_burst_and_rate() {
        let mut meter = packets(100, 20);
        let mut passed = 0;
        for n in 0..10_000 {
            // 10 000 packets within a second.
            let now = Timestamp::START + Span::from_micros(100 * n);
            passed += u32::from(meter.pass(now, 60) == Verdict::Passes);
        }
        assert!((119..=121).contains(&passed), "{passed}");
        let stats = meter.stats(Timestamp::START, 1, 0);
        assert_eq!(stats.came[0], 10_000);
        assert_eq!(stats.bands[0][0], 10_000 - u64::from(passed));
    }

    #[test]
    fn what_stays_below_the_rate_always_passes() {
        let mut meter = packets(100, 1);
        for n in 0..1000 {
            let now = Timestamp::START + Span::from_millis(10 * n);
            assert_eq!(meter.pass(now, 1500), Verdict::Passes, "{n}");
        }
    }
}
