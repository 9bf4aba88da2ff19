//! The devices, their flash, and their last hop to the gateway.

use claviger_device::{
    Action, Delivery, Device, FlashImage, FlashWrite, KeyAnswer, KeyRequest, Profile,
};
use claviger_fleet::{KeyAnswer as FromGateway, QueueRefusal};
use claviger_frames::Epoch;
use claviger_frames::telemetry::Header;
use claviger_units::{Eui64, Key256, SecretBytes, Timestamp};
use rand::rngs::StdRng;

use super::agenda::Event;
use super::{Party, RADIO, VirtualChain, rng};
use crate::fleet::eui_of;

/// A device with its flash, which outlives its power.
#[derive(Debug)]
pub(super) struct DeviceSite {
    pub(super) eui: Eui64,
    pub(super) device: Device,
    flash: FlashImage,
    rng: StdRng,
    profile: Profile,
    boot: u64,
    /// After how many flash writes more the power fails, in the middle of one.
    pub(super) cut_after: Option<u64>,
    /// Readings taken before the last boot.
    earlier_readings: u64,
    /// The epoch that was last seen of it.
    seen: Epoch,
}

impl DeviceSite {
    /// Returns the names of a fleet.
    pub(super) fn euis(n_devices: u16) -> impl Iterator<Item = Eui64> {
        (0..u32::from(n_devices)).map(eui_of)
    }

    pub(super) fn new(eui: Eui64, bootstrap: Key256, profile: Profile, seed: u64) -> Self {
        let flash = FlashImage::provision(bootstrap, eui);
        let device = Device::boot(Timestamp::START, &flash, profile).expect("a new flash is valid");
        let rng = rng(seed, &format!("device {eui}"));
        Self {
            eui,
            device,
            flash,
            rng,
            profile,
            boot: 0,
            cut_after: None,
            earlier_readings: 0,
            seen: Epoch::BOOTSTRAP,
        }
    }

    pub(super) fn n_readings(&self) -> u64 {
        self.earlier_readings + self.device.counters().readings
    }

    fn reboot(&mut self, now: Timestamp) -> bool {
        self.earlier_readings = self.n_readings();
        self.boot += 1;
        let booted = Device::boot(now, &self.flash, self.profile);
        booted.map(|device| self.device = device).is_ok()
    }

    /// Does a flash write; `false` if the power fails in the middle of it.
    fn write(&mut self, write: &FlashWrite) -> bool {
        match self.cut_after {
            Some(0) => {
                let half = write.bytes.expose().len() / 2;
                let torn = SecretBytes::new(write.bytes.expose()[..half].to_vec());
                self.flash.write(&FlashWrite { slot: write.slot, bytes: torn });
                self.cut_after = None;
                return false;
            }
            Some(ref mut n_writes) => *n_writes -= 1,
            None => {}
        }
        self.flash.write(write);
        self.device.handle_flash(self.flash.slot(write.slot).expose());
        true
    }
}

impl VirtualChain {
    /// Cuts the power of a device and gives it back.
    pub(super) fn reboot(&mut self, n: usize) {
        let (now, site) = (self.now, &mut self.devices[n]);
        if !site.reboot(now) {
            self.audit.violate(format!("device {} does not boot any more", site.eui));
        }
        self.audit.tally.crashes += 1;
        self.drain_device(n);
    }

    pub(super) fn time_out_device(&mut self, n: usize) {
        let DeviceSite { device, rng, .. } = &mut self.devices[n];
        device.handle_timeout(self.now, rng);
        self.drain_device(n);
    }

    pub(super) fn drain_device(&mut self, n: usize) {
        while let Some(write) = self.devices[n].device.poll_flash() {
            if !self.devices[n].write(&write) {
                self.bury(Party::Device(n));
                return;
            }
        }
        self.check_followed(n);
        let DeviceSite { eui, boot, ref mut device, .. } = self.devices[n];
        let action = device.poll_action();
        self.timeouts.set(n, device.poll_timeout());
        match action {
            Some(Action::RequestKey(KeyRequest::Https { path_and_query, authorization })) => {
                let request = Event::KeyRequest { device: n, boot, path_and_query, authorization };
                self.enter_after(RADIO, request);
            }
            Some(Action::RequestKey(other)) => {
                self.audit.violate(format!("device {eui} asks as it was not told to: {other:?}"));
            }
            Some(Action::Publish { header, frame }) => {
                self.audit.note_frame(eui, header, &frame);
                let password = self.devices[n].device.mqtt_password();
                let publish = Event::Publish { device: n, boot, header, frame, password };
                self.enter_after(RADIO, publish);
            }
            None => {}
        }
    }

    /// A device never reaches an epoch that the platform cannot follow (`DESIGN.md`, invariant 9).
    fn check_followed(&mut self, n: usize) {
        let DeviceSite { eui, ref device, ref mut seen, .. } = self.devices[n];
        let epoch = device.epoch();
        if epoch == *seen {
            return;
        }
        *seen = epoch;
        self.audit.note_epoch(eui, epoch);
        let held = self.newest_epoch_held(eui);
        if held.is_none_or(|held| held < epoch) {
            self.audit.violate(format!("device {eui} is at {epoch}, the platform holds {held:?}"));
        }
    }

    pub(super) fn handle_key_request(
        &mut self,
        n: usize,
        boot: u64,
        path_and_query: &str,
        authorization: &str,
    ) {
        let eui = self.devices[n].eui;
        let have = path_and_query.split_once("?have=").map(|(_, have)| have);
        let answer = self.at_gateway(|gateway, tx, now, _| {
            let (eui, authorization) = (eui.to_string(), Some(authorization));
            gateway.handle_key_request(tx, now, &eui, have, path_and_query, authorization)
        });
        let answer = answer.and_then(Result::ok);
        if answer == Some(FromGateway::Denied) && have != Some("0") {
            self.audit.violate(format!("device {eui} is locked out at {have:?}"));
        }
        self.enter_after(RADIO, Event::KeyAnswer { device: n, boot, answer });
    }

    pub(super) fn handle_key_answer(&mut self, n: usize, boot: u64, answer: Option<&FromGateway>) {
        let site = &mut self.devices[n];
        if site.boot != boot {
            return;
        }
        let answer = match answer {
            Some(FromGateway::Frame(frame)) => KeyAnswer::Frame(frame),
            Some(FromGateway::NothingDue) => KeyAnswer::NothingDue,
            Some(&FromGateway::Later { retry_after }) => KeyAnswer::Later { retry_after },
            Some(FromGateway::Denied) => KeyAnswer::Denied,
            None => KeyAnswer::Unreachable,
        };
        site.device.handle_key_answer(self.now, answer);
        self.drain_device(n);
    }

    /// Logs the device in and queues its frame; the acknowledgement may be lost.
    pub(super) fn handle_publish(
        &mut self,
        (n, boot): (usize, u64),
        header: Header,
        frame: &[u8],
        password: &str,
    ) {
        let eui = self.devices[n].eui;
        let who = self.at_gateway(|gateway, tx, now, _| {
            gateway.handle_login(tx, now, &eui.to_string(), password.as_bytes())
        });
        let queued = match who {
            Some(Ok(Some(_))) => {
                self.at_gateway(|gateway, tx, now, _| gateway.handle_uplink(tx, now, eui, frame))
            }
            Some(Ok(None)) => {
                self.audit.violate(format!("device {eui} cannot log in at {}", header.epoch));
                None
            }
            _ => None,
        };
        let delivery = match queued {
            Some(Ok(())) => {
                self.audit.note_acknowledged(eui, header);
                self.forward();
                Delivery::Acknowledged
            }
            None | Some(Err(QueueRefusal::Full | QueueRefusal::Share)) => Delivery::Failed,
            Some(Err(refusal)) => {
                self.audit.violate(format!("telemetry of {eui} is not queued: {refusal}"));
                Delivery::Failed
            }
        };
        if !self.is_ack_lost() {
            self.enter_after(RADIO, Event::Published { device: n, boot, header, delivery });
        }
    }

    pub(super) fn handle_published(
        &mut self,
        n: usize,
        boot: u64,
        header: Header,
        delivery: Delivery,
    ) {
        let site = &mut self.devices[n];
        if site.boot == boot {
            site.device.handle_published(self.now, header, delivery);
            self.drain_device(n);
        }
    }
}
