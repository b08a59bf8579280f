//! Frames on their way out.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::CloseCode;
use super::close;
use super::header::{self, MAX_CONTROL, Opcode};

/// A shorter tail of a message is copied, as that costs less than to keep a reference to it.
pub const MIN_SHARED: usize = 1024;

/// Sent bytes are removed from the front when there are this many of them, and no less than unsent
/// ones.
const COMPACT: usize = 4096;

/// What is to be sent on a connection, in the order in which it was queued.
///
/// A queue without content holds no memory beyond what it once needed; keep one for each thread
/// rather than for each connection, or drop it. It is a [`Buf`]:
/// [`chunks_vectored`](Buf::chunks_vectored) has what can be written in one call,
/// [`advance`](Buf::advance) takes away what was written.
///
/// The queue has no limit of its own: look at [`len`](Self::len) before more is queued.
///
/// ```
/// use bytes::{Buf, Bytes};
/// use opamp_server::websocket::Outgoing;
///
/// let offer = Bytes::from(vec![b'x'; 10_000]);
/// let mut queue = Outgoing::default();
/// queue.binary(b"head", Some(offer.clone()));
/// queue.ping(b"");
///
/// let mut slices = [std::io::IoSlice::new(&[]); 4];
/// assert_eq!(queue.chunks_vectored(&mut slices), 3);
/// assert_eq!(slices[1].as_ptr(), offer.as_ptr());
/// ```
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Headers, heads and short tails.
    bytes: Vec<u8>,
    /// How many of them are sent.
    sent: usize,
    /// Long tails, each with its place: so many of `bytes` come before it.
    shared: VecDeque<(usize, Bytes)>,
    /// The unsent bytes in `shared`.
    shared_len: usize,
}

impl Outgoing {
    /// Queues a binary message in one frame: its head, then its tail.
    pub fn binary(&mut self, head: &[u8], tail: Option<Bytes>) {
        self.message(Opcode::Binary, head, tail);
    }

    /// Queues a text message in one frame.
    pub fn text(&mut self, text: &str) {
        self.message(Opcode::Text, text.as_bytes(), None);
    }

    fn message(&mut self, opcode: Opcode, head: &[u8], tail: Option<Bytes>) {
        let tail = tail.unwrap_or_default();
        header::encode(opcode, head.len() + tail.len(), &mut self.bytes);
        self.bytes.extend_from_slice(head);
        if tail.len() < MIN_SHARED {
            self.bytes.extend_from_slice(&tail);
        } else {
            self.shared_len += tail.len();
            self.shared.push_back((self.bytes.len(), tail));
        }
    }

    /// Queues a Ping. A payload above 125 bytes is cut.
    pub fn ping(&mut self, payload: &[u8]) {
        self.control(Opcode::Ping, payload, &[]);
    }

    /// Queues a Pong. A payload above 125 bytes is cut.
    pub fn pong(&mut self, payload: &[u8]) {
        self.control(Opcode::Pong, payload, &[]);
    }

    /// Queues a Close frame. A reason above [`MAX_REASON`](super::MAX_REASON) bytes is cut. It is
    /// for the caller to queue nothing afterwards.
    pub fn close(&mut self, close: Option<(CloseCode, &str)>) {
        match close {
            None => self.control(Opcode::Close, &[], &[]),
            Some((code, reason)) => {
                let code = code.get().to_be_bytes();
                self.control(Opcode::Close, &code, close::cut(reason).as_bytes());
            }
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8], rest: &[u8]) {
        let payload = &payload[..payload.len().min(MAX_CONTROL)];
        header::encode(opcode, payload.len() + rest.len(), &mut self.bytes);
        self.bytes.extend_from_slice(payload);
        self.bytes.extend_from_slice(rest);
    }

    /// The bytes that are to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent + self.shared_len
    }

    /// Whether there is nothing to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory it holds, those it shares not included.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.shared.capacity() * size_of::<(usize, Bytes)>()
    }

    /// What of `bytes` comes before the first shared tail.
    fn next_own(&self) -> &[u8] {
        let end = self.shared.front().map_or(self.bytes.len(), |(place, _)| *place);
        &self.bytes[self.sent..end]
    }

    fn compact(&mut self) {
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
            return;
        }
        let unsent = self.bytes.len() - self.sent;
        if unsent == 0 || (self.sent >= COMPACT && self.sent >= unsent) {
            self.bytes.drain(..self.sent);
            self.shared.iter_mut().for_each(|(place, _)| *place -= self.sent);
            self.sent = 0;
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        match (self.next_own(), self.shared.front()) {
            ([], Some((_, tail))) => tail,
            (own, _) => own,
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut own = self.sent;
        let parts = self.shared.iter().flat_map(|(place, tail)| {
            let before = &self.bytes[std::mem::replace(&mut own, *place)..*place];
            [before, &tail[..]]
        });
        let after = self.shared.back().map_or(self.sent, |(place, _)| *place);
        let parts = parts.chain([&self.bytes[after..]]).filter(|part| !part.is_empty());
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    /// Takes away what was written; no more than there is.
    fn advance(&mut self, written: usize) {
        let mut left = written;
        while left > 0 {
            let own = self.next_own().len().min(left);
            self.sent += own;
            left -= own;
            let Some((_, tail)) = self.shared.front_mut() else { break };
            let shared = tail.len().min(left);
            tail.advance(shared);
            self.shared_len -= shared;
            left -= shared;
            if tail.is_empty() {
                self.shared.pop_front();
            }
        }
        self.compact();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(queue: &mut Outgoing, at_once: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let filled = queue.chunks_vectored(&mut slices);
            let part: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            assert!(part.starts_with(queue.chunk()) && !queue.chunk().is_empty());
            let part = &part[..part.len().min(at_once)];
            written.extend_from_slice(part);
            queue.advance(part.len());
        }
        written
    }

    #[test]
    fn a_long_tail_is_not_copied_and_a_short_one_is() {
        let long = Bytes::from(vec![1; MIN_SHARED]);
        let short = long.slice(1..);
        let mut queue = Outgoing::default();
        queue.binary(b"h", Some(short));
        queue.binary(b"h", Some(long.clone()));
        queue.binary(b"h", Some(long.clone()));
        let mut slices = [IoSlice::new(&[]); 9];
        assert_eq!(queue.chunks_vectored(&mut slices), 4);
        assert_eq!((slices[1].as_ptr(), slices[3].as_ptr()), (long.as_ptr(), long.as_ptr()));
        assert_eq!(slices[0].len(), 4 + 1 + MIN_SHARED - 1 + 4 + 1);
    }

    #[test]
    fn what_is_sent_is_let_go_of_even_if_the_queue_is_never_empty() {
        let mut queue = Outgoing::default();
        queue.binary(&[0; 100], None);
        for _ in 0..100_000 {
            queue.binary(&[0; 100], None);
            queue.advance(102);
            assert_eq!(queue.len(), 102);
        }
        assert!(queue.capacity() < 4 * COMPACT, "{}", queue.capacity());
        let tail = Bytes::from(vec![0; 10_000]);
        queue.binary(b"", Some(tail.clone()));
        queue.advance(queue.len());
        assert!(tail.is_unique());
        assert_eq!(queue.chunk(), b"");
    }

    #[test]
    fn a_control_frame_is_cut_to_what_it_can_hold() {
        let mut queue = Outgoing::default();
        queue.ping(&[7; 200]);
        queue.close(Some((CloseCode::POLICY, &"é".repeat(200))));
        queue.close(None);
        let bytes = written(&mut queue, usize::MAX);
        assert_eq!(bytes[..3], [0x89, 125, 7]);
        assert_eq!(bytes[127..131], [0x88, 124, 3, 0xf0]);
        assert_eq!(bytes[127 + 126..], [0x88, 0]);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_however_they_are_taken(
            messages in prop::collection::vec((0..200_usize, 0..3000_usize), 0..10),
            at_once in 1..5000_usize,
        ) {
            let mut queue = Outgoing::default();
            let mut expected = Vec::new();
            for (index, (head, tail)) in messages.into_iter().enumerate() {
                let (head, tail) = (vec![index as u8; head], vec![!index as u8; tail]);
                header::encode(Opcode::Binary, head.len() + tail.len(), &mut expected);
                expected.extend([&head[..], &tail].concat());
                queue.binary(&head, Some(tail.into()));
            }
            prop_assert_eq!(queue.remaining(), expected.len());
            prop_assert_eq!(written(&mut queue, at_once), expected);
        }
    }
}
