//! Messages survive their bytes, and bytes that are none break nothing.

mod examples;

use claviger_openflow::{DecodeError, Envelope, Splitter};
use proptest::prelude::*;

#[test]
fn every_message_survives_its_frame() {
    for example in examples::all() {
        assert_eq!(Envelope::decode(&example.encode()), Ok(example.clone()), "{example:?}");
    }
}

#[test]
fn a_stream_of_all_of_them_is_cut_again() {
    let mut stream = Vec::new();
    examples::all().iter().for_each(|example| example.encode_into(&mut stream));
    let mut splitter = Splitter::new();
    let mut cut = Vec::new();
    for piece in stream.chunks(17) {
        splitter.push(piece);
        while let Some(frame) = splitter.next_frame().unwrap() {
            cut.push(Envelope::decode(&frame).unwrap());
        }
    }
    assert_eq!(cut, examples::all());
}

/// Wherever a message is cut, with a length that admits it or one that lies.
#[test]
fn a_cut_message_is_an_error_or_a_shorter_one() {
    for example in examples::all() {
        let whole = example.encode();
        for end in 8..whole.len() {
            let mut cut = whole[..end].to_vec();
            assert!(Envelope::decode(&cut).is_err(), "a lying length: {example:?}");
            cut[2..4].copy_from_slice(&u16::try_from(end).unwrap().to_be_bytes());
            if let Ok(shorter) = Envelope::decode(&cut) {
                assert_eq!(Envelope::decode(&shorter.encode()), Ok(shorter));
            }
        }
    }
}

#[test]
fn another_version_is_named() {
    let mut frame =
        Envelope { xid: 1, message: claviger_openflow::Message::BarrierRequest }.encode();
    frame[0] = 1;
    assert_eq!(Envelope::decode(&frame), Err(DecodeError::Version(1)));
    let told = DecodeError::Version(1).to_string();
    assert_eq!(told, "the message is of version 1 of OpenFlow, not of version 4 (1.3)");
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(kind in 0_u8..31, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let length = u16::try_from(body.len() + 8).unwrap().to_be_bytes();
        let frame = [&[4, kind, length[0], length[1], 0, 0, 0, 1], &body[..]].concat();
        if let Ok(read) = Envelope::decode(&frame) {
            prop_assert_eq!(Envelope::decode(&read.encode()), Ok(read));
        }
    }

    /// Closer to real messages than noise is.
    #[test]
    fn no_altered_message_breaks_the_decoder(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let examples = examples::all();
        let mut frame = which.get(&examples).encode();
        for (at, value) in changes {
            let length = frame.len();
            if length > 8 {
                frame[8 + at.index(length - 8)] = value;
            }
        }
        if let Ok(read) = Envelope::decode(&frame) {
            prop_assert_eq!(Envelope::decode(&read.encode()), Ok(read));
        }
    }
}
