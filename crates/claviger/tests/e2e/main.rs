//! The binary as processes: one test for each claim that only the whole can keep.
//!
//! Tests with `with_NAME` in their path need that program; `cargo xtask test` knows them by it.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, also in its helpers")]
#![expect(clippy::print_stderr, reason = "what a process said is shown when its test fails")]

mod bytes;
mod network;
mod parties;
mod place;
mod process;
mod search;
mod tap;

mod attack;
mod crashes;
mod crowd;
mod damage;
mod enrolment;
mod forgeries;
mod leaks;
mod optics;
mod seeded;
mod up;
mod with_aiocoap;
mod with_curl;
mod with_etsi_client;
mod with_gnutls;
mod with_micropython;
mod with_mininet;
mod with_mosquitto;
mod with_netlab;
mod with_openssl;
mod with_tshark;
