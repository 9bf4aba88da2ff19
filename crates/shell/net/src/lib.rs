//! Clock, listeners, TLS, PKI, HTTP, framed links, MQTT and shutdown: everything that touches a
//! socket or a clock and decides nothing about keys.

pub mod accept;
pub mod clock;
pub mod coap;
pub mod dkg;
pub mod handshake;
pub mod http;
pub mod link;
pub mod listen;
pub mod local;
pub mod meter;
pub mod mqtt;
pub mod pki;
pub mod psk;
pub mod shutdown;
pub mod tls;
