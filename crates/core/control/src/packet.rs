//! What a frame says of whoever sent it, and the frames that the controller makes itself.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use claviger_units::MacAddr;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, LaxNetSlice,
    LaxSlicedPacket, PacketBuilder, TransportSlice,
};

use crate::lldp;

/// A frame, as far as a controller understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source: MacAddr,
    pub(crate) says: Says,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Lldp,
    /// An ARP request or reply: who it is from, which address it is about.
    Arp {
        operation: Arp,
        sender: Ipv4Addr,
        target: Ipv4Addr,
    },
    /// A neighbour solicitation: somebody asks for this address (RFC 4861 §4.3).
    Solicits {
        sender: Ipv6Addr,
        target: Ipv6Addr,
    },
    /// A neighbour advertisement: the sender has this address (RFC 4861 §4.4).
    Advertises {
        target: Ipv6Addr,
    },
    /// A DHCP message of a client (RFC 2131).
    DhcpClient,
    /// A DHCP message of a server for a client; the address where it is a final one.
    DhcpServer {
        client: MacAddr,
        leased: Option<Ipv4Addr>,
    },
    /// Anything else from this address.
    From(IpAddr),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arp {
    Request,
    Reply,
}

/// Reads a frame; `None` where no single host can have sent it.
pub(crate) fn read(frame: &[u8]) -> Option<Packet> {
    let (&[_, _, _, _, _, _, a, b, c, d, e, f, t0, t1], _) = frame.split_first_chunk::<14>()?;
    let source = [a, b, c, d, e, f];
    // A group address, or none, is no sender.
    if a & 1 == 1 || source == [0; 6] {
        return None;
    }
    let is_lldp = u16::from_be_bytes([t0, t1]) == lldp::ETHER_TYPE;
    let says = if is_lldp { Says::Lldp } else { said(frame, source).unwrap_or(Says::Nothing) };
    Some(Packet { source: MacAddr::from_bytes(source), says })
}

fn said(frame: &[u8], source: [u8; 6]) -> Option<Says> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    match (&packet.net?, &packet.transport) {
        (LaxNetSlice::Arp(arp), _) => {
            let operation = match arp.operation() {
                ArpOperation::REQUEST => Arp::Request,
                ArpOperation::REPLY => Arp::Reply,
                _ => return None,
            };
            // Who speaks for another card's address says nothing about itself.
            if arp.sender_hw_addr() != source {
                return None;
            }
            let sender = <[u8; 4]>::try_from(arp.sender_protocol_addr()).ok()?;
            let target = <[u8; 4]>::try_from(arp.target_protocol_addr()).ok()?;
            Some(Says::Arp { operation, sender: sender.into(), target: target.into() })
        }
        (LaxNetSlice::Ipv4(ip), transport) => {
            if let Some(TransportSlice::Udp(udp)) = transport {
                match (udp.source_port(), udp.destination_port()) {
                    (68, 67) => return Some(Says::DhcpClient),
                    (67, 67 | 68) => return dhcp_reply(udp.payload()),
                    _ => {}
                }
            }
            Some(Says::From(ip.header().source_addr().into()))
        }
        (LaxNetSlice::Ipv6(ip), transport) => {
            let sender = ip.header().source_addr();
            if let Some(TransportSlice::Icmpv6(icmp)) = transport {
                let target = || icmp.payload().first_chunk::<16>().map(|b| Ipv6Addr::from(*b));
                match icmp.type_u8() {
                    135 => return Some(Says::Solicits { sender, target: target()? }),
                    136 => return Some(Says::Advertises { target: target()? }),
                    _ => {}
                }
            }
            Some(Says::From(sender.into()))
        }
    }
}

/// Reads a server's message: the client's card at 28, its address at 16, the options from 240 on.
fn dhcp_reply(message: &[u8]) -> Option<Says> {
    let client = MacAddr::from_bytes(*message.get(28..34)?.first_chunk()?);
    let address = Ipv4Addr::from(*message.get(16..20)?.first_chunk::<4>()?);
    let is_final = dhcp_kind(message.get(240..)?) == Some(5);
    Some(Says::DhcpServer { client, leased: is_final.then_some(address) })
}

/// Returns option 53, the kind of a message: 5 is the acknowledgement.
fn dhcp_kind(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [255, ..] | [] | [_] => return None,
            [53, 1, kind, ..] => return Some(*kind),
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..)?,
        }
    }
}

/// Tells a host, in the name of another, which card an address belongs to.
pub(crate) fn arp_reply(owner: (MacAddr, Ipv4Addr), asker: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    arp(ArpOperation::REPLY, owner, asker, *asker.0.as_bytes())
}

/// Asks whoever has an address to answer the controller. The sender has no address of its own, so
/// that nobody's cache changes (RFC 5227 §1.1).
pub(crate) fn arp_probe(from: MacAddr, target: Ipv4Addr) -> Vec<u8> {
    let nobody = (MacAddr::from_bytes([0; 6]), target);
    arp(ArpOperation::REQUEST, (from, Ipv4Addr::UNSPECIFIED), nobody, [0xFF; 6])
}

/// Tells a host, in the name of another, which card an IPv6 address belongs to.
pub(crate) fn advertisement(owner: (MacAddr, Ipv6Addr), asker: (MacAddr, Ipv6Addr)) -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    body.extend(owner.1.octets());
    // The target's link-layer address, in units of eight bytes.
    body.extend([2, 1]);
    body.extend(owner.0.as_bytes());
    let builder = PacketBuilder::ethernet2(*owner.0.as_bytes(), *asker.0.as_bytes())
        .ipv6(owner.1.octets(), asker.1.octets(), 255)
        // Solicited, and it overrides.
        .icmpv6_raw(136, 0, [0x60, 0, 0, 0]);
    let mut frame = Vec::with_capacity(builder.size(body.len()));
    builder.write_to_vec(&mut frame, &body).expect("a short body fits");
    frame
}

fn arp(
    operation: ArpOperation,
    (mac, ip): (MacAddr, Ipv4Addr),
    (target_mac, target): (MacAddr, Ipv4Addr),
    to: [u8; 6],
) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        mac.as_bytes(),
        &ip.octets(),
        target_mac.as_bytes(),
        &target.octets(),
    )
    .expect("the addresses are as long as the protocol says");
    let header =
        Ethernet2Header { source: *mac.as_bytes(), destination: to, ether_type: EtherType::ARP };
    let mut frame = header.to_bytes().to_vec();
    frame.extend(packet.to_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr::from_bytes([2, 0, 0, 0, 0, 2]);
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

    #[test]
    fn what_is_made_is_what_is_read() {
        let other = Ipv4Addr::new(10, 0, 0, 1);
        let reply = read(&arp_reply((A, IP), (B, other))).unwrap();
        let says = Says::Arp { operation: Arp::Reply, sender: IP, target: other };
        assert_eq!(reply, Packet { source: A, says });
        let probe = read(&arp_probe(A, IP)).unwrap();
        let sender = Ipv4Addr::UNSPECIFIED;
        assert_eq!(probe.says, Says::Arp { operation: Arp::Request, sender, target: IP });
        let ip: Ipv6Addr = "fe80::7".parse().unwrap();
        let told = read(&advertisement((A, ip), (B, "fe80::1".parse().unwrap()))).unwrap();
        assert_eq!(told, Packet { source: A, says: Says::Advertises { target: ip } });
    }

    #[test]
    fn an_arp_in_another_s_name_teaches_nothing() {
        let mut frame = arp_reply((A, IP), (B, IP));
        frame[6..12].copy_from_slice(B.as_bytes());
        assert_eq!(read(&frame), Some(Packet { source: B, says: Says::Nothing }));
    }

    #[test]
    fn only_an_acknowledged_lease_counts() {
        let message = |kind: u8| {
            let mut body = vec![0; 240];
            body[16..20].copy_from_slice(&IP.octets());
            body[28..34].copy_from_slice(B.as_bytes());
            body.extend([0, 1, 4, 255, 255, 255, 0, 53, 1, kind, 255]);
            let builder = PacketBuilder::ethernet2(*A.as_bytes(), [0xFF; 6])
                .ipv4([10, 0, 0, 1], [255; 4], 64)
                .udp(67, 68);
            let mut frame = Vec::new();
            builder.write_to_vec(&mut frame, &body).unwrap();
            read(&frame).unwrap().says
        };
        assert_eq!(message(5), Says::DhcpServer { client: B, leased: Some(IP) });
        assert_eq!(message(2), Says::DhcpServer { client: B, leased: None });
    }

    #[test]
    fn group_addresses_send_nothing() {
        let mut frame = arp_probe(A, IP);
        frame[6] |= 1;
        assert_eq!(read(&frame), None);
        frame[6..12].fill(0);
        assert_eq!(read(&frame), None);
    }

    proptest! {
        #[test]
        fn no_frame_breaks_the_reader(
            kind in prop::sample::select(vec![0x0806_u16, 0x0800, 0x86DD, 0x88CC, 0x8100]),
            body in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut frame = [&[0xFF; 6][..], A.as_bytes(), &kind.to_be_bytes()].concat();
            frame.extend(body);
            let _ = read(&frame);
        }
    }
}
