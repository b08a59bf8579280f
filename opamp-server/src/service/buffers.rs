//! The buffers that all connections served by a thread have in common.
//!
//! A connection needs them for the time of one poll, in which it reads, answers and writes without
//! waiting; what is left over at its end, it keeps. So an idle connection has none, and their
//! number is that of the runtime's threads.

use std::cell::Cell;

use opamp_proto::frame;

use crate::websocket::Outgoing;

/// Bytes read at a time.
const READ: usize = 16 * 1024;

/// A buffer that grew beyond this is not kept.
const MAX_KEPT: usize = 64 * 1024;

pub(super) struct Buffers {
    /// To read into.
    pub(super) read: Box<[u8]>,
    pub(super) writing: Writing,
}

#[derive(Default)]
pub(super) struct Writing {
    /// To compose the head of a message in.
    pub(super) head: Vec<u8>,
    /// To queue messages in, for a connection that has nothing waiting.
    outgoing: Option<Box<Outgoing>>,
}

thread_local! {
    static BUFFERS: Cell<Option<Box<Buffers>>> = const { Cell::new(None) };
}

impl Buffers {
    /// Lends those of this thread. They are taken out for that time: somebody who asks within gets
    /// others.
    pub(super) fn lend<T>(borrower: impl FnOnce(&mut Self) -> T) -> T {
        // A thread that ends has none any more.
        let kept = BUFFERS.try_with(Cell::take).ok().flatten();
        let mut buffers = kept.unwrap_or_else(|| {
            Box::new(Self { read: vec![0; READ].into(), writing: Writing::default() })
        });
        let returned = borrower(&mut buffers);
        if buffers.writing.head.capacity() > MAX_KEPT {
            buffers.writing.head = Vec::new();
        }
        let _ = BUFFERS.try_with(|kept| kept.set(Some(buffers)));
        returned
    }
}

impl Writing {
    /// Begins a message: its head is the OpAMP header so far.
    pub(super) fn begin(&mut self) -> &mut Vec<u8> {
        self.head.clear();
        self.head.push(frame::HEADER);
        &mut self.head
    }

    /// An empty queue.
    pub(super) fn take_outgoing(&mut self) -> Box<Outgoing> {
        self.outgoing.take().unwrap_or_default()
    }

    /// Takes back a queue that is empty again.
    pub(super) fn return_outgoing(&mut self, outgoing: Box<Outgoing>) {
        if self.outgoing.is_none() && outgoing.is_empty() && outgoing.capacity() <= MAX_KEPT {
            self.outgoing = Some(outgoing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_nested_use_gets_others() {
        let first = Buffers::lend(|buffers| {
            let nested = Buffers::lend(|nested| nested.read.as_ptr());
            assert_ne!(nested, buffers.read.as_ptr());
            buffers.read.as_ptr()
        });
        assert_eq!(Buffers::lend(|buffers| buffers.read.as_ptr()), first);
    }

    #[test]
    fn what_grew_is_not_kept() {
        Buffers::lend(|buffers| {
            let writing = &mut buffers.writing;
            writing.head = Vec::with_capacity(10 * MAX_KEPT);
            let mut outgoing = writing.take_outgoing();
            outgoing.binary(&[0; 2 * MAX_KEPT], None);
            bytes::Buf::advance(&mut *outgoing, 3 * MAX_KEPT);
            writing.return_outgoing(outgoing);
        });
        Buffers::lend(|buffers| {
            assert_eq!(
                (buffers.writing.head.capacity(), buffers.writing.take_outgoing().capacity()),
                (0, 0)
            );
        });
    }
}
