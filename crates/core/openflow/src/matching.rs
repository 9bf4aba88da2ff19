//! What a flow entry matches, in the extensible format (OXM).

use core::fmt;
use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _};

use crate::error::DecodeError;

/// A field of the basic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names of the standard (§7.2.3.7)")]
pub enum Field {
    InPort = 0,
    InPhysicalPort,
    Metadata,
    EthDst,
    EthSrc,
    EthType,
    VlanVid,
    VlanPcp,
    IpDscp,
    IpEcn,
    IpProto,
    Ipv4Src,
    Ipv4Dst,
    TcpSrc,
    TcpDst,
    UdpSrc,
    UdpDst,
    SctpSrc,
    SctpDst,
    Icmpv4Type,
    Icmpv4Code,
    ArpOp,
    ArpSpa,
    ArpTpa,
    ArpSha,
    ArpTha,
    Ipv6Src,
    Ipv6Dst,
    Ipv6FlowLabel,
    Icmpv6Type,
    Icmpv6Code,
    Ipv6NdTarget,
    Ipv6NdSll,
    Ipv6NdTll,
    MplsLabel,
    MplsTc,
    MplsBos,
    PbbIsid,
    TunnelId,
    Ipv6ExtHeader,
}

/// Each field with its bytes and the name that `ovs-ofctl` prints.
const FIELDS: [(Field, usize, &str); 40] = {
    use Field as F;
    [
        (F::InPort, 4, "in_port"),
        (F::InPhysicalPort, 4, "in_phy_port"),
        (F::Metadata, 8, "metadata"),
        (F::EthDst, 6, "eth_dst"),
        (F::EthSrc, 6, "eth_src"),
        (F::EthType, 2, "eth_type"),
        (F::VlanVid, 2, "vlan_vid"),
        (F::VlanPcp, 1, "vlan_pcp"),
        (F::IpDscp, 1, "ip_dscp"),
        (F::IpEcn, 1, "nw_ecn"),
        (F::IpProto, 1, "nw_proto"),
        (F::Ipv4Src, 4, "ip_src"),
        (F::Ipv4Dst, 4, "ip_dst"),
        (F::TcpSrc, 2, "tcp_src"),
        (F::TcpDst, 2, "tcp_dst"),
        (F::UdpSrc, 2, "udp_src"),
        (F::UdpDst, 2, "udp_dst"),
        (F::SctpSrc, 2, "sctp_src"),
        (F::SctpDst, 2, "sctp_dst"),
        (F::Icmpv4Type, 1, "icmp_type"),
        (F::Icmpv4Code, 1, "icmp_code"),
        (F::ArpOp, 2, "arp_op"),
        (F::ArpSpa, 4, "arp_spa"),
        (F::ArpTpa, 4, "arp_tpa"),
        (F::ArpSha, 6, "arp_sha"),
        (F::ArpTha, 6, "arp_tha"),
        (F::Ipv6Src, 16, "ipv6_src"),
        (F::Ipv6Dst, 16, "ipv6_dst"),
        (F::Ipv6FlowLabel, 4, "ipv6_label"),
        (F::Icmpv6Type, 1, "icmpv6_type"),
        (F::Icmpv6Code, 1, "icmpv6_code"),
        (F::Ipv6NdTarget, 16, "nd_target"),
        (F::Ipv6NdSll, 6, "nd_sll"),
        (F::Ipv6NdTll, 6, "nd_tll"),
        (F::MplsLabel, 4, "mpls_label"),
        (F::MplsTc, 1, "mpls_tc"),
        (F::MplsBos, 1, "mpls_bos"),
        (F::PbbIsid, 3, "pbb_isid"),
        (F::TunnelId, 8, "tun_id"),
        (F::Ipv6ExtHeader, 2, "ipv6_exthdr"),
    ]
};

impl Field {
    /// Returns the field of that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        FIELDS.get(usize::from(number)).map(|&(field, ..)| field)
    }

    /// Returns the bytes of a value.
    #[must_use]
    pub const fn width(self) -> usize {
        FIELDS[self as usize].1
    }

    /// Returns the name, as `ovs-ofctl` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        FIELDS[self as usize].2
    }

    const fn all_ones(self) -> u128 {
        u128::MAX >> (128 - 8 * self.width())
    }
}

/// A value of a field, with the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Value {
    value: u128,
    mask: u128,
}

/// What a flow entry matches: every field that is named, and any value of the others.
///
/// Two matches are equal when they match the same packets by the same fields, in whatever order a
/// switch writes them. Fields are encoded by rising number, which puts each behind what it requires.
///
/// ```
/// use claviger_openflow::{Field, Match};
///
/// let mqtt = Match::new()
///     .with(Field::EthType, 0x0800)
///     .with(Field::IpProto, 6)
///     .with(Field::TcpDst, 8883);
/// assert_eq!(mqtt.to_string(), "eth_type=0x800,nw_proto=6,tcp_dst=8883");
/// assert_eq!(mqtt.get(Field::TcpDst), Some(8883));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Match {
    // Invariant: by rising field, each once. A few fields are looked through faster than a tree.
    fields: Vec<(Field, Value)>,
    /// Entries of other classes and numbers: the header without its length, and the payload.
    others: BTreeMap<u32, Vec<u8>>,
}

const BASIC: u16 = 0x8000;

impl Match {
    /// Matches everything.
    #[must_use]
    pub const fn new() -> Self {
        Self { fields: Vec::new(), others: BTreeMap::new() }
    }

    /// Matches only packets of this value; bits beyond the field's width are cut off.
    #[must_use]
    pub fn with(self, field: Field, value: u128) -> Self {
        self.with_masked(field, value, u128::MAX)
    }

    /// Matches only packets of this value where the mask is one.
    #[must_use]
    pub fn with_masked(mut self, field: Field, value: u128, mask: u128) -> Self {
        let mask = mask & field.all_ones();
        self.insert(field, Value { value: value & mask, mask });
        self
    }

    /// Matches only packets of this hardware address as `field`.
    #[must_use]
    pub fn with_mac(self, field: Field, mac: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = mac;
        self.with(field, u64::from_be_bytes([0, 0, a, b, c, d, e, f]).into())
    }

    /// Returns the value of a field where all of it counts.
    #[must_use]
    pub fn get(&self, field: Field) -> Option<u128> {
        self.find(field).filter(|v| v.mask == field.all_ones()).map(|v| v.value)
    }

    /// Returns the value and the mask of a field.
    #[must_use]
    pub fn get_masked(&self, field: Field) -> Option<(u128, u128)> {
        self.find(field).map(|v| (v.value, v.mask))
    }

    /// Returns the fields with values and masks, by rising number.
    pub fn iter(&self) -> impl Iterator<Item = (Field, u128, u128)> + '_ {
        self.fields.iter().map(|&(field, v)| (field, v.value, v.mask))
    }

    /// Tells whether everything matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.fields.is_empty() && self.others.is_empty()
    }

    /// Reads a match and the padding behind it.
    pub(crate) fn read(r: &mut &[u8]) -> Result<Self, DecodeError> {
        let kind = r.try_get_u16()?;
        if kind != 1 {
            return Err(DecodeError::Value { what: "type of match", value: kind.into() });
        }
        let length = usize::from(r.try_get_u16()?);
        let wrong = DecodeError::Length { what: "a match", length };
        let body = length.checked_sub(4).ok_or(wrong)?;
        let padding = length.next_multiple_of(8) - length;
        let (mut entries, rest) = r.split_at_checked(body).ok_or(wrong)?;
        *r = rest.get(padding..).ok_or(wrong)?;
        let mut read = Self::new();
        while !entries.is_empty() {
            read.read_entry(&mut entries)?;
        }
        Ok(read)
    }

    fn read_entry(&mut self, r: &mut &[u8]) -> Result<(), DecodeError> {
        let (class, field, length) = (r.try_get_u16()?, r.try_get_u8()?, r.try_get_u8()?);
        let length = usize::from(length);
        let wrong = DecodeError::Length { what: "a match field", length };
        let (payload, rest) = r.split_at_checked(length).ok_or(wrong)?;
        *r = rest;
        let (number, has_mask) = (field >> 1, field & 1 == 1);
        let Some(field) = Field::from_number(number).filter(|_| class == BASIC) else {
            let header = u32::from(class) << 16 | u32::from(field) << 8;
            self.others.insert(header, payload.to_vec());
            return Ok(());
        };
        let (value, mask) = payload.split_at_checked(field.width()).ok_or(wrong)?;
        let mask = match (has_mask, mask.len()) {
            (false, 0) => field.all_ones(),
            (true, n) if n == field.width() => number_of(mask),
            _ => return Err(wrong),
        };
        self.insert(field, Value { value: number_of(value) & mask, mask });
        Ok(())
    }

    fn find(&self, field: Field) -> Option<Value> {
        self.fields.iter().find(|&&(of, _)| of == field).map(|&(_, value)| value)
    }

    fn insert(&mut self, field: Field, value: Value) {
        match self.fields.binary_search_by_key(&field, |&(of, _)| of) {
            Ok(at) => self.fields[at].1 = value,
            Err(at) => self.fields.insert(at, (field, value)),
        }
    }

    /// Writes the match and the padding behind it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_u16(1);
        out.put_u16(0);
        for &(field, value) in &self.fields {
            write_entry(out, field, value);
        }
        for (header, payload) in &self.others {
            out.put_u32(header | u32::try_from(payload.len()).unwrap_or(0) & 0xFF);
            out.put_slice(payload);
        }
        let length = out.len() - start;
        set_length(out, start + 2, length);
        out.put_bytes(0, length.next_multiple_of(8) - length);
    }
}

/// Writes one field, as in a match and in an action that sets it.
fn write_entry(out: &mut Vec<u8>, field: Field, Value { value, mask }: Value) {
    let (width, is_whole) = (field.width(), mask == field.all_ones());
    out.put_u16(BASIC);
    out.put_u8((field as u8) << 1 | u8::from(!is_whole));
    let length = if is_whole { width } else { 2 * width };
    out.put_u8(u8::try_from(length).unwrap_or(u8::MAX));
    for number in [value].into_iter().chain((!is_whole).then_some(mask)) {
        out.put_slice(&number.to_be_bytes()[16 - width..]);
    }
}

/// Writes one field that is set to a value.
pub(crate) fn write_field(out: &mut Vec<u8>, field: Field, value: u128) {
    let mask = field.all_ones();
    write_entry(out, field, Value { value: value & mask, mask });
}

/// Reads one field that is set to a value; `None` for a field of another class or number, and for a
/// part of a field, which later versions know.
pub(crate) fn read_field(mut r: &[u8]) -> Result<Option<(Field, u128)>, DecodeError> {
    let mut entry = Match::new();
    entry.read_entry(&mut r)?;
    let found = entry.iter().next().map(|(field, ..)| field);
    Ok(found.and_then(|field| Some((field, entry.get(field)?))))
}

/// Puts a length where room for it was left.
pub(crate) fn set_length(out: &mut [u8], at: usize, length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

fn number_of(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        for (n, &(field, Value { value, mask })) in self.fields.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{}=", field.name())?;
            write_value(f, field, value)?;
            if mask != field.all_ones() {
                f.write_str("/")?;
                write_value(f, field, mask)?;
            }
        }
        for header in self.others.keys() {
            write!(f, ",oxm{header:#x}")?;
        }
        Ok(())
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, field: Field, value: u128) -> fmt::Result {
    let bytes = value.to_be_bytes();
    match field.width() {
        6 => {
            let [.., a, b, c, d, e, g] = bytes;
            write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
        }
        16 => write!(f, "{}", core::net::Ipv6Addr::from_bits(value)),
        _ if matches!(field, Field::Ipv4Src | Field::Ipv4Dst | Field::ArpSpa | Field::ArpTpa) => {
            let [.., a, b, c, d] = bytes;
            write!(f, "{a}.{b}.{c}.{d}")
        }
        _ if matches!(field, Field::EthType | Field::Metadata | Field::TunnelId) => {
            write!(f, "{value:#x}")
        }
        _ => write!(f, "{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_widths_are_those_of_the_standard() {
        for (number, &(field, width, _)) in FIELDS.iter().enumerate() {
            assert_eq!(field as usize, number);
            assert_eq!(Field::from_number(u8::try_from(number).unwrap()), Some(field));
            assert!((1..=16).contains(&width));
        }
        assert_eq!(Field::from_number(40), None);
    }

    #[test]
    fn a_match_is_padded_to_eight_bytes() {
        let mut out = Vec::new();
        Match::new().with(Field::InPort, 3).write(&mut out);
        assert_eq!(out, [0, 1, 0, 12, 0x80, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 0]);
        let mut out = Vec::new();
        Match::new().write(&mut out);
        assert_eq!(out, [0, 1, 0, 4, 0, 0, 0, 0]);
    }

    #[test]
    fn masks_cut_their_values() {
        let network = Match::new().with_masked(Field::Ipv4Dst, 0x0A01_0203, 0xFFFF_0000);
        assert_eq!(network.to_string(), "ip_dst=10.1.0.0/255.255.0.0");
        assert_eq!(network.get(Field::Ipv4Dst), None);
        let whole = Match::new().with_masked(Field::VlanPcp, 0x107, u128::MAX);
        assert_eq!(whole, Match::new().with(Field::VlanPcp, 7));
    }

    #[test]
    fn what_is_unknown_goes_through() {
        let bytes = [0, 1, 0, 14, 0xFF, 0xFF, 2, 6, 0, 0, 0x23, 0x20, 1, 2, 0, 0];
        let mut rest = &bytes[..];
        let read = Match::read(&mut rest).unwrap();
        assert!(rest.is_empty() && !read.is_any());
        let mut out = Vec::new();
        read.write(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bytes in [
            &[0, 1, 0, 3, 0, 0, 0, 0][..],
            &[0, 1, 0, 12, 0x80, 0, 0, 4],
            &[0, 1, 0, 11, 0x80, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 1, 0, 12, 0x80, 0, 1, 4, 0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 8, 0, 0, 0, 0],
        ] {
            assert!(Match::read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
