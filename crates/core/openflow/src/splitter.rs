//! A stream of bytes, cut into messages.

use bytes::{Buf as _, BytesMut};

use crate::error::DecodeError;

/// Bytes of the header: version, type, length, transaction.
pub(crate) const HEADER: usize = 8;

/// Cuts a byte stream into frames, each a whole message with its header.
///
/// Holds at most what was pushed and not taken; a frame has at most 65 535 bytes, so a caller that
/// takes all frames before it pushes again holds little.
#[derive(Debug, Default)]
pub struct Splitter(BytesMut);

impl Splitter {
    /// Makes one that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what came from the other end.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes the next whole frame. A length below that of a header is an error, after which nothing
    /// of the stream can be understood: close the connection.
    pub fn next_frame(&mut self) -> Result<Option<BytesMut>, DecodeError> {
        let mut header = &self.0[..];
        if header.len() < HEADER {
            return Ok(None);
        }
        header.advance(2);
        let length = usize::from(header.get_u16());
        if length < HEADER {
            return Err(DecodeError::Length { what: "a message", length });
        }
        Ok((length <= self.0.len()).then(|| self.0.split_to(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_wherever_it_was_split() {
        let stream =
            [[4, 2, 0, 8, 0, 0, 0, 1].as_slice(), &[4, 2, 0, 10, 0, 0, 0, 2, 65, 66]].concat();
        for size in 1..=stream.len() {
            let (mut splitter, mut frames) = (Splitter::new(), Vec::new());
            for piece in stream.chunks(size) {
                splitter.push(piece);
                while let Some(frame) = splitter.next_frame().unwrap() {
                    frames.push(frame.to_vec());
                }
            }
            assert_eq!(frames, [&stream[..8], &stream[8..]], "pieces of {size}");
        }
    }

    #[test]
    fn a_length_below_the_header_ends_the_stream() {
        let mut splitter = Splitter::new();
        splitter.push(&[4, 2, 0, 7, 0, 0, 0, 1]);
        let error = DecodeError::Length { what: "a message", length: 7 };
        assert_eq!(splitter.next_frame(), Err(error));
    }
}
