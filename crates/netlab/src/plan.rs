//! What a network is made of, before anything is made.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use claviger_units::MacAddr;

/// The shape of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A tree of switches, as Mininet numbers it: `fanout` below each, hosts below the last.
    Tree {
        /// Levels of switches.
        depth: u32,
        /// Switches or hosts below each switch.
        fanout: u32,
    },
    /// A ring of switches with one host at each.
    Ring {
        /// Switches.
        switches: u32,
    },
}

/// A shape that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Write `tree,DEPTH,FANOUT` or `ring,SWITCHES`.
    #[error("`{0}` is no topology: write tree,DEPTH,FANOUT or ring,SWITCHES, such as tree,2,8")]
    Syntax(String),
    /// More hosts or switches than one machine bears.
    #[error(
        "`{text}` has {switches} switches and {hosts} hosts: at most {MOST_SWITCHES} and {MOST_HOSTS} fit"
    )]
    TooLarge {
        /// What was asked for.
        text: String,
        /// Its switches.
        switches: u64,
        /// Its hosts.
        hosts: u64,
    },
}

const MOST_SWITCHES: u64 = 500;
const MOST_HOSTS: u64 = 2000;

impl FromStr for Topology {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let syntax = || PlanError::Syntax(text.to_owned());
        let words: Vec<&str> = text.split(',').collect();
        let number = |word: &str| word.parse().ok().filter(|n| (1..=1000).contains(n));
        let topology = match words[..] {
            ["tree", depth, fanout] => {
                let (depth, fanout) = number(depth).zip(number(fanout)).ok_or_else(syntax)?;
                Self::Tree { depth, fanout }
            }
            ["ring", switches] => {
                let switches = number(switches).filter(|&n| n >= 3).ok_or_else(syntax)?;
                Self::Ring { switches }
            }
            _ => return Err(syntax()),
        };
        let (switches, hosts) = topology.size();
        if switches > MOST_SWITCHES || hosts > MOST_HOSTS {
            return Err(PlanError::TooLarge { text: text.to_owned(), switches, hosts });
        }
        Ok(topology)
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree { depth, fanout } => write!(f, "tree,{depth},{fanout}"),
            Self::Ring { switches } => write!(f, "ring,{switches}"),
        }
    }
}

impl Topology {
    /// Returns the numbers of switches and hosts; the gateway is one more.
    #[must_use]
    pub fn size(self) -> (u64, u64) {
        match self {
            Self::Tree { depth, fanout } => {
                let level = |n: u32| u64::from(fanout).saturating_pow(n);
                ((0..depth).map(level).fold(0, u64::saturating_add), level(depth))
            }
            Self::Ring { switches } => (switches.into(), switches.into()),
        }
    }
}

/// A network: switches by number, cables between them, hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many switches there are; they are called s1, s2, … and have their number as datapath id.
    pub n_switches: u32,
    /// Pairs of switches that are joined.
    pub cables: Vec<(u32, u32)>,
    /// The hosts; the first is the gateway.
    pub hosts: Vec<Host>,
}

/// A host of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name, and that of its namespace.
    pub name: String,
    /// Its card.
    pub mac: MacAddr,
    /// Its address.
    pub address: Ipv4Addr,
    /// The number of its switch.
    pub switch: u32,
}

impl Plan {
    /// Lays a network out: the gateway `gw` at the first switch, hosts h1, h2, … where they belong.
    #[must_use]
    pub fn of(topology: Topology) -> Self {
        let gateway = Host {
            name: "gw".to_owned(),
            mac: MacAddr::from_bytes([0x02, 0, 0x5E, 0, 0xFF, 0x01]),
            address: Ipv4Addr::new(10, 67, 0, 1),
            switch: 1,
        };
        let mut plan = Self { n_switches: 0, cables: Vec::new(), hosts: vec![gateway] };
        match topology {
            Topology::Tree { depth, fanout } => drop(plan.add_tree(depth, fanout)),
            Topology::Ring { switches } => {
                plan.n_switches = switches;
                for switch in 1..=switches {
                    plan.cables.push((switch, switch % switches + 1));
                    plan.add_host(switch);
                }
            }
        }
        plan
    }

    fn add_tree(&mut self, depth: u32, fanout: u32) -> u32 {
        self.n_switches += 1;
        let own = self.n_switches;
        for _ in 0..fanout {
            if depth > 1 {
                let child = self.add_tree(depth - 1, fanout);
                self.cables.push((own, child));
            } else {
                self.add_host(own);
            }
        }
        own
    }

    fn add_host(&mut self, switch: u32) {
        let n = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        self.hosts.push(Host {
            name: format!("h{n}"),
            mac: card(n),
            // The third number is not 0, where the gateway is.
            address: Ipv4Addr::from_bits(0x0A43_0100 + n),
            switch,
        });
    }
}

/// The card of the host with this number, counted from 1: that of the emulated device with this number.
#[must_use]
pub const fn card(n: u32) -> MacAddr {
    let [_, high, middle, low] = (0x10_0000 + n).to_be_bytes();
    MacAddr::from_bytes([0x02, 0, 0x5E, high, middle, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_the_switches_and_hosts_of_mininets() {
        for (text, switches, hosts) in
            [("tree,2,8", 9, 64), ("tree,3,10", 111, 1000), ("tree,1,3", 1, 3)]
        {
            let topology: Topology = text.parse().unwrap();
            assert_eq!(topology.size(), (switches, hosts), "{text}");
            let plan = Plan::of(topology);
            assert_eq!(u64::from(plan.n_switches), switches);
            assert_eq!(plan.hosts.len() as u64, hosts + 1);
            assert_eq!(plan.cables.len() as u64, switches - 1);
            assert_eq!(topology.to_string(), text);
        }
    }

    #[test]
    fn names_and_addresses_are_those_of_one_host_each() {
        let plan = Plan::of("tree,3,10".parse().unwrap());
        let unique = |texts: Vec<String>| {
            texts.iter().collect::<std::collections::BTreeSet<_>>().len() == plan.hosts.len()
        };
        assert!(unique(plan.hosts.iter().map(|host| host.mac.to_string()).collect()));
        assert!(unique(plan.hosts.iter().map(|host| host.address.to_string()).collect()));
        assert_eq!(plan.hosts[1000].address, Ipv4Addr::new(10, 67, 4, 232));
    }

    #[test]
    fn a_ring_is_closed() {
        let plan = Plan::of("ring,4".parse().unwrap());
        assert_eq!(plan.cables, [(1, 2), (2, 3), (3, 4), (4, 1)]);
        assert_eq!(plan.hosts.iter().map(|host| host.switch).collect::<Vec<_>>(), [1, 1, 2, 3, 4]);
    }

    #[test]
    fn what_is_no_topology_is_refused_with_an_example() {
        for wrong in ["", "tree", "tree,2", "tree,0,3", "ring,2", "star,4", "tree,2,8,1"] {
            let told = wrong.parse::<Topology>().unwrap_err().to_string();
            assert!(told.contains("tree,2,8"), "{wrong}: {told}");
        }
        let told = "tree,4,10".parse::<Topology>().unwrap_err().to_string();
        assert!(told.contains("1111 switches and 10000 hosts"), "{told}");
    }
}
