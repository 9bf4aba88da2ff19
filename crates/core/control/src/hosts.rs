//! The table of hosts: who was seen where, with which addresses.

use core::net::IpAddr;
use core::ops::Bound;
use std::collections::{BTreeMap, BTreeSet};

use claviger_units::{MacAddr, Timestamp};

use crate::Place;

/// Addresses that are remembered of one host.
const ADDRESSES: usize = 8;

/// A host that was seen, or is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) place: Option<Place>,
    pub(crate) addresses: Vec<IpAddr>,
    // How many of these nobody else can take.
    n_declared: usize,
    pub(crate) seen: Option<Timestamp>,
    /// When it moved last, while it was unknown.
    pub(crate) moved: Option<Timestamp>,
    pub(crate) is_present: bool,
    // Packets that its admission had counted when that was last read.
    pub(crate) counted: u64,
}

#[derive(Debug, Default)]
pub(crate) struct HostTable {
    hosts: BTreeMap<MacAddr, Host>,
    by_address: BTreeMap<IpAddr, MacAddr>,
    by_place: BTreeMap<Place, BTreeSet<MacAddr>>,
}

/// What came of an address that a host claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Known,
    New,
    /// Somebody else has it, and keeps it.
    Taken(MacAddr),
}

impl HostTable {
    pub(crate) fn get(&self, mac: MacAddr) -> Option<&Host> {
        self.hosts.get(&mac)
    }

    pub(crate) fn get_mut(&mut self, mac: MacAddr) -> Option<&mut Host> {
        self.hosts.get_mut(&mac)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MacAddr, &Host)> {
        self.hosts.iter().map(|(&mac, host)| (mac, host))
    }

    /// Returns the hosts after a card, in rising order.
    pub(crate) fn after(&self, mac: Option<MacAddr>) -> impl Iterator<Item = (MacAddr, &Host)> {
        let from = mac.map_or(Bound::Unbounded, Bound::Excluded);
        self.hosts.range((from, Bound::Unbounded)).map(|(&mac, host)| (mac, host))
    }

    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn at(&self, place: Place) -> impl Iterator<Item = MacAddr> + '_ {
        self.by_place.get(&place).into_iter().flatten().copied()
    }

    pub(crate) fn owner_of(&self, address: IpAddr) -> Option<MacAddr> {
        self.by_address.get(&address).copied()
    }

    /// Puts a host somewhere, or nowhere, and makes it if it is new.
    pub(crate) fn put(&mut self, mac: MacAddr, place: Option<Place>) {
        let host = self.hosts.entry(mac).or_insert(Host {
            place: None,
            addresses: Vec::new(),
            n_declared: 0,
            seen: None,
            moved: None,
            is_present: false,
            counted: 0,
        });
        let old = std::mem::replace(&mut host.place, place);
        if old == place {
            return;
        }
        if let Some(there) = old.and_then(|old| self.by_place.get_mut(&old)) {
            there.remove(&mac);
        }
        if let Some(place) = place {
            self.by_place.entry(place).or_default().insert(mac);
        }
    }

    /// Gives a host addresses that nobody else can take, in the place of all others it had.
    pub(crate) fn declare(&mut self, mac: MacAddr, addresses: &[IpAddr]) {
        let Some(host) = self.hosts.get_mut(&mac) else { return };
        for address in std::mem::take(&mut host.addresses) {
            self.by_address.remove(&address);
        }
        host.addresses = addresses.to_vec();
        host.n_declared = addresses.len();
        for &address in addresses {
            if let Some(other) = self.by_address.insert(address, mac).filter(|&other| other != mac)
                && let Some(other) = self.hosts.get_mut(&other)
            {
                other.addresses.retain(|&theirs| theirs != address);
            }
        }
    }

    /// Notes that a host says it has an address.
    pub(crate) fn claim(&mut self, mac: MacAddr, address: IpAddr) -> Claim {
        match self.by_address.get(&address) {
            Some(&owner) if owner == mac => return Claim::Known,
            Some(&owner) => return Claim::Taken(owner),
            None => {}
        }
        let Some(host) = self.hosts.get_mut(&mac) else { return Claim::Known };
        if host.addresses.len() >= ADDRESSES.max(host.n_declared + 1) {
            let oldest = host.addresses.remove(host.n_declared);
            self.by_address.remove(&oldest);
        }
        host.addresses.push(address);
        self.by_address.insert(address, mac);
        Claim::New
    }

    pub(crate) fn remove(&mut self, mac: MacAddr) {
        self.put(mac, None);
        if let Some(host) = self.hosts.remove(&mac) {
            for address in host.addresses {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_openflow::{DatapathId, PortNumber};

    const A: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 2]);

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn an_address_belongs_to_one_host() {
        let mut table = HostTable::default();
        table.put(A, None);
        table.put(B, None);
        assert_eq!(table.claim(A, address(1)), Claim::New);
        assert_eq!(table.claim(A, address(1)), Claim::Known);
        assert_eq!(table.claim(B, address(1)), Claim::Taken(A));
        table.remove(A);
        assert_eq!(table.claim(B, address(1)), Claim::New);
        // What an operator declares goes before what was heard.
        table.put(A, None);
        table.declare(A, &[address(1)]);
        assert_eq!(table.owner_of(address(1)), Some(A));
        assert!(table.get(B).unwrap().addresses.is_empty());
    }

    #[test]
    fn a_host_that_claims_everything_keeps_little_and_what_was_declared() {
        let mut table = HostTable::default();
        table.put(A, None);
        table.declare(A, &[address(1)]);
        for last in 2..=250 {
            assert_eq!(table.claim(A, address(last)), Claim::New);
        }
        let addresses = &table.get(A).unwrap().addresses;
        assert_eq!((addresses.len(), addresses[0]), (ADDRESSES, address(1)));
        assert_eq!(table.owner_of(address(2)), None);
    }

    #[test]
    fn a_host_is_at_one_place() {
        let mut table = HostTable::default();
        let place = |port| Place::new(DatapathId(1), PortNumber(port));
        table.put(A, Some(place(1)));
        table.put(A, Some(place(2)));
        assert_eq!(table.at(place(1)).count(), 0);
        assert_eq!(table.at(place(2)).collect::<Vec<_>>(), [A]);
        table.remove(A);
        assert_eq!(table.at(place(2)).count() + table.len(), 0);
    }
}
