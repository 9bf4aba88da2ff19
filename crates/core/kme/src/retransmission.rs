//! Answers kept for clients whose datagram got lost on the way back (`PROTOCOL.md` P2, Retry).

use std::collections::BTreeMap;

use claviger_units::{SecretBytes, Span, Timestamp};

/// How long after its first answer a datagram counts as the same request.
pub(crate) const WINDOW: Span = Span::from_secs(2);
/// How many answers one request gets, the first included.
pub(crate) const ANSWERS: u8 = 3;

/// The answers of the last two seconds, by sender and datagram; in memory only, wiped when over.
#[derive(Debug, Default)]
pub(crate) struct Retransmissions {
    // Invariant: each has been given 1 to ANSWERS - 1 times.
    kept: BTreeMap<Request, Kept>,
}

/// The address and port of the sender, and every byte that it sent.
type Request = (Vec<u8>, Vec<u8>);

#[derive(Debug)]
struct Kept {
    answer: SecretBytes,
    since: Timestamp,
    given: u8,
}

impl Retransmissions {
    /// Keeps the first answer to a request.
    pub(crate) fn keep(&mut self, now: Timestamp, request: (&[u8], &[u8]), answer: &SecretBytes) {
        let kept = Kept { answer: answer.duplicate(), since: now, given: 1 };
        self.kept.insert((request.0.to_vec(), request.1.to_vec()), kept);
    }

    /// Gives the answer again if this is a retransmission; else it is a new request.
    pub(crate) fn repeat(
        &mut self,
        now: Timestamp,
        request: (&[u8], &[u8]),
    ) -> Option<SecretBytes> {
        self.forget_before(now);
        let request = (request.0.to_vec(), request.1.to_vec());
        let kept = self.kept.get_mut(&request)?;
        kept.given += 1;
        if kept.given < ANSWERS {
            return Some(kept.answer.duplicate());
        }
        self.kept.remove(&request).map(|kept| kept.answer)
    }

    /// Wipes what no retransmission can ask for any more.
    pub(crate) fn forget_before(&mut self, now: Timestamp) {
        self.kept.retain(|_, kept| now.since(kept.since) <= WINDOW);
    }

    /// Returns when there will be something to wipe.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        let first = self.kept.values().map(|kept| kept.since).min();
        first.map(|since| since + WINDOW + Span::from_micros(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_micros(5_000_000);
    const REQUEST: (&[u8], &[u8]) = (b"127.0.0.1:4", b"datagram");

    fn kept() -> Retransmissions {
        let mut kept = Retransmissions::default();
        kept.keep(T0, REQUEST, &SecretBytes::new(vec![7]));
        kept
    }

    #[test]
    fn a_request_gets_three_answers_and_no_fourth() {
        let mut kept = kept();
        for _ in 0..2 {
            assert_eq!(kept.repeat(T0, REQUEST).unwrap().expose(), [7]);
        }
        assert!(kept.repeat(T0, REQUEST).is_none());
        assert_eq!(kept.next_end(), None);
    }

    #[test]
    fn only_the_same_sender_and_bytes_within_two_seconds_count() {
        for (request, later, repeats) in [
            (REQUEST, Span::ZERO, true),
            (REQUEST, Span::from_secs(2), true),
            (REQUEST, Span::from_micros(2_000_001), false),
            ((&b"127.0.0.1:5"[..], &b"datagram"[..]), Span::ZERO, false),
            ((&b"127.0.0.1:4"[..], &b"datagran"[..]), Span::ZERO, false),
        ] {
            assert_eq!(
                kept().repeat(T0 + later, request).is_some(),
                repeats,
                "{request:?} {later}"
            );
        }
    }

    #[test]
    fn answers_are_wiped_at_their_end() {
        let mut kept = kept();
        let end = kept.next_end().unwrap();
        kept.forget_before(end - Span::from_micros(1));
        assert_eq!(kept.kept.len(), 1);
        kept.forget_before(end);
        assert_eq!(kept.kept.len(), 0);
    }
}
