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
    /// Returns how many addresses there are, those that no host may have included.
    pub(crate) fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// Returns the address that is asked for as the `n`th; `None` where no host may have it.
    ///
    /// Hosts of a switch often have addresses in a row. So these are gone through by reversed bits, a
    /// coarse grid first and finer ones after it: the first hit comes soon, and its neighbours next.
    pub(crate) fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let bits = 32 - u32::from(self.prefix);
        let offset = if bits == 0 { 0 } else { n.reverse_bits() >> (32 - bits) };
        // Neither the network's own address nor that of all its hosts; RFC 3021 has none of 31 bits.
        let is_special = bits > 1 && (offset == 0 || offset == self.size() - 1);
        (!is_special).then(|| Ipv4Addr::from_bits(self.network + offset))
    }

    /// Tells whether an address is asked for at all.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        let offset = address.to_bits().wrapping_sub(self.network);
        let is_special = self.prefix < 31 && (offset == 0 || offset == self.size() - 1);
        offset < self.size() && !is_special
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
            let mut all: Vec<_> = (0..range.size()).filter_map(|n| range.nth(n)).collect();
            all.sort_unstable();
            all.dedup();
            assert!(all.iter().all(|&address| range.contains(address)), "{text}");
            all
        };
        assert_eq!(all("10.0.0.77/24").len(), 254);
        assert_eq!(all("10.0.0.0/30"), [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(all("10.0.0.9/32"), [Ipv4Addr::new(10, 0, 0, 9)]);
        assert_eq!(all("10.0.0.8/31").len(), 2);
        let range: AddressRange = "10.0.0.0/24".parse().unwrap();
        for outside in ["10.0.0.0", "10.0.0.255", "10.0.1.1", "9.255.255.255"] {
            assert!(!range.contains(outside.parse().unwrap()), "{outside}");
        }
        assert_eq!("10.0.0.77/24".parse::<AddressRange>().unwrap().to_string(), "10.0.0.0/24");
        for wrong in ["", "10.0.0.0", "10.0.0.0/8", "10.0.0.0/33", "::/64", "10.0.0/24"] {
            assert_eq!(wrong.parse::<AddressRange>(), Err(RangeError), "{wrong}");
        }
    }
}
