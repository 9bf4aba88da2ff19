//! What the operator may read about requests: names and numbers, never a key.

use claviger_keystore::{Container, Order};
use claviger_units::{Bits, KeyId, SaeId};
use claviger_wire::idq3p::{DatagramError, Status};

use crate::refusal::Refusal;

/// The interface by which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// ETSI GS QKD 014.
    Etsi014,
    /// IDQ3P.
    Idq3p,
}

/// What happened to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// New keys have left for their master.
    HandedOut {
        /// How it asked.
        interface: Interface,
        /// Who got them.
        master: SaeId,
        /// Who may fetch the other copies.
        slaves: Vec<SaeId>,
        /// Their names.
        ids: Vec<KeyId>,
        /// The size of each.
        size: Bits,
    },
    /// A slave has got its copies.
    Fetched {
        /// How it asked.
        interface: Interface,
        /// Who got them.
        slave: SaeId,
        /// Who had got them first.
        master: SaeId,
        /// Their names.
        ids: Vec<KeyId>,
    },
    /// An application was refused.
    Refused {
        /// Who asked.
        caller: SaeId,
        /// What it was told.
        refusal: Refusal,
    },
    /// An IDQ3P device was refused.
    DeviceRefused {
        /// Its number.
        device: u8,
        /// What it was told.
        status: Status,
    },
}

impl Event {
    pub(crate) fn handed_out(interface: Interface, order: Order, keys: &[Container]) -> Self {
        let slaves = order.slaves.into_iter().map(|slave| slave.sae).collect();
        let ids = keys.iter().map(|key| key.id).collect();
        Self::HandedOut { interface, master: order.master, slaves, ids, size: order.size }
    }

    pub(crate) fn fetched(
        interface: Interface,
        slave: SaeId,
        master: SaeId,
        keys: &[Container],
    ) -> Self {
        let ids = keys.iter().map(|key| key.id).collect();
        Self::Fetched { interface, slave, master, ids }
    }
}

/// How often something happened that is too cheap to cause to be worth a line each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// IDQ3P datagrams that were not 29 bytes long.
    pub wrong_length: u64,
    /// IDQ3P datagrams that were no requests.
    pub wrong_type: u64,
    /// IDQ3P datagrams that were damaged.
    pub wrong_checksum: u64,
    /// IDQ3P retransmissions that got the same answer again.
    pub repeated: u64,
}

impl Counters {
    pub(crate) const fn count_dropped(&mut self, error: DatagramError) {
        let counter = match error {
            DatagramError::Type(_) => &mut self.wrong_type,
            DatagramError::Checksum => &mut self.wrong_checksum,
            _ => &mut self.wrong_length,
        };
        *counter += 1;
    }
}
