//! Figure 2e: one exchange with the key extraction service, as another program has dissected it.

use super::drawing::{Datagrams, Part};
use super::sheet::Sheet;
use super::{Finding, Made, Verdict};

/// A datagram as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What the dissector calls it.
    pub kind: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its fields in the order in which they lie in it.
    pub fields: Vec<Field>,
}

/// A field, as the dissector has found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Where it begins in the payload.
    pub offset: usize,
    /// How long it is.
    pub length: usize,
    /// What the dissector shows.
    pub shown: String,
}

/// How many octets a key of the paper has.
const KEY_LEN: usize = 32;

/// Draws a request and its response.
#[must_use]
pub fn make([request, response]: &[Datagram; 2], dissected_by: &str) -> Made {
    let mut sheet =
        Sheet::new("fig2e", &["datagram", "bytes", "field", "offset", "length", "measured"]);
    for datagram in [request, response] {
        for Field { name, offset, length, .. } in &datagram.fields {
            sheet.push(vec![
                datagram.kind.clone(),
                datagram.payload.len().to_string(),
                name.clone(),
                offset.to_string(),
                length.to_string(),
                "true".to_owned(),
            ]);
        }
    }
    let parts = |datagram: &Datagram| {
        let part = |field: &Field| Part {
            name: field.name.clone(),
            bytes: datagram.payload[field.offset..][..field.length].to_vec(),
            shown: field.shown.clone(),
        };
        datagram.fields.iter().map(part).collect::<Vec<_>>()
    };
    let title = |datagram: &Datagram| {
        format!("{}: {} bytes of UDP payload", datagram.kind, datagram.payload.len())
    };
    let picture = Datagrams {
        title: "A key over UDP, captured on loopback (simulated key)",
        note: &format!("fields as {dissected_by} shows them with tools/wireshark/idq3p.lua; in clear, so only inside the node"),
        datagrams: [request, response].map(|one| (title(one), parts(one))).to_vec(),
    }
    .to_svg();
    let key = response.fields.iter().find(|field| field.name == "Key");
    let length = key.map_or(0, |key| key.length);
    Made {
        title: "A UDP response with a key of 32 bytes".into(),
        remarks: vec![
            "A real exchange on loopback between `claviger key extract` and a running key management entity, captured below both by tshark, and dissected by it.".into(),
            "The key is that of a simulated link. The capture holds it in clear, as the wire did: fig2e.pcapng has both packets, fig2e.txt all that tshark shows of them.".into(),
        ],
        pictures: vec![("fig2e".into(), picture)],
        sheets: vec![sheet],
        verdicts: vec![Verdict {
            claim: "a response packet over UDP carries one key of 32 bytes".into(),
            theirs: "32 bytes".into(),
            ours: format!("{length} bytes in a payload of {} (measured)", response.payload.len()),
            finding: if length == KEY_LEN { Finding::Confirmed } else { Finding::Contradicted },
            because: "The layout around the key follows the published description of the vendor's protocol; the paper shows the packet, and not how it is laid out.".into(),
        }],
    }
}
