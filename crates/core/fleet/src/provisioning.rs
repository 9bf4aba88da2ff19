//! The provisioning application: the platform's devices, and their part in the network.
//!
//! Without a controller every device that is brought is adopted at once. With one, a device is held
//! until its card was seen, it was approved, and discovery has settled: then one order is placed for
//! all new devices together, and the platform lets the gateway adopt them.

use std::collections::VecDeque;

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_frames::Epoch;
use claviger_units::{Eui64, MacAddr, Timestamp};
use rand_core::Rng;

use crate::enrolment::{
    Admission, Approval, EnrolmentError, Enrolments, FirstKeys, Measure, Standing,
};
use crate::labels::Label;
use crate::{
    Accepted, Alarm, FleetError, Half, Platform, PlatformConfig, PlatformEvent, PlatformOrder,
    ProvisionError, UplinkRefusal,
};

/// The platform and the enrolment of its devices, which change together.
#[derive(Debug)]
pub struct Provisioning {
    /// The devices and their keys.
    pub platform: Platform,
    enrolments: Option<Enrolments>,
    events: VecDeque<ProvisioningEvent>,
    // Whether it was told that there are admissions to carry to the controller.
    told_changes: bool,
}

/// What has become durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProvisioningEvent {
    /// At the platform.
    Platform(PlatformEvent),
    /// The controller must be told of admissions: [`Provisioning::take_changes`].
    AdmissionsChanged,
    /// Labels were brought: cards that were seen before must be looked for.
    Brought,
    /// First keys were ordered.
    Ordered(FirstKeys),
}

/// Whether a label may belong to a device that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Only to one that was retired.
    Refused,
    /// The device begins anew with the key of this label.
    BeginsAnew,
}

impl Provisioning {
    /// Opens platform and enrolment; without an `approval` there is no controller to admit devices.
    pub fn open(
        tx: &mut dyn Tx,
        now: Timestamp,
        config: PlatformConfig,
        approval: Option<Approval>,
        rng: &mut impl Rng,
    ) -> Result<Self, EngineError> {
        let platform = Platform::open(tx, now, config, rng)?;
        let enrolments = approval.map(|approval| Enrolments::open(tx, approval)).transpose()?;
        let events = VecDeque::new();
        Ok(Self { platform, enrolments, events, told_changes: false })
    }

    /// Returns the enrolment of devices; `None` where there is no controller.
    #[must_use]
    pub fn enrolments(&self) -> Option<&Enrolments> {
        self.enrolments.as_ref()
    }

    /// Takes in devices with what stands on their labels; all of them, or none and every fault with
    /// the place of its label. The keys serve this once and are not kept.
    pub fn bring(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        who: &str,
        labels: &[Label],
        known: Known,
    ) -> Result<Result<(), Vec<(usize, ProvisionError)>>, EngineError> {
        let mut faults = Vec::new();
        for (at, label) in labels.iter().enumerate() {
            if let Err(fault) = self.may_bring(tx, label, known) {
                faults.push((at, fault));
            }
        }
        if let Some((_, ProvisionError::Store(error))) =
            faults.iter().find(|(_, fault)| matches!(fault, ProvisionError::Store(_)))
        {
            return Err(error.clone());
        }
        if !faults.is_empty() {
            return Ok(Err(faults));
        }
        for label in labels {
            self.bring_one(tx, now, who, label)?;
        }
        self.carry_orders(tx)?;
        if self.enrolments.is_some() {
            self.events.push_back(ProvisioningEvent::Brought);
        }
        Ok(Ok(()))
    }

    fn may_bring(&self, tx: &dyn Tx, label: &Label, known: Known) -> Result<(), ProvisionError> {
        let eui = Eui64::from(label.mac);
        if self.platform.has_had(tx, eui, &label.key)? {
            return Err(ProvisionError::UsedKey(eui));
        }
        let is_known = match &self.enrolments {
            Some(enrolments) => enrolments
                .get(tx, label.mac)?
                .is_some_and(|device| device.standing != Standing::Retired),
            None => self.platform.has(tx, eui)?,
        };
        if is_known && known == Known::Refused {
            return Err(ProvisionError::Known(eui));
        }
        Ok(())
    }

    fn bring_one(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        who: &str,
        Label { mac, key, policy, .. }: &Label,
    ) -> Result<(), EngineError> {
        let eui = Eui64::from(*mac);
        stored(self.platform.provision_again(tx, eui, key))?;
        let Some(enrolments) = &mut self.enrolments else { return Ok(()) };
        self.platform.hold(tx, eui)?;
        let enrolled = match enrolments.get(tx, *mac)? {
            Some(device) if device.standing != Standing::Retired => {
                enrolments.renew(tx, now, who, *mac)
            }
            _ => enrolments.import(tx, now, who, &[(*mac, policy.clone())]),
        };
        match enrolled {
            Err(EnrolmentError::Store(error)) => Err(error),
            // Nothing else is left: the label was looked at before.
            _ => Ok(()),
        }
    }

    /// Notes which cards were seen where.
    pub fn handle_seen(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        seen: &[(MacAddr, String)],
    ) -> Result<(), EngineError> {
        let Some(enrolments) = &mut self.enrolments else { return Ok(()) };
        for (mac, place) in seen {
            enrolments.handle_seen(tx, now, *mac, place)?;
        }
        Ok(())
    }

    /// Notes that discovery has nothing new to tell: first keys are ordered, and the new devices may be
    /// adopted.
    pub fn handle_settled(&mut self, tx: &mut dyn Tx, now: Timestamp) -> Result<(), EngineError> {
        let Some(enrolments) = &mut self.enrolments else { return Ok(()) };
        enrolments.handle_settled(tx, now)?;
        self.carry_orders(tx)
    }

    /// Notes that a card was used where its device is not.
    pub fn handle_spoofed(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        mac: MacAddr,
        place: &str,
    ) -> Result<(), EngineError> {
        let Some(enrolments) = &mut self.enrolments else { return Ok(()) };
        enrolments.handle_spoofed(tx, now, mac, place)
    }

    /// Reads a telemetry frame, as [`Platform::handle_uplink`]: a first reading under a key of the link
    /// makes its device active, two devices that speak as one are quarantined.
    pub fn handle_uplink(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        eui: Eui64,
        frame: &[u8],
    ) -> Result<Result<Accepted, UplinkRefusal>, EngineError> {
        let answer = self.platform.handle_uplink(tx, now, eui, frame)?;
        let Some(enrolments) = &mut self.enrolments else { return Ok(answer) };
        while let Some(event) = self.platform.poll_event() {
            match event {
                PlatformEvent::Confirmed { eui, epoch } if epoch > Epoch::BOOTSTRAP => {
                    if let Some(mac) = eui.mac() {
                        enrolments.handle_confirmed(tx, now, mac)?;
                    }
                }
                PlatformEvent::Alarm(Alarm::Cloned { eui, .. }) => {
                    let why = ("rule", "two devices speak as one");
                    let shut_out =
                        |mac| enrolments.take_measure(tx, now, why, mac, Measure::Quarantine);
                    let taken = eui.mac().map(shut_out);
                    // Any other error: it takes no part already, or was never enrolled.
                    if let Some(Err(EnrolmentError::Store(error))) = taken {
                        return Err(error);
                    }
                }
                _ => {}
            }
            self.events.push_back(ProvisioningEvent::Platform(event));
        }
        Ok(answer)
    }

    /// Does to a device what an operator, a rule or an alarm wants; the keys of one that is retired are
    /// wiped.
    pub fn take_measure(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        who: (&str, &str),
        mac: MacAddr,
        measure: Measure,
    ) -> Result<Standing, EnrolmentError> {
        let Some(enrolments) = &mut self.enrolments else {
            return Err(EnrolmentError::Unknown(mac));
        };
        let standing = enrolments.take_measure(tx, now, who, mac, measure)?;
        if standing == Standing::Retired {
            self.platform.retire(tx, Eui64::from(mac))?;
        }
        self.carry_orders(tx)?;
        Ok(standing)
    }

    /// Takes up to `limit` devices whose admission the controller must be told.
    pub fn take_changes(
        &mut self,
        tx: &dyn Tx,
        limit: usize,
    ) -> Result<Vec<(MacAddr, Admission)>, EngineError> {
        self.told_changes = false;
        let Some(enrolments) = &mut self.enrolments else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        while changes.len() < limit
            && let Some(mac) = enrolments.poll_change()
        {
            changes.push((mac, enrolments.admission(tx, mac)?));
        }
        Ok(changes)
    }

    /// Lets every admission be told again, because the controller may have forgotten some.
    pub fn recall_changes(&mut self, tx: &dyn Tx) -> Result<(), EngineError> {
        match &mut self.enrolments {
            Some(enrolments) => enrolments.recall(tx),
            None => Ok(()),
        }
    }

    /// Lets the devices of new orders be adopted, in the transaction that placed them.
    fn carry_orders(&mut self, tx: &mut dyn Tx) -> Result<(), EngineError> {
        let Some(enrolments) = &mut self.enrolments else { return Ok(()) };
        while let Some(order) = enrolments.poll_order() {
            for &mac in &order.devices {
                self.platform.release(tx, Eui64::from(mac))?;
            }
            self.events.push_back(ProvisioningEvent::Ordered(order));
        }
        Ok(())
    }
}

/// Passes on what the store says; a label was looked at before it is brought.
fn stored(provisioned: Result<(), ProvisionError>) -> Result<(), EngineError> {
    match provisioned {
        Err(ProvisionError::Store(error)) => Err(error),
        _ => Ok(()),
    }
}

impl Half for Provisioning {
    type Order = PlatformOrder;
    type Event = ProvisioningEvent;

    fn handle_connected(&mut self, rng: &mut impl Rng) {
        self.platform.handle_connected(rng);
    }

    fn handle_disconnected(&mut self) {
        self.platform.handle_disconnected();
    }

    fn handle_message(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        bytes: &[u8],
    ) -> Result<(), FleetError> {
        self.platform.handle_message(tx, now, bytes)
    }

    fn handle_timeout(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError> {
        self.platform.handle_timeout(tx, now, rng)
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.platform.poll_timeout()
    }

    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.platform.poll_transmit()
    }

    fn poll_order(&mut self) -> Option<Self::Order> {
        self.platform.poll_order()
    }

    fn poll_event(&mut self) -> Option<Self::Event> {
        let has_changes = self.enrolments.as_ref().is_some_and(Enrolments::has_changes);
        if has_changes && !std::mem::replace(&mut self.told_changes, true) {
            return Some(ProvisioningEvent::AdmissionsChanged);
        }
        let event = self.events.pop_front();
        event.or_else(|| self.platform.poll_event().map(ProvisioningEvent::Platform))
    }

    fn session(&self) -> Session {
        self.platform.session()
    }
}
