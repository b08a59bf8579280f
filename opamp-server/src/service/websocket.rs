//! The WebSocket of a connection: the codec on a stream.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::upgrade::Upgraded;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::buffers::{Buffers, Writing};
use super::stream::Stream;
use crate::websocket::{CloseCode, CloseFrame, Decoder, Event, Outgoing, Violation};

/// Above this many unsent bytes a connection takes in no further message.
const HIGH_WATER: usize = 64 * 1024;

/// The header of a short frame.
const CONTROL_HEADER: usize = 2;

/// Pieces written in one call.
const SLICES: usize = 16;

/// A WebSocket, server's side. Between two polls it holds what could not be written and what
/// arrived in part, and no buffers beside.
pub(super) struct Socket {
    stream: Stream,
    decoder: Decoder,
    /// What is to be written; `None` as long as that is nothing.
    outgoing: Option<Box<Outgoing>>,
    /// The stream may hold back some of what was written.
    unflushed: bool,
    /// Bytes of the pings whose answers may not be out yet.
    pongs: usize,
}

/// Why nothing more can be received.
#[derive(Debug)]
pub(super) enum Fault {
    /// Not the WebSocket protocol, or more than is taken.
    Violation(Violation),
    /// The connection broke.
    Lost(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl Socket {
    /// The socket, and what was already read from it.
    pub(super) fn new(upgraded: Upgraded, max_receive: usize) -> (Self, Bytes) {
        let (stream, read) = Stream::new(upgraded);
        let decoder = Decoder::new(max_receive);
        (Self { stream, decoder, outgoing: None, unflushed: false, pongs: 0 }, read)
    }

    /// Bytes the peer has sent so far, of whatever kind.
    pub(super) const fn read(&self) -> u64 {
        self.stream.read()
    }

    /// Bytes the connection has taken so far.
    pub(super) const fn written(&self) -> u64 {
        self.stream.written()
    }

    /// The bytes of memory kept of what has arrived in part.
    pub(super) fn kept(&self) -> usize {
        self.decoder.held()
    }

    /// Whether there is room to answer another message.
    pub(super) fn has_room(&self) -> bool {
        self.unsent() < HIGH_WATER
    }

    /// Bytes that wait to be written.
    pub(super) fn unsent(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.len())
    }

    /// Whether the peer takes so little of the answers to its pings that more must not be read.
    pub(super) const fn owes_pongs(&self) -> bool {
        self.pongs > HIGH_WATER
    }

    fn outgoing(&mut self, writing: &mut Writing) -> &mut Outgoing {
        self.outgoing.get_or_insert_with(|| writing.take_outgoing())
    }

    /// Queues the message whose head is in the buffer for it. It leaves with the next flush,
    /// together with others.
    pub(super) fn send(&mut self, writing: &mut Writing, tail: Option<Bytes>) {
        let outgoing = self.outgoing.get_or_insert_with(|| writing.take_outgoing());
        outgoing.binary(&writing.head, tail);
    }

    /// Queues a ping.
    pub(super) fn ping(&mut self, writing: &mut Writing, payload: &[u8]) {
        self.outgoing(writing).ping(payload);
    }

    /// Queues the answer to a ping.
    pub(super) fn pong(&mut self, writing: &mut Writing, payload: &[u8]) {
        self.outgoing(writing).pong(payload);
        self.pongs += CONTROL_HEADER + payload.len();
    }

    /// Queues the answer to a Close frame: another with the same code.
    pub(super) fn answer_close(&mut self, writing: &mut Writing, close: Option<&CloseFrame>) {
        self.outgoing(writing).close(close.map(|close| (close.code, "")));
    }

    /// Writes what is queued; ready when all of it is on its way.
    pub(super) fn poll_flush(
        &mut self,
        writing: &mut Writing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let stream = &mut self.stream;
        if let Some(outgoing) = &mut self.outgoing {
            while outgoing.has_remaining() {
                let stream = Pin::new(&mut *stream);
                let whole = outgoing.chunk();
                let polled = if whole.len() == outgoing.len() {
                    // The kernel has less to do for a single slice, and so have we.
                    stream.poll_write(cx, whole)
                } else {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let filled = outgoing.chunks_vectored(&mut slices);
                    stream.poll_write_vectored(cx, &slices[..filled])
                };
                let written = ready!(polled)?;
                if written == 0 {
                    let nothing_taken = io::Error::from(io::ErrorKind::WriteZero);
                    return Poll::Ready(Err(nothing_taken.into()));
                }
                outgoing.advance(written);
                self.unflushed = true;
            }
        }
        if let Some(outgoing) = self.outgoing.take() {
            writing.return_outgoing(outgoing);
        }
        self.pongs = 0;
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there into the buffer, which must not be empty. Gives how much it was:
    /// never 0.
    pub(super) fn poll_read(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Fault>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(match buffer.filled().len() {
            0 => Err(Fault::Lost("closed without a closing handshake".to_owned())),
            len => Ok(len),
        })
    }

    /// The next event in what was read; see [`Decoder::decode`].
    pub(super) fn decode<'a>(
        &mut self,
        input: &mut &'a mut [u8],
    ) -> Result<Option<Event<'a>>, Fault> {
        self.decoder.decode(input).map_err(Fault::Violation)
    }

    /// The frames that have begun since the last call.
    pub(super) const fn take_frames(&mut self) -> u32 {
        self.decoder.take_frames()
    }

    /// Closes with the closing handshake, and takes no longer than this (CLOSE-04). `unread` is
    /// what was read and not decoded.
    ///
    /// After a violation the peer's next bytes are no frames. They are read all the same, and
    /// dropped: a connection closed with bytes unread is reset, and the peer might lose the Close
    /// frame with it.
    pub(super) async fn close(
        mut self,
        code: CloseCode,
        reason: &'static str,
        mut unread: Vec<u8>,
        within: Duration,
    ) {
        Buffers::lend(|Buffers { writing, .. }| {
            self.outgoing(writing).close(Some((code, reason)));
        });
        if self.decoder.held() > 0 {
            // The end of a message that nobody waits for is not kept for; the connection's end will
            // do.
            self.decoder.close();
        }
        let mut answered = self.is_over(&mut unread);
        // Beyond its time the handshake is given up, whatever its state.
        let _ = tokio::time::timeout(within, async {
            let answer =
                poll_fn(|cx| Buffers::lend(|buffers| self.poll_answer(&mut answered, buffers, cx)));
            // Whoever has hung up needs no more.
            if answer.await.is_ok() {
                self.finish().await;
            }
        })
        .await;
    }

    /// Ready when everything is written, and the peer has answered if it can. What else it sends
    /// meanwhile is dropped; it may not read before it is rid of that.
    fn poll_answer(
        &mut self,
        answered: &mut bool,
        buffers: &mut Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        let Buffers { read, writing } = buffers;
        let flushed = self.poll_flush(writing, cx)?;
        while !(*answered && flushed.is_ready()) {
            let len = ready!(self.poll_read(read, cx))?;
            *answered = *answered || self.is_over(&mut read[..len]);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the last frame that can be decoded is in the input.
    fn is_over(&mut self, mut input: &mut [u8]) -> bool {
        while let Ok(Some(_)) = self.decoder.decode(&mut input) {}
        self.decoder.is_closed()
    }

    /// The peer has closed and is answered: ends the connection in turn.
    pub(super) async fn end(mut self, within: Duration) {
        let _ = tokio::time::timeout(within, async {
            let flushed =
                poll_fn(|cx| Buffers::lend(|Buffers { writing, .. }| self.poll_flush(writing, cx)));
            if flushed.await.is_ok() {
                self.finish().await;
            }
        })
        .await;
    }

    /// Ends the sending side and reads until the peer does the same.
    async fn finish(&mut self) {
        let _ = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        let read = |this: &mut Self, cx: &mut Context<'_>| {
            Buffers::lend(|Buffers { read, .. }| this.poll_read(read, cx))
        };
        while poll_fn(|cx| read(self, cx)).await.is_ok() {}
    }
}
