//! Reaching the hosts of a network from beside it.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;

use crate::cards::Cards;
use crate::lab::{LabError, joined};
use crate::namespace;
use crate::needs::program;

/// A cable between the laboratory and one of its hosts, beside the network: what reaches a site by other
/// wires than its devices do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The laboratory's address.
    pub here: Ipv4Addr,
    /// The host's address.
    pub there: Ipv4Addr,
}

impl Uplink {
    /// The addresses of the uplink with this number, of which each host has one.
    #[must_use]
    pub const fn numbered(n: u8) -> Self {
        Self { here: Ipv4Addr::new(172, 31, n, 1), there: Ipv4Addr::new(172, 31, n, 2) }
    }

    /// Lays the uplink with this number to a host.
    pub fn lay(n: u8, host: &str) -> Result<Self, LabError> {
        let uplink = Self::numbered(n);
        let (near, host) = (format!("up{n}"), host.to_owned());
        joined(thread::spawn(move || {
            let cards = Cards::open()?;
            cards.add_cable((&near, None), (CARD, Some(&namespace::open(&host)?)))?;
            cards.add_address(&near, uplink.here, 30)?;
            namespace::enter(&host)?;
            let cards = Cards::open()?;
            cards.add_address(CARD, uplink.there, 30)?;
            cards.bring_up(CARD)
        }))?;
        Ok(uplink)
    }
}

/// What a host calls its end of its uplink.
const CARD: &str = "uplink";

/// Gives the namespace of a process a name, as those of a [`Lab`](crate::Lab) have.
pub fn adopt(name: &str, process: u32) -> Result<(), LabError> {
    namespace::name(name, process)
}

/// Returns a command that runs `inside` in the namespace of a host.
///
/// `ip netns exec` would give it a file system of its own as well, which takes longer than all the rest.
#[must_use]
pub fn inside(host: &str, inside: impl AsRef<OsStr>) -> Command {
    let mut command = program("nsenter");
    command.arg(format!("--net={}", namespace::path(host).display())).arg("--").arg(inside);
    command
}
