//! Where things are plugged in.

use core::fmt;
use core::str::FromStr;

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

/// A text that is no place: write 16 hexadecimal digits, a colon and the number of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place is written DATAPATH:PORT, 16 hexadecimal digits and a number from 1 on")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let (datapath, port) = text.split_once(':').ok_or(PlaceError)?;
        let is_hex = datapath.len() == 16 && datapath.bytes().all(|b| b.is_ascii_hexdigit());
        let datapath = u64::from_str_radix(datapath, 16).ok().filter(|_| is_hex);
        let port = port.parse().map(PortNumber).ok().filter(|port| port.is_physical());
        Ok(Self::new(DatapathId(datapath.ok_or(PlaceError)?), port.ok_or(PlaceError)?))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.datapath, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text() {
        let place = Place::new(DatapathId(0xC1A7), PortNumber(3));
        assert_eq!(place.to_string(), "000000000000c1a7:3");
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "c1a7:3", "000000000000c1a7", "000000000000c1a7:0", "+00000000000c1a7:3"]
        {
            assert_eq!(wrong.parse::<Place>(), Err(PlaceError), "{wrong}");
        }
    }
}
