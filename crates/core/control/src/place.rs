//! Where things are plugged in.

use core::fmt;

use claviger_openflow::{DatapathId, PortNumber};

/// A port of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The switch.
    pub datapath: DatapathId,
    /// Its port.
    pub port: PortNumber,
}

impl Place {
    /// Names a port.
    #[must_use]
    pub const fn new(datapath: DatapathId, port: PortNumber) -> Self {
        Self { datapath, port }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.datapath, self.port)
    }
}
