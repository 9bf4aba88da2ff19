//! The fields of a packet that entries match (OpenFlow 1.3.5 §7.2.3.7).

use claviger_openflow::Field;
use etherparse::{LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};

/// The fields that a packet has; one that it has not matches no entry that names it.
#[derive(Clone, Debug)]
pub(crate) struct Fields(Vec<(Field, u128)>);

impl Fields {
    /// Reads the fields of a frame that came in by a port. What cannot be read is as good as absent.
    pub(crate) fn of(in_port: u32, frame: &[u8]) -> Self {
        let mut fields = Self(Vec::with_capacity(16));
        fields.set(Field::InPort, in_port.into());
        fields.set(Field::Metadata, 0);
        let Some((&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5], _)) =
            frame.split_first_chunk::<12>()
        else {
            return fields;
        };
        fields.set(Field::EthDst, number(&[d0, d1, d2, d3, d4, d5]));
        fields.set(Field::EthSrc, number(&[s0, s1, s2, s3, s4, s5]));
        if let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) {
            fields.add_ether_type(&packet, frame);
            fields.add_network(&packet);
            fields.add_transport(&packet);
        }
        fields
    }

    pub(crate) fn get(&self, field: Field) -> Option<u128> {
        self.0.iter().find(|&&(of, _)| of == field).map(|&(_, value)| value)
    }

    pub(crate) fn set(&mut self, field: Field, value: u128) {
        match self.0.iter_mut().find(|(of, _)| *of == field) {
            Some((_, old)) => *old = value,
            None => self.0.push((field, value)),
        }
    }

    fn add_ether_type(&mut self, packet: &LaxSlicedPacket<'_>, frame: &[u8]) {
        // Behind tags, the type of what they carry.
        let behind = packet.link_exts.last().and_then(|tag| match tag {
            LaxLinkExtSlice::Vlan(tag) => Some(tag.ether_type().0),
            LaxLinkExtSlice::Macsec(_) => None,
        });
        let inner = behind.map(u128::from);
        let outer = frame.get(12..14).map(number);
        if let Some(kind) = inner.or(outer) {
            self.set(Field::EthType, kind);
        }
    }

    fn add_network(&mut self, packet: &LaxSlicedPacket<'_>) {
        match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                self.set(Field::Ipv4Src, number(&header.source()));
                self.set(Field::Ipv4Dst, number(&header.destination()));
                self.set(Field::IpProto, ip.payload_ip_number().0.into());
                self.set(Field::IpDscp, header.dcp().value().into());
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                self.set(Field::Ipv6Src, number(&header.source()));
                self.set(Field::Ipv6Dst, number(&header.destination()));
                self.set(Field::IpProto, ip.payload().ip_number.0.into());
                self.set(Field::IpDscp, header.dscp().value().into());
            }
            Some(LaxNetSlice::Arp(arp)) => {
                self.set(Field::ArpOp, arp.operation().0.into());
                self.set(Field::ArpSpa, number(arp.sender_protocol_addr()));
                self.set(Field::ArpTpa, number(arp.target_protocol_addr()));
                self.set(Field::ArpSha, number(arp.sender_hw_addr()));
                self.set(Field::ArpTha, number(arp.target_hw_addr()));
            }
            None => {}
        }
    }

    fn add_transport(&mut self, packet: &LaxSlicedPacket<'_>) {
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                self.set(Field::TcpSrc, tcp.source_port().into());
                self.set(Field::TcpDst, tcp.destination_port().into());
            }
            Some(TransportSlice::Udp(udp)) => {
                self.set(Field::UdpSrc, udp.source_port().into());
                self.set(Field::UdpDst, udp.destination_port().into());
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                self.set(Field::Icmpv4Type, icmp.type_u8().into());
                self.set(Field::Icmpv4Code, icmp.code_u8().into());
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                self.set(Field::Icmpv6Type, icmp.type_u8().into());
                self.set(Field::Icmpv6Code, icmp.code_u8().into());
            }
            _ => {}
        }
    }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn check(frame: &[u8], expected: &[(Field, u128)]) {
        let fields = Fields::of(3, frame);
        for &(field, value) in expected {
            assert_eq!(fields.get(field), Some(value), "{}", field.name());
        }
    }

    #[test]
    fn a_request_to_a_broker_has_its_ports() {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 7], [10, 0, 0, 1], 64);
        builder.tcp(40_000, 8883, 1, 1000).write_to_vec(&mut frame, b"").unwrap();
        check(
            &frame,
            &[
                (Field::InPort, 3),
                (Field::EthDst, 0x0200_0000_0002),
                (Field::EthSrc, 0x0200_0000_0001),
                (Field::EthType, 0x0800),
                (Field::IpProto, 6),
                (Field::Ipv4Dst, 0x0A00_0001),
                (Field::TcpDst, 8883),
            ],
        );
        assert_eq!(Fields::of(3, &frame).get(Field::UdpDst), None);
    }

    #[test]
    fn an_arp_request_has_its_addresses() {
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &A,
            &[10, 0, 0, 7],
            &[0; 6],
            &[10, 0, 0, 1],
        );
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(A, [0xFF; 6]).arp(arp.unwrap());
        builder.write_to_vec(&mut frame).unwrap();
        check(
            &frame,
            &[
                (Field::EthType, 0x0806),
                (Field::ArpOp, 1),
                (Field::ArpSpa, 0x0A00_0007),
                (Field::ArpTpa, 0x0A00_0001),
            ],
        );
    }

    #[test]
    fn a_cut_frame_has_what_is_left() {
        assert_eq!(Fields::of(1, &[0; 5]).get(Field::EthSrc), None);
        check(&[&B[..], &A, &[8, 0, 0x45]].concat(), &[(Field::EthType, 0x0800)]);
    }
}
