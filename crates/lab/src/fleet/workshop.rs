//! What goes over the air: each key frame and each reading is sealed by one end and opened by the other.

use anyhow::{Result, bail, ensure};
use claviger_device::Sensor;
use claviger_distill::seed;
use claviger_frames::{
    DataKeys, DeviceRoot, Epoch, GatewaySecret, key_frame, split_bootstrap, telemetry,
};
use claviger_units::{Eui64, Key256, Span, Timestamp};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{Frames, eui_of};

/// Something to seal and open.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// The device moves on to `epoch` with the `serial`-th key that was handed out.
    Renew { device: u32, epoch: u32, serial: u64 },
    /// The device sends `n` readings under its present key, the first at `first`.
    Readings { device: u32, first: Timestamp, n: u32 },
}

impl Job {
    pub(super) const fn device(self) -> u32 {
        match self {
            Self::Renew { device, .. } | Self::Readings { device, .. } => device,
        }
    }
}

/// What was sealed and opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Key frames that a device opened and that held the key handed out for it.
    pub key_frames: u64,
    /// Their bytes.
    pub key_frame_bytes: u64,
    /// Readings that the platform opened and that were those of the device.
    pub telemetry_frames: u64,
    /// Their bytes.
    pub telemetry_bytes: u64,
    /// A mark of all frames of each device in their order; any other frame gives another.
    pub mark: u64,
}

impl Sealed {
    /// Adds what somebody else has sealed; it does not matter who comes first.
    pub(super) const fn add(&mut self, other: Self) {
        self.key_frames += other.key_frames;
        self.key_frame_bytes += other.key_frame_bytes;
        self.telemetry_frames += other.telemetry_frames;
        self.telemetry_bytes += other.telemetry_bytes;
        self.mark = self.mark.wrapping_add(other.mark);
    }
}

/// Both ends of the devices whose number leaves a certain remainder, and of no others.
#[derive(Debug)]
pub(super) struct Workshop {
    frames: Frames,
    wake: Span,
    seed: u64,
    keys: [u8; 32],
    remainder: u32,
    divisor: u32,
    devices: Vec<Ends>,
    sealed: Sealed,
}

/// What device, gateway and platform hold for one device; it stands here once, as they must agree.
#[derive(Debug)]
struct Ends {
    eui: Eui64,
    root: DeviceRoot,
    gateway: GatewaySecret,
    epoch: Epoch,
    data: Option<DataKeys>,
    counter: u32,
    sensor: Option<Sensor>,
    mark: u64,
}

impl Workshop {
    /// Provisions the devices below `n_devices` whose number leaves `remainder` by `divisor`.
    pub(super) fn new(
        frames: Frames,
        wake: Span,
        seed: u64,
        n_devices: u32,
        (remainder, divisor): (u32, u32),
    ) -> Self {
        let numbers = (remainder..n_devices).step_by(divisor as usize);
        let labels = seed::derive(seed, "fleet labels");
        let devices = numbers.map(|device| Ends::provision(frames, &labels, device)).collect();
        let (keys, sealed) = (seed::derive(seed, "fleet keys"), Sealed::default());
        Self { frames, wake, seed, keys, remainder, divisor, devices, sealed }
    }

    /// Does a job of one of its devices; jobs of a device come in their order.
    pub(super) fn work(&mut self, job: Job) -> Result<()> {
        debug_assert_eq!(job.device() % self.divisor, self.remainder, "another workshop's");
        let ends = &mut self.devices[(job.device() / self.divisor) as usize];
        match job {
            Job::Renew { epoch, serial, .. } => {
                let key = drawn(&self.keys, serial);
                self.sealed.key_frame_bytes += ends.renew(Epoch::new(epoch), &key, self.frames)?;
                self.sealed.key_frames += 1;
            }
            Job::Readings { device, first, n } => {
                let mut rng = noise(self.seed, device, first);
                let mut taken = first;
                for _ in 0..n {
                    self.sealed.telemetry_bytes += ends.report(taken, &mut rng)?;
                    self.sealed.telemetry_frames += 1;
                    taken = taken + self.wake;
                }
            }
        }
        Ok(())
    }

    /// Returns what was sealed and opened.
    pub(super) fn finish(mut self) -> Sealed {
        let marks = self.devices.iter().map(|ends| ends.mark);
        self.sealed.mark = marks.fold(0, |sum: u64, mark| sum.wrapping_add(mark));
        self.sealed
    }
}

impl Ends {
    fn provision(frames: Frames, labels: &[u8; 32], device: u32) -> Self {
        let eui = eui_of(device);
        let (root, gateway) = split_bootstrap(&drawn(labels, device.into()));
        let sensor = (frames == Frames::All).then(|| Sensor::of(eui));
        let (epoch, data) = (Epoch::BOOTSTRAP, None);
        Self {
            eui,
            root,
            gateway,
            epoch,
            data,
            counter: 0,
            sensor,
            mark: u64::from_be_bytes(*eui.as_bytes()),
        }
    }

    /// The gateway seals, the device opens; both step on.
    fn renew(&mut self, epoch: Epoch, key: &Key256, frames: Frames) -> Result<u64> {
        let frame = key_frame::seal_compact(&self.gateway, epoch, key);
        let (opened, held) = key_frame::open(&self.gateway, self.epoch, &frame)?;
        ensure!(opened == epoch && held.ct_eq(key), "device {} opened another key", self.eui);
        self.gateway = self.gateway.next(key, self.eui, self.epoch, epoch);
        (self.epoch, self.counter) = (epoch, 0);
        if frames == Frames::All {
            self.data = Some(DataKeys::derive(&self.root, &self.gateway, self.eui, epoch));
        }
        self.note(&frame);
        Ok(frame.len() as u64)
    }

    /// The device measures and seals, the platform opens.
    fn report(&mut self, now: Timestamp, rng: &mut Xoshiro256PlusPlus) -> Result<u64> {
        let (Some(keys), Some(sensor)) = (&self.data, &mut self.sensor) else {
            bail!("device {} has nothing to seal under", self.eui)
        };
        let reading = sensor.measure(now, rng).encode();
        let frame = telemetry::seal(keys, self.eui, self.epoch, self.counter, &reading)?;
        let (header, opened) = telemetry::open(keys, self.eui, &frame)?;
        let sent = (self.epoch, self.counter);
        ensure!(
            opened == reading && (header.epoch, header.counter) == sent,
            "the platform read what device {} has not sent",
            self.eui
        );
        self.counter += 1;
        self.note(&frame);
        Ok(frame.len() as u64)
    }

    /// The end of a frame authenticates all of it.
    fn note(&mut self, frame: &[u8]) {
        let end = frame.last_chunk().copied().map_or(0, u64::from_be_bytes);
        self.mark = (self.mark.rotate_left(7) ^ end).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Returns the `number`-th key of a stream, whichever others are drawn.
fn drawn(stream: &[u8; 32], number: u64) -> Key256 {
    let mut seed = *stream;
    for (byte, part) in seed.iter_mut().zip(number.to_le_bytes()) {
        *byte ^= part;
    }
    Key256::random(&mut Xoshiro256PlusPlus::from_seed(seed))
}

fn noise(seed: u64, device: u32, at: Timestamp) -> Xoshiro256PlusPlus {
    let mixed = seed ^ u64::from(device) << 40 ^ at.as_micros();
    Xoshiro256PlusPlus::seed_from_u64(mixed)
}
