//! Requests against two KMEs with real key stores, joined by an instant wire.

mod configuration;
mod etsi014;
mod idq3p;
mod world;
