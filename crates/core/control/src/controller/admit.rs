//! The allow-list: who is let in, who is no longer.

use claviger_openflow::{DatapathId, FlowMod, Message};
use claviger_units::{MacAddr, Timestamp};

use super::{Controller, PolicyId};
use crate::Place;
use crate::event::Event;
use crate::policy::{Admission, Policy};
use crate::tables::passing_cookie;

/// Why a host is not admitted; nothing has changed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// The controller knows no such policy: write it into its configuration.
    #[error("there is no policy {}; the controller's configuration has {known}", .asked.0)]
    Policy {
        /// What was asked for.
        asked: PolicyId,
        /// How many there are.
        known: usize,
    },
}

impl Controller {
    /// Lets hosts in, or changes how; all of them or none.
    pub fn admit(
        &mut self,
        now: Timestamp,
        admissions: impl IntoIterator<Item = Admission>,
    ) -> Result<(), AdmissionError> {
        let admissions: Vec<_> = admissions.into_iter().collect();
        for admission in &admissions {
            if self.policy(admission.policy).is_none() {
                let known = self.config.policies.len();
                return Err(AdmissionError::Policy { asked: admission.policy, known });
            }
        }
        for admission in admissions {
            self.admit_one(now, admission);
        }
        self.flush(now);
        Ok(())
    }

    /// Lets hosts no longer in: from now on they are unknown.
    pub fn dismiss(&mut self, now: Timestamp, macs: impl IntoIterator<Item = MacAddr>) {
        for mac in macs {
            if self.admissions.contains_key(&mac) {
                self.settle_in(mac, None);
                self.admissions.remove(&mac);
                // Whether it is still there shows when it speaks.
                self.hosts.remove(mac);
            }
        }
        self.flush(now);
    }

    pub(super) fn policy(&self, id: PolicyId) -> Option<&Policy> {
        self.config.policies.get(usize::from(id.0).checked_sub(1)?)
    }

    /// Remembers addresses that a host was heard to have before a restart, as if it were heard now.
    pub fn recall(&mut self, mac: MacAddr, addresses: &[core::net::IpAddr]) {
        for address in addresses {
            self.claim(mac, *address);
        }
    }

    /// Gives an admitted host the port at which it was seen.
    pub(super) fn bind(&mut self, now: Timestamp, mac: MacAddr, place: Place) {
        self.stir(now);
        self.settle_in(mac, Some(place));
        if self.spoofs.remove(&(mac, place)).is_some() {
            let cookie = passing_cookie(mac);
            let flow = FlowMod::delete(0, cookie, u64::MAX);
            self.send(place.datapath, Message::FlowMod(flow));
        }
        self.tell(Event::Bound { mac, place });
    }

    fn admit_one(&mut self, now: Timestamp, admission: Admission) {
        let mac = admission.mac;
        let seen = self.hosts.get(mac).and_then(|host| host.place);
        let place = admission.place.or(seen);
        let is_news = admission.place.is_none() && place.is_some();
        let is_new = !self.admissions.contains_key(&mac);
        // The policy it had so far has one host less here.
        self.settle_in(mac, None);
        let addresses = admission.addresses.clone();
        self.admissions.insert(mac, admission);
        self.settle_in(mac, place);
        if !addresses.is_empty() {
            self.hosts.declare(mac, &addresses);
        }
        if is_new {
            self.stir(now);
            if let Some(place) = place.filter(|_| is_news) {
                self.tell(Event::Bound { mac, place });
            }
        }
    }

    /// Puts an admitted host somewhere, or nowhere.
    fn settle_in(&mut self, mac: MacAddr, place: Option<Place>) {
        let old = self.hosts.get(mac).and_then(|host| host.place);
        if let Some(policy) = self.admissions.get(&mac).map(|admission| admission.policy) {
            if let Some(old) = old {
                self.leave_population(old, policy);
            }
            if let Some(place) = place {
                self.join_population(place, policy);
            }
        }
        // Everybody's path to a service depends on where that is.
        self.stale.all |= self.servers.contains(&mac);
        self.hosts.put(mac, place);
        self.stale.hosts.insert(mac);
    }

    fn join_population(&mut self, Place { datapath, .. }: Place, policy: PolicyId) {
        let population = self.populations.entry((datapath, policy)).or_default();
        *population += 1;
        let is_first = *population == 1;
        self.population_changed(datapath, policy, is_first);
    }

    fn leave_population(&mut self, Place { datapath, .. }: Place, policy: PolicyId) {
        let Some(population) = self.populations.get_mut(&(datapath, policy)) else { return };
        *population -= 1;
        let is_last = *population == 0;
        if is_last {
            self.populations.remove(&(datapath, policy));
        }
        self.population_changed(datapath, policy, is_last);
    }

    fn population_changed(&mut self, datapath: DatapathId, policy: PolicyId, is_turn: bool) {
        // The port's meter counts the hosts behind it.
        self.stale.switches.insert(datapath);
        if is_turn {
            self.stale.policies.insert((datapath, policy));
            // From here on, or no longer, packets leave for the policy's services.
            let servers = self.servers.iter().filter(|&&server| self.serves(server, policy));
            let servers: Vec<_> = servers.copied().collect();
            self.stale.hosts.extend(servers);
            // From every switch with peers there is a way to every peer.
            self.stale.all |= self.has_peers(policy);
        }
    }
}
