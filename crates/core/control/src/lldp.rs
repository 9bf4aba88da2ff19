//! The frames by which links are found, and which no host can forge (IEEE 802.1AB, with an
//! organisationally specific TLV that carries a keyed hash).
//!
//! A frame names the port that it left by and the time, under HMAC-SHA256 with a key that only the
//! controllers have. A host can see frames that come out of its own port; it could hand them on to
//! another port, but only within [`FRESH`], and not on a port that a device is bound to.

use claviger_openflow::{DatapathId, PortNumber};
use claviger_units::{MacAddr, Span, Timestamp};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::Place;

/// The type of LLDP in an Ethernet header.
pub(crate) const ETHER_TYPE: u16 = 0x88CC;
/// How long a frame is taken for what it says.
pub(crate) const FRESH: Span = Span::from_secs(2);
/// The nearest-bridge address: no real bridge hands it on.
const NEAREST_BRIDGE: [u8; 6] = [0x01, 0x80, 0xC2, 0, 0, 0x0E];
/// Locally administered, as there is no registered organisation.
const ORGANISATION: [u8; 3] = [0x02, 0xC1, 0xA7];
const SUBTYPE: u8 = 1;
const TAG: usize = 16;

/// The key of the frames, shared by a controller and its standby.
#[derive(Clone)]
pub struct LldpKey([u8; 32]);

impl core::fmt::Debug for LldpKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("LldpKey(..)")
    }
}

/// What a frame of discovery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It left one of our ports just now.
    Ours(Place),
    /// It claims to, and does not: the hash is wrong, or it is old.
    Forged,
    /// Somebody else's LLDP.
    Foreign,
}

impl LldpKey {
    /// Takes a key.
    #[must_use]
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Makes the frame that leaves by `place`.
    pub(crate) fn frame(&self, now: Timestamp, from: MacAddr, place: Place) -> Vec<u8> {
        let mut frame = Vec::with_capacity(80);
        frame.extend(NEAREST_BRIDGE);
        frame.extend(from.as_bytes());
        frame.extend(ETHER_TYPE.to_be_bytes());
        // Chassis and port are locally assigned names; the texts are for other people's tools.
        let chassis = format!("\u{7}{}", place.datapath);
        let port = format!("\u{7}{}", place.port);
        push_tlv(&mut frame, 1, chassis.as_bytes());
        push_tlv(&mut frame, 2, port.as_bytes());
        push_tlv(&mut frame, 3, &120_u16.to_be_bytes());
        let claim = claim(place, now);
        let mut ours = Vec::with_capacity(40);
        ours.extend(ORGANISATION);
        ours.push(SUBTYPE);
        ours.extend(claim);
        ours.extend(self.tag(&claim));
        push_tlv(&mut frame, 127, &ours);
        push_tlv(&mut frame, 0, &[]);
        frame
    }

    /// Reads a frame.
    pub(crate) fn read(&self, now: Timestamp, frame: &[u8]) -> Heard {
        let Some(ours) = frame.get(14..).and_then(find_ours) else { return Heard::Foreign };
        let Some((claim, tag)) = ours.split_first_chunk::<20>() else { return Heard::Forged };
        if self.tag(claim).ct_ne(tag).into() {
            return Heard::Forged;
        }
        let [d0, d1, d2, d3, d4, d5, d6, d7, p0, p1, p2, p3, sent @ ..] = *claim;
        let sent = Timestamp::from_micros(u64::from_be_bytes(sent));
        if now.since(sent) > FRESH || sent.since(now) > FRESH {
            return Heard::Forged;
        }
        let datapath = DatapathId(u64::from_be_bytes([d0, d1, d2, d3, d4, d5, d6, d7]));
        Heard::Ours(Place::new(datapath, PortNumber(u32::from_be_bytes([p0, p1, p2, p3]))))
    }

    fn tag(&self, claim: &[u8; 20]) -> [u8; TAG] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length of key will do");
        mac.update(b"claviger/1 lldp");
        mac.update(claim);
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        let [tag @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = whole;
        tag
    }
}

fn claim(place: Place, now: Timestamp) -> [u8; 20] {
    let mut claim = [0; 20];
    claim[..8].copy_from_slice(&place.datapath.0.to_be_bytes());
    claim[8..12].copy_from_slice(&place.port.0.to_be_bytes());
    claim[12..].copy_from_slice(&now.as_micros().to_be_bytes());
    claim
}

fn push_tlv(frame: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("values here are short");
    frame.extend((kind << 9 | length).to_be_bytes());
    frame.extend(value);
}

/// Finds the value of our own TLV.
fn find_ours(mut tlvs: &[u8]) -> Option<&[u8]> {
    loop {
        let (header, rest) = tlvs.split_first_chunk::<2>()?;
        let header = u16::from_be_bytes(*header);
        let (kind, length) = (header >> 9, usize::from(header & 0x1FF));
        let (value, rest) = rest.split_at_checked(length)?;
        tlvs = rest;
        match (kind, value) {
            (0, _) => return None,
            (127, [a, b, c, SUBTYPE, ours @ ..]) if [*a, *b, *c] == ORGANISATION => {
                return Some(ours);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: LldpKey = LldpKey::from_bytes([7; 32]);
    const NOW: Timestamp = Timestamp::from_micros(5_000_000);

    fn frame() -> (Place, Vec<u8>) {
        let place = Place::new(DatapathId(0x0102), PortNumber(3));
        let from = MacAddr::from_bytes([2, 0, 0, 0, 0, 1]);
        (place, KEY.frame(NOW, from, place))
    }

    #[test]
    fn a_frame_names_its_port_for_two_seconds() {
        let (place, frame) = frame();
        assert_eq!(KEY.read(NOW, &frame), Heard::Ours(place));
        assert_eq!(KEY.read(NOW + FRESH, &frame), Heard::Ours(place));
        assert_eq!(KEY.read(NOW + Span::from_millis(2001), &frame), Heard::Forged);
    }

    #[test]
    fn no_changed_bit_passes() {
        let (_, frame) = frame();
        let start = frame.len() - 2 - 36;
        for bit in start * 8..(frame.len() - 2) * 8 {
            let mut forged = frame.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(KEY.read(NOW, &forged), Heard::Forged, "bit {bit}");
        }
        assert_eq!(LldpKey::from_bytes([8; 32]).read(NOW, &frame), Heard::Forged);
        let mut longer = frame[..frame.len() - 2].to_vec();
        longer.push(0);
        assert_ne!(KEY.read(NOW, &longer[..start]), Heard::Ours(frame_place()));
    }

    fn frame_place() -> Place {
        frame().0
    }

    #[test]
    fn the_lldp_of_others_is_nobody_s_fault() {
        let mut foreign = NEAREST_BRIDGE.to_vec();
        foreign.extend([2, 0, 0, 0, 0, 9, 0x88, 0xCC]);
        push_tlv(&mut foreign, 1, b"\x04host");
        push_tlv(&mut foreign, 127, &[0, 0x12, 0x0F, 1, 0, 0]);
        push_tlv(&mut foreign, 0, &[]);
        assert_eq!(KEY.read(NOW, &foreign), Heard::Foreign);
        assert_eq!(KEY.read(NOW, &[]), Heard::Foreign);
    }
}
