//! Ranges of addresses in which hosts are looked for.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

/// A network whose addresses are asked for one by one: at most a /16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    network: u32,
    // Invariant: 16..=32.
    prefix: u8,
}

/// Why a text is no range: write NETWORK/PREFIX, such as 10.0.0.0/24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a range of addresses is written NETWORK/PREFIX with a prefix of 16 to 32, such as 10.0.0.0/24"
)]
pub struct RangeError;

impl AddressRange {
    /// Returns the `n`th address that a host may have.
    pub(crate) fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let size = 1_u32 << (32 - self.prefix);
        // Neither the network's own address nor that of all its hosts; RFC 3021 has none of 31 bits.
        let (first, hosts) = if self.prefix >= 31 { (0, size) } else { (1, size - 2) };
        (n < hosts).then(|| Ipv4Addr::from_bits(self.network + first + n))
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (network, prefix) = text.split_once('/').ok_or(RangeError)?;
        let network: Ipv4Addr = network.parse().or(Err(RangeError))?;
        let prefix: u8 = prefix.parse().or(Err(RangeError))?;
        if !(16..=32).contains(&prefix) {
            return Err(RangeError);
        }
        let mask = u32::MAX << (32 - u32::from(prefix));
        Ok(Self { network: network.to_bits() & mask, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_addresses_of_hosts() {
        let all = |text: &str| {
            let range: AddressRange = text.parse().unwrap();
            (0..).map_while(|n| range.nth(n)).collect::<Vec<_>>()
        };
        assert_eq!(all("10.0.0.77/24").len(), 254);
        assert_eq!(all("10.0.0.0/30"), [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(all("10.0.0.9/32"), [Ipv4Addr::new(10, 0, 0, 9)]);
        assert_eq!(all("10.0.0.8/31").len(), 2);
        assert_eq!("10.0.0.77/24".parse::<AddressRange>().unwrap().to_string(), "10.0.0.0/24");
        for wrong in ["", "10.0.0.0", "10.0.0.0/8", "10.0.0.0/33", "::/64", "10.0.0/24"] {
            assert_eq!(wrong.parse::<AddressRange>(), Err(RangeError), "{wrong}");
        }
    }
}
