//! How either half of the fleet is driven.

use claviger_durable::peer::Session;
use claviger_durable::{EngineError, Tx};
use claviger_units::Timestamp;
use rand_core::Rng;

use crate::FleetError;

/// What [`Gateway`](crate::Gateway) and [`Platform`](crate::Platform) have in common for whoever
/// drives them.
pub trait Half {
    /// What it wants of the KME of its site.
    type Order;
    /// What has happened at it.
    type Event;

    /// Begins a session: the transport to the other half stands.
    fn handle_connected(&mut self, rng: &mut impl Rng);

    /// Ends the session: the transport is gone.
    fn handle_disconnected(&mut self);

    /// Takes a message of the other half; after an error the connection is dropped.
    fn handle_message(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        bytes: &[u8],
    ) -> Result<(), FleetError>;

    /// Begins what is due, and repeats orders.
    fn handle_timeout(
        &mut self,
        tx: &mut dyn Tx,
        now: Timestamp,
        rng: &mut impl Rng,
    ) -> Result<(), EngineError>;

    /// Returns when [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    fn poll_timeout(&self) -> Option<Timestamp>;

    /// Returns the next message for the other half.
    fn poll_transmit(&mut self) -> Option<Vec<u8>>;

    /// Returns the next order for the KME.
    fn poll_order(&mut self) -> Option<Self::Order>;

    /// Returns what has happened.
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// Returns where the session with the other half stands.
    #[must_use]
    fn session(&self) -> Session;
}
